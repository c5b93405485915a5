"""May these runs stand beside each other? What they must share, each fact with the sentence on runs that do not."""

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panbench.base.text import listed
from panbench.panoptic.image_ids import own_id
from panbench.runs.definitions import differing_definitions
from panbench.runs.folder import Run
from panbench.runs.record import DatasetRecord, RunInfo, plain

__all__ = [
    "FACTS",
    "Fact",
    "arithmetic",
    "detection_library",
    "differing",
    "differing_settings",
    "ground_truths",
    "same_ground_truth",
    "settings_of",
    "unlike",
    "views",
]


@dataclass(frozen=True)
class Fact:
    """What runs may have to share. of: its value in run.json; sentence: on two runs, {} and {}, that differ in it.

    same: whether two values are the same
    """

    name: str
    of: Callable[[RunInfo], Any]
    sentence: str = ""
    same: Callable[[Any, Any], bool] = operator.eq


def arithmetic(info: RunInfo) -> str | None:
    """A run's precision, by which runs differ: on a CPU, fp32 and ieee are the same."""
    return "fp32" if info.precision == "ieee" and info.device.type == "cpu" else info.precision


def detection_library(info: RunInfo) -> str | None:
    """The distribution that the network's mmdet came from, and its version; None for models that do not use it."""
    adapter = "" if info.model is None else info.model.adapter or ""
    if not adapter.startswith(_ON_MMDET):
        return None
    return next(
        (f"{name} {info.versions[name]}" for name in ("onedl-mmdetection", "mmdet") if name in info.versions), None
    )


def views(info: RunInfo) -> str | None:
    """The views of each image that a run showed to the network; None for the image alone."""
    shown = info.arguments.get("tta")
    return None if shown in (None, "scales=1") else str(shown)


def same_ground_truth(one: DatasetRecord, other: DatasetRecord) -> bool:
    """Whether two runs had the same ground truth: the same JSON, or the same rows from whatever files."""
    return one.fingerprint == other.fingerprint or (one.rows is not None and one.rows == other.rows)


_ON_MMDET = ("panbench.models.mmdet.", "panbench.models.panoptic_segformer.", "panbench.models.mask_dino.")
"""Adapters of networks that mmdet's modules run."""

_SENTENCES: Mapping[str, tuple[Callable[[RunInfo], Any], str]] = {
    "categories": (lambda info: info.categories, "{} and {} have different categories"),
    "exif": (
        lambda info: info.arguments.get("exif", "apply"),
        "Only one of {} and {} rotated photographs by their EXIF",
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
    "ground truth": Fact("ground truth", lambda info: info.dataset, same=same_ground_truth),
    **{name: Fact(name, of, sentence) for name, (of, sentence) in _SENTENCES.items()},
    **{name: Fact(name, of) for name, of in _OTHERS.items()},
}
"""By name. Those without a sentence are named by `differing`."""


def differing(one: RunInfo, other: RunInfo, facts: Sequence[Fact]) -> list[str]:
    """The names of the facts in which two runs differ."""
    return [fact.name for fact in facts if not fact.same(fact.of(one), fact.of(other))]


def ground_truths(datasets: Sequence[DatasetRecord]) -> list[int]:
    """A number for each dataset; those of the same ground truth, also by way of others, have the same one."""
    names: dict[str, int] = {}
    found: list[int] = []
    for number, dataset in enumerate(datasets):
        keys = [f"json {dataset.fingerprint}", *([] if dataset.rows is None else [f"rows {dataset.rows}"])]
        known = {names[key] for key in keys if key in names}
        found.append(min(known, default=number))
        # A run may show that two groups are one: it has the JSON of one and the rows of the other.
        joined = dict.fromkeys(known, found[-1])
        found = [joined.get(group, group) for group in found]
        names = {key: joined.get(group, group) for key, group in names.items()} | dict.fromkeys(keys, found[-1])
    return found


def unlike(runs: Sequence[Run], *facts: str) -> str | None:
    """Why a run cannot stand beside the first, a sentence without its full stop; None where all can.

    facts: what they must share, asked in this order: names of FACTS that have a sentence, or "ground truth", "files"
        (photographs and id PNGs as they were read) and "definitions" (versions of what panbench computes its own way)
    """
    first, *others = runs
    for fact in facts:
        for run in others:
            if reason := _reason(fact, first, run):
                return reason
    return None


def _reason(fact: str, first: Run, other: Run) -> str | None:
    if fact in _OF_RUNS:
        return _OF_RUNS[fact](first, other)
    known = FACTS[fact]
    return known.sentence.format(first.name, other.name) if differing(first.info, other.info, [known]) else None


def _ground_truth(first: Run, other: Run) -> str | None:
    left, right = first.info.dataset, other.info.dataset
    if same_ground_truth(left, right):
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
    return f"{who} ({listed(map(own_id, ids), most=5)}): the files changed between the runs"


_OF_RUNS: Mapping[str, Callable[[Run, Run], str | None]] = {
    "ground truth": _ground_truth,
    "files": _files,
    "definitions": lambda first, other: differing_definitions([first, other]),
}
"""Facts whose sentence says more than the names of the runs."""


def differing_settings(one: RunInfo, other: RunInfo, apart_from: Collection[str] = ()) -> list[str]:
    """A phrase for each setting in which two runs differ: "precision was 'fp32' and is 'bf16'".

    apart_from: names of settings that may differ
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
    found = {
        "kind": info.kind,
        "model": model and model.name,
        "weights": model and model.weights_sha256,
        "rule": plain(info.rule),
        "precision": info.precision,
        "dataset": info.dataset.fingerprint,
        "predictions": info.predictions and info.predictions.sha256,
        "categories": [plain(category) for category in info.categories],
        "category_map": plain(info.category_map),
        **{name: plain(value) for name, value in info.arguments.items()},
    }
    return {name: value for name, value in found.items() if name not in apart_from}


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
