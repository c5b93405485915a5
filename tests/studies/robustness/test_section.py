"""The section of the page on corrupted images."""

import json
import shutil

import pytest
from report_runs import data_of, text_of

from panbench.report.pages.page.document import report_page
from panbench.runs import load_run


def test_corrupted_runs_beside_a_run_say_what_corruptions_cost(make_runs, tmp_path):
    first, second = make_runs(images=10)
    for severity, source in ((1, first), (3, second)):
        folder = shutil.copytree(source.path, tmp_path / "run-a-corrupted" / f"fog-{severity}")
        record = json.loads((folder / "run.json").read_text("utf-8"))
        record["arguments"] = {**record.get("arguments", {}), "corruption": f"fog:{severity}"}
        (folder / "run.json").write_text(json.dumps(record), "utf-8")
    page = report_page([load_run(first.path), load_run(second.path)])
    (curve,) = data_of(page)["curves"]["robustness"]["series"]
    assert curve["model"] == 0
    assert [5 * point[0] for point in curve["points"]] == [0, 1, 3]
    expected = [run.summary()["All"]["PQ"] for run in (first, first, second)]
    assert [point[1] for point in curve["points"]] == pytest.approx(expected, abs=1e-4)
    assert "Without corrupted runs: second." in " ".join(text_of(page).split())
    assert "panbench eval … --corrupt" in text_of(report_page([second]))
