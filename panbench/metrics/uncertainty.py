"""Tests whether one run is better than another: paired differences with intervals, p-values and ranks.

The sample is the images. Intervals are the paired jackknife's (metrics/jackknife.py). PQ and RQ are tested by paired
permutation, which swaps the predictions of two runs image by image [Fisher 1935; Smucker et al. 2007]. SQ and the mean
IoU of matches are tested by the jackknife, as swaps change which categories are matched at all. docs/simulations.md has
the simulations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.base.program import available_cores
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import listed
from panbench.metrics.jackknife import MATCHED_IOU, Estimate, differences, freedom, interval_rows
from panbench.metrics.samples import METRICS, Sample, Stack, sample_of_shared_images, scope_table, shared_image_ids
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.swaps import swap_p_values

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SURE = 0.001
"""Tables print smaller p-values as "<0.001"; enough swaps are made to reach it for All, Things and Stuff."""

MOST_SWAPS = 50_000
"""The most swaps made to reach SURE, enough for 16 pairs of runs."""

SQ_IMAGES = 100
"""With fewer images, differences in SQ of All, Things and Stuff have no interval: its coverage would be too low."""

SWAPPED = ("PQ", "RQ")
"""The metrics that are tested by swaps."""


@dataclass(frozen=True)
class Comparison:
    """Scores, differences and ranks of runs on the images that all of them have.

    runs: one row per run and scope: `run`, the columns of `intervals`, and for PQ of groups `rank` (1 is best; equal PQ
        shares a rank) with the range of ranks that the tests leave possible, `rank_low` to `rank_high`
    differences: one row per pair of runs, scope and metric (those of `runs`, and MATCHED_IOU): a, b, group,
        category_id, name, metric, value_a, value_b, difference (b − a), low, high, p, p_holm, significant, at_floor
        (no swap differed as much, so p could be smaller), images (that contain the scope in either run)
    images: the number of shared images; left_out: by run, the number of its other images
    level, permutations, seed: the settings
    """

    runs: pd.DataFrame
    differences: pd.DataFrame
    images: int
    left_out: Mapping[str, int]
    level: float
    permutations: int
    seed: int

    @cached_property
    def scores(self) -> Mapping[tuple[str, str, str], Any]:
        """The scores by (run, group, metric), e.g. ("mask2former", "Things", "PQ"), without those of single categories.

        Rows of `runs`, for fast look-ups.
        """
        return {(row.run, row.group, row.metric): row for row in _group_rows(self.runs)}

    @cached_property
    def tests(self) -> Mapping[tuple[str, str, str, str], Any]:
        """The difference of two runs with its p-value, by (run a, run b, group, metric), without single categories.

        Rows of `differences`, for fast look-ups. A group is All, Things, Stuff or a slice.
        """
        return {(row.a, row.b, row.group, row.metric): row for row in _group_rows(self.differences)}

    def between(self, one: str, other: str, group: str = "All", metric: str = "PQ") -> Difference | None:
        """Returns one run's score minus another's for All, Things, Stuff or a slice; None if they were not compared."""
        row = self.tests.get((one, other, group, metric)) or self.tests.get((other, one, group, metric))
        return None if row is None else Difference.of(row, one)


@dataclass(frozen=True)
class Difference:
    """How much the score of one run is above that of another; NaN for an interval or p-value that is not known.

    values: the scores of the one and of the other run
    p: corrected for the number of comparisons; alone: uncorrected
    """

    values: tuple[float, float]
    difference: float
    low: float
    high: float
    p: float
    alone: float
    significant: bool
    at_floor: bool

    @property
    def better(self) -> bool:
        """True if the first run is significantly better."""
        return self.significant and self.difference > 0

    @property
    def worse(self) -> bool:
        """True if the first run is significantly worse."""
        return self.significant and self.difference < 0

    @staticmethod
    def of(row: Any, one: str) -> Difference:
        """Makes a `Difference` of a row of `Comparison.differences`.

        one: the run to subtract from
        """
        values, ends = (float(row.value_a), float(row.value_b)), (float(row.low), float(row.high))
        # The row has b − a.
        forward = row.b == one
        return Difference(
            values[::-1] if forward else values,
            float(row.difference) if forward else -float(row.difference),
            *(ends if forward else (-ends[1], -ends[0])),
            float(row.p_holm),
            float(row.p),
            bool(row.significant),
            bool(row.at_floor),
        )


def _group_rows(table: pd.DataFrame) -> Iterator[Any]:
    """Iterates over the rows of a table that are about groups, not single categories."""
    return iter(table[table["group"].notna()].itertuples())


def compare_runs(
    runs: Mapping[str, ImageStatistics | Sample],
    *,
    baseline: str | None = None,
    permutations: int | None = None,
    level: float = 0.95,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> Comparison:
    """Compares runs on the images that all of them have: paired differences, intervals, p-values and ranks.

    baseline: the run that all others are compared with; None compares all pairs
    permutations: the number of swaps; None makes 10,000, or more if corrected p-values need it (`permutations_needed`)
    The p-value of a difference in PQ or RQ is the share of random swaps of the two runs, image by image, after which
    they differ at least as much (two-sided; the observed order counts, so it is never 0). p_holm corrects it [Holm
    1979] for all comparisons of a metric: all pairs × groups, and separately all pairs × categories. significant means
    p_holm < 1 − level. rank_low is 1 + the number of significantly better runs, rank_high the number of runs minus the
    number of significantly worse ones.
    Raises BadArgument if runs share no image, or differ in categories or slicing.
    """
    if not 0 < level < 1:
        raise BadArgument(f"level must lie between 0 and 1, not {level}.")
    if permutations is not None and permutations < 1:
        raise BadArgument(f"permutations must be at least 1, not {permutations}.")
    names = list(runs)
    if baseline is not None and baseline not in names:
        raise BadArgument(f"The baseline {baseline!r} is not among the runs: {listed(names)}.")
    shared = shared_image_ids(runs)
    stack = Stack.of([sample_of_shared_images(run, shared) for run in runs.values()])
    first = None if baseline is None else names.index(baseline)
    pairs = [
        (a, b) if first in (None, a) else (b, a) for a, b in combinations(range(len(names)), 2) if first in (None, a, b)
    ]

    if permutations is None:
        permutations = permutations_needed(len(pairs), len(stack.scopes), len(stack.members), level)
    if not pairs:
        table = _empty_differences()
    else:
        p = _swap_p_values(stack, pairs, permutations, seed, reporter)
        found = [_tested_differences(stack, names, *pair, level, of) for pair, of in zip(pairs, p, strict=True)]
        table = pd.concat(found).reset_index(drop=True)
    table["p_holm"] = table.groupby(["metric", table["group"].isna()])["p"].transform(lambda p: holm(p.to_numpy()))
    table["significant"] = table["p_holm"] < 1 - level
    # p = 1 / (1 + permutations): only the observed order differs as much.
    table["at_floor"] = table["metric"].isin(SWAPPED) & (table["p"] < 1.5 / (1 + permutations))
    scores = [interval_rows(stack, run, level).assign(run=name) for run, name in enumerate(names)]
    ranked = _add_pq_ranks(pd.concat(scores, ignore_index=True), table, stack)
    columns = ["a", "b", "group", "category_id", "name", "metric", "value_a", "value_b", "difference", "low", "high"]
    return Comparison(
        runs=ranked[["run", *ranked.columns.drop("run")]],
        differences=table[[*columns, "p", "p_holm", "significant", "at_floor", "images"]],
        images=len(shared),
        left_out={name: len(statistics.image_ids) - len(shared) for name, statistics in runs.items()},
        level=level,
        permutations=permutations,
        seed=seed,
    )


def holm(p: npt.NDArray[np.float64]) -> Float:
    """Corrects p-values for their number by Holm's step-down method; NaN is ignored and stays. [Holm 1979]"""
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def _swap_p_values(
    stack: Stack, pairs: Sequence[tuple[int, int]], permutations: int, seed: int, reporter: Reporter
) -> Float:
    """Returns p-values of the runs' differences in PQ and RQ, by a permutation test that swaps predictions.

    (pairs, 2, scopes); NaN where undefined.
    """
    exact = stack.exact()[:, [METRICS.index(metric) for metric in SWAPPED]]
    observed = np.stack([exact[b] - exact[a] for a, b in pairs])
    # Images and swaps must not share random numbers.
    numbers = np.random.SeedSequence(seed, spawn_key=(1,))
    done = 0

    def report_swaps(number: int) -> None:
        """Reports how many random swaps of the two runs' predictions are finished."""
        nonlocal done
        done += number
        reporter.progress("Swapping the runs' answers", done, permutations, "swaps")

    return swap_p_values(stack.swappable(), pairs, observed, permutations, numbers, available_cores(), report_swaps)


