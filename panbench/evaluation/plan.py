"""Which images go through a model together.

The plan depends on the images, the batch size and the model alone: it is made over all images, shared out among shards,
and what is done is left out within its batch. So a resumed run and the shards of one have the same batches.
"""

from collections.abc import Hashable, Iterator, Sequence, Set

import numpy as np
import numpy.typing as npt

from panbench.models.model import Model
from panbench.panoptic.types import ImageInfo, Scene

__all__ = ["BatchPlan", "batches_of_sizes", "plan_batches"]


class BatchPlan(Sequence[list[Scene]]):
    """Some batches in their order.

    mine = plan_batches(dataset.scenes, batch_size, model).share(0, 3).without(done)
    """

    def __init__(self, batches: Sequence[list[Scene]]) -> None:
        self._batches = batches

    def share(self, number: int, of: int) -> "BatchPlan":
        """Every `of`-th batch, from `number` on, which counts from 0."""
        return BatchPlan(self._batches[number::of])

    def without(self, done: Set[int]) -> "BatchPlan":
        """The same batches without some images; batches of which nothing is left are dropped."""
        left = ([scene for scene in batch if scene.image.id not in done] for batch in self._batches)
        return BatchPlan([batch for batch in left if batch])

    @property
    def images(self) -> int:
        """How many images there are in all batches."""
        return sum(map(len, self._batches))

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, place: "int | slice") -> "list[Scene] | list[list[Scene]]":  # type: ignore[override]
        return list(self._batches[place]) if isinstance(place, slice) else self._batches[place]

    def __iter__(self) -> Iterator[list[Scene]]:
        return iter(self._batches)


def plan_batches(scenes: Sequence[Scene], batch_size: int, model: Model) -> BatchPlan:
    """All batches of at most `batch_size`, each of images that have one size in the network, zeros included."""
    sizes = np.array([(scene.image.height, scene.image.width) for scene in scenes], np.int64).reshape(-1, 2)
    places = batches_of_sizes(sizes, batch_size, model)
    return BatchPlan([[scenes[place] for place in batch.tolist()] for batch in places])


def batches_of_sizes(sizes: npt.NDArray[np.int64], batch_size: int, model: Model) -> list[npt.NDArray[np.int64]]:
    """The batches of images of these heights and widths, as places among them; sizes in order of first appearance."""
    unique, of_size = np.unique(sizes, axis=0, return_inverse=True)
    keys: list[Hashable] = [
        # Alone in its batch, no image needs to know its padding.
        model.batch_key(ImageInfo(0, "", height, width)) if batch_size > 1 else (height, width)
        for height, width in unique.tolist()
    ]
    groups: dict[Hashable, int] = {}
    group_of = np.array([groups.setdefault(key, len(groups)) for key in keys], np.int64)[of_size.reshape(-1)]
    places = [np.flatnonzero(group_of == group) for group in range(len(groups))]
    return [
        group[start : start + batch_size]
        for group in sorted((group for group in places if len(group)), key=lambda group: int(group[0]))
        for start in range(0, len(group), batch_size)
    ]
