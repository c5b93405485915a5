"""Computes confidence intervals of PQ, SQ and RQ, and of differences between runs, by the jackknife over images.

They are corrected for bias. The evaluated images are a sample; an interval is for the score on all images of this kind.

PQ of a sample is biased downwards: if the few images of a rare category are missing, its false positives on other
images remain, and it counts as PQ 0. A bootstrap repeats this bias, so its percentiles lie on one side of the truth.
Leaving out one image at a time estimates the bias [Quenouille 1956] and how much the score depends on each image [Tukey
1958]:

    centre = N·v − (N − 1)·mean(v₋ᵢ)        variance V = Σ (pᵢ − mean p)² / (N(N − 1)),  pᵢ = N·v − (N − 1)·v₋ᵢ

v: the score of all N images, v₋ᵢ: without image i. Three additions handle means over many rare categories;
docs/uncertainty.md derives them, docs/simulations.md tests them:

- The bias correction is itself an uncertain estimate if it comes from one or two images of a category: the squares of
  the categories' shares of it are added to the variance.
- If few images have the rare categories, V is estimated from few images: intervals use Student's t with degrees of
  freedom from the fourth moment of the pᵢ, f = 2 (Σ p²)² / (Σ p⁴ − (Σ p²)²/N), p about their mean [after Satterthwaite
  1946].
- SQ of a category without a match counts as 0, though more images might have one. `_Unmatched` estimates how likely.

PQ and RQ of a single category are one quotient. Its interval is from the linear expansion over images [Jaeckel 1972],
with two half images added, one without a mistake and one with only mistakes, so that a category that is never found has
an interval too.

A difference of two runs is paired: the same image is left out of both, so only the difference of its contributions
counts. Whose masks are finer is compared by the mean IoU of matches, over the categories that both runs match, as SQ
counts a category without a match as 0.

coverage.csv, written by scripts/check/simulate_intervals.py, has the simulated coverage of these intervals; where it is
below nominal it is printed with them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtr, stdtrit

from panbench.base.errors import BadArgument
from panbench.base.text import in_sentence
from panbench.metrics.pq import ratio
from panbench.metrics.samples import FEWEST_IMAGES, Entries, Sample, Stack, scope_table
from panbench.metrics.slices import ImageStatistics

MATCHED_IOU = "IoU"
"""The mean IoU of matches, averaged over the categories that both of two runs match: tells whose masks are finer."""

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def intervals(statistics: ImageStatistics | Sample, *, level: float = 0.95, groups_only: bool = False) -> pd.DataFrame:
    """Returns PQ, SQ and RQ of All, Things, Stuff and each category (or of each slice) with their intervals.

    Columns: group ("All", … or the slice; None for a category), category_id (0 for a group), name, metric, value (on
    these images, equal to panopticapi's), low, high (the interval), images (how many contain the scope).
    low and high are NaN for SQ of slices, and if fewer than 10 images contain the scope; for a category, in their
    ground truth, and for its SQ, with a match.
    groups_only: leaves out the rows of single categories
    """
    if not 0 < level < 1:
        raise BadArgument(f"level must lie between 0 and 1, not {level}.")
    stack = Stack.of([statistics if isinstance(statistics, Sample) else Sample.of(statistics)])
    return interval_rows(stack, 0, level, groups_only=groups_only)


def interval_rows(stack: Stack, run: int, level: float, *, groups_only: bool = False) -> pd.DataFrame:
    """Returns a table of PQ, SQ and RQ with confidence intervals for one of several runs.

    Columns as in `intervals`.
    run: its index in `stack`
    """
    low, high = Jackknife.of(stack, run).estimate().interval(level)
    if len(stack.scopes) == len(stack.members):
        # In slices by size, many categories have only false positives, so whether they can match is unknown.
        low[1] = high[1] = np.nan
    scopes = stack.scopes[: len(stack.members)] if groups_only else stack.scopes
    if len(scopes) > len(stack.members):
        of_cells = _category_intervals(stack, run, level)
        low, high = (np.concatenate(sides, axis=1) for sides in zip((low, high), of_cells, strict=True))
    exact, enough = stack.exact()[run, :, : len(scopes)], stack.enough([run])[: len(scopes)]
    return scope_table(
        scopes,
        {
            "value": exact,
            "low": np.where(enough, low, np.nan),
            "high": np.where(enough, high, np.nan),
            "images": stack.images_of([run])[: len(scopes)],
        },
    )


@dataclass(frozen=True)
class Estimate:
    """Estimated values with their variance and its degrees of freedom, arrays of one shape."""

    centre: Float
    variance: Float
    freedom: Float

    def ends(self, level: float) -> tuple[Float, Float]:
        """Returns the interval (low, high) by Student's t; NaN where the estimate is NaN."""
        half = stdtrit(np.clip(self.freedom, 1, 1e9), (1 + level) / 2) * np.sqrt(self.variance)
        return self.centre - half, self.centre + half

    def interval(self, level: float) -> tuple[Float, Float]:
        """Returns the interval (low, high) by Student's t, clipped to 0–1."""
        low, high = self.ends(level)
        return np.clip(low, 0, 1), np.clip(high, 0, 1)

    def p(self) -> Float:
        """Returns the two-sided p-value of Student's t test that the true score or difference is 0.

        Without variance it is 1 for the value 0, else 0.
        """
        # Differences below 1e-12 come from adding equal numbers in another order, and count as 0.
        size = np.where(np.abs(self.centre) > 1e-12, np.abs(self.centre), 0.0)
        t = np.divide(size, np.sqrt(self.variance), out=np.where(size > 0, np.inf, 0.0), where=self.variance > 0)
        return np.where(np.isnan(self.centre), np.nan, 2 * stdtr(np.clip(self.freedom, 1, 1e9), -t))


@dataclass(frozen=True)
class Jackknife:
    """The scores on all images, and without each single image. Usually PQ, SQ and RQ of groups: shape (3, groups).

    value: (3, groups) on all images; SQ includes what unmatched categories are expected to add
    left_out: (3, groups, units) without each unit
    corrections: (3, groups, cells) each category's share of the bias correction
    unmatched: (3, groups) the variance that unmatched categories add to SQ
    order: the bias falls with N^−order; 1 for quotients of sums [Gray & Schucany 1972 for others]
    """

    value: Float
    left_out: Float
    corrections: Float
    unmatched: Float
    order: float = 1.0

    @staticmethod
    def of(stack: Stack, run: int) -> Jackknife:
        """Computes PQ, SQ and RQ of one of several runs, on all images and without each single image."""
        return _GroupSums.of(stack, run, stack.entries(run)).jackknife()

    @staticmethod
    def mean(of: Sequence[Jackknife]) -> Jackknife:
        """Averages the scores of several runs on the same images."""
        columns = ([getattr(one, name) for one in of] for name in ("value", "left_out", "corrections", "unmatched"))
        return Jackknife(*(np.mean(column, axis=0) for column in columns))

    def only(self, index: int) -> Jackknife:
        """Selects the results of one score, such as PQ, by its index."""
        return Jackknife(
            self.value[index], self.left_out[index], self.corrections[index], self.unmatched[index], self.order
        )

    def __sub__(self, other: Jackknife) -> Jackknife:
        """Subtracts the scores of another run on the same images."""
        left_out = self.left_out - other.left_out
        # Runs that are equal without any one image have the same matches, so unmatched categories add no variance.
        differ = (left_out != 0).any(axis=-1)
        unmatched = np.where(differ, self.unmatched + other.unmatched, 0)
        corrections = self.corrections - other.corrections
        return Jackknife(self.value - other.value, left_out, corrections, unmatched, self.order)

    def over(self, other: Jackknife) -> Jackknife:
        """Divides by the scores of another run on the same images; NaN where these are 0."""
        divisor = np.where(other.value != 0, other.value, np.nan)
        ratio_of = self.value / divisor
        left_out = self.left_out / np.where(other.left_out != 0, other.left_out, np.nan)
        corrections = (self.corrections - ratio_of[..., None] * other.corrections) / divisor[..., None]
        return Jackknife(ratio_of, left_out, corrections, (self.unmatched + ratio_of**2 * other.unmatched) / divisor**2)

    def estimate(self) -> Estimate:
        """Returns bias-corrected scores with their variance and degrees of freedom."""
        units = self.left_out.shape[-1]
        mean = self.left_out.mean(axis=-1)
        deviations = (units - 1) * (mean[..., None] - self.left_out)
        by_images = np.square(deviations).sum(axis=-1) / max(units * (units - 1), 1)
        added = np.square(self.corrections / self.order).sum(axis=-1) + self.unmatched
        # The added variance is treated as known exactly, so it raises the degrees of freedom [Satterthwaite].
        total = by_images + added
        growth = np.divide(total, by_images, out=np.ones_like(total), where=by_images > 0)
        degrees = freedom(deviations) * np.square(growth)
        return Estimate(self.value + (units - 1) * (self.value - mean) / self.order, total, degrees)


class LeftOutMeans:
    """Computes several means of category scores, on all images and with each image left out.

    Scores are added one by one; a NaN is left out of its mean.
    """

    def __init__(self, n: int, cells: int, units: int) -> None:
        """Takes the number of means to compute, of categories, and of images to leave out in turn.

        cells, units: how many scores a mean can have, and how many images (or groups of images) are left out
        """
        self._sums, self._known = np.zeros(n), np.zeros(n)
        self._change, self._gone = np.zeros((2, n, units))
        self._of_cells = np.zeros((2, n, cells))

    def add(self, mean: int, cell: int, value: float, units: Int, without: Float) -> None:
        """Adds a category's score, on all images and without each, to the mean with index `mean`.

        mean, cell: the indices of the mean and of the category
        without: the value without each of `units`; without other units it stays the same
        """
        gone = np.isnan(without)
        change = np.where(gone, 0, without) - value
        self._sums[mean] += value
        self._known[mean] += 1
        self._change[mean, units] += change
        self._gone[mean, units] += gone
        self._of_cells[:, mean, cell] = change.sum(), gone.sum()

    def jackknife(self, order: float = 1.0) -> Jackknife:
        """Returns the `Jackknife`: the means with all units (images) and without each."""
        units = self._change.shape[1]
        known = np.where(self._known > 0, self._known, np.nan)
        value, fewer = self._sums / known, self._known[:, None] - self._gone
        left_out = (self._sums[:, None] + self._change) / np.where(fewer > 0, fewer, np.nan)
        change, gone = self._of_cells
        # A cell that drops out changes a mean like a cell with the mean's value.
        corrections = -(change + gone * np.nan_to_num(value)[:, None]) * (1 - 1 / units) / known[:, None]
        return Jackknife(value, left_out, corrections, np.zeros(len(value)), order)


@dataclass(frozen=True)
class _Unmatched:
    """Estimates how likely a category without a match would have one if there were more images.

    Laplace's rule, twice. If the model can match the category, in a share of its images that is uniformly distributed,
    then n images without a match have probability 1/(n + 1). If it cannot, they have probability 1.
    never: the prior probability that a category cannot be matched, estimated as the share of such categories in the
        run, with one more counted as such and one as not
    """

    never: float

    @staticmethod
    def of(images: Int, categories: int) -> _Unmatched:
        """Estimates the probability that a category can never be matched, from a run's categories without a match.

        The estimate depends on its own result, so it is iterated until it no longer changes.
        images: (unmatched,) how many images contain each unmatched category; categories: the number of all categories
        """
        never = 1 / (categories + 2)
        for _ in range(100):
            never = float((1 + (1 - _Unmatched(never).match_probability(images)).sum()) / (categories + 2))
        return _Unmatched(never)

    def match_probability(self, images: Int | int) -> Float:
        """Returns the probability that the model can match a category, despite no match in this many images."""
        can = (1 - self.never) / (np.asarray(images, np.float64) + 1)
        return can / (can + self.never)


@dataclass(frozen=True)
class _GroupSums:
    """Sums of category scores for All, Things and Stuff, and how leaving out each image changes them.

    A "group" is one of these three, or a slice.
    members: (groups, cells) 1 where a group contains a cell
    scores: (3, cells) PQ, SQ and RQ
    unmatched: (cells,) True for cells with segments but no match
    hope: (cells,) the probability that an unmatched cell can be matched
    totals: (groups,) by name: pq, sq and rq summed over cells; held and matched, the numbers of cells with segments and
        with matches; hoped, the expected number of unmatched cells that can be matched
    change: (groups, units) by the same names
    corrections: (3, groups, cells) as in `Jackknife`, times `held`
    """

    members: Float
    scores: Float
    unmatched: Bool
    hope: Float
    totals: dict[str, Float]
    change: dict[str, Float]
    corrections: Float

    @staticmethod
    def of(stack: Stack, run: int, entries: Entries) -> _GroupSums:
        """Sums the category scores of one run over All, Things and Stuff (or over slices)."""
        iou_sum, hits, mistakes = stack.totals()[run]
        weight = hits + mistakes / 2
        scores = np.stack([ratio(iou_sum, weight), ratio(iou_sum, hits), ratio(hits, weight)])
        held, unmatched = weight > 0, (weight > 0) & (hits == 0)
        images = np.diff(stack.held[run].indptr).astype(np.int64)
        hope = _Unmatched.of(images[unmatched], int(held.sum())).match_probability(images)
        of_cells = {"held": held, "matched": held & ~unmatched, "hoped": hope * unmatched}
        of_cells |= dict(zip(("pq", "sq", "rq"), scores, strict=True))
        totals = {name: stack.members @ values for name, values in of_cells.items()}
        left_out = _score_changes_without_unit(entries, np.stack([iou_sum, hits, weight]), scores, unmatched, hope)
        shape = (len(stack.members), stack.n_units)
        change = {name: np.zeros(shape) for name in left_out}
        for group, member in enumerate(stack.members > 0):
            own = member[entries.cell]
            for name, values in left_out.items():
                change[name][group] = np.bincount(entries.unit[own], values[own], stack.n_units)
        corrections = np.zeros((3, *stack.members.shape))
        gone = np.bincount(entries.cell, -left_out["held"], len(held))
        for metric, name in ((0, "pq"), (2, "rq")):
            # A category that drops out changes a mean like a category with the mean's value.
            means = ratio(totals[name], totals["held"])[:, None]
            changed = np.bincount(entries.cell, left_out[name], len(held)) + gone * means
            corrections[metric] = -stack.members * changed * (1 - 1 / stack.n_units)
        return _GroupSums(stack.members, scores, unmatched, hope, totals, change, corrections)

    def jackknife(self) -> Jackknife:
        """Returns mean PQ, SQ and RQ of each group of categories, on all images and without each single image."""
        members, totals = self.members, self.totals
        without = {name: totals[name][:, None] + change for name, change in self.change.items()}
        held = np.where(totals["held"] > 0, totals["held"], np.nan)
        mean = ratio(totals["sq"], totals["matched"])
        variance = ratio(members @ np.square(self.scores[1]), totals["matched"]) - mean**2
        doubt = members @ (self.unmatched * self.hope * (1 - self.hope))
        of_sq = (totals["hoped"] * np.maximum(variance, 0) + doubt * mean**2) / held**2
        none = np.zeros_like(of_sq)
        corrections = self.corrections / held[:, None]
        return Jackknife(_group_means(totals), _group_means(without), corrections, np.stack([none, of_sq, none]))


def _score_changes_without_unit(
    entries: Entries, totals: Float, scores: Float, unmatched: Bool, hope: Float
) -> dict[str, Float]:
    """Returns how PQ, SQ and RQ of a category change if one of its images (or groups of images) is left out.

    One value per entry, for each of the names in `_GroupSums.totals`.
    totals: (3, cells) Σ IoU, TP and TP + (FP + FN)/2 of all units
    """
    cell = entries.cell
    iou_sum = totals[0, cell] - entries.iou_sum
    hits, weight = totals[1, cell] - entries.hits, totals[2, cell] - entries.weight
    # Up to rounding, the remaining weight is 0 or at least ½.
    held, matched = weight > 0.25, hits > 0.25
    weight, divisor = np.where(held, weight, 1), np.where(matched, hits, 1)
    return {
        "pq": np.where(held, iou_sum / weight, 0) - scores[0, cell],
        "sq": np.where(matched, iou_sum / divisor, 0) - scores[1, cell],
        "rq": np.where(held, hits / weight, 0) - scores[2, cell],
        "held": held - 1.0,
        "matched": matched - 1.0 + unmatched[cell],
        "hoped": hope[cell] * ((held & ~matched) * 1.0 - unmatched[cell]),
    }


def _group_means(sums: dict[str, Float]) -> Float:
    """Returns PQ, SQ and RQ of All, Things and Stuff (or slices), (3, …), from sums over their categories.

    NaN for a group without a category.
    """
    held = np.where(sums["held"] > 0.5, sums["held"], np.nan)
    # Matched and hoped-for categories count with the mean SQ of the matched ones.
    matched = ratio(sums["sq"], np.round(sums["matched"]))
    return np.stack([sums["pq"] / held, matched * (sums["matched"] + sums["hoped"]) / held, sums["rq"] / held])


def freedom(deviations: Float) -> Float:
    """Returns the degrees of freedom of a variance from the (…, n) deviations that it is computed from."""
    squares = np.square(deviations)
    return _degrees_of_freedom(squares.sum(axis=-1), np.square(squares).sum(axis=-1), deviations.shape[-1])


def _degrees_of_freedom(squares: Float, fourth: Float, n: npt.ArrayLike) -> Float:
    """Returns degrees of freedom (at least 1) from sums of the squares and fourth powers of n deviations."""
    over = fourth - np.square(squares) / np.maximum(n, 1)
    freedom = np.full(np.shape(squares), 1e9)
    # If all deviations have the same size, the variance is known as well as can be: no limit on the freedom.
    np.divide(2 * np.square(squares), over, out=freedom, where=over > 1e-12 * fourth)
    return np.clip(freedom, 1, None)


def _category_intervals(stack: Stack, run: int, level: float) -> tuple[Float, Float]:
    """Returns the intervals (low, high) of PQ, SQ and RQ of single categories, each (3, categories).

    NaN if undefined.
    """
    ends = [quotient.estimate().interval(level) for quotient in _category_quotients(stack, run)]
    low, high = (np.stack(side) for side in zip(*ends, strict=True))
    return low, high


def _category_quotients(stack: Stack, run: int) -> tuple[_Quotients, _Quotients, _Quotients]:
    """Returns PQ, SQ and RQ of single categories as quotients of sums over images."""
    entries, cells = stack.entries(run), stack.members.shape[1]
    unit = entries.cell * stack.n_units + entries.unit
    own = entries.hits > 0
    sq = _Quotients.of(unit[own], entries.cell[own], entries.iou_sum[own], entries.hits[own], cells, halves=False)
    enough = sq.n >= FEWEST_IMAGES
    pq, rq = (
        _Quotients.of(unit, entries.cell, part, entries.weight, cells, halves=True)
        for part in (entries.iou_sum, entries.hits)
    )
    return pq, replace(sq, value=np.where(enough, sq.value, np.nan)), rq


@dataclass(frozen=True)
class _Quotients:
    """A score (PQ, SQ or RQ) of each category with each image's contribution to it, by linear expansion. [Jaeckel 1972]

    A score is a quotient Σ part / Σ weight, such as Σ IoU / TP.

    unit: (entries,) cell · units + unit, ascending; cell: (entries,)
    contribution: (entries,) of the unit to the cell's quotient
    halves: (2, cells) contributions of two added half images, one without a mistake and one with only mistakes, each
        with half of the mean weight; zeros without them
    value: (cells,) the quotients, with the half images
    n: (cells,) the number of contributions; `more` of them are the half images
    """

    unit: Int
    cell: Int
    contribution: Float
    halves: Float
    value: Float
    n: Int
    more: int

    @staticmethod
    def of(unit: Int, cell: Int, part: Float, weight: Float, cells: int, *, halves: bool) -> _Quotients:
        """Computes each category's score and each image's contribution to it.

        part, weight: what each entry adds to the score's dividend and divisor
        halves: whether two half images are added
        """

        def summed(values: Float) -> Float:
            """Sums values by category."""
            return np.bincount(cell, values, cells).astype(np.float64)

        n, total = np.bincount(cell, minlength=cells), summed(weight)
        half = ratio(total, n.astype(np.float64)) / 2 if halves else np.zeros(cells)
        total = np.where(n > 1, total + 2 * half, 1)
        value = np.where(n > 1, (summed(part) + half) / total, np.nan)
        contribution = (part - value[cell] * weight) / total[cell]
        added = np.stack([1 - value, -value]) * half / total
        return _Quotients(unit, cell, contribution, added, value, n + 2 * halves, 2 * halves)

    def __sub__(self, other: _Quotients) -> _Quotients:
        """Subtracts the category scores of another run on the same images, image by image."""
        both, index = np.unique(np.concatenate([self.unit, other.unit]), return_inverse=True)
        terms = np.concatenate([self.contribution, -other.contribution])
        contribution = np.bincount(index, terms, len(both)).astype(np.float64)
        cell: Int = np.zeros(len(both), np.int64)
        cell[index] = np.concatenate([self.cell, other.cell])
        n = np.bincount(cell, minlength=len(self.value)) + self.more
        halves, value = self.halves - other.halves, self.value - other.value
        return _Quotients(both, cell, contribution, halves, value, n, self.more)

    def estimate(self) -> Estimate:
        """Returns the score of each category, with its variance and degrees of freedom."""

        def power_sums(power: int) -> Float:
            """Sums the contributions of images to a category's score, each raised to a power, by category."""
            return np.bincount(self.cell, self.contribution**power, len(self.value)) + (self.halves**power).sum(axis=0)

        squares, fourth = power_sums(2), power_sums(4)
        variance = squares * self.n / np.maximum(self.n - 1, 1)
        return Estimate(self.value, variance, _degrees_of_freedom(squares, fourth, self.n))


def matched_iou(stack: Stack, a: int, b: int) -> tuple[Float, Jackknife]:
    """Compares the mean IoU of matches of runs a and b, over the categories that both runs match.

    Returns the (2, groups) means of a and b, and the `Jackknife` of b − a.
    """
    members, cells, units = stack.members, stack.members.shape[1], stack.n_units
    totals = stack.totals()[[a, b], :2]
    both: Bool = np.asarray((totals[:, 1] > 0).all(axis=0))
    entries = [stack.entries(run) for run in (a, b)]
    listed = [one.cell * units + one.unit for one in entries]
    index, inverse = np.unique(np.concatenate(listed), return_inverse=True)
    cell, unit = index // units, index % units
    own = np.split(inverse, [len(listed[0])])
    left = totals[:, :, cell]
    for run, one in enumerate(entries):
        left[run, 0, own[run]] -= one.iou_sum
        left[run, 1, own[run]] -= one.hits
    difference = np.where(both, np.diff(ratio(totals[:, 0], totals[:, 1]), axis=0)[0], 0)
    still = both[cell] & (left[:, 1] > 0.25).all(axis=0)
    without = np.where(still, np.diff(left[:, 0] / np.where(left[:, 1] > 0.25, left[:, 1], 1), axis=0)[0], 0)
    change, gone = without - difference[cell], (both[cell] & ~still).astype(np.float64)

    def sums_by_unit(values: Float) -> Float:
        """Sums category values over each group of categories, for each image (or group of images)."""
        return np.stack([np.bincount(unit, values * member[cell], units) for member in members])

    n = members @ both
    known = np.where(n > 0, n, np.nan)
    values = np.stack([members @ np.where(both, ratio(iou_sum, hits), 0) / known for iou_sum, hits in totals])
    value, fewer = members @ difference / known, n[:, None] - sums_by_unit(gone)
    left_out = (members @ difference)[:, None] + sums_by_unit(change)
    left_out = left_out / np.where(fewer > 0.5, fewer, np.nan)
    # A category that drops out changes a mean like a category with the mean's value.
    changed = np.bincount(cell, change, cells) + np.bincount(cell, gone, cells) * np.nan_to_num(value)[:, None]
    corrections = -members * changed * (1 - 1 / units) / known[:, None]
    return values, Jackknife(value, left_out, corrections, np.zeros(len(members)))


@dataclass(frozen=True)
class ScoreDifferences:
    """Differences b − a of two runs in PQ, SQ, RQ and the IoU of matches, by group and category.

    Shape (4, groups and categories), the last row MATCHED_IOU; NaN if undefined.
    value_a, value_b: the scores of each run; estimate: of the difference
    """

    value_a: Float
    value_b: Float
    estimate: Estimate


def differences(stack: Stack, a: int, b: int) -> ScoreDifferences:
    """Computes the differences of two runs in PQ, SQ, RQ and matched IoU, paired by image, with their variances."""
    of_iou, iou = matched_iou(stack, a, b)
    groups = Jackknife.of(stack, b) - Jackknife.of(stack, a)
    parts, names = (groups.estimate(), iou.estimate()), ("centre", "variance", "freedom")
    columns = [np.vstack([getattr(part, name) for part in parts]) for name in names]
    values = np.concatenate([stack.exact()[[a, b]], np.full((2, 1, len(stack.scopes)), np.nan)], axis=1)
    values[:, 3, : len(of_iou[0])] = of_iou
    if len(stack.scopes) > len(stack.members):
        sides = zip(_category_quotients(stack, b), _category_quotients(stack, a), strict=True)
        pq, sq, rq = ((mine - theirs).estimate() for mine, theirs in sides)
        rows = [pq, sq, rq, sq]
        columns = [
            np.concatenate([column, np.stack([getattr(row, name) for row in rows])], axis=1)
            for column, name in zip(columns, names, strict=True)
        ]
        both = ~np.isnan(sq.centre)
        values[:, 3, len(stack.members) :] = np.where(both, values[:, 1, len(stack.members) :], np.nan)
    return ScoreDifferences(values[0], values[1], Estimate(*columns))


FULL_IMAGES = 200
"""Below this number of images the simulated coverage is always printed."""

LEAST = 0.92
"""With more images the simulated coverage is printed if it is below this."""


@cache
def _simulated_coverages() -> tuple[tuple[int, str, float], ...]:
    """Reads how often simulated intervals covered the true score: (images, metric, coverage).

    From coverage.csv, one row for each simulated population, number of images, group and metric.
    """
    with (Path(__file__).parent / "coverage.csv").open(encoding="utf-8", newline="") as file:
        return tuple((int(row["images"]), row["metric"], float(row["covered"])) for row in csv.DictReader(file))


def simulated_coverage(images: int, metrics: Sequence[str] = ("PQ",)) -> tuple[int, float, float]:
    """Returns how often 95 % intervals held the truth in simulations: (images, lowest rate, highest rate).

    For the largest simulated number of images up to `images`, else the smallest; lowest and highest over populations
    and All, Things and Stuff.
    """
    simulated = sorted({of for of, _, _ in _simulated_coverages()})
    closest = max((of for of in simulated if of <= images), default=simulated[0])
    rates = [rate for of, metric, rate in _simulated_coverages() if of == closest and metric in metrics]
    return closest, min(rates), max(rates)


def _simulated_coverage_note(images: int, metrics: Sequence[str] = ("PQ",)) -> str | None:
    """Returns a note on the simulated coverage of intervals from this many images; None if it is close to 95 %."""
    of_metrics = {metric: simulated_coverage(images, (metric,)) for metric in metrics}
    simulated = next(iter(of_metrics.values()))[0]
    if images >= FULL_IMAGES and min(lowest for _, lowest, _ in of_metrics.values()) >= LEAST:
        return None
    fewer = "; fewer hold less often" if images < simulated else ""
    rates = [f"of {name} in {100 * low:.0f} to {100 * high:.0f} %" for name, (_, low, high) in of_metrics.items()]
    return (
        f"In simulations 95 % intervals from {simulated:,} images held the truth {in_sentence(rates)} of data sets"
        f"{fewer} (docs/simulations.md)."
    )


def interval_notes(images: int, metrics: Sequence[str] = ("PQ",)) -> tuple[str, ...]:
    """Returns the notes below a table of intervals: the method, and its coverage if that is below nominal."""
    if images < FEWEST_IMAGES:
        return (f"Fewer than {FEWEST_IMAGES} images: no intervals.",)
    how = (
        f"Intervals: jackknife over {images:,} images, corrected for the bias of small samples, so PQ can lie near the "
        "lower end of its interval."
    )
    often = _simulated_coverage_note(images, metrics)
    return (how,) if often is None else (how, often)
