"""The sums that each image adds, as matrices of cells × images: what intervals and tests are made of.

`Sample` is one run, `SampleFold` makes it from blocks of images, `Stack` lays several runs out for matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.metrics.matched import Matched, positions
from panbench.metrics.pq import Sums, panoptic_quality, ratio
from panbench.metrics.slices import ImageStatistics, SliceFold, StatisticsFold
from panbench.metrics.swaps import Swappable
from panbench.panoptic.types import GROUPS, Category

__all__ = ["FEWEST_IMAGES", "METRICS", "Sample", "SampleFold", "Stack", "sample_on", "scope_table", "shared_of"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

METRICS = ("PQ", "SQ", "RQ")

EXACT_IMAGES = 20_000
"""Up to so many images, each is a unit of its own."""

UNITS = 5_000
"""More images are dealt to so many groups: as many as COCO's val2017 has images."""

ONLY_WRONG, TRUE = 1, 2

FEWEST_IMAGES = 10
"""A category that is true in fewer images has no interval: so few cover the truth far less often than they say."""


@dataclass(frozen=True)
class Sample:
    """A run's statistics as intervals and tests take them; those of a million images take some 60 MB.

    A cell is a category or, sliced, a category in a slice. Images are units one by one; of more than EXACT_IMAGES
    `SampleFold` makes UNITS groups that each hold every UNITS-th image. Sums over groups are as independent as images
    are, and 5,000 of them tell the spread of PQ to 1 % (1/√(2 · 5,000)).
    sums: (3 · cells, units) what each unit adds to Σ IoU, TP and FP + FN
    held: (cells, images) 0 where an image has no TP, FP or FN of a cell, ONLY_WRONG where it has FP alone, else TRUE
    """

    image_ids: Int
    sums: scipy.sparse.csr_array | Float
    held: scipy.sparse.csr_array
    categories: tuple[Category, ...]
    slices: tuple[str, ...]
    by: str | None

    @staticmethod
    def of(statistics: ImageStatistics) -> Sample:
        """Makes it from a run's statistics on all images; more than EXACT_IMAGES are put into UNITS groups."""
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
        shape = (n_cells, len(image_ids))
        held = _held(cell[counted], image[counted], _truth(statistics.sums)[counted], shape)
        return Sample(image_ids, stacked, held, statistics.categories, statistics.slices, statistics.by)


@dataclass(frozen=True)
class _Tallied:
    """What a block adds to the groups of its images: columns place (cell · UNITS + group) and the three values of a
    row, and image, cell and truth of what counts."""

    place: Int
    values: tuple[Float, Float, Float]
    held: tuple[npt.NDArray[Any], ...]


class SampleFold:
    """The `Sample` of images that come block by block; a `Fold`.

    images: all that will come, ascending; by: a key of SLICINGS. Of more than EXACT_IMAGES it keeps, besides sums of
    groups, 7 bytes for each image and cell.
    """

    def __init__(self, categories: Sequence[Category], images: Int, by: str | None = None) -> None:
        self.images = images
        self._statistics = StatisticsFold(categories, by)
        self._cells = SliceFold(categories, by)
        self._grouped = len(images) > EXACT_IMAGES
        self._n_cells = len(categories) * max(len(self._cells.slices), 1)
        # Slices times categories are many cells of which few are used; zeros that nothing is added to take no memory.
        self._sums = np.zeros((3 * self._n_cells, UNITS if self._grouped else 0))
        self._held: list[tuple[npt.NDArray[Any], ...]] = []

    def look(self, matched: Matched) -> ImageStatistics | _Tallied:
        """`image_statistics` of a block; of very many images, as rows that `add` takes as they are."""
        found = self._statistics.look(matched)
        return self._tallied(found) if self._grouped else found

    def _tallied(self, found: ImageStatistics) -> _Tallied:
        place = positions(found.category_id, self._statistics.categories)
        cell = found.slice.astype(np.int64) * len(self._statistics.categories) + place
        image = np.searchsorted(self.images, found.image_id)
        sums, counted = found.sums, found.sums.counted
        kind = np.int16 if self._n_cells < 1 << 15 else np.int32
        held = (image[counted].astype(np.int32), cell[counted].astype(kind), _truth(sums)[counted])
        # One number for each place: NumPy adds at pairs of numbers many times more slowly.
        values = sums.iou_sum, sums.TP.astype(np.float64), sums.mistakes.astype(np.float64)
        return _Tallied(cell * UNITS + image % UNITS, values, held)

    def add(self, part: ImageStatistics | _Tallied) -> None:
        """Adds what `look` found in a block, or its `image_statistics`."""
        if isinstance(part, ImageStatistics) and self._grouped:
            part = self._tallied(part)
        if isinstance(part, ImageStatistics):
            self._statistics.add(part)
            return
        for row, values in enumerate(part.values):
            own = self._sums[row * self._n_cells : (row + 1) * self._n_cells]
            np.add.at(own.reshape(-1), part.place, values)
        self._held.append(part.held)

    def result(self) -> Sample:
        """The sample of all that was added."""
        if not self._grouped:
            return Sample.of(self._statistics.result())
        image, cell, truth = (np.concatenate([block[side] for block in self._held]) for side in range(3))
        self._held = [(image, cell, truth)]
        held = _held(cell, image, truth, (self._n_cells, len(self.images)))
        categories, by = self._statistics.categories, self._statistics.by
        return Sample(self.images, self._sums, held, categories, self._cells.slices, by)


