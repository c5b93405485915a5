"""`panbench eval` as people first type it: its data, its models, and what is checked before anything runs."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import drawn, panbench, ran, refused

from panbench.catalog import find_model
from panbench.cli import console
from panbench.models import opening
from panbench.models.opening import open_model
from panbench.runs import load_run
from scripts.make.coco_mimic import FaultServer

TINY = find_model("mask2former-tiny")
FAST = ("--limit", "1", "--device", "cpu")


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory, 2, (96, 128))


@pytest.fixture
def mine(monkeypatch, tmp_path) -> Iterator[FaultServer]:
    """A folder of the user's own configs with the model `mine`, whose weights are on a server."""
    content = Path(str(TINY.weights)).read_bytes()
    name = f"/tiny-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    folder = tmp_path / "my configs"
    folder.mkdir()
    with FaultServer({name: content}) as server:
        entry = {"weights": server.url + name, "trained_on": "shapes", "params": 1_000_000}
        (folder / "mine.py").write_text(f"_base_ = {str(TINY.config)!r}\npanbench = {entry!r}\n")
        monkeypatch.setenv("PANBENCH_CONFIGS", str(folder))
        monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
        yield server


def test_a_model_runs_on_the_data_that_it_was_trained_on(tmp_path):
    ran("eval", "--model", TINY.name, *FAST)
    info = json.loads((tmp_path / "results" / f"shapes-{TINY.name}" / "run.json").read_text())
    assert info["dataset"]["name"] == "shapes"


def test_one_line_announces_what_will_run(scenes):
    result = panbench("eval", "--model", TINY.name, "--data", scenes, *FAST)
    assert "Mask2Former tiny on 1 of 2 images of scenes val: " in result.stderr
    assert re.search(r", \d+ threads?; PyTorch 2\.", result.stderr)
    assert "fp32, batch size 1." in result.stderr


def test_the_first_command_of_the_readme_names_all_that_is_missing_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    said = refused("eval", "--model", "mask2former")
    (message,) = [line for line in said.splitlines() if line.startswith("Error: ")]
    for words in ("Mask2Former R50 and COCO val2017", "176 MB of weights", "--download (PANBENCH_DOWNLOAD=1)"):
        assert words in message
    assert list(tmp_path.iterdir()) == []


def test_a_users_model_folder_is_named_and_its_weights_fetched_if_the_variable_allows(mine, scenes):
    assert "panbench models --download mine" in refused("eval", "--model", "mine", "--data", scenes, *FAST)
    assert mine.log == []
    ran("eval", "--model", "mine", "--data", scenes, *FAST, PANBENCH_DOWNLOAD="1")
    assert "mine" in panbench("models").stdout


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("perhaps", 2)])
def test_on_a_terminal_the_download_question_is_asked_once(mine, scenes, monkeypatch, answer, code):
    asked: list[str] = []
    monkeypatch.setattr(console, "terminal_question", lambda: lambda words: asked.append(words) or answer)
    result = panbench("eval", "--model", "mine", "--data", scenes, *FAST)
    assert (result.exit_code, asked) == (code, ["Fetch 4 MB of weights? [Y/n] "])
    assert bool(mine.log) == (code == 0)


def test_two_models_of_one_name_are_refused_with_both_files(mine, tmp_path):
    folder = tmp_path / "my configs"
    (folder / "mask2former-tiny.py").write_text((folder / "mine.py").read_text())
    said = refused("models")
    assert "my configs/mask2former-tiny.py" in said
    assert str(TINY.config) in said


def test_id_pngs_elsewhere_can_be_named_after_their_json(scenes, tmp_path):
    gt = scenes / "annotations" / "panoptic_val.json"
    alone = shutil.copy(gt, tmp_path / "gt.json")
    line = ("eval", "--model", TINY.name, "--images", scenes / "val", "--limit", "1", *FAST, "--out", "run", "--gt")
    assert "gt" in refused(*line, alone)
    ran(*line, f"{alone},{scenes / 'annotations' / 'panoptic_val'}")
    ran(*line[:-3], "--out", "beside", "--gt", gt)
    assert load_run(tmp_path / "run").summary() == load_run(tmp_path / "beside").summary()


def test_a_pattern_names_all_models_that_it_fits():
    missing = panbench("eval", "--model", "maskformer-*", "--data", "coco")
    assert "MaskFormer R50 and MaskFormer Swin-L" in missing.stderr
    assert "Left out, as trained on other data than coco: maskformer-tiny." in missing.stderr
    assert "on shapes and" in refused("eval", "--model", "all")
    assert "No model is named like 'no-such-*'" in refused("eval", "--model", "no-such-*")


