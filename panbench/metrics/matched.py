"""Matches the segments of a run: finds pairs and their IoU, and judges each segment as TP, FN, FP or ignored.

`Matched` is made once from an overlap table (`Run.matched` caches it); PQ and all other metrics are functions of it.
Matching follows panopticapi, also where its rules surprise:
- A pair matches when IoU > 0.5, strictly.
- The union takes the ground truth's area from the JSON, and excludes the prediction's pixels on void.
- Crowds never match.
- A prediction with more than half of its area on void and on the *last* listed crowd of its category is ignored.
- Ids of a ground-truth PNG that its JSON lacks are neither void nor a segment.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.text import listed
from panbench.panoptic.image_ids import own_id
from panbench.panoptic.overlap import (
    MENDS_AREAS,
    GroundTruthFaults,
    OverlapTable,
    Pairs,
    Segments,
    distinct,
    find_rows,
    sums_by_row,
    take,
)
from panbench.panoptic.types import VOID, Category

if TYPE_CHECKING:
    import pandas as pd

LOOKUP_LIMIT = 1 << 16
"""Category ids below this are looked up in an array instead of searched."""

VERDICTS = ("TP", "FN", "FP", "ignored")
TP, FN, FP, IGNORED = range(4)

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Matched:
    """The segments of some images with their matches: every metric is a function of it.

    One entry per segment:
    segments: in the order of the run; the ground truth of an image keeps the order of its JSON
    on_void: for predictions, the number of pixels that the ground truth leaves unlabelled; else 0
    excused: True for predictions that void and crowds keep from being false positives
    excused_by_crowd: True for predictions that crowds alone would excuse

    One entry per overlap (two ids that share pixels):
    overlaps: sorted by image_id, gt_id, pred_id. Sums of IoUs then have the same terms in the same order however the
        table was merged, which is also panopticapi's order: results are equal to the last bit.
    gt_row, pred_row: the rows of the two segments in `segments`; -1 for void and for an id that the JSON lacks

    One entry per candidate pair, an overlap of two segments of one category whose ground truth is not a crowd:
    pair: its row in `overlaps`
    union, iou: pixels, and pixels shared / union

    boundary: overlaps of boundary pixels if the run has them, for `by_boundary`
    """

    segments: Segments
    overlaps: Pairs
    gt_row: Int
    pred_row: Int
    on_void: Int
    excused: Bool
    excused_by_crowd: Bool
    pair: Int
    union: Int
    iou: Float
    boundary: Pairs | None = None

    @staticmethod
    def of(table: OverlapTable) -> Matched:
        """Matches the segments of an overlap table. Raises BadDataset if the JSON lists an area that is too small."""
        segments, overlaps = table.segments, _sorted_pairs(table.overlaps)
        gt_row, pred_row = _segment_rows(segments, overlaps)
        on_void = np.zeros(len(segments), np.int64)
        voids = (overlaps.gt_id == VOID) & (pred_row >= 0)
        on_void[pred_row[voids]] = overlaps.pixels[voids]
        on_crowd = _pixels_on_last_crowd(segments, overlaps, gt_row, pred_row)
        with np.errstate(invalid="ignore"):
            excused = ~segments.is_gt & ((on_void + on_crowd) / segments.area > 0.5)
            excused_by_crowd = ~segments.is_gt & (on_crowd / segments.area > 0.5)

        met = np.flatnonzero((gt_row >= 0) & (pred_row >= 0))
        gt, pred = gt_row[met], pred_row[met]
        alike = (segments.category_id[gt] == segments.category_id[pred]) & ~segments.iscrowd[gt]
        pair, gt, pred = met[alike], gt[alike], pred[alike]
        pixels = overlaps.pixels[pair]
        union = segments.area[pred] + segments.area[gt] - pixels - on_void[pred]
        # IoU would be above 1, infinite or negative: only an area in the JSON below the true one does that.
        if (union < pixels).any():
            wrong = int(np.argmax(union < pixels))
            raise BadDataset(
                f"Image {own_id(overlaps.image_id[pair[wrong]])}: the ground truth lists area "
                f"{segments.area[gt[wrong]]} for segment {overlaps.gt_id[pair[wrong]]}, less than the {pixels[wrong]} "
                f"pixels it shares with a prediction. {MENDS_AREAS}"
            )
        return Matched(
            segments=segments,
            overlaps=overlaps,
            gt_row=gt_row,
            pred_row=pred_row,
            on_void=on_void,
            excused=excused,
            excused_by_crowd=excused_by_crowd,
            pair=pair,
            union=union,
            iou=pixels / union,
            boundary=table.boundary,
        )

    @staticmethod
    def from_frames(segments: pd.DataFrame, overlaps: pd.DataFrame, boundary: pd.DataFrame | None = None) -> Matched:
        """Matches segments given as DataFrames: rows of `Run.segments`, `Run.overlaps` and `Run.boundary`.

        segments: one row a segment (image_id, side, id, category_id, area, iscrowd)
        overlaps: one row a pair of ids that share pixels (image_id, gt_id, pred_id, pixels)
        """
        columns = Segments(
            image_id=segments["image_id"].to_numpy(np.int64),
            is_gt=(segments["side"] == "gt").to_numpy(np.bool_),
            id=segments["id"].to_numpy(np.int32),
            category_id=segments["category_id"].to_numpy(np.int32),
            area=segments["area"].to_numpy(np.int64),
            iscrowd=segments["iscrowd"].to_numpy(np.bool_),
            score=np.full(len(segments), np.nan, np.float32),
        )
        near = None if boundary is None else _pairs_from_frame(boundary)
        return Matched.of(OverlapTable(columns, _pairs_from_frame(overlaps), near))

    @cached_property
    def image_ids(self) -> Int:
        """The distinct image ids, ascending; images without segments are included."""
        # Overlaps are sorted by image, so an id that differs from the one above is new.
        ids = self.overlaps.image_id
        return ids[np.append(True, ids[1:] != ids[:-1])] if len(ids) else ids

    @cached_property
    def image_of_overlap(self) -> Int:
        """The index in `image_ids` of each overlap's image."""
        ids = self.overlaps.image_id
        return np.cumsum(np.append(False, ids[1:] != ids[:-1])) if len(ids) else ids

    @cached_property
    def cache(self) -> dict[Hashable, Any]:
        """Results that several metrics need, by function and arguments; they must not be modified."""
        return {}

    @cached_property
    def verdict(self) -> Int8:
        """The verdict on each segment (TP, FN, FP or IGNORED), where a match needs IoU > 0.5."""
        return self.judge(0.5)

    @property
    def gt(self) -> Int:
        """The row number in the segment table of the true segment of each (true, predicted) pair."""
        return self.gt_row[self.pair]

    @property
    def pred(self) -> Int:
        """The row number in the segment table of the predicted segment of each (true, predicted) pair."""
        return self.pred_row[self.pair]

    def hits(self, iou_threshold: float = 0.5) -> Int:
        """Returns the indices of the pairs that match: IoU > threshold. Raises BadArgument outside [0.5, 1)."""
        if not 0.5 <= iou_threshold < 1:
            raise BadArgument(
                f"The IoU threshold is {iou_threshold}; it must be at least 0.5, so that no segment matches two, "
                "and less than 1."
            )
        return np.flatnonzero(self.iou > iou_threshold)

    def judge(self, iou_threshold: float) -> Int8:
        """Returns the verdict on each segment (TP, FN, FP or IGNORED) if a match needs IoU > threshold."""
        hits = self.hits(iou_threshold)
        segments = self.segments
        code = np.where(segments.is_gt, FN, FP).astype(np.int8)
        code[(segments.is_gt & segments.iscrowd) | self.excused] = IGNORED
        code[self.gt[hits]] = TP
        code[self.pred[hits]] = TP
        return code

    def by_boundary(self) -> Matched:
        """Replaces the IoU of each pair by min(IoU, boundary IoU), from which boundary PQ is computed. [Cheng 2021]

        Raises BadArgument if the run was made without boundary overlaps.
        """
        if self.boundary is None:
            raise BadArgument("The run has no boundary overlaps. Score it with --boundary to store them.")
        return replace(self, iou=np.minimum(self.iou, _boundary_iou(self.boundary, take(self.overlaps, self.pair))))

    def only(self, image_ids: Iterable[int]) -> Matched:
        """Selects some images; images are independent, so nothing is matched again.

        If the segments are sorted by image id, the time depends on the number of selected rows only.
        """
        requested = np.unique(np.fromiter(image_ids, np.int64))
        if self._segments_sorted_by_image:
            own = _ranges(*_bounds(self.segments.image_id, requested))
        else:
            own = np.flatnonzero(_is_in(self.segments.image_id, requested))
        start, stop = _bounds(self.overlaps.image_id, requested)
        rows = _ranges(start, stop)
        # `pair` is ascending, so the pairs of an image are consecutive too.
        rows_of = _ranges(np.searchsorted(self.pair, start), np.searchsorted(self.pair, stop))
        near = self.boundary
        return Matched(
            segments=take(self.segments, own),
            overlaps=take(self.overlaps, rows),
            gt_row=_rows_in_selection(self.gt_row[rows], own),
            pred_row=_rows_in_selection(self.pred_row[rows], own),
            on_void=self.on_void[own],
            excused=self.excused[own],
            excused_by_crowd=self.excused_by_crowd[own],
            pair=np.searchsorted(rows, self.pair[rows_of]),
            union=self.union[rows_of],
            iou=self.iou[rows_of],
            boundary=None if near is None else take(near, _is_in(near.image_id, requested)),
        )

    def accumulate(self, accumulator: Accumulating) -> Accumulating:
        """Adds these images to an accumulator (a metric that is computed from chunks of images) and returns it."""
        accumulator.add(accumulator.map_chunk(self))
        return accumulator

    @cached_property
    def _segments_sorted_by_image(self) -> bool:
        """True if the rows of `segments` are sorted by image id."""
        return bool((np.diff(self.segments.image_id) >= 0).all())


