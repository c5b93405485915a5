"""PQ in memory, image by image: for a validation loop that has id maps at hand and wants no files. No torch here.

The overlap tables of the images are kept (some kilobytes each), not their pixels, and merging two evaluators is putting
their tables together. So the numbers are panopticapi's to the last bit however images were shared out among processes.
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
from panbench.base.text import kind_of, listed
from panbench.metrics.absent import AbsentFold
from panbench.metrics.jackknife import intervals as score_intervals
from panbench.metrics.matched import Matched
from panbench.metrics.pq import pq_table, summarise
from panbench.metrics.slices import image_statistics
from panbench.panoptic.image_ids import TextId, image_id_of
from panbench.panoptic.overlap import (
    Columns,
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

__all__ = ["Evaluator", "category_numbers"]

# After so many images their tables become one: arrays of a few rows cost more memory in headers than in rows.
_IMAGES_A_BLOCK = 512
# Stands for an area that is counted once the map is known.
_NO_AREA = -1


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
        self.categories = _categories(categories)
        self._known = {category.id for category in self.categories}
        # Rows carry the place of their image in `_image_ids`; whole blocks first, then one table an image.
        self._blocks: list[OverlapTable] = []
        self._tables: list[OverlapTable] = []
        self._image_ids: list[int | None] = []
        self._places: dict[int, int] = {}
        # Of each image, how many segments had no `area`.
        self._counted: list[int] = []

    def __len__(self) -> int:
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
        """Adds one image.

        pred_ids, gt_ids: (H, W) maps of segment ids, 0 = void: NumPy arrays of any integer type, or tensors of any
            device, which are copied to the host
        pred_segments: COCO's `segments_info` of the prediction: `id` and `category_id` of each id of the map; areas are
            counted from the map
        gt_segments: COCO's `segments_info` of the ground truth; `area` is used as given, as panopticapi does, and
            counted from the map where it is absent (`notices` says of how many segments); `iscrowd` is 0 where it is
            absent. Ids of the map that it lacks are neither void nor a segment.
        image_id: given for all images or for none. With it sums run by ascending id whatever the order of the images,
            and an image that two processes saw counts once in `merge`
        """
        where = "" if image_id is None else f"image {image_id}: "
        if image_id is not None:
            image_id = self._new_image_id(image_id)
        if self._image_ids and (self._image_ids[0] is None) != (image_id is None):
            raise BadArgument("image_id must be given for all images or for none.")
        pred_map, gt_map = _id_map(pred_ids, f"{where}pred_ids"), _id_map(gt_ids, f"{where}gt_ids")
        if pred_map.shape != gt_map.shape:
            raise BadArgument(
                f"{where}pred_ids is {_size(pred_map)} but gt_ids is {_size(gt_map)} (height × width). "
                "Give both at the image's original size."
            )
        pred = self._segments(pred_segments, f"{where}pred_segments", is_gt=False)
        gt = self._segments(gt_segments, f"{where}gt_segments", is_gt=True)

        place = len(self._image_ids)
        gt_id, pred_id, pixels = count_pairs(gt_map, pred_map)
        without_area = [segment.id for segment in gt if segment.area == _NO_AREA]
        if without_area:
            gt = [
                replace(segment, area=int(pixels[gt_id == segment.id].sum())) if segment.area == _NO_AREA else segment
                for segment in gt
            ]
        _check_same_ids(where, pred_id, [segment.id for segment in pred])
        table = tabulate(
            Pairs(np.full(len(gt_id), place, np.int64), gt_id, pred_id, pixels),
            segment_columns([(place, gt)], is_gt=True),
            segment_columns([(place, pred)], is_gt=False),
        )
        self._keep([table], [image_id], [len(without_area)])

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader of the numbers should know: counted areas, what is never predicted, and much void."""
        segments, images = sum(self._counted), sum(1 for count in self._counted if count)
        counted = (
            f"The areas of {segments:,} ground-truth segments in {images:,} images were counted from their maps, as "
            "their `area` was absent.",
        )
        absent = AbsentFold(self.categories)
        absent.add(absent.look(Matched.of(self._in_order())))
        said = tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in absent.sentences())
        return (*(counted if segments else ()), *said)

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ (fractions, 0–1) of the images so far.

        `{"All": {"PQ", "SQ", "RQ", "n"}, "Things": …, "Stuff": …, "per_category": {id: {"name", "isthing", "PQ", "SQ",
        "RQ", "TP", "FP", "FN"}}}`, what `panbench score --json` prints. n counts the categories that have a TP, FP or
        FN; a group without any has None. Can be asked at any time, and again after further images.
        Raises BadDataset when the ground truth lists an area so small that a union would not be positive.
        """
        pq = pq_table(Matched.of(self._in_order()), self.categories)
        return {**summarise(pq), "per_category": category_numbers(pq)}

    def intervals(self, level: float = 0.95) -> dict[str, dict[str, tuple[float, float] | None]]:
        """The confidence intervals of PQ, SQ and RQ: `{"All": {"PQ": (low, high), …}, "Things": …, "Stuff": …}`.

        For the score on all images of this kind, of which those seen are a sample (docs/uncertainty.md). None where
        there are too few images. They cost much more than `compute`: ask for them once, at the end.
        """
        table = score_intervals(image_statistics(Matched.of(self._in_order()), self.categories), level=level)
        found: dict[str, dict[str, tuple[float, float] | None]] = {group: {} for group in GROUPS}
        for row in table[table["group"].notna()].itertuples():
            found[row.group][row.metric] = None if math.isnan(row.low) else (float(row.low), float(row.high))
        return found

    def save(
        self, out: str | os.PathLike[str], *, name: str | None = None, dataset: str = "images", overwrite: bool = False
    ) -> Run:
        """Writes the images so far as a run, for `panbench compare`, `metrics`, `errors` and `gate`; the run.

        name: the run's name, by default the folder's; dataset: what tables call the data
        Evaluators whose ground truth is the same, image ids included, make runs that can be compared with each other.
        Images without `image_id` are numbered from 1. Raises BadRun where the folder is taken, BadArgument without
        images.
        """
        if not len(self):
            raise BadArgument("There is no image yet. Call update() before save().")
        table = self._in_order()
        if not self._places:
            table = _renumbered(table, np.arange(1, len(self) + 1))
        info = RunInfo(
            kind="score",
            name=name or Path(out).absolute().name,
            dataset=DatasetRecord(name=dataset, fingerprint=_fingerprint(table, self.categories), n_images=len(self)),
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
        """Adds the images of another evaluator, which stays as it is: of another process, or of another part of a set.

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
        """All images as one (N, 6) int64 array, for ways between processes that carry numbers only; see `from_rows`.

        Arrays of several evaluators may be joined by np.concatenate, in any order. An image has one row (0, 1 if it has
        an image_id, image_id, segments whose area was counted, 0, 0), then a row a segment (1 ground truth or 2
        prediction, id, 0, category_id, area, iscrowd) and a row a pair (3, gt_id, pred_id, 0, pixels, 0). Scores are
        left out: PQ has no use for them.
        """
        table = concat([*self._blocks, *self._tables])
        segments, overlaps = table.segments, table.overlaps
        n = len(self)
        given = np.array([image_id is not None for image_id in self._image_ids], np.int64)
        heads = _columns(n, 0, given, [image_id or 0 for image_id in self._image_ids], self._counted)
        kinds = np.where(segments.is_gt, 1, 2)
        of_segments = _columns(
            len(segments), kinds, segments.id, 0, segments.category_id, segments.area, segments.iscrowd
        )
        of_pairs = _columns(len(overlaps), 3, overlaps.gt_id, overlaps.pred_id, 0, overlaps.pixels)
        rows = np.concatenate([heads, of_segments, of_pairs])
        places = np.concatenate([np.arange(n), segments.image_id, overlaps.image_id])
        return rows[np.lexsort((rows[:, 0], places))]

    @classmethod
    def from_rows(cls, categories: Iterable[Category | Mapping[str, Any]], rows: Any) -> "Evaluator":
        """The evaluator that `to_rows` gave, or several joined: an image that occurs again counts once, as in `merge`.

        rows: (N, 6) integers, an array or a tensor. Raises BadArgument as `merge` does.
        """
        evaluator = cls(categories)
        rows = _array(rows).astype(np.int64, copy=False).reshape(-1, 6)
        kind, first, second, category_id, pixels, iscrowd = rows.T
        heads = np.flatnonzero(kind == 0)
        place = np.cumsum(kind == 0) - 1
        image_ids = [int(second[head]) if first[head] else None for head in heads.tolist()]
        is_segment, is_pair = (kind == 1) | (kind == 2), kind == 3
        table = OverlapTable(
            Segments(
                place[is_segment],
                kind[is_segment] == 1,
                first[is_segment].astype(np.int32),
                category_id[is_segment].astype(np.int32),
                pixels[is_segment],
                iscrowd[is_segment].astype(np.bool_),
                np.full(int(is_segment.sum()), np.nan, np.float32),
            ),
            Pairs(
                place[is_pair],
                first[is_pair].astype(np.int32),
                second[is_pair].astype(np.int32),
                pixels[is_pair],
            ),
        )
        if len({image_id is None for image_id in image_ids}) > 1:
            raise BadArgument("rows has image ids for some images and none for others. Give them for all or for none.")
        at: dict[int, int] = {}
        repeated = [
            here
            for here, image_id in enumerate(image_ids)
            if image_id is not None and at.setdefault(image_id, here) != here
        ]
        if repeated:
            known = [at[image_id] for image_id in _known(image_ids, repeated)]
            _check_same_images(table, known, table, repeated, image_ids)
            table = _without(table, repeated)
        fresh = np.setdiff1d(np.arange(len(image_ids)), repeated)
        renumbered = np.full(len(image_ids), -1, np.int64)
        renumbered[fresh] = np.arange(len(fresh))
        counted = category_id[heads]
        evaluator._keep(
            [_renumbered(table, renumbered)],
            [image_ids[old] for old in fresh.tolist()],
            [int(counted[old]) for old in fresh.tolist()],
        )
        return evaluator

    def reset(self) -> None:
        """Forgets all images; the categories stay."""
        self._blocks, self._tables, self._image_ids, self._places, self._counted = [], [], [], {}, []

    def _keep(self, tables: list[OverlapTable], image_ids: list[int | None], counted: list[int]) -> None:
        self._counted.extend(counted)
        for image_id in image_ids:
            if image_id is not None:
                self._places[image_id] = len(self._image_ids)
            self._image_ids.append(image_id)
        self._tables.extend(tables)
        if len(self._tables) >= _IMAGES_A_BLOCK:
            self._blocks.append(concat(self._tables))
            self._tables = []

    def _in_order(self) -> OverlapTable:
        """The rows of all images, by image id where images have one, else in the order of `update`."""
        table = concat([*self._blocks, *self._tables])
        if self._places:
            # The order of panopticapi's loop over a JSON by ascending ids, and the same on every process.
            table = _renumbered(table, np.array(self._image_ids, np.int64))
        return table

    def _new_image_id(self, image_id: Any) -> int:
        if isinstance(image_id, str):
            image_id = image_id_of(image_id)
        number = image_id if isinstance(image_id, TextId) else _integer(image_id, "image_id", -(2**62), 2**62)
        if number in self._places:
            raise BadArgument(f"image_id {number} was given before. Call reset() before a new pass over the images.")
        return number

    def _segments(self, segments: Iterable[Any], name: str, is_gt: bool) -> list[Segment]:
        if isinstance(segments, (str, bytes, Mapping)) or not isinstance(segments, Iterable):
            raise BadArgument(f"{name} must be a list of segments (COCO's `segments_info`), not {_kind(segments)}.")
        found: dict[int, Segment] = {}
        for number, record in enumerate(segments):
            where = f"{name}[{number}]"
            segment = record if isinstance(record, Segment) else _segment(record, where, is_gt)
            if segment.id in found:
                raise BadArgument(f"{where} repeats the id {segment.id}.")
            if segment.category_id not in self._known:
                raise BadArgument(
                    f"{where} has category_id {segment.category_id}, which is not among the categories of this "
                    "evaluator. Give the dataset's own category ids."
                )
            found[segment.id] = segment
        return list(found.values())


