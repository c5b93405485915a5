"""Converts between id maps, runs of equal ids, and id PNGs. Works on bytes; callers add the file name to messages.

A run is a stretch of equal ids in scan order, across rows. The id map of a photograph has 300,000 pixels but only a few
thousand runs, so pixels are converted to runs first and then counted.
"""

import contextlib
import struct
import threading
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench.panoptic import pixels
from panbench.panoptic.native import native
from panbench.panoptic.types import MAX_ID

deflate: Any = None
with contextlib.suppress(ImportError):  # where deflate has no wheel for the platform, zlib is used
    import deflate  # type: ignore[no-redef]

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

DEFAULT_MAX_PIXELS = 100_000_000
"""Default limit on the pixels of a PNG: 10,000 × 10,000."""

_MOST_PIXELS = 2**29 - 1
# The largest buffer that a thread retains: 4 bytes per pixel of a 24-megapixel image.
_LARGEST_BUFFER = 100_000_000
_HEADER_BYTES = 33
_STORED_BYTES = 65_535
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}
_BYTES_PER_PIXEL = {2: 3, 6: 4}
# The passes of an interlaced PNG: first column and row, and the steps from there.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_ERRORS = (zlib.error,) if deflate is None else (zlib.error, deflate.DeflateError)


@dataclass(frozen=True)
class IdRuns:
    """A run-length encoded (H, W) id map: its runs of equal ids, in scan order, across rows.

    ends: the flat index after the last pixel of each run; ids: the id of each run; both int32
    """

    shape: tuple[int, int]
    ends: Int32
    ids: Int32

    def __len__(self) -> int:
        """Returns the number of runs of equal ids."""
        return len(self.ends)

    @staticmethod
    def of_map(id_map: Int32) -> "IdRuns":
        """Run-length encodes an (H, W) int32 id map."""
        shape = (id_map.shape[0], id_map.shape[1])
        if not id_map.size:
            return IdRuns(shape, np.zeros(0, np.int32), np.zeros(0, np.int32))
        if compiled := native():
            return IdRuns(shape, *compiled.map_runs(id_map))
        flat = id_map.ravel()
        ends = _run_ends(flat)
        return IdRuns(shape, ends, flat[ends - 1].astype(np.int32))

    @staticmethod
    def all_void(shape: tuple[int, int]) -> "IdRuns":
        """Makes the run-length encoded id map of an image that is all void."""
        return IdRuns(shape, np.array([shape[0] * shape[1]], np.int32), np.zeros(1, np.int32))

    def to_id_map(self) -> Int32:
        """Expands the run-length encoding to the (H, W) int32 id map."""
        if not len(self):
            return np.zeros(self.shape, np.int32)
        if compiled := native():
            return compiled.spread_runs(self.ends, self.ids).reshape(self.shape)
        return np.repeat(self.ids, np.diff(self.ends, prepend=np.int32(0))).reshape(self.shape)


def count_ids(ids: npt.NDArray[np.integer]) -> dict[int, int]:
    """Counts the pixels of each id in an array of any shape, by ascending id; void (0) is included."""
    found, pixels_of_each = np.unique(ids, return_counts=True)
    return dict(zip(found.tolist(), pixels_of_each.tolist(), strict=True))


def count_run_pairs(gt: IdRuns, pred: IdRuns) -> tuple[Int32, Int32, Int64]:
    """Counts the pixels that each pair of ids shares in two run-length encoded id maps.

    Returns (gt_id, pred_id, pixels), ordered by gt_id, then pred_id. Raises ValueError when the shapes differ.
    """
    if gt.shape != pred.shape:
        raise ValueError(f"id maps differ in shape: {gt.shape} and {pred.shape}")
    if compiled := native():
        keys, pixels = compiled.count_run_pairs(gt.ends, gt.ids, pred.ends, pred.ids)
        return *_unpack_id_pairs(keys), pixels
    ends = np.concatenate([gt.ends, pred.ends])
    ends.sort(kind="stable")  # fast: merges two sorted halves
    ends = ends[np.append(ends[1:] != ends[:-1], True)] if len(ends) else ends
    # Converted to uint32 first, as in C, so that a negative id (boundary.INTERIOR) does not set the upper 32 bits.
    gt_ids = gt.ids[np.searchsorted(gt.ends, ends)].astype(np.uint32).astype(np.uint64)
    pred_ids = pred.ids[np.searchsorted(pred.ends, ends)].astype(np.uint32).astype(np.uint64)
    keys, pixels = _sum_by_id_pair(gt_ids << np.uint64(32) | pred_ids, np.diff(ends, prepend=np.int32(0)))
    return *_unpack_id_pairs(keys), pixels


