"""`panbench eval` where its data or weights are not here, have no ground truth, or name other categories."""

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Recorder, evaluated, ran, refusal, refused

from panbench.base.errors import BadArgument, BadCheckpoint, BadDataset
from panbench.catalog import ModelSpec, find_model
from panbench.datasets import fetch, open_dataset
from panbench.evaluation.tools.benchmark import benchmark
from panbench.evaluation.tools.photographs import segment_photographs
from panbench.runs import load_run
from panbench.weights import weights_path
from scripts.make.coco_mimic import FaultServer, Mimic, build_mimic

TINY = find_model("mask2former-tiny")
JSON = "annotations/panoptic_val2017.json"


@pytest.fixture(scope="module")
def mimic() -> Mimic:
    return build_mimic()


@pytest.fixture
def server(mimic: Mimic, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """COCO's host in small, on 127.0.0.1, where COCO is fetched from."""
    with FaultServer(mimic.files) as server:
        monkeypatch.setattr(fetch, "COCO", mimic.at(server.url))
        monkeypatch.setitem(fetch.N_IMAGES, "val", 12)
        monkeypatch.setitem(fetch.N_IMAGES, "test-dev", 3)
        yield server


def renamed(scenes: Path, root: Path, split: str = "val2017") -> Path:
    """The scenes under COCO's names in a folder `root`; its JSON."""
    (root / "annotations").mkdir(parents=True)
    shutil.copytree(scenes / "val", root / split)
    shutil.copytree(scenes / "annotations" / "panoptic_val", root / "annotations" / f"panoptic_{split}")
    target = root / "annotations" / f"panoptic_{split}.json"
    return Path(shutil.copy(scenes / "annotations" / "panoptic_val.json", target))


# Data that are not here.


def test_missing_coco_is_reported_with_command_size_and_download_option(server, tmp_path):
    root = tmp_path / "coco"
    said = refusal(BadDataset, open_dataset, root, limit=3)
    assert "lacks the panoptic JSON, 3 images and 3 ground-truth PNGs" in said
    assert f"panbench data coco --limit 3 --root {root}" in said
    assert "--download" in said
    assert re.search(r"\(about [\d.]+ (bytes|kB|MB)\)", said)
    assert server.log == []
    assert not root.exists()


def test_download_fetches_only_what_is_missing(server, tmp_path):
    root = tmp_path / "coco"
    reporter = Recorder()
    opened = open_dataset(root, limit=3, download=True, reporter=reporter)
    assert [scene.image_path.is_file() and scene.gt_path.is_file() for scene in opened.scenes] == [True] * 3
    assert "val2017" in [task for task, *_ in reporter.counts]
    asked = len(server.log)
    assert open_dataset(root, limit=3, download=True).scenes == opened.scenes
    assert len(server.log) == asked, "what is here is not asked for"
    with pytest.raises(BadDataset, match=r"lacks 2 images and 2 ground-truth PNGs.*--limit 5"):
        open_dataset(root, limit=5)
    assert len(open_dataset(root, limit=5, download=True).scenes) == 5


@pytest.mark.parametrize("split", ["val", "val2017"])
def test_a_user_data_set_is_never_taken_for_coco(server, scenes, tmp_path, split):
    gt = renamed(scenes, tmp_path / "coco-mine", split)
    before = gt.read_bytes()
    assert len(open_dataset(tmp_path / "coco-mine", download=True).scenes) == 4
    next((tmp_path / "coco-mine" / split).iterdir()).unlink()
    with pytest.raises(BadDataset, match="1 of 4 images are missing"):
        open_dataset(tmp_path / "coco-mine", download=True)
    assert server.log == []
    assert gt.read_bytes() == before


def test_a_damaged_json_is_reported_as_damaged_and_not_as_missing(server, tmp_path):
    path = tmp_path / "coco" / JSON
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(BadDataset, match="is not JSON"):
        open_dataset(tmp_path / "coco", download=True)
    assert server.log == []


# Weights that are not here.


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[ModelSpec, FaultServer]]:
    """The tiny model with its weights on a server, and an empty cache."""
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    content = Path(str(TINY.weights)).read_bytes()
    name = f"/tiny-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    with FaultServer({name: content}) as server:
        yield dataclasses.replace(TINY, weights=server.url + name), server


def test_missing_weights_are_fetched_only_on_request(published, scenes, tmp_path):
    spec, server = published
    dataset = open_dataset(scenes, limit=2)
    said = refusal(BadCheckpoint, evaluated, spec, dataset, tmp_path / "run")
    for words in (spec.weights, str(weights_path(spec)), "about 4 MB", "--download", "--checkpoint random"):
        assert words in said
    assert server.log == []
    assert not (tmp_path / "run").exists()
    fetched = evaluated(spec, dataset, tmp_path / "run", download=True)
    assert fetched.summary() == evaluated(TINY, dataset, tmp_path / "own").summary()
    asked = len(server.log)
    evaluated(spec, dataset, tmp_path / "again")
    assert len(server.log) == asked, "weights that are here need no --download"


def test_no_download_is_offered_for_a_model_of_other_categories(monkeypatch, scenes, tmp_path):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    said = refused("eval", "--model", "mask2former-r50", "--data", scenes, "--out", tmp_path / "run")
    assert "Mask2Former R50 and the dataset have different categories" in said
    assert "--download" not in said
    assert not (tmp_path / "run").exists()


