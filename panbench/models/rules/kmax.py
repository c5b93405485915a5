"""kMaX-DeepLab's rule: a softmax over the queries at every pixel, masks painted by confidence. [Yu et al. 2022]"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import Candidates
from panbench.models.rules.base import FusedMap, Rule, empty_codes, fraction
from panbench.models.rules.compete import take_rows
from panbench.models.rules.paint import paint_mask
from panbench.models.rules.resize import upsampled_blocks


@dataclass(frozen=True)
class KMaX(Rule):
    """Makes masks where a query has most of the pixel's probability; paints them by class score × mean mask score."""

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
    """Stuff whose gate is not above this is dropped."""
    pixel: float = fraction(0.4)
    """A pixel belongs to a mask if the mask's share of its probability is above this."""
    free: float = fraction(0.8)
    """A mask is painted if more than this share of it is not covered yet."""

    def fuse(self, output: Candidates) -> FusedMap:
        """Computes all queries' shares of each pixel, and paints the masks above the thresholds; synchronises once."""
        things = np.array([label >= 0 and output.isthing[label] for label in output.labels], bool)
        bar = np.where(things, np.float32(self.things), np.float32(self.stuff))
        rows = np.flatnonzero((output.labels >= 0) & (output.gate > bar))
        codes = empty_codes(output, len(rows))
        if len(rows):
            self._paint_masks(codes, *self._mask_shares(output, take_rows(output.masks, rows)), output.gate[rows])
        return FusedMap.of_candidates(output, rows, codes, output.masks)

    def _mask_shares(self, output: Candidates, masks: Tensor) -> tuple[Tensor, Tensor]:
        """Returns masks (K, H, W) bool where a query's share of the probability is large, and its mean share there."""
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

    def _paint_masks(self, codes: Tensor, inside: Tensor, mean: Tensor, gate: npt.NDArray[np.float32]) -> None:
        """Paints masks, as their indices, into the map `codes`, in order of confidence × mean probability."""
        order = np.argsort(-(gate * mean.cpu().numpy()), kind="stable")
        free = torch.ones_like(codes, dtype=torch.bool)
        for index in order.tolist():
            paint_mask(codes, free, inside[index], index, lambda area, left: left > area * self.free)
