"""Whether one run is really better than another: paired differences with intervals, p-values and ranks.

The images are the sample. Intervals are the paired jackknife's (metrics/jackknife.py). Tests of PQ and RQ swap the two
runs' answers image by image (paired permutation) [Fisher 1935; Smucker et al. 2007]; SQ and the mean IoU of matches are
tested by the jackknife, as swaps change which categories are matched at all. docs/simulations.md has the simulations.
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
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import listed
from panbench.base.threads import available_cores
from panbench.metrics.jackknife import MATCHED_IOU, differences, interval_rows
from panbench.metrics.samples import METRICS, Sample, Stack, sample_on, scope_table, shared_of
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.swaps import swap_p_values

__all__ = ["Comparison", "holm", "swaps_needed", "weigh"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SURE = 0.001
"""Tables print p-values below as "<0.001"; there are swaps enough for that of All, Things and Stuff."""

MOST_SWAPS = 50_000
"""So many are made for it at most, which does for 16 pairs."""

SQ_IMAGES = 100
"""Fewer do not tell differences of SQ of All, Things and Stuff: their intervals hold too seldom."""

SWAPPED = ("PQ", "RQ")
"""The metrics that are tested by swaps."""


@dataclass(frozen=True)
class Comparison:
    """The differences and ranks of runs on the images that they share.

    runs: one row a run and scope, columns of `intervals` after `run`, and for PQ of groups `rank` (1 is best; equal PQ
        shares a rank) with the ranks that the tests leave open, `rank_low` to `rank_high`
    differences: one row a pair of runs, scope and metric: a, b, group, category_id, name, metric, value_a, value_b,
        difference (b − a), low, high, p, p_holm, significant, at_floor (no swap differed as much: p could be smaller),
        images (that hold the scope in either run); a metric more than `runs`, MATCHED_IOU, the mean IoU of matches
    images: how many images the runs share; left_out: of each run, how many it has besides
    level, permutations, seed: how the numbers were made
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
        """Rows of `runs` that are of groups, by run, group and metric. Selecting one in the table is much slower."""
        return {(row.run, row.group, row.metric): row for row in _of_groups(self.runs)}

    @cached_property
    def tests(self) -> Mapping[tuple[str, str, str, str], Any]:
        """Rows of `differences` that are of groups, by a, b, group and metric."""
        return {(row.a, row.b, row.group, row.metric): row for row in _of_groups(self.differences)}


def _of_groups(table: pd.DataFrame) -> Iterator[Any]:
    return iter(table[table["group"].notna()].itertuples())


