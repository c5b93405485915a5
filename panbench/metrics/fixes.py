"""What mending errors would win, in points of PQ: of one error alone, and of all errors of a cause and size.

metrics/errors.py gives each false positive, miss and imperfect mask a cause. The fix of a cause mends what belongs
together: a prediction over two objects is one error though it is several segments. So an *error* here is what one fix
mends at one place, and it has one cause, one category and one size: of its largest true object, or, where no object
belongs to it (a hallucination), of the prediction.

To mend an error is to do to the counts what its cause's fix does (CAUSES): false positives go, misses become matches,
a mask becomes exact. `gain` is PQ of All then, minus PQ of All now: the PQ of each category that the error touches is
computed again from Σ IoU, TP, FP and FN. A category that only had false positives counts as 1 once they are gone. The
errors of a cause and size are a *cell*; to mend a cell is to mend all of its errors. Cells share out all errors, but
their gains do not add up: a category's PQ is a quotient, and mending one thing changes what the next is worth. Within
a cell the categories add up. Cells are not cut by category: on COCO each then holds a few errors of a few images, and
what leads one half of the images does not lead the other.

The interval of a gain is that of PQ (metrics/jackknife.py): gain of all images and without each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.metrics.errors import CAUSES, IS_FN, IS_TP, VERDICT_NAMES, ErrorFold, assign_causes, codes
from panbench.metrics.jackknife import Jackknife
from panbench.metrics.matched import Matched, numbered, positions
from panbench.metrics.pq import ratio
from panbench.metrics.samples import EXACT_IMAGES, FEWEST_IMAGES, UNITS
from panbench.metrics.slices import SLICINGS
from panbench.panoptic.overlap import find_rows
from panbench.panoptic.types import VOID, Category

__all__ = ["SIZES", "FixFold", "cells_to_fix", "of_cell", "priced_errors"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SIZES = tuple(name.split(" ")[0] for name in SLICINGS["size"].names)
"""Small, medium and large, as COCO has them (`SLICINGS["size"]`)."""

_NAMES = tuple(cause.name for cause in CAUSES)

# An error of these causes is all that belongs to one prediction; of the others, all that belongs to one true object.
_OF_PREDICTION = tuple(cause.name in ("merged", "duplicate", "hallucinated") for cause in CAUSES)


def priced_errors(
    errors: pd.DataFrame, matched: Matched, categories: Sequence[Category], totals: tuple[Float, Float] | None = None
) -> pd.DataFrame:
    """Each error with what fixing it alone would win, the costliest first.

    errors: from `assign_causes` of `matched`
    totals: Σ IoU and TP + (FP + FN)/2 of each category, of all images that PQ is of where `matched` has only some
    Columns: image_id, cause, category_id, size (one of SIZES), gt_ids, pred_ids (tuples of the segments that belong to
    it; of a merged or split one, all of them), iou (of an imperfect mask; NaN else), gain. Ties are broken by image and
    by the order of the segments.
    """
    found = _Changes.of(errors, matched, categories)
    count, rows = len(found.cell), errors.iloc[found.wrong]
    now = _Now.of(found.base, len(categories)) if totals is None else _Now(*totals)
    gain = now.gains(found.number, found.delta, count)
    cause, size = np.divmod(found.cell, len(SIZES))
    sides = {f"{name}s": _members(rows[name].to_numpy(np.int64), found.number, count) for name in ("gt_id", "pred_id")}
    first = rows.iloc[found.first]
    table = pd.DataFrame(
        {
            "image_id": first["image_id"].to_numpy(np.int64),
            "cause": pd.Categorical.from_codes(cause, [one.name for one in CAUSES]),
            "category_id": np.array([one.id for one in categories], np.int64)[found.category],
            "size": pd.Categorical.from_codes(size, SIZES),
            **sides,
            "iou": np.where(first["verdict"] == "TP", first["iou"], np.nan),
            "gain": gain,
        }
    )
    order = np.lexsort((size, found.category, cause, -np.round(gain, 12)))
    return table.iloc[order].reset_index(drop=True)


def cells_to_fix(
    errors: pd.DataFrame,
    matched: Matched,
    categories: Sequence[Category],
    *,
    fewest: int = FEWEST_IMAGES,
    level: float = 0.95,
) -> pd.DataFrame:
    """The cells (cause, size) by what mending them would win, the best first.

    errors: from `assign_causes` of `matched`; fewest: cells with an error in fewer images are left out, as are those
    that win nothing
    Columns: cause, size, gain, low, high (its interval), errors, images (that hold one), and categories: of each in
    which PQ rises (category_id, gain, errors), the most first. Their gains add up to the cell's.
    """
    part = _Changes.of(errors, matched, categories).by_cell()
    sums = _CellSums.of([part], len(categories), matched.image_ids)
    return _listed(sums, categories, fewest, level)


def of_cell(errors: pd.DataFrame, cause: str, size: str) -> npt.NDArray[np.bool_]:
    """Which rows of `priced_errors` are of a cause and size."""
    of_cause = codes(errors["cause"], _NAMES) == _NAMES.index(cause)
    return of_cause & (codes(errors["size"], SIZES) == SIZES.index(size))


class FixFold:
    """`cells_to_fix` of images that come block by block, and what `ErrorFold` has of the same errors; a `Fold`.

    images: all that will come, ascending. It keeps some 50 bytes for each image, category and cell; of more than
    EXACT_IMAGES 16 bytes, and sums. of_images: as of `ErrorFold`
    """

    def __init__(self, categories: Sequence[Category], images: Int, of_images: bool = True) -> None:
        self.categories = tuple(categories)
        self.images = images
        self.explained = ErrorFold(self.categories, of_images)
        self._parts: list[_Part] = []
        self._grouped = _Grouped(len(self.categories), images) if len(images) > EXACT_IMAGES else None

    def look(self, matched: Matched) -> tuple[Any, _Part]:
        """The errors of a block, with their causes and what mending them changes."""
        errors = assign_causes(matched, self.categories)
        return self.explained.tally(errors), _Changes.of(errors, matched, self.categories).by_cell()

    def add(self, part: tuple[Any, _Part]) -> None:
        """Keeps what a block changes."""
        explained, changes = part
        self.explained.add(explained)
        if self._grouped is None:
            self._parts.append(changes)
        else:
            self._grouped.add(changes)

    def cells(self, fewest: int = FEWEST_IMAGES, level: float = 0.95) -> pd.DataFrame:
        """`cells_to_fix` of all that was added."""
        return _listed(self._sums(), self.categories, fewest, level)

    def errors(self) -> int:
        """How many errors were added."""
        return self._sums().errors.sum().item() if self._grouped is None else self._grouped.errors.sum().item()

    def now(self) -> tuple[Float, Float]:
        """Σ IoU and TP + (FP + FN)/2 of each category, as `priced_errors` takes them."""
        now = self._sums().now if self._grouped is None else self._grouped.now
        return now.iou, now.whole

    def _sums(self) -> _CellSums:
        if self._grouped is None:
            return _CellSums.of(self._parts, len(self.categories), self.images)
        return self._grouped.sums()


def _listed(sums: _CellSums, categories: Sequence[Category], fewest: int, level: float) -> pd.DataFrame:
    if not 0 < level < 1:
        raise BadArgument(f"level must lie between 0 and 1, not {level}.")
    chosen = sums.best(fewest)
    low, high = sums.intervals(chosen, level)
    cause, size = np.divmod(sums.cells[chosen], len(SIZES))
    return pd.DataFrame(
        {
            "cause": np.array(_NAMES, object)[cause],
            "size": np.array(SIZES, object)[size],
            "gain": sums.gain[chosen].sum(axis=1),
            "low": low,
            "high": high,
            "errors": sums.errors[chosen].sum(axis=1),
            "images": sums.images[chosen],
            "categories": [_of_categories(sums.gain[one], sums.errors[one], categories) for one in chosen.tolist()],
        }
    )


def _of_categories(gain: Float, errors: Int, categories: Sequence[Category]) -> tuple[tuple[int, float, int], ...]:
    """(category_id, gain, errors) of the categories of a cell that gain, the most first."""
    order = np.argsort(-np.round(gain, 12), kind="stable")
    return tuple((categories[one].id, gain[one].item(), errors[one].item()) for one in order if gain[one] > 1e-12)


@dataclass(frozen=True)
class _Sums:
    """Columns that add to Σ IoU, TP and FP + FN; `image` and `category` (a position) say of what."""

    image: Int
    category: Int
    iou: Float
    hits: Int
    mistakes: Int

    @property
    def whole(self) -> Float:
        """TP + (FP + FN)/2, PQ's divisor."""
        return self.hits + self.mistakes / 2

    def take(self, rows: Int) -> _Sums:
        """Some of the rows."""
        return _Sums(self.image[rows], self.category[rows], self.iou[rows], self.hits[rows], self.mistakes[rows])

    def grouped(self, *keys: Int) -> tuple[_Sums, list[Int]]:
        """Rows with the same keys added up, in the order of the keys, and the keys; the first two are image and
        category."""
        distinct, place = numbered(keys)
        n = len(distinct[0])
        iou = np.bincount(place, self.iou, n).astype(np.float64)
        hits, mistakes = (np.bincount(place, one, n).astype(np.int64) for one in (self.hits, self.mistakes))
        return _Sums(distinct[0], distinct[1], iou, hits, mistakes), distinct

    @staticmethod
    def joined(parts: Sequence[_Sums]) -> _Sums:
        """The rows of all, in their order."""
        columns = zip(*((one.image, one.category, one.iou, one.hits, one.mistakes) for one in parts), strict=True)
        return _Sums(*(np.concatenate(column) for column in columns))


