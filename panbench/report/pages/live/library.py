"""The runs of a folder as the server reads them: on request, and again when they have changed."""

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from panbench.base.errors import BadArgument, BadRun, PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.jackknife import intervals
from panbench.metrics.samples import SampleAccumulator
from panbench.report.answers.stored import DAMAGED, StoredRun, run_places, stored_run
from panbench.report.pages.live.queries import ErrorQuery
from panbench.report.pages.live.selection import Selection
from panbench.report.pages.live.watch import RunWatch, is_written
from panbench.runs import DatasetRecord, Run, load_run
from panbench.runs.layout import CANDIDATES, PREDICTIONS, deletable_names
from panbench.runs.replacing import home_of_replacement

WATCHED = 8
"""Number of growing runs followed at a time; the least recently requested one is read anew."""

KEPT = 4
"""Number of selections cached, so that going back to a recent comparison takes no time. More could exceed the memory:
a selection of a million images takes gigabytes."""

WITH_INTERVAL = 5_000
"""Maximum number of images of a run whose interval the list displays."""

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class ListedRun:
    """A run in the server's list. `name` is its path below the folder, with /, and the only way to request it.

    model: the model's name, else the run's; ends: of PQ's 95 % interval; crop: the costliest error, as on the wall
    expected: total number of images of an unfinished run
    is_written: whether a process may be writing it
    """

    name: str
    run: StoredRun
    data: DatasetRecord | None
    """None for a run that cannot be read."""
    model: str | None = None
    ends: tuple[float, float] | None = None
    crop: Mapping[str, Any] | None = None
    expected: int | None = None
    is_written: bool = False


@dataclass(frozen=True)
class ComparisonKey:
    """The key of a comparison: its runs and the state of their files; it changes while a run grows."""

    common_images: bool
    runs: tuple[tuple[str, Stamp], ...]

    @property
    def run_names(self) -> tuple[str, ...]:
        """Returns the runs' names, sorted."""
        return tuple(name for name, _ in self.runs)


