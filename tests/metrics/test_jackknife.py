"""Intervals of PQ, SQ and RQ: the jackknife, its correction for bias, and how often it holds the population's PQ."""

import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from panbench.metrics.jackknife import Jackknife, intervals, matched_iou
from panbench.metrics.pq import pq_table, summarise
from panbench.metrics.samples import Sample, Stack
from panbench.metrics.slices import image_statistics, pq_by
from scripts.check.simulated_population import Drawer, coco_like
from tests.metrics.sums import BUS, CAR, SKY, cars, row, statistics


def test_the_jackknifed_value_is_pq(random_scenes):
    tables = random_scenes(5, images=20)
    table = intervals(image_statistics(*tables))
    expected = pq_table(*tables)
    for group, scores in summarise(expected).items():
        for metric in ("PQ", "SQ", "RQ"):
            assert row(table, metric, group=group)["value"] == pytest.approx(scores[metric], rel=1e-12)
    for category in expected.itertuples():
        assert row(table, category_id=category.category_id)["value"] == pytest.approx(category.PQ, rel=1e-12)


def test_pq_without_an_image_is_that_of_the_other_images(random_scenes):
    run = image_statistics(*random_scenes(5, images=12))
    jackknife = Jackknife.of(Stack.of([Sample.of(run)]), 0)
    for place, image in enumerate(run.image_ids):
        rest = pq_by(run.only(np.setdiff1d(run.image_ids, [image]))).iloc[0]
        assert jackknife.left_out[0, :, place] == pytest.approx([rest["PQ"], rest["PQ_th"], rest["PQ_st"]], rel=1e-12)
        assert jackknife.left_out[2, 0, place] == pytest.approx(rest["RQ"], rel=1e-12)


def test_iou_of_matches_without_an_image_is_that_of_the_other_images():
    rng = np.random.default_rng(4)
    # The bus is matched by both on one image, and the sky by one of them alone.
    places = [(n, CAR) for n in range(1, 13)] + [(n, BUS) for n in (2, 5)] + [(n, SKY) for n in (1, 5, 9)]
    matched = [lambda n, kind: n % 4 or kind == BUS, lambda n, kind: kind == CAR or (n, kind) == (5, BUS)]
    runs = [
        statistics([(*at, rng.uniform(0.5, 1), 1, 0, 0) if one(*at) else (*at, 0.0, 0, 0, 1) for at in places], 12)
        for one in matched
    ]

    def by_hand(images):
        tables = [run.only(images).table.groupby("category_id")[["iou_sum", "TP"]].sum() for run in runs]
        both = set.intersection(*(set(table.index[table["TP"] > 0]) for table in tables))
        return [np.mean([table.loc[one, "iou_sum"] / table.loc[one, "TP"] for one in both]) for table in tables]

    values, apart = matched_iou(Stack.of([Sample.of(run) for run in runs]), 0, 1)
    images = runs[0].image_ids
    assert values[:, 0] == pytest.approx(by_hand(images), rel=1e-12)
    for place, image in enumerate(images):
        of_a, of_b = by_hand(np.setdiff1d(images, [image]))
        assert apart.left_out[0, place] == pytest.approx(of_b - of_a, abs=1e-12)


def test_a_quotient_of_jackknives_is_the_jackknife_of_the_quotient(random_scenes):
    runs = [image_statistics(*random_scenes(seed, images=12)) for seed in (5, 6)]
    of_a, of_b = (Jackknife.of(Stack.of([Sample.of(run)]), 0) for run in runs)
    quotient = of_a.over(of_b)
    assert quotient.value[0, 0] == of_a.value[0, 0] / of_b.value[0, 0]
    np.testing.assert_array_equal(quotient.left_out[0], of_a.left_out[0] / of_b.left_out[0])


