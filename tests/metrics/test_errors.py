"""Each cause is planted by itself and must be found by itself; then the laws that hold for any scene."""

import json
import random
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_runs import write_side

from panbench.metrics.errors import CAUSES, assign_causes, explain_errors, lost_pq, worst_images
from panbench.metrics.matched import Matched
from panbench.metrics.pq import per_image_statistics, pq_table, segment_verdicts, summarise
from panbench.scoring.folder import score_folder
from scripts.make.markdown_tables import rows_under

SEEDS = st.integers(0, 2**32 - 1)
CAR = 1


def causes(tables) -> list[tuple[str, str]]:
    """(verdict, cause) of each error, in order; exact matches are none."""
    errors = assign_causes(*tables)
    errors = errors[~((errors["verdict"] == "TP") & (errors["iou"] == 1))]
    return sorted(zip(errors["verdict"], errors["cause"], strict=True))


def gain(tables, cause: str, **scope) -> float:
    lost = lost_pq(assign_causes(*tables), tables.categories)
    for name, value in (scope or {"group": "All"}).items():
        lost = lost[lost[name] == value]
    (value,) = lost.loc[lost["cause"] == cause, "gain"]
    return value


def test_a_perfect_prediction_has_no_error(scene):
    tables = scene(("aaabbs", "AAABBS"))
    lost = lost_pq(assign_causes(*tables), tables.categories)
    assert (lost[["gain", "lost"]] == 0).all(axis=None)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        ("aaabbs", "AAABBS", ""),
        ("aaaass", "bbbbss", "FN wrong category, FP wrong category"),
        ("aaaass", "wwwwss", "FN thing/stuff confusion, FP thing/stuff confusion"),
        ("ssssaa", "bbbbaa", "FN thing/stuff confusion, FP thing/stuff confusion"),
        ("aaaaaass", "112233ss", "FN split, FP split, FP split, FP split"),
        ("aaAAss", "1111ss", "FN merged, FN merged, FP merged"),
        ("aaaaAss", "11111ss", "FN merged, TP imperfect mask"),  # swallowed by the match of another
        # Prediction 1 swallows both objects; with 2 it would also make the first whole.
        ("aaaaaaaaaaAA", "111111.22211", "FN merged, FN merged, FP duplicate, FP merged"),
        ("aaaaaass", "111122ss", "FP duplicate, TP imperfect mask"),
        ("ssssss", "11ssss", "FP hallucinated, TP imperfect mask"),
        ("aaaass", "....ss", "FN missed"),
        ("aaaa", "aaa.", "TP imperfect mask"),
    ],
)
def test_each_planted_error_has_its_cause(scene, truth, prediction, expected):
    assert ", ".join(map(" ".join, causes(scene((truth, prediction))))) == expected


@pytest.mark.parametrize(
    ("images", "cause", "scope", "expected"),
    [
        # Fixed: car 0 → 1, and bus, which had only this false positive, 0 → 1; sky is 1.
        ([("aaaass", "bbbbss")], "wrong category", {}, 2 / 3),
        ([("aaaaaass", "112233ss")], "split", {"category_id": CAR}, 1),
        ([("aaAAss", "1111ss")], "merged", {"category_id": CAR}, 1),
        # PQ of cars is (4/6) / 1.5; without the duplicate 4/6.
        ([("aaaaaass", "111122ss")], "duplicate", {"category_id": CAR}, 4 / 6 - 4 / 9),
        # PQ of cars is 1 / 1.5; found exactly it is 1.
        ([("aaaass", "....ss"), ("aass", "aass")], "missed", {"category_id": CAR}, 1 / 3),
        ([("aaaa", "aaa.")], "imperfect mask", {}, 1 / 4),
    ],
)
def test_a_fix_gains_what_the_error_costs(scene, images, cause, scope, expected):
    assert gain(scene(*images), cause, **scope) == pytest.approx(expected)


def test_a_fixed_category_leaves_the_mask_as_it_is(scene):
    tables = scene(("aaaa..", "bbb.cc"))
    (missed,) = assign_causes(*tables).query("verdict == 'FN'").to_dict("records")
    assert missed["cause"] == "wrong category"
    assert missed["iou"] == 3 / 4
    assert gain(tables, "wrong category", category_id=CAR) == pytest.approx(3 / 4)


def test_a_segment_with_area_zero_causes_no_division_by_zero(tmp_path):
    gt, pred = write_side(tmp_path, "gt", {1: "qpppss"}), write_side(tmp_path, "pred", {1: "ppppss"})
    content = json.loads(gt.read_text())
    content["annotations"][0]["segments_info"][0]["area"] = 0
    gt.write_text(json.dumps(content))
    run = score_folder(gt, pred)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain_errors(run.matched, run.categories)
    assert "merged" in set(found.errors["cause"])
    assert found.errors["iou"].between(0, 1).all()


