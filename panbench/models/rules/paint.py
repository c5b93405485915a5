"""Painting in order: each mask where nothing is yet, if enough of it is free."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import Candidates
from panbench.models.rules.base import FusedMap, code_type, nothing_of
from panbench.models.rules.compete import probabilities_of
from panbench.models.rules.resize import upsampled_blocks


def paint(
    candidates: Candidates,
    rows: npt.NDArray[np.int64],
    scores: Sequence[float],
    *,
    masks: Tensor,
    mask: float,
    overlap: Sequence[float],
) -> FusedMap:
    """The map of candidates painted in the order of `rows`, without waiting for the device.

    masks: (K, h, w) of the candidates in that order; a pixel above `mask` belongs to it
    overlap: for each, the share of its mask that may be covered already; when more is, it is not painted
    """
    frame, count = candidates.frame, len(rows)
    codes = torch.full(frame.original, nothing_of(count), dtype=code_type(count), device=masks.device)
    free = torch.ones(frame.original, dtype=torch.bool, device=masks.device)
    for start, upsampled in upsampled_blocks(masks, frame):
        insides = probabilities_of(upsampled, candidates) > mask
        for offset in range(len(insides)):
            enough = functools.partial(_not_covered, overlap[start + offset])
            lay(codes, free, insides[offset], start + offset, enough)
    labels = tuple(int(label) for label in candidates.labels[rows])
    return FusedMap(
        codes=codes,
        labels=labels,
        scores=tuple(scores),
        things=tuple(candidates.isthing[label] for label in labels),
        finite=torch.isfinite(masks).all(),
    )


def lay(codes: Tensor, free: Tensor, inside: Tensor, code: int, enough: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Paints one mask with its code where it is free, in place, if enough of it is free.

    enough: from the mask's area and its free area, both () int64, whether it is painted, () bool
    """
    part = inside & free
    part &= enough(inside.sum(), part.sum())
    codes.masked_fill_(part, code)
    free &= ~part


def _not_covered(most: float, area: Tensor, free: Tensor) -> Tensor:
    # Numbers of pixels divided in float64, as Python does it in the original; MPS has no float64.
    exact = torch.float32 if area.device.type == "mps" else torch.float64
    return (area - free).to(exact) / area.clamp(min=1) <= most