def category_numbers(table: Any) -> dict[int, dict[str, Any]]:
    """`{category id: {"name", "isthing", "PQ", "SQ", "RQ", "TP", "FP", "FN"}}` of a `pq_table`."""
    columns = ("name", "isthing", "PQ", "SQ", "RQ", "TP", "FP", "FN")
    rows = zip(*(table[name].tolist() for name in columns), strict=True)
    return {
        category_id: dict(zip(columns, row, strict=True))
        for category_id, row in zip(table["category_id"].tolist(), rows, strict=True)
    }


def _categories(categories: Any) -> tuple[Category, ...]:
    if isinstance(categories, (str, bytes, Mapping)) or not isinstance(categories, Iterable):
        raise BadArgument(
            "categories must be a list of COCO's categories (dicts with `id`, `name` and `isthing`) or of Category, "
            f"not {_kind(categories)}."
        )
    found: dict[int, Category] = {}
    for number, record in enumerate(categories):
        where = f"categories[{number}]"
        category = record if isinstance(record, Category) else _category(record, where)
        if category.id in found:
            raise BadArgument(f"{where} repeats the id {category.id}.")
        found[category.id] = category
    if not found:
        raise BadArgument("categories is empty.")
    return tuple(found.values())


def _category(record: Any, where: str) -> Category:
    isthing = _value(record, "isthing", where)
    if isthing not in (0, 1):
        raise BadArgument(f"{where}: isthing must be 0 or 1, not {isthing!r}.")
    return Category(
        id=_integer(_value(record, "id", where), f"{where}: id", -(2**31), 2**31 - 1),
        name=str(_value(record, "name", where)),
        isthing=bool(isthing),
        supercategory=str(record.get("supercategory") or ""),
    )


