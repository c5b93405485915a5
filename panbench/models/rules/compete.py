"""Rules with competing masks: each pixel goes to the candidate with the largest weight × mask probability.

[Cheng et al. 2021, sec. 3.4; Cheng et al. 2022]. Candidates below a threshold are dropped before their masks are
upsampled, and there is no host synchronisation; the map is the same.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models import async_device
from panbench.models.candidates import Candidates
from panbench.models.rules.base import (
    FusedMap,
    Rule,
    SegmentedMap,
    check_finite,
    code_for_nothing,
    empty_codes,
    fraction,
    number_segments,
    stuff_together,
)
from panbench.models.rules.resize import ELEMENTS_AT_ONCE, upsampled_blocks


def candidates_above(candidates: Candidates, score: float) -> npt.NDArray[np.int64]:
    """Returns the indices of candidates that have a label and whose gate (confidence) is above a threshold."""
    # Compared in float32, as in the papers' code: 0.8 is 0.800000012 there, and an equal gate is not above it.
    return np.flatnonzero((candidates.labels >= 0) & (candidates.gate > np.float32(score)))


def take_rows(values: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
    """Selects rows, given on the host, of a tensor on the device, without synchronisation."""
    return values[async_device.upload(torch.from_numpy(rows), values.device)]


def probabilities_of(values: Tensor, candidates: Candidates) -> Tensor:
    """Converts upsampled masks to probabilities, by a sigmoid if they are logits; may overwrite `values`."""
    return values.sigmoid_() if candidates.activation == "sigmoid" else values


def compete(
    candidates: Candidates, rows: npt.NDArray[np.int64], *, mask: float, certain: bool, weighted: bool = True
) -> FusedMap:
    """Assigns each pixel to the candidate among `rows` with the largest weight × mask probability.

    mask: the least probability of a pixel in a mask
    certain: leave pixels outside their winner's mask to no candidate
    weighted: False lets mask probabilities compete alone
    """
    frame, count = candidates.frame, len(rows)
    masks = take_rows(candidates.masks, rows)
    weights = take_rows(candidates.weight, rows) if weighted else torch.ones(count, device=masks.device)
    device = masks.device
    best: Tensor | None = None
    winner = empty_codes(candidates, count)
    sure_of_winner = torch.empty(0)
    mask_areas = [torch.zeros(0, dtype=torch.int64, device=device)]
    for start, upsampled in upsampled_blocks(masks, frame):
        probabilities = probabilities_of(upsampled, candidates)
        sure = probabilities >= mask
        mask_areas.append(sure.flatten(1).sum(dim=1))
        probabilities *= weights[start : start + len(probabilities), None, None]
        if async_device.is_async(device):
            best, winner, sure_of_winner = _update_winners(probabilities, sure, start, best, winner, sure_of_winner)
            continue
        for offset in range(len(probabilities)):
            # Elementwise passes are faster than argmax over dim 0; the first of ties wins, as with argmax.
            if best is None:
                best, sure_of_winner = probabilities[0].clone(), sure[0].clone()
                winner.zero_()
                continue
            better = probabilities[offset] > best
            best = torch.maximum(best, probabilities[offset])
            winner.masked_fill_(better, start + offset)
            if certain:
                sure_of_winner = torch.where(better, sure[offset], sure_of_winner)
    claimed = count_pixels_per_code(winner, count)
    if certain and count:
        winner.masked_fill_(~sure_of_winner, code_for_nothing(count))
    return FusedMap.of_candidates(candidates, rows, winner, masks, claimed=claimed, mask_areas=torch.cat(mask_areas))


def _update_winners(
    probabilities: Tensor, sure: Tensor, start: int, best: Tensor | None, winner: Tensor, sure_of_winner: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Updates each pixel's best mask with further masks: its value, its number, and whether it is above the threshold.

    start: the number of the first of them
    """
    highest, query = probabilities.max(dim=0)  # of equals the first
    sure_here = sure.gather(0, query[None])[0]
    codes = (query + start).to(winner.dtype)
    if best is None:
        return highest, codes, sure_here
    better = highest > best
    return (
        torch.maximum(best, highest),
        torch.where(better, codes, winner),
        torch.where(better, sure_here, sure_of_winner),
    )


