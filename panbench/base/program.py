"""Facts about this process: whether it is the program `panbench` or a library's user, and its number of threads."""

import contextlib
import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

Out = TypeVar("Out")

_is_program = False


def mark_as_program() -> None:
    """Records that this process is the program `panbench`; called once, when it starts."""
    global _is_program
    _is_program = True


def is_program() -> bool:
    """True in the program `panbench`; False where another program imports panbench."""
    return _is_program


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Context for imports of large libraries: what they allocate is exempt from garbage collection.

    PyTorch and mmdet create 300,000 objects that live as long as the program. The collector would scan all of them
    seven times before the first model is built, and whenever memory is freed. Does nothing in other programs.
    """
    if not _is_program or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


MOST = 8
"""Upper limit on default threads: more would wait for the disk and for each other."""


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads(processes: int = 1, extra: int = 0) -> int:
    """Returns how many threads each of some processes should use: its share of the cores, from 1 to MOST.

    extra: threads to add for work that waits for the disk
    """
    return max(1, min(MOST, available_cores() // processes + extra))


def in_order(work: Iterable[Callable[[], Out]], threads: int | None = None, ahead: int = 1) -> Iterator[Out]:
    """Calls functions in a thread pool (by default one thread per core) and yields their results in order.

    ahead: how many calls may be queued beyond one per thread; it bounds how many results wait in memory
    """
    from concurrent.futures import ThreadPoolExecutor

    count, left = threads or available_cores(), iter(work)
    pool = ThreadPoolExecutor(count)
    try:
        waiting = deque(pool.submit(call) for call in islice(left, count + ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(call) for call in islice(left, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def one_thread_for_blas() -> None:
    """Limits NumPy's BLAS to the calling thread, here and in child processes.

    For commands without a network: they distribute work over threads themselves, and their products are so small that
    BLAS's own threads mostly busy-wait for each other. Only in the program `panbench`, before NumPy is imported; a
    number that the user has set stays.
    """
    if is_program():
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
