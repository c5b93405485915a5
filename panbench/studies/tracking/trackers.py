"""Logs an evaluation to TensorBoard, Weights & Biases or MLflow: off unless asked for.

While images are scored: their number and the speed. At the end: PQ, SQ and RQ of all, things and stuff, PQ of each
category, and what was run. Each library is imported only when it is named; they are extras of the package. What a
library does never ends or holds up an evaluation: it runs in a thread of its own, and is dropped when it fails, calls
sys.exit or does not return.
"""

import contextlib
import importlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter, Unit
from panbench.base.secrets import redacted

if TYPE_CHECKING:
    from panbench.runs import Run

__all__ = ["TRACKERS", "Tracker", "Trackers", "check_trackers", "open_trackers"]

EVERY_SECONDS = 2.0
"""Minimum interval between progress updates: these libraries keep every value."""

PROJECT = "panbench"

CALL_SECONDS = 30.0
"""How long an evaluation waits for a tracker that is given numbers."""

OPEN_SECONDS = CLOSE_SECONDS = 120.0
"""How long it waits for one that connects, or sends what it has not sent yet."""

_Result = TypeVar("_Result")


class Tracker(Protocol):
    """The interface of an experiment tracker."""

    def config(self, values: Mapping[str, Any]) -> None:
        """Stores what was run; called once."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Stores numbers by name, at `step` images."""

    def close(self, failed: bool) -> None:
        """Writes everything that is not written yet."""


class _Worker:
    """A thread for all calls of one tracker, so that a call that never returns can be abandoned."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        # A daemon: the end of the program does not wait for it.
        threading.Thread(target=self._run, name="tracker", daemon=True).start()

    def call(self, action: Callable[[], _Result], seconds: float) -> _Result:
        """What `action` returns or raises; NotInTime after so many seconds."""
        future: Future[_Result] = Future()
        self._calls.put((action, future))
        try:
            return future.result(seconds)
        except NotInTime:
            if future.done():
                raise
            raise NotInTime(f"no answer for {seconds:g} seconds") from None

    def end(self) -> None:
        """Ends the thread once it has done what it was asked for."""
        self._calls.put(None)

    def _run(self) -> None:
        while (asked := self._calls.get()) is not None:
            action, future = asked
            try:
                future.set_result(action())
            except BaseException as error:  # SystemExit among them: it is for the thread that asked
                future.set_exception(error)


class Trackers:
    """The trackers of one evaluation: a Reporter that forwards everything, and logs images as they are scored.

    A tracker that fails, ends the program or does not return in time is dropped with a notice, and the evaluation goes
    on without it.
    """

    def __init__(
        self,
        trackers: Sequence[Tracker],
        reporter: Reporter = SILENT,
        clock: Callable[[], float] = time.monotonic,
        *,
        call_seconds: float = CALL_SECONDS,
        close_seconds: float = CLOSE_SECONDS,
    ) -> None:
        self._workers = [(tracker, _Worker()) for tracker in trackers]
        self._reporter, self._clock = reporter, clock
        self._call_seconds, self._close_seconds = call_seconds, close_seconds
        self._began: tuple[float, int] | None = None
        self._last_update = -EVERY_SECONDS

    def add(self, make: Callable[[], Tracker], seconds: float = OPEN_SECONDS) -> None:
        """Adds a tracker, made in the thread in which it will run. Raises what `make` raises, and NotInTime."""
        worker = _Worker()
        try:
            self._workers.append((worker.call(make, seconds), worker))
        except BaseException:
            worker.end()
            raise

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Hands it on; `unit` images with a known total are logged, too."""
        self._reporter.progress(task, done, total, unit)
        if unit != "images" or total is None:
            return
        now = self._clock()
        # A resumed run begins with images that an earlier sitting scored.
        began, before = self._began = self._began or (now, done)
        if now - self._last_update < EVERY_SECONDS and done < total:
            return
        self._last_update = now
        values = {"progress/images": float(done), "progress/share": done / total if total else 1.0}
        if now > began:
            values["progress/images_per_second"] = (done - before) / (now - began)
        self._each(lambda tracker: tracker.scalars(values, done))

    def status(self, words: str) -> None:
        """Hands it on."""
        self._reporter.status(words)

    def notice(self, sentence: str) -> None:
        """Hands it on."""
        self._reporter.notice(sentence)

    def finished(self, run: "Run") -> None:
        """The run's scores and what was run."""
        scored = run.info.images.scored
        self._each(lambda tracker: tracker.config(config_of(run)))
        self._each(lambda tracker: tracker.scalars(scores_of(run), scored))

    def close(self, failed: bool) -> None:
        """Ends every tracker that still works."""
        self._each(lambda tracker: tracker.close(failed), self._close_seconds)
        for _, worker in self._workers:
            worker.end()

    def _each(self, action: Callable[[Tracker], None], seconds: float | None = None) -> None:
        for tracker, worker in list(self._workers):
            try:
                worker.call(lambda tracker=tracker: action(tracker), seconds or self._call_seconds)  # type: ignore[misc]
            except (Exception, SystemExit) as error:  # an hour of evaluation is not lost because a server is down
                self._workers.remove((tracker, worker))
                worker.end()
                name = type(tracker).__name__.strip("_")
                self._reporter.notice(f"{name} is no longer updated: {_in_short(error)}")


