"""Evaluates a model on corrupted images, into runs next to its clean ones.

The corrupted pixels reach the model in memory (`Model.load_pixels`). The ground truth stays as it is. [Hendrycks and
Dietterich 2019; Michaelis et al. 2019]
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.evaluate import evaluate_rules
from panbench.evaluation.options import EvaluateOptions
from panbench.models.model import LoadedImage, Model, Wrapped, running_settings
from panbench.models.preprocess import read_photograph
from panbench.panoptic.types import Scene
from panbench.runs import ModelRecord, Run
from panbench.studies.robustness.corruptions import Corruption, corrupt
from panbench.studies.robustness.definitions import corrupted_runs

if TYPE_CHECKING:
    from panbench.models.rules import Rule


class CorruptedModel(Wrapped):
    """Wraps a model and corrupts each image that it sees."""

    def __init__(self, model: Model, corruption: Corruption) -> None:
        """Wraps a model. Corruptions are checked when the first image is loaded."""
        super().__init__(model)
        self.corruption = corruption
        # Progress and errors show this title: several corruptions of a model run one after the other.
        self.spec = replace(model.spec, title=f"{model.spec.title}, {corruption}")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings that must match to resume a run: the model's, and the corruption."""
        return {**running_settings(self.inner), "corruption": str(self.corruption)}

    def describe(self) -> ModelRecord:
        """Returns the model's record with the corruption in its title, without the published number of clean images."""
        described = self.inner.describe()
        title = f"{described.title or self.inner.spec.title}, {self.corruption}"
        return replace(described, title=title, published=None)

    def load(self, scene: Scene) -> LoadedImage:
        """Corrupts the image and loads it. Raises BadDataset, and BadModel if the model can only load files."""
        clean, facts = read_photograph(scene)
        loaded = self.inner.load_pixels(scene, corrupt(clean, self.corruption, scene.image.id))
        return replace(loaded, facts=facts)


def evaluate_corrupted(
    model: Model,
    dataset: Dataset,
    clean: "Mapping[Rule, Path]",
    corruptions: Sequence[Corruption],
    options: EvaluateOptions,
    reporter: Reporter = SILENT,
) -> list[Run]:
    """Evaluates a model under each corruption, into runs in `corrupted_runs(folder)`; returns all runs.

    clean: the folder of the clean run of each rule; options: those of the clean runs, but neither predictions nor
        candidates are stored
    With `options.resume` complete runs are skipped.
    """
    options = replace(options, save_predictions=False, keep_candidates=False)
    return [
        run
        for corruption in corruptions
        for run in evaluate_rules(
            CorruptedModel(model, corruption),
            dataset,
            {rule: corrupted_runs(home) / corruption.folder for rule, home in clean.items()},
            options,
            reporter,
        )
    ]