def weigh(
    runs: Mapping[str, ImageStatistics | Sample],
    *,
    baseline: str | None = None,
    permutations: int | None = None,
    level: float = 0.95,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> Comparison:
    """Paired differences of runs on the images that they share, with intervals, p-values and ranks.

    baseline: the run that all others are compared with; None compares every run with every other
    permutations: None takes 10,000, or as many more as corrected p-values need to come out as small as tables print
    The p-value of a difference of PQ or RQ is the share of random swaps of the two runs, image by image, after which
    they differ at least as much (two-sided, the observed order counted in, so never 0). p_holm corrects it [Holm 1979]
    for all comparisons of a metric: of all pairs × groups, and apart from those all pairs × categories. significant:
    p_holm < 1 − level. A run's rank is at best one more than the runs that are significantly better, and at worst as
    many less than all as are significantly worse.
    Raises BadArgument when runs share no image, or differ in categories or slicing.
    """
    if not 0 < level < 1:
        raise BadArgument(f"level must lie between 0 and 1, not {level}.")
    if permutations is not None and permutations < 1:
        raise BadArgument(f"permutations must be at least 1, not {permutations}.")
    names = list(runs)
    if baseline is not None and baseline not in names:
        raise BadArgument(f"The baseline {baseline!r} is not among the runs: {listed(names)}.")
    shared = shared_of(runs)
    stack = Stack.of([sample_on(run, shared) for run in runs.values()])
    first = None if baseline is None else names.index(baseline)
    pairs = [
        (a, b) if first in (None, a) else (b, a) for a, b in combinations(range(len(names)), 2) if first in (None, a, b)
    ]

    if permutations is None:
        permutations = swaps_needed(len(pairs), len(stack.scopes), len(stack.members), level)
    if not pairs:
        table = _no_differences()
    else:
        p = _swap_p_values(stack, pairs, permutations, seed, Progress(reporter, permutations))
        found = [_difference_rows(stack, names, *pair, level, of) for pair, of in zip(pairs, p, strict=True)]
        table = pd.concat(found).reset_index(drop=True)
    table["p_holm"] = table.groupby(["metric", table["group"].isna()])["p"].transform(lambda p: holm(p.to_numpy()))
    table["significant"] = table["p_holm"] < 1 - level
    # Of 1 + permutations orders only the observed one differs as much.
    table["at_floor"] = table["metric"].isin(SWAPPED) & (table["p"] < 1.5 / (1 + permutations))
    scores = [interval_rows(stack, run, level).assign(run=name) for run, name in enumerate(names)]
    ranked = _with_ranks(pd.concat(scores, ignore_index=True), table, stack)
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
    """Holm's step-down correction of some p-values for their number; NaN stays NaN and is not counted. [Holm 1979]"""
    corrected = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return corrected


def _swap_p_values(
    stack: Stack, pairs: Sequence[tuple[int, int]], permutations: int, seed: int, progress: Progress
) -> Float:
    """(pairs, 2, scopes) p-values of the differences of pairs of runs in PQ and RQ, from swapping them image by image;
    NaN without one."""
    exact = stack.exact()[:, [METRICS.index(metric) for metric in SWAPPED]]
    observed = np.stack([exact[b] - exact[a] for a, b in pairs])
    # Images and swaps must not share random numbers.
    numbers = np.random.SeedSequence(seed, spawn_key=(1,))
    return swap_p_values(stack.swappable(), pairs, observed, permutations, numbers, available_cores(), progress.done)


class Progress:
    """Reports swaps as one task."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total, self._done = reporter, total, 0

    def done(self, number: int) -> None:
        """Reports that this many more are done."""
        self._done += number
        self._reporter.progress("Swapping the runs' answers", self._done, self._total, "swaps")


def _difference_rows(stack: Stack, names: Sequence[str], a: int, b: int, level: float, swapped: Float) -> pd.DataFrame:
    found, enough = differences(stack, a, b), stack.enough([a, b])
    low, high = (np.where(enough, side, np.nan) for side in found.estimate.ends(level))
    p = np.where(enough, found.estimate.p(), np.nan)
    p[[METRICS.index(metric) for metric in SWAPPED]] = swapped
    groups = slice(len(stack.members))
    if len(stack.scopes) == len(stack.members) or stack.held[a].shape[1] < SQ_IMAGES:
        # Many categories have false positives alone, which say nothing of whether they can match.
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


def _no_differences() -> pd.DataFrame:
    text = ["a", "b", "group", "name", "metric"]
    numbers = ["category_id", "value_a", "value_b", "difference", "low", "high", "p", "images"]
    return pd.DataFrame(
        {**{name: pd.Series(dtype=object) for name in text}, **{name: pd.Series(dtype=float) for name in numbers}}
    )


def swaps_needed(pairs: int, scopes: int, groups: int, level: float) -> int:
    """10,000 swaps, or more: so many that any single comparison can be significant after correction, and up to
    MOST_SWAPS that one of All, Things and Stuff can come out below SURE."""
    single = math.ceil(2 * pairs * scopes / (1 - level))
    return max(10_000, single, min(MOST_SWAPS, math.ceil(pairs * min(groups, 3) / SURE)))


def _with_ranks(table: pd.DataFrame, differences: pd.DataFrame, stack: Stack) -> pd.DataFrame:
    """Adds rank, rank_low and rank_high to the PQ rows of groups, NaN elsewhere; 1 is the highest PQ."""
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
            # Equal runs whose sums were added up in another order must count as equal.
            higher = np.count_nonzero(value[own] > value[row] + 1e-12)
            behind, ahead = winners[group, runs[row]], losers[group, runs[row]]
            ranks[scored[row]] = (1 + higher, 1 + ahead, len(own) - behind)
    return table.assign(**dict(zip(("rank", "rank_low", "rank_high"), ranks.T, strict=True)))
