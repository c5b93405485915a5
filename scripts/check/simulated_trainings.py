"""A small population of images, and models that were trained several times, for simulate_intervals.py.

24 categories, the most frequent in half of the images and the rarest in 1 of 250; hard images are hard for all their
objects; of even categories an image can hold several objects. Its PQ is known from 400,000 images. Samples of it are
data sets. For models that were trained several times a training is drawn, too: how good it is differs.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.slices import ImageStatistics
from panbench.panoptic.types import Category

Float = npt.NDArray[np.float64]

N_CATEGORIES = 24
FREQUENCY = np.geomspace(0.5, 0.004, N_CATEGORIES)
EASE = np.linspace(1.5, -0.5, N_CATEGORIES)[np.argsort(np.arange(N_CATEGORIES) * 7 % N_CATEGORIES)]
CATEGORIES = tuple(Category(id, f"category {id}", id % 2 == 0) for id in range(N_CATEGORIES))


@dataclass(frozen=True)
class Images:
    """Images without any model: (images, categories) numbers of objects, (images, 1) hardness."""

    objects: Float
    hardness: Float

    @staticmethod
    def sample(rng: np.random.Generator, n: int) -> "Images":
        shape = (n, N_CATEGORIES)
        several = rng.poisson(np.where(np.arange(N_CATEGORIES) % 2 == 0, 1.5, 0.0), shape)
        objects = np.where(rng.random(shape) < FREQUENCY, 1.0 + several, 0.0)
        return Images(objects, rng.normal(size=(n, 1)))


def sums_of_model(
    rng: np.random.Generator, images: Images, better: float = 0.0, spread: float = 0.1, swing: float = 0.8
) -> Float:
    """Simulates a model; returns (images, categories, 3) Σ IoU, TP and TP + FP/2 + FN/2.

    better: added to the log-odds of finding an object; spread: standard deviation of IoUs; swing: how much the hardness
    of an image moves the log-odds
    """
    chance = 1 / (1 + np.exp(-(EASE + better + swing * images.hardness)))
    hits = rng.binomial(images.objects.astype(np.int64), chance).astype(np.float64)
    # Mean IoU of the matches of an image: a mean of `hits` of them, so its spread shrinks with their number.
    iou = 0.75 + 0.03 * images.hardness + spread * rng.normal(size=hits.shape) / np.sqrt(np.maximum(hits, 1))
    wrong = rng.poisson(0.25 * images.objects + 0.05 * FREQUENCY)
    return np.stack([hits * np.clip(iou, 0.5, 1), hits, hits + (wrong + images.objects - hits) / 2], axis=-1)


def statistics_of(sums: Float) -> ImageStatistics:
    """Converts sums to a run's statistics; all non-TP are booked as FN, which PQ does not distinguish from FP."""
    image, category = np.nonzero(sums[..., 2])
    of_cell = sums[image, category]
    table = pd.DataFrame(
        {
            "image_id": image,
            "slice": 0,
            "category_id": category,
            "iou_sum": of_cell[:, 0],
            "TP": of_cell[:, 1],
            "FP": 0,
            "FN": 2 * (of_cell[:, 2] - of_cell[:, 1]),
        }
    )
    return ImageStatistics.from_frame(np.arange(len(sums)), table, CATEGORIES)


def pq_of(sums: Float) -> Float:
    """Returns (…, categories) PQ of (…, categories, 3) sums; NaN for absent categories."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 2]


def true_pq(seed: int, **model: float) -> Float:
    """Returns (categories,) the population's PQ."""
    rng = np.random.default_rng(seed)
    return pq_of(sum(sums_of_model(rng, Images.sample(rng, 20_000), **model).sum(axis=0) for _ in range(20)))


def seeds_of_model(
    rng: np.random.Generator, images: Images, seeds: int, luck: float, better: float = 0.0
) -> list[ImageStatistics]:
    """Simulates the runs of a model's seeds. luck: the standard deviation of `better` between trainings"""
    return [statistics_of(sums_of_model(rng, images, better=better + luck * rng.normal())) for _ in range(seeds)]


def true_categories_over_seeds(seed: int, luck: float, better: float) -> Float:
    """Returns (categories,) the mean PQ over trainings, by Gauss–Hermite quadrature over their luck."""
    if not luck:
        return true_pq(seed, better=better)
    at, weights = np.polynomial.hermite_e.hermegauss(7)
    of_training = [true_pq(seed, better=better + luck * float(place)) for place in at]
    return np.asarray(np.average(of_training, axis=0, weights=weights))


def true_pq_over_seeds(seed: int, luck: float, better: float) -> float:
    """Returns the mean PQ over trainings."""
    return float(true_categories_over_seeds(seed, luck, better).mean())
