"""How the C library keeps memory, which decides how fast large arrays are made and freed, and how far a process grows.

heap.c has the part that must be C; without its library, memory grows further over images of many sizes.
"""

import contextlib
import ctypes
import os
import sys
import threading
from pathlib import Path

from panbench.base.compiled import is_switched_off, library_of, load_library

_SOURCE = Path(__file__).with_name("heap.c")
_LIBRARY = library_of(_SOURCE)

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
"""glibc's names for what `mallopt` sets. [malloc.h]"""

_MORE = 32_000_000
"""Bytes that smaller work may leave above what the largest left, before freed memory is given back."""
_WARMING, _APART = 8, 8
"""Looks until what the largest work leaves is settled, and from giving back to the next time."""


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

    Also 0 where heap.c is not compiled, with PANBENCH_NATIVE=0, before PyTorch is imported, and for a PyTorch whose
    libraries were linked so that their calls are fixed when they are loaded (-z now).
    """
    if is_switched_off() or not sys.platform.startswith("linux"):
        return 0
    library = load_library(_LIBRARY, _SOURCE)
    return 0 if isinstance(library, str) else int(library.replace_in_pytorch())


def give_back() -> None:
    """Gives freed memory back to the system, which glibc keeps for later; does nothing with another C library."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Account(ctypes.Structure):
    """What `mallinfo2` of glibc ≥ 2.33 says, in bytes or numbers of blocks. [malloc.h]"""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
    )


def freed_and_kept() -> int | None:
    """Bytes of this process in memory that no array or object of the heap uses; None where the C library does not say.

    Most are freed memory that is kept; the programs and mapped files of the process are in it, too.
    """
    with contextlib.suppress(OSError, AttributeError):
        account = ctypes.CDLL("libc.so.6").mallinfo2
        account.restype = _Account
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * int(os.sysconf("SC_PAGE_SIZE")) - int(account().uordblks)
    return None


class FreedMemory:
    """The freed memory that a process keeps over work of many sizes, held near what the largest of it leaves.

    Call `before` ahead of each piece of work, as of each batch. Where smaller work left 32 MB more than the largest,
    freed memory is given back at once: arrays of other sizes lie elsewhere, and between them is left what fits none.
    Safe to call from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._size = self._largest = 0
        self._most, self._looks, self._since = 0, 0, _APART
        self.times = 0
        """How often freed memory was given back."""

    def before(self, size: int) -> None:
        """Looks at what the last work left, and remembers the size of what comes now, in any unit above 0."""
        with self._lock:
            last, self._size = self._size, size
            kept = freed_and_kept() if last else None
            if kept is None:
                return
            self._since += 1
            self._looks += 1
            if last > self._largest:
                self._largest, self._most, self._looks = last, kept, 0
            elif last == self._largest and self._looks < _WARMING:
                self._most = max(self._most, kept)
            elif kept > self._most + _MORE and self._since > _APART:
                give_back()
                self._since = 0
                self.times += 1
