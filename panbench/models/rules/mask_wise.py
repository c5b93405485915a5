"""Panoptic SegFormer's mask-wise merging: masks painted in order of confidence × quality. [Li et al. 2022, sec. 3.4]"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models import feeding
from panbench.models.candidates import Candidates
from panbench.models.rules.base import FusedMap, Rule, SettledMap, check_finite, fraction, number, stuff_together
from panbench.models.rules.compete import probabilities_of, take
from panbench.models.rules.paint import paint
from panbench.models.rules.resize import upsampled_blocks


@dataclass(frozen=True)
class MaskWise(Rule):
    """Masks by falling score × (their mean where they are above 0.5)², each where nothing is yet."""

    name: ClassVar[str] = "mask-wise"
    summary: ClassVar[str] = (
        "Whole masks are painted in order of score × (mean mask probability)², each where nothing is yet and only if "
        "most of it is free, with another bound for stuff than for things."
    )
    source: ClassVar[str] = "Li et al. 2022; zhiqi-li/Panoptic-SegFormer"

    quality: float = fraction(0.25)
    """Masks of a lower score × quality are dropped (R50 and R101; 0.3 for PVTv2-B5 and Swin-L)."""
    overlap_things: float = fraction(0.4)
    """A thing is dropped when more than this share of its mask is already covered."""
    overlap_stuff: float = fraction(0.2)
    """The same of stuff."""
    mask: float = fraction(0.5)
    """The mask value above which a pixel belongs to the mask."""

    @property
    def least_gate(self) -> float:
        """The quality: a score is the gate times something that is 1 at most."""
        return self.quality

    def fuse(self, output: Candidates) -> FusedMap:
        """Scores of the masks that can be good enough, then painting; the host waits for the scores."""
        (fused,) = self.fuse_batch([output])
        return fused

    def fuse_batch(self, outputs: Sequence[Candidates]) -> Iterable[FusedMap]:
        """Like `fuse` for several images at once: all scores are copied to the host together."""
        rows = [self._hopeful(output) for output in outputs]
        scores = [self._scores(output, some) for output, some in zip(outputs, rows, strict=True)]
        counts = [len(some) for some in rows]
        host = feeding.to_host(torch.cat(scores)).numpy() if sum(counts) else np.zeros(0, np.float32)
        own = np.split(host, np.cumsum(counts)[:-1])
        return map(self._painted, outputs, rows, own)

    def _scores(self, output: Candidates, rows: npt.NDArray[np.int64]) -> Tensor:
        """(len(rows),) on the device: the gate times the square of the mean of the mask where it is high."""
        masks = take(output.masks, rows)
        areas, sums = [], []
        for _, upsampled in upsampled_blocks(masks, output.frame):
            values = probabilities_of(upsampled, output)
            inside = (values > self.mask).float()
            areas.append(inside.sum(dim=(1, 2)))
            sums.append((values * inside).sum(dim=(1, 2)))
        if not len(rows):
            return masks.new_zeros(0, dtype=torch.float32)
        quality = torch.cat(sums) / (torch.cat(areas) + 1)
        return feeding.upload(torch.from_numpy(output.gate[rows]), masks.device) * quality**2

    def _painted(self, output: Candidates, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> FusedMap:
        order = np.argsort(-scores, kind="stable")
        # NaN is not below the threshold, and is found out after painting.
        order = order[~(scores[order] < np.float32(self.quality))]
        rows, scores = rows[order], scores[order]
        things = [output.isthing[label] for label in output.labels[rows]]
        overlap = [self.overlap_things if thing else self.overlap_stuff for thing in things]
        return paint(
            output, rows, tuple(scores.tolist()), masks=take(output.masks, rows), mask=self.mask, overlap=overlap
        )

    def _hopeful(self, output: Candidates) -> npt.NDArray[np.int64]:
        """The candidates that could reach the quality, were their masks as high as their peaks wherever they are.

        Upsampling gives means, which are no higher than the peak: so most of the 153 masks of Panoptic SegFormer need
        not be upsampled. On a device that is fed that would be one more wait, and all with a label are.
        """
        if feeding.is_fed(output.masks.device):
            return np.flatnonzero(output.labels >= 0)
        peak = probabilities_of(output.masks.flatten(1).amax(dim=1).float(), output).cpu().numpy()
        bound = output.gate * np.square(peak)
        # NaN is not below the threshold, and is found out after painting.
        hopeful = ~(bound < self.quality * (1 - 1e-4)) & (output.labels >= 0)
        return np.flatnonzero(hopeful)

    def settle(self, fused: FusedMap) -> SettledMap:
        """A segment of every mask that was painted; stuff of one class is one segment."""
        check_finite(fused, "masks")
        return number(fused, stuff_together(fused, range(len(fused.labels))))
