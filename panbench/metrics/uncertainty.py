"""Whether one run is really better than another: paired differences with intervals, p-values and ranks.

The images are the sample. Intervals of differences resample whole images with replacement (bootstrap, percentile)
[Efron 1979]; tests swap the two runs' answers image by image (paired permutation) [Fisher 1935; Smucker et al. 2007].
Both only re-weight images, and PQ is a quotient of sums over images, so any number of resamples is one sparse matrix
product, (sums × images) · (images × resamples). The bias of few images is that of both runs and cancels in a
difference; intervals of one run's scores are those of metrics/jackknife.py. docs/simulations.md has the simulations.

In a resample a category without TP, FP and FN drops out of the means, as panopticapi would drop it when it scored just
those images; the interval of a category's difference is over the resamples that hold it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr, stdtrit

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import listed
from panbench.base.threads import available_cores
from panbench.metrics.jackknife import interval_rows
from panbench.metrics.samples import Sample, Stack, sample_on, scope_table, shared_of
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.swaps import swap_p_values

__all__ = ["Comparison", "holm", "swaps_needed", "weigh"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SURE = 0.001
"""Tables print p-values below as "<0.001"; there are swaps enough for that of All, Things and Stuff."""

MOST_SWAPS = 50_000
"""So many are made for it at most, which does for 16 pairs."""


@dataclass(frozen=True)
class Comparison:
    """The differences and ranks of runs on the images that they share.

    runs: one row a run and scope, columns of `intervals` after `run`, and for PQ of groups `rank` (1 is best; equal PQ
        shares a rank) with the ranks that the tests leave open, `rank_low` to `rank_high`
    differences: one row a pair of runs, scope and metric: a, b, group, category_id, name, metric, value_a, value_b,
        difference (b − a), low, high, p, p_holm, significant, at_floor (no swap differed as much: p could be smaller),
        images (that hold the scope in either run)
    images: how many images the runs share; left_out: of each run, how many it has besides
    level, resamples, permutations, seed: how the numbers were made
    """

    runs: pd.DataFrame
    differences: pd.DataFrame
    images: int
    left_out: Mapping[str, int]
    level: float
    resamples: int
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
    resamples: int = 10_000,
    permutations: int | None = None,
    level: float = 0.95,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> Comparison:
    """Paired differences of runs on the images that they share, with intervals, p-values and ranks.

    baseline: the run that all others are compared with; None compares every run with every other
    permutations: None takes 10,000, or as many more as corrected p-values need to come out as small as tables print
    Intervals of differences come from resamples that are the same images for both runs. The p-value of a difference is
    the share of random swaps of the two runs, image by image, after which they differ at least as much (two-sided, the
    observed order counted in, so never 0). p_holm corrects it [Holm 1979] for all comparisons of a metric: of all pairs
    × groups, and apart from those all pairs × categories. significant: p_holm < 1 − level. A run's rank is at best one
    more than the runs that are significantly better, and at worst as many less than all as are significantly worse.
    Raises BadArgument when runs share no image, or differ in categories or slicing.
    """
    _check(resamples, level)
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
    progress = Progress(reporter, resamples + permutations)
    if not pairs:
        table = _no_differences()
    else:
        drawn = resampled(stack, resamples, seed, progress)
        bounds = [percentiles(drawn[b] - drawn[a], level, stack.images_of([a, b])) for a, b in pairs]
        del drawn
        p = _swap_p_values(stack, pairs, permutations, seed, progress)
        found = zip(pairs, bounds, p, strict=True)
        table = pd.concat([_difference_rows(stack, names, *pair, *ends, of) for pair, ends, of in found])
        table = table.reset_index(drop=True)
    table["p_holm"] = table.groupby(["metric", table["group"].isna()])["p"].transform(lambda p: holm(p.to_numpy()))
    table["significant"] = table["p_holm"] < 1 - level
    # Of 1 + permutations orders only the observed one differs as much.
    table["at_floor"] = table["p"] < 1.5 / (1 + permutations)
    scores = [interval_rows(stack, run, level).assign(run=name) for run, name in enumerate(names)]
    ranked = _with_ranks(pd.concat(scores, ignore_index=True), table, stack)
    columns = ["a", "b", "group", "category_id", "name", "metric", "value_a", "value_b", "difference", "low", "high"]
    return Comparison(
        runs=ranked[["run", *ranked.columns.drop("run")]],
        differences=table[[*columns, "p", "p_holm", "significant", "at_floor", "images"]],
        images=len(shared),
        left_out={name: len(statistics.image_ids) - len(shared) for name, statistics in runs.items()},
        level=level,
        resamples=resamples,
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


def resampled(stack: Stack, resamples: int, seed: int, progress: Progress | None = None) -> Float:
    """(runs, 3, scopes, resamples) PQ, SQ and RQ of bootstrap resamples, the same images for all runs."""
    out = np.empty((stack.n_runs, 3, len(stack.scopes), resamples))

    def draw(rng: np.random.Generator, span: slice) -> None:
        for run, sums in enumerate(stack.weighted(draw_counts(rng, stack.n_units, span.stop - span.start))):
            out[run, :, :, span] = stack.scores(sums)

    in_blocks(draw, stack.n_units, resamples, seed, progress)
    return out


def _swap_p_values(
    stack: Stack, pairs: Sequence[tuple[int, int]], permutations: int, seed: int, progress: Progress
) -> Float:
    """(pairs, 3, scopes) p-values of the differences of pairs of runs, from swapping them image by image; NaN without
    one."""
    exact = stack.exact()
    observed = np.stack([exact[b] - exact[a] for a, b in pairs])
    # Resamples and swaps must not share random numbers.
    numbers = np.random.SeedSequence(seed, spawn_key=(1,))
    return swap_p_values(stack.swappable(), pairs, observed, permutations, numbers, available_cores(), progress.done)


def draw_counts(rng: np.random.Generator, n_images: int, resamples: int) -> Float:
    """(images, resamples) how often each image is in each resample of n_images draws."""
    kind = np.uint16 if n_images <= 1 << 16 else np.uint32
    drawn = rng.integers(0, n_images, size=(resamples, n_images), dtype=kind)
    # One count for each resample and image, then turned: writing a column at a time misses the cache at each image.
    place = drawn + np.arange(resamples)[:, None] * n_images
    counts = np.bincount(place.ravel(), minlength=resamples * n_images).reshape(resamples, n_images)
    return np.array(counts.T, np.float64, order="C")


Block = TypeVar("Block")


def in_blocks(
    work: Callable[[np.random.Generator, slice], Block],
    n_images: int,
    total: int,
    seed: int,
    progress: Progress | None = None,
    purpose: int = 0,
) -> list[Block]:
    """What `work` returns for blocks of the resamples, on all cores.

    Each block has a random stream of its own and blocks depend on the sizes alone, so neither the number of cores nor
    the order of the blocks changes a number.
    """
    # The weights of a block are (images, size) float64. 640,000 of them are 5 MB: they stay in a core's cache while the
    # sparse product goes through them row by row, once for each category that an image holds. More than 256 columns
    # gain nothing; fewer than 16 would walk the sparse matrix once for a handful of resamples.
    size = int(np.clip(640_000 // max(n_images, 1), 16, 256))
    spans = [slice(start, min(start + size, total)) for start in range(0, total, size)]
    seeds = np.random.SeedSequence(seed, spawn_key=(purpose,)).spawn(len(spans))
    found = []
    with ThreadPoolExecutor(min(available_cores(), len(spans))) as pool:
        for span, block in zip(spans, pool.map(work, map(np.random.default_rng, seeds), spans), strict=True):
            found.append(block)
            if progress is not None:
                progress.done(span.stop - span.start)
    return found


class Progress:
    """Reports resamples and swaps as one task."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total, self._done = reporter, total, 0

    def done(self, number: int) -> None:
        """Reports that this many more are done."""
        self._done += number
        self._reporter.progress("Resampling images", self._done, self._total, "resamples")


