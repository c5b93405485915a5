#!/usr/bin/env python3
"""Times fusing from stored candidates against inference, on the same images, in one run.

    scripts/bench/fuse.py --model mask2former-r50 --images 4
    scripts/bench/fuse.py --model panoptic-fpn-r50-1x --images 4
    scripts/bench/fuse.py --model mask2former-tiny --weights auto --images 20

Both sides end in overlap tables; inference reads and resizes the images, fusing reads what `--keep-candidates` stored.
An untrained network finds nothing, so after its forward pass its answer is replaced: 18 segments with ragged borders,
whose masks have a bit of noise in every cell as a network's have (else they would compress to nothing). Prints seconds
an image of both sides, the ratio, bytes an image stored, and the pixels in which the maps differ. Run it on an idle
machine; with 4 images of COCO's size it takes two minutes on 2 cores.
"""

import argparse
import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.base import provenance
from panbench.catalog import find_model
from panbench.datasets import Dataset
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.stored_runs import StoredModel
from panbench.models.candidates import Candidates, Instances, Output
from panbench.models.model import LoadedImage, Model
from panbench.models.opening import open_model
from panbench.models.stored import StoredOutputs
from panbench.panoptic.coco import read_id_png
from panbench.runs import Run
from panbench.studies.fusing.runs import fuse_run
from scripts.bench.rules import planted_candidates, planted_instances


class PlantedModel:
    """A model whose answers are replaced after its whole forward pass; everything else is the model's."""

    def __init__(self, model: Model, image_ids: Sequence[int]) -> None:
        """model: one of random weights; image_ids: all that it will see, of one size, so that all are planted before"""
        self.inner = model
        self._image_ids = image_ids
        self._planted: dict[int, Output] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Output]:
        """Planted segments, others in each image, of the sizes that the network's answer has."""
        outputs = self.inner.candidates(batch)
        if not self._planted:
            self._planted = {seed: planted_like(outputs[0], seed) for seed in self._image_ids}
        return [self._planted[image.scene.image.id] for image in batch]


def planted_like(output: Output, seed: int) -> Output:
    """Planted segments of the kind and the sizes of an answer."""
    if isinstance(output, Candidates):
        return planted_candidates(output.frame, output.isthing, _shape(output.masks), seed)
    if isinstance(output, Instances):
        return planted_instances(output.frame, output.semantic_labels, _shape(output.semantic_logits), seed)
    raise SystemExit("This model gives finished maps: there is nothing to fuse again.")


def main() -> None:
    """Runs both sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mask2former-r50")
    parser.add_argument("--weights", default="random", help="random, auto or a path; random ones get planted segments")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", default="480x640")
    given = parser.parse_args()
    height, width = (int(side) for side in given.size.split("x"))
    spec = find_model(given.model)
    opened = open_model(spec, weights=given.weights, device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dataset = generated_dataset(opened.class_names, opened.isthing, size=(height, width), count=given.images)
        model: Any = opened
        if given.weights == "random":
            model = PlantedModel(opened, [scene.image.id for scene in dataset.scenes])
        # The first image compiles and touches what later ones find ready.
        evaluate(model, _first(dataset, 1), folder / "warm-up")
        inference = seconds(lambda: evaluate(model, dataset, folder / "plain")) / given.images
        options = EvaluateOptions(keep_candidates=True, save_predictions=True)
        kept = evaluate(model, dataset, folder / "kept", options)
        rule = StoredModel(kept).paper
        (again,) = fuse_run(kept, [rule], folder / "maps", options=EvaluateOptions(save_predictions=True))
        places = [folder / f"fused-{number}" for number in range(3)]
        fusing = min(seconds(lambda: fuse_run(kept, [rule], place)) for place in places) / given.images  # noqa: B023
        size = StoredOutputs(folder / "kept" / "candidates").size / given.images
        print(f"{spec.title}, {given.images} images of {given.size}, {np.mean(segments(kept)):.1f} segments an image")
        print(f"{provenance.cpu_name()}, {torch.get_num_threads()} threads, Python {platform.python_version()}")
        print(f"inference        {1000 * inference:9.1f} ms an image")
        print(f"fusing again     {1000 * fusing:9.1f} ms an image   {inference / fusing:.1f} times as fast")
        print(f"stored           {size / 1e6:9.3f} MB an image")
        print(f"pixels differing {differing(kept, again):9d}")


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _first(dataset: Dataset, count: int) -> Dataset:
    return dataclasses.replace(dataset, scenes=dataset.scenes[:count])


def _shape(values: torch.Tensor) -> tuple[int, int]:
    return int(values.shape[-2]), int(values.shape[-1])


def segments(run: Run) -> list[int]:
    """Predicted segments of each image."""
    table = run.segments()
    return table[table["side"] == "pred"].groupby("image_id").size().to_list() or [0]


def differing(one: Run, other: Run) -> int:
    """Pixels in which the maps of two runs differ."""
    assert one.path is not None
    assert other.path is not None
    return sum(
        int((read_id_png(path) != read_id_png(other.path / "predictions" / path.name)).sum())
        for path in (one.path / "predictions").glob("*.png")
    )


if __name__ == "__main__":
    main()
