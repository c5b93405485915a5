"""Loads the inner loops of idmap.py that are written in C (idmap.c) and compiled when the wheel is built.

Nothing is compiled at run time, and the library is loaded from this folder only. If it is missing, or with
PANBENCH_NATIVE=0, `native()` is None and idmap.py computes the same with NumPy and OpenCV, slower. ctypes releases the
GIL during calls, and one library works with every version of Python.
"""

import ctypes
import hashlib
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_SOURCE = Path(__file__).with_name("idmap.c")
_LIBRARY = _SOURCE.with_name("_idmap" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so"))

_lock = threading.Lock()
_loaded: "list[Native | str | None]" = []


def native() -> "Native | None":
    """Returns the compiled functions, or None if there are none."""
    loaded = _load_library_once()
    return loaded if isinstance(loaded, Native) else None


def why_not_compiled() -> str | None:
    """Explains why there are no compiled functions; None if there are, or if PANBENCH_NATIVE=0 switched them off."""
    loaded = _load_library_once()
    if not isinstance(loaded, str):
        return None
    return (
        f"Scoring runs without compiled code, several times slower: {loaded}. `pip install --force-reinstall --no-deps "
        "panbench` from a wheel brings it; in a checkout, `make install` compiles it. The numbers are the same."
    )


def _load_library_once() -> "Native | str | None":
    """Returns the result of `_load_library`, which runs once per process."""
    with _lock:
        if not _loaded:
            _loaded.append(_load_library())
        return _loaded[0]


class Native:
    """Calls the compiled functions of idmap.c on arrays. A run is a stretch of equal ids in scan order, across rows."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Declares the argument types of a loaded library's functions."""
        pointer, int32, int64 = ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64
        self._png_runs = library.png_runs
        self._png_runs.argtypes = [pointer, int32, int32, int32, pointer, pointer, int64]
        self._map_runs = library.map_runs
        self._map_runs.argtypes = [pointer, int64, pointer, pointer, int64]
        self._spread_runs = library.spread_runs
        self._spread_runs.argtypes = [pointer, pointer, int64, pointer]
        self._count_run_pairs = library.count_run_pairs
        runs = (pointer, pointer, int64)
        self._count_run_pairs.argtypes = [*runs, *runs, *runs]
        for function in (self._png_runs, self._map_runs, self._count_run_pairs):
            function.restype = int64
        self._spread_runs.restype = None

    def png_runs(self, raw: bytes | bytearray, height: int, width: int, bytes_per_pixel: int) -> tuple[Int32, Int32]:
        """Run-length encodes the ids in an 8-bit RGB or RGBA PNG: returns the end and the id of each run of equal ids.

        raw: the inflated, still filtered pixels. Raises ValueError if a row has an unknown filter.
        """
        assert len(raw) == height * (1 + width * bytes_per_pixel) > 0
        start = np.frombuffer(raw, np.uint8).ctypes.data
        return _collect_runs(partial(self._png_runs, start, height, width, bytes_per_pixel), height * width)

    def map_runs(self, id_map: Int32) -> tuple[Int32, Int32]:
        """Run-length encodes an id map that is not empty: returns the end and the id of each run of equal ids."""
        id_map = np.ascontiguousarray(id_map, np.int32)
        return _collect_runs(partial(self._map_runs, id_map.ctypes.data, id_map.size), id_map.size)

    def spread_runs(self, ends: Int32, ids: Int32) -> Int32:
        """Expands a run-length encoded id map (end and id of each run) to a flat one."""
        assert ends.dtype == ids.dtype == np.int32
        assert len(ends) == len(ids) > 0
        id_map = np.empty(int(ends[-1]), np.int32)
        self._spread_runs(ends.ctypes.data, ids.ctypes.data, len(ends), id_map.ctypes.data)
        return id_map

    def count_run_pairs(
        self, gt_ends: Int32, gt_ids: Int32, pred_ends: Int32, pred_ids: Int32
    ) -> tuple[npt.NDArray[np.uint64], Int64]:
        """Counts the pixels of each pair of ids: returns gt_id << 32 | pred_id, ascending, and the pixels."""
        for array in (gt_ends, gt_ids, pred_ends, pred_ids):
            assert array.dtype == np.int32
            assert array.flags.c_contiguous
        assert len(gt_ends) == len(gt_ids)
        assert len(pred_ends) == len(pred_ids)
        capacity = 1024
        while True:
            keys, pixels = np.empty(capacity, np.uint64), np.empty(capacity, np.int64)
            n = self._count_run_pairs(
                *(gt_ends.ctypes.data, gt_ids.ctypes.data, len(gt_ends)),
                *(pred_ends.ctypes.data, pred_ids.ctypes.data, len(pred_ends)),
                *(keys.ctypes.data, pixels.ctypes.data, capacity),
            )
            if n < 0:
                raise MemoryError
            if n <= capacity:
                return keys[:n].copy(), pixels[:n].copy()
            capacity = n


def _collect_runs(find: Callable[[int, int, int], int], pixels: int) -> tuple[Int32, Int32]:
    """Run-length encodes an id map by a C function; returns the end and the id of each run of equal ids.

    find: the C function, which gets the addresses of arrays for ends and ids, and their capacity; it returns the number
        of runs, -1 for an unknown filter, -2 if memory or capacity does not suffice
    """
    # Masks have a few runs per row; the second try has room for any image.
    for capacity in (pixels // 8 + 64, pixels + 1):
        ends, ids = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        n = find(ends.ctypes.data, ids.ctypes.data, capacity)
        if n >= 0:
            return ends[:n].copy(), ids[:n].copy()
        if n == -1:
            raise ValueError("unknown filter")
    raise MemoryError


def _load_library() -> "Native | str | None":
    """Returns the compiled functions, the reason for their absence, or None if they are switched off."""
    if os.environ.get("PANBENCH_NATIVE") == "0":
        return None
    if sys.byteorder != "little":
        return "it is written for little-endian machines"
    if not _LIBRARY.exists():
        return f"{_LIBRARY} was not found"
    try:
        library = ctypes.CDLL(str(_LIBRARY))
        compiled_from = ctypes.c_uint64.in_dll(library, "idmap_source").value
        functions = Native(library)
    except (OSError, ValueError, AttributeError) as error:
        return f"{_LIBRARY} cannot be loaded ({error})"
    # In a checkout the source may have changed since the library was compiled. Line endings do not matter.
    source_hash = hashlib.sha256(_SOURCE.read_bytes().replace(b"\r\n", b"\n")).digest()[:8]
    if compiled_from != int.from_bytes(source_hash, "little"):
        return f"{_LIBRARY} was compiled from another version of {_SOURCE.name}"
    return functions
