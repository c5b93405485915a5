"""What photographs' files say of them, all the way to the reporter, the record and the comparison."""

import dataclasses
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support import Recorder, Stop, evaluated, panbench, ran

from panbench.base.errors import BadDataset, BadModel, BadRun
from panbench.catalog import ModelSpec, find_model
from panbench.datasets import Dataset, open_dataset, shapes
from panbench.models.opening import open_model
from panbench.report.answers.tables import comparison_rows
from panbench.report.figures.pictures import Pictures
from panbench.runs import load_run


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return find_model("mask2former-tiny")


@pytest.fixture(scope="session")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen square scenes whose photographs are JPEGs."""
    root = tmp_path_factory.mktemp("upright")
    shapes.generate(root, count=16, size=(96, 96))
    listing = root / "annotations" / "panoptic_val.json"
    content = json.loads(listing.read_text())
    for image in content["images"]:
        photograph = root / "val" / image["file_name"]
        image["file_name"] = f"{photograph.stem}.jpg"
        Image.open(photograph).convert("RGB").save(photograph.with_suffix(".jpg"), quality=95)
    listing.write_text(json.dumps(content))
    return root


def with_photographs(
    upright: Path, folder: Path, orientation: dict[int, int], extraneous: tuple[int, ...] = ()
) -> Path:
    """The scenes with other photographs: EXIF orientations, and bytes before the last marker. Pixels stay."""
    images = json.loads((upright / "annotations" / "panoptic_val.json").read_text())["images"]
    (folder / "val").mkdir(parents=True)
    (folder / "annotations").symlink_to(upright / "annotations")
    for image in images:
        content = (upright / "val" / image["file_name"]).read_bytes()
        if image["id"] in orientation:
            exif = Image.Exif()
            exif[0x0112] = orientation[image["id"]]
            block = b"Exif\0\0" + exif.tobytes().removeprefix(b"Exif\0\0")
            content = content[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + content[2:]
        if image["id"] in extraneous:
            content = content[:-2] + bytes(50) + content[-2:]
        (folder / "val" / image["file_name"]).write_bytes(content)
    return folder


@pytest.fixture(scope="session")
def turned(upright: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight of sixteen photographs on their head or on their side, three with bytes too many."""
    orientation = {image_id: (3, 6, 8)[image_id % 3] for image_id in range(2, 17, 2)}
    return with_photographs(upright, tmp_path_factory.mktemp("turned") / "set", orientation, (1, 2, 3))


def test_eight_loaders_count_orientations_and_extraneous_bytes_and_report_once(turned, spec, tmp_path):
    recorder = Recorder()
    run = evaluated(spec, open_dataset(turned), tmp_path / "run", recorder, workers=8, batch_size=2)
    assert (run.info.images.oriented, run.info.images.extraneous) == (8, 3)
    assert run.info.arguments["exif"] == "apply"
    first, second = recorder.notices
    assert first.startswith("8 of 16 photographs have an EXIF orientation other than upright, such as ")
    assert f"{turned / 'val'}" in first
    assert "rotated accordingly, as mmdet and OpenCV do" in first
    assert "--exif ignore" in first
    assert second.startswith("3 of 16 images are JPEGs with extraneous bytes, such as ")


def test_upright_photographs_cause_no_notice(upright, spec, tmp_path):
    recorder = Recorder()
    run = evaluated(spec, open_dataset(upright, limit=3), tmp_path / "run", recorder)
    assert recorder.notices == []
    assert (run.info.images.oriented, run.info.images.extraneous) == (0, 0)


def test_ignoring_orientation_segments_the_pixels_as_stored(upright, turned, spec, tmp_path):
    recorder = Recorder()
    plain = evaluated(spec, open_dataset(upright), tmp_path / "plain")
    ignored = evaluated(spec, open_dataset(turned, exif="ignore"), tmp_path / "ignored", recorder)
    applied = evaluated(spec, open_dataset(turned), tmp_path / "applied")
    assert ignored.overlaps().equals(plain.overlaps())
    assert not applied.overlaps().equals(plain.overlaps())
    assert applied.summary()["All"]["PQ"] < plain.summary()["All"]["PQ"]
    assert ignored.info.arguments["exif"] == "ignore"
    assert "They were read as stored (--exif ignore)." in recorder.notices[0]