Part = TypeVar("Part")


class Accumulator(Protocol[Part]):
    """A metric that is computed from one chunk of images at a time.

    `map_chunk` runs in threads, `add` collects its results in order.
    """

    def map_chunk(self, matched: Matched) -> Part:
        """Returns what a chunk of images contributes to the metric, for example counts.

        It must not change the metric, as chunks run concurrently.
        """

    def add(self, part: Part) -> None:
        """Adds the contribution of a chunk of images, returned by `map_chunk`, to the metric.

        Chunks come in order of image ids, so sums have the same terms in the same order, however the images are divided
        into chunks.
        """


Accumulating = TypeVar("Accumulating", bound=Accumulator[Any])


class AccumulatorOfImages(Generic[Part]):
    """Computes a metric on some images only, from one chunk of images at a time."""

    def __init__(self, accumulator: Accumulator[Part], images: Collection[int]) -> None:
        """Restricts a metric to the images with these ids."""
        self._accumulator = accumulator
        self._images = images

    def map_chunk(self, matched: Matched) -> Part:
        """Returns what the selected images of a chunk contribute to the metric."""
        return self._accumulator.map_chunk(matched.only(self._images))

    def add(self, part: Part) -> None:
        """Adds the contribution of a chunk's selected images to the metric."""
        self._accumulator.add(part)


