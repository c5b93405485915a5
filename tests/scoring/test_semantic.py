"""`score --semantic`: one-channel predictions have PQ of stuff and mIoU, and the answer says what things are."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ran, refused

from panbench.base.locks import Lock
from panbench.datasets.convert import LabelledImage, write_set
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.types import Category
from panbench.runs import load_run

CATEGORIES = (Category(1, "person", True), Category(90, "sky", False), Category(149, "road", False))
TRUTH = np.array([[5, 6, 7, 7, 8, 8]], np.int32)
SEGMENTS = {5: (1, False), 6: (1, False), 7: (90, False), 8: (149, False)}
FOUND = np.array([[1, 1, 90, 149, 149, 149]], np.uint8)


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """Two persons, sky and road; a map that joins the persons, and takes half of the sky for road."""
    names = ["town_1.png", "town_2.png"]
    made = write_set(tmp_path / "set", "val", CATEGORIES, names, lambda name: LabelledImage(name, TRUTH, SEGMENTS))
    (tmp_path / "maps").mkdir()
    for name in names:
        Image.fromarray(FOUND).save(tmp_path / "maps" / name)
    return made.json, tmp_path / "maps"


def test_stuff_and_miou_are_scored_and_joined_things_reported(files, tmp_path):
    gt, maps = files
    found = json.loads(ran("score", "--gt", gt, "--semantic", maps, "--json").stdout)
    # Sky: IoU 1/2 is no match. Road: 2 of 3 pixels.
    assert found["Stuff"]["PQ"] == pytest.approx((0 + 2 / 3) / 2)
    assert found["semantic"]["mIoU"] == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    assert (found["per_category"]["1"]["FP"], found["per_category"]["1"]["FN"]) == (2, 4)
    assert "every thing category is one segment an image" in ran("score", "--gt", gt, "--semantic", maps).stdout


def test_the_stored_run_has_the_maps_as_its_predictions(files, tmp_path):
    gt, maps = files
    ran("score", "--gt", gt, "--semantic", maps, "--out", tmp_path / "runs" / "mine")
    run = load_run(tmp_path / "runs" / "mine")
    written = json.loads((run.path / "predictions.json").read_text())["annotations"]
    assert {annotation["image_id"] for annotation in written} == {"town_1", "town_2"}
    assert read_id_png(run.path / "predictions" / "town_1.png").tolist() == [[1, 1, 2, 3, 3, 3]]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]
    ran("runs", "verify", run.path)
    again = ran("score", "--gt", gt, "--pred", run.path / "predictions.json", "--json").stdout
    assert json.loads(again)["All"] == run.summary()["All"]


def test_label_values_and_offset_work_as_in_fuse(files):
    gt, maps = files
    for path in maps.iterdir():
        Image.fromarray(FOUND - 1).save(path)
    assert "with --offset 1 (as COCO-Stuff's" in refused("score", "--gt", gt, "--semantic", maps)
    scores = ran("score", "--gt", gt, "--semantic", maps, "--offset", 1, "--json").stdout
    assert json.loads(scores)["semantic"]["mIoU"] == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)


def test_a_missing_map_is_a_missing_prediction(files):
    gt, maps = files
    (maps / "town_2.png").unlink()
    assert "no prediction for 1 of 2 images: town_2." in refused("score", "--gt", gt, "--semantic", maps)


def test_score_takes_either_panoptic_or_semantic_predictions(files):
    gt, maps = files
    assert "--gt has no effect without --pred or --semantic. Give one." in refused("score", "--gt", gt)
    both = ("--pred", "pred.json", "--semantic", maps)
    assert "--pred has no effect with --semantic." in refused("score", "--gt", gt, *both)


def test_maps_left_by_a_killed_process_are_removed_and_those_of_a_running_one_stay(files, tmp_path):
    gt, maps = files
    left, kept = (tmp_path / f".run.panbench-made-{name}" for name in ("left", "kept"))
    for folder in (left, kept):
        (folder / "predictions").mkdir(parents=True)
    lock = Lock.acquire(kept / "lock")
    ran("score", "--gt", gt, "--semantic", maps, "--out", tmp_path / "run")
    lock.release()
    assert not left.exists()
    assert kept.exists()
    assert {path for path in tmp_path.iterdir() if path.name.startswith(".run.panbench-made-")} == {kept}


def frames(tmp_path: Path) -> Path:
    """Frame 1 of two videos; the second shows the sky alone."""
    truths = {"a/1.png": (TRUTH, SEGMENTS), "b/1.png": (np.full_like(TRUTH, 7), {7: (90, False)})}
    made = write_set(tmp_path / "set", "val", CATEGORIES, list(truths), lambda name: LabelledImage(name, *truths[name]))
    return made.json


def test_frames_with_repeated_names_in_videos_have_their_own_maps(tmp_path):
    gt = frames(tmp_path)
    for video, values in (("a", FOUND), ("b", np.full_like(FOUND, 90))):
        (tmp_path / "maps" / video).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "maps" / video / "1.png")
    found = json.loads(ran("score", "--gt", gt, "--semantic", tmp_path / "maps", "--json").stdout)
    assert (found["per_category"]["90"]["TP"], found["per_category"]["90"]["FN"]) == (1, 1)
    assert found["per_category"]["149"]["TP"] == 1


@pytest.mark.parametrize(("places", "words"), [((".",), "has it, too"), (("x", "y"), "could be, too")])
def test_an_ambiguous_map_is_refused(tmp_path, places, words):
    gt = frames(tmp_path)
    for place in places:
        (tmp_path / "maps" / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(FOUND).save(tmp_path / "maps" / place / "1.png")
    assert words in refused("score", "--gt", gt, "--semantic", tmp_path / "maps")
