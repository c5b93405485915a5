"""Image ids that are text (Cityscapes, ADE20K): scored as any, and printed and exported as the JSON has them."""

import json
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support import ran, refused

import panbench
from panbench.panoptic.image_ids import image_id_of, own_id, typed
from panbench.runs import RunInfo, load_run
from panbench.scoring.folder import score_folder

SCENES = Path(__file__).parents[1] / "reference" / "pq_scenes"


def name(image_id: int) -> str:
    return f"frankfurt_000000_{image_id:06}"


@pytest.fixture
def folder(tmp_path) -> Path:
    """pq_scenes with text for ids; folders of PNGs as they were."""
    for side in ("gt", "pred"):
        shutil.copytree(SCENES / side, tmp_path / side)
        document = json.loads((SCENES / f"{side}.json").read_text())
        for image in document.get("images", ()):
            image["id"] = name(image["id"])
        for annotation in document["annotations"]:
            annotation["image_id"] = name(annotation["image_id"])
        (tmp_path / f"{side}.json").write_text(json.dumps(document))
    return tmp_path


def change(path: Path, edit) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def score(folder: Path, *options: object) -> tuple[object, ...]:
    return ("score", "--gt", folder / "gt.json", "--pred", folder / "pred.json", *options)


def test_pq_is_panopticapis(folder):
    found, expected = (
        score_folder(folder / "gt.json", folder / "pred.json").pq(),
        json.loads((SCENES / "expected.json").read_text()),
    )
    for row in found.itertuples():
        assert (row.PQ or 0) == pytest.approx(expected["per_class"][str(row.category_id)]["pq"], abs=1e-14)


@pytest.mark.slow
def test_pq_is_the_same_through_panopticapis_function(folder, monkeypatch):
    panopticapi = pytest.importorskip("panopticapi.evaluation", reason="panopticapi is not installed")
    monkeypatch.setattr("multiprocessing.cpu_count", lambda: 1)
    files = str(folder / "gt.json"), str(folder / "pred.json")
    original = panopticapi.pq_compute(*files)
    with panbench.patch_panopticapi():
        ours = panopticapi.pq_compute(*files)
    assert ours["All"]["pq"] == pytest.approx(original["All"]["pq"], abs=1e-14)
    assert ours["All"]["n"] == original["All"]["n"]


def test_a_run_without_some_predictions_is_stored_and_read_again(folder, tmp_path):
    first = json.loads((folder / "pred.json").read_text())["annotations"][0]["image_id"]
    change(folder / "pred.json", lambda pred: pred["annotations"].pop(0))
    ran(*score(folder, "--allow-missing", "--out", tmp_path / "run"))
    (missing,) = load_run(tmp_path / "run").info.images.missing_ids
    assert own_id(missing) == first


def test_a_run_without_an_image_can_be_read_again(tmp_path):
    info = load_run(score_folder(SCENES / "gt.json", SCENES / "pred.json", out=tmp_path / "run").path).info
    skipped = replace(info.images, skipped=1, skipped_ids={image_id_of(name(1)): "It is cut off."})
    written = json.loads(json.dumps(replace(info, images=skipped).to_json()))
    assert RunInfo.from_json(written).images.skipped_ids == {image_id_of(name(1)): "It is cut off."}


def test_text_ids_survive_between_processes(folder):
    code = (
        "import pickle, sys; (image,) = pickle.load(sys.stdin.buffer); print(repr((image == int(image), str(image))))"
    )
    content = pickle.dumps((image_id_of(name(1)),))
    told = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=True).stdout
    assert told.decode().strip() == repr((True, name(1)))


def test_shards_that_share_images_are_refused_by_their_text(folder, tmp_path):
    for number in (1, 2):
        score_folder(folder / "gt.json", folder / "pred.json", out=tmp_path / f"s.{number}")
    assert name(1) in refused("runs", "merge", tmp_path / "s.1", tmp_path / "s.2", "--out", tmp_path / "s")


def test_messages_show_the_text_id(folder):
    change(folder / "pred.json", lambda pred: pred["annotations"].pop(0))
    first = json.loads((folder / "gt.json").read_text())["annotations"][0]["image_id"]
    assert f"no prediction for 1 of 16 images: {first}." in refused(*score(folder))
    change(folder / "gt.json", lambda gt: gt["annotations"][1]["segments_info"][0].update(area=10**6))
    second = json.loads((folder / "gt.json").read_text())["annotations"][1]["image_id"]
    assert f"For example image {second}: segment" in ran(*score(folder, "--allow-missing")).stderr


