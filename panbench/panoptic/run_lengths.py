"""COCO's run lengths as an id map: {"size": [height, width], "segments": [[id, counts], …]}, as of base/packed.py.

Counts go down the columns and begin with background. Compressed, a count is written in groups of five bits, and from
the third on as the difference to the count two before it; pycocotools, which reads the same text, checks none of it.
"""

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.panoptic.types import MAX_ID

__all__ = ["MARK", "ids_of_run_lengths", "size_of_run_lengths"]

MARK = b'{"size":'
"""What run lengths begin with, and no PNG."""

_MOST_GROUPS = 7
"""A count of 32 bits has at most so many groups of five."""


def size_of_run_lengths(content: bytes) -> tuple[tuple[int, int], list[Any]]:
    """The (height, width) of run lengths, and their segments. Raises ValueError."""
    try:
        record = json.loads(content)
        (height, width), segments = record["size"], record["segments"]
    except (ValueError, TypeError, KeyError):
        raise ValueError("is not a map in run lengths.") from None
    if not (type(height) is type(width) is int and height > 0 and width > 0):
        raise ValueError(f"has run lengths of the size {height}×{width}, which must be two numbers above 0.")
    return (height, width), segments


def ids_of_run_lengths(size: tuple[int, int], segments: list[Any]) -> npt.NDArray[np.int32]:
    """The (H, W) int32 id map of segments, each an id with its counts; 0 where there is none.

    Raises ValueError for counts that are damaged, do not fill the image, or cover pixels of another segment.
    """
    height, width = size
    starts: list[npt.NDArray[np.int64]] = []
    ends: list[npt.NDArray[np.int64]] = []
    ids: list[npt.NDArray[np.int32]] = []
    for segment_id, counts in segments:
        if type(segment_id) is not int or not 0 < segment_id <= MAX_ID:
            raise ValueError(f"has run lengths of a segment with the id {segment_id!r}, which is not in 1…{MAX_ID}.")
        edges: npt.NDArray[np.int64] = np.cumsum(_counts(counts, segment_id))
        if not len(edges) or edges[-1] != height * width:
            filled = int(edges[-1]) if len(edges) else 0
            raise ValueError(
                f"has a bad RLE: the counts of segment {segment_id} add up to {filled:,}, not to {height * width:,} "
                "pixels."
            )
        starts.append(edges[:-1:2])
        ends.append(edges[1::2])
        ids.append(np.full(len(ends[-1]), segment_id, np.int32))
    if not ids:
        return np.zeros(size, np.int32)
    start, end, own = np.concatenate(starts), np.concatenate(ends), np.concatenate(ids)
    some = start < end
    order = np.argsort(start[some], kind="stable")
    start, end, own = start[some][order], end[some][order], own[some][order]
    shared = np.flatnonzero(start[1:] < end[:-1])
    if len(shared):
        one, other = own[shared[0]], own[shared[0] + 1]
        raise ValueError(f"has a bad RLE: the segments {one} and {other} share pixels. Each pixel has one segment.")
    # Void, segment, void, segment, …
    borders = np.stack([start, end], axis=1).ravel()
    values = np.zeros(2 * len(own) + 1, np.int32)
    values[1::2] = own
    flat = np.repeat(values, np.diff(borders, prepend=0, append=height * width))
    return np.ascontiguousarray(flat.reshape(width, height).T)


def _counts(counts: Any, segment_id: Any) -> npt.NDArray[np.int64]:
    """The counts of a segment, compressed or as a list."""
    if isinstance(counts, list) and all(type(count) is int and count >= 0 for count in counts):
        return np.array(counts, np.int64)
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError(f"has a bad RLE: the counts of segment {segment_id} are neither text nor a list of numbers.")
    bits = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    last = (bits & 0x20) == 0
    ends = np.flatnonzero(last)
    if not len(bits) or int(bits.min()) < 0 or int(bits.max()) > 63 or not last[-1]:
        raise ValueError(f"has a bad RLE: the counts of segment {segment_id} are damaged or cut off.")
    sizes = np.diff(ends, prepend=-1)
    if int(np.max(sizes)) > _MOST_GROUPS:
        raise ValueError(f"has a bad RLE: a count of segment {segment_id} is too large.")
    starts = ends - sizes + 1
    place = np.arange(len(bits)) - np.repeat(starts, sizes)
    values = np.add.reduceat((bits & 0x1F) << (5 * place), starts)
    values -= np.where(bits[ends] & 0x10, np.int64(1) << (5 * sizes), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if values.min() < 0:
        raise ValueError(f"has a bad RLE: a count of segment {segment_id} is below 0.")
    return values
