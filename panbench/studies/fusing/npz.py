"""Reads the arrays of an untrusted .npz file: executes nothing, and checks declared sizes before allocating memory.

NumPy's own reader allocates whatever shape a header declares, and raises a dozen kinds of exceptions on damage.
"""

import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from panbench.base.errors import BadArgument
from panbench.base.text import size_in_words

_MOST_ARRAYS = 100_000
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# Version 3 differs from 2 in the encoding of field names alone, and no array here has fields.
_READERS[(3, 0)] = npy.read_array_header_2_0

_DAMAGE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


class _UnusableNpz(Exception):
    """Raised for a fault of the .npz file; `read_npz` completes its message to a sentence."""


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Returns the arrays of an .npz file by name; pickled objects are refused. Raises BadArgument."""
    try:
        with open(path, "rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise BadArgument(
                    f"{path} is a single array. Save arrays by name: numpy.savez({path.stem}.npz, NAME=…)."
                )
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_npz_members(members)
                return {_array_name(member): _read_npz_array(archive, member) for member in members}
    except FileNotFoundError:
        raise BadArgument(f"There is no file {path}.") from None
    except (_UnusableNpz, *_DAMAGE) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise BadArgument(f"{path} cannot be read as arrays of NumPy ({reason}).") from error
    except MemoryError:
        raise BadArgument(f"{path} holds more than this machine has memory for.") from None


def _check_npz_members(members: list[zipfile.ZipInfo]) -> None:
    """Raises _UnusableNpz for invalid or repeated array names, encryption, and arrays that exceed the memory."""
    if len(members) > _MOST_ARRAYS:
        raise _UnusableNpz(f"it has {len(members):,} members, more than {_MOST_ARRAYS:,}")
    names = [_array_name(member) for member in members]
    for name, member in zip(names, members, strict=True):
        if not name.strip(". ") or not name.isprintable() or "/" in name or "\\" in name:
            raise _UnusableNpz(f"{member.orig_filename!r} is not a name of an array")
        if member.flag_bits & 1:
            raise _UnusableNpz(f"{name} is encrypted")
    if len(set(names)) != len(names):
        raise _UnusableNpz("two arrays have one name")
    total, most = sum(member.file_size for member in members), _machine_memory_bytes()
    if total > most:
        raise _UnusableNpz(
            f"its arrays take {size_in_words(total)}, and this machine has {size_in_words(most)} of memory"
        )


def _array_name(member: zipfile.ZipInfo) -> str:
    """Returns the name of an array: its file's name in the zip, without .npy."""
    # `filename` ends before a NUL; `orig_filename` has the whole name.
    return member.orig_filename.removesuffix(".npy")


def _read_npz_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Reads one array, whose header must declare exactly the bytes that are stored."""
    name = _array_name(member)
    with archive.open(member) as file:
        shape, fortran, dtype = _read_npz_header(file, name)
        count = 1
        for side in shape:
            count *= side  # Python's integers: NumPy's would overflow
        declared, stored = count * dtype.itemsize, member.file_size - file.tell()
        if declared != stored:
            raise _UnusableNpz(
                f"{name} declares the shape {' × '.join(map(str, shape))} of {dtype}, {declared:,} bytes, and has "
                f"{stored:,}"
            )
        # A bytearray: PyTorch wants arrays that can be written to.
        content = bytearray(stored)
        if file.readinto(content) != stored or file.read(1):  # type: ignore[attr-defined]
            raise _UnusableNpz(f"{name} ends early")
    flat = np.frombuffer(content, dtype, count) if count else np.empty(0, dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _read_npz_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads an array's shape, order (True: Fortran) and dtype. Raises _UnusableNpz for pickled objects."""
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = _READERS[version](file)
    except _DAMAGE:
        raise
    except Exception as error:  # NumPy hands the header's text to Python's parser, which has errors of its own
        raise _UnusableNpz(f"the header of {name} cannot be read: {type(error).__name__}") from error
    if dtype.hasobject or dtype.fields or not dtype.itemsize:
        raise _UnusableNpz(f"{name} holds {dtype}, which is not a plain array of numbers or text")
    if any(side < 0 or side >= 2**31 for side in shape) or len(shape) > 32:
        raise _UnusableNpz(f"{name} declares the shape {' × '.join(map(str, shape))}")
    return shape, fortran, dtype


def _machine_memory_bytes() -> int:
    """Returns this machine's memory in bytes; 8 GiB if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 << 30