def test_joined_pieces_of_a_split_have_the_iou_of_their_union(scene):
    # 3 and 3 of 8 pixels, and one beyond: 6 / 9.
    errors = assign_causes(*scene(("aaaaaaaas", "111..2222")))
    (iou,) = errors.loc[(errors["verdict"] == "FN") & (errors["cause"] == "split"), "iou"]
    assert iou == pytest.approx(6 / 9)


def test_pieces_with_too_small_a_union_are_not_a_split(scene):
    assert ("FN", "split") not in causes(scene(("aaaaaaaaaa", "1122......")))


def test_the_causes_stand_in_the_order_of_the_docs():
    docs = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
    rows = rows_under(docs, ("cause", "description", "fix"))
    assert [row["cause"] for row in rows] == [cause.name for cause in CAUSES]
    assert [row["description"] for row in rows] == [cause.description for cause in CAUSES]


def test_one_object_in_a_much_larger_prediction_is_a_bad_mask(scene):
    tables = scene(("aassss", "1111ss"))
    assert ("FN", "bad mask") in causes(tables)
    assert ("FP", "bad mask") in causes(tables)


@pytest.mark.parametrize(("covered", "cause"), [(5, "bad mask"), (2, "bad mask"), (1, "missed")])
def test_a_mask_is_near_above_iou_one_tenth(scene, covered, cause):
    tables = scene(("a" * 10, "1" * covered + "." * (10 - covered)))
    assert ("FN", cause) in causes(tables)


def test_a_duplicate_names_the_object_that_was_found(scene):
    (duplicate,) = assign_causes(*scene(("aaaaaass", "111122ss"))).query("verdict == 'FP'").to_dict("records")
    assert duplicate["gt_id"] == ord("a")


def test_crowds_are_neither_missed_nor_hallucinated(scene):
    assert causes(scene(("aaaass", "1122ss"), crowds="a")) == []


def test_a_prediction_that_void_excuses_can_still_have_the_wrong_category(scene):
    # Three of five pixels of the bus are void, the others are the whole car.
    tables = scene(("aa...", "bbbbb"))
    assert causes(tables) == [("FN", "wrong category")]
    (missed,) = assign_causes(*tables).to_dict("records")
    assert missed["pred_id"] == ord("b")
    assert missed["iou"] == 1


def test_of_two_bad_masks_the_nearer_is_a_bad_mask_and_the_other_a_duplicate(scene):
    # IoU 3/10 and 2/10, half of the objects together: no split.
    errors = assign_causes(*scene(("aaaaaaaaaass", "22...111...."))).query("verdict == 'FP'").set_index("pred_id")
    assert errors["cause"].to_dict() == {ord("1"): "bad mask", ord("2"): "duplicate"}


def test_each_cause_appears_in_its_example_image(scene):
    tables = scene(("aaaass", "bbbbss"), ("aaaaaass", "112233ss"), ("aaAAss", "1111ss"), ("aass", "..ss"))
    worst = worst_images(assign_causes(*tables), tables.categories)
    first = worst.groupby("cause")["image_id"].agg(list)
    assert first.to_dict() == {"wrong category": [1], "split": [2], "merged": [3], "missed": [4]}


def test_the_worst_image_comes_first(scene):
    tables = scene(("aaAA", "...."), ("aass", "..ss"), ("aass", "aass"))
    worst = worst_images(assign_causes(*tables), tables.categories)
    assert worst["image_id"].tolist() == [1, 2]
    assert worst["gain"].is_monotonic_decreasing
    assert worst["FN"].tolist() == [2, 1]
    assert len(worst_images(assign_causes(*tables), tables.categories, images=1)) == 1


def test_fixing_wrong_categories_in_the_tables_gains_what_the_report_says(scene):
    tables = scene(("aaaabbss", "bbbaaass"), ("aabbccss", "aabbccss"), ("aaccss", "ccccss"))
    errors = assign_causes(*tables)
    relabelled = tables.segments.copy()
    truth = tables.segments[tables.segments["side"] == "gt"].set_index(["image_id", "id"])["category_id"]
    for error in errors[(errors["verdict"] == "FN") & (errors["cause"] == "wrong category")].itertuples():
        wrong = relabelled[["side", "image_id", "id"]].eq(["pred", error.image_id, error.pred_id])
        relabelled.loc[wrong.all(axis=1), "category_id"] = truth[error.image_id, error.gt_id]
    before, after = (
        summarise(pq_table(Matched.from_frames(segments, tables.overlaps), tables.categories))["All"]["PQ"]
        for segments in (tables.segments, relabelled)
    )
    assert after > before
    assert gain(tables, "wrong category") == pytest.approx(after - before)


