"""Little runs for tests of what is asked of stored runs: written from tables, or scored from drawn images."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panbench.panoptic.coco import read_id_png, write_id_png, write_panoptic_json
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
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


def balls(path: Path, images: int = 12, hits: int | None = None, dataset: str = "balls", parts: int = 1) -> Path:
    """The folder of a run of images of a ball each, of which the first `hits` are found (None: all), in some parts."""
    info = {
        "kind": "eval",
        "model": {"name": path.name, "title": path.name.title(), "params": 1_000_000},
        "dataset": {
            "name": dataset,
            "split": "val",
            "fingerprint": dataset,
            "gt": f"{dataset}.json",
            "n_images": images,
        },
        "categories": [{"id": 1, "name": "ball", "isthing": True}],
        "images": {"expected": images, "scored": images},
    }
    gt, ball = np.array([[1, 1, 0, 0]], np.int32), [Segment(1, 1, 2)]
    tables = [
        overlap_table(number, gt, ball, *((gt, ball) if hits is None or number <= hits else (np.zeros_like(gt), [])))
        for number in range(1, images + 1)
    ]
    store(path, info, (concat(tables[part::parts]) for part in range(parts)) if images else ())
    return path


def one_row(image_id: int) -> OverlapTable:
    """The table of an image of one row: a person found but for a pixel, and the sky."""
    gt, pred = np.array([[7, 7, 7, 8]], np.int32), np.array([[5, 5, 0, 6]], np.int32)
    return overlap_table(image_id, gt, [Segment(7, 1, 3), Segment(8, 9, 1)], pred, [Segment(5, 1, 0), Segment(6, 9, 0)])


def finished(path: Path, *image_ids: int) -> Path:
    """The folder of a done run with a part for each image."""
    store(path, RunInfo(categories=CATEGORIES), map(one_row, image_ids))
    return path


def everything(folder: Path) -> dict[str, bytes]:
    """The content of each file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def row(marks: str) -> np.ndarray:
    """The id map of an image that is a row of letters, `.` void."""
    return np.array([[0 if mark == "." else ord(mark) for mark in marks]], np.int32)


def images_of(folder: Path) -> Iterator[tuple[np.ndarray, list[dict], np.ndarray, list[dict], int]]:
    """Each image of a reference folder as a training loop has it: predicted ids and segments, true ones, image id."""
    gt, pred = (json.loads((folder / f"{side}.json").read_text())["annotations"] for side in ("gt", "pred"))
    found = {record["image_id"]: record for record in pred}
    for record in gt:
        own = found[record["image_id"]]
        pngs = folder / "pred" / own["file_name"], folder / "gt" / record["file_name"]
        predicted, true = map(read_id_png, pngs)
        yield predicted, own["segments_info"], true, record["segments_info"], record["image_id"]


def write_side(folder: Path, name: str, images: Mapping[int, str], scores: Mapping[str, float] | None = None) -> Path:
    """The JSON of a set whose images are rows of letters (p and q persons, d a dog, s sky), `.` void."""
    infos, annotations = {}, {}
    for image_id, marks in images.items():
        segments = tuple(
            Segment(ord(mark), LETTERS[mark], marks.count(mark), score=None if scores is None else scores.get(mark))
            for mark in dict.fromkeys(marks.replace(".", ""))
        )
        write_id_png(folder / name / f"{image_id}.png", row(marks))
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
    return score_folder(truth, written, out=folder / name)
