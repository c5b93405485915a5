"""How far memory grows over images of many sizes, on a CPU: as it is and as it was.

    python scripts/bench/mixed_sizes.py --model mask2former-r50 --images 1000 --short 800 --mixes even coco

Each side runs in a process of its own. It first sees an image of the largest size until its memory stands still, then
images of other sizes: by "even", each size once and then all alike often; by "coco", half of them 3:4 (three of four
lying, one standing; about half of COCO's images are 640×480 or 480×640), the other half as by "even". Printed are the
resident memory after the largest, how much more it was after the image that left most, and after all; its peak; and
what was in use at the end (the rest is freed memory that the process keeps). "as it was" takes PyTorch's arrays from
glibc's own posix_memalign, and keeps whole position maps (Mask2Former) and anchors (Panoptic FPN) of 32 sizes, as
panbench did; --sides "as it is" leaves it out. Weights are random. With --write the rows go to
results/benchmarks/mixed_sizes_MODEL.csv, those of one side alone to mixed_sizes_MODEL_IMAGES.csv.
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

from scripts.bench.child import in_child, peak
from scripts.bench.harness import arguments, finish

SIDES = ("as it was", "as it is")
MIXES = ("even", "coco")
_WARM = 4


def main() -> None:
    """Prints a row for each side and mix."""
    options = arguments(
        __doc__, model="mask2former-tiny", images=20, short=320, threads=0, mixes=("even",), sides=SIDES
    )
    for name, known in (("mixes", MIXES), ("sides", SIDES)):
        if unknown := set(getattr(options, name)) - set(known):
            raise SystemExit(f"--{name} {min(unknown)!r}: choose from {', '.join(map(repr, known))}")
    rows = []
    for mix in options.mixes:
        for side in options.sides:
            given = (side, mix, options.model, options.images, options.short, options.threads)
            environment = {"PANBENCH_NATIVE": "0"} if side == SIDES[0] else {}
            answer = in_child(grown, *given, environment=environment).answer
            first, most, last, in_use, highest, sizes, seconds = answer
            rows.append(
                {
                    f"{options.model}, {options.images:,} images, shorter side {options.short}": side,
                    "mix": mix,
                    "sizes": str(sizes),
                    "MB after the largest": f"{first / 1e6:,.0f}",
                    "MB more at most": f"{(most - first) / 1e6:+,.0f}",
                    "MB more after all": f"{(last - first) / 1e6:+,.0f}",
                    "peak MB": f"{highest:,.0f}",
                    "MB in use": f"{in_use / 1e6:,.0f}",
                    "CPU s an image": f"{seconds / options.images:.3f}",
                }
            )
    name = f"mixed_sizes_{options.model.replace('-', '_')}"
    finish(name if tuple(options.sides) == SIDES else f"{name}_{options.images}", rows, options.write)


def grown(side: str, mix: str, name: str, images: int, short: int, threads: int) -> Callable[[], tuple[float, ...]]:
    """Work that returns bytes resident after the largest image, at most and at the end, in use; peak MB; sizes; CPU s.

    The seconds are those of the images after the largest.
    """
    import torch

    from panbench.base.heap import give_back, reuse_aligned_blocks
    from panbench.catalog import find_model
    from panbench.models.opening import open_model
    from panbench.models.predict import scene_of
    from panbench.models.rules import fuse

    if threads:
        torch.set_num_threads(threads)
    model: Any = open_model(find_model(name), weights="random", device="cpu")
    if side == SIDES[0]:
        keep_as_before()
    elif not reuse_aligned_blocks():
        raise SystemExit("heap.c is not compiled here (python hatch_build.py), or replaces nothing in this PyTorch.")
    # Of this shorter side, and not too long, images are not resized: their sizes are those of the network's input.
    model.adapter = model.adapter.scaled(short / 800)
    longer = range(short, short * 5 // 3 + 1, 32)
    all_sizes = [*((short, side) for side in longer), *((side, short) for side in longer[1:])]
    usual = short * 4 // 3

    def run(size: tuple[int, int]) -> None:
        rgb = np.zeros((*size, 3), np.uint8)
        for fused in fuse(model.candidates([model.load_pixels(scene_of(Path("none.png"), 1, *size), rgb)]), model.rule):
            model.rule.settle(fused)

    def all_images() -> tuple[float, ...]:
        for _ in range(_WARM):
            run((short, longer[-1]))
        gc.collect()
        first = most = resident()
        draw, shown, began = random.Random(0), set(), time.process_time()
        fresh = iter(all_sizes)
        for _ in range(images):
            if mix == "coco" and draw.random() < 0.5:
                size = draw.choice([(short, usual)] * 3 + [(usual, short)])
            else:
                size = next(fresh, None) or draw.choice(all_sizes)
            shown.add(size)
            run(size)
            most = max(most, resident())
        seconds = time.process_time() - began
        gc.collect()
        last, highest = resident(), peak()
        give_back()
        return first, most, last, resident(), highest, len(shown), seconds

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