def _segment(record: Any, where: str, is_gt: bool) -> Segment:
    if isinstance(record, Mapping) and "category_id" not in record and "label_id" in record:
        raise BadArgument(
            f"{where} has `label_id` but no `category_id`. Translate the model's labels to the dataset's category ids."
        )
    score = record.get("score") if isinstance(record, Mapping) else None
    return Segment(
        id=_integer(_value(record, "id", where), f"{where}: id", 1, MAX_ID),
        category_id=_integer(_value(record, "category_id", where), f"{where}: category_id", -(2**31), 2**31 - 1),
        area=_area(record, where) if is_gt else 0,
        iscrowd=is_gt and record.get("iscrowd", 0) == 1,
        score=None if score is None or not math.isfinite(float(score)) else float(score),
    )


def _area(record: Mapping[str, Any], where: str) -> int:
    if record.get("area") is None:
        return _NO_AREA
    return _integer(record["area"], f"{where}: area", 0, 2**62)


def _fingerprint(table: OverlapTable, categories: Sequence[Category]) -> str:
    """A SHA-256 of the ground truth: its images, segments and categories, whatever was predicted."""
    truth = take(table.segments, table.segments.is_gt)
    order = np.lexsort((truth.id, truth.image_id))
    columns = (truth.image_id, truth.id, truth.category_id, truth.area, truth.iscrowd)
    digest = hashlib.sha256(repr([(c.id, c.name, c.isthing) for c in categories]).encode())
    digest.update(np.unique(table.overlaps.image_id).astype("<i8").tobytes())
    for column in columns:
        digest.update(column[order].astype("<i8").tobytes())
    return digest.hexdigest()


