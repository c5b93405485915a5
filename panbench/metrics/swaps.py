"""p-values of differences between runs, by swapping the two runs' predictions image by image, many times.

If it made no difference which run an answer comes from, every way of swapping would be as likely as the one observed.
Some ways that are drawn at random may stand for all; they need not be drawn one by one. Ours come in blocks of 1,024
that are cosets of one group of swaps [Hoeffding 1952; Hemerik & Goeman 2018], since the sums after all swaps of a coset
come at once: each image draws a code of 10 bits, a swap of the group is a number of 10 bits, and it swaps the images
whose code shares an odd number of ones with it. A sum over images is then the Walsh–Hadamard transform of the sum by
code: two products with matrices of ±1 in place of one product for each swap. A coset swaps some images, drawn at
random, besides. Any two swaps are independent of each other, so a share of N of them is as exact as if each were drawn
by itself. docs/uncertainty.md has why p-values stay valid, docs/simulations.md
the simulation.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

__all__ = ["Swappable", "swap_p_values"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Rows: TypeAlias = "scipy.sparse.csr_array | Float"

BLOCK_BITS = 10
"""A block has 2^10 swaps. Transformed as a square of 32 × 32 it stays in a core's caches, and BLAS on that core."""

AT_ONCE = 8192
"""So many numbers of a kind are scored at once, cells times swaps, in a core's caches."""

EQUAL = 1e-12
"""Equal differences that were added up in another order must count as equal."""


@dataclass(frozen=True)
class Swappable:
    """What units (images, or groups of images) add to the sums of runs.

    sums: Σ IoU, TP and TP + (FP + FN)/2, each (runs · cells, units)
    members: (groups, cells) 1 where a group's mean holds a cell; cells: whether each cell is a scope of its own, too
    """

    sums: tuple[Rows, Rows, Rows]
    members: Float
    cells: bool

    @property
    def n_units(self) -> int:
        """How many units there are."""
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
    """(pairs, 2, scopes): of each pair's differences in PQ and RQ the share of swaps that differ at least as much.

    observed: those differences, shaped alike; where it is NaN so is p
    permutations: how many swaps, besides the order that was observed, which counts as one
    seed: decides every number; the number of workers does not. done: called with how many swaps more are done
    """
    rng = np.random.default_rng(seed)
    bits = min(permutations.bit_length(), BLOCK_BITS)
    # Swap 0 of block 0 is the observed order.
    blocks = (permutations >> bits) + 1
    codes = rng.integers(0, 1 << bits, runs.n_units)
    besides = rng.integers(0, 2, (blocks, runs.n_units), dtype=np.int8)
    besides[0] = 0
    chosen = np.sort(rng.choice((blocks << bits) - 1, permutations, replace=False)) + 1
    transform = _Transform.of(runs, codes, bits)
    scored = [_Pair.of(runs, *pair) for pair in pairs]
    as_large = np.abs(observed)[..., None] - EQUAL

    def count(block: int) -> tuple[int, Int]:
        start, stop = np.searchsorted(chosen, [block << bits, (block + 1) << bits])
        counted = np.zeros(1 << bits, np.bool_)
        counted[chosen[start:stop] - (block << bits)] = True
        counts = np.zeros(observed.shape, np.int64)
        groups = len(runs.members)
        room = _Room.of(transform.most, len(counted))
        means = [_Means.of(pair, groups, len(counted)) for pair in scored]
        # All pairs of some cells in turn: those stay in the cache.
        for cells, sums in transform.after(besides[block]):
            own = slice(groups + cells.start, groups + cells.stop)
            for place, pair in enumerate(scored):
                apart, lost = pair.apart(sums, cells, runs.members, room, means[place])
                if not runs.cells:
                    continue
                large = room.flags[:, : cells.stop - cells.start]
                np.greater_equal(np.abs(apart, out=apart), as_large[place, :, own], out=large)
                if lost is not None:
                    # Where a run is left without the category there is no difference: that counts as at least as large.
                    large |= lost
                large &= counted
                counts[place, :, own] = _ones(large)
        for place, mean in enumerate(means):
            # Nor is there one of a group that is left without any.
            large = ~(np.abs(mean.apart()) < as_large[place, :, :groups])
            counts[place, :, :groups] = (large & counted).sum(axis=-1)
        return int(stop - start), counts

    total = np.ones(observed.shape, np.int64)
    with ThreadPoolExecutor(min(workers, blocks)) as pool:
        for number, counts in pool.map(count, range(blocks)):
            total += counts
            done(number)
    return np.where(np.isnan(observed), np.nan, total / (1 + permutations))


