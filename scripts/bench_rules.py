#!/usr/bin/env python3
"""Milliseconds an image of each fusion rule, and its ratio to mask2former's, on planted outputs of COCO's size.

scripts/bench_rules.py [--device cuda] [--repeat 20]

100 queries, 133 classes, masks of 200×272 for an image of 480×640 that is resized to 800×1067: what Mask2Former R50
gives for COCO's most common size. Fusion and the host's part (`settle`) are timed together. Run it on an idle machine.
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as F

from panbench.models.base import choose_device
from panbench.models.candidates import NO_LABEL, Candidates, Frame, Instances, Output, softmax_candidates
from panbench.models.rules import RULES, fuse
from panbench.models.synthetic import tiles

FRAME = Frame((800, 1088), (800, 1067), (480, 640))
ISTHING = (True,) * 80 + (False,) * 53
QUERIES, CERTAIN = 100, 18


def planted(device: torch.device) -> tuple[Candidates, Instances]:
    """A query model's output, of which 18 queries are sure of a class, and one of Panoptic FPN with 60 instances."""
    dice = torch.Generator().manual_seed(0)
    class_logits = torch.randn(1, QUERIES, 134, generator=dice)
    class_logits[..., -1] += 9
    for query in range(CERTAIN):
        class_logits[0, query, torch.randint(133, (1,), generator=dice)] = 16
    # Tiles with ragged borders, so that masks compete and most of each is left to it.
    masks = F.interpolate(torch.randn(1, QUERIES, 20, 24, generator=dice) * 4, size=(200, 272), mode="bicubic") - 12
    for query, (rows, columns) in enumerate(tiles(CERTAIN, 200, 272)):
        masks[0, query, rows, columns] += 24
    (candidates,) = softmax_candidates(class_logits.to(device), masks.to(device), [FRAME], ISTHING)
    corners = torch.rand(60, 2, generator=dice) * torch.tensor([560.0, 400.0])
    instances = Instances(
        boxes=torch.cat([corners, corners + 80], dim=1).to(device),
        masks=torch.rand(60, 28, 28, generator=dice).to(device),
        labels=(1,) * 60,
        scores=tuple(np.linspace(1, 0.5, 60).tolist()),
        semantic_logits=F.interpolate(torch.randn(1, 54, 10, 12, generator=dice), size=(200, 272))[0].to(device),
        semantic_labels=(*range(80, 133), NO_LABEL),
        frame=FRAME,
    )
    return candidates, instances


def milliseconds(name: str, output: Output, device: torch.device, repeat: int) -> tuple[float, int]:
    """The median time of one image by a rule, and the segments that it finds."""
    rule = RULES[name]()
    spent = []
    segments: tuple[object, ...] = ()
    for _ in range(repeat + 2):
        began = time.perf_counter()
        (fused,) = fuse([output], rule)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        _, segments = rule.settle(fused)
        spent.append(1000 * (time.perf_counter() - began))
    return float(np.median(spent[2:])), len(segments)


def main() -> None:
    """Prints a line a rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeat", type=int, default=20)
    options = parser.parse_args()
    device = choose_device(options.device)
    candidates, instances = planted(device)
    outputs: dict[type, Output] = {Candidates: candidates, Instances: instances}
    measured = {
        name: milliseconds(name, outputs[rule.takes], device, options.repeat)
        for name, rule in RULES.items()
        if rule.takes in outputs
    }
    print(f"{'rule':14} {'ms':>8} {'× mask2former':>14} {'segments':>9}")
    for name, (spent, segments) in sorted(measured.items(), key=lambda item: item[1][0]):
        print(f"{name:14} {spent:8.1f} {spent / measured['mask2former'][0]:14.2f} {segments:9}")


if __name__ == "__main__":
    main()
