"""Which images go through a model together, and which rank takes them.

The plan depends on the images, the batch size and the model alone, so a resumed run, a run on more machines and one on
an index have the same batches. A large set is planned in blocks of PLAN_IMAGES by ascending image id: then a rank, or a
task, knows its batches from the sizes of its own blocks.
"""

import functools
from collections.abc import Hashable, Iterator, Sequence, Set
from itertools import islice

import numpy as np
import numpy.typing as npt

from panbench.datasets.scenes import IndexedScenes
from panbench.models.model import Model
from panbench.panoptic.types import ImageInfo, Scene

__all__ = ["PLAN_IMAGES", "BatchPlan", "batches_of_sizes", "plan_batches"]

PLAN_IMAGES = 5000
"""Sets of more images are planned in blocks of so many: COCO's val2017 is one block."""

IMAGES_AT_ONCE = 500
"""So many scenes are in memory at a time. The row groups of a block are read again for each such part."""


class BatchPlan(Sequence[list[Scene]]):
    """The batches of some or all scenes. Those of an indexed set are read block by block while they are iterated over.

    mine = BatchPlan(dataset.scenes, batch_size, model).share(rank, ranks).without(done)
    """

    def __init__(self, scenes: Sequence[Scene], batch_size: int, model: Model) -> None:
        self._batch_size, self._model = batch_size, model
        self._scenes = _in_plan_order(scenes)
        self._done: Set[int] = frozenset()
        n = len(self._scenes)
        self._blocks = [range(start, min(start + PLAN_IMAGES, n)) for start in range(0, n, PLAN_IMAGES)]
        self._cut: tuple[int, int] | None = None
        self._every = (0, 1)

    def share(self, rank: int, of: int) -> "BatchPlan":
        """The batches of a rank: of a small set every `of`-th, of an indexed set neighbours, which it reads alone."""
        plan = self._copy()
        if isinstance(self._scenes, IndexedScenes):
            plan._cut = (rank, of)
        else:
            plan._every = (rank, of)
        return plan

    @property
    def is_read_by_share(self) -> bool:
        """Whether a share reads its own rows alone: the set is indexed."""
        return isinstance(self._scenes, IndexedScenes)

    def without(self, done: Set[int]) -> "BatchPlan":
        """The same batches without some images; batches of which nothing is left are dropped."""
        plan = self._copy()
        plan._done = done
        return plan

    @property
    def images(self) -> int:
        """How many images there are in all batches."""
        return self._counts[1]

    def __len__(self) -> int:
        return self._counts[0]

    @functools.cached_property
    def _counts(self) -> tuple[int, int]:
        """How many batches there are, and how many images in them; no scene is read for it."""
        sizes = [(len(batches), sum(map(len, batches))) for _, batches in self._of_blocks()]
        return sum(batches for batches, _ in sizes), sum(images for _, images in sizes)

    def __getitem__(self, place: "int | slice") -> "list[Scene] | list[list[Scene]]":  # type: ignore[override]
        if isinstance(place, slice):
            return list(self)[place]
        return next(islice(iter(self), range(len(self))[place], None))

    def __iter__(self) -> Iterator[list[Scene]]:
        for block, batches in self._of_blocks():
            for some in _of_images(batches, IMAGES_AT_ONCE):
                scenes = self._read(block, some)
                for batch in some:
                    yield [scenes[place] for place in batch.tolist()]

    def _read(self, block: range, batches: Sequence[npt.NDArray[np.int64]]) -> dict[int, Scene]:
        """The scenes of a block that are in batches, by their places in it."""
        wanted = np.sort(np.concatenate([np.zeros(0, np.int64), *batches]))
        if isinstance(self._scenes, IndexedScenes):
            rows = np.asarray(self._scenes.rows[block.start : block.stop], np.int64)[wanted]
            return dict(zip(wanted.tolist(), self._scenes.read(rows), strict=True))
        return {place: self._scenes[block.start + place] for place in wanted.tolist()}

    def _of_blocks(self) -> Iterator[tuple[range, list[npt.NDArray[np.int64]]]]:
        """Each block of this share with its batches: places of scenes in the block."""
        number = 0
        for block, start, stop in self._spans():
            batches = self._batches(block)
            batches = batches[len(batches) * start[0] // start[1] : len(batches) * stop[0] // stop[1]]
            rank, of = self._every
            chosen = [batch for place, batch in enumerate(batches, start=number) if place % of == rank]
            number += len(batches)
            yield block, self._left(block, chosen)

    def _spans(self) -> Iterator[tuple[range, tuple[int, int], tuple[int, int]]]:
        """Each block of this share, and which part of its batches is in the share, as two fractions."""
        if self._cut is None:
            yield from ((block, (0, 1), (1, 1)) for block in self._blocks)
            return
        rank, of = self._cut
        first, begins = divmod(rank * len(self._blocks), of)
        last, ends = divmod((rank + 1) * len(self._blocks), of)
        for number in range(first, last + (ends > 0)):
            start = (begins, of) if number == first else (0, 1)
            stop = (ends, of) if number == last else (1, 1)
            yield self._blocks[number], start, stop

    def _batches(self, block: range) -> list[npt.NDArray[np.int64]]:
        chosen = self._scenes[block.start : block.stop]
        if isinstance(chosen, IndexedScenes):
            sizes = chosen.sizes()
        else:
            sizes = np.array([(scene.image.height, scene.image.width) for scene in chosen], np.int64).reshape(-1, 2)
        return batches_of_sizes(sizes, self._batch_size, self._model)

    def _left(self, block: range, batches: list[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
        if not self._done:
            return batches
        chosen = self._scenes[block.start : block.stop]
        ids = chosen.ids().tolist() if isinstance(chosen, IndexedScenes) else [scene.image.id for scene in chosen]
        undone = np.array([image_id not in self._done for image_id in ids], np.bool_)
        return [left for batch in batches if len(left := batch[undone[batch]])]

    def _copy(self) -> "BatchPlan":
        plan = object.__new__(BatchPlan)
        plan.__dict__.update({name: value for name, value in self.__dict__.items() if name != "_counts"})
        return plan


def _of_images(batches: Sequence[npt.NDArray[np.int64]], images: int) -> Iterator[list[npt.NDArray[np.int64]]]:
    """The batches in their order, in lists of so many images, but of whole batches."""
    some: list[npt.NDArray[np.int64]] = []
    held = 0
    for batch in batches:
        some.append(batch)
        held += len(batch)
        if held >= images:
            yield some
            some, held = [], 0
    if some:
        yield some


def plan_batches(scenes: Sequence[Scene], batch_size: int, model: Model) -> list[list[Scene]]:
    """All batches of at most `batch_size`, each of images that have one size in the network, zeros included."""
    return list(BatchPlan(scenes, batch_size, model))


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


def _in_plan_order(scenes: Sequence[Scene]) -> Sequence[Scene]:
    """The order of the JSON; of a set of several blocks that of image ids, in which an index is read."""
    if len(scenes) <= PLAN_IMAGES:
        return scenes
    if isinstance(scenes, IndexedScenes):
        return scenes.by_id()
    return sorted(scenes, key=lambda scene: scene.image.id)
