"""Intervals of PQ, SQ and RQ, and of their differences, for the images that a sample stands for: the jackknife over
images, corrected for bias.

PQ of some of the images is biased downwards: where the few images of a rare category are missing, its false positives
on other images stay, and count as PQ 0. Resampling repeats that on top of it, so percentiles of a bootstrap lie on one
side of the truth. Leaving out one image at a time tells how large the bias is [Quenouille 1956] and how far the score
depends on each image [Tukey 1958]:

    centre = N·v − (N − 1)·mean(v₋ᵢ)        variance V = Σ (pᵢ − mean p)² / (N(N − 1)),  pᵢ = N·v − (N − 1)·v₋ᵢ

v: the score of all N images, v₋ᵢ: without image i. Three things are added for means over categories of which many are
rare; docs/uncertainty.md derives them, docs/simulations.md tests them:

- The correction is itself an estimate, as doubtful as it is large where it comes from one or two images of a category:
  the squares of the categories' parts of it are added to the variance.
- V comes from few images if few hold what is rare: Student's t with the degrees of freedom that the fourth moment of
  the pᵢ tells, f = 2 (Σ p²)² / (Σ p⁴ − (Σ p²)²/N), p about their mean [Satterthwaite 1946 for any sum of variances].
- SQ of a category without a match counts as 0, though more images would show one. `_Unmatched` says how likely.

PQ and RQ of a single category are one quotient: its linear expansion over images [Jaeckel 1972] with two half images
more, one without a mistake and one with nothing else. So a category that is never found has an interval, too.

A difference of two runs is paired: what is left out is left out of both, so only what an image adds to one and not to
the other counts. Which run has the finer masks is a question of the mean IoU of matches, over the categories that both
match: SQ's mean counts a category without a match as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtr, stdtrit

from panbench.base.errors import BadArgument
from panbench.metrics.pq import ratio
from panbench.metrics.samples import FEWEST_IMAGES, Entries, Sample, Stack, scope_table
from panbench.metrics.slices import ImageStatistics

__all__ = [
    "MATCHED_IOU",
    "Differences",
    "Estimate",
    "Jackknife",
    "LeftOutMeans",
    "differences",
    "freedom",
    "interval_rows",
    "intervals",
    "matched_iou",
]

MATCHED_IOU = "IoU"
"""The mean IoU of matches, averaged over the categories that both of two runs match: whose masks are finer."""

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def intervals(statistics: ImageStatistics | Sample, *, level: float = 0.95, groups_only: bool = False) -> pd.DataFrame:
    """PQ, SQ and RQ of All, Things, Stuff and each category (or of each slice) with their intervals.

    Columns: group ("All", … or the slice; None for a category), category_id (0 for a group), name, metric, value (of
    these images, as panopticapi has it), low, high (of all images that these stand for), images (that hold the scope).
    low and high are NaN for SQ of slices, and where fewer than 10 images hold the scope; of a category, in their ground
    truth, and for SQ with a match. groups_only: without the rows of single categories.
    """
    if not 0 < level < 1:
        raise BadArgument(f"level must lie between 0 and 1, not {level}.")
    stack = Stack.of([statistics if isinstance(statistics, Sample) else Sample.of(statistics)])
    return interval_rows(stack, 0, level, groups_only=groups_only)


def interval_rows(stack: Stack, run: int, level: float, *, groups_only: bool = False) -> pd.DataFrame:
    """`intervals` of one run of a stack."""
    low, high = Jackknife.of(stack, run).estimate().interval(level)
    if len(stack.scopes) == len(stack.members):
        # Many categories of a slice by size have false positives alone, which say nothing of whether they can match.
        low[1] = high[1] = np.nan
    scopes = stack.scopes[: len(stack.members)] if groups_only else stack.scopes
    if len(scopes) > len(stack.members):
        of_cells = _of_cells(stack, run, level)
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
    """Estimates with their variance and its degrees of freedom, arrays of one shape."""

    centre: Float
    variance: Float
    freedom: Float

    def ends(self, level: float) -> tuple[Float, Float]:
        """(low, high) by Student's t; NaN where there is no centre."""
        half = stdtrit(np.clip(self.freedom, 1, 1e9), (1 + level) / 2) * np.sqrt(self.variance)
        return self.centre - half, self.centre + half

    def interval(self, level: float) -> tuple[Float, Float]:
        """The same within 0 and 1."""
        low, high = self.ends(level)
        return np.clip(low, 0, 1), np.clip(high, 0, 1)

    def p(self) -> Float:
        """Two-sided p of a true value of 0, by Student's t; without any variance 1 for a centre of 0, else 0."""
        # Equal numbers that were added up in another order must count as equal.
        size = np.where(np.abs(self.centre) > 1e-12, np.abs(self.centre), 0.0)
        t = np.divide(size, np.sqrt(self.variance), out=np.where(size > 0, np.inf, 0.0), where=self.variance > 0)
        return np.where(np.isnan(self.centre), np.nan, 2 * stdtr(np.clip(self.freedom, 1, 1e9), -t))