def test_categories_of_all_models_are_checked_before_the_first_one_runs(scenes, tmp_path):
    other = tmp_path / "other.py"
    names = tuple(f"kind {number}" for number in range(9))
    loader = f"dict(dataset=dict(metainfo=dict(classes={names!r})))"
    other.write_text(f"_base_ = {str(TINY.config)!r}\ntest_dataloader = {loader}\n")
    command = ("eval", "--model", TINY.name, "--config", other, "--checkpoint", "random", "--data", scenes, *FAST)
    assert "other and the dataset have different categories" in refused(*command)
    assert not (tmp_path / "results").exists()


def test_several_models_log_one_line_before_and_one_after_their_results(scenes, monkeypatch):
    opened = []
    monkeypatch.setattr(
        opening, "open_model", lambda spec, **rest: opened.append(spec.name) or open_model(spec, **rest)
    )
    result = ran("eval", "--model", f"{TINY.name},maskformer-tiny", "--data", scenes, *FAST)
    before, after = result.stderr.splitlines()
    assert before.startswith("2 models on 1 of 2 images of scenes val: ")
    assert after.startswith("Again at any time: `panbench compare results/scenes-mask2former-tiny results/")
    assert result.stdout.lower().count("a subset: 1 of 2 images") == 1
    assert opened == [TINY.name, "maskformer-tiny"]


def test_every_command_that_runs_models_accepts_a_users_model(scenes, tmp_path):
    photo = next((scenes / "val").iterdir())
    own = ("--config", TINY.config, "--checkpoint", TINY.weights)
    ran("predict", photo, *own, "--out", "out")
    ran("bench", *own, "--size", "64x96", "--count", "1", "--warm-up", "0", "--device", "cpu")
    ran("show", "attention", "--model", TINY.config, "--photo", photo, "--query", "0")
    for command in (("predict", photo), ("bench",), ("show", "attention", "--photo", photo)):
        assert panbench(*command).exit_code == 2


def test_photographs_without_ground_truth_are_timed(scenes, tmp_path):
    result = ran("eval", "--model", TINY.name, "--images", scenes / "val", "--out", "run")
    assert "Only timed: without --gt nothing is scored." in result.stderr
    assert "on 2 photographs of val:" in result.stderr
    assert "| All" not in result.stdout, "a table of nothing"
    # Two images are too few for a rate.
    assert "2 images in " in result.stderr
    assert "too few batches for images a second" in result.stderr
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["images"]["scored"], info["summary"]["All"]["PQ"]) == (2, None)
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    for wrong, words in ((empty, "holds no image"), (tmp_path / "text.jpg", "cannot be decoded")):
        refused = panbench("eval", "--model", TINY.name, "--images", wrong, "--out", "other")
        assert (refused.exit_code, words in refused.stderr) == (2, True), refused.stderr
        assert refused.stderr.count("Error: ") == 1
    assert not (tmp_path / "other").exists()


def test_bench_takes_photographs_and_rejects_a_number_in_their_place(scenes):
    own = ("bench", "--model", TINY.name, "--warm-up", "0", "--device", "cpu")
    timed = ran(*own, "--images", scenes / "val", "--count", "1", columns=80)
    assert max(map(len, timed.stdout.splitlines())) <= 80
    assert "write --count 20" in refused(*own, "--images", "20")


def test_bench_begins_with_a_line_for_each_model_and_marks_random_weights(scenes):
    command = ("bench", "--model", f"{TINY.name},maskformer-tiny", "--checkpoint", "random", "--size", "64x96")
    result = ran(*command, "--count", "1", "--warm-up", "0", "--device", "cpu", columns=80)
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["Model", "Img/s"]
    assert [line.split()[0] for line in lines[1:3]] == [f"{TINY.name}*", "maskformer-tiny*"]
    assert "* random weights" in result.stdout
    assert f"{TINY.name} (random weights)" in result.stdout


@pytest.mark.parametrize("command", [["eval"], ["bench"], ["predict", "photo.jpg"]])
def test_a_missing_file_of_weights_is_refused_at_once(command, tmp_path):
    said = refused(*command, "--model", "mask2former-tiny", "--checkpoint", tmp_path / "my.pth")
    assert said == (
        f"Error: --checkpoint {tmp_path}/my.pth: no such file. Give a path, or random for untrained weights.\n"
    )
    assert "the seed 'seven' is not a whole number" in refused(
        *command, "--model", "mask2former-tiny", "--checkpoint", "random:seven"
    )


def test_results_are_alone_on_stdout_as_json(scenes, tmp_path):
    result = ran("eval", "--model", TINY.name, "--data", scenes, *FAST, "--rule", "paper,argmax", "--json")
    paper, argmax = json.loads(result.stdout)
    assert [Path(found["path"]).is_dir() for found in (paper, argmax)] == [True, True]
    assert argmax["rule"].startswith("argmax")
    assert paper["per_category"]
    assert paper["All"]["PQ"] == paper["PQ"]
    stored = json.loads(panbench("compare", paper["path"], "--json").stdout)
    assert [row["PQ"] for row in stored] == [paper["PQ"]]
    assert "contradict" in refused("compare", paper["path"], "--json", "--format", "csv")
