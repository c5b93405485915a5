"""Makes overlap tables from id maps; this is the last step that touches pixels.

Two id maps of an image give one row per pair of segments that share pixels, and one row per segment. PQ and everything
else is a query on these rows; tables of other images, chunks or machines are merged by `concat`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from panbench.base.errors import PredictionMismatch
from panbench.base.text import listed, shape_in_words
from panbench.panoptic.idmap import IdRuns, count_run_pairs
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.types import VOID, Segment

if TYPE_CHECKING:
    import pyarrow as pa

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
        """Returns the number of rows: the pairs of segments that share pixels."""
        return len(self.image_id)

    @staticmethod
    def empty() -> Pairs:
        """Makes a table of segment pairs without rows."""
        return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Segments:
    """One row per segment: columns of equal length.

    is_gt: True for ground truth, False for predictions
    area: the JSON's for ground truth, counted for predictions
    score: NaN if unknown
    The ground truth of an image keeps the order of its JSON.
    """

    image_id: Int64
    is_gt: npt.NDArray[np.bool_]
    id: Int32
    category_id: Int32
    area: Int64
    iscrowd: npt.NDArray[np.bool_]
    score: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Returns the number of segments."""
        return len(self.image_id)

    @staticmethod
    def empty() -> Segments:
        """Makes a table of segments without rows."""
        types: tuple[Any, ...] = (np.int64, np.bool_, np.int32, np.int32, np.int64, np.bool_, np.float32)
        return Segments(*(np.zeros(0, kind) for kind in types))


Columns = TypeVar("Columns", Pairs, Segments)


MENDS_AREAS = "`panbench data convert panoptic GT.json --out DIR` makes a set with the areas of the PNGs."


@dataclass(frozen=True)
class GroundTruthFaults:
    """Counts of disagreements between ground-truth PNGs and their JSON; such images are scored as by panopticapi.

    ids_not_in_json: ids in a PNG that its JSON does not list; they count as neither void nor a segment
    segments_not_in_png: listed segments without a pixel; each is a false negative
    areas_differ: segments whose listed area differs from the PNG's pixel count; the listed area is used
    images: the number of images with any of these; example: one of them in words, or None
    """

    ids_not_in_json: int = 0
    segments_not_in_png: int = 0
    areas_differ: int = 0
    images: int = 0
    example: str | None = None

    def __bool__(self) -> bool:
        """True if the ground-truth PNGs and JSON of any image disagree."""
        return self.images > 0

    @property
    def notice(self) -> str | None:
        """Tells the user in a sentence or two where ground-truth PNGs and JSON disagree; None if they agree."""
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
        """Returns the entry `images.gt_faults` of run.json; `GroundTruthFaults(**record)` reads it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __add__(self, other: GroundTruthFaults) -> GroundTruthFaults:
        """Adds the counts of ground-truth faults in two disjoint sets of images."""
        return GroundTruthFaults(
            self.ids_not_in_json + other.ids_not_in_json,
            self.segments_not_in_png + other.segments_not_in_png,
            self.areas_differ + other.areas_differ,
            self.images + other.images,
            self.example or other.example,
        )


@dataclass(frozen=True)
class OverlapTable:
    """The segments and overlaps of some images.

    boundary: the overlaps of boundary pixels, if they were requested

    Each pixel of an image is counted in exactly one pair, void included, so every image has a row in `overlaps`.
    """

    segments: Segments
    overlaps: Pairs
    boundary: Pairs | None = None

    @staticmethod
    def empty() -> OverlapTable:
        """Makes an overlap table of no images."""
        return OverlapTable(Segments.empty(), Pairs.empty())

    @property
    def image_ids(self) -> Int64:
        """The distinct image ids, ascending."""
        return np.unique(self.overlaps.image_id)

    def in_order_of_images(self) -> OverlapTable:
        """Sorts the rows by image id, so that later sums are equal to the last bit however tables were merged."""

        def sorted_by_image(columns: Columns) -> Columns:
            """Sorts the rows of a table by image id, unless they are sorted."""
            if (columns.image_id[1:] >= columns.image_id[:-1]).all():
                return columns
            return take(columns, np.argsort(columns.image_id, kind="stable"))

        boundary = None if self.boundary is None else sorted_by_image(self.boundary)
        return OverlapTable(sorted_by_image(self.segments), sorted_by_image(self.overlaps), boundary)

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
        """Converts to one Arrow table with the schema in docs/run_folder.md: segments first, then pairs."""
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
        """Converts an Arrow table of `to_arrow` back. Raises ValueError if columns are missing or have other types."""
        import pyarrow as pa

        schema = check_arrow_columns(table.schema)
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

        def rows_of_kinds(*names: str) -> npt.NDArray[np.bool_] | slice:
            """Selects the rows of the Arrow table whose `kind` is among `names`, such as "gt" and "pred".

            Returns a slice if they are consecutive, as from `to_arrow`, to avoid a copy; else a mask.
            """
            known = np.zeros(max(meaning, default=0) + 1, np.bool_)
            known[[code for code, kind_name in meaning.items() if kind_name in names]] = True
            chosen = known[codes]
            first, count = int(np.argmax(chosen)) if len(chosen) else 0, int(np.count_nonzero(chosen))
            together = slice(first, first + count)
            return together if chosen[together].all() else chosen

        rows, boundary = rows_of_kinds(GT, PRED), rows_of_kinds(BOUNDARY)
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

        def pairs_in_rows(rows: npt.NDArray[np.bool_] | slice) -> Pairs:
            """Returns pairs of true and predicted segments, with the pixels they share, from some rows of the table."""
            return Pairs(*(values[name][rows] for name in ("image_id", "gt_id", "pred_id", "pixels")))

        near = pairs_in_rows(boundary)
        return OverlapTable(segments, pairs_in_rows(rows_of_kinds(OVERLAP)), near if len(near) else None)


def arrow_schema() -> pa.Schema:
    """Returns the Arrow schema of a run's part files (overlap tables), as in docs/run_folder.md."""
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


