"""Writes the repository's address into every file that names it: python scripts/make/set_repository.py OWNER/NAME

A step of the first release. pyproject.toml is where the address stands; the notebook, the issue templates and documents
name it, too, because a badge cannot look it up. tests/test_repository.py holds them to pyproject.toml.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DECLARED = re.compile(r'Repository = "https://github\.com/([\w.-]+/[\w.-]+)"')


def declared(root: Path = ROOT) -> str:
    """OWNER/NAME as pyproject.toml has it."""
    found = _DECLARED.search((root / "pyproject.toml").read_text("utf-8"))
    assert found is not None, "pyproject.toml has no Repository"
    return found[1]


def naming_files(root: Path = ROOT) -> list[Path]:
    """The text files under version control that name the address."""
    address = declared(root)
    listed = subprocess.run(["git", "-C", str(root), "ls-files", "-z"], capture_output=True, check=True).stdout
    files = [root / name for name in listed.decode().split("\0") if name]
    return [
        file
        for file in files
        if file.suffix in (".toml", ".md", ".ipynb", ".yml", ".yaml", ".cff") and address in file.read_text("utf-8")
    ]


def set_repository(new: str, root: Path = ROOT) -> list[Path]:
    """Replaces the address in all files; those that it changed. Raises ValueError for what is not OWNER/NAME."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", new):
        raise ValueError(f"{new!r} is not OWNER/NAME.")
    old, files = declared(root), naming_files(root)
    for file in files:
        file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
    return files


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python scripts/make/set_repository.py OWNER/NAME")
    try:
        for changed in set_repository(sys.argv[1]):
            print(changed.relative_to(ROOT))
    except ValueError as problem:
        sys.exit(str(problem))
