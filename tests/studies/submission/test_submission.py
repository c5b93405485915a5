import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import refusal

from panbench.base.errors import BadArgument, BadDataset, BadRun, PredictionMismatch
from panbench.panoptic.coco import write_id_png
from panbench.studies.submission.submission import Submission, write_submission


class MadeRun:
    """A run of two images with predictions, and the list of the test set's images."""

    def __init__(self, root: Path) -> None:
        self.run = root / "results é" / "a-run"
        self.images = root / "panoptic_image_info_test-dev2017.json"
        self.out = root / "out.zip"
        ids = np.array([[5, 5, 0], [5, 9, 9]], np.int32)
        self.annotations: list[dict[str, Any]] = []
        for image_id in (7, 8):
            write_id_png(self.run / "predictions" / f"{image_id:012}.png", ids)
            segments = [{"id": 5, "category_id": 1, "area": 3, "score": 0.9}, {"id": 9, "category_id": 187, "area": 2}]
            self.annotations.append(
                {"image_id": image_id, "file_name": f"{image_id:012}.png", "segments_info": segments}
            )
        self.info: dict[str, Any] = {
            "schema": 1,
            "panbench": "0.1.0",
            "status": "done",
            "model": {"name": "mask2former r50"},
        }
        self.listed = [{"id": 8, "height": 2, "width": 3}, {"id": 7, "height": 2, "width": 3}]

    def submit(self, **arguments: Any) -> Submission:
        (self.run / "predictions.json").write_text(json.dumps({"annotations": self.annotations}))
        (self.run / "run.json").write_text(json.dumps(self.info))
        self.images.write_text(json.dumps({"images": self.listed}))
        return write_submission(self.run, **{"out": self.out, "images": self.images, **arguments})


@pytest.fixture
def made(tmp_path) -> MadeRun:
    return MadeRun(tmp_path)


def test_the_zip_has_json_and_pngs_under_the_servers_names(made):
    found = made.submit()
    stem = "panoptic_test-dev2017_mask2former-r50_results"
    with zipfile.ZipFile(made.out) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{stem}.json", f"{stem}/000000000008.png", f"{stem}/000000000007.png"]
        document = json.loads(archive.read(f"{stem}.json"))
        png = archive.read(f"{stem}/000000000007.png")
    segments = [{"id": 5, "category_id": 1}, {"id": 9, "category_id": 187}]
    assert document == {
        "annotations": [
            {"image_id": 8, "file_name": "000000000008.png", "segments_info": segments},
            {"image_id": 7, "file_name": "000000000007.png", "segments_info": segments},
        ]
    }
    assert png == (made.run / "predictions" / "000000000007.png").read_bytes()
    assert (found.n_images, found.n_segments, found.bytes) == (2, 4, made.out.stat().st_size)


def test_the_same_predictions_make_the_same_file(made, tmp_path):
    made.submit()
    made.submit(out=tmp_path / "again.zip")
    assert made.out.read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_a_folder_gets_the_zip_under_the_servers_name(made, tmp_path):
    found = made.submit(out=tmp_path, algorithm="mine_2")
    assert found.path == tmp_path / "panoptic_test-dev2017_mine_2_results.zip"
    assert found.path.exists()


def test_a_predictions_json_can_be_submitted(made):
    made.submit()
    (made.run / "predictions.json").rename(made.run / "mine.json")
    (made.run / "predictions").rename(made.run / "mine")
    found = write_submission(made.run / "mine.json", made.out, images=made.images, overwrite=True)
    assert found.json_name == "panoptic_test-dev2017_mine_results.json"


def predictions_of(made: MadeRun) -> Path:
    return made.run / "predictions" / "000000000007.png"


def describe_other_ids(made: MadeRun) -> None:
    made.annotations[0]["segments_info"] += [{"id": 10, "category_id": 1}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda made: made.listed.append({"id": 9, "height": 2, "width": 3}),
            "1 of the test set's 3 images have no prediction: 9",
        ),
        (lambda made: made.listed.pop(0), "not in the test set: 8"),
        (lambda made: made.listed[0].update(height=3), "000000000008.png (image 8) is 2×3 where 3×3"),
        (lambda made: predictions_of(made).write_bytes(predictions_of(made).read_bytes()[:50]), "000000000007.png"),
        (lambda made: predictions_of(made).unlink(), "000000000007.png"),
        (
            lambda made: made.annotations[0]["segments_info"].pop(),
            "Image 7: the PNG has ids that the JSON does not describe: 9",
        ),
        (describe_other_ids, "Image 7: the JSON describes ids without a pixel: 10"),
        (lambda made: made.annotations[1]["segments_info"][0].update(category_id=66), "Image 8: category ids 66"),
        (lambda made: made.annotations[1].update(file_name=made.annotations[0]["file_name"]), "same PNG"),
    ],
    ids=[
        *("an image without a prediction", "an image of another set", "a PNG of another size", "a damaged PNG"),
        *("no PNG", "an id in the PNG alone", "an id in the JSON alone", "no category of COCO", "one PNG for two"),
    ],
)
def test_predictions_that_the_server_would_refuse_are_listed(made, change, message):
    change(made)
    assert message in refusal(PredictionMismatch, made.submit)
    assert not made.out.exists()


def test_a_run_that_is_not_done_is_refused(made):
    made.info["status"] = "interrupted"
    assert "interrupted" in refusal(BadRun, made.submit)
    assert not made.out.exists()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"testset": "test2018"}, BadArgument, "test-dev2017 and val2017"),
        ({"algorithm": "my algorithm"}, BadArgument, "letters, digits"),
        ({"images": "/nowhere.json"}, BadDataset, "nowhere"),
    ],
)
def test_wrong_arguments_are_refused(made, arguments, kind, message):
    assert message in refusal(kind, made.submit, **arguments)
    assert not made.out.exists()


def test_the_image_list_is_cocos_by_default(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "panbench data coco --split test-dev" in refusal(BadDataset, made.submit, images=None)
    assert not made.out.exists()


def test_an_existing_zip_is_not_replaced_unless_requested(made):
    made.submit()
    before = made.out.read_bytes()
    made.annotations[0]["segments_info"][0]["category_id"] = 2
    assert "already exists" in refusal(BadArgument, made.submit)
    assert made.out.read_bytes() == before
    made.submit(overwrite=True)
    assert made.out.read_bytes() != before


def test_a_run_without_predictions_is_refused_with_how_to_get_them(tmp_path):
    assert "--save-predictions" in refusal(BadRun, write_submission, tmp_path, tmp_path / "out.zip")
    assert "does not exist" in refusal(BadRun, write_submission, tmp_path / "nothing", tmp_path / "out.zip")
