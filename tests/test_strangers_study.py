"""A study of somebody else's works after `pip install` alone, and one that is broken ends nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from little_runs import finished
from support import panbench_program

from panbench.base import references, studies

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run in it, and site/ into which pip has installed the study."""
    home = tmp_path_factory.mktemp("stranger")
    finished(home / "run", 1, 2)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    source = ROOT / "tests" / "strangers_study"
    # A copy: setuptools leaves its build beside the sources.
    copied = home / "source"
    files = [path for path in sorted((source / "panbench_edges").rglob("*")) if path.suffix in (".py", ".html")]
    for path in [source / "pyproject.toml", *files]:
        (copied / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
        (copied / path.relative_to(source)).write_bytes(path.read_bytes())
    subprocess.run([*pip, "--no-build-isolation", "--target", str(home / "site"), str(copied)], check=True)
    return home


def asked(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`panbench …` where the study is installed."""
    return panbench_program(*words, cwd=home, env=environment(home))


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(home / "site"), str(ROOT)])}


def test_a_strangers_command_is_in_help_and_runs(home):
    assert "edges" in asked(home, "--help").stdout
    answered = asked(home, "edges", "run")
    assert (answered.returncode, answered.stderr) == (0, "")
    assert answered.stdout.endswith("segments\n")


def test_a_strangers_measure_is_among_the_metrics(home):
    count = int(asked(home, "edges", "run").stdout.split()[0])
    assert json.loads(asked(home, "metrics", "run", "--json").stdout)["segments"] == count


def test_a_strangers_section_is_on_the_page(home):
    made = asked(home, "report", "run", "--out", "page.html")
    assert made.returncode == 0, made.stderr
    _, section = (home / "page.html").read_text("utf-8").split('id="edges"', 1)
    count = asked(home, "edges", "run").stdout.split()[0]
    assert f"</span>: {count} segments</p>" in section


def test_a_strangers_option_of_eval_is_in_help_and_its_sink_gets_each_image(home):
    shown = asked(home, "eval", "--help").stdout
    assert "Studies" in shown
    assert "--count-images" in shown
    line = ["eval", "--model", "mask2former-tiny", "--data", "shapes:64x96", "--limit", "2", "--out", "evaluated"]
    refused = asked(home, *line, "--count-images", "here.csv")
    assert (refused.returncode, refused.stderr) == (2, "Error: --count-images takes a FILE.txt.\n")
    done = asked(home, *line, "--count-images", "count.txt")
    assert done.returncode == 0, done.stderr
    assert (home / "count.txt").read_text() == "2"
    assert "How many images: `cat count.txt`" in done.stderr
    record = json.loads((home / "evaluated" / "run.json").read_text("utf-8"))
    assert record["arguments"]["count_images"] == "count.txt"


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Declares a study of somebody else's at a place."""

    def declare(place: str) -> None:
        class Entry:
            name, value = "theirs", place

        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(studies.importlib.metadata, "entry_points", lambda group: [Entry])
        studies._load_studies.cache_clear()

    yield declare
    monkeypatch.undo()
    studies._load_studies.cache_clear()
    references._entry_points.cache_clear()


@pytest.mark.parametrize(
    ("source", "place", "reason"),
    [
        ("", "broken_study_a:STUDY", "has nothing named 'STUDY'"),
        ("STUDY = 5", "broken_study_b:STUDY", "is an int, not a Study"),
        ("1 / 0", "broken_study_c:STUDY", "ZeroDivisionError"),
        ("import a_library_that_nobody_has", "broken_study_d:STUDY", "a_library_that_nobody_has"),
        (None, "broken_study_e:STUDY", "there is no Python module"),
    ],
)
def test_a_broken_study_is_named_and_the_others_work(declared, tmp_path, source, place, reason):
    ours = [study.name for study in studies.find_studies()]
    if source is not None:
        (tmp_path / f"{place.partition(':')[0]}.py").write_text(source)
    declared(place)
    assert [study.name for study in studies.find_studies()] == ours
    (message,) = studies.broken_studies()
    assert message.startswith("The study theirs is left out: ")
    assert reason in message


def test_panbenchs_studies_are_found_without_entry_points(declared, monkeypatch):
    monkeypatch.setattr(studies.importlib.metadata, "entry_points", lambda group: [])
    studies._load_studies.cache_clear()
    folders = {path.parent.name for path in (ROOT / "panbench" / "studies").glob("*/__init__.py")}
    assert {study.name for study in studies.find_studies()} == folders
