"""What an evaluation asks of a model before the first image: its fusion rules, and the model as studies want it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.datasets import Dataset
from panbench.evaluation.options import EvaluateOptions, with_all_studies
from panbench.models.model import Model
from panbench.models.rules import Rule, parse_rule

__all__ = ["as_asked", "as_shown", "rules_of", "run_further", "with_those_beside"]


def as_asked(
    model: Model, dataset: Dataset, names: Sequence[str], options: EvaluateOptions
) -> tuple[list[Rule], Model]:
    """The rules that `--rule` names, and the model `as_shown`, with the image sizes that belong to these rules."""
    chosen = rules_of(model, names)
    if all(rule.name == "transformers" for rule in chosen):
        # What people get who call its image processor: its size belongs to it as much as its thresholds.
        model = model.as_its_processor()
    return chosen, as_shown(model, dataset, options)


def as_shown(model: Model, dataset: Dataset, options: EvaluateOptions) -> Model:
    """The model as the studies of the options want it: behind views of an image, say."""
    for study in with_all_studies(options.studies):
        model = study.wrapped(model, dataset)
    return model


def with_those_beside(model: Model, folders: Mapping[Rule, Path], options: EvaluateOptions) -> dict[Rule, Path]:
    """The folders with those of further runs that studies make in the same pass, after them. model: `as_shown`."""
    further = [study.beside(model, folders, options) for study in options.studies]
    return {**folders, **{rule: folder for each in further for rule, folder in each.items()}}


def run_further(
    model: Model, dataset: Dataset, folders: Mapping[Rule, Path], options: EvaluateOptions, reporter: Reporter = SILENT
) -> None:
    """Makes the further runs that studies add to those in `folders`. model: `as_shown`."""
    for study in options.studies:
        study.run_further(model, dataset, folders, options, reporter)


def rules_of(model: Model, names: Sequence[str]) -> list[Rule]:
    """The rules that `--rule` names, for this model; its own where none is named. Raises BadArgument."""
    if not names:
        return [model.rule]
    found: dict[Rule, str] = {}
    for name in names:
        rule = parse_rule(name, model.rule, model.stated_rules)
        if rule in found:
            raise BadArgument(f"--rule {found[rule]} and {name} are the same rule of {model.spec.title}. Name it once.")
        found[rule] = name
    return list(found)
