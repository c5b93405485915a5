"""What GitHub runs: files that parse and say that they were not run there, and a smoke test that fails first."""

import json
import re
from pathlib import Path

import pytest
from smoke_interval import check

from panbench.scoring.folder import score_folder

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_parses_and_says_that_it_was_not_run_yet(file):
    yaml = pytest.importorskip("yaml")
    text = file.read_text("utf-8")
    document = yaml.safe_load(text)
    assert document["jobs"]
    # The comment breaks lines where it likes.
    assert "has not been run on GitHub yet" in re.sub(r"\n# ", " ", text)


def test_the_tests_run_on_three_systems_and_four_pythons():
    yaml = pytest.importorskip("yaml")
    matrix = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text("utf-8"))["jobs"]["test"][
        "strategy"
    ]
    included = {(row["os"], row["python"]) for row in matrix["matrix"]["include"]}
    left_out = {row["os"] for row in matrix["matrix"]["exclude"]}
    pythons = matrix["matrix"]["python"]
    assert pythons == ["3.10", "3.11", "3.12", "3.13"]
    every = {
        (system, python) for system in matrix["matrix"]["os"] if system not in left_out for python in pythons
    } | included
    assert every == {(f"{name}-latest", python) for name in ("ubuntu", "macos", "windows") for python in pythons}


def test_the_template_for_trouble_asks_for_the_doctor():
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "trouble.yml").read_text("utf-8"))
    doctor = next(part for part in form["body"] if part.get("id") == "doctor")
    assert "`panbench doctor`" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"]


@pytest.fixture
def run(tmp_path):
    folder = ROOT / "tests" / "reference" / "pq_scenes"
    score_folder(folder / "gt.json", folder / "pred.json", out=tmp_path / "run", index=False)
    return tmp_path / "run"


def test_the_first_smoke_test_writes_the_interval_and_fails(run, tmp_path):
    file = tmp_path / "smoke" / "interval.json"
    code, sentence = check(run, file)
    assert code == 1
    assert "There was no interval: look at" in sentence
    written = json.loads(file.read_text("utf-8"))
    assert written["low"] < written["PQ"] < written["high"]
    assert written["images"] == list(range(16))
    assert check(run, file)[0] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 60.0, "high": 61.0}, "PQ is 51.249 on 16 images, outside 60.0 to 61.0"),
        ({"images": [0, 1]}, "has other images than"),
    ],
)
def test_a_smoke_test_fails_outside_its_interval_and_on_other_images(run, tmp_path, change, words):
    file = tmp_path / "interval.json"
    check(run, file)
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **change}), "utf-8")
    code, sentence = check(run, file)
    assert code == 1
    assert words in sentence
