"""Sections for what some runs have and others lack: the user's own slices, and what studies add.

What is missing is one line, with the command that makes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from panbench.base.studies import added
from panbench.metrics.image_slices import ImageSlices
from panbench.report.answers import views
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.pages.page.own import own_section
from panbench.report.pages.page.section import Curves, Section

__all__ = ["Added", "find_added"]


@dataclass
class Added:
    """What was found: sections by their ids, numbers for the page's scripts, and what is missing: title, sentence."""

    sections: dict[str, Section] = field(default_factory=dict)
    numbers: dict[str, Any] = field(default_factory=lambda: {"curves": {}, "bars": {}})
    missing: list[tuple[str, str]] = field(default_factory=list)

    def take(self, key: str, found: Section) -> None:
        """Adds a section under the id `key`, or what is missing for it."""
        if found.missing:
            self.missing.append((found.title, found.missing))
            return
        self.sections[key] = found
        self.numbers.update(found.numbers)
        if found.curves is not None:
            self.numbers["curves"][key] = found.curves.record()
        if found.bars is not None:
            self.numbers["bars"][key] = found.bars.record()


def find_added(members: Sequence[Compared], slices: Sequence[ImageSlices] = (), claims: bool = False) -> Added:
    """The sections that these runs can fill. slices: the user's own; claims: published rows are in the comparison."""
    found = Added()
    found.take("own", own_section(members, slices))
    found.numbers["curves"]["thresholds"] = _thresholds(members).record()
    for name, make in added("section").items():
        found.take(name, make(members))
    if not claims:
        words = "`panbench report … --published NAME` adds published results under the comparison; "
        found.missing.append(("Published results", f"{words}`panbench models --published` lists the names."))
    return found


def _thresholds(members: Sequence[Compared]) -> Curves:
    """PQ of each model by the IoU that a match needs."""
    table = views.thresholds(members)
    series = []
    for index, member in enumerate(members):
        own = table[table["run"] == member.label]
        points = [
            ((threshold, PQ, PQ, PQ), f"{member.label}\nIoU above {threshold:.2f}: PQ {percent(PQ)}")
            for threshold, PQ in own[["threshold", "PQ"]].itertuples(index=False)
        ]
        series.append((index, points))
    return Curves("PQ by IoU threshold", "IoU that a match needs, in percent", "PQ", series, zoom=True)
