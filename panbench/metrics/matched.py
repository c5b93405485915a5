"""The table of matches of a run: pairs of segments, their IoU, and the verdict on each segment at IoU > 0.5.

It is made once from an overlap table (`Run.matched` keeps it); PQ and everything beside it are functions of it. The
rules, where panopticapi's differ from what one would guess:
a pair matches when IoU > 0.5, strictly; the union takes the ground truth's area from the JSON and leaves out the
prediction's pixels on void; crowds never match; a prediction with more than half of its area on void and on the *last*
crowd listed of its category is no false positive; ids of a ground-truth PNG that its JSON lacks are neither void nor a
segment.
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

__all__ = ["FN", "FP", "IGNORED", "TP", "VERDICTS", "Fold", "Matched", "Together", "positions"]

MOST_LOOKED_UP = 1 << 16
"""Ids of categories below this are looked up in a table."""

VERDICTS = ("TP", "FN", "FP", "ignored")
TP, FN, FP, IGNORED = range(4)

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Matched:
    """The segments and overlaps of some images, joined.

    segments: as they come; of an image the ground truth's keep the order of its JSON
    overlaps: in the order of image_id, gt_id, pred_id. Every sum of IoUs then runs over the same terms in the same
        order, however the table was merged, and it is the order of panopticapi's own loop: results repeat to the last
        bit.
    gt_row, pred_row: of each overlap, the rows of its two sides in `segments`; -1 where a side has none (void, or an id
        that the JSON lacks)
    on_void: of each segment, if it is a prediction, how many of its pixels the ground truth leaves unlabelled; else 0
    excused: of each segment, whether it is a prediction that void and crowds keep from being a false positive
    excused_by_crowd: the same, were there no void
    pair: the overlaps whose two sides can match, as they share a category and the true one is no crowd
    union, iou: of each such pair
    boundary: overlaps of boundary pixels, where the run has them; `by_boundary` puts them into the IoUs
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
        """Raises BadDataset when the ground truth lists an area that is too small to be true."""
        segments, overlaps = table.segments, _in_order(table.overlaps)
        gt_row, pred_row = _rows(segments, overlaps)
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
        """Makes it from the DataFrames of `Run.segments`, `Run.overlaps` and `Run.boundary`, or from rows of them.

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
        near = None if boundary is None else _pairs_of(boundary)
        return Matched.of(OverlapTable(columns, _pairs_of(overlaps), near))

    @cached_property
    def image_ids(self) -> Int:
        """The ids of the images, ascending, each once; images without segments are among them."""
        # Overlaps are in order of images: what differs from the one above is new.
        ids = self.overlaps.image_id
        return ids[np.append(True, ids[1:] != ids[:-1])] if len(ids) else ids

    @cached_property
    def image_of_overlap(self) -> Int:
        """Of each overlap the place of its image in `image_ids`."""
        ids = self.overlaps.image_id
        return np.cumsum(np.append(False, ids[1:] != ids[:-1])) if len(ids) else ids

    @cached_property
    def answers(self) -> dict[Hashable, Any]:
        """What metrics found of these images and others ask for again, by what it is; nobody changes it."""
        return {}

    @cached_property
    def verdict(self) -> Int8:
        """The verdict on each segment, TP, FN, FP or IGNORED, where a match needs IoU > 0.5."""
        return self.judge(0.5)

    @property
    def gt(self) -> Int:
        """For each pair, the row of its ground-truth segment."""
        return self.gt_row[self.pair]

    @property
    def pred(self) -> Int:
        """For each pair, the row of its prediction."""
        return self.pred_row[self.pair]

    def hits(self, iou_threshold: float = 0.5) -> Int:
        """The numbers of the pairs that match, IoU > threshold. Raises BadArgument for thresholds outside [0.5, 1)."""
        if not 0.5 <= iou_threshold < 1:
            raise BadArgument(
                f"The IoU threshold is {iou_threshold}; it must be at least 0.5, so that no segment matches two, "
                "and less than 1."
            )
        return np.flatnonzero(self.iou > iou_threshold)

    def judge(self, iou_threshold: float) -> Int8:
        """`verdict`, when a match needs IoU > threshold."""
        hits = self.hits(iou_threshold)
        segments = self.segments
        code = np.where(segments.is_gt, FN, FP).astype(np.int8)
        code[(segments.is_gt & segments.iscrowd) | self.excused] = IGNORED
        code[self.gt[hits]] = TP
        code[self.pred[hits]] = TP
        return code

    def by_boundary(self) -> Matched:
        """The same with min(IoU, boundary IoU) for the IoU of each pair: what boundary PQ is made of. [Cheng 2021]

        Raises BadArgument when the run was made without boundary overlaps.
        """
        if self.boundary is None:
            raise BadArgument("The run has no boundary overlaps. Score it with --boundary to store them.")
        return replace(self, iou=np.minimum(self.iou, _boundary_iou(self.boundary, take(self.overlaps, self.pair))))

    def only(self, image_ids: Iterable[int]) -> Matched:
        """The same for some images. Images are independent, so nothing is matched again.

        Of few images it takes time for their rows alone, as long as the segments come in order of image ids.
        """
        wanted = np.unique(np.fromiter(image_ids, np.int64))
        if self._segments_in_order:
            own = _ranges(*_bounds(self.segments.image_id, wanted))
        else:
            own = np.flatnonzero(_among(self.segments.image_id, wanted))
        start, stop = _bounds(self.overlaps.image_id, wanted)
        rows = _ranges(start, stop)
        # Pairs are in order of the overlaps that they are.
        kept = _ranges(np.searchsorted(self.pair, start), np.searchsorted(self.pair, stop))
        near = self.boundary
        return Matched(
            segments=take(self.segments, own),
            overlaps=take(self.overlaps, rows),
            gt_row=_moved(self.gt_row[rows], own),
            pred_row=_moved(self.pred_row[rows], own),
            on_void=self.on_void[own],
            excused=self.excused[own],
            excused_by_crowd=self.excused_by_crowd[own],
            pair=np.searchsorted(rows, self.pair[kept]),
            union=self.union[kept],
            iou=self.iou[kept],
            boundary=None if near is None else take(near, _among(near.image_id, wanted)),
        )

    @cached_property
    def _segments_in_order(self) -> bool:
        return bool((np.diff(self.segments.image_id) >= 0).all())


Part = TypeVar("Part")


class Fold(Protocol[Part]):
    """A metric over blocks of images: `look` at each block, in threads; `add` its result, in order."""

    def look(self, matched: Matched) -> Part:
        """The contribution of a block of images. Pure, so blocks can be processed in any order and concurrently."""

    def add(self, part: Part) -> None:
        """Adds what `look` found. Blocks come in order of image ids: sums then run over the same terms in the same
        order, however the images are cut into blocks."""


Folded = TypeVar("Folded", bound=Fold[Any])


class Narrowed(Generic[Part]):
    """A fold over some of the images."""

    def __init__(self, fold: Fold[Part], images: Collection[int]) -> None:
        self._fold = fold
        self._images = images

    def look(self, matched: Matched) -> Part:
        """What the wanted images of a block add."""
        return self._fold.look(matched.only(self._images))

    def add(self, part: Part) -> None:
        """Adds it."""
        self._fold.add(part)


class Together(Generic[Folded]):
    """Several folds of one kind as one; `folds` has them."""

    def __init__(self, folds: Sequence[Folded]) -> None:
        self.folds = folds

    def look(self, matched: Matched) -> list[Any]:
        """What a block adds to each."""
        return [fold.look(matched) for fold in self.folds]

    def add(self, part: list[Any]) -> None:
        """Adds it."""
        for fold, own in zip(self.folds, part, strict=True):
            fold.add(own)


class FaultFold:
    """Where ground-truth PNGs and their JSON disagree; a `Fold`. `faults` counts them."""

    def __init__(self) -> None:
        self.faults = GroundTruthFaults()

    def look(self, matched: Matched) -> GroundTruthFaults:
        """The faults of a block of images."""
        return OverlapTable(matched.segments, matched.overlaps).ground_truth_faults()

    def add(self, part: GroundTruthFaults) -> None:
        """Adds them."""
        self.faults = self.faults + part


def one_to_one(first: Int, second: Int, order: Int) -> Int:
    """The pairs (first, second) kept when each row of either side is used once, in the given order."""
    taken: tuple[set[int], set[int]] = set(), set()
    chosen = []
    for pair, one, other in zip(order.tolist(), first[order].tolist(), second[order].tolist(), strict=True):
        if one not in taken[0] and other not in taken[1]:
            taken[0].add(one)
            taken[1].add(other)
            chosen.append(pair)
    return np.array(sorted(chosen), np.int64)


def positions(category_id: npt.NDArray[np.integer], categories: Sequence[Category]) -> Int:
    """The position of each category id in `categories`. Raises BadDataset when one is not there."""
    ids = np.array([category.id for category in categories], np.int64)
    if len(ids) and ids.min() >= 0 and ids.max() < MOST_LOOKED_UP:
        # Looking up is several times as fast as searching; ids on either side of the known ones end at -1.
        place = np.full(int(ids.max()) + 2, -1, np.int64)
        place[ids] = np.arange(len(ids))
        known: Int = place[np.clip(category_id, -1, int(ids.max()) + 1)]
        if (known >= 0).all():
            return known
    order = np.argsort(ids)
    # One entry more than there are categories, so that ids beyond the last have a place, too.
    found = np.append(order, -1)[np.searchsorted(ids[order], category_id)]
    strange = np.append(ids, 0)[found] != category_id
    strange |= found < 0
    if strange.any():
        unknown = sorted(set(category_id[strange].tolist()))
        raise BadDataset(
            f"Segments name category ids that the dataset does not list: {listed(unknown)}. Add them to `categories`."
        )
    return found


def _pairs_of(frame: pd.DataFrame) -> Pairs:
    return Pairs(
        frame["image_id"].to_numpy(np.int64),
        frame["gt_id"].to_numpy(np.int32),
        frame["pred_id"].to_numpy(np.int32),
        frame["pixels"].to_numpy(np.int64),
    )


def _in_order(pairs: Pairs) -> Pairs:
    image, gt, pred = pairs.image_id, pairs.gt_id, pairs.pred_id
    # Pairs are counted in this order and mostly come in it, and looking is far cheaper than sorting.
    same_image, same_gt = image[1:] == image[:-1], gt[1:] == gt[:-1]
    later_gt = (gt[1:] > gt[:-1]) | (same_gt & (pred[1:] >= pred[:-1]))
    if ((image[1:] > image[:-1]) | (same_image & later_gt)).all():
        return pairs
    return take(pairs, np.lexsort((pairs.pred_id, pairs.gt_id, pairs.image_id)))


def _among(values: Int, wanted: Int) -> Bool:
    """Whether each value is in `wanted`, which is ascending and distinct."""
    if not len(wanted):
        return np.zeros(len(values), np.bool_)
    place = np.searchsorted(wanted, values)
    place[place == len(wanted)] = 0
    return wanted[place] == values


def _bounds(values: Int, wanted: Int) -> tuple[Int, Int]:
    """Start and end of each wanted value in an ascending array."""
    return np.searchsorted(values, wanted, "left"), np.searchsorted(values, wanted, "right")


def _ranges(start: Int, stop: Int) -> Int:
    """start[0], …, stop[0] - 1, start[1], …"""
    length = stop - start
    return np.repeat(start - np.cumsum(length) + length, length) + np.arange(int(length.sum()))


def _moved(rows: Int, own: Int) -> Int:
    """Rows as positions in `own`, ascending, which holds all of them; -1 stays."""
    return np.where(rows < 0, -1, np.searchsorted(own, rows))


def _rows(segments: Segments, overlaps: Pairs) -> tuple[Int, Int]:
    """For each overlap, the row of its ground-truth segment and of its prediction in the segments, or -1."""
    sides = []
    for side, ids in ((segments.is_gt, overlaps.gt_id), (~segments.is_gt, overlaps.pred_id)):
        of_side = np.flatnonzero(side)
        row = find_rows(overlaps.image_id, ids, segments.image_id[side], segments.id[side])
        sides.append(np.where(row >= 0, np.append(of_side, -1)[row], -1))
    return sides[0], sides[1]


def _pixels_on_last_crowd(segments: Segments, overlaps: Pairs, gt_row: Int, pred_row: Int) -> Int:
    """Per segment: for predictions, their pixels on the crowd of their category that the JSON lists last.

    panopticapi keeps one crowd an image and category in a dictionary, so a later one replaces an earlier one.
    """
    pixels = np.zeros(len(segments), np.int64)
    crowds = np.flatnonzero(segments.is_gt & segments.iscrowd)
    if not len(crowds):
        return pixels
    # Reversed, so that the first of each (image, category) is the last listed.
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
    """For each pair, the IoU of the two boundaries; of the prediction's, what lies on void is left out of the union.

    boundary: rows (g, p) hold the boundary pixels of g and of p that coincide. The interior of a segment has the id
        INTERIOR (-1), so the whole boundary of g is the sum of all rows of g, whatever p is, void and interior
        included.
    """

    def area(ids: Int32, of: Int32, rows: Bool | slice = slice(None)) -> Int:
        """For each pair the sum of all rows of its segment: once a segment, then looked up for each pair."""
        wanted = distinct(pairs.image_id, of)
        row = find_rows(boundary.image_id[rows], ids[rows], *wanted)
        return sums_by_row(row, boundary.pixels[rows], len(wanted[0]))[find_rows(pairs.image_id, of, *wanted)]

    # A pair is looked up by three keys at once: numbered together, rows and pairs with the same keys get one number. A
    # pair whose boundaries do not meet has no row, so nothing is shared.
    both = [
        np.concatenate([getattr(boundary, name), getattr(pairs, name)]) for name in ("image_id", "gt_id", "pred_id")
    ]
    _, number = numbered(both)
    shared = np.bincount(number[: len(boundary)], weights=boundary.pixels, minlength=int(number.max(initial=-1)) + 1)
    shared = shared[number[len(boundary) :]]
    on_void = area(boundary.pred_id, pairs.pred_id, boundary.gt_id == VOID)
    union = area(boundary.gt_id, pairs.gt_id) + area(boundary.pred_id, pairs.pred_id) - shared - on_void
    # The boundary of a segment has a pixel at least, so the union has one.
    return shared / union


def numbered(keys: Sequence[Int] | Sequence[Int32]) -> tuple[list[Int], Int]:
    """The distinct rows of some columns in ascending order, and for each row the number of its like."""
    n = len(keys[0])
    joined = _joined(keys)
    order = np.lexsort(keys[::-1]) if joined is None else np.argsort(joined)
    new = np.zeros(n, np.bool_)
    new[:1] = True
    for key in keys if joined is None else [joined]:
        ordered = key[order]
        new[1:] |= ordered[1:] != ordered[:-1]
    group = np.empty(n, np.int64)
    group[order] = np.cumsum(new) - 1
    first = order[new]
    return [key[first].astype(np.int64) for key in keys], group


def _joined(keys: Sequence[Int] | Sequence[Int32]) -> Int | None:
    """One number for each row, in the order of the rows; None where it would not fit into 63 bits."""
    if not len(keys[0]):
        return None
    lowest, highest = [int(key.min()) for key in keys], [int(key.max()) for key in keys]
    if math.prod(high - low + 1 for low, high in zip(lowest, highest, strict=True)) >= 1 << 63:
        return None
    # Sorting one column takes a fraction of the time that sorting by several takes.
    joined = np.zeros(len(keys[0]), np.int64)
    for place, (low, high) in enumerate(zip(lowest, highest, strict=True)):
        joined = joined * (high - low + 1) + (keys[place].astype(np.int64) - low)
    return joined
