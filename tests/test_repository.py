"""The repository's address stands in one place and is filled in everywhere from there."""

import re
import subprocess
from pathlib import Path

import pytest
from set_repository import declared, naming_files, set_repository

ROOT = Path(__file__).resolve().parent.parent
NAMED = re.compile(r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/panbench)\b")

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")


def test_every_file_names_the_address_of_pyproject():
    names = {name for file in naming_files() for name in NAMED.findall(file.read_text("utf-8"))}
    assert names == {declared()}
    assert ROOT / "notebooks" / "panbench_colab.ipynb" in naming_files()


def test_the_release_step_fills_it_in_everywhere(tmp_path):
    (tmp_path / "pyproject.toml").write_text('urls = {Repository = "https://github.com/OWNER/panbench"}\n')
    (tmp_path / "a.md").write_text("[here](https://github.com/OWNER/panbench/issues), OWNER alone stays\n")
    (tmp_path / "b.md").write_text("nothing\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    changed = set_repository("lab/panbench-2", tmp_path)
    assert sorted(path.name for path in changed) == ["a.md", "pyproject.toml"]
    assert (tmp_path / "a.md").read_text() == "[here](https://github.com/lab/panbench-2/issues), OWNER alone stays\n"
    assert declared(tmp_path) == "lab/panbench-2"
    assert set_repository("OWNER/panbench", tmp_path)


def test_what_is_no_address_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not OWNER/NAME"):
        set_repository("https://github.com/x/y")
