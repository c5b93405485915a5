"""Computes PQ in memory, image by image, for validation loops that have id maps in memory. Needs no torch.

It stores the overlap table of each image (some kilobytes), not its pixels; evaluators are merged by joining tables. So
the numbers equal panopticapi's to the last bit however images were distributed over processes.
"""

import hashlib
import math
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.base import provenance
from panbench.base.errors import BadArgument
from panbench.base.text import kind_of, listed, shape_in_words
from panbench.metrics.absent import AbsentAccumulator
from panbench.metrics.jackknife import intervals as score_intervals
from panbench.metrics.matched import Matched
from panbench.metrics.pq import pq_table, summarise
from panbench.metrics.slices import image_statistics
from panbench.panoptic.image_ids import TextId, image_id_of
from panbench.panoptic.overlap import (
    OverlapTable,
    Pairs,
    Segments,
    concat,
    count_pairs,
    segment_columns,
    tabulate,
    take,
)
from panbench.panoptic.types import GROUPS, MAX_ID, VOID, Category, IdMap, Segment
from panbench.runs import DatasetRecord, DeviceRecord, ImagesRecord, Run, RunInfo, RunWriter

# Tables of this many images are joined: the headers of small arrays take more memory than their rows.
_IMAGES_A_CHUNK = 512
# The area of a segment without `area`, until it is counted from the map.
_AREA_UNKNOWN = -1


