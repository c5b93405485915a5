"""Populations of images, as the sums that models' answers add to PQ: what data sets are drawn from in simulations.

    python scripts/check/simulated_population.py [--seed 0]

prints what the populations are like. No pixels are made. `coco_like`: 20,000 images of 133 categories, of which the
most frequent is in half of the images and the rarest in 1 of 600, as COCO's are; images are of scenes that categories
go with, some images are hard for all their objects, rare categories are found less surely, and what is missed often
counts as a false positive of another category. `shapes_like`: 4,000 scenes of `shapes` (their segments, no pixels
looked at) with the same kind of errors.
"""

import argparse
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import scipy.sparse

from panbench.datasets.shapes import CATEGORIES, make_scene
from panbench.metrics.samples import ONLY_FALSE_POSITIVES, TRUE, Sample
from panbench.panoptic.types import Category

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

SIZES = ("small", "medium", "large")
HARDER = (-1.0, 0.0, 0.7)
"""How much the log-odds of finding an object of each size differ."""


@dataclass(frozen=True)
class Answers:
    """The sums of a model in each image: (sizes, categories, images) Σ IoU, TP, FP and FN."""

    iou_sum: Float
    TP: Int
    FP: Int
    FN: Int
    categories: tuple[Category, ...]

    def sample(self, *, by_size: bool = False) -> Sample:
        """Returns the statistics of all images, as of a run; by_size: with slices."""
        columns = (self.iou_sum, self.TP, self.FP + self.FN, self.TP + self.FN)
        n_images = self.TP.shape[-1]
        if by_size:
            iou_sum, hits, mistakes, true = (values.reshape(-1, n_images) for values in columns)
        else:
            iou_sum, hits, mistakes, true = (values.sum(axis=0) for values in columns)
        sums = scipy.sparse.csr_array(np.concatenate([iou_sum, hits, mistakes], dtype=np.float64))
        held = np.where(true > 0, TRUE, np.where(mistakes > 0, ONLY_FALSE_POSITIVES, 0)).astype(np.int8)
        images = np.arange(n_images)
        slices = SIZES if by_size else ()
        return Sample(images, sums, scipy.sparse.csr_array(held), self.categories, slices, "size" if by_size else None)

    def quotients(self, *, by_size: bool = False) -> Float:
        """Returns (3, categories) PQ, SQ and RQ, or (3, sizes, categories); NaN if undefined."""
        columns = (self.iou_sum, self.TP, self.FP, self.FN)
        iou_sum, hits, false, missed = (
            values.sum(axis=-1 if by_size else (0, -1)).astype(np.float64) for values in columns
        )
        whole = hits + (false + missed) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            sq = np.where(hits > 0, iou_sum / hits, np.where(whole > 0, 0.0, np.nan))
            return np.stack([iou_sum / whole, sq, hits / whole])


class Drawer:
    """Draws data sets with replacement from a population."""

    def __init__(self, population: Sample) -> None:
        self._population = population
        # By column: a data set of a few images is taken from 20,000 at the cost of those few.
        self._sums, self._held = (scipy.sparse.csc_array(part) for part in (population.sums, population.held))

    @property
    def n_images(self) -> int:
        """The number of images of the population."""
        return len(self._population.image_ids)

    def take(self, images: Int) -> Sample:
        """Returns the data set of these images."""
        sums, held = (scipy.sparse.csr_array(part[:, images]) for part in (self._sums, self._held))
        return replace(self._population, image_ids=np.arange(len(images)), sums=sums, held=held)


@dataclass(frozen=True)
class World:
    """Images without any model.

    objects: (sizes, categories, images) how many there are; hardness: (images,); ease: (categories,) log-odds of
    finding an object; alike: (categories, 3) what a missed object may be taken for; ghosts: (categories, images) how
    many false positives of it there are to be expected where it is not
    """

    objects: Int
    hardness: Float
    ease: Float
    alike: Int
    ghosts: Float
    categories: tuple[Category, ...]

    def answers(self, rng: np.random.Generator, better: float = 0.0, swing: float = 0.7) -> Answers:
        """Simulates a model. better: added to the log-odds of finding an object; swing: the influence of hardness"""
        logit = self.ease[:, None] + better - swing * self.hardness
        chance = 1 / (1 + np.exp(-(logit[None] + np.array(HARDER)[:, None, None])))
        hits = rng.binomial(self.objects, chance)
        missed = self.objects - hits
        # The mean IoU of an image's matches, so its spread shrinks with their number.
        noise = 0.1 * rng.standard_normal(hits.shape) / np.sqrt(np.maximum(hits, 1))
        iou = np.clip(0.8 - 0.02 * self.hardness + noise, 0.5, 1)
        false = rng.poisson(0.12 * self.objects)
        for column in self.alike.T:
            taken = rng.binomial(missed, 0.12)
            for category, other in enumerate(column):
                false[:, other] += taken[:, category]
        size = rng.integers(0, len(SIZES))
        false[size] += rng.poisson(self.ghosts)
        return Answers(hits * iou, hits, false, missed, self.categories)


