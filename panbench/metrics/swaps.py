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

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

__all__ = ["Swappable", "swap_p_values"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Rows: TypeAlias = "scipy.sparse.csr_array | Float"

BLOCK_BITS = 10
"""A block has 2^10 swaps. Transformed as a square of 32 × 32 it stays in a core's caches, and BLAS on that core."""

COLUMNS = 128
"""So many swaps are scored at once, in a core's caches."""

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
    """(pairs, 3, scopes): of each pair's differences in PQ, SQ and RQ the share of swaps that differ at least as much.

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
        sums = transform.after(besides[block], chosen[start:stop] - (block << bits))
        counts = np.zeros(observed.shape, np.int64)
        room = _Room.of(sums.shape[2], min(COLUMNS, sums.shape[3]))
        large = np.zeros((len(scored), *room.apart.shape), np.uint8)
        for first in range(0, sums.shape[3], COLUMNS):
            # All pairs of some columns in turn: those stay in the cache.
            some = np.ascontiguousarray(sums[..., first : first + COLUMNS])
            for place, pair in enumerate(scored):
                pair.count(some, as_large[place], room, counts[place], large[place])
        if runs.cells:
            counts[:, :, len(runs.members) :] = large.sum(axis=-1)
        return int(stop - start), counts

    total = np.ones(observed.shape, np.int64)
    with ThreadPoolExecutor(min(workers, blocks)) as pool:
        for number, counts in pool.map(count, range(blocks)):
            total += counts
            done(number)
    return np.where(np.isnan(observed), np.nan, total / (1 + permutations))


@dataclass(frozen=True)
class _Transform:
    """Sums over the units that stay less those over the units that are swapped, halved, after all swaps of a block.

    entries: for each of the three sums its places in a table (rows, codes), its values and their units; or, where it is
        dense, (rows, units)
    codes: (units,) of `bits` bits; shape: runs and cells of the rows
    """

    entries: tuple[tuple[Int, Float, Int] | Float, ...]
    shape: tuple[int, int]
    codes: Int
    bits: int

    @staticmethod
    def of(runs: Swappable, codes: Int, bits: int) -> "_Transform":
        entries: list[tuple[Int, Float, Int] | Float] = []
        for sums in runs.sums:
            if isinstance(sums, np.ndarray):
                entries.append(sums / 2)
                continue
            listed = sums.tocoo()
            unit = listed.col.astype(np.int64)
            entries.append(((listed.row.astype(np.int64) << bits) + codes[unit], listed.data / 2.0, unit))
        rows, cells = runs.sums[0].shape[0], runs.members.shape[1]
        return _Transform(tuple(entries), (rows // cells, cells), codes, bits)

    def after(self, swapped: npt.NDArray[np.int8], chosen: Int) -> Float:
        """(3, runs, cells, chosen) sums, halved, when besides the chosen swaps of the group some units are swapped."""
        sign = 1.0 - 2.0 * swapped
        rows, codes = self.shape[0] * self.shape[1], 1 << self.bits
        left, right = _hadamard(1 << (self.bits // 2)), _hadamard(1 << (self.bits - self.bits // 2))
        out = np.empty((len(self.entries), rows, len(chosen)))
        for place, entries in enumerate(self.entries):
            if isinstance(entries, tuple):
                at, values, unit = entries
                table = np.bincount(at, values * sign[unit], rows * codes)
            else:
                dealt = scipy.sparse.csr_array((sign, (self.codes, np.arange(len(sign)))), shape=(codes, len(sign)))
                table = np.ascontiguousarray((dealt @ entries.T).T)
            squares = table.reshape(rows, len(left), len(right))
            transformed = np.matmul(left, np.matmul(squares, right)).reshape(rows, codes)
            # Every index is inside; without "clip" NumPy would write into a copy first.
            np.take(transformed, chosen, axis=1, out=out[place], mode="clip")
        return out.reshape(len(self.entries), *self.shape, len(chosen))


@dataclass(frozen=True)
class _Room:
    """Memory that is used again for each pair and each COLUMNS of a block: fresh pages cost more than the arithmetic.

    All are (3, cells, COLUMNS).
    """

    apart: Float
    of_a: Float
    of_b: Float

    @staticmethod
    def of(cells: int, columns: int) -> "_Room":
        return _Room(*(np.empty((3, cells, columns)) for _ in range(3)))


@dataclass(frozen=True)
class _Pair:
    """Two runs, and what both add up to, half for each.

    whole: (3, cells, 1) half of the sums of both; held: (groups, 1) how many cells of a group no swap takes from a run
    odd: the places of cells that a swap can leave one of the runs without
    """

    runs: tuple[int, int]
    members: Float
    with_cells: bool
    whole: Float
    held: Float
    odd: Int

    @staticmethod
    def of(runs: Swappable, a: int, b: int) -> "_Pair":
        cells = runs.members.shape[1]
        of_a, of_b = ([one[run * cells : (run + 1) * cells] for one in runs.sums] for run in (a, b))
        whole = np.stack([(one.sum(axis=1) + other.sum(axis=1)) / 2 for one, other in zip(of_a, of_b, strict=True)])
        # Units that hold a cell in both runs leave it to both, however they are swapped.
        in_both = np.minimum(of_a[2], of_b[2]) if isinstance(of_a[2], np.ndarray) else of_a[2].minimum(of_b[2])
        always = np.asarray(in_both.sum(axis=1)) > 0
        held = runs.members @ always[:, None].astype(np.float64)
        return _Pair((a, b), runs.members, runs.cells, whole[..., None], held, np.flatnonzero(~always & (whole[2] > 0)))

    def count(self, sums: Float, as_large: Float, room: _Room, groups: Int, cells: npt.NDArray[np.uint8]) -> None:
        """Counts the swaps after which PQ, SQ and RQ differ by at least so much, or have no difference.

        sums: (3, runs, cells, swaps) of `_Transform`; as_large: (3, scopes, 1); groups: (3, scopes), to whose first are
        added those of groups; cells: (3, cells, swaps or more), to which 1 is added for each swap that does
        """
        a, b = self.runs
        n, swaps = len(self.members), sums.shape[-1]
        apart, of_a, of_b = (one[..., :swaps] for one in (room.apart, room.of_a, room.of_b))
        np.subtract(sums[:, b], sums[:, a], out=apart)
        groups_of_a, lost_a = self._scores(np.subtract(self.whole, apart, out=of_a))
        groups_of_b, lost_b = self._scores(np.add(self.whole, apart, out=of_b))
        groups[:, :n] += (~(np.abs(groups_of_b - groups_of_a) < as_large[:, :n])).sum(axis=-1)
        if not self.with_cells:
            return
        np.abs(np.subtract(of_b, of_a, out=apart), out=apart)
        if len(self.odd):
            # Where one side is left without the category there is no difference: that counts as at least as large.
            apart[:, self.odd] = np.where(lost_a | lost_b, np.inf, apart[:, self.odd])
        cells[..., :swaps] += (apart >= as_large[:, n:]).view(np.uint8)

    def _scores(self, sums: Float) -> tuple[Float, npt.NDArray[np.bool_]]:
        """Turns (3, cells, columns) sums into PQ, SQ and RQ of cells, 0 where there is none; (3, groups, columns) those
        of groups, NaN where there is none; and (odd, columns) which odd cells there are not."""
        iou_sum, hits, whole = sums
        lost = whole[self.odd] <= 0
        n = self.held + self.members[:, self.odd] @ ~lost if len(self.odd) else self.held
        # Where a sum is 0 so is what is divided by it, but for rounding; the least that it can be else is ½, or 1.
        np.maximum(whole, 0.5, out=whole)
        rq = hits / whole
        pq = iou_sum / whole
        np.divide(iou_sum, np.maximum(hits, 1.0, out=hits), out=sums[1])
        sums[0], sums[2] = pq, rq
        groups = np.matmul(self.members, sums) / np.where(n > 0, n, np.nan)
        return groups, lost


def _odd_ones(numbers: Int) -> Int:
    """1 for each number that has an odd number of ones, else 0."""
    for shift in (32, 16, 8, 4, 2, 1):
        numbers = numbers ^ (numbers >> shift)
    return numbers & 1


def _hadamard(size: int) -> Float:
    """Sylvester's matrix: −1 where row and column share an odd number of ones, else 1."""
    numbers = np.arange(size)
    return np.where(_odd_ones(numbers[:, None] & numbers) == 1, -1.0, 1.0)