def test_compare_reports_runs_that_treat_orientation_differently(turned, spec, tmp_path):
    runs = [evaluated(spec, open_dataset(turned, limit=2, exif=exif), tmp_path / exif) for exif in ("apply", "ignore")]
    first, second = comparison_rows(runs)
    assert "photographs rotated by their EXIF" in first.notes
    assert "photographs as stored (--exif ignore)" in second.notes
    assert not any("EXIF" in note for row in comparison_rows(runs[:1] * 2) for note in row.notes)


def test_resume_adds_up_orientation_counts_and_refuses_another_treatment(turned, spec, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evaluated(spec, open_dataset(turned), tmp_path / "run", Stop(6, KeyboardInterrupt()), workers=1)
    assert 0 < load_run(tmp_path / "run").info.images.scored < 16
    with pytest.raises(BadRun, match="exif was 'apply' and is now 'ignore'"):
        evaluated(spec, open_dataset(turned, exif="ignore"), tmp_path / "run", resume=True)
    run = evaluated(spec, open_dataset(turned), tmp_path / "run", resume=True)
    assert (run.info.images.oriented, run.info.images.extraneous) == (8, 3)


def test_a_photograph_that_fits_only_unrotated_is_refused_with_the_option_to_use(spec, tmp_path):
    shapes.generate(tmp_path / "wide", count=1, size=(96, 128))
    (scene,) = open_dataset(tmp_path / "wide").scenes
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(scene.image_path).convert("RGB").save(scene.image_path, exif=exif)
    with pytest.raises(BadDataset, match=r"is 128×96 once it is turned .*--exif ignore"):
        evaluated(spec, open_dataset(tmp_path / "wide"), tmp_path / "run")
    run = evaluated(spec, open_dataset(tmp_path / "wide", exif="ignore"), tmp_path / "ignored")
    assert run.info.images.oriented == 1


def test_a_pipeline_without_rotation_is_not_reported_to_rotate(turned, spec, tmp_path):
    config = tmp_path / "lying.py"
    config.write_text(
        f"_base_ = {str(spec.config)!r}\n"
        "test_pipeline = [dict(type='LoadImageFromFile', color_type='color_ignore_orientation'), "
        "dict(type='Resize', scale=(96, 96), keep_ratio=True), "
        "dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape', 'img_shape', 'scale_factor'))]\n"
        "test_dataloader = dict(dataset=dict(pipeline=test_pipeline))\n"
    )
    model = open_model(dataclasses.replace(spec, config=config), device="cpu")
    scenes = open_dataset(turned).scenes
    assert model.load(scenes[0]).facts.orientation == 1
    with pytest.raises(BadModel, match=r"reads photographs as stored\. Say so with --exif ignore"):
        model.load(scenes[1])
    assert model.load(dataclasses.replace(scenes[1], exif="ignore")).facts.orientation != 1


def test_a_corrupted_photograph_keeps_its_orientation_facts(turned, spec):
    corruptions = pytest.importorskip("panbench.studies.robustness.corruptions")
    corrupted = pytest.importorskip("panbench.studies.robustness.corrupted_runs")
    model = corrupted.CorruptedModel(open_model(spec, device="cpu"), corruptions.Corruption("brightness", 1))
    assert model.load(open_dataset(turned).scenes[1]).facts.orientation == 8


def test_pictures_rotate_photographs_as_the_model_did(turned, spec, tmp_path):
    for exif, flags in (("apply", 0), ("ignore", cv2.IMREAD_IGNORE_ORIENTATION)):
        run = evaluated(spec, open_dataset(turned, limit=2, exif=exif), tmp_path / exif)
        shown = Pictures(run).photo(2)
        path = str(Pictures(run).path(2))
        np.testing.assert_array_equal(shown[..., ::-1], cv2.imread(path, cv2.IMREAD_COLOR | flags))


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_the_command_line_has_an_option_for_exif_orientation(turned, tmp_path, exif):
    result = ran(
        "eval", "-m", "mask2former-tiny", "--data", turned, "--limit", "2", "--exif", exif, "--out", tmp_path / "run"
    )
    assert "1 of 2 photographs have an EXIF orientation other than upright" in " ".join(result.stderr.split())
    assert load_run(tmp_path / "run").info.arguments["exif"] == exif
    assert panbench("eval", "-m", "mask2former-tiny", "--data", turned, "--exif", "no").exit_code == 2


@pytest.mark.parametrize("exif", ["apply", "ignore"])
def test_predict_writes_maps_of_the_pixels_it_saw(tmp_path, exif):
    pixels = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    orientation = Image.Exif()
    orientation[0x0112] = 6
    handle = io.BytesIO()
    Image.fromarray(pixels).save(handle, "JPEG", exif=orientation)
    (tmp_path / "photo.jpg").write_bytes(handle.getvalue())
    result = ran("predict", tmp_path / "photo.jpg", "-m", "mask2former-tiny", "--exif", exif, "--out", tmp_path / "out")
    how = "rotated accordingly" if exif == "apply" else "read as stored"
    assert f"and were {how}, with their id PNGs." in " ".join(result.stderr.split())
    size = (128, 96) if exif == "apply" else (96, 128)
    assert cv2.imread(str(tmp_path / "out" / "ids" / "photo.png")).shape[:2] == size


def test_bench_takes_photographs_as_they_are_stored(turned, tmp_path):
    ran(
        "bench", "-m", "mask2former-tiny", "--images", turned / "val", "--count", "1", "--warm-up", "0",
        "--exif", "ignore", "--out", tmp_path,
    )  # fmt: skip
    assert json.loads((tmp_path / "bench.json").read_text())["rows"][0]["status"] == "ok"


def test_orientation_is_the_only_setting_that_changes_with_exif(upright):
    dataset: Dataset = open_dataset(upright)
    ignoring = dataset.with_exif("ignore")
    assert {scene.exif for scene in ignoring.scenes} == {"ignore"}
    assert ignoring.with_exif("apply") == dataset


def test_predict_puts_several_models_and_rules_side_by_side(upright, tmp_path):
    photo = upright / "val" / "000001.jpg"
    photo = photo if photo.exists() else sorted((upright / "val").glob("*.jpg"))[0]
    command = ("predict", photo, "--device", "cpu", "--out", tmp_path / "out", "--dpi", "40")
    result = ran(*command, "--model", "mask2former-tiny,maskformer-tiny", "--rule", "paper,argmax")
    assert result.stdout.split() == [str(tmp_path / "out" / f"{photo.stem}.side-by-side.png")]
    folders = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert folders == [f"mask{kind}former-tiny-{rule}" for kind in ("2", "") for rule in ("argmax", "paper")]
    maps = {name: cv2.imread(str(tmp_path / "out" / name / "ids" / f"{photo.stem}.png")) for name in folders}
    assert (maps["mask2former-tiny-paper"] != maps["mask2former-tiny-argmax"]).any()
    ran("predict", photo, "--device", "cpu", "--out", tmp_path / "own", "-m", "mask2former-tiny")
    assert (cv2.imread(str(tmp_path / "own" / "ids" / f"{photo.stem}.png")) == maps["mask2former-tiny-paper"]).all()
    again = panbench(*command, "--model", "mask2former-tiny,maskformer-tiny", "--rule", "paper,argmax")
    assert (again.exit_code, "--overwrite" in again.stderr) == (2, True)


def test_bench_measures_each_rule_separately(tmp_path):
    small = ("--size", "64x96", "--count", "1", "--warm-up", "0", "--device", "cpu")
    result = ran("bench", "-m", "mask2former-tiny", "--rule", "paper,argmax", *small, "--json")
    assert [row["rule"] for row in json.loads(result.stdout)["rows"]] == ["paper", "argmax"]