def _value(record: Any, key: str, where: str) -> Any:
    if not isinstance(record, Mapping):
        raise BadArgument(f"{where} must be a dict, not {_kind(record)}.")
    if key not in record:
        raise BadArgument(f"{where} lacks `{key}`.")
    return record[key]


def _integer(value: Any, name: str, low: int, high: int) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(int(value) if isinstance(value, float) and value.is_integer() else value)
    except (TypeError, ValueError):
        raise BadArgument(f"{name} must be an integer, not {value!r}.") from None
    if not low <= number <= high:
        raise BadArgument(f"{name} is {number}, outside {low}…{high}.")
    return number


def _id_map(ids: Any, name: str) -> IdMap:
    """A contiguous (H, W) int32 map of an array or a tensor of any device."""
    ids = _array(ids)
    if ids.dtype.kind not in "iu":
        raise BadArgument(f"{name} must hold integers (segment ids), not {ids.dtype}.")
    if ids.ndim != 2 or not ids.size:
        raise BadArgument(f"{name} must be (H, W), not {ids.shape}. Give one image at a time.")
    low, high = int(ids.min()), int(ids.max())
    if low < VOID or high > MAX_ID:
        raise BadArgument(f"{name} has ids of {low}…{high}; ids must lie in 0…{MAX_ID}, and 0 is void.")
    return np.ascontiguousarray(ids, np.int32)


