"""What makes a score say little: no predicted segments, or a ground truth that is void for the most part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from panbench.base.text import listed
from panbench.metrics.matched import Matched, positions
from panbench.panoptic.types import VOID, Category

__all__ = ["AbsentFold", "void_sentence"]

Int = npt.NDArray[np.int64]

MANY = 10
"""A category with so many true segments is named where none is ever predicted."""


def void_sentence(share: float) -> str | None:
    """What a ground truth of which such a share of the pixels is void does to scores; None up to a half."""
    if share <= 0.5:
        return None
    return (
        f"{100 * share:.0f} % of the ground truth is void: predictions there are not counted; if 0 is background, give "
        "it a category"
    )


@dataclass(frozen=True)
class _Counts:
    """true, predicted: (categories,) segments; images, empty: all, and those without a prediction; void, pixels"""

    true: Int
    predicted: Int
    images: int
    empty: int
    void: int
    pixels: int


class AbsentFold:
    """Counts what is not there, of images that come block by block; a `Fold`."""

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        none = np.zeros(len(self.categories), np.int64)
        self._counts = _Counts(none, none, 0, 0, 0, 0)

    def look(self, matched: Matched) -> _Counts:
        """The counts of a block."""
        segments, overlaps = matched.segments, matched.overlaps
        category = positions(segments.category_id, self.categories)
        true, n = segments.is_gt & ~segments.iscrowd, len(self.categories)
        images = len(matched.image_ids)
        return _Counts(
            np.bincount(category[true], minlength=n),
            np.bincount(category[~segments.is_gt], minlength=n),
            images,
            images - len(np.unique(segments.image_id[~segments.is_gt])),
            int(overlaps.pixels[overlaps.gt_id == VOID].sum()),
            int(overlaps.pixels.sum()),
        )

    def add(self, part: _Counts) -> None:
        """Adds the counts of a block."""
        names = ("true", "predicted", "images", "empty", "void", "pixels")
        self._counts = _Counts(*(getattr(self._counts, name) + getattr(part, name) for name in names))

    @property
    def has_predictions(self) -> bool:
        """Whether any segment is predicted."""
        return bool(self._counts.predicted.any())

    def sentences(self, rule: str | None = None) -> tuple[str, ...]:
        """What is not predicted at all, and of how much void the truth is; rule: the fusion rule, if there was one."""
        counts = self._counts
        said = []
        if counts.images and not self.has_predictions:
            by = f"; what scores less than the thresholds of the rule {rule} is dropped" if rule else ""
            said.append(f"no segment is predicted in {counts.empty:,} of {counts.images:,} images{by}")
        else:
            never = (counts.predicted == 0) & (counts.true > 0)
            for kind, isthing in (("thing", True), ("stuff", False)):
                own = np.array([category.isthing == isthing for category in self.categories], np.bool_)
                if counts.true[own].any() and not counts.predicted[own].any():
                    said.append(f"no {kind} is predicted, of {counts.true[own].sum():,} segments in the ground truth")
                    never &= ~own
            many = np.flatnonzero(never & (counts.true >= MANY))
            if len(many):
                names = [f"{self.categories[place].name} ({counts.true[place]:,} segments)" for place in many.tolist()]
                said.append(f"never predicted: {listed(names, 5)}")
        if counts.pixels and (void := void_sentence(counts.void / counts.pixels)) is not None:
            said.append(void)
        return tuple(said)
