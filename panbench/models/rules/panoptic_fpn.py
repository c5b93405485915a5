"""Panoptic FPN's heuristic: instances painted in order of their scores, stuff where none is. [Kirillov et al. 2019]"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.models import feeding
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
        count = self.count_of(output)
        first = len(output.semantic_labels)
        codes = semantic_argmax(output.semantic_logits, output.frame).to(code_type(first + count))
        boxes = None if output.boxes is None else output.boxes[:count]
        kept = replace(output, boxes=boxes, masks=output.masks[:count])
        if feeding.is_fed(codes.device):
            self._paint_whole(codes, first, kept)
        else:
            self._paint_windows(codes, first, kept)
        outputs = (output.masks, output.semantic_logits, *([] if output.boxes is None else [output.boxes]))
        labels = (*output.semantic_labels, *output.labels[:count])
        return FusedMap(
            codes=codes,
            labels=labels,
            scores=(*(None for _ in range(first)), *output.scores[:count]),
            things=(*(False for _ in range(first)), *(True for _ in range(count))),
            finite=torch.stack([torch.isfinite(values).all() for values in outputs]).all(),
        )

    def count_of(self, output: Instances) -> int:
        """How many instances score enough."""
        return int((np.asarray(output.scores, np.float32) >= np.float32(self.score)).sum())

    def _paint_windows(self, codes: Tensor, first: int, kept: Instances) -> None:
        """Paints each instance within its box."""
        covered = torch.zeros(kept.frame.original, dtype=torch.bool, device=codes.device)
        for index, (window, mask) in enumerate(paste_masks(kept, self.mask)):
            below = covered[window]
            keep = self._is_free(mask.sum(), (mask & below).sum())
            part = mask & ~below & keep
            codes[window].masked_fill_(part, first + index)
            below |= part

    def _paint_whole(self, codes: Tensor, first: int, kept: Instances) -> None:
        """Like `_paint_windows`, on the whole image with few operations: five per instance, and some per block."""
        free = torch.ones(kept.frame.original, dtype=torch.bool, device=codes.device)
        pasted = paste_masks(kept, self.mask)
        block = max(1, resize.ELEMENTS_AT_ONCE // free.numel())
        for start in range(0, len(pasted), block):
            parts = torch.stack([mask for _, mask in pasted[start : start + block]])
            area = parts.flatten(1).sum(dim=1)
            enough = self._least_free(area)
            for part, least in zip(parts, enough, strict=True):
                part &= free
                part &= part.sum() >= least
                free ^= part
            # A pixel is in one part at most.
            numbers = torch.arange(1, len(parts) + 1, dtype=torch.int16, device=codes.device)
            own = (parts * numbers[:, None, None]).amax(dim=0)
            codes.copy_(torch.where(own > 0, (own + (first + start - 1)).to(codes.dtype), codes))

    def _is_free(self, area: Tensor, shared: Tensor) -> Tensor:
        # The small constant is mmdet's; an empty mask is dropped, as nothing of it is seen.
        return shared / (area + 1e-5) <= self.overlap

    def _least_free(self, area: Tensor) -> Tensor:
        """(N,) int64: how many free pixels `_is_free` asks of masks of these areas."""
        about = area - (self.overlap * (area + 1e-5)).floor().long()
        # Rounding moves it by one at most; the smallest that passes counts.
        least = about + 2
        for free in (about + 1, about, about - 1, about - 2):
            least = torch.where(self._is_free(area, area - free), free, least)
        return least

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
    """(window, bool mask within it) of each instance. On a CPU the window is the box, elsewhere the whole image."""
    return [(window, mask >= threshold) for window, mask in pasted_masks(instances)]


def pasted_masks(instances: Instances) -> Iterator[tuple[Window, Tensor]]:
    """(window, probabilities within it) of each instance, as `paste_masks` has them before its threshold."""
    height, width = instances.frame.original
    boxes, masks = instances.boxes, instances.masks
    everywhere = (slice(0, height), slice(0, width))
    if boxes is None:
        yield from ((everywhere, mask) for mask in masks)
        return
    if not len(boxes):
        return
    if not feeding.is_fed(boxes.device):
        lows = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
        highs = (boxes[:, 2:].ceil() + 1).int().tolist()
        for index, ((left, top), (right, bottom)) in enumerate(zip(lows, highs, strict=True)):
            rows, columns = range(top, min(bottom, height)), range(left, min(right, width))
            window = (slice(top, max(rows.stop, top)), slice(left, max(columns.stop, left)))
            one = slice(index, index + 1)
            yield window, _sample_masks(masks[one], boxes[one], rows, columns)[0]
        return
    block = max(1, resize.ELEMENTS_AT_ONCE // (3 * height * width))
    for start in range(0, len(boxes), block):
        part = slice(start, start + block)
        yield from ((everywhere, mask) for mask in _sample_masks(masks[part], boxes[part], range(height), range(width)))


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
