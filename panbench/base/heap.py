"""How the C library keeps memory, which decides how fast large arrays are made and freed."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""glibc's names for what `mallopt` sets. [malloc.h]"""


def keep_freed_memory() -> bool:
    """Makes this process use freed memory again instead of asking the system for more; returns whether it could.

    By itself glibc takes each array above some megabytes from the system and gives it back when it is freed; the system
    then clears every page of the next one, which for a network's activations costs as much as computing them
    (docs/inference_speed.md has how much). From here on arrays come from one heap that all threads share and that keeps
    its size until `give_back` is called. Nothing happens where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL("libc.so.6").mallopt
        options = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _ARENA_MAX: 1}
        # Each is set, whatever became of the one before.
        return min([set_option(name, value) for name, value in options.items()]) == 1
    return False


def give_back() -> None:
    """Gives freed memory back to the system, which glibc keeps for later; does nothing with another C library."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
