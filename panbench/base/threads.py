"""The default number of threads."""

import os

__all__ = ["available_cores", "default_threads"]

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
