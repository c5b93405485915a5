"""From id maps to overlap tables: the last step that touches pixels.

Two id maps of an image become one row for each pair of segments that share pixels, beside one row for each segment.
PQ and everything else is a query on these rows; merging images, blocks, ranks and machines is `concat`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from panbench.base.errors import PredictionMismatch
from panbench.base.text import listed
from panbench.panoptic.idmap import IdRuns, count_run_pairs
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.types import VOID, Segment

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["GroundTruthFaults", "OverlapTable", "Pairs", "Segments", "concat", "count_pairs", "overlap_table"]

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

GT, PRED = "gt", "pred"
OVERLAP, BOUNDARY = "overlap", "boundary"
_KINDS = (GT, PRED, OVERLAP, BOUNDARY)


@dataclass(frozen=True)
class Pairs:
    """One row per pair of segments of an image that share pixels: columns of equal length. Id 0 is void."""

    image_id: Int64
    gt_id: Int32
    pred_id: Int32
    pixels: Int64

    def __len__(self) -> int:
        return len(self.image_id)

    @staticmethod
    def empty() -> Pairs:
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Segments:
    """One row per segment: columns of equal length.

    is_gt tells ground truth from prediction; area is the JSON's for ground truth and counted for predictions; score is
    float32, NaN where unknown. Rows of the ground truth of an image keep the order of its JSON.
    """

    image_id: Int64
    is_gt: npt.NDArray[np.bool_]
    id: Int32
    category_id: Int32
    area: Int64
    iscrowd: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.image_id)

    @staticmethod
    def empty() -> Segments:
        return Segments(
            np.zeros(0, np.int64),
            np.zeros(0, np.bool_),
            np.zeros(0, np.int32),
            np.zeros(0, np.int32),
            np.zeros(0, np.int64),
            np.zeros(0, np.bool_),
            np.zeros(0, np.float32),
        )


Columns = TypeVar("Columns", Pairs, Segments)


MENDS_AREAS = "`panbench data convert panoptic GT.json --out DIR` makes a set with the areas of the PNGs."


@dataclass(frozen=True)
class GroundTruthFaults:
    """Where ground-truth PNGs and their JSON disagree. Such images are scored as panopticapi scores them.

    ids_not_in_json: ids in a PNG that its JSON does not list: neither void nor a segment
    segments_not_in_png: segments listed whose id the PNG lacks: each a miss (a false negative)
    areas_differ: segments whose listed area is not the PNG's pixel count: the listed one is used
    images: how many images have any of these; example: one of them in words, or None
    """

    ids_not_in_json: int = 0
    segments_not_in_png: int = 0
    areas_differ: int = 0
    images: int = 0
    example: str | None = None

    def __bool__(self) -> bool:
        return self.images > 0

    @property
    def notice(self) -> str | None:
        """A sentence or two on them for the user; None if there are none."""
        if not self:
            return None
        counts = (
            (self.ids_not_in_json, "ids that its JSON lacks"),
            (self.segments_not_in_png, "segments that its PNGs lack"),
            (self.areas_differ, "segments whose area in the JSON is not that of the PNG"),
        )
        found = ", ".join(f"{what} ({count})" for count, what in counts if count)
        return (
            f"The ground truth has {found}; images concerned: {self.images}. Scored as panopticapi scores them. "
            f"For example {self.example}. {MENDS_AREAS if self.areas_differ else ''}".rstrip()
        )

    def as_record(self) -> dict[str, Any]:
        """The entry `images.gt_faults` of run.json; `GroundTruthFaults(**record)` reads it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: GroundTruthFaults) -> GroundTruthFaults:
        """The faults of two sets of images that have none in common."""
        return GroundTruthFaults(
            self.ids_not_in_json + other.ids_not_in_json,
            self.segments_not_in_png + other.segments_not_in_png,
            self.areas_differ + other.areas_differ,
            self.images + other.images,
            self.example or other.example,
        )


