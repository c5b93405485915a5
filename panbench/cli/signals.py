"""Makes SIGTERM and SIGHUP (Slurm, Kubernetes, a closed terminal) end a program like Ctrl-C: finished work is saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from panbench.base.errors import Terminated


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Makes the first SIGTERM or SIGHUP during the block raise Terminated in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}
    # Keep handlers that other code has set, and `nohup`, which ignores SIGHUP.
    ours = [name for name in names if before[name] is signal.SIG_DFL]

    def end_program(number: int, frame: FrameType | None) -> None:
        """Handles a signal: raises Terminated, whose exit code is 128 + the signal's number."""
        # A second signal of the system must not interrupt the writing that the first one began.
        for name in ours:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        raise Terminated(signal.Signals(number).name, 128 + number)

    for name in ours:
        signal.signal(getattr(signal, name), end_program)
    try:
        yield
    finally:
        for name in ours:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