class RunLibrary:
    """The runs below a folder, searched anew for each request, so that runs appear while the server works.

    Thread-safe. images, gt, gt_dir: where photographs and ground truth are, if they have moved
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        images: Path | None = None,
        gt: Path | None = None,
        gt_dir: Path | None = None,
    ) -> None:
        """Takes the folder that contains the runs, and the paths of photographs and ground truth if they have moved."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise BadArgument(f"There is no folder {self.folder}. `panbench eval` writes its runs to results/.")
        self._moved = {"images": images, "gt": gt, "gt_dir": gt_dir}
        self._lock = threading.Lock()
        self._listed: dict[str, tuple[Stamp, ListedRun]] = {}
        self._selections: OrderedDict[ComparisonKey, Selection] = OrderedDict()
        self._watch = lru_cache(WATCHED)(lambda name, path: RunWatch(name, path, self.folder, self._moved))
        self._seen: dict[Stamp, tuple[tuple[float, float] | None, Mapping[str, Any] | None]] = {}

    def runs(self) -> list[ListedRun]:
        """Returns all runs, oldest first; unreadable ones with the reason."""
        indices = self._run_folders_by_name()
        with self._lock:
            for name, path in indices.items():
                stamp = _run_files_state(path)
                if name not in self._listed or self._listed[name][0] != stamp:
                    self._listed[name] = stamp, _list_entry(name, path, self._link_leading_out(path))
            self._compute_list_entries(indices)
            found = [
                replace(listed, is_written=is_written(indices[name], listed.run.status), ends=ends, crop=crop)
                for name, (stamp, listed) in self._listed.items()
                if name in indices
                for ends, crop in [self._seen.get(stamp, (None, None))]
            ]
        return sorted(found, key=lambda listed: (listed.run.started or "", listed.name))

    def _compute_list_entries(self, indices: Mapping[str, Path]) -> None:
        """Computes PQ intervals and costliest-error pictures for the list of runs, for at most a second per request.

        The next request for the list computes those that are still missing.
        """
        until = time.monotonic() + 1.0
        for name, path in indices.items():
            stamp, listed = self._listed[name]
            small = listed.run.status == "done" and 0 < (listed.run.images or 0) <= WITH_INTERVAL
            if small and stamp not in self._seen and time.monotonic() < until:
                run = load_run(path)
                sample = SampleAccumulator(run.categories, run.images)
                run.accumulate(sample)
                table = intervals(sample.result(), groups_only=True)
                low, high = table.loc[(table["group"] == "All") & (table["metric"] == "PQ"), ["low", "high"]].iloc[0]
                self._seen[stamp] = None if math.isnan(low) else (float(low), float(high)), self._costliest(run)

    def _costliest(self, run: Run) -> Mapping[str, Any] | None:
        """Returns the picture of a run's costliest error; None without an error or without its picture."""
        try:
            own = Selection([run], common_images=False, root=self.folder, reporter=SILENT, **self._moved)
            return next(iter(own.errors(ErrorQuery(limit=1))["errors"]), None)
        except PanbenchError:
            return None

    def comparison_key(self, names: Sequence[str], *, common_images: bool = False) -> ComparisonKey:
        """Returns the key of the comparison of the named runs, for the present state of their files.

        Raises BadArgument for a name that is not listed, BadRun for a run that leads out of the folder.
        """
        if not names:
            raise BadArgument("No run is chosen.")
        indices = self._run_folders_by_name()
        found = {name: self._run_folder_of(name, indices) for name in names}
        return ComparisonKey(common_images, tuple((name, _run_files_state(found[name])) for name in sorted(found)))

    def _run_folder_of(self, name: str, indices: Mapping[str, Path]) -> Path:
        """Returns the folder of a run by its name. Raises BadArgument if not listed, BadRun if a link leads out."""
        if name not in indices:
            raise BadArgument(f"There is no run {name!r} in {self.folder}.")
        if (link := self._link_leading_out(indices[name])) is not None:
            raise BadRun(f"{name}: {_not_served(link)}")
        return indices[name]

    def cached_comparison(self, requested: ComparisonKey) -> Selection | None:
        """Returns the comparison with this key; None if it is not cached."""
        with self._lock:
            found = self._selections.get(requested)
            if found is not None:
                self._selections.move_to_end(requested)
            return found

    def compare(self, requested: ComparisonKey, reporter: Reporter = SILENT) -> Selection:
        """Computes the comparison without blocking other threads. Raises BadRun as `compared`."""
        indices = self._run_folders_by_name()
        runs = []
        for name in requested.run_names:
            reporter.status(f"Reading {name}")
            runs.append(load_run(self._run_folder_of(name, indices)))
        made = Selection(
            runs, common_images=requested.common_images, root=self.folder, reporter=reporter, **self._moved
        )
        with self._lock:
            self._selections[requested] = made
            self._selections.move_to_end(requested)
            while len(self._selections) > KEPT:
                self._selections.popitem(last=False)
        return made

    def watch(self, name: str) -> RunWatch:
        """Returns the object that follows the named run while it is written.

        A run that has replaced another is found under either name.

        Raises BadArgument for a name that is not listed, BadRun for a run that leads out of the folder.
        """
        indices = self._run_folders_by_name()
        home = home_of_replacement(Path(name))
        if name not in indices and home is not None and home.as_posix() in indices:
            name = home.as_posix()
        return self._watch(name, self._run_folder_of(name, indices))

    def _link_leading_out(self, run: Path) -> Path | None:
        """Returns a file or folder of a run that is a link to something outside the served folder, if any."""
        root = self.folder.resolve()
        own = [run / name for name in deletable_names()]
        # Pictures are checked when requested: there may be a million.
        own += [file for folder in own if folder.name not in (PREDICTIONS, CANDIDATES) for file in folder.glob("*")]
        return next((path for path in own if path.is_symlink() and not path.resolve().is_relative_to(root)), None)

    def _run_folders_by_name(self) -> dict[str, Path]:
        """Returns each run's folder by its name, without links that lead out of the served folder."""
        root = self.folder.resolve()
        if (root / "run.json").exists():
            return {root.name: self.folder}
        return {
            path.relative_to(self.folder).as_posix(): path
            for path in run_places(self.folder)
            if path.resolve().is_relative_to(root)
        }


def _not_served(link: Path) -> str:
    """Says that a run is not served because of a link that leads out of the folder."""
    return f"{link.name} is a link that leads out of the folder, so the run is not served."


def _list_entry(name: str, path: Path, leading_out: Path | None) -> ListedRun:
    """Returns a run's entry in the list, or the reason why it cannot be read or served."""
    if leading_out is not None:
        return ListedRun(name, StoredRun(name, status=DAMAGED, problem=_not_served(leading_out)), None)
    run = stored_run(path)
    if run.status == DAMAGED:
        return ListedRun(name, replace(run, path=name), None)
    loaded = load_run(path)
    expected = None if loaded.info.status == "done" else loaded.info.images.expected
    if run.problem:
        # Only what its remaining parts hold can be displayed.
        run = replace(run, images=len(loaded.images))
    model = loaded.info.model and loaded.info.model.name
    return ListedRun(name, replace(run, path=name), loaded.info.dataset, model or loaded.name, expected=expected)


def _run_files_state(path: Path) -> Stamp:
    """Returns name, time and size of run.json and of each Parquet file in parts/; they change when the run does."""
    found = []
    for file in [path / "run.json", *sorted((path / "parts").glob("*"))]:
        try:
            state = file.stat()
        except OSError:
            continue
        found.append((file.name, state.st_mtime_ns, state.st_size))
    return tuple(found)
