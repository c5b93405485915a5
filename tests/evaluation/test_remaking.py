"""The command that a page offers for runs without predictions makes them again with predictions."""

import json
import shlex
from pathlib import Path

import pytest
from support import panbench_program, ran

from panbench.datasets import shapes
from panbench.report.answers.remaking import command_with_predictions, resuming_command
from panbench.report.pages.page.document import report_page
from panbench.runs import load_run


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
def test_the_command_is_the_recorded_one_where_the_run_lies_now(tmp_path, recorded, offered):
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    words = ["panbench", *recorded.split()] if recorded else []
    kind = "score" if "score" in words else "eval"
    record = {"schema": 1, "panbench": "0", "kind": kind, "status": "done", "command": words}
    (folder / "run.json").write_text(json.dumps(record), "utf-8")
    expected = offered and "panbench " + offered.format(run=folder, runs=folder.parent)
    assert command_with_predictions(load_run(folder)) == expected


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
def test_a_recorded_command_that_is_no_evaluation_is_not_offered(tmp_path, recorded):
    record = {"schema": 1, "panbench": "0", "kind": "eval", "status": "interrupted", "command": recorded}
    (tmp_path / "run.json").write_text(json.dumps(record), "utf-8")
    run = load_run(tmp_path)
    assert command_with_predictions(run) is None
    assert resuming_command(run) is None


def test_words_for_the_shell_are_quoted(tmp_path):
    record = {
        "schema": 1,
        "panbench": "0",
        "kind": "eval",
        "command": ["panbench", "-q", "eval", "-m", "$(touch x); y"],
    }
    (tmp_path / "run.json").write_text(json.dumps(record), "utf-8")
    assert resuming_command(load_run(tmp_path)) == "panbench eval -m '$(touch x); y' --resume"


@pytest.mark.slow
def test_what_the_page_offers_adds_the_pictures(tmp_path):
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