def _truth(sums: Sums) -> npt.NDArray[np.int8]:
    """TRUE where the ground truth has a segment, else ONLY_WRONG."""
    return np.where(sums.TP + sums.FN > 0, TRUE, ONLY_WRONG).astype(np.int8)


def _held(
    cell: npt.NDArray[Any], image: npt.NDArray[Any], truth: npt.NDArray[np.int8], shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    return scipy.sparse.csr_array((truth, (cell, image)), shape=shape)


@dataclass(frozen=True)
class Entries:
    """Columns of equal length, a row for each cell that a unit holds: what the unit adds to the cell's Σ IoU, TP and
    TP + (FP + FN)/2, `whole`, which is never 0."""

    cell: Int
    unit: Int
    iou_sum: Float
    hits: Float
    whole: Float


@dataclass(frozen=True)
class Stack:
    """The statistics of several runs on the same images, laid out for matrix products.

    A scope is what has a PQ: a group, the mean of its cells, or a single category; groups come first.
    ious: (runs · cells, units) what each unit adds to Σ IoU of a cell of a run
    counts: (runs · 2 · cells, units) what it adds to TP and FP + FN
    held: for each run (cells, images) as in `Sample`
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
        """Makes it from runs with the same image_ids, categories and slices."""
        first = samples[0]
        n_cells = first.held.shape[0]
        # Slices times categories are many cells and most are empty; categories are kept whole, as each has a PQ of its
        # own.
        with_any = np.any([np.diff(sample.held.indptr) > 0 for sample in samples], axis=0)
        kept = np.flatnonzero(with_any) if first.slices else np.arange(n_cells)
        held = tuple(scipy.sparse.csr_array(sample.held[kept]) for sample in samples)
        ious = _stacked([sample.sums[kept] for sample in samples])
        rows = np.concatenate([n_cells + kept, 2 * n_cells + kept])
        counts = _stacked([sample.sums[rows] for sample in samples])
        return Stack(len(samples), ious, counts, held, *_scopes(first, kept))

    @property
    def n_units(self) -> int:
        """How many units there are."""
        return int(self.ious.shape[1])

    def totals(self) -> Float:
        """(runs, 3, cells) sums over all units."""
        ious = self.ious.sum(axis=1).reshape(self.n_runs, 1, -1)
        return np.concatenate([ious, self.counts.sum(axis=1).reshape(self.n_runs, 2, -1)], axis=1)

    def exact(self) -> Float:
        """(runs, 3, scopes) PQ, SQ and RQ on all images; NaN where a scope is empty."""
        return np.stack([self._scores(*sums) for sums in self.totals()])

    def _scores(self, iou_sum: Float, hits: Float, mistakes: Float) -> Float:
        held = hits + mistakes > 0
        # RQ is the PQ of matches that are all exact.
        per_cell = np.stack(
            [
                panoptic_quality(iou_sum, hits, mistakes),
                ratio(iou_sum, hits),
                panoptic_quality(hits, hits, mistakes),
            ]
        )
        n = self.members @ held
        of_groups = per_cell @ self.members.T / np.where(n > 0, n, np.nan)
        cells = np.where(held, per_cell, np.nan) if len(self.scopes) > len(self.members) else np.zeros((3, 0))
        return np.concatenate([of_groups, cells], axis=1)

    def entries(self, run: int) -> Entries:
        """What each unit adds to each cell of a run."""
        n = self.members.shape[1]
        hits, mistakes = (self.counts[(2 * run + side) * n : (2 * run + side + 1) * n] for side in (0, 1))
        iou_sum = self.ious[run * n : (run + 1) * n]
        whole = hits + mistakes / 2
        if isinstance(whole, np.ndarray):
            cell, unit = np.nonzero(whole)
            return Entries(cell, unit, iou_sum[cell, unit], hits[cell, unit], whole[cell, unit])
        listed = scipy.sparse.csr_array(whole)
        listed.sort_indices()
        listed = listed.tocoo()
        places = listed.row.astype(np.int64) * self.n_units + listed.col

        def of(sums: scipy.sparse.csr_array) -> Float:
            other = sums.tocoo()
            values = np.zeros(len(places))
            values[np.searchsorted(places, other.row.astype(np.int64) * self.n_units + other.col)] = other.data
            return values

        return Entries(listed.row.astype(np.int64), listed.col.astype(np.int64), of(iou_sum), of(hits), listed.data)

    def images_of(self, runs: Sequence[int]) -> Int:
        """(scopes,) how many images hold the scope in any of some runs."""
        return self._images(runs, ONLY_WRONG)

    def enough(self, runs: Sequence[int]) -> npt.NDArray[np.bool_]:
        """(scopes,) whether enough images hold the scope for an interval; of a category, in their ground truth."""
        n_groups = len(self.members)
        images = self.images_of(runs)
        images[n_groups:] = self._images(runs, TRUE)[n_groups:]
        return images >= FEWEST_IMAGES

    def _images(self, runs: Sequence[int], least: int) -> Int:
        held = scipy.sparse.csr_array(sum((self.held[run] >= least for run in runs[1:]), self.held[runs[0]] >= least))
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
        whole = hits + mistakes / 2
        return Swappable((self.ious, hits, whole), self.members, len(self.scopes) > len(self.members))


def _stacked(sums: Sequence[scipy.sparse.csr_array | Float]) -> scipy.sparse.csr_array | Float:
    """Some sums below each other: sparse, as most categories are in few images, or dense, as groups of images hold
    most of them; then that product is faster by far."""
    if isinstance(sums[0], np.ndarray):
        return np.concatenate(sums)
    stacked = scipy.sparse.csr_array(scipy.sparse.vstack(sums, format="csr"))
    stacked.eliminate_zeros()
    return stacked


def _scopes(statistics: Sample, kept: Int) -> tuple[tuple[tuple[str | None, int, str], ...], Float]:
    """The scopes of a stack, and which of the kept cells each group holds."""
    categories, slices = statistics.categories, statistics.slices
    if slices:
        members = kept // len(categories) == np.arange(len(slices))[:, None]
        return tuple((name, 0, name) for name in slices), members.astype(np.float64)
    isthing = np.array([category.isthing for category in categories], np.bool_)
    groups: list[tuple[str | None, int, str]] = [(name, 0, name) for name in GROUPS]
    single: list[tuple[str | None, int, str]] = [(None, category.id, category.name) for category in categories]
    return (*groups, *single), np.stack([np.ones(len(kept)), isthing, ~isthing]).astype(np.float64)


def scope_table(
    scopes: Sequence[tuple[str | None, int, str]],
    columns: Mapping[str, npt.NDArray[Any]],
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """A row for each scope and metric: group, category_id, name and metric, then the columns.

    columns: (metrics, scopes), or (scopes,) for what the metrics of a scope share
    """
    rows = [(*scope, metric) for scope in scopes for metric in metrics]
    keys = dict(zip(("group", "category_id", "name", "metric"), map(list, zip(*rows, strict=True)), strict=True))
    shape = (len(metrics), len(scopes))
    return pd.DataFrame({**keys, **{name: np.broadcast_to(one, shape).T.ravel() for name, one in columns.items()}})


def sample_on(run: ImageStatistics | Sample, shared: Int) -> Sample:
    """A run's sample on the images that all runs share."""
    if isinstance(run, ImageStatistics):
        return Sample.of(run.only(shared))
    if len(run.image_ids) != len(shared):
        raise BadArgument("Samples must be of the same images. Narrow their statistics first.")
    return run


def shared_of(runs: Mapping[str, ImageStatistics | Sample]) -> Int:
    """The images that all runs have; raises BadArgument where there are none, or categories or slicing differ."""
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
