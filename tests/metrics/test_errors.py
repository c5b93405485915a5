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

from panbench.base.errors import BadDataset
from panbench.metrics.errors import CAUSES, assign_causes, explain, lost_pq, worst_images
from panbench.metrics.matched import Matched
from panbench.metrics.pq import per_image_statistics, pq_table, segment_verdicts, summarise
from panbench.scoring.folder import score_folder
from scripts.make.markdown_lists import items

SEEDS = st.integers(0, 2**32 - 1)
CAR, BUS, CAT, SKY, SEA = 1, 2, 3, 92, 93


def causes(tables) -> list[tuple[str, str]]:
    """(verdict, cause) of each error, in order; exact matches are none."""
    errors = assign_causes(*tables)
    errors = errors[~((errors["verdict"] == "TP") & (errors["iou"] == 1))]
    return sorted(zip(errors["verdict"], errors["cause"], strict=True))


def gain(tables, cause: str, **scope) -> float:
    return price(tables, cause, "gain", **scope)


def price(tables, cause: str, column: str, **scope) -> float:
    lost = lost_pq(assign_causes(*tables), tables.categories)
    for name, value in (scope or {"group": "All"}).items():
        lost = lost[lost[name] == value]
    (value,) = lost.loc[lost["cause"] == cause, column]
    return value


def test_a_perfect_prediction_has_no_error(scene):
    tables = scene(("aaabbs", "AAABBS"))
    assert causes(tables) == []
    lost = lost_pq(assign_causes(*tables), tables.categories)
    assert (lost[["gain", "lost"]] == 0).all(axis=None)


def test_a_right_mask_called_another_thing_is_a_wrong_category(scene):
    tables = scene(("aaaass", "bbbbss"))
    assert causes(tables) == [("FN", "wrong category"), ("FP", "wrong category")]
    # Fixed: car 0 → 1, and bus, which had only this false positive, 0 → 1; sky is 1.
    assert gain(tables, "wrong category") == pytest.approx(2 / 3)


def test_a_fixed_category_leaves_the_mask_as_it_is(scene):
    tables = scene(("aaaa..", "bbb.cc"))
    (missed,) = assign_causes(*tables).query("verdict == 'FN'").to_dict("records")
    assert missed["cause"] == "wrong category"
    assert missed["iou"] == 3 / 4
    assert gain(tables, "wrong category", category_id=CAR) == pytest.approx(3 / 4)


def test_a_thing_taken_for_stuff_is_a_confusion_of_kinds(scene):
    assert causes(scene(("aaaass", "wwwwss"))) == [("FN", "thing/stuff confusion"), ("FP", "thing/stuff confusion")]
    assert causes(scene(("ssssaa", "bbbbaa"))) == [("FN", "thing/stuff confusion"), ("FP", "thing/stuff confusion")]


def test_a_segment_whose_json_says_that_it_has_no_area_divides_by_nothing(tmp_path):
    gt, pred = write_side(tmp_path, "gt", {1: "qpppss"}), write_side(tmp_path, "pred", {1: "ppppss"})
    content = json.loads(gt.read_text())
    content["annotations"][0]["segments_info"][0]["area"] = 0
    gt.write_text(json.dumps(content))
    run = score_folder(gt, pred)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = explain(run.matched, run.categories)
    assert "merged" in set(found.errors["cause"])
    assert found.errors["iou"].between(0, 1).all()


def test_one_object_in_several_pieces_is_split(scene):
    tables = scene(("aaaaaass", "112233ss"))
    assert causes(tables) == [("FN", "split"), ("FP", "split"), ("FP", "split"), ("FP", "split")]
    assert gain(tables, "split", category_id=CAR) == pytest.approx(1)


def test_joined_pieces_have_the_iou_of_their_union(scene):
    # 3 and 3 of 8 pixels, and one beyond: 6 / 9.
    errors = assign_causes(*scene(("aaaaaaaas", "111..2222")))
    (iou,) = errors.loc[(errors["verdict"] == "FN") & (errors["cause"] == "split"), "iou"]
    assert iou == pytest.approx(6 / 9)


def test_pieces_that_are_too_small_together_are_no_split(scene):
    assert ("FN", "split") not in causes(scene(("aaaaaaaaaa", "1122......")))


def test_several_objects_in_one_prediction_are_merged(scene):
    tables = scene(("aaAAss", "1111ss"))
    assert causes(tables) == [("FN", "merged"), ("FN", "merged"), ("FP", "merged")]
    assert gain(tables, "merged", category_id=CAR) == pytest.approx(1)


def test_an_object_swallowed_by_the_match_of_another_is_merged(scene):
    tables = scene(("aaaaAss", "11111ss"))
    assert causes(tables) == [("FN", "merged"), ("TP", "imperfect mask")]


def test_what_could_be_merged_or_split_is_merged(scene):
    # Prediction 1 swallows both objects; with 2 it would also make the first whole.
    tables = scene(("aaaaaaaaaaAA", "111111.22211"))
    assert causes(tables) == [("FN", "merged"), ("FN", "merged"), ("FP", "duplicate"), ("FP", "merged")]


def test_the_causes_stand_in_the_order_of_the_docs():
    docs = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")
    rows = items(docs, ("what it says", "the fix"))
    assert [row[""] for row in rows] == [f"{cause.name}." for cause in CAUSES]
    assert [row["what it says"] for row in rows] == [cause.description for cause in CAUSES]


def test_one_object_in_a_much_larger_prediction_is_a_bad_mask(scene):
    tables = scene(("aassss", "1111ss"))
    assert ("FN", "bad mask") in causes(tables)
    assert ("FP", "bad mask") in causes(tables)


