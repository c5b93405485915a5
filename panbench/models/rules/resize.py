"""Masks brought to the original image's size, in blocks that bound memory, and without work that cannot matter."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.models import feeding
from panbench.models.candidates import Frame

ELEMENTS_AT_ONCE = 1 << 25
"""Bound on the values of one upsampled block: 2^25 float32 are 128 MiB."""

CPU_ELEMENTS_AT_ONCE = 1 << 22
"""The bound on a CPU, where two batches are fused at a time, and where a block is better small enough for the cache."""


def upsample(maps: Tensor, frame: Frame) -> Tensor:
    """(K, H, W) at the original size from (K, h, w) of the padded input's extent, in the papers' two bilinear steps.

    To the padded input's size, cropped to the image as it was resized, to the original size; or in one step, where the
    frame says so. What is returned may be overwritten: it shares no memory with `maps`, also where nothing had to be
    resized.
    """
    if frame.one_step:
        return _in_one_step(maps, frame)
    resized = to_resized(maps, frame)
    if frame.resized != frame.original:
        resized = F.interpolate(resized[:, None], size=frame.original, mode="bilinear", align_corners=False)[:, 0]
    if resized.data_ptr() == maps.data_ptr():
        return resized.clone(memory_format=torch.contiguous_format)
    return resized.contiguous()


def _in_one_step(maps: Tensor, frame: Frame) -> Tensor:
    """(K, H, W) at the original size, each pixel from the four cells around its place in the resized image."""
    if frame.padded == frame.resized:
        whole = F.interpolate(maps[:, None], size=frame.original, mode="bilinear", align_corners=False)[:, 0]
        return whole.clone() if whole.data_ptr() == maps.data_ptr() else whole
    # As large as the padded image is beside the resized one; a hair more, so that rounding takes no row away.
    scale = [
        frame.original[side] * frame.padded[side] / (frame.resized[side] * maps.shape[1 + side]) * (1 + 1e-9)
        for side in (0, 1)
    ]
    whole = F.interpolate(maps[:, None], scale_factor=scale, mode="bilinear", align_corners=False)[:, 0]
    return whole[:, : frame.original[0], : frame.original[1]].contiguous()


def to_resized(maps: Tensor, frame: Frame) -> Tensor:
    """(K, H, W) at the size that the image was resized to, from (K, h, w) of the padded input's extent."""
    if tuple(maps.shape[-2:]) != frame.padded:
        maps = F.interpolate(maps[None], size=frame.padded, mode="bilinear", align_corners=False)[0]
    return maps[:, : frame.resized[0], : frame.resized[1]]


def upsampled_blocks(maps: Tensor, frame: Frame) -> Iterator[tuple[int, Tensor]]:
    """(index of the first map, float32 maps at the original size) for blocks of maps, each of bounded memory."""
    height, width = frame.original
    per_map = height * width if frame.one_step else max(height * width, frame.padded[0] * frame.padded[1])
    block = max(1, _elements(maps.device) // per_map)
    for start in range(0, len(maps), block):
        yield start, upsample(maps[start : start + block].float(), frame)


def resized_blocks(maps: Tensor, frame: Frame) -> Iterator[tuple[int, Tensor]]:
    """Like `upsampled_blocks`, at the size that the image was resized to."""
    block = max(1, _elements(maps.device) // (frame.padded[0] * frame.padded[1]))
    for start in range(0, len(maps), block):
        yield start, to_resized(maps[start : start + block].float(), frame)


def semantic_argmax(logits: Tensor, frame: Frame) -> Tensor:
    """(H, W) int64: the channel of highest upsampled logit at each pixel of the original image; logits (C, h, w)."""
    channels = possible_winners(logits) if _enlarges(logits, frame) else None
    kept = logits if channels is None else logits[channels]
    best: Tensor | None = None
    winner = torch.zeros(frame.original, dtype=torch.int64, device=logits.device)
    for start, values in upsampled_blocks(kept, frame):
        if feeding.is_fed(values.device):
            highest, place = values.max(dim=0)  # of equals the first
            winner = place if best is None else torch.where(highest > best, place + start, winner)
            best = highest if best is None else torch.maximum(best, highest)
            continue
        for offset in range(len(values)):
            if best is None:
                best = values[0].clone()
                continue
            winner.masked_fill_(values[offset] > best, start + offset)
            best = torch.maximum(best, values[offset])
    return winner if channels is None else channels[winner]


def possible_winners(logits: Tensor) -> Tensor | None:
    """The channels, ascending, that can be the highest at some point between pixels; None to try all.

    logits: (C, h, w). None off the CPU, where choosing would mean waiting for the device.

    Enlarging is linear: each upsampled value of a channel is a mean of its logits in a 3×3 neighbourhood, with weights
    that all channels share. So a channel whose highest logit in a neighbourhood is below the lowest of any one other
    channel there loses in all of it, whatever the weights; a channel that loses everywhere need not be upsampled.
    Of COCO's 54 semantic channels a handful is left.
    """
    if feeding.is_fed(logits.device) or len(logits) < 8:
        return None
    logits = logits.float()
    highest, lowest = around(logits, torch.maximum), around(logits, torch.minimum)
    # A margin far above the rounding of bilinear weights: a channel this far below cannot be rounded into a tie.
    bar = lowest.amax(dim=0)
    bar = bar - 1e-4 * (1.0 + bar.abs())
    return torch.nonzero((highest >= bar).flatten(1).any(dim=1)).flatten()


def around(maps: Tensor, extreme: Callable[..., Tensor]) -> Tensor:
    """(K, h, w) the extreme of each 3×3 neighbourhood, NaN where one is in it; faster than pooling on a CPU."""
    for dim, size in ((1, maps.shape[1]), (2, maps.shape[2])):
        widest = maps.clone()
        before, after = widest.narrow(dim, 0, size - 1), widest.narrow(dim, 1, size - 1)
        extreme(before, maps.narrow(dim, 1, size - 1), out=before)
        extreme(after, maps.narrow(dim, 0, size - 1), out=after)
        maps = widest
    return maps


def _elements(device: torch.device) -> int:
    return ELEMENTS_AT_ONCE if feeding.is_fed(device) else min(ELEMENTS_AT_ONCE, CPU_ELEMENTS_AT_ONCE)


def _enlarges(logits: Tensor, frame: Frame) -> bool:
    return logits.shape[-2] <= frame.padded[0] and logits.shape[-1] <= frame.padded[1]
