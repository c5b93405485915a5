"""Little runs for tests of what is asked of stored runs: written from tables, or scored from drawn images."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.overlap import OverlapTable
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from panbench.runs import Run, RunInfo, RunWriter
from panbench.scoring.folder import score_folder

CATEGORIES = (Category(1, "person", True), Category(2, "dog", True), Category(9, "sky", False))
LETTERS = {"p": 1, "q": 1, "d": 2, "s": 9}


def store(path: Path, info: RunInfo | Mapping[str, Any], tables: Iterable[OverlapTable], status: str = "done") -> Run:
    """A run folder with a part for each table: the one way in which tests write runs that nothing made."""
    writer = RunWriter.create(path, info if isinstance(info, RunInfo) else RunInfo.from_json(info))
    for table in tables:
        writer.write_part(table)
    return writer.finish(status)


def write_side(folder: Path, name: str, images: Mapping[int, str], scores: Mapping[str, float] | None = None) -> Path:
    """The JSON of a set whose images are rows of letters (p and q persons, d a dog, s sky), `.` void."""
    infos, annotations = {}, {}
    for image_id, marks in images.items():
        ids = np.array([[0 if mark == "." else ord(mark) for mark in marks]], np.int32)
        segments = tuple(
            Segment(ord(mark), LETTERS[mark], marks.count(mark), score=None if scores is None else scores.get(mark))
            for mark in dict.fromkeys(marks.replace(".", ""))
        )
        write_id_png(folder / name / f"{image_id}.png", ids)
        infos[image_id] = ImageInfo(image_id, f"{image_id}.jpg", 1, len(marks))
        annotations[image_id] = Annotation(image_id, f"{image_id}.png", segments)
    path = folder / f"{name}.json"
    write_panoptic_json(path, PanopticSet(CATEGORIES, infos, annotations, folder / name, path))
    return path


def scored(
    folder: Path,
    name: str,
    gt: Mapping[int, str],
    pred: Mapping[int, str] | Sequence[str],
    scores: Mapping[str, float] | None = None,
) -> Run:
    """The stored run `folder/name` of predictions that are drawn like the ground truth."""
    truth = folder / "gt.json"
    if not truth.exists():
        write_side(folder, "gt", gt)
    drawn = pred if isinstance(pred, Mapping) else dict(zip(gt, pred, strict=True))
    written = write_side(folder, f"{name}-pred", drawn, scores)
    return score_folder(truth, written, out=folder / name, index=False)
