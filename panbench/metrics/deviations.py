"""Alternatives to PQ's disputed conventions, each under a name of its own.

None of them is PQ, and none is called so: a number is comparable with published ones only by the rules of
metrics/matched.py and metrics/pq.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panbench.metrics.matched import Matched, one_to_one, positions
from panbench.metrics.pq import Sums, image_sums, mean_of, panoptic_quality
from panbench.panoptic.types import GROUPS, Category, in_groups

__all__ = ["DEVIATIONS", "LOOSE", "Deviation", "DeviationFold"]

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

LOOSE = 0.25
"""The IoU above which `one_to_one` matches."""


@dataclass(frozen=True)
class Deviation:
    """A convention other than PQ's: its name in JSON, its label in tables, and how it differs."""

    name: str
    label: str
    description: str


DEVIATIONS = (
    Deviation(
        "SQ_of_matched",
        "SQ, only categories with a match",
        "SQ averaged over the categories that have a true positive. SQ's mean counts the others as 0, so it can be "
        "below 0.5, which no match is. [cocodataset/panopticapi#14]",
    ),
    Deviation(
        "void_counts",
        "void pixels count as wrong",
        "Void is a place without a segment and not one without a label: pixels that are predicted there stay in the "
        "union, and a prediction there is a false positive. Without crowds it is the same when ground truth and "
        "prediction change places, as the paper says of PQ. [cocodataset/panopticapi#16]",
    ),
    Deviation(
        "mean_over_images",
        "mean of single images",
        "The quotient is taken in each image, over the categories that it holds, and averaged over the images that "
        "hold any. An image with one segment counts as much as one with fifty, and a category in many images more than "
        "a rare one.",
    ),
    Deviation(
        "one_to_one",
        f"matches from IoU {LOOSE:g}, one to one",
        f"A match needs IoU > {LOOSE:g}. Below 0.5 a segment can have several: pairs are taken by falling IoU, each "
        "segment once, as Panoptica's naive matching does.",
    ),
)
"""All of them, in the order of tables. docs/metrics.md says when which is of use."""


class DeviationFold:
    """The deviations of images that come block by block; a `Fold`."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        n = len(self.categories)
        isthing = np.array([category.isthing for category in self.categories], np.bool_)
        self._members = in_groups(isthing)
        self._sums = {name: Sums.zeros(n) for name in ("own", "void", "loose")}
        self._of_images = dict.fromkeys(GROUPS, (0.0, 0))

    def look(self, matched: Matched) -> tuple[dict[str, tuple[Int, Float, Int, Int]], dict[str, Float]]:
        """Matches, FPs and FNs by each convention, and the quotient of each image by group."""
        segments, gt, pred = matched.segments, matched.gt, matched.pred
        pixels = matched.overlaps.pixels[matched.pair]
        with_void = pixels / (segments.area[gt] + segments.area[pred] - pixels)
        strict, of_void, loose = matched.iou > 0.5, with_void > 0.5, np.zeros(len(gt), np.bool_)
        near = np.flatnonzero(matched.iou > LOOSE)
        loose[near[one_to_one(gt[near], pred[near], np.lexsort((pred[near], gt[near], -matched.iou[near])))]] = True
        return {
            "own": self._counts(matched, strict, matched.iou, matched.excused),
            "void": self._counts(matched, of_void, with_void, matched.excused_by_crowd),
            "loose": self._counts(matched, loose, matched.iou, matched.excused),
        }, self._of_each_image(matched)

    def add(self, part: tuple[dict[str, tuple[Int, Float, Int, Int]], dict[str, Float]]) -> None:
        """Continues the sums of the previous block."""
        counts, of_images = part
        self._sums = {name: sums.and_also(*counts[name]) for name, sums in self._sums.items()}
        for group, values in of_images.items():
            total, n = self._of_images[group]
            added = float(np.add.accumulate(np.concatenate([[total], values]))[-1])
            self._of_images[group] = (added, n + len(values))

    def record(self) -> dict[str, Mapping[str, float | None]]:
        """Deviation name → values of All, Things and Stuff, fractions 0–1; None where nothing is averaged."""
        own, void, loose = (self._sums[name] for name in ("own", "void", "loose"))
        return {
            "SQ_of_matched": self._means(own.scores()["SQ"], own.TP > 0),
            "void_counts": self._means(void.scores()["PQ"], void.counted),
            "mean_over_images": {group: total / n if n else None for group, (total, n) in self._of_images.items()},
            "one_to_one": self._means(loose.scores()["PQ"], loose.counted),
        }

    def _counts(self, matched: Matched, hits: Bool, iou: Float, excused: Bool) -> tuple[Int, Float, Int, Int]:
        segments, n = matched.segments, len(self.categories)
        place = positions(segments.category_id, self.categories)
        left = np.ones(len(segments), np.bool_)
        left[matched.gt[hits]] = left[matched.pred[hits]] = False
        wrong, missed = left & ~segments.is_gt & ~excused, left & segments.is_gt & ~segments.iscrowd
        found = np.bincount(place[wrong], minlength=n), np.bincount(place[missed], minlength=n)
        return place[matched.gt[hits]], iou[hits], *found

    def _of_each_image(self, matched: Matched) -> dict[str, Float]:
        image_id, category_id, sums = image_sums(matched)
        quality = panoptic_quality(sums.iou_sum, sums.TP, sums.mistakes)
        place = positions(category_id, self.categories)
        found = {}
        for group, members in self._members.items():
            own = members[place]
            _, image = np.unique(image_id[own], return_inverse=True)
            n = np.bincount(image)
            found[group] = np.bincount(image, weights=quality[own]) / n
        return found

    def _means(self, values: Float, counted: Bool) -> dict[str, float | None]:
        return {group: mean_of(values[members & counted]) for group, members in self._members.items()}
