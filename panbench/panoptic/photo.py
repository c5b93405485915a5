"""Photographs of a dataset. Pixels are OpenCV's, as in mmdet; this adds the facts that OpenCV does not report.

OpenCV decodes a damaged JPEG without an error: libjpeg writes "Corrupt JPEG data" to stderr, and the pixels are wrong.
So each JPEG is read a second time by simplejpeg, whose strict mode turns libjpeg's warnings into errors: in the thread
that asks, so that eight loaders at once each hear of their own image. At an eighth of its size that takes a quarter of
the time of decoding.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from panbench.base.addresses import path_at
from panbench.base.errors import BadDataset
from panbench.panoptic import pixels
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
from panbench.panoptic.types import Exif

__all__ = ["PhotoFacts", "decode_photo", "decode_rgb", "inspect_photo", "read_photo"]

_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)
# libjpeg's words for bytes before a marker that it did not need, and for what means lost data.
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_LOST = (
    "Corrupt JPEG data",
    "Premature end",
    "Inconsistent progression",
    "Unsupported marker type",
    "Invalid JPEG file structure",
)
_MOST_TRIES = 64


@dataclass(frozen=True, slots=True)
class PhotoFacts:
    """Facts from a photograph's file.

    shape: (height, width) of its pixels as they are decoded; None where only OpenCV knows the format
    orientation: EXIF's, 1 to 8; 1 is upright. OpenCV turns the pixels of all others unless it is set to ignore it
    extraneous: whether a JPEG is padded with bytes that belong to no part of it; harmless
    sha256: the digest of the file, 32 bytes
    """

    shape: tuple[int, int] | None
    orientation: int = 1
    extraneous: bool = False
    sha256: bytes = field(default=b"", compare=False)


def inspect_photo(
    path: str | Path,
    shape: tuple[int, int] | None = None,
    *,
    image_id: int | None = None,
    exif: Exif = "apply",
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> PhotoFacts:
    """The facts of a photograph, without decoding its pixels. Safe to call from several threads.

    shape: (height, width) that it must have; None takes any
    image_id: named in messages; exif: whether a photograph that lies on its side is turned
    max_pixels: a larger one is refused by its header
    Raises BadDataset for a file that is missing, of another size, too large, or a JPEG of which data is lost.
    """
    where = _where(path, image_id)
    content = _content(path, where)
    return replace(_inspect(content, where, shape, exif, max_pixels), sha256=hashlib.sha256(content).digest())


def read_photo(
    path: str | Path,
    shape: tuple[int, int] | None = None,
    *,
    image_id: int | None = None,
    exif: Exif = "apply",
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> tuple[npt.NDArray[np.uint8], PhotoFacts]:
    """(H, W, 3) blue, green, red of a photograph as OpenCV decodes it, and its facts; otherwise as `inspect_photo`."""
    where = _where(path, image_id)
    return decode_photo(_content(path, where), where, shape, exif=exif, max_pixels=max_pixels)


def decode_photo(
    content: bytes,
    where: str,
    shape: tuple[int, int] | None = None,
    *,
    exif: Exif = "apply",
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> tuple[npt.NDArray[np.uint8], PhotoFacts]:
    """Like `read_photo`, for a file's content. where: its name in messages."""
    facts = _inspect(content, where, shape, exif, max_pixels)
    bgr = pixels.decode(content, turned=exif != "ignore")
    if bgr is None:
        raise BadDataset(f"{where} cannot be decoded as an image.")
    _refuse_other_shape((bgr.shape[0], bgr.shape[1]), shape, where)
    return bgr, replace(facts, sha256=hashlib.sha256(content).digest())


def _where(path: str | Path, image_id: int | None) -> str:
    return f"{path}" if image_id is None else f"{path} (image {image_id})"


def _content(path: str | Path, where: str) -> bytes:
    try:
        return path_at(path).read_bytes()
    except FileNotFoundError:
        raise BadDataset(f"{where} was not found.") from None
    except OSError as problem:
        raise BadDataset(f"{where} cannot be read: {problem.strerror or problem}.") from None


