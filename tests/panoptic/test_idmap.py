"""Id PNGs become the runs they hold, with and without compiled code; PNGs that are no id maps are refused."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from panbench.panoptic import idmap, native
from panbench.panoptic.idmap import IdRuns, count_ids, count_run_pairs, decode_id_png, decode_id_runs, encode_id_png

IDS = np.array([[0, 0, 5, 5], [5, 5, 5, 16777215]], np.int32)


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def engine(request, monkeypatch):
    """Runs every test twice: with the compiled idmap.c and without."""
    if request.param == "numpy":
        monkeypatch.setattr(idmap, "native", lambda: None)
    elif native.native() is None:
        pytest.skip("idmap.c is not compiled")
    return request.param


def png(rows: bytes, height: int, width: int, color_type: int = 2, depth: int = 8, interlace: int = 0) -> bytes:
    """A PNG of rows that are filtered already."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlace)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def unfiltered(rows: bytes, height: int, width: int, bpp: int) -> np.ndarray:
    """The ids that filtered rows stand for, byte by byte as the PNG specification has it."""
    n = width * bpp
    above, pixels = [0] * n, []
    for y in range(height):
        kind, residual = rows[y * (n + 1)], rows[y * (n + 1) + 1 : (y + 1) * (n + 1)]
        row: list[int] = []
        for i in range(n):
            left, corner = (row[i - bpp], above[i - bpp]) if i >= bpp else (0, 0)
            guess = left + above[i] - corner
            nearest = min((left, above[i], corner), key=lambda value: abs(guess - value))
            row.append((residual[i] + [0, left, above[i], (left + above[i]) // 2, nearest][kind]) % 256)
        pixels.append(row)
        above = row
    channels = np.array(pixels, np.int32).reshape(height, width, bpp)
    return channels[..., 0] + 256 * channels[..., 1] + 65536 * channels[..., 2]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_filter_of_png_is_undone(data):
    height, width, bpp = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 40)), data.draw(st.sampled_from([3, 4]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    rows = rng.integers(0, 256, (height, 1 + width * bpp), np.uint8)
    rows[rng.random(rows.shape) < rng.choice([0, 0.9, 0.99])] = 0  # flat stretches, as masks have
    rows[:, 0] = rng.choice(5, height)
    content = png(rows.tobytes(), height, width, {3: 2, 4: 6}[bpp])
    expected = unfiltered(rows.tobytes(), height, width, bpp)
    np.testing.assert_array_equal(decode_id_png(content), expected)
    runs = decode_id_runs(content)
    np.testing.assert_array_equal(runs.to_id_map(), expected)
    assert (runs.ids[1:] != runs.ids[:-1]).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32))
def test_pairs_of_runs_are_the_pairs_of_pixels(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 30, 2))
    top = int(rng.choice([3, 1 << 24]))
    gt, pred = (rng.integers(0, top, shape).astype(np.int32) for _ in range(2))
    gt_id, pred_id, pixels = count_run_pairs(IdRuns.of_map(gt), IdRuns.of_map(pred))
    pairs, counts = np.unique(np.stack([gt.ravel(), pred.ravel()]), axis=1, return_counts=True)
    np.testing.assert_array_equal(np.stack([gt_id, pred_id]), pairs)
    np.testing.assert_array_equal(pixels, counts)


def test_runs_continue_across_rows():
    runs = IdRuns.of_map(IDS)
    assert runs.ends.tolist() == [2, 7, 8]
    assert runs.ids.tolist() == [0, 5, 16777215]
    np.testing.assert_array_equal(runs.to_id_map(), IDS)


def test_a_map_whose_every_pixel_has_another_id_fits_the_buffer():
    ids = np.arange(300, dtype=np.int32).reshape(10, 30)
    np.testing.assert_array_equal(decode_id_runs(encode_id_png(ids)).ids, ids.ravel())
    assert len(IdRuns.of_map(ids)) == 300


def test_other_programs_read_our_pngs():
    content = encode_id_png(IDS)
    rgb = np.array(Image.open(io.BytesIO(content))).astype(int)
    np.testing.assert_array_equal(rgb @ [1, 256, 65536], IDS)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], rgb)


def test_we_read_pngs_of_other_programs():
    rgb = np.stack([IDS & 255, IDS >> 8 & 255, IDS >> 16], axis=2).astype(np.uint8)
    for mode in ("RGB", "RGBA"):
        handle = io.BytesIO()
        Image.fromarray(rgb).convert(mode).save(handle, "PNG")
        np.testing.assert_array_equal(decode_id_png(handle.getvalue()), IDS)
    np.testing.assert_array_equal(decode_id_png(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()), IDS)