def test_tables_without_segments_lose_nothing(scene):
    tables = scene(("....", "...."))
    report = explain_errors(*tables)
    assert len(report.errors) == len(report.lost) == len(report.worst) == 0


def test_inputs_are_not_modified(scene):
    tables = scene(("aaaabbss", "bbbaaass"))
    before = tables.segments.copy(), tables.overlaps.copy()
    explain_errors(*tables)
    pd.testing.assert_frame_equal(tables.segments, before[0])
    pd.testing.assert_frame_equal(tables.overlaps, before[1])


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_every_error_has_exactly_one_cause(random_scenes, seed):
    tables = random_scenes(seed, images=12)
    errors = assign_causes(*tables)
    assert set(errors["cause"]) <= {cause.name for cause in CAUSES}
    verdicts = segment_verdicts(tables.matched)
    for verdict, side, name in (("FN", "gt", "gt_id"), ("FP", "pred", "pred_id"), ("TP", "gt", "gt_id")):
        expected = verdicts[(verdicts["verdict"] == verdict) & (verdicts["side"] == side)]
        found = errors.loc[errors["verdict"] == verdict, ["image_id", name]]
        assert sorted(found.to_numpy().tolist()) == sorted(expected[["image_id", "id"]].to_numpy().tolist())
    assert (errors.loc[errors["verdict"] == "FN", "iou"] > 0.5).all()


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_losses_of_causes_add_up_to_the_total(random_scenes, seed):
    tables = random_scenes(seed, images=12)
    lost = lost_pq(assign_causes(*tables), tables.categories)
    summary = summarise(pq_table(*tables))
    for (group, category_id), of_scope in lost.groupby(["group", "category_id"], dropna=False):
        assert of_scope["lost"].sum() == pytest.approx(1 - of_scope["PQ"].iloc[0], abs=1e-12)
        assert (of_scope["gain"] >= -1e-12).all()
        if category_id == 0:
            assert of_scope["PQ"].iloc[0] == pytest.approx(summary[group]["PQ"], abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_fixing_all_causes_makes_pq_one(random_scenes, seed):
    """By the formulas of the docs, applied to the rows of `assign_causes` one after the other."""
    tables = random_scenes(seed, images=12)
    errors = assign_causes(*tables)
    of_all = per_image_statistics(tables.matched).groupby("category_id")[["iou_sum", "TP", "FP", "FN"]].sum()
    for category_id, of_category in errors.groupby("category_id"):
        sums = of_all.loc[category_id]
        fp = sums["FP"] - (of_category["verdict"] == "FP").sum()
        fn = sums["FN"] - (of_category["verdict"] == "FN").sum()
        tp = sums["TP"] + (of_category["verdict"] == "FN").sum()
        missing = (1 - of_category.loc[of_category["verdict"] != "FP", "iou"]).sum()
        iou_sum = sums["iou_sum"] + of_category.loc[of_category["verdict"] == "FN", "iou"].sum() + missing
        assert (fp, fn) == (0, 0)
        assert iou_sum == pytest.approx(tp)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_segment_ids_do_not_change_causes(random_scenes, seed):
    tables = random_scenes(seed, images=12)
    rng = random.Random(seed)
    segments, overlaps = tables.segments.copy(), tables.overlaps.copy()
    for side, column in (("gt", "gt_id"), ("pred", "pred_id")):
        new = np.array([0, *rng.sample(range(1, 2**24), 8)], np.int32)
        of_side = segments["side"] == side
        segments.loc[of_side, "id"] = new[segments.loc[of_side, "id"]]
        overlaps[column] = new[overlaps[column]]
    overlaps = overlaps.sample(frac=1, random_state=seed % 1000)
    before = lost_pq(assign_causes(*tables), tables.categories)
    after = lost_pq(assign_causes(Matched.from_frames(segments, overlaps), tables.categories), tables.categories)
    pd.testing.assert_frame_equal(before, after, rtol=0, atol=1e-12)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_causes_of_an_image_do_not_depend_on_other_images(random_scenes, seed):
    tables = random_scenes(seed, images=12)
    together = assign_causes(*tables)
    images = tables.matched.image_ids.tolist()
    apart = [assign_causes(tables.matched.only([image]), tables.categories) for image in images]
    columns = ["image_id", "verdict", "gt_id", "pred_id", "cause"]
    listing = [sorted(map(tuple, frame[columns].to_numpy().tolist())) for frame in (together, pd.concat(apart))]
    assert listing[0] == listing[1]
