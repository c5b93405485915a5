"""Segments for models with random weights, which find none: their fusion would be timed on empty maps."""

import dataclasses
import math

import numpy as np
import torch

from panbench.models.candidates import Candidates, Instances, LabelledSegment, Output

SURE = 12.0
"""A logit whose probability is 1 for all purposes of merging."""


def tiles(count: int, height: int, width: int) -> list[tuple[slice, slice]]:
    """`count` rectangles of a grid that covers height × width, in reading order."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    return [
        (
            slice(index // columns * height // rows, (index // columns + 1) * height // rows),
            slice(index % columns * width // columns, (index % columns + 1) * width // columns),
        )
        for index in range(count)
    ]


def labels_in_turn(isthing: tuple[bool, ...], count: int) -> list[int]:
    """`count` labels, things and stuff by turns; each stuff label once, as two of one label would be one segment."""
    things = [label for label, thing in enumerate(isthing) if thing]
    stuff = [label for label, thing in enumerate(isthing) if not thing]
    found = []
    for index in range(count):
        if (index % 2 == 0 or not stuff) and things:
            found.append(things[index // 2 % len(things)])
        else:
            found.append(stuff.pop(0) if stuff else things[index // 2 % len(things)])
    return found


def replace_output(output: Output, count: int) -> Output:
    """A model's output for one image, replaced by `count` tiled segments of the same sizes, on the same device."""
    if isinstance(output, Candidates):
        planted = min(count, len(output.labels))
        labels, gate = np.full(len(output.labels), -1), np.zeros(len(output.labels), np.float32)
        labels[:planted], gate[:planted] = labels_in_turn(output.isthing, planted), 1.0
        on = SURE if output.activation == "sigmoid" else 1.0
        masks = torch.full_like(output.masks, -SURE if output.activation == "sigmoid" else 0.0)
        for index, (rows, columns) in enumerate(tiles(planted, *masks.shape[-2:])):
            masks[index, rows, columns] = on
        weight = torch.ones_like(output.weight)
        return dataclasses.replace(
            output, labels=labels.astype(np.int64), gate=gate, weight=weight, masks=masks, boxes=None
        )
    height, width = output.frame.original
    if isinstance(output, Instances):
        things = sorted(set(output.labels)) or [0]
        boxes = [(c.start, r.start, c.stop, r.stop) for r, c in tiles(count, height, width)]
        return dataclasses.replace(
            output,
            boxes=output.semantic_logits.new_tensor(boxes).float(),
            masks=torch.ones((count, 28, 28), device=output.semantic_logits.device),
            labels=tuple(things[index % len(things)] for index in range(count)),
            scores=(1.0,) * count,
        )
    ids = np.zeros((height, width), np.int32)
    segments = []
    for index, (rows, columns) in enumerate(tiles(count, height, width), start=1):
        ids[rows, columns] = index
        segments.append(LabelledSegment(index, 0, int((ids == index).sum()), None))
    return dataclasses.replace(output, ids=ids, segments=tuple(segments))
