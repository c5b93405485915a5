#!/usr/bin/env python3
"""Fusing from stored candidates against inference, on the same images, in turn, by CPU time.

    scripts/bench/fuse.py
    scripts/bench/fuse.py --model mask2former-r50 --checkpoint random --images 4
    scripts/bench/fuse.py --model panoptic-fpn-r50-1x --checkpoint random --images 4

Both sides end in overlap tables; inference reads and resizes the images, fusing reads what `--keep-candidates` stored.
An untrained network finds nothing, so after its forward pass its answer is replaced: 18 segments with ragged borders,
whose masks have a bit of noise in every cell as a network's have (else they would compress to nothing). Beside the
times stand the bytes an image stored, and the pixels in which the maps differ.
"""

import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

from panbench.catalog import find_model
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.stored.stored_model import StoredModel
from panbench.models.candidates import Candidates, Instances, Output
from panbench.models.model import LoadedImage, Model
from panbench.models.opening import open_model
from panbench.panoptic.coco import read_id_png
from panbench.runs import Run, candidate_files
from panbench.studies.fusing.again import fuse_run
from scripts.bench.harness import arguments, compared, finish, in_turn
from scripts.bench.rules import planted_candidates, planted_instances


class PlantedModel:
    """Wraps a model and replaces its outputs by planted ones after the complete forward pass."""

    def __init__(self, model: Model, image_ids: Sequence[int]) -> None:
        """model: one with random weights; image_ids: all images, of one size, so that outputs are planted up front"""
        self.inner = model
        self._image_ids = image_ids
        self._planted: dict[int, Output] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Output]:
        """Returns planted segments, different ones for each image, in the sizes of the network's output."""
        outputs = self.inner.candidates(batch)
        if not self._planted:
            self._planted = {seed: planted_like(outputs[0], seed) for seed in self._image_ids}
        return [self._planted[image.scene.image.id] for image in batch]


def planted_like(output: Output, seed: int) -> Output:
    """Plants segments in an output of the same kind and sizes as the given one."""
    if isinstance(output, Candidates):
        return planted_candidates(output.frame, output.isthing, _shape(output.masks), seed)
    if isinstance(output, Instances):
        return planted_instances(output.frame, output.semantic_labels, _shape(output.semantic_logits), seed)
    raise SystemExit("This model gives finished maps: there is nothing to fuse again.")


def main() -> None:
    """Measures both sides and prints a row."""
    options = arguments(__doc__, model="mask2former-tiny", checkpoint="auto", images=4, size="480x640", rounds=3)
    height, width = (int(side) for side in options.size.split("x"))
    opened = open_model(find_model(options.model), weights=options.checkpoint, device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder, number = Path(scratch), itertools.count()
        dataset = generated_dataset(opened.class_names, opened.isthing, size=(height, width), count=options.images)
        model: Any = opened
        if options.checkpoint == "random":
            model = PlantedModel(opened, [scene.image.id for scene in dataset.scenes])
        keep = EvaluateOptions(keep_candidates=True, save_predictions=True)
        kept = evaluate(model, dataset, folder / "kept", keep)
        rule = StoredModel(kept).paper
        (again,) = fuse_run(kept, [rule], folder / "maps", options=EvaluateOptions(save_predictions=True))
        spent = in_turn(
            {
                "inference": lambda: evaluate(model, dataset, folder / f"plain-{next(number)}"),
                "fusing": lambda: fuse_run(kept, [rule], folder / f"fused-{next(number)}"),
            },
            options.rounds,
        )
        row = {
            f"{options.images} images of {options.size}": options.model,
            "segments an image": f"{np.mean(segments(kept)):.1f}",
            **{f"{side}, CPU ms an image": f"{1e3 * min(spent[side]) / options.images:.1f}" for side in spent},
            **compared(spent["inference"], spent["fusing"]),
            "MB an image": f"{sum(map(os.path.getsize, candidate_files(folder / 'kept'))) / options.images / 1e6:.3f}",
            "pixels that differ": str(differing(kept, again)),
        }
    finish("fuse", [row], options.write)


def _shape(values: torch.Tensor) -> tuple[int, int]:
    return int(values.shape[-2]), int(values.shape[-1])


def segments(run: Run) -> list[int]:
    """Counts the predicted segments of each image."""
    table = run.segments()
    return table[table["side"] == "pred"].groupby("image_id").size().to_list() or [0]


def differing(one: Run, other: Run) -> int:
    """Counts the pixels in which the maps of two runs differ."""
    assert one.path is not None
    assert other.path is not None
    return sum(
        int((read_id_png(path) != read_id_png(other.path / "predictions" / path.name)).sum())
        for path in (one.path / "predictions").glob("*.png")
    )


if __name__ == "__main__":
    main()
