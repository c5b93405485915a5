"""Reads photographs with OpenCV, as mmdet does, and detects damage, padding and orientation, which OpenCV hides.

OpenCV decodes a damaged JPEG without an error: libjpeg writes "Corrupt JPEG data" to stderr, and the pixels are wrong.
So each JPEG is decoded a second time by simplejpeg, whose strict mode turns libjpeg's warnings into exceptions in the
calling thread, also with several loaders at once. At an eighth of the size this takes a quarter of the decoding time.
"""

import contextlib
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image

from panbench.base.addresses import path_at
from panbench.base.errors import BadDataset
from panbench.base.text import listed
from panbench.panoptic import pixels
from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
from panbench.panoptic.types import Exif

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
    """What the file of a photograph says besides its pixels.

    shape: (height, width) after decoding; None if only OpenCV knows the format
    orientation: EXIF's, 1 (upright) to 8; OpenCV rotates the pixels accordingly unless told to ignore it
    extraneous: True if a JPEG is padded with bytes that belong to no part of it, which is harmless
    sha256: the digest of the file, 32 bytes
    """

    shape: tuple[int, int] | None
    orientation: int = 1
    extraneous: bool = False
    sha256: bytes = field(default=b"", compare=False)


def inspect_photo(
    path: str | Path, shape: tuple[int, int] | None = None, *, image_id: int | None = None, exif: Exif = "apply"
) -> PhotoFacts:
    """Checks a photograph's file without decoding its pixels. Safe to call from several threads.

    shape: (height, width) that it must have; None accepts any
    image_id: for error messages; exif: whether the photograph will be rotated by its EXIF orientation
    Raises BadDataset for a file that is missing, of another size, too large, or a JPEG of which data is lost.
    """
    where = _photo_in_messages(path, image_id)
    content = _read_photo_bytes(path, where)
    return replace(_inspect_photo_content(content, where, shape, exif), sha256=hashlib.sha256(content).digest())


def read_photo(
    path: str | Path, shape: tuple[int, int] | None = None, *, image_id: int | None = None, exif: Exif = "apply"
) -> tuple[npt.NDArray[np.uint8], PhotoFacts]:
    """Decodes a photograph as OpenCV does: (H, W, 3) uint8 in BGR, with its size, EXIF orientation and file hash.

    Raises as `inspect_photo`.
    """
    where = _photo_in_messages(path, image_id)
    return decode_photo(_read_photo_bytes(path, where), where, shape, exif=exif)


def decode_photo(
    content: bytes, where: str, shape: tuple[int, int] | None = None, *, exif: Exif = "apply"
) -> tuple[npt.NDArray[np.uint8], PhotoFacts]:
    """Decodes the content of a photograph's file to what `read_photo` returns.

    where: the file's name in messages
    """
    facts = _inspect_photo_content(content, where, shape, exif)
    bgr = pixels.decode(content, turned=exif != "ignore")
    if bgr is None:
        raise BadDataset(f"{where} cannot be decoded as an image.")
    _refuse_other_photo_size((bgr.shape[0], bgr.shape[1]), shape, where)
    return bgr, replace(facts, sha256=hashlib.sha256(content).digest())


def _photo_in_messages(path: str | Path, image_id: int | None) -> str:
    """Names a photograph in error messages: its path, with the image id if that is given."""
    return f"{path}" if image_id is None else f"{path} (image {image_id})"


def _read_photo_bytes(path: str | Path, where: str) -> bytes:
    try:
        return path_at(path).read_bytes()
    except FileNotFoundError:
        raise BadDataset(f"{where} was not found.") from None
    except OSError as problem:
        raise BadDataset(f"{where} cannot be read: {problem.strerror or problem}.") from None


def decode_rgb(content: bytes, where: str, *, exif: Exif = "apply") -> npt.NDArray[np.uint8]:
    """Decodes the content of a photograph's file to (H, W, 3) uint8 in RGB: the pixels and errors of `decode_photo`.

    An upright, complete JPEG is decoded only once, as simplejpeg gives pixels and warnings together.
    """
    facts, kind, mode = _inspect_photo_header(content, where, None, exif)
    if kind == "JPEG" and mode in ("RGB", "L") and (facts.orientation == 1 or exif == "ignore"):
        with contextlib.suppress(ValueError):  # damaged or padded: decode_photo distinguishes them
            return cast(
                "npt.NDArray[np.uint8]",
                simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False, strict=True),
            )
    return pixels.rgb_of(decode_photo(content, where, exif=exif)[0])


def _inspect_photo_content(content: bytes, where: str, shape: tuple[int, int] | None, exif: Exif) -> PhotoFacts:
    """Checks header and, of a JPEG, the compressed data. Raises BadDataset if data is lost."""
    facts, kind, mode = _inspect_photo_header(content, where, shape, exif)
    if kind not in ("JPEG", "MPO"):
        return facts
    colors = "CMYK" if mode == "CMYK" else "GRAY"
    warning = _warning_of_libjpeg(content, colors)
    extraneous = _EXTRANEOUS.match(warning) is not None and _is_padded_jpeg(content, warning, colors)
    if warning.startswith(_LOST) and not extraneous:
        raise BadDataset(f"{where} is a damaged JPEG: data is lost ({warning}). Fetch it again.")
    return replace(facts, extraneous=extraneous)


