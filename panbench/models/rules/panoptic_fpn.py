"""Fuses as Panoptic FPN's heuristic: instances are painted in order of scores, stuff on the remaining pixels.

[Kirillov et al. 2019]
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.models.candidates import NO_LABEL, Instances
from panbench.models.rules.base import (
    FusedMap,
    Rule,
    SegmentedMap,
    check_finite,
    code_type,
    codes_of,
    fraction,
    number_segments,
    whole,
)
from panbench.models.rules.resize import semantic_argmax

Window = tuple[slice, slice]


@dataclass(frozen=True)
class PanopticFPN(Rule):
    """Paints instances by falling score over the stuff class of each pixel; small stuff becomes void."""

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
    """An instance is dropped if more than this share of it is already covered."""
    stuff_area: int = whole(4096)
    """A stuff class with fewer pixels becomes void."""
    mask: float = fraction(0.5)
    """The least probability of a pixel in a pasted mask."""

    def fuse(self, output: Instances) -> FusedMap:
        """Paints instances over the semantic class of highest logit at each pixel.

        Codes count semantic channels, then instances.
        """
        count = self.count_instances(output)
        first = len(output.semantic_labels)
        codes = semantic_argmax(output.semantic_logits, output.frame).to(code_type(first + count))
        boxes = None if output.boxes is None else output.boxes[:count]
        self._paint_instances(codes, first, replace(output, boxes=boxes, masks=output.masks[:count]))
        outputs = (output.masks, output.semantic_logits, *([] if output.boxes is None else [output.boxes]))
        labels = (*output.semantic_labels, *output.labels[:count])
        return FusedMap(
            codes=codes,
            labels=labels,
            scores=(*(None for _ in range(first)), *output.scores[:count]),
            things=(*(False for _ in range(first)), *(True for _ in range(count))),
            finite=torch.stack([torch.isfinite(values).all() for values in outputs]).all(),
        )

    def count_instances(self, output: Instances) -> int:
        """Counts the instances whose score is at least `score`."""
        return int((np.asarray(output.scores, np.float32) >= np.float32(self.score)).sum())

    def _paint_instances(self, codes: Tensor, first: int, chosen: Instances) -> None:
        """Paints the masks of instances into the map `codes`, in place, numbered from `first`."""
        covered = torch.zeros(chosen.frame.original, dtype=torch.bool, device=codes.device)
        for index, (window, mask) in enumerate(paste_masks(chosen, self.mask)):
            below = covered[window]
            keep = self._may_paint(mask.sum(), (mask & below).sum())
            part = mask & ~below & keep
            codes[window].masked_fill_(part, first + index)
            below |= part

    def _may_paint(self, area: Tensor, shared: Tensor) -> Tensor:
        """Returns whether an instance may be painted: at most the share `overlap` of it is covered, () bool."""
        # The small constant is mmdet's. An empty mask passes, and owns no pixel.
        return shared / (area + 1e-5) <= self.overlap

    def to_segments(self, fused: FusedMap) -> SegmentedMap:
        """Makes segments of the instances in order of score, then of the stuff that is large enough, by label."""
        check_finite(fused, "boxes, masks or semantic logits")
        areas = np.bincount(codes_of(fused).ravel(), minlength=len(fused.labels))
        instances = [index for index, thing in enumerate(fused.things) if thing]
        stuff = [
            index
            for index, (label, thing) in enumerate(zip(fused.labels, fused.things, strict=True))
            if not thing and label != NO_LABEL and areas[index] >= max(self.stuff_area, 1)
        ]
        return number_segments(
            fused, [[index] for index in (*instances, *sorted(stuff, key=lambda each: fused.labels[each]))]
        )


@dataclass(frozen=True)
class Combine(PanopticFPN):
    """Works as PanopticFPN, but compares scores and covered fractions in float64, as panopticapi's script does."""

    name: ClassVar[str] = "combine"
    summary: ClassVar[str] = (
        "What panopticapi's script makes of instance results and semantic maps: as panoptic-fpn, with scores and "
        "shares compared exactly."
    )
    source: ClassVar[str] = "cocodataset/panopticapi, combine_semantic_and_instance_predictions.py"

    def count_instances(self, output: Instances) -> int:
        """Counts the instances whose score is at least `score`, compared in float64."""
        return int((np.asarray(output.scores, np.float64) >= self.score).sum())

    def _may_paint(self, area: Tensor, shared: Tensor) -> Tensor:
        """Returns whether an instance may be painted: at most the share `overlap` of its pixels is covered."""
        return (area > 0) & (shared.double() / area.clamp(min=1) <= self.overlap)


def paste_masks(instances: Instances, threshold: float) -> Sequence[tuple[Window, Tensor]]:
    """Stretches each instance's mask over its box; returns the box's rows and columns in the image, and a bool mask."""
    return [(window, mask >= threshold) for window, mask in paste_probabilities(instances)]


def paste_probabilities(instances: Instances) -> Iterator[tuple[Window, Tensor]]:
    """Stretches each instance's mask over its box; yields the box's rows and columns, and mask probabilities there."""
    height, width = instances.frame.original
    boxes, masks = instances.boxes, instances.masks
    if boxes is None:
        yield from (((slice(0, height), slice(0, width)), mask) for mask in masks)
        return
    lows = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
    highs = (boxes[:, 2:].ceil() + 1).int().tolist()
    for index, ((left, top), (right, bottom)) in enumerate(zip(lows, highs, strict=True)):
        rows, columns = range(top, min(bottom, height)), range(left, min(right, width))
        window = (slice(top, max(rows.stop, top)), slice(left, max(columns.stop, left)))
        one = slice(index, index + 1)
        yield window, _sample_masks(masks[one], boxes[one], rows, columns)[0]


def _sample_masks(masks: Tensor, boxes: Tensor, rows: range, columns: range) -> Tensor:
    """Samples masks (N, m, m), stretched over their boxes, bilinearly at pixel centres; 0 outside the box.

    Returns (N, rows, columns).
    """
    if not len(rows) or not len(columns):
        return masks.new_zeros((len(masks), len(rows), len(columns)))
    left, top, right, bottom = boxes.float().split(1, dim=1)
    y = torch.arange(rows.start, rows.stop, device=boxes.device, dtype=torch.float32) + 0.5
    x = torch.arange(columns.start, columns.stop, device=boxes.device, dtype=torch.float32) + 0.5
    y = (y - top) / (bottom - top) * 2 - 1
    x = (x - left) / (right - left) * 2 - 1
    # An empty box divides by zero; its mask's centre is sampled, as in mmdet.
    y, x = torch.where(torch.isinf(y), 0.0, y), torch.where(torch.isinf(x), 0.0, x)
    shape = (len(masks), len(rows), len(columns))
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(masks.float()[:, None], grid, align_corners=False)[:, 0]
