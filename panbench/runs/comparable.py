"""Checks whether runs can be compared, and explains in which facts they differ."""

import operator
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from panbench.base.errors import BadRun
from panbench.base.text import listed
from panbench.panoptic.image_ids import own_id
from panbench.runs.definitions import differing_definitions
from panbench.runs.folder import Run
from panbench.runs.record import DatasetRecord, RunInfo, plain


@dataclass(frozen=True)
class Fact:
    """A fact that run.json records, such as the precision, and in which runs must agree for some comparisons.

    of: reads its value from run.json
    message: says that two runs, {} and {}, differ in it
    same: compares two values
    """

    name: str
    of: Callable[[RunInfo], Any]
    message: str = ""
    same: Callable[[Any, Any], bool] = operator.eq


def arithmetic(info: RunInfo) -> str | None:
    """Returns the floating-point precision that a run computed in; "fp32" for "ieee" on a CPU, which is the same."""
    return "fp32" if info.precision == "ieee" and info.device.type == "cpu" else info.precision


def detection_library(info: RunInfo) -> str | None:
    """Returns name and version of the mmdet distribution that provided the network; None for other models."""
    adapter = "" if info.model is None else info.model.adapter or ""
    if not adapter.startswith(_ON_MMDET):
        return None
    return next(
        (f"{name} {info.versions[name]}" for name in ("onedl-mmdetection", "mmdet") if name in info.versions), None
    )


def views(info: RunInfo) -> str | None:
    """Returns the views of test-time augmentation that a run used; None for the image alone."""
    augmentation = info.arguments.get("tta")
    return None if augmentation in (None, "scales=1") else str(augmentation)


def same_ground_truth(one: DatasetRecord, other: DatasetRecord) -> bool:
    """True if two runs had the same ground truth: the same JSON, or the same rows from different files."""
    return one.fingerprint == other.fingerprint or (one.rows is not None and one.rows == other.rows)


_ON_MMDET = ("panbench.models.mmdet.", "panbench.models.panoptic_segformer:", "panbench.models.mask_dino:")
"""Beginnings of the import paths of adapters whose networks use mmdet's modules."""

_FACTS = (
    Fact("ground truth", lambda info: info.dataset, same=same_ground_truth),
    Fact("categories", lambda info: info.categories, "{} and {} have different categories"),
    Fact(
        "exif",
        lambda info: info.arguments.get("exif", "apply"),
        "Only one of {} and {} rotated photographs by their EXIF",
    ),
    Fact("category map", lambda info: info.category_map, "{} and {} were evaluated through different category maps"),
    Fact("kind", lambda info: info.kind),
    Fact("family", lambda info: info.model and (info.model.family, info.model.adapter)),
    Fact("config", lambda info: info.model and (info.model.config_sha256, info.model.params)),
    Fact("weights", lambda info: info.model and info.model.weights_sha256),
    Fact("fusion rule", lambda info: None if info.rule is None else str(info.rule)),
    Fact("precision", arithmetic),
)
FACTS: Mapping[str, Fact] = {fact.name: fact for fact in _FACTS}
"""Facts by name. Those without a message are listed by `differing` only."""


def differing(one: RunInfo, other: RunInfo, facts: Sequence[Fact]) -> list[str]:
    """Returns in which of some facts of run.json, such as the precision, two runs differ."""
    return [fact.name for fact in facts if not fact.same(fact.of(one), fact.of(other))]


def ground_truths(datasets: Sequence[DatasetRecord]) -> list[int]:
    """Returns a number for each dataset, the same for datasets with equal ground truth, also transitively."""
    names: dict[str, int] = {}
    found: list[int] = []
    for number, dataset in enumerate(datasets):
        keys = [f"json {dataset.fingerprint}", *([] if dataset.rows is None else [f"rows {dataset.rows}"])]
        known = {names[key] for key in keys if key in names}
        found.append(min(known, default=number))
        # A run can join two groups: it may have the JSON of one and the rows of the other.
        joined = dict.fromkeys(known, found[-1])
        found = [joined.get(group, group) for group in found]
        names = {key: joined.get(group, group) for key, group in names.items()} | dict.fromkeys(keys, found[-1])
    return found


def why_incomparable(runs: Sequence[Run], *facts: str) -> str | None:
    """Explains why one of the runs cannot be compared with the first, without full stop; None if all can be.

    facts: what the runs must share, checked in this order: names of FACTS with a message, or "ground truth", "files"
        (hashes of the photographs and id PNGs that were read) and "definitions" (versions of panbench's own methods)
    """
    first, *others = runs
    for fact in facts:
        for run in others:
            if reason := _explain_difference(fact, first, run):
                return reason
    return None


def _explain_difference(fact: str, first: Run, other: Run) -> str | None:
    """Explains how two runs differ in one entry of run.json, such as the precision; None if they agree."""
    if fact in _RUN_FACTS:
        return _RUN_FACTS[fact](first, other)
    known = FACTS[fact]
    return known.message.format(first.name, other.name) if differing(first.info, other.info, [known]) else None


def _explain_other_ground_truth(first: Run, other: Run) -> str | None:
    """Explains that two runs were scored on different ground truth; None if they were not."""
    left, right = first.info.dataset, other.info.dataset
    if same_ground_truth(left, right):
        return None
    names = [_dataset_and_split(left), _dataset_and_split(right)]
    if names[0] != names[1]:
        return f"{first.name} was scored on {names[0]} and {other.name} on {names[1]}"
    versions = f" ({left.gt} and {right.gt})" if left.gt and right.gt else ""
    return f"{first.name} and {other.name} were scored on two versions of {names[0]}{versions}"


def _dataset_and_split(dataset: DatasetRecord) -> str:
    return " ".join(part for part in (dataset.name, dataset.split) if part) or "data without a name"


def _explain_changed_files(first: Run, other: Run) -> str | None:
    """Explains that two runs read different images or id PNGs, by their hashes; None if they did not."""
    images, truths = first.files.differing(other.files)
    if not truths and not images:
        return None
    what, ids = ("id PNGs", truths) if truths else ("image files", images)
    who = f"{first.name} and {other.name} read different {what} of {len(ids):,} images"
    return f"{who} ({listed(map(own_id, ids), most=5)}): the files changed between the runs"


_RUN_FACTS: Mapping[str, Callable[[Run, Run], str | None]] = {
    "ground truth": _explain_other_ground_truth,
    "files": _explain_changed_files,
    "definitions": lambda first, other: differing_definitions([first, other]),
}
"""Facts whose message depends on more than the names of the runs."""


def differing_settings(one: RunInfo, other: RunInfo, apart_from: Collection[str] = ()) -> list[str]:
    """Returns a phrase for each setting in which two runs differ: "precision was 'fp32' and is 'bf16'".

    apart_from: names of settings that may differ
    """
    before, after = settings_of(one, apart_from), settings_of(other, apart_from)
    return [
        f"{name} was {_shortened_setting(before.get(name))} and is {_shortened_setting(after.get(name))}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def refuse_other_settings(path: str | os.PathLike[str], different: Sequence[str]) -> None:
    """Raises BadRun if a run is to be resumed with other settings. different: the result of `differing_settings`"""
    if different:
        raise BadRun(
            f"{path} cannot be resumed with other settings: {'; '.join(different)}. "
            "Give the settings it was made with, or another --out."
        )


def settings_of(info: RunInfo, apart_from: Collection[str] = ()) -> dict[str, Any]:
    """Returns the settings that affect a run's numbers, by name; which images were selected is not among them."""
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


def _shortened_setting(value: Any) -> str:
    """Returns a setting's value as text for a message, cut after 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