def coco_like(seed: int = 0, images: int = 20_000) -> World:
    """Generates images with 133 categories of COCO's unequal frequencies, each in at least ten images."""
    rng = np.random.default_rng(seed)
    is_thing = np.arange(133) < 80
    frequency = np.concatenate(
        [
            _frequencies_by_rank(
                80, {0: 0.54, 1: 0.116, 5: 0.08, 20: 0.045, 40: 0.027, 60: 0.016, 75: 0.007, 78: 0.0018, 79: 0.0016}
            ),
            _frequencies_by_rank(53, {0: 0.36, 3: 0.27, 10: 0.12, 25: 0.045, 45: 0.018, 52: 0.007}),
        ]
    )
    goes_with = rng.gamma(0.5, 1.0, (133, 12))
    goes_with /= goes_with.mean(axis=1, keepdims=True)
    scene, hardness = rng.integers(0, 12, images), rng.standard_normal(images)
    chance = np.minimum(frequency[:, None] * goes_with[:, scene], 0.98)
    chance = np.minimum(chance * (frequency / chance.mean(axis=1))[:, None], 0.98)
    present = rng.random((133, images)) < chance
    more = np.where(is_thing, rng.gamma(1.2, 0.9, 133), 0)[:, None] * np.exp(0.4 * hardness)
    count = np.where(present, 1 + rng.poisson(more), 0)
    shares = np.where(is_thing[:, None], rng.dirichlet([2.0, 2.0, 2.0], 133), rng.dirichlet([0.3, 1.0, 3.0], 133))
    objects = _dealt_over_sizes(rng, count, shares)
    ease = rng.normal(0.8, 0.9, 133) + 0.2 * np.log(frequency / 0.03)
    # What is missed is taken for a frequent category more often than for a rare one.
    kinds = [np.flatnonzero(is_thing == kind) for kind in (True, False)]
    weights = [np.sqrt(frequency[kind]) / np.sqrt(frequency[kind]).sum() for kind in kinds]
    alike = np.stack([rng.choice(kinds[1 - thing], 3, p=weights[1 - thing]) for thing in is_thing.astype(int)])
    categories = tuple(Category(id, f"category {id}", bool(thing)) for id, thing in enumerate(is_thing))
    return World(objects, hardness, ease, alike, 0.08 * chance + 0.0005, categories)


def shapes_like(seed: int = 0, images: int = 4_000) -> World:
    """Returns the segments of `shapes`: nine categories, each in a third of the images or more."""
    rng = np.random.default_rng(seed)
    place = {int(kind["id"]): index for index, kind in enumerate(CATEGORIES)}
    objects = np.zeros((len(SIZES), len(CATEGORIES), images), np.int64)
    for image in range(images):
        for segment in make_scene(image, seed=seed, size=(48, 60)).segments_info:
            if not segment["iscrowd"]:
                # The same shares of the image as COCO's 32² and 96² have of 480 × 640 pixels.
                size = int(np.searchsorted([10, 86], segment["area"], side="right"))
                objects[size, place[segment["category_id"]], image] += 1
    ease = rng.normal(1.0, 0.8, len(CATEGORIES))
    alike = rng.integers(0, len(CATEGORIES), (len(CATEGORIES), 3))
    ghosts = np.full((len(CATEGORIES), images), 0.03)
    categories = tuple(Category(int(kind["id"]), kind["name"], bool(kind["isthing"])) for kind in CATEGORIES)
    return World(objects, rng.standard_normal(images), ease, alike, ghosts, categories)


def _frequencies_by_rank(n: int, known: dict[int, float]) -> Float:
    """Returns n frequencies, interpolated log-linearly between those of some ranks."""
    return np.exp(np.interp(np.arange(n), list(known), np.log(list(known.values()))))


def _dealt_over_sizes(rng: np.random.Generator, count: Int, shares: Float) -> Int:
    """Distributes objects over sizes: (sizes, categories, images)."""
    small = rng.binomial(count, shares[:, :1])
    medium = rng.binomial(count - small, (shares[:, 1] / np.maximum(1 - shares[:, 0], 1e-9))[:, None].clip(0, 1))
    return np.stack([small, medium, count - small - medium])


def describe(name: str, world: World, seed: int) -> str:
    """Describes a population and a model on it in a few lines."""
    answers = world.answers(np.random.default_rng(seed + 1))
    true = ((answers.TP + answers.FN).sum(axis=0) > 0).sum(axis=-1)
    alone = ((((answers.TP + answers.FN).sum(axis=0)) == 0) & (answers.FP.sum(axis=0) > 0)).sum(axis=-1)
    per_category = answers.quotients()
    pq, sq, rq = 100 * per_category.mean(axis=1)
    images = answers.TP.shape[-1]
    per_image = (answers.TP + answers.FN).sum() / images
    return (
        f"{name}: {images:,} images, {len(true)} categories; {true.sum() / images:.1f} categories and {per_image:.1f} "
        f"segments an image\n  images with a category in the ground truth: fewest {true.min()}, median "
        f"{np.median(true):.0f}, most {true.max()}; with false positives of it alone: {np.median(alone / true):.2f} "
        f"times as many (median), {np.max(alone / true):.2f} (most)\n  PQ {pq:.2f}, SQ {sq:.2f}, RQ {rq:.2f}; PQ of "
        f"categories from {100 * per_category[0].min():.1f} to {100 * per_category[0].max():.1f}"
    )


def main() -> None:
    """Prints the populations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    print(describe("coco_like", coco_like(seed), seed))
    print(describe("shapes_like", shapes_like(seed), seed))


if __name__ == "__main__":
    main()
