"""Reads pickles of NumPy arrays, as detectron2 publishes weights, without running anything that they name.

Python's unpickler reads the stream, but every name in it leads to a class of this module, and only the names that
arrays need are known. The stream is read once before by pickletools, for what an unpickler does on its own: persistent
ids, extensions, memory for a memo as large as the stream says. Sizes are bounded by the file: an array's bytes are in
it, and what a stream refers to twice is not copied for it.
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

__all__ = ["NotWeights", "load_arrays"]


class NotWeights(Exception):
    """What a pickle holds beyond arrays, in the words that follow "to load it, …"."""


_INSTRUCTIONS = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET "
    "NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT "
    "STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
    "EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD".split()
)
_MOST_INSTRUCTIONS = 300_000
_TYPES = frozenset("f2 f4 f8 i1 i2 i4 i8 u1 b1".split())


def load_arrays(path: Path) -> Any:
    """What a pickle of plain data and NumPy arrays holds, its arrays as tensors down to the second level of dicts.

    Raises NotWeights where it needs anything but arrays, naming it; other errors where it is cut off or damaged.
    """
    with open(path, "rb") as file:
        bounded = _Bounded(file, path.stat().st_size)
        _scan(bounded)
        file.seek(0)
        content = _Unpickler(bounded, encoding="latin1").load()
    return _Tensors(path.stat().st_size).of(content)


def _scan(file: "_Bounded") -> None:
    """Raises NotWeights for an instruction that data never needs, and for a memo beyond what was read."""
    count = 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", file)), 1):
        if instruction.name not in _INSTRUCTIONS:
            raise NotWeights(f"the instruction {instruction.name} would have to be followed")
        if count > _MOST_INSTRUCTIONS:
            raise NotWeights(f"more than {_MOST_INSTRUCTIONS:,} instructions would have to be followed")
        if instruction.name in ("PUT", "BINPUT", "LONG_BINPUT") and not 0 <= cast(int, argument) <= count:
            raise NotWeights(f"memory for {argument:,} values would have to be taken")
        if instruction.name == "GLOBAL":
            _known(*cast(str, argument).split(" ", 1))


class _Bounded:
    """A file that is never asked for more bytes than it has: the length of a string is whatever a pickle says."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        """At most what is left."""
        return self._file.read(min(count, self._size - self._file.tell()))


class _Type:
    """A dtype: its code, such as f4, and the order of its bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any, *_: Any) -> None:
        if code not in _TYPES:
            raise NotWeights(f"values of the type {str(code)[:40]!r} would have to be made")
        self.code, self.order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or any(part is not None for part in state[2:5]) or state[1] not in "<>=|":
            raise NotWeights("values with fields would have to be made")
        self.order = state[1]


class _Array:
    """An array before its bytes are looked at."""

    __slots__ = ("fortran", "raw", "shape", "type")

    def __init__(self, shape: Any, type_: Any, fortran: bool, raw: Any) -> None:
        self.shape, self.type, self.fortran, self.raw = shape, type_, fortran, raw

    def __setstate__(self, state: Any) -> None:
        _, shape, type_, fortran, raw = state
        self.__init__(shape, type_, bool(fortran), raw)  # type: ignore[misc]

    def tensor(self) -> Tensor:
        """A copy in this machine's order of bytes. Raises ValueError where the bytes do not make this shape."""
        raw = self.raw.encode("latin1") if isinstance(self.raw, str) else self.raw
        if not isinstance(self.type, _Type) or not isinstance(raw, bytes | bytearray):
            raise NotWeights("an array of objects would have to be made")
        if not isinstance(self.shape, tuple) or not all(type(side) is int and side >= 0 for side in self.shape):
            raise ValueError("an array's shape is not numbers")
        kind = np.dtype(self.type.order + self.type.code)
        if math.prod(self.shape) * kind.itemsize != len(raw):
            raise ValueError(f"an array of {len(raw):,} bytes is said to be {self.shape}")
        array = np.frombuffer(raw, kind).reshape(self.shape, order="F" if self.fortran else "C")
        return torch.from_numpy(np.array(array, kind.newbyteorder("="), order="C"))


class _Dict(dict[Any, Any]):
    """An OrderedDict, without the attributes that state_dict() gives it."""

    __slots__ = ()

    def __setstate__(self, _: Any) -> None:
        """Takes no state."""


class _Name:
    """A name of the stream: it can be called as arrays are, and neither changed nor used for anything else."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, _: Any) -> None:
        raise NotWeights("the state of a function would have to be set")


def _encoded(text: Any, encoding: Any = "latin1") -> str:
    """The text, which an array encodes when its tensor is made: a stream can ask for the same bytes 100,000 times."""
    if not isinstance(text, str) or encoding != "latin1":
        raise NotWeights(f"text would have to be encoded as {str(encoding)[:40]!r}")
    return text


def _scalar(type_: Any, raw: Any) -> _Array:
    return _Array((), type_, False, raw)


def _from_buffer(raw: Any, type_: Any, shape: Any, order: Any) -> _Array:
    return _Array(shape, type_, order == "F", raw)


def _marked(*_: Any) -> Any:
    raise NotWeights("numpy.ndarray would have to be called")


def _empty(*_: Any) -> _Array:
    return _Array((0,), None, False, None)


def _ordered(pairs: Any = None) -> _Dict:
    if pairs is None:
        return _Dict()
    if type(pairs) is not list:
        raise NotWeights("an OrderedDict would have to be copied")
    made = _Dict(pairs)
    # Nobody else needs them: a stream that names them again copies nothing.
    pairs.clear()
    return made


_NAMES = {
    "numpy.ndarray": _Name(_marked),
    "numpy.dtype": _Name(_Type),
    "_codecs.encode": _Name(_encoded),
    "collections.OrderedDict": _Name(_ordered),
    # NumPy 2 has moved its core, and protocol 5 has a form of arrays of its own.
    **{
        f"numpy.{core}.{name}": known
        for core in ("core", "_core")
        for name, known in {
            "multiarray._reconstruct": _Name(_empty),
            "multiarray.scalar": _Name(_scalar),
            "numeric._frombuffer": _Name(_from_buffer),
        }.items()
    },
}


def _known(module: str, name: str) -> _Name:
    try:
        return _NAMES[f"{module}.{name}"]
    except KeyError:
        raise NotWeights(f"{module}.{name} would have to be run") from None


class _Unpickler(pickle.Unpickler):
    """Python's unpickler, which reaches nothing but `_NAMES`."""

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name. Raises NotWeights."""
        return _known(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """Raises NotWeights."""
        raise NotWeights("a persistent id would have to be followed")


class _Tensors:
    """Makes the tensors of what was read: each array's once, and of no more bytes than the file has."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._made: dict[_Array, Tensor] = {}

    def of(self, value: Any, levels: int = 2) -> Any:
        """The value with tensors for arrays; dicts are emptied on the way, so few arrays are there twice at a time."""
        if isinstance(value, _Array):
            return self._tensor(value)
        if isinstance(value, dict) and levels:
            return {key: self.of(value.pop(key), levels - 1) for key in list(value)}
        return value

    def _tensor(self, array: _Array) -> Tensor:
        if array not in self._made:
            made = self._made[array] = array.tensor()
            self._left -= made.nbytes
            if self._left < 0:
                raise NotWeights("the same bytes would have to be copied many times")
            array.raw = b""
        return self._made[array]
