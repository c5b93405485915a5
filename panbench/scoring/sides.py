"""The two sides that are scored, each read of its JSON, or of the JSON's index, of which a shard reads its own rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panbench.base.errors import BadArgument
from panbench.base.files import sha256_of
from panbench.datasets.index import DatasetIndex, fresh_index, share_of
from panbench.panoptic.coco import png_folder, read_annotation_columns
from panbench.panoptic.fingerprint import fingerprint_of_columns
from panbench.panoptic.types import AnnotationColumns

__all__ = ["Side", "read_sides", "shard_of"]


@dataclass(frozen=True)
class Side:
    """The ground truth or the predictions. `columns` has at least the images that are scored.

    index: where the columns were read of one; the columns are then by ascending image id
    """

    columns: AnnotationColumns
    predictions: bool
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
        return sha256_of(self.columns.path) if self.index is None else self.index.fingerprint

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
    """Ground truth and predictions. Raises BadDataset, and BadArgument for a shard that there is not.

    Large JSONs are indexed, so that the next process, and the next shard, need not parse them (datasets/index.py).
    """
    gt_index = fresh_index([gt_json], make=True)
    pred_index = fresh_index([pred_json], predictions=True, make=True)
    if gt_index is None:
        gt = Side(read_annotation_columns(gt_json, gt_dir), predictions=False)
    else:
        part = range(len(gt_index))
        if shard is not None and gt_index.facts.n_annotations == len(gt_index):
            part = _share(len(gt_index), shard)
        folder = png_folder(gt_json) if gt_dir is None else gt_dir
        gt = Side(gt_index.columns(folder, gt_json, part.start, part.stop), predictions=False, index=gt_index)
    if pred_index is None:
        return gt, Side(read_annotation_columns(pred_json, pred_dir, predictions=True), predictions=True)
    ids = gt.columns.image_ids
    rows = range(len(pred_index)) if shard is None or not ids else pred_index.between(min(ids), max(ids))
    folder = png_folder(pred_json) if pred_dir is None else pred_dir
    columns = pred_index.columns(folder, pred_json, rows.start, rows.stop)
    return gt, Side(columns, predictions=True, index=pred_index)


def shard_of(side: Side, shard: tuple[int, int] | None) -> npt.NDArray[np.int64]:
    """The rows of the columns to score, in order of image ids. Raises BadArgument for a shard that there is not."""
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
