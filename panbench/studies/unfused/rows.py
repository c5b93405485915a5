"""The rows of a run before fusion, in unfused/*.parquet: what AP_pan and mIoU_pan are made of.

Files are like the parts of a run: each holds a block of images, appears whole or not at all, names its run, and is
listed in run.json with its SHA-256. They lie beside the parts, so that a run with and without them has the same parts.

| kind | one row | columns that it uses |
| --- | --- | --- |
| `image` | an image that was looked at | image_id |
| `det` | a predicted instance | det_id, category_id, score, pred_pixels |
| `gt` | a true instance | gt_id, category_id, area (the listed one), gt_pixels, iscrowd |
| `pair` | a predicted and a true instance that share pixels | det_id, gt_id, pixels |
| `category` | a category of the semantic map | category_id, gt_pixels, pred_pixels (where labelled), pixels (both) |

det_id and gt_id count from 1 within an image. The file's metadata says which metrics it was made for.
"""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from panbench.base.files import atomic_write
from panbench.panoptic.parts import NotAdmitted, metadata_of, part_files, readable
from panbench.runs.layout import UNFUSED
from panbench.runs.record import PartRecord, RunInfo
from panbench.studies.unfused.instance_ap import InstanceTable
from panbench.studies.unfused.metric import CategoryPixels, UnfusedTable, concat_unfused

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FOLDER", "UnfusedParts", "compact_unfused", "write_unfused"]

FOLDER = UNFUSED
IMAGES_A_FILE = 10_000
FEW_FILES = 16
"""So many files are never too many."""

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

Columns = dict[str, npt.NDArray[Any]]


def write_unfused(path: Path, table: UnfusedTable, metadata: Mapping[bytes, bytes]) -> None:
    """Writes the rows of a block of images. Raises FileExistsError when there is a file of that name."""
    import pyarrow.parquet

    metrics = ",".join(name for name, rows in (("ap", table.instances), ("miou", table.pixels)) if rows is not None)
    with atomic_write(path, exclusive=True) as handle:
        arrow = _to_arrow(table).replace_schema_metadata({**metadata, _METRICS: metrics.encode()})
        pyarrow.parquet.write_table(arrow, handle, compression="zstd")


