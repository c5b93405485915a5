"""RGB id PNGs to int32 id maps and back, in memory. Knows bytes, not files: messages lack the name, callers add it."""

import struct
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

DEFAULT_MAX_PIXELS = 100_000_000
"""Largest PNG that is decoded unless asked otherwise: 10,000 × 10,000."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


@dataclass(frozen=True, slots=True)
class PngHeader:
    """What a PNG says of itself in its first 33 bytes."""

    height: int
    width: int
    bit_depth: int
    color_type: int
    interlaced: bool


def read_header(content: bytes) -> PngHeader:
    """The header of a PNG. Raises ValueError when the bytes are no PNG."""
    if content[:8] != _SIGNATURE:
        raise ValueError("is not a PNG.")
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise ValueError("is a truncated PNG.")
    width, height, bit_depth, color_type, _, _, interlace = struct.unpack(">IIBBBBB", content[16:29])
    return PngHeader(height, width, bit_depth, color_type, interlace != 0)


def check_header(header: PngHeader, shape: tuple[int, int] | None, max_pixels: int) -> None:
    """Raises ValueError unless a PNG of this header can be an id map of `shape` (any, if None)."""
    if header.color_type not in (2, 6) or header.bit_depth != 8:
        kind = _COLOR_TYPES.get(header.color_type, "of unknown colour type")
        raise ValueError(
            f"is a {header.bit_depth}-bit {kind} PNG; id maps are 8-bit RGB, id = R + 256 G + 65536 B. Write it as RGB."
        )
    if header.height * header.width > max_pixels:
        raise ValueError(
            f"has {header.height}×{header.width} pixels, more than the limit of {max_pixels:,}. "
            "Raise the limit if it is meant to be so large."
        )
    if shape is not None and (header.height, header.width) != tuple(shape):
        raise ValueError(f"is {header.height}×{header.width} where {shape[0]}×{shape[1]} (height × width) is expected.")


def decode_id_png(
    content: bytes, shape: tuple[int, int] | None = None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> npt.NDArray[np.int32]:
    """The (H, W) int32 id map in the bytes of a PNG; alpha is ignored. Raises ValueError saying what is wrong."""
    header = read_header(content)
    check_header(header, shape, max_pixels)
    if b"IEND" not in content[-64:]:
        raise ValueError("is a truncated PNG.")
    bgr = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None or bgr.shape[:2] != (header.height, header.width):
        raise ValueError("is a damaged PNG.")
    rgba = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA)
    ids = rgba.view("<i4")[..., 0].astype(np.int32, copy=False)
    ids &= 0xFFFFFF
    return ids


def encode_id_png(rgb: npt.NDArray[np.uint8]) -> bytes:
    """The bytes of a PNG that holds an (H, W, 3) uint8 RGB array; fast rather than small."""
    done, content = cv2.imencode(".png", rgb[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ValueError(f"an array of shape {rgb.shape} cannot be written as PNG")
    return content.tobytes()
