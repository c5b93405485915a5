"""What a run holds while it is written: its parts are read as they appear, each once, and nothing of it is changed.

A part appears whole (a rename), so what has a part's name can be read; what is half-written has another name and is not
looked at. A part that cannot be read, or is of another run, is asked for again when the next one appears. Of the parts
that were read the sums that PQ and its interval need are kept (`SampleFold`), and the tables of the newest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.errors import assign_causes
from panbench.metrics.fixes import priced_errors
from panbench.metrics.jackknife import intervals
from panbench.metrics.matched import Matched, positions
from panbench.metrics.samples import EXACT_IMAGES, UNITS, SampleFold
from panbench.metrics.slices import ImageStatistics, image_statistics
from panbench.panoptic.overlap import OverlapTable
from panbench.panoptic.parts import NotAdmitted, part_files, read_part
from panbench.report.figures.crops import errors_of
from panbench.report.figures.cutting import PricedError
from panbench.runs import Run, RunInfo
from panbench.runs.layout import PARTS
from panbench.runs.membership import Membership

__all__ = ["Growing", "NewError"]

NEWEST = 4
"""Tables of so many parts are kept, for the errors in them."""

OF_A_PART = 6
"""So many errors of a part are shown, its costliest."""

RECENT = 10
"""The rate is of so many parts, the newest: some minutes."""

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NewError:
    """An error of one of the newest parts. run: the run as that part alone has it."""

    run: Run
    error: PricedError


class Growing:
    """The images that a run in a folder holds by now. Not for several threads at once."""

    def __init__(self, path: Path, info: RunInfo) -> None:
        self.path, self.info = path, info
        self.images = 0
        expected = info.images.expected or 0
        self._grouped = expected > EXACT_IMAGES
        # Images are numbered as they come: which ids will come is not known before.
        self._fold = SampleFold(info.categories, np.arange(expected))
        self._seen = _Seen()
        self._totals = np.zeros((2, len(info.categories)))
        self._read: set[str] = set()
        self._written: list[tuple[float, int]] = []
        self._newest: deque[tuple[Run, Int]] = deque(maxlen=NEWEST)

    def read(self, reporter: Reporter = SILENT) -> None:
        """Reads the parts that were not read yet. What `reporter` raises ends it between two parts."""
        members = Membership(self.path / PARTS, self.info, self.info.parts)
        waiting = [part for part in part_files(self.path / PARTS) if part.name not in self._read]
        for number, (part, when) in enumerate(_by_time(waiting)):
            reporter.progress(f"Reading {self.path.name}", number, len(waiting), "files")
            try:
                members.admit(part)
                table = read_part(part)
            except (NotAdmitted, pa.ArrowException, OSError, ValueError):
                continue  # torn or foreign, or joined to others at the end of the run
            self._read.add(part.name)
            self._add(table, when)

    def _add(self, table: OverlapTable, when: float) -> None:
        matched = Matched.of(table)
        new = self._seen.new(matched.image_ids)
        if not len(new):
            return
        matched = matched.only(new)
        found = image_statistics(matched, self.info.categories)
        place = positions(found.category_id, self.info.categories)
        whole = found.sums.TP + found.sums.mistakes / 2
        for row, values in enumerate((found.sums.iou_sum, whole)):
            self._totals[row] += np.bincount(place, values, self._totals.shape[1])
        self._fold.add(self._numbered(found, new))
        self._seen.add(new)
        self.images += len(new)
        self._written.append((when, len(new)))
        self._newest.append((Run(self.info, self.path, table), new))

    def _numbered(self, found: ImageStatistics, new: Int) -> ImageStatistics:
        """The statistics of new images under their numbers, in the types that `StatisticsFold` keeps."""
        small = {name: getattr(found.sums, name).astype(np.int32) for name in ("TP", "FP", "FN")}
        return replace(
            found,
            image_ids=self.images + np.arange(len(new)),
            image_id=self.images + np.searchsorted(new, found.image_id),
            slice=found.slice.astype(np.int16),
            category_id=found.category_id.astype(np.int32),
            sums=replace(found.sums, **small),
        )

    def scores(self) -> pd.DataFrame:
        """PQ, SQ and RQ of All, Things and Stuff so far, with the intervals of `metrics.jackknife.intervals`.

        The same numbers as of a finished run of these images; of a run of more than EXACT_IMAGES in groups from its
        first image on.
        """
        sample = self._fold.result()
        if self._grouped:
            ids, held = sample.image_ids[: self.images], sample.held[:, : self.images]
            sample = replace(sample, image_ids=ids, sums=sample.sums[:, : min(self.images, UNITS)], held=held)
        return intervals(sample, groups_only=True)

    def rate(self, since: float = 0.0) -> float | None:
        """Images a second over the newest parts that were written after `since` (seconds since 1970); None of fewer
        than two of them."""
        recent = sorted(one for one in self._written if one[0] >= since)[-RECENT:]
        if len(recent) < 2 or recent[-1][0] <= recent[0][0]:
            return None
        return sum(images for _, images in recent[1:]) / (recent[-1][0] - recent[0][0])

    @property
    def last(self) -> float | None:
        """When the newest part was written, in seconds since 1970."""
        return max((when for when, _ in self._written), default=None)

    def new_errors(self, most: int) -> list[NewError]:
        """The costliest errors of the newest parts, newest part first: what fixing each would win of PQ so far."""
        found = [error for run, new in reversed(self._newest) for error in self._costliest(run, new)]
        return found[:most]

    def _costliest(self, run: Run, new: Int) -> Iterator[NewError]:
        matched = run.matched.only(new)
        errors = assign_causes(matched, self.info.categories)
        totals = self._totals[0], self._totals[1]
        priced = priced_errors(errors, matched, self.info.categories, totals)
        return (NewError(run, error) for error in errors_of(priced.head(OF_A_PART)))


class _Seen:
    """Ids of images, in a few sorted arrays: adding some takes no time that grows with how many there are."""

    def __init__(self) -> None:
        self._arrays: list[Int] = []

    def new(self, ids: Int) -> Int:
        """The ids that were not added yet."""
        for known in self._arrays:
            place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            ids = ids[known[place] != ids]
        return ids

    def add(self, ids: Int) -> None:
        """Adds sorted ids that are new. An array is joined to the one before it where that is not much larger."""
        self._arrays.append(ids)
        while len(self._arrays) > 1 and len(self._arrays[-2]) <= 2 * len(self._arrays[-1]):
            self._arrays[-2:] = [np.union1d(*self._arrays[-2:])]


def _by_time(parts: list[Path]) -> list[tuple[Path, float]]:
    """The parts that are still there with the time at which they were written, the oldest first."""
    found = []
    for part in parts:
        try:
            found.append((part, part.stat().st_mtime))
        except OSError:
            continue
    return sorted(found, key=lambda one: (one[1], one[0].name))