def _tested_differences(
    stack: Stack, names: Sequence[str], a: int, b: int, level: float, swapped: Float
) -> pd.DataFrame:
    """Returns differences between runs a and b with intervals and p-values, as rows of `Comparison.differences`.

    swapped: the p-values of PQ and RQ, which are tested by swapping predictions
    """
    found, enough = differences(stack, a, b), stack.enough([a, b])
    low, high = (np.where(enough, side, np.nan) for side in found.estimate.ends(level))
    p = np.where(enough, found.estimate.p(), np.nan)
    p[[METRICS.index(metric) for metric in SWAPPED]] = swapped
    groups = slice(len(stack.members))
    if len(stack.scopes) == len(stack.members) or stack.held[a].shape[1] < SQ_IMAGES:
        # Many categories have only false positives, so whether they can match is unknown.
        low[1, groups] = high[1, groups] = p[1, groups] = np.nan
    return scope_table(
        stack.scopes,
        {
            "value_a": found.value_a,
            "value_b": found.value_b,
            "difference": found.value_b - found.value_a,
            "low": low,
            "high": high,
            "p": p,
            "images": stack.images_of([a, b]),
        },
        (*METRICS, MATCHED_IOU),
    ).assign(a=names[a], b=names[b])


def _empty_differences() -> pd.DataFrame:
    """Makes the table of `Comparison.differences` without rows."""
    text = dict.fromkeys(("a", "b", "group", "name", "metric"), object)
    numbers = ("category_id", "value_a", "value_b", "difference", "low", "high", "p", "images")
    types = {**text, **dict.fromkeys(numbers, float)}
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})


