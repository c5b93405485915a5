"""The engine `ray`: workers are actors of a Ray cluster, one a GPU or one a core. Only this folder imports Ray."""

import contextlib
import os
import pickle
import re
import signal
import socket
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError

from panbench import __version__
from panbench.base.engines import EngineFailed, Needs, TaskQueue, Worker
from panbench.base.errors import BadArgument, BadModel
from panbench.base.reporter import Reporter
from panbench.base.threads import MOST
from panbench.studies.on_ray.actor import Actor, Answer, Failure, Place

__all__ = ["RayEngine"]

_CONNECT_SECONDS = 10
_PATIENCE_SECONDS = 2.0
"""How long to wait for answers before looking for new machines, and saying that workers are waited for."""

_CLIENT = "ray://"


class RayEngine:
    """Workers on the Ray cluster at an address; without one on the cluster of RAY_ADDRESS, else on this machine."""

    name = "ray"

    def __init__(self, address: str | None = None) -> None:
        """address: HOST:PORT of the cluster's head, or auto for the cluster that this machine is a node of."""
        self.address = address
        if address is not None and address.startswith(_CLIENT):
            raise BadArgument(
                f"--engine ray={address} is an address of Ray Client. Start panbench on a node of the cluster (as "
                "`ray job submit` does) with --engine ray=auto, or give HOST:PORT of its head."
            )
        if address not in (None, "auto") and not re.fullmatch(
            r"[\w.-]+:\d{1,5}|\[[\da-fA-F:]+\]:\d{1,5}", address or ""
        ):
            raise BadArgument(f"--engine ray={address} is not an address. Write ray=HOST:PORT, ray=auto, or ray alone.")

    @contextlib.contextmanager
    def session(self, make_worker: Callable[[], Worker], needs: Needs, reporter: Reporter) -> "Iterator[RaySession]":
        """Workers on the cluster for the length of a block. Raises BadArgument where there is no cluster."""
        reporter.status("Starting Ray" if self.address is None else f"Connecting to Ray at {self.address}")
        ours = self._connect()
        try:
            with contextlib.closing(RaySession(make_worker, needs, reporter)) as session:
                yield session
        finally:
            if ours:
                ray.shutdown()

    def _connect(self) -> bool:
        """Joins the cluster; whether this session did, and has to leave it."""
        if ray.is_initialized():
            return False
        if ":" in (address := self.address or os.environ.get("RAY_ADDRESS", "")):
            self._knock(address)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        quiet = {"include_dashboard": False} if self.address is None and not os.environ.get("RAY_ADDRESS") else {}
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"at {self.address}" if self.address else f"at {os.environ.get('RAY_ADDRESS', 'this machine')}"
            raise BadArgument(f"There is no Ray cluster {where} to join ({_first_line(error)}).") from None
        finally:
            # Ray takes SIGTERM for itself; ours stops the run with a sentence.
            for number, handler in handlers.items():
                with contextlib.suppress(ValueError, TypeError):
                    signal.signal(number, handler)
        return True

    def _knock(self, address: str) -> None:
        """Raises BadArgument where nobody listens: Ray itself would try for a minute."""
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BadArgument(f"--engine ray={address}: nothing answers there ({reason}).") from None


@dataclass(eq=False)
class _Hired:
    """An actor: where it runs, once it has started; what it is asked for, and the number of its task."""

    actor: Any
    starting: Any
    place: Place | None = None
    answers: Any = None
    task: int | None = None
    opened: bool = False

    @property
    def awaited(self) -> Any:
        """What `ray.wait` waits for."""
        return self.starting if self.place is None else self.answers


@dataclass
class _Resources:
    """What one worker asks the cluster for."""

    cpus: int
    gpus: int
    workers: int = field(default=1)