@contextlib.contextmanager
def open_trackers(kinds: Sequence[str], name: str, folder: Path, reporter: Reporter = SILENT) -> Iterator[Trackers]:
    """The trackers of one evaluation, open while the block runs; closed as failed when it raises.

    kinds: names in TRACKERS; name: the run's; folder: where libraries that write files may write them
    reporter: what the trackers hand everything on to
    Raises BadArgument for an unknown kind, a library that is not installed, or a tracker that cannot be opened.
    """
    check_trackers(kinds)
    trackers = Trackers((), reporter)
    failed = True
    try:
        for kind in dict.fromkeys(kinds):
            _open(trackers, kind, name, folder)
        yield trackers
        failed = False
    finally:
        trackers.close(failed)


def _open(trackers: Trackers, kind: str, name: str, folder: Path) -> None:
    try:
        trackers.add(lambda: TRACKERS[kind](name, folder))
    except (Exception, SystemExit) as error:
        raise BadArgument(f"--log {kind} cannot be opened: {_in_short(error)}") from error


def _in_short(error: BaseException) -> str:
    """What a tracker raised, without its keys."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    return redacted(f"{type(error).__name__}: {error}")


def check_trackers(kinds: Sequence[str]) -> None:
    """Raises BadArgument for a kind that is not in TRACKERS or lacks its library."""
    for kind in kinds:
        if kind not in TRACKERS:
            raise BadArgument(f"There is no tracker {kind!r} for --log. Choose from {', '.join(TRACKERS)}.")
        if kind in PACKAGES:
            _needs(kind, PACKAGES[kind])


def scores_of(run: "Run") -> dict[str, float]:
    """A run's scores by name, fractions 0–1: `PQ`, `PQ_th`, `SQ_st` …, `categories/<name>`, without what is absent."""
    from panbench.panoptic.types import GROUPS

    summary = run.summary()
    values = {
        f"{metric}{suffix}": summary[group][metric] for group, suffix in GROUPS.items() for metric in ("PQ", "SQ", "RQ")
    }
    table = run.pq()
    held = table[(table["TP"] + table["FP"] + table["FN"]) > 0]
    values.update({f"categories/{row.name_}": row.PQ for row in held.rename(columns={"name": "name_"}).itertuples()})
    values["images_per_second"] = run.info.images_per_second
    return {name: float(value) for name, value in values.items() if value is not None}


