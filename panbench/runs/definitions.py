"""Numbers the versions of panbench's own computations (corruptions, …); runs of different ones are not compared.

A change that moves the numbers of new runs (a different corruption kernel, a different way to resize masks) raises the
version of its definition here or in its study. run.json stores the versions in `arguments.definitions`; runs of
different versions are neither resumed nor compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from panbench.base.studies import load_from_studies
from panbench.base.text import in_sentence
from panbench.runs.record import ModelRecord, RunInfo, Setting

if TYPE_CHECKING:
    from panbench.runs.folder import Run


@dataclass(frozen=True)
class Definition:
    """A computation that panbench itself defines (a corruption, a fusion step), with its current version.

    name: as in run.json and messages
    applies: whether it affects the numbers of a run, given the run's model and arguments
    """

    name: str
    version: int
    applies: Callable[[ModelRecord | None, Mapping[str, Setting]], bool]


OF_THE_CORE: tuple[Definition, ...] = (
    Definition("Panoptic SegFormer's masks", 1, lambda model, arguments: model is not None and model.family == "psf"),
)
"""The definitions of models and rules; studies list theirs in `Study.definitions`."""


def current_definitions(model: ModelRecord | None, arguments: Mapping[str, Setting]) -> dict[str, int]:
    """Returns the current versions of panbench's own computations that affect a run of this model and arguments."""
    definitions = (*OF_THE_CORE, *(one for own in load_from_studies("definitions").values() for one in own))
    return {one.name: one.version for one in definitions if one.applies(model, arguments)}


def stored_definitions(info: RunInfo) -> dict[str, int]:
    """Reads from run.json which versions of panbench's corruptions and other computations a run used."""
    pairs = (pair.rpartition("=") for pair in str(info.arguments.get("definitions") or "").split("; "))
    return {name: int(version) for name, _, version in pairs if version.isdigit()}


def definitions_in_words(versions: Mapping[str, int]) -> str | None:
    """Formats the versions of panbench's own computations for run.json: `corruptions=2`; None if there are none."""
    return "; ".join(f"{name}={version}" for name, version in versions.items()) or None


def differing_definitions(runs: Sequence["Run"]) -> str | None:
    """Explains which of panbench's own computations has changed between runs; None if none has."""
    by_name: dict[str, dict[int, list[str]]] = {}
    for run in runs:
        for name, version in stored_definitions(run.info).items():
            by_name.setdefault(name, {}).setdefault(version, []).append(run.name)
    for name, by_version in by_name.items():
        if len(by_version) > 1:
            parts = [f"version {version} ({in_sentence(names, 3)})" for version, names in sorted(by_version.items())]
            return f"panbench changed its definition of {name} between the runs: {in_sentence(parts)}"
    return None
