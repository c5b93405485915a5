"""The runs of a folder as the server reads them: when they are asked for, and again when they have changed."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from panbench.base.errors import BadArgument, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.report.answers.stored import DAMAGED, StoredRun, run_places, stored_run
from panbench.report.pages.live.selection import Selection
from panbench.report.pages.live.watch import Watch
from panbench.runs import DatasetRecord, load_run
from panbench.runs.layout import CANDIDATES, PREDICTIONS, written
from panbench.runs.lock import may_be_written
from panbench.runs.replacing import replaced_home

__all__ = ["Asked", "Library", "Listed"]

WATCHED = 8
"""Runs being written that are followed at a time; the one that was asked for longest ago is read anew."""

KEPT = 4
"""Selections whose tables stay in memory: going back to a comparison that was just seen takes no time. More would not
be bounded by what a machine has: of a million images one takes gigabytes."""

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Listed:
    """A run in the folder. `name` is its path below the folder, with /, and the only way to ask for it.

    expected: how many images it is to have, of a run that is not done; is_written: whether somebody may be writing it
    """

    name: str
    run: StoredRun
    data: DatasetRecord | None
    """None for a run that cannot be read."""
    expected: int | None = None
    is_written: bool = False


@dataclass(frozen=True)
class Asked:
    """Some runs as their files are: two equal ones have the same comparison. A run that goes on is another one."""

    common_images: bool
    runs: tuple[tuple[str, Stamp], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The runs' names, sorted."""
        return tuple(name for name, _ in self.runs)


class Library:
    """The runs below a folder, found anew for each answer, so that a run that ends while the server runs appears.

    images, gt, gt_dir: where photographs and ground truth are, when they have moved
    Threads may share it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        images: Path | None = None,
        gt: Path | None = None,
        gt_dir: Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise BadArgument(f"There is no folder {self.folder}. `panbench eval` writes its runs to results/.")
        self._moved = {"images": images, "gt": gt, "gt_dir": gt_dir}
        self._lock = threading.Lock()
        self._listed: dict[str, tuple[Stamp, Listed]] = {}
        self._selections: OrderedDict[Asked, Selection] = OrderedDict()
        self._watches: OrderedDict[str, Watch] = OrderedDict()

    def runs(self) -> list[Listed]:
        """The runs, oldest first; those that cannot be read say why."""
        places = self._places()
        with self._lock:
            for name, path in places.items():
                stamp = _stamp(path)
                if name not in self._listed or self._listed[name][0] != stamp:
                    self._listed[name] = stamp, _listed(name, path, self._leading_out(path))
            found = [_as_now(self._listed[name][1], path) for name, path in places.items()]
        return sorted(found, key=lambda listed: (listed.run.started or "", listed.name))

    def asked(self, names: Sequence[str], *, common_images: bool = False) -> Asked:
        """A comparison of the runs of these names as their files are now, whatever their order.

        Raises BadArgument for a name that is not listed, BadRun for a run that leads out of the folder.
        """
        places = self._places()
        for name in names:
            if name not in places:
                raise BadArgument(f"There is no run {name!r} in {self.folder}.")
            if (link := self._leading_out(places[name])) is not None:
                raise BadRun(f"{name}: {_not_served(link)}")
        if not names:
            raise BadArgument("No run is chosen.")
        return Asked(common_images, tuple((name, _stamp(places[name])) for name in sorted(set(names))))

    def kept(self, asked: Asked) -> Selection | None:
        """The comparison if it was made a short while ago."""
        with self._lock:
            found = self._selections.get(asked)
            if found is not None:
                self._selections.move_to_end(asked)
            return found

    def compare(self, asked: Asked, reporter: Reporter = SILENT) -> Selection:
        """Makes the comparison, without holding up others. Raises BadRun as `compared`."""
        places = self._places()
        gone = [name for name in asked.names if name not in places]
        if gone:
            raise BadArgument(f"There is no run {gone[0]!r} in {self.folder} any more.")
        runs = []
        for name in asked.names:
            reporter.status(f"Reading {name}")
            runs.append(load_run(places[name]))
        made = Selection(runs, common_images=asked.common_images, root=self.folder, reporter=reporter, **self._moved)
        with self._lock:
            self._selections[asked] = made
            self._selections.move_to_end(asked)
            while len(self._selections) > KEPT:
                self._selections.popitem(last=False)
        return made

    def selection(self, names: Sequence[str], *, common_images: bool = False, reporter: Reporter = SILENT) -> Selection:
        """The runs of these names, compared. Raises as `asked` and `compare`."""
        asked = self.asked(names, common_images=common_images)
        return self.kept(asked) or self.compare(asked, reporter)

    def watch(self, name: str) -> Watch:
        """The run of this name, to be followed while it is written; after it took the place of another, that place.

        Raises BadArgument for a name that is not listed, BadRun for a run that leads out of the folder.
        """
        places = self._places()
        home = replaced_home(Path(name))
        if name not in places and home is not None and home.as_posix() in places:
            name = home.as_posix()
        if name not in places:
            raise BadArgument(f"There is no run {name!r} in {self.folder}.")
        if (link := self._leading_out(places[name])) is not None:
            raise BadRun(f"{name}: {_not_served(link)}")
        with self._lock:
            found = self._watches.pop(name, None) or Watch(name, places[name], self.folder, self._moved)
            self._watches[name] = found
            while len(self._watches) > WATCHED:
                self._watches.popitem(last=False)
        return found

    def _leading_out(self, run: Path) -> Path | None:
        """A file or folder of a run that is a link to something outside of the served folder."""
        root = self.folder.resolve()
        own = [run / name for name in written()]
        # A picture is looked at when it is asked for: there may be a million.
        own += [file for folder in own if folder.name not in (PREDICTIONS, CANDIDATES) for file in folder.glob("*")]
        return next((path for path in own if path.is_symlink() and not path.resolve().is_relative_to(root)), None)

    def _places(self) -> dict[str, Path]:
        """Each run's folder by its name. What a link leads to outside of the folder is not served."""
        root = self.folder.resolve()
        if (root / "run.json").exists():
            return {root.name: self.folder}
        return {
            path.relative_to(self.folder).as_posix(): path
            for path in run_places(self.folder)
            if path.resolve().is_relative_to(root)
        }


def _not_served(link: Path) -> str:
    return f"{link.name} is a link that leads out of the folder, so the run is not served."


def _listed(name: str, path: Path, leading_out: Path | None) -> Listed:
    if leading_out is not None:
        return Listed(name, StoredRun(name, status=DAMAGED, problem=_not_served(leading_out)), None)
    run = stored_run(path)
    if run.status == DAMAGED:
        return Listed(name, replace(run, path=name), None)
    loaded = load_run(path)
    expected = None if loaded.info.status == "done" else loaded.info.images.expected
    if run.problem:
        # What its parts have left is what can be shown.
        run = replace(run, images=len(loaded.images))
    return Listed(name, replace(run, path=name), loaded.info.dataset, expected)


def _as_now(listed: Listed, path: Path) -> Listed:
    """The run with whether it is written, which its own files do not tell."""
    if listed.run.status != "running":
        return listed
    return replace(listed, is_written=may_be_written(replaced_home(path) or path))


def _stamp(path: Path) -> Stamp:
    """What changes when a run's files do: the name, time and size of run.json and of each part."""
    found = []
    for file in [path / "run.json", *sorted((path / "parts").glob("*"))]:
        try:
            state = file.stat()
        except OSError:
            continue
        found.append((file.name, state.st_mtime_ns, state.st_size))
    return tuple(found)
