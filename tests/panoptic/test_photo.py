"""Photographs: OpenCV's pixels, and what OpenCV keeps to itself."""

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from panbench.base.errors import BadDataset
from panbench.panoptic import photo
from panbench.panoptic.photo import decode_photo, decode_rgb, inspect_photo, read_photo


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def jpeg(pixels: np.ndarray, *, progressive: bool = False, orientation: int | None = None, mode: str = "RGB") -> bytes:
    handle = io.BytesIO()
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(pixels).convert(mode).save(handle, "JPEG", quality=90, progressive=progressive, exif=exif)
    return handle.getvalue()


def file_of(folder: Path, content: bytes, name: str = "a.jpg") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoded_pixels_equal_opencvs(tmp_path, progressive, mode):
    path = file_of(tmp_path, jpeg(picture(), progressive=progressive, mode=mode))
    bgr, facts = read_photo(path, (48, 64))
    np.testing.assert_array_equal(bgr, cv2.imread(str(path), cv2.IMREAD_COLOR))
    assert facts == inspect_photo(path) == photo.PhotoFacts((48, 64))


@pytest.mark.parametrize("exif", ["apply", "ignore"])
@pytest.mark.parametrize("orientation", [None, 1, 6])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_photograph_decoded_for_a_picture_has_the_same_pixels(mode, progressive, orientation, exif):
    content = jpeg(picture(), progressive=progressive, mode=mode, orientation=orientation)
    bgr, _ = decode_photo(content, "a", exif=exif)
    np.testing.assert_array_equal(decode_rgb(content, "a", exif=exif), bgr[..., ::-1])


def test_a_photograph_decoded_small_is_refused_or_padded_as_at_full_size():
    content = jpeg(picture())
    padded = content[:-2] + bytes(5) + content[-2:]
    np.testing.assert_array_equal(decode_rgb(padded, "a"), decode_rgb(content, "a"))
    for torn in (content[: len(content) * 2 // 3], b"", b"nothing"):
        with pytest.raises(BadDataset) as refused:
            decode_photo(torn, "a.jpg")
        with pytest.raises(BadDataset) as refused_too:
            decode_rgb(torn, "a.jpg")
        assert str(refused_too.value) == str(refused.value)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp"])
def test_formats_other_than_jpeg_are_read(tmp_path, suffix):
    path = file_of(tmp_path, cv2.imencode(suffix, picture())[1].tobytes(), f"a{suffix}")
    bgr, facts = read_photo(path, (48, 64))
    assert bgr.shape == (48, 64, 3)
    assert facts.orientation == 1


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lost_data_is_refused_by_name(tmp_path, progressive):
    """OpenCV decodes it without an error."""
    content = jpeg(picture(), progressive=progressive)
    path = file_of(tmp_path, content[: len(content) * 2 // 3])
    assert cv2.imread(str(path)) is not None
    with pytest.raises(BadDataset, match=r"a\.jpg \(image 7\) is a damaged JPEG: data is lost"):
        read_photo(path, image_id=7)
    with pytest.raises(BadDataset, match="data is lost"):
        inspect_photo(path)


@pytest.mark.parametrize("padding", [bytes(5), bytes(50), b"\xff" * 40, b" " * 300])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_padding_is_reported_and_changes_no_pixel(tmp_path, padding, progressive):
    content = jpeg(picture(seed=2), progressive=progressive)
    padded = content[:-2] + padding + content[-2:]
    path = file_of(tmp_path, padded)
    assert cv2.imdecode(np.frombuffer(padded, np.uint8), cv2.IMREAD_COLOR) is not None
    bgr, facts = read_photo(path)
    np.testing.assert_array_equal(bgr, cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR))
    heard = photo._warning_of_libjpeg(padded, "GRAY")
    assert facts.extraneous == ("extraneous" in heard)
    assert facts.extraneous or padding != bytes(50)


@pytest.mark.parametrize("progressive", [False, True])
def test_every_flipped_bit_that_libjpeg_reports_is_refused_or_reported(tmp_path, progressive):
    """For many flips libjpeg has the words that it has for padding: the last pixel came early, data is left over."""
    content = jpeg(picture(), progressive=progressive)
    upright = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    start = content.index(b"\xff\xda") + 14
    as_padding = 0
    for place in range(start, len(content) - 2, 5):
        flipped = content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :]
        heard = photo._warning_of_libjpeg(flipped, "GRAY")
        decoded = cv2.imdecode(np.frombuffer(flipped, np.uint8), cv2.IMREAD_COLOR)
        if not heard or decoded is None or np.array_equal(decoded, upright):
            continue
        as_padding += "extraneous bytes" in heard
        with pytest.raises(BadDataset, match="data is lost"):
            inspect_photo(file_of(tmp_path, flipped))
    assert as_padding


def test_eight_parallel_loaders_report_each_its_own_image(tmp_path):
    paths, damaged = [], set()
    for number in range(64):
        content = jpeg(picture(seed=number))
        if number % 3 == 0:
            content = content[: len(content) // 2]
            damaged.add(number)
        paths.append(file_of(tmp_path, content, f"{number}.jpg"))

    def refused(path: Path) -> bool:
        try:
            read_photo(path)
        except BadDataset as error:
            return path.name in str(error)
        return False

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = {number for number, bad in enumerate(pool.map(refused, paths)) if bad}
            assert found == damaged


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_orientation_is_applied_as_in_opencv_or_ignored(tmp_path, orientation):
    path = file_of(tmp_path, jpeg(picture(), orientation=orientation))
    turned, facts = read_photo(path)
    np.testing.assert_array_equal(turned, cv2.imread(str(path), cv2.IMREAD_COLOR))
    assert facts == photo.PhotoFacts((64, 48) if orientation >= 5 else (48, 64), orientation)
    lying, facts = read_photo(path, (48, 64), exif="ignore")
    np.testing.assert_array_equal(lying, cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION))
    assert facts.orientation == orientation


def test_an_image_of_absurd_size_is_refused_from_the_header_alone(tmp_path, monkeypatch):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    path = file_of(tmp_path, content, "a.png")
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(BadDataset, match=r"has more pixels than the limit of 100,000,000\."):
        read_photo(path)


def test_a_size_unlike_the_json_is_refused_from_the_header_alone(tmp_path, monkeypatch):
    path = file_of(tmp_path, jpeg(picture()))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(BadDataset, match="is 48×64 but the JSON says 480×640"):
        read_photo(path, (480, 640))


@pytest.mark.parametrize(
    ("content", "message"), [(None, "was not found"), (b"", "empty"), (b"text", "cannot be decoded as an image")]
)
def test_a_file_that_is_not_a_photograph_is_refused(tmp_path, content, message):
    path = tmp_path / "a.jpg" if content is None else file_of(tmp_path, content)
    with pytest.raises(BadDataset, match=message):
        read_photo(path)
