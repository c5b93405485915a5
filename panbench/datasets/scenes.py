"""The scenes of an indexed dataset, read when they are asked for: a worker holds those of a block, never all."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from panbench.datasets.index import DatasetIndex
from panbench.panoptic.types import Exif, Scene

__all__ = ["IndexedScenes", "Rows", "in_any_order", "order_sha256", "pixels_of", "scenes_by_id"]

_ROWS_AT_ONCE = 1000

Rows = npt.NDArray[np.int64] | range
"""Numbers of rows of an index."""


class IndexedScenes(Sequence[Scene]):
    """Scenes in the order of the JSON, or in the order of `rows`. Reading is from the row groups concerned alone."""

    def __init__(
        self,
        index: DatasetIndex,
        images: Path,
        folder: Path | None,
        rows: Rows | None = None,
        exif: Exif = "apply",
    ) -> None:
        """images: the folder of images; folder: that of id PNGs, None for a list without ground truth.

        rows: numbers of rows of the index; None for all
        """
        self.dataset_index, self.images, self.folder, self.exif = index, images, folder, exif
        self._chosen = rows
        self._last: dict[int, Scene] = {}

    def __len__(self) -> int:
        return len(self.dataset_index) if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, place: int) -> Scene: ...
    @overload
    def __getitem__(self, place: slice) -> "IndexedScenes": ...

    def __getitem__(self, place: int | slice) -> "Scene | IndexedScenes":
        if isinstance(place, slice):
            return self._with(self.rows[place])
        row = int(self.rows[place])
        if row not in self._last:
            group = next(group for group in self.dataset_index.row_groups if row in group)
            self._last = dict(zip(group, self.read(group), strict=True))
        return self._last[row]

    def __iter__(self) -> Iterator[Scene]:
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield from self.read(self.rows[start : start + _ROWS_AT_ONCE])

    @functools.cached_property
    def rows(self) -> Rows:
        """The rows of the index in the order of these scenes."""
        if self._chosen is not None:
            return self._chosen
        return (
            range(len(self.dataset_index))
            if self.dataset_index.facts.in_order
            else np.argsort(self.dataset_index.places())
        )

    @property
    def is_whole(self) -> bool:
        """Whether these are all scenes of the dataset, in its order."""
        return self._chosen is None

    def by_id(self) -> "IndexedScenes":
        """The same scenes by ascending image id, which is how they lie in the index."""
        return self._with(range(len(self.dataset_index)) if self._chosen is None else np.sort(np.asarray(self._chosen)))

    def with_exif(self, exif: Exif) -> "IndexedScenes":
        """The same scenes with another treatment of EXIF orientations."""
        return IndexedScenes(self.dataset_index, self.images, self.folder, self._chosen, exif)

    def ids(self) -> npt.NDArray[np.int64]:
        """The image ids, in the order of these scenes."""
        rows = self.rows
        return (
            self.dataset_index.ids()[rows.start : rows.stop : rows.step]
            if isinstance(rows, range)
            else self.dataset_index.ids()[rows]
        )

    def sizes(self) -> npt.NDArray[np.int64]:
        """(N, 2) heights and widths."""
        rows = np.asarray(self.rows, np.int64)
        if not len(rows):
            return np.zeros((0, 2), np.int64)
        low, high = int(rows.min()), int(rows.max()) + 1
        return self.dataset_index.sizes(low, high)[rows - low]

    def read(self, rows: Rows) -> list[Scene]:
        """The scenes of some rows of the index, in that order."""
        numbers = np.asarray(rows, np.int64)
        found: list[Scene | None] = [None] * len(numbers)
        for places in self._by_group(numbers):
            start = int(numbers[places].min())
            read = self.dataset_index.rows(start, int(numbers[places].max()) + 1)
            for place in places.tolist():
                image, annotation = read.image(int(numbers[place]) - start)
                folder = None if annotation is None else self.folder
                found[place] = Scene(
                    image,
                    self.images / image.file_name,
                    annotation if folder else None,
                    folder / annotation.file_name if folder and annotation else None,
                    self.exif,
                )
        return [scene for scene in found if scene is not None]

    def paths(self, share: range | None = None) -> Iterator[tuple[str, str | None]]:
        """The paths of the image and of the id PNG of each scene, by ascending image id.

        share: only scenes with these places among them
        """
        ordered = self.by_id().rows
        numbers = np.asarray(ordered if share is None else ordered[share.start : share.stop], np.int64)
        for places in self._by_group(numbers):
            start = int(numbers[places[0]])
            names = list(self.dataset_index.names(start, int(numbers[places[-1]]) + 1))
            for row in (numbers[places] - start).tolist():
                image, png = names[row]
                gt = None if png is None or self.folder is None else os.path.join(self.folder, png)
                yield os.path.join(self.images, image), gt

    def _by_group(self, numbers: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
        """For each row group that has some of the rows, their places among `numbers`."""
        of_group = np.searchsorted(self.dataset_index.row_starts, numbers, side="right") - 1
        for group in np.unique(of_group).tolist():
            yield np.flatnonzero(of_group == group)

    def _with(self, rows: Rows) -> "IndexedScenes":
        return IndexedScenes(self.dataset_index, self.images, self.folder, rows, self.exif)


def in_any_order(scenes: Sequence[Scene]) -> Iterable[Scene]:
    """The scenes in the order in which they are read fastest."""
    return scenes.by_id() if isinstance(scenes, IndexedScenes) else scenes


def order_sha256(scenes: Sequence[Scene]) -> str:
    """The SHA-256 of the image ids in their order, by which a resumed run knows its images."""
    if isinstance(scenes, IndexedScenes):
        if scenes.is_whole:
            return scenes.dataset_index.facts.order_sha256
        ids = scenes.ids().tolist()
    else:
        ids = [scene.image.id for scene in scenes]
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def pixels_of(scenes: Sequence[Scene]) -> int:
    """The pixels of all images."""
    if isinstance(scenes, IndexedScenes):
        return int(scenes.sizes().prod(axis=1).sum())
    return sum(scene.image.height * scene.image.width for scene in scenes)


def scenes_by_id(scenes: Sequence[Scene], image_ids: Iterable[int]) -> dict[int, Scene]:
    """Some scenes by their image ids; ids that there are not are left out."""
    wanted = set(image_ids)
    if not isinstance(scenes, IndexedScenes):
        return {scene.image.id: scene for scene in scenes if scene.image.id in wanted}
    rows = [row for image_id in sorted(wanted) for row in scenes.dataset_index.between(image_id, image_id)]
    return {scene.image.id: scene for scene in scenes.read(np.array(rows, np.int64))}
