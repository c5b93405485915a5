"""kMaX-DeepLab's rule: a softmax over the queries at every pixel, masks painted by confidence. [Yu et al. 2022]"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import Candidates
from panbench.models.rules.base import (
    FusedMap,
    Rule,
    SettledMap,
    check_finite,
    code_type,
    fraction,
    nothing_of,
    number,
    stuff_together,
)
from panbench.models.rules.compete import take
from panbench.models.rules.paint import lay
from panbench.models.rules.resize import upsampled_blocks


@dataclass(frozen=True)
class KMaX(Rule):
    """Masks are where a query has most of the pixel's probability, painted by class score × mean mask score."""

    name: ClassVar[str] = "kmax"
    summary: ClassVar[str] = (
        "Queries share each pixel's probability by a softmax; a mask is where its share is above `pixel`, and masks "
        "are painted in order of class score × mean share, if more than `free` of them is free."
    )
    source: ClassVar[str] = "Yu et al. 2022; bytedance/kmax-deeplab, panoptic_inference (thresholds of COCO)"

    scoring: ClassVar[Literal["softmax", "softmax without nothing", "sigmoid"]] = "softmax without nothing"

    things: float = fraction(0.7)
    """Things whose gate is not above this are dropped."""
    stuff: float = fraction(0.5)
    """The same of stuff."""
    pixel: float = fraction(0.4)
    """A pixel belongs to a mask when the mask's share of its probability is above this."""
    free: float = fraction(0.8)
    """A mask is painted when more than this share of it is not covered yet."""

    def fuse(self, output: Candidates) -> FusedMap:
        """All queries share the pixels; those that are sure enough are painted. The host waits for the mask scores."""
        things = np.array([label >= 0 and output.isthing[label] for label in output.labels], bool)
        bar = np.where(things, np.float32(self.things), np.float32(self.stuff))
        rows = np.flatnonzero((output.labels >= 0) & (output.gate > bar))
        masks, frame, count = take(output.masks, rows), output.frame, len(rows)
        codes = torch.full(frame.original, nothing_of(count), dtype=code_type(count), device=masks.device)
        labels = tuple(int(label) for label in output.labels[rows])
        scores: list[float] = output.gate[rows].tolist()
        if count:
            codes = self._painted(codes, *self._shares(output, masks), output.gate[rows])
        return FusedMap(
            codes=codes,
            labels=labels,
            scores=tuple(scores),
            things=tuple(output.isthing[label] for label in labels),
            finite=torch.isfinite(output.masks).all(),
        )

    def _shares(self, output: Candidates, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Where each mask is, (K, H, W) bool, and its mean share there, (K,)."""
        # The softmax's denominator over all queries, in blocks: the running log of the sum of exponentials.
        total: Tensor | None = None
        for _, logits in upsampled_blocks(output.masks, output.frame):
            block = logits.logsumexp(dim=0)
            total = block if total is None else torch.logaddexp(total, block)
        assert total is not None
        where, mean = [], []
        for _, logits in upsampled_blocks(masks, output.frame):
            share = (logits - total).exp_()
            inside = share > self.pixel
            where.append(inside)
            mean.append((share * inside).sum(dim=(1, 2)) / inside.sum(dim=(1, 2)).clamp(min=1))
        return torch.cat(where), torch.cat(mean)

    def _painted(self, codes: Tensor, inside: Tensor, mean: Tensor, gate: npt.NDArray[np.float32]) -> Tensor:
        order = np.argsort(-(gate * mean.cpu().numpy()), kind="stable")
        free = torch.ones_like(codes, dtype=torch.bool)
        for index in order.tolist():
            lay(codes, free, inside[index], index, lambda area, left: left > area * self.free)
        return codes

    def settle(self, fused: FusedMap) -> SettledMap:
        """A segment of every mask that was painted; stuff of one class is one segment."""
        check_finite(fused, "mask logits")
        return number(fused, stuff_together(fused, range(len(fused.labels))))