def check_arrow_columns(found: pa.Schema) -> pa.Schema:
    """Raises ValueError if an Arrow schema lacks or repeats a column of overlap tables; returns `arrow_schema()`."""
    schema = arrow_schema()
    if missing := [name for name in schema.names if name not in found.names]:
        raise ValueError(f"lacks the columns {', '.join(missing)}")
    if repeated := [name for name in schema.names if found.names.count(name) > 1]:
        raise ValueError(f"has the columns {', '.join(repeated)} more than once")
    return schema


def count_pairs(gt_ids: npt.NDArray[np.int32], pred_ids: npt.NDArray[np.int32]) -> tuple[Int32, Int32, Int64]:
    """Counts the pixels that pairs of ids share: (gt_id, pred_id, pixels), ordered by gt_id, then pred_id.

    gt_ids, pred_ids: (H, W) int32 id maps of one image, non-negative. Raises ValueError if their shapes differ.
    """
    return count_run_pairs(IdRuns.of_map(gt_ids), IdRuns.of_map(pred_ids))


def overlap_table(
    image_id: int,
    gt_ids: npt.NDArray[np.int32],
    gt_segments: Sequence[Segment],
    pred_ids: npt.NDArray[np.int32],
    pred_segments: Sequence[Segment],
) -> OverlapTable:
    """Makes the overlap table of one image.

    gt_ids, pred_ids: (H, W) int32 id maps, 0 = void
    gt_segments: as in the ground-truth JSON, with areas; pred_segments: areas are counted from `pred_ids`
    Raises PredictionMismatch if the maps differ in size, or `pred_segments` and `pred_ids` have different ids. Faults
    of the ground truth are not an error; `OverlapTable.ground_truth_faults` counts them.
    """
    if gt_ids.shape != pred_ids.shape:
        raise PredictionMismatch(
            f"Image {image_id}: the prediction is {shape_in_words(pred_ids.shape)} but the ground truth is "
            f"{shape_in_words(gt_ids.shape)} (height × width). Give predictions at the image's original size."
        )
    gt_id, pred_id, pixels = count_pairs(gt_ids, pred_ids)
    table = tabulate(
        Pairs(np.full(len(gt_id), image_id, np.int64), gt_id, pred_id, pixels),
        segment_columns([(image_id, gt_segments)], is_gt=True),
        segment_columns([(image_id, pred_segments)], is_gt=False),
    )
    if faults := prediction_faults(table):
        raise PredictionMismatch("\n".join(faults))
    return table


def tabulate(overlaps: Pairs, gt: Segments, pred: Segments, boundary: Pairs | None = None) -> OverlapTable:
    """Makes a table of counted pairs and listed segments; areas of predictions are summed from the pairs."""
    in_pred = overlaps.pred_id != VOID
    row = find_rows(overlaps.image_id[in_pred], overlaps.pred_id[in_pred], pred.image_id, pred.id)
    area = sums_by_row(row, overlaps.pixels[in_pred], len(pred))
    return OverlapTable(_concat_columns(Segments, [gt, replace(pred, area=area)]), overlaps, boundary)


def segment_columns(segments: Iterable[tuple[int, Sequence[Segment]]], *, is_gt: bool) -> Segments:
    """Converts the segments of some images, given as (image id, segments), to columns."""
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


