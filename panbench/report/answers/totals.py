"""Sums over all images of a run, which every table and test uses, and a sample of its images as rows.

Scores, tests, causes and slices are quotients of sums over images. A run in memory is passed over for each question
that is asked; a run of too many images for that is read block by block, once for all questions. Its single images and
errors then come from a sample: SAMPLED images drawn at random.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.absent import AbsentFold
from panbench.metrics.errors import assign_causes, count_confusions
from panbench.metrics.fixes import FixFold
from panbench.metrics.matched import Fold, Matched, SeveralFolds, positions
from panbench.metrics.pq import CategorySums, image_sums, panoptic_quality, summarise
from panbench.metrics.samples import Sample, SampleFold
from panbench.metrics.semantic import PixelFold
from panbench.metrics.slices import SLICINGS, THRESHOLDS, SliceFold, curve_of
from panbench.panoptic.overlap import OverlapTable, concat
from panbench.panoptic.types import Category
from panbench.runs import Run

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

Made = TypeVar("Made", bound=Fold[Any])

SAMPLED = 10_000
"""Maximum number of images that are displayed one by one."""


class Totals:
    """Sums over some images of a run, each computed when it is first requested, and cached.

    images: their ids, ascending
    """

    def __init__(self, run: Run, images: Int) -> None:
        self.images = images
        # The cache of totals forgets a run that nobody else holds.
        self._run = weakref.ref(run)
        self._folds: dict[Callable[[Sequence[Category], Int], Fold[Any]], Fold[Any]] = {}

    @property
    def run(self) -> Run:
        """Returns the run, to which the sums hold only a weak reference."""
        run = self._run()
        assert run is not None
        return run

    def read(self) -> None:
        """Computes all sums of a run that is read in blocks, in one pass; does nothing for a run in memory."""
        if self.run.in_blocks:
            self._fold(SampleFold)

    def _fold(self, make: Callable[[Sequence[Category], Int], Made]) -> Made:
        """Returns the fold that `make` makes, with its sums; for a run read in blocks, computes all folds at once."""
        if make not in self._folds:
            requested = _FOLDS if self.run.in_blocks else (make,)
            made = {make: make(self.run.categories, self.images) for make in requested}
            self.run.fold(*made.values(), images=self.images)
            self._folds |= made
        return cast(Made, self._folds[make])

    @cached_property
    def table(self) -> pd.DataFrame:
        """Returns PQ, SQ, RQ and counts by category: the `pq_table` of the images."""
        return self._fold(_category_fold).table()

    @property
    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Returns PQ, SQ and RQ of all, things and stuff: the `Run.summary` of the images."""
        if len(self.images) == len(self.run.images) and not self._folds:
            return self.run.summary()
        return summarise(self.table)

    @property
    def curve(self) -> pd.DataFrame:
        """Returns PQ, SQ and RQ by IoU threshold: the `threshold_curve` of the images."""
        return curve_of(self._fold(_category_fold))

    @cached_property
    def lost(self) -> pd.DataFrame:
        """Returns the PQ lost to each cause, by group and category: the `lost_pq` of the images."""
        return self._fold(_fix_fold).explained.lost()

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Returns the kinds of error (cause, size) with the gain of fixing each: the `cells_to_fix` of the images."""
        return self._fold(_fix_fold).cells()

    @property
    def errors(self) -> int:
        """Returns how many single errors the images have."""
        return self._fold(_fix_fold).errors()

    @property
    def now(self) -> tuple[Float, Float]:
        """Returns Σ IoU and TP + (FP + FN)/2 of each category, from which `priced_errors` computes gains."""
        return self._fold(_fix_fold).now()

    @cached_property
    def slices(self) -> dict[str, pd.DataFrame]:
        """Returns PQ by slice for each of SLICINGS, by its name."""
        return {name: fold.table() for name, fold in zip(SLICINGS, self._fold(_slice_folds).folds, strict=True)}

    @cached_property
    def pixels(self) -> pd.DataFrame:
        """Returns the confusion matrix of pixels, true by predicted category, summed over the images."""
        return self._fold(_pixel_fold).confusion()

    @cached_property
    def sample(self) -> Sample:
        """Returns the images' contributions to PQ, from which intervals and tests are computed."""
        return self._fold(SampleFold).result()

    @property
    def absent(self) -> AbsentFold:
        """Returns the counts of what is never predicted; all are 0 for a large run that was not read yet."""
        return AbsentFold(self.run.categories) if self.run.in_blocks and not self._folds else self._fold(_absent_fold)

    @property
    def rest(self) -> "Rest":
        """Returns the sums that belong to no metric, such as the number of true segments by category."""
        return self._fold(Rest)


_known: weakref.WeakKeyDictionary[Run, dict[bytes, Totals]] = weakref.WeakKeyDictionary()


