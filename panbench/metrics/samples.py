"""Arranges what each image contributes to PQ's sums as matrices, for intervals and tests.

`Sample` is one run, `SampleAccumulator` builds it from chunks of images, `Stack` combines several runs for
matrix products.
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
from panbench.metrics.matched import Matched
from panbench.metrics.pq import Sums, pq_sq_rq
from panbench.metrics.slices import ImageStatistics, SliceAccumulator, StatisticsAccumulator
from panbench.metrics.swaps import Swappable
from panbench.panoptic.types import GROUPS, Category

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

METRICS = ("PQ", "SQ", "RQ")

EXACT_IMAGES = 20_000
"""Up to this number of images, each image is a unit."""

UNITS = 5_000
"""The number of groups into which more images are divided; COCO's val2017 has as many images."""

ONLY_FALSE_POSITIVES, TRUE = 1, 2

FEWEST_IMAGES = 10
"""A category whose ground truth is in fewer images has no interval: its coverage would be far below nominal."""


@dataclass(frozen=True)
class Sample:
    """Contributions of each image, or group of images, to PQ's sums (Σ IoU, TP, FP + FN) of one run, as matrices.

    A million images take some 60 MB.

    A cell is a category or, sliced, a category in a slice. Each image is a unit; with more than EXACT_IMAGES images the
    units are UNITS groups of every UNITS-th image. Sums over groups are as independent as images are, and 5,000 of them
    determine the standard deviation of PQ to 1 % (1/√(2 · 5,000)).
    sums: (3 · cells, units) contributions to Σ IoU, TP and FP + FN
    held: (cells, images) TRUE where the ground truth of an image has the cell, ONLY_FALSE_POSITIVES where only
        predictions have it, else 0
    """

    image_ids: Int
    sums: scipy.sparse.csr_array | Float
    held: scipy.sparse.csr_array
    categories: tuple[Category, ...]
    slices: tuple[str, ...]
    by: str | None

    @staticmethod
    def of(statistics: ImageStatistics) -> Sample:
        """Arranges a run's TP, FP, FN and Σ IoU of each image and category as matrices with a column per image."""
        image_ids, n = statistics.image_ids, len(statistics.categories)
        cell = statistics.cell
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
        held = _presence_matrix(cell[counted], image[counted], _presence_codes(statistics.sums)[counted], shape)
        return Sample(image_ids, stacked, held, statistics.categories, statistics.slices, statistics.by)


@dataclass(frozen=True)
class _ChunkSums:
    """Σ IoU, TP and FP + FN per image and category of a chunk of images, with their positions in the run's sums.

    index: cell · UNITS + group of each row; values: Σ IoU, TP and FP + FN of each row
    held: columns image, cell and truth, the entries of `Sample.held`
    """

    index: Int
    values: tuple[Float, Float, Float]
    held: tuple[npt.NDArray[Any], ...]


