"""Semantic scores: pixels by category, void left out of the truth and wrong in the prediction."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panbench.base.errors import BadDataset
from panbench.metrics.matched import Matched
from panbench.metrics.semantic import confusion, semantic_scores

CAR, BUS, CAT, SKY, SEA = 1, 2, 3, 92, 93


def test_iou_accuracy_and_dice_of_a_category(scene):
    # Cars: 3 of 4 pixels right, 1 pixel of sky called car.
    scores = semantic_scores(*scene(("aaaassss", "aaasasss")))
    car = scores.per_category.set_index("category_id").loc[CAR]
    assert car["IoU"] == 3 / 5
    assert car["accuracy"] == 3 / 4
    assert car["Dice"] == 6 / 8
    assert (car["gt_pixels"], car["pred_pixels"], car["right_pixels"]) == (4, 4, 3)
    assert scores.mIoU == 3 / 5
    assert scores.pixel_accuracy == 6 / 8


def test_segments_do_not_matter(scene):
    apart, together = scene(("aaAAss", "1122ss")), scene(("aaaass", "aaaass"))
    assert semantic_scores(*apart).mIoU == semantic_scores(*together).mIoU == 1


def test_true_void_is_left_out(scene):
    scores = semantic_scores(*scene(("aa..ss", "aaaass")))
    assert scores.mIoU == scores.pixel_accuracy == 1


def test_predicted_void_is_wrong(scene):
    scores = semantic_scores(*scene(("aaaass", "aa..ss")))
    assert scores.per_category.set_index("category_id").loc[CAR, "IoU"] == 1 / 2
    assert scores.pixel_accuracy == 4 / 6
    assert scores.mIoU == 3 / 4


def test_ids_that_the_json_lacks_are_left_out(scene):
    tables = scene(("aabbss", "aaccss"))
    segments = tables.segments
    listed = segments[~((segments["side"] == "gt") & (segments["category_id"] == BUS))]
    scores = semantic_scores(Matched.from_frames(listed, tables.overlaps), tables.categories)
    assert scores.pixel_accuracy == 1
    assert math.isnan(scores.per_category.set_index("category_id").loc[CAT, "IoU"])


def test_crowds_count_as_their_category(scene):
    scores = semantic_scores(*scene(("aaaass", "ssaass"), crowds="a"))
    assert scores.per_category.set_index("category_id").loc[CAR, "IoU"] == 1 / 2


def test_a_category_that_is_only_predicted_counts_as_zero(scene):
    scores = semantic_scores(*scene(("aass", "abss")))
    table = scores.per_category.set_index("category_id")
    assert table.loc[BUS, "IoU"] == 0
    assert math.isnan(table.loc[BUS, "accuracy"])
    assert math.isnan(table.loc[SEA, "IoU"])
    assert scores.mIoU == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert scores.mIoU_th == pytest.approx(1 / 4)
    assert scores.mIoU_st == 1
    assert scores.mean_accuracy == pytest.approx((1 / 2 + 1) / 2)


def test_frequent_categories_weigh_more_in_fwiou(scene):
    scores = semantic_scores(*scene(("aassssss", "abssssss")))
    assert scores.fwIoU == pytest.approx(2 / 8 * 1 / 2 + 6 / 8 * 1)


def test_confusion_tells_what_is_taken_for_what(scene):
    table = confusion(*scene(("aaaabb", "aab.bb")))
    assert table.loc[CAR].to_dict() == {CAR: 2, BUS: 1, CAT: 0, SKY: 0, SEA: 0, "void": 1}
    assert table.loc[BUS, BUS] == 2
    assert table.to_numpy().sum() == 6


def test_without_labelled_pixels_there_is_no_score(scene):
    scores = semantic_scores(*scene(("....", "aa..")))
    assert scores.mIoU is None
    assert scores.fwIoU is None
    assert scores.pixel_accuracy is None
    assert scores.mean_accuracy is None


def test_an_unknown_category_is_refused(scene):
    matched, categories = scene(("aabb", "aabb"))
    with pytest.raises(BadDataset, match="2"):
        semantic_scores(matched, [category for category in categories if category.id != BUS])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_dice_follows_from_iou_and_nothing_is_counted_twice(random_scenes, seed):
    tables = random_scenes(seed, images=8)
    scores = semantic_scores(*tables)
    iou, dice = scores.per_category["IoU"].to_numpy(), scores.per_category["Dice"].to_numpy()
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou), rtol=1e-12)
    listed = tables.segments.loc[tables.segments["side"] == "gt", ["image_id", "id"]]
    labelled = tables.overlaps.merge(listed, left_on=["image_id", "gt_id"], right_on=["image_id", "id"])
    assert confusion(*tables).to_numpy().sum() == labelled["pixels"].sum()
