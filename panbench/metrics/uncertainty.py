"""How sure we are: intervals for every PQ, SQ and RQ, and whether one run is really better than another.

The images are the sample. Intervals resample whole images with replacement (bootstrap, percentile) [Efron 1979]; tests
swap the two runs' answers image by image (paired permutation) [Fisher 1935; Smucker et al. 2007]. Both only re-weight
images, and PQ is a quotient of sums over images, so any number of resamples is one sparse matrix product, (sums ×
images) · (images × resamples). docs/uncertainty.md has the simulations behind the choices.

In a resample a category without TP, FP and FN drops out of the means, as panopticapi would drop it when it scored just
those images; the category's own interval is over the resamples that hold it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import listed
from panbench.metrics.matched import Matched, positions
from panbench.metrics.pq import panoptic_quality, ratio
from panbench.metrics.slices import ImageStatistics, SliceFold, StatisticsFold
from panbench.metrics.swaps import Swappable, swap_p_values
from panbench.panoptic.types import Category

__all__ = ["METRICS", "Comparison", "Sample", "SampleFold", "compare", "holm", "intervals"]

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

METRICS = ("PQ", "SQ", "RQ")

EXACT_IMAGES = 20_000
"""Up to so many images each is resampled by itself."""

UNITS = 5_000
"""Of more images, so many groups are resampled: as many as COCO's val2017 has images."""

FEWEST_IMAGES = 10
"""A category in fewer images has no interval: resampling so few covers the truth far less often than it says."""


