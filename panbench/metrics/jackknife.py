"""Intervals of PQ, SQ and RQ for the images that a sample stands for: the jackknife over images, corrected for bias.

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
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from panbench.base.errors import BadArgument
from panbench.metrics.pq import ratio
from panbench.metrics.samples import FEWEST_IMAGES, Entries, Sample, Stack, scope_table
from panbench.metrics.slices import ImageStatistics

__all__ = ["Estimate", "Jackknife", "freedom", "interval_rows", "intervals"]

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


@dataclass(frozen=True)
class Jackknife:
    """PQ, SQ and RQ of the groups of a run, of all images and without each.

    value: (3, groups), left_out: (3, groups, units); of SQ with what unmatched categories are expected to add
    corrections: (3, groups, cells) each category's part of the correction for bias
    unmatched: (3, groups) the variance that unmatched categories add to SQ
    """

    value: Float
    left_out: Float
    corrections: Float
    unmatched: Float

    @staticmethod
    def of(stack: Stack, run: int) -> Jackknife:
        """Makes it for one run of a stack, in one pass over its units' sums."""
        return _Tally.of(stack, run, stack.entries(run)).jackknife()

    @staticmethod
    def mean(of: Sequence[Jackknife]) -> Jackknife:
        """The mean of several runs on the same images."""
        columns = ([getattr(one, name) for one in of] for name in ("value", "left_out", "corrections", "unmatched"))
        return Jackknife(*(np.mean(column, axis=0) for column in columns))

    def estimate(self) -> Estimate:
        """(3, groups) estimates for the images that these stand for."""
        units = self.left_out.shape[-1]
        mean = self.left_out.mean(axis=-1)
        apart = (units - 1) * (mean[..., None] - self.left_out)
        by_images = np.square(apart).sum(axis=-1) / max(units * (units - 1), 1)
        added = np.square(self.corrections).sum(axis=-1) + self.unmatched
        # What is added is as good as known: it only makes the interval wider.
        total, degrees = by_images + added, freedom(apart)
        np.divide(total**2 * degrees, by_images**2, out=degrees, where=by_images > 0)
        return Estimate(units * self.value - (units - 1) * mean, total, degrees)


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
        iou_sum, hits, mistakes = stack.totals()[run, ..., 0]
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
    entries, cells = stack.entries(run), stack.members.shape[1]
    ends = np.full((2, 3, cells), np.nan)
    for metric, part in ((0, entries.iou_sum), (2, entries.hits)):
        ends[:, metric] = _of_quotients(entries.cell, part, entries.whole, cells, level, halves=True)
    own = entries.hits > 0
    sq = _of_quotients(entries.cell[own], entries.iou_sum[own], entries.hits[own], cells, level, halves=False)
    enough = np.bincount(entries.cell[own], minlength=cells) >= FEWEST_IMAGES
    ends[:, 1] = np.where(enough, sq, np.nan)
    return ends[0], ends[1]


def _of_quotients(cell: Int, part: Float, whole: Float, cells: int, level: float, *, halves: bool) -> Float:
    """(2, cells) low and high of Σ part / Σ whole of each cell. halves: with two half images more, of which one is all
    right and one all wrong, and which hold half of what the others hold in the mean."""

    def summed(values: Float) -> Float:
        return np.bincount(cell, values, cells).astype(np.float64)

    n, total = summed(np.ones(len(cell))), summed(whole)
    there = n > 1
    half = ratio(total, n) / 2 if halves else np.zeros(cells)
    total = np.where(there, total + 2 * half, 1)
    value = (summed(part) + half) / total
    apart = (part - value[cell] * whole) / total[cell]
    right, wrong = (1 - value) * half / total, -value * half / total
    squares = summed(apart**2) + right**2 + wrong**2
    fourth = summed(apart**4) + right**4 + wrong**4
    n = n + 2 * halves
    variance = squares * n / np.maximum(n - 1, 1)
    low, high = Estimate(value, variance, _freedom_of(squares, fourth, n)).interval(level)
    return np.where(there, np.stack([low, high]), np.nan)
