"""May these runs stand beside each other? What they must share, each fact with the sentence on runs that do not."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from panbench.base.text import listed
from panbench.runs.definitions import differing_definitions
from panbench.runs.folder import Run
from panbench.runs.record import DatasetRecord, RunInfo

__all__ = ["unlike"]

Reason = Callable[[Run, Run], str | None]


def unlike(runs: Sequence[Run], *facts: str) -> str | None:
    """Why a run cannot stand beside the first, a sentence without its full stop; None where all can.

    facts: what they must share, asked in this order: "ground truth", "files" (photographs and id PNGs as they were
        read), "definitions" (versions of what panbench computes its own way), "categories", "exif", "category map"
    """
    first, *others = runs
    for fact in facts:
        for run in others:
            if reason := _FACTS[fact](first, run):
                return reason
    return None


def _ground_truth(first: Run, other: Run) -> str | None:
    left, right = first.info.dataset, other.info.dataset
    if left.fingerprint == right.fingerprint:
        return None
    names = [_name_of(left), _name_of(right)]
    if names[0] != names[1]:
        return f"{first.name} was scored on {names[0]} and {other.name} on {names[1]}"
    versions = f" ({left.gt} and {right.gt})" if left.gt and right.gt else ""
    return f"{first.name} and {other.name} were scored on two versions of {names[0]}{versions}"


def _name_of(dataset: DatasetRecord) -> str:
    return " ".join(part for part in (dataset.name, dataset.split) if part) or "data without a name"


def _files(first: Run, other: Run) -> str | None:
    images, truths = first.files.differing(other.files)
    if not truths and not images:
        return None
    what, ids = ("id PNGs", truths) if truths else ("image files", images)
    who = f"{first.name} and {other.name} read different {what} of {len(ids):,} images"
    return f"{who} ({listed(ids, most=5)}): the files changed between the runs"


def _same(value: Callable[[RunInfo], Any], sentence: str) -> Reason:
    """A fact of run.json. sentence: with a place for the name of each run"""

    def reason(first: Run, other: Run) -> str | None:
        return None if value(first.info) == value(other.info) else sentence.format(first.name, other.name)

    return reason


_FACTS: Mapping[str, Reason] = {
    "ground truth": _ground_truth,
    "files": _files,
    "definitions": lambda first, other: differing_definitions([first, other]),
    "categories": _same(lambda info: info.categories, "{} and {} have different categories"),
    "exif": _same(
        lambda info: info.arguments.get("exif", "apply"), "Only one of {} and {} turned photographs as their EXIF says"
    ),
    "category map": _same(lambda info: info.category_map, "{} and {} were evaluated through different category maps"),
}
