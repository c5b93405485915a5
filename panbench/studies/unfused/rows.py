"""Stores the pixel counts of a run's images before fusion, from which AP_pan and mIoU_pan are computed, as Parquet.

| kind | one row per | columns that it uses |
| --- | --- | --- |
| `image` | a measured image | image_id |
| `det` | a predicted instance | det_id, category_id, score, pred_pixels, x1, y1, x2, y2, box_predicted |
| `gt` | a true instance | gt_id, category_id, area (the listed one), gt_pixels, iscrowd, x1, y1, x2, y2 |
| `pair` | a predicted and a true instance that share pixels | det_id, gt_id, pixels |
| `category` | a category of the semantic map | category_id, gt_pixels, pred_pixels (where labelled), pixels (both) |

det_id and gt_id count from 1 within an image. box_predicted: True for a box of the model's box head, False for the
tight box of the mask. The schema's metadata names the metrics that the rows were made for.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadRun
from panbench.runs import Run, RunWriter
from panbench.studies.unfused.instance_ap import Boxes, InstanceTable
from panbench.studies.unfused.metric import CategoryPixels, UnfusedTable

if TYPE_CHECKING:
    import pyarrow as pa

NAME = "unfused"
"""The folder of the study table."""

_KINDS = ("image", "det", "gt", "pair", "category")
_METRICS = b"panbench.metrics"
_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "image": ("image_id",),
    "det": ("image_id", "det_id", "category_id", "score", "pred_pixels"),
    "gt": ("image_id", "gt_id", "category_id", "area", "gt_pixels", "iscrowd"),
    "pair": ("image_id", "det_id", "gt_id", "pixels"),
    "category": ("image_id", "category_id", "gt_pixels", "pred_pixels", "pixels"),
}
# The fields of InstanceTable and CategoryPixels in the order of the columns.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "det": ("det_image", "det_id", "det_category", "det_score", "det_area"),
    "gt": ("gt_image", "gt_id", "gt_category", "gt_area", "gt_pixels", "gt_iscrowd"),
    "pair": ("pair_image", "pair_det", "pair_gt", "pair_pixels"),
}

_CORNERS = ("x1", "y1", "x2", "y2")
_PREDICTED = "box_predicted"

Columns = dict[str, npt.NDArray[Any]]


def write_unfused(writer: RunWriter, table: UnfusedTable) -> Path:
    """Writes the rows of AP_pan and mIoU_pan of some images into a run; returns the path of the new file."""
    return writer.write_study_rows(NAME, _to_arrow(table))


def images_measured(run: Run) -> frozenset[int]:
    """Returns the ids of the images for which a run has rows of AP_pan or mIoU_pan."""
    rows = run.study_tables.get(NAME)
    return frozenset() if rows is None else frozenset(rows.images.tolist())


def read_unfused(run: Run) -> UnfusedTable | None:
    """Reads a run's rows of AP_pan and mIoU_pan by image id; None if it has none. Raises BadRun if unreadable."""
    rows = run.study_tables.get(NAME)
    if rows is None:
        return None
    if rows.notices:
        raise BadRun(" ".join(rows.notices))
    if rows.table is None:
        return None
    try:
        return _from_arrow(rows.table)
    except ValueError as problem:
        raise BadRun(f"{rows.folder} is foreign: {problem}.") from None