class Evaluator:
    """PQ, SQ and RQ of images that are given one at a time; the same numbers as panopticapi, crowds and void included.

        evaluator = Evaluator(json.load(open("panoptic_val2017.json"))["categories"])
        for image_id, ... in loader:
            evaluator.update(pred_ids, pred_segments, gt_ids, gt_segments, image_id=image_id)
        evaluator.compute()["All"]["PQ"]

    `len(evaluator)` is the number of images. Argument errors are BadArgument and name the argument; an image that is
    refused leaves the evaluator as it was.
    """

    def __init__(self, categories: Iterable[Category | Mapping[str, Any]]) -> None:
        """categories: COCO's dicts (`id`, `name`, `isthing`), as a panoptic JSON lists them, or `Category`."""
        self.categories = _parse_categories(categories)
        self._known = {category.id for category in self.categories}
        # In the tables, image_id is the image's index in `_image_ids`. Complete chunks, then one table per image.
        self._chunks: list[OverlapTable] = []
        self._tables: list[OverlapTable] = []
        self._image_ids: list[int | None] = []
        self._index_of_id: dict[int, int] = {}
        # For each image the number of segments without `area`.
        self._counted: list[int] = []

    def __len__(self) -> int:
        """Returns the number of images given so far."""
        return len(self._image_ids)

    def __repr__(self) -> str:
        return f"Evaluator({len(self.categories)} categories, {len(self)} images)"

    def update(
        self,
        pred_ids: Any,
        pred_segments: Iterable[Mapping[str, Any] | Segment],
        gt_ids: Any,
        gt_segments: Iterable[Mapping[str, Any] | Segment],
        image_id: int | str | None = None,
    ) -> None:
        """Adds one image: its predicted and its true id map, each with its segments.

        pred_ids, gt_ids: (H, W) maps of segment ids, 0 = void: NumPy arrays of any integer type, or tensors of any
            device, which are copied to the host
        pred_segments: COCO's `segments_info` of the prediction: `id` and `category_id` of each id of the map; areas are
            counted from the map
        gt_segments: COCO's `segments_info` of the ground truth; `area` is used as given, as panopticapi does, and
            counted from the map where it is absent (`notices` counts such segments); `iscrowd` is 0 where it is
            absent. Ids of the map that it lacks are neither void nor a segment.
        image_id: given for all images or for none. With it sums run by ascending id whatever the order of the images,
            and an image that two processes saw counts once in `merge`
        """
        where = "" if image_id is None else f"image {image_id}: "
        if image_id is not None:
            image_id = self._checked_image_id(image_id)
        if self._image_ids and (self._image_ids[0] is None) != (image_id is None):
            raise BadArgument("image_id must be given for all images or for none.")
        pred_map, gt_map = _checked_id_map(pred_ids, f"{where}pred_ids"), _checked_id_map(gt_ids, f"{where}gt_ids")
        if pred_map.shape != gt_map.shape:
            raise BadArgument(
                f"{where}pred_ids is {shape_in_words(pred_map.shape)} but gt_ids is {shape_in_words(gt_map.shape)} "
                "(height × width). Give both at the image's original size."
            )
        pred = self._parse_segments(pred_segments, f"{where}pred_segments", is_gt=False)
        gt = self._parse_segments(gt_segments, f"{where}gt_segments", is_gt=True)

        index = len(self._image_ids)
        gt_id, pred_id, pixels = count_pairs(gt_map, pred_map)
        without_area = [segment.id for segment in gt if segment.area == _AREA_UNKNOWN]
        if without_area:
            gt = [
                replace(segment, area=int(pixels[gt_id == segment.id].sum()))
                if segment.area == _AREA_UNKNOWN
                else segment
                for segment in gt
            ]
        _check_predicted_ids(where, pred_id, [segment.id for segment in pred])
        table = tabulate(
            Pairs(np.full(len(gt_id), index, np.int64), gt_id, pred_id, pixels),
            segment_columns([(index, gt)], is_gt=True),
            segment_columns([(index, pred)], is_gt=False),
        )
        self._append_images([table], [image_id], [len(without_area)])

    @property
    def notices(self) -> tuple[str, ...]:
        """Messages on what may mislead in the scores: counted areas, categories never predicted, much void."""
        segments, images = sum(self._counted), sum(1 for count in self._counted if count)
        counted = (
            f"The areas of {segments:,} ground-truth segments in {images:,} images were counted from their maps, as "
            "their `area` was absent.",
        )
        absent = Matched.of(self._overlap_table()).accumulate(AbsentAccumulator(self.categories))
        notes = tuple(f"{message[0].upper()}{message[1:]}." for message in absent.messages())
        return (*(counted if segments else ()), *notes)

    def compute(self) -> dict[str, Any]:
        """Returns PQ, SQ and RQ (fractions, 0–1) of the images so far.

        `{"All": {"PQ", "SQ", "RQ", "n"}, "Things": …, "Stuff": …, "per_category": {id: {"name", "isthing", "PQ", "SQ",
        "RQ", "TP", "FP", "FN"}}}`, what `panbench score --json` prints. n counts the categories that have a TP, FP or
        FN; a group without any has None. May be called at any time, and again after further images.
        Raises BadDataset when the ground truth lists an area so small that a union would not be positive.
        """
        pq = pq_table(Matched.of(self._overlap_table()), self.categories)
        return {**summarise(pq), "per_category": pq_by_category(pq)}

    def intervals(self, level: float = 0.95) -> dict[str, dict[str, tuple[float, float] | None]]:
        """Returns the confidence intervals of PQ, SQ and RQ for all, thing and stuff categories.

        `{"All": {"PQ": (low, high), …}, "Things": …, "Stuff": …}`

        For the score on all images of this kind, of which those seen are a sample (docs/uncertainty.md). None where
        there are too few images. They cost much more than `compute`: ask for them once, at the end.
        """
        table = score_intervals(image_statistics(Matched.of(self._overlap_table()), self.categories), level=level)
        found: dict[str, dict[str, tuple[float, float] | None]] = {group: {} for group in GROUPS}
        for row in table[table["group"].notna()].itertuples():
            found[row.group][row.metric] = None if math.isnan(row.low) else (float(row.low), float(row.high))
        return found

    def save(
        self, out: str | os.PathLike[str], *, name: str | None = None, dataset: str = "images", overwrite: bool = False
    ) -> Run:
        """Writes the images so far as a run, for `panbench compare`, `metrics`, `errors` and `gate`; returns the run.

        name: the run's name, by default the folder's; dataset: what tables call the data
        Evaluators whose ground truth is the same, image ids included, make runs that can be compared with each other.
        Images without `image_id` are numbered from 1. Raises BadRun where the folder is taken, BadArgument without
        images.
        """
        if not len(self):
            raise BadArgument("There is no image yet. Call update() before save().")
        table = self._overlap_table()
        if not self._index_of_id:
            table = _with_image_ids(table, np.arange(1, len(self) + 1))
        info = RunInfo(
            kind="score",
            name=name or Path(out).absolute().name,
            dataset=DatasetRecord(
                name=dataset, fingerprint=_ground_truth_hash(table, self.categories), n_images=len(self)
            ),
            categories=self.categories,
            arguments={"evaluator": True, "counted_areas": sum(self._counted)},
            versions=provenance.versions(),
            git_commit=provenance.git_commit(),
            device=DeviceRecord(**provenance.describe_device("cpu", None)),
            images=ImagesRecord(expected=len(self)),
        )
        writer = RunWriter.create(out, info, overwrite)
        try:
            writer.write_part(table)
            return writer.finish("done", images=ImagesRecord(expected=len(self), scored=len(self)))
        except BaseException as problem:
            writer.finish("failed", error=str(problem) or type(problem).__name__)
            raise

    def merge(self, other: "Evaluator") -> None:
        """Adds the images of another evaluator, such as that of another process; the other is not changed.

        An image (by `image_id`) that both have counts once: samplers of distributed loops repeat images to fill up the
        last batch. Raises BadArgument when the two have other categories, or other segments for the same image.
        """
        if not isinstance(other, Evaluator):
            raise BadArgument(f"other must be an Evaluator, not {type(other).__name__}.")
        if [(c.id, c.isthing) for c in self.categories] != [(c.id, c.isthing) for c in other.categories]:
            raise BadArgument("other has other categories. Make both evaluators with the same ones.")
        rows = np.concatenate([self.to_rows(), other.to_rows()])
        self.__dict__.update(vars(Evaluator.from_rows(self.categories, rows)))

    def to_rows(self) -> npt.NDArray[np.int64]:
        """Converts all images to one (N, 6) int64 array, to send between processes; `from_rows` converts it back.

        Arrays of several evaluators may be joined by np.concatenate, in any order. Each image has a row (0, 1 if it has
        an image_id, image_id, segments whose area was counted, 0, 0), then a row per segment (1 ground truth or 2
        prediction, id, 0, category_id, area, iscrowd) and a row per pair (3, gt_id, pred_id, 0, pixels, 0). Scores are
        left out, as PQ does not use them.
        """
        table = concat([*self._chunks, *self._tables])
        segments, overlaps = table.segments, table.overlaps
        n = len(self)
        given = np.array([image_id is not None for image_id in self._image_ids], np.int64)
        heads = _evaluator_rows(n, 0, given, [image_id or 0 for image_id in self._image_ids], self._counted)
        kinds = np.where(segments.is_gt, 1, 2)
        of_segments = _evaluator_rows(
            len(segments), kinds, segments.id, 0, segments.category_id, segments.area, segments.iscrowd
        )
        of_pairs = _evaluator_rows(len(overlaps), 3, overlaps.gt_id, overlaps.pred_id, 0, overlaps.pixels)
        rows = np.concatenate([heads, of_segments, of_pairs])
        images = np.concatenate([np.arange(n), segments.image_id, overlaps.image_id])
        return rows[np.lexsort((rows[:, 0], images))]

    @classmethod
    def from_rows(cls, categories: Iterable[Category | Mapping[str, Any]], rows: Any) -> "Evaluator":
        """Builds an evaluator from the array of `to_rows`, or from several concatenated; repeated images count once.

        rows: (N, 6) integers, an array or a tensor. Raises BadArgument as `merge` does.
        """
        rows = _as_array(rows).astype(np.int64, copy=False).reshape(-1, 6)
        is_head, index = rows[:, 0] == 0, np.cumsum(rows[:, 0] == 0) - 1
        image_ids = [int(head[2]) if head[1] else None for head in rows[is_head]]
        if len({image_id is None for image_id in image_ids}) > 1:
            raise BadArgument("rows has image ids for some images and none for others. Give them for all or for none.")
        first_of: dict[int | None, int] = {}
        repeated = [
            here
            for here, image_id in enumerate(image_ids)
            if image_id is not None and first_of.setdefault(image_id, here) != here
        ]
        for here in repeated:
            own, other = (rows[(index == image) & ~is_head] for image in (here, first_of[image_ids[here]]))
            if not np.array_equal(own, other):
                raise BadArgument(
                    f"Image {image_ids[here]} was given twice, with other segments. Merge evaluators of one model and "
                    "one pass; call reset() before a new pass over the images."
                )
        kind, first, second, category_id, pixels, iscrowd = rows[~np.isin(index, repeated)].T
        index = np.cumsum(kind == 0) - 1
        is_segment, is_pair = (kind == 1) | (kind == 2), kind == 3
        table = OverlapTable(
            Segments(
                index[is_segment],
                kind[is_segment] == 1,
                first[is_segment].astype(np.int32),
                category_id[is_segment].astype(np.int32),
                pixels[is_segment],
                iscrowd[is_segment].astype(np.bool_),
                np.full(int(is_segment.sum()), np.nan, np.float32),
            ),
            Pairs(index[is_pair], first[is_pair].astype(np.int32), second[is_pair].astype(np.int32), pixels[is_pair]),
        )
        left_out = set(repeated)
        fresh = [image_id for here, image_id in enumerate(image_ids) if here not in left_out]
        evaluator = cls(categories)
        evaluator._append_images([table.in_order_of_images()], fresh, category_id[kind == 0].tolist())
        return evaluator

    def reset(self) -> None:
        """Removes all images; the categories remain."""
        self._chunks, self._tables, self._image_ids, self._index_of_id, self._counted = [], [], [], {}, []

    def _append_images(self, tables: list[OverlapTable], image_ids: list[int | None], counted: list[int]) -> None:
        """Adds the overlap tables of new images, and joins many small tables to one to save memory."""
        self._counted.extend(counted)
        for image_id in image_ids:
            if image_id is not None:
                self._index_of_id[image_id] = len(self._image_ids)
            self._image_ids.append(image_id)
        self._tables.extend(tables)
        if len(self._tables) >= _IMAGES_A_CHUNK:
            self._chunks.append(concat(self._tables))
            self._tables = []

    def _overlap_table(self) -> OverlapTable:
        """Returns the overlap table of all images, by image id if they have ids, else in the order of `update`."""
        table = concat([*self._chunks, *self._tables])
        if self._index_of_id:
            # The order of panopticapi's loop over a JSON by ascending ids, and the same on every process.
            table = _with_image_ids(table, np.array(self._image_ids, np.int64))
        return table

    def _checked_image_id(self, image_id: Any) -> int:
        """Returns an image's id as a number. Raises BadArgument for an id that is invalid or was given before."""
        if isinstance(image_id, str):
            image_id = image_id_of(image_id)
        number = image_id if isinstance(image_id, TextId) else _checked_integer(image_id, "image_id", -(2**62), 2**62)
        if number in self._index_of_id:
            raise BadArgument(f"image_id {number} was given before. Call reset() before a new pass over the images.")
        return number

    def _parse_segments(self, segments: Iterable[Any], name: str, is_gt: bool) -> list[Segment]:
        """Converts `segments_info` to segments. Raises BadArgument for an invalid one, with its index."""
        if isinstance(segments, (str, bytes, Mapping)) or not isinstance(segments, Iterable):
            raise BadArgument(
                f"{name} must be a list of segments (COCO's `segments_info`), not {_type_in_words(segments)}."
            )
        found: dict[int, Segment] = {}
        for number, record in enumerate(segments):
            where = f"{name}[{number}]"
            segment = record if isinstance(record, Segment) else _parse_segment(record, where, is_gt)
            if segment.id in found:
                raise BadArgument(f"{where} repeats the id {segment.id}.")
            if segment.category_id not in self._known:
                raise BadArgument(
                    f"{where} has category_id {segment.category_id}, which is not among the categories of this "
                    "evaluator. Give the dataset's own category ids."
                )
            found[segment.id] = segment
        return list(found.values())


