"""Holds panbench's corruptions against imagecorruptions 1.1.2, pixel by pixel, at the same random draws.

    python scripts/check/corruptions.py --theirs VENV/bin/python                    # a generated photograph of 480×640
    python scripts/check/corruptions.py --theirs VENV/bin/python --image photo.jpg
    VENV/bin/python scripts/check/corruptions.py --record tests/reference/corruptions/answers.npz --size 37 53

The package runs in an environment of its own: it wants NumPy below 1.24 and scikit-image below 0.20 (`pip install
imagecorruptions==1.1.2 numpy==1.23.5 scikit-image==0.19.3 scipy==1.10.1 opencv-python==4.8.1.78 pillow==9.5.0`).
"""

import argparse
import importlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

SEED = 1
FROST_DRAWS = 100


class Replayed:
    """Replays the draws of `numpy.random.seed(SEED)` under the method names of a Generator."""

    def __init__(self, seed: int = SEED) -> None:
        state = np.random.RandomState(seed)
        self.normal, self.poisson, self.uniform = state.normal, state.poisson, state.uniform
        self.integers = state.randint
        # scikit-image draws salt and pepper from a Generator of its own.
        self.random = np.random.default_rng(seed).random


def photograph(height: int, width: int) -> "np.ndarray":
    """Generates (height, width, 3) uint8: gradients, edges, black, white and grey areas, and some noise in one half."""
    y, x = np.mgrid[:height, :width]
    random = np.random.RandomState(0)
    image = np.stack([255 * x / width, 255 * y / height, 255 * (x + y) / (height + width)], axis=2)
    image[(x // max(4, width // 16) + y // max(4, height // 12)) % 5 == 0] = (200, 40, 90)
    image[: height // 4, : width // 4] = 0
    image[: height // 4, -width // 4 :] = 255
    image[-height // 4 :, : width // 4] = 128
    image[:, width // 2 :] += random.normal(0, 6, (height, width - width // 2, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def record(image: "np.ndarray", out: Path) -> None:
    """Writes imagecorruptions' output for an image, by kind-severity; for frost the mean colour over many draws."""
    imagecorruptions: Any = importlib.import_module("imagecorruptions")

    fresh = np.random.default_rng
    answers: dict[str, Any] = {"image": image}
    seconds: dict[str, float] = {}
    for name in imagecorruptions.get_corruption_names("all"):
        started = time.process_time()
        for severity in range(1, 6):
            np.random.seed(SEED)
            np.random.default_rng = lambda *_: fresh(SEED)
            if name == "frost":
                drawn = [imagecorruptions.corrupt(image, severity, name) for _ in range(FROST_DRAWS)]
                answers[f"frost-{severity}-mean"] = np.mean(drawn, axis=(0, 1, 2))
                answers[f"frost-{severity}-deviation"] = np.std(np.mean(drawn, axis=3), axis=(1, 2)).mean()
            else:
                answers[f"{name}-{severity}"] = imagecorruptions.corrupt(image, severity, name)
            np.random.default_rng = fresh
        seconds[name] = time.process_time() - started
    answers.update({f"seconds-{name}": np.float64(spent) for name, spent in seconds.items()})
    np.savez_compressed(out, **answers)


def compare(image: "np.ndarray", theirs: str) -> None:
    """Prints for each kind the differing pixels over five severities, the largest difference, and CPU seconds."""
    from panbench.studies.robustness.kinds import FUNCTIONS

    with tempfile.TemporaryDirectory() as folder:
        given, out = Path(folder) / "image.npy", Path(folder) / "answers.npz"
        np.save(given, image)
        subprocess.run([theirs, "-W", "ignore", __file__, "--record", str(out), "--image", str(given)], check=True)
        answers = dict(np.load(out))
    print(f"{'kind':20} {'values differ':>14} {'largest':>8} {'CPU s ours':>11} {'theirs':>8}  (5 severities)")
    for name, function in FUNCTIONS.items():
        if name == "frost":
            continue
        different = largest = values = 0
        started = time.process_time()
        found = [function(image, level, cast(np.random.Generator, Replayed())) for level in range(5)]
        spent = time.process_time() - started
        for severity, levels in enumerate(found, start=1):
            ours = np.clip(levels, 0, 255).astype(np.uint8).astype(int)
            off = np.abs(ours - answers[f"{name}-{severity}"])
            different += int((off > 0).sum())
            largest = max(largest, int(off.max()))
            values += off.size
        their_time = float(answers[f"seconds-{name}"])
        print(f"{name:20} {different:>7}/{values:<9} {largest:>6} {spent:>10.2f} {their_time:>8.2f}")
    random = np.random.default_rng(0)
    for level in range(5):
        drawn = [np.clip(FUNCTIONS["frost"](image, level, random), 0, 255) for _ in range(20)]
        ours, own = np.mean(drawn, axis=(0, 1, 2)), answers[f"frost-{level + 1}-mean"]
        print(
            f"frost {level + 1}: mean colour {ours.round(1)} ours, {own.round(1)} theirs (another sheet: a deviation)"
        )


def main() -> None:
    """Parses the command line and records or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--theirs", help="the Python of an environment with imagecorruptions")
    parser.add_argument("--record", type=Path, help="run in that environment: write its answers to this .npz")
    parser.add_argument("--image", type=Path, help="a photograph, or an array as .npy")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="of the generated photograph")
    arguments = parser.parse_args()
    if arguments.image is None:
        image = photograph(*arguments.size)
    elif arguments.image.suffix == ".npy":
        image = np.load(arguments.image)
    else:
        from PIL import Image

        image = np.asarray(Image.open(arguments.image).convert("RGB"))
    if arguments.record is not None:
        record(image, arguments.record)
    elif arguments.theirs:
        compare(image, arguments.theirs)
    else:
        sys.exit("Give --theirs, or --record in the other environment.")


if __name__ == "__main__":
    main()
