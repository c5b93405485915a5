"""What GitHub runs: files that parse and say that they were not run there, and a smoke test that fails first."""

import re
import shlex
import shutil
from itertools import product
from pathlib import Path

import pytest
from little_runs import scored
from support import panbench, ran

from panbench.scoring.folder import score_folder

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


SYSTEMS = ("ubuntu-latest", "macos-latest", "windows-latest")


def jobs_of(name: str) -> dict:
    """The jobs of a workflow."""
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text("utf-8"))["jobs"]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_parses_and_is_marked_as_not_run_yet(file):
    yaml = pytest.importorskip("yaml")
    text = file.read_text("utf-8")
    document = yaml.safe_load(text)
    assert document["jobs"]
    # The comment breaks lines where it likes.
    assert "has not been run on GitHub yet" in re.sub(r"\n# ", " ", text)


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_actions_are_pinned_by_commit_or_named_in_the_list_for_the_first_release(file):
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    release = contributing.partition("## Before the first release")[2]
    unpinned = re.search(r"Actions that are not pinned by commit: ([^.]*)\.", release)[1]
    named = [] if unpinned == "none" else re.findall(r"`([^`]+)`", unpinned)
    used = re.findall(r"^\s*(?:- )?uses:(.*)$", file.read_text("utf-8"), re.MULTILINE)
    assert used
    # The tag behind the commit is what a reader, and a tool that proposes newer versions, goes by.
    pinned = r" ([\w.-]+/[\w./-]+)@[0-9a-f]{40} # v\d+\.\d+\.\d+"
    assert [each for each in used if not re.fullmatch(pinned, each) and each.strip() not in named] == []


def test_the_tests_run_on_three_systems_and_four_pythons():
    matrix = jobs_of("tests.yml")["test"]["strategy"]["matrix"]
    included = {(row["os"], row["python"]) for row in matrix["include"]}
    left_out = {row["os"] for row in matrix["exclude"]}
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    every = set(product([system for system in matrix["os"] if system not in left_out], matrix["python"])) | included
    assert every == set(product(SYSTEMS, matrix["python"]))


def test_the_light_install_is_tested_on_three_systems_with_the_first_and_last_python():
    jobs = jobs_of("tests.yml")
    rows = jobs["light"]["strategy"]["matrix"]["include"]
    pythons = jobs["test"]["strategy"]["matrix"]["python"]
    assert {(row["os"], row["python"]) for row in rows} == set(product(SYSTEMS, (pythons[0], pythons[-1])))
    assert [row["os"] for row in rows if not row["experimental"]] == ["ubuntu-latest"] * 2
    lines = [step["run"] for step in jobs["light"]["steps"] if "run" in step]
    assert lines == ["pip install -c constraints.txt .", "python scripts/check/light.py"]
    assert (ROOT / "scripts" / "check" / "light.py").is_file()


def test_the_issue_template_asks_for_the_doctors_report():
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "trouble.yml").read_text("utf-8"))
    doctor = next(part for part in form["body"] if part.get("id") == "doctor")
    assert "`panbench doctor`" in doctor["attributes"]["label"]
    assert doctor["validations"]["required"]


def smoke_gates():
    """The lines of the smoke test that judge its run, as `panbench` takes them."""
    steps = jobs_of("smoke.yml")["coco"]["steps"]
    lines = [line for step in steps for line in step.get("run", "").splitlines() if " gate " in line]
    assert len(lines) == 2
    return [shlex.split(line)[1:] for line in lines]


def smoke(folder, baseline):
    """The exit codes of the gates of the smoke test in a folder that holds results/smoke."""
    return [
        panbench(*(word.replace("$BASELINE", str(baseline)) for word in words), cwd=folder).exit_code
        for words in smoke_gates()
    ]


@pytest.fixture
def run(tmp_path):
    folder = ROOT / "tests" / "reference" / "pq_scenes"
    path = tmp_path / "results" / "smoke"
    score_folder(folder / "gt.json", folder / "pred.json", out=path)
    return path


def test_the_first_smoke_test_fails_as_there_is_no_run_to_compare_with(run, tmp_path):
    assert smoke(tmp_path, tmp_path / "none") == [2, 2]
    kept = tmp_path / "kept"
    shutil.copytree(run, kept)
    assert smoke(tmp_path, kept) == [0, 0]


def test_a_smoke_test_fails_when_pq_drops_or_rises_and_on_other_images(tmp_path):
    images = dict.fromkeys(range(20), "ppppqqqqssss")
    good = scored(tmp_path / "results", "smoke", images, images).path
    worse = scored(tmp_path / "results", "worse", images, dict.fromkeys(images, "pppp....ssss")).path
    assert smoke(tmp_path, worse)[1] == 3, "a rise is as suspicious as a drop"
    good.rename(tmp_path / "good")
    worse.rename(good)
    assert smoke(tmp_path, tmp_path / "good")[0] == 3
    shutil.rmtree(good)
    few = tmp_path / "few"
    scored(few / "results", "smoke", {0: "pppp"}, {0: "pppp"})
    assert smoke(few, tmp_path / "good") == [2, 2]


def test_the_commands_of_the_gate_workflow_run_unchanged(tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml")
    workflow, *_ = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text("utf-8"), re.DOTALL)
    baseline, *_ = re.findall(r"```bash\n(panbench .*?)\n", (ROOT / "docs" / "ci.md").read_text("utf-8"))
    steps = yaml.safe_load(workflow)["jobs"]["gate"]["steps"]
    lines = [step["run"] for step in steps if step.get("run", "").startswith("panbench ")]
    assert [line.split()[1] for line in lines] == ["score", "gate"]

    shutil.copytree(ROOT / "tests" / "reference" / "pq_scenes", tmp_path / "ci")
    shutil.copytree(tmp_path / "ci" / "pred", tmp_path / "predictions")
    shutil.copy(tmp_path / "ci" / "pred.json", tmp_path / "predictions.json")
    monkeypatch.chdir(tmp_path)
    for line in (baseline, *lines):
        ran(*shlex.split(line)[1:])
    assert (tmp_path / "gate.xml").read_text("utf-8").startswith("<?xml")