@dataclass(frozen=True)
class Comparison:
    """What is known about the order of some runs on the images that they share.

    runs: one row a run and scope, columns of `intervals` after `run`, and for PQ of groups `rank` (1 is best; equal PQ
        shares a rank) with its interval `rank_low`, `rank_high`
    differences: one row a pair of runs, scope and metric: a, b, group, category_id, name, metric, value_a, value_b,
        difference (b − a), low, high, p, p_holm, significant, images (that hold the scope in either run)
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


def intervals(
    statistics: ImageStatistics | Sample,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> pd.DataFrame:
    """PQ, SQ and RQ of All, Things, Stuff and each category (or of each slice) with their bootstrap intervals.

    Columns: group ("All", … or the slice; None for a category), category_id (0 for a group), name, metric, value
    (exact: of all images, not of resamples), low, high (percentiles of the resamples at `level`), images (that hold the
    scope). low and high are NaN where fewer than 10 images hold the scope. The same seed gives the same numbers on any
    machine.
    """
    _check(resamples, level)
    stack = Stack.of([statistics if isinstance(statistics, Sample) else Sample.of(statistics)])
    drawn = resampled(stack, resamples, seed, Progress(reporter, resamples))
    low, high = percentiles(drawn[0], level)
    return _interval_rows(stack, 0, low, high)


def compare(
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
    permutations: None takes 10,000, or as many more as a single one of all comparisons needs to be significant
    Intervals of differences come from resamples that are the same images for both runs. The p-value of a difference is
    the share of random swaps of the two runs, image by image, after which they differ at least as much (two-sided, the
    observed order counted in, so never 0). p_holm corrects it [Holm 1979] for all comparisons of a metric: of all pairs
    × groups, and apart from those all pairs × categories. significant: p_holm < 1 − level.
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
        permutations = max(10_000, math.ceil(2 * len(pairs) * len(stack.scopes) / (1 - level)))
    progress = Progress(reporter, resamples + (permutations if pairs else 0))
    drawn = resampled(stack, resamples, seed, progress)
    tables = []
    for run, name in enumerate(names):
        frame = _interval_rows(stack, run, *percentiles(drawn[run], level))
        frame.insert(0, "run", name)
        tables.append(frame)
    ranked = _with_ranks(pd.concat(tables, ignore_index=True), stack, drawn, level)

    bounds = [percentiles(drawn[b] - drawn[a], level) for a, b in pairs]
    del drawn
    p = _swap_p_values(stack, pairs, permutations, seed, progress) if pairs else np.zeros(0)
    differences = [
        _difference_rows(stack, names, *pair, *bound, p_of_pair)
        for pair, bound, p_of_pair in zip(pairs, bounds, p, strict=True)
    ]
    table = pd.concat(differences, ignore_index=True) if differences else _no_differences()
    table["p_holm"] = table.groupby(["metric", table["group"].isna()])["p"].transform(lambda p: holm(p.to_numpy()))
    table["significant"] = table["p_holm"] < 1 - level
    columns = ["a", "b", "group", "category_id", "name", "metric", "value_a", "value_b", "difference", "low", "high"]
    return Comparison(
        runs=ranked,
        differences=table[[*columns, "p", "p_holm", "significant", "images"]],
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


@dataclass(frozen=True)
class Sample:
    """A run's statistics as resampling takes them; those of a million images take some 60 MB.

    A cell is a category or, sliced, a category in a slice. Images are resampled one by one; of more than EXACT_IMAGES
    `SampleFold` makes UNITS groups that each hold every UNITS-th image. Sums over groups are as independent as images
    are, and 5,000 of them tell the spread of PQ to 1 % (1/√(2 · 5,000)), about as well as 10,000 resamples do.
    sums: (3 · cells, units) what each unit adds to Σ IoU, TP and FP + FN; held: (cells, images) where an image holds a
    cell
    """

    image_ids: Int
    sums: scipy.sparse.csr_array | Float
    held: scipy.sparse.csr_array
    categories: tuple[Category, ...]
    slices: tuple[str, ...]
    by: str | None

    @staticmethod
    def of(statistics: ImageStatistics) -> Sample:
        """Of the statistics of a run, on all of its images; of more than EXACT_IMAGES in UNITS groups."""
        image_ids, n = statistics.image_ids, len(statistics.categories)
        cell = statistics.slice.astype(np.int64) * n + positions(statistics.category_id, statistics.categories)
        image = np.searchsorted(image_ids, statistics.image_id)
        n_cells = n * max(len(statistics.slices), 1)
        grouped = len(image_ids) > EXACT_IMAGES
        unit, units = (image % UNITS, UNITS) if grouped else (image, len(image_ids))
        sums = []
        for values in (statistics.sums.iou_sum, statistics.sums.TP, statistics.sums.mistakes):
            added = scipy.sparse.csr_array((values.astype(np.float64), (cell, unit)), shape=(n_cells, units))
            sums.append(added)
        counted = statistics.sums.counted
        stacked = scipy.sparse.csr_array(scipy.sparse.vstack(sums, format="csr"))
        held = _held(cell[counted], image[counted], (n_cells, len(image_ids)))
        return Sample(image_ids, stacked, held, statistics.categories, statistics.slices, statistics.by)


class SampleFold:
    """The `Sample` of images that come block by block; a `Fold`.

    images: all that will come, ascending; by: a key of SLICINGS. Of more than EXACT_IMAGES it keeps, besides sums of
    groups, 6 bytes for each image and cell.
    """

    def __init__(self, categories: Sequence[Category], images: Int, by: str | None = None) -> None:
        self.images = images
        self._statistics = StatisticsFold(categories, by)
        self._cells = SliceFold(categories, by)
        self._grouped = len(images) > EXACT_IMAGES
        self._n_cells = len(categories) * max(len(self._cells.slices), 1)
        # Slices times categories are many cells of which few are used; zeros that nothing is added to take no memory.
        self._sums = np.zeros((3 * self._n_cells, UNITS if self._grouped else 0))
        self._held: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int16 | np.int32]]] = []

    def look(self, matched: Matched) -> ImageStatistics:
        """`image_statistics` of a block."""
        return self._statistics.look(matched)

    def add(self, part: ImageStatistics) -> None:
        """Adds the rows of a block to the groups of their images."""
        if not self._grouped:
            self._statistics.add(part)
            return
        cell, _, _ = self._cells.tally(part)
        image = np.searchsorted(self.images, part.image_id)
        cells = cell.astype(np.int64)
        for row, values in enumerate((part.sums.iou_sum, part.sums.TP, part.sums.mistakes)):
            np.add.at(self._sums, (row * self._n_cells + cells, image % UNITS), values)
        counted = part.sums.counted
        self._held.append((image[counted].astype(np.int32), cell[counted]))

    def result(self) -> Sample:
        """The sample of all that was added."""
        if not self._grouped:
            return Sample.of(self._statistics.result())
        image, cell = (np.concatenate([block[side] for block in self._held]) for side in (0, 1))
        self._held = [(image, cell)]
        held = _held(cell, image, (self._n_cells, len(self.images)))
        categories, by = self._statistics.categories, self._statistics.by
        return Sample(self.images, self._sums, held, categories, self._cells.slices, by)


def _held(cell: npt.NDArray[Any], image: npt.NDArray[Any], shape: tuple[int, int]) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array((np.ones(len(cell), np.int8), (cell, image)), shape=shape)


@dataclass(frozen=True)
class Stack:
    """The statistics of several runs on the same images, laid out for matrix products.

    A scope is what has a PQ: a group, the mean of its cells, or a single category; groups come first.
    ious: (runs · cells, units) what each unit adds to Σ IoU of a cell of a run
    counts: (runs · 2 · cells, units) what it adds to TP and FP + FN, in half the bytes where that is exact
    held: for each run (cells, images), true where an image holds a cell
    scopes: (group, category_id, name) of each; members: (groups, cells) 1 where a group holds a cell
    """

    n_runs: int
    ious: scipy.sparse.csr_array | Float
    counts: scipy.sparse.csr_array | Float
    held: tuple[scipy.sparse.csr_array, ...]
    scopes: tuple[tuple[str | None, int, str], ...]
    members: Float

    @staticmethod
    def of(samples: Sequence[Sample]) -> Stack:
        """Of runs with the same image_ids, categories and slices."""
        first = samples[0]
        n_cells = first.held.shape[0]
        # Slices times categories are many cells and most are empty; categories are kept whole, as each has a PQ of its
        # own.
        with_any = np.any([np.diff(sample.held.indptr) > 0 for sample in samples], axis=0)
        kept = np.flatnonzero(with_any) if first.slices else np.arange(n_cells)
        held = tuple(scipy.sparse.csr_array(sample.held[kept]) for sample in samples)
        ious = _stacked([sample.sums[kept] for sample in samples])
        rows = np.concatenate([n_cells + kept, 2 * n_cells + kept])
        counts = _in_half(_stacked([sample.sums[rows] for sample in samples]))
        return Stack(len(samples), ious, counts, held, *_scopes(first, kept))

    @property
    def n_units(self) -> int:
        """How many units are resampled."""
        return int(self.ious.shape[1])

    def weighted(self, weights: Float) -> Float:
        """(runs, 3, cells, resamples) sums in which each unit counts as weights (units, resamples) says."""
        n = weights.shape[1]
        out = np.empty((self.n_runs, 3, self.members.shape[1], n))
        out[:, 0] = (self.ious @ weights).reshape(self.n_runs, -1, n)
        out[:, 1:] = (self.counts @ weights.astype(self.counts.dtype)).reshape(self.n_runs, 2, -1, n)
        return out

    def totals(self) -> Float:
        """(runs, 3, cells, 1) sums over all units, each once."""
        return self.weighted(np.ones((self.n_units, 1)))

    def scores(self, sums: Float) -> Float:
        """(3, scopes, resamples) PQ, SQ, RQ of scopes from (3, cells, resamples) sums; NaN where a scope is empty."""
        iou_sum, hits, mistakes = sums
        held = hits + mistakes > 0
        n_groups = len(self.members)
        out = np.full((3, len(self.scopes), sums.shape[-1]), np.nan)
        # RQ is the PQ of matches that are all exact.
        per_cell = np.stack(
            [
                panoptic_quality(iou_sum, hits, mistakes),
                ratio(iou_sum, hits),
                panoptic_quality(hits, hits, mistakes),
            ]
        )
        n = self.members @ held
        np.divide(self.members @ per_cell, n, out=out[:, :n_groups], where=n > 0)
        if len(self.scopes) > n_groups:
            np.copyto(out[:, n_groups:], per_cell, where=held)
        return out

    def exact(self) -> Float:
        """(runs, 3, scopes) PQ, SQ and RQ on all images."""
        return np.stack([self.scores(sums)[..., 0] for sums in self.totals()])

    def images_of(self, runs: Sequence[int]) -> Int:
        """(scopes,) how many images hold the scope in any of some runs."""
        held = scipy.sparse.csr_array(sum((self.held[run] for run in runs[1:]), self.held[runs[0]]) > 0)
        of_groups = (self.members @ held > 0).sum(axis=1)
        of_categories = np.diff(held.indptr) if len(self.scopes) > len(of_groups) else []
        return np.concatenate([of_groups, of_categories]).astype(np.int64)

    def swappable(self) -> Swappable:
        """The same sums for `swap_p_values`."""
        n = self.members.shape[1]
        hits, mistakes = (
            _stacked([self.counts[(2 * run + side) * n : (2 * run + side + 1) * n] for run in range(self.n_runs)])
            for side in (0, 1)
        )
        # Half of a count is exact in any kind of number that the count is exact in.
        whole = hits.astype(np.float64) + mistakes.astype(np.float64) / 2
        return Swappable((self.ious, hits, whole), self.members, len(self.scopes) > len(self.members))


def _stacked(sums: Sequence[scipy.sparse.csr_array | Float]) -> scipy.sparse.csr_array | Float:
    """Some sums below each other: sparse, as most categories are in few images, or dense, as groups of images hold
    most of them; then that product is faster by far."""
    if isinstance(sums[0], np.ndarray):
        return np.concatenate(sums)
    stacked = scipy.sparse.csr_array(scipy.sparse.vstack(sums, format="csr"))
    stacked.eliminate_zeros()
    return stacked


def _in_half(counts: scipy.sparse.csr_array | Float) -> scipy.sparse.csr_array | Float:
    """Counts as float32, which products go through twice as fast, if every sum of a resample is exact in it."""
    largest = counts.max() if min(counts.shape) else 0
    return counts.astype(np.float32) if counts.shape[1] * largest < 1 << 24 else counts


def _scopes(statistics: Sample, kept: Int) -> tuple[tuple[tuple[str | None, int, str], ...], Float]:
    """The scopes of a stack, and which of the kept cells each group holds."""
    categories, slices = statistics.categories, statistics.slices
    if slices:
        members = kept // len(categories) == np.arange(len(slices))[:, None]
        return tuple((name, 0, name) for name in slices), members.astype(np.float64)
    isthing = np.array([category.isthing for category in categories], np.bool_)
    groups: list[tuple[str | None, int, str]] = [(name, 0, name) for name in ("All", "Things", "Stuff")]
    single: list[tuple[str | None, int, str]] = [(None, category.id, category.name) for category in categories]
    return (*groups, *single), np.stack([np.ones(len(kept)), isthing, ~isthing]).astype(np.float64)


def sample_on(run: ImageStatistics | Sample, shared: Int) -> Sample:
    if isinstance(run, ImageStatistics):
        return Sample.of(run.only(shared))
    if len(run.image_ids) != len(shared):
        raise BadArgument("Samples must be of the same images. Narrow their statistics first.")
    return run


def shared_of(runs: Mapping[str, ImageStatistics | Sample]) -> Int:
    names = list(runs)
    if not names:
        raise BadArgument("There is no run to compare. Name at least one.")
    head = runs[names[0]]
    shared = head.image_ids
    for name in names[1:]:
        other = runs[name]
        ours, theirs = ({(c.id, c.name, c.isthing) for c in run.categories} for run in (head, other))
        if ours != theirs:
            odd = sorted(name for _, name, _ in ours ^ theirs)
            raise BadArgument(
                f"{names[0]} and {name} have different categories ({listed(odd, 5)}). Compare runs on one dataset."
            )
        if head.slices != other.slices or head.by != other.by:
            raise BadArgument(f"{names[0]} and {name} are sliced differently. Slice all runs alike.")
        shared = np.intersect1d(shared, other.image_ids)
    if not len(shared):
        raise BadArgument(f"{listed(names)} share no image. Compare runs on one dataset and split.")
    return shared


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
    return swap_p_values(stack.swappable(), pairs, observed, permutations, numbers, _cores(), progress.done)


def draw_counts(rng: np.random.Generator, n_images: int, resamples: int) -> Float:
    """(images, resamples) how often each image is in each resample of n_images draws."""
    kind = np.uint16 if n_images <= 1 << 16 else np.uint32
    drawn = rng.integers(0, n_images, size=(resamples, n_images), dtype=kind)
    counts = np.empty((n_images, resamples))
    for column, images in enumerate(drawn):
        counts[:, column] = np.bincount(images, minlength=n_images)
    return counts


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
    with ThreadPoolExecutor(min(_cores(), len(spans))) as pool:
        for span, block in zip(spans, pool.map(work, map(np.random.default_rng, seeds), spans), strict=True):
            found.append(block)
            if progress is not None:
                progress.done(span.stop - span.start)
    return found


class Progress:
    """Tells of resamples and swaps as of one task."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._reporter, self._total, self._done = reporter, total, 0

    def done(self, number: int) -> None:
        """So many more are done."""
        self._done += number
        self._reporter.progress("Resampling images", self._done, self._total, "resamples")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def percentiles(drawn: Float, level: float) -> tuple[Float, Float]:
    """Low and high percentile of the last axis at a level, NaN left out; NaN where all are."""
    tails = np.array([(1 - level) / 2, (1 + level) / 2])

    def of_rows(rows: Float) -> Float:
        bounds = np.full((len(rows), 2), np.nan)
        for row, values in enumerate(rows):
            # A NaN anywhere makes the sum NaN: cheaper than looking for one.
            known = values[~np.isnan(values)] if np.isnan(values.sum()) else values
            if len(known):
                # np.quantile's default, without what it does besides for each of the many rows.
                at = tails * (len(known) - 1)
                below = at.astype(np.int64)
                above = np.minimum(below + 1, len(known) - 1)
                ordered = np.partition(known, np.concatenate([below, above]))
                bounds[row] = ordered[below] + (at - below) * (ordered[above] - ordered[below])
        return bounds

    flat = drawn.reshape(-1, drawn.shape[-1])
    with ThreadPoolExecutor(_cores()) as pool:
        bounds = np.concatenate(list(pool.map(of_rows, np.array_split(flat, _cores()))))
    low, high = bounds.T.reshape(2, *drawn.shape[:-1])
    return low, high


