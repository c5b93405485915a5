"""Intervals of differences of causes: against leaving out each image, and by a scene that a person can check."""

import numpy as np
import pandas as pd
import pytest

from panbench.metrics.errors import CAUSES, lost_influence, lost_pq
from panbench.metrics.jackknife import freedom
from panbench.metrics.uncertainty import LEAST_IMAGES, lost_difference
from panbench.panoptic.types import Category

CATEGORIES = tuple(Category(number, f"category {number}", number < 3) for number in (1, 2, 3, 4))
NAMES = [cause.name for cause in CAUSES]
MISSED, IMPERFECT = NAMES.index("missed"), NAMES.index("imperfect mask")


def errors_of(images: int, seed: int, missed: float) -> pd.DataFrame:
    """Errors as `assign_causes` gives them: eight objects an image, of which some are missed."""
    rng = np.random.default_rng(seed)
    rows = []
    for image in range(images):
        for _ in range(8):
            category, chance = int(rng.integers(1, 5)), rng.random()
            if chance < missed:
                rows.append((image, category, "FN", "missed", 1.0))
            elif chance < missed + 0.1:
                rows.append((image, category, "FN", "wrong category", rng.uniform(0.5, 1)))
                rows.append((image, int(rng.integers(1, 5)), "FP", "wrong category", np.nan))
            else:
                rows.append((image, category, "TP", "imperfect mask", rng.uniform(0.5, 1)))
            if rng.random() < 0.1:
                rows.append((image, category, "FP", "hallucinated", np.nan))
    return pd.DataFrame(rows, columns=["image_id", "category_id", "verdict", "cause", "iou"])


def lost_of(errors: pd.DataFrame) -> np.ndarray:
    table = lost_pq(errors, CATEGORIES)
    return table.loc[table["group"] == "All", "lost"].to_numpy()


def test_an_images_influence_is_the_change_without_it():
    errors = errors_of(60, seed=1, missed=0.2)
    influence = lost_influence(errors, CATEGORIES, np.arange(60))
    whole = lost_of(errors)
    without = np.stack([whole - lost_of(errors[errors["image_id"] != image]) for image in range(60)], axis=1)
    assert np.abs(influence - without).max() < 0.1 * np.abs(without).max()
    # What all images add to a quotient is nothing: twice as many of the same change no share.
    assert np.allclose(influence.sum(axis=1), 0, atol=1e-12)


def test_the_interval_of_lost_pq_is_the_jackknifes(monkeypatch):
    monkeypatch.setattr("panbench.metrics.uncertainty.LEAST_IMAGES", 80)
    a, b = errors_of(80, seed=2, missed=0.2), errors_of(80, seed=3, missed=0.1)
    images = np.arange(80)
    difference = lost_of(a) - lost_of(b)
    low, high = lost_difference(difference, *(lost_influence(one, CATEGORIES, images) for one in (a, b)))
    without = np.stack(
        [lost_of(a[a["image_id"] != image]) - lost_of(b[b["image_id"] != image]) for image in images], axis=1
    )
    spread = np.sqrt(np.square(without - without.mean(axis=1, keepdims=True)).sum(axis=1) * 79 / 80)
    known = [MISSED, IMPERFECT, NAMES.index("hallucinated"), NAMES.index("wrong category")]
    # Half an interval is about twice the standard error.
    assert np.allclose((high - low)[known] / 2 / spread[known], 2, atol=0.1)
    assert low[MISSED] > 0
    assert freedom(without - without.mean(axis=1, keepdims=True))[MISSED] > 20


def test_a_model_equals_itself_and_few_images_have_no_interval():
    errors = errors_of(LEAST_IMAGES, seed=4, missed=0.2)
    influence = lost_influence(errors, CATEGORIES, np.arange(LEAST_IMAGES))
    low, high = lost_difference(np.zeros(len(CAUSES)), influence, influence)
    assert not low.any()
    assert not high.any()
    few = errors[errors["image_id"] < LEAST_IMAGES - 1]
    influence = lost_influence(few, CATEGORIES, np.arange(LEAST_IMAGES - 1))
    assert np.isnan(lost_difference(np.zeros(len(CAUSES)), influence, influence)).all()


@pytest.mark.slow
def test_random_differences_are_rarely_significant():
    """Two models that err alike: of 40 pairs about one in twenty differs for sure in what is missed."""
    images, sure = np.arange(LEAST_IMAGES), 0
    for seed in range(40):
        a, b = (errors_of(LEAST_IMAGES, 100 + side + 2 * seed, missed=0.15) for side in (0, 1))
        ends = lost_difference(lost_of(a) - lost_of(b), *(lost_influence(one, CATEGORIES, images) for one in (a, b)))
        sure += int(ends[0][MISSED] > 0 or ends[1][MISSED] < 0)
    assert sure <= 5
