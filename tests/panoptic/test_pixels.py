"""Pixels without OpenCV are those with it."""

import io

import numpy as np
import pytest
from PIL import Image

from panbench.panoptic import pixels

cv2 = pixels.opencv()
pytestmark = pytest.mark.skipif(cv2 is None, reason="OpenCV is not installed: there is nothing to compare with")


@pytest.fixture
def without_opencv(monkeypatch):
    """Called: pixels does without OpenCV from now on."""
    return lambda: monkeypatch.setattr(pixels, "opencv", lambda: None)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Soft colours with some noise, as a photograph has them."""
    rng = np.random.default_rng(seed)
    soft = Image.fromarray(rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), np.uint8))
    noise = rng.integers(-9, 9, (height, width, 3))
    return Image.fromarray(
        np.clip(np.asarray(soft.resize((width, height), 3)).astype(int) + noise, 0, 255).astype(np.uint8)
    )


def stored(image: Image.Image, form: str, **how) -> bytes:
    written = io.BytesIO()
    image.save(written, form, **how)
    return written.getvalue()


def files() -> dict[str, bytes]:
    image = picture(61, 83)
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257 - 3)
    jpegs = {
        f"JPEG {mode} {subsampling} {progressive}": stored(
            picture(40 + subsampling, 75, subsampling).convert(mode),
            "JPEG",
            subsampling=subsampling,
            progressive=progressive,
        )
        for mode in ("RGB", "L", "CMYK")
        for subsampling in (0, 1, 2)
        for progressive in (False, True)
    }
    pngs = {f"PNG {mode}": stored(image.convert(mode), "PNG") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")}
    others = {form: stored(image, form) for form in ("BMP", "WEBP", "TIFF")}
    return {
        **jpegs,
        **pngs,
        **others,
        "JPEG on its side": stored(image, "JPEG", exif=exif),
        "PNG on its side": stored(image, "PNG", exif=exif),
        "TIFF on its side": stored(image, "TIFF", exif=exif),
        "PNG of 16 bits": stored(deep, "PNG"),
        "no image": b"no image",
        "cut short": stored(image, "PNG")[:40],
        "empty": b"",
    }


@pytest.mark.parametrize("turned", [True, False])
def test_the_same_pixels_are_decoded_with_and_without_opencv(without_opencv, turned):
    having = {name: pixels.decode(content, turned=turned) for name, content in files().items()}
    without_opencv()
    for name, content in files().items():
        if name == "TIFF on its side" and not turned:
            continue  # refused before it is decoded
        found, meant = pixels.decode(content, turned=turned), having[name]
        assert (found is None) == (meant is None), name
        assert found is None or np.array_equal(found, meant), name


def test_a_mask_is_dilated_to_the_same_pixels_with_and_without_opencv(without_opencv):
    mask = np.random.default_rng(1).random((40, 53)) > 0.98
    having = [pixels.dilate(mask, side) for side in (1, 3, 9, 25)]
    without_opencv()
    for side, meant in zip((1, 3, 9, 25), having, strict=True):
        assert np.array_equal(pixels.dilate(mask, side), meant)


def test_nearest_neighbour_equals_opencvs():
    ids = np.random.default_rng(2).integers(0, 9, (37, 51)).astype(np.float32)
    for size in [(51, 37), (17, 11), (100, 90), (1, 1), (50, 36), (153, 111)]:
        assert np.array_equal(pixels.nearest(ids, size), cv2.resize(ids, size, interpolation=cv2.INTER_NEAREST)), size


def test_shrinking_keeps_the_mean():
    rgb = np.asarray(picture(480, 640))
    small = pixels.shrink(rgb, (213, 160))
    assert small.shape == (160, 213, 3)
    assert np.allclose(small.mean(axis=(0, 1)), rgb.mean(axis=(0, 1)), atol=1)


def test_encoded_png_and_jpeg_decode_to_the_picture(without_opencv):
    rgb = np.asarray(picture(48, 64))
    for _ in range(2):
        assert np.array_equal(pixels.decode(pixels.encode_png(rgb))[..., ::-1], rgb)
        assert np.abs(pixels.decode(pixels.encode_jpeg(rgb, 95))[..., ::-1].astype(int) - rgb).mean() < 8
        without_opencv()