def _rows(stack: Stack) -> Iterator[tuple[int, int, dict[str, object]]]:
    """Each scope and metric: their positions and the columns that name them."""
    for scope, (group, category_id, name) in enumerate(stack.scopes):
        for metric, label in enumerate(METRICS):
            yield metric, scope, {"group": group, "category_id": category_id, "name": name, "metric": label}


def _interval_rows(stack: Stack, run: int, low: Float, high: Float) -> pd.DataFrame:
    images, exact = stack.images_of([run]), stack.exact()[run]
    few = images < FEWEST_IMAGES
    return pd.DataFrame(
        [
            {
                **names,
                "value": exact[metric, scope],
                "low": np.nan if few[scope] else low[metric, scope],
                "high": np.nan if few[scope] else high[metric, scope],
                "images": images[scope],
            }
            for metric, scope, names in _rows(stack)
        ]
    )


def _difference_rows(
    stack: Stack, names: Sequence[str], a: int, b: int, low: Float, high: Float, p: Float
) -> pd.DataFrame:
    images, exact = stack.images_of([a, b]), stack.exact()
    of_a, of_b = exact[a], exact[b]
    few = images < FEWEST_IMAGES
    return pd.DataFrame(
        [
            {
                "a": names[a],
                "b": names[b],
                **scope_names,
                "value_a": of_a[metric, scope],
                "value_b": of_b[metric, scope],
                "difference": of_b[metric, scope] - of_a[metric, scope],
                "low": np.nan if few[scope] else low[metric, scope],
                "high": np.nan if few[scope] else high[metric, scope],
                "p": p[metric, scope],
                "images": images[scope],
            }
            for metric, scope, scope_names in _rows(stack)
        ]
    )


