"""Times fusing from stored candidates against inference, on the same images, in one run.

    python scripts/bench_fuse.py --model mask2former-r50 --weights random --plant 20 --images 6 --size 480x640
    python scripts/bench_fuse.py --model mask2former-tiny

Both sides end in overlap tables; inference reads and resizes the images, fusing reads what `--keep-candidates` stored.
Prints seconds an image of both, the ratio, bytes an image stored, and the pixels in which the maps differ.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from panbench.catalog import find_model
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import EvaluateOptions, evaluate
from panbench.evaluation.fusing import StoredModel, fuse_run
from panbench.models.base import open_model
from panbench.models.stored import StoredOutputs
from panbench.panoptic.coco import read_id_png
from panbench.runs import Run


def main() -> None:
    """Runs both sides and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mask2former-r50")
    parser.add_argument("--weights", default="auto", help="auto, random or a path")
    parser.add_argument("--plant", type=int, default=0, help="segments that an untrained model's heads answer with")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--size", default="480x640")
    given = parser.parse_args()
    height, width = (int(side) for side in given.size.split("x"))
    spec = find_model(given.model)
    model = open_model(spec, weights=given.weights)
    if given.plant:
        model.plant_segments(given.plant)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        dataset = generated_dataset(model.class_names, model.isthing, size=(height, width), count=given.images)
        evaluate(model, dataset, folder / "warm-up")
        began = time.perf_counter()
        evaluate(model, dataset, folder / "plain")
        inference = (time.perf_counter() - began) / given.images
        began = time.perf_counter()
        kept = evaluate(model, dataset, folder / "kept", EvaluateOptions(keep_candidates=True, save_predictions=True))
        keeping = (time.perf_counter() - began) / given.images
        rule = StoredModel(kept).paper
        fuse_run(kept, [rule], folder / "fused-warm-up")
        began = time.perf_counter()
        fuse_run(kept, [rule], folder / "fused")
        fusing = (time.perf_counter() - began) / given.images
        (again,) = fuse_run(kept, [rule], folder / "maps", options=EvaluateOptions(save_predictions=True))
        size = StoredOutputs(folder / "kept" / "candidates").size / given.images
        print(f"{spec.title}, {given.images} images of {given.size}, {np.mean(segments(kept)):.1f} segments an image")
        print(f"inference            {1000 * inference:9.1f} ms an image")
        print(f"inference + keeping  {1000 * keeping:9.1f} ms an image")
        print(f"fusing again         {1000 * fusing:9.1f} ms an image   {inference / fusing:.1f} times as fast")
        print(f"stored               {size / 1e6:9.3f} MB an image")
        print(f"pixels that differ   {differing(kept, again):9d}")


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
