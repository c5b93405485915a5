"""The runs of a folder as the server reads them: when they are asked for, and again when they have changed."""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.report.answers.stored import DAMAGED, StoredRun, run_places, stored_run
from panbench.report.pages.live.selection import Selection
from panbench.runs import load_run

__all__ = ["Library", "Listed"]

KEPT = 4
"""Selections whose tables stay in memory: going back to a comparison that was just seen takes no time."""

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Listed:
    """A run in the folder. `name` is its path below the folder, with /, and the only way to ask for it."""

    name: str
    run: StoredRun
    fingerprint: str | None


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
        self._selections: OrderedDict[tuple[bool, tuple[tuple[str, Stamp], ...]], Selection] = OrderedDict()

    def runs(self) -> list[Listed]:
        """The runs, oldest first; those that cannot be read say why."""
        places = self._places()
        with self._lock:
            for name, path in places.items():
                stamp = _stamp(path)
                if name not in self._listed or self._listed[name][0] != stamp:
                    self._listed[name] = stamp, _listed(name, path)
            found = [self._listed[name][1] for name in places]
        return sorted(found, key=lambda listed: (listed.run.started or "", listed.name))

    def selection(self, names: Sequence[str], *, common_images: bool = False, reporter: Reporter = SILENT) -> Selection:
        """The runs of these names, compared. Raises BadArgument for a name that is not listed, BadRun as `compared`."""
        places = self._places()
        for name in names:
            if name not in places:
                raise BadArgument(f"There is no run {name!r} in {self.folder}.")
        if not names:
            raise BadArgument("No run is chosen.")
        # A comparison is kept under what its runs' files were: a run that goes on is read again.
        key = common_images, tuple((name, _stamp(places[name])) for name in dict.fromkeys(names))
        with self._lock:
            if key not in self._selections:
                runs = [load_run(places[name]) for name in dict.fromkeys(names)]
                made = Selection(runs, common_images=common_images, reporter=reporter, **self._moved)
                self._selections[key] = made
                while len(self._selections) > KEPT:
                    self._selections.popitem(last=False)
            self._selections.move_to_end(key)
            return self._selections[key]

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


def _listed(name: str, path: Path) -> Listed:
    run = stored_run(path)
    fingerprint = None if run.status == DAMAGED else load_run(path).info.dataset.fingerprint
    return Listed(name, replace(run, path=name), fingerprint)


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