@dataclass(frozen=True)
class _Entries:
    """What units add to the sums over some cells of all runs, halved: columns place (a cell's in a table (3, runs,
    cells), times the number of codes, plus the unit's code), values and unit."""

    place: Int
    values: Float
    unit: Int


@dataclass(frozen=True)
class _Transform:
    """Sums over the units that stay less those over the units that are swapped, halved, after all swaps of a block.

    parts: some cells each, and what units add to them; where sums are dense, (3 · runs · cells, units), halved
    codes: (units,) of `bits` bits
    """

    parts: tuple[tuple[slice, _Entries | Float], ...]
    n_runs: int
    codes: Int
    bits: int

    @property
    def most(self) -> int:
        """How many cells a part has at most."""
        return self.parts[0][0].stop

    @staticmethod
    def of(runs: Swappable, codes: Int, bits: int) -> "_Transform":
        cells = runs.members.shape[1]
        n_runs = runs.sums[0].shape[0] // cells
        at_once = max(AT_ONCE >> bits, 1)
        spans = [slice(first, min(first + at_once, cells)) for first in range(0, cells, at_once)]
        if isinstance(runs.sums[0], np.ndarray):
            dense = [np.reshape(one, (n_runs, cells, -1)) for one in runs.sums]
            halves = [np.stack([one[:, span] for one in dense]).reshape(-1, runs.n_units) / 2 for span in spans]
            return _Transform(tuple(zip(spans, halves, strict=True)), n_runs, codes, bits)
        listed = [scipy.sparse.coo_array(one) for one in runs.sums]
        table, unit, values = (
            np.concatenate(column)
            for column in (
                [place * n_runs * cells + one.row.astype(np.int64) for place, one in enumerate(listed)],
                [one.col.astype(np.int64) for one in listed],
                [one.data.astype(np.float64) / 2 for one in listed],
            )
        )
        run, cell = np.divmod(table, cells)  # the run's place among those of all three sums
        part = cell // at_once
        order = np.argsort(part, kind="stable")
        ends = np.searchsorted(part[order], np.arange(len(spans) + 1))
        parts: list[tuple[slice, _Entries | Float]] = []
        for span, first, last in zip(spans, ends, ends[1:], strict=False):
            own = order[first:last]
            row = run[own] * (span.stop - span.start) + cell[own] - span.start
            parts.append((span, _Entries((row << bits) + codes[unit[own]], values[own], unit[own])))
        return _Transform(tuple(parts), n_runs, codes, bits)

    def after(self, swapped: npt.NDArray[np.int8]) -> Iterator[tuple[slice, Float]]:
        """Some cells in turn, with their (3, runs, cells, swaps) sums, halved, when besides the swaps of the group some
        units are swapped. The sums are overwritten by the next."""
        sign = 1.0 - 2.0 * swapped
        left, right = _hadamard(1 << (self.bits // 2)), _hadamard(1 << (self.bits - self.bits // 2))
        codes, most = 1 << self.bits, 3 * self.n_runs * self.most
        room = np.empty((2, most * codes))
        for cells, entries in self.parts:
            shape = 3, self.n_runs, cells.stop - cells.start
            rows = math.prod(shape)
            if isinstance(entries, _Entries):
                table = np.bincount(entries.place, entries.values * sign[entries.unit], rows * codes)
            else:
                dealt = scipy.sparse.csr_array((sign, (self.codes, np.arange(len(sign)))), shape=(codes, len(sign)))
                table = np.ascontiguousarray((dealt @ entries.T).T)
            halfway, whole = (one[: rows * codes].reshape(rows, len(left), len(right)) for one in room)
            # Square by square: BLAS would share one large product out among threads, which are all busy.
            np.matmul(table.reshape(halfway.shape), right, out=halfway)
            np.matmul(left, halfway, out=whole)
            yield cells, whole.reshape(*shape, codes)


@dataclass(frozen=True)
class _Room:
    """Memory that is used again for each pair and all cells of a block: fresh pages cost more than the arithmetic.

    of_a, of_b, apart: (3, cells, swaps); flags: (2, cells, swaps)
    """

    of_a: Float
    of_b: Float
    apart: Float
    flags: Bool

    @staticmethod
    def of(cells: int, swaps: int) -> "_Room":
        of_a, of_b, apart = np.empty((3, 3, cells, swaps))
        return _Room(of_a, of_b, apart, np.empty((2, cells, swaps), np.bool_))


@dataclass(frozen=True)
class _Means:
    """The means over groups of both runs of a pair, added up cell by cell.

    sums: (1 or 2, 2, groups, swaps) what run b has more than run a; where a swap can change how many cells a group has,
        what each of them has
    n: how many cells a group has; (1, groups, 1), or (2, groups, swaps) of each run
    """

    sums: Float
    n: Float

    @staticmethod
    def of(pair: "_Pair", groups: int, swaps: int) -> "_Means":
        if not len(pair.odd):
            return _Means(np.zeros((1, 2, groups, swaps)), pair.held[None])
        return _Means(np.zeros((2, 2, groups, swaps)), np.tile(pair.held, (2, 1, swaps)))

    def apart(self) -> Float:
        """(2, groups, swaps) the differences of PQ and RQ; NaN where a run has no cell of the group."""
        means = self.sums / np.where(self.n > 0, self.n, np.nan)[:, None]
        found: Float = means[0] if len(means) == 1 else means[1] - means[0]
        return found


@dataclass(frozen=True)
class _Pair:
    """Two runs, and what both add up to, half for each.

    whole: (3, cells, 1) half of the sums of both; held: (groups, 1) how many cells of a group no swap takes from a run
    odd: the places of cells that a swap can leave one of the runs without; zero: the same, and those that neither has
    """

    runs: tuple[int, int]
    whole: Float
    held: Float
    odd: Int
    zero: Int

    @staticmethod
    def of(runs: Swappable, a: int, b: int) -> "_Pair":
        cells = runs.members.shape[1]
        of_a, of_b = ([one[run * cells : (run + 1) * cells] for one in runs.sums] for run in (a, b))
        whole = np.stack([(one.sum(axis=1) + other.sum(axis=1)) / 2 for one, other in zip(of_a, of_b, strict=True)])
        # Units that hold a cell in both runs leave it to both, however they are swapped.
        always = _in_both(of_a[2], of_b[2])
        held = runs.members @ always[:, None].astype(np.float64)
        odd, zero = (np.flatnonzero(own) for own in (~always & (whole[2] > 0), ~always))
        return _Pair((a, b), whole[..., None], held, odd, zero)

    def apart(self, sums: Float, cells: slice, members: Float, room: _Room, means: _Means) -> tuple[Float, Bool | None]:
        """(2, cells, swaps) differences of PQ and RQ of some cells, and (cells, swaps) where a run is left without the
        cell; None where that cannot be. Groups that hold the cells are added to `means`.

        sums: (3, runs, cells, swaps) of `_Transform`
        """
        a, b = self.runs
        members, whole = members[:, cells], self.whole[:, cells]
        apart, of_a, of_b = (one[:, : sums.shape[2]] for one in (room.apart, room.of_a, room.of_b))
        np.subtract(sums[:, b], sums[:, a], out=apart)
        np.subtract(whole, apart, out=of_a)
        np.add(whole, apart, out=of_b)
        odd, zero = (_within(cells, places) for places in (self.odd, self.zero))
        lost = [one[2, odd] <= 0 for one in (of_a, of_b)]
        for one in (of_a, of_b):
            # Where a sum is 0 so is what is divided by it, but for rounding; the least that it can be else is ½.
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


def _within(cells: slice, places: Int) -> Int:
    """Those of some places, ascending, that lie among the cells, counted from the first of these."""
    first, last = np.searchsorted(places, [cells.start, cells.stop])
    return places[first:last] - cells.start


def _in_both(of_a: Rows, of_b: Rows) -> Bool:
    """(cells,) whether any unit adds to a cell in both runs."""
    least = np.minimum(of_a, of_b) if isinstance(of_a, np.ndarray) else of_a.minimum(of_b)
    return np.asarray(least.sum(axis=1)) > 0


def _ones(flags: Bool) -> Int:
    """How many of the last axis are set."""
    columns = flags.shape[-1]
    if columns % 8 or columns > 8 * 255:
        return flags.sum(axis=-1)
    # Eight flags are one number; no byte of the sum of so few of these overflows into the next.
    eights = flags.view(np.uint64).sum(axis=-1, dtype=np.uint64)
    return eights[..., None].view(np.uint8).sum(axis=-1, dtype=np.int64)


def _odd_ones(numbers: Int) -> Int:
    """1 for each number that has an odd number of ones, else 0."""
    for shift in (32, 16, 8, 4, 2, 1):
        numbers = numbers ^ (numbers >> shift)
    return numbers & 1


def _hadamard(size: int) -> Float:
    """Sylvester's matrix: −1 where row and column share an odd number of ones, else 1."""
    numbers = np.arange(size)
    return np.where(_odd_ones(numbers[:, None] & numbers) == 1, -1.0, 1.0)
