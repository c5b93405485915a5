"""The section of the page on calibration."""

from dataclasses import replace

import numpy as np
import pytest
from report_runs import data_of, text_of

from panbench.report.pages.page.document import report_page
from panbench.studies.calibration.calibration import calibration


def test_scores_are_drawn_against_how_often_they_are_right(make_runs):
    runs = make_runs()
    drawn = data_of(report_page(runs))["curves"]["calibration"]["series"]
    for index, run in enumerate(runs):
        curve = calibration(run.matched, run.categories).curve
        curve = curve[(curve["group"] == "All") & (curve["segments"] > 0)]
        assert drawn[index]["model"] == index
        assert [point[1] for point in drawn[index]["points"]] == pytest.approx(curve["precision"].tolist(), abs=1e-4)
        told = [point[4].split("\n")[1].split(" segments")[0] for point in drawn[index]["points"]]
        assert told == [f"{segments:,}" for segments in curve["segments"]]


def test_without_scores_the_page_says_what_would_store_them(make_runs):
    runs = make_runs()
    for run in runs:
        scores = np.full(len(run.table.segments), np.nan, np.float32)
        run.__dict__["_parts"] = (replace(run.table, segments=replace(run.table.segments, score=scores)), ())
    assert "no prediction has a score" in text_of(report_page(runs)).split("Left out")[-1]