def _unpack_id_pairs(keys: UInt64) -> tuple[Int32, Int32]:
    """Unpacks keys gt_id << 32 | pred_id into both ids."""
    return (keys >> np.uint64(32)).astype(np.uint32).astype(np.int32), keys.astype(np.uint32).astype(np.int32)


def _sum_by_id_pair(keys: UInt64, values: Int32) -> tuple[UInt64, Int64]:
    """Returns the distinct keys, ascending, and the sum of the values of each."""
    found = np.sort(keys)
    found = found[np.append(found[1:] != found[:-1], True)] if len(found) else found
    # With few distinct keys a search for each is faster than np.unique with return_inverse.
    # Sums of pixels stay far below 2^53, so the float64 of bincount is exact.
    sums = np.bincount(np.searchsorted(found, keys), weights=values, minlength=len(found))
    return found, sums.astype(np.int64)


@dataclass(frozen=True, slots=True)
class PngHeader:
    """The fields of a PNG's header, its first 33 bytes."""

    height: int
    width: int
    bit_depth: int
    color_type: int
    interlaced: bool


def read_header(content: bytes) -> PngHeader:
    """Parses the header of a PNG. Raises ValueError if the bytes are not a PNG."""
    if content[:8] != _SIGNATURE:
        raise ValueError("is not a PNG.")
    if len(content) < 33:
        raise ValueError("is a truncated PNG.")
    kind, width, height, bit_depth, color_type, _, _, interlace, crc = struct.unpack(">4sIIBBBBBI", content[12:33])
    if kind != b"IHDR" or crc != zlib.crc32(content[12:29]) or not width or not height:
        raise ValueError("is a damaged PNG.")
    return PngHeader(height, width, bit_depth, color_type, interlace != 0)


