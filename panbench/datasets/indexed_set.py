"""A panoptic set of an index: an image's record is read when it is asked for, so a large JSON need not be parsed."""

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panbench.base.addresses import path_at
from panbench.datasets.index import DatasetIndex, IndexRows, fresh_index
from panbench.panoptic.coco import png_folder
from panbench.panoptic.sources import common_folder, folders_of, sources_of
from panbench.panoptic.types import Annotation, ImageInfo, PanopticSet

__all__ = ["indexed_set"]

MOST_KEPT = 8
"""Row groups, of some 1,000 images each, that stay in memory."""


def indexed_set(path: str | os.PathLike[str], folder: Path | None) -> PanopticSet | None:
    """The set of a panoptic JSON, or of several, read from its index; None where it has no index, or an outdated one.

    Images and annotations are by ascending id. folder: as `read_panoptic_json` takes it. Raises BadDataset, also when
    an image is asked for, if the index cannot be read.
    """
    sources = sources_of(path)
    index = fresh_index(sources)
    if index is None:
        return None
    common, index.prefixes = common_folder(
        folders_of(folder, len(sources)) or [png_folder(source) for source in sources]
    )
    rows = _Rows(index)
    home = path_at(sources[0]) if len(sources) == 1 else Path(path)
    return PanopticSet(index.facts.categories, _Images(rows), _Annotations(rows), common, home)


class _Rows:
    """Images of an index by id, with their annotations."""

    def __init__(self, index: DatasetIndex) -> None:
        self.index = index
        self._kept: OrderedDict[int, IndexRows] = OrderedDict()

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        return self.index.ids()

    @cached_property
    def annotated(self) -> npt.NDArray[np.bool_]:
        return self.index.annotated()

    def row(self, image_id: object) -> int:
        """The row of an image. Raises KeyError."""
        if isinstance(image_id, (int, np.integer)):
            row = int(np.searchsorted(self.ids, image_id))
            if row < len(self.ids) and self.ids[row] == image_id:
                return row
        raise KeyError(image_id)

    def read(self, row: int) -> tuple[ImageInfo, Annotation | None]:
        """A row; the row groups that were read last are kept."""
        starts = self.index.row_starts
        group = int(np.searchsorted(starts, row, side="right")) - 1
        if group not in self._kept:
            self._kept[group] = self.index.rows(*starts[group : group + 2].tolist(), boxes=False)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(group)
        return self._kept[group].image(row - int(starts[group]))


class _Images(Mapping[int, ImageInfo]):
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    def __getitem__(self, image_id: int) -> ImageInfo:
        return self._rows.read(self._rows.row(image_id))[0]

    def __contains__(self, image_id: object) -> bool:
        with contextlib.suppress(KeyError):
            return self._rows.row(image_id) >= 0
        return False

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows.ids.tolist())

    def __len__(self) -> int:
        return len(self._rows.ids)


class _Annotations(Mapping[int, Annotation]):
    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    def __getitem__(self, image_id: int) -> Annotation:
        annotation = self._rows.read(self._rows.row(image_id))[1]
        if annotation is None:
            raise KeyError(image_id)
        return annotation

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows.ids[self._rows.annotated].tolist())

    def __len__(self) -> int:
        return int(self._rows.annotated.sum())