@dataclass(frozen=True)
class OverlapTable:
    """Segments and overlaps of some images; `boundary` the overlaps of boundary pixels, if asked for.

    Every image has at least one row in `overlaps`: all its pixels are shared out among the pairs, void included.
    """

    segments: Segments
    overlaps: Pairs
    boundary: Pairs | None = None

    @staticmethod
    def empty() -> OverlapTable:
        return OverlapTable(Segments.empty(), Pairs.empty())

    @property
    def image_ids(self) -> Int64:
        """The ids of the images in the table, ascending, each once."""
        return np.unique(self.overlaps.image_id)

    def in_order_of_images(self) -> OverlapTable:
        """The same rows by ascending image id: sums come out the same, to the last bit, however a table was merged."""

        def ordered(columns: Columns) -> Columns:
            if (columns.image_id[1:] >= columns.image_id[:-1]).all():
                return columns
            return take(columns, np.argsort(columns.image_id, kind="stable"))

        boundary = None if self.boundary is None else ordered(self.boundary)
        return OverlapTable(ordered(self.segments), ordered(self.overlaps), boundary)

    def ground_truth_faults(self) -> GroundTruthFaults:
        """Counts where ground-truth PNGs and their JSON disagree."""
        is_gt, in_gt = self.segments.is_gt, self.overlaps.gt_id != VOID
        images, ids, area = self.segments.image_id[is_gt], self.segments.id[is_gt], self.segments.area[is_gt]
        pair_images, pair_ids = self.overlaps.image_id[in_gt], self.overlaps.gt_id[in_gt]
        row = find_rows(pair_images, pair_ids, images, ids)
        pixels = sums_by_row(row, self.overlaps.pixels[in_gt], len(ids))

        unlisted = distinct(pair_images[row < 0], pair_ids[row < 0])
        absent = pixels == 0
        differ = ~absent & (pixels != area)
        example = None
        if len(unlisted[0]):
            example = f"image {own_id(unlisted[0][0])}: id {unlisted[1][0]} is in the PNG but not in the JSON"
        elif absent.any():
            first = int(np.argmax(absent))
            example = f"image {own_id(images[first])}: segment {ids[first]} is in the JSON but not in the PNG"
        elif differ.any():
            first = int(np.argmax(differ))
            example = (
                f"image {own_id(images[first])}: segment {ids[first]} has {pixels[first]} pixels in the PNG "
                f"and area {area[first]} in the JSON"
            )
        return GroundTruthFaults(
            ids_not_in_json=len(unlisted[0]),
            segments_not_in_png=int(absent.sum()),
            areas_differ=int(differ.sum()),
            images=len(np.unique(np.concatenate([unlisted[0], images[absent | differ]]))),
            example=example,
        )

    def to_arrow(self) -> pa.Table:
        """The rows as one Arrow table of the schema in docs/run_folder.md: segments first, then pairs."""
        import pyarrow as pa

        parts = [self.overlaps] if self.boundary is None else [self.overlaps, self.boundary]
        segments = self.segments
        codes = np.concatenate(
            [np.where(segments.is_gt, 0, 1).astype(np.int8)]
            + [np.full(len(part), 2 + number, np.int8) for number, part in enumerate(parts)]
        )
        n_pairs = len(codes) - len(segments)
        zeros = np.zeros(n_pairs, np.int32)
        score = np.concatenate([segments.score, np.full(n_pairs, np.nan, np.float32)])
        columns = {
            "kind": pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(_KINDS)),
            "image_id": np.concatenate([segments.image_id, *(part.image_id for part in parts)]),
            "gt_id": np.concatenate([np.where(segments.is_gt, segments.id, 0), *(part.gt_id for part in parts)]),
            "pred_id": np.concatenate([np.where(segments.is_gt, 0, segments.id), *(part.pred_id for part in parts)]),
            "category_id": np.concatenate([segments.category_id, zeros]),
            "pixels": np.concatenate([segments.area, *(part.pixels for part in parts)]),
            "iscrowd": np.concatenate([segments.iscrowd, np.zeros(n_pairs, np.bool_)]),
            "score": pa.array(score, mask=np.isnan(score)),
        }
        return pa.table(columns, schema=arrow_schema())

    @staticmethod
    def from_arrow(table: pa.Table) -> OverlapTable:
        """The table that `to_arrow` wrote. Raises ValueError when columns are missing or have other types."""
        import pyarrow as pa

        schema = check_columns(table.schema)
        try:
            table = table.select(schema.names)
            table = table if table.schema.equals(schema) else table.cast(schema)
        except pa.ArrowInvalid as problem:
            raise ValueError(f"has columns of other types ({problem})") from None
        columns = {name: table.column(name).combine_chunks() for name in schema.names}
        kind = columns.pop("kind")
        meaning = dict(enumerate(kind.dictionary.to_pylist()))
        codes = kind.indices.to_numpy()
        values = {name: column.to_numpy(zero_copy_only=False) for name, column in columns.items()}

        def of_kind(*names: str) -> npt.NDArray[np.bool_] | slice:
            """The rows of some kinds; where they stand together, as `to_arrow` has them, a slice: nothing is copied."""
            known = np.zeros(max(meaning, default=0) + 1, np.bool_)
            known[[code for code, kind_name in meaning.items() if kind_name in names]] = True
            chosen = known[codes]
            first, count = int(np.argmax(chosen)) if len(chosen) else 0, int(np.count_nonzero(chosen))
            together = slice(first, first + count)
            return together if chosen[together].all() else chosen

        rows, boundary = of_kind(GT, PRED), of_kind(BOUNDARY)
        is_gt = np.isin(codes[rows], [code for code, kind_name in meaning.items() if kind_name == GT])
        segments = Segments(
            image_id=values["image_id"][rows],
            is_gt=is_gt,
            id=np.where(is_gt, values["gt_id"][rows], values["pred_id"][rows]),
            category_id=values["category_id"][rows],
            area=values["pixels"][rows],
            iscrowd=values["iscrowd"][rows].astype(np.bool_),
            score=values["score"][rows].astype(np.float32),
        )

        def pairs(rows: npt.NDArray[np.bool_] | slice) -> Pairs:
            return Pairs(*(values[name][rows] for name in ("image_id", "gt_id", "pred_id", "pixels")))

        near = pairs(boundary)
        return OverlapTable(segments, pairs(of_kind(OVERLAP)), near if len(near) else None)


