"""Overlaps of the pixels near the boundaries of segments, for boundary PQ. [Cheng et al. 2021]

The boundary of a segment is its pixels within d of a pixel that is not its own, d being 2 % of the image's diagonal, at
least 1. As in the authors' code the distance is the larger of the two coordinate differences (erosion by a square),
pixels outside of the image count as foreign, and d is rounded to whole pixels. Boundary PQ takes min(IoU, boundary IoU)
for each pair.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from panbench.panoptic import pixels
from panbench.panoptic.idmap import IdRuns, count_run_pairs
from panbench.panoptic.types import VOID

__all__ = ["BOUNDARY_SHARE", "INTERIOR", "boundary_distance", "boundary_mask", "boundary_pairs"]

Int32 = npt.NDArray[np.int32]

BOUNDARY_SHARE = 0.02
"""Distance from the boundary as share of the image's diagonal."""

INTERIOR = -1
"""The id in boundary pairs of pixels that are not near the boundary of their own segment."""


def boundary_distance(shape: Sequence[int]) -> int:
    """The distance d in pixels for an image of (height, width)."""
    return max(1, round(BOUNDARY_SHARE * float(np.hypot(shape[0], shape[1]))))


def boundary_mask(ids: Int32) -> npt.NDArray[np.bool_]:
    """(H, W) bool: pixels of an id map near the boundary of their own segment, void included."""
    # Dilating every segment by d would need one pass a segment. Instead: a foreign pixel lies within d exactly when,
    # within d - 1, some pixel has a foreign one among its eight neighbours. So mark those pixels of all segments at
    # once, then dilate the marks by d - 1: one pass for the whole map, whatever its number of segments.
    edge = _has_foreign_neighbour(ids)
    side = 2 * boundary_distance(ids.shape) - 1
    if side == 1:
        return edge
    return pixels.dilate(edge, side)


def _has_foreign_neighbour(ids: Int32) -> npt.NDArray[np.bool_]:
    edge = np.zeros(ids.shape, np.bool_)
    differ = ids[:, 1:] != ids[:, :-1]
    edge[:, 1:] |= differ
    edge[:, :-1] |= differ
    differ = ids[1:] != ids[:-1]
    edge[1:] |= differ
    edge[:-1] |= differ
    differ = ids[1:, 1:] != ids[:-1, :-1]
    edge[1:, 1:] |= differ
    edge[:-1, :-1] |= differ
    differ = ids[1:, :-1] != ids[:-1, 1:]
    edge[1:, :-1] |= differ
    edge[:-1, 1:] |= differ
    edge[:1] = edge[-1:] = True
    edge[:, :1] = edge[:, -1:] = True
    return edge


def boundary_pairs(gt_ids: Int32, pred_ids: Int32) -> tuple[Int32, Int32, npt.NDArray[np.int64]]:
    """Counts shared boundary pixels of pairs of ids: (gt_id, pred_id, pixels), as `count_pairs` does.

    gt_ids, pred_ids: (H, W) int32 id maps of one image
    Pixels away from the boundary of their own segment have the id INTERIOR; all void pixels keep 0. So the boundary of
    segment g has as many pixels as the rows with gt_id = g, that of prediction p as the rows with pred_id = p; the row
    (g, p) is what they share and the row (0, p) is p's boundary on void. Rows without a boundary are left out.
    """
    gt = np.where(boundary_mask(gt_ids) | (gt_ids == VOID), gt_ids, INTERIOR)
    pred = np.where(boundary_mask(pred_ids) | (pred_ids == VOID), pred_ids, INTERIOR)
    gt_id, pred_id, pixels = count_run_pairs(IdRuns.of_map(gt), IdRuns.of_map(pred))
    wanted = (gt_id > VOID) | (pred_id > VOID)
    return gt_id[wanted], pred_id[wanted], pixels[wanted]