def test_the_interval_of_a_mean_is_students_t_up_to_degrees_of_freedom():
    """One car found an image: PQ is the mean IoU, so the jackknife is the textbook's interval of a mean."""
    ious = np.random.default_rng(3).uniform(0.5, 1, 40)
    jackknife = Jackknife.of(Stack.of([Sample.of(cars(ious))]), 0)
    estimate = jackknife.estimate()
    assert estimate.centre[0, 0] == pytest.approx(ious.mean())
    assert estimate.variance[0, 0] == pytest.approx(ious.var(ddof=1) / 40)
    # Of even deviations the fourth moment tells more degrees of freedom than of normal ones, which have 2 / (3 − 1) n.
    squares = (ious - ious.mean()) ** 2
    assert estimate.freedom[0, 0] == pytest.approx(2 / ((squares**2).mean() / squares.mean() ** 2 - 1) * 40)


def test_an_interval_narrows_with_images():
    rng = np.random.default_rng(3)
    found = [row(intervals(cars(rng.uniform(0.5, 1, images)))) for images in (50, 800)]
    assert all(one["low"] < one["value"] < one["high"] for one in found)
    assert [one["images"] for one in found] == [50, 800]
    assert (found[0]["high"] - found[0]["low"]) / (found[1]["high"] - found[1]["low"]) == pytest.approx(4, rel=0.35)


def test_the_bias_of_a_rare_category_is_corrected():
    """A bus on one image, found, and taken for one on another: PQ is 1 / 1.5 here, and in the world it may be 1 or
    0.3; without the bus it is 0, without the mistake 1."""
    rows = [(n, CAR, 0.8, 1, 0, 0) for n in range(1, 31)] + [(1, BUS, 1.0, 1, 0, 0), (2, BUS, 0.0, 0, 1, 0)]
    jackknife = Jackknife.of(Stack.of([Sample.of(statistics(rows, 30))]), 0)
    bus = 30 * (1 / 1.5) - (28 * (1 / 1.5) + 0 + 1) * 29 / 30
    assert jackknife.estimate().centre[0, 0] == pytest.approx((0.8 + bus) / 2)
    # The correction rests on these two images, so its square is added to the variance.
    assert jackknife.corrections[0, 0] == pytest.approx([0, (bus - 1 / 1.5) / 2, 0], abs=1e-12)


@pytest.mark.slow
def test_intervals_of_rare_categories_cover_the_populations_score():
    """Percentiles of a bootstrap hold PQ of such images in fewer than six of ten data sets of 200."""
    answers = coco_like(images=3000).answers(np.random.default_rng(1), better=0.5)
    things = np.array([category.isthing for category in answers.categories])
    scores = dict(zip(("PQ", "SQ", "RQ"), answers.quotients(), strict=True))
    groups = {"All": things | True, "Things": things, "Stuff": ~things}
    rng, drawer = np.random.default_rng(2), Drawer(answers.sample())
    for images, draws, fewest in ((200, 60, 0.87), (500, 40, 0.87)):
        held = Counter()
        for _ in range(draws):
            table = intervals(drawer.take(rng.integers(0, 3000, images)), groups_only=True)
            for one in table.itertuples():
                held[one.group, one.metric] += one.low <= scores[one.metric][groups[one.group]].mean() <= one.high
        assert len(held) == 9
        assert min(held.values()) >= fewest * draws, held


def test_sq_intervals_allow_for_unseen_matches():
    """Ten categories' worth of matches and one bus that is missed: SQ counts the bus as 0, its interval does not."""
    rng = np.random.default_rng(0)
    rows = [(n, c, rng.uniform(0.7, 0.9), 1, 0, 0) for n in range(1, 41) for c in (CAR, SKY)] + [(1, BUS, 0.0, 0, 0, 1)]
    found = row(intervals(statistics(rows, 40)), "SQ")
    assert found["value"] == pytest.approx(0.8 * 2 / 3, abs=0.02)
    assert found["low"] < found["value"] < 0.8 < found["high"]
    # A category that is missed on all of many images is thought to be beyond the model.
    beyond = [(n, BUS, 0.0, 0, 0, 1) for n in range(1, 4001)]
    rows = [(n, c, rng.uniform(0.7, 0.9), 1, 0, 0) for n in range(1, 4001) for c in (CAR, SKY)] + beyond
    found = row(intervals(statistics(rows, 4000)), "SQ")
    assert found["low"] < found["value"] < found["high"] < 0.6


