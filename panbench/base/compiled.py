"""Libraries that were compiled from a C file when the wheel was built (hatch_build.py), loaded from beside that file.

Nothing is compiled at run time and nothing is loaded from anywhere else. PANBENCH_NATIVE=0 does without them.
"""

import ctypes
import hashlib
import os
import sys
from pathlib import Path

__all__ = ["is_switched_off", "library_of", "load_library"]


def is_switched_off() -> bool:
    """Whether the user wants to run without compiled code."""
    return os.environ.get("PANBENCH_NATIVE") == "0"


def library_of(source: Path) -> Path:
    """Where the library of a C file is on this system; idmap.c's is _idmap.so on Linux."""
    return source.with_name(f"_{source.stem}" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so"))


def load_library(library: Path, source: Path) -> ctypes.CDLL | str:
    """The loaded library, or why there is none: not found, damaged, or compiled from another version of its source."""
    if not library.exists():
        return f"{library} was not found"
    try:
        loaded = ctypes.CDLL(str(library))
        made_of = ctypes.c_uint64.in_dll(loaded, f"{source.stem}_source").value
    except (OSError, ValueError) as error:
        return f"{library} cannot be loaded ({error})"
    # In a checkout the source may have changed since the library was compiled.
    if made_of != _fingerprint(source.read_bytes()):
        return f"{library} was compiled from another version of {source.name}"
    return loaded


def _fingerprint(source: bytes) -> int:
    """The hash of the C source as hatch_build.py compiles it into the library; line endings do not matter."""
    return int.from_bytes(hashlib.sha256(source.replace(b"\r\n", b"\n")).digest()[:8], "little")
