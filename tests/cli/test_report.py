"""`panbench report`, `show` and `predict` as users meet them: what they write, and what they refuse."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from little_runs import everything
from support import one_sentence, panbench, ran, refused

from panbench.panoptic.coco import read_id_png, read_panoptic_json

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "tests" / "reference" / "pq_edges"


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """A folder with the run `scored` of the reference predictions, and photographs for them."""
    folder = tmp_path_factory.mktemp("cli")
    ran(*("score", "--gt", REFERENCE / "gt.json", "--pred", REFERENCE / "pred.json", "--out", "scored"), cwd=folder)
    return folder


def photographs(folder: Path) -> Path:
    """Grey photographs of the sizes that the reference's JSON lists."""
    target = folder / "photos"
    target.mkdir(exist_ok=True)
    for image in json.loads((REFERENCE / "gt.json").read_bytes())["images"]:
        grey = np.full((image["height"], image["width"], 3), 127, np.uint8)
        cv2.imwrite(str(target / Path(image["file_name"]).with_suffix(".png").name), grey)
        cv2.imwrite(str(target / image["file_name"]), grey)
    return target


def first_image() -> int:
    return json.loads((REFERENCE / "gt.json").read_bytes())["images"][0]["id"]


def test_report_writes_one_file_and_reports_what_it_left_out(scored):
    done = ran("report", "scored", "--out", "page.html", cwd=scored)
    assert done.stdout == "page.html\n"
    assert "does not say where its images are. Give their folder with --images." in done.stderr
    page = (scored / "page.html").read_text("utf-8")
    assert "</html>" in page
    told = panbench("report", "scored", "--out", "page.html", "--images", photographs(scored), cwd=scored)
    assert told.stderr == ""
    assert len((scored / "page.html").read_text("utf-8")) > len(page)


