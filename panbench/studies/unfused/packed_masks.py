"""Overlapping masks as packed bits, with their areas and shared pixels; id maps cannot represent overlap."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

PackedMasks = npt.NDArray[np.uint8]
"""(N, bytes) uint8: (H, W) masks row by row, eight pixels a byte, the first the highest bit; zeros fill the last."""

_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)
# Bytes of masks compared at once, so that they stay in a core's cache.
_BLOCK = 1 << 20


def packed_bytes(shape: tuple[int, int]) -> int:
    """Returns the number of bytes of a packed (H, W) mask."""
    return -(-shape[0] * shape[1] // 8)


def pack_masks(masks: Sequence[npt.NDArray[np.bool_]], shape: tuple[int, int]) -> PackedMasks:
    """Packs the (H, W) bool masks of an image to bits.

    shape: their (H, W), for the case of no masks
    """
    packed = np.zeros((len(masks), packed_bytes(shape)), np.uint8)
    for row, mask in enumerate(masks):
        packed[row] = np.packbits(mask)
    return packed


def mask_areas(masks: PackedMasks) -> npt.NDArray[np.int64]:
    """Returns the number of pixels of each mask, (N,)."""
    return np.array([_count_set_bits(mask[None])[0] for mask in masks], np.int64)


def shared_pixels(ones: PackedMasks, others: PackedMasks) -> npt.NDArray[np.int64]:
    """Returns the number of pixels that each two masks share, (ones, others)."""
    shared = np.zeros((len(ones), len(others)), np.int64)
    if not len(ones) or not len(others):
        return shared
    block = max(1, _BLOCK // max(others.shape[1], 1))
    for start in range(0, len(others), block):
        part = others[start : start + block]
        for row, mask in enumerate(ones):
            shared[row, start : start + block] = _count_set_bits(mask & part)
    return shared


def _count_set_bits(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Counts the bits that are set in each row."""
    # NumPy 1 has no bitwise_count.
    counted = np.bitwise_count(packed) if hasattr(np, "bitwise_count") else _BITS[packed]
    return counted.sum(axis=1, dtype=np.int64)