def percentiles(drawn: Float, level: float, images: npt.ArrayLike | None = None) -> tuple[Float, Float]:
    """Low and high percentile of the last axis at a level, NaN left out; NaN where all are.

    images: how many each row was drawn from, in a shape that fits all axes but the last. A bootstrap of n images shows
    a spread that is √((n − 1)/n) of what it should be and nothing of how badly n images tell it, so the percentiles
    are those of Φ(−√(n/(n − 1)) · t), t the quantile of Student's t with n − 1 degrees of freedom [Hesterberg 2015,
    the expanded percentile interval]: 1.1 % instead of 2.5 % at 12 images, 2.46 % at 500.
    """
    tails: Float = np.full(drawn.shape[:-1], (1 - level) / 2)
    if images is not None:
        n = np.maximum(np.asarray(images, np.float64), 2)
        tails[...] = ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2))

    def of_rows(rows: Float, tails: Float) -> Float:
        bounds = np.full((len(rows), 2), np.nan)
        for row, values in enumerate(rows):
            # A NaN anywhere makes the sum NaN: cheaper than looking for one.
            known = values[~np.isnan(values)] if np.isnan(values.sum()) else values
            if len(known):
                # np.quantile's default, without what it does besides for each of the many rows.
                at = np.array([tails[row], 1 - tails[row]]) * (len(known) - 1)
                below = at.astype(np.int64)
                above = np.minimum(below + 1, len(known) - 1)
                lower, upper = _at_places(known, below, above)
                bounds[row] = lower + (at - below) * (upper - lower)
        return bounds

    flat, of_flat = drawn.reshape(-1, drawn.shape[-1]), np.reshape(tails, -1)
    with ThreadPoolExecutor(available_cores()) as pool:
        parts = zip(np.array_split(flat, available_cores()), np.array_split(of_flat, available_cores()), strict=True)
        bounds = np.concatenate(list(pool.map(lambda part: of_rows(*part), parts)))
    low, high = bounds.T.reshape(2, *drawn.shape[:-1])
    return low, high