@dataclass(frozen=True)
class Jackknife:
    """PQ, SQ and RQ of the groups of a run, of all images and without each; or other means, in place of (3, groups).

    value: (3, groups), left_out: (3, groups, units); of SQ with what unmatched categories are expected to add
    corrections: (3, groups, cells) each category's part of the correction for bias
    unmatched: (3, groups) the variance that unmatched categories add to SQ
    order: the bias falls with N^−order; 1 of quotients of sums [Gray & Schucany 1972 for others]
    """

    value: Float
    left_out: Float
    corrections: Float
    unmatched: Float
    order: float = 1.0

    @staticmethod
    def of(stack: Stack, run: int) -> Jackknife:
        """Makes it for one run of a stack, in one pass over its units' sums."""
        return _Tally.of(stack, run, stack.entries(run)).jackknife()

    @staticmethod
    def mean(of: Sequence[Jackknife]) -> Jackknife:
        """The mean of several runs on the same images."""
        columns = ([getattr(one, name) for one in of] for name in ("value", "left_out", "corrections", "unmatched"))
        return Jackknife(*(np.mean(column, axis=0) for column in columns))

    def only(self, place: int) -> Jackknife:
        """One of the scores, or rows of scores."""
        return Jackknife(
            self.value[place], self.left_out[place], self.corrections[place], self.unmatched[place], self.order
        )

    def __sub__(self, other: Jackknife) -> Jackknife:
        """The difference of two runs on the same images."""
        left_out = self.left_out - other.left_out
        # Runs that no image tells apart match the same categories: no image more would tell them apart.
        apart = (left_out != 0).any(axis=-1)
        unmatched = np.where(apart, self.unmatched + other.unmatched, 0)
        corrections = self.corrections - other.corrections
        return Jackknife(self.value - other.value, left_out, corrections, unmatched, self.order)

    def over(self, other: Jackknife) -> Jackknife:
        """The quotient of two on the same images; NaN where the other is 0."""
        whole = np.where(other.value != 0, other.value, np.nan)
        ratio_of = self.value / whole
        left_out = self.left_out / np.where(other.left_out != 0, other.left_out, np.nan)
        corrections = (self.corrections - ratio_of[..., None] * other.corrections) / whole[..., None]
        return Jackknife(ratio_of, left_out, corrections, (self.unmatched + ratio_of**2 * other.unmatched) / whole**2)

    def estimate(self) -> Estimate:
        """(3, groups) estimates for the images that these stand for."""
        units = self.left_out.shape[-1]
        mean = self.left_out.mean(axis=-1)
        apart = (units - 1) * (mean[..., None] - self.left_out)
        by_images = np.square(apart).sum(axis=-1) / max(units * (units - 1), 1)
        added = np.square(self.corrections / self.order).sum(axis=-1) + self.unmatched
        # What is added is as good as known: it only makes the interval wider.
        total = by_images + added
        degrees = freedom(apart) * np.square(np.divide(total, by_images, out=np.ones_like(total), where=by_images > 0))
        return Estimate(self.value + (units - 1) * (self.value - mean) / self.order, total, degrees)


