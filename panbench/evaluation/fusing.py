"""Fuses again what `eval --keep-candidates` kept: other rules and thresholds, without the network.

A stored run is one more kind of model: `load` reads nothing, `candidates` reads what the network said. So evaluation,
resuming, scoring and the record are those of any model.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from panbench.base.errors import BadArgument, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.coco import open_json
from panbench.evaluation.evaluate import EvaluateOptions, evaluate
from panbench.models.base import LoadedImage
from panbench.models.candidates import NO_LABEL, Candidates, Instances
from panbench.models.merging import merge_outputs
from panbench.models.rules import Rule, parse_rule
from panbench.models.stored import StoredOutputs
from panbench.panoptic.types import Exif, Scene
from panbench.runs import ModelRecord, Run

__all__ = ["StoredEnsemble", "StoredModel", "dataset_of", "folder_of_rule", "fuse_run"]


class StoredModel:
    """What a run's network said, as a `Model`."""

    def __init__(self, run: Run, rule: Rule | None = None) -> None:
        """rule: the one to fuse by; None is the rule of the run's own maps.

        Raises BadRun when the run kept no candidates, they are damaged, or those of another run.
        """
        if run.path is None or run.info.model is None:
            raise BadRun(f"{run.name} is not an evaluation on disk, so it keeps no candidates.")
        self.stored = StoredOutputs(run.path / "candidates")
        about = self.stored.about
        if about.get("weights_sha256") != run.info.model.weights_sha256:
            raise BadRun(f"{self.stored.folder} holds candidates of another run than {run.path}: its weights differ.")
        record = run.info.model
        self.record = record
        self.spec = ModelSpec(
            name=record.name or run.name,
            title=record.title or run.name,
            family=record.family,
            backbone=record.backbone,
            config=None if record.config is None else Path(record.config),
            weights=record.weights,
            published=record.published,
            params=record.params,
            input_size=None,
            aliases=(),
            trained_on=None,
        )
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self.isthing: tuple[bool, ...] = tuple(about["isthing"])
        self.paper: Rule = parse_rule(about["rule"])
        self.rule = rule or self.paper
        self.device = torch.device("cpu")
        self.precision = run.info.precision or "fp32"
        self.seed = run.info.seed or 0

    @property
    def settings(self) -> Mapping[str, Any]:
        """What tells a run from stored candidates from one with the network."""
        return {"candidates": str(self.stored.folder.absolute())}

    def describe(self) -> ModelRecord:
        """The record of the run that kept the candidates."""
        return self.record

    def load(self, scene: Scene) -> LoadedImage:
        """The scene itself: no image is read."""
        return LoadedImage(scene, torch.zeros(3, scene.image.height, scene.image.width, dtype=torch.uint8), None)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Candidates | Instances]:
        """What the network said of each image."""
        return [self.stored.read(image.scene.image.id, self.device) for image in batch]


def dataset_of(run: Run, image_ids: Sequence[int]) -> Dataset:
    """The images of a run with their ground truth; the photographs may be gone. Raises BadRun, BadDataset."""
    record = run.info.dataset
    if record.gt is None or not Path(record.gt).is_file():
        raise BadRun(f"{run.name}: its ground truth {record.gt} was not found. Put it back, or evaluate again.")
    dataset = open_json(
        Path(record.gt),
        Path(record.images or "."),
        gt_dir=None if record.gt_dir is None else Path(record.gt_dir),
        name=record.name,
        split=record.split or "",
        image_ids=image_ids,
        images_needed=False,
    )
    if dataset.fingerprint != record.fingerprint:
        raise BadRun(f"{record.gt} has changed since {run.name} was made. Evaluate again.")
    exif: Exif = "ignore" if run.info.arguments.get("exif") == "ignore" else "apply"
    return replace(dataset, name=record.name or dataset.name).with_exif(exif)


def folder_of_rule(out: Path, rule: Rule, several: bool) -> Path:
    """Where the run of a rule goes: `out`, or of several rules a folder each in it."""
    return out / re.sub(r"[^\w.=-]+", "-", str(rule)) if several else out


