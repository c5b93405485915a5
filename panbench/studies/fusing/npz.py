"""Reads the arrays of an .npz file from anybody: nothing is executed, and declared sizes are checked before memory is
taken for them.

NumPy's own reader takes memory for whatever shape a header declares, and answers damage with a dozen kinds of
exceptions.
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

__all__ = ["read_npz"]

_MOST_ARRAYS = 100_000
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# Version 3 differs from 2 in the encoding of field names alone, and no array here has fields.
_READERS[(3, 0)] = npy.read_array_header_2_0

_DAMAGE = (OSError, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


class _Unusable(Exception):
    """What is wrong with the file, as the end of a sentence."""


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name; objects in it are refused, not loaded. Raises BadArgument."""
    try:
        with open(path, "rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise BadArgument(
                    f"{path} is a single array. Save arrays by name: numpy.savez({path.stem}.npz, NAME=…)."
                )
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check(members)
                return {_name(member): _array(archive, member) for member in members}
    except FileNotFoundError:
        raise BadArgument(f"There is no file {path}.") from None
    except (_Unusable, *_DAMAGE) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise BadArgument(f"{path} cannot be read as arrays of NumPy ({reason}).") from error
    except MemoryError:
        raise BadArgument(f"{path} holds more than this machine has memory for.") from None


def _check(members: list[zipfile.ZipInfo]) -> None:
    """Raises _Unusable for names that cannot be an array's, and for more bytes than this machine has."""
    if len(members) > _MOST_ARRAYS:
        raise _Unusable(f"it has {len(members):,} members, more than {_MOST_ARRAYS:,}")
    names = [_name(member) for member in members]
    for name, member in zip(names, members, strict=True):
        if not name.strip(". ") or not name.isprintable() or "/" in name or "\\" in name:
            raise _Unusable(f"{member.orig_filename!r} is not a name of an array")
        if member.flag_bits & 1:
            raise _Unusable(f"{name} is encrypted")
    if len(set(names)) != len(names):
        raise _Unusable("two arrays have one name")
    total, most = sum(member.file_size for member in members), _memory()
    if total > most:
        raise _Unusable(f"its arrays take {size_in_words(total)}, and this machine has {size_in_words(most)} of memory")


def _name(member: zipfile.ZipInfo) -> str:
    # `filename` ends before a NUL; `orig_filename` has the whole name.
    return member.orig_filename.removesuffix(".npy")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """One array. Its header must declare exactly the bytes that are there: then nothing is read beyond them."""
    name = _name(member)
    with archive.open(member) as file:
        shape, fortran, dtype = _header(file, name)
        count = 1
        for side in shape:
            count *= side  # Python's integers: NumPy's would overflow
        declared, stored = count * dtype.itemsize, member.file_size - file.tell()
        if declared != stored:
            raise _Unusable(
                f"{name} declares the shape {' × '.join(map(str, shape))} of {dtype}, {declared:,} bytes, and has "
                f"{stored:,}"
            )
        # A bytearray: PyTorch wants arrays that can be written to.
        content = bytearray(stored)
        if file.readinto(content) != stored or file.read(1):  # type: ignore[attr-defined]
            raise _Unusable(f"{name} ends early")
    flat = np.frombuffer(content, dtype, count) if count else np.empty(0, dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(file)
        shape, fortran, dtype = _READERS[version](file)
    except _DAMAGE:
        raise
    except Exception as error:  # NumPy hands the header's text to Python's parser, which has errors of its own
        raise _Unusable(f"the header of {name} cannot be read: {type(error).__name__}") from error
    if dtype.hasobject or dtype.fields or not dtype.itemsize:
        raise _Unusable(f"{name} holds {dtype}, which is not a plain array of numbers or text")
    if any(side < 0 or side >= 2**31 for side in shape) or len(shape) > 32:
        raise _Unusable(f"{name} declares the shape {' × '.join(map(str, shape))}")
    return shape, fortran, dtype


def _memory() -> int:
    """This machine's memory in bytes; if the system does not report it, the least that 64-bit machines have."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 << 30
