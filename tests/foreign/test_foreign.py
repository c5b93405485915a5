"""Files of other programs: the commands of docs/your_files.md say what panopticapi says of them."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from support import ran

from panbench.panoptic.types import GROUPS

HERE = Path(__file__).resolve().parent
FOLDERS = sorted(path.parent for path in HERE.glob("*/expected.json"))
PAGE = (HERE.parents[1] / "docs" / "your_files.md").read_text("utf-8")


def commands(folder: Path) -> list[str]:
    return (folder / "commands.txt").read_text("utf-8").splitlines()


def test_there_are_ten_foreign_files():
    assert len(FOLDERS) == 10


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_command_gives_panopticapis_pq(folder, tmp_path):
    work = Path(shutil.copytree(folder, tmp_path / "files"))
    for command in commands(folder):
        result = ran(*shlex.split(command)[1:], cwd=work)
    expected = json.loads((folder / "expected.json").read_text("utf-8"))
    found = json.loads(result.stdout)
    if isinstance(found, list):
        (row,) = found
        found = {group: {"PQ": row[f"PQ{suffix}"]} for group, suffix in GROUPS.items()}
    for group, pq in expected.items():
        assert 100 * found[group]["PQ"] == pytest.approx(pq, abs=1e-9), group


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_page_has_the_command_and_the_number(folder):
    (row,) = [line for line in PAGE.splitlines() if f"`tests/foreign/{folder.name}`" in line]
    below = PAGE.split(row)[1].split("\n**")[0]
    written = re.findall(r"^    (panbench .*)", below, re.MULTILINE)
    assert written == [command.removesuffix(" --json") for command in commands(folder)]
    for pq in json.loads((folder / "expected.json").read_text("utf-8")).values():
        assert f"{pq:.2f}" in row
