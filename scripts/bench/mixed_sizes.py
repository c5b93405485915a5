"""How far memory grows over images of many sizes: what is kept of each size, as it is and as it was.

    python scripts/bench/mixed_sizes.py --model mask2former-r50 --images 1000 --short 800

Each side runs in a process of its own. It first sees an image of the largest size until its memory stands still, then
images of other sizes, each once and then drawn at random; printed is what its resident memory grew by meanwhile. "as it
was" keeps whole position maps (Mask2Former) and anchors (Panoptic FPN) of 32 sizes, as panbench did. CPU only; weights
are random.
"""

import gc
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from scripts.bench.child import in_child
from scripts.bench.harness import arguments, finish

SIDES = ("as it was", "as it is")
_WARM = 4


def main() -> None:
    """Prints a row for each side."""
    options = arguments(__doc__, model="mask2former-tiny", images=20, short=320, threads=0)
    rows = []
    for side in SIDES:
        given = (side, options.model, options.images, options.short, options.threads)
        before, after, sizes, seconds = in_child(grown, *given).answer
        rows.append(
            {
                f"{options.model}, {options.images:,} images of {sizes} sizes, shorter side {options.short}": side,
                "MB after the largest": f"{before / 1e6:,.0f}",
                "MB more after all": f"{(after - before) / 1e6:+,.0f}",
                "CPU s": f"{seconds:.0f}",
            }
        )
    finish("mixed_sizes", rows, options.write)


def grown(side: str, name: str, images: int, short: int, threads: int) -> Callable[[], tuple[int, int, int, float]]:
    """Work that returns resident bytes before and after the images, how many sizes they have, and its CPU seconds."""
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

    def all_images() -> tuple[int, int, int, float]:
        for _ in range(_WARM):
            run((short, longer[-1]))
        gc.collect()
        before = resident()
        order = random.Random(0)
        for number in range(images):
            run(chosen[number] if number < len(chosen) else order.choice(chosen))
        gc.collect()
        return before, resident(), len(chosen), time.process_time()

    return all_images


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
