"""Times intervals and comparisons on runs of COCO's shape and prints seconds and peak memory.

    python scripts/bench/bootstrap.py [--images 5000] [--categories 133] [--models 3] [--resamples 10000] [--repeat 3]

The runs are made up: how often a category occurs falls off as in COCO (some 7 categories an image, the rarest in a few
images), each model finds its own share of the objects. Set OPENBLAS_NUM_THREADS to see the effect of numpy's own
threads.
"""

import argparse
import os
import resource
import sys
import time

import numpy as np
import pandas as pd

from panbench.metrics.jackknife import intervals
from panbench.metrics.samples import Sample, Stack
from panbench.metrics.slices import ImageStatistics
from panbench.metrics.uncertainty import percentiles, resampled, weigh
from panbench.panoptic.types import Category


def made_up_runs(images: int, categories: int, models: int, seed: int = 0) -> dict[str, ImageStatistics]:
    """Statistics of some models on the same made-up images."""
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
    """Prints one line a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 5000), ("categories", 133), ("models", 3), ("resamples", 10_000), ("repeat", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    runs = made_up_runs(arguments.images, arguments.categories, arguments.models)
    one = next(iter(runs.values()))
    rows = sum(len(run.table) for run in runs.values())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{arguments.images} images, {arguments.categories} categories, {arguments.models} models; {rows} rows")
    print(f"{arguments.resamples} resamples; {cores} cores; numpy {np.__version__}; Python {sys.version.split()[0]}")

    def by_percentiles() -> None:
        stack = Stack.of([Sample.of(one)])
        percentiles(resampled(stack, arguments.resamples, 0), 0.95)

    work = {
        "intervals of one model": lambda: intervals(one),
        "the same by percentiles": by_percentiles,
        "compare, no tests": lambda: weigh(runs, resamples=arguments.resamples, permutations=1),
        "compare, with permutation tests": lambda: weigh(
            runs, resamples=arguments.resamples, permutations=arguments.resamples
        ),
    }
    spent = {}
    for label, call in work.items():
        seconds, busy = [], []
        for _ in range(arguments.repeat):
            start, start_busy = time.perf_counter(), time.process_time()
            call()
            seconds.append(time.perf_counter() - start)
            busy.append(time.process_time() - start_busy)
        spent[label] = min(busy)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)
        print(
            f"{label:32s} best {min(seconds):5.2f} s, worst {max(seconds):5.2f} s; "
            f"CPU {min(busy):5.2f} s; peak {peak:5.0f} MB so far"
        )
    ratio = spent["the same by percentiles"] / spent["intervals of one model"]
    print(f"CPU of percentiles over that of the jackknife: {ratio:.1f}")


if __name__ == "__main__":
    main()