def _to_arrow(table: UnfusedTable) -> "pa.Table":
    """Converts the pixel counts for AP_pan and mIoU_pan to the Arrow table that a run stores."""
    import pyarrow as pa

    blocks: list[tuple[str, Columns]] = [("image", {"image_id": table.image_id})]
    if table.instances is not None:
        for kind, names in _FIELDS.items():
            of_kind = (getattr(table.instances, name) for name in names)
            blocks.append((kind, dict(zip(_COLUMNS[kind], of_kind, strict=True)) | _box_columns(table.instances, kind)))
    if table.pixels is not None:
        blocks.append(("category", {name: getattr(table.pixels, name) for name in _COLUMNS["category"]}))
    schema = _arrow_schema()
    tables = []
    for kind, columns in blocks:
        n = len(columns["image_id"])
        code = pa.DictionaryArray.from_arrays(pa.array(np.full(n, _KINDS.index(kind), np.int8)), pa.array(_KINDS))
        arrays = {"kind": code}
        for field in schema:
            if field.name != "kind":
                values = columns.get(field.name)
                arrays[field.name] = pa.nulls(n, field.type) if values is None else pa.array(values, field.type)
        tables.append(pa.table(arrays, schema=schema))
    metrics = ",".join(name for name, rows in (("ap", table.instances), ("miou", table.pixels)) if rows is not None)
    return pa.concat_tables(tables).combine_chunks().replace_schema_metadata({_METRICS: metrics.encode()})


def _box_columns(instances: InstanceTable, kind: str) -> Columns:
    """Returns the columns with the boxes of the detections ("det") or of the true instances ("gt")."""
    boxes = instances.boxes
    if boxes is None or kind not in ("det", "gt"):
        return {}
    corners = dict(zip(_CORNERS, (boxes.det if kind == "det" else boxes.gt).T, strict=True))
    return corners | ({_PREDICTED: boxes.predicted} if kind == "det" else {})


def _from_arrow(arrow: "pa.Table") -> UnfusedTable:
    """Converts a run's stored Arrow table to pixel counts for AP_pan and mIoU_pan. Raises ValueError for others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    metrics = (arrow.schema.metadata or {}).get(_METRICS)
    if metrics is None:
        raise ValueError("it does not say which metrics it is for")
    if missing := [name for name in _arrow_schema().names if name not in arrow.schema.names]:
        raise ValueError(f"it lacks the columns {', '.join(missing)}")
    kinds = arrow.column("kind").cast(pa.string())

    def columns_of_kind(kind: str, names: Sequence[str] = ()) -> list[npt.NDArray[Any]]:
        """Returns the columns of one kind of rows: images, detections, true instances, their pairs, or categories."""
        rows = arrow.filter(pc.equal(kinds, kind)).select(list(names or _COLUMNS[kind]))
        return [column.combine_chunks().to_numpy(zero_copy_only=False) for column in rows.columns]

    needed = metrics.decode().split(",")
    instances = pixels = None
    if "ap" in needed:
        named = {
            name: values
            for kind, names in _FIELDS.items()
            for name, values in zip(names, columns_of_kind(kind), strict=True)
        }
        named["det_score"] = named["det_score"].astype(np.float64)
        named["gt_iscrowd"] = named["gt_iscrowd"].astype(np.bool_)
        det, gt = (np.stack(columns_of_kind(kind, _CORNERS), axis=1).astype(np.float64) for kind in ("det", "gt"))
        boxes = Boxes(det, gt, columns_of_kind("det", (_PREDICTED,))[0].astype(np.bool_))
        instances = InstanceTable(**named, boxes=boxes)
    if "miou" in needed:
        pixels = CategoryPixels(*columns_of_kind("category"))
    return UnfusedTable(np.sort(columns_of_kind("image")[0]), instances, pixels)


def _arrow_schema() -> "pa.Schema":
    import pyarrow as pa

    return pa.schema(
        {
            "kind": pa.dictionary(pa.int8(), pa.string()),
            "image_id": pa.int64(),
            "det_id": pa.int32(),
            "gt_id": pa.int32(),
            "category_id": pa.int32(),
            "score": pa.float32(),
            "area": pa.float64(),
            "gt_pixels": pa.int64(),
            "pred_pixels": pa.int64(),
            "pixels": pa.int64(),
            "iscrowd": pa.bool_(),
            **dict.fromkeys(_CORNERS, pa.float64()),
            _PREDICTED: pa.bool_(),
        }
    )