def test_alpha_is_ignored_even_if_transparent():
    pixels = bytes([7, 1, 0, 0]) + bytes([7, 1, 0, 255])
    np.testing.assert_array_equal(decode_id_runs(png(b"\0" + pixels, 1, 2, color_type=6)).to_id_map(), [[263, 263]])


def test_an_image_in_several_data_chunks_is_read():
    content = encode_id_png(IDS)
    start = content.index(b"IDAT") - 4
    length = struct.unpack(">I", content[start : start + 4])[0]
    data, end = content[start + 8 : start + 8 + length], content[start + 12 + length :]
    halves = b"".join(
        struct.pack(">I", len(half)) + b"IDAT" + half + struct.pack(">I", zlib.crc32(b"IDAT" + half))
        for half in (data[:5], data[5:])
    )
    np.testing.assert_array_equal(decode_id_png(content[:start] + halves + end), IDS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a PNG"),
        (b"\xff\xd8\xff\xe0 a JPEG", "is not a PNG"),
        (png(b"\0" + b"\1" * 4, 1, 4, color_type=3), "8-bit palette PNG"),
        (png(b"\0" + b"\1" * 4, 1, 4, color_type=0), "8-bit grey PNG"),
        (png(b"\0" + b"\1" * 24, 1, 4, depth=16), "16-bit RGB PNG"),
        (png(b"\7" + b"\1" * 12, 1, 4), "damaged PNG"),
        (png(b"\0" + b"\1" * 11, 1, 4), "damaged PNG"),
        (png(b"\0" + b"\1" * 99, 1, 4), "damaged PNG"),
        (png(b"", 0, 4), "damaged PNG"),
        (png(b"\0" + b"\1" * 12 + b"\5" + b"\1" * 12, 2, 4), "damaged PNG"),  # an unknown filter in a later row
        (encode_id_png(IDS), "is 2×4 where 4×2"),
    ],
)
def test_a_png_of_another_kind_or_size_is_refused(content, message):
    with pytest.raises(ValueError, match=message):
        decode_id_png(content, **({"shape": (4, 2)} if "where" in message else {}))


def test_a_png_cut_off_anywhere_is_refused():
    rng = np.random.default_rng(0)
    content = encode_id_png(rng.integers(0, 1 << 24, (8, 9)))
    for length in range(len(content) - 4):
        with pytest.raises(ValueError, match=r"truncated|damaged|not a PNG"):
            decode_id_png(content[:length])


def test_a_flipped_bit_in_pixels_or_size_is_detected():
    content = encode_id_png(IDS)
    for place in range(16, len(content) - 20):
        damaged = bytearray(content)
        damaged[place] ^= 4
        try:
            ids = decode_id_png(bytes(damaged))
        except ValueError:
            continue
        np.testing.assert_array_equal(ids, IDS, err_msg=f"byte {place}")


def test_a_huge_png_is_refused_before_it_is_decoded():
    header_only = png(b"", 20000, 20000)
    with pytest.raises(ValueError, match=r"20000×20000 pixels, more than the limit of 100,000,000"):
        decode_id_png(header_only)
    with pytest.raises(ValueError, match="damaged"):  # the limit is raised, and now it is looked into
        decode_id_png(header_only, max_pixels=400_000_000)


def test_ids_that_a_png_cannot_hold_are_not_written():
    for ids in (np.array([[-1]]), np.array([[1 << 24]]), np.zeros((0, 3), int), np.zeros(4, int)):
        with pytest.raises(ValueError, match="must"):
            encode_id_png(ids)


def test_an_interlaced_png_is_read():
    # Two pixels in a row: Adam7 puts the first in pass 1 and the second in pass 6.
    content = png(b"\0" + bytes([5, 1, 0]) + b"\0" + bytes([6, 0, 2]), 1, 2, interlace=1)
    np.testing.assert_array_equal(decode_id_png(content), [[261, 131078]])
    with pytest.raises(ValueError, match="damaged"):
        decode_id_png(png(b"\0" + bytes(9999), 1, 2, interlace=1))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 8), (9, 13), (17, 2)])
def test_an_interlaced_png_of_any_size_is_read(height, width):
    ids = np.arange(1, 1 + height * width, dtype=np.int32).reshape(height, width) * 7919
    pixels = np.ascontiguousarray(ids, "<i4").view(np.uint8).reshape(height, width, 4)[..., :3]
    rows = b"".join(b"\0" + row.tobytes() for x, y, dx, dy in idmap._ADAM7 for row in pixels[y::dy, x::dx] if row.size)
    np.testing.assert_array_equal(decode_id_png(png(rows, height, width, interlace=1)), ids)


