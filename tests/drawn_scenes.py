"""Small scenes, drawn as text: one character a pixel, the same character one segment, `.` void."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pytest

from panbench.metrics.matched import Matched
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import Category, Segment
from panbench.runs import Run, RunInfo

CAR, BUS, CAT, SKY, SEA = 1, 2, 3, 92, 93
CATEGORIES = (
    Category(CAR, "car", True, "vehicle"),
    Category(BUS, "bus", True, "vehicle"),
    Category(CAT, "cat", True, "animal"),
    Category(SKY, "sky", False, "outdoor"),
    Category(SEA, "sea", False, "outdoor"),
)
LETTERS = {"a": CAR, "b": BUS, "c": CAT, "s": SKY, "w": SEA}


@dataclass(frozen=True)
class Tables:
    segments: pd.DataFrame
    overlaps: pd.DataFrame
    categories: tuple[Category, ...] = CATEGORIES

    @cached_property
    def matched(self) -> Matched:
        return Matched.from_frames(self.segments, self.overlaps)

    def __iter__(self):
        return iter((self.matched, self.categories))


def draw(*images: tuple[str, str], crowds: str = "") -> Tables:
    """Tables of scenes (ground truth, prediction), image ids 1, 2, …

    A letter's category is that of its lower case (`LETTERS`); digits of a prediction are cars; upper and lower case are
    two segments. Letters in `crowds` are crowds of the ground truth.
    """
    return tables_of(concat(one_table(number, gt, pred, crowds) for number, (gt, pred) in enumerate(images, start=1)))


def one_table(image_id: int, gt: str, pred: str, crowds: str = "") -> OverlapTable:
    gt_ids, gt_segments = _read(gt, crowds)
    pred_ids, pred_segments = _read(pred, "")
    return overlap_table(image_id, gt_ids, gt_segments, pred_ids, pred_segments)


def tables_of(table: OverlapTable) -> Tables:
    run = Run(RunInfo(name="scene"), table=table)
    return Tables(run.segments(), run.overlaps())


def _read(picture: str, crowds: str) -> tuple[np.ndarray, list[Segment]]:
    rows = picture.split()
    ids = np.array([[0 if mark == "." else ord(mark) for mark in row] for row in rows], np.int32)
    marks = sorted(set("".join(rows)) - {"."})
    segments = [
        Segment(ord(mark), LETTERS.get(mark.lower(), CAR), int((ids == ord(mark)).sum()), mark in crowds)
        for mark in marks
    ]
    return ids, segments


@pytest.fixture(scope="session")
def scene():
    """`draw`."""
    return draw


@pytest.fixture(scope="session")
def random_scenes():
    """A function: some random scenes of a seed, with void, crowds, several objects of a category and wrong labels."""

    return lambda seed, images=3: tables_of(concat(table_of_scenes(seed, images)))


def table_of_scenes(seed: int, images: int) -> list[OverlapTable]:
    """The table of each random scene of a seed, in no order of image ids."""
    rng = np.random.default_rng(seed)
    tables = []
    for image_id in rng.permutation(1000)[:images].tolist():
        shape = (int(rng.integers(1, 7)), int(rng.integers(1, 13)))
        gt_ids = _blocks(rng, shape)
        # Mostly the ground truth with changes, else nothing would ever match.
        pred_ids = np.where(rng.random(shape) < rng.uniform(0, 0.5), _blocks(rng, shape), gt_ids)
        category_of = {id: int(rng.choice(list(LETTERS.values()))) for id in range(1, 9)}
        gt = _segments(rng, gt_ids, category_of, 0.0)
        pred = _segments(rng, pred_ids, category_of, 0.3)
        tables.append(overlap_table(image_id, gt_ids, gt, pred_ids, pred))
    return tables


def _blocks(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Id map of rectangles of ids 0…8 over one another."""
    ids = np.full(shape, int(rng.integers(0, 9)), np.int32)
    for _ in range(int(rng.integers(0, 7))):
        top, left = int(rng.integers(shape[0])), int(rng.integers(shape[1]))
        ids[top : top + int(rng.integers(1, 6)), left : left + int(rng.integers(1, 8))] = int(rng.integers(0, 9))
    return ids


def _segments(rng: np.random.Generator, ids: np.ndarray, category_of: dict[int, int], wrong: float) -> list[Segment]:
    found, areas = np.unique(ids[ids > 0], return_counts=True)
    segments = []
    for id, area in zip(found.tolist(), areas.tolist(), strict=True):
        category_id = int(rng.choice(list(LETTERS.values()))) if rng.random() < wrong else category_of[id]
        segments.append(Segment(id, category_id, area, bool(rng.random() < 0.15) and not wrong))
    order = rng.permutation(len(segments)).tolist()
    return [segments[place] for place in order]
