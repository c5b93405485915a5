"""Computes how much PQ rises if errors are fixed: each error alone, and all errors of a cause and size together.

metrics/errors.py assigns a cause to each false positive, miss and imperfect mask. A fix corrects all segments that
belong together: a prediction over two objects is one error although it involves several segments. So an *error* here is
what one fix corrects, and it has one cause, one category and one size: of its largest true object, or of the prediction
if no object belongs to it (a hallucination).

Fixing an error changes the counts as its cause's fix says (CAUSES): false positives are removed, misses become matches,
masks become exact. `gain` is PQ of All after the fix minus before: PQ of each affected category is recomputed from
Σ IoU, TP, FP and FN. A category that only had false positives counts as 1 once they are removed. The errors of one
cause and size are a *cell*. Each error is in one cell, but the gains of cells do not add up, since a category's PQ is a
quotient. Within a cell the gains of categories add up. Cells are not divided by category: on COCO they would have few
errors from few images, and the ranking would differ between halves of the images.

The interval of a gain is the jackknife's (metrics/jackknife.py), from the gain on all images and without each of them.
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
from panbench.metrics.errors import CAUSES, IS_FN, IS_TP, VERDICT_NAMES, ErrorAccumulator, assign_causes, codes
from panbench.metrics.jackknife import Jackknife
from panbench.metrics.matched import Matched, numbered, positions
from panbench.metrics.pq import ratio
from panbench.metrics.samples import EXACT_IMAGES, FEWEST_IMAGES, UNITS
from panbench.metrics.slices import SLICINGS
from panbench.panoptic.overlap import find_rows
from panbench.panoptic.types import VOID, Category

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SIZES = tuple(name.split(" ")[0] for name in SLICINGS["size"].names)
"""COCO's sizes: small, medium and large (`SLICINGS["size"]`)."""

_NAMES = tuple(cause.name for cause in CAUSES)

# Errors of these causes consist of everything that belongs to one prediction; others, to one true object.
_OF_PREDICTION = tuple(cause.name in ("merged", "duplicate", "hallucinated") for cause in CAUSES)


def priced_errors(
    errors: pd.DataFrame, matched: Matched, categories: Sequence[Category], totals: tuple[Float, Float] | None = None
) -> pd.DataFrame:
    """Returns one row per error with its gain: how much PQ rises if it alone is fixed. The costliest come first.

    errors: from `assign_causes` of `matched`
    totals: Σ IoU and TP + (FP + FN)/2 of each category over all images of the run, if `matched` has only some of them
    Columns: image_id, cause, category_id, size (one of SIZES), gt_ids, pred_ids (tuples of all segments of the error),
    iou (of an imperfect mask; else NaN), gain. Ties are broken by image and by the order of the segments.
    """
    found = _ErrorFixes.of(errors, matched, categories)
    count, rows = len(found.cell), errors.iloc[found.wrong]
    now = _PQTotals.of(found.base, len(categories)) if totals is None else _PQTotals(*totals)
    gain = now.pq_gains(found.number, found.delta, count)
    cause, size = np.divmod(found.cell, len(SIZES))
    sides = {
        f"{name}s": _ids_by_error(rows[name].to_numpy(np.int64), found.number, count) for name in ("gt_id", "pred_id")
    }
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
    """Returns how much PQ rises if all errors of one cause and size are fixed, for each pair of cause and size.

    Such a pair is a cell. The largest gain comes first.
    errors: from `assign_causes` of `matched`
    fewest: cells with errors in fewer images are left out, as are cells without gain
    Columns: cause, size, gain, low, high (its interval), errors (how many), images (with such an error), and
    categories: (category_id, gain, errors) of each category whose PQ rises, the largest gain first; these add up to the
    cell's gain.
    """
    grouped = _CellAccumulator(len(categories), matched.image_ids)
    grouped.add(_ErrorFixes.of(errors, matched, categories).by_cell())
    return _cells_to_fix_table(grouped.sums(), categories, fewest, level)


def in_cell(errors: pd.DataFrame, cause: str, size: str) -> npt.NDArray[np.bool_]:
    """Marks the errors, rows of the table of `priced_errors`, that have the given cause and size."""
    of_cause = codes(errors["cause"], _NAMES) == _NAMES.index(cause)
    return of_cause & (codes(errors["size"], SIZES) == SIZES.index(size))


