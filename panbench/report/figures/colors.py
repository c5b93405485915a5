"""The colour and marker of each model: the same in pages, plots, pictures and notebooks that show the same models.

Eight colours, apart for protan, deutan and tritan eyes and in lightness alone (a grey print), with 3:1 contrast to the
paper; and eight markers. Which a model has follows from the models that are shown: they are dealt out in the order of
their names, so the order in which runs were named does not matter; beside other models it may have another.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from panbench.runs import Run

__all__ = [
    "CAUSES_DARK",
    "CAUSES_LIGHT",
    "DARK",
    "ERRORS",
    "LIGHT",
    "MARKERS",
    "Style",
    "error_kind",
    "model_key",
    "styles_of",
]

LIGHT = ("#112cbd", "#b03721", "#1d8070", "#78358b", "#ce8113", "#091730", "#8871db", "#5a1407")
"""On white paper. tests/report/test_colors.py measures the distances."""

DARK = ("#687efd", "#f58155", "#28e0a1", "#8d6aa0", "#ffd73c", "#d8ffff", "#b4abef", "#b53b13")
"""The same hues on the dark page; the near-black one is near-white there."""

CAUSES_LIGHT = ("#20a56a", "#61195c", "#8900f8", "#1f0485", "#e94ff3", "#180600", "#8f3000", "#ff5f0b", "#8187a0")
"""Of the causes of errors, in their order, on white paper; apart for the same eyes, as the same test measures."""

CAUSES_DARK = ("#89e6a2", "#8c4c91", "#da70e4", "#5654e9", "#fabdfc", "#fffaf8", "#b83f27", "#ee8938", "#949497")
"""The same hues on the dark page; the near-black one is near-white there."""

ERRORS = {"found": "#7b818c", "missed": "#ffe100", "false": "#e8590c", "confused": "#4cc9f0", "bad mask": "#7a1fd1"}
"""Of what became of a segment, everywhere over photographs: what was found is left alone (the colour is that of words),
what was missed has a broken outline on black, what is false is filled, a wrong category has one outline with "book →
clock", and a bad mask two. tests/report/test_colors.py measures the distances."""

MARKERS = ("o", "s", "^", "D", "P", "v", "h", "p")
"""matplotlib's names of the markers; assets/dom.js draws the same shapes."""


@dataclass(frozen=True)
class Style:
    """Positions in LIGHT or DARK, and in MARKERS."""

    color: int
    marker: int


def error_kind(verdict: str | None, cause: str | None) -> str:
    """The key of ERRORS of a segment with this verdict and cause; "" where it was not judged."""
    if verdict in ("FP", "FN"):
        drawn = {"wrong category": "confused", "thing/stuff confusion": "confused", "bad mask": "bad mask"}
        return drawn.get(cause or "", "missed" if verdict == "FN" else "false")
    return "found" if verdict else ""


def model_key(run: Run) -> str:
    """What a run's colour is keyed to: the model's name, if it has one, and the run's."""
    return f"{(run.info.model and run.info.model.name) or run.name}\0{run.name}"


def styles_of(keys: Sequence[str]) -> list[Style]:
    """A style for each of some models that are shown together, by their names, whatever the order.

    Up to eight models differ in colour and in marker; beyond that colours come again with other markers. A name that
    occurs twice (two runs of one model) has two styles.
    """
    n = len(LIGHT)
    order = sorted(range(len(keys)), key=lambda index: (keys[index], index))
    rank = {index: place for place, index in enumerate(order)}
    return [Style(rank[index] % n, (rank[index] + 3 * (rank[index] // n)) % n) for index in range(len(keys))]