def decode_rgb(
    content: bytes, where: str, *, exif: Exif = "apply", max_pixels: int = DEFAULT_MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) red, green, blue of a file's content: the pixels of `decode_photo`, and it raises as that.

    An upright JPEG that is whole is read once: libjpeg's warnings come with its pixels.
    """
    facts, kind, mode = _header(content, where, None, exif, max_pixels)
    if kind == "JPEG" and mode in ("RGB", "L") and (facts.orientation == 1 or exif == "ignore"):
        with contextlib.suppress(ValueError):  # damaged, or padded: decode_photo tells
            return cast(
                "npt.NDArray[np.uint8]",
                simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=True),
            )
    return pixels.rgb_of(decode_photo(content, where, exif=exif, max_pixels=max_pixels)[0])


def _inspect(content: bytes, where: str, shape: tuple[int, int] | None, exif: Exif, max_pixels: int) -> PhotoFacts:
    facts, kind, mode = _header(content, where, shape, exif, max_pixels)
    if kind not in ("JPEG", "MPO"):
        return facts
    colors = "CMYK" if mode == "CMYK" else "GRAY"
    warning = _warning_of_libjpeg(content, colors)
    extraneous = _EXTRANEOUS.match(warning) is not None and _is_padded(content, warning, colors)
    if warning.startswith(_LOST) and not extraneous:
        raise BadDataset(f"{where} is a damaged JPEG: data is lost ({warning}). Fetch it again.")
    return replace(facts, extraneous=extraneous)


def _header(
    content: bytes, where: str, shape: tuple[int, int] | None, exif: Exif, max_pixels: int
) -> tuple[PhotoFacts, str, str]:
    """The facts in a photograph's header, its format and its mode, both "" where only OpenCV knows them."""
    if not content:
        raise BadDataset(f"{where} cannot be decoded as an image: the file is empty.")
    try:
        # Only the header is read here.
        with Image.open(io.BytesIO(content)) as image:
            (width, height), kind, mode = image.size, image.format or "", image.mode
            orientation = int(image.getexif().get(_ORIENTATION, 1)) if "exif" in image.info or kind == "TIFF" else 1
    except Image.DecompressionBombError:
        raise BadDataset(f"{where} has more pixels than the limit of {max_pixels:,}.") from None
    except Exception:  # a format that Pillow does not know, or cannot parse: OpenCV has the last word
        return PhotoFacts(None), "", ""
    if width * height > max_pixels:
        raise BadDataset(f"{where} has {height}×{width} pixels, more than the limit of {max_pixels:,}.")
    if kind == "TIFF" and exif == "ignore" and orientation != 1:
        raise BadDataset(
            f"{where} has the orientation {orientation}, and OpenCV turns every TIFF as it says. Leave --exif ignore "
            "out, or convert the file."
        )
    # Of a TIFF Pillow and OpenCV both give the size once it is turned.
    if exif == "apply" and orientation in _SIDEWAYS and kind != "TIFF":
        if shape is not None and tuple(shape) == (height, width) != (width, height):
            raise BadDataset(
                f"{where} is {width}×{height} once it is turned as its EXIF orientation ({orientation}) says, and the "
                f"JSON says {height}×{width} (height × width), which is how it is stored. With --exif ignore "
                "photographs are not turned."
            )
        width, height = height, width
    _refuse_other_shape((height, width), shape, where)
    return PhotoFacts((height, width), orientation if 1 <= orientation <= 8 else 1), kind, mode


def _warning_of_libjpeg(content: bytes, colors: str) -> str:
    """libjpeg's first warning or error when it decodes a JPEG; empty when it has none."""
    try:
        # The smallest size that libjpeg makes still reads all of the compressed data.
        simplejpeg.decode_jpeg(
            content, colors, fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=1, strict=True
        )
    except ValueError as warning:
        return str(warning).rstrip(".")
    return ""


def _is_padded(content: bytes, warning: str, colors: str) -> bool:
    """Whether the bytes that libjpeg calls extraneous are padding, without which the JPEG decodes cleanly.

    Where bits were flipped or lost, a decoder may come to the last pixel early: what is left over is image data, and
    libjpeg's warning is the same. Padding repeats one value.
    """
    for _ in range(_MOST_TRIES):
        found = _EXTRANEOUS.match(warning)
        if found is None:
            return not warning
        count, marker = int(found[1]), bytes([0xFF, int(found[2], 16)])
        for shorter in _without_padding(content, count, marker):
            after = _warning_of_libjpeg(shorter, colors)
            if after != warning:
                content, warning = shorter, after
                break
        else:
            return False
    return False


def _without_padding(content: bytes, count: int, marker: bytes) -> Iterator[bytes]:
    """The file without what may be `count` bytes of padding, for each place of the marker where they may stand."""
    place = -1
    for _ in range(_MOST_TRIES):
        place = content.find(marker, place + 1)
        if place < 0:
            return
        padding = content[max(0, place - count) : place]
        if len(padding) == count and len(set(padding)) == 1:
            yield content[: place - count] + content[place:]


def _refuse_other_shape(found: tuple[int, int], shape: tuple[int, int] | None, where: str) -> None:
    if shape is not None and found != tuple(shape):
        raise BadDataset(f"{where} is {found[0]}×{found[1]} but the JSON says {shape[0]}×{shape[1]} (height × width).")
