"""Warnings on scores that mean little: no predicted segments, or a ground truth that is mostly void."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panbench.base.text import listed
from panbench.metrics.matched import Matched, positions
from panbench.panoptic.types import VOID, Category

Int = npt.NDArray[np.int64]

MANY = 10
"""A category that is never predicted is reported if it has at least this many true segments."""


def void_warning(share: float) -> str | None:
    """Returns a warning if more than half of the ground-truth pixels are void, else None.

    share: void pixels per pixel
    """
    if share <= 0.5:
        return None
    return (
        f"{100 * share:.0f} % of the ground truth is void: predictions there are not counted; if 0 is background, give "
        "it a category"
    )


@dataclass(frozen=True)
class _SegmentCounts:
    """Numbers of segments, images and pixels, added up over images.

    true, predicted: (categories,) segments
    images, empty: all images, and those without a predicted segment
    void, pixels: pixels without ground truth, and all pixels
    """

    true: Int
    predicted: Int
    images: int
    empty: int
    void: int
    pixels: int


class AbsentAccumulator:
    """Finds categories and images without predictions, and counts void, from one chunk of images at a time."""

    def __init__(self, categories: Sequence[Category]) -> None:
        """Starts with no segment counted in any category."""
        self.categories = tuple(categories)
        none = np.zeros(len(self.categories), np.int64)
        self._counts = _SegmentCounts(none, none, 0, 0, 0, 0)

    def map_chunk(self, matched: Matched) -> _SegmentCounts:
        """Counts true and predicted segments, images without predictions, and void pixels in a chunk of images."""
        segments, overlaps = matched.segments, matched.overlaps
        category = positions(segments.category_id, self.categories)
        true, n = segments.is_gt & ~segments.iscrowd, len(self.categories)
        images = len(matched.image_ids)
        return _SegmentCounts(
            np.bincount(category[true], minlength=n),
            np.bincount(category[~segments.is_gt], minlength=n),
            images,
            images - len(np.unique(segments.image_id[~segments.is_gt])),
            int(overlaps.pixels[overlaps.gt_id == VOID].sum()),
            int(overlaps.pixels.sum()),
        )

    def add(self, part: _SegmentCounts) -> None:
        """Adds a chunk's numbers of segments, images without predictions, and void pixels to the totals."""
        names = ("true", "predicted", "images", "empty", "void", "pixels")
        self._counts = _SegmentCounts(*(getattr(self._counts, name) + getattr(part, name) for name in names))

    @property
    def has_predictions(self) -> bool:
        """True if the model predicts at least one segment in any image."""
        return bool(self._counts.predicted.any())

    def messages(self, dropped: str = "") -> tuple[str, ...]:
        """Returns warnings on categories or images without predictions, and on a mostly void ground truth.

        dropped: what the fusion rule dropped, in words, for the warning that an image has no prediction
        """
        counts = self._counts
        found = []
        if counts.images and not self.has_predictions:
            by = f"; {dropped}" if dropped else ""
            found.append(f"no segment is predicted in {counts.empty:,} of {counts.images:,} images{by}")
        else:
            never = (counts.predicted == 0) & (counts.true > 0)
            for kind, isthing in (("thing", True), ("stuff", False)):
                own = np.array([category.isthing == isthing for category in self.categories], np.bool_)
                if counts.true[own].any() and not counts.predicted[own].any():
                    found.append(f"no {kind} is predicted, of {counts.true[own].sum():,} segments in the ground truth")
                    never &= ~own
            many = np.flatnonzero(never & (counts.true >= MANY))
            if len(many):
                names = [f"{self.categories[index].name} ({counts.true[index]:,} segments)" for index in many.tolist()]
                found.append(f"never predicted: {listed(names, 5)}")
        if counts.pixels and (void := void_warning(counts.void / counts.pixels)) is not None:
            found.append(void)
        return tuple(found)