def pq_by_category(table: Any) -> dict[int, dict[str, Any]]:
    """Converts a `pq_table` to `{category id: {"name", "isthing", "PQ", "SQ", "RQ", "TP", "FP", "FN"}}`."""
    columns = ("name", "isthing", "PQ", "SQ", "RQ", "TP", "FP", "FN")
    rows = zip(*(table[name].tolist() for name in columns), strict=True)
    return {
        category_id: dict(zip(columns, row, strict=True))
        for category_id, row in zip(table["category_id"].tolist(), rows, strict=True)
    }


def _parse_categories(categories: Any) -> tuple[Category, ...]:
    """Converts COCO's category dicts to categories. Raises BadArgument for an invalid one, with its index."""
    if isinstance(categories, (str, bytes, Mapping)) or not isinstance(categories, Iterable):
        raise BadArgument(
            "categories must be a list of COCO's categories (dicts with `id`, `name` and `isthing`) or of Category, "
            f"not {_type_in_words(categories)}."
        )
    found: dict[int, Category] = {}
    for number, record in enumerate(categories):
        where = f"categories[{number}]"
        category = record if isinstance(record, Category) else _parse_category(record, where)
        if category.id in found:
            raise BadArgument(f"{where} repeats the id {category.id}.")
        found[category.id] = category
    if not found:
        raise BadArgument("categories is empty.")
    return tuple(found.values())


