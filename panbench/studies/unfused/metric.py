"""AP_pan, box AP_pan and mIoU_pan before fusion, from rows of pixels, with intervals.

AP_pan is the mask AP of the instances that a panoptic model predicts (they may overlap), box AP_pan that of their
boxes, mIoU_pan the mIoU of its semantic sum Σ class × mask; the mIoU of metrics/semantic.py is that of the fused map.

Intervals are the jackknife's, as those of PQ are (metrics/jackknife.py). AP ranks the detections of all images
together: the matches, which do not depend on the other images, are made once, and leaving an image out only takes its
own away. Of more than UNITS images, so many groups are left out one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.metrics.jackknife import Jackknife, LeftOutMeans
from panbench.panoptic.types import Category
from panbench.studies.unfused.boxes import joined_boxes, kept_boxes, of_boxes
from panbench.studies.unfused.instance_ap import InstanceAP, InstanceTable, instance_ap, jackknifed_ap

__all__ = [
    "AP_NAMES",
    "BOX_AP_NAMES",
    "MIOU_NAME",
    "CategoryPixels",
    "SemanticIoU",
    "UnfusedTable",
    "concat_unfused",
    "jackknifed_unfused",
    "thing_ids",
]

AP_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
BOX_AP_NAMES = tuple(f"{name}_box" for name in AP_NAMES)
MIOU_NAME = "mIoU_pan"

UNITS = 500
"""Of more images, each UNITS-th is put into one group, for intervals of AP_pan and mIoU_pan."""

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]


_COLUMNS = tuple(field.name for field in fields(InstanceTable) if field.name != "boxes")


@dataclass(frozen=True)
class CategoryPixels:
    """Pixels of the semantic map by image and category: one row for each that occurs; void is left out.

    gt_pixels: of the category in the ground truth; pred_pixels: predicted, on labelled pixels; pixels: both
    """

    image_id: Int64
    category_id: Int32
    gt_pixels: Int64
    pred_pixels: Int64
    pixels: Int64

    def __len__(self) -> int:
        return len(self.image_id)


@dataclass(frozen=True)
class UnfusedTable:
    """Rows of some images before fusion. instances, pixels: None where the run was made without that metric.

    image_id: every image that was looked at, once
    """

    image_id: Int64
    instances: InstanceTable | None = None
    pixels: CategoryPixels | None = None

    def only(self, images: Int64) -> "UnfusedTable":
        """The rows of some images."""
        instances, pixels = self.instances, self.pixels
        if instances is not None:
            kept = {kind: np.isin(getattr(instances, f"{kind}_image"), images) for kind in ("det", "gt", "pair")}
            columns = {name: getattr(instances, name)[kept[name.partition("_")[0]]] for name in _COLUMNS}
            boxes = None if instances.boxes is None else kept_boxes(instances.boxes, kept["det"], kept["gt"])
            instances = InstanceTable(**columns, boxes=boxes)
        if pixels is not None:
            rows = np.isin(pixels.image_id, images)
            pixels = CategoryPixels(*(getattr(pixels, field.name)[rows] for field in fields(CategoryPixels)))
        return UnfusedTable(self.image_id[np.isin(self.image_id, images)], instances, pixels)

    def average_precision(self, categories: Sequence[Category]) -> InstanceAP | None:
        """AP_pan of the thing categories; None without rows of instances."""
        return None if self.instances is None else instance_ap(self.instances, thing_ids(categories))

    def box_precision(self, categories: Sequence[Category]) -> InstanceAP | None:
        """Box AP_pan of the thing categories; None without rows of instances, or without their boxes."""
        if self.instances is None or self.instances.boxes is None:
            return None
        return instance_ap(of_boxes(self.instances, self.instances.boxes), thing_ids(categories))

    def semantic_iou(self, categories: Sequence[Category]) -> "SemanticIoU | None":
        """mIoU_pan; None without rows of the semantic map. Raises ValueError for a category that is not listed."""
        if self.pixels is None:
            return None
        counts = _by_image(self.pixels, self.image_id, categories).sum(axis=2)
        iou = _iou(counts[..., None])[:, 0]
        known = iou[~np.isnan(iou)]
        return SemanticIoU(
            float(known.mean()) if len(known) else None,
            {
                category.id: None if np.isnan(value) else float(value)
                for category, value in zip(categories, iou, strict=True)
            },
        )


@dataclass(frozen=True)
class SemanticIoU:
    """mIoU_pan, a fraction 0–1; None where no category has a true or a predicted pixel. per_category: IoU by id."""

    mIoU_pan: float | None
    per_category: Mapping[int, float | None]


def thing_ids(categories: Sequence[Category]) -> list[int]:
    """The ids of the thing categories."""
    return [category.id for category in categories if category.isthing]


def concat_unfused(tables: Sequence[UnfusedTable]) -> UnfusedTable:
    """The rows of all tables. All must have the same metrics."""
    if not tables:
        return UnfusedTable(np.zeros(0, np.int64))
    instances = [table.instances for table in tables if table.instances is not None]
    pixels = [table.pixels for table in tables if table.pixels is not None]
    if len(instances) not in (0, len(tables)) or len(pixels) not in (0, len(tables)):
        raise ValueError("tables with and without a metric cannot be joined")

    def joined(names: Sequence[str], several: Sequence[object]) -> dict[str, Any]:
        return {name: np.concatenate([getattr(one, name) for one in several]) for name in names}

    of_pixels = [field.name for field in fields(CategoryPixels)]
    return UnfusedTable(
        np.concatenate([table.image_id for table in tables]),
        InstanceTable(**joined(_COLUMNS, instances), boxes=joined_boxes([one.boxes for one in instances]))
        if instances
        else None,
        CategoryPixels(**joined(of_pixels, pixels)) if pixels else None,
    )


def jackknifed_unfused(table: UnfusedTable, images: Int64, categories: Sequence[Category]) -> dict[str, Jackknife]:
    """The metrics by name, AP_NAMES, BOX_AP_NAMES and MIOU_NAME, of all images and without each.

    images: ascending; the table's rows of other images are passed over
    """
    table = table if len(table.image_id) == len(images) else table.only(images)
    units = min(len(images), UNITS)
    found: dict[str, Jackknife] = {}
    if table.instances is not None:
        tables: list[tuple[tuple[str, ...], InstanceTable]] = [(AP_NAMES, table.instances)]
        if table.instances.boxes is not None:
            tables.append((BOX_AP_NAMES, of_boxes(table.instances, table.instances.boxes)))
        for names, rows in tables:
            ap = jackknifed_ap(rows, thing_ids(categories), images, units)
            found |= {name: ap.only(place) for place, name in enumerate(names)}
    if table.pixels is not None:
        counts = _by_image(table.pixels, images, categories)
        of_units = np.stack([counts[..., unit::units].sum(axis=-1) for unit in range(units)], axis=-1)
        total = counts.sum(axis=2, keepdims=True)
        iou, without = _iou(total)[:, 0], _iou(total - of_units)
        means = LeftOutMeans(1, len(iou), units)
        for cell in np.flatnonzero(~np.isnan(iou)):
            means.add(0, int(cell), float(iou[cell]), np.arange(units), without[cell])
        found[MIOU_NAME] = means.jackknife().only(0)
    return found


def _by_image(pixels: CategoryPixels, images: Int64, categories: Sequence[Category]) -> Float:
    """(3, categories, images): true, predicted and shared pixels of each category in each image."""
    ids = np.array([category.id for category in categories], np.int64)
    order = np.argsort(ids, kind="stable")
    place = order[np.minimum(np.searchsorted(ids, pixels.category_id, sorter=order), len(ids) - 1)]
    if (ids[place] != pixels.category_id).any():
        raise ValueError("a row names a category that is not listed")
    sorted_images = np.sort(images)
    image = np.searchsorted(sorted_images, pixels.image_id)
    counts = np.zeros((3, len(ids), len(images)))
    for row, values in enumerate((pixels.gt_pixels, pixels.pred_pixels, pixels.pixels)):
        counts[row, place, image] = values
    return counts


def _iou(counts: Float) -> Float:
    """(categories, n) IoU of (3, categories, n) pixels; NaN where a category has neither true nor predicted ones."""
    true, predicted, shared = counts
    union = true + predicted - shared
    return np.divide(shared, union, out=np.full(union.shape, np.nan), where=union > 0)
