"""The command that a page offers for runs without predictions makes them again with predictions."""

import json
import shlex
from pathlib import Path

import pytest
from support import edit, panbench_program, ran

from panbench.datasets import shapes
from panbench.report.answers.remaking import command_with_predictions, resuming_command
from panbench.report.pages.page.document import report_page
from panbench.runs import Run, load_run


def recorded_as(folder: Path, command: list[str], status: str = "interrupted", kind: str = "eval") -> Run:
    """A run whose run.json has this command."""
    record = {"schema": 1, "panbench": "0", "kind": kind, "status": status, "command": command}
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    return load_run(folder)


@pytest.mark.parametrize(
    ("recorded", "offered"),
    [
        ("eval -m a --no-save-predictions", "eval -m a --save-predictions --overwrite"),
        ("eval --out runs/mine --resume", "eval --out {run} --save-predictions --overwrite"),
        ("eval -m a,b --out=runs", "eval -m a,b --out={runs} --save-predictions --overwrite"),
        ("eval --out elsewhere", "eval --out elsewhere --save-predictions --overwrite"),
        ("score --gt a.json", None),
        ("", None),
    ],
)
def test_the_offered_command_is_the_recorded_one_with_the_current_folder(tmp_path, recorded, offered):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    words = ["panbench", *recorded.split()] if recorded else []
    run = recorded_as(folder, words, "done", "score" if "score" in words else "eval")
    expected = offered and "panbench " + offered.format(run=folder, runs=folder.parent)
    assert command_with_predictions(run) == expected


@pytest.mark.parametrize(
    "recorded",
    [
        ["eval", "touch PWNED; #", "--resume"],
        ["touch", "panbench", "eval"],
        ["touch", "eval", "-m", "mask2former-tiny"],
        ["panbench", "touch PWNED; #", "eval"],
        ["panbench", "score", "eval"],
        ["panbench", "eval", "-m", "a\nrm -r x\n"],
        ["panbench", "-q"],
    ],
)
def test_a_recorded_command_other_than_eval_is_not_offered(tmp_path, recorded):
    run = recorded_as(tmp_path, recorded)
    assert command_with_predictions(run) is None
    assert resuming_command(run) is None


@pytest.mark.parametrize(
    ("stores", "offered"),
    [(True, "panbench eval -m a --resume"), (False, "panbench eval -m a --save-predictions --overwrite")],
)
def test_a_run_that_was_killed_while_it_stored_predictions_is_to_be_resumed(tmp_path, stores, offered):
    recorded_as(tmp_path, ["panbench", "eval", "-m", "a"], "running")
    edit(tmp_path / "run.json", arguments={"save_predictions": stores})
    assert command_with_predictions(load_run(tmp_path)) == offered


def test_offered_commands_are_quoted_for_the_shell(tmp_path):
    run = recorded_as(tmp_path, ["panbench", "-q", "eval", "-m", "$(touch x); y"])
    assert resuming_command(run) == "panbench eval -m '$(touch x); y' --resume"


@pytest.mark.slow
def test_the_command_on_the_page_adds_the_missing_pictures(tmp_path):
    shapes.generate(tmp_path / "data", count=2, size=(96, 128))
    words = "eval --model mask2former-tiny --checkpoint random --out runs/mine --no-save-predictions --data"
    first = panbench_program(*words.split(), tmp_path / "data", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    run = load_run(tmp_path / "runs" / "mine")
    assert "No run has stored predictions" in report_page([run])
    offered = command_with_predictions(run)
    ran(*shlex.split(offered)[1:], cwd=tmp_path)
    page = report_page([load_run(Path(tmp_path / "runs" / "mine"))])
    assert "No run has stored predictions" not in page
    assert 'id="gallery-view"' in page
