"""Places: "package.module:NAME", imported when they are asked for."""

import subprocess
import sys
from pathlib import Path

from support import refusal

from panbench.base.references import BrokenReference, load

ROOT = Path(__file__).resolve().parents[2]


def test_the_current_folder_is_searched_only_for_names_that_the_user_gives(tmp_path, monkeypatch):
    (tmp_path / "lies_here.py").write_text("VALUE = 5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    assert "there is no Python module lies_here" in refusal(BrokenReference, load, "lies_here:VALUE")
    assert load("lies_here:VALUE", here=True) == 5


def test_help_does_not_search_libraries_in_the_current_folder(tmp_path):
    program = "import os, sys; sys.path = [p for p in sys.path if p]; import panbench.cli.app; "
    program += "panbench.cli.app.find_studies(); print(os.getcwd() in sys.path)"
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert shown.stdout == "False\n", shown.stderr
