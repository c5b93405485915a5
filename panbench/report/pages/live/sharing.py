"""Computations for requests: identical ones run once, abandoned ones stop or never start, and few wait at a time.

`Shared` belongs to the thread of the event loop: all of its state is changed only there. Only `compute` runs in
another thread.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from panbench.base.reporter import Silent, Unit

_Result = TypeVar("_Result")


class Busy(Exception):
    """Raised if too many computations are waiting; the client should try again after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"This server is busy. Try again in {seconds} seconds.")
        self.seconds = seconds


class Abandoned(Exception):
    """Raised in a computation for which no client waits any more."""


class Stop(Silent):
    """Ends a computation that no client waits for: passed to it as its Reporter, it raises Abandoned between steps."""

    def __init__(self) -> None:
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """Records that no client waits any more."""
        self._abandoned.set()

    def check(self) -> None:
        """Raises Abandoned if no client waits any more."""
        if self._abandoned.is_set():
            raise Abandoned

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Called at each progress report; raises Abandoned if no client waits any more."""
        self.check()

    def status(self, words: str) -> None:
        """Called whenever the computation reports its status: raises Abandoned if no client waits any more."""
        self.check()


@dataclass(eq=False)
class _Job:
    """A computation that runs or waits for its turn, and the number of requests that wait for it."""

    stop: Stop
    task: "asyncio.Task[Any]"
    waiting: int = 0


class Shared:
    """Runs computations one at a time in a thread; requests with equal keys share one, `most` more may wait.

    retry_after: seconds after which a rejected request should try again
    """

    def __init__(self, most: int, retry_after: int = 5) -> None:
        self._most, self._retry_after = most, retry_after
        self._jobs: dict[Hashable, _Job] = {}
        self._turn = asyncio.Lock()

    async def result(self, key: Hashable, compute: Callable[[Stop], _Result]) -> _Result:
        """Returns what `compute` returns, computed once for all requests that wait for it with the same key.

        Raises Busy, and what `compute` raises. A task that is cancelled while it waits here waits no more; the last
        one abandons the computation.
        """
        job = self._jobs.get(key)
        if job is None:
            if len(self._jobs) > self._most:
                raise Busy(self._retry_after)
            stop = Stop()
            job = self._jobs[key] = _Job(stop, asyncio.ensure_future(self._computed(stop, compute)))
            # asyncio warns of exceptions that nobody retrieved.
            job.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        job.waiting += 1
        try:
            # Shielded: a client that leaves must not cancel it for the others.
            return cast(_Result, await asyncio.shield(job.task))
        finally:
            job.waiting -= 1
            if not job.waiting:
                # An equal request starts a new computation: this one is done, ends at its next step, or never starts.
                job.stop.abandon()
                if self._jobs.get(key) is job:
                    del self._jobs[key]

    async def _computed(self, stop: Stop, compute: Callable[[Stop], _Result]) -> _Result:
        """Calls `compute` in a daemon thread, once the computations before it have ended; returns its result."""
        async with self._turn:
            stop.check()
            future: Future[_Result] = Future()
            future.set_running_or_notify_cancel()

            def compute_in_thread() -> None:
                """Calls `compute`, and stores its result or exception in the future."""
                try:
                    future.set_result(compute(stop))
                except BaseException as problem:
                    future.set_exception(problem)

            # A daemon thread: a stopping server does not wait for a comparison.
            threading.Thread(target=compute_in_thread, name="panbench serve", daemon=True).start()
            return await asyncio.wrap_future(future)
