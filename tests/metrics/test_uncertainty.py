"""Paired differences, permutation tests, ranks and Holm's correction."""

import dataclasses
import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panbench.base.errors import BadArgument
from panbench.metrics import uncertainty
from panbench.metrics.slices import ImageStatistics, image_statistics
from panbench.metrics.uncertainty import compare_runs, holm, permutations_needed
from panbench.panoptic.types import Category
from tests.metrics.sums import CAR, CATEGORIES, SKY, cars, row, statistics


def difference(a, b, metric: str = "PQ", **settings) -> dict:
    """What sets run b apart from run a: statistics, or the IoU of a car in each image."""
    sides = {name: one if isinstance(one, ImageStatistics) else cars(one) for name, one in (("a", a), ("b", b))}
    return row(compare_runs(sides, **settings).differences, metric)


def of_all(table: pd.DataFrame) -> pd.DataFrame:
    return table.query("metric == 'PQ' and group == 'All'")


def test_the_same_seed_gives_the_same_numbers_on_any_number_of_cores(monkeypatch):
    rng = np.random.default_rng(5)
    run, other = (cars(rng.uniform(0.5, 1, 60)) for _ in "ab")
    expected = compare_runs({"a": run, "b": other}, permutations=600)
    monkeypatch.setattr(uncertainty, "available_cores", lambda: 1)
    again = compare_runs({"a": run, "b": other}, permutations=600)
    pd.testing.assert_frame_equal(expected.runs, again.runs)
    pd.testing.assert_frame_equal(expected.differences, again.differences)
    different = compare_runs({"a": run, "b": other}, permutations=600, seed=1)
    assert not expected.differences.equals(different.differences)


def test_a_run_does_not_differ_from_itself():
    run = cars([0.6, 0.0, 0.9, 0.55] * 10)
    found = difference(run, run, permutations=200)
    assert (found["difference"], found["low"], found["high"]) == (0, 0, 0)
    assert found["p"] == 1
    assert not found["significant"]


def test_the_p_value_is_the_share_of_swaps_that_differ_as_much():
    of_a, of_b = [0.9, 0.8, 0.6, 0.0, 0.7, 0.9], [0.7, 0.8, 0.0, 0.6, 0.6, 0.5]
    observed = np.mean(of_a) - np.mean(of_b)
    # All 64 ways of swapping; one car an image, and TP + FN/2 is the sum of what each run has.
    ways = [np.where(swaps, (of_b, of_a), (of_a, of_b)) for swaps in product([False, True], repeat=6)]
    exact = np.mean([abs(_pq(one) - _pq(other)) >= abs(_pq(of_a) - _pq(of_b)) - 1e-12 for one, other in ways])
    assert observed > 0
    found = difference(of_a, of_b, permutations=20_000)
    assert found["difference"] == pytest.approx(_pq(of_b) - _pq(of_a))
    assert found["p"] == pytest.approx(exact, abs=0.015)


def _pq(ious) -> float:
    found = sum(iou > 0 for iou in ious)
    return sum(ious) / (found + (len(ious) - found) / 2)


def test_a_clear_difference_is_significant_and_its_interval_excludes_zero():
    rng = np.random.default_rng(1)
    of_a = rng.uniform(0.5, 0.9, 60)
    result = compare_runs({"a": cars(of_a), "b": cars(of_a + 0.05)}, permutations=2000)
    found = row(result.differences)
    assert found["difference"] == pytest.approx(0.05)
    assert 0 < found["low"] < found["high"]
    assert found["p"] == pytest.approx(1 / 2001)
    assert found["significant"]
    assert (result.images, result.left_out) == (60, {"a": 0, "b": 0})


def test_pairing_by_image_detects_differences_that_separate_intervals_hide():
    rng = np.random.default_rng(2)
    of_a = rng.uniform(0.5, 0.95, 80)
    result = compare_runs({"a": cars(of_a), "b": cars(of_a + 0.01)}, permutations=500)
    a, b = (row(result.runs[result.runs["run"] == name]) for name in "ab")
    assert a["high"] > b["low"]
    assert row(result.differences)["significant"]


def test_only_shared_images_are_compared():
    a = statistics([(n, CAR, 0.9, 1, 0, 0) for n in range(1, 41)])
    b = statistics([(n, CAR, 0.8, 1, 0, 0) for n in range(21, 71)])
    result = compare_runs({"a": a, "b": b}, permutations=100)
    assert result.images == 20
    assert result.left_out == {"a": 20, "b": 30}
    assert row(result.differences)["images"] == 20