class LeftOutMeans:
    """Means over cells that come one by one: a `Jackknife` of (n,) means; cells that are NaN are left out of a mean."""

    def __init__(self, n: int, cells: int, units: int) -> None:
        self._sums, self._known = np.zeros(n), np.zeros(n)
        self._change, self._gone = np.zeros((2, n, units))
        self._of_cells = np.zeros((2, n, cells))

    def add(self, mean: int, cell: int, value: float, units: Int, without: Float) -> None:
        """A cell's value, which is known, and what it is without each of some units; the others do not change it."""
        gone = np.isnan(without)
        change = np.where(gone, 0, without) - value
        self._sums[mean] += value
        self._known[mean] += 1
        self._change[mean, units] += change
        self._gone[mean, units] += gone
        self._of_cells[:, mean, cell] = change.sum(), gone.sum()

    def jackknife(self, order: float = 1.0) -> Jackknife:
        """The means."""
        units = self._change.shape[1]
        known = np.where(self._known > 0, self._known, np.nan)
        value, fewer = self._sums / known, self._known[:, None] - self._gone
        left_out = (self._sums[:, None] + self._change) / np.where(fewer > 0, fewer, np.nan)
        change, gone = self._of_cells
        # A cell that drops out of a mean changes it as one does that has the mean's value.
        corrections = -(change + gone * np.nan_to_num(value)[:, None]) * (1 - 1 / units) / known[:, None]
        return Jackknife(value, left_out, corrections, np.zeros(len(value)), order)


@dataclass(frozen=True)
class _Unmatched:
    """How likely a category without a match would have one, were there more images.

    Laplace's rule twice. If a model can match the category at all, in a share of its images that may as well be any,
    n images without a match have probability 1/(n + 1). If it cannot, as one category in 1/`never` is, they are sure.
    `never` is itself the share of the categories of the run that look so, one more counted as such and one as not.
    """

    never: float

    @staticmethod
    def of(images: Int, categories: int) -> _Unmatched:
        """images: of each category without a match, how many hold it; categories: how many there are in all."""
        never = 1 / (categories + 2)
        for _ in range(100):
            never = float((1 + (1 - _Unmatched(never).match(images)).sum()) / (categories + 2))
        return _Unmatched(never)

    def match(self, images: Int | int) -> Float:
        """The probability that there are matches of a category of so many images, none of which has one."""
        can = (1 - self.never) / (np.asarray(images, np.float64) + 1)
        return can / (can + self.never)