@pytest.mark.parametrize(("covered", "cause"), [(5, "bad mask"), (2, "bad mask"), (1, "missed")])
def test_a_mask_is_near_above_iou_one_tenth(scene, covered, cause):
    tables = scene(("a" * 10, "1" * covered + "." * (10 - covered)))
    assert ("FN", cause) in causes(tables)


def test_a_second_prediction_on_a_found_object_is_a_duplicate(scene):
    tables = scene(("aaaaaass", "111122ss"))
    assert causes(tables) == [("FP", "duplicate"), ("TP", "imperfect mask")]
    (duplicate,) = assign_causes(*tables).query("verdict == 'FP'").to_dict("records")
    assert duplicate["gt_id"] == ord("a")
    # PQ of cars is (4/6) / 1.5; without the duplicate 4/6.
    assert gain(tables, "duplicate", category_id=CAR) == pytest.approx(4 / 6 - 4 / 9)


def test_a_prediction_where_nothing_is_of_its_category_is_hallucinated(scene):
    assert causes(scene(("ssssss", "11ssss"))) == [("FP", "hallucinated"), ("TP", "imperfect mask")]


def test_an_object_without_prediction_is_missed(scene):
    tables = scene(("aaaass", "....ss"), ("aass", "aass"))
    assert causes(tables) == [("FN", "missed")]
    # PQ of cars is 1 / 1.5; found exactly it is 1.
    assert gain(tables, "missed", category_id=CAR) == pytest.approx(1 / 3)


def test_a_loose_match_is_an_imperfect_mask(scene):
    tables = scene(("aaaa", "aaa."))
    assert causes(tables) == [("TP", "imperfect mask")]
    assert gain(tables, "imperfect mask") == pytest.approx(1 / 4)


def test_crowds_are_neither_missed_nor_hallucinated(scene):
    assert causes(scene(("aaaass", "1122ss"), crowds="a")) == []


def test_a_prediction_that_void_excuses_can_still_have_the_wrong_category(scene):
    # Three of five pixels of the bus are void, the others are the whole car.
    tables = scene(("aa...", "bbbbb"))
    assert causes(tables) == [("FN", "wrong category")]
    (missed,) = assign_causes(*tables).to_dict("records")
    assert missed["pred_id"] == ord("b")
    assert missed["iou"] == 1


def test_the_nearer_of_two_bad_masks_is_taken(scene):
    # IoU 3/10 and 2/10, half of the objects together: no split.
    errors = assign_causes(*scene(("aaaaaaaaaass", "22...111...."))).query("verdict == 'FP'").set_index("pred_id")
    assert errors["cause"].to_dict() == {ord("1"): "bad mask", ord("2"): "duplicate"}


def test_each_cause_shows_in_its_own_image(scene):
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
        prediction = (
            (relabelled["side"] == "pred")
            & (relabelled["image_id"] == error.image_id)
            & (relabelled["id"] == error.pred_id)
        )
        relabelled.loc[prediction, "category_id"] = truth[error.image_id, error.gt_id]
    before, after = (
        summarise(pq_table(Matched.from_frames(segments, tables.overlaps), tables.categories))["All"]["PQ"]
        for segments in (tables.segments, relabelled)
    )
    assert after > before
    assert gain(tables, "wrong category") == pytest.approx(after - before)


def test_an_unknown_category_is_refused(scene):
    matched, categories = scene(("aabb", "aabb"))
    with pytest.raises(BadDataset, match="2"):
        assign_causes(matched, [category for category in categories if category.id != BUS])


def test_tables_without_segments_have_no_loss(scene):
    tables = scene(("....", "...."))
    report = explain(*tables)
    assert len(report.errors) == len(report.lost) == len(report.worst) == 0


def test_inputs_stay_as_they_are(scene):
    tables = scene(("aaaabbss", "bbbaaass"))
    before = tables.segments.copy(), tables.overlaps.copy()
    explain(*tables)
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
        found = errors[errors["verdict"] == verdict]
        assert sorted(zip(found["image_id"], found[name], strict=True)) == sorted(
            zip(expected["image_id"], expected["id"], strict=True)
        )
    assert (errors.loc[errors["verdict"] == "FN", "iou"] > 0.5).all()


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_parts_add_up_to_what_is_lost(random_scenes, seed):
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
    for category_id, of_category in errors.groupby("category_id"):
        sums = (
            per_image_statistics(tables.matched)
            .groupby("category_id")[["iou_sum", "TP", "FP", "FN"]]
            .sum()
            .loc[category_id]
        )
        fp = sums["FP"] - (of_category["verdict"] == "FP").sum()
        fn = sums["FN"] - (of_category["verdict"] == "FN").sum()
        tp = sums["TP"] + (of_category["verdict"] == "FN").sum()
        missing = (1 - of_category.loc[of_category["verdict"] != "FP", "iou"]).sum()
        iou_sum = sums["iou_sum"] + of_category.loc[of_category["verdict"] == "FN", "iou"].sum() + missing
        assert (fp, fn) == (0, 0)
        assert iou_sum == pytest.approx(tp)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS)
def test_other_ids_change_nothing(random_scenes, seed):
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
def test_an_image_alone_has_the_causes_it_has_among_others(random_scenes, seed):
    tables = random_scenes(seed, images=12)
    together = assign_causes(*tables)
    apart = [
        assign_causes(
            Matched.from_frames(
                tables.segments[tables.segments["image_id"] == image],
                tables.overlaps[tables.overlaps["image_id"] == image],
            ),
            tables.categories,
        )
        for image in sorted(tables.overlaps["image_id"].unique())
    ]
    columns = ["image_id", "verdict", "gt_id", "pred_id", "cause"]
    listing = [sorted(map(tuple, frame[columns].to_numpy().tolist())) for frame in (together, pd.concat(apart))]
    assert listing[0] == listing[1]
