"""Slices defined by the user: sets of images, such as those of a camera, of the night, or of a site.

PQ of a set of images is a quotient of sums over them, so such a slice has everything that PQ has: intervals, tests,
causes of loss. Sets may overlap and need not cover all images.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.metrics.slices import ImageStatistics

__all__ = ["ImageSlices", "slice_by_images"]


@dataclass(frozen=True)
class ImageSlices:
    """A grouping of a dataset's images: the ids of each slice, in the order of tables.

    name: what the slices are of ("camera", "night"), as tables head them
    """

    name: str
    images: Mapping[str, frozenset[int]] = field(default_factory=lambda: MappingProxyType({}))

    def check(self, known: Collection[int]) -> None:
        """Raises BadArgument when a slice names an image that is not among the known ones, or holds none at all."""
        everyone = frozenset(known)
        for name, images in self.images.items():
            unknown = sorted(images - everyone)
            if unknown:
                raise BadArgument(
                    f"The slice {name!r} of {self.name} names images that were not scored: {listed(unknown)}. "
                    "Name images of the runs only."
                )
        empty = [name for name, images in self.images.items() if not images]
        if empty or not self.images:
            raise BadArgument(f"{self.name} has {'slices without' if empty else 'no'} images: {listed(empty)}.")

    def of_images(self, images: Iterable[int]) -> "ImageSlices":
        """The same slices, of some images only; slices that lose all are left out."""
        kept = frozenset(images)
        cut = {name: own & kept for name, own in self.images.items()}
        return ImageSlices(self.name, MappingProxyType({name: own for name, own in cut.items() if own}))


def slice_by_images(statistics: ImageStatistics, slices: ImageSlices) -> ImageStatistics:
    """The statistics of a run by slices of images: an image counts in every slice that contains it.

    statistics: unsliced. Images in no slice stay in `image_ids` and have no row.
    """
    if statistics.slices:
        raise BadArgument(f"Statistics that are sliced by {statistics.by} cannot be cut by {slices.name}, too.")
    rows: list[npt.NDArray[np.int64]] = []
    places: list[npt.NDArray[np.int64]] = []
    for place, images in enumerate(slices.images.values()):
        own = np.flatnonzero(np.isin(statistics.image_id, np.fromiter(images, np.int64, len(images))))
        rows.append(own)
        places.append(np.full(len(own), place, np.int64))
    chosen = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return replace(
        statistics,
        image_id=statistics.image_id[chosen],
        slice=np.concatenate(places) if places else np.zeros(0, np.int64),
        category_id=statistics.category_id[chosen],
        sums=statistics.sums.take(chosen),
        slices=tuple(slices.images),
        by=slices.name,
    )
