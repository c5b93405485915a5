"""What fusion rules make of stored outputs: the statistics of each rule in each image, block by block.

Each output is read once. Rules that differ only in thresholds of their second step (`overlap` of MaskFormer's and
Mask2Former's) share the first, which costs nearly all of the time.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from panbench.base.errors import BadArgument
from panbench.base.files import atomic_write
from panbench.base.reporter import SILENT, Reporter
from panbench.base.threads import default_threads
from panbench.evaluation.kept.tuning import joined
from panbench.metrics.matched import Matched
from panbench.metrics.slices import ImageStatistics, image_statistics
from panbench.models.candidates import Candidates, Instances
from panbench.models.devices import one_thread
from panbench.models.labels import CategoryIds
from panbench.models.rules import Rule, SettledMap
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import Category, IdMap, Scene, Segment

__all__ = ["Kept", "Readable", "block_statistics", "map_table", "rule_statistics", "truth_of"]

IMAGES_A_BLOCK = 50
"""Images whose statistics are kept at a time: what a kill can cost."""


@dataclass(frozen=True)
class Kept:
    """A folder of finished blocks of images, so that killed work can be resumed.

    of: what the statistics are of, in words that differ when they would: the run, the data
    """

    folder: Path
    of: str

    def path(self, names: Sequence[str], image_ids: Sequence[int]) -> Path:
        """The file of a block."""
        key = hashlib.sha256(json.dumps([self.of, list(names), list(image_ids)]).encode()).hexdigest()
        return self.folder / f"{key[:20]}.parquet"

    def clear(self) -> None:
        """Removes the blocks: what they were for is written."""
        for block in self.folder.glob("*.parquet"):
            block.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


SECOND_STEP = ("overlap",)
"""Thresholds that `settle` alone looks at, in the rules whose masks compete."""


class Readable(Protocol):
    """What holds the answers of a network, or of several, by image."""

    def read(self, image_id: int) -> Candidates | Instances:
        """The stored output for an image."""
        ...


def rule_statistics(
    stored: Readable,
    scenes: Sequence[Scene],
    categories: Sequence[Category],
    category_ids: CategoryIds,
    rules: Sequence[Rule],
    *,
    workers: int | None = None,
    kept: Kept | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, ImageStatistics]:
    """What each rule adds to each category in each image: all that PQ of any set of images needs. By the rule's text.

    scenes: images with ground truth that are stored; category_ids: of each label of the model
    kept: where finished blocks are found and left
    Raises BadArgument for a rule that does not fit what is stored.
    """
    rules = list(dict.fromkeys(rules))
    groups: dict[Any, list[Rule]] = {}
    for rule in rules:
        first_step = {
            field.name: getattr(rule, field.name) for field in dataclasses.fields(rule) if field.name not in SECOND_STEP
        }
        groups.setdefault((type(rule), *first_step.items()), []).append(rule)

    def tables(scene: Scene) -> list[tuple[str, OverlapTable]]:
        output, truth = stored.read(scene.image.id), truth_of(scene)
        found = []
        for alike in groups.values():
            if not isinstance(output, alike[0].takes):
                raise BadArgument(f"The rule {alike[0].name} does not fit what this model gave.")
            with torch.inference_mode():
                fused = alike[0].fuse(dataclasses.replace(output)).to_host()
            for rule in alike:
                ids, segments = rule.settle(fused)
                found.append((str(rule), map_table(scene, truth, (ids, segments), category_ids)))
        return found

    names = [str(rule) for rule in rules]
    return block_statistics(scenes, names, tables, categories, "Fusing", workers, kept, reporter)


def block_statistics(
    scenes: Sequence[Scene],
    names: Sequence[str],
    tables: Callable[[Scene], Iterable[tuple[str, OverlapTable]]],
    categories: Sequence[Category],
    task: str,
    workers: int | None,
    kept: Kept | None,
    reporter: Reporter,
) -> dict[str, ImageStatistics]:
    """The statistics of each name, block by block: only a few rows of every image stay in memory.

    tables: the overlap tables of an image by name; it is called in threads
    """
    parts: dict[str, list[ImageStatistics]] = {name: [] for name in names}

    def counted(start: int, of_block: Sequence[Scene]) -> dict[str, ImageStatistics]:
        block: dict[str, list[OverlapTable]] = {name: [] for name in names}
        for done, by_name in enumerate(pool.map(tables, of_block), start + 1):
            for name, table in by_name:
                block[name].append(table)
            reporter.progress(task, done, len(scenes), "images")
        return {
            name: image_statistics(Matched.of(concat(block[name]).in_order_of_images()), categories) for name in names
        }

    # Each thread of ours has an image of its own: torch's threads on top would only contend.
    with one_thread(), ThreadPoolExecutor(workers or default_threads(), "fuse") as pool:
        for start in range(0, len(scenes), IMAGES_A_BLOCK):
            of_block = scenes[start : start + IMAGES_A_BLOCK]
            place = None if kept is None else kept.path(names, [scene.image.id for scene in of_block])
            found = None if place is None else _read_block(place, names, of_block, categories)
            if found is None:
                found = counted(start, of_block)
                if place is not None:
                    _write_block(place, found)
            reporter.progress(task, start + len(of_block), len(scenes), "images")
            for name in names:
                parts[name].append(found[name])
    return {name: joined(of_name) for name, of_name in parts.items()}


def _write_block(place: Path, found: Mapping[str, ImageStatistics]) -> None:
    table = pd.concat([one.table.assign(place=number) for number, one in enumerate(found.values())], ignore_index=True)
    with atomic_write(place) as handle:
        table.drop(columns="slice").to_parquet(handle, index=False)


def _read_block(
    place: Path, names: Sequence[str], scenes: Sequence[Scene], categories: Sequence[Category]
) -> dict[str, ImageStatistics] | None:
    """The statistics that an earlier call left; None when it did not, or they cannot be read."""
    ids = np.sort(np.array([scene.image.id for scene in scenes], np.int64))
    try:
        table = pd.read_parquet(place)
        return {
            name: ImageStatistics.from_frame(ids, table[table["place"] == number], categories)
            for number, name in enumerate(names)
        }
    except (OSError, ValueError, KeyError):
        return None


def map_table(
    scene: Scene, truth: tuple[IdMap, Sequence[Segment]], fused: SettledMap, category_ids: CategoryIds
) -> OverlapTable:
    """The overlap table of one image. truth: of `truth_of`; category_ids: of each label of the model."""
    ids, labelled = fused
    segments = [Segment(one.id, category_ids[one.label], one.area, score=one.score) for one in labelled]
    return overlap_table(scene.image.id, *truth, ids, segments)


def truth_of(scene: Scene) -> tuple[IdMap, Sequence[Segment]]:
    """The id map and the segments of the ground truth. Raises BadArgument without ground truth."""
    if scene.gt_path is None or scene.annotation is None:
        raise BadArgument(f"Image {scene.image.id} has no ground truth: there is nothing to tune on.")
    shape = (scene.image.height, scene.image.width)
    return read_id_png(scene.gt_path, shape, image_id=scene.image.id), scene.annotation.segments
