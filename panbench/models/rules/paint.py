"""Paints masks in order, each only on free pixels, if enough of it is free."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import Candidates
from panbench.models.rules.base import FusedMap, empty_codes
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
    """Paints candidates' masks in the order of `rows`, each on free pixels, without host synchronisation.

    masks: (K, h, w) of the candidates in that order; mask: a pixel belongs to a mask above this value
    overlap: for each candidate, the largest share of its mask that may be covered already
    """
    frame = candidates.frame
    codes = empty_codes(candidates, len(rows))
    free = torch.ones(frame.original, dtype=torch.bool, device=masks.device)
    for start, upsampled in upsampled_blocks(masks, frame):
        insides = probabilities_of(upsampled, candidates) > mask
        for offset in range(len(insides)):
            enough = functools.partial(_is_free_enough, overlap[start + offset])
            paint_mask(codes, free, insides[offset], start + offset, enough)
    return FusedMap.of_candidates(candidates, rows, codes, masks, scores=scores)


def paint_mask(
    codes: Tensor, free: Tensor, inside: Tensor, code: int, enough: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Paints one mask with its candidate's index on free pixels, in place, if enough of it is free.

    enough: decides by the mask's area and free area, both () int64; returns () bool
    """
    part = inside & free
    part &= enough(inside.sum(), part.sum())
    codes.masked_fill_(part, code)
    free &= ~part


def _is_free_enough(most: float, area: Tensor, free: Tensor) -> Tensor:
    """Returns whether at most the share `most` of a mask's area is covered already, () bool."""
    # Pixel counts are divided in float64, as by Python in the original; MPS has no float64.
    exact = torch.float32 if area.device.type == "mps" else torch.float64
    return (area - free).to(exact) / area.clamp(min=1) <= most
