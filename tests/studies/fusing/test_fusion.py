import json
import math

import numpy as np
import pandas as pd
import pytest
from support import refusal

from panbench.base.errors import BadRun
from panbench.evaluation.stored.tuning import tune
from panbench.metrics.slices import ImageStatistics, image_statistics
from panbench.panoptic.types import Category
from panbench.report.answers.findings import error_findings
from panbench.runs import load_run
from panbench.scoring.folder import score_folder
from panbench.studies.fusing.answer import (
    ORACLE_STEPS,
    heat_map,
    oracle_grid,
    read_oracle,
    sweep_grids,
    sweep_record,
    write_oracle,
)

CATEGORIES = (Category(1, "cat", True), Category(2, "sky", False))
POINTS = [(score, overlap) for score in (0.5, 0.7, 0.9) for overlap in (0.4, 0.8)]


def statistics(quality: float, seed: int) -> ImageStatistics:
    random = np.random.default_rng(seed)
    rows = [
        {"image_id": image, "category_id": category, "iou_sum": iou, "TP": 1, "FP": 0, "FN": 0}
        for image in range(1, 31)
        for category in (1, 2)
        for iou in [min(1.0, quality + random.uniform(-0.05, 0.05))]
    ]
    return ImageStatistics.from_frame(np.arange(1, 31), pd.DataFrame(rows), CATEGORIES)


@pytest.fixture(scope="module")
def sweep():
    thresholds = {
        f"rule:score={score},overlap={overlap}": {"score": score, "overlap": overlap} for score, overlap in POINTS
    }
    found = {
        name: statistics(0.6 + 0.3 * of["score"] * of["overlap"], place)
        for place, (name, of) in enumerate(thresholds.items())
    }
    return tune(found, next(iter(found))), thresholds


def test_a_sweep_shows_the_best_points_and_the_published_one(sweep):
    points, halves = sweep_grids(*sweep, most=2)
    assert points.columns[:2] == ("score", "overlap")
    assert [row[:2] for row in points.rows] == [("0.9", "0.8"), ("0.7", "0.8"), ("0.5", "0.4")]
    assert points.rows[-1][-1] == "(published)"
    assert len(halves.rows) == 2
    assert "tuning pays" in halves.notes[0]


def test_a_sweep_is_recorded_as_fractions_without_nan(sweep):
    record = json.loads(json.dumps(sweep_record(*sweep), allow_nan=False))
    assert len(record["points"]) == 6
    assert record["points"][0]["thresholds"] == {"score": 0.5, "overlap": 0.4}
    assert 0 < record["held_out"]["PQ"] < 1
    assert record["difference"]["low"] < record["difference"]["difference"] < record["difference"]["high"]


def test_the_heat_map_marks_the_published_and_the_best_point(sweep):
    figure = heat_map(*sweep)
    (axes, *_) = figure.axes
    marks = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines}
    assert marks == {"published": (0.5, 0.4), "best on these images": (0.9, 0.8)}
    mesh = axes.collections[0].get_array()
    assert mesh.shape == (2, 3)
    assert not np.isnan(np.asarray(mesh)).any()


def test_a_sweep_of_one_threshold_is_drawn_as_a_line():
    found = {f"rule:score={score}": statistics(0.6 + score / 10, 0) for score in (0.5, 0.6, 0.7)}
    tuned = tune(found, "rule:score=0.5")
    figure = heat_map(tuned, {name: {"score": float(name[-3:]), "mask": 0.5} for name in found})
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [0.5, 0.6, 0.7]


@pytest.fixture
def run(tmp_path, request):
    reference = request.config.rootpath / "tests" / "reference" / "pq_edges"
    return score_folder(reference / "gt.json", reference / "pred.json", out=tmp_path / "run")


def test_an_oracle_is_stored_in_the_run_and_shown_by_errors(run):
    assert read_oracle(run) is None
    assert error_findings(run).record["oracle"] is None
    own = image_statistics(run.matched, run.categories)
    write_oracle(run, dict.fromkeys(ORACLE_STEPS, own))
    stored = read_oracle(load_run(run.path))
    assert list(stored) == list(ORACLE_STEPS)
    findings = error_findings(load_run(run.path))
    assert findings.record["oracle"]["rule"]["PQ"] == run.summary()["All"]["PQ"]
    assert any(grid.title == "The least that fusion costs" for grid in findings.grids)
    lost = 100 * (1 - run.summary()["All"]["PQ"])
    assert f"Of the {lost:.2f} points of PQ that are lost, at least 0.00 are lost by" in oracle_grid(stored).notes[0]
    assert f"and at most {lost:.2f} because no mask fits" in oracle_grid(stored).notes[0]
    assert not math.isnan(findings.record["oracle"]["all"]["PQ_th"])


def test_a_damaged_oracle_is_refused(run):
    (run.path / "oracle.parquet").write_bytes(b"PAR1 no")
    assert "--oracle" in refusal(BadRun, read_oracle, run)


def test_replacing_a_run_deletes_its_oracle(run):
    own = image_statistics(run.matched, run.categories)
    write_oracle(run, dict.fromkeys(ORACLE_STEPS, own))
    stale = (run.path / "oracle.parquet").read_bytes()
    dataset = run.info.dataset
    again = score_folder(dataset.gt, run.info.predictions.json, out=run.path, overwrite=True)
    assert not (run.path / "oracle.parquet").exists()
    (run.path / "oracle.parquet").write_bytes(stale)
    assert "of another run" in refusal(BadRun, read_oracle, again)


def test_an_oracle_of_another_version_is_refused(run, monkeypatch):
    """Its steps meant something else."""
    monkeypatch.setattr("panbench.studies.fusing.answer.ORACLE_VERSION", 2)
    write_oracle(run, dict.fromkeys(ORACLE_STEPS, image_statistics(run.matched, run.categories)))
    monkeypatch.undo()
    with pytest.raises(BadRun, match=r"of another panbench\. Make it again with `panbench fuse .* --oracle`"):
        read_oracle(run)
