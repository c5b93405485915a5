"""`score --metrics pq,ap`: AP of panoptic maps, equal to pycocotools on the same segments."""

import contextlib
import io
import json

import numpy as np
import pytest
from little_runs import CATEGORIES, LETTERS, scored, write_side
from pycocotools import mask as rle_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support import panbench, refused

TRUE = {1: "ppppqq..sss", 2: "dddsssss...", 3: "ppdddqqqsss"}
FOUND = {1: "pppqqq..sss", 2: "pppdddds...", 3: "ppddddqqss."}
SCORES = {"p": 0.9, "q": 0.6, "d": 0.75, "s": 0.99}
THINGS = [category.id for category in CATEGORIES if category.isthing]


def expected() -> list[float]:
    """pycocotools' six numbers of the thing segments of FOUND against those of TRUE."""

    def entries(images: dict[int, str]) -> list[dict]:
        found = []
        for image_id, marks in images.items():
            for mark in dict.fromkeys(marks.replace(".", "").replace("s", "")):
                mask = np.asfortranarray(np.array([[one == mark for one in marks]], np.uint8))
                found.append(
                    {
                        "image_id": image_id,
                        "id": len(found) + 1,
                        "category_id": LETTERS[mark],
                        "segmentation": rle_masks.encode(mask),
                        "area": int(mask.sum()),
                        "iscrowd": 0,
                        "score": SCORES[mark],
                    }
                )
        return found

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": image_id, "height": 1, "width": 11} for image_id in TRUE],
            "categories": [{"id": category} for category in THINGS],
            "annotations": entries(TRUE),
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(entries(FOUND)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist()


@pytest.fixture
def files(tmp_path):
    return write_side(tmp_path, "gt", TRUE), write_side(tmp_path, "pred", FOUND, SCORES)


def test_ap_of_a_map_equals_pycocotools(files):
    truth, predictions = files
    printed = json.loads(panbench("score", "--gt", truth, "--pred", predictions, "--metrics", "pq,ap", "--json").stdout)
    ours = list(printed["AP_map"].values())
    theirs = [None if value == -1 else value for value in expected()]
    assert [value is None for value in ours] == [value is None for value in theirs]
    known = [value for value in theirs if value is not None]
    assert [value for value in ours if value is not None] == pytest.approx(known, abs=1e-6)
    assert 0 < printed["AP_map"]["AP"] < 1
    assert printed["AP_map_gt"] == "the thing segments of gt.json"


def test_ap_of_a_map_against_an_instance_json(files, tmp_path):
    truth, predictions = files
    annotations = []
    for image_id, marks in TRUE.items():
        for mark in dict.fromkeys(marks.replace(".", "").replace("s", "")):
            coded = rle_masks.encode(np.asfortranarray(np.array([[one == mark for one in marks]], np.uint8)))
            coded["counts"] = coded["counts"].decode()
            own = {"id": len(annotations) + 1, "image_id": image_id, "category_id": LETTERS[mark], "iscrowd": 0}
            annotations.append({**own, "area": marks.count(mark), "segmentation": coded})
    document = {
        "images": [{"id": image_id, "height": 1, "width": 11} for image_id in TRUE],
        "categories": [{"id": category.id, "name": category.name} for category in CATEGORIES if category.isthing],
        "annotations": annotations,
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    command = ["score", "--gt", truth, "--pred", predictions, "--json", "--metrics"]
    against = json.loads(panbench(*command, f"pq,ap={tmp_path / 'instances.json'}").stdout)
    assert against["AP_map"] == json.loads(panbench(*command, "pq,ap").stdout)["AP_map"]
    assert against["AP_map_gt"] == "the instances of instances.json"


def test_maps_without_scores_are_refused_for_ap(files, tmp_path):
    truth, _ = files
    silent = write_side(tmp_path, "silent", FOUND, {"s": 0.5})
    said = refused("score", "--gt", truth, "--pred", silent, "--metrics", "pq,ap", "--out", tmp_path / "run")
    assert "7 of 7 predicted thing segments have no score, and AP ranks by score" in said
    assert not (tmp_path / "run").exists()


def test_a_stored_score_run_has_the_ap_of_its_map(tmp_path):
    run = scored(tmp_path, "run", TRUE, FOUND, SCORES)
    printed = json.loads(panbench("metrics", run.path, "--json").stdout)
    assert printed["AP_map"]["AP"] == pytest.approx(expected()[0], abs=1e-6)
    assert printed["AP_pan"] is None
