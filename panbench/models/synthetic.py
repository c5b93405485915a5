"""Plants segments in models with random weights, which find none, so that their fusion is not timed on empty maps.

Only the final outputs of mmdet's heads are replaced, after they were computed. The tiles are the same in mmdet's own
loop and in ours.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from panbench.models.candidates import Candidates, Instances, LabelledSegment, Output

SURE = 12.0
"""A logit whose probability is practically 1."""


def tiles(count: int, height: int, width: int) -> list[tuple[slice, slice]]:
    """Divides height × width into a grid; returns its first `count` rectangles, row by row."""
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
    """Returns `count` labels, things and stuff in turn; each stuff label once, as segments of one would be merged."""
    things = [label for label, thing in enumerate(isthing) if thing]
    stuff = [label for label, thing in enumerate(isthing) if not thing]
    found = []
    for index in range(count):
        if (index % 2 == 0 or not stuff) and things:
            found.append(things[index // 2 % len(things)])
        else:
            found.append(stuff.pop(0) if stuff else things[index // 2 % len(things)])
    return found


def plant_in_output(output: Output, count: int) -> Output:
    """Replaces the segments in a model's output for one image by `count` rectangles, on the same device."""
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


def plant_queries(model: Any, count: int) -> Callable[[], None]:
    """Makes MaskFormer or Mask2Former output `count` segments for every image; returns a function that undoes it."""
    handle = model.panoptic_head.register_forward_hook(
        lambda head, inputs, outputs: _replace_queries(outputs, count, head.num_things_classes)
    )
    return handle.remove  # type: ignore[no-any-return]


def _replace_queries(outputs: tuple[Any, Any], count: int, num_things: int) -> tuple[Any, Any]:
    """Replaces the last layer's class and mask logits by `count` queries with rectangular masks."""
    class_logits, mask_logits = (list(output) for output in outputs)
    classes, masks = torch.zeros_like(class_logits[-1]), mask_logits[-1].clone()
    _, queries, width = classes.shape
    count = min(count, queries)
    classes[:, count:, -1] = SURE
    isthing = tuple(label < num_things for label in range(width - 1))
    for query, label in enumerate(labels_in_turn(isthing, count)):
        classes[:, query, label] = SURE
    for query, (rows, columns) in enumerate(tiles(count, *masks.shape[-2:])):
        masks[:, query] = -SURE
        masks[:, query, rows, columns] = SURE
    return [*class_logits[:-1], classes], [*mask_logits[:-1], masks]


def plant_instances(model: Any, count: int) -> Callable[[], None]:
    """Makes Panoptic FPN output `count` instances for every image; returns a function that undoes it."""
    head = model.roi_head
    box_forward = head._bbox_forward

    def planted_box_head(features: Sequence[Tensor], rois: Tensor, *args: Any) -> dict[str, Tensor]:
        """Replaces scores and box deltas of the box head by `count` instances that form a grid."""
        found = box_forward(features, rois, *args)
        stride = head.bbox_roi_extractor.featmap_strides[0]
        height, width = (side * stride for side in features[0].shape[-2:])
        boxes = [(c.start, r.start, c.stop, r.stop) for r, c in tiles(count, height, width)]
        targets = rois.new_tensor(boxes)
        scores, deltas = torch.zeros_like(found["cls_score"]), found["bbox_pred"].clone()
        scores[:, -1] = SURE
        for image in rois[:, 0].unique():
            rows = torch.nonzero(rois[:, 0] == image).flatten()[:count]
            encoded = head.bbox_head.bbox_coder.encode(rois[rows, 1:], targets[: len(rows)])
            for row, delta, label in zip(rows, encoded, range(count), strict=False):
                label %= head.bbox_head.num_classes
                scores[row, -1], scores[row, label] = 0.0, SURE
                deltas[row].view(-1, 4)[label if deltas.shape[1] > 4 else 0] = delta.to(deltas)
        return {**found, "cls_score": scores, "bbox_pred": deltas}

    head._bbox_forward = planted_box_head
    handle = head.mask_head.register_forward_hook(lambda module, inputs, output: torch.full_like(output, SURE))

    def restore_heads() -> None:
        """Removes the replacements, so that the heads give their own outputs again."""
        handle.remove()
        del head._bbox_forward

    return restore_heads