class SeveralAccumulators(Generic[Accumulating]):
    """Computes several metrics in one pass over the images, from one chunk at a time."""

    def __init__(self, accumulators: Sequence[Accumulating]) -> None:
        """Takes the accumulators of all metrics that are to be computed in one pass over the images."""
        self.accumulators = accumulators

    def map_chunk(self, matched: Matched) -> list[Any]:
        """Returns what a chunk of images contributes to each of the metrics."""
        return [accumulator.map_chunk(matched) for accumulator in self.accumulators]

    def add(self, part: list[Any]) -> None:
        """Adds the contributions of a chunk of images to each of the metrics."""
        for accumulator, own in zip(self.accumulators, part, strict=True):
            accumulator.add(own)


class FaultAccumulator:
    """Counts segments on which ground-truth PNGs and their JSON disagree, from one chunk of images at a time.

    The result is `faults`.
    """

    def __init__(self) -> None:
        """Sets the number of segments on which ground-truth PNGs and JSON disagree to zero."""
        self.faults = GroundTruthFaults()

    def map_chunk(self, matched: Matched) -> GroundTruthFaults:
        """Counts where ground-truth PNGs and their JSON disagree in a chunk of images."""
        return OverlapTable(matched.segments, matched.overlaps).ground_truth_faults()

    def add(self, part: GroundTruthFaults) -> None:
        """Adds a chunk's disagreements between ground-truth PNGs and their JSON to the total."""
        self.faults = self.faults + part


def one_to_one(first: Int, second: Int, order: Int) -> Int:
    """Selects pairs (first, second) greedily in a given order, so that each first and each second is in one at most.

    Returns the indices of the chosen pairs, ascending.
    """
    used_first: set[int] = set()
    used_second: set[int] = set()
    chosen = []
    for pair, one, other in zip(order.tolist(), first[order].tolist(), second[order].tolist(), strict=True):
        if one not in used_first and other not in used_second:
            used_first.add(one)
            used_second.add(other)
            chosen.append(pair)
    return np.array(sorted(chosen), np.int64)


