"""What answers need of a run with too many images to hold: sums of all of them from one pass, and a sample as rows.

Scores, tests, causes and slices are quotients of sums over images, so a pass that adds them up block by block has them
of all images. Single images and errors are shown of a sample: SAMPLED of them, drawn at random.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.absent import AbsentFold
from panbench.metrics.errors import assign_causes, mistaken
from panbench.metrics.fixes import FixFold
from panbench.metrics.matched import Matched, positions
from panbench.metrics.pq import CategorySums, image_sums, panoptic_quality, summarise
from panbench.metrics.samples import Sample, SampleFold
from panbench.metrics.semantic import PixelFold
from panbench.metrics.slices import SLICINGS, THRESHOLDS, SliceFold, curve_of
from panbench.panoptic.overlap import OverlapTable, concat
from panbench.panoptic.types import Category
from panbench.runs import Run

__all__ = ["SAMPLED", "Folded", "folded", "known_absent", "known_summary", "sample_of"]

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SAMPLED = 10_000
"""So many images at most are shown one by one."""


@dataclass(frozen=True)
class Folded:
    """What one pass over a run gives.

    table: `pq_table`; segments: (categories,) true segments, crowds left out; lost: `lost_pq`; cells: `cells_to_fix`
    errors: how many single errors there are; now: Σ IoU and TP + (FP + FN)/2 of each category, as `priced_errors` takes
    slices: `pq_by` of each of SLICINGS; pixels: `confusion`; mistaken: `metrics.errors.mistaken`
    sample: what intervals and tests take; scores: PQ of each image by itself, NaN where it has none
    rows: the tables of the images of `sample_of`; curve: `threshold_curve`
    """

    table: pd.DataFrame
    segments: Int
    lost: pd.DataFrame
    cells: pd.DataFrame
    errors: int
    now: tuple[Float, Float]
    slices: dict[str, pd.DataFrame]
    pixels: pd.DataFrame
    mistaken: pd.DataFrame
    sample: Sample
    scores: Float
    rows: OverlapTable
    absent: AbsentFold
    curve: pd.DataFrame


_known: weakref.WeakKeyDictionary[Run, dict[bytes, Folded]] = weakref.WeakKeyDictionary()


def folded(run: Run, images: Int | None = None, reporter: Reporter = SILENT) -> Folded:
    """The sums of a run on some of its images, ascending; None: on all. Computed once as long as the run is held."""
    ids = run.images if images is None else images
    asked = hashlib.sha256(ids.tobytes()).digest()
    of_run = _known.setdefault(run, {})
    if asked not in of_run:
        of_run[asked] = _passed(run, ids, reporter)
    return of_run[asked]


def known_summary(run: Run) -> dict[str, dict[str, float | int | None]]:
    """`Run.summary`, without a pass where the sums of the run are known."""
    if not run.in_blocks:
        return run.summary()
    asked = hashlib.sha256(run.images.tobytes()).digest()
    found = _known.get(run, {}).get(asked)
    return run.summary() if found is None else summarise(found.table)


def known_absent(run: Run) -> AbsentFold | None:
    """What is not there in a run, where its sums are known."""
    return next((one.absent for one in _known.get(run, {}).values()), None)


def sample_of(images: Int) -> Int:
    """SAMPLED of the images, drawn at random, always the same of as many; all where there are no more.

    Every k-th image would show one camera of six, or one frame of a loop.
    """
    if len(images) <= SAMPLED:
        return images
    return images[np.sort(np.random.default_rng(0).choice(len(images), SAMPLED, replace=False))]


def _passed(run: Run, images: Int, reporter: Reporter) -> Folded:
    run.reporter = reporter
    categories = run.categories
    sums, sample, pixels = CategorySums(categories), SampleFold(categories, images), PixelFold(categories)
    fixes, rest = FixFold(categories, images, of_images=False), _Rest(categories, images)
    slices = {name: SliceFold(categories, name) for name in SLICINGS}
    missing, levels = AbsentFold(categories), CategorySums(categories, THRESHOLDS)
    run.fold(sums, fixes, sample, pixels, rest, missing, levels, *slices.values(), images=images)
    return Folded(
        table=sums.table(),
        segments=rest.segments,
        lost=fixes.explained.lost(),
        cells=fixes.cells(),
        errors=fixes.errors(),
        now=fixes.now(),
        absent=missing,
        slices={name: one.table() for name, one in slices.items()},
        pixels=pixels.confusion(),
        mistaken=rest.mistaken(),
        sample=sample.result(),
        scores=np.concatenate(rest.scores),
        rows=concat(rest.rows),
        curve=curve_of(levels),
    )


class _Rest:
    """What no other fold has: see the fields of `Folded`; a `Fold`."""

    def __init__(self, categories: Sequence[Category], images: Int) -> None:
        self.categories = tuple(categories)
        self.sampled = sample_of(images)
        self.segments = np.zeros(len(self.categories), np.int64)
        self.scores: list[Float] = []
        self.rows: list[OverlapTable] = []
        self._mistaken: list[pd.DataFrame] = []

    def look(self, matched: Matched) -> tuple[Int, Float, OverlapTable, pd.DataFrame]:
        """What a block of images adds."""
        segments = matched.segments
        true = segments.category_id[segments.is_gt & ~segments.iscrowd]
        number = np.bincount(positions(true, self.categories), minlength=len(self.categories))
        image_id, _, sums = image_sums(matched)
        place = np.searchsorted(matched.image_ids, image_id)
        quality = panoptic_quality(sums.iou_sum, sums.TP, sums.mistakes)
        held = np.bincount(place, minlength=len(matched.image_ids))
        scores = np.full(len(held), np.nan)
        np.divide(np.bincount(place, quality, len(held)), held, out=scores, where=held > 0)
        some = matched.only(np.intersect1d(self.sampled, matched.image_ids))
        errors = assign_causes(matched, self.categories)
        return number, scores, OverlapTable(some.segments, some.overlaps, some.boundary), mistaken(errors, matched)

    def add(self, part: tuple[Int, Float, OverlapTable, pd.DataFrame]) -> None:
        """Adds it."""
        number, scores, rows, mistaken_ones = part
        self.segments += number
        self.scores.append(scores)
        self.rows.append(rows)
        self._mistaken.append(mistaken_ones)

    def mistaken(self) -> pd.DataFrame:
        """`mistaken` of all blocks."""
        keys = ["category_id", "predicted"]
        return pd.concat(self._mistaken).groupby(keys, as_index=False)["objects"].sum()