def test_the_interval_of_a_difference_is_that_of_the_images_differences():
    """One car found an image by both: the textbook's paired interval, by Student's t."""
    rng = np.random.default_rng(0)
    of_a = rng.uniform(0.5, 0.9, 60)
    of_b = of_a + rng.normal(0.02, 0.03, 60)
    found = difference(of_a, of_b, permutations=1)
    apart = of_b - of_a
    half = 2 * apart.std(ddof=1) / math.sqrt(60)
    assert (found["low"], found["high"]) == pytest.approx((apart.mean() - half, apart.mean() + half), abs=0.0005)


def test_masks_are_compared_over_the_categories_that_both_match():
    """Both find all cars alike; b says "sky" of what is none, and so has a category without a match: SQ 0."""
    masks = [(n, CAR, iou, 1, 0, 0) for n, iou in enumerate(np.linspace(0.6, 0.9, 40), start=1)]
    a = statistics([*masks, *[(n, SKY, 0.8, 1, 0, 0) for n in range(1, 15)]], 40)
    b = statistics([*masks, *[(n, SKY, 0.0, 0, 1, 1) for n in range(1, 15)]], 40)
    table = compare_runs({"a": a, "b": b}).differences
    iou, sq = (row(table, metric) for metric in ("IoU", "SQ"))
    assert (iou["value_a"], iou["value_b"]) == pytest.approx((0.75, 0.75))
    assert (iou["difference"], iou["low"], iou["high"], iou["p"]) == (0, 0, 0, 1)
    assert sq["difference"] == pytest.approx(-0.4)
    assert not row(table, "IoU", category_id=CAR)["difference"]
    assert math.isnan(row(table, "IoU", category_id=SKY)["difference"])


def test_finer_masks_have_a_higher_mean_iou_of_matches():
    rng = np.random.default_rng(2)
    ious = rng.uniform(0.55, 0.85, 40)
    found = difference(ious, ious + rng.uniform(0, 0.04, 40), "IoU", permutations=1)
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["significant"]
    assert not found["at_floor"]


def test_runs_sliced_differently_are_refused(scene):
    tables = scene(("aa", "aa"))
    with pytest.raises(BadArgument, match="sliced"):
        compare_runs({"a": image_statistics(*tables, by="size"), "b": image_statistics(*tables)})


OTHER_NAMES = (Category(CAR, "automobile", True), *CATEGORIES[1:])


@pytest.mark.parametrize(
    ("b", "settings", "named"),
    [
        (cars([0.8] * 3), {"level": 1.0}, "level"),
        (cars([0.8] * 3), {"permutations": 0}, "permutations"),
        (cars([0.8] * 3), {"baseline": "c"}, "baseline"),
        (statistics([(4, CAR, 0.9, 1, 0, 0)]), {}, "no image"),
        (dataclasses.replace(cars([0.9] * 3), categories=OTHER_NAMES), {}, "automobile, car"),
    ],
    ids=["level", "permutations", "baseline", "no shared image", "other categories"],
)
def test_what_cannot_be_compared_is_refused_by_name(b, settings, named):
    with pytest.raises(BadArgument, match=named):
        compare_runs({"a": cars([0.9] * 3), "b": b}, **settings)


def test_every_pair_is_compared_or_each_with_the_baseline():
    runs = {name: cars([0.6 + 0.1 * place] * 12) for place, name in enumerate("abc")}
    for baseline, pairs in ((None, [["a", "b"], ["a", "c"], ["b", "c"]]), ("b", [["b", "a"], ["b", "c"]])):
        table = compare_runs(runs, baseline=baseline, permutations=100).differences
        assert table[["a", "b"]].drop_duplicates().to_numpy().tolist() == pairs


def test_one_run_has_intervals_and_no_differences():
    result = compare_runs({"a": cars([0.8] * 12)})
    assert len(result.differences) == 0
    assert row(result.runs)["rank"] == 1


def test_a_rank_has_the_range_of_runs_that_tests_cannot_tell_apart():
    rng = np.random.default_rng(4)
    base = rng.uniform(0.5, 0.9, 60)
    runs = {"worst": cars((base - 0.1).clip(0.3)), "twin": cars(base), "other twin": cars(rng.permutation(base))}
    found = compare_runs(runs)
    ranks = of_all(found.runs).set_index("run")[["rank", "rank_low", "rank_high"]]
    assert ranks.loc["worst"].tolist() == [3, 3, 3]
    assert ranks.loc["twin"].tolist() == [1, 1, 2]
    assert ranks.loc["other twin"].tolist() == [1, 1, 2]


def test_indistinguishable_neighbours_have_overlapping_ranks():
    rng = np.random.default_rng(3)
    base = rng.uniform(0.5, 0.9, 40)
    gains = {"a": 0.0, "b": 0.009, "c": 0.018}
    runs = {name: cars((base + gain + rng.normal(0, 0.03, 40)).tolist()) for name, gain in gains.items()}
    found = compare_runs(runs)
    tests = of_all(found.differences).set_index(["a", "b"])["significant"]
    ranks = of_all(found.runs).set_index("run")
    assert not tests[("a", "b")]
    assert not tests[("b", "c")]
    assert tests[("a", "c")]
    assert ranks["rank"].to_dict() == {"a": 3, "b": 2, "c": 1}
    assert ranks["rank_low"].to_dict() == {"a": 2, "b": 1, "c": 1}
    assert ranks["rank_high"].to_dict() == {"a": 3, "b": 3, "c": 2}


