"""Calibration: reliability, ECE and thresholds of segment scores, against counts that a person can check."""

import json

import numpy as np
import pytest
from little_runs import scored
from support import panbench, ran, refusal, refused

from panbench.base.errors import BadRun
from panbench.report.answers.views import compared
from panbench.report.figures.plots import draw_plot
from panbench.runs import load_run
from panbench.studies.calibration.calibration import _score_for_accuracy, calibration, reliability
from panbench.studies.calibration.section import calibration_section

# In each image two persons and sky; p scores 0.95, q 0.65, the sky 0.85.
SCORES = {"p": 0.95, "q": 0.65, "s": 0.85}
TRUE = "ppppqqqqssss"
Q_WRONG = "ppppq...ssss"  # q is too small to match


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("calibration")
    gt = dict.fromkeys(range(1, 21), TRUE)
    scored(root, "half", gt, [Q_WRONG if image % 2 else TRUE for image in gt], scores=SCORES)
    scored(root, "bare", gt, list(gt.values()))
    return root


@pytest.fixture(scope="module")
def half(folder):
    return load_run(folder / "half")


def test_the_error_is_the_mean_distance_of_score_and_precision(half):
    found = calibration(half.matched, half.categories)
    scopes = found.scopes.set_index("name")
    # 20 p, all right, at 0.95; 20 q, half right, at 0.65; 20 s, all right, at 0.85.
    assert scopes.loc["All", "segments"] == 60
    assert scopes.loc["All", "precision"] == pytest.approx(50 / 60)
    assert scopes.loc["All", "ECE"] == pytest.approx((0.05 + 0.15 + 0.15) / 3, abs=1e-6)
    assert scopes.loc["Things", "ECE"] == pytest.approx((0.05 + 0.15) / 2, abs=1e-6)
    assert scopes.loc["person", "ECE"] == scopes.loc["Things", "ECE"]
    assert scopes.loc["sky", "score"] == pytest.approx(0.85)
    assert "dog" not in scopes.index


def test_the_threshold_is_the_lowest_score_that_is_precise_enough(half):
    scopes = calibration(half.matched, half.categories).scopes.set_index("name")
    # With q 50 of 60 are right, without it all 40.
    assert scopes.loc["All", "threshold"] == pytest.approx(0.85)
    assert scopes.loc["All", "kept"] == pytest.approx(40 / 50)
    assert scopes.loc["Things", "threshold"] == pytest.approx(0.95)
    lower = calibration(half.matched, half.categories, target=0.8).scopes.set_index("name")
    assert (lower.loc["All", "threshold"], lower.loc["All", "kept"]) == (pytest.approx(0.65), 1)


def test_a_bin_has_its_wilson_interval_and_an_empty_bin_none():
    curve = reliability(np.array([0.55] * 10 + [1.0]), np.array([True] * 5 + [False] * 5 + [True]))
    assert curve["segments"].tolist() == [0, 0, 0, 0, 0, 10, 0, 0, 0, 1]
    row = curve.iloc[5]
    # Wilson's interval of 5 of 10.
    assert row["precision_low"] == pytest.approx(0.2366, abs=1e-4)
    assert row["precision_high"] == pytest.approx(0.7634, abs=1e-4)
    assert np.isnan(curve.iloc[0]["precision"])
    assert curve.iloc[9]["precision_high"] <= 1 + 1e-12


def test_a_score_on_an_edge_belongs_to_the_bin_above_even_in_float32():
    # As float32, which parts hold, 0.7 and 0.9 are a little less than in float64; 0.3 and 0.6 a little more.
    tenths = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    stored = tenths.astype(np.float32).astype(np.float64)
    for scores in (tenths, stored):
        assert reliability(scores, np.ones(10, bool))["segments"].tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    below = np.nextafter(tenths.astype(np.float32), np.float32(0)).astype(np.float64)
    assert reliability(below, np.ones(10, bool))["segments"].tolist() == [1] * 10


@pytest.mark.parametrize(("right", "of", "target"), [(14, 25, 0.56), (7, 10, 0.7), (29, 50, 0.58), (9, 10, 0.9)])
def test_an_exactly_met_target_counts_as_met(right, of, target):
    # 0.56 · 25 is a little more than 14 in binary.
    hits = np.arange(of) < right
    assert _score_for_accuracy(np.full(of, 0.5), hits, target) == (0.5, 1.0)
    assert np.isnan(_score_for_accuracy(np.full(of, 0.5), hits, target + 1e-6)[0])


def test_the_page_names_models_with_partly_scored_segments(folder, tmp_path):
    gt = dict.fromkeys(range(1, 21), TRUE)
    things = scored(tmp_path, "things", gt, list(gt.values()), scores={"p": 0.95, "q": 0.65})
    members, _ = compared([things])
    said = calibration_section(members).content
    assert "Of some segments only: things (20 without, 40 with a score)" in said
    members, _ = compared([load_run(folder / "half")])
    assert "Of some segments only" not in calibration_section(members).content


def test_the_plot_names_models_with_partly_scored_segments(folder, tmp_path):
    gt = dict.fromkeys(range(1, 21), TRUE)
    things = scored(tmp_path, "things", gt, list(gt.values()), scores={"p": 0.95, "q": 0.65})
    figure, table = draw_plot("calibration", compared([things])[0])
    assert figure.axes[0].get_title(loc="left") == "Of some segments only: things (20 without, 40 with a score)"
    assert set(table["unscored"]) == {20}
    figure, table = draw_plot("calibration", compared([load_run(folder / "half")])[0])
    assert figure.axes[0].get_title(loc="left") == ""
    assert set(table["unscored"]) == {0}


def test_predictions_excused_by_void_or_crowds_are_left_out(tmp_path):
    gt = dict.fromkeys(range(1, 12), "pppp........")
    run = scored(tmp_path, "void", gt, ["ppppqqqq...."] * 11, scores=SCORES)
    scopes = calibration(run.matched, run.categories).scopes.set_index("name")
    assert scopes.loc["All", "segments"] == 11
    assert scopes.loc["All", "precision"] == 1


def test_the_program_prints_tables_and_plain_json(folder, tmp_path):
    shown = ran("calibration", folder / "half", "--per-category")
    for word in ("All", "Things", "sky", "90 % from", "0.850", "Reliability"):
        assert word in shown.stdout
    record = json.loads(panbench("calibration", folder / "half", "--json", "--target", "100").stdout)
    assert record["target"] == 1
    assert record["groups"][0]["threshold"] == pytest.approx(0.85)
    assert [row["name"] for row in record["per_category"]] == ["sky", "person"]
    assert record["curve"][0]["precision"] is None
    ran("show", "plot", "calibration", folder / "half", "--out", tmp_path / "c.png", "--csv")
    assert (tmp_path / "c.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bare"], "bare has no calibration: its predictions have no scores"),
        (["half", "--target", "0"], "--target is 0; give a percentage"),
        (["half", "--target", "120"], "--target is 120; give a percentage"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(folder, words, message):
    assert message in refused("calibration", folder / words[0], *words[1:])


def test_scores_beyond_one_are_refused(tmp_path):
    gt = dict.fromkeys(range(1, 3), TRUE)
    run = scored(tmp_path, "loud", gt, list(gt.values()), scores={"p": 12.0, "q": 3.0, "s": 1.0})
    assert "scores from 1 to 12" in refusal(BadRun, calibration, run.matched, run.categories)
