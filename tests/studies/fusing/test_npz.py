"""Arrays from anybody: whatever a file declares, the answer is arrays or one sentence, without memory for more."""

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
from support import refusal, refused

from panbench.base.errors import BadArgument
from panbench.studies.fusing.npz import read_npz


def npy(shape, dtype="<f4", content=b"", fortran=False, version=(1, 0)) -> bytes:
    """A .npy that declares this shape, whatever its content is."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    size = "<H" if version == (1, 0) else "<I"
    return b"\x93NUMPY" + bytes(version) + struct.pack(size, len(header)) + header + content


def stored(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


def test_arrays_round_trip_through_numpy(path):
    arrays = {
        "floats": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "other_end": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 4)),
        "single": np.array(7),
        "words": np.array(["a", "böse"]),
        "bits": np.array([True, False]),
    }
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        found = read_npz(path)
        assert list(found) == list(arrays)
        for name, value in arrays.items():
            assert found[name].dtype == value.dtype
            assert np.array_equal(found[name], value), name
            assert found[name].flags.writeable


@pytest.mark.parametrize(
    "shape",
    [
        "(2147483648,)",
        "(1099511627776,)",
        "(1180591620717411303424,)",
        "(-1,)",
        "(3,)",
        "(20000, 20000)",
        "(0, 1180591620717411303424)",
        "(1,) * 40",
        "('a',)",
        "7",
    ],
)
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_a_false_shape_allocates_no_memory(path, shape, version, monkeypatch):
    stored(path, {"a.npy": npy(shape, content=b"1234" * 4, version=version)})
    for name in ("empty", "frombuffer"):
        monkeypatch.setattr(np, name, lambda *_, **__: pytest.fail("memory was taken for it"))
    assert "a.npz cannot be read as arrays of NumPy (" in refusal(BadArgument, read_npz, path)


@pytest.mark.parametrize(
    "name", ["", ".npy", "..npy", "...npy", "a\0b.npy", "../a.npy", "a/b.npy", "a\x1b[2J.npy", " .npy"]
)
def test_names_that_no_array_can_have_are_refused(path, name):
    with zipfile.ZipFile(path, "w") as archive:
        member = zipfile.ZipInfo("placeholder")
        member.filename = name
        archive.writestr(member, npy("(1,)", content=b"1234"))
    assert "is not a name of an array" in refusal(BadArgument, read_npz, path)


@pytest.mark.parametrize("dtype", ["|O", "|V0", "<U0", "|S0", "nonsense", "<f4' + 'x"])
def test_types_other_than_numbers_are_refused(path, dtype):
    stored(path, {"a.npy": npy("(1,)", dtype, b"12345678")})
    assert "cannot be read as arrays" in refusal(BadArgument, read_npz, path)


def test_encrypted_members_and_unknown_methods_are_refused(path):
    np.savez(path, a=np.zeros(3))
    content = bytearray(path.read_bytes())
    central = content.index(b"PK\x01\x02")
    for place, value in ((central + 8, 1), (central + 10, 99)):
        changed = bytearray(content)
        changed[place] = value
        path.write_bytes(changed)
        assert "cannot be read as arrays" in refusal(BadArgument, read_npz, path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_names_and_oversized_arrays_are_refused(path, monkeypatch):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy("(1,)", content=b"1234"))
        archive.writestr("a.npy", npy("(1,)", content=b"5678"))
    assert "two arrays have one name" in refusal(BadArgument, read_npz, path)
    np.savez_compressed(path, a=np.zeros(10_000))
    monkeypatch.setattr("panbench.studies.fusing.npz._machine_memory_bytes", lambda: 50_000)
    assert "its arrays take 80 kB, and this machine has 50 kB of memory" in refusal(BadArgument, read_npz, path)


def test_a_flipped_byte_gives_arrays_or_an_error_message(path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, a=np.arange(5), b=np.array("x"))
    content = buffer.getvalue()
    for place in range(len(content)):
        for change in (0x01, 0xFF):
            damaged = bytearray(content)
            damaged[place] ^= change
            path.write_bytes(damaged)
            with contextlib.suppress(BadArgument):
                assert all(isinstance(value, np.ndarray) for value in read_npz(path).values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"category_ids": np.arange(133) - 1}, "category_ids has -1; they lie in 0…2147483647"),
        ({"category_ids": np.arange(133) + 2**62}, "they lie in 0…2147483647"),
        ({"category_ids": np.arange(133, dtype=np.uint64) + 2**63}, "must be whole numbers, below 2⁶³"),
        ({"file_names": np.array(["..", "1.jpg"])}, "file_names has '..', which is not the name"),
        ({"file_names": np.array(["1.jpg", "/tmp/2.jpg"])}, "file_names has '/tmp/2.jpg', which is not the name"),
        ({"file_names": np.array(["1.jpg", ""])}, "file_names has '', which is not the name"),
        ({"file_names": np.array(["1.jpg", "a\x1b2.jpg"])}, "which is not the name of an image's file"),
        ({"original": np.full((2, 2), 20_000)}, "an image has at most 100,000,000 pixels here"),
    ],
)
def test_predictions_that_cannot_be_stored_are_refused_before_fusing(tmp_path, more, message):
    arrays = {
        "class_logits": np.zeros((2, 3, 134), np.float32),
        "mask_logits": np.zeros((2, 3, 4, 4), np.float32),
        "original": np.full((2, 2), 4),
        "category_ids": np.arange(133),
        "file_names": np.array(["1.jpg", "2.jpg"]),
        **more,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    assert message in refused(
        "fuse", "--arrays", tmp_path / "a.npz", "--rule", "mask2former", "--out", tmp_path / "coco"
    )
    assert not (tmp_path / "coco").exists()
