"""The section of the page on calibration."""

from dataclasses import replace

import numpy as np
import pytest
from report_runs import data_of, text_of

from panbench.report.pages.page.document import report_page
from panbench.studies.calibration.calibration import calibration


def test_the_page_plots_precision_against_score(make_runs):
    runs = make_runs()
    drawn = data_of(report_page(runs))["curves"]["calibration"]["series"]
    for index, run in enumerate(runs):
        curve = calibration(run.matched, run.categories).curve
        curve = curve[(curve["group"] == "All") & (curve["segments"] > 0)]
        assert drawn[index]["model"] == index
        assert [point[1] for point in drawn[index]["points"]] == pytest.approx(curve["precision"].tolist(), abs=1e-4)
        told = [point[4].split("\n")[1].split(" segments")[0] for point in drawn[index]["points"]]
        assert told == [f"{segments:,}" for segments in curve["segments"]]


def test_without_scores_the_page_says_how_to_store_them(make_runs):
    runs = make_runs()
    for run in runs:
        scores = np.full(len(run.table.segments), np.nan, np.float32)
        run.__dict__["_table_and_notices"] = (
            replace(run.table, segments=replace(run.table.segments, score=scores)),
            (),
        )
    assert "no prediction has a score" in text_of(report_page(runs)).split("Left out")[-1]


def test_if_one_model_scores_only_things_all_are_compared_on_things(make_runs):
    runs = make_runs()
    things = np.array([category.id for category in runs[1].categories if category.isthing])
    segments = runs[1].table.segments
    scores = np.where(np.isin(segments.category_id, things), segments.score, np.nan).astype(np.float32)
    runs[1].__dict__["_table_and_notices"] = (replace(runs[1].table, segments=replace(segments, score=scores)), ())
    page = report_page(runs)
    drawn = data_of(page)["curves"]["calibration"]
    assert drawn["title"] == "How often things of a score are right"
    for index, run in enumerate(runs):
        curve = calibration(run.matched, run.categories).curve
        own = curve[(curve["group"] == "Things") & (curve["segments"] > 0)]
        assert [point[1] for point in drawn["series"][index]["points"]] == pytest.approx(
            own["precision"].tolist(), abs=1e-4
        )
    assert "so all models are shown by their things" in text_of(page)