@dataclass(frozen=True)
class _Now:
    """PQ's sums of each category as they are."""

    iou: Float
    whole: Float

    @staticmethod
    def of(base: _Sums, categories: int) -> _Now:
        sums = (np.bincount(base.category, one, categories).astype(np.float64) for one in (base.iou, base.whole))
        return _Now(*sums)

    @property
    def held(self) -> int:
        """How many categories have a TP, FP or FN: so many is PQ of All the mean of."""
        return int((self.whole > 0).sum())

    def gains(self, number: Int, delta: _Sums, count: int) -> Float:
        """(count,) ΔPQ of All of each of the numbered groups of changes."""
        group, _, gained = self._gained(number, delta)
        return np.bincount(group, gained, count).astype(np.float64)

    def gains_by_category(self, number: Int, delta: _Sums, count: int) -> Float:
        """(count, categories): the same, by the category whose PQ rises."""
        found = np.zeros((count, len(self.whole)))
        group, touched, gained = self._gained(number, delta)
        found[group, touched] = gained
        return found

    def _gained(self, number: Int, delta: _Sums) -> tuple[Int, Int, Float]:
        (group, touched), place = numbered([number, delta.category])
        iou, whole = (np.bincount(place, one, len(group)) for one in (delta.iou, delta.whole))
        before = _pq(self.iou[touched], self.whole[touched])
        gained = _pq(self.iou[touched] + iou, self.whole[touched] + whole) - before
        return group, touched, gained / max(self.held, 1)