@dataclass(frozen=True)
class Mismatches:
    """The ids that only the JSON or only the PNG of a prediction has, as (image ids, segment ids).

    unlisted: ids in a PNG but not in the JSON; absent: ids in the JSON but not in the PNG
    """

    unlisted: tuple[Int64, Int32]
    absent: tuple[Int64, Int32]

    @staticmethod
    def of(table: OverlapTable) -> Mismatches:
        """Finds the mismatches of the predictions in a table."""
        is_pred, in_pred = ~table.segments.is_gt, table.overlaps.pred_id != VOID
        images, ids = table.segments.image_id[is_pred], table.segments.id[is_pred]
        pair_images, pair_ids = table.overlaps.image_id[in_pred], table.overlaps.pred_id[in_pred]
        row = find_rows(pair_images, pair_ids, images, ids)
        absent = sums_by_row(row, table.overlaps.pixels[in_pred], len(ids)) == 0
        return Mismatches(distinct(pair_images[row < 0], pair_ids[row < 0]), (images[absent], ids[absent]))

    def __bool__(self) -> bool:
        """True if the JSON and the PNG of any prediction have different segment ids."""
        return bool(len(self.unlisted[0]) or len(self.absent[0]))

    def __add__(self, other: Mismatches) -> Mismatches:
        """Joins the ids that only the JSON or only the PNGs have, of two sets of different images."""
        unlisted, absent = (
            (np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]]))
            for left, right in ((self.unlisted, other.unlisted), (self.absent, other.absent))
        )
        return Mismatches(unlisted, absent)

    def messages(self) -> list[str]:
        """Returns a message for each kind of mismatch, with the first images."""
        faults = []
        if len(self.unlisted[0]):
            unlisted = listed_by_image(*self.unlisted)
            faults.append(f"Predicted PNGs have ids that their JSON lacks: {unlisted}. List each id of the PNG.")
        if len(self.absent[0]):
            missing = listed_by_image(*self.absent)
            faults.append(f"Predicted segments of the JSON are not in their PNG: {missing}. Remove them from the JSON.")
        return faults


def prediction_faults(table: OverlapTable) -> list[str]:
    """Returns a message for each way in which JSON and PNGs of predictions differ."""
    return Mismatches.of(table).messages()


def concat(tables: Iterable[OverlapTable]) -> OverlapTable:
    """Concatenates tables of disjoint images. Raises ValueError if only some of them have boundary pairs."""
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
    """Returns for each (image_id, segment_id) its row in the columns in_image_id and in_segment_id; -1 if absent."""
    if not len(in_image_id):
        return np.full(len(image_id), -1, np.int64)
    # Both keys are packed into one int64, which sorts and searches many times faster than pairs: the image in the upper
    # bits, the segment's id (below 2^31) in the lower. With the id INTERIOR (-1) all bits are set, so the key is -1 and
    # equals no segment's key. Image ids of more than 31 bits are replaced by their index first.
    images = in_image_id, image_id
    if any(len(ids) and (ids.min() < 0 or ids.max() >= 1 << 31) for ids in images):
        known = np.unique(in_image_id)
        index = np.searchsorted(known, image_id)
        index[index == len(known)] = 0
        # Indices from 1; 0 stands for an image that is not there.
        images = 1 + np.searchsorted(known, in_image_id), np.where(known[index] == image_id, 1 + index, 0)
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
    """Sums `values` by the row number of each, for n rows; values with row -1 are dropped."""
    known = row >= 0
    # Sums of pixels stay far below 2^53, so the float64 of bincount is exact.
    return np.bincount(row[known], weights=values[known], minlength=n).astype(np.int64)


def take(columns: Columns, rows: npt.NDArray[Any]) -> Columns:
    """Selects rows of a table of segments or pairs, by mask or by row number, in all columns."""
    return replace(columns, **{field.name: getattr(columns, field.name)[rows] for field in fields(columns)})


def distinct(image_id: Int64, segment_id: Int32) -> tuple[Int64, Int32]:
    """Returns the distinct (image_id, segment_id) in ascending order."""
    order = np.lexsort((segment_id, image_id))
    image_id, segment_id = image_id[order], segment_id[order]
    new = np.ones(len(image_id), np.bool_)
    new[1:] = (image_id[1:] != image_id[:-1]) | (segment_id[1:] != segment_id[:-1])
    return image_id[new], segment_id[new]


def _concat_columns(kind: type[Any], parts: Sequence[Any]) -> Any:
    """Concatenates tables of one type (`kind`), column by column."""
    return kind(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(kind)))


def listed_by_image(images: Int64, values: npt.NDArray[Any], most: int = 10) -> str:
    """Formats distinct values by image for a message: `image 5: 1, 2; image 7: 3; and 12 more images`."""
    images, values = distinct(images, values)
    found, starts = np.unique(images, return_index=True)
    groups = np.split(values, starts[1:])
    lines = [
        f"image {own_id(image)}: {listed(group.tolist(), most)}"
        for image, group in zip(found[:most].tolist(), groups[:most], strict=True)
    ]
    rest = len(found) - len(lines)
    return "; ".join([*lines, *([f"and {rest:,} more {'image' if rest == 1 else 'images'}"] if rest else [])])
