#!/usr/bin/env python3
"""CPU milliseconds an image of each fusion rule, and its ratio to mask2former's, on planted outputs of COCO's size.

scripts/bench/rules.py [--rounds 5] [--write]

100 queries, 133 classes, masks of 200×272 for an image of 480×640 that is resized to 800×1067: what Mask2Former R50
gives for COCO's most common size. Fusion and the host's part (`to_segments`) are timed together.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
import torch.nn.functional as F

from panbench.models.candidates import NO_LABEL, Candidates, Frame, Instances, Output, softmax_candidates
from panbench.models.rules import RULES, fuse
from panbench.models.rules.base import Rule
from panbench.models.synthetic import tiles
from scripts.bench.harness import arguments, compared, finish, in_turn

FRAME = Frame((800, 1088), (800, 1067), (480, 640))
ISTHING = (True,) * 80 + (False,) * 53
QUERIES, CERTAIN = 100, 18


def planted_candidates(
    frame: Frame = FRAME, isthing: Sequence[bool] = ISTHING, shape: tuple[int, int] = (200, 272), seed: int = 0
) -> Candidates:
    """Returns a query model's output on the CPU in which 18 queries are confident of a class.

    shape: (height, width) of the masks
    """
    dice = torch.Generator().manual_seed(seed)
    classes = len(isthing)
    class_logits = torch.randn(1, QUERIES, classes + 1, generator=dice)
    class_logits[..., -1] += 9
    for query in range(CERTAIN):
        class_logits[0, query, torch.randint(classes, (1,), generator=dice)] = 16
    # Tiles with ragged borders, so that masks compete and most of each is left to it; noise in every cell, as a
    # network's masks have it.
    masks = F.interpolate(torch.randn(1, QUERIES, 20, 24, generator=dice) * 4, size=shape, mode="bicubic") - 12
    masks += 0.1 * torch.randn(masks.shape, generator=dice)
    for query, (rows, columns) in enumerate(tiles(CERTAIN, *shape)):
        masks[0, query, rows, columns] += 24
    (candidates,) = softmax_candidates(class_logits, masks, [frame], tuple(isthing))
    return candidates


def planted_instances(
    frame: Frame = FRAME,
    semantic_labels: Sequence[int] = (*range(80, 133), NO_LABEL),
    shape: tuple[int, int] = (200, 272),
    seed: int = 0,
) -> Instances:
    """Returns Panoptic FPN's output on the CPU: 60 instances with little overlap, and ragged stuff of 8 classes.

    shape: (height, width) of the semantic logits
    """
    dice = torch.Generator().manual_seed(seed)
    height, width = frame.original
    side = height / 6
    corners = torch.rand(60, 2, generator=dice) * torch.tensor([width - side, height - side])
    semantic = F.interpolate(
        torch.randn(1, len(semantic_labels), 10, 12, generator=dice) * 3, size=shape, mode="bicubic"
    )
    semantic[:, 8:-1] -= 12
    return Instances(
        boxes=torch.cat([corners, corners + side], dim=1),
        masks=torch.rand(60, 28, 28, generator=dice),
        labels=(1,) * 60,
        scores=tuple(np.linspace(1, 0.5, 60).tolist()),
        semantic_logits=(semantic + 0.1 * torch.randn(semantic.shape, generator=dice))[0],
        semantic_labels=tuple(semantic_labels),
        frame=frame,
    )


def one_image(rule: Rule, output: Output) -> int:
    """Fuses one output; returns the number of segments."""
    (fused,) = fuse([output], rule)
    return len(rule.to_segments(fused)[1])


def main() -> None:
    """Prints a row per rule."""
    options = arguments(__doc__, rounds=5)
    torch.set_num_threads(1)  # threads that wait for work spin, and CPU time would count it
    outputs: dict[type, Output] = {type(output): output for output in (planted_candidates(), planted_instances())}
    work = {
        name: functools.partial(one_image, rule(), outputs[rule.takes])
        for name, rule in RULES.items()
        if rule.takes in outputs
    }
    found = {name: one() for name, one in work.items()}
    spent = in_turn(work, options.rounds)
    rows = []
    for name in sorted(work, key=lambda name: min(spent[name])):
        rows.append(
            {
                "rule": name,
                "CPU ms an image": f"{1e3 * min(spent[name]):.0f}",
                **compared(spent[name], spent["mask2former"], "ratio to mask2former"),
                "segments": str(found[name]),
            }
        )
    finish("rules", rows, options.write)


if __name__ == "__main__":
    main()