def positions(category_id: npt.NDArray[np.integer], categories: Sequence[Category]) -> Int:
    """Returns the index of each category id in `categories`. Raises BadDataset for an id that is not there."""
    ids = np.array([category.id for category in categories], np.int64)
    if len(ids) and ids.min() >= 0 and ids.max() < LOOKUP_LIMIT:
        # Several times as fast as searching. Ids below 0 and above the largest are clipped to entries with -1.
        index = np.full(int(ids.max()) + 2, -1, np.int64)
        index[ids] = np.arange(len(ids))
        known: Int = index[np.clip(category_id, -1, int(ids.max()) + 1)]
        if (known >= 0).all():
            return known
    order = np.argsort(ids)
    # An extra entry -1 for ids above the largest, for which searchsorted returns len(ids).
    found = np.append(order, -1)[np.searchsorted(ids[order], category_id)]
    is_unknown = np.append(ids, 0)[found] != category_id
    is_unknown |= found < 0
    if is_unknown.any():
        unknown = sorted(set(category_id[is_unknown].tolist()))
        raise BadDataset(
            f"Segments name category ids that the dataset does not list: {listed(unknown)}. Add them to `categories`."
        )
    return found


def _pairs_from_frame(frame: pd.DataFrame) -> Pairs:
    """Converts rows of `Run.overlaps` or `Run.boundary` to columns."""
    types = {"image_id": np.int64, "gt_id": np.int32, "pred_id": np.int32, "pixels": np.int64}
    return Pairs(**{name: frame[name].to_numpy(kind) for name, kind in types.items()})


def _sorted_pairs(pairs: Pairs) -> Pairs:
    """Sorts pairs by image_id, gt_id, pred_id."""
    image, gt, pred = pairs.image_id, pairs.gt_id, pairs.pred_id
    # They mostly are sorted already, and checking is far cheaper than sorting.
    same_image, same_gt = image[1:] == image[:-1], gt[1:] == gt[:-1]
    later_gt = (gt[1:] > gt[:-1]) | (same_gt & (pred[1:] >= pred[:-1]))
    if ((image[1:] > image[:-1]) | (same_image & later_gt)).all():
        return pairs
    return take(pairs, np.lexsort((pairs.pred_id, pairs.gt_id, pairs.image_id)))


def _is_in(values: Int, requested: Int) -> Bool:
    """Marks which values occur in `requested`, which is ascending and distinct."""
    if not len(requested):
        return np.zeros(len(values), np.bool_)
    index = np.searchsorted(requested, values)
    index[index == len(requested)] = 0
    return requested[index] == values


def _bounds(values: Int, requested: Int) -> tuple[Int, Int]:
    """Finds each requested value in an ascending array: returns the start and stop of its rows."""
    return np.searchsorted(values, requested, "left"), np.searchsorted(values, requested, "right")


def _ranges(start: Int, stop: Int) -> Int:
    """Concatenates ranges of row numbers (start[0], …, stop[0] - 1, start[1], …, stop[1] - 1, …)."""
    length = stop - start
    return np.repeat(start - np.cumsum(length) + length, length) + np.arange(int(length.sum()))


def _rows_in_selection(rows: Int, own: Int) -> Int:
    """Converts row numbers of a table to row numbers of a selection from it; -1 stays -1.

    own: the selected rows, ascending
    """
    return np.where(rows < 0, -1, np.searchsorted(own, rows))


def _segment_rows(segments: Segments, overlaps: Pairs) -> tuple[Int, Int]:
    """Finds the rows of each overlap's ground-truth segment and prediction in `segments`; -1 if there is none."""
    sides = []
    for side, ids in ((segments.is_gt, overlaps.gt_id), (~segments.is_gt, overlaps.pred_id)):
        of_side = np.flatnonzero(side)
        row = find_rows(overlaps.image_id, ids, segments.image_id[side], segments.id[side])
        sides.append(np.where(row >= 0, np.append(of_side, -1)[row], -1))
    return sides[0], sides[1]


