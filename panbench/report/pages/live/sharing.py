"""Computations for requests: identical ones run once, abandoned ones stop or never start, and few wait at a time.

`SharedComputations` belongs to the thread of the event loop: all of its state is changed only there. Only `compute`
runs in another thread.
"""

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from panbench.base.reporter import Silent, Unit

_Result = TypeVar("_Result")


class ServerBusy(Exception):
    """Raised if too many computations are waiting; the client should try again after `seconds`."""

    def __init__(self, seconds: int) -> None:
        """Takes the number of seconds after which the client should try again."""
        super().__init__(f"This server is busy. Try again in {seconds} seconds.")
        self.seconds = seconds


class RequestAbandoned(Exception):
    """Raised in a computation for which no client waits any more."""


class StopReporter(Silent):
    """A Reporter that stops its computation: raises RequestAbandoned between steps, once no client waits for it."""

    def __init__(self) -> None:
        """Starts with at least one client waiting for the computation."""
        self._abandoned = threading.Event()

    def mark_abandoned(self) -> None:
        """Records that no client waits any more."""
        self._abandoned.set()

    def raise_if_abandoned(self) -> None:
        """Raises RequestAbandoned if no client waits any more."""
        if self._abandoned.is_set():
            raise RequestAbandoned

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Called at each progress report; raises RequestAbandoned if no client waits any more."""
        self.raise_if_abandoned()

    def status(self, words: str) -> None:
        """Called whenever the computation reports its status: raises RequestAbandoned if no client waits any more."""
        self.raise_if_abandoned()


@dataclass(eq=False)
class _SharedComputation:
    """A computation that runs or waits for its turn, and the number of requests that wait for it."""

    stop: StopReporter
    task: "asyncio.Task[Any]"
    waiting: int = 0


class SharedComputations:
    """Runs computations one at a time in a thread; requests with equal keys share one.

    most: computations that may wait at once
    retry_after: seconds after which a rejected request should try again
    """

    def __init__(self, most: int, retry_after: int = 5) -> None:
        """Takes how many computations may wait, and after how many seconds a rejected request should try again."""
        self._most, self._retry_after = most, retry_after
        self._jobs: dict[Hashable, _SharedComputation] = {}
        self._turn = asyncio.Lock()

    async def result(self, key: Hashable, compute: Callable[[StopReporter], _Result]) -> _Result:
        """Returns what `compute` returns, computed once for all requests that wait for it with the same key.

        Raises ServerBusy, and what `compute` raises. A task that is cancelled while it waits here waits no more; the
        last one abandons the computation.
        """
        job = self._jobs.get(key)
        if job is None:
            if len(self._jobs) > self._most:
                raise ServerBusy(self._retry_after)
            stop = StopReporter()
            job = self._jobs[key] = _SharedComputation(
                stop, asyncio.ensure_future(self._compute_in_turn(stop, compute))
            )
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
                job.stop.mark_abandoned()
                if self._jobs.get(key) is job:
                    del self._jobs[key]

    async def _compute_in_turn(self, stop: StopReporter, compute: Callable[[StopReporter], _Result]) -> _Result:
        """Calls `compute` in a daemon thread, once the computations before it have ended; returns its result."""
        async with self._turn:
            stop.raise_if_abandoned()
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
