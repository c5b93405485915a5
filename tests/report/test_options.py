"""What studies add to `score` and `compare`, and what names several runs."""

from dataclasses import dataclass
from pathlib import Path

from little_runs import finished
from support import panbench, ran, refusal

from panbench.base.errors import BadRun
from panbench.report.answers.options import CompareOptions, Comparing, ScoreOptions, Scoring, given_options
from panbench.report.answers.patterns import expanded_run_folders
from panbench.report.answers.tables import find_runs


@dataclass(frozen=True)
class Asked(CompareOptions):
    by_colour: bool = False
    shade: str = "red"


def test_given_options_are_those_that_differ_from_their_defaults():
    assert given_options(Asked()) == ()
    assert given_options(Asked(by_colour=True)) == ("--by-colour",)
    assert given_options(Asked(True, "blue")) == ("--by-colour", "--shade")


def test_options_that_add_nothing_change_no_answer():
    assert Asked().instead(Comparing((Path("run"),))) is None
    standing = object()
    assert Asked().added(standing, []) is standing
    assert ScoreOptions().found(object(), Scoring(Path("gt.json"), Path("pred.json"))) is None


def test_a_pattern_names_each_run_once_and_plain_names_do_not_change(tmp_path, monkeypatch):
    for name in ("a@1", "a@2", "b"):
        finished(tmp_path / "results" / name, 1)
    folder = tmp_path / "results"
    assert expanded_run_folders([folder / "b", folder / "b"]) == [folder / "b", folder / "b"]
    assert expanded_run_folders([folder / "a@2", folder / "a@*", folder / "b"]) == [
        folder / name for name in ("a@2", "a@1", "b")
    ]
    monkeypatch.chdir(tmp_path)
    assert expanded_run_folders([Path("a@*")]) == [Path("results/a@1"), Path("results/a@2")]
    assert "No run fits the pattern 'c@*'" in refusal(BadRun, expanded_run_folders, [Path("c@*")])


def test_every_command_that_takes_runs_takes_patterns(tmp_path):
    for name in ("a@1", "a@2", "b"):
        finished(tmp_path / name, 1)
    (tmp_path / "a@notes.txt").write_text("not a run")
    assert [run.name for run in find_runs([tmp_path / "a@*"])] == ["a@1", "a@2"]
    assert "No run fits the pattern" in refusal(BadRun, find_runs, [tmp_path / "c*"])


def test_runs_of_predictions_without_speed_and_size_make_a_report(tmp_path):
    reference = Path(__file__).parents[1] / "reference" / "pq_edges"
    line = ("--gt", reference / "gt.json", "--pred", reference / "pred.json", "--out", tmp_path / "a")
    assert panbench("score", *line).exit_code == 0
    ran("report", tmp_path / "*a", "--out", tmp_path / "page.html")
