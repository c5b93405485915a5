"""Each convention that is not PQ's, on the case that it is quarrelled about."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panbench.metrics.deviations import DEVIATIONS, DeviationAccumulator
from panbench.metrics.matched import Matched, one_to_one
from panbench.metrics.pq import pq_table, summarise
from panbench.panoptic.overlap import OverlapTable, Pairs, Segments


def deviations(tables) -> dict:
    accumulator = DeviationAccumulator(tables.categories)
    accumulator.add(accumulator.map_chunk(tables.matched))
    return accumulator.record()


def test_sq_of_matched_leaves_out_categories_without_a_match(scene):
    # The car is found with IoU 3/4; the bus is missed and a cat is seen where none is.
    tables = scene(("aaaabb..ss", "aaa...ccss"))
    assert summarise(pq_table(*tables))["Things"]["SQ"] == pytest.approx((3 / 4 + 0) / 2)
    assert deviations(tables)["SQ_of_matched"]["Things"] == pytest.approx(3 / 4)


def test_if_void_counts_it_is_in_the_union_and_excuses_nothing(scene):
    tables = scene(("aaa..ss...", "aaaa.ssccc"))
    assert summarise(pq_table(*tables))["All"] == {"PQ": 1, "SQ": 1, "RQ": 1, "n": 2}
    found = deviations(tables)["void_counts"]
    # The car has IoU 3/4 with the pixel on void, and the cat on void is a false positive.
    assert found["Things"] == pytest.approx((3 / 4 + 0) / 2)
    assert found["Stuff"] == 1


def test_crowds_excuse_predictions_even_if_void_counts(scene):
    assert deviations(scene(("aaaass", "1122ss"), crowds="a"))["void_counts"] == {"All": 1, "Things": None, "Stuff": 1}


def test_the_mean_over_images_weighs_images_equally(scene):
    # One car right in the first image, three of four missed in the second.
    tables = scene(("aa", "aa"), ("aAbB", "a..."))
    first, second = 1.0, (1 / (1 + 0.5) + 0) / 2
    assert deviations(tables)["mean_over_images"]["All"] == pytest.approx((first + second) / 2)


def test_one_to_one_matching_works_below_iou_one_half(scene):
    # IoU 4/10 and 3/10 with one object: the better piece is taken, the other is a false positive.
    tables = scene(("aaaaaaaaaa", "1111222..."))
    assert summarise(pq_table(*tables))["All"]["PQ"] == 0
    assert deviations(tables)["one_to_one"]["All"] == pytest.approx(0.4 / 1.5)


def test_pairs_are_matched_in_the_given_order():
    first, second = np.array([0, 0, 1, 1]), np.array([5, 6, 5, 6])
    assert one_to_one(first, second, np.array([3, 0, 1, 2])).tolist() == [0, 3]
    assert one_to_one(first, second, np.array([1, 3, 0, 2])).tolist() == [1, 2]


def test_empty_input_has_no_score(scene):
    for values in deviations(scene(("..", ".."))).values():
        assert values == {"All": None, "Things": None, "Stuff": None}


def test_no_deviating_metric_is_called_pq_and_docs_name_all():
    docs = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
    for one in DEVIATIONS:
        assert not re.search(r"\bPQ\b", f"{one.name} {one.label}")
        assert f"`{one.name}`" in docs


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_if_void_counts_the_metric_is_symmetric(random_scenes, seed):
    tables = random_scenes(seed, images=6)
    table = without_crowds(tables.matched)
    pairs = table.overlaps
    swapped = OverlapTable(
        Segments(**{**vars(table.segments), "is_gt": ~table.segments.is_gt}),
        Pairs(pairs.image_id, pairs.pred_id, pairs.gt_id, pairs.pixels),
    )
    found = []
    for each in (table, swapped):
        accumulator = DeviationAccumulator(tables.categories)
        accumulator.add(accumulator.map_chunk(Matched.of(each)))
        found.append(accumulator.record()["void_counts"])
    assert found[0] == pytest.approx(found[1], nan_ok=True)


def without_crowds(matched: Matched) -> OverlapTable:
    singles = {**vars(matched.segments), "iscrowd": np.zeros(len(matched.segments), np.bool_)}
    return OverlapTable(Segments(**singles), matched.overlaps)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_chunks_add_up_bit_for_bit(random_scenes, seed):
    tables = random_scenes(seed, images=12)
    accumulator = DeviationAccumulator(tables.categories)
    for images in np.array_split(tables.matched.image_ids, 3):
        accumulator.add(accumulator.map_chunk(tables.matched.only(images)))
    assert accumulator.record() == deviations(tables)
