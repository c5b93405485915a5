"""PQ of slices, PQ†, weighted PQ and PQ over IoU thresholds."""

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panbench.base.errors import BadArgument
from panbench.metrics.pq import per_image_statistics, pq_table, summarise
from panbench.metrics.slices import (
    SLICINGS,
    THRESHOLDS,
    image_statistics,
    pq_by,
    pq_dagger,
    threshold_curve,
    weighted_pq,
)

CAR, BUS, CAT, SKY, SEA = 1, 2, 3, 92, 93
COUNTS = ["iou_sum", "TP", "FP", "FN"]


def by(tables, what: str) -> pd.DataFrame:
    return pq_by(image_statistics(*tables, by=what)).set_index("slice")


def test_without_slices_the_score_is_pq(scene):
    tables = scene(("aaaabbss", "aaa.bbcc"), ("ssww", "sssw"))
    (row,) = pq_by(image_statistics(*tables)).to_dict("records")
    summary = summarise(pq_table(*tables))
    assert row["slice"] == "All"
    assert {key: row[key] for key in ("PQ", "SQ", "RQ", "n")} == pytest.approx(summary["All"])
    assert row["PQ_th"] == pytest.approx(summary["Things"]["PQ"])
    assert row["PQ_st"] == pytest.approx(summary["Stuff"]["PQ"])


def test_size_slices_are_cocos(scene):
    small, medium, large = (f"{'a' * side}\n" * side for side in (31, 32, 96))
    table = by(scene((small, small), (medium, medium), (large, large.replace("a", "c"))), "size")
    assert table[["TP", "FN", "FP", "PQ"]].to_numpy().tolist() == [[1, 0, 0, 1], [1, 0, 0, 1], [0, 1, 1, 0]]


def test_a_match_is_sliced_by_the_true_size_and_a_false_positive_by_its_own(scene):
    # 1024 true pixels, of which 1000 are found: a medium match. The cat on the rest is small.
    found = "a" * 1000 + "c" * 24
    table = by(scene(("a" * 1024, found)), "size")
    assert table["TP"].tolist() == [0, 1, 0]
    assert table["FP"].tolist() == [1, 0, 0]


def test_share_slices_are_relative_to_the_image(scene):
    # 1 of 200 pixels, 10 of 200, the rest.
    picture = "a" + "b" * 10 + "s" * 189
    table = by(scene((picture, picture)), "share")
    assert table["TP"].tolist() == [1, 1, 1]


def test_images_are_sliced_by_how_many_objects_they_hold(scene):
    few, many = "aAbBcC"[:5], "aAbBcCsSwW."
    table = by(scene((few, few), (many, many.replace("a", "."))), "segments")
    assert table["TP"].tolist() == [5, 9, 0, 0]
    assert table["FN"].tolist() == [0, 1, 0, 0]
    assert math.isnan(table["PQ"].iloc[-1])


def test_crowds_are_not_counted_among_the_objects(scene):
    table = by(scene(("aAbBcCsS", "aAbBcCsS"), crowds="aAb"), "segments")
    assert table.loc["0–5", "TP"] == 5
    assert table.loc["6–10", "TP"] == 0


def test_a_supercategory_scores_the_mean_of_its_categories(scene):
    tables = scene(("aaaabbbbcc", "aaa.bbbbss"))
    table = by(tables, "supercategory")
    assert table.loc["vehicle", "PQ"] == pytest.approx((3 / 4 + 1) / 2)
    assert table.loc["animal", "PQ"] == 0
    assert table.loc["outdoor", "FP"] == 1
    assert table["n"].to_dict() == {"vehicle": 2, "animal": 1, "outdoor": 1}


def test_an_unknown_slicing_is_refused(scene):
    with pytest.raises(BadArgument, match="size, share, segments, supercategory"):
        image_statistics(*scene(("a", "a")), by="colour")


def test_images_without_segments_count_as_images(scene):
    assert image_statistics(*scene(("aa", "aa"), ("..", ".."))).image_ids.tolist() == [1, 2]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), what=st.sampled_from(sorted(SLICINGS)))