def _pq(iou: Float, whole: Float) -> Float:
    """Σ IoU / (TP + (FP + FN)/2), and 1 where nothing is left to be wrong."""
    # A divisor is a multiple of a half, but for rounding.
    return ratio(iou, np.where(whole > 0.25, whole, 0.0), empty=1.0)


@dataclass(frozen=True)
class _Part:
    """What mending changes in some images.

    base: one row an image and category; delta: one row an image, category and cell; cell: of each row of `delta`
    errors: (cell, image, category) of each error
    """

    base: _Sums
    delta: _Sums
    cell: Int
    errors: tuple[Int, Int, Int]


@dataclass(frozen=True)
class _Changes:
    """The errors of some images, and what mending each changes.

    base: one row a TP, FP and FN; wrong: those of them that belong to an error
    delta: one row for each of `wrong`; number: the error of each
    cell: of each error, cause and size in one number; category: its position; first: the row of `wrong` that stands
    for it
    """

    base: _Sums
    wrong: Int
    delta: _Sums
    number: Int
    cell: Int
    category: Int
    first: Int

    @staticmethod
    def of(errors: pd.DataFrame, matched: Matched, categories: Sequence[Category]) -> _Changes:
        image, iou = errors["image_id"].to_numpy(np.int64), errors["iou"].to_numpy(np.float64)
        category = positions(errors["category_id"].to_numpy(np.int64), categories)
        verdict = codes(errors["verdict"], VERDICT_NAMES)
        found, missed = verdict == IS_TP, verdict == IS_FN
        base = _Sums(image, category, np.where(found, iou, 0.0), found.astype(np.int64), (~found).astype(np.int64))
        wrong = np.flatnonzero(~(found & (iou == 1)))
        found, missed = found[wrong], missed[wrong]
        regained = np.select([missed, found], [iou[wrong], 1 - iou[wrong]], 0.0)
        delta = _Sums(image[wrong], category[wrong], regained, missed.astype(np.int64), -(~found).astype(np.int64))
        cause = codes(errors["cause"], [one.name for one in CAUSES])[wrong]
        gt_id, pred_id = (errors[name].to_numpy(np.int64)[wrong] for name in ("gt_id", "pred_id"))
        anchor = np.where(np.array(_OF_PREDICTION)[cause], pred_id, gt_id)
        number = numbered([delta.image, cause, anchor])[1]
        area = _areas(delta.image, gt_id, pred_id, matched)
        # A true object stands for its error before a false positive does, and a large one before a small one.
        later = np.where(found | missed, 0, int(area.max(initial=0)) + 1) - area
        order = _by(number, later)
        first = order[np.searchsorted(number[order], np.arange(int(number.max(initial=-1)) + 1))]
        size = SLICINGS["size"].place(area[first])
        return _Changes(base, wrong, delta, number, cause[first] * len(SIZES) + size, delta.category[first], first)

    def by_cell(self) -> _Part:
        """All that cells need of it."""
        base, _ = self.base.grouped(self.base.image, self.base.category)
        delta, (_, _, cell) = self.delta.grouped(self.delta.image, self.delta.category, self.cell[self.number])
        return _Part(base, delta, cell, (self.cell, self.delta.image[self.first], self.category))


