"""Overlapping masks as packed bits, their areas and shared pixels: for AP, which id maps cannot represent."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["PackedMasks", "areas", "pack", "packed_bytes", "shared_pixels"]

PackedMasks = npt.NDArray[np.uint8]
"""(N, bytes) uint8: (H, W) masks row by row, eight pixels a byte, the first the highest bit; zeros fill the last."""

_BITS = np.array([bin(value).count("1") for value in range(256)], np.uint8)
# Bytes of a block of masks that are compared at once: they stay in a core's cache.
_BLOCK = 1 << 20


def packed_bytes(shape: tuple[int, int]) -> int:
    """The bytes of a packed (H, W) mask."""
    return -(-shape[0] * shape[1] // 8)


def pack(masks: Sequence[npt.NDArray[np.bool_]], shape: tuple[int, int]) -> PackedMasks:
    """(H, W) bool masks of one image, packed; shape is needed where there is none."""
    packed = np.zeros((len(masks), packed_bytes(shape)), np.uint8)
    for row, mask in enumerate(masks):
        packed[row] = np.packbits(mask)
    return packed


def areas(masks: PackedMasks) -> npt.NDArray[np.int64]:
    """(N,) the pixels of each mask."""
    return np.array([_count(mask) for mask in masks], np.int64)


def shared_pixels(ones: PackedMasks, others: PackedMasks) -> npt.NDArray[np.int64]:
    """(ones, others) how many pixels each mask shares with each other one."""
    shared = np.zeros((len(ones), len(others)), np.int64)
    if not len(ones) or not len(others):
        return shared
    block = max(1, _BLOCK // max(others.shape[1], 1))
    for start in range(0, len(others), block):
        part = others[start : start + block]
        for row, mask in enumerate(ones):
            shared[row, start : start + block] = _count_rows(mask & part)
    return shared


def _count(mask: npt.NDArray[np.uint8]) -> int:
    return int(_count_rows(mask[None])[0])


def _count_rows(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    # NumPy counts bits from version 2 on; the table serves the versions before.
    counted = np.bitwise_count(packed) if hasattr(np, "bitwise_count") else _BITS[packed]
    return counted.sum(axis=1, dtype=np.int64)
