"""The state of a run that is being written, as its page shows it and asks for it again and again.

Only reading: no lock is taken, no name changed. run.json and the record beside its lock file show whether the run is
still being written; a run that says "running" and whose process has ended is shown as stopped.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd

from panbench.base.errors import PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.coverage import interval_notes
from panbench.metrics.errors import CAUSES
from panbench.metrics.fixes import SIZES
from panbench.panoptic.parts import part_files
from panbench.report.answers.remaking import resuming_command
from panbench.report.figures.cutting import Cutter
from panbench.report.figures.pictures import Pictures, RunPictures
from panbench.report.pages.live.growing import Growing, NewError
from panbench.report.pages.page.packing import crop_record, image_record
from panbench.report.pages.page.wall import error_record
from panbench.report.pages.rendering import Markup, json_in_html, scripts_of, whole_page
from panbench.runs import Run, RunInfo
from panbench.runs.layout import PARTS
from panbench.runs.lock import may_be_written, owner_of, written_since
from panbench.runs.record import read_info
from panbench.runs.replacing import replaced_home

__all__ = ["NEW_ERRORS", "POLL_SECONDS", "Looked", "Watch", "is_written"]

POLL_SECONDS = 2.0
"""A page asks so often."""

NEW_ERRORS = 12
"""So many errors are shown, the newest first."""

_SCRIPTS = (
    ("panbench.report.pages.page:assets", ("dom.js", "segments.js", "lost.js")),
    (f"{__package__}:assets", ("watch.js",)),
)

RUNNING, STOPPED, DONE = "running", "stopped", "done"

_KILLED = (
    "The process that wrote the run has ended without closing it: it was killed, ran out of memory, or the machine "
    "went off. What it scored is kept."
)


@dataclass(frozen=True)
class Looked:
    """What was found: the record as JSON, and a tag that is another one when the record is."""

    content: bytes
    tag: str

    @staticmethod
    def of(record: Mapping[str, Any]) -> Looked:
        """The record and its tag."""
        content = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
        return Looked(content, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    @property
    def record(self) -> dict[str, Any]:
        """The record."""
        found: dict[str, Any] = json.loads(self.content)
        return found

    @property
    def is_done(self) -> bool:
        """Whether the run is done, so that its report says the rest."""
        return bool(self.record["state"] == DONE)


def is_written(path: Path, info: RunInfo) -> bool:
    """Whether somebody may be writing the run in a folder, of which run.json says `info`."""
    return info.status == "running" and may_be_written(replaced_home(path) or path)


class Watch:
    """A run in the folder `path` while it is written; several threads may share it.

    name: what the server calls the run; root: no picture is read through a link that leads out of this folder
    moved: where photographs and ground truth are, as `Pictures` takes them
    """

    def __init__(self, name: str, path: Path, root: Path, moved: Mapping[str, Path | None]) -> None:
        self.name = name
        self._path, self._root, self._moved = path, root.resolve(), moved
        self._lock = threading.Lock()
        self._growing: Growing | None = None
        self._pictures: Pictures | None = None
        self._tiles: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._faults: tuple[str, ...] = ()
        self._last: tuple[tuple[Any, ...], Looked] | None = None

    def look(self, reporter: Reporter = SILENT) -> Looked:
        """How far the run is now. Raises BadRun when its run.json cannot be read."""
        with self._lock:
            info = read_info(self._path)
            state = self._state(info)
            if state == STOPPED and info.status == "running":
                # It may have ended well between the two looks.
                info = read_info(self._path)
                state = self._state(info)
            stamp = state, info.status, *_stamp(self._path)
            if self._last is None or self._last[0] != stamp:
                self._last = stamp, Looked.of(self._found(info, state, reporter))
            return self._last[1]

    def page(self, looked: Looked) -> str:
        """The page that shows the run and asks how far it is; it has all of `looked` in it."""
        info = read_info(self._path)
        title = (info.model and info.model.title) or info.name or self.name
        data = {
            # What the scripts of all pages know: one model, its categories, words of errors.
            "models": [{"label": title, "run": self.name, "color": 0, "marker": 0}],
            "categories": [{"name": one.name} for one in info.categories],
            "causes": {"names": [cause.name for cause in CAUSES]},
            "wall": {"sizes": list(SIZES)},
            "live": {"api": f"/api/live?{self._words}", "report": self._report, "seconds": POLL_SECONDS},
            "now": looked.record,
        }
        return whole_page(
            "panbench.report.pages.live:watch.html",
            title=title,
            subtitle=" · ".join(filter(None, (self.name, info.dataset.name, info.dataset.split))),
            footer="Served by panbench on this machine, to this machine only.",
            styles=("panbench.report.pages.live:watch.css",),
            script="\n".join(scripts_of(folder, names) for folder, names in _SCRIPTS),
            asks=True,
            report=self._report,
            data=Markup(json_in_html(data)),
        )

    @property
    def _words(self) -> str:
        return urlencode({"run": self.name})

    @property
    def _report(self) -> str:
        return f"/compare?{self._words}"

    def _state(self, info: RunInfo) -> str:
        if info.status == "done":
            return DONE
        return RUNNING if is_written(self._path, info) else STOPPED

    def _found(self, info: RunInfo, state: str, reporter: Reporter) -> dict[str, Any]:
        if state == DONE:
            # The page of a finished run says the rest.
            return {"state": state, "report": self._report}
        growing = self._grown(info, reporter)
        home = replaced_home(self._path) or self._path
        since = written_since(home)
        return {
            "state": state,
            "report": self._report if growing.images else None,
            "said": self._said(info, state, home),
            "command": resuming_command(Run(info, self._path)) if state == STOPPED else None,
            "images": growing.images,
            "expected": info.images.expected,
            "rate": growing.rate(since.timestamp() if since else 0.0) if state == RUNNING else None,
            "last": growing.last,
            "scores": _scores(growing.scores()) if growing.images else [],
            "notes": interval_notes(growing.images) if growing.images else [],
            "errors": self._errors(growing),
            "faults": self._faults,
        }

    def _grown(self, info: RunInfo, reporter: Reporter) -> Growing:
        """The images of the run, with those that came since the last look."""
        if self._growing is None or self._growing.info.id != info.id:
            self._growing, self._pictures, self._tiles = Growing(self._path, info), None, {}
        self._growing.info = info
        self._growing.read(reporter)
        return self._growing

    def _said(self, info: RunInfo, state: str, home: Path) -> str:
        if state == RUNNING:
            return f"Being written by {owner_of(home)}."
        if info.status == "running":
            return _KILLED
        return f"The run was {info.status}{f': {info.error}' if info.error else '.'} What it scored is kept."

    def _errors(self, growing: Growing) -> list[dict[str, Any]]:
        """Records of the newest errors, with their crops; each is cut out once."""
        found = growing.new_errors(NEW_ERRORS)
        places = {category.id: place for place, category in enumerate(growing.info.categories)}
        keys = [(one.error.image_id, one.error.cause, one.error.gt_ids, one.error.pred_ids) for one in found]
        faults: list[str] = []
        tiles = {
            key: self._tiles.get(key) or self._tile(one, growing, faults, places)
            for key, one in zip(keys, found, strict=True)
        }
        # Of the errors that are shown no longer nothing is kept.
        self._tiles, self._faults = tiles, tuple(dict.fromkeys(faults))
        return [
            {"model": 0, **error_record(one.error, places), **tiles[key]} for key, one in zip(keys, found, strict=True)
        ]

    def _tile(self, new: NewError, growing: Growing, faults: list[str], places: Mapping[int, int]) -> dict[str, Any]:
        """An error cut out of its image; without predictions the image; {} where that cannot be read."""
        if self._pictures is None:
            self._pictures = Pictures(Run(growing.info, self._path), **self._moved)
        pictures, source = self._pictures, RunPictures(new.run)
        try:
            if source.folder is None:
                return image_record(pictures, new.error.image_id)
            png = source.png_path(new.error.image_id, pictures)
            if png.is_relative_to(self._path) and not png.resolve().is_relative_to(self._root):
                faults.append(f"{png.name} is a link that leads out of the folder and is not served.")
                return {}
            (crop,), problems = Cutter([source], pictures).cut([(0, new.error)])
            faults += problems
            return {} if crop is None else crop_record(crop, places)
        except PanbenchError as problem:
            faults.append(str(problem))
            return {}


def _scores(table: pd.DataFrame) -> list[list[Any]]:
    """A row for All, Things and Stuff: name, PQ, its interval, SQ, RQ; None where a value does not exist."""
    rows = []
    for group in table["group"].unique():
        of_metric = table[table["group"] == group].set_index("metric")
        cells = [("PQ", "value"), ("PQ", "low"), ("PQ", "high"), ("SQ", "value"), ("RQ", "value")]
        values = [float(of_metric.loc[metric, column]) for metric, column in cells]
        rows.append([group, *(None if value != value else round(value, 6) for value in values)])
    return rows


def _stamp(path: Path) -> tuple[Any, ...]:
    """What changes when a part appears."""
    return tuple(part.name for part in part_files(path / PARTS))