def count_pixels_per_code(codes: Tensor, count: int) -> Tensor:
    """Counts the pixels that each of `count` masks won, as (count,) int64, without host synchronisation."""
    if count == 0:
        return torch.zeros(0, dtype=torch.int64, device=codes.device)
    if not async_device.is_async(codes.device):
        return torch.bincount(codes.flatten().int(), minlength=count)
    # bincount synchronises to read the largest code; comparing with all codes does not.
    numbers = torch.arange(count, dtype=codes.dtype, device=codes.device)
    at_once = max(1, ELEMENTS_AT_ONCE // codes.numel())
    flat = codes.flatten()
    return torch.cat([(flat == part[:, None]).sum(dim=1) for part in numbers.split(at_once)])


@dataclass(frozen=True)
class MaskFormer(Rule):
    """Gives each pixel to the query of largest score × mask probability, then drops masks that lost too much."""

    name: ClassVar[str] = "maskformer"
    summary: ClassVar[str] = (
        "Each pixel goes to the query of largest score × mask probability; a query that is left less than `overlap` of "
        "its mask is dropped and its pixels become void."
    )
    source: ClassVar[str] = "Cheng et al. 2021, sec. 3.4; facebookresearch/MaskFormer"
    certain: ClassVar[bool] = False

    score: float = fraction(0.8)
    """Candidates whose gate is not above this are dropped."""
    overlap: float = fraction(0.8)
    """A mask is dropped if it wins less than this share of its pixels (those of probability ≥ `mask`)."""
    mask: float = fraction(0.5)
    """The least mask probability of a pixel in the mask."""

    def fuse(self, output: Candidates) -> FusedMap:
        """Gives each pixel to the mask of largest weight × probability, among masks of confidence above `score`."""
        return compete(output, candidates_above(output, self.score), mask=self.mask, certain=self.certain)

    def to_segments(self, fused: FusedMap) -> SegmentedMap:
        """Makes segments of the masks that won enough of their pixels; stuff of one class is one segment."""
        check_finite(fused, "mask logits")
        assert fused.claimed is not None
        assert fused.mask_areas is not None
        accepted = [
            index
            for index, (claimed, mask_areas) in enumerate(
                zip(fused.claimed.tolist(), fused.mask_areas.tolist(), strict=True)
            )
            if claimed > 0 and mask_areas > 0 and claimed / mask_areas >= self.overlap
        ]
        return number_segments(fused, stuff_together(fused, accepted))


@dataclass(frozen=True)
class Mask2Former(MaskFormer):
    """Works as MaskFormer's rule, and makes pixels with an uncertain winner void."""

    name: ClassVar[str] = "mask2former"
    summary: ClassVar[str] = (
        "As maskformer, but a pixel where the winning mask's probability is below 0.5 is void, so segments end where "
        "their masks end."
    )
    source: ClassVar[str] = "Cheng et al. 2022; facebookresearch/Mask2Former"
    certain: ClassVar[bool] = True


@dataclass(frozen=True)
class OneFormer(Mask2Former):
    """Works as Mask2Former's rule, under OneFormer's name."""

    name: ClassVar[str] = "oneformer"
    summary: ClassVar[str] = "As mask2former, whose function OneFormer's authors took over; the task is in the queries."
    source: ClassVar[str] = "Jain et al. 2023; SHI-Labs/OneFormer"


@dataclass(frozen=True)
class EoMT(Mask2Former):
    """Works as Mask2Former's rule, under EoMT's name."""

    name: ClassVar[str] = "eomt"
    summary: ClassVar[str] = (
        "As mask2former; EoMT's authors write the same decisions in another order and take masks from a padded square."
    )
    source: ClassVar[str] = "Kerssies et al. 2025; tue-mps/eomt"


@dataclass(frozen=True)
class MaskDINO(Mask2Former):
    """Works as Mask2Former's rule, but selects masks by sigmoid scores and compares them by a sharp softmax."""

    name: ClassVar[str] = "maskdino"
    summary: ClassVar[str] = (
        "As mask2former, but a query enters by its sigmoid score (> 0.25) and competes with a sharpened one, "
        'softmax(sigmoid / 0.06); there is no class "nothing".'
    )
    source: ClassVar[str] = "Li et al. 2023; IDEA-Research/MaskDINO"
    scoring: ClassVar[Literal["softmax", "softmax without nothing", "sigmoid"]] = "sigmoid"

    score: float = fraction(0.25)
    """Candidates whose gate, the sigmoid of their best class, is not above this are dropped."""


@dataclass(frozen=True)
class PixelArgmax(Rule):
    """Gives each pixel to its most probable query; no mask is dropped, and no pixel is void."""

    name: ClassVar[str] = "argmax"
    summary: ClassVar[str] = (
        "Each pixel goes to the most probable of the queries above `score`; no mask is dropped, and only images "
        "without any such query have void."
    )
    source: ClassVar[str] = "the baseline of Li et al. 2022 (Panoptic SegFormer), not defined there; our statement"

    score: float = fraction(0.85)
    """Candidates whose gate is not above this are dropped."""
    weighted: bool = True
    """Whether mask probabilities are multiplied by the candidates' weights before they are compared."""

    def fuse(self, output: Candidates) -> FusedMap:
        """Gives each pixel to the mask of largest weight × probability, among masks of confidence above `score`."""
        return compete(output, candidates_above(output, self.score), mask=0.5, certain=False, weighted=self.weighted)
