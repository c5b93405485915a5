"""Sums of each image for tests of what is computed from them, written by hand."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from panbench.metrics.slices import ImageStatistics
from panbench.panoptic.types import Category

CAR, BUS, SKY = 1, 2, 92
CATEGORIES = (Category(CAR, "car", True, "vehicle"), Category(BUS, "bus", True, "vehicle"), Category(SKY, "sky", False))


def statistics(rows: list[tuple[int, int, float, int, int, int]], images: int | None = None) -> ImageStatistics:
    """From (image_id, category_id, iou_sum, TP, FP, FN); of images 1 … `images`, or of those that have a row."""
    table = pd.DataFrame(rows, columns=["image_id", "category_id", "iou_sum", "TP", "FP", "FN"])
    ids = np.arange(1, images + 1) if images else np.unique(table["image_id"])
    return ImageStatistics.from_frame(ids, table, CATEGORIES)


def cars(ious: Iterable[float]) -> ImageStatistics:
    """One car an image: found with this IoU, or missed (0)."""
    return statistics([(n, CAR, iou, int(iou > 0), 0, int(iou == 0)) for n, iou in enumerate(ious, start=1)])


def row(table: pd.DataFrame, metric: str = "PQ", **scope) -> dict:
    """The one row of a metric and scope; a group's unless a category is named."""
    chosen = table[table["metric"] == metric]
    for name, value in (scope or {"group": "All"}).items():
        chosen = chosen[chosen[name] == value]
    (only,) = chosen.to_dict("records")
    return only