class SampleAccumulator:
    """Accumulates each image's contributions to PQ's sums of a run (a `Sample`) over chunks of images.

    An `Accumulator`. images: the ids of all images of the run, ascending; by: a key of SLICINGS
    With more than EXACT_IMAGES images it stores the sums of groups and 7 bytes per image and cell.
    """

    def __init__(self, categories: Sequence[Category], images: Int, by: str | None = None) -> None:
        """Starts with sums of zero for each category, or each category in each slice."""
        self.images = images
        self._statistics = StatisticsAccumulator(categories, by)
        self._cells = SliceAccumulator(categories, by)
        self._grouped = len(images) > EXACT_IMAGES
        self._n_cells = len(categories) * max(len(self._cells.slices), 1)
        # Most cells (slices × categories) are unused; pages of zeros that are never written take no memory.
        self._sums = np.zeros((3 * self._n_cells, UNITS if self._grouped else 0))
        self._held: list[tuple[npt.NDArray[Any], ...]] = []

    def map_chunk(self, matched: Matched) -> ImageStatistics | _ChunkSums:
        """Returns TP, FP, FN and Σ IoU of a chunk of images, by image and category.

        In runs of more than EXACT_IMAGES images, with the groups of images to add them to.
        """
        found = self._statistics.map_chunk(matched)
        return self._chunk_sums(found) if self._grouped else found

    def _chunk_sums(self, found: ImageStatistics) -> _ChunkSums:
        """Returns Σ IoU, TP and FP + FN per image and category of a chunk, with their positions in the run's sums."""
        cell = found.cell
        image = np.searchsorted(self.images, found.image_id)
        sums, counted = found.sums, found.sums.counted
        kind = np.int16 if self._n_cells < 1 << 15 else np.int32
        held = (image[counted].astype(np.int32), cell[counted].astype(kind), _presence_codes(sums)[counted])
        # One flat index per value: np.add.at with pairs of indices is many times slower.
        values = sums.iou_sum, sums.TP.astype(np.float64), sums.mistakes.astype(np.float64)
        return _ChunkSums(cell * UNITS + image % UNITS, values, held)

    def add(self, part: ImageStatistics | _ChunkSums) -> None:
        """Adds TP, FP, FN and Σ IoU of a chunk of images: a result of `map_chunk` or of `image_statistics`."""
        if isinstance(part, ImageStatistics) and self._grouped:
            part = self._chunk_sums(part)
        if isinstance(part, ImageStatistics):
            self._statistics.add(part)
            return
        for row, values in enumerate(part.values):
            own = self._sums[row * self._n_cells : (row + 1) * self._n_cells]
            np.add.at(own.reshape(-1), part.index, values)
        self._held.append(part.held)

    def result(self) -> Sample:
        """Returns the run's Σ IoU, TP and FP + FN per category and image (or group of images)."""
        if not self._grouped:
            return Sample.of(self._statistics.result())
        image, cell, truth = (np.concatenate([chunk[side] for chunk in self._held]) for side in range(3))
        self._held = [(image, cell, truth)]
        held = _presence_matrix(cell, image, truth, (self._n_cells, len(self.images)))
        categories, by = self._statistics.categories, self._statistics.by
        return Sample(self.images, self._sums, held, categories, self._cells.slices, by)


def _presence_codes(sums: Sums) -> npt.NDArray[np.int8]:
    """Returns TRUE for each (image, category) row with a true segment, ONLY_FALSE_POSITIVES for the others."""
    return np.where(sums.TP + sums.FN > 0, TRUE, ONLY_FALSE_POSITIVES).astype(np.int8)


def _presence_matrix(
    cell: npt.NDArray[Any], image: npt.NDArray[Any], truth: npt.NDArray[np.int8], shape: tuple[int, int]
) -> scipy.sparse.csr_array:
    """Returns a sparse matrix that tells which images have a category in the ground truth, which only predicted.

    It is `Sample.held`: a row is a cell (category or, sliced, category in a slice), a column an image.
    """
    return scipy.sparse.csr_array((truth, (cell, image)), shape=shape)


@dataclass(frozen=True)
class Entries:
    """Contributions of each image, or group of images, to each category's Σ IoU, TP and PQ denominator, as columns.

    One row per unit (image or group) and cell (category or, sliced, category in a slice) with a segment.

    iou_sum, hits, weight: added to the cell's Σ IoU, TP and TP + (FP + FN)/2; weight is never 0
    """

    cell: Int
    unit: Int
    iou_sum: Float
    hits: Float
    weight: Float


