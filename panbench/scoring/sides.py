"""The two sides that are scored, each read of its JSON, or of the JSON's index, of which a shard reads its own rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.base.files import sha256_of
from panbench.datasets.index import DatasetIndex, index_of, share_of
from panbench.panoptic.coco import png_folder, read_annotation_columns
from panbench.panoptic.fingerprint import fingerprint_of_columns
from panbench.panoptic.sources import absolute_text, folders_of, joined_text, sources_of
from panbench.panoptic.types import AnnotationColumns

__all__ = ["Side", "read_sides", "shard_of"]


@dataclass(frozen=True)
class Side:
    """The ground truth or the predictions. `columns` has at least the images that are scored.

    sources: the JSON or JSONs; folders: the folder of id PNGs of each
    index: where the columns were read of one; the columns are then by ascending image id
    """

    columns: AnnotationColumns
    predictions: bool
    sources: Sequence[Path]
    folders: Sequence[Path]
    index: DatasetIndex | None = None

    @property
    def n_images(self) -> int:
        """How many images the whole JSON annotates."""
        return len(self.columns) if self.index is None else self.index.facts.n_annotations

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """The ids of all images that the JSON annotates."""
        if self.index is None:
            return np.array(self.columns.image_ids, np.int64)
        ids = self.index.ids()
        return ids if self.n_images == len(self.index) else ids[self.index.annotated()]

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the JSON."""
        return sha256_of(self.sources[0]) if self.index is None else self.index.fingerprint

    @property
    def json(self) -> str:
        """The absolute path of the JSON, or what stands for several."""
        return absolute_text(self.columns.path)

    @property
    def folder(self) -> str:
        """The absolute path of the folder of id PNGs, or what stands for several."""
        return joined_text(folder.absolute() for folder in self.folders)

    @property
    def rows(self) -> str:
        """The fingerprint of all rows, whatever file they came from."""
        if self.index is None:
            return fingerprint_of_columns(self.columns, predictions=self.predictions)
        return self.index.facts.rows

    @property
    def has_scores(self) -> bool:
        """Whether any segment has a score."""
        return bool(np.isfinite(self.columns.score).any()) if self.index is None else self.index.facts.has_scores

    @property
    def same_png(self) -> Sequence[tuple[int, ...]]:
        """The images that share an id PNG."""
        return self.columns.same_png if self.index is None else self.index.facts.same_png

    def has_images_of(self, other: "Side") -> bool:
        """Whether both annotate the same images, as far as it is known without a look at each; False if not known."""
        if self.index is None or other.index is None or self.n_images != len(self.index):
            return False
        return self.index.facts.ids_sha256 == other.index.facts.ids_sha256


def read_sides(
    gt_json: Path,
    pred_json: Path,
    gt_dir: Path | None = None,
    pred_dir: Path | None = None,
    shard: tuple[int, int] | None = None,
) -> tuple[Side, Side]:
    """Ground truth and predictions. Raises BadDataset, and BadArgument for an unknown shard.

    Each may be several JSONs (panoptic/sources.py).
    Large JSONs are indexed, so that the next process, and the next shard, need not parse them (datasets/index.py).
    """
    gt = _read(gt_json, gt_dir, False, shard, None)
    return gt, _read(pred_json, pred_dir, True, shard, gt.columns.image_ids)


def _read(
    path: Path, folder: Path | None, predictions: bool, shard: tuple[int, int] | None, only: Sequence[int] | None
) -> Side:
    """A side of its index, or of its JSON. only: of a shard, the images of the other side"""
    sources = sources_of(path)
    folders = folders_of(folder, len(sources)) or [png_folder(source) for source in sources]
    found = index_of(sources, folder, predictions=predictions)
    if found is None:
        columns = read_annotation_columns(sources[0], folder, predictions=predictions)
        return Side(columns, predictions, sources, folders)
    index, common = found
    part = range(len(index))
    if shard is not None and only:
        part = index.between(min(only), max(only))
    elif shard is not None and only is None and index.facts.n_annotations == len(index):
        part = _share(len(index), shard)
    named = sources[0] if len(sources) == 1 else path
    return Side(index.columns(common, named, part.start, part.stop), predictions, sources, folders, index)


def shard_of(side: Side, shard: tuple[int, int] | None) -> npt.NDArray[np.int64]:
    """The rows of the columns to score, in order of image ids. Raises BadArgument for an unknown shard."""
    # By image id: the parts of a run then follow each other, and so do shards.
    rows = np.argsort(np.array(side.columns.image_ids, np.int64), kind="stable")
    if shard is None or len(side.columns) < side.n_images:
        return rows
    part = _share(len(rows), shard)
    return rows[part.start : part.stop]


def _share(count: int, shard: tuple[int, int]) -> range:
    number, shards = shard
    if not 1 <= number <= shards:
        raise BadArgument(f"There is no shard {number} of {shards}. Shards are numbered from 1 to {shards}.")
    share = share_of(count, number, shards)
    if not len(share):
        raise BadArgument(f"Shard {number} of {shards} has no image: there are {count}. Use fewer shards.")
    return share
