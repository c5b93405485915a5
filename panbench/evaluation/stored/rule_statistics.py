"""Computes the statistics of fusion rules on stored outputs, for each image, chunk by chunk.

Each output is read once. Rules that differ only in thresholds of their second step (`overlap` of MaskFormer and
Mask2Former) share the first step, which takes nearly all of the time.
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
from panbench.base.program import default_threads
from panbench.base.reporter import SILENT, Reporter
from panbench.evaluation.stored.tuning import merge_statistics
from panbench.metrics.matched import Matched
from panbench.metrics.slices import ImageStatistics, image_statistics
from panbench.models.candidates import Candidates, Instances
from panbench.models.devices import one_thread
from panbench.models.labels import CategoryIds
from panbench.models.predict import prediction_of
from panbench.models.rules import Rule, SegmentedMap
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import Category, IdMap, Scene, Segment

IMAGES_A_CHUNK = 50
"""Images per cached chunk of statistics: the most that are lost if the process is killed."""


@dataclass(frozen=True)
class ChunkCache:
    """A folder with the statistics of finished chunks of images, to resume after an interruption.

    of: text that identifies the inputs (run, data); differs if the statistics would
    """

    folder: Path
    of: str

    def chunk_file(self, names: Sequence[str], image_ids: Sequence[int]) -> Path:
        """Returns the path of the cache file for these images and fusion rules."""
        key = hashlib.sha256(json.dumps([self.of, list(names), list(image_ids)]).encode()).hexdigest()
        return self.folder / f"{key[:20]}.parquet"

    def clear(self) -> None:
        """Deletes all files of the cache and its folder; call it once the complete result is stored elsewhere."""
        for chunk in self.folder.glob("*.parquet"):
            chunk.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()


SECOND_STEP = ("overlap",)
"""Thresholds that only `to_segments` uses, in rules with competing masks."""


class Readable(Protocol):
    """A source of stored network outputs: of one network, or of several."""

    def read(self, image_id: int) -> Candidates | Instances:
        """Returns the stored output for an image."""
        ...


def rule_statistics(
    stored: Readable,
    scenes: Sequence[Scene],
    categories: Sequence[Category],
    category_ids: CategoryIds,
    rules: Sequence[Rule],
    *,
    workers: int | None = None,
    cache: ChunkCache | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, ImageStatistics]:
    """Computes each rule's statistics (TP, FP, FN, IoU by image and category); keys are the rules' texts.

    scenes: images with ground truth and stored outputs; category_ids: of each label of the model
    cache: the folder of finished chunks, read and written
    Raises BadArgument for a rule that does not fit the stored outputs.
    """
    rules = list(dict.fromkeys(rules))
    groups: dict[Any, list[Rule]] = {}
    for rule in rules:
        first_step = {
            field.name: getattr(rule, field.name) for field in dataclasses.fields(rule) if field.name not in SECOND_STEP
        }
        groups.setdefault((type(rule), *first_step.items()), []).append(rule)

    def tables_by_rule(scene: Scene) -> list[tuple[str, OverlapTable]]:
        """Returns an image's overlap table under each rule; the names are the rules' texts."""
        output, truth = stored.read(scene.image.id), ground_truth_of(scene)
        found = []
        for alike in groups.values():
            if not isinstance(output, alike[0].takes):
                raise BadArgument(f"The rule {alike[0].name} does not fit what this model gave.")
            with torch.inference_mode():
                fused = alike[0].fuse(dataclasses.replace(output)).to_host()
            for rule in alike:
                found.append((str(rule), overlap_table_of(scene, truth, rule.to_segments(fused), category_ids)))
        return found

    names = [str(rule) for rule in rules]
    return chunk_statistics(scenes, names, tables_by_rule, categories, "Fusing", workers, cache, reporter)


def chunk_statistics(
    scenes: Sequence[Scene],
    names: Sequence[str],
    tables: Callable[[Scene], Iterable[tuple[str, OverlapTable]]],
    categories: Sequence[Category],
    task: str,
    workers: int | None,
    cache: ChunkCache | None,
    reporter: Reporter,
) -> dict[str, ImageStatistics]:
    """Computes TP, FP, FN and IoU by image and category for several fusion rules, 50 images at a time.

    So memory holds only a few rows per image.
    names: of the rules, or of other things to compare
    tables: returns the overlap tables of an image by name; it is called in threads
    """
    parts: dict[str, list[ImageStatistics]] = {name: [] for name in names}

    def count_chunk(start: int, of_chunk: Sequence[Scene]) -> dict[str, ImageStatistics]:
        """Computes the TP, FP, FN and IoU of up to 50 images for each compared fusion rule.

        From the images' overlap tables.
        """
        chunk: dict[str, list[OverlapTable]] = {name: [] for name in names}
        for done, by_name in enumerate(pool.map(tables, of_chunk), start + 1):
            for name, table in by_name:
                chunk[name].append(table)
            reporter.progress(task, done, len(scenes), "images")
        return {
            name: image_statistics(Matched.of(concat(chunk[name]).in_order_of_images()), categories) for name in names
        }

    # Each of our threads works on a separate image: torch's threads on top would only contend.
    with one_thread(), ThreadPoolExecutor(workers or default_threads(), "fuse") as pool:
        for start in range(0, len(scenes), IMAGES_A_CHUNK):
            of_chunk = scenes[start : start + IMAGES_A_CHUNK]
            file = None if cache is None else cache.chunk_file(names, [scene.image.id for scene in of_chunk])
            found = None if file is None else _read_chunk(file, names, of_chunk, categories)
            if found is None:
                found = count_chunk(start, of_chunk)
                if file is not None:
                    _write_chunk(file, found)
            reporter.progress(task, start + len(of_chunk), len(scenes), "images")
            for name in names:
                parts[name].append(found[name])
    return {name: merge_statistics(of_name) for name, of_name in parts.items()}


def _write_chunk(file: Path, found: Mapping[str, ImageStatistics]) -> None:
    """Caches a chunk's TP, FP, FN and IoU by image, under each rule's name, in one Parquet file."""
    table = pd.concat([one.table.assign(place=number) for number, one in enumerate(found.values())], ignore_index=True)
    with atomic_write(file) as handle:
        table.drop(columns="slice").to_parquet(handle, index=False)


def _read_chunk(
    file: Path, names: Sequence[str], scenes: Sequence[Scene], categories: Sequence[Category]
) -> dict[str, ImageStatistics] | None:
    """Reads the TP, FP, FN and IoU of some images from a cache file; None if it is missing or unreadable."""
    ids = np.sort(np.array([scene.image.id for scene in scenes], np.int64))
    try:
        table = pd.read_parquet(file)
        return {
            name: ImageStatistics.from_frame(ids, table[table["place"] == number], categories)
            for number, name in enumerate(names)
        }
    except (OSError, ValueError, KeyError):
        return None


def overlap_table_of(
    scene: Scene, truth: tuple[IdMap, Sequence[Segment]], fused: SegmentedMap, category_ids: CategoryIds
) -> OverlapTable:
    """Counts an image's overlap table of a fused map and the ground truth.

    truth: from `ground_truth_of`; category_ids: of each model label
    """
    prediction = prediction_of(scene.image.id, fused, category_ids)
    return overlap_table(scene.image.id, *truth, prediction.ids, prediction.segments)


def ground_truth_of(scene: Scene) -> tuple[IdMap, Sequence[Segment]]:
    """Reads the ground truth's id map and segments. Raises BadArgument if there is none."""
    if scene.gt_path is None or scene.annotation is None:
        raise BadArgument(f"Image {scene.image.id} has no ground truth: there is nothing to tune on.")
    shape = (scene.image.height, scene.image.width)
    return read_id_png(scene.gt_path, shape, image_id=scene.image.id), scene.annotation.segments
