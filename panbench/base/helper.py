"""A second process of this program, which works on another core while this one goes on.

It is a Python of its own: a fork would inherit locks that other threads hold, and multiprocessing would run the user's
script again. It knows only what it is sent. It ends when this process closes it, and when this process dies, however
that happens: its standard input ends then.
"""

import contextlib
import gc
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from panbench.base.places import load
from panbench.base.threads import available_cores

__all__ = ["Helper", "HelperLost"]

_START = "import sys; sys.path[:] = sys.argv[1:]; from panbench.base.helper import serve; serve()"


class HelperLost(Exception):
    """The process ended before it had answered."""


class Helper:
    """An object in a process of its own, whose methods are called one after another while this process goes on.

    with Helper("package.module:make", 5) as helper:
        waiting = helper.ask("method", 7)  # calls make(5).method(7) there
        waiting.result()
    """

    def __init__(self, make: str, *given: Any) -> None:
        """Starts the process. make: the place of a function, called there with `given`, which makes the object.

        Raises OSError where no process can be started.
        """
        self._closed = False
        self._waiting: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        self._to_send: queue.SimpleQueue[tuple[Future[Any], Any] | None] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, *(place for place in sys.path if isinstance(place, str))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        # Two threads, so that neither side waits for the other to read: pipes hold little.
        for work in (self._send, self._receive):
            threading.Thread(target=work, name=f"helper{work.__name__}", daemon=True).start()
        self.ask(make, *given)

    @staticmethod
    def can_start() -> bool:
        """Whether a second process would have a core to itself, and there is a Python to start."""
        return available_cores() > 1 and bool(sys.executable) and not getattr(sys, "frozen", False)

    def ask(self, method: str, *given: Any) -> "Future[Any]":
        """Calls a method there. The answer is what it returned or raised, or HelperLost."""
        answer: Future[Any] = Future()
        if self._closed:
            answer.set_exception(HelperLost("the helping process was closed"))
        else:
            self._to_send.put((answer, (method, given)))
        return answer

    def close(self) -> None:
        """Ends the process at once, whatever it does; what it has not answered is HelperLost."""
        self._closed = True
        self._to_send.put(None)
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "Helper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self) -> None:
        assert self._process.stdin is not None
        while (message := self._to_send.get()) is not None:
            answer, call = message
            try:
                content = pickle.dumps(call, pickle.HIGHEST_PROTOCOL)
            except Exception as problem:
                answer.set_exception(problem)
                continue
            self._waiting.put(answer)
            with contextlib.suppress(OSError):  # the process is gone, as _receive notices
                self._process.stdin.write(content)
                self._process.stdin.flush()
        self._waiting.put(None)
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def _receive(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            lost = False
            while (answer := self._waiting.get()) is not None:
                try:
                    if lost:
                        raise HelperLost
                    fine, found = pickle.load(self._process.stdout)
                except Exception:  # of a stream that is cut short pickle raises nearly anything
                    lost, fine, found = True, False, HelperLost("a helping process ended early")
                if fine:
                    answer.set_result(found)
                else:
                    answer.set_exception(found)


def serve() -> None:
    """The process itself: answers calls until its standard input ends."""
    # Ctrl-C reaches every process of the terminal; this one ends when its parent does.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a library prints must not come between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # It lives for seconds, and what it makes is freed by its count of references.
    gc.disable()
    made: Any = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        for number in itertools.count():
            name, given = pickle.load(calls)
            try:
                if number == 0:
                    made = load(name)(*given)
                found = True, getattr(made, name)(*given) if number else None
            except Exception as problem:
                found = False, problem
            answers.write(_pickled(found))
            answers.flush()


def _pickled(found: tuple[bool, Any]) -> bytes:
    """The bytes of an answer; of an exception that cannot be pickled, those of its words."""
    try:
        return pickle.dumps(found, pickle.HIGHEST_PROTOCOL)
    except Exception:  # whatever a foreign exception's own pickling raises
        return pickle.dumps((False, HelperLost(repr(found[1]))), pickle.HIGHEST_PROTOCOL)
