"""The images that a run holds while it is written: parts are read once, as they appear, and nothing is changed.

A part appears complete (by a rename), so a file with a part's name can be read; a half-written one has another name
and is skipped. A part that cannot be read, or belongs to another run, is tried again when the next one appears.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.errors import assign_causes
from panbench.metrics.fixes import priced_errors
from panbench.metrics.jackknife import intervals
from panbench.metrics.matched import Matched
from panbench.panoptic.overlap import OverlapTable, concat
from panbench.panoptic.parts import NotAdmitted, part_files, read_part
from panbench.report.answers.totals import totals_of
from panbench.report.figures.crops import errors_of
from panbench.report.figures.cutting import PricedError
from panbench.runs import Run, RunInfo
from panbench.runs.layout import PARTS
from panbench.runs.membership import Membership

NEWEST = 4
"""Number of newest parts whose errors are displayed."""

OF_A_PART = 6
"""Number of errors displayed per part, its costliest."""

RECENT = 10
"""The rate is measured over this many newest parts: some minutes."""

Int = npt.NDArray[np.int64]


class GrowingRun:
    """The images that an unfinished run has scored so far, as `run`. Not thread-safe."""

    def __init__(self, path: Path, info: RunInfo) -> None:
        """Takes the folder and the run.json of an unfinished run, of which no image is read yet."""
        self.path, self.info = path, info
        self.run = Run(info, path, OverlapTable.empty())
        self._read: set[str] = set()
        self._written: list[tuple[float, int]] = []
        self._newest: deque[Int] = deque(maxlen=NEWEST)

    def read_new_part_files(self, reporter: Reporter = SILENT) -> None:
        """Reads the Parquet files that the run has written since the last call.

        An exception from `reporter` ends it between two files.
        """
        members = Membership(self.path / PARTS, self.info, self.info.parts)
        waiting = [part for part in part_files(self.path / PARTS) if part.name not in self._read]
        tables = [self.run.table]
        try:
            for number, (part, when) in enumerate(_part_files_by_time(waiting)):
                reporter.progress(f"Reading {self.path.name}", number, len(waiting), "files")
                try:
                    members.admit(part)
                    matched = Matched.of(read_part(part))
                except (NotAdmitted, pa.ArrowException, OSError, ValueError):
                    continue  # torn or foreign, or merged with others at the end of the run
                self._read.add(part.name)
                new = matched.only(np.setdiff1d(matched.image_ids, np.concatenate([one.image_ids for one in tables])))
                if len(new.image_ids):
                    tables.append(OverlapTable(new.segments, new.overlaps, new.boundary))
                    self._written.append((when, len(new.image_ids)))
                    self._newest.append(new.image_ids)
        finally:
            if len(tables) > 1:
                self.run = Run(self.info, self.path, concat(tables).in_order_of_images())

    @property
    def images(self) -> int:
        """Returns the number of images scored so far."""
        return len(self.run.images)

    def scores_so_far(self) -> pd.DataFrame:
        """Returns PQ, SQ and RQ of all, things and stuff so far, with intervals, computed as for a finished run."""
        return intervals(totals_of(self.run).sample, groups_only=True)

    def images_per_second(self, since: float = 0.0) -> float | None:
        """Returns the run's recent speed in images per second; None with fewer than two new part files.

        since: only part files written after this time count, in seconds since 1970
        """
        recent = sorted(one for one in self._written if one[0] >= since)[-RECENT:]
        if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
            return None
        return sum(images for _, images in recent[1:]) / (recent[-1][0] - recent[0][0])

    @property
    def last_written(self) -> float | None:
        """Returns when the run last wrote scored images (a part file), in seconds since 1970; None if never."""
        return max((when for when, _ in self._written), default=None)

    def newest_errors(self, most: int) -> list[PricedError]:
        """Returns the costliest errors in the images scored last, newest first, with the PQ that each costs."""
        return list(islice(chain.from_iterable(map(self._costliest, reversed(self._newest))), most))

    def _costliest(self, images: Int) -> Iterator[PricedError]:
        """Yields the costliest errors of some images."""
        matched = self.run.matched.only(images)
        errors = assign_causes(matched, self.info.categories)
        priced = priced_errors(errors, matched, self.info.categories, totals_of(self.run).now)
        return errors_of(priced.head(OF_A_PART))


def _part_files_by_time(parts: list[Path]) -> list[tuple[Path, float]]:
    """Returns each part that still exists and the time at which it was written, the oldest first."""
    found = []
    for part in parts:
        try:
            found.append((part, part.stat().st_mtime))
        except OSError:
            continue
    return sorted(found, key=lambda one: (one[1], one[0].name))
