"""An engine in this process, whose workers take turns and are lost at random: the same at each run of a seed."""

import contextlib
import pickle
import random
from collections.abc import Callable, Generator, Iterator
from typing import Any

from panbench.base.engines import EngineFailed, Needs, TaskQueue, Worker
from panbench.base.reporter import Reporter


class HereSession:
    """Workers whose tasks and answers are pickled, as on their way between machines."""

    def __init__(self, make_worker: Callable[[], Worker], workers: int, losses: float, seed: int) -> None:
        self.workers = workers
        self._maker, self._losses, self._random = pickle.dumps(make_worker), losses, random.Random(seed)
        self.lost = self._in_a_row = 0
        self._kept: list[Worker] = []

    def _made(self) -> Worker:
        return self._kept.pop() if self._kept else pickle.loads(self._maker)()

    def ask(self, method: str, *arguments: Any) -> Any:
        worker = self._made()
        self._kept.append(worker)
        return carried(getattr(worker, method)(*carried(arguments)))

    def run(self, queue: TaskQueue) -> Generator[Any, None, None]:
        busy: dict[int, tuple[Worker, Iterator[Any]]] = {}
        while not queue.is_done:
            while len(busy) < self.workers and (taken := queue.take()) is not None:
                worker = self._made()
                busy[taken[0]] = worker, iter(worker.run(carried(taken[1])))
            number = self._random.choice(sorted(busy))
            worker, answers = busy[number]
            answer = carried(next(answers, None))
            # More in a row would be the fault of the task (`test_engines.py`).
            if self._in_a_row < 3 and self._random.random() < self._losses:
                # The answer was on its way: nobody has it.
                self._in_a_row += 1
                del busy[number]
                self.lost += 1
                queue.lost(number, "the test lost it.")
            elif answer is None:
                self._kept.append(busy.pop(number)[0])
                queue.finished(number)
            else:
                self._in_a_row = 0
                queue.answered(number, answer)
                yield answer


class HereEngine:
    """Starts them."""

    name = "here"

    def __init__(self, workers: int = 3, losses: float = 0.0, seed: int = 0, stop_after: int | None = None) -> None:
        """stop_after: so many answers Ctrl-C comes"""
        self._settings, self._stop_after = (workers, losses, seed), stop_after
        self.sessions: list[HereSession] = []

    @contextlib.contextmanager
    def session(self, make_worker: Callable[[], Worker], needs: Needs, reporter: Reporter) -> Iterator[Any]:
        session = HereSession(make_worker, *self._settings)
        self.sessions.append(session)
        if self._stop_after is not None:
            session.run = stopping(session.run, self._stop_after)
        yield session


def stopping(run: Callable[[TaskQueue], Any], after: int) -> Callable[[TaskQueue], Any]:
    def stops(queue: TaskQueue) -> Generator[Any, None, None]:
        for number, answer in enumerate(run(queue)):
            if number == after:
                raise KeyboardInterrupt
            yield answer

    return stops


def carried(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


__all__ = ["EngineFailed", "HereEngine"]