def totals_of(run: Run, images: Int | None = None) -> Totals:
    """Returns the sums of a run over some images (ascending; None: all), shared by all callers."""
    requested = run.images if images is None else images
    return _known.setdefault(run, {}).setdefault(requested.tobytes(), Totals(run, requested))


def lost_to_causes(totals: Totals, group: str) -> dict[str, float]:
    """Returns the PQ that a run loses to each cause in a group; {} if the group is empty."""
    own = totals.lost[totals.lost["group"] == group]
    return dict(zip(own["cause"], own["lost"].tolist(), strict=True))


def sample_of(images: Int) -> Int:
    """Returns at most SAMPLED of the images, drawn at random; equal numbers of images give the same draw.

    Every k-th image instead could pick only one camera of six, or one frame of a loop.
    """
    if len(images) <= SAMPLED:
        return images
    return images[np.sort(np.random.default_rng(0).choice(len(images), SAMPLED, replace=False))]


class Rest:
    """A `Fold` of sums that belong to no metric: segments, PQ of single images, a sample, wrong categories.

    segments: (categories,) true segments, crowds left out; rows: the tables of the images of `sample_of`
    """

    def __init__(self, categories: Sequence[Category], images: Int) -> None:
        self.categories = tuple(categories)
        self.sampled = sample_of(images)
        self.segments = np.zeros(len(self.categories), np.int64)
        self._scores: list[Float] = []
        self._rows: list[OverlapTable] = []
        self._mistaken: list[pd.DataFrame] = []

    def map_block(self, matched: Matched) -> tuple[Int, Float, OverlapTable, pd.DataFrame]:
        """Returns the sums of one block of images, for `add`."""
        segments = matched.segments
        true = segments.category_id[segments.is_gt & ~segments.iscrowd]
        number = np.bincount(positions(true, self.categories), minlength=len(self.categories))
        image_id, _, sums = image_sums(matched)
        index = np.searchsorted(matched.image_ids, image_id)
        quality = panoptic_quality(sums.iou_sum, sums.TP, sums.mistakes)
        held = np.bincount(index, minlength=len(matched.image_ids))
        scores = np.full(len(held), np.nan)
        np.divide(np.bincount(index, quality, len(held)), held, out=scores, where=held > 0)
        some = matched.only(np.intersect1d(self.sampled, matched.image_ids))
        errors = assign_causes(matched, self.categories)
        return (
            number,
            scores,
            OverlapTable(some.segments, some.overlaps, some.boundary),
            count_confusions(errors, matched),
        )

    def add(self, part: tuple[Int, Float, OverlapTable, pd.DataFrame]) -> None:
        """Adds the sums of one block, as `map_block` returns them."""
        number, scores, rows, mistaken_ones = part
        self.segments += number
        self._scores.append(scores)
        self._rows.append(rows)
        self._mistaken.append(mistaken_ones)

    @property
    def scores(self) -> Float:
        """Returns the PQ of each image by itself, NaN if it has none."""
        return np.concatenate(self._scores)

    @property
    def rows(self) -> OverlapTable:
        """Returns the overlap tables of the sampled images."""
        return concat(self._rows)

    @cached_property
    def mistaken(self) -> pd.DataFrame:
        """Returns how many segments have the right mask and the wrong category, by the pair of categories."""
        keys = ["category_id", "predicted"]
        return pd.concat(self._mistaken).groupby(keys, as_index=False)["objects"].sum()


def _category_fold(categories: Sequence[Category], images: Int) -> CategorySums:
    """Makes a fold that sums PQ by category at all THRESHOLDS."""
    return CategorySums(categories, THRESHOLDS)


def _fix_fold(categories: Sequence[Category], images: Int) -> FixFold:
    """Makes a fold that sums errors by cause, and what fixing them would gain."""
    return FixFold(categories, images, of_images=False)


def _slice_folds(categories: Sequence[Category], images: Int) -> SeveralFolds[SliceFold]:
    """Makes a fold of PQ by slice for each of SLICINGS."""
    return SeveralFolds([SliceFold(categories, name) for name in SLICINGS])


def _pixel_fold(categories: Sequence[Category], images: Int) -> PixelFold:
    """Makes a fold that sums pixels by true and predicted category."""
    return PixelFold(categories)


def _absent_fold(categories: Sequence[Category], images: Int) -> AbsentFold:
    """Makes a fold that counts what is never predicted."""
    return AbsentFold(categories)


_FOLDS: tuple[Callable[[Sequence[Category], Int], Fold[Any]], ...] = (
    _category_fold,
    _fix_fold,
    _slice_folds,
    _pixel_fold,
    _absent_fold,
    SampleFold,
    Rest,
)