def _by(first: Int, then: Int) -> Int:
    """The order of rows by two columns, rows that are alike in both as they come."""
    low, high = int(then.min(initial=0)), int(then.max(initial=0))
    if (int(first.max(initial=0)) + 1) * (high - low + 1) >= 1 << 63:
        return np.lexsort((then, first))
    return np.argsort(first * (high - low + 1) + (then - low), kind="stable")


def _areas(image: Int, gt_id: Int, pred_id: Int, matched: Matched) -> Int:
    """Area of the true object for each row of errors; of the prediction itself where it belongs to no object."""
    segments, area = matched.segments, np.zeros(len(image), np.int64)
    for side, ids, rows in ((segments.is_gt, gt_id, gt_id != VOID), (~segments.is_gt, pred_id, gt_id == VOID)):
        own = np.flatnonzero(side)
        row = find_rows(image[rows], ids[rows].astype(np.int32), segments.image_id[own], segments.id[own])
        area[rows] = np.where(row >= 0, np.append(segments.area[own], 0)[row], 0)
    return area


def _members(ids: Int, number: Int, count: int) -> list[tuple[int, ...]]:
    """The ids, each once, of the rows that have each number; VOID is none."""
    known = np.flatnonzero(ids != VOID)
    (owner, member), group = numbered([number[known], ids[known]])
    first = np.full(len(owner), len(ids), np.int64)
    np.minimum.at(first, group, known)
    order = np.lexsort((first, owner))
    members, edges = member[order].tolist(), np.cumsum([0, *np.bincount(owner, minlength=count)]).tolist()
    return [tuple(members[start:stop]) for start, stop in pairwise(edges)]


