"""May these runs stand beside each other? What they must share, each fact with the sentence on runs that do not."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panbench.runs.folder import Run
from panbench.runs.record import RunInfo, plain

__all__ = ["FACTS", "Fact", "arithmetic", "differing", "differing_settings", "settings_of", "unlike"]


@dataclass(frozen=True)
class Fact:
    """What runs may have to share. of: its value in run.json; sentence: on two runs, {} and {}, that differ in it."""

    name: str
    of: Callable[[RunInfo], Any]
    sentence: str = ""


def arithmetic(info: RunInfo) -> str | None:
    """A run's precision, by which runs differ: on a CPU, fp32 and ieee are the same."""
    return "fp32" if info.precision == "ieee" and info.device.type == "cpu" else info.precision


_SENTENCES: Mapping[str, tuple[Callable[[RunInfo], Any], str]] = {
    "ground truth": (lambda info: info.dataset.fingerprint, "{} and {} were made on different ground truth"),
    "categories": (lambda info: info.categories, "{} and {} have different categories"),
    "exif": (
        lambda info: info.arguments.get("exif", "apply"),
        "Only one of {} and {} turned photographs as their EXIF says",
    ),
    "category map": (lambda info: info.category_map, "{} and {} were evaluated through different category maps"),
}


_OTHERS: Mapping[str, Callable[[RunInfo], Any]] = {
    "kind": lambda info: info.kind,
    "family": lambda info: info.model and (info.model.family, info.model.adapter),
    "config": lambda info: info.model and (info.model.config_sha256, info.model.params),
    "weights": lambda info: info.model and info.model.weights_sha256,
    "fusion rule": lambda info: None if info.rule is None else str(info.rule),
    "precision": arithmetic,
}
FACTS: Mapping[str, Fact] = {
    **{name: Fact(name, of, sentence) for name, (of, sentence) in _SENTENCES.items()},
    **{name: Fact(name, of) for name, of in _OTHERS.items()},
}
"""By name. Those without a sentence are named by `differing`."""


def differing(one: RunInfo, other: RunInfo, facts: Sequence[Fact]) -> list[str]:
    """The names of the facts in which two runs differ."""
    return [fact.name for fact in facts if fact.of(one) != fact.of(other)]


def unlike(runs: Sequence[Run], *facts: str) -> str | None:
    """Why a run cannot stand beside the first, a sentence without its full stop; None where all can.

    facts: what they must share, names of FACTS that have a sentence, asked in this order
    """
    first, *others = runs
    for run in others:
        for name in differing(first.info, run.info, [FACTS[fact] for fact in facts]):
            return FACTS[name].sentence.format(first.name, run.name)
    return None


def differing_settings(one: RunInfo, other: RunInfo, apart_from: Collection[str] = ()) -> list[str]:
    """A phrase for each setting in which two runs differ: "precision was 'fp32' and is 'bf16'".

    apart_from: names of arguments that may differ
    """
    before, after = settings_of(one, apart_from), settings_of(other, apart_from)
    return [
        f"{name} was {_short(before.get(name))} and is {_short(after.get(name))}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def settings_of(info: RunInfo, apart_from: Collection[str] = ()) -> dict[str, Any]:
    """All that makes a run's numbers, whatever its images, by name."""
    model = info.model
    arguments = {name: value for name, value in info.arguments.items() if name not in apart_from}
    return {
        "kind": info.kind,
        "model": model and model.name,
        "weights": model and model.weights_sha256,
        "rule": plain(info.rule),
        "precision": info.precision,
        "dataset": info.dataset.fingerprint,
        "predictions": info.predictions and info.predictions.sha256,
        "categories": [plain(category) for category in info.categories],
        "category_map": plain(info.category_map),
        **{name: plain(value) for name, value in arguments.items()},
    }


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