def _array(values: Any) -> npt.NDArray[Any]:
    """An array of an array or of a tensor of any device."""
    if hasattr(values, "detach"):  # a tensor, without importing torch to ask
        values = values.detach().cpu().numpy()
    return np.asarray(values)


def _check_same_ids(where: str, in_map: npt.NDArray[np.int32], in_list: list[int]) -> None:
    present = set(in_map.tolist()) - {VOID}
    unlisted, absent = sorted(present - set(in_list)), sorted(set(in_list) - present)
    if unlisted:
        raise BadArgument(f"{where}pred_ids has ids that pred_segments lacks: {listed(unlisted)}. List each id.")
    if absent:
        raise BadArgument(f"{where}pred_segments lists ids that pred_ids lacks: {listed(absent)}. Leave them out.")


def _renumbered(table: OverlapTable, image_ids: npt.NDArray[np.int64]) -> OverlapTable:
    """The rows in ascending order of their new image ids; `image_ids[i]` is the new one of image i."""
    segments = replace(table.segments, image_id=image_ids[table.segments.image_id])
    overlaps = replace(table.overlaps, image_id=image_ids[table.overlaps.image_id])
    return OverlapTable(segments, overlaps).in_order_of_images()


def _without(table: OverlapTable, places: Sequence[int]) -> OverlapTable:
    def rest(columns: Columns) -> Columns:
        return take(columns, ~np.isin(columns.image_id, places))

    return OverlapTable(rest(table.segments), rest(table.overlaps))


def _known(image_ids: Sequence[int | None], places: Sequence[int]) -> list[int]:
    """The image ids at some places that have one."""
    return [image_id for image_id in (image_ids[place] for place in places) if image_id is not None]


def _check_same_images(
    ours: OverlapTable,
    our_places: Sequence[int],
    theirs: OverlapTable,
    their_places: Sequence[int],
    image_ids: Sequence[int | None],
) -> None:
    """Raises BadArgument unless the images at these places of two tables are pairwise the same."""
    for our_place, their_place in zip(our_places, their_places, strict=True):
        if not _equal(_of_image(ours, our_place), _of_image(theirs, their_place)):
            raise BadArgument(
                f"Image {image_ids[their_place]} was given twice, with other segments. Merge evaluators of one model "
                "and one pass; call reset() before a new pass over the images."
            )


def _columns(n: int, *columns: Any) -> npt.NDArray[np.int64]:
    """(n, 6) of columns and numbers; what is not given is 0."""
    rows = np.zeros((n, 6), np.int64)
    for number, column in enumerate(columns):
        rows[:, number] = column
    return rows


def _of_image(table: OverlapTable, place: int) -> OverlapTable:
    return OverlapTable(
        take(table.segments, table.segments.image_id == place), take(table.overlaps, table.overlaps.image_id == place)
    )


def _equal(ours: OverlapTable, theirs: OverlapTable) -> bool:
    """Whether two tables of one image have the same segments and overlaps; scores and image ids aside."""
    segments = ("is_gt", "id", "category_id", "area", "iscrowd")
    overlaps = ("gt_id", "pred_id", "pixels")
    return all(
        np.array_equal(getattr(ours.segments, name), getattr(theirs.segments, name)) for name in segments
    ) and all(np.array_equal(getattr(ours.overlaps, name), getattr(theirs.overlaps, name)) for name in overlaps)


def _kind(value: Any) -> str:
    return "None" if value is None else kind_of(value)


def _size(ids: IdMap) -> str:
    return f"{ids.shape[0]}×{ids.shape[1]}"
