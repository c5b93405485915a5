"""Counts overlaps of the pixels near the boundaries of segments, for boundary PQ [Cheng et al. 2021].

The boundary of a segment consists of its pixels within distance d of a pixel of another segment; d is 2 % of the
image's diagonal, rounded, at least 1. As in the authors' code the distance is the larger coordinate difference (erosion
by a square), and pixels outside of the image count as foreign. Boundary PQ uses min(IoU, boundary IoU) for each pair.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from panbench.panoptic import pixels
from panbench.panoptic.idmap import IdRuns, count_run_pairs
from panbench.panoptic.types import VOID

Int32 = npt.NDArray[np.int32]

BOUNDARY_SHARE = 0.02
"""The width of boundaries as a share of the image's diagonal."""

INTERIOR = -1
"""The id, in boundary pairs, of pixels away from the boundary of their own segment."""


def boundary_distance(shape: Sequence[int]) -> int:
    """Returns the width of boundaries in pixels for an image of (height, width): d in the paper."""
    return max(1, round(BOUNDARY_SHARE * float(np.hypot(shape[0], shape[1]))))


def boundary_mask(ids: Int32) -> npt.NDArray[np.bool_]:
    """Returns (H, W) bool: the pixels of an id map near the boundary of their own segment; void counts as a segment."""
    # Dilating every segment by d would need one pass a segment. Instead: a foreign pixel lies within d exactly when,
    # within d - 1, some pixel has a foreign one among its eight neighbours. So mark those pixels of all segments at
    # once, then dilate the marks by d - 1: one pass for the whole map, whatever its number of segments.
    edge = _has_foreign_neighbour(ids)
    side = 2 * boundary_distance(ids.shape) - 1
    if side == 1:
        return edge
    return pixels.dilate(edge, side)


def _has_foreign_neighbour(ids: Int32) -> npt.NDArray[np.bool_]:
    """Marks pixels with another id among their eight neighbours, and those at the border of the image."""
    edge = np.zeros(ids.shape, np.bool_)
    # Pairs of views that are shifted by a pixel: to the right, down, and along both diagonals.
    right, left, lower, upper = np.s_[:, 1:], np.s_[:, :-1], np.s_[1:], np.s_[:-1]
    diagonals = (np.s_[1:, 1:], np.s_[:-1, :-1]), (np.s_[1:, :-1], np.s_[:-1, 1:])
    for one, other in ((right, left), (lower, upper), *diagonals):
        differ = ids[one] != ids[other]
        edge[one] |= differ
        edge[other] |= differ
    edge[:1] = edge[-1:] = True
    edge[:, :1] = edge[:, -1:] = True
    return edge


def boundary_pairs(gt_ids: Int32, pred_ids: Int32) -> tuple[Int32, Int32, npt.NDArray[np.int64]]:
    """Counts the boundary pixels that pairs of segments share: (gt_id, pred_id, pixels), like `count_pairs`.

    gt_ids, pred_ids: (H, W) int32 id maps of one image
    Pixels away from the boundary of their own segment get the id INTERIOR; void pixels keep 0. The boundary of segment
    g then has the pixels of all rows with gt_id = g, and of prediction p those with pred_id = p; row (g, p) counts what
    they share, row (0, p) the part of p's boundary on void. Rows without a boundary are left out.
    """
    gt = np.where(boundary_mask(gt_ids) | (gt_ids == VOID), gt_ids, INTERIOR)
    pred = np.where(boundary_mask(pred_ids) | (pred_ids == VOID), pred_ids, INTERIOR)
    gt_id, pred_id, pixels = count_run_pairs(IdRuns.of_map(gt), IdRuns.of_map(pred))
    labelled = (gt_id > VOID) | (pred_id > VOID)
    return gt_id[labelled], pred_id[labelled], pixels[labelled]