def test_without_libdeflate_results_are_the_same(monkeypatch):
    content = encode_id_png(IDS)
    monkeypatch.setattr(idmap, "deflate", None)
    for written in (content, encode_id_png(IDS)):
        np.testing.assert_array_equal(decode_id_png(written), IDS)
    for rows in (b"\0" + b"\1" * 11, b"\0" + b"\1" * 99):
        with pytest.raises(ValueError, match="damaged"):
            decode_id_png(png(rows, 1, 4))


@pytest.mark.parametrize("start", [b"IDAT", b"IEND"])
def test_a_chunk_with_a_wrong_checksum_is_refused(start):
    content = bytearray(encode_id_png(IDS))
    at = content.index(start) - 4
    content[at + 8 + int.from_bytes(content[at : at + 4], "big")] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        decode_id_runs(bytes(content))


def test_a_wrong_checksum_of_a_comment_is_ignored():
    content = encode_id_png(IDS)
    comment = struct.pack(">I4s4sI", 4, b"tEXt", b"a\0bc", 0)
    np.testing.assert_array_equal(decode_id_png(content[:33] + comment + content[33:]), IDS)


@pytest.mark.parametrize("size", [(1, 1), (151, 217), (51, 428)])
def test_pngs_of_any_number_of_stored_blocks_are_decoded(size):
    # The last has exactly 65,535 bytes, a full block: the fallback's last block is then empty.
    ids = np.random.default_rng(1).integers(0, 1 << 24, size).astype(np.int32)
    np.testing.assert_array_equal(decode_id_png(encode_id_png(ids)), ids)


def test_decoded_maps_do_not_share_memory():
    first, second = decode_id_png(encode_id_png(IDS)), decode_id_png(encode_id_png(IDS[::-1]))
    np.testing.assert_array_equal(first, IDS)
    np.testing.assert_array_equal(second, IDS[::-1])


class TestNative:
    @pytest.fixture(autouse=True)
    def _loads_anew(self, monkeypatch):
        monkeypatch.setattr(native, "_loaded", [])

    @pytest.mark.parametrize(("content", "why"), [(None, "was not found"), (b"not a library", "cannot be loaded")])
    def test_a_missing_or_damaged_library_falls_back_with_an_explanation(self, monkeypatch, tmp_path, content, why):
        library = tmp_path / "_idmap.so"
        if content is not None:
            library.write_bytes(content)
        monkeypatch.setattr(native, "_LIBRARY", library)
        assert native.native() is None
        assert f"{library} {why}" in native.why_not_compiled()
        assert "The numbers are the same." in native.why_not_compiled()

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda text: text + b"/* changed */", "was compiled from another version of idmap.c"),
            (lambda text: text.replace(b"\n", b"\r\n"), None),
        ],
        ids=["another source", "line endings of a Windows checkout"],
    )
    def test_a_library_of_another_source_is_not_used(self, monkeypatch, tmp_path, engine, change, why):
        if engine == "numpy":
            pytest.skip("loads nothing")
        source = tmp_path / "idmap.c"
        source.write_bytes(change(native._SOURCE.read_bytes()))
        monkeypatch.setattr(native, "_SOURCE", source)
        assert (native.native() is None) == (why is not None)
        assert why is None or why in native.why_not_compiled()

    def test_nothing_is_compiled_and_nothing_is_loaded_from_the_cache_folder(self, monkeypatch, tmp_path):
        """Others may write to a cache folder, and $CC may be anything."""
        ran = tmp_path / "ran"
        compiler = tmp_path / "compiler"
        compiler.write_text(f"#!/bin/sh\ntouch {ran}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CC", str(compiler))
        monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(native, "_LIBRARY", tmp_path / "_idmap.so")
        assert native.native() is None
        monkeypatch.setenv("CC", "'unbalanced")
        monkeypatch.setattr(native, "_loaded", [])
        assert native.native() is None
        assert not ran.exists()
        assert not (tmp_path / "cache").exists()

    def test_the_library_can_be_switched_off_without_a_notice(self, monkeypatch):
        monkeypatch.setenv("PANBENCH_NATIVE", "0")
        assert native.native() is None
        assert native.why_not_compiled() is None


def test_ids_are_counted_with_void_and_in_ascending_order():
    found = count_ids(np.array([[7, 0, 7], [1 << 23, 7, 0]], np.int32))
    assert list(found.items()) == [(0, 2), (7, 3), (1 << 23, 1)]
    assert count_ids(np.zeros(0, np.int32)) == {}
