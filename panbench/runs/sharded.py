"""Makes runs in shards by several processes: which shards are left to make, and how they are merged.

Shard 3 of 8 of `results/m` is the run `results/m.3`; when all shards are done, they are merged and removed.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from panbench.base.errors import BadRun
from panbench.base.reporter import Reporter
from panbench.base.shards import Shard
from panbench.runs.folder import Run, load_run
from panbench.runs.layout import RECORD
from panbench.runs.merge import merge_runs
from panbench.runs.writer import remove_run, unfinished_run


class Sharded(Protocol):
    """An evaluation or a scoring that processes do in shards; it is pickled and sent to each of them."""

    @property
    def title(self) -> str:
        """The label of the progress bar."""

    @property
    def merged_folders(self) -> Sequence[Path]:
        """The folders of the merged runs, one per fusion rule."""

    @property
    def overwrite(self) -> bool:
        """True if existing runs are replaced."""

    @property
    def resume(self) -> bool:
        """True if existing runs are resumed."""

    @property
    def command(self) -> Sequence[str]:
        """The command line, for run.json."""

    @property
    def needs_size(self) -> bool:
        """True if the batch size must still be chosen, once for all shards."""
        return False

    def best_size(self, reporter: Reporter) -> int:
        """Returns the batch size of highest throughput, on the device where the shards will run."""
        raise AssertionError("only called if needs_size is True")

    def with_size(self: "_Work", size: int) -> "_Work":
        """Copies this evaluation or scoring with another batch size."""
        return self

    def resumed(self: "_Work") -> "_Work":
        """Copies this evaluation or scoring with `resume` set, so that unfinished shards continue."""

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        """Makes one shard of each run, in the folders of `shard_folders`."""


_Work = TypeVar("_Work", bound=Sharded)

Sharding = Callable[[Sharded, Reporter], list[Run]]
"""A function that has other processes make all shards, and returns the merged runs."""


def shard_folders(work: Sharded, number: int) -> list[Path]:
    """Returns the folders that one shard of an evaluation writes: one for each run that results."""
    return [home.with_name(f"{home.name}.{number}") for home in work.merged_folders]


def are_all_done(work: Sharded, count: int) -> bool:
    """True if the work is resumed and all its merged runs are done. Raises BadRun if shards cannot complete one."""
    if not work.resume:
        return False
    begun = {home: load_run(home).info.status for home in work.merged_folders if (home / RECORD).exists()}
    for home, *shards in zip(work.merged_folders, *_all_shard_folders(work, count), strict=True):
        # A run that was stopped while it was merged is merged again.
        if begun.get(home, "done") != "done" and not all(map(_is_done_run, shards)):
            raise BadRun(f"{home} is a run of one process, or lacks shards. Resume it in one process.")
    return [*begun.values()] == ["done"] * len(work.merged_folders)


def begun_batch_size(work: Sharded, count: int) -> int | None:
    """Returns the batch size of shards that will be resumed, which must not change; None if there are none."""
    folders = itertools.chain.from_iterable(_all_shard_folders(work, count)) if work.resume else ()
    begun = [run for folder in folders if (run := unfinished_run(folder)) is not None]
    return next((run.info.batch_size for run in begun if run.info.batch_size), None)


def _all_shard_folders(work: Sharded, count: int) -> list[list[Path]]:
    """Returns the folders of each shard, from the first to the last."""
    return [shard_folders(work, number) for number in range(1, count + 1)]


def _is_done_run(folder: Path) -> bool:
    """True if a folder has a run with status "done"."""
    return (folder / RECORD).exists() and load_run(folder).info.status == "done"


def shards_to_make(work: Sharded, count: int) -> list[int]:
    """Returns the numbers of shards to make and removes their earlier runs; resumed work keeps shards that are done.

    Raises BadRun for a shard that exists, if the work is neither resumed nor replaced.
    """
    numbers = []
    for number, folders in enumerate(_all_shard_folders(work, count), start=1):
        existing = [folder for folder in folders if (folder / RECORD).exists()]
        if existing and not (work.resume or work.overwrite):
            raise BadRun(f"{existing[0]} already exists. Continue with --resume, or replace it with --overwrite.")
        if work.resume and all(map(_is_done_run, folders)):
            continue
        for folder in existing:
            remove_run(folder)
        numbers.append(number)
    return numbers


def merge_shards(work: Sharded, count: int) -> list[Run]:
    """Merges the shards of each run and removes them; returns the runs. Raises BadRun if one is missing or not done."""
    shards = _all_shard_folders(work, count)
    for home, *folders in zip(work.merged_folders, *shards, strict=True):
        if not (work.resume and _is_done_run(home)):
            merge_runs(folders, home, overwrite=work.overwrite or work.resume, command=work.command)
    for folder in itertools.chain.from_iterable(shards):
        remove_run(folder)
    return [load_run(home) for home in work.merged_folders]
