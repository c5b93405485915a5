"""What Panoptic SegFormer's masks in one step, as its authors bring them to size, change against two steps, and cost.

    python scripts/check/mask_steps.py [--scenes 32] [--seed 0]

Candidates are generated: the segments of scenes of `shapes`, softened at the stride of the network (8), with noise that
nothing is behind. Each is fused by `mask-wise` twice, with masks that go to the original size over the padded one
(two bilinear steps, as mmdet and detectron2 do) and in one. Prints the pixels whose category or segment differs, and
the CPU seconds of both, measured in turns in one run.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from panbench.datasets import shapes
from panbench.models.candidates import Candidates, Frame, scores_of_pairs
from panbench.models.rules import fuse, parse_rule

RULE = parse_rule("mask-wise")
SIZE = (134, 171)
RESIZED = (256, 326)
PADDED = (256, 352)
STRIDE = 8
SPARE = 40
"""Candidates beside those of true segments: a network has 100 and a mask for each stuff class."""


def scenes(count: int, seed: int) -> Iterator[Candidates]:
    """What a network might say of each scene."""
    isthing = tuple(bool(category["isthing"]) for category in shapes.CATEGORIES)
    label_of = {category["id"]: label for label, category in enumerate(shapes.CATEGORIES)}
    random = np.random.default_rng(seed)
    for index in range(count):
        scene = shapes.make_scene(index, seed=seed, size=SIZE)
        segments = [segment for segment in scene.segments_info if not segment["iscrowd"]]
        labels = [label_of[segment["category_id"]] for segment in segments]
        whole = [torch.from_numpy((scene.ids == segment["id"]).astype(np.float32)) for segment in segments]
        on_grid = [F.interpolate(mask[None, None], size=RESIZED, mode="bilinear")[0, 0] for mask in whole]
        padded = [F.pad(mask, (0, PADDED[1] - RESIZED[1], 0, PADDED[0] - RESIZED[0])) for mask in on_grid]
        coarse = torch.stack([F.avg_pool2d(mask[None], STRIDE)[0] for mask in padded])
        blobs = torch.from_numpy(random.uniform(0, 0.7, (SPARE, *coarse.shape[1:])).astype(np.float32))
        gate = np.concatenate([random.uniform(0.6, 1, len(labels)), random.uniform(0, 0.5, SPARE)]).astype(np.float32)
        every = np.array([*labels, *random.integers(0, len(isthing), SPARE)], np.int64)
        weight = torch.from_numpy(gate)
        scores, weights = scores_of_pairs(torch.from_numpy(every), weight, isthing)
        frame = Frame(PADDED, RESIZED, SIZE)
        masks = torch.cat([coarse, blobs])
        yield Candidates(every, gate, weight, masks, frame, isthing, "identity", scores, weights)


def names_of(candidates: Candidates) -> tuple[np.ndarray, float]:
    """For each pixel its segment and label in one number, and the CPU seconds of fusing."""
    start = time.process_time()
    ids, segments = RULE.settle(fuse([candidates], RULE)[0])
    seconds = time.process_time() - start
    labels = np.zeros(1 + max((segment.id for segment in segments), default=0), np.int64)
    for segment in segments:
        labels[segment.id] = 1 + segment.label
    return labels[ids] * 1000 + ids, seconds


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    differing = pixels = 0
    seconds = np.zeros(2)
    with torch.inference_mode():
        for number, two in enumerate(scenes(arguments.scenes, arguments.seed)):
            one = dataclasses.replace(two, frame=dataclasses.replace(two.frame, one_step=True))
            # In turns, so that neither side always comes first.
            found = {way: names_of((two, one)[way]) for way in ((0, 1) if number % 2 else (1, 0))}
            differing += int((found[0][0] != found[1][0]).sum())
            pixels += found[0][0].size
            seconds += [found[0][1], found[1][1]]
    print(f"{differing:,} of {pixels:,} pixels differ, {arguments.scenes} scenes")
    print(f"CPU seconds: two steps {seconds[0]:.2f}, one step {seconds[1]:.2f}, ratio {seconds[0] / seconds[1]:.2f}")


if __name__ == "__main__":
    main()
