import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import one_sentence, panbench, ran

from panbench.datasets import fetch as fetch_module
from panbench.panoptic.coco import write_id_png
from scripts.make.coco_mimic import FaultServer, Mimic, build_mimic

REFERENCE = Path(__file__).parents[1] / "reference"

run = functools.partial(panbench, "data")


@pytest.fixture(scope="module")
def mimic() -> Mimic:
    return build_mimic()


@pytest.fixture
def server(mimic, monkeypatch) -> Iterator[FaultServer]:
    """A server in the place of COCO's host, by the same variable that a user would set."""
    monkeypatch.setattr(fetch_module, "COCO", mimic.at("http://images.cocodataset.org"))
    with FaultServer(mimic.files) as server:
        monkeypatch.setenv("PANBENCH_MIRROR_COCO", server.url)
        yield server


def test_a_second_fetch_of_coco_only_verifies(server, tmp_path):
    root = tmp_path / "data é" / "coco"
    first = ran("data", "coco", "--limit", 4, "--root", root)
    assert "4 images and 4 ground-truth PNGs verified" in first.stdout
    assert f"panbench eval --model NAME --data {root} --limit 4" in first.stderr
    server.log.clear()
    assert "nothing to download" in run("coco", "--limit", 4, "--root", root).stdout
    assert server.log == []


def test_fetched_data_pass_the_check(server, tmp_path):
    ran("data", "coco", "--root", tmp_path)
    shown = ran("data", "check", tmp_path).stdout
    assert "images 12" in shown
    assert "No findings" in shown


def test_test_dev_has_a_list_of_images(server, tmp_path):
    result = run("coco", "--split", "test-dev", "--root", tmp_path)
    assert "3 images verified" in result.stdout
    assert "panoptic_image_info_test-dev2017.json" in result.stdout


def test_findings_are_grouped_with_their_reason_and_end_in_exit_code_1(server, tmp_path):
    run("coco", "--root", tmp_path)
    pngs = sorted((tmp_path / "annotations" / "panoptic_val2017").iterdir())
    for path in pngs:
        path.unlink()
    result = run("check", tmp_path)
    assert result.exit_code == 1
    assert "error: missing-png (12)" in result.stdout
    assert f"panoptic_val2017/{pngs[0].name}: The id PNG of image 1 was not found." in result.stdout
    assert "… and 2 more" in result.stdout
    assert "12 errors, 0 warnings: fix the errors before scoring this set." in result.stdout
    everything = run("check", tmp_path, "--all").stdout
    assert all(path.name in everything for path in pngs)


def test_json_has_every_finding_and_nothing_else(server, tmp_path):
    run("coco", "--root", tmp_path)
    for path in (tmp_path / "val2017").iterdir():
        path.unlink()
    result = run("check", tmp_path, "--json")
    record = json.loads(result.stdout)
    assert result.exit_code == 1
    assert len(record["findings"]) == record["errors"] == 12


def test_warnings_alone_end_in_exit_code_0(server, tmp_path):
    run("coco", "--root", tmp_path)
    (tmp_path / "val2017").rename(tmp_path / "elsewhere")
    assert "warning: no-images" in ran("data", "check", tmp_path).stdout
    assert run("check", tmp_path, "--images", tmp_path / "elsewhere").stdout.count("No findings") == 1


@pytest.mark.parametrize("how", ["link", "copy", "none"])
def test_converted_cityscapes_passes_the_check(tmp_path, how):
    raw = tmp_path / "raw"
    shutil.copytree(REFERENCE / "cityscapes" / "gtFine", raw / "gtFine")
    for path in (raw / "gtFine").rglob("*.png"):
        name = path.name.replace("gtFine_instanceIds", "leftImg8bit")
        (raw / "leftImg8bit" / "val" / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 24)).save(raw / "leftImg8bit" / "val" / path.parent.name / name)
    assert "2 images" in ran("data", "cityscapes", raw, "--root", tmp_path / "out", "--place", how).stdout
    ran("data", "check", tmp_path / "out")
    assert (tmp_path / "out" / "val").exists() == (how != "none")


def test_label_maps_are_converted_both_ways(tmp_path):
    source, made = REFERENCE / "panopticapi_converters", tmp_path / "set/annotations/panoptic_val.json"
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "7.npz", labels=np.full((2, 2), 187), instances=np.zeros((2, 2), int))
    categories = ("--categories", source / "categories.json")
    ran("data", "convert", "two-channel", source / "twochannel", "--out", tmp_path / "set", *categories)
    back = ran("data", "convert", "detection", made, "--out", tmp_path / "d.json")
    assert f"{tmp_path / 'd.json'}: 8 annotations." in back.stdout
    ran("data", "convert", "arrays", tmp_path / "npz", "--out", tmp_path / "a", "--categories", "coco")
    ran("data", "convert", "panoptic", made, "--out", tmp_path / "again")


def test_instances_without_stuff_are_reported_as_a_set_of_things(tmp_path):
    square = [[0, 0, 2, 0, 2, 2, 0, 2]]
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": square}],
        "categories": [{"id": 3, "name": "screw"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    made = ran("data", "convert", "instances", tmp_path / "instances.json", "--out", tmp_path / "set")
    assert "1 image, 1 segment." in made.stdout
    assert "A set of things only: what no instance covers is void." in made.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "arrays", "x", "--out", "y"], "--categories"),
        (["convert", "instances", "x", "--out", "y", "--semantic", "z"], "needs --categories"),
        (["convert", "instances", "x.json", "--out", "y"], "x.json"),
        (["convert", "arrays", "x", "--out", "y", "--categories", "coco"], "is not a folder"),
        (["check", "x"], "was not found"),
        (["cityscapes", "x"], "gtFine"),
        (["ade20k", "x"], "ADE20K"),
        (["mapillary", "x"], "Mapillary"),
        (["kitti-step", "x"], "kitti-step.tar.gz"),
        (["coconut", "x.json"], "--gt-dir"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tmp_path, arguments, message):
    assert message in one_sentence("data", *arguments, cwd=tmp_path)


def test_export_says_what_is_in_the_zip(tmp_path):
    write_id_png(tmp_path / "mine" / "000000000007.png", np.full((2, 3), 5, np.int32))
    annotation = {"image_id": 7, "file_name": "000000000007.png", "segments_info": [{"id": 5, "category_id": 1}]}
    (tmp_path / "mine.json").write_text(json.dumps({"annotations": [annotation]}))
    (tmp_path / "images.json").write_text(json.dumps({"images": [{"id": 7, "height": 2, "width": 3}]}))
    line = ("export", "coco-server", "mine.json", "--out", "o.zip", "--image-list", "images.json")
    result = ran(*line, cwd=tmp_path)
    assert "1 images, 1 segments" in result.stdout
    assert "panoptic_test-dev2017_mine_results.json" in result.stdout
    assert (tmp_path / "o.zip").exists()