def _no_differences() -> pd.DataFrame:
    text = ["a", "b", "group", "name", "metric"]
    numbers = ["category_id", "value_a", "value_b", "difference", "low", "high", "p", "images"]
    return pd.DataFrame(
        {**{name: pd.Series(dtype=object) for name in text}, **{name: pd.Series(dtype=float) for name in numbers}}
    )


def _with_ranks(table: pd.DataFrame, stack: Stack, drawn: Float, level: float) -> pd.DataFrame:
    """Adds rank, rank_low and rank_high to the PQ rows of groups, NaN elsewhere; 1 is the highest PQ."""
    n_groups = len(stack.members)
    ranks = ranks_of(stack.exact()[:, 0, :n_groups], drawn[:, 0, :n_groups], level)
    columns = np.full((3, stack.n_runs, len(stack.scopes), len(METRICS)), np.nan)
    columns[:, :, :n_groups, 0] = np.stack(ranks)
    return table.assign(**dict(zip(("rank", "rank_low", "rank_high"), columns.reshape(3, -1), strict=True)))


def ranks_of(exact: Float, drawn: Float, level: float) -> tuple[Float, Float, Float]:
    """(runs, scopes) rank of each run by (runs, scopes) PQ, and its range in (runs, scopes, resamples); 1 is the best.

    NaN where a run has no PQ.
    """
    # Equal runs whose sums were added up in another order must count as equal.
    better = 1e-12
    # A run's rank in a resample: one more than the runs that are better there.
    ranks = 1 + sum((drawn[other] > drawn + better).astype(np.int16) for other in range(len(drawn)))
    low, high = percentiles(ranks.astype(np.float64), level)
    rank = 1.0 + (exact[None] > exact[:, None] + better).sum(axis=1)
    absent = np.isnan(exact)
    return tuple(np.where(absent, np.nan, values) for values in (rank, np.floor(low), np.ceil(high)))  # type: ignore[return-value]


def _check(resamples: int, level: float) -> None:
    if resamples < 100:
        raise BadArgument(f"resamples must be at least 100, not {resamples}: fewer do not show the tails.")
    if not 0 < level < 1:
        raise BadArgument(f"level must lie between 0 and 1, not {level}.")
