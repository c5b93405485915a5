"""Simulates how often tests cry wolf, and comparisons over seeds; prints these tables of docs/simulations.md.

    python scripts/check/simulate_coverage.py [--samples 400] [--resamples 1000] [--seed 0] [--only seeds]

A made-up population of images takes the place of the world: 24 categories, the most frequent in half of the images and
the rarest in 1 of 250; hard images are hard for all their objects; of even categories an image can hold several
objects. Its PQ is known from 400,000 images. Samples of it are data sets: for each we compare two models and
count. For models that were trained several times a training is drawn, too: how good it is differs.
"""

import argparse
import math
import time
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.metrics.samples import Sample, Stack
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.uncertainty import draw_counts, weigh
from panbench.panoptic.types import Category
from panbench.studies.seeds.statistics import compare_seeds

Float = npt.NDArray[np.float64]

N_CATEGORIES = 24
FREQUENCY = np.geomspace(0.5, 0.004, N_CATEGORIES)
EASE = np.linspace(1.5, -0.5, N_CATEGORIES)[np.argsort(np.arange(N_CATEGORIES) * 7 % N_CATEGORIES)]
CATEGORIES = tuple(Category(id, f"category {id}", id % 2 == 0) for id in range(N_CATEGORIES))


@dataclass(frozen=True)
class Images:
    """Images before any model sees them: (images, categories) numbers of objects, (images, 1) hardness."""

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
    """(images, categories, 3) Σ IoU, TP and TP + FP/2 + FN/2 of a model.

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
    """The same as what a run gives; all of what is not TP is booked as FN, which PQ does not tell from FP."""
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
    """(…, categories) PQ of (…, categories, 3) sums, NaN where a category is not there."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 2]


def true_pq(seed: int, **model: float) -> Float:
    """(categories,) PQ of the population."""
    rng = np.random.default_rng(seed)
    return pq_of(sum(sums_of_model(rng, Images.sample(rng, 20_000), **model).sum(axis=0) for _ in range(20)))


def percent(hits: float, samples: int) -> str:
    """A rate in percent with its standard error."""
    rate = hits / samples
    return f"{100 * rate:.1f} ± {100 * math.sqrt(rate * (1 - rate) / samples):.1f}"


def errors_of_tests(samples: int, resamples: int, seed: int) -> None:
    """Prints how often p < 0.05 where there is no difference, and how often a true difference is seen and covered."""
    cases = {
        "the same model twice": ({}, {}),
        "same PQ, one steadier from image to image": ({"swing": 0.8}, {"swing": 0.8, "spread": 0.2}),
        "one a little better": ({}, {"better": 0.15}),
        "one clearly better": ({}, {"better": 0.5}),
    }
    print("\n| models | images | true ΔPQ | p < 0.05 for All | a category is significant | interval of ΔPQ covers it |")
    print("| --- " * 6 + "|")
    rng = np.random.default_rng(seed + 2)
    for label, (one, other) in cases.items():
        truth = float(true_pq(seed, **other).mean() - true_pq(seed, **one).mean())
        for n in (50, 200, 1000):
            small = any_category = covered = 0
            for sample in range(samples):
                images = Images.sample(rng, n)
                runs = {
                    name: statistics_of(sums_of_model(rng, images, **model))
                    for name, model in zip("ab", (one, other), strict=True)
                }
                table = weigh(runs, resamples=resamples, permutations=resamples, seed=sample).differences
                table = table[table["metric"] == "PQ"]
                overall = table[table["group"] == "All"].iloc[0]
                small += overall["p"] < 0.05
                covered += overall["low"] <= truth <= overall["high"]
                any_category += bool(table.loc[table["group"].isna(), "significant"].any())
            rates = " | ".join(percent(hits, samples) for hits in (small, any_category, covered))
            print(f"| {label} | {n} | {100 * truth:+.2f} | {rates} |", flush=True)


def seeds_of_model(
    rng: np.random.Generator, images: Images, seeds: int, luck: float, better: float = 0.0
) -> list[ImageStatistics]:
    """The runs of a model's seeds. luck: the standard deviation of `better` from training to training."""
    return [statistics_of(sums_of_model(rng, images, better=better + luck * rng.normal())) for _ in range(seeds)]


