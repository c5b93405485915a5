"""CPU seconds of intervals and comparisons on runs of COCO's shape.

    python scripts/bench/intervals.py [--images 5000] [--categories 133] [--models 3] [--swaps 10000] [--rounds 2]

The runs are made up: how often a category occurs falls off as in COCO (some 7 categories an image, the rarest in a few
images), each model finds its own share of the objects. Set OPENBLAS_NUM_THREADS to see the effect of numpy's own
threads.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import pandas as pd

from panbench.metrics.jackknife import intervals
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.uncertainty import compare_runs
from panbench.panoptic.types import Category
from scripts.bench.harness import arguments, compared, finish, in_turn


def made_up_runs(images: int, categories: int, models: int, seed: int = 0) -> dict[str, ImageStatistics]:
    """Generates statistics of some models on the same random images."""
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, categories + 1) ** 0.9
    frequency = np.clip(7.3 * frequency / frequency.sum(), 0.002, 0.55)
    image, label = np.nonzero(rng.random((images, categories)) < frequency)
    objects = 1 + rng.poisson(0.5, len(image))
    names = tuple(Category(id, f"category {id}", id <= 80) for id in range(1, categories + 1))
    runs = {}
    for model in range(models):
        hits = rng.binomial(objects, 0.55 + 0.02 * model)
        table = pd.DataFrame(
            {
                "image_id": image,
                "slice": 0,
                "category_id": label + 1,
                "iou_sum": hits * rng.uniform(0.6, 1.0, len(image)),
                "TP": hits,
                "FP": rng.poisson(0.4, len(image)),
                "FN": objects - hits,
            }
        )
        runs[f"model {model}"] = ImageStatistics.from_frame(np.arange(images), table, names)
    return runs


def main() -> None:
    """Prints a row for each kind of work."""
    options = arguments(__doc__, images=5000, categories=133, models=3, swaps=10_000, rounds=2)
    runs = made_up_runs(options.images, options.categories, options.models)
    one = next(iter(runs.values()))

    jackknife = "intervals of one model"
    spent = in_turn(
        {
            jackknife: lambda: intervals(one),
            "compare, intervals alone": lambda: compare_runs(runs, permutations=1),
            "compare, with permutation tests": lambda: compare_runs(runs, permutations=options.swaps),
        },
        options.rounds,
    )
    rows = [
        {
            f"{options.images:,} images, {options.models} models, {options.swaps:,} swaps": name,
            "CPU s": f"{min(seconds):.2f}",
            **compared(seconds, spent[jackknife], "ratio to the intervals", digits=1),
        }
        for name, seconds in spent.items()
    ]
    finish("intervals", rows, options.write)


if __name__ == "__main__":
    main()
