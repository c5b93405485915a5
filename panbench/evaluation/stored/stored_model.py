"""Evaluates a run made with `eval --keep-candidates` again, without the network.

The stored run is a model: `load` reads nothing, and `candidates` reads the stored outputs. So evaluating, resuming,
scoring and recording work as for any model.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from panbench.base.addresses import recorded_path
from panbench.base.errors import BadArgument, BadRun
from panbench.base.studies import load_from_studies
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.coco import dataset_of_set
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.wrapping import refuse_unfit
from panbench.models.candidates import Candidates, Instances
from panbench.models.model import LoadedImage, Model
from panbench.models.rules import Rule, parse_rule
from panbench.models.stored import StoredOutputs
from panbench.panoptic.types import Exif, Scene
from panbench.runs import ModelRecord, Run
from panbench.runs.sources import files_exist, read_ground_truth


class StoredModel(Model):
    """A run's stored network outputs as a `Model`, which reads them instead of running a network."""

    def __init__(self, run: Run) -> None:
        """Opens a run's stored outputs; `rule` is the one that the run was evaluated with.

        Raises BadRun if the run stored no candidates, or they are damaged or from another run.
        """
        if run.path is None or run.info.model is None:
            raise BadRun(f"{run.name} was not evaluated by panbench, so it has no candidates.")
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
        )
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        self.isthing: tuple[bool, ...] = tuple(about["isthing"])
        self._paper: Rule = parse_rule(about["rule"])
        self.rule = self._paper
        self.device = torch.device("cpu")
        self.precision = run.info.precision or "fp32"
        self.seed = run.info.seed or 0

    @property
    def paper(self) -> Rule:
        """The rule that `--rule paper` means for a stored run: the one that it was evaluated with."""
        return self._paper

    def with_rule(self, rule: Rule) -> "StoredModel":
        """Returns the model with another rule. Raises BadArgument if it does not fit, as in `check`."""
        self.check(rule)
        other = copy.copy(self)
        other.rule = rule
        return other

    def check(self, rule: Rule) -> None:
        """Raises BadArgument if a fusion rule does not fit the outputs, or needs masks that were not stored."""
        refuse_unfit(rule, self)
        if rule.takes is not Candidates:
            return
        # Everything that the run's own rule uses was stored, whatever its threshold.
        stored_above = min(float(self.stored.about["low_gate"]), self.paper.least_gate)
        if rule.least_gate < stored_above:
            wants = f"candidates from a score of {rule.least_gate:g} on" if rule.least_gate else "all candidates"
            raise BadArgument(
                f"{rule} takes {wants}, and {self.stored.folder.parent.name} stored those above {stored_above:g}. "
                "Evaluate with the network: `panbench eval --rule`."
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """The folder of the stored network outputs, for run.json: it shows that no network was run."""
        return {"candidates": str(self.stored.folder.absolute())}

    def describe(self) -> ModelRecord:
        """Returns run.json's entry of the model that gave the stored outputs."""
        return self.record

    def load(self, scene: Scene) -> LoadedImage:
        """Returns an empty image of the scene's size; no file is read."""
        return LoadedImage(scene, torch.zeros(3, scene.image.height, scene.image.width, dtype=torch.uint8), None)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Candidates | Instances]:
        """Reads the stored output for each image."""
        return [self.stored.read(image.scene.image.id, self.device) for image in batch]


def dataset_of(run: Run, image_ids: Sequence[int]) -> Dataset:
    """Opens the dataset of a run's images with ground truth; photographs may be missing.

    Raises BadRun or BadDataset.
    """
    record = run.info.dataset
    if record.gt is None or not files_exist(record.gt):
        raise BadRun(f"{run.name}: its ground truth {record.gt} was not found. Put it back, or evaluate again.")
    truth = read_ground_truth(record.gt, record.gt_dir)
    dataset = dataset_of_set(
        truth,
        recorded_path(record.images or "."),
        name=record.name or truth.path.stem,
        split=record.split or "",
        image_ids=image_ids,
        images_needed=False,
    )
    if dataset.fingerprint != record.fingerprint:
        raise BadRun(f"{record.gt} has changed since {run.name} was made. Evaluate again.")
    exif: Exif = "ignore" if run.info.arguments.get("exif") == "ignore" else "apply"
    return replace(dataset, name=record.name or dataset.name).with_exif(exif)


def as_evaluated(run: Run, options: EvaluateOptions) -> EvaluateOptions:
    """Returns the options, plus those of the stored run that fusing it again needs, such as its category map."""
    again = [
        each for kind in load_from_studies("options", "eval").values() if (each := kind.of_run(run.info)) is not None
    ]
    return replace(options, studies=(*options.studies, *again))
