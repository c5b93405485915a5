"""How far memory grows over images of many sizes: what is kept of each size, as it is and as it was.

    python scripts/bench/mixed_sizes.py --model mask2former-r50 --images 1000 --short 800

Each side runs in a process of its own. It first sees an image of the largest size until its memory stands still, then
images of other sizes, each once and then drawn at random; printed is what its resident memory grew by meanwhile. "as it
was" keeps whole position maps (Mask2Former) and anchors (Panoptic FPN) of 32 sizes, as panbench did. CPU only; weights
are random.
"""

import argparse
import gc
import multiprocessing
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("as it was", "as it is")
_WARM = 4


def main() -> None:
    """Prints a line for each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mask2former-r50")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--short", type=int, default=800, help="shorter side of the network's input, of 32 pixels each")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves torch's default")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for side in SIDES:
        with context.Pool(1) as pool:
            task = (side, arguments.model, arguments.images, arguments.short, arguments.threads)
            before, after, sizes, seconds = pool.apply(grown, task)
        print(
            f"{side}: {before / 1e6:,.0f} MB after the largest, {(after - before) / 1e6:+,.0f} MB after "
            f"{arguments.images:,} images of {sizes} sizes ({seconds:.0f} s of CPU)",
            flush=True,
        )


def grown(side: str, name: str, images: int, short: int, threads: int) -> tuple[int, int, int, float]:
    """Resident bytes before and after the images, how many sizes they have, and the CPU seconds of all."""
    import torch

    from panbench.catalog import find_model
    from panbench.models.opening import open_model
    from panbench.models.predict import scene_of

    if threads:
        torch.set_num_threads(threads)
    if side == SIDES[0]:
        keep_as_before()
    model: Any = open_model(find_model(name), weights="random", device="cpu")
    # Of this shorter side, and not too long, images are not resized: their sizes are those of the network's input.
    model.adapter = model.adapter.scaled(short / 800)
    longer = range(short, short * 5 // 3 + 1, 32)
    chosen = [*((short, side) for side in longer), *((side, short) for side in longer[1:])]

    def run(size: tuple[int, int]) -> None:
        rgb = np.zeros((*size, 3), np.uint8)
        model.candidates([model.load_pixels(scene_of(Path("none.png"), 1, *size), rgb)])

    for _ in range(_WARM):
        run((short, longer[-1]))
    gc.collect()
    before = resident()
    order = random.Random(0)
    for number in range(images):
        run(chosen[number] if number < len(chosen) else order.choice(chosen))
    gc.collect()
    return before, resident(), len(chosen), time.process_time()


def keep_as_before() -> None:
    """Keeps of 32 sizes what the network computes from a size alone, whole."""
    from panbench.models.mmdet import detection, pixel_decoder

    geometries: Any = pixel_decoder.Geometry
    compute = geometries.positions

    def positions(geometry: Any) -> Any:
        if "kept" not in geometry.__dict__:
            object.__setattr__(geometry, "kept", compute(geometry))
        return geometry.__dict__["kept"]

    geometries.positions = positions
    pixel_decoder.MOST_SIZES = detection.SIZES_OF_ANCHORS = 32


def resident() -> int:
    """Bytes of this process in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