def fuse_run(
    run: Run,
    rules: Sequence[Rule],
    out: Path,
    *,
    options: EvaluateOptions | None = None,
    reporter: Reporter = SILENT,
) -> list[Run]:
    """The runs that other rules make of what a run's network said, each in a folder of its own if there are several.

    options: overwrite, resume, save_predictions, workers and command count
    Raises BadArgument for a rule that does not fit what was stored or wants candidates that were not kept.
    """
    if not rules:
        raise BadArgument("No rule is named. Give --rule, or --sweep for many.")
    models = [StoredModel(run, rule) for rule in rules]
    # What the run's own rule takes was kept, whatever its threshold.
    low_gate = min(float(models[0].stored.about["low_gate"]), getattr(models[0].paper, "score", 1.0))
    for rule in rules:
        score = getattr(rule, "score", None)
        if rule.takes is Candidates and isinstance(score, float) and score < low_gate:
            raise BadArgument(
                f"{rule} takes candidates from a score of {score:g} on, and {run.name} kept those above {low_gate:g}."
            )
    dataset = dataset_of(run, models[0].stored.image_ids)
    return [
        evaluate(
            model, dataset, folder_of_rule(out, model.rule, len(rules) > 1), options or EvaluateOptions(), reporter
        )
        for model in models
    ]


class StoredEnsemble(StoredModel):
    """What the networks of several runs said, averaged: masks of matching queries, or boxes and semantics.

    Labels are those of the first run; the others' are brought to them by name.
    """

    def __init__(self, runs: Sequence[Run], weights: Sequence[float] | None = None, rule: Rule | None = None) -> None:
        """Raises BadRun when runs differ in data, categories or images; BadArgument when their answers do not fit."""
        super().__init__(runs[0], rule)
        self.members = [self, *(StoredModel(run) for run in runs[1:])]
        self.weights = weights
        self.record = ModelRecord(
            name="ensemble",
            title=f"Ensemble of {len(runs)} runs (masks averaged)",
            family="ensemble",
            params=sum(filter(None, (run.info.model.params for run in runs if run.info.model))) or None,
        )
        self._places: list[npt.NDArray[np.int64]] = []
        for run, member in zip(runs, self.members, strict=True):
            if run.info.dataset.fingerprint != runs[0].info.dataset.fingerprint:
                raise BadRun(f"{runs[0].name} and {run.name} were made on different ground truth.")
            if member.stored.image_ids != self.stored.image_ids:
                raise BadRun(f"{runs[0].name} and {run.name} kept candidates of different images.")
            if runs[0].info.arguments.get("exif", "apply") != run.info.arguments.get("exif", "apply"):
                raise BadRun(f"Only one of {runs[0].name} and {run.name} turned photographs as their EXIF says.")
            if dict(zip(member.class_names, member.isthing, strict=True)) != dict(
                zip(self.class_names, self.isthing, strict=True)
            ):
                raise BadRun(f"{runs[0].name} and {run.name} have different categories.")
            self._places.append(np.array([self.class_names.index(name) for name in member.class_names], np.int64))

    @property
    def settings(self) -> Mapping[str, Any]:
        """Whose candidates were averaged, and with which weights."""
        return {
            "candidates": "; ".join(str(member.stored.folder.absolute()) for member in self.members),
            "weights": None if self.weights is None else " ".join(f"{weight:g}" for weight in self.weights),
        }

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Candidates | Instances]:
        """The average of what the networks said of each image."""
        return [
            cast(
                "Candidates | Instances",
                merge_outputs(
                    [
                        _relabelled(member.stored.read(image.scene.image.id, self.device), place, self.isthing)
                        for member, place in zip(self.members, self._places, strict=True)
                    ],
                    self.weights,
                ),
            )
            for image in batch
        ]


def _relabelled(
    output: Candidates | Instances, place: npt.NDArray[np.int64], isthing: tuple[bool, ...]
) -> Candidates | Instances:
    """The same answer in the labels of another model; place: of each of its labels."""
    if isinstance(output, Candidates):
        return replace(output, labels=place[output.labels], isthing=isthing)
    return replace(
        output,
        labels=tuple(int(place[label]) for label in output.labels),
        semantic_labels=tuple(label if label == NO_LABEL else int(place[label]) for label in output.semantic_labels),
    )