@dataclass(frozen=True)
class Stack:
    """Σ IoU, TP and FP + FN per category and image (or group of images) of several runs, stacked for matrix products.

    A scope has a PQ: it is a group (the mean of its cells) or a single category; groups come first.
    ious: (runs · cells, units) contribution of each unit to Σ IoU of a run's cell
    counts: (runs · 2 · cells, units) contributions to TP and to FP + FN
    held: for each run (cells, images) as in `Sample`
    scopes: (group, category_id, name) of each scope
    members: (groups, cells) 1 where a group contains a cell, else 0
    """

    n_runs: int
    ious: scipy.sparse.csr_array | Float
    counts: scipy.sparse.csr_array | Float
    held: tuple[scipy.sparse.csr_array, ...]
    scopes: tuple[tuple[str | None, int, str], ...]
    members: Float

    @staticmethod
    def of(samples: Sequence[Sample]) -> Stack:
        """Stacks the PQ sums per image of several runs, which must have the same images, categories and slices."""
        first = samples[0]
        n_cells = first.held.shape[0]
        # Of slices, empty cells are dropped. Of categories none is, as each has a scope.
        with_any = np.any([np.diff(sample.held.indptr) > 0 for sample in samples], axis=0)
        cells = np.flatnonzero(with_any) if first.slices else np.arange(n_cells)
        held = tuple(scipy.sparse.csr_array(sample.held[cells]) for sample in samples)
        ious = _stack_sums([sample.sums[cells] for sample in samples])
        rows = np.concatenate([n_cells + cells, 2 * n_cells + cells])
        counts = _stack_sums([sample.sums[rows] for sample in samples])
        return Stack(len(samples), ious, counts, held, *_scopes_and_members(first, cells))

    @property
    def n_units(self) -> int:
        """The number of units (images, or groups of images)."""
        return int(self.ious.shape[1])

    def totals(self) -> Float:
        """Returns Σ IoU, TP and FP + FN over all images, for each run and category.

        (runs, 3, cells), where a cell is a category or, sliced, a category in a slice.
        """
        ious = self.ious.sum(axis=1).reshape(self.n_runs, 1, -1)
        return np.concatenate([ious, self.counts.sum(axis=1).reshape(self.n_runs, 2, -1)], axis=1)

    def exact(self) -> Float:
        """Returns PQ, SQ and RQ of each run on all images: of All, Things, Stuff (or each slice), then each category.

        (runs, 3, scopes); NaN where the run has no TP, FP or FN.
        """
        return np.stack([self._score_sums(*sums) for sums in self.totals()])

    def _score_sums(self, iou_sum: Float, hits: Float, mistakes: Float) -> Float:
        """Computes PQ, SQ and RQ of All, Things, Stuff (or each slice) and each category from the sums by category.

        Returns (3, scopes). The sums are one run's, by cell.
        """
        held = hits + mistakes > 0
        per_cell = np.stack([*pq_sq_rq(iou_sum, hits, mistakes).values()])
        n = self.members @ held
        of_groups = per_cell @ self.members.T / np.where(n > 0, n, np.nan)
        cells = np.where(held, per_cell, np.nan) if len(self.scopes) > len(self.members) else np.zeros((3, 0))
        return np.concatenate([of_groups, cells], axis=1)

    def entries(self, run: int) -> Entries:
        """Returns the contributions of each image, or group of images, to a run's Σ IoU, TP and PQ denominators."""
        n = self.members.shape[1]
        hits, mistakes = (self.counts[(2 * run + side) * n : (2 * run + side + 1) * n] for side in (0, 1))
        iou_sum = self.ious[run * n : (run + 1) * n]
        weight = hits + mistakes / 2
        if isinstance(weight, np.ndarray):
            cell, unit = np.nonzero(weight)
            return Entries(cell, unit, iou_sum[cell, unit], hits[cell, unit], weight[cell, unit])
        listed = scipy.sparse.csr_array(weight)
        listed.sort_indices()
        listed = listed.tocoo()
        indices = listed.row.astype(np.int64) * self.n_units + listed.col

        def values_at_weights(sums: scipy.sparse.csr_array) -> Float:
            """Returns the Σ IoU or TP of each (category, image) pair whose PQ denominator is not 0."""
            other = sums.tocoo()
            values = np.zeros(len(indices))
            values[np.searchsorted(indices, other.row.astype(np.int64) * self.n_units + other.col)] = other.data
            return values

        return Entries(
            listed.row.astype(np.int64),
            listed.col.astype(np.int64),
            values_at_weights(iou_sum),
            values_at_weights(hits),
            listed.data,
        )

    def images_of(self, runs: Sequence[int]) -> Int:
        """Counts the images of each category and group (or slice), in the ground truth or any run's predictions."""
        return self._count_images_by_scope(runs, ONLY_FALSE_POSITIVES)

    def enough(self, runs: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Marks the groups of categories, slices and categories that are in enough images for a confidence interval.

        They are at least FEWEST_IMAGES; a category must be in their ground truth. Returns (scopes,).
        """
        n_groups = len(self.members)
        images = self.images_of(runs)
        images[n_groups:] = self._count_images_by_scope(runs, TRUE)[n_groups:]
        return images >= FEWEST_IMAGES

    def _count_images_by_scope(self, runs: Sequence[int], least: int) -> Int:
        """Counts the images of each category and group (or slice), in the ground truth only or also in predictions.

        least: TRUE counts what is in the ground truth, ONLY_FALSE_POSITIVES also what is only predicted
        """
        held = scipy.sparse.csr_array(sum((self.held[run] >= least for run in runs[1:]), self.held[runs[0]] >= least))
        of_groups = (self.members @ held > 0).sum(axis=1)
        of_categories = np.diff(held.indptr) if len(self.scopes) > len(of_groups) else []
        return np.concatenate([of_groups, of_categories]).astype(np.int64)

    def swappable(self) -> Swappable:
        """Returns the runs' Σ IoU, TP and PQ denominators per category and image, for the permutation test."""
        n = self.members.shape[1]
        hits, mistakes = (
            _stack_sums([self.counts[(2 * run + side) * n : (2 * run + side + 1) * n] for run in range(self.n_runs)])
            for side in (0, 1)
        )
        weight = hits + mistakes / 2
        return Swappable((self.ious, hits, weight), self.members, len(self.scopes) > len(self.members))


def _stack_sums(sums: Sequence[scipy.sparse.csr_array | Float]) -> scipy.sparse.csr_array | Float:
    """Stacks matrices vertically; the result is dense if they are dense, else sparse.

    Dense ones have the sums of groups of images: a single image has few categories.
    """
    if isinstance(sums[0], np.ndarray):
        return np.concatenate(sums)
    stacked = scipy.sparse.csr_array(scipy.sparse.vstack(sums, format="csr"))
    stacked.eliminate_zeros()
    return stacked


def _scopes_and_members(statistics: Sample, cells: Int) -> tuple[tuple[tuple[str | None, int, str], ...], Float]:
    """Lists what gets a PQ (groups and categories, or slices), and marks the categories of each group or slice.

    These are `Stack.scopes` and `Stack.members`. cells: the cells that the stack keeps
    """
    categories, slices = statistics.categories, statistics.slices
    if slices:
        members = cells // len(categories) == np.arange(len(slices))[:, None]
        return tuple((name, 0, name) for name in slices), members.astype(np.float64)
    isthing = np.array([category.isthing for category in categories], np.bool_)
    groups: list[tuple[str | None, int, str]] = [(name, 0, name) for name in GROUPS]
    single: list[tuple[str | None, int, str]] = [(None, category.id, category.name) for category in categories]
    return (*groups, *single), np.stack([np.ones(len(cells)), isthing, ~isthing]).astype(np.float64)


def scope_table(
    scopes: Sequence[tuple[str | None, int, str]],
    columns: Mapping[str, npt.NDArray[Any]],
    metrics: Sequence[str] = METRICS,
) -> pd.DataFrame:
    """Makes a table of scores with a row for each group of categories, slice or category (scope) and each metric.

    columns: arrays (metrics, scopes), or (scopes,) for values that all metrics of a scope share
    """
    rows = [(*scope, metric) for scope in scopes for metric in metrics]
    keys = dict(zip(("group", "category_id", "name", "metric"), map(list, zip(*rows, strict=True)), strict=True))
    shape = (len(metrics), len(scopes))
    return pd.DataFrame({**keys, **{name: np.broadcast_to(one, shape).T.ravel() for name, one in columns.items()}})


def sample_of_shared_images(run: ImageStatistics | Sample, shared: Int) -> Sample:
    """Returns the contributions to PQ's sums (the `Sample`) of the images that a run shares with other runs.

    Raises BadArgument if a `Sample` has other images than these.
    """
    if isinstance(run, ImageStatistics):
        return Sample.of(run.only(shared))
    if len(run.image_ids) != len(shared):
        raise BadArgument("Samples must be of the same images. Narrow their statistics first.")
    return run


def shared_image_ids(runs: Mapping[str, ImageStatistics | Sample]) -> Int:
    """Returns the image ids that all runs share. Raises BadArgument for none, or if categories or slices differ."""
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