def arrow_schema() -> pa.Schema:
    """The columns of a part of a run, as docs/run_folder.md lists them."""
    import pyarrow as pa

    return pa.schema(
        {
            "kind": pa.dictionary(pa.int8(), pa.string()),
            "image_id": pa.int64(),
            "gt_id": pa.int32(),
            "pred_id": pa.int32(),
            "category_id": pa.int32(),
            "pixels": pa.int64(),
            "iscrowd": pa.bool_(),
            "score": pa.float32(),
        }
    )


def check_columns(found: pa.Schema) -> pa.Schema:
    """`arrow_schema()`. Raises ValueError when columns of it are missing in `found`."""
    schema = arrow_schema()
    if missing := [name for name in schema.names if name not in found.names]:
        raise ValueError(f"lacks the columns {', '.join(missing)}")
    if repeated := [name for name in schema.names if found.names.count(name) > 1]:
        raise ValueError(f"has the columns {', '.join(repeated)} more than once")
    return schema


def count_pairs(gt_ids: npt.NDArray[np.int32], pred_ids: npt.NDArray[np.int32]) -> tuple[Int32, Int32, Int64]:
    """Counts the pixels that pairs of ids share: (gt_id, pred_id, pixels), ordered by gt_id, then pred_id.

    gt_ids, pred_ids: (H, W) int32 id maps of one image, non-negative. Raises ValueError when their shapes differ.
    Pixels are first joined to runs: some thousand instead of some hundred thousand.
    """
    return count_run_pairs(IdRuns.of_map(gt_ids), IdRuns.of_map(pred_ids))


def overlap_table(
    image_id: int,
    gt_ids: npt.NDArray[np.int32],
    gt_segments: Sequence[Segment],
    pred_ids: npt.NDArray[np.int32],
    pred_segments: Sequence[Segment],
) -> OverlapTable:
    """The overlap table of one image.

    gt_ids, pred_ids: (H, W) int32 id maps, 0 = void
    gt_segments: what the ground-truth JSON lists, areas included; pred_segments: areas are counted from `pred_ids`
    Raises PredictionMismatch when the maps differ in size, or when the ids of `pred_segments` and `pred_ids` are not
    the same set. Faults of the ground truth are kept as they are; `OverlapTable.ground_truth_faults` counts them.
    """
    if gt_ids.shape != pred_ids.shape:
        raise PredictionMismatch(
            f"Image {image_id}: the prediction is {_size(pred_ids)} but the ground truth is {_size(gt_ids)} "
            "(height × width). Give predictions at the image's original size."
        )
    gt_id, pred_id, pixels = count_pairs(gt_ids, pred_ids)
    table = tabulate(
        Pairs(np.full(len(gt_id), image_id, np.int64), gt_id, pred_id, pixels),
        segment_columns([(image_id, gt_segments)], is_gt=True),
        segment_columns([(image_id, pred_segments)], is_gt=False),
    )
    check_predictions(table)
    return table