def test_a_scored_run_remembers_its_images_and_the_page_opens_on_request(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    photos = photographs(tmp_path)
    inputs = ("--gt", REFERENCE / "gt.json", "--pred", REFERENCE / "pred.json", "--images", photos)
    assert panbench("score", *inputs, "--out", "scored", cwd=tmp_path).exit_code == 0
    done = panbench("report", "scored", "--out", "page.html", "--open", cwd=tmp_path)
    assert (done.exit_code, done.stderr) == (0, "")
    assert opened == [(tmp_path / "page.html").resolve().as_uri()]
    assert '"photo":"data:image/jpeg' in (tmp_path / "page.html").read_text("utf-8")
    assert "There is no folder nowhere with the images." in refused(
        "score", *inputs[:4], "--images", "nowhere", "--out", "other", cwd=tmp_path
    )


def test_show_draws_scored_predictions(scored):
    where = ["--image", first_image(), "--images", photographs(scored)]
    for command, name in (
        (["overlay", "scored"], "overlay.png"),
        (["overlay", "scored", "--truth"], "truth.svg"),
        (["side-by-side", "scored", "scored"], "side.pdf"),
        (["diff", "gt", "scored"], "diff.png"),
    ):
        done = panbench("show", *command, *where, "--out", name, cwd=scored)
        assert (done.exit_code, done.stdout) == (0, f"{name}\n"), done.stderr
        assert (scored / name).stat().st_size > 500


def test_show_plot_writes_its_numbers_next_to_the_plot(scored):
    done = panbench("show", "plot", "causes", "scored", "--csv", cwd=scored)
    assert done.stdout.split() == ["causes.pdf", "causes.csv"]
    assert (scored / "causes.csv").read_text().startswith("run,cause,lost,gain,")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "nowhere"], "There is no run nowhere"),
        (["report", "scored", "--out", "page.pdf"], "does not end in .html"),
        (["report", "scored", "--image", "987654"], "--image 987654: the runs have no image with this id."),
        (["show", "overlay", "scored", "--image", "987654"], "has no image 987654"),
        (["show", "diff", "gt", "gt", "--image", "1"], "gt and gt do not differ"),
        (["show", "plot", "pie", "scored"], "There is no plot 'pie'"),
        (["show", "plot", "images", "scored"], "The plot images shows 2 run(s), not 1."),
        (["show", "attention", "--image", "1"], "Give --model and --photo, or --run and --image."),
        (["show", "attention", "--run", "scored", "--image", "1"], "there is no model to inspect"),
        (["predict", "absent.jpg", "--model", "maskformer-tiny"], "There is no image absent.jpg."),
        (["predict", "scored", "--model", "maskformer-tiny"], "holds no image"),
        (["predict", "scored/run.json", "--model", "maskformer-tiny"], "cannot be decoded as an image."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused_in_one_sentence(scored, arguments, message):
    assert message in one_sentence(*arguments, cwd=scored)


def test_predict_writes_overlay_id_map_and_json_and_keeps_the_rest_of_the_folder(tmp_path):
    weights = ROOT / "configs" / "weights" / "maskformer-tiny.safetensors"
    if not weights.is_file():
        pytest.skip("configs/weights lacks maskformer-tiny")
    rng = np.random.default_rng(0)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "same name.png"), rng.integers(0, 255, (64, 96, 3), np.uint8))
    (tmp_path / "b" / "broken.jpg").write_bytes(b"no image")
    done = ran("predict", "a", "b", "--model", "maskformer-tiny", "--out", "out", cwd=tmp_path)
    left_out, took = done.stderr.splitlines()
    assert left_out == "Note: Left out: b/broken.jpg cannot be decoded as an image."
    assert re.fullmatch(r"Note: \d+\.\d\d s per image on \S+ \(median of 2, without pictures\)\.", took)
    assert done.stdout.splitlines() == ["out/same name.overlay.png", "out/same name-2.overlay.png", "out/ids.json"]
    written = read_panoptic_json(tmp_path / "out" / "ids.json")
    for image_id, annotation in written.annotations.items():
        ids = read_id_png(written.png_path(image_id), (64, 96))
        assert {segment.id: segment.area for segment in annotation.segments} == {
            key: int((ids == key).sum()) for key in np.unique(ids) if key
        }
    assert cv2.imread(str(tmp_path / "out" / "same name.overlay.png")).shape == (11 * 64, 11 * 96, 3)
    assert "--overwrite" in refused("predict", "a", "--model", "maskformer-tiny", "--out", "out", cwd=tmp_path)
    figure = ("--out", "figure", "--width", 2, "--dpi", 50)
    ran("predict", "a", "--model", "maskformer-tiny", *figure, cwd=tmp_path)
    assert cv2.imread(str(tmp_path / "figure" / "same name.overlay.png")).shape[1] == 100


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "run", "--out", "gt.json"),
        ("compare", "run", "--out", "run/run.json"),
        ("show", "plot", "causes", "run", "--out", "run/predictions.png"),
        ("show", "overlay", "run", "--image", "IMAGE", "--out", "gt/FILE.png"),
        ("show", "overlay", "run", "--image", "IMAGE", "--out", "pred/FILE.png"),
        ("show", "side-by-side", "run", "--image", "IMAGE", "--out", "photos/FILE.png"),
        ("show", "diff", "gt", "run", "--image", "IMAGE", "--out", "link.png"),
    ],
)
def test_no_output_overwrites_a_file_of_a_run_or_its_data(tmp_path, arguments):
    for name in ("gt", "pred"):
        shutil.copytree(REFERENCE / name, tmp_path / name)
        shutil.copyfile(REFERENCE / f"{name}.json", tmp_path / f"{name}.json")
    listing = json.loads((tmp_path / "gt.json").read_text())
    for image in listing["images"]:
        image["file_name"] = Path(image["file_name"]).with_suffix(".png").name
    (tmp_path / "gt.json").write_text(json.dumps(listing))
    photos = photographs(tmp_path)
    ran(*("score", "--gt", "gt.json", "--pred", "pred.json", "--images", photos, "--out", "run"), cwd=tmp_path)
    name = Path(listing["images"][0]["file_name"]).stem
    (tmp_path / "link.png").symlink_to(tmp_path / "gt" / f"{name}.png")
    before = everything(tmp_path)
    words = [word.replace("IMAGE", str(first_image())).replace("FILE", name) for word in arguments]
    refused = panbench(*words, cwd=tmp_path)
    assert {path: content for path, content in everything(tmp_path).items() if path in before} == before
    if words[-1] == "run/predictions.png":
        assert refused.exit_code == 0, "a new file, beside what the run holds"
    else:
        assert refused.exit_code == 2
        assert "Give another name." in refused.stderr


def test_predict_overwrites_no_photograph_and_nothing_unless_requested(tmp_path):
    (tmp_path / "ids").mkdir()
    cv2.imwrite(str(tmp_path / "ids" / "a.png"), np.zeros((64, 96, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((64, 96, 3), np.uint8))
    (tmp_path / "b.overlay.png").write_text("mine")
    model = ("--model", "maskformer-tiny", "--checkpoint", "random", "--out", ".")
    for photo, message in (("ids/a.png", "is one of the photographs that are read"), ("b.png", "already exists")):
        assert message in refused("predict", photo, *model, cwd=tmp_path)
    assert panbench("predict", "ids/a.png", *model, "--overwrite", cwd=tmp_path).exit_code == 2
    assert (tmp_path / "b.overlay.png").read_text() == "mine"
