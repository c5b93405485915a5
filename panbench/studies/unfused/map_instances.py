"""The thing segments of a panoptic map as instances: AP of a map that no two segments share a pixel of.

Not AP_pan: a fused map holds only what the fusion rule kept, so a network's AP before fusion is higher. What any folder
of predictions has, if its segments have scores.
"""

from collections.abc import Sequence

import numpy as np

from panbench.base.errors import BadRun
from panbench.metrics.matched import Matched
from panbench.panoptic.types import Category
from panbench.studies.unfused.instance_ap import InstanceTable

__all__ = ["instances_of_map"]


def instances_of_map(matched: Matched, categories: Sequence[Category]) -> InstanceTable:
    """The predicted and the true thing segments of a run's maps, and the pixels that they share.

    Raises BadRun when a predicted thing has no score: AP ranks by it.
    """
    segments, overlaps = matched.segments, matched.overlaps
    things = np.isin(segments.category_id, [category.id for category in categories if category.isthing])
    det, gt = things & ~segments.is_gt, things & segments.is_gt
    unscored = int(np.isnan(segments.score[det]).sum())
    if unscored:
        raise BadRun(
            f"{unscored:,} of {int(det.sum()):,} predicted thing segments have no score, and AP ranks by score. Write "
            '"score" into the segments of the predictions\' JSON.'
        )

    # Pixels of a true segment are counted on the PNG; its area is the JSON's.
    covered = np.zeros(len(segments), np.int64)
    known = matched.gt_row >= 0
    np.add.at(covered, matched.gt_row[known], overlaps.pixels[known])
    met = (matched.gt_row >= 0) & (matched.pred_row >= 0)
    met[met] &= gt[matched.gt_row[met]] & det[matched.pred_row[met]]
    return InstanceTable(
        det_image=segments.image_id[det],
        det_id=segments.id[det],
        det_category=segments.category_id[det],
        det_score=segments.score[det].astype(np.float64),
        det_area=segments.area[det],
        gt_image=segments.image_id[gt],
        gt_id=segments.id[gt],
        gt_category=segments.category_id[gt],
        gt_area=segments.area[gt].astype(np.float64),
        gt_pixels=covered[gt],
        gt_iscrowd=segments.iscrowd[gt],
        pair_image=overlaps.image_id[met],
        pair_det=overlaps.pred_id[met],
        pair_gt=overlaps.gt_id[met],
        pair_pixels=overlaps.pixels[met],
    )