class FixAccumulator:
    """Computes how much PQ rises if errors of each cause and size are fixed, from one chunk of images at a time.

    It is an `Accumulator` for `cells_to_fix`; `explained` is an `ErrorAccumulator` of the same errors.
    images: the ids of all images of the run, ascending; of_images: as in `ErrorAccumulator`
    It stores 18 bytes per image, category and cell, and sums.
    """

    def __init__(self, categories: Sequence[Category], images: Int, of_images: bool = True) -> None:
        """Starts with no errors counted."""
        self.categories = tuple(categories)
        self.images = images
        self.explained = ErrorAccumulator(self.categories, of_images)
        self._accumulator = _CellAccumulator(len(self.categories), images)

    def map_chunk(self, matched: Matched) -> tuple[Any, _ChunkChanges]:
        """Finds the errors in a chunk of images, and how fixing them changes Σ IoU, TP, FP and FN."""
        errors = assign_causes(matched, self.categories)
        return self.explained.tally(errors), _ErrorFixes.of(errors, matched, self.categories).by_cell()

    def add(self, part: tuple[Any, _ChunkChanges]) -> None:
        """Adds the errors of a chunk of images, and what fixing them changes, to the totals."""
        explained, changes = part
        self.explained.add(explained)
        self._accumulator.add(changes)

    def cells(self, fewest: int = FEWEST_IMAGES, level: float = 0.95) -> pd.DataFrame:
        """Returns the PQ gained if all errors of one cause and size are fixed, for each such pair.

        The table of `cells_to_fix`.
        """
        return _cells_to_fix_table(self._accumulator.sums(), self.categories, fewest, level)

    def errors(self) -> int:
        """Returns the number of errors in all images."""
        return self._accumulator.errors.sum().item()

    def now(self) -> tuple[Float, Float]:
        """Returns Σ IoU and TP + (FP + FN)/2 of each category over all images, with no error fixed.

        `priced_errors` takes them as `totals`.
        """
        return self._accumulator.now.iou, self._accumulator.now.weight


def _cells_to_fix_table(sums: _CellSums, categories: Sequence[Category], fewest: int, level: float) -> pd.DataFrame:
    """Makes the table of the PQ gained by fixing errors of each cause and size (`cells_to_fix`)."""
    if not 0 < level < 1:
        raise BadArgument(f"level must lie between 0 and 1, not {level}.")
    chosen = sums.costliest_cells(fewest)
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
            "categories": [
                _categories_with_pq_gain(sums.gain[one], sums.errors[one], categories) for one in chosen.tolist()
            ],
        }
    )


def _categories_with_pq_gain(
    gain: Float, errors: Int, categories: Sequence[Category]
) -> tuple[tuple[int, float, int], ...]:
    """Returns (category_id, gain, errors) of each category whose PQ rises by a fix, the largest gain first."""
    order = np.argsort(-np.round(gain, 12), kind="stable")
    return tuple((categories[one].id, gain[one].item(), errors[one].item()) for one in order if gain[one] > 1e-12)


@dataclass(frozen=True)
class _Sums:
    """Σ IoU, TP and FP + FN by image and category, one row each: totals, or changes by fixing errors.

    category: index into `categories`
    """

    image: Int
    category: Int
    iou: Float
    hits: Int
    mistakes: Int

    @property
    def weight(self) -> Float:
        """TP + (FP + FN)/2 of each row, the divisor of PQ."""
        return self.hits + self.mistakes / 2

    def take(self, rows: Int) -> _Sums:
        """Selects rows by number."""
        return _Sums(self.image[rows], self.category[rows], self.iou[rows], self.hits[rows], self.mistakes[rows])

    def grouped(self, *keys: Int) -> tuple[_Sums, list[Int]]:
        """Sums rows that have equal keys; returns the sums and the distinct keys, in ascending order.

        keys: columns; the first two become image and category of the result
        """
        distinct, index = numbered(keys)
        n = len(distinct[0])
        iou = np.bincount(index, self.iou, n).astype(np.float64)
        hits, mistakes = (np.bincount(index, one, n).astype(np.int64) for one in (self.hits, self.mistakes))
        return _Sums(distinct[0], distinct[1], iou, hits, mistakes), distinct


