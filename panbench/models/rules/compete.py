"""Rules with competing masks: each pixel goes to the candidate with the largest weight × mask probability.

[Cheng et al. 2021, sec. 3.4; Cheng et al. 2022]. What is spared, with the same map: candidates that a threshold drops
are dropped before their masks are upsampled, and the device is not waited for.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models import feeding
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
from panbench.models.rules.resize import ELEMENTS_AT_ONCE, upsampled_blocks


def above(candidates: Candidates, score: float) -> npt.NDArray[np.int64]:
    """The candidates with a label and a gate above a threshold, in their order."""
    # Compared in float32, as the papers' code does it: there 0.8 is 0.800000012, and a gate of just that is not above.
    return np.flatnonzero((candidates.labels >= 0) & (candidates.gate > np.float32(score)))


def take(values: Tensor, rows: npt.NDArray[np.int64]) -> Tensor:
    """Rows of a tensor on the device, chosen on the host, without waiting for the device."""
    return values[feeding.upload(torch.from_numpy(rows), values.device)]


def probabilities_of(values: Tensor, candidates: Candidates) -> Tensor:
    """Upsampled masks as probabilities; `values` may be overwritten."""
    return values.sigmoid_() if candidates.activation == "sigmoid" else values


def compete(
    candidates: Candidates, rows: npt.NDArray[np.int64], *, mask: float, certain: bool, weighted: bool = True
) -> FusedMap:
    """The map that gives each pixel to the candidate among `rows` with the largest weight × mask probability.

    mask: the probability from which on a pixel counts as wanted by a candidate
    certain: pixels that their winner does not want are left to nobody
    weighted: False lets mask probabilities compete alone
    """
    frame, count = candidates.frame, len(rows)
    masks = take(candidates.masks, rows)
    weights = take(candidates.weight, rows) if weighted else torch.ones(count, device=masks.device)
    labels = tuple(int(label) for label in candidates.labels[rows])
    device, dtype = masks.device, code_type(count)
    best: Tensor | None = None
    winner = torch.full(frame.original, nothing_of(count), dtype=dtype, device=device)
    sure_of_winner = torch.empty(0)
    wanted = [torch.zeros(0, dtype=torch.int64, device=device)]
    for start, upsampled in upsampled_blocks(masks, frame):
        probabilities = probabilities_of(upsampled, candidates)
        sure = probabilities >= mask
        wanted.append(sure.flatten(1).sum(dim=1))
        probabilities *= weights[start : start + len(probabilities), None, None]
        if feeding.is_fed(device):
            best, winner, sure_of_winner = _one_pass(probabilities, sure, start, best, winner, sure_of_winner)
            continue
        for offset in range(len(probabilities)):
            # Elementwise passes in order: the first of equals wins, as with argmax, and faster than argmax over dim 0.
            if best is None:
                best, sure_of_winner = probabilities[0].clone(), sure[0].clone()
                winner = torch.zeros(frame.original, dtype=dtype, device=device)
                continue
            better = probabilities[offset] > best
            best = torch.maximum(best, probabilities[offset])
            winner.masked_fill_(better, start + offset)
            if certain:
                sure_of_winner = torch.where(better, sure[offset], sure_of_winner)
    claimed = count_codes(winner, count)
    if certain and count:
        winner.masked_fill_(~sure_of_winner, nothing_of(count))
    return FusedMap(
        codes=winner,
        labels=labels,
        scores=tuple(candidates.gate[rows].tolist()),
        things=tuple(candidates.isthing[label] for label in labels),
        finite=torch.isfinite(masks).all(),
        claimed=claimed,
        wanted=torch.cat(wanted),
    )


def _one_pass(
    probabilities: Tensor, sure: Tensor, start: int, best: Tensor | None, winner: Tensor, sure_of_winner: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Best, winner and its certainty after one more block of candidates; the first one has the code `start`."""
    highest, place = probabilities.max(dim=0)  # of equals the first
    sure_here = sure.gather(0, place[None])[0]
    codes = (place + start).to(winner.dtype)
    if best is None:
        return highest, codes, sure_here
    better = highest > best
    return (
        torch.maximum(best, highest),
        torch.where(better, codes, winner),
        torch.where(better, sure_here, sure_of_winner),
    )