def _parse_category(record: Any, where: str) -> Category:
    """Converts a category dict of COCO to a Category. Raises BadArgument for missing or wrong fields."""
    isthing = _required_field(record, "isthing", where)
    if isthing not in (0, 1):
        raise BadArgument(f"{where}: isthing must be 0 or 1, not {isthing!r}.")
    return Category(
        id=_checked_integer(_required_field(record, "id", where), f"{where}: id", -(2**31), 2**31 - 1),
        name=str(_required_field(record, "name", where)),
        isthing=bool(isthing),
        supercategory=str(record.get("supercategory") or ""),
    )


def _parse_segment(record: Any, where: str, is_gt: bool) -> Segment:
    """Converts a dict of `segments_info` to a Segment. Raises BadArgument for missing or wrong fields."""
    if isinstance(record, Mapping) and "category_id" not in record and "label_id" in record:
        raise BadArgument(
            f"{where} has `label_id` but no `category_id`. Translate the model's labels to the dataset's category ids."
        )
    score, given = (record.get(key) if isinstance(record, Mapping) else None for key in ("score", "area"))
    area = 0
    if is_gt:
        area = _AREA_UNKNOWN if given is None else _checked_integer(given, f"{where}: area", 0, 2**62)
    return Segment(
        id=_checked_integer(_required_field(record, "id", where), f"{where}: id", 1, MAX_ID),
        category_id=_checked_integer(
            _required_field(record, "category_id", where), f"{where}: category_id", -(2**31), 2**31 - 1
        ),
        area=area,
        iscrowd=is_gt and record.get("iscrowd", 0) == 1,
        score=None if score is None or not math.isfinite(float(score)) else float(score),
    )