def decode_id_png(
    content: bytes, shape: tuple[int, int] | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> npt.NDArray[np.int32]:
    """Decodes an id PNG to an (H, W) int32 id map; alpha is ignored.

    shape: (H, W) that it must have, None for any; max_pixels: a larger PNG is refused before it is decoded
    Raises ValueError saying what is wrong: not a PNG, truncated, damaged, not 8-bit RGB, too large, wrong shape.
    """
    header, filtered = _inflated(content, shape, max_pixels)
    runs = _id_runs_in_c(header, filtered)
    if runs is not None:
        return runs.to_id_map()
    return (_decode_pixels(content, header, filtered) & np.uint32(MAX_ID)).astype(np.int32)


def decode_id_runs(content: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> IdRuns:
    """Decodes an id PNG to a run-length encoded id map. Arguments and errors as of `decode_id_png`."""
    header, filtered = _inflated(content, None, max_pixels)
    runs = _id_runs_in_c(header, filtered)
    if runs is not None:
        return runs
    pixels = _decode_pixels(content, header, filtered).ravel()
    ends = _run_ends(pixels)
    return IdRuns((header.height, header.width), ends, (pixels[ends - 1] & np.uint32(MAX_ID)).astype(np.int32))


def _inflated(content: bytes, shape: tuple[int, int] | None, max_pixels: int) -> tuple[PngHeader, bytes | bytearray]:
    """Inflates a PNG and checks all but its row filters; returns the header and the still filtered pixels."""
    header = read_header(content)
    _check_header(header, shape, max_pixels)
    return header, _inflate(_png_zlib_stream(content), sum(rows * length for rows, length in _png_pass_sizes(header)))


def _id_runs_in_c(header: PngHeader, filtered: bytes | bytearray) -> IdRuns | None:
    """Run-length encodes a PNG's ids with compiled code; None if there is no such code, and for interlaced PNGs."""
    compiled = native()
    if compiled is None or header.interlaced:
        return None
    try:
        runs = compiled.png_runs(filtered, header.height, header.width, _BYTES_PER_PIXEL[header.color_type])
    except ValueError:
        raise ValueError("is a damaged PNG.") from None
    return IdRuns((header.height, header.width), *runs)


class _ReusedBuffers(threading.local):
    """Buffers that each thread reuses: a new megabyte, which the system zeroes, costs as much as decoding."""

    def __init__(self) -> None:
        """Starts without buffers, in each thread that uses them."""
        self._by_name: dict[str, npt.NDArray[np.uint8]] = {}

    def buffer(self, name: str, size: int) -> npt.NDArray[np.uint8]:
        """Returns `size` bytes with undefined content; the thread's next call with this name returns them again."""
        buffer = self._by_name.get(name)
        if buffer is None or len(buffer) < size:
            # A very large buffer is not retained, so that one huge image does not occupy memory for the rest of a run.
            buffer = np.empty(size, np.uint8)
            if size <= _LARGEST_BUFFER:
                self._by_name[name] = buffer
        return buffer[:size]


_buffers = _ReusedBuffers()


def _run_ends(flat: npt.NDArray[Any]) -> Int32:
    """Returns the index after the last pixel of each run of a flat map."""
    differs = _buffers.buffer("differs", flat.size - 1).view(np.bool_)
    np.not_equal(flat[1:], flat[:-1], out=differs)
    inner = np.flatnonzero(differs)
    ends = np.empty(len(inner) + 1, np.int32)
    np.add(inner, 1, out=ends[:-1], casting="unsafe")
    ends[-1] = flat.size
    return ends


def _decode_pixels(content: bytes, header: PngHeader, filtered: bytes | bytearray) -> npt.NDArray[np.uint32]:
    """Decodes an id PNG to (H, W) uint32, 255 << 24 | id; the thread's next call overwrites the result."""
    raw = np.frombuffer(filtered, np.uint8)
    _check_png_filters(header, raw)
    bgr = pixels.decode(_uncompressed_png(content, raw), turned=False)
    if bgr is None or bgr.shape[:2] != (header.height, header.width):
        raise ValueError("is a damaged PNG.")
    rgba = _buffers.buffer("pixels", 4 * header.height * header.width).reshape(header.height, header.width, 4)
    pixels.bgr_to_rgba(bgr, rgba)
    return rgba.view("<u4")[..., 0]


def _uncompressed_png(content: bytes, raw: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Makes a PNG without compression from the decompressed data of another.

    The thread's next call overwrites the result.

    OpenCV then only undoes the filters. Its own zlib is slow and decodes a damaged stream to a partly black image
    without an error, so libdeflate has inflated and checked the pixels before. A stored block has at most 65,535 bytes
    after a header of 5. [RFC 1951, 3.2.4; RFC 1950]
    """
    full, rest = divmod(len(raw), _STORED_BYTES)
    n = 2 + full * (5 + _STORED_BYTES) + 5 + rest + 4
    png = _buffers.buffer("png", _HEADER_BYTES + 12 + n + len(_END))
    png[:_HEADER_BYTES] = np.frombuffer(content, np.uint8, _HEADER_BYTES)
    chunk = png[_HEADER_BYTES : _HEADER_BYTES + 12 + n]
    _copy_bytes(chunk, 0, struct.pack(">I4s2s", n, b"IDAT", b"\x78\x01"))
    blocks = chunk[10 : 10 + full * (5 + _STORED_BYTES)].reshape(full, 5 + _STORED_BYTES)
    blocks[:, :5] = np.frombuffer(struct.pack("<BHH", 0, _STORED_BYTES, 0), np.uint8)
    blocks[:, 5:] = raw[: full * _STORED_BYTES].reshape(full, _STORED_BYTES)
    last = chunk[10 + blocks.size :]
    _copy_bytes(last, 0, struct.pack("<BHH", 1, rest, rest ^ 0xFFFF))
    last[5 : 5 + rest] = raw[full * _STORED_BYTES :]
    _copy_bytes(last, 5 + rest, struct.pack(">I", _adler32(raw)))
    _copy_bytes(last, 9 + rest, struct.pack(">I", _crc32(chunk[4:-4])))
    _copy_bytes(png, _HEADER_BYTES + 12 + n, _END)
    return png


def _copy_bytes(target: npt.NDArray[np.uint8], at: int, content: bytes) -> None:
    """Copies bytes into an array from index `at` on."""
    target[at : at + len(content)] = np.frombuffer(content, np.uint8)


def _crc32(content: Any) -> int:
    """Returns the CRC-32 of bytes, which ends each chunk of a PNG."""
    return zlib.crc32(content) if deflate is None else int(deflate.crc32(content, 0))


def _adler32(content: Any) -> int:
    """Returns the Adler-32 of bytes, which ends a zlib stream."""
    return zlib.adler32(content) if deflate is None else int(deflate.adler32(content, 1))


def _check_header(header: PngHeader, shape: tuple[int, int] | None, max_pixels: int) -> None:
    """Raises ValueError unless a PNG is 8-bit RGB or RGBA, has the expected shape and is not too large."""
    if header.color_type not in _BYTES_PER_PIXEL or header.bit_depth != 8:
        kind = _COLOR_TYPES.get(header.color_type, "unknown")
        article = "an" if header.bit_depth == 8 else "a"
        raise ValueError(
            f"is {article} {header.bit_depth}-bit {kind} PNG; id maps are 8-bit RGB, id = R + 256 G + 65536 B. "
            "Write it as RGB."
        )
    size = header.height, header.width
    check_pixels(size, max_pixels)
    if shape is not None and size != tuple(shape):
        raise ValueError(f"is {size[0]}×{size[1]} where {shape[0]}×{shape[1]} (height × width) was expected.")


def check_pixels(shape: tuple[int, int], max_pixels: int) -> None:
    """Raises ValueError for a map of more than `max_pixels` pixels."""
    if shape[0] * shape[1] > min(max_pixels, _MOST_PIXELS):
        raise ValueError(
            f"has {shape[0]}×{shape[1]} pixels, more than the limit of {min(max_pixels, _MOST_PIXELS):,}. "
            "Raise the limit if the image is meant to be this large."
        )


def _png_zlib_stream(content: bytes) -> bytes:
    """Joins the zlib stream of a PNG. Raises ValueError if the end chunk is missing or a checksum is wrong."""
    pieces: list[bytes] = []
    position = 33
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        kind = content[position + 4 : position + 8]
        stop = position + 8 + length
        # As in libpng, a wrong checksum is an error in critical chunks only, whose names begin with a capital letter.
        wrong = content[stop : stop + 4] != _crc32(content[position + 4 : stop]).to_bytes(4, "big")
        if wrong and kind[:1].isupper():
            raise ValueError("is a truncated PNG." if stop + 4 > len(content) else "is a damaged PNG.")
        if kind == b"IEND":
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if kind == b"IDAT":
            pieces.append(content[position + 8 : stop])
        position = stop + 4
    raise ValueError("is a truncated PNG.")


def _png_pass_sizes(header: PngHeader) -> list[tuple[int, int]]:
    """Returns (rows, bytes per row with its filter byte) of each interlacing pass; a single one without interlacing.

    A PNG that is not interlaced has one pass.
    """
    bytes_per_pixel = _BYTES_PER_PIXEL[header.color_type]
    passes = []
    for x, y, dx, dy in _ADAM7 if header.interlaced else ((0, 0, 1, 1),):
        height, width = (header.height - y + dy - 1) // dy, (header.width - x + dx - 1) // dx
        if height > 0 and width > 0:
            passes.append((height, 1 + width * bytes_per_pixel))
    return passes


def _check_png_filters(header: PngHeader, raw: npt.NDArray[np.uint8]) -> None:
    """Raises ValueError if a pixel row of a PNG names a filter that PNG does not define.

    OpenCV would leave the rest of the image black.
    """
    start = 0
    for rows, length in _png_pass_sizes(header):
        if int(raw[start : start + rows * length : length].max()) > 4:
            raise ValueError("is a damaged PNG.")
        start += rows * length


def _inflate(stream: bytes, size: int) -> bytes | bytearray:
    """Inflates a zlib stream and verifies its checksum. Raises ValueError unless it has exactly `size` bytes."""
    try:
        if deflate is None:
            raw: bytes | bytearray = _bounded_inflate(stream, size)
        else:
            raw = deflate.zlib_decompress(stream, size)
    except _INFLATE_ERRORS:
        raise ValueError("is a damaged PNG.") from None
    if len(raw) != size:
        raise ValueError("is a damaged PNG.")
    return raw


def _deflate(content: bytes) -> bytes:
    """Compresses bytes to a zlib stream, fast rather than small."""
    return zlib.compress(content, 1) if deflate is None else bytes(deflate.zlib_compress(content, 1))


def _bounded_inflate(stream: bytes, size: int) -> bytes:
    """Inflates a zlib stream to at most size + 1 bytes by Python's zlib. Raises zlib.error if more remain."""
    # Allows one byte more than `size`, so that a stream that is too long is noticed.
    inflater = zlib.decompressobj()
    raw = inflater.decompress(stream, size + 1)
    if not inflater.eof:
        raise zlib.error("ends early or late")
    return raw


def encode_id_png(id_map: npt.NDArray[np.integer]) -> bytes:
    """Encodes an (H, W) id map as the bytes of an RGB PNG. Raises ValueError for ids outside 0…2²⁴-1.

    Each row is stored as its difference from the row above, which is mostly zeros for a mask: small and fast.
    """
    if id_map.ndim != 2 or not id_map.size:
        raise ValueError(f"an id map must be (H, W) and not empty, got {id_map.shape}")
    if int(id_map.min()) < 0 or int(id_map.max()) > MAX_ID:
        raise ValueError(f"ids must lie in 0…{MAX_ID}, got {int(id_map.min())}…{int(id_map.max())}")
    height, width = id_map.shape
    rows = np.ascontiguousarray(id_map, "<i4").view(np.uint8).reshape(height, width, 4)[..., :3].reshape(height, -1)
    filtered = np.empty((height, 1 + 3 * width), np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _SIGNATURE + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", _deflate(filtered.tobytes())) + _END


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    """Returns a chunk of a PNG: length, kind, content and checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


_END = _png_chunk(b"IEND", b"")
