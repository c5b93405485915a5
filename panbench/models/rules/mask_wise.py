"""Panoptic SegFormer's mask-wise merging: masks painted in order of confidence × quality. [Li et al. 2022, sec. 3.4]"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models import async_device
from panbench.models.candidates import Candidates
from panbench.models.rules.base import FusedMap, Rule, SegmentedMap, check_finite, fraction
from panbench.models.rules.compete import probabilities_of, take_rows
from panbench.models.rules.paint import paint
from panbench.models.rules.resize import upsampled_blocks


@dataclass(frozen=True)
class MaskWise(Rule):
    """Paints masks by falling score × (mean value above 0.5)², each only on free pixels."""

    name: ClassVar[str] = "mask-wise"
    summary: ClassVar[str] = (
        "Whole masks are painted in order of score × (mean mask probability)², each where nothing is yet and only if "
        "most of it is free, with another bound for stuff than for things."
    )
    source: ClassVar[str] = "Li et al. 2022; zhiqi-li/Panoptic-SegFormer"

    quality: float = fraction(0.25)
    """Masks of a lower score × quality are dropped (R50 and R101; 0.3 for PVTv2-B5 and Swin-L)."""
    overlap_things: float = fraction(0.4)
    """A thing is dropped if more than this share of its mask is already covered."""
    overlap_stuff: float = fraction(0.2)
    """Stuff is dropped if more than this share of its mask is already covered."""
    mask: float = fraction(0.5)
    """The mask value above which a pixel belongs to the mask."""

    @property
    def least_gate(self) -> float:
        """The confidence below which every mask is dropped, as its quality is no higher: the threshold `quality`."""
        return self.quality

    def fuse(self, output: Candidates) -> FusedMap:
        """Paints the masks of sufficient quality, the best first, each on free pixels.

        Synchronises with the device once, to read the qualities.
        """
        (fused,) = self.fuse_batch([output])
        return fused

    def fuse_batch(self, outputs: Sequence[Candidates]) -> Iterable[FusedMap]:
        """Fuses several images at once; the qualities of all masks are copied to the host together."""
        rows = [self._promising_masks(output) for output in outputs]
        scores = [self._mask_qualities(output, of_image) for output, of_image in zip(outputs, rows, strict=True)]
        counts = [len(of_image) for of_image in rows]
        host = async_device.to_host(torch.cat(scores)).numpy() if sum(counts) else np.zeros(0, np.float32)
        own = np.split(host, np.cumsum(counts)[:-1])
        return map(self._paint_by_quality, outputs, rows, own)

    def _mask_qualities(self, output: Candidates, rows: npt.NDArray[np.int64]) -> Tensor:
        """Returns each mask's quality, on the device: confidence × squared mean of its values above 0.5."""
        masks = take_rows(output.masks, rows)
        areas, sums = [], []
        for _, upsampled in upsampled_blocks(masks, output.frame):
            values = probabilities_of(upsampled, output)
            inside = (values > self.mask).float()
            areas.append(inside.sum(dim=(1, 2)))
            sums.append((values * inside).sum(dim=(1, 2)))
        if not len(rows):
            return masks.new_zeros(0, dtype=torch.float32)
        quality = torch.cat(sums) / (torch.cat(areas) + 1)
        return async_device.upload(torch.from_numpy(output.gate[rows]), masks.device) * quality**2

    def _paint_by_quality(
        self, output: Candidates, rows: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]
    ) -> FusedMap:
        """Paints one image's masks, the best first, except those of which too much is covered already.

        Things and stuff have limits of their own.
        """
        order = np.argsort(-scores, kind="stable")
        # NaN is not below the threshold, and is detected after painting.
        order = order[~(scores[order] < np.float32(self.quality))]
        rows, scores = rows[order], scores[order]
        things = [output.isthing[label] for label in output.labels[rows]]
        overlap = [self.overlap_things if thing else self.overlap_stuff for thing in things]
        return paint(
            output, rows, tuple(scores.tolist()), masks=take_rows(output.masks, rows), mask=self.mask, overlap=overlap
        )

    def _promising_masks(self, output: Candidates) -> npt.NDArray[np.int64]:
        """Returns the masks whose quality may reach the threshold, judged by each mask's highest value.

        Upsampled values never exceed the peak, so most of Panoptic SegFormer's 153 masks need not be upsampled. On an
        asynchronous device this would synchronise, so all candidates with a label are returned.
        """
        if async_device.is_async(output.masks.device):
            return np.flatnonzero(output.labels >= 0)
        peak = probabilities_of(output.masks.flatten(1).amax(dim=1).float(), output).cpu().numpy()
        bound = output.gate * np.square(peak)
        # NaN is not below the threshold, and is detected after painting.
        hopeful = ~(bound < self.quality * (1 - 1e-4)) & (output.labels >= 0)
        return np.flatnonzero(hopeful)

    def to_segments(self, fused: FusedMap) -> SegmentedMap:
        """Makes a segment of every painted mask; stuff of one class is one segment."""
        check_finite(fused, "masks")
        return super().to_segments(fused)