class UnfusedParts:
    """The files in unfused/ that belong to a run. Each is read once, when it is first asked for."""

    def __init__(self, run: Path, info: RunInfo) -> None:
        """Of the run in a folder, as its run.json says it."""
        self.folder = run / FOLDER
        self._info = info
        self._listed = {record.name: record for record in info.unfused or ()}

    @cached_property
    def _found(self) -> tuple[list[tuple[Path, UnfusedTable]], tuple[str, ...]]:
        import pyarrow as pa

        held: list[tuple[Path, UnfusedTable]] = []
        notices: list[str] = []
        seen = np.zeros(0, np.int64)
        for path in part_files(self.folder):
            try:
                self._admit(path)
                table = _read(path)
            except NotAdmitted as problem:
                notices.append(f"{path} {problem}.")
                continue
            except (pa.ArrowException, OSError, ValueError, KeyError) as problem:
                reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
                notices.append(f"{path} is torn or foreign and was left out ({reason}).")
                continue
            # A run that was killed between its two files of a block looks at those images again.
            new = np.setdiff1d(table.image_id, seen)
            seen = np.union1d(seen, new)
            held.append((path, table if len(new) == len(table.image_id) else table.only(new)))
        if self._info.status != "running":
            there = {path.name for path in part_files(self.folder)}
            notices += [
                f"{self.folder / name}, which held {record.images:,} images, is missing."
                for name, record in self._listed.items()
                if name not in there
            ]
        return held, tuple(notices)

    @property
    def notices(self) -> tuple[str, ...]:
        """A sentence for each file that is missing, changed, torn or another run's: it was left out."""
        return self._found[1]

    @cached_property
    def images(self) -> npt.NDArray[np.int64]:
        """The images that were looked at, ascending."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(table.image_id for _, table in self._found[0])]))

    @cached_property
    def table(self) -> UnfusedTable | None:
        """All rows, in order of image ids; None where the run has none."""
        tables = [table for _, table in self._found[0] if len(table.image_id)]
        return _in_order(concat_unfused(tables)) if tables else None

    def records(self) -> tuple[PartRecord, ...]:
        """The files as run.json lists them."""
        return tuple(
            PartRecord(path.name, path.stat().st_size, _sha256(path), len(table.image_id))
            for path, table in self._found[0]
        )

    def _admit(self, path: Path) -> None:
        listed = self._listed.get(path.name)
        if listed is not None and _sha256(path) != listed.sha256:
            raise NotAdmitted("is not what the run wrote (its SHA-256 differs from run.json's) and was left out")
        if listed is None and metadata_of(path).get(b"panbench.run") != (self._info.id or "").encode():
            raise NotAdmitted("was written by another run and was left out")


def compact_unfused(parts: UnfusedParts, metadata: Mapping[bytes, bytes]) -> None:
    """Joins many small files to few. Killed in between, some images are there twice, which reading passes over."""
    old = part_files(parts.folder)
    if len(old) <= FEW_FILES or parts.notices or len(old) * IMAGES_A_FILE < 4 * len(parts.images):
        return
    number = 1 + max((int(path.stem.split("-")[1]) for path in old if path.name.startswith("0000-")), default=-1)
    waiting: list[UnfusedTable] = []

    def write() -> None:
        nonlocal number
        if waiting:
            write_unfused(parts.folder / f"0000-{number:06d}.parquet", concat_unfused(waiting), metadata)
            number += 1
            waiting.clear()

    for _, table in parts._found[0]:
        waiting.append(table)
        if sum(len(one.image_id) for one in waiting) >= IMAGES_A_FILE:
            write()
    write()
    for path in old:
        path.unlink()


def _to_arrow(table: UnfusedTable) -> "pa.Table":
    import pyarrow as pa

    blocks: list[tuple[str, Columns]] = [("image", {"image_id": table.image_id})]
    if table.instances is not None:
        for kind, names in _FIELDS.items():
            of_kind = (getattr(table.instances, name) for name in names)
            blocks.append((kind, dict(zip(_COLUMNS[kind], of_kind, strict=True))))
    if table.pixels is not None:
        blocks.append(("category", {name: getattr(table.pixels, name) for name in _COLUMNS["category"]}))
    schema = _schema()
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
    return pa.concat_tables(tables).combine_chunks()


def _read(path: Path) -> UnfusedTable:
    """The rows of a file. Raises ValueError for what is no file of ours."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(readable(path)) as file:
        metrics = (file.schema_arrow.metadata or {}).get(_METRICS)
        if metrics is None:
            raise ValueError("it does not say which metrics it is for")
        arrow = file.read(use_threads=False)
    if missing := [name for name in _schema().names if name not in arrow.schema.names]:
        raise ValueError(f"it lacks the columns {', '.join(missing)}")
    kinds = arrow.column("kind").cast(pa.string())

    def of_kind(kind: str) -> list[npt.NDArray[Any]]:
        rows = arrow.filter(pc.equal(kinds, kind)).select(list(_COLUMNS[kind]))
        return [column.combine_chunks().to_numpy(zero_copy_only=False) for column in rows.columns]

    wanted = metrics.decode().split(",")
    instances = pixels = None
    if "ap" in wanted:
        named = {
            name: values for kind, names in _FIELDS.items() for name, values in zip(names, of_kind(kind), strict=True)
        }
        named["det_score"] = named["det_score"].astype(np.float64)
        named["gt_iscrowd"] = named["gt_iscrowd"].astype(np.bool_)
        instances = InstanceTable(**named)
    if "miou" in wanted:
        pixels = CategoryPixels(*of_kind("category"))
    return UnfusedTable(of_kind("image")[0], instances, pixels)


def _schema() -> "pa.Schema":
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
        }
    )


def _in_order(table: UnfusedTable) -> UnfusedTable:
    """The rows by ascending image id: ties of scores then come out the same however a run was cut into files."""

    def order(images: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.argsort(images, kind="stable")

    instances, pixels = table.instances, table.pixels
    if instances is not None:
        rows = {kind: order(getattr(instances, names[0])) for kind, names in _FIELDS.items()}
        instances = InstanceTable(
            **{name: getattr(instances, name)[rows[kind]] for kind, names in _FIELDS.items() for name in names}
        )
    if pixels is not None:
        by = order(pixels.image_id)
        pixels = CategoryPixels(*(getattr(pixels, name)[by] for name in _COLUMNS["category"]))
    return UnfusedTable(np.sort(table.image_id), instances, pixels)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
