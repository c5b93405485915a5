"""The default number of threads."""

import os

from panbench.base import program

__all__ = ["available_cores", "default_threads", "one_thread_for_blas"]

MOST = 8
"""More threads than this wait for the disk and for each other."""


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads(processes: int = 1, besides: int = 0) -> int:
    """The cores divided by the number of processes, at least 1 and at most 8.

    besides: further threads, for work that waits for the disk
    """
    return max(1, min(MOST, available_cores() // processes + besides))


def one_thread_for_blas() -> None:
    """Has the BLAS that NumPy brings compute on the thread that calls it, here and in processes that start later.

    For commands without a network: they share work out among threads themselves, and their products are so small that
    BLAS's own threads mostly wait for each other, which takes a core. Only in the program `panbench`, before NumPy is
    imported; a number that the user has set stays.
    """
    if program.is_ours():
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
