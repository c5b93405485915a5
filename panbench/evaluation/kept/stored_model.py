"""What `eval --keep-candidates` kept of a run, as a model: evaluated again without the network.

A stored run is one more kind of model: `load` reads nothing, `candidates` reads what the network said. So evaluation,
resuming, scoring and the record are those of any model.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from panbench.base.addresses import recorded_path
from panbench.base.errors import BadArgument, BadRun
from panbench.base.studies import added
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.datasets.coco import dataset_of_set
from panbench.evaluation.fits import refuse_unfit
from panbench.evaluation.options import EvaluateOptions
from panbench.models.candidates import Candidates, Instances
from panbench.models.model import LoadedImage, Model
from panbench.models.rules import Rule, parse_rule
from panbench.models.stored import StoredOutputs
from panbench.panoptic.types import Exif, Scene
from panbench.runs import ModelRecord, Run
from panbench.runs.sources import exist, ground_truth

__all__ = ["StoredModel", "as_evaluated", "dataset_of"]


class StoredModel(Model):
    """A run's stored network outputs, as a `Model`."""

    def __init__(self, run: Run) -> None:
        """Fuses by the rule of the run's own maps; see `by`.

        Raises BadRun when the run kept no candidates, they are damaged, or those of another run.
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
            input_size=None,
            aliases=(),
            trained_on=None,
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
        """The rule that the run was evaluated with."""
        return self._paper

    def by(self, rule: Rule) -> "StoredModel":
        """The same, fused by another rule. Raises BadArgument as `check`."""
        self.check(rule)
        other = copy.copy(self)
        other.rule = rule
        return other

    def check(self, rule: Rule) -> None:
        """Raises BadArgument for a rule that does not fit what the model gives, or wants what was not kept of it."""
        refuse_unfit(rule, self)
        if rule.takes is not Candidates:
            return
        # What the run's own rule takes was kept, whatever its threshold.
        kept_above = min(float(self.stored.about["low_gate"]), self.paper.least_gate)
        if rule.least_gate < kept_above:
            wants = f"candidates from a score of {rule.least_gate:g} on" if rule.least_gate else "all candidates"
            raise BadArgument(
                f"{rule} takes {wants}, and {self.stored.folder.parent.name} kept those above {kept_above:g}. Evaluate "
                "with the network: `panbench eval --rule`."
            )

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that distinguish a run from stored candidates from one with the network."""
        return {"candidates": str(self.stored.folder.absolute())}

    def describe(self) -> ModelRecord:
        """The record of the run that kept the candidates."""
        return self.record

    def load(self, scene: Scene) -> LoadedImage:
        """The scene itself: no image is read."""
        return LoadedImage(scene, torch.zeros(3, scene.image.height, scene.image.width, dtype=torch.uint8), None)

    def candidates(self, batch: Sequence[LoadedImage]) -> list[Candidates | Instances]:
        """The network's stored outputs for each image."""
        return [self.stored.read(image.scene.image.id, self.device) for image in batch]


def dataset_of(run: Run, image_ids: Sequence[int]) -> Dataset:
    """The images of a run with their ground truth; photographs may be missing. Raises BadRun, BadDataset."""
    record = run.info.dataset
    if record.gt is None or not exist(record.gt):
        raise BadRun(f"{run.name}: its ground truth {record.gt} was not found. Put it back, or evaluate again.")
    truth = ground_truth(record.gt, record.gt_dir)
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
    """The options, with those of studies by which the run was evaluated and has to be fused again: a category map."""
    again = [each for kind in added("options", "eval").values() if (each := kind.of_run(run.info)) is not None]
    return replace(options, studies=(*options.studies, *again))
