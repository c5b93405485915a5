"""Sums over all images of a run, from which its tables and tests are computed, and a random sample of its images.

Scores, tests, causes and slices are quotients of sums over images. A run in memory is passed over for each question
that is asked; a run of too many images for that is read chunk by chunk, once for all questions. Its single images and
errors then come from a sample: SAMPLED images drawn at random.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.absent import AbsentAccumulator
from panbench.metrics.errors import assign_causes, count_confusions
from panbench.metrics.fixes import FixAccumulator
from panbench.metrics.matched import Accumulator, Matched, SeveralAccumulators, positions
from panbench.metrics.pq import CategorySums, image_sums, panoptic_quality, summarise
from panbench.metrics.samples import Sample, SampleAccumulator
from panbench.metrics.semantic import PixelAccumulator
from panbench.metrics.slices import SLICINGS, THRESHOLDS, SliceAccumulator, curve_of
from panbench.panoptic.overlap import OverlapTable, concat
from panbench.panoptic.types import Category
from panbench.runs import Run

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

Made = TypeVar("Made", bound=Accumulator[Any])

SAMPLED = 10_000
"""Maximum number of images that are displayed one by one."""


class Totals:
    """Sums over images of a run that give its PQ, error causes and tests, each computed on first request.

    images: their ids, ascending
    """

    def __init__(self, run: Run, images: Int) -> None:
        """Takes a run, which is held by a weak reference only, and the ids of the images to sum up."""
        self.images = images
        # The cache of totals forgets a run that nobody else holds.
        self._run = weakref.ref(run)
        self._accumulators: dict[Callable[[Sequence[Category], Int], Accumulator[Any]], Accumulator[Any]] = {}

    @property
    def run(self) -> Run:
        """Returns the run whose images are summed up; it is held by a weak reference only."""
        run = self._run()
        assert run is not None
        return run

    def read(self) -> None:
        """Computes all sums of a run that is too large for memory, in one pass; does nothing for a smaller run."""
        if self.run.in_chunks:
            self._accumulator(SampleAccumulator)

    def _accumulator(self, make: Callable[[Sequence[Category], Int], Made]) -> Made:
        """Returns an accumulator with its sums over all images, computed when first requested.

        A run that is read in chunks fills all accumulators in the same pass.
        """
        if make not in self._accumulators:
            requested = _ACCUMULATORS if self.run.in_chunks else (make,)
            made = {make: make(self.run.categories, self.images) for make in requested}
            self.run.accumulate(*made.values(), images=self.images)
            self._accumulators |= made
        return cast(Made, self._accumulators[make])

    @cached_property
    def table(self) -> pd.DataFrame:
        """Returns a table of PQ, SQ, RQ, TP, FP and FN by category, over all images."""
        return self._accumulator(_category_accumulator).table()

    @property
    def summary(self) -> dict[str, dict[str, float | int | None]]:
        """Returns PQ, SQ and RQ of all, things and stuff: the `Run.summary` of the images."""
        if len(self.images) == len(self.run.images) and not self._accumulators:
            return self.run.summary()
        return summarise(self.table)

    @property
    def curve(self) -> pd.DataFrame:
        """Returns PQ, SQ and RQ by IoU threshold: the `threshold_curve` of the images."""
        return curve_of(self._accumulator(_category_accumulator))

    @cached_property
    def lost(self) -> pd.DataFrame:
        """Returns a table of the PQ lost to each error cause: over all, thing and stuff categories, and by category."""
        return self._accumulator(_fix_accumulator).explained.lost()

    @cached_property
    def kinds_to_fix(self) -> pd.DataFrame:
        """Returns a table of kinds of error (cause and segment size), with the PQ that fixing each would gain.

        It is the `cells_to_fix` of the images.
        """
        return self._accumulator(_fix_accumulator).cells()

    @property
    def errors(self) -> int:
        """Returns the number of errors in the images: false positives, misses, and matches with an inexact mask."""
        return self._accumulator(_fix_accumulator).errors()

    @property
    def now(self) -> tuple[Float, Float]:
        """Returns Σ IoU and TP + (FP + FN)/2 of each category, from which `priced_errors` computes gains."""
        return self._accumulator(_fix_accumulator).now()

    @cached_property
    def slices(self) -> dict[str, pd.DataFrame]:
        """Returns tables of PQ by segment size, by number of segments and the like: one for each key of SLICINGS."""
        return {
            name: accumulator.table()
            for name, accumulator in zip(SLICINGS, self._accumulator(_slice_accumulators).accumulators, strict=True)
        }

    @cached_property
    def pixels(self) -> pd.DataFrame:
        """Returns the confusion matrix of pixels, true by predicted category, summed over the images."""
        return self._accumulator(_pixel_accumulator).confusion()

    @cached_property
    def sample(self) -> Sample:
        """Returns the images' contributions to PQ, from which intervals and tests are computed."""
        return self._accumulator(SampleAccumulator).result()

    @property
    def absent(self) -> AbsentAccumulator:
        """Returns how many categories and images have no predicted segment.

        All counts are 0 for a large run that was not read yet.
        """
        return (
            AbsentAccumulator(self.run.categories)
            if self.run.in_chunks and not self._accumulators
            else self._accumulator(_absent_accumulator)
        )

    @property
    def report_sums(self) -> "ReportSums":
        """Returns what the report shows besides metrics, such as the number of true segments by category."""
        return self._accumulator(ReportSums)


