"""Panoptic FPN's heuristic: instances painted in order of their scores, stuff where none is. [Kirillov et al. 2019]"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.models.candidates import NO_LABEL, Instances
from panbench.models.rules import resize
from panbench.models.rules.base import (
    FusedMap,
    Rule,
    SettledMap,
    check_finite,
    code_type,
    codes_of,
    fraction,
    number,
    whole,
)
from panbench.models.rules.resize import semantic_argmax

Window = tuple[slice, slice]


@dataclass(frozen=True)
class PanopticFPN(Rule):
    """Instances by falling score over the stuff class of each pixel; small stuff is void."""

    name: ClassVar[str] = "panoptic-fpn"
    summary: ClassVar[str] = (
        "Instances are painted in order of their scores, each where nothing is yet and only if most of it is free; "
        "stuff fills the rest, where its area is large enough."
    )
    source: ClassVar[str] = "Kirillov et al. 2019 (Panoptic Segmentation, Panoptic FPN); detectron2, mmdet"
    takes: ClassVar[type] = Instances

    score: float = fraction(0.5)
    """Instances that score less are dropped."""
    overlap: float = fraction(0.5)
    """An instance is dropped when more than this share of it is already covered."""
    stuff_area: int = whole(4096)
    """A stuff class with fewer pixels than this is void."""
    mask: float = fraction(0.5)
    """The probability from which on a pixel of a pasted mask belongs to it."""

    def fuse(self, output: Instances) -> FusedMap:
        """Codes: the semantic channels, then the instances."""
        scores = np.asarray(output.scores, np.float32)
        count = int((scores >= np.float32(self.score)).sum())
        first = len(output.semantic_labels)
        codes = semantic_argmax(output.semantic_logits, output.frame).to(code_type(first + count))
        boxes = None if output.boxes is None else output.boxes[:count]
        kept = replace(output, boxes=boxes, masks=output.masks[:count])
        covered = torch.zeros(output.frame.original, dtype=torch.bool, device=codes.device)
        for index, (window, mask) in enumerate(paste_masks(kept, self.mask)):
            below = covered[window]
            area = mask.sum()
            # The small constant is mmdet's; an empty mask is dropped, as nothing of it is seen.
            keep = (mask & below).sum() / (area + 1e-5) <= self.overlap
            part = mask & ~below & keep
            codes[window].masked_fill_(part, first + index)
            below |= part
        outputs = (output.masks, output.semantic_logits, *([] if output.boxes is None else [output.boxes]))
        labels = (*output.semantic_labels, *output.labels[:count])
        return FusedMap(
            codes=codes,
            labels=labels,
            scores=(*(None for _ in range(first)), *output.scores[:count]),
            things=(*(False for _ in range(first)), *(True for _ in range(count))),
            finite=torch.stack([torch.isfinite(values).all() for values in outputs]).all(),
        )

    def settle(self, fused: FusedMap) -> SettledMap:
        """Segments of the instances in order of score, then of the stuff that is large enough, by label."""
        check_finite(fused, "boxes, masks or semantic logits")
        areas = np.bincount(codes_of(fused).ravel(), minlength=len(fused.labels))
        instances = [index for index, thing in enumerate(fused.things) if thing]
        stuff = [
            index
            for index, (label, thing) in enumerate(zip(fused.labels, fused.things, strict=True))
            if not thing and label != NO_LABEL and areas[index] >= max(self.stuff_area, 1)
        ]
        return number(fused, [[index] for index in (*instances, *sorted(stuff, key=lambda each: fused.labels[each]))])


def paste_masks(instances: Instances, threshold: float) -> Sequence[tuple[Window, Tensor]]:
    """(window, bool mask within it) of each instance. On the CPU the window is the box, elsewhere the whole image."""
    height, width = instances.frame.original
    boxes, masks = instances.boxes, instances.masks
    everywhere = (slice(0, height), slice(0, width))
    if boxes is None:
        return [(everywhere, mask) for mask in masks >= threshold]
    if not len(boxes):
        return []
    if boxes.device.type == "cpu":
        lows = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
        highs = (boxes[:, 2:].ceil() + 1).int().tolist()
        pasted = []
        for index, ((left, top), (right, bottom)) in enumerate(zip(lows, highs, strict=True)):
            rows, columns = range(top, min(bottom, height)), range(left, min(right, width))
            window = (slice(top, max(rows.stop, top)), slice(left, max(columns.stop, left)))
            one = slice(index, index + 1)
            pasted.append((window, _sample_masks(masks[one], boxes[one], rows, columns)[0] >= threshold))
        return pasted
    block = max(1, resize.ELEMENTS_AT_ONCE // (3 * height * width))
    return [
        (everywhere, mask)
        for start in range(0, len(boxes), block)
        for mask in _sample_masks(
            masks[start : start + block], boxes[start : start + block], range(height), range(width)
        )
        >= threshold
    ]


def _sample_masks(masks: Tensor, boxes: Tensor, rows: range, columns: range) -> Tensor:
    """(N, rows, columns): masks (N, m, m) stretched over their boxes, bilinear, at pixel centres; 0 outside the box."""
    if not len(rows) or not len(columns):
        return masks.new_zeros((len(masks), len(rows), len(columns)))
    left, top, right, bottom = boxes.float().split(1, dim=1)
    y = torch.arange(rows.start, rows.stop, device=boxes.device, dtype=torch.float32) + 0.5
    x = torch.arange(columns.start, columns.stop, device=boxes.device, dtype=torch.float32) + 0.5
    y = (y - top) / (bottom - top) * 2 - 1
    x = (x - left) / (right - left) * 2 - 1
    # A box without extent divides by zero; its mask's centre stands for it, as in mmdet.
    y, x = torch.where(torch.isinf(y), 0.0, y), torch.where(torch.isinf(x), 0.0, x)
    shape = (len(masks), len(rows), len(columns))
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(masks.float()[:, None], grid, align_corners=False)[:, 0]
