"""Decodes and encodes image files with OpenCV if it is installed; without it the pixels are the same.

mmdet's pipelines read with OpenCV, so it comes with what runs models. Scoring and reports do without: libjpeg-turbo,
which OpenCV decodes JPEGs with, is also in simplejpeg, and Pillow decodes the other formats. Both ways are held to
the same pixels by tests/panoptic/test_pixels.py.
"""

import contextlib
import functools
import io
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps

Pixels = npt.NDArray[np.uint8]

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX")


@functools.cache
def opencv() -> Any | None:
    """Returns the module cv2; None if it is not installed."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def decode(content: bytes | Pixels, *, turned: bool = True) -> Pixels | None:
    """Decodes an image file to (H, W, 3) uint8 in BGR; None if that fails.

    turned: rotates it by its EXIF orientation; a TIFF always is
    """
    if (cv2 := opencv()) is None:
        return _decode_without_opencv(bytes(content), turned)
    flags = cv2.IMREAD_COLOR | (0 if turned else cv2.IMREAD_IGNORE_ORIENTATION)
    buffer = np.frombuffer(content, np.uint8)
    try:
        return cast("Pixels | None", cv2.imdecode(buffer, flags) if len(buffer) else None)
    except cv2.error:
        return None


def _decode_without_opencv(content: bytes, turned: bool) -> Pixels | None:
    """Decodes an image file to the pixels that OpenCV gives; None if that fails."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            rgb = _rgb_by_pillow(image, content)
            if rgb is None:
                return None
            if turned and image.format != "TIFF":
                rgb = _apply_orientation(rgb, image.getexif())
            return np.ascontiguousarray(rgb[..., ::-1])
    except Exception:  # Pillow's decoders raise what they meet, SyntaxError and struct.error among it
        return None


def _rgb_by_pillow(image: Image.Image, content: bytes) -> Pixels | None:
    """Decodes an open image to the RGB that OpenCV gives; None for modes that OpenCV cannot read."""
    if image.format in ("JPEG", "MPO"):
        if image.mode != "CMYK":
            return cast(Pixels, simplejpeg.decode_jpeg(content, "RGB", fastdct=False, fastupsample=False))
        # OpenCV converts the stored numbers, with this rounding.
        cmyk = np.asarray(image).astype(np.int32)
        if "adobe" in image.info:
            cmyk = 255 - cmyk  # Pillow has undone what Adobe does
        black = cmyk[..., 3:]
        return cast(Pixels, (black - ((255 - cmyk[..., :3]) * black >> 8)).astype(np.uint8))
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(image.convert("RGB")) if image.mode in _EIGHT_BITS else None


def _apply_orientation(rgb: Pixels, exif: Image.Exif) -> Pixels:
    """Turns RGB pixels upright as EXIF says."""
    upright = Image.fromarray(rgb)
    upright.getexif().update(exif)
    return np.asarray(ImageOps.exif_transpose(upright))


def bgr_to_rgba(bgr: Pixels, out: Pixels) -> None:
    """Converts (H, W, 3) BGR into `out`, (H, W, 4) RGB with 255 as the fourth channel."""
    if (cv2 := opencv()) is not None:
        cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA, dst=out)
        return
    out[..., :3] = bgr[..., ::-1]
    out[..., 3] = 255


def rgb_of(bgr: Pixels) -> Pixels:
    """Converts (H, W, 3) BGR to contiguous RGB."""
    if (cv2 := opencv()) is not None:
        return cast(Pixels, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    return np.ascontiguousarray(bgr[..., ::-1])


def dilate(mask: npt.NDArray[np.bool_], side: int) -> npt.NDArray[np.bool_]:
    """Dilates an (H, W) mask by a square of `side` pixels (odd)."""
    marked = mask.view(np.uint8)
    if (cv2 := opencv()) is not None:
        return cast("npt.NDArray[np.bool_]", cv2.dilate(marked, np.ones((side, side), np.uint8)).view(np.bool_))
    from scipy import ndimage

    return cast("npt.NDArray[np.bool_]", ndimage.maximum_filter(marked, size=side, mode="constant").view(np.bool_))


def shrink(rgb: Pixels, size: tuple[int, int]) -> Pixels:
    """Resizes (H, W, 3) to a smaller size (width, height) by averaging the pixels that each new pixel covers."""
    if size == rgb.shape[1::-1]:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.HAMMING))


def nearest(pixels: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
    """Resizes (H, W, …) to size (width, height), like OpenCV's INTER_NEAREST."""
    width, height = size
    rows, columns = (
        np.minimum(np.arange(new) * (old / new), old - 1).astype(np.intp)
        for new, old in zip((height, width), pixels.shape[:2], strict=True)
    )
    # Rows first: each is copied at once.
    return np.take(np.take(pixels, rows, axis=0), columns, axis=1)


def encode_jpeg(rgb: Pixels, quality: int) -> bytes:
    """Encodes (H, W, 3) RGB as JPEG with chroma at half the resolution."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", colorsubsampling="420")


def encode_png(rgb: Pixels) -> bytes:
    """Encodes (H, W, 3) RGB as PNG. OpenCV's bytes differ from Pillow's, the pixels do not."""
    if (cv2 := opencv()) is not None:
        return cast(bytes, cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes())
    written = io.BytesIO()
    Image.fromarray(rgb).save(written, "PNG")
    return written.getvalue()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Context in which OpenCV uses only the calling thread, because images are already distributed over threads."""
    if (cv2 := opencv()) is None:
        yield
        return
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