@dataclass(frozen=True)
class _PQTotals:
    """Σ IoU and PQ's divisor TP + (FP + FN)/2 of each category over all images, before any error is fixed."""

    iou: Float
    weight: Float

    @staticmethod
    def of(base: _Sums, categories: int) -> _PQTotals:
        """Sums Σ IoU and TP + (FP + FN)/2 of each category over all images."""
        sums = (np.bincount(base.category, one, categories).astype(np.float64) for one in (base.iou, base.weight))
        return _PQTotals(*sums)

    @property
    def counted_categories(self) -> int:
        """The number of categories that count in PQ of All: those with a TP, FP or FN."""
        return int((self.weight > 0).sum())

    def pq_gains(self, number: Int, delta: _Sums, count: int) -> Float:
        """Returns how much PQ of All rises if each group of errors is fixed, (count,).

        delta: what the fixes change; number: the group of each row of `delta`
        """
        group, _, gained = self._pq_gain_per_category(number, delta)
        return np.bincount(group, gained, count).astype(np.float64)

    def pq_gains_by_category(self, number: Int, delta: _Sums, count: int) -> Float:
        """Returns how much each category adds to the rise of PQ if a group of errors is fixed, (count, categories).

        Arguments as in `pq_gains`.
        """
        found = np.zeros((count, len(self.weight)))
        group, touched, gained = self._pq_gain_per_category(number, delta)
        found[group, touched] = gained
        return found

    def _pq_gain_per_category(self, number: Int, delta: _Sums) -> tuple[Int, Int, Float]:
        """Returns each category's share of the PQ gained by fixing a group of errors.

        As columns: group, index of the category and its contribution. Arguments as in `pq_gains`.
        """
        (group, touched), index = numbered([number, delta.category])
        iou, weight = (np.bincount(index, one, len(group)) for one in (delta.iou, delta.weight))
        before = _pq_of_sums(self.iou[touched], self.weight[touched])
        gained = _pq_of_sums(self.iou[touched] + iou, self.weight[touched] + weight) - before
        return group, touched, gained / max(self.counted_categories, 1)


def _pq_of_sums(iou: Float, weight: Float) -> Float:
    """Returns Σ IoU / (TP + (FP + FN)/2); 1 where the divisor is 0."""
    # Up to rounding, divisors are multiples of ½.
    return ratio(iou, np.where(weight > 0.25, weight, 0.0), empty=1.0)


@dataclass(frozen=True)
class _ChunkChanges:
    """Changes of Σ IoU, TP and FP + FN if the errors in some images are fixed.

    base: the sums before, one row per image and category
    delta: the changes, one row per image, category and cell; cell: of each row of `delta`
    errors: (cell, image, category) of each error, as columns
    """

    base: _Sums
    delta: _Sums
    cell: Int
    errors: tuple[Int, Int, Int]


@dataclass(frozen=True)
class _ErrorFixes:
    """The errors of some images, and how fixing each changes Σ IoU, TP and FP + FN.

    base: one row per TP, FP and FN; wrong: the rows of `base` that belong to errors
    delta: the changes, one row for each of `wrong`; number: the error of each row
    cell, category: of each error: cause · sizes + size, and the index of its category
    first: of each error, the row of `wrong` that determines size and category
    """

    base: _Sums
    wrong: Int
    delta: _Sums
    number: Int
    cell: Int
    category: Int
    first: Int

    @staticmethod
    def of(errors: pd.DataFrame, matched: Matched, categories: Sequence[Category]) -> _ErrorFixes:
        """Computes how fixing each error changes Σ IoU, TP and FP + FN.

        errors: from `assign_causes`; several of its rows can belong to one error
        """
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
        area = _error_areas(delta.image, gt_id, pred_id, matched)
        # An error's size and category are those of its largest true object; without one, of its largest prediction.
        later = np.where(found | missed, 0, int(area.max(initial=0)) + 1) - area
        order = _fast_lexsort(number, later)
        first = order[np.searchsorted(number[order], np.arange(int(number.max(initial=-1)) + 1))]
        size = SLICINGS["size"].bins(area[first])
        return _ErrorFixes(base, wrong, delta, number, cause[first] * len(SIZES) + size, delta.category[first], first)

    def by_cell(self) -> _ChunkChanges:
        """Sums the effects of fixing errors by image, category, error cause and size."""
        base, _ = self.base.grouped(self.base.image, self.base.category)
        delta, (_, _, cell) = self.delta.grouped(self.delta.image, self.delta.category, self.cell[self.number])
        return _ChunkChanges(base, delta, cell, (self.cell, self.delta.image[self.first], self.category))


def _fast_lexsort(first: Int, then: Int) -> Int:
    """Returns the order that sorts rows by two integer columns, as np.lexsort((then, first)) does, but faster."""
    low, high = int(then.min(initial=0)), int(then.max(initial=0))
    if (int(first.max(initial=0)) + 1) * (high - low + 1) >= 1 << 63:
        return np.lexsort((then, first))
    return np.argsort(first * (high - low + 1) + (then - low), kind="stable")


