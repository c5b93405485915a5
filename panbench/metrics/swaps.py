"""Computes p-values of differences between runs by swapping the predictions of two runs at random, image by image.

Under the null hypothesis it makes no difference which run a prediction comes from, so all ways of swapping are equally
likely. A random sample of them suffices, and they need not be drawn one by one: here they come in blocks of 1,024 that
are cosets of one group of swaps [Hoeffding 1952; Hemerik & Goeman 2018], whose sums are computed at once. Each image
draws a code of 10 bits; swap number k of the group swaps the images whose code has an odd number of bits in common with
k. The sums over images after all swaps are then the Walsh–Hadamard transform of the sums by code: two products with
matrices of ±1 instead of one product per swap. Each block also swaps a random set of images, which makes it a coset.
Swaps are pairwise independent, so the variance of the p-value is that of independent draws. docs/uncertainty.md
explains why p-values stay valid, docs/simulations.md has the simulation.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Rows: TypeAlias = "scipy.sparse.csr_array | Float"

BLOCK_BITS = 10
"""A block has 2^10 swaps. Transformed as a 32 × 32 matrix it stays in a core's caches, and BLAS on that core."""

NUMBERS_AT_ONCE = 8192
"""The number of cells × swaps that are processed at once, so that they stay in a core's caches."""

TOLERANCE = 1e-12
"""Differences this close count as equal, as sums can be added up in another order."""


@dataclass(frozen=True)
class Swappable:
    """Contributions of each image, or group of images, to PQ's sums in several runs, for the permutation test.

    sums: Σ IoU, TP and TP + (FP + FN)/2, each (runs · cells, units)
    members: (groups, cells) 1 where a group's mean contains a cell, else 0
    cells: True if each cell is a scope too
    """

    sums: tuple[Rows, Rows, Rows]
    members: Float
    cells: bool

    @property
    def n_units(self) -> int:
        """The number of units (images, or groups of images)."""
        return int(self.sums[0].shape[1])


def swap_p_values(
    runs: Swappable,
    pairs: Sequence[tuple[int, int]],
    observed: Float,
    permutations: int,
    seed: np.random.SeedSequence,
    workers: int = 1,
    done: Callable[[int], None] = lambda number: None,
) -> Float:
    """Returns p-values of the differences in PQ and RQ of pairs of runs, by a permutation test that swaps predictions.

    (pairs, 2, scopes): the share of swaps after which the runs differ at least as much as observed. Scopes are groups
    of categories (or slices), then categories.
    observed: (pairs, 2, scopes) differences; p is NaN where they are
    permutations: the number of swaps, in addition to the observed order, which counts as one
    seed: determines the result, whatever the number of workers
    done: called with the number of swaps that were finished since its last call
    """
    rng = np.random.default_rng(seed)
    bits = min(permutations.bit_length(), BLOCK_BITS)
    # Swap 0 of block 0 is the observed order.
    blocks = (permutations >> bits) + 1
    codes = rng.integers(0, 1 << bits, runs.n_units)
    further = rng.integers(0, 2, (blocks, runs.n_units), dtype=np.int8)
    further[0] = 0
    chosen = np.sort(rng.choice((blocks << bits) - 1, permutations, replace=False)) + 1
    transform = _SwapTransform.of(runs, codes, bits)
    scored = [_RunPair.of(runs, *pair) for pair in pairs]
    as_large = np.abs(observed)[..., None] - TOLERANCE

    def count_large_differences(block: int) -> tuple[int, Int]:
        """Counts how many of up to 1,024 permutations give at least as large a difference in PQ and RQ as observed.

        Returns the number of swaps of the block that were drawn, and (pairs, 2, scopes) how many of them differ so.
        """
        start, stop = np.searchsorted(chosen, [block << bits, (block + 1) << bits])
        counted = np.zeros(1 << bits, np.bool_)
        counted[chosen[start:stop] - (block << bits)] = True
        counts = np.zeros(observed.shape, np.int64)
        groups = len(runs.members)
        buffers = _SwapBuffers.of(transform.most_categories, len(counted))
        means = [_GroupMeans.of(pair, groups, len(counted)) for pair in scored]
        # All pairs are processed for some cells before the next cells, so that the sums stay in the cache.
        for cells, sums in transform.sums_after_swaps(further[block]):
            own = slice(groups + cells.start, groups + cells.stop)
            for index, pair in enumerate(scored):
                apart, lost = pair.category_differences(sums, cells, runs.members, buffers, means[index])
                if not runs.cells:
                    continue
                large = buffers.flags[:, : cells.stop - cells.start]
                np.greater_equal(np.abs(apart, out=apart), as_large[index, :, own], out=large)
                if lost is not None:
                    # If a swap leaves a run without the category, the difference is undefined and counts as large.
                    large |= lost
                large &= counted
                counts[index, :, own] = _count_true(large)
        for index, mean in enumerate(means):
            # NaN (a group without any category) is not below the threshold, so it counts as large too.
            large = ~(np.abs(mean.group_differences()) < as_large[index, :, :groups])
            counts[index, :, :groups] = (large & counted).sum(axis=-1)
        return int(stop - start), counts

    total = np.ones(observed.shape, np.int64)
    with ThreadPoolExecutor(min(workers, blocks)) as pool:
        for number, counts in pool.map(count_large_differences, range(blocks)):
            total += counts
            done(number)
    return np.where(np.isnan(observed), np.nan, total / (1 + permutations))


