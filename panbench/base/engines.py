"""Engines: programs that run work in many processes on many machines, such as Ray; the core knows none by name.

The work is cut into tasks. A worker, made once in each process, pulls a task whenever it is free, so a slow machine
does fewer of them. Its answers come back while it works, and only the process that asked writes files: an answer is
there or is not, whoever is killed when. What a lost worker had not answered goes to another one (`TaskQueue`).

A study brings an engine by its record: `Study(…, engines={"ray": "package.module:RayEngine"})`.
"""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from panbench.base.errors import BadArgument, PanbenchError
from panbench.base.places import load
from panbench.base.reporter import Reporter
from panbench.base.studies import named
from panbench.base.text import listed

__all__ = [
    "TASKS_A_WORKER",
    "Engine",
    "EngineFailed",
    "Needs",
    "Session",
    "Spread",
    "Task",
    "TaskQueue",
    "Worker",
    "cut",
    "spread_of",
]

TASKS_A_WORKER = 4
"""Tasks for each worker where their number is not given: the last ones even out what slow workers left."""

_MOST_LOSSES = 3
"""A task that loses so many workers in a row, without an answer in between, is what ends them."""


class EngineFailed(PanbenchError):
    """The engine, or its workers, ended the run: neither the input nor panbench is at fault."""

    exit_code = 1


class Task(Protocol):
    """A piece of work. `str()` of it names its images, for messages; it is pickled on its way to a worker."""

    def rest(self, answer: Any) -> "Task | None":
        """The remaining task after an answer of its worker; None when it is finished."""


class Worker(Protocol):
    """Works tasks off, in a process of its own; it has further methods for `Session.ask`."""

    def run(self, task: Any) -> Iterator[Any]:
        """The answers to a task, while it is worked off. Raises PanbenchError for bad input."""


@dataclass(frozen=True)
class Needs:
    """What a worker needs. gpu: a GPU of its own; None: one where the machines have any."""

    gpu: bool | None = False


class Session(Protocol):
    """Workers of one kind, from their start until the end of the block that uses them."""

    workers: int
    """How many there can be at once, as the machines are now."""

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls a method on one of the workers. Raises what the method raises, and EngineFailed."""

    def run(self, queue: "TaskQueue") -> Generator[Any, None, None]:
        """The answers to all tasks in the order in which they come. Raises what a worker raises, and EngineFailed."""


class Engine(Protocol):
    """Starts workers."""

    name: str

    def session(
        self, make_worker: Callable[[], Worker], needs: Needs, reporter: Reporter
    ) -> AbstractContextManager[Session]:
        """Workers for the length of a block; whatever ends the block ends them, too.

        make_worker: pickled and called once in each process
        Raises BadArgument for an address where there is no engine.
        """


@dataclass(frozen=True)
class Spread:
    """Over which engine work is spread, and in how many tasks; None: TASKS_A_WORKER for each worker."""

    engine: Engine
    tasks: int | None = None

    def __post_init__(self) -> None:
        """Raises BadArgument for no task."""
        if self.tasks is not None and self.tasks < 1:
            raise BadArgument(f"--tasks must be at least 1, not {self.tasks}.")

    def tasks_for(self, session: Session) -> int:
        """How many tasks to cut the work into."""
        return self.tasks or TASKS_A_WORKER * session.workers


def spread_of(engine: str | None, tasks: int | None) -> Spread | None:
    """What `--engine NAME[=ADDRESS]` and `--tasks` say; None without an engine.

    Raises BadArgument for an unknown engine and for tasks without one, and ModuleNotFoundError for the engine's extra.
    """
    if engine is None:
        if tasks is not None:
            raise BadArgument("--tasks goes with --engine: without one there is a single task.")
        return None
    name, given, address = engine.partition("=")
    engines = named("engines")
    if name not in engines:
        known = f"Known engines: {listed(sorted(engines))}" if engines else "No engine is installed"
        raise BadArgument(f"--engine {engine}: there is no engine {name!r}. {known}.")
    if given and not address:
        raise BadArgument(f"--engine {engine}: the address is missing. Write {name}=ADDRESS, or {name} alone.")
    return Spread(load(engines[name])(address or None), tasks)


def cut(items: Sequence[Any], pieces: int) -> list[Sequence[Any]]:
    """A sequence in so many contiguous pieces, as even as can be, the longer ones first; none is empty."""
    pieces = min(pieces, len(items))
    size, longer = divmod(len(items), pieces) if pieces else (0, 0)
    starts = [number * size + min(number, longer) for number in range(pieces + 1)]
    return [items[start:end] for start, end in itertools.pairwise(starts)]


@dataclass
class _Open:
    """The remaining part of a task, and how many workers died on it since its last answer."""

    left: Task
    losses: int = 0


class TaskQueue:
    """The tasks of one run: each is handed out once, and again as far as its worker was lost before it answered."""

    def __init__(self, tasks: "Sequence[Task | None]") -> None:
        """tasks: a sequence that may make its items when they are asked for; None for one with nothing to do"""
        self._tasks = tasks
        self._begun: deque[_Open] = deque()
        self._fresh = deque(range(len(tasks)))
        self._handed: dict[int, _Open | None] = {}
        self._next = 0
        self.losses = 0
        """Workers that were lost so far."""

    @property
    def is_done(self) -> bool:
        """Whether every task is answered."""
        return not self._begun and not self._fresh and not self._handed

    @property
    def wanted(self) -> int:
        """How many workers have something to do."""
        return len(self._begun) + len(self._fresh) + len(self._handed)

    def take(self) -> "tuple[int, Task] | None":
        """The next task and the number under which it is handed out; None when there is none."""
        opened = self._begun.popleft() if self._begun else None
        while opened is None:
            if not self._fresh:
                return None
            task = self._tasks[self._fresh.popleft()]
            opened = None if task is None else _Open(task)
        self._next += 1
        self._handed[self._next] = opened
        return self._next, opened.left

    def answered(self, number: int, answer: Any) -> None:
        """Notes an answer to the task of this number."""
        opened = self._handed[number]
        if opened is not None:
            left = opened.left.rest(answer)
            self._handed[number] = None if left is None else _Open(left)

    def finished(self, number: int) -> None:
        """The worker has worked the task off."""
        opened = self._handed.pop(number)
        if opened is not None:
            raise EngineFailed(f"A worker said that it was done with {opened.left}, and was not.")

    def lost(self, number: int, reason: str) -> None:
        """The worker was lost: what is left of its task comes first now. Raises EngineFailed when that happens again
        and again."""
        opened = self._handed.pop(number)
        self.losses += 1
        if opened is None:
            return
        opened.losses += 1
        if opened.losses > _MOST_LOSSES:
            raise EngineFailed(
                f"{opened.left} ended {opened.losses} workers, one after the other. The last one: {reason} Too little "
                "memory for one of the images is the usual cause."
            )
        self._begun.appendleft(opened)