def _error_areas(image: Int, gt_id: Int, pred_id: Int, matched: Matched) -> Int:
    """Returns the area of each error's true object, or of its prediction if it has no object."""
    segments, area = matched.segments, np.zeros(len(image), np.int64)
    for side, ids, rows in ((segments.is_gt, gt_id, gt_id != VOID), (~segments.is_gt, pred_id, gt_id == VOID)):
        own = np.flatnonzero(side)
        row = find_rows(image[rows], ids[rows].astype(np.int32), segments.image_id[own], segments.id[own])
        area[rows] = np.where(row >= 0, np.append(segments.area[own], 0)[row], 0)
    return area


def _ids_by_error(ids: Int, number: Int, count: int) -> list[tuple[int, ...]]:
    """Returns the distinct segment ids of each error, in the order of its rows, without VOID.

    number: the error of each row; count: the number of errors
    """
    known = np.flatnonzero(ids != VOID)
    (owner, member), group = numbered([number[known], ids[known]])
    first = np.full(len(owner), len(ids), np.int64)
    np.minimum.at(first, group, known)
    order = np.lexsort((first, owner))
    members, edges = member[order].tolist(), np.cumsum([0, *np.bincount(owner, minlength=count)]).tolist()
    return [tuple(members[start:stop]) for start, stop in pairwise(edges)]


@dataclass(frozen=True)
class _CellSums:
    """The effects of fixing all errors of each cause and size, by resampling unit (an image or a group of images).

    cells: the pairs of cause and size that have an error; images: how many images have one
    gain, errors: (cells, categories)
    base: the sums before, one row per unit and category
    delta: the changes, one row per unit, category and cell; index: the index in `cells` of each row
    units: the number of units
    """

    cells: Int
    gain: Float
    errors: Int
    images: Int
    now: _PQTotals
    base: _Sums
    delta: _Sums
    index: Int
    units: int

    def costliest_cells(self, fewest: int) -> Int:
        """Ranks pairs of error cause and size by the PQ gained if they are fixed; returns their indices.

        Indices in `cells`: only of pairs that gain something and have errors in at least `fewest` images.
        """
        # Rounded, as equal gains that were added up in another order can differ in the last bit.
        gain = np.round(self.gain.sum(axis=1), 12)
        order = np.lexsort((self.cells, -gain))
        return order[(gain[order] > 1e-12) & (self.images[order] >= fewest)]

    def intervals(self, chosen: Int, level: float) -> tuple[Float, Float]:
        """Returns the interval (low, high) of the PQ gained by fixing each chosen pair of cause and size.

        NaN if fewer than FEWEST_IMAGES images have such errors.
        """
        if not len(chosen):
            return np.zeros(0), np.zeros(0)
        found = [self._gain_without_each_unit(index) for index in chosen.tolist()]
        left_out, corrections = (np.stack(column) for column in zip(*found, strict=True))
        gain = self.gain[chosen].sum(axis=1)
        low, high = Jackknife(gain, left_out, corrections, np.zeros(len(chosen))).estimate().ends(level)
        enough = self.images[chosen] >= FEWEST_IMAGES
        # Clipped at 0, as a fix never lowers PQ: a miss becomes a match with an IoU above half of any PQ.
        return tuple(np.where(enough, np.clip(end, 0, 1), np.nan) for end in (low, high))  # type: ignore[return-value]

    def _gain_without_each_unit(self, index: int) -> tuple[Float, Float]:
        """Returns the PQ gained by fixing errors of one cause and size, with each image left out in turn.

        Also returns each category's bias correction.
        In large runs groups of images are left out. index: in `cells`
        """
        own = np.flatnonzero(self.index == index)
        delta = self.delta.take(own)
        categories, held = len(self.now.weight), max(self.now.counted_categories, 1)
        # The changes of the cell in the categories that it affects, aligned with the rows of `base`; mostly 0.
        is_touched = np.zeros(categories, np.bool_)
        is_touched[delta.category] = True
        rows = np.flatnonzero(is_touched[self.base.category])
        base = self.base.take(rows)
        unit, category = base.image, base.category
        iou, weight = np.zeros(len(rows)), np.zeros(len(rows))
        at = np.searchsorted(unit * categories + category, delta.image * categories + delta.category)
        iou[at], weight[at] = delta.iou, delta.weight
        total_iou, total = (np.bincount(category, one, categories) for one in (iou, weight))
        gained = _pq_of_sums(self.now.iou + total_iou, self.now.weight + total) - _pq_of_sums(
            self.now.iou, self.now.weight
        )
        # Without a unit, a category that only this unit contains drops out of the mean.
        left_iou, left = self.now.iou[category] - base.iou, self.now.weight[category] - base.weight
        after = _pq_of_sums(left_iou + total_iou[category] - iou, left + total[category] - weight)
        change = np.where(left <= 0.25, 0.0, after - _pq_of_sums(left_iou, left)) - gained[category]
        without = gained.sum() + np.bincount(unit, change, self.units)
        gone_of_unit, gone_of_category = self._categories_of_one_unit
        left_out = without / np.maximum(held - gone_of_unit, 1)
        mean = gained.sum() / held
        bias = np.bincount(category, change, categories) + gone_of_category * mean
        return left_out, -bias * (1 - 1 / self.units) / held

    @cached_property
    def _categories_of_one_unit(self) -> tuple[Float, Float]:
        """Counts each image's categories that occur in no other image, and flags these categories.

        In large runs units are groups of images.
        """
        unit, category, categories = self.base.image, self.base.category, len(self.now.weight)
        gone = (self.now.weight[category] - self.base.weight <= 0.25).astype(np.float64)
        of_unit, of_category = np.bincount(unit, gone, self.units), np.bincount(category, gone, categories)
        return of_unit.astype(np.float64), of_category.astype(np.float64)