def test_a_stored_run_has_text_ids_wherever_it_is_read(folder):
    ran(*score(folder, "--out", folder / "run"))
    known = {name(image["id"]) for image in json.loads((SCENES / "gt.json").read_text())["images"]}
    assert {str(image) for image in load_run(folder / "run").image_ids()} == known
    ran("export", "parquet", folder / "run", "--out", folder / "tables")
    assert set(pd.read_parquet(folder / "tables" / "segments.parquet")["image_id"]) == known
    assert "frankfurt_000000_" in ran("errors", folder / "run").stdout
    worst = sorted(known)[0]
    (folder / "slices.csv").write_text(f"image_id,night\n{worst},yes\n")
    assert "\nyes " in ran("metrics", folder / "run", "--slices", folder / "slices.csv").stdout


def test_a_page_has_text_ids_for_its_scripts(folder):
    ran(*score(folder, "--out", folder / "run"))
    ran("report", folder / "run", "--out", folder / "page.html")
    page = (folder / "page.html").read_text("utf-8")
    data = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert set(data["image_names"].values()) == {str(image) for image in load_run(folder / "run").image_ids()}
    assert {int(number) for number in data["image_names"]} == set(data["images"]["ids"])
    assert all(error["name"].startswith("frankfurt_") for error in data["wall"]["errors"])


def test_shards_with_text_ids_merge_to_the_run_of_one_process(folder):
    whole = score_folder(folder / "gt.json", folder / "pred.json", out=folder / "whole")
    for share in (1, 2):
        ran(*score(folder, "--shard", f"{share}/2", "--out", folder / f"s.{share}"))
    ran("runs", "merge", folder / "s.1", folder / "s.2", "--out", folder / "merged")
    merged = load_run(folder / "merged")
    assert merged.pq().equals(whole.pq())
    assert [str(image) for image in merged.image_ids()] == [str(image) for image in whole.image_ids()]


@pytest.mark.slow
def test_a_model_runs_on_images_with_text_ids(tmp_path):
    from panbench.catalog import find_model
    from panbench.datasets import open_dataset, shapes
    from panbench.evaluation.evaluate import evaluate
    from panbench.evaluation.options import EvaluateOptions
    from panbench.models.opening import open_model

    shapes.generate(tmp_path / "set", count=3, size=(96, 128))
    gt = tmp_path / "set" / "annotations" / "panoptic_val.json"

    def rename(document: dict) -> None:
        for image, annotation in zip(document["images"], document["annotations"], strict=True):
            image["id"] = annotation["image_id"] = f"scene {image['id']}"

    change(gt, rename)
    dataset = open_dataset(str(tmp_path / "set"), image_ids=[typed("scene 2"), typed("scene 3")])
    model = open_model(find_model("mask2former-tiny"))
    run = evaluate(model, dataset, tmp_path / "run", EvaluateOptions(save_predictions=True, keep_candidates=True))
    written = json.loads((run.path / "predictions.json").read_text())["annotations"]
    assert {annotation["image_id"] for annotation in written} == {"scene 2", "scene 3"}
    again = score_folder(gt, run.path / "predictions.json", allow_missing=True)
    assert again.info.images.missing == 1
    ran("fuse", run.path, "--rule", "maskformer", "--out", tmp_path / "fused")
    assert [str(image) for image in load_run(tmp_path / "fused").image_ids()] == [str(i) for i in run.image_ids()]
    ran("show", "side-by-side", run.path, "--image", "scene 2", "--out", tmp_path / "a.png")


def test_a_text_id_has_the_same_number_everywhere():
    """The numbers are stored in runs, so they must not change."""
    number = image_id_of("frankfurt_000000_000294")
    assert int(number) == 5357668200838133
    assert 2**52 <= number < 2**53
    assert (str(number), f"{number}", own_id(int(number))) == ("frankfurt_000000_000294",) * 3
    assert (own_id(139), typed("139"), typed("frankfurt_000000_000294")) == (139, 139, number)
    # A number that is typed stays one, whatever texts this process has seen.
    assert (typed('"139"'), typed("139")) == (image_id_of("139"), 139)
    assert typed("0001_000294") == image_id_of("0001_000294")
