"""Shards as tasks of a Ray cluster. A worker reads the data where it lies, and returns its run folders through Ray."""

import io
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import ray

from panbench.base.errors import BadRun, PanbenchError
from panbench.base.reporter import Collected, Reporter
from panbench.base.shards import Shard
from panbench.runs import Run, load_run
from panbench.runs.layout import RECORD
from panbench.runs.sharded import Sharded, already_whole, merge_shards, shard_folders, shards_left, size_begun_with

__all__ = ["RETRIES", "run_on_ray"]

RETRIES = 3
"""So often Ray starts a task again whose worker died."""


def run_on_ray(work: Sharded, reporter: Reporter, tasks: int, address: str | None = None) -> list[Run]:
    """Has a cluster make the shards of some work, one task each, and merges them here.

    address: of the cluster, as `ray.init` takes it; None for the one that runs here, or a new one
    Raises BadRun for a shard that fails: the others that are done stay, for --resume.
    """
    if already_whole(work, tasks):
        return [load_run(home) for home in work.homes]
    if work.needs_size and (size := size_begun_with(work, tasks)):
        work = work.with_size(size)
    was_running = ray.is_initialized()
    if not was_running:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        # A GPU a task where the cluster has some; Ray lets the worker see that one alone.
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(max_retries=RETRIES, num_gpus=gpus)(_on_worker)
        if work.needs_size:
            work = work.with_size(_answer(ray.get(task.remote(work, None)), reporter))
        _run_all(work, reporter, tasks, task)
    finally:
        if not was_running:
            ray.shutdown()
    return merge_shards(work, tasks)


def _run_all(work: Sharded, reporter: Reporter, tasks: int, task: Any) -> None:
    title, shared = f"{work.title} on Ray", ray.put(work)
    waiting = {task.remote(shared, Shard(number, tasks)): number for number in shards_left(work, tasks)}
    while waiting:
        reporter.progress(title, tasks - len(waiting), tasks, "shards")
        (ended,), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(ended)
        try:
            packed = _answer(ray.get(ended), reporter)
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[0]
            raise BadRun(f"Shard {number}/{tasks} failed ({why}). The same command with --resume continues.") from error
        for content, folder in zip(packed, shard_folders(work, number), strict=True):
            _unpack(content, folder)
    reporter.progress(title, tasks, tasks, "shards")


def _answer(found: tuple[Any, list[str]], reporter: Reporter) -> Any:
    """What a task returned; its notices are reported. Raises BadRun for what it refused."""
    answer, notices = found
    for sentence in notices:
        reporter.notice(sentence)
    if isinstance(answer, PanbenchError):
        raise BadRun(str(answer))
    return answer


def _on_worker(work: Sharded, shard: Shard | None) -> tuple[Any, list[str]]:
    """The packed run folders of a shard, or without one the batch size; and notices, those of all from the first.

    A PanbenchError is returned: raised, Ray would try again.
    """
    collected = Collected()
    try:
        if shard is None:
            return work.best_size(collected), collected.notices
        with tempfile.TemporaryDirectory(prefix="panbench-shard-") as place:
            folders = [Path(place) / str(number) / home.name for number, home in enumerate(work.homes)]
            work.run_shard(shard, folders, collected)
            return [_packed(folder) for folder in folders], collected.notices if shard.number == 1 else []
    except PanbenchError as error:
        return BadRun(str(error)), []


def _packed(folder: Path) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, arcname=".")
    return content.getvalue()


def _unpack(content: bytes, folder: Path) -> None:
    """Writes a run folder; its run.json comes last, so that a folder that was cut short is no run."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name == f"./{RECORD}")
        archive.extractall(folder, members=members, filter="data")