@dataclass(frozen=True)
class _Tally:
    """The sums that means over categories are made of, and what leaving out each unit changes in them.

    scores: (3, cells) PQ, SQ and RQ; unmatched: (cells,) which hold segments but no match
    hope: (cells,) the probability of a match where there is none
    totals: (groups,) of all units: pq, sq, rq summed over cells; held and matched, how many cells there are; hoped, the
        matched ones to be expected among the unmatched
    change: (groups, units) of the same; corrections: (3, groups, cells) as in `Jackknife`, times `held`
    """

    members: Float
    scores: Float
    unmatched: Bool
    hope: Float
    totals: dict[str, Float]
    change: dict[str, Float]
    corrections: Float

    @staticmethod
    def of(stack: Stack, run: int, entries: Entries) -> _Tally:
        iou_sum, hits, mistakes = stack.totals()[run]
        whole = hits + mistakes / 2
        scores = np.stack([ratio(iou_sum, whole), ratio(iou_sum, hits), ratio(hits, whole)])
        held, unmatched = whole > 0, (whole > 0) & (hits == 0)
        images = np.diff(stack.held[run].indptr).astype(np.int64)
        hope = _Unmatched.of(images[unmatched], int(held.sum())).match(images)
        of_cells = {"held": held, "matched": held & ~unmatched, "hoped": hope * unmatched}
        of_cells |= dict(zip(("pq", "sq", "rq"), scores, strict=True))
        totals = {name: stack.members @ values for name, values in of_cells.items()}
        left_out = _left_out(entries, np.stack([iou_sum, hits, whole]), scores, unmatched, hope)
        shape = (len(stack.members), stack.n_units)
        change = {name: np.zeros(shape) for name in left_out}
        for group, member in enumerate(stack.members > 0):
            own = member[entries.cell]
            for name, values in left_out.items():
                change[name][group] = np.bincount(entries.unit[own], values[own], stack.n_units)
        corrections = np.zeros((3, *stack.members.shape))
        gone = np.bincount(entries.cell, -left_out["held"], len(held))
        for metric, name in ((0, "pq"), (2, "rq")):
            # A category that drops out of a mean changes it as one does that has the mean's value.
            means = ratio(totals[name], totals["held"])[:, None]
            changed = np.bincount(entries.cell, left_out[name], len(held)) + gone * means
            corrections[metric] = -stack.members * changed * (1 - 1 / stack.n_units)
        return _Tally(stack.members, scores, unmatched, hope, totals, change, corrections)

    def jackknife(self) -> Jackknife:
        """The sums divided."""
        members, totals = self.members, self.totals
        without = {name: totals[name][:, None] + change for name, change in self.change.items()}
        held = np.where(totals["held"] > 0, totals["held"], np.nan)
        mean = ratio(totals["sq"], totals["matched"])
        spread = ratio(members @ np.square(self.scores[1]), totals["matched"]) - mean**2
        doubt = members @ (self.unmatched * self.hope * (1 - self.hope))
        of_sq = (totals["hoped"] * np.maximum(spread, 0) + doubt * mean**2) / held**2
        none = np.zeros_like(of_sq)
        corrections = self.corrections / held[:, None]
        return Jackknife(_means(totals), _means(without), corrections, np.stack([none, of_sq, none]))


def _left_out(entries: Entries, totals: Float, scores: Float, unmatched: Bool, hope: Float) -> dict[str, Float]:
    """Name of `_Tally.change` → how leaving out an entry's unit changes that entry's cell.

    totals: (3, cells) Σ IoU, TP and TP + (FP + FN)/2 of all units
    """
    cell = entries.cell
    iou_sum = totals[0, cell] - entries.iou_sum
    hits, whole = totals[1, cell] - entries.hits, totals[2, cell] - entries.whole
    # What is left of a count is 0 or at least ½, but for rounding.
    held, matched = whole > 0.25, hits > 0.25
    whole, divisor = np.where(held, whole, 1), np.where(matched, hits, 1)
    return {
        "pq": np.where(held, iou_sum / whole, 0) - scores[0, cell],
        "sq": np.where(matched, iou_sum / divisor, 0) - scores[1, cell],
        "rq": np.where(held, hits / whole, 0) - scores[2, cell],
        "held": held - 1.0,
        "matched": matched - 1.0 + unmatched[cell],
        "hoped": hope[cell] * ((held & ~matched) * 1.0 - unmatched[cell]),
    }


def _means(sums: dict[str, Float]) -> Float:
    """(3, …) PQ, SQ and RQ of groups; NaN where they hold no category."""
    held = np.where(sums["held"] > 0.5, sums["held"], np.nan)
    # The matched categories and those still expected, each with the mean SQ of the matched ones.
    matched = ratio(sums["sq"], np.round(sums["matched"]))
    return np.stack([sums["pq"] / held, matched * (sums["matched"] + sums["hoped"]) / held, sums["rq"] / held])


def freedom(apart: Float) -> Float:
    """The degrees of freedom of a variance that comes from deviations (…, n)."""
    squares = np.square(apart)
    return _freedom_of(squares.sum(axis=-1), np.square(squares).sum(axis=-1), apart.shape[-1])