def _pixels_on_last_crowd(segments: Segments, overlaps: Pairs, gt_row: Int, pred_row: Int) -> Int:
    """Counts, for each prediction, its pixels on the last listed crowd of its category; 0 for other segments.

    panopticapi keeps one crowd an image and category in a dictionary, so a later one replaces an earlier one.
    """
    pixels = np.zeros(len(segments), np.int64)
    crowds = np.flatnonzero(segments.is_gt & segments.iscrowd)
    if not len(crowds):
        return pixels
    # Reversed, so that the first of each (image, category) after the stable sort is the last listed.
    backwards = crowds[::-1]
    order = np.lexsort((segments.category_id[backwards], segments.image_id[backwards]))
    images, labels = segments.image_id[backwards][order], segments.category_id[backwards][order]
    first = np.ones(len(order), np.bool_)
    first[1:] = (images[1:] != images[:-1]) | (labels[1:] != labels[:-1])
    is_last_crowd = np.zeros(len(segments), np.bool_)
    is_last_crowd[backwards[order[first]]] = True

    rows = np.flatnonzero((gt_row >= 0) & (pred_row >= 0))
    rows = rows[is_last_crowd[gt_row[rows]]]
    rows = rows[segments.category_id[gt_row[rows]] == segments.category_id[pred_row[rows]]]
    pixels[pred_row[rows]] = overlaps.pixels[rows]
    return pixels


def _boundary_iou(boundary: Pairs, pairs: Pairs) -> Float:
    """Returns the IoU of the boundaries of each pair; the union excludes the prediction's pixels on void.

    boundary: rows (g, p) hold the boundary pixels of g and of p that coincide. The interior of a segment has the id
        INTERIOR (-1), so the complete boundary of g is the sum of all rows of g, whatever p is, void and interior
        included.
    """

    def boundary_pixels(ids: Int32, of: Int32, rows: Bool | slice = slice(None)) -> Int:
        """Counts the boundary pixels of one segment of each pair: its ground truth, or its prediction.

        ids, of: that segment's column of `boundary` and of `pairs`; rows: which rows of `boundary` count
        """
        requested = distinct(pairs.image_id, of)
        row = find_rows(boundary.image_id[rows], ids[rows], *requested)
        return sums_by_row(row, boundary.pixels[rows], len(requested[0]))[find_rows(pairs.image_id, of, *requested)]

    # Rows and pairs are numbered together by their three keys, so that equal keys get equal numbers. A pair whose
    # boundaries do not meet has no row, so its sum is 0.
    both = [
        np.concatenate([getattr(boundary, name), getattr(pairs, name)]) for name in ("image_id", "gt_id", "pred_id")
    ]
    _, number = numbered(both)
    shared = np.bincount(number[: len(boundary)], weights=boundary.pixels, minlength=int(number.max(initial=-1)) + 1)
    shared = shared[number[len(boundary) :]]
    on_void = boundary_pixels(boundary.pred_id, pairs.pred_id, boundary.gt_id == VOID)
    union = (
        boundary_pixels(boundary.gt_id, pairs.gt_id)
        + boundary_pixels(boundary.pred_id, pairs.pred_id)
        - shared
        - on_void
    )
    # Every boundary has at least one pixel, so the union is never 0.
    return shared / union


def numbered(keys: Sequence[Int] | Sequence[Int32]) -> tuple[list[Int], Int]:
    """Numbers the distinct rows of some columns, like np.unique(axis=0, return_inverse=True) but faster.

    Returns the distinct rows in ascending order as columns, and for each input row the number of its distinct row.
    """
    n = len(keys[0])
    packed = _packed_keys(keys)
    order = np.lexsort(keys[::-1]) if packed is None else np.argsort(packed)
    new = np.zeros(n, np.bool_)
    new[:1] = True
    for key in keys if packed is None else [packed]:
        ordered = key[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    group = np.empty(n, np.int64)
    group[order] = np.cumsum(new) - 1
    first = order[new]
    return [key[first].astype(np.int64) for key in keys], group


def _packed_keys(keys: Sequence[Int] | Sequence[Int32]) -> Int | None:
    """Packs the columns of each row into one int64 that sorts like the rows; None if that takes more than 63 bits."""
    if not len(keys[0]):
        return None
    lowest, highest = [int(key.min()) for key in keys], [int(key.max()) for key in keys]
    if math.prod(high - low + 1 for low, high in zip(lowest, highest, strict=True)) >= 1 << 63:
        return None
    # Sorting one packed column takes a fraction of the time of sorting by several.
    packed = np.zeros(len(keys[0]), np.int64)
    for index, (low, high) in enumerate(zip(lowest, highest, strict=True)):
        packed = packed * (high - low + 1) + (keys[index].astype(np.int64) - low)
    return packed
