"""Computes scores that deviate from PQ in one disputed convention each, such as counting void as wrong.

None of them may be called PQ: only numbers by the rules of metrics/matched.py and metrics/pq.py are comparable with
published ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panbench.metrics.matched import Matched, one_to_one, positions
from panbench.metrics.pq import Sums, image_sums, mean_of, panoptic_quality
from panbench.panoptic.types import GROUPS, Category, in_groups

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

LOOSE = 0.25
"""The IoU threshold of the deviation `one_to_one`."""


@dataclass(frozen=True)
class DeviatingScore:
    """A score that differs from PQ in one convention: its JSON name, its label in tables, and a description."""

    name: str
    label: str
    description: str


DEVIATIONS = (
    DeviatingScore(
        "SQ_of_matched",
        "SQ, only categories with a match",
        "SQ averaged over the categories that have a true positive. SQ's mean counts the others as 0, so it can be "
        "below 0.5, which no match is. [cocodataset/panopticapi#14]",
    ),
    DeviatingScore(
        "void_counts",
        "void pixels count as wrong",
        "Void is a place without a segment and not one without a label: pixels that are predicted there stay in the "
        "union, and a prediction there is a false positive. Without crowds it is the same when ground truth and "
        "prediction change places, as the paper says of PQ. [cocodataset/panopticapi#16]",
    ),
    DeviatingScore(
        "mean_over_images",
        "mean of single images",
        "The quotient is taken in each image, over the categories that it holds, and averaged over the images that "
        "hold any. An image with one segment counts as much as one with fifty, and a category in many images more than "
        "a rare one.",
    ),
    DeviatingScore(
        "one_to_one",
        f"matches from IoU {LOOSE:g}, one to one",
        f"A match needs IoU > {LOOSE:g}. Below 0.5 a segment can have several: pairs are taken by falling IoU, each "
        "segment once, as Panoptica's naive matching does.",
    ),
)
"""All deviations, in the order of tables. docs/metrics.md explains when each is useful."""


class DeviationAccumulator:
    """Computes scores that each deviate from PQ in one convention, from one chunk of images at a time.

    It is an `Accumulator`; DEVIATIONS lists the scores.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        """Starts with no image counted."""
        self.categories = tuple(categories)
        n = len(self.categories)
        isthing = np.array([category.isthing for category in self.categories], np.bool_)
        self._members = in_groups(isthing)
        self._sums = {name: Sums.zeros(n) for name in ("own", "void", "loose")}
        self._of_images = dict.fromkeys(GROUPS, (0.0, 0))

    def map_chunk(self, matched: Matched) -> tuple[dict[str, tuple[Int, Float, Int, Int]], dict[str, Float]]:
        """Counts TPs, FPs and FNs of a chunk of images under each matching rule, and computes PQ of each image."""
        segments, gt, pred = matched.segments, matched.gt, matched.pred
        pixels = matched.overlaps.pixels[matched.pair]
        with_void = pixels / (segments.area[gt] + segments.area[pred] - pixels)
        strict, of_void, loose = matched.iou > 0.5, with_void > 0.5, np.zeros(len(gt), np.bool_)
        near = np.flatnonzero(matched.iou > LOOSE)
        loose[near[one_to_one(gt[near], pred[near], np.lexsort((pred[near], gt[near], -matched.iou[near])))]] = True
        return {
            "own": self._matches_and_errors(matched, strict, matched.iou, matched.excused),
            "void": self._matches_and_errors(matched, of_void, with_void, matched.excused_by_crowd),
            "loose": self._matches_and_errors(matched, loose, matched.iou, matched.excused),
        }, self._pq_of_images(matched)

    def add(self, part: tuple[dict[str, tuple[Int, Float, Int, Int]], dict[str, Float]]) -> None:
        """Adds the TP, FP and FN counts and the per-image PQ of a chunk of images to the totals."""
        counts, of_images = part
        self._sums = {name: sums.with_added(*counts[name]) for name, sums in self._sums.items()}
        for group, values in of_images.items():
            total, n = self._of_images[group]
            added = float(np.add.accumulate(np.concatenate([[total], values]))[-1])
            self._of_images[group] = (added, n + len(values))

    def record(self) -> dict[str, Mapping[str, float | None]]:
        """Returns the scores that deviate from PQ in one convention, for All, Things and Stuff, by JSON name.

        Scores are fractions 0–1; the mean of no category is None.
        """
        own, void, loose = (self._sums[name] for name in ("own", "void", "loose"))
        return {
            "SQ_of_matched": self._group_means(own.scores()["SQ"], own.TP > 0),
            "void_counts": self._group_means(void.scores()["PQ"], void.counted),
            "mean_over_images": {group: total / n if n else None for group, (total, n) in self._of_images.items()},
            "one_to_one": self._group_means(loose.scores()["PQ"], loose.counted),
        }

    def _matches_and_errors(
        self, matched: Matched, hits: Bool, iou: Float, excused: Bool
    ) -> tuple[Int, Float, Int, Int]:
        """Returns category and IoU of each match, and the numbers of false positives and misses by category.

        hits: which pairs match; iou: of each pair; excused: the predictions that are no false positives
        """
        segments, n = matched.segments, len(self.categories)
        index = positions(segments.category_id, self.categories)
        unmatched = np.ones(len(segments), np.bool_)
        unmatched[matched.gt[hits]] = unmatched[matched.pred[hits]] = False
        wrong, missed = unmatched & ~segments.is_gt & ~excused, unmatched & segments.is_gt & ~segments.iscrowd
        found = np.bincount(index[wrong], minlength=n), np.bincount(index[missed], minlength=n)
        return index[matched.gt[hits]], iou[hits], *found

    def _pq_of_images(self, matched: Matched) -> dict[str, Float]:
        """Returns PQ of each single image, as the mean over its categories, for All, Things and Stuff."""
        image_id, category_id, sums = image_sums(matched)
        quality = panoptic_quality(sums.iou_sum, sums.TP, sums.mistakes)
        index = positions(category_id, self.categories)
        found = {}
        for group, members in self._members.items():
            own = members[index]
            _, image = np.unique(image_id[own], return_inverse=True)
            n = np.bincount(image)
            found[group] = np.bincount(image, weights=quality[own]) / n
        return found

    def _group_means(self, values: Float, counted: Bool) -> dict[str, float | None]:
        """Averages the scores of categories over All, Things and Stuff.

        counted: the categories that a mean includes
        """
        return {group: mean_of(values[members & counted]) for group, members in self._members.items()}
