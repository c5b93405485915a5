"""A study of your own: a package that adds a command, without a change to panbench."""

import os
import sys

from support import panbench_program

MODULE = """
from pathlib import Path
from panbench.base.studies import Study, StudyCommand
from panbench.cli import console
from panbench.cli.command import family
from panbench.runs import load_run

COUNT = StudyCommand("count", "Print how many images a run has.", "counting:app")
STUDY = Study("counting", "Counts images.", commands=(COUNT,))

app = family()

@app.command("count")
def count(run: Path) -> None:
    console.write(f"{len(load_run(run).image_ids())} images\\n")
"""
ENTRY_POINTS = """
[panbench.studies]
counting = counting:STUDY
"""


def test_a_study_adds_a_command(tmp_path):
    (tmp_path / "counting.py").write_text(MODULE)
    # What pip writes for `[project.entry-points."panbench.studies"]` of the package's pyproject.toml:
    (tmp_path / "counting-1.0.dist-info").mkdir()
    (tmp_path / "counting-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n"
    )
    (tmp_path / "counting-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}

    assert "how many images" in panbench_program("--help", env=environment).stdout
    score = ("score", "--gt", "tests/reference/pq_edges/gt.json", "--pred", "tests/reference/pq_edges/pred.json")
    assert panbench_program(*score, "--out", tmp_path / "run", env=environment).returncode == 0
    counted = panbench_program("count", tmp_path / "run", env=environment)
    assert counted.stdout.endswith(" images\n"), counted.stderr
