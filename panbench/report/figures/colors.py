"""The colour and marker of each model, keyed to its name: the same in pages, plots, pictures and notebooks.

Eight colours, apart for protan, deutan and tritan eyes and in lightness alone (a grey print), with 3:1 contrast to the
paper; and eight markers. Which colour a model prefers follows from its name. Where two models that are shown together
prefer the same one, the first by name has it and the other takes the next that is free.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from panbench.runs import Run

__all__ = ["CAUSES_DARK", "CAUSES_LIGHT", "DARK", "LIGHT", "MARKERS", "Style", "model_key", "styles_of"]

LIGHT = ("#112cbd", "#b03721", "#1d8070", "#78358b", "#ce8113", "#091730", "#8871db", "#5a1407")
"""On white paper. tests/report/test_colors.py measures the distances."""

DARK = ("#687efd", "#f58155", "#28e0a1", "#8d6aa0", "#ffd73c", "#d8ffff", "#b4abef", "#b53b13")
"""The same hues on the dark page; the near-black one is near-white there."""

CAUSES_LIGHT = ("#20a56a", "#61195c", "#8900f8", "#1f0485", "#e94ff3", "#180600", "#8f3000", "#ff5f0b", "#8187a0")
"""Of the causes of errors, in their order, on white paper; apart for the same eyes, as the same test measures."""

CAUSES_DARK = ("#9fef09", "#ab23a3", "#801bff", "#009fff", "#b7a2c5", "#fffeff", "#f1b093", "#ef5b38", "#5b7165")
"""On the dark page; the near-black one is white there."""

MARKERS = ("o", "s", "^", "D", "P", "v", "h", "p")
"""matplotlib's names of the markers; assets/dom.js draws the same shapes."""

# Of all salts the first with which the catalogue's models that are likely to be shown together (the tiny ones, those of
# one backbone, those of one family) prefer different colours.
_SALT = 161790


@dataclass(frozen=True)
class Style:
    """Positions in LIGHT or DARK, and in MARKERS."""

    color: int
    marker: int


def model_key(run: Run) -> str:
    """What a run's colour is keyed to: the model's name, or the run's where predictions were scored."""
    return (run.info.model and run.info.model.name) or run.name


def styles_of(keys: Sequence[str]) -> list[Style]:
    """A style for each of some models that are shown together, by their names, whatever the order.

    Up to eight models differ in colour and in marker; beyond that colours come again with other markers. A name that
    occurs twice (two runs of one model) has two styles.
    """
    n = len(LIGHT)
    order = sorted(range(len(keys)), key=lambda index: (keys[index], index))
    found: dict[int, Style] = {}
    for turn in range(-(-len(keys) // n)):
        free = set(range(n))
        waiting = [index for index in order if index not in found][:n]
        for settled_for_less in (False, True):
            for index in waiting:
                preferred = zlib.crc32(f"{_SALT} {keys[index]}".encode()) % n
                if index in found or (preferred not in free and not settled_for_less):
                    continue
                color = next(c % n for c in range(preferred, preferred + n) if c % n in free)
                free.discard(color)
                found[index] = Style(color, (color + 3 * turn) % n)
    return [found[index] for index in range(len(keys))]