class RaySession:
    """The actors of one run."""

    def __init__(self, make_worker: Callable[[], Worker], needs: Needs, reporter: Reporter) -> None:
        self._pickled = pickle.dumps(make_worker)
        self._needs, self._reporter = needs, reporter
        self._hired: list[_Hired] = []
        self._failed_starts = 0
        if needs.gpu and not ray.cluster_resources().get("GPU"):
            raise BadArgument("--device cuda: the Ray cluster has no GPU. Use --device auto or cpu, or add GPU nodes.")

    def close(self) -> None:
        """Ends the workers, at once."""
        for hired in self._hired:
            with contextlib.suppress(Exception):
                ray.kill(hired.actor, no_restart=True)
        self._hired = []

    @property
    def workers(self) -> int:
        """How many workers the cluster has room for now, at least 1."""
        return self._resources().workers

    def _resources(self) -> _Resources:
        there = ray.cluster_resources()
        cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
        if gpus and self._needs.gpu is not False:
            return _Resources(max(1, min(MOST, cpus // gpus)), 1, gpus)
        return _Resources(1, 0, max(1, cpus))

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls a method of a worker, or of another one if that is lost. Raises what the method raises."""
        for _ in range(3):
            if not self._hired:
                self._hire(1)
            hired = self._hired[0]
            try:
                self._started(hired, ray.get(hired.starting))
                return _value(ray.get(hired.actor.ask.remote(method, *arguments)), hired)
            except RayError as error:
                reason = _first_line(error)
                self._dismiss(hired)
        raise EngineFailed(f"Three workers were lost, one after the other, while they opened. The last one: {reason}")

    def run(self, queue: TaskQueue) -> Generator[Any, None, None]:
        """The answers to all tasks, as they come; lost workers are replaced, and machines that join are used."""
        while not queue.is_done:
            self._hire(queue.wanted)
            for hired in self._hired:
                if hired.place is not None and hired.task is None and (taken := queue.take()) is not None:
                    hired.task, task = taken
                    hired.answers = hired.actor.run.options(num_returns="streaming").remote(task)
            waiting = {id(hired.awaited): hired for hired in self._hired if hired.awaited is not None}
            ready, _ = ray.wait([hired.awaited for hired in waiting.values()], timeout=_PATIENCE_SECONDS)
            if not ready and all(hired.place is None for hired in self._hired):
                self._reporter.status("Waiting for room in the Ray cluster")
            for one in ready:
                yield from self._heard(waiting[id(one)], queue)

    def _heard(self, hired: _Hired, queue: TaskQueue) -> Iterator[Any]:
        """What one worker has to say: that it has started, an answer, or that its task is done."""
        try:
            if hired.place is None:
                self._started(hired, ray.get(hired.starting))
                return
            answer = _value(ray.get(next(hired.answers)), hired)
        except StopIteration:
            assert hired.task is not None
            queue.finished(hired.task)
            hired.task = hired.answers = None
            return
        except RayError as error:
            self._lost(hired, queue, _first_line(error))
            return
        assert hired.task is not None
        hired.opened, self._failed_starts = True, 0
        queue.answered(hired.task, answer)
        yield answer

    def _lost(self, hired: _Hired, queue: TaskQueue, reason: str) -> None:
        where = f" on {hired.place.host}" if hired.place else ""
        self._dismiss(hired)
        if hired.task is None:
            self._failed_starts += 1
            if self._failed_starts > 3:
                raise EngineFailed(f"Workers cannot be started on the Ray cluster: {reason}")
            return
        queue.lost(hired.task, reason)
        self._reporter.notice(f"A worker{where} was lost; another one does the rest of its images.")

    def _hire(self, wanted: int) -> None:
        resources = self._resources()
        environment = {name: value for name, value in os.environ.items() if name.startswith("PANBENCH_")}
        kind = ray.remote(Actor).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )
        while len(self._hired) < min(wanted, resources.workers):
            actor = kind.remote(self._pickled, environment, resources.cpus)
            self._hired.append(_Hired(actor, actor.place.remote()))

    def _started(self, hired: _Hired, place: Place) -> None:
        if place.version != __version__:
            raise BadModel(
                f"{place.host} has panbench {place.version} and this machine {__version__}. Install one version on all."
            )
        hired.place = place

    def _dismiss(self, hired: _Hired) -> None:
        self._hired.remove(hired)
        with contextlib.suppress(Exception):
            ray.kill(hired.actor, no_restart=True)


def _value(answer: Answer | Failure, hired: _Hired) -> Any:
    """What a worker gave. Raises what it raised, with the machine where that is another one."""
    if isinstance(answer, Answer):
        return answer.value
    where = hired.place.host if hired.place else "a node"
    if answer.error is None:
        told = answer.traceback.strip()
        raise RuntimeError(f"a worker on {where} failed: {told.splitlines()[-1]}") from RuntimeError(told)
    if where != socket.gethostname():
        answer.error.reason = f"On {where}: {answer.error.reason}"
    raise answer.error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0].rstrip(".") + "."
