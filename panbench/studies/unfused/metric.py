"""Computes AP_pan, box AP_pan and mIoU_pan of outputs before fusion, with intervals, from pixel counts per image.

AP_pan is the mask AP of the instances that a panoptic model predicts (they may overlap), box AP_pan that of their
boxes, mIoU_pan the mIoU of its semantic sum Σ class × mask; the mIoU of metrics/semantic.py is that of the fused map.

Intervals are the jackknife's, as for PQ (metrics/jackknife.py). AP ranks the detections of all images together, but
matches do not depend on other images: they are computed once, and leaving out an image only removes its own. With more
than UNITS images, UNITS groups of images are left out instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.metrics.jackknife import Jackknife, LeftOutMeans
from panbench.panoptic.types import Category
from panbench.studies.unfused.boxes import box_table, joined_boxes, selected_boxes
from panbench.studies.unfused.instance_ap import InstanceAP, InstanceTable, instance_ap, jackknifed_ap

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
BOX_AP_NAMES = tuple(f"{name}_box" for name in AP_NAMES)
MIOU_NAME = "mIoU_pan"

UNITS = 500
"""The largest number of jackknife groups; with more images, every UNITS-th image is in the same group."""

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


_COLUMNS = tuple(field.name for field in fields(InstanceTable) if field.name != "boxes")


@dataclass(frozen=True)
class CategoryPixels:
    """The true, predicted and shared pixels of each category in each image; void is left out.

    gt_pixels: in the ground truth; pred_pixels: predicted, on labelled pixels; pixels: both
    """

    image_id: Int64
    category_id: Int32
    gt_pixels: Int64
    pred_pixels: Int64
    pixels: Int64

    def __len__(self) -> int:
        """Returns the number of (image, category) pairs."""
        return len(self.image_id)


@dataclass(frozen=True)
class UnfusedTable:
    """The rows of some images from which AP_pan, box AP_pan and mIoU_pan are computed.

    instances, pixels: None if the metric was not requested
    image_id: every measured image, once
    """

    image_id: Int64
    instances: InstanceTable | None = None
    pixels: CategoryPixels | None = None

    def only(self, images: Int64) -> "UnfusedTable":
        """Returns the pixel counts, for AP_pan and mIoU_pan, of some of the images."""
        instances, pixels = self.instances, self.pixels
        if instances is not None:
            chosen = {kind: np.isin(getattr(instances, f"{kind}_image"), images) for kind in ("det", "gt", "pair")}
            columns = {name: getattr(instances, name)[chosen[name.partition("_")[0]]] for name in _COLUMNS}
            boxes = None if instances.boxes is None else selected_boxes(instances.boxes, chosen["det"], chosen["gt"])
            instances = InstanceTable(**columns, boxes=boxes)
        if pixels is not None:
            rows = np.isin(pixels.image_id, images)
            pixels = CategoryPixels(*(getattr(pixels, field.name)[rows] for field in fields(CategoryPixels)))
        return UnfusedTable(self.image_id[np.isin(self.image_id, images)], instances, pixels)

    def average_precision(self, categories: Sequence[Category]) -> InstanceAP | None:
        """Computes AP_pan of the thing categories; None without rows of instances."""
        return None if self.instances is None else instance_ap(self.instances, thing_ids(categories))

    def box_precision(self, categories: Sequence[Category]) -> InstanceAP | None:
        """Computes box AP_pan of the thing categories; None without rows of instances or their boxes."""
        if self.instances is None or self.instances.boxes is None:
            return None
        return instance_ap(box_table(self.instances, self.instances.boxes), thing_ids(categories))

    def semantic_iou(self, categories: Sequence[Category]) -> float | None:
        """Computes mIoU_pan; None without a true or predicted pixel. Raises ValueError for an unlisted category."""
        if self.pixels is None:
            return None
        counts = _pixels_by_image(self.pixels, self.image_id, categories).sum(axis=2)
        iou = _category_iou(counts[..., None])[:, 0]
        known = iou[~np.isnan(iou)]
        return float(known.mean()) if len(known) else None


def thing_ids(categories: Sequence[Category]) -> list[int]:
    """Returns the ids of the thing categories."""
    return [category.id for category in categories if category.isthing]


def concat_unfused(tables: Sequence[UnfusedTable]) -> UnfusedTable:
    """Concatenates tables of different images, which must all have the same metrics."""
    if not tables:
        return UnfusedTable(np.zeros(0, np.int64))
    instances = [table.instances for table in tables if table.instances is not None]
    pixels = [table.pixels for table in tables if table.pixels is not None]
    if len(instances) not in (0, len(tables)) or len(pixels) not in (0, len(tables)):
        raise ValueError("tables with and without a metric cannot be joined")

    def joined_columns(names: Sequence[str], several: Sequence[object]) -> dict[str, Any]:
        """Concatenates each named column of several tables."""
        return {name: np.concatenate([getattr(one, name) for one in several]) for name in names}

    of_pixels = [field.name for field in fields(CategoryPixels)]
    return UnfusedTable(
        np.concatenate([table.image_id for table in tables]),
        InstanceTable(**joined_columns(_COLUMNS, instances), boxes=joined_boxes([one.boxes for one in instances]))
        if instances
        else None,
        CategoryPixels(**joined_columns(of_pixels, pixels)) if pixels else None,
    )


def jackknifed_unfused(table: UnfusedTable, images: Int64, categories: Sequence[Category]) -> dict[str, Jackknife]:
    """Jackknifes AP_pan, box AP_pan and mIoU_pan over images; returns them by name.

    Names are those of AP_NAMES, BOX_AP_NAMES and MIOU_NAME.
    images: ascending; rows of other images are ignored
    """
    table = table if len(table.image_id) == len(images) else table.only(images)
    units = min(len(images), UNITS)
    found: dict[str, Jackknife] = {}
    if table.instances is not None:
        tables: list[tuple[tuple[str, ...], InstanceTable]] = [(AP_NAMES, table.instances)]
        if table.instances.boxes is not None:
            tables.append((BOX_AP_NAMES, box_table(table.instances, table.instances.boxes)))
        for names, rows in tables:
            ap = jackknifed_ap(rows, thing_ids(categories), images, units)
            found |= {name: ap.only(index) for index, name in enumerate(names)}
    if table.pixels is not None:
        counts = _pixels_by_image(table.pixels, images, categories)
        of_units = np.stack([counts[..., unit::units].sum(axis=-1) for unit in range(units)], axis=-1)
        total = counts.sum(axis=2, keepdims=True)
        iou, without = _category_iou(total)[:, 0], _category_iou(total - of_units)
        means = LeftOutMeans(1, len(iou), units)
        for cell in np.flatnonzero(~np.isnan(iou)):
            means.add(0, int(cell), float(iou[cell]), np.arange(units), without[cell])
        found[MIOU_NAME] = means.jackknife().only(0)
    return found


def _pixels_by_image(pixels: CategoryPixels, images: Int64, categories: Sequence[Category]) -> Float:
    """Returns the true, predicted and shared pixels of each category and image, (3, categories, images)."""
    ids = np.array([category.id for category in categories], np.int64)
    order = np.argsort(ids, kind="stable")
    index = order[np.minimum(np.searchsorted(ids, pixels.category_id, sorter=order), len(ids) - 1)]
    if (ids[index] != pixels.category_id).any():
        raise ValueError("a row names a category that is not listed")
    sorted_images = np.sort(images)
    image = np.searchsorted(sorted_images, pixels.image_id)
    counts = np.zeros((3, len(ids), len(images)))
    for row, values in enumerate((pixels.gt_pixels, pixels.pred_pixels, pixels.pixels)):
        counts[row, index, image] = values
    return counts


def _category_iou(counts: Float) -> Float:
    """Returns (categories, n) IoU from (3, categories, n) true, predicted and shared pixels; NaN where all are 0."""
    true, predicted, shared = counts
    union = true + predicted - shared
    return np.divide(shared, union, out=np.full(union.shape, np.nan), where=union > 0)