def test_against_a_baseline_only_its_tests_narrow_a_rank():
    runs = {"base": cars([0.6] * 20), "a": cars([0.8] * 20), "b": cars([0.9] * 20)}
    ranks = of_all(compare_runs(runs, baseline="base").runs)
    spans = dict(zip(ranks["run"], zip(ranks["rank_low"], ranks["rank_high"], strict=True), strict=True))
    assert spans == {"base": (3, 3), "a": (1, 2), "b": (1, 2)}


def test_five_runs_can_reach_a_corrected_p_below_a_thousandth():
    """10,000 swaps of ten pairs × three groups end at 0.003: the same p for all that differ for sure."""
    rng = np.random.default_rng(1)
    runs = {f"run {n}": cars((0.5 + 0.09 * n + rng.uniform(0, 0.05, 60)).tolist()) for n in range(5)}
    table = of_all(compare_runs(runs).differences)
    assert table["at_floor"].all()
    assert (table["p_holm"] < 0.001).all()


def test_a_p_value_at_the_resolution_of_the_swaps_is_marked():
    rng = np.random.default_rng(1)
    base = rng.uniform(0.5, 0.9, 60)
    runs = {"a": cars(base), "far": cars(base / 2), "near": cars((base + 0.001).tolist()[::-1])}
    table = of_all(compare_runs(runs, permutations=200).differences).set_index(["a", "b"])
    assert table.loc[("a", "far"), "p"] == pytest.approx(1 / 201)
    assert table["at_floor"].to_dict() == {("a", "far"): True, ("a", "near"): False, ("far", "near"): True}


def test_swaps_suffice_for_one_significant_comparison_among_many():
    for pairs, scopes in ((1, 136), (10, 136), (78, 12), (190, 136)):
        swaps = permutations_needed(pairs, scopes, 3, 0.95)
        assert pairs * scopes / (1 + swaps) < 0.05
        assert swaps >= 10_000
    # Of up to five runs each with each, a difference of All can have p < 0.001.
    assert 10 * 3 / (1 + permutations_needed(10, 12, 3, 0.95)) < 0.001
    assert permutations_needed(190, 12, 3, 0.95) == 190 * 12 * 40


def test_a_category_in_few_images_has_no_interval_of_its_difference():
    """On nine images there is a sky, on twenty more one is seen where there is none."""
    rows = [(n, CAR, 0.8, 1, 0, 0) for n in range(1, 41)]
    rare = [(n, SKY, 0.7, 1, 0, 0) for n in range(1, 10)] + [(n, SKY, 0.0, 0, 1, 0) for n in range(10, 31)]
    runs = {
        name: statistics([*rows, *((*row[:2], row[2] * share, *row[3:]) for row in rare)])
        for name, share in (("a", 1.0), ("b", 0.9))
    }
    table = compare_runs(runs, permutations=100).differences
    few, many = (row(table, category_id=category) for category in (SKY, CAR))
    assert few["images"] == 30
    assert few["difference"] < 0
    assert math.isnan(few["low"])
    assert math.isnan(few["high"])
    assert not math.isnan(many["low"])


def test_slices_have_differences(random_scenes):
    tables, others = (random_scenes(seed, images=30) for seed in (8, 8))
    sides = {name: image_statistics(*side, by="supercategory") for name, side in (("a", tables), ("b", others))}
    result = compare_runs(sides, permutations=50)
    assert set(result.differences["group"]) == {"vehicle", "animal", "outdoor"}
    assert (result.differences["difference"] == 0).all()


def test_holm_multiplies_by_the_number_of_remaining_p_values():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, np.nan, 0.9])), [1.0, np.nan, 1.0])
    assert len(holm(np.array([]))) == 0


def test_groups_and_categories_are_corrected_separately():
    rng = np.random.default_rng(6)
    rows = [
        [(n, c, iou, 1, 0, 0) for n in range(1, 31) for c in (CAR, SKY) for iou in [rng.uniform(0.5, 1)]] for _ in "ab"
    ]
    table = compare_runs(dict(zip("ab", map(statistics, rows), strict=True)), permutations=300).differences
    for _, family in table.groupby(["metric", table["group"].isna()]):
        np.testing.assert_allclose(family["p_holm"], holm(family["p"].to_numpy()))
    assert len(table) == 4 * (3 + 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_keeps_the_order_and_never_lowers_a_p_value(values):
    p = np.array(values)
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()
    assert corrected.max() <= 1
