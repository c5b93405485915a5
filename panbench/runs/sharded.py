"""Runs made in shards by several processes: what each of them does, and what joins their work.

Shard 3 of 8 of `results/m` is the run `results/m.3` until all are there; then they are merged, and removed.
"""

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

__all__ = ["Sharded", "Spread", "already_whole", "merge_shards", "shard_folders", "shards_left", "size_begun_with"]


class Sharded(Protocol):
    """Work that is done in shards, by processes that get it pickled."""

    @property
    def title(self) -> str:
        """What is done, as its bar is called."""

    @property
    def homes(self) -> Sequence[Path]:
        """The folders of the runs."""

    @property
    def overwrite(self) -> bool:
        """Whether runs that are there are replaced."""

    @property
    def resume(self) -> bool:
        """Whether runs that are there are gone on with."""

    @property
    def command(self) -> Sequence[str]:
        """The command line, for run.json."""

    @property
    def needs_size(self) -> bool:
        """Whether a batch size is still to be chosen, once for all shards."""

    def best_size(self, reporter: Reporter) -> int:
        """The batch size of highest throughput, where the shards will run."""

    def with_size(self: "_Work", size: int) -> "_Work":
        """The same work in batches of this size."""

    def resumed(self: "_Work") -> "_Work":
        """The same work, going on with what its shards hold."""

    def run_shard(self, shard: Shard, folders: Sequence[Path], reporter: Reporter) -> None:
        """Makes one shard of each run, in these folders."""


_Work = TypeVar("_Work", bound=Sharded)

Spread = Callable[[Sharded, Reporter], list[Run]]
"""Has others make the shards of some work, and merges them: the runs."""


def shard_folders(work: Sharded, number: int) -> list[Path]:
    """Where a shard of each run lies."""
    return [_shard_of(home, number) for home in work.homes]


def _shard_of(home: Path, number: int) -> Path:
    return home.with_name(f"{home.name}.{number}")


def already_whole(work: Sharded, count: int) -> bool:
    """Whether all runs are done, of work that is resumed. Raises BadRun for one that shards cannot complete."""
    begun = {home: load_run(home) for home in work.homes if work.resume and (home / RECORD).exists()}
    part = [home for home, run in begun.items() if run.info.status != "done"]
    # One that was stopped while it was merged is merged again.
    if lacking := [home for home in part if not all(_is_done(_shard_of(home, number + 1)) for number in range(count))]:
        raise BadRun(f"{lacking[0]} is a run of one process, or lacks shards. Resume it in one process.")
    return len(begun) == len(work.homes) and not part


def size_begun_with(work: Sharded, count: int) -> int | None:
    """The batch size of the shards that are here, where work is resumed: another one could not go on with them."""
    folders = (
        [folder for number in range(1, count + 1) for folder in shard_folders(work, number)] if work.resume else []
    )
    begun = [run for folder in folders if (run := unfinished_run(folder)) is not None]
    return next((run.info.batch_size for run in begun if run.info.batch_size), None)


def _is_done(folder: Path) -> bool:
    return (folder / RECORD).exists() and load_run(folder).info.status == "done"


def shards_left(work: Sharded, count: int) -> list[int]:
    """The numbers of shards that are to be made: on resuming, those that are not done here.

    Raises BadRun for a shard that is here, where the work is neither resumed nor replaced.
    """
    left = []
    for number in range(1, count + 1):
        here = [folder for folder in shard_folders(work, number) if (folder / RECORD).exists()]
        if here and not (work.resume or work.overwrite):
            raise BadRun(f"{here[0]} holds a shard already. Continue with --resume, or replace it with --overwrite.")
        if work.resume and len(here) == len(work.homes) and all(map(_is_done, here)):
            continue
        for folder in here:
            remove_run(folder)
        left.append(number)
    return left


def merge_shards(work: Sharded, count: int) -> list[Run]:
    """The runs of all shards, which are then removed. Raises BadRun when one is missing or not done."""
    shards = [shard_folders(work, number) for number in range(1, count + 1)]
    for place, home in enumerate(work.homes):
        if not (work.resume and _is_done(home)):
            overwrite = work.overwrite or work.resume
            merge_runs([shard[place] for shard in shards], home, overwrite=overwrite, command=work.command)
    for folder in (folder for shard in shards for folder in shard):
        remove_run(folder)
    return [load_run(home) for home in work.homes]
