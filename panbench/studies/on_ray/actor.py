"""What runs in each process of the cluster: a worker behind an actor, whose errors come back as values."""

import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from panbench import __version__
from panbench.base.errors import PanbenchError

__all__ = ["Actor", "Answer", "Failure", "Place"]


@dataclass(frozen=True)
class Place:
    """Where an actor runs, and which panbench it has."""

    host: str
    process: int
    version: str


@dataclass(frozen=True)
class Answer:
    """The result of a worker's method."""

    value: Any


@dataclass(frozen=True)
class Failure:
    """What it raised: an error of panbench as it is, of any other the traceback."""

    error: PanbenchError | None
    traceback: str = ""


class Actor:
    """A worker in a process of its own, made when it is first asked for."""

    def __init__(self, pickled: bytes, environment: Mapping[str, str], threads: int) -> None:
        """pickled: the function that makes the worker; environment: variables of panbench where the run was started"""
        # Before anything else is imported: torch reads the number of threads once.
        os.environ.update(environment)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        self._pickled, self._threads = pickled, threads
        self._worker: Any = None

    def place(self) -> Place:
        """Where this is; the answer says that the process has started."""
        return Place(socket.gethostname(), os.getpid(), __version__)

    def ask(self, method: str, *arguments: Any) -> "Answer | Failure":
        """Calls a method of the worker; returns or raises what it does."""
        return _caught(lambda: getattr(self._opened(), method)(*arguments))

    def run(self, task: Any) -> "Iterator[Answer | Failure]":
        """The worker's answers to a task, as they come."""
        answers = _caught(lambda: iter(self._opened().run(task)))
        if isinstance(answers, Failure):
            yield answers
            return
        end = object()
        while True:
            answer = _caught(lambda: next(answers.value, end))
            if isinstance(answer, Answer) and answer.value is end:
                return
            yield answer
            if isinstance(answer, Failure):
                return

    def _opened(self) -> Any:
        if self._worker is None:
            self._worker = pickle.loads(self._pickled)()
        return self._worker


def _caught(action: Callable[[], Any]) -> "Answer | Failure":
    try:
        return Answer(action())
    except PanbenchError as error:
        return Failure(error)
    except Exception:
        return Failure(None, traceback.format_exc())
