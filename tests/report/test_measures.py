"""The table of measures: what a study adds stands in the rows, the notes, the tables and the record of `metrics`."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from little_runs import finished

from panbench.base import studies
from panbench.base.studies import Study
from panbench.metrics.matched import Matched
from panbench.report.answers.findings import error_findings, metric_findings
from panbench.report.answers.grid import Grid
from panbench.report.answers.measures import Measure, Measured, Question
from panbench.runs import load_run


class LargestAccumulator:
    """The pixels of the largest true segment."""

    def __init__(self):
        self.pixels = 0

    def map_chunk(self, matched: Matched):
        return int(np.max(matched.segments.area[matched.segments.is_gt], initial=0))

    def add(self, part):
        self.pixels = max(self.pixels, part)


def largest(question: Question) -> LargestAccumulator:
    return LargestAccumulator()


def found(question: Question) -> Measured:
    pixels = question.accumulated(largest).pixels
    grid = Grid(("Largest", "pixels"), (("any", str(pixels)),))
    return Measured((("largest segment", str(pixels), "", ""),), ("It is measured.",), (grid,), {"largest": pixels})


@pytest.fixture
def run(tmp_path):
    return load_run(finished(tmp_path / "run", 1, 2))


def test_a_studys_measure_appears_in_metrics_and_errors(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "a_study_of_sizes", SimpleNamespace(LARGEST=Measure(found, (largest,))))
    place = "a_study_of_sizes:LARGEST"
    everything = (*studies.find_studies(), Study("sizes", "Sizes.", measures={"metrics": place, "errors": place}))
    plain = metric_findings(run)
    monkeypatch.setattr(studies, "find_studies", lambda: everything)
    asked = metric_findings(run)
    assert asked.record["largest"] == 3
    assert [row for row in asked.grids[1].rows if row not in plain.grids[1].rows] == [("largest segment", "3", "", "")]
    assert asked.grids[1].notes == (*plain.grids[1].notes, "It is measured.")
    assert [grid.columns for grid in asked.grids if grid not in plain.grids][1:] == [("Largest", "pixels")]
    assert error_findings(run).record["largest"] == 3


def test_without_studies_metrics_have_only_the_core_measures(run, monkeypatch):
    monkeypatch.setattr(studies, "find_studies", tuple)
    record = metric_findings(run).record
    assert "AP_pan" not in record
    assert record["semantic"]["mIoU"] > 0
    assert "oracle" not in error_findings(run).record
