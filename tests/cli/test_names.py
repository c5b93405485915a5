"""Names that are no text, or steer a terminal: a folder of undecodable bytes, control characters in run.json."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from little_runs import scored
from support import edit, panbench

NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
DRAWN = {1: "ppqs.", 2: "ddss."}
UNDECODABLE = os.fsdecode(b"caf\xe9\x85z")
COMMANDS = (
    *(("compare", "a", "RUN", "--format", kind) for kind in ("text", "md", "csv", "json", "latex")),
    *(("compare", "a", "RUN", "--format", kind, "--out", f"OUT.{kind}") for kind in ("md", "csv", "json", "parquet")),
    ("metrics", "RUN", "--json"),
    ("errors", "RUN"),
    ("gate", "RUN", "--baseline", "a", "--junit", "OUT.xml", "--summary", "OUT.md"),
    ("gate", "RUN", "--baseline", "a", "--json"),
    ("report", "RUN", "a", "--out", "OUT.html"),
    ("site", "RUN", "a", "--out", "OUT-site"),
    ("export", "parquet", "RUN", "--out", "OUT-tables"),
    ("export", "coco-results", "RUN", "--out", "OUT-results"),
    ("export", "huggingface-card", "RUN", "--out", "OUT-card"),
    ("runs", "."),
    ("runs", ".", "--json"),
    ("runs", "verify", "RUN", "--json"),
    ("score", "--gt", "gt.json", "--pred", "a-pred.json", "--out", "OUT-run"),
    ("relabel", "gt.json", "gt.json", "--runs", "RUN", "--out", "OUT-page"),
    ("runs", "delete", "OUT-run", "--yes"),
)


def unlike(run: str, out: str) -> dict[str, str]:
    """The commands that end otherwise than with their result in plain text."""
    found = {}
    for words in COMMANDS:
        arguments = [word.replace("RUN", run).replace("OUT", out) for word in words]
        result = panbench(*arguments)
        said = result.stdout + result.stderr
        if result.exit_code not in (0, 3) or NOT_TEXT.search(said):
            found[" ".join(words)] = ascii(f"exit {result.exit_code}: {said[-300:]}")
        if "--json" in words or words[-2:] == ("--format", "json"):
            json.loads(result.stdout)
    return found


def files_that_are_no_text(folder: Path) -> list[str]:
    kinds = (".json", ".csv", ".md", ".xml", ".html")
    texts = {path: path.read_bytes().decode() for path in folder.rglob("*") if path.suffix in kinds}
    assert len(texts) > 10
    return [ascii(str(path)) for path, text in texts.items() if NOT_TEXT.search(text)]


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are always text there")
def test_a_folder_with_an_undecodable_name_breaks_no_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scored(tmp_path, "a", DRAWN, DRAWN)
    scored(tmp_path, "b", DRAWN, {1: "ppps.", 2: "dsss."})
    (tmp_path / "b").rename(tmp_path / UNDECODABLE)
    assert unlike(UNDECODABLE, f"{UNDECODABLE}-out") == {}
    assert files_that_are_no_text(tmp_path) == []


def test_control_characters_of_a_name_never_reach_pipes_or_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scored(tmp_path, "a", DRAWN, DRAWN)
    run = scored(tmp_path, "b", DRAWN, {1: "ppps.", 2: "dsss."})
    edit((run.path / "run.json"), name="x\x1b[31m\x9b2J\x85y")
    assert unlike("b", "out") == {}
    assert files_that_are_no_text(tmp_path) == []
    assert r"x\x1b[31m\x9b2J\x85y" in panbench("compare", "a", "b", "--format", "csv").stdout
    shown = panbench("compare", "a", "b", "--format", "json").stdout
    assert "x\\u001b[31m\\u009b2J\\u0085y" in shown
    assert "x\x1b[31m\x9b2J\x85y" in [value for row in json.loads(shown) for value in row.values()]