def _freedom_of(squares: Float, fourth: Float, n: npt.ArrayLike) -> Float:
    """The same by the sums of the squares and of the fourth powers; at least 1."""
    over = fourth - np.square(squares) / np.maximum(n, 1)
    freedom = np.full(np.shape(squares), 1e9)
    # Deviations that are all alike in size tell their spread as well as can be.
    np.divide(2 * np.square(squares), over, out=freedom, where=over > 1e-12 * fourth)
    return np.clip(freedom, 1, None)


def _of_cells(stack: Stack, run: int, level: float) -> tuple[Float, Float]:
    """(low, high), each (3, cells): PQ, SQ and RQ of single categories; NaN where one does not occur."""
    ends = [quotient.estimate().interval(level) for quotient in _quotients(stack, run)]
    low, high = (np.stack(side) for side in zip(*ends, strict=True))
    return low, high


def _quotients(stack: Stack, run: int) -> tuple[_Quotients, _Quotients, _Quotients]:
    """PQ, SQ and RQ of single categories."""
    entries, cells = stack.entries(run), stack.members.shape[1]
    unit = entries.cell * stack.n_units + entries.unit
    own = entries.hits > 0
    sq = _Quotients.of(unit[own], entries.cell[own], entries.iou_sum[own], entries.hits[own], cells, halves=False)
    enough = sq.n >= FEWEST_IMAGES
    pq, rq = (
        _Quotients.of(unit, entries.cell, part, entries.whole, cells, halves=True)
        for part in (entries.iou_sum, entries.hits)
    )
    return pq, replace(sq, value=np.where(enough, sq.value, np.nan)), rq


@dataclass(frozen=True)
class _Quotients:
    """Σ part / Σ whole of each cell, to first order a sum of what units add to it. [Jaeckel 1972]

    unit: ascending, cell · units + unit, of each entry its cell and `apart`, what it adds
    halves: (2, cells) what two half images more add, of which one is all right and one all wrong, and which hold half
        of what the others hold in the mean; zeros without them
    value: (cells,) with the half images; n: how many add to a cell, `more` of which are the half images
    """

    unit: Int
    cell: Int
    apart: Float
    halves: Float
    value: Float
    n: Int
    more: int

    @staticmethod
    def of(unit: Int, cell: Int, part: Float, whole: Float, cells: int, *, halves: bool) -> _Quotients:
        def summed(values: Float) -> Float:
            return np.bincount(cell, values, cells).astype(np.float64)

        n, total = np.bincount(cell, minlength=cells), summed(whole)
        half = ratio(total, n.astype(np.float64)) / 2 if halves else np.zeros(cells)
        total = np.where(n > 1, total + 2 * half, 1)
        value = np.where(n > 1, (summed(part) + half) / total, np.nan)
        apart = (part - value[cell] * whole) / total[cell]
        added = np.stack([1 - value, -value]) * half / total
        return _Quotients(unit, cell, apart, added, value, n + 2 * halves, 2 * halves)

    def __sub__(self, other: _Quotients) -> _Quotients:
        """The difference of two runs on the same units."""
        both, place = np.unique(np.concatenate([self.unit, other.unit]), return_inverse=True)
        apart = np.bincount(place, np.concatenate([self.apart, -other.apart]), len(both)).astype(np.float64)
        cell: Int = np.zeros(len(both), np.int64)
        cell[place] = np.concatenate([self.cell, other.cell])
        n = np.bincount(cell, minlength=len(self.value)) + self.more
        return _Quotients(both, cell, apart, self.halves - other.halves, self.value - other.value, n, self.more)

    def estimate(self) -> Estimate:
        """(cells,) estimates for the images that these stand for."""

        def summed(power: int) -> Float:
            return np.bincount(self.cell, self.apart**power, len(self.value)) + (self.halves**power).sum(axis=0)

        squares, fourth = summed(2), summed(4)
        variance = squares * self.n / np.maximum(self.n - 1, 1)
        return Estimate(self.value, variance, _freedom_of(squares, fourth, self.n))


