"""Runs to look at: four small photographs, their ground truth, and two models' answers, made without a model."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from little_runs import store

from panbench.base.files import sha256_of
from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.overlap import concat, overlap_table
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from panbench.runs import Run, category_record

HOSTILE = "<img src=x onerror=alert(1)></script><b>cat & \"dog\" 'x' $9"
CATEGORIES = (
    Category(1, HOSTILE, True, "animal", (220, 20, 60)),
    Category(2, "ball", True, "toy"),
    Category(9, "sky", False, "outdoor", (70, 130, 180)),
)
HEIGHT, WIDTH = 30, 40


def scene(seed: int) -> tuple[np.ndarray, list[Segment]]:
    """Sky with a cat (id 10) and two balls (20, 21); rows 28 and 29 are void."""
    ids = np.full((HEIGHT, WIDTH), 30, np.int32)
    ids[5:15, 4 + seed : 14 + seed] = 10
    ids[18:24, 5:11] = 20
    ids[18:24, 25:31] = 21
    ids[28:] = 0
    areas = {key: int((ids == key).sum()) for key in (10, 20, 21, 30)}
    kinds = {10: 1, 20: 2, 21: 2, 30: 9}
    return ids, [Segment(key, kinds[key], area) for key, area in areas.items()]


def photograph(seed: int) -> np.ndarray:
    """Colours that change slowly: a PDF of noise takes four times as long."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows * 8, columns * 6, (rows + columns) * 3 + 10 * seed], axis=2).astype(np.uint8)


def answer(ids: np.ndarray, worse: bool, seed: int) -> tuple[np.ndarray, list[Segment]]:
    """A prediction: the better model is off by a pixel, the worse misses a ball and takes the cat for a ball."""
    found = np.zeros_like(ids)
    found[ids == 30] = 1
    found[5 : 15 - (seed % 2), 4 + seed : 14 + seed] = 2
    found[ids == 20] = 3
    if not worse:
        found[ids == 21] = 4
    kinds = {1: 9, 2: 2 if worse and seed % 2 else 1, 3: 2, 4: 2}
    present = [key for key in kinds if (found == key).any()]
    return found, [Segment(key, kinds[key], int((found == key).sum()), score=0.5 + key / 10) for key in present]


@pytest.fixture
def make_runs(tmp_path: Path) -> Callable[..., list[Run]]:
    """A function that makes runs of two models on `images` images, in tmp_path, and gives them back."""
    return lambda **settings: runs_in(tmp_path, **settings)


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """Two runs for tests that only read."""
    return runs_in(tmp_path_factory.mktemp("shared"))


def runs_in(
    folder: Path, images: int = 4, predictions: bool = True, status: str = "done", expected: int | None = None
) -> list[Run]:
    """Two runs, `run-a` and `run-b`, with their data, in a folder."""
    gt, photos = truth_in(folder, images), folder / "photos"
    dataset = {"name": "toy", "split": "val", "gt": str(gt), "images": str(photos), "fingerprint": sha256_of(gt)}
    runs = []
    for name, title, worse in (("run-a", "first <b>model</b>", False), ("run-b", "second", True)):
        answers = [(scene(seed), answer(scene(seed)[0], worse, seed)) for seed in range(images)]
        info = {
            "kind": "eval",
            "model": {"name": title, "title": title, "weights": "w.pth", "weights_sha256": "ab" * 32, "params": 1000},
            "dataset": {**dataset, "n_images": expected or images},
            "categories": [category_record(category) for category in CATEGORIES],
            "device": {"name": "abacus", "type": "cpu"},
            "images_per_second": 2.0 if worse else 1.0,
            "images": {"expected": expected or images, "scored": images, "missing": 0},
            "command": ["panbench", "eval", "--model", title],
        }
        table = concat(overlap_table(7 + seed, *truth, *found) for seed, (truth, found) in enumerate(answers))
        runs.append(store(folder / name, info, [table], status))
        for seed, (_, (ids, _)) in enumerate(answers if predictions else ()):
            write_id_png(folder / name / "predictions" / f"photo {seed} <i>.png", ids)
    return runs


def truth_in(folder: Path, images: int) -> Path:
    """Writes the photographs and the ground truth of the images 7, 8, …; its JSON."""
    (folder / "photos").mkdir(exist_ok=True)
    infos, annotations = {}, {}
    for number in range(images):
        image_id, name = 7 + number, f"photo {number} <i>.jpg"
        ids, segments = scene(number)
        cv2.imwrite(str(folder / "photos" / name), photograph(number))
        write_id_png(folder / "gt" / f"{number}.png", ids)
        infos[image_id] = ImageInfo(image_id, name, HEIGHT, WIDTH)
        annotations[image_id] = Annotation(image_id, f"{number}.png", tuple(segments))
    gt = folder / "gt.json"
    write_panoptic_json(gt, PanopticSet(CATEGORIES, infos, annotations, folder / "gt", gt))
    return gt


def data_of(page: str) -> dict:
    """The JSON that a page's scripts read, the pictures under "gallery"."""
    numbers, pictures = (
        json.loads(re.search(rf'<script type="application/json" id="{key}">(.*?)</script>', page, re.DOTALL)[1])
        for key in ("data", "pictures")
    )
    return {**numbers, "gallery": pictures}


def text_of(page: str) -> str:
    return re.sub(r"<[^>]+>", " ", page.split("<main")[1].split("</main>")[0])
