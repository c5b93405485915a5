"""The parts of a section of the page, written by the core or by a study."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from panbench.report.answers.views import Compared
from panbench.report.pages.rendering import Markup

__all__ = ["Bars", "Curves", "Section", "SectionMaker"]


@dataclass(frozen=True)
class Curves:
    """Lines of some models over an axis from 0 to 1, which the page draws where the section has `chart-KEY`.

    across, up: what the axes are; series: of each model its index and its points, each (x, y, low, high) and the words
        that explain it; diagonal: also draw x = y; span: what 1 on the axis stands for, None for percent
    zoom: the axes begin where the points do, not at 0
    """

    title: str
    across: str
    up: str
    series: Sequence[tuple[int, Sequence[tuple[Sequence[float], str]]]]
    diagonal: bool = False
    span: int | None = None
    zoom: bool = False

    def record(self) -> dict[str, Any]:
        """The record in the form that the page's scripts take."""
        series = [
            {"model": model, "points": [[*numbers, words] for numbers, words in points]}
            for model, points in self.series
        ]
        return {**vars(self), "series": series}


@dataclass(frozen=True)
class Bars:
    """A bar a model, cut into parts from 0 on, which the page draws with axis and legend where there is `chart-KEY`.

    across: what the axis is, in percent; parts: what each part is; rows: of each model its index, the sizes of its
        parts (fractions of 1), and a sentence that says the same
    """

    title: str
    across: str
    parts: Sequence[str]
    rows: Sequence[tuple[int, Sequence[float], str]]

    def record(self) -> dict[str, Any]:
        """The record in the form that the page's scripts take."""
        return {
            **vars(self),
            "rows": [{"model": model, "sizes": sizes} for model, sizes, _ in self.rows],
        }


@dataclass(frozen=True)
class Section:
    """A section of the page, or why there is none.

    intro: a sentence on how to read it, commands between backticks
    content: what `panbench.report.pages.rendering.render` made of a template and the section's facts
    numbers: for the page's scripts, by name
    missing: instead of content, what would make it, with the command between backticks
    """

    title: str
    intro: str = ""
    content: Markup | str = ""
    curves: Curves | None = None
    bars: Bars | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)
    missing: str = ""


SectionMaker = Callable[[Sequence[Compared]], Section]
"""What a study gives the page (`Study.section`): its section for these runs, the best first."""
