"""The state of a run that is being written, as its page displays and polls it.

It only reads: no lock is taken, no file is renamed. run.json and the record next to its lock file show whether the run
is still being written; a run with status "running" whose process has ended is displayed as stopped.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd

from panbench.base.errors import PanbenchError
from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.errors import CAUSES
from panbench.metrics.fixes import SIZES
from panbench.metrics.jackknife import interval_notes
from panbench.panoptic.parts import part_files
from panbench.report.answers.remaking import resuming_command
from panbench.report.figures.colors import Style
from panbench.report.figures.cutting import Cutter, PricedError
from panbench.report.figures.pictures import Pictures, RunPictures
from panbench.report.pages.live.growing import GrowingRun
from panbench.report.pages.page.packing import crop_record, image_record
from panbench.report.pages.page.wall import error_record
from panbench.report.pages.rendering import Markup, json_in_html, scripts_of, whole_page
from panbench.runs import Run, RunInfo
from panbench.runs.layout import PARTS
from panbench.runs.lock import may_be_written, owner_of, written_since
from panbench.runs.record import read_info
from panbench.runs.replacing import home_of_replacement

POLL_SECONDS = 2.0
"""Seconds between two polls of a page."""

NEW_ERRORS = 12
"""Number of errors displayed, the newest first."""

_SCRIPTS = (
    ("panbench.report.pages.page:assets", ("dom.js", "segments.js", "lost.js")),
    (f"{__package__}:assets", ("watch.js",)),
)

RUNNING, STOPPED, DONE = "running", "stopped", "done"

_KILLED = (
    "The process that wrote the run has ended without closing it: it was killed, ran out of memory, or the machine "
    "went off. What it scored is saved."
)


@dataclass(frozen=True)
class Snapshot:
    """The progress of a run at one moment, as a record for the page."""

    record: Mapping[str, Any]

    @cached_property
    def json_bytes(self) -> bytes:
        """Returns this snapshot of a run's progress as JSON, encoded for the HTTP response."""
        return json.dumps(self.record, allow_nan=False, separators=(",", ":")).encode()

    @property
    def etag(self) -> str:
        """Returns the HTTP ETag of this snapshot, which changes when the run makes progress."""
        return f'"{hashlib.sha256(self.json_bytes).hexdigest()[:32]}"'

    @property
    def is_done(self) -> bool:
        """Returns whether the run is done, so that its report replaces the page of its progress."""
        return bool(self.record["state"] == DONE)


def is_written(path: Path, status: str) -> bool:
    """Returns whether a process may be writing the run in a folder whose run.json has this status."""
    return status == "running" and may_be_written(home_of_replacement(path) or path)