def tabulate(overlaps: Pairs, gt: Segments, pred: Segments, boundary: Pairs | None = None) -> OverlapTable:
    """Joins counted pairs and listed segments into a table; areas of predictions are counted from the pairs."""
    in_pred = overlaps.pred_id != VOID
    row = find_rows(overlaps.image_id[in_pred], overlaps.pred_id[in_pred], pred.image_id, pred.id)
    area = sums_by_row(row, overlaps.pixels[in_pred], len(pred))
    return OverlapTable(_concat_columns(Segments, [gt, replace(pred, area=area)]), overlaps, boundary)


def segment_columns(segments: Iterable[tuple[int, Sequence[Segment]]], *, is_gt: bool) -> Segments:
    """The columns of the segments of some images, given as (image id, segments)."""
    rows = [(image_id, segment) for image_id, of_image in segments for segment in of_image]
    n = len(rows)
    return Segments(
        image_id=np.fromiter((image_id for image_id, _ in rows), np.int64, n),
        is_gt=np.full(n, is_gt),
        id=np.fromiter((segment.id for _, segment in rows), np.int32, n),
        category_id=np.fromiter((segment.category_id for _, segment in rows), np.int32, n),
        area=np.fromiter((segment.area for _, segment in rows), np.int64, n),
        iscrowd=np.fromiter((segment.iscrowd and is_gt for _, segment in rows), np.bool_, n),
        score=np.fromiter(
            (np.nan if segment.score is None or is_gt else segment.score for _, segment in rows), np.float32, n
        ),
    )


def check_predictions(table: OverlapTable) -> None:
    """Raises PredictionMismatch, naming each image and id, unless JSON and PNG of all predictions hold the same ids."""
    if faults := prediction_faults(table):
        raise PredictionMismatch("\n".join(faults))


@dataclass(frozen=True)
class Mismatches:
    """Ids that either a JSON of predictions or its PNGs lack: (image ids, segment ids) of each kind."""

    unlisted: tuple[Int64, Int32]
    absent: tuple[Int64, Int32]

    @staticmethod
    def of(table: OverlapTable) -> Mismatches:
        """Finds the faults of a table."""
        is_pred, in_pred = ~table.segments.is_gt, table.overlaps.pred_id != VOID
        images, ids = table.segments.image_id[is_pred], table.segments.id[is_pred]
        pair_images, pair_ids = table.overlaps.image_id[in_pred], table.overlaps.pred_id[in_pred]
        row = find_rows(pair_images, pair_ids, images, ids)
        absent = sums_by_row(row, table.overlaps.pixels[in_pred], len(ids)) == 0
        return Mismatches(distinct(pair_images[row < 0], pair_ids[row < 0]), (images[absent], ids[absent]))

    def __bool__(self) -> bool:
        return bool(len(self.unlisted[0]) or len(self.absent[0]))

    def __add__(self, other: Mismatches) -> Mismatches:
        unlisted, absent = (
            (np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]]))
            for left, right in ((self.unlisted, other.unlisted), (self.absent, other.absent))
        )
        return Mismatches(unlisted, absent)

    def sentences(self) -> list[str]:
        """One sentence per kind of fault, with its first images."""
        faults = []
        if len(self.unlisted[0]):
            unlisted = by_image(*self.unlisted)
            faults.append(f"Predicted PNGs have ids that their JSON lacks: {unlisted}. List each id of the PNG.")
        if len(self.absent[0]):
            missing = by_image(*self.absent)
            faults.append(f"Predicted segments of the JSON are not in their PNG: {missing}. Remove them from the JSON.")
        return faults


def prediction_faults(table: OverlapTable) -> list[str]:
    """A sentence for each way in which JSONs and PNGs of predictions do not hold the same ids."""
    return Mismatches.of(table).sentences()