_known: weakref.WeakKeyDictionary[Run, dict[bytes, Totals]] = weakref.WeakKeyDictionary()


def totals_of(run: Run, images: Int | None = None) -> Totals:
    """Returns the sums behind PQ, error causes and tests of a run over some images; cached for all callers.

    images: their ids, ascending; None: all
    """
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


class ReportSums:
    """Accumulates what the report shows besides metrics: true segments, PQ of single images, a sample of images.

    segments: (categories,) true segments, crowds left out
    """

    def __init__(self, categories: Sequence[Category], images: Int) -> None:
        """Takes the categories, and the ids of all images, from which the sample is drawn."""
        self.categories = tuple(categories)
        self.sampled = sample_of(images)
        self.segments = np.zeros(len(self.categories), np.int64)
        self._scores: list[Float] = []
        self._rows: list[OverlapTable] = []
        self._mistaken: list[pd.DataFrame] = []

    def map_chunk(self, matched: Matched) -> tuple[Int, Float, OverlapTable, pd.DataFrame]:
        """Returns the true segments, PQ by image, sampled images and wrong categories of a chunk of images."""
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
        """Adds the results that `map_chunk` returned for one chunk of images to those of all images."""
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
    def sampled_overlaps(self) -> OverlapTable:
        """Returns the segments, and the overlaps of true and predicted ones, in the images drawn by `sample_of`."""
        return concat(self._rows)

    @cached_property
    def wrong_category_counts(self) -> pd.DataFrame:
        """Returns how many segments have the right mask and the wrong category, by the pair of categories."""
        keys = ["category_id", "predicted"]
        return pd.concat(self._mistaken).groupby(keys, as_index=False)["objects"].sum()


def _category_accumulator(categories: Sequence[Category], images: Int) -> CategorySums:
    """Returns an empty accumulator of TP, FP, FN and IoU by category, at each IoU threshold of a match, for PQ."""
    return CategorySums(categories, THRESHOLDS)


def _fix_accumulator(categories: Sequence[Category], images: Int) -> FixAccumulator:
    """Returns an empty accumulator of errors by cause and segment size, and of the PQ that fixing them would gain."""
    return FixAccumulator(categories, images, of_images=False)


def _slice_accumulators(categories: Sequence[Category], images: Int) -> SeveralAccumulators[SliceAccumulator]:
    """Returns empty accumulators for PQ by segment size, number of segments and the like: one per key of SLICINGS."""
    return SeveralAccumulators([SliceAccumulator(categories, name) for name in SLICINGS])


def _pixel_accumulator(categories: Sequence[Category], images: Int) -> PixelAccumulator:
    """Returns an empty accumulator of pixel counts by true and predicted category."""
    return PixelAccumulator(categories)


def _absent_accumulator(categories: Sequence[Category], images: Int) -> AbsentAccumulator:
    """Returns an empty accumulator of counts of categories and images without any prediction."""
    return AbsentAccumulator(categories)


_ACCUMULATORS: tuple[Callable[[Sequence[Category], Int], Accumulator[Any]], ...] = (
    _category_accumulator,
    _fix_accumulator,
    _slice_accumulators,
    _pixel_accumulator,
    _absent_accumulator,
    SampleAccumulator,
    ReportSums,
)
