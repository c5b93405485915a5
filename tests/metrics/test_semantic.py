"""Semantic scores: pixels by category, void left out of the truth and wrong in the prediction."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panbench.metrics.matched import Matched
from panbench.metrics.semantic import confusion, semantic_scores

CAR, BUS, CAT, SKY, SEA = 1, 2, 3, 92, 93


def scores_of(tables):
    """The scores, and those of each category by its id."""
    scores = semantic_scores(*tables)
    return scores, scores.per_category.set_index("category_id")


def test_iou_accuracy_and_dice_of_a_category(scene):
    # Cars: 3 of 4 pixels right, 1 pixel of sky called car.
    scores, table = scores_of(scene(("aaaassss", "aaasasss")))
    car = table.loc[CAR]
    assert car["IoU"] == 3 / 5
    assert car["accuracy"] == 3 / 4
    assert car["Dice"] == 6 / 8
    assert (car["gt_pixels"], car["pred_pixels"], car["right_pixels"]) == (4, 4, 3)
    assert scores.mIoU == 3 / 5
    assert scores.pixel_accuracy == 6 / 8


@pytest.mark.parametrize("image", [("aaAAss", "1122ss"), ("aaaass", "aaaass"), ("aa..ss", "aaaass")])
def test_pixel_metrics_ignore_segments_and_true_void(scene, image):
    scores = semantic_scores(*scene(image))
    assert scores.mIoU == scores.pixel_accuracy == 1


def test_predicted_void_is_wrong(scene):
    scores, table = scores_of(scene(("aaaass", "aa..ss")))
    assert table.loc[CAR, "IoU"] == 1 / 2
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
    _, table = scores_of(scene(("aaaass", "ssaass"), crowds="a"))
    assert table.loc[CAR, "IoU"] == 1 / 2


def test_a_category_that_is_only_predicted_has_iou_zero(scene):
    scores, table = scores_of(scene(("aass", "abss")))
    assert table.loc[BUS, "IoU"] == 0
    assert math.isnan(table.loc[BUS, "accuracy"])
    assert math.isnan(table.loc[SEA, "IoU"])
    assert scores.mIoU == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert scores.mIoU_th == pytest.approx(1 / 4)
    assert scores.mIoU_st == 1
    assert scores.mean_accuracy == pytest.approx((1 / 2 + 1) / 2)


def test_fwiou_weighs_categories_by_frequency(scene):
    scores = semantic_scores(*scene(("aassssss", "abssssss")))
    assert scores.fwIoU == pytest.approx(2 / 8 * 1 / 2 + 6 / 8 * 1)


def test_the_confusion_matrix_counts_pixels_by_true_and_predicted_category(scene):
    table = confusion(*scene(("aaaabb", "aab.bb")))
    assert table.loc[CAR].to_dict() == {CAR: 2, BUS: 1, CAT: 0, SKY: 0, SEA: 0, "void": 1}
    assert table.loc[BUS, BUS] == 2
    assert table.to_numpy().sum() == 6


def test_without_labelled_pixels_there_is_no_score(scene):
    scores = semantic_scores(*scene(("....", "aa..")))
    assert (scores.mIoU, scores.fwIoU, scores.pixel_accuracy, scores.mean_accuracy) == (None,) * 4


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_dice_follows_from_iou(random_scenes, seed):
    tables = random_scenes(seed, images=8)
    scores = semantic_scores(*tables)
    iou, dice = scores.per_category["IoU"].to_numpy(), scores.per_category["Dice"].to_numpy()
    np.testing.assert_allclose(dice, 2 * iou / (1 + iou), rtol=1e-12)
    listed = tables.segments.loc[tables.segments["side"] == "gt", ["image_id", "id"]]
    labelled = tables.overlaps.merge(listed, left_on=["image_id", "gt_id"], right_on=["image_id", "id"])
    assert confusion(*tables).to_numpy().sum() == labelled["pixels"].sum()
