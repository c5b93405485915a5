"""Box AP: replaces masks by boxes in the table from which AP is computed. [Lin et al. 2014; pycocotools' `bbox`]

A box is four numbers x1 y1 x2 y2 in pixels, its right and lower end excluded: pixel 3 alone is 3 to 4. Where a model
has a box head, its boxes are scored, as in Mask DINO's code; where it has none, a detection's box is the tight
one around its mask, as mmdet has it of Mask2Former and MaskFormer (`mask2bbox`; detectron2's code of the two leaves
boxes out). Scores are those of mask AP.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from panbench.studies.unfused.instance_ap import Boxes, InstanceTable

Float = npt.NDArray[np.float64]


def box_table(table: InstanceTable, boxes: Boxes) -> InstanceTable:
    """Returns the table with areas and overlaps of boxes in place of masks, so that its AP is box AP.

    As in pycocotools, a true instance keeps its listed area, which decides its size range.
    """
    det, gt = _pairs_of_category(table)
    low = np.maximum(boxes.det[det, :2], boxes.gt[gt, :2])
    high = np.minimum(boxes.det[det, 2:], boxes.gt[gt, 2:])
    met = (high > low).all(axis=1)
    det, gt, sides = det[met], gt[met], (high - low)[met]
    return replace(
        table,
        det_area=_box_areas(boxes.det),
        gt_pixels=_box_areas(boxes.gt),
        pair_image=table.det_image[det],
        pair_det=table.det_id[det],
        pair_gt=table.gt_id[gt],
        pair_pixels=sides[:, 0] * sides[:, 1],
        boxes=None,
    )


def tight_box(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Returns the box around a mask (H, W); four zeros for an empty one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return 0.0, 0.0, 0.0, 0.0
    return float(columns[0]), float(rows[0]), float(columns[-1]) + 1, float(rows[-1]) + 1


def listed_box(listed: object, mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """Returns a true instance's box: the JSON's `bbox` (x, y, width, height), else the tight box of its mask."""
    if isinstance(listed, (list, tuple)) and len(listed) == 4 and all(type(side) in (int, float) for side in listed):
        x, y, width, height = map(float, listed)
        if np.isfinite([x, y, width, height]).all() and width >= 0 and height >= 0:
            return x, y, x + width, y + height
    return tight_box(mask)


def source_in_words(boxes: Boxes) -> str:
    """Says whether the detections' boxes come from a box head or from masks."""
    predicted = int(boxes.predicted.sum())
    if predicted == len(boxes.predicted) > 0:
        return "the boxes of the model's own box head"
    if predicted == 0:
        return "the tight boxes of the masks (the model predicts none)"
    return f"{predicted:,} boxes of the model's box head and {len(boxes.predicted) - predicted:,} tight boxes of masks"


def selected_boxes(boxes: Boxes, det: npt.NDArray[np.bool_], gt: npt.NDArray[np.bool_]) -> Boxes:
    """Selects the boxes of some detections and true instances."""
    return Boxes(boxes.det[det], boxes.gt[gt], boxes.predicted[det])


def joined_boxes(several: Sequence[Boxes | None]) -> Boxes | None:
    """Concatenates the boxes of several tables; None if one of them has none."""
    known = [one for one in several if one is not None]
    if len(known) < len(several) or not known:
        return None
    return Boxes(
        np.concatenate([one.det for one in known]),
        np.concatenate([one.gt for one in known]),
        np.concatenate([one.predicted for one in known]),
    )


def _pairs_of_category(table: InstanceTable) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the indices of each detection and true instance that are of the same image and category."""
    images = np.union1d(table.det_image, table.gt_image)
    # An image's place and a category side by side in one integer: equal keys are found by one binary search.
    det = np.searchsorted(images, table.det_image).astype(np.int64) << 32 | table.det_category.astype(np.int64)
    gt = np.searchsorted(images, table.gt_image).astype(np.int64) << 32 | table.gt_category.astype(np.int64)
    order = np.argsort(gt, kind="stable")
    first, last = (np.searchsorted(gt, det, side, sorter=order) for side in ("left", "right"))
    counts = last - first
    rows = np.repeat(np.arange(len(det)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, order[np.repeat(first, counts) + within]


def _box_areas(boxes: Float) -> Float:
    area: Float = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return area
