"""Versions of panbench's own definitions, so that runs made by different ones are not compared.

A change that moves the numbers of new runs (another kernel of a corruption, masks brought to size in another way)
raises the version of its definition here or in its study. run.json keeps the versions in `arguments.definitions`; runs
of different versions are neither resumed nor compared as if they were alike.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from panbench.base.studies import added
from panbench.base.text import in_sentence
from panbench.runs.record import ModelRecord, RunInfo, Setting

if TYPE_CHECKING:
    from panbench.runs.folder import Run

__all__ = [
    "Definition",
    "current_definitions",
    "definitions_in_words",
    "differing_definitions",
    "stored_definitions",
]


@dataclass(frozen=True)
class Definition:
    """Something that has a part in some runs' numbers, and its version today.

    name: as run.json and sentences have it; applies: whether it has a part in a run, by its model and arguments
    """

    name: str
    version: int
    applies: Callable[[ModelRecord | None, Mapping[str, Setting]], bool]


OF_THE_CORE: tuple[Definition, ...] = (
    Definition(
        "Panoptic SegFormer's masks",
        1,
        lambda model, arguments: model is not None and model.family == "psf",
    ),
)
"""Those of models and rules; studies name theirs in `Study.definitions`."""


def current_definitions(model: ModelRecord | None, arguments: Mapping[str, Setting]) -> dict[str, int]:
    """Today's version, by name, of each definition that has a part in a run of this model with these arguments."""
    return {one.name: one.version for one in _all() if one.applies(model, arguments)}


def stored_definitions(info: RunInfo) -> dict[str, int]:
    """The versions that a stored run was made by, by name."""
    pairs = (pair.rpartition("=") for pair in str(info.arguments.get("definitions") or "").split("; "))
    return {name: int(version) for name, _, version in pairs if version.isdigit()}


def definitions_in_words(versions: Mapping[str, int]) -> str | None:
    """`corruptions=2`, as run.json's `arguments.definitions` has them; None for none."""
    return "; ".join(f"{name}={version}" for name, version in versions.items()) or None


def differing_definitions(runs: Sequence["Run"]) -> str | None:
    """What panbench changed between the runs, as a sentence without its full stop; None where they agree."""
    by_name: dict[str, dict[int, list[str]]] = {}
    for run in runs:
        for name, version in stored_definitions(run.info).items():
            by_name.setdefault(name, {}).setdefault(version, []).append(run.name)
    for name, by_version in by_name.items():
        if len(by_version) > 1:
            parts = [f"version {version} ({in_sentence(names, 3)})" for version, names in sorted(by_version.items())]
            return f"panbench changed its definition of {name} between the runs: {in_sentence(parts)}"
    return None


def _all() -> Iterable[Definition]:
    return (*OF_THE_CORE, *(one for own in added("definitions").values() for one in own))