def _inspect_photo_header(
    content: bytes, where: str, shape: tuple[int, int] | None, exif: Exif
) -> tuple[PhotoFacts, str, str]:
    """Reads a photograph's header: returns facts, Pillow's format and mode, both "" if only OpenCV knows the format."""
    if not content:
        raise BadDataset(f"{where} cannot be decoded as an image: the file is empty.")
    try:
        # Only the header is read here.
        with Image.open(io.BytesIO(content)) as image:
            (width, height), kind, mode = image.size, image.format or "", image.mode
            orientation = int(image.getexif().get(_ORIENTATION, 1)) if "exif" in image.info or kind == "TIFF" else 1
    except Image.DecompressionBombError:
        raise BadDataset(f"{where} has more pixels than the limit of {DEFAULT_MAX_PIXELS:,}.") from None
    except Exception:  # a format that Pillow does not know, or cannot parse: OpenCV has the last word
        return PhotoFacts(None), "", ""
    if width * height > DEFAULT_MAX_PIXELS:
        raise BadDataset(f"{where} has {height}×{width} pixels, more than the limit of {DEFAULT_MAX_PIXELS:,}.")
    if kind == "TIFF" and exif == "ignore" and orientation != 1:
        raise BadDataset(
            f"{where} has the orientation {orientation}, and OpenCV turns every TIFF as it says. Leave --exif ignore "
            "out, or convert the file."
        )
    # For a TIFF both Pillow and OpenCV report the size after rotation.
    if exif == "apply" and orientation in _SIDEWAYS and kind != "TIFF":
        if shape is not None and tuple(shape) == (height, width) != (width, height):
            raise BadDataset(
                f"{where} is {width}×{height} once it is turned as its EXIF orientation ({orientation}) says, and the "
                f"JSON says {height}×{width} (height × width), which is how it is stored. With --exif ignore "
                "photographs are not turned."
            )
        width, height = height, width
    _refuse_other_photo_size((height, width), shape, where)
    return PhotoFacts((height, width), orientation if 1 <= orientation <= 8 else 1), kind, mode


def _warning_of_libjpeg(content: bytes, colors: str) -> str:
    """Decodes a JPEG at its smallest size; returns libjpeg's first warning or error, or ""."""
    try:
        # The smallest size that libjpeg makes still reads all of the compressed data.
        simplejpeg.decode_jpeg(
            content, colors, fastdct=True, fastupsample=True, min_height=1, min_width=1, min_factor=1, strict=True
        )
    except ValueError as warning:
        return str(warning).rstrip(".")
    return ""


def _is_padded_jpeg(content: bytes, warning: str, colors: str) -> bool:
    """True if a JPEG's extraneous bytes are padding of one value, without which it decodes cleanly.

    libjpeg warns alike if bits were flipped or lost, so that it reached the last pixel early and image data is left.
    """
    for _ in range(_MOST_TRIES):
        found = _EXTRANEOUS.match(warning)
        if found is None:
            return not warning
        count, marker = int(found[1]), bytes([0xFF, int(found[2], 16)])
        for shorter in _jpegs_without_padding(content, count, marker):
            after = _warning_of_libjpeg(shorter, colors)
            if after != warning:
                content, warning = shorter, after
                break
        else:
            return False
    return False


def _jpegs_without_padding(content: bytes, count: int, marker: bytes) -> Iterator[bytes]:
    """Yields copies of a JPEG, each without `count` equal bytes that stood before a marker and may be padding."""
    start = -1
    for _ in range(_MOST_TRIES):
        start = content.find(marker, start + 1)
        if start < 0:
            return
        padding = content[max(0, start - count) : start]
        if len(padding) == count and len(set(padding)) == 1:
            yield content[: start - count] + content[start:]


def _refuse_other_photo_size(found: tuple[int, int], shape: tuple[int, int] | None, where: str) -> None:
    """Raises BadDataset if a photograph does not have the size in the JSON."""
    if shape is not None and found != tuple(shape):
        raise BadDataset(f"{where} is {found[0]}×{found[1]} but the JSON says {shape[0]}×{shape[1]} (height × width).")


ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def find_photographs(images: Iterable[Path]) -> list[Path]:
    """Lists the image files among `images` and in its folders, sorted. Raises BadDataset for missing files."""
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            inside = sorted(file for file in path.glob("*") if file.suffix.lower() in ENDINGS and file.is_file())
            if not inside:
                raise BadDataset(f"{path} holds no image ({listed(ENDINGS)}).")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise BadDataset(f"There is no image {path}.")
    return list(dict.fromkeys(found))