def permutations_needed(pairs: int, scopes: int, groups: int, level: float) -> int:
    """Returns the number of random swaps that a permutation test needs: at least 10,000, enough for small p-values.

    Any single comparison can be significant after correction; and with at most MOST_SWAPS, a comparison of All, Things
    or Stuff can reach SURE.
    """
    single = math.ceil(2 * pairs * scopes / (1 - level))
    return max(10_000, single, min(MOST_SWAPS, math.ceil(pairs * min(groups, 3) / SURE)))


def _add_pq_ranks(table: pd.DataFrame, differences: pd.DataFrame, stack: Stack) -> pd.DataFrame:
    """Adds each run's rank by PQ (1 is the highest) and the lowest and highest rank it could have.

    Columns rank, rank_low and rank_high; NaN except for PQ of groups of categories (or slices).
    """
    ranks = np.full((len(table), 3), np.nan)
    winners, losers = Counter[Any](), Counter[Any]()
    sure = differences[["group", "a", "b", "difference"]][(differences["metric"] == "PQ") & differences["significant"]]
    for group, a, b, difference in sure.itertuples(index=False, name=None):
        winner, loser = (b, a) if difference > 0 else (a, b)
        winners[group, winner] += 1
        losers[group, loser] += 1
    scored = np.flatnonzero((table["metric"] == "PQ") & table["value"].notna())
    groups, runs, value = (table[name].to_numpy()[scored] for name in ("group", "run", "value"))
    for group, _, _ in stack.scopes[: len(stack.members)]:
        own = np.flatnonzero(groups == group)
        for row in own:
            # Equal runs can differ in the last bits if their sums were added up in another order.
            higher = np.count_nonzero(value[own] > value[row] + 1e-12)
            behind, ahead = winners[group, runs[row]], losers[group, runs[row]]
            ranks[scored[row]] = (1 + higher, 1 + ahead, len(own) - behind)
    return table.assign(**dict(zip(("rank", "rank_low", "rank_high"), ranks.T, strict=True)))


LEAST_IMAGES = 200
"""With fewer images `lost_difference` has no interval: with 100, its coverage is only 60 to 82 %."""


def lost_difference(difference: Float, a: Float, b: Float, level: float = 0.95) -> tuple[Float, Float]:
    """Returns the confidence interval of how much more PQ one model loses than another to each cause of error.

    (low, high), each (causes,); NaN below LEAST_IMAGES images.

    The loss is a smooth function of sums over images, so its jackknife is to first order the sum of the images'
    contributions [Jaeckel 1972]. The comparison is paired: only the difference of an image's contributions counts. The
    bias of small samples is not corrected.
    difference: (causes,); a, b: (causes, images) from `lost_influence` of the two models
    """
    deviations = a - b
    deviations = deviations - deviations.mean(axis=1, keepdims=True)
    images = deviations.shape[1]
    if images < LEAST_IMAGES:
        return np.full_like(difference, np.nan), np.full_like(difference, np.nan)
    variance = np.square(deviations).sum(axis=1) * images / (images - 1)
    return Estimate(difference, variance, freedom(deviations)).ends(level)
