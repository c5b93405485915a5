"""May these runs stand beside each other? What they must share, each fact with the sentence on runs that do not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from panbench.runs.folder import Run
from panbench.runs.record import RunInfo

__all__ = ["unlike"]

_FACTS: Mapping[str, tuple[Callable[[RunInfo], Any], str]] = {
    "ground truth": (lambda info: info.dataset.fingerprint, "{} and {} were made on different ground truth"),
    "categories": (lambda info: info.categories, "{} and {} have different categories"),
    "exif": (
        lambda info: info.arguments.get("exif", "apply"),
        "Only one of {} and {} turned photographs as their EXIF says",
    ),
    "category map": (lambda info: info.category_map, "{} and {} were evaluated through different category maps"),
}


def unlike(runs: Sequence[Run], *facts: str) -> str | None:
    """Why a run cannot stand beside the first, a sentence without its full stop; None where all can.

    facts: what they must share, "ground truth", "categories", "exif" or "category map", asked in this order
    """
    first, *others = runs
    for run in others:
        for value, sentence in (_FACTS[fact] for fact in facts):
            if value(run.info) != value(first.info):
                return sentence.format(first.name, run.name)
    return None