def test_slices_add_up_to_all_segments(random_scenes, seed, what):
    tables = random_scenes(seed, images=10)
    keys = ["image_id", "category_id"]
    sliced = image_statistics(*tables, by=what).table.groupby(keys)[COUNTS].sum()
    whole = per_image_statistics(tables.matched).set_index(keys)[COUNTS]
    pd.testing.assert_frame_equal(sliced, whole.sort_index())


def test_a_higher_threshold_leaves_fewer_matches(scene):
    # IoU 1, 0.8 and 0.6.
    tables = scene(("aaaaabbbbbccccc", "aaaaabbbb.ccc.."))
    curve = threshold_curve(*tables).query("group == 'All'").set_index("threshold")
    assert tuple(curve.index) == THRESHOLDS
    assert curve.loc[0.5, "RQ"] == 1
    assert curve.loc[0.6, "RQ"] == pytest.approx(2 / 3)
    assert curve.loc[0.8, "RQ"] == pytest.approx(1 / 3)
    assert curve.loc[0.5, "PQ"] == pytest.approx((1 + 0.8 + 0.6) / 3)


def test_a_prediction_excused_by_void_stays_excused_above_its_iou(scene):
    # The car is matched at IoU 0.75, five of its eight pixels on void.
    tables = scene(("aaaa.....", "aaa.aaaaa"))
    curve = threshold_curve(*tables, thresholds=[0.5, 0.9]).query("group == 'All'")
    assert curve["RQ"].tolist() == [1, 0]
    lost = pq_table(*tables, iou_threshold=0.9).set_index("category_id").loc[CAR]
    assert (lost["FP"], lost["FN"]) == (0, 1)


@pytest.mark.parametrize("threshold", [0.49, 1.0, math.nan])
def test_thresholds_without_unique_matches_are_refused(scene, threshold):
    with pytest.raises(BadArgument, match=r"\[0.5, 1\)"):
        threshold_curve(*scene(("a", "a")), thresholds=[0.5, threshold])


def test_pq_dagger_needs_no_threshold_for_stuff(scene):
    tables = scene(("ssssaaaa", "s...aaaa"), ("ssss", "ssss"))
    table = pq_dagger(*tables).set_index("category_id")
    assert table.loc[SKY, "PQ_dagger"] == pytest.approx((1 / 4 + 1) / 2)
    assert table.loc[SKY, "images"] == 2
    assert table.loc[CAR, "PQ_dagger"] == 1
    # PQ: 1 TP, 1 FN, 1 FP.
    assert pq_table(*tables).set_index("category_id").loc[SKY, "PQ"] == pytest.approx(1 / 2)


def test_pq_dagger_ignores_stuff_predicted_in_images_without_it(scene):
    table = pq_dagger(*scene(("ssss", "ssss"), ("aaaa", "ssaa"), ("aaaa", "wwaa"))).set_index("category_id")
    assert table.loc[SKY, "PQ_dagger"] == 1
    assert math.isnan(table.loc[SEA, "PQ_dagger"])
    assert math.isnan(table.loc[CAT, "PQ_dagger"])


@pytest.mark.parametrize(("image", "expected"), [(("ss....aa", "ssssssss"), 2 / 4), (("ssssSSSS", "sssssS.."), 6 / 8)])
def test_pq_dagger_leaves_void_out_of_the_union_and_joins_pieces_of_stuff(scene, image, expected):
    assert pq_dagger(*scene(image)).set_index("category_id").loc[SKY, "PQ_dagger"] == pytest.approx(expected)


def test_frequent_categories_weigh_more_in_weighted_pq(scene):
    tables = scene(("aassssss", "ccssssss"), ("bBbB", "bBbB"))
    # Sky and bus are right, car is missed; pixels 6 + 4 of 12, segments 3 of 4 (cats are in the prediction alone).
    assert weighted_pq(*tables) == pytest.approx(10 / 12)
    assert weighted_pq(*tables, weights="segments") == pytest.approx(3 / 4)


def test_weighted_pq_is_none_without_true_segments(scene):
    assert weighted_pq(*scene(("....", "aaaa"))) is None
    with pytest.raises(BadArgument, match="pixels"):
        weighted_pq(*scene(("aa", "aa")), weights="images")