@dataclass(frozen=True)
class _CellSums:
    """What mending each cell changes, unit by unit. A unit is an image, or of very many a group of them, as `Sample`'s.

    cells: those with an error; images: of each; gain, errors: of each by category
    base: one row a unit and category; delta: one row a unit, category and cell, whose place in `cells` is in `place`
    """

    cells: Int
    gain: Float
    errors: Int
    images: Int
    now: _Now
    base: _Sums
    delta: _Sums
    place: Int
    units: int

    @staticmethod
    def of(parts: Sequence[_Part], categories: int, images: Int) -> _CellSums:
        base, delta = (_Sums.joined([getattr(part, name) for part in parts]) for name in ("base", "delta"))
        now = _Now.of(base, categories)
        cells, place = np.unique(np.concatenate([part.cell for part in parts]), return_inverse=True)
        columns = zip(*(part.errors for part in parts), strict=True)
        of_errors, image, category = (np.concatenate(column) for column in columns)
        of_errors = np.searchsorted(cells, of_errors)
        errors = np.bincount(of_errors * categories + category, minlength=len(cells) * categories)
        (held, _), _ = numbered([of_errors, image])
        unit = np.arange(len(images)) % (UNITS if len(images) > EXACT_IMAGES else max(len(images), 1))
        by_unit, _ = base.grouped(unit[np.searchsorted(images, base.image)], base.category)
        changes, keys = delta.grouped(unit[np.searchsorted(images, delta.image)], delta.category, place)
        return _CellSums(
            cells=cells,
            gain=now.gains_by_category(place, delta, len(cells)),
            errors=errors.reshape(-1, categories),
            images=np.bincount(held, minlength=len(cells)),
            now=now,
            base=by_unit,
            delta=changes,
            place=keys[2],
            units=int(unit.max(initial=-1)) + 1,
        )

    def best(self, fewest: int) -> Int:
        """The places of cells with an error in at least `fewest` images, by what they win, then as CAUSES are."""
        # Equal gains can differ in the last bit: what was added up in another order is no better.
        gain = np.round(self.gain.sum(axis=1), 12)
        order = np.lexsort((self.cells, -gain))
        return order[(gain[order] > 1e-12) & (self.images[order] >= fewest)]

    def intervals(self, chosen: Int, level: float) -> tuple[Float, Float]:
        """(low, high) of the gain of some cells; NaN where fewer than FEWEST_IMAGES images hold one of its errors."""
        if not len(chosen):
            return np.zeros(0), np.zeros(0)
        found = [self._without_each(place) for place in chosen.tolist()]
        left_out, corrections = (np.stack(column) for column in zip(*found, strict=True))
        gain = self.gain[chosen].sum(axis=1)
        low, high = Jackknife(gain, left_out, corrections, np.zeros(len(chosen))).estimate().ends(level)
        enough = self.images[chosen] >= FEWEST_IMAGES
        # Mending never lowers PQ: what was missed becomes a match with an IoU above half of any PQ.
        return tuple(np.where(enough, np.clip(end, 0, 1), np.nan) for end in (low, high))  # type: ignore[return-value]

    def _without_each(self, place: int) -> tuple[Float, Float]:
        """The gain of one cell without each unit, and what each category adds to the correction for bias."""
        own = np.flatnonzero(self.place == place)
        delta = self.delta.take(own)
        categories, held = len(self.now.whole), max(self.now.held, 1)
        # What the cell changes, of each category that it touches and of each unit and category, 0 mostly.
        is_touched = np.zeros(categories, np.bool_)
        is_touched[delta.category] = True
        rows = np.flatnonzero(is_touched[self.base.category])
        base = self.base.take(rows)
        unit, category = base.image, base.category
        iou, whole = np.zeros(len(rows)), np.zeros(len(rows))
        at = np.searchsorted(unit * categories + category, delta.image * categories + delta.category)
        iou[at], whole[at] = delta.iou, delta.whole
        total_iou, total = (np.bincount(category, one, categories) for one in (iou, whole))
        gained = _pq(self.now.iou + total_iou, self.now.whole + total) - _pq(self.now.iou, self.now.whole)
        # Without a unit: a category that only this unit holds is not in the mean any more.
        left_iou, left = self.now.iou[category] - base.iou, self.now.whole[category] - base.whole
        after = _pq(left_iou + total_iou[category] - iou, left + total[category] - whole)
        change = np.where(left <= 0.25, 0.0, after - _pq(left_iou, left)) - gained[category]
        without = gained.sum() + np.bincount(unit, change, self.units)
        gone_of_unit, gone_of_category = self._gone
        left_out = without / np.maximum(held - gone_of_unit, 1)
        mean = gained.sum() / held
        bias = np.bincount(category, change, categories) + gone_of_category * mean
        return left_out, -bias * (1 - 1 / self.units) / held

    @cached_property
    def _gone(self) -> tuple[Float, Float]:
        """How many categories each unit alone holds, and how many units hold each category alone."""
        unit, category, categories = self.base.image, self.base.category, len(self.now.whole)
        gone = (self.now.whole[category] - self.base.whole <= 0.25).astype(np.float64)
        of_unit, of_category = np.bincount(unit, gone, self.units), np.bincount(category, gone, categories)
        return of_unit.astype(np.float64), of_category.astype(np.float64)