def count_codes(codes: Tensor, count: int) -> Tensor:
    """(count,) int64: the pixels of each code, without waiting for the device."""
    if count == 0:
        return torch.zeros(0, dtype=torch.int64, device=codes.device)
    if not feeding.is_fed(codes.device):
        return torch.bincount(codes.flatten().int(), minlength=count)
    # bincount asks the device for the largest code; comparing with all of them asks for nothing.
    numbers = torch.arange(count, dtype=codes.dtype, device=codes.device)
    at_once = max(1, ELEMENTS_AT_ONCE // codes.numel())
    flat = codes.flatten()
    return torch.cat([(flat == part[:, None]).sum(dim=1) for part in numbers.split(at_once)])


@dataclass(frozen=True)
class MaskFormer(Rule):
    """MaskFormer's rule: mask-weighted argmax, then masks that lost too much are dropped."""

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
    """A mask is dropped when less than this share of its pixels (those of probability ≥ `mask`) is left to it."""
    mask: float = fraction(0.5)
    """The mask probability from which on a pixel belongs to the mask."""

    def fuse(self, output: Candidates) -> FusedMap:
        """The competition among the candidates above `score`."""
        return compete(output, above(output, self.score), mask=self.mask, certain=self.certain)

    def settle(self, fused: FusedMap) -> SettledMap:
        """Segments of the masks that kept enough of their pixels; stuff of one class is one segment."""
        check_finite(fused, "mask logits")
        assert fused.claimed is not None
        assert fused.wanted is not None
        accepted = [
            index
            for index, (claimed, wanted) in enumerate(zip(fused.claimed.tolist(), fused.wanted.tolist(), strict=True))
            if claimed > 0 and wanted > 0 and claimed / wanted >= self.overlap
        ]
        return number(fused, stuff_together(fused, accepted))


@dataclass(frozen=True)
class Mask2Former(MaskFormer):
    """Mask2Former's rule: MaskFormer's, and pixels with an uncertain winner become void."""

    name: ClassVar[str] = "mask2former"
    summary: ClassVar[str] = (
        "As maskformer, but a pixel where the winning mask's probability is below 0.5 is void, so segments end where "
        "their masks end."
    )
    source: ClassVar[str] = "Cheng et al. 2022; facebookresearch/Mask2Former"
    certain: ClassVar[bool] = True


@dataclass(frozen=True)
class OneFormer(Mask2Former):
    """OneFormer's rule, which is Mask2Former's."""

    name: ClassVar[str] = "oneformer"
    summary: ClassVar[str] = "As mask2former, whose function OneFormer's authors took over; the task is in the queries."
    source: ClassVar[str] = "Jain et al. 2023; SHI-Labs/OneFormer"


@dataclass(frozen=True)
class EoMT(Mask2Former):
    """EoMT's rule, which is Mask2Former's."""

    name: ClassVar[str] = "eomt"
    summary: ClassVar[str] = (
        "As mask2former; EoMT's authors write the same decisions in another order and take masks from a padded square."
    )
    source: ClassVar[str] = "Kerssies et al. 2025; tue-mps/eomt"


@dataclass(frozen=True)
class MaskDINO(Mask2Former):
    """Mask DINO's rule: Mask2Former's, with another score at the gate than in the competition."""

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
    """Pixel-wise argmax: nothing is dropped for having lost too much, and no pixel is void."""

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
        """The competition among the candidates above `score`."""
        return compete(output, above(output, self.score), mask=0.5, certain=False, weighted=self.weighted)

    def settle(self, fused: FusedMap) -> SettledMap:
        """A segment of every candidate that won a pixel; stuff of one class is one segment."""
        check_finite(fused, "mask logits")
        return number(fused, stuff_together(fused, range(len(fused.labels))))
