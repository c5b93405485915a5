"""Scoring over the workers of an engine: each looks at the PNGs of its tasks; the process that asks writes the run.

A task carries the annotations of its images, so a worker reads no JSON.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from panbench.base.engines import Needs, Spread, TaskQueue, cut
from panbench.base.reporter import Reporter
from panbench.panoptic import pixels
from panbench.panoptic.types import AnnotationColumns
from panbench.scoring.counting import Counted, CountedBlock, Counter, Counting, CountSettings, in_order
from panbench.scoring.pairing import Paired, Plan

__all__ = ["ScoreTask", "ScoreWorker", "spread_counting"]


@dataclass(frozen=True)
class Block:
    """An answer: what was found in some images."""

    images: frozenset[int]
    found: CountedBlock


@dataclass(frozen=True)
class ScoreTask(Paired):
    """Some images with their annotations on both sides."""

    gt: AnnotationColumns
    pred: AnnotationColumns
    pred_row: list[int]

    def __str__(self) -> str:
        ids = self.gt.image_ids
        return f"the {len(ids):,} images from {ids[0]} to {ids[-1]}" if len(ids) > 1 else f"image {ids[0]}"

    def rest(self, answer: Block) -> "ScoreTask | None":
        """The images that are not answered yet."""
        left = [row for row, image_id in enumerate(self.gt.image_ids) if image_id not in answer.images]
        return task_of(self, left) if left else None


def task_of(paired: Paired, rows: Sequence[int]) -> ScoreTask:
    """The images of some rows of the ground truth, and what was predicted for them."""
    predicted = [paired.pred_row[row] for row in rows]
    kept = [row for row in predicted if row >= 0]
    place = {row: number for number, row in enumerate(kept)}
    gt, pred = paired.gt.only(rows), paired.pred.only(kept)
    folders = (side.folder.absolute() for side in (gt, pred))
    gt, pred = (replace(side, folder=folder) for side, folder in zip((gt, pred), folders, strict=True))
    return ScoreTask(gt, pred, [place.get(row, -1) for row in predicted])


class ScoreWorker:
    """Looks at PNGs."""

    def __init__(self, settings: CountSettings, block_images: int) -> None:
        """settings: how many threads there are is the engine's to say"""
        threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        self._settings, self._block_images = replace(settings, threads=threads), block_images

    def run(self, task: ScoreTask) -> Iterator[Block]:
        """What was found, in blocks."""
        settings, rows = self._settings, range(len(task.gt))
        counter = Counter(task, settings.boundary, settings.max_pixels, None)
        with contextlib.ExitStack() as ending:
            ending.enter_context(pixels.one_thread())
            pool = ending.enter_context(ThreadPoolExecutor(settings.threads))
            counted, images = Counted(), set[int]()
            for row, answer in zip(rows, in_order(pool, counter, rows), strict=True):
                counted.add(task.gt.image_ids[row], answer)
                images.add(task.gt.image_ids[row])
                if len(images) == self._block_images or row == rows[-1]:
                    yield Block(frozenset(images), counted.block(task))
                    counted, images = Counted(), set()


def spread_counting(spread: Spread, block_images: int = 1000) -> Counting:
    """What `score_folder` takes for `count`: the images are looked at by the workers of an engine."""

    def count(plan: Plan, rows: Sequence[int], settings: CountSettings, reporter: Reporter) -> Iterator[CountedBlock]:
        if not rows:
            return
        done, total = len(plan.rows) - len(rows), len(plan.rows)
        make_worker = partial(ScoreWorker, settings, block_images)
        with spread.engine.session(make_worker, Needs(gpu=False), reporter) as session:
            tasks = [task_of(plan, piece) for piece in cut(rows, spread.tasks_for(session))]
            with contextlib.closing(session.run(TaskQueue(tasks))) as answers:
                for answer in answers:
                    done += len(answer.images)
                    reporter.progress("Scoring", done, total)
                    yield answer.found

    return count
