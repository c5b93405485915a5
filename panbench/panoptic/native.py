"""The inner loops of idmap.py in C (idmap.c), compiled once by the machine's own compiler and kept in the cache folder.

Nothing needs this: without a compiler, or with PANBENCH_NATIVE=0, `native()` is None and idmap.py does the same with
NumPy and OpenCV, slower. Called through ctypes, so other threads work meanwhile and Python's headers are not needed.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from panbench.base.errors import PanbenchError
from panbench.base.files import cache_dir

__all__ = ["Native", "native"]

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

_SOURCE = Path(__file__).with_name("idmap.c")
_FLAGS = ("-O3", "-std=c99", "-shared", "-fPIC")
_COMPILE_SECONDS = 60

_lock = threading.Lock()
_loaded: "list[Native | None]" = []


def native() -> "Native | None":
    """The compiled functions, or None where there are none. The first call may compile for a second."""
    with _lock:
        if not _loaded:
            _loaded.append(_load())
        return _loaded[0]


class Native:
    """The functions of idmap.c on NumPy arrays. A run is a stretch of equal ids in scan order, across rows."""

    def __init__(self, library: ctypes.CDLL) -> None:
        """Declares the functions of a loaded library."""
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
        """Ends and ids of the runs in the inflated, still filtered pixels of an 8-bit RGB or RGBA PNG.

        Raises ValueError when a row has an unknown filter.
        """
        assert len(raw) == height * (1 + width * bytes_per_pixel) > 0
        start, pixels = np.frombuffer(raw, np.uint8).ctypes.data, height * width
        # Masks have a few runs a row; the second try has room for any image.
        for capacity in (pixels // 8 + 64, pixels + 1):
            ends, ids = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
            n = self._png_runs(start, height, width, bytes_per_pixel, ends.ctypes.data, ids.ctypes.data, capacity)
            if n >= 0:
                return ends[:n].copy(), ids[:n].copy()
            if n == -1:
                raise ValueError("unknown filter")
        raise MemoryError

    def map_runs(self, id_map: Int32) -> tuple[Int32, Int32]:
        """Ends and ids of the runs of an id map that is not empty."""
        id_map = np.ascontiguousarray(id_map, np.int32)
        for capacity in (id_map.size // 8 + 64, id_map.size + 1):
            ends, ids = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
            n = self._map_runs(id_map.ctypes.data, id_map.size, ends.ctypes.data, ids.ctypes.data, capacity)
            if n >= 0:
                return ends[:n].copy(), ids[:n].copy()
        raise MemoryError

    def spread_runs(self, ends: Int32, ids: Int32) -> Int32:
        """The flat id map of runs."""
        assert ends.dtype == ids.dtype == np.int32
        assert len(ends) == len(ids) > 0
        id_map = np.empty(int(ends[-1]), np.int32)
        self._spread_runs(ends.ctypes.data, ids.ctypes.data, len(ends), id_map.ctypes.data)
        return id_map

    def count_run_pairs(
        self, gt_ends: Int32, gt_ids: Int32, pred_ends: Int32, pred_ids: Int32
    ) -> tuple[npt.NDArray[np.uint64], Int64]:
        """The pairs of ids that share pixels, as gt_id << 32 | pred_id in ascending order, and how many pixels."""
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


def _load() -> Native | None:
    if os.environ.get("PANBENCH_NATIVE") == "0" or sys.byteorder != "little" or sys.platform == "win32":
        return None
    for anew in (False, True):
        try:
            compiled = Native(ctypes.CDLL(str(_library(anew))))
        except (OSError, AttributeError, PanbenchError, subprocess.SubprocessError):
            continue
        if _is_right(compiled):
            return compiled
    return None


def _library(anew: bool) -> Path:
    """The compiled library, made now if it is not there, or `anew`. Its name tells the source, flags and machine."""
    source = _SOURCE.read_bytes()
    made_of = b"\0".join([source, " ".join(_FLAGS).encode(), platform.machine().encode(), sys.platform.encode()])
    folder = cache_dir() / "native"
    target = folder / f"idmap-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if target.exists() and not anew:
        return target
    compiler = _compiler()
    if compiler is None:
        raise OSError("no C compiler")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / "idmap.so"
        command = [*compiler, *_FLAGS, "-o", str(made), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=_COMPILE_SECONDS)
        os.replace(made, target)
    return target


def _compiler() -> list[str] | None:
    """The command of a C compiler: $CC, or the first there is of cc, gcc and clang."""
    if sys.platform == "darwin":
        # Without the developer tools, calling cc opens a window that offers to install them.
        tools = subprocess.run(["xcode-select", "-p"], capture_output=True, timeout=_COMPILE_SECONDS)
        if tools.returncode:
            return None
    if chosen := shlex.split(os.environ.get("CC", "")):
        return chosen if shutil.which(chosen[0]) else None
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def _is_right(compiled: Native) -> bool:
    """Whether a small image comes out right: a file of the cache folder may be damaged."""
    id_map = np.array([1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 5, 5, 1, 1], np.int32)
    ends, ids = compiled.map_runs(id_map)
    keys, pixels = compiled.count_run_pairs(ends, ids, np.array([16], np.int32), np.array([7], np.int32))
    return (
        np.array_equal(compiled.spread_runs(ends, ids), id_map)
        and ends.tolist() == [2, 12, 14, 16]
        and keys.tolist() == [1 << 32 | 7, 2 << 32 | 7, 5 << 32 | 7]
        and pixels.tolist() == [4, 10, 2]
    )
