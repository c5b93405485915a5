"""A study of your own: a package that adds a command, a metric and a section of the page; panbench stays unchanged."""

import json
import os
import sys

from support import panbench_program as panbench

MODULE = """
from pathlib import Path
from panbench.base.studies import Study, StudyCommand
from panbench.cli import console
from panbench.cli.command import family
from panbench.report.answers.measures import Measure, Measured
from panbench.report.pages.page.section import Section
from panbench.runs import load_run

COUNT = StudyCommand("count", "Print how many images a run has.", "counting:app")
STUDY = Study(
    "counting", "Counts images.", commands=(COUNT,),
    section="counting:section", measures={"metrics": "counting:LARGEST"},
)

app = family()

@app.command("count")
def count(run: Path) -> None:
    console.write(f"{len(load_run(run).image_ids())} images\\n")

class LargestAccumulator:                     # a metric: it sees a chunk of images at a time
    pixels = 0

    def map_chunk(self, matched):
        return int(matched.segments.area[matched.segments.is_gt].max(initial=0))

    def add(self, part):
        self.pixels = max(self.pixels, part)

def largest(question):
    return LargestAccumulator()

def found(question):
    pixels = question.accumulated(largest).pixels
    return Measured((("largest segment", str(pixels), "", ""),), record={"largest": pixels})

LARGEST = Measure(found, (largest,))

def section(members):
    return Section("Counting", "How many images a model has.", f"{len(members[0].run.image_ids())} images")
"""
ENTRY_POINTS = """
[panbench.studies]
counting = counting:STUDY
"""


def test_a_study_adds_a_command_a_metric_and_a_section(tmp_path):
    (tmp_path / "counting.py").write_text(MODULE)
    # What pip writes for `[project.entry-points."panbench.studies"]` of the package's pyproject.toml:
    (tmp_path / "counting-1.0.dist-info").mkdir()
    (tmp_path / "counting-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: counting\nVersion: 1.0\n"
    )
    (tmp_path / "counting-1.0.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])}

    assert "how many images" in panbench("--help", env=environment).stdout
    score = ("score", "--gt", "tests/reference/pq_edges/gt.json", "--pred", "tests/reference/pq_edges/pred.json")
    assert panbench(*score, "--out", tmp_path / "run", env=environment).returncode == 0
    counted = panbench("count", tmp_path / "run", env=environment)
    assert counted.stdout.endswith(" images\n"), counted.stderr

    measured = panbench("metrics", tmp_path / "run", "--json", env=environment)
    assert json.loads(measured.stdout)["largest"] > 0, measured.stderr
    assert panbench("report", tmp_path / "run", "--out", tmp_path / "r.html", env=environment).returncode == 0
    assert counted.stdout.strip() in (tmp_path / "r.html").read_text("utf-8").partition('id="counting"')[2]