class _Grouped:
    """`_CellSums` of images that come block by block, in little memory: units are groups of images.

    What an image adds to a cell is kept, in 18 bytes. All else is added up term by term in the order of `_CellSums.of`,
    so the numbers are the same.
    """

    def __init__(self, categories: int, images: Int) -> None:
        cells = len(CAUSES) * len(SIZES)
        self._images, self._categories = images, categories
        self._base = np.zeros((3, UNITS * categories))
        self.now = _Now(np.zeros(categories), np.zeros(categories))
        self.errors = np.zeros((cells, categories), np.int64)
        self._with_error = np.zeros(cells, np.int64)
        self._kept: list[tuple[npt.NDArray[Any], ...]] = []

    def add(self, part: _Part) -> None:
        """Adds what mending changes in a block of images."""
        base, delta = part.base, part.delta
        place = np.searchsorted(self._images, base.image) % UNITS * self._categories + base.category
        for sums, values in zip(self._base, (base.iou, base.hits, base.mistakes), strict=True):
            np.add.at(sums, place, values.astype(np.float64))
        np.add.at(self.now.iou, base.category, base.iou)
        np.add.at(self.now.whole, base.category, base.whole)
        cell, image, category = part.errors
        np.add.at(self.errors, (cell, category), 1)
        (held, _), _ = numbered([cell, image])
        self._with_error += np.bincount(held, minlength=len(self._with_error))
        unit = np.searchsorted(self._images, delta.image) % UNITS
        columns = (unit, delta.category, part.cell, delta.hits, delta.mistakes)
        self._kept.append((*(column.astype(np.int16) for column in columns), delta.iou))

    def sums(self) -> _CellSums:
        """The sums of all cells."""
        columns = [np.concatenate([block[column] for block in self._kept]) for column in range(6)]
        unit, category, cell, hits, mistakes = (column.astype(np.int64) for column in columns[:5])
        delta = _Sums(unit, category, columns[5], hits, mistakes)
        cells = np.flatnonzero(self._with_error)
        held = np.flatnonzero(self._base[1] + self._base[2])
        iou, hit, mistaken = self._base[:, held]
        base = _Sums(*np.divmod(held, self._categories), iou, hit.astype(np.int64), mistaken.astype(np.int64))
        place = np.searchsorted(cells, cell)
        changes, keys = delta.grouped(unit, category, place)
        return _CellSums(
            cells=cells,
            gain=self.now.gains_by_category(place, delta, len(cells)),
            errors=self.errors[cells],
            images=self._with_error[cells],
            now=self.now,
            base=base,
            delta=changes,
            place=keys[2],
            units=UNITS,
        )