def matched_iou(stack: Stack, a: int, b: int) -> tuple[Float, Jackknife]:
    """(2, groups) mean IoU of matches of two runs, over the categories that both match, and b's less a's."""
    members, cells, units = stack.members, stack.members.shape[1], stack.n_units
    totals = stack.totals()[[a, b], :2]
    both: Bool = np.asarray((totals[:, 1] > 0).all(axis=0))
    entries = [stack.entries(run) for run in (a, b)]
    listed = [one.cell * units + one.unit for one in entries]
    place, inverse = np.unique(np.concatenate(listed), return_inverse=True)
    cell, unit = place // units, place % units
    own = np.split(inverse, [len(listed[0])])
    left = totals[:, :, cell]
    for run, one in enumerate(entries):
        left[run, 0, own[run]] -= one.iou_sum
        left[run, 1, own[run]] -= one.hits
    apart = np.where(both, np.diff(ratio(totals[:, 0], totals[:, 1]), axis=0)[0], 0)
    still = both[cell] & (left[:, 1] > 0.25).all(axis=0)
    without = np.where(still, np.diff(left[:, 0] / np.where(left[:, 1] > 0.25, left[:, 1], 1), axis=0)[0], 0)
    change, gone = without - apart[cell], (both[cell] & ~still).astype(np.float64)

    def over_units(values: Float) -> Float:
        return np.stack([np.bincount(unit, values * member[cell], units) for member in members])

    n = members @ both
    known = np.where(n > 0, n, np.nan)
    values = np.stack([members @ np.where(both, ratio(iou_sum, hits), 0) / known for iou_sum, hits in totals])
    value, fewer = members @ apart / known, n[:, None] - over_units(gone)
    left_out = (members @ apart)[:, None] + over_units(change)
    left_out = left_out / np.where(fewer > 0.5, fewer, np.nan)
    # A category that drops out of a mean changes it as one does that has the mean's value.
    changed = np.bincount(cell, change, cells) + np.bincount(cell, gone, cells) * np.nan_to_num(value)[:, None]
    corrections = -members * changed * (1 - 1 / units) / known[:, None]
    return values, Jackknife(value, left_out, corrections, np.zeros(len(members)))


@dataclass(frozen=True)
class Differences:
    """What run b has more than run a: (4, scopes) PQ, SQ, RQ and MATCHED_IOU; NaN where there is none.

    value_a, value_b: of each run; estimate: of the difference on all images that these stand for
    """

    value_a: Float
    value_b: Float
    estimate: Estimate


def differences(stack: Stack, a: int, b: int) -> Differences:
    """The paired differences of two runs of a stack, of each group and category."""
    of_iou, iou = matched_iou(stack, a, b)
    groups = Jackknife.of(stack, b) - Jackknife.of(stack, a)
    parts = [groups.estimate(), _with_axis(iou.estimate())]
    columns = [np.concatenate([getattr(part, name) for part in parts]) for name in ("centre", "variance", "freedom")]
    values = np.concatenate([stack.exact()[[a, b]], np.full((2, 1, len(stack.scopes)), np.nan)], axis=1)
    values[:, 3, : len(of_iou[0])] = of_iou
    if len(stack.scopes) > len(stack.members):
        sides = zip(_quotients(stack, b), _quotients(stack, a), strict=True)
        pq, sq, rq = ((mine - theirs).estimate() for mine, theirs in sides)
        rows = [pq, sq, rq, sq]
        columns = [
            np.concatenate([column, np.stack([getattr(row, name) for row in rows])], axis=1)
            for column, name in zip(columns, ("centre", "variance", "freedom"), strict=True)
        ]
        both = ~np.isnan(sq.centre)
        values[:, 3, len(stack.members) :] = np.where(both, values[:, 1, len(stack.members) :], np.nan)
    return Differences(values[0], values[1], Estimate(*columns))


def _with_axis(estimate: Estimate) -> Estimate:
    return Estimate(estimate.centre[None], estimate.variance[None], estimate.freedom[None])
