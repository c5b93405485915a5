"""Resizes masks to the original image's size in blocks of bounded memory, without channels that cannot win."""

from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.models import async_device
from panbench.models.candidates import Frame

ELEMENTS_AT_ONCE = 1 << 25
"""The largest number of values in an upsampled block: 2^25 float32 are 128 MiB."""

CPU_ELEMENTS_AT_ONCE = 1 << 22
"""The bound on a CPU, where two batches may be fused at once and blocks should fit into the cache."""


def upsample(maps: Tensor, frame: Frame) -> Tensor:
    """Resizes maps (K, h, w) from the padded input to the original image (K, H, W), in the papers' two steps.

    First to the padded input's size, cropped to the resized image, then to the original size; or in one step, if the
    frame says so. The result may be overwritten: it never shares memory with `maps`.
    """
    if frame.one_step:
        return _upsample_in_one_step(maps, frame)
    resized = to_resized(maps, frame)
    if frame.resized != frame.original:
        resized = F.interpolate(resized[:, None], size=frame.original, mode="bilinear", align_corners=False)[:, 0]
    if resized.data_ptr() == maps.data_ptr():
        return resized.clone(memory_format=torch.contiguous_format)
    return resized.contiguous()


def _upsample_in_one_step(maps: Tensor, frame: Frame) -> Tensor:
    """Resizes maps of the padded input to the original image (K, H, W) in one bilinear step."""
    if frame.padded == frame.resized:
        full = F.interpolate(maps[:, None], size=frame.original, mode="bilinear", align_corners=False)[:, 0]
        return full.clone() if full.data_ptr() == maps.data_ptr() else full
    # The scale from map to original pixels; slightly increased, so that rounding drops no row.
    scale = [
        frame.original[side] * frame.padded[side] / (frame.resized[side] * maps.shape[1 + side]) * (1 + 1e-9)
        for side in (0, 1)
    ]
    full = F.interpolate(maps[:, None], scale_factor=scale, mode="bilinear", align_corners=False)[:, 0]
    return full[:, : frame.original[0], : frame.original[1]].contiguous()


def to_resized(maps: Tensor, frame: Frame) -> Tensor:
    """Resizes maps (K, h, w) to the padded input's size and crops the padding; returns (K, H, W)."""
    if tuple(maps.shape[-2:]) != frame.padded:
        maps = F.interpolate(maps[None], size=frame.padded, mode="bilinear", align_corners=False)[0]
    return maps[:, : frame.resized[0], : frame.resized[1]]


def upsampled_blocks(maps: Tensor, frame: Frame) -> Iterator[tuple[int, Tensor]]:
    """Upsamples maps to the original size in float32, a few at a time; yields the first one's index, and the maps."""
    height, width = frame.original
    per_map = height * width if frame.one_step else max(height * width, frame.padded[0] * frame.padded[1])
    block = max(1, _block_elements(maps.device) // per_map)
    for start in range(0, len(maps), block):
        yield start, upsample(maps[start : start + block].float(), frame)


def resized_blocks(maps: Tensor, frame: Frame) -> Iterator[tuple[int, Tensor]]:
    """Upsamples float32 maps to the resized image, a block at a time; yields the block's first index and its maps."""
    block = max(1, _block_elements(maps.device) // (frame.padded[0] * frame.padded[1]))
    for start in range(0, len(maps), block):
        yield start, to_resized(maps[start : start + block].float(), frame)


def semantic_argmax(logits: Tensor, frame: Frame) -> Tensor:
    """Returns (H, W) int64: the channel of highest upsampled logit at each pixel of the original image.

    logits: (C, h, w)
    """
    channels = possible_winning_channels(logits) if _enlarges(logits, frame) else None
    chosen = logits if channels is None else logits[channels]
    winner = argmax(upsampled_blocks(chosen, frame), frame.original, logits.device)
    return winner if channels is None else channels[winner]


def argmax(blocks: Iterable[tuple[int, Tensor]], size: tuple[int, int], device: torch.device) -> Tensor:
    """Returns (H, W) int64: the index of the map of highest value at each pixel; ties go to the first map.

    blocks: (index of the first map, (K, H, W) maps)
    """
    best: Tensor | None = None
    winner = torch.zeros(size, dtype=torch.int64, device=device)
    for start, values in blocks:
        if async_device.is_async(device):
            highest, index = values.max(dim=0)  # ties go to the first
            winner = index if best is None else torch.where(highest > best, index + start, winner)
            best = highest if best is None else torch.maximum(best, highest)
            continue
        for offset in range(len(values)):
            if best is None:
                best = values[0].clone()
                continue
            winner.masked_fill_(values[offset] > best, start + offset)
            best = torch.maximum(best, values[offset])
    return winner


def possible_winning_channels(logits: Tensor) -> Tensor | None:
    """Returns the channels, ascending, that can be the highest at some upsampled pixel; None for all.

    logits: (C, h, w). None on asynchronous devices, where selecting would synchronise.

    Enlarging is linear: each upsampled value of a channel is a mean of its logits in a 3×3 neighbourhood, with weights
    that all channels share. So a channel whose highest logit in a neighbourhood is below the lowest of any one other
    channel there loses in all of it, whatever the weights; a channel that loses everywhere need not be upsampled.
    Of COCO's 54 semantic channels a handful is left.
    """
    if async_device.is_async(logits.device) or len(logits) < 8:
        return None
    logits = logits.float()
    highest, lowest = neighbourhood_extreme(logits, torch.maximum), neighbourhood_extreme(logits, torch.minimum)
    # A margin far above the rounding of bilinear weights: a channel this far below cannot be rounded into a tie.
    bar = lowest.amax(dim=0)
    bar = bar - 1e-4 * (1.0 + bar.abs())
    return torch.nonzero((highest >= bar).flatten(1).any(dim=1)).flatten()


def neighbourhood_extreme(maps: Tensor, extreme: Callable[..., Tensor]) -> Tensor:
    """Returns the maximum or minimum of each 3×3 neighbourhood, (K, h, w); NaN if it contains one.

    extreme: torch.maximum or torch.minimum. On a CPU it is faster than pooling.
    """
    for dim, size in ((1, maps.shape[1]), (2, maps.shape[2])):
        widest = maps.clone()
        before, after = widest.narrow(dim, 0, size - 1), widest.narrow(dim, 1, size - 1)
        extreme(before, maps.narrow(dim, 1, size - 1), out=before)
        extreme(after, maps.narrow(dim, 0, size - 1), out=after)
        maps = widest
    return maps


def _block_elements(device: torch.device) -> int:
    """Returns how many elements of upsampled maps a block may have on the device."""
    return ELEMENTS_AT_ONCE if async_device.is_async(device) else min(ELEMENTS_AT_ONCE, CPU_ELEMENTS_AT_ONCE)


def _enlarges(logits: Tensor, frame: Frame) -> bool:
    """Returns whether resizing logits to the padded input does not shrink them."""
    return logits.shape[-2] <= frame.padded[0] and logits.shape[-1] <= frame.padded[1]
