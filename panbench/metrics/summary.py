"""Every metric of a run in one record of plain values: what `panbench metrics RUN --json` prints."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from panbench.metrics.pq import pq_table, summarise
from panbench.metrics.semantic import semantic_scores
from panbench.metrics.slices import SLICINGS, image_statistics, pq_by, pq_dagger, threshold_curve, weighted_pq
from panbench.panoptic.types import Category

__all__ = ["all_metrics"]


def all_metrics(segments: pd.DataFrame, overlaps: pd.DataFrame, categories: Sequence[Category]) -> dict[str, Any]:
    """All metrics of some overlap tables as JSON-ready values: fractions 0–1, counts, None where there is no value.

    segments: one row a segment (image_id, side, id, category_id, area, iscrowd)
    overlaps: one row a pair of ids that share pixels (image_id, gt_id, pred_id, pixels)
    Keys:
        images        how many
        All, Things, Stuff   PQ, SQ, RQ, n
        PQ_dagger     All, Things, Stuff (Porzi et al. 2019)
        weighted_PQ   by `pixels` and by `segments` of the ground truth
        semantic      mIoU, mIoU_th, mIoU_st, fwIoU, pixel_accuracy, mean_accuracy, mean_dice
        thresholds    one a threshold: threshold, then PQ, SQ, RQ, n of All, Things and Stuff
        by            size, share, segments, supercategory: lists of slices with PQ, SQ, RQ, n, PQ_th, PQ_st, TP, FP, FN
        per_category  by category id: name, isthing, supercategory, PQ, SQ, RQ, TP, FP, FN, PQ_dagger, IoU, accuracy,
        Dice
    Raises BadDataset when a segment's category_id is not in `categories`.
    """
    table = pq_table(segments, overlaps, categories)
    semantic = semantic_scores(segments, overlaps, categories)
    dagger = pq_dagger(segments, overlaps, categories)
    curve = threshold_curve(segments, overlaps, categories)
    isthing = dagger["isthing"].to_numpy(np.bool_)
    of_pixels = semantic.per_category[["IoU", "accuracy", "Dice"]]
    # The table has panopticapi's 0 where a category is neither in the ground truth nor predicted; here it is absent.
    occurs = table[["TP", "FP", "FN"]].sum(axis=1) > 0
    scores = table[["PQ", "SQ", "RQ"]].where(occurs)
    per_category = pd.concat([table.drop(columns="iou_sum").assign(**scores), dagger["PQ_dagger"], of_pixels], axis=1)
    record = {
        "images": int(overlaps["image_id"].nunique()),
        **summarise(table),
        "PQ_dagger": {
            "All": dagger["PQ_dagger"].mean(),
            "Things": dagger.loc[isthing, "PQ_dagger"].mean(),
            "Stuff": dagger.loc[~isthing, "PQ_dagger"].mean(),
        },
        "weighted_PQ": {
            "pixels": weighted_pq(segments, overlaps, categories, "pixels"),
            "segments": weighted_pq(segments, overlaps, categories, "segments"),
        },
        "semantic": {name: value for name, value in vars(semantic).items() if name != "per_category"},
        "thresholds": [
            {"threshold": threshold, **of_threshold.drop(columns="threshold").set_index("group").T.to_dict()}
            for threshold, of_threshold in curve.groupby("threshold")
        ],
        "by": {
            name: pq_by(image_statistics(segments, overlaps, categories, name)).to_dict("records") for name in SLICINGS
        },
        "per_category": {
            str(category["category_id"]): {name: value for name, value in category.items() if name != "category_id"}
            for category in per_category.to_dict("records")
        },
    }
    plain: dict[str, Any] = _plain(record)
    # A count that pandas carried beside fractions comes back as a float.
    for of_threshold in plain["thresholds"]:
        for group in ("All", "Things", "Stuff"):
            of_threshold[group]["n"] = int(of_threshold[group]["n"])
    return plain


def _plain(value: Any) -> Any:
    """The same in Python's own types, NaN as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