def concat(tables: Iterable[OverlapTable]) -> OverlapTable:
    """One table of the images of all. Raises ValueError when only some of them have boundary pairs."""
    tables = list(tables)
    if not tables:
        return OverlapTable.empty()
    with_boundary = [table.boundary for table in tables if table.boundary is not None]
    if with_boundary and len(with_boundary) != len([table for table in tables if len(table.overlaps)]):
        raise ValueError("some tables have boundary pairs and some have none; score all images with boundary")
    return OverlapTable(
        _concat_columns(Segments, [table.segments for table in tables]),
        _concat_columns(Pairs, [table.overlaps for table in tables]),
        _concat_columns(Pairs, with_boundary) if with_boundary else None,
    )


def find_rows(image_id: Int64, segment_id: Int32, in_image_id: Int64, in_segment_id: Int32) -> Int64:
    """For each (image_id, segment_id), its row in the columns `in_…`, whose rows are distinct, or -1."""
    if not len(in_image_id):
        return np.full(len(image_id), -1, np.int64)
    # Two keys become one int64, which sorts and searches many times faster than pairs do: the image above, the
    # segment's id, which is below 2^31, below. With INTERIOR (-1) for an id all bits are set: the key is -1 and meets
    # no key of a segment. Images whose ids need more than 31 bits are counted off first.
    images = in_image_id, image_id
    if any(len(ids) and (ids.min() < 0 or ids.max() >= 1 << 31) for ids in images):
        known = np.unique(in_image_id)
        place = np.searchsorted(known, image_id)
        place[place == len(known)] = 0
        # Places from 1; an image that is not there gets 0, which none has.
        images = 1 + np.searchsorted(known, in_image_id), np.where(known[place] == image_id, 1 + place, 0)
    in_keys, keys = images[0] << 32 | in_segment_id, images[1] << 32 | segment_id
    if (in_keys[1:] > in_keys[:-1]).all():
        position = np.searchsorted(in_keys, keys)
        position[position == len(in_keys)] = 0
        return np.where(in_keys[position] == keys, position, -1)
    order = np.argsort(in_keys, kind="stable")
    in_keys = in_keys[order]
    position = np.searchsorted(in_keys, keys)
    position[position == len(in_keys)] = 0
    return np.where(in_keys[position] == keys, order[position], -1)


def sums_by_row(row: Int64, values: Int64, n: int) -> Int64:
    """The sum of the `values` of each of `n` rows; row -1 is dropped."""
    known = row >= 0
    # Sums of pixels stay far below 2^53, so the float64 of bincount is exact.
    return np.bincount(row[known], weights=values[known], minlength=n).astype(np.int64)


def take(columns: Columns, rows: npt.NDArray[Any]) -> Columns:
    """The chosen rows, by mask or by number, of all columns."""
    return replace(columns, **{field.name: getattr(columns, field.name)[rows] for field in fields(columns)})


def distinct(image_id: Int64, segment_id: Int32) -> tuple[Int64, Int32]:
    """The (image_id, segment_id) that occur, each once, in ascending order."""
    order = np.lexsort((segment_id, image_id))
    image_id, segment_id = image_id[order], segment_id[order]
    new = np.ones(len(image_id), np.bool_)
    new[1:] = (image_id[1:] != image_id[:-1]) | (segment_id[1:] != segment_id[:-1])
    return image_id[new], segment_id[new]


def _concat_columns(kind: type[Any], parts: Sequence[Any]) -> Any:
    return kind(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(kind)))


def by_image(images: Int64, values: npt.NDArray[Any], most: int = 10) -> str:
    """`image 5: 1, 2; image 7: 3; and 12 more images`: values, each once, for a sentence that stays readable."""
    images, values = distinct(images, values)
    found, starts = np.unique(images, return_index=True)
    groups = np.split(values, starts[1:])
    told = [
        f"image {own_id(image)}: {listed(group.tolist(), most)}"
        for image, group in zip(found[:most].tolist(), groups[:most], strict=True)
    ]
    rest = len(found) - len(told)
    return "; ".join([*told, *([f"and {rest:,} more {'image' if rest == 1 else 'images'}"] if rest else [])])


def _size(ids: npt.NDArray[np.int32]) -> str:
    return "×".join(str(length) for length in ids.shape)
