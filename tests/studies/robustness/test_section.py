"""The section of the page on corrupted images."""

import shutil

import pytest
from report_runs import data_of, text_of
from support import edited

from panbench.report.pages.page.document import report_page
from panbench.runs import load_run


def test_the_page_has_the_cost_of_corruptions_from_runs_next_to_a_run(make_runs, tmp_path):
    first, second = make_runs(images=10)
    for severity, source in ((1, first), (3, second)):
        folder = shutil.copytree(source.path, tmp_path / "run-a-corrupted" / f"fog-{severity}")
        with edited(folder / "run.json") as record:
            record["arguments"] = {**record.get("arguments", {}), "corruption": f"fog:{severity}"}
    page = report_page([load_run(first.path), load_run(second.path)])
    (curve,) = data_of(page)["curves"]["robustness"]["series"]
    assert curve["model"] == 0
    assert [5 * point[0] for point in curve["points"]] == [0, 1, 3]
    expected = [run.summary()["All"]["PQ"] for run in (first, first, second)]
    assert [point[1] for point in curve["points"]] == pytest.approx(expected, abs=1e-4)
    assert "Without corrupted runs: second." in " ".join(text_of(page).split())
    assert "panbench eval … --corrupt" in text_of(report_page([second]))
