"""Computations for requests: identical ones run once, abandoned ones stop or never start, and few wait at a time.

`Shared` belongs to the thread of the event loop: all of its state is changed there and nowhere else, so it needs no
lock. Only `compute` runs in a thread of its own.
"""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from panbench.base.reporter import Silent, Unit

__all__ = ["Abandoned", "Busy", "Shared", "Stop"]

_Result = TypeVar("_Result")


class Busy(Exception):
    """Too many computations are waiting; try again after `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"This server is busy. Try again in {seconds} seconds.")
        self.seconds = seconds


class Abandoned(Exception):
    """Nobody waits any more for what is computed."""


class Stop(Silent):
    """What a computation calls between its steps: raises Abandoned once nobody waits for it. Also a Reporter."""

    def __init__(self) -> None:
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._abandoned.set()

    def check(self) -> None:
        """Raises Abandoned."""
        if self._abandoned.is_set():
            raise Abandoned

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Each report of progress is an opportunity to stop."""
        self.check()

    def status(self, words: str) -> None:
        """Replaces the status line at each new step."""
        self.check()


@dataclass(eq=False)
class _Job:
    key: Hashable
    compute: Callable[[Stop], Any]
    future: "asyncio.Future[Any]"
    waiting: int = 0
    stop: Stop = field(default_factory=Stop)


class Shared:
    """Computations by key, at most `threads` at a time; `most` more may wait for their turn.

    retry_after: seconds after which a request that is refused should try again
    """

    def __init__(self, threads: int, most: int, retry_after: int = 5) -> None:
        self._threads, self._most, self._retry_after = threads, most, retry_after
        self._jobs: dict[Hashable, _Job] = {}
        self._queue: OrderedDict[_Job, None] = OrderedDict()
        self._running: set[_Job] = set()

    async def result(self, key: Hashable, compute: Callable[[Stop], _Result]) -> _Result:
        """What `compute` returns or raises; that of a computation with the same key, if one waits or runs already.

        Raises Busy. A task that is cancelled while it waits here waits no more; the last one abandons the computation.
        """
        job = self._jobs.get(key)
        if job is None:
            if len(self._queue) >= self._most:
                raise Busy(self._retry_after)
            job = self._jobs[key] = _Job(key, compute, asyncio.get_running_loop().create_future())
            self._queue[job] = None
            self._start()
        job.waiting += 1
        try:
            # Shielded: one who leaves must not cancel it for the others.
            return cast(_Result, await asyncio.shield(job.future))
        finally:
            job.waiting -= 1
            if not job.waiting and not job.future.done():
                self._abandon(job)

    def close(self) -> None:
        """Nobody waits any more for anything."""
        for job in (*self._queue, *self._running):
            self._abandon(job)

    def _abandon(self, job: _Job) -> None:
        # From now on an equal request is a new computation: this one ends at its next step, or never starts.
        self._forget(job)
        self._queue.pop(job, None)
        job.stop.abandon()
        job.future.cancel()

    def _forget(self, job: _Job) -> None:
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]

    def _start(self) -> None:
        while self._queue and len(self._running) < self._threads:
            job, _ = self._queue.popitem(last=False)
            self._running.add(job)
            loop = job.future.get_loop()
            # A daemon: a server that stops does not wait for a comparison.
            threading.Thread(target=self._run, args=(job, loop), name="panbench serve", daemon=True).start()

    def _run(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        result, error = None, None
        try:
            job.stop.check()
            result = job.compute(job.stop)
        except BaseException as problem:
            error = problem
        # The loop may have ended in the meantime.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._finished, job, result, error)

    def _finished(self, job: _Job, result: Any, error: BaseException | None) -> None:
        self._running.discard(job)
        self._forget(job)
        if not job.future.done():
            if error is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(error)
                job.future.exception()  # looked at: asyncio warns of those that nobody looked at
        self._start()
