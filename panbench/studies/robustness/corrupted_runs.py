"""The runs of a model on corrupted images, beside its runs on the clean ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.evaluate import evaluate_rules
from panbench.evaluation.options import EvaluateOptions
from panbench.models.model import Model
from panbench.runs import Run
from panbench.studies.robustness.corrupted_model import CorruptedModel
from panbench.studies.robustness.corruptions import Corruption
from panbench.studies.robustness.folders import corrupted_runs

if TYPE_CHECKING:
    from panbench.models.rules import Rule

__all__ = ["evaluate_corrupted"]


def evaluate_corrupted(
    model: Model,
    dataset: Dataset,
    clean: "Mapping[Rule, Path]",
    corruptions: Sequence[Corruption],
    options: EvaluateOptions,
    reporter: Reporter = SILENT,
) -> list[Run]:
    """Evaluates a model under each corruption, each into runs of its own in `corrupted_runs(folder)`; all runs.

    clean: the folder of the clean run of each rule; options: as of the clean runs, but neither predictions nor
        candidates are kept
    Each run resumes by itself: with `options.resume` those that are complete are left alone.
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