def config_of(run: "Run") -> dict[str, str | int | float | bool]:
    """What was run, flat: model, weights' hash, data, device, precision, versions."""
    info = run.info
    of_model: dict[str, str | int | float | bool | None] = {}
    if info.model is not None:
        of_model = {name: getattr(info.model, name) for name in ("weights_sha256", "random_weights", "params")}
        of_model["model"] = info.model.name
    values = {
        **of_model,
        "rule": None if info.rule is None else str(info.rule),
        "dataset": info.dataset.name,
        "split": info.dataset.split,
        "ground_truth_sha256": info.dataset.fingerprint,
        "device": info.device.name,
        "precision": info.precision,
        "batch_size": info.batch_size,
        "status": info.status,
        "panbench": info.panbench,
        "git_commit": info.git_commit,
        **{f"version/{name}": version for name, version in info.versions.items()},
    }
    return {name: value for name, value in values.items() if isinstance(value, (str, int, float, bool))}


class _TensorBoard:
    """TensorBoard's own event files, written without torch."""

    def __init__(self, name: str, folder: Path) -> None:
        self._proto: Any = importlib.import_module("tensorboard.compat.proto.summary_pb2")
        self._event: Any = importlib.import_module("tensorboard.compat.proto.event_pb2").Event
        writers: Any = importlib.import_module("tensorboard.summary.writer.event_file_writer")
        self._writer = writers.EventFileWriter(str(folder / "tensorboard"))

    def config(self, values: Mapping[str, Any]) -> None:
        tensors: Any = importlib.import_module("tensorboard.compat.proto.tensor_pb2")
        types: Any = importlib.import_module("tensorboard.compat.proto.types_pb2")
        table = "\n".join(["| | |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in values.items())])
        plugin = self._proto.SummaryMetadata.PluginData(plugin_name="text")
        self._write(
            self._proto.Summary.Value(
                tag="what was run/text_summary",
                metadata=self._proto.SummaryMetadata(plugin_data=plugin, data_class=self._proto.DATA_CLASS_TENSOR),
                tensor=tensors.TensorProto(dtype=types.DT_STRING, string_val=[table.encode()]),
            )
        )

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._write(self._proto.Summary.Value(tag=name, simple_value=value), step)

    def close(self, failed: bool) -> None:
        self._writer.close()

    def _write(self, value: Any, step: int = 0) -> None:
        summary = self._proto.Summary(value=[value])
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=summary))


class _WandB:
    def __init__(self, name: str, folder: Path) -> None:
        wandb: Any = importlib.import_module("wandb")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(project=PROJECT, name=name, dir=str(folder), resume="allow")

    def config(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class _MLflow:
    def __init__(self, name: str, folder: Path) -> None:
        mlflow: Any = importlib.import_module("mlflow")
        self._mlflow = mlflow
        mlflow.set_experiment(PROJECT)
        mlflow.start_run(run_name=name)

    def config(self, values: Mapping[str, Any]) -> None:
        self._mlflow.log_params({_mlflow_name(name): value for name, value in values.items()})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics({_mlflow_name(name): value for name, value in values.items()}, step=step)

    def close(self, failed: bool) -> None:
        self._mlflow.end_run("FAILED" if failed else "FINISHED")


TRACKERS: Mapping[str, Callable[[str, Path], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
}
"""What `--log` may name. Where wandb and MLflow store is theirs to say, by their own environment variables."""


PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def _needs(module: str, package: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError:
        raise BadArgument(f"--log {module} needs the Python package {package}: pip install {package}.") from None
    except (Exception, SystemExit) as error:
        raise BadArgument(f"--log {module}: the package {package} cannot be imported: {_in_short(error)}") from error


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _mlflow_name(name: str) -> str:
    """MLflow takes letters, digits, and `_-. /` in names."""
    return "".join(sign if sign.isalnum() or sign in "_-. /" else "_" for sign in name)
