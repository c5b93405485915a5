"""How the C library keeps memory, which decides how fast large arrays are made and freed, and how far a process grows.

heap.c has the part that must be C; without its library, memory grows further over images of many sizes.
"""

import contextlib
import ctypes
import sys
from pathlib import Path

from panbench.base.compiled import is_switched_off, library_of, load_library

_SOURCE = Path(__file__).with_name("heap.c")
_LIBRARY = library_of(_SOURCE)

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""glibc's names for what `mallopt` sets. [malloc.h]"""


def keep_freed_memory() -> bool:
    """Makes this process use freed memory again instead of asking the system for more; returns whether it could.

    By itself glibc takes each array above some megabytes from the system and gives it back when it is freed; the system
    then clears every page of the next one, which for a network's activations costs as much as computing them
    (docs/inference_speed.md has how much). From here on arrays come from one heap that all threads share and that keeps
    its size until `give_back` is called. Nothing happens where the C library is not glibc.

    If PyTorch is imported, its arrays also fit where freed ones of their size were. With glibc's own aligned blocks
    they do not, and a heap that is kept grows over images of many sizes (docs/inference_speed.md).
    """
    reuse_aligned_blocks()
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL("libc.so.6").mallopt
        options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _ARENA_MAX: 1}
        # Each is set, whatever became of the one before.
        return min([set_option(name, value) for name, value in options.items()]) == 1
    return False


def reuse_aligned_blocks() -> int:
    """Makes PyTorch get its aligned blocks from heap.c; returns in how many of its libraries, which is 0 without glibc.

    Blocks from a megabyte on then lie in a region of addresses of their own. Also 0 where heap.c is not compiled, with
    PANBENCH_NATIVE=0, before PyTorch is imported, and for a PyTorch whose libraries were linked so that their calls are
    fixed when they are loaded (-z now).
    """
    library = _library()
    return int(library.replace_in_pytorch()) if library else 0


def give_back() -> None:
    """Gives freed memory back to the system, which glibc keeps for later; does nothing with another C library."""
    if library := _library():
        library.give_back_region()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    """heap.c's library, or None without it."""
    if is_switched_off() or not sys.platform.startswith("linux"):
        return None
    library = load_library(_LIBRARY, _SOURCE)
    return None if isinstance(library, str) else library
