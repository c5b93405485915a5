"""The colour and marker of each model, the same in pages, plots, pictures and notebooks that show the same models.

Eight colours, distinguishable for protan, deutan and tritan eyes and by lightness alone (a grey print), with 3:1
contrast to the paper; and eight markers. They are assigned in the alphabetical order of the displayed models' names,
so the order in which runs were given does not matter; next to different models a model may get another style.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from panbench.runs import Run

LIGHT = ("#112cbd", "#b03721", "#1d8070", "#78358b", "#ce8113", "#091730", "#8871db", "#5a1407")
"""Colours on white paper. tests/report/test_colors.py measures the distances."""

DARK = ("#687efd", "#f58155", "#28e0a1", "#8d6aa0", "#ffd73c", "#d8ffff", "#b4abef", "#b53b13")
"""The same hues on the dark page; the near-black one is near-white there."""

CAUSES_LIGHT = ("#20a56a", "#61195c", "#8900f8", "#1f0485", "#e94ff3", "#180600", "#8f3000", "#ff5f0b", "#8187a0")
"""Colours of the error causes, in their order, on white paper; the same test measures that they are distinguishable."""

CAUSES_DARK = ("#89e6a2", "#8c4c91", "#da70e4", "#5654e9", "#fabdfc", "#fffaf8", "#b83f27", "#ee8938", "#949497")
"""The same hues on the dark page; the near-black one is near-white there."""

ERRORS = {"found": "#7b818c", "missed": "#ffe100", "false": "#e8590c", "confused": "#4cc9f0", "bad mask": "#7a1fd1"}
"""Colours of the verdicts on segments over photographs: found segments are left alone (the colour is that of words),
missed ones have a broken outline on black, false ones are filled, a wrong category has one outline with "book →
clock", and a bad mask two. tests/report/test_colors.py measures the distances."""

MARKERS = ("o", "s", "^", "D", "P", "v", "h", "p")
"""The markers by matplotlib's names."""

MARKER_PATHS = (
    "M-5,0A5,5 0 1 0 5,0A5,5 0 1 0 -5,0Z",
    "M4.42,-4.42L4.42,4.42L-4.42,4.42L-4.42,-4.42Z",
    "M0.00,-6.25L5.41,3.12L-5.41,3.13Z",
    "M0.00,-6.50L6.50,0.00L0.00,6.50L-6.50,0.00Z",
    "M-2.1,-5H2.1V-2.1H5V2.1H2.1V5H-2.1V2.1H-5V-2.1H-2.1Z",
    "M0.00,6.25L-5.41,-3.12L5.41,-3.13Z",
    "M0.00,-5.50L4.76,-2.75L4.76,2.75L0.00,5.50L-4.76,2.75L-4.76,-2.75Z",
    "M0.00,-5.75L5.47,-1.78L3.38,4.65L-3.38,4.65L-5.47,-1.78Z",
)
"""The same shapes as paths of SVG around (0, 0), for pages."""


@dataclass(frozen=True)
class Style:
    """A colour and a marker, as indices into LIGHT or DARK, and into MARKERS."""

    color: int
    marker: int

    @property
    def record(self) -> dict[str, Any]:
        """Returns the style for the page's scripts: the index of the colour, and the marker as an SVG path."""
        return {"color": self.color, "marker": MARKER_PATHS[self.marker]}

    @property
    def drawn(self) -> dict[str, Any]:
        """Returns this style's colour and marker as arguments of matplotlib's plot."""
        return {"color": LIGHT[self.color], "marker": MARKERS[self.marker]}


def drawing_kind(verdict: str | None, cause: str | None) -> str:
    """Returns how a segment is drawn: "found", "missed", "false", "confused", "bad mask", or "" if unscored.

    verdict: "TP", "FP", "FN" or "ignored"; cause: the cause of its error. A result is a key of ERRORS.
    """
    if verdict in ("FP", "FN"):
        drawn = {"wrong category": "confused", "thing/stuff confusion": "confused", "bad mask": "bad mask"}
        return drawn.get(cause or "", "missed" if verdict == "FN" else "false")
    return "found" if verdict else ""


def model_key(run: Run) -> str:
    """Returns the text that decides a run's colour: its model's name (if any) followed by the run's name."""
    return f"{(run.info.model and run.info.model.name) or run.name}\0{run.name}"


def run_styles(runs: Sequence[Run]) -> list[Style]:
    """Returns a colour and a marker for each of some runs that are displayed together, by their models."""
    return styles_of([model_key(run) for run in runs])


def styles_by_name(names: Sequence[str], runs: Sequence[Run]) -> dict[str, Style]:
    """Returns the styles of runs that are displayed together, by their names; a run may occur several times."""
    by_name = dict(zip(names, runs, strict=True))
    return dict(zip(by_name, run_styles(list(by_name.values())), strict=True))


def styles_of(keys: Sequence[str]) -> list[Style]:
    """Returns a style for each of some models that are displayed together, determined by their names, not their order.

    Up to eight models differ in colour and in marker; beyond that colours repeat with other markers. A name that
    occurs twice (two runs of one model) has two styles.
    """
    n = len(LIGHT)
    order = sorted(range(len(keys)), key=lambda index: (keys[index], index))
    rank = {index: position for position, index in enumerate(order)}
    return [Style(rank[index] % n, (rank[index] + 3 * (rank[index] // n)) % n) for index in range(len(keys))]