def _at_places(values: Float, below: Int, above: Int) -> tuple[Float, Float]:
    """The values that would stand at two places `below` and at their neighbours `above`, were all in order."""
    if below[1] < above[0]:
        ordered = np.sort(values)
        return ordered[below], ordered[above]
    # One place at a time is several times as fast as four in one call; its neighbour is the largest or least of a side.
    left = np.partition(values, above[0])
    right = np.partition(left[above[0] :], below[1] - above[0])
    places = below[1] - above[0], above[1] - above[0]
    lower = left[: above[0]].max() if below[0] < above[0] else left[above[0]]
    upper = right[places[0] + 1 :].min() if places[1] > places[0] else right[places[0]]
    return np.array([lower, right[places[0]]]), np.array([left[above[0]], upper])


def _difference_rows(
    stack: Stack, names: Sequence[str], a: int, b: int, low: Float, high: Float, p: Float
) -> pd.DataFrame:
    exact, enough = stack.exact(), stack.enough([a, b])
    return scope_table(
        stack.scopes,
        {
            "value_a": exact[a],
            "value_b": exact[b],
            "difference": exact[b] - exact[a],
            "low": np.where(enough, low, np.nan),
            "high": np.where(enough, high, np.nan),
            "p": p,
            "images": stack.images_of([a, b]),
        },
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


def _check(resamples: int, level: float) -> None:
    if resamples < 100:
        raise BadArgument(f"resamples must be at least 100, not {resamples}: fewer do not show the tails.")
    if not 0 < level < 1:
        raise BadArgument(f"level must lie between 0 and 1, not {level}.")
