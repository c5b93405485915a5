"""Reads pickles of NumPy arrays, as detectron2 publishes weights, without running anything that they name.

Python's unpickler reads the stream, but every name in it is resolved to a class of this module, and only the names that
arrays need are allowed. pickletools checks the stream first for what an unpickler does by itself: persistent ids,
extensions, a memo of any size. Memory is bounded by the file's size: arrays hold bytes of the file, and shared bytes
are not copied twice.
"""

import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

UNUSED_VALUES = (
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *(
        f"pathlib.{name}"
        for module in ("", "_local.")
        for name in (f"{module}{kind}Path" for kind in ("Posix", "Windows", "PurePosix", "PureWindows", ""))
    ),
    *(f"builtins.{name}" for name in ("dict", "float", "int", "list", "str")),
)
"""Names of values that training programs save next to the weights (times, paths, default factories); read as None."""


class NotWeights(Exception):
    """Raised if loading a pickle would need more than arrays, such as running code; the message says what.

    It continues "to load it, …".
    """


_INSTRUCTIONS = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)
_MOST_INSTRUCTIONS = 300_000
_TYPES = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 b1".split())


def load_array_pickle(path: Path) -> Any:
    """Loads a pickle of plain data; NumPy arrays in it, down to the second level of dicts, become tensors.

    Raises NotWeights if it needs anything but arrays; other exceptions if it is cut off or damaged.
    """
    with open(path, "rb") as file:
        bounded = _BoundedPickleFile(file, path.stat().st_size)
        _check_pickle_instructions(bounded)
        file.seek(0)
        content = _Unpickler(bounded, encoding="latin1").load()
    return _ArraysToTensors(path.stat().st_size).convert(content)


def _check_pickle_instructions(file: "_BoundedPickleFile") -> None:
    """Raises NotWeights for pickle instructions that plain data never needs, and for too large indices of its memo."""
    count = 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", file)), 1):
        if instruction.name not in _INSTRUCTIONS:
            raise NotWeights(f"the instruction {instruction.name} would have to be followed")
        if count > _MOST_INSTRUCTIONS:
            raise NotWeights(f"more than {_MOST_INSTRUCTIONS:,} instructions would have to be followed")
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= cast(int, argument) <= count:
            raise NotWeights(f"memory for {argument:,} values would have to be taken")
        if instruction.name == "GLOBAL":
            _pickle_replacement_of(*cast(str, argument).split(" ", 1))


class _BoundedPickleFile:
    """Wraps a file so that no read exceeds its size: a pickle can claim any length for a string."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        """Takes an open file and its size in bytes."""
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        """Reads `count` bytes, or fewer at the end of the file."""
        return self._file.read(min(count, self._size - self._file.tell()))


class _DType:
    """Replaces numpy.dtype while a pickle is read: a type's code, such as f4, and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        """Takes the code of a number type, such as f4. Raises NotWeights for any other type."""
        if code not in _TYPES:
            raise NotWeights(f"values of the type {str(code)[:40]!r} would have to be made")
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        """Sets the byte order that the pickle gives. Raises NotWeights for types with fields."""
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]) or state[1] not in "<>=|":
            raise NotWeights("values with fields would have to be made")
        self.order = state[1]


class _RawArray:
    """Replaces a NumPy array while a pickle is read: shape, type and bytes, not converted yet."""

    __slots__ = ("fortran", "raw", "shape", "type")

    def __init__(self, shape: Any, type_: Any, fortran: bool, raw: Any) -> None:
        """Takes an array's shape, type, memory order and bytes."""
        self.shape, self.type, self.fortran, self.raw = shape, type_, fortran, raw

    def __setstate__(self, state: Any) -> None:
        """Sets the array's shape, type, memory order and bytes, as the pickle gives them."""
        _, shape, type_, fortran, raw = state
        self.__init__(shape, type_, bool(fortran), raw)  # type: ignore[misc]

    def tensor(self) -> Tensor:
        """Converts the bytes to a tensor in native byte order. Raises ValueError if they do not fit the shape."""
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        if not isinstance(self.type, _DType) or not isinstance(raw, bytes | bytearray):
            raise NotWeights("an array of objects would have to be made")
        if not isinstance(self.shape, tuple) or not all(type(side) is int and side >= 0 for side in self.shape):
            raise ValueError("an array's shape is not numbers")
        kind = np.dtype(self.type.order + self.type.code)
        if math.prod(self.shape) * kind.itemsize != len(raw):
            raise ValueError(f"an array of {len(raw):,} bytes is said to be {self.shape}")
        array = np.frombuffer(raw, kind).reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(np.array(array, kind.newbyteorder("="), order="C"))