def test_predict_and_bench_fetch_weights_only_on_request(published, scenes, tmp_path):
    spec, server = published
    photo = next((scenes / "val").iterdir())
    for fetching in (
        lambda: segment_photographs(spec, [photo], tmp_path / "out"),
        lambda: benchmark([spec], size=(64, 96), count=1, warm_up=0, device="cpu"),
    ):
        with pytest.raises(BadCheckpoint, match="--download"):
            fetching()
    assert server.log == []
    assert segment_photographs(spec, [photo], tmp_path / "out", download=True)
    (row,) = benchmark([spec], size=(64, 96), count=1, warm_up=0, device="cpu").rows
    assert row.status == "ok", "weights that are here need no --download"


@pytest.mark.parametrize(
    "command", [("predict", "photo.png"), ("bench",), ("show", "attention", "--photo", "photo.png")]
)
def test_every_command_that_needs_weights_says_how_to_fetch_them(monkeypatch, scenes, tmp_path, command):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(next((scenes / "val").iterdir()), "photo.png")
    out = () if command == ("bench",) else ("--out", "out")
    assert "(about 176 MB) with `panbench models --download mask2former-r50` or by adding --download" in refused(
        *command, "--model", "mask2former-r50", *out
    )
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


# Images without ground truth.


@pytest.fixture(params=["no annotations", "an empty list of annotations"])
def unlabelled(request, scenes, tmp_path) -> Path:
    """A folder like COCO's with its test-dev split: images, and their list with categories."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    shutil.copytree(scenes / "val", root / "test2017")
    document = json.loads((scenes / "annotations" / "panoptic_val.json").read_text())
    document.pop("annotations")
    # Of three images there is no speed, which could look like a score.
    document["images"] = document["images"][:3]
    if request.param != "no annotations":
        document["annotations"] = []
    (root / "annotations" / "panoptic_image_info_test-dev2017.json").write_text(json.dumps(document))
    return root


def test_test_dev_is_fetched_and_has_no_ground_truth(server, tmp_path):
    dataset = open_dataset(tmp_path / "coco", split="test-dev", download=True)
    assert (dataset.name, dataset.split, dataset.has_ground_truth) == ("coco", "test-dev2017", False)
    assert len(dataset.categories) == 133
    assert [(scene.annotation, scene.gt_path) for scene in dataset.scenes] == [(None, None)] * 3


def test_a_partly_labelled_set_is_refused(scenes, tmp_path):
    gt = renamed(scenes, tmp_path / "mine")
    document = json.loads(gt.read_text())
    del document["annotations"][1]
    gt.write_text(json.dumps(document))
    with pytest.raises(BadDataset, match="no annotation for 1 images: 2"):
        open_dataset(tmp_path / "mine")


def test_without_ground_truth_predictions_must_be_saved(unlabelled, tmp_path):
    assert "without ground truth, so there is nothing to score. Add --save-predictions" in refused(
        "eval", "-m", TINY.name, "--data", f"{unlabelled}:test-dev", "--out", tmp_path / "run"
    )
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadArgument, match="--save-predictions"):
        evaluated(TINY, open_dataset(unlabelled, split="test-dev"), tmp_path / "run")


def test_predictions_of_unlabelled_images_are_stored_and_submitted_but_never_scored(unlabelled, tmp_path):
    out = tmp_path / "run"
    arguments = ("--data", f"{unlabelled}:test-dev", "--save-predictions", "--out", out)
    result = ran("eval", "-m", TINY.name, *arguments)
    assert "panbench export coco-server" in result.stderr
    assert "no ground truth" in result.stdout

    run = load_run(out)
    info = run.info
    nothing = {"PQ": None, "SQ": None, "RQ": None, "n": 0}
    assert run.summary() == {"All": nothing, "Things": nothing, "Stuff": nothing}
    assert (info.images.expected, info.images.scored, info.images.missing) == (3, 3, 0)
    assert info.images.gt_faults.images == 0

    for command in (("compare", out, "-f", "json"), ("metrics", out, "--json"), ("errors", out, "--json")):
        shown = ran(*command)
        assert all(value is None for value in _scores(json.loads(shown.stdout))), command
    for command in (("compare", out), ("metrics", out), ("errors", out), ("compare", out, "-f", "md")):
        shown = ran(*command)
        assert "–" in shown.stdout
        assert "nan" not in shown.stdout.lower().replace("cannot", "")
        assert "0.0" not in shown.stdout

    listed = unlabelled / "annotations" / "panoptic_image_info_test-dev2017.json"
    ran("export", "coco-server", out, "--out", tmp_path / "out.zip", "--image-list", listed)
    assert (tmp_path / "out.zip").is_file()


def _scores(value: object) -> Iterator[object]:
    """Every value called PQ, SQ, RQ, mIoU, Dice or so, however deep."""
    if isinstance(value, list):
        for item in value:
            yield from _scores(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, dict | list):
                yield from _scores(item)
            elif key.startswith(("PQ", "SQ", "RQ", "mIoU", "mean_", "pixel_", "fwIoU", "IoU", "Dice")):
                yield item