def true_categories_over_seeds(seed: int, luck: float, better: float) -> Float:
    """(categories,) the mean PQ of trainings, by Gauss and Hermite's rule over their luck."""
    if not luck:
        return true_pq(seed, better=better)
    at, weights = np.polynomial.hermite_e.hermegauss(7)
    of_training = [true_pq(seed, better=better + luck * float(place)) for place in at]
    return np.asarray(np.average(of_training, axis=0, weights=weights))


def true_pq_over_seeds(seed: int, luck: float, better: float) -> float:
    """The mean PQ of trainings."""
    return float(true_categories_over_seeds(seed, luck, better).mean())


def plain_two_levels(models: dict[str, list[Sample]], resamples: int, seed: int) -> tuple[float, float]:
    """What we turned down: as many seeds drawn as there are, and percentiles as they come."""
    stack = Stack.of([sample for seeds in models.values() for sample in seeds])
    rng = np.random.default_rng(seed)
    counts = draw_counts(rng, stack.n_units, resamples)
    pq = np.stack([stack.scores(sums)[0, 0] for sums in stack.weighted(counts)])
    ends = np.cumsum([0, *map(len, models.values())])
    means = []
    for start, stop in pairwise(ends.tolist()):
        n = stop - start
        weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n
        means.append(np.einsum("sr,rs->r", pq[start:stop], weights))
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return float(low), float(high)


def coverage_over_seeds(samples: int, resamples: int, seed: int) -> None:
    """Prints how often 95 % intervals of the difference of two models cover it, by seeds and how much these matter."""
    print(
        "\n| luck | seeds of each | spread, points | true ΔPQ | interval over seeds and images | p < 0.05 | "
        "as many seeds drawn, percentiles | first seeds, images alone |"
    )
    print("| --- " * 8 + "|")
    rng = np.random.default_rng(seed + 3)
    n = 500
    for better, luck in ((0.0, 0.0), (0.0, 0.3), (0.15, 0.3)):
        truth = true_pq_over_seeds(seed, luck, better) - true_pq_over_seeds(seed, luck, 0.0)
        for seeds in (2, 3, 5, 10):
            ours = small = plain = alone = 0
            spreads = []
            for sample in range(samples):
                images = Images.sample(rng, n)
                models = {
                    name: [Sample.of(run) for run in seeds_of_model(rng, images, seeds, luck, gain)]
                    for name, gain in (("a", 0.0), ("b", better))
                }
                found = compare_seeds(models, resamples=resamples, seed=sample)
                row = found.differences[found.differences["group"] == "All"].iloc[0]
                ours += row["low"] <= truth <= row["high"]
                small += row["p"] < 0.05
                spreads.append(found.models.loc[found.models["group"] == "All", "spread"].pow(2).mean())
                low, high = plain_two_levels(models, resamples, sample)
                plain += low <= truth <= high
                one = weigh({name: runs[0] for name, runs in models.items()}, resamples=resamples, permutations=1)
                first = one.differences.query("group == 'All' and metric == 'PQ'").iloc[0]
                alone += first["low"] <= truth <= first["high"]
            rates = " | ".join(percent(hits, samples) for hits in (ours, small, plain, alone))
            spread = 100 * math.sqrt(np.mean(spreads))
            print(f"| {luck:g} | {seeds} | {spread:.2f} | {100 * truth:+.2f} | {rates} |", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400, help="data sets drawn a row")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples and permutations of each")
    parser.add_argument("--seed", type=int, default=0)
    parts = {"tests": errors_of_tests, "seeds": coverage_over_seeds}
    parser.add_argument("--only", choices=tuple(parts), help="one of the tables instead of all")
    arguments = parser.parse_args()
    start = time.perf_counter()
    for name, part in parts.items():
        if arguments.only in (None, name):
            part(arguments.samples, arguments.resamples, arguments.seed)
    print(f"\n{arguments.samples} samples, {arguments.resamples} resamples, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