def _ground_truth_hash(table: OverlapTable, categories: Sequence[Category]) -> str:
    """Hashes the ground truth in a table: SHA-256 of image ids, segments and categories."""
    truth = take(table.segments, table.segments.is_gt)
    order = np.lexsort((truth.id, truth.image_id))
    columns = (truth.image_id, truth.id, truth.category_id, truth.area, truth.iscrowd)
    digest = hashlib.sha256(repr([(c.id, c.name, c.isthing) for c in categories]).encode())
    digest.update(np.unique(table.overlaps.image_id).astype("<i8").tobytes())
    for column in columns:
        digest.update(column[order].astype("<i8").tobytes())
    return digest.hexdigest()


def _required_field(record: Any, key: str, where: str) -> Any:
    """Returns a field of a category's or segment's dict. Raises BadArgument if it is missing."""
    if not isinstance(record, Mapping):
        raise BadArgument(f"{where} must be a dict, not {_type_in_words(record)}.")
    if key not in record:
        raise BadArgument(f"{where} lacks `{key}`.")
    return record[key]


def _checked_integer(value: Any, name: str, low: int, high: int) -> int:
    """Converts an id or area to int. Raises BadArgument unless it is an integer within low…high."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(int(value) if isinstance(value, float) and value.is_integer() else value)
    except (TypeError, ValueError):
        raise BadArgument(f"{name} must be an integer, not {value!r}.") from None
    if not low <= number <= high:
        raise BadArgument(f"{name} is {number}, outside {low}…{high}.")
    return number


def _checked_id_map(ids: Any, name: str) -> IdMap:
    """Converts segment ids, an array or a tensor on any device, to a contiguous (H, W) int32 map."""
    ids = _as_array(ids)
    if ids.dtype.kind not in "iu":
        raise BadArgument(f"{name} must hold integers (segment ids), not {ids.dtype}.")
    if ids.ndim != 2 or not ids.size:
        raise BadArgument(f"{name} must be (H, W), not {ids.shape}. Give one image at a time.")
    low, high = int(ids.min()), int(ids.max())
    if low < VOID or high > MAX_ID:
        raise BadArgument(f"{name} has ids of {low}…{high}; ids must lie in 0…{MAX_ID}, and 0 is void.")
    return np.ascontiguousarray(ids, np.int32)


def _as_array(values: Any) -> npt.NDArray[Any]:
    """Converts an array or a tensor on any device to a NumPy array."""
    if hasattr(values, "detach"):  # a tensor, without importing torch to ask
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _check_predicted_ids(where: str, in_map: npt.NDArray[np.int32], in_list: list[int]) -> None:
    """Raises BadArgument unless a predicted map has exactly the ids that its segments list."""
    present = set(in_map.tolist()) - {VOID}
    unlisted, absent = sorted(present - set(in_list)), sorted(set(in_list) - present)
    if unlisted:
        raise BadArgument(f"{where}pred_ids has ids that pred_segments lacks: {listed(unlisted)}. List each id.")
    if absent:
        raise BadArgument(f"{where}pred_segments lists ids that pred_ids lacks: {listed(absent)}. Leave them out.")


def _with_image_ids(table: OverlapTable, image_ids: npt.NDArray[np.int64]) -> OverlapTable:
    """Gives image i the id `image_ids[i]`, and sorts the rows by their new ids."""
    segments = replace(table.segments, image_id=image_ids[table.segments.image_id])
    overlaps = replace(table.overlaps, image_id=image_ids[table.overlaps.image_id])
    return OverlapTable(segments, overlaps).in_order_of_images()


def _evaluator_rows(n: int, *columns: Any) -> npt.NDArray[np.int64]:
    """Builds an array of n rows and six columns from arrays or numbers, one per column; columns not given are 0."""
    rows = np.zeros((n, 6), np.int64)
    for number, column in enumerate(columns):
        rows[:, number] = column
    return rows


def _type_in_words(value: Any) -> str:
    """Names the type of a wrong argument for an error message."""
    return "None" if value is None else kind_of(value)