class _CellAccumulator:
    """Sums the effects of fixing the errors of each cause and size (a cell), from one chunk of images at a time.

    Units are images, or groups of images if there are more than EXACT_IMAGES. The changes by image and cell are stored,
    18 bytes each; everything else is summed at once, term by term in the order of the images.
    """

    def __init__(self, categories: int, images: Int) -> None:
        """Starts with no fix counted.

        categories: their number; images: all image ids, ascending
        """
        cells = len(CAUSES) * len(SIZES)
        self._images, self._categories = images, categories
        self._units = UNITS if len(images) > EXACT_IMAGES else len(images)
        self._base = np.zeros((3, self._units * categories))
        self.now = _PQTotals(np.zeros(categories), np.zeros(categories))
        self.errors = np.zeros((cells, categories), np.int64)
        self._with_error = np.zeros(cells, np.int64)
        self._changes: list[tuple[npt.NDArray[Any], ...]] = []

    def add(self, part: _ChunkChanges) -> None:
        """Adds a chunk of images: its Σ IoU, TP, FP and FN, and how fixing errors changes them."""
        base, delta = part.base, part.delta
        index = self._unit_of_image(base.image) * self._categories + base.category
        for sums, values in zip(self._base, (base.iou, base.hits, base.mistakes), strict=True):
            np.add.at(sums, index, values.astype(np.float64))
        np.add.at(self.now.iou, base.category, base.iou)
        np.add.at(self.now.weight, base.category, base.weight)
        cell, image, category = part.errors
        np.add.at(self.errors, (cell, category), 1)
        (held, _), _ = numbered([cell, image])
        self._with_error += np.bincount(held, minlength=len(self._with_error))
        columns = (self._unit_of_image(delta.image), delta.category, part.cell, delta.hits, delta.mistakes)
        self._changes.append((*(column.astype(np.int16) for column in columns), delta.iou))

    def _unit_of_image(self, image: Int) -> Int:
        """Returns the index of each image's unit: the image itself, or its group of images."""
        return np.searchsorted(self._images, image) % max(self._units, 1)

    def sums(self) -> _CellSums:
        """Returns the PQ gained by fixing all errors of each cause and size, and the sums behind it."""
        columns = [np.concatenate([chunk[column] for chunk in self._changes]) for column in range(6)]
        unit, category, cell, hits, mistakes = (column.astype(np.int64) for column in columns[:5])
        delta = _Sums(unit, category, columns[5], hits, mistakes)
        cells = np.flatnonzero(self._with_error)
        held = np.flatnonzero(self._base[1] + self._base[2])
        iou, hit, wrong = self._base[:, held]
        base = _Sums(*np.divmod(held, self._categories), iou, hit.astype(np.int64), wrong.astype(np.int64))
        index = np.searchsorted(cells, cell)
        changes, keys = delta.grouped(unit, category, index)
        return _CellSums(
            cells=cells,
            gain=self.now.pq_gains_by_category(index, delta, len(cells)),
            errors=self.errors[cells],
            images=self._with_error[cells],
            now=self.now,
            base=base,
            delta=changes,
            index=keys[2],
            units=self._units,
        )