class RunWatch:
    """Follows a run in the folder `path` while it is written. Thread-safe.

    name: the run's name on the server; root: no picture is read through a link that leads out of this folder
    moved: where photographs and ground truth are, as `Pictures` takes them
    """

    def __init__(self, name: str, path: Path, root: Path, moved: Mapping[str, Path | None]) -> None:
        """Takes the run's name on the server and its folder; nothing is read yet."""
        self.name = name
        self._path, self._root, self._moved = path, root.resolve(), moved
        self._lock = threading.Lock()
        self._growing: GrowingRun | None = None
        self._pictures: Pictures | None = None
        self._tiles: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._faults: tuple[str, ...] = ()
        self._last: tuple[tuple[Any, ...], Snapshot] | None = None

    def read(self, reporter: Reporter = SILENT) -> Snapshot:
        """Returns the current progress of the run. Raises BadRun if its run.json cannot be read."""
        with self._lock:
            info = read_info(self._path)
            state = self._run_state(info)
            if state == STOPPED and info.status == "running":
                # It may have finished between the two checks.
                info = read_info(self._path)
                state = self._run_state(info)
            stamp = state, info.status, *_part_file_names(self._path)
            if self._last is None or self._last[0] != stamp:
                self._last = stamp, Snapshot(self._progress_record(info, state, reporter))
            return self._last[1]

    def page(self, snapshot: Snapshot) -> str:
        """Returns the page that displays the progress of the run in `snapshot` and asks for more."""
        info = read_info(self._path)
        title = (info.model and info.model.title) or info.name or self.name
        data = {
            # Facts that the scripts of every page need: one model, its categories, words for errors.
            "models": [{"label": title, "run": self.name, **Style(0, 0).record}],
            "categories": [{"name": one.name} for one in info.categories],
            "causes": {"names": [cause.name for cause in CAUSES]},
            "wall": {"sizes": list(SIZES)},
            "live": {"api": f"/api/live?{self._url_query}", "report": self._report_url, "seconds": POLL_SECONDS},
            "now": snapshot.record,
        }
        return whole_page(
            "panbench.report.pages.live:watch.html",
            title=title,
            subtitle=" · ".join(filter(None, (self.name, info.dataset.name, info.dataset.split))),
            footer="Served by panbench on this machine, to this machine only.",
            styles=("panbench.report.pages.live:watch.css",),
            script="\n".join(scripts_of(folder, names) for folder, names in _SCRIPTS),
            asks=True,
            report=self._report_url,
            data=Markup(json_in_html(data)),
        )

    @property
    def _url_query(self) -> str:
        """Returns the query of a URL that names the run."""
        return urlencode({"run": self.name})

    @property
    def _report_url(self) -> str:
        """Returns the URL of the run's report."""
        return f"/compare?{self._url_query}"

    def _run_state(self, info: RunInfo) -> str:
        """Returns whether the run is done, running or stopped."""
        if info.status == "done":
            return DONE
        return RUNNING if is_written(self._path, info.status) else STOPPED

    def _progress_record(self, info: RunInfo, state: str, reporter: Reporter) -> dict[str, Any]:
        """Returns a run's progress for JSON: images, rate, scores, newest errors; once done, the report's URL."""
        if state == DONE:
            # The report of a finished run takes over.
            return {"state": state, "report": self._report_url}
        growing = self._read_new_part_files(info, reporter)
        home = home_of_replacement(self._path) or self._path
        since = written_since(home)
        return {
            "state": state,
            "report": self._report_url if growing.images else None,
            "said": self._status_sentence(info, state, home),
            "command": resuming_command(Run(info, self._path)) if state == STOPPED else None,
            "images": growing.images,
            "expected": info.images.expected,
            "rate": growing.images_per_second(since.timestamp() if since else 0.0) if state == RUNNING else None,
            "last": growing.last_written,
            "scores": _score_rows(growing.scores_so_far()) if growing.images else [],
            "notes": interval_notes(growing.images) if growing.images else [],
            "errors": self._newest_error_records(growing),
            "faults": self._faults,
        }

    def _read_new_part_files(self, info: RunInfo, reporter: Reporter) -> GrowingRun:
        """Reads the new parts of the run, and returns all that it has scored so far."""
        if self._growing is None or self._growing.info.id != info.id:
            self._growing, self._pictures, self._tiles = GrowingRun(self._path, info), None, {}
        self._growing.info = info
        self._growing.read_new_part_files(reporter)
        return self._growing

    def _status_sentence(self, info: RunInfo, state: str, home: Path) -> str:
        """Returns a sentence on who writes the run or how it ended."""
        if state == RUNNING:
            return f"Being written by {owner_of(home)}."
        if info.status == "running":
            return _KILLED
        return f"The run was {info.status}{f': {info.error}' if info.error else '.'} What it scored is saved."

    def _newest_error_records(self, growing: GrowingRun) -> list[dict[str, Any]]:
        """Returns records of the newest errors with their pictures; each is cut out only once."""
        found = growing.newest_errors(NEW_ERRORS)
        indices = {category.id: index for index, category in enumerate(growing.info.categories)}
        keys = [(one.image_id, one.cause, one.gt_ids, one.pred_ids) for one in found]
        faults: list[str] = []
        tiles = {
            key: self._tiles.get(key) or self._error_picture(one, growing, faults, indices)
            for key, one in zip(keys, found, strict=True)
        }
        # Drop the crops of errors that are no longer displayed.
        self._tiles, self._faults = tiles, tuple(dict.fromkeys(faults))
        return [{"model": 0, **error_record(one, indices), **tiles[key]} for key, one in zip(keys, found, strict=True)]

    def _error_picture(
        self, error: PricedError, growing: GrowingRun, faults: list[str], indices: Mapping[int, int]
    ) -> dict[str, Any]:
        """Returns the picture of an error; without predictions the whole image; {} if it cannot be read."""
        if self._pictures is None:
            self._pictures = Pictures(Run(growing.info, self._path), **self._moved)
        pictures, source = self._pictures, RunPictures(growing.run)
        try:
            if source.folder is None:
                return image_record(pictures, error.image_id)
            png = source.png_path(error.image_id, pictures)
            if png.is_relative_to(self._path) and not png.resolve().is_relative_to(self._root):
                faults.append(f"{png.name} is a link that leads out of the folder and is not served.")
                return {}
            (crop,), problems = Cutter([source], pictures).cut([(0, error)])
            faults += problems
            return {} if crop is None else crop_record(crop, indices)
        except PanbenchError as problem:
            faults.append(str(problem))
            return {}


def _score_rows(table: pd.DataFrame) -> list[list[Any]]:
    """Returns a row for all, things and stuff: name, PQ, its interval, SQ, RQ; None where there is no value."""
    rows = []
    for group in table["group"].unique():
        of_metric = table[table["group"] == group].set_index("metric")
        cells = [("PQ", "value"), ("PQ", "low"), ("PQ", "high"), ("SQ", "value"), ("RQ", "value")]
        values = [float(of_metric.loc[metric, column]) for metric, column in cells]
        rows.append([group, *(None if value != value else round(value, 6) for value in values)])
    return rows


def _part_file_names(path: Path) -> tuple[Any, ...]:
    """Returns the names of the run's part files (Parquet files of scored images), which change as it is written."""
    return tuple(part.name for part in part_files(path / PARTS))