def test_a_category_never_found_has_an_upper_bound_above_zero():
    rows = [(n, BUS, 0.0, 0, 0, 1) for n in range(1, 13)] + [(n, CAR, 0.9, 1, 0, 0) for n in range(1, 13)]
    found = row(intervals(statistics(rows, 12)), category_id=BUS)
    assert (found["value"], found["low"]) == (0, 0)
    assert 0.05 < found["high"] < 0.3
    assert math.isnan(row(intervals(statistics(rows, 12)), "SQ", category_id=BUS)["high"])


def test_intervals_stay_between_0_and_100():
    rng = np.random.default_rng(1)
    nearly = [(n, CAR, 1.0 if n % 9 else 0.5, 1, 0, 0) for n in range(1, 15)]
    hardly = [(n, SKY, 0.5 * (n == 3), int(n == 3), int(rng.integers(0, 4)), 1) for n in range(1, 15)]
    table = intervals(statistics([*nearly, *hardly], 14))
    known = table[["low", "high"]].dropna()
    assert (known >= 0).all(axis=None)
    assert (known <= 1).all(axis=None)
    assert (known["low"] <= known["high"]).all()


def test_images_without_segments_count():
    rows = [(n, CAR, 0.9 if n % 2 else 0.0, n % 2, 0, 1 - n % 2) for n in range(1, 13)]
    width = [row(intervals(statistics(rows, images))).pop("high") for images in (12, 400)]
    assert width[1] > width[0]


def test_a_category_in_few_images_has_a_value_but_no_interval():
    rows = [(n, CAR, 0.8, 1, 0, 0) for n in range(1, 51)] + [(n, SKY, 0.7, 1, 1, 0) for n in range(1, 10)]
    table = intervals(statistics(rows, 50))
    rare = row(table, category_id=SKY)
    assert rare["value"] == pytest.approx(0.7 * 9 / 13.5)
    assert math.isnan(rare["low"])
    assert math.isnan(rare["high"])
    assert rare["images"] == 9
    assert not math.isnan(row(table, category_id=CAR)["low"])


def test_images_with_only_false_positives_do_not_make_an_interval():
    rows = [(n, SKY, 0.7, 1, 0, 0) for n in range(1, 10)] + [(n, SKY, 0.0, 0, 1, 0) for n in range(10, 31)]
    rare = row(intervals(statistics(rows, 30)), category_id=SKY)
    assert rare["images"] == 30
    assert math.isnan(rare["low"])


def test_an_absent_category_has_no_value():
    table = intervals(cars([0.9] * 20))
    assert math.isnan(row(table, category_id=SKY)["value"])
    assert math.isnan(row(table, group="Stuff")["value"])
    assert math.isnan(row(table, group="Stuff")["low"])
    assert row(table, group="All")["value"] == pytest.approx(0.9)


def test_values_of_slices_lie_in_their_intervals(random_scenes):
    of_run = image_statistics(*random_scenes(8, images=30), by="supercategory")
    table = intervals(of_run)
    expected = pq_by(of_run).set_index("slice")
    for name in expected.index:
        assert row(table, group=name)["value"] == pytest.approx(expected.loc[name, "PQ"], rel=1e-12)
        assert row(table, group=name)["low"] <= row(table, group=name)["high"]
        # Of SQ no method held what it said.
        assert math.isnan(row(table, "SQ", group=name)["low"])


def test_dense_and_sparse_sums_give_equal_intervals(random_scenes):
    sample = Sample.of(image_statistics(*random_scenes(6, images=40)))
    assert isinstance(sample.sums, scipy.sparse.csr_array)
    dense = Sample(sample.image_ids, sample.sums.toarray(), sample.held, sample.categories, (), None)
    pd.testing.assert_frame_equal(intervals(sample), intervals(dense))
