#!/usr/bin/env python3
"""Images a second as run.json has them, of a model that really sleeps a known time for each image.

python scripts/check/rates.py                  # half a second an image, about a minute
python scripts/check/rates.py --seconds 1

Each line: lanes (batches in the model at a time), batch size, images, the rate by construction, the rate in run.json
and the wall time of the whole loop. Exit 1 when a rate is off by more than a tenth.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from panbench.catalog import find_model
from panbench.datasets import shapes
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.models.functions import FunctionModel

CASES = [(1, 2), (1, 4), (1, 8), (4, 12), (4, 16), (8, 20), (8, 32)]
"""Batch size and images."""


class Sleeping(FunctionModel):
    """A function as a model; `together`: each lane sleeps by itself, as a network on its own threads computes."""

    def __init__(self, seconds: float, together: bool) -> None:
        def nothing_found(image: Any) -> tuple[Any, list[Any]]:
            if not together:
                time.sleep(seconds)
            return np.zeros(image.shape[:2], np.int32), []

        nothing_found.categories = shapes.CATEGORIES  # type: ignore[attr-defined]
        super().__init__(find_model("mask2former-tiny"), nothing_found)
        self._each = seconds if together else 0.0

    def candidates(self, batch: Sequence[Any]) -> list[Any]:
        """Sleeps for each image of the batch."""
        time.sleep(self._each * len(batch))
        return super().candidates(batch)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="how long an image takes")
    options = parser.parse_args()
    names, things = zip(*((each["name"], bool(each["isthing"])) for each in shapes.CATEGORIES), strict=True)
    wrong = 0
    print("| lanes | batch | images | images/s, true | images/s, told | whole loop, s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for threads, (batch_size, count) in itertools.product((1, 2), CASES):
        torch.set_num_threads(threads)
        dataset = generated_dataset(names, things, size=(32, 32), count=count)
        with tempfile.TemporaryDirectory() as folder:
            model = Sleeping(options.seconds, together=threads > 1)
            info = evaluate(model, dataset, Path(folder) / "run", EvaluateOptions(batch_size=batch_size)).info
        true, told = threads / options.seconds, info.images_per_second
        shown = "–" if told is None else f"{told:.3f}"
        print(f"| {threads} | {batch_size} | {count} | {true:.3f} | {shown} | {info.seconds.wall:.2f} |", flush=True)
        wrong += told is not None and abs(told / true - 1) > 0.1
    if wrong:
        sys.exit(f"{wrong} rates are off by more than a tenth.")


if __name__ == "__main__":
    main()
