"""Runs shards as tasks of a Ray cluster. A worker reads the data in place and returns its run folders through Ray."""

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
from panbench.runs.sharded import Sharded, are_all_done, begun_batch_size, merge_shards, shard_folders, shards_to_make

RETRIES = 3
"""How often Ray restarts a task whose worker died."""


def run_on_ray(work: Sharded, reporter: Reporter, tasks: int, address: str | None = None) -> list[Run]:
    """Runs each shard of the work as a task of a cluster, and merges the shards on this machine.

    address: the cluster's, as `ray.init` takes it; None for the local cluster, or a new one
    Raises BadRun for a shard that fails; finished shards are stored for --resume.
    """
    if are_all_done(work, tasks):
        return [load_run(home) for home in work.merged_folders]
    if work.needs_size and (size := begun_batch_size(work, tasks)):
        work = work.with_size(size)
    was_running = ray.is_initialized()
    if not was_running:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        # One GPU per task if the cluster has any; Ray shows a worker only its own.
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(max_retries=RETRIES, num_gpus=gpus)(_run_shard_on_ray_worker)
        if work.needs_size:
            work = work.with_size(_ray_task_result(ray.get(task.remote(work, None)), reporter))
        _run_shards_on_ray(work, reporter, tasks, task)
    finally:
        if not was_running:
            ray.shutdown()
    return merge_shards(work, tasks)


def _run_shards_on_ray(work: Sharded, reporter: Reporter, tasks: int, task: Any) -> None:
    """Runs all unfinished shards as tasks of the cluster, and unpacks the runs of each as it ends."""
    title, shared = f"{work.title} on Ray", ray.put(work)
    waiting = {task.remote(shared, Shard(number, tasks)): number for number in shards_to_make(work, tasks)}
    while waiting:
        reporter.progress(title, tasks - len(waiting), tasks, "shards")
        (ended,), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(ended)
        try:
            packed = _ray_task_result(ray.get(ended), reporter)
        except ray.exceptions.RayError as error:
            why = str(error).strip().splitlines()[0]
            raise BadRun(f"Shard {number}/{tasks} failed ({why}). The same command with --resume continues.") from error
        for content, folder in zip(packed, shard_folders(work, number), strict=True):
            _unpack_run_folder(content, folder)
    reporter.progress(title, tasks, tasks, "shards")


def _ray_task_result(found: tuple[Any, list[str]], reporter: Reporter) -> Any:
    """Reports the notices of a task and returns its result. Raises BadRun if the result is an error."""
    answer, notices = found
    for message in notices:
        reporter.notice(message)
    if isinstance(answer, PanbenchError):
        raise BadRun(str(answer))
    return answer


def _run_shard_on_ray_worker(work: Sharded, shard: Shard | None) -> tuple[Any, list[str]]:
    """Runs a shard on a worker; returns its packed run folders and its notices, or an error in their place.

    shard: None measures the best batch size instead. Shards share most notices, so only the first returns them.
    Errors are returned because Ray would retry a task that raises.
    """
    collected = Collected()
    try:
        if shard is None:
            return work.best_size(collected), collected.notices
        with tempfile.TemporaryDirectory(prefix="panbench-shard-") as temporary:
            folders = [Path(temporary) / str(number) / home.name for number, home in enumerate(work.merged_folders)]
            work.run_shard(shard, folders, collected)
            return [_packed_run_folder(folder) for folder in folders], collected.notices if shard.number == 1 else []
    except PanbenchError as error:
        return BadRun(str(error)), []


def _packed_run_folder(folder: Path) -> bytes:
    """Packs a run folder to the bytes of a tar file."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.add(folder, arcname=".")
    return content.getvalue()


def _unpack_run_folder(content: bytes, folder: Path) -> None:
    """Unpacks a run folder; run.json comes last, so that an interrupted folder does not look like a run."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = sorted(archive.getmembers(), key=lambda member: member.name == f"./{RECORD}")
        archive.extractall(folder, members=members, filter="data")