class _PlainDict(dict[Any, Any]):
    """Replaces OrderedDict while a pickle is read; drops the attributes that state_dict() gives it."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        """Ignores the state."""


class _PickleReplacement:
    """Replaces a function or class that a pickle names: calling it makes an array or a plain value."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        """Takes the function to call in place of the one that the pickle names."""
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        """Makes the array or plain value from the arguments in the pickle."""
        return self._make(*arguments)

    def __setstate__(self, _: Any) -> None:
        """Raises NotWeights, as functions have no state that a pickle may set."""
        raise NotWeights("the state of a function would have to be set")


def _latin1_text(text: Any, encoding: Any = "latin1") -> str:
    """Replaces codecs.encode in pickles: returns the text itself, which is encoded later.

    By `_RawArray.tensor`, as a pickle may request the same text 100,000 times.
    """
    if not isinstance(text, str) or encoding != "latin1":
        raise NotWeights(f"text would have to be encoded as {str(encoding)[:40]!r}")
    return text


def _make_scalar(type_: Any, raw: Any) -> _RawArray:
    """Replaces NumPy's constructor of a scalar in pickles."""
    return _RawArray((), type_, False, raw)


def _make_array(raw: Any, type_: Any, shape: Any, order: Any) -> _RawArray:
    """Replaces NumPy's constructor of an array from bytes, used by pickle protocol 5."""
    return _RawArray(shape, type_, order == "F", raw)


def _refuse_ndarray(*_: Any) -> Any:
    """Replaces numpy.ndarray, which pickles name but never call: raises NotWeights."""
    raise NotWeights("numpy.ndarray would have to be called")


def _make_empty_array(*_: Any) -> _RawArray:
    """Replaces NumPy's `_reconstruct`: makes an array that gets its shape and bytes by `__setstate__`."""
    return _RawArray((0,), None, False, None)


def _make_ordered_dict(pairs: Any = None) -> _PlainDict:
    """Replaces the call OrderedDict(pairs). Raises NotWeights for anything but a list of pairs."""
    if pairs is None:
        return _PlainDict()
    if type(pairs) is not list:
        raise NotWeights("an OrderedDict would have to be copied")
    made = _PlainDict(pairs)
    # Emptied, so that a stream that uses the list again copies nothing.
    pairs.clear()
    return made


_ALLOWED_NAMES = {
    "numpy.ndarray": _PickleReplacement(_refuse_ndarray),
    "numpy.dtype": _PickleReplacement(_DType),
    "_codecs.encode": _PickleReplacement(_latin1_text),
    "collections.OrderedDict": _PickleReplacement(_make_ordered_dict),
    "collections.defaultdict": _PickleReplacement(lambda *_: _PlainDict()),
    **dict.fromkeys(UNUSED_VALUES, _PickleReplacement(lambda *_: None)),
    # NumPy 2 has moved its core, and protocol 5 has a form of arrays of its own.
    **{
        f"numpy.{core}.{name}": known
        for core in ("core", "_core")
        for name, known in {
            "multiarray._reconstruct": _PickleReplacement(_make_empty_array),
            "multiarray.scalar": _PickleReplacement(_make_scalar),
            "numeric._frombuffer": _PickleReplacement(_make_array),
        }.items()
    },
}


def _pickle_replacement_of(module: str, name: str) -> _PickleReplacement:
    """Returns the replacement of a function or class that a pickle names. Raises NotWeights if it is not allowed."""
    try:
        return _ALLOWED_NAMES[f"{module}.{name}"]
    except KeyError:
        raise NotWeights(f"{module}.{name} would have to be run") from None


class _Unpickler(pickle.Unpickler):
    """Limits Python's unpickler to the functions and classes in `_ALLOWED_NAMES`."""

    def find_class(self, module: str, name: str) -> Any:
        """Called for each function or class that the pickle names; returns its replacement, or raises NotWeights."""
        return _pickle_replacement_of(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Called for references to objects outside the pickle; raises NotWeights."""
        raise NotWeights("a persistent id would have to be followed")


class _ArraysToTensors:
    """Converts arrays to tensors, each once, and in total no more bytes than the file has."""

    def __init__(self, size: int) -> None:
        """Takes the file's size in bytes, which all tensors together must not exceed."""
        self._bytes_left = size
        self._tensor_of: dict[_RawArray, Tensor] = {}

    def convert(self, value: Any, levels: int = 2) -> Any:
        """Returns the value with tensors for arrays; empties dicts, so that few arrays are in memory twice."""
        if isinstance(value, _RawArray):
            return self._converted_array(value)
        if isinstance(value, dict) and levels:
            return {key: self.convert(value.pop(key), levels - 1) for key in list(value)}
        return value

    def _converted_array(self, array: _RawArray) -> Tensor:
        """Returns an array's tensor, converted once. Raises NotWeights if all tensors exceed the file's size."""
        if array not in self._tensor_of:
            made = self._tensor_of[array] = array.tensor()
            self._bytes_left -= made.nbytes
            if self._bytes_left < 0:
                raise NotWeights("the same bytes would have to be copied many times")
            array.raw = b""
        return self._tensor_of[array]