@dataclass(frozen=True)
class _HalvedEntries:
    """Half of Σ IoU, TP and PQ denominator of each category in each image (or group of images), as columns.

    index: position in a (3, runs, cells, codes) table, by the code of the unit
    """

    index: Int
    values: Float
    unit: Int


@dataclass(frozen=True)
class _SwapTransform:
    """Computes PQ's sums for up to 1,024 random exchanges of predictions between runs at once, by matrix products.

    They give PQ and RQ of any two runs after each swap: half of (the sum over images that stay − the sum over swapped
    images).

    parts: spans of cells with the contributions of units to them: `_HalvedEntries`, or dense (3 · runs · cells, units)
    codes: (units,) of `bits` bits
    """

    parts: tuple[tuple[slice, _HalvedEntries | Float], ...]
    n_runs: int
    codes: Int
    bits: int

    @property
    def most_categories(self) -> int:
        """The largest number of categories that are processed at once."""
        return self.parts[0][0].stop

    @staticmethod
    def of(runs: Swappable, codes: Int, bits: int) -> "_SwapTransform":
        """Divides the runs' PQ sums per image into ranges of categories that fit a CPU core's caches."""
        cells = runs.members.shape[1]
        n_runs = runs.sums[0].shape[0] // cells
        at_once = max(NUMBERS_AT_ONCE >> bits, 1)
        spans = [slice(first, min(first + at_once, cells)) for first in range(0, cells, at_once)]
        if isinstance(runs.sums[0], np.ndarray):
            dense = [np.reshape(one, (n_runs, cells, -1)) for one in runs.sums]
            halves = [np.stack([one[:, span] for one in dense]).reshape(-1, runs.n_units) / 2 for span in spans]
            return _SwapTransform(tuple(zip(spans, halves, strict=True)), n_runs, codes, bits)
        listed = [scipy.sparse.coo_array(one) for one in runs.sums]
        table, unit, values = (
            np.concatenate(column)
            for column in (
                [index * n_runs * cells + one.row.astype(np.int64) for index, one in enumerate(listed)],
                [one.col.astype(np.int64) for one in listed],
                [one.data.astype(np.float64) / 2 for one in listed],
            )
        )
        run, cell = np.divmod(table, cells)  # the run's place among those of all three sums
        part = cell // at_once
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(len(spans) + 1))
        parts: list[tuple[slice, _HalvedEntries | Float]] = []
        for span, first, last in zip(spans, ends, ends[1:], strict=False):
            own = order[first:last]
            row = run[own] * (span.stop - span.start) + cell[own] - span.start
            parts.append((span, _HalvedEntries((row << bits) + codes[unit[own]], values[own], unit[own])))
        return _SwapTransform(tuple(parts), n_runs, codes, bits)

    def sums_after_swaps(self, swapped: npt.NDArray[np.int8]) -> Iterator[tuple[slice, Float]]:
        """Yields ranges of categories, each with all runs' PQ sums after each exchange of predictions between runs.

        The sums are halved: (3, runs, cells, swaps). The next range reuses their memory.

        swapped: (units,) 1 for units that are swapped in addition to the swaps of the group
        """
        sign = 1.0 - 2.0 * swapped
        left, right = _hadamard_matrix(1 << (self.bits // 2)), _hadamard_matrix(1 << (self.bits - self.bits // 2))
        codes, most = 1 << self.bits, 3 * self.n_runs * self.most_categories
        buffers = np.empty((2, most * codes))
        for cells, entries in self.parts:
            shape = 3, self.n_runs, cells.stop - cells.start
            rows = math.prod(shape)
            if isinstance(entries, _HalvedEntries):
                table = np.bincount(entries.index, entries.values * sign[entries.unit], rows * codes)
            else:
                dealt = scipy.sparse.csr_array((sign, (self.codes, np.arange(len(sign)))), shape=(codes, len(sign)))
                table = np.ascontiguousarray((dealt @ entries.T).T)
            halfway, total = (one[: rows * codes].reshape(rows, len(left), len(right)) for one in buffers)
            # Many small products: BLAS would distribute one large product over threads, which are all busy.
            np.matmul(table.reshape(halfway.shape), right, out=halfway)
            np.matmul(left, halfway, out=total)
            yield cells, total.reshape(*shape, codes)


@dataclass(frozen=True)
class _SwapBuffers:
    """Arrays that the permutation test reuses, as allocating new ones would take longer than the arithmetic.

    of_a, of_b, apart: (3, cells, swaps); flags: (2, cells, swaps)
    """

    of_a: Float
    of_b: Float
    apart: Float
    flags: Bool

    @staticmethod
    def of(cells: int, swaps: int) -> "_SwapBuffers":
        """Allocates arrays for a number of categories and a number of permutations."""
        of_a, of_b, apart = np.empty((3, 3, cells, swaps))
        return _SwapBuffers(of_a, of_b, apart, np.empty((2, cells, swaps), np.bool_))


@dataclass(frozen=True)
class _GroupMeans:
    """Mean PQ and RQ of All, Things and Stuff after each random exchange of two runs' predictions of some images.

    If no swap changes how many cells a group has in a run:
    sums: (1, 2, groups, swaps) PQ and RQ of run b − run a; n: (1, groups, 1) number of cells
    Otherwise separately for both runs:
    sums: (2, 2, groups, swaps); n: (2, groups, swaps)
    """

    sums: Float
    n: Float

    @staticmethod
    def of(pair: "_RunPair", groups: int, swaps: int) -> "_GroupMeans":
        """Sets the sums of PQ and RQ of each group of categories to zero, for two runs and a number of permutations."""
        if not len(pair.odd):
            return _GroupMeans(np.zeros((1, 2, groups, swaps)), pair.held[None])
        return _GroupMeans(np.zeros((2, 2, groups, swaps)), np.tile(pair.held, (2, 1, swaps)))

    def group_differences(self) -> Float:
        """Returns by how much run b's mean PQ and RQ exceed run a's after each exchange of predictions between them.

        (2, groups, swaps); NaN where a run has no category of the group.
        """
        means = self.sums / np.where(self.n > 0, self.n, np.nan)[:, None]
        found: Float = means[0] if len(means) == 1 else means[1] - means[0]
        return found


@dataclass(frozen=True)
class _RunPair:
    """Two runs that are compared, with the sums that stay the same when some of their predictions are exchanged.

    half_total: (3, cells, 1) half of the sums of both runs
    held: (groups, 1) how many of a group's cells both runs have after any swap
    odd: indices of cells that one of the runs can lose by a swap; zero: of these and of cells that neither run has
    """

    runs: tuple[int, int]
    half_total: Float
    held: Float
    odd: Int
    zero: Int

    @staticmethod
    def of(runs: Swappable, a: int, b: int) -> "_RunPair":
        """Adds up two runs' PQ sums; finds the categories that a run can lose when predictions are exchanged."""
        cells = runs.members.shape[1]
        of_a, of_b = ([one[run * cells : (run + 1) * cells] for one in runs.sums] for run in (a, b))
        total = np.stack([(one.sum(axis=1) + other.sum(axis=1)) / 2 for one, other in zip(of_a, of_b, strict=True)])
        # If a unit contains a cell in both runs, both have the cell after any swap.
        always = _categories_in_both_runs(of_a[2], of_b[2])
        held = runs.members @ always[:, None].astype(np.float64)
        odd, zero = (np.flatnonzero(own) for own in (~always & (total[2] > 0), ~always))
        return _RunPair((a, b), total[..., None], held, odd, zero)

    def category_differences(
        self, sums: Float, cells: slice, members: Float, buffers: _SwapBuffers, means: _GroupMeans
    ) -> tuple[Float, Bool | None]:
        """Returns by how much run b's PQ and RQ of each category exceed run a's after each exchange of predictions.

        Returns (2, cells, swaps) b − a, which it adds to `means`, and (cells, swaps) True where a run has lost the
        cell; None if that cannot happen.
        sums: (3, runs, cells, swaps) from `_SwapTransform.sums_after_swaps`
        """
        a, b = self.runs
        members, total = members[:, cells], self.half_total[:, cells]
        apart, of_a, of_b = (one[:, : sums.shape[2]] for one in (buffers.apart, buffers.of_a, buffers.of_b))
        np.subtract(sums[:, b], sums[:, a], out=apart)
        np.subtract(total, apart, out=of_a)
        np.add(total, apart, out=of_b)
        odd, zero = (_indices_in_span(cells, indices) for indices in (self.odd, self.zero))
        lost = [one[2, odd] <= 0 for one in (of_a, of_b)]
        for one in (of_a, of_b):
            # Other weights are at least ½, so this only replaces zeros, whose numerators are 0 up to rounding.
            one[2, zero] = np.maximum(one[2, zero], 0.5)
            np.divide(one[:2], one[2], out=one[:2])
        if len(means.sums) == 2:
            for side, one in enumerate((of_a, of_b)):
                means.sums[side] += np.matmul(members, one[:2])
                means.n[side] += members[:, odd] @ ~lost[side]
        apart = np.subtract(of_b[:2], of_a[:2], out=apart[:2])
        if len(means.sums) == 1:
            means.sums[0] += np.matmul(members, apart)
        if not len(odd):
            return apart, None
        either = np.zeros(apart.shape[1:], np.bool_)
        either[odd] = lost[0] | lost[1]
        return apart, either


def _indices_in_span(cells: slice, indices: Int) -> Int:
    """Selects the indices from the start to the stop of a slice, and subtracts the start from them.

    cells: the slice; indices: ascending
    """
    first, last = np.searchsorted(indices, [cells.start, cells.stop])
    return indices[first:last] - cells.start


def _categories_in_both_runs(of_a: Rows, of_b: Rows) -> Bool:
    """Marks each category that both runs have in the same image (or the same group of images)."""
    least = np.minimum(of_a, of_b) if isinstance(of_a, np.ndarray) else of_a.minimum(of_b)
    return np.asarray(least.sum(axis=1)) > 0


def _count_true(flags: Bool) -> Int:
    """Counts True along the last axis."""
    columns = flags.shape[-1]
    if columns % 8 or columns > 8 * 255:
        return flags.sum(axis=-1)
    # Adds eight flags at once as the bytes of an integer; with at most 255 summands no byte overflows.
    eights = flags.view(np.uint64).sum(axis=-1, dtype=np.uint64)
    return eights[..., None].view(np.uint8).sum(axis=-1, dtype=np.int64)


def _bit_parity(numbers: Int) -> Int:
    """Returns 1 for numbers with an odd number of set bits, else 0."""
    for shift in (32, 16, 8, 4, 2, 1):
        numbers = numbers ^ (numbers >> shift)
    return numbers & 1


def _hadamard_matrix(size: int) -> Float:
    """Returns Sylvester's Hadamard matrix: −1 where row and column number share an odd number of bits, else 1."""
    numbers = np.arange(size)
    return np.where(_bit_parity(numbers[:, None] & numbers) == 1, -1.0, 1.0)
