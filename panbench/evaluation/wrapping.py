"""Prepares an evaluation: finds its fusion rules, wraps the model for studies, and checks that everything fits.

All checks run before anything is written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from panbench.base.errors import BadArgument, BadDataset
from panbench.catalog import unfit_rule
from panbench.datasets import Dataset
from panbench.evaluation.options import EvaluateOptions, with_all_study_options
from panbench.evaluation.plan import check_batch_size
from panbench.models.model import Model
from panbench.models.predict import model_categories
from panbench.models.rules import RULES, Rule, parse_rule
from panbench.models.rules.base import rule_takes
from panbench.runs.predictions import shared_name


def rules_and_wrapped_model(
    model: Model, dataset: Dataset, names: Sequence[str], options: EvaluateOptions
) -> tuple[list[Rule], Model]:
    """Returns the fusion rules that `--rule` names, and the model adapted to them and to the studies in use."""
    chosen = rules_of(model, names)
    if all(rule.name == "transformers" for rule in chosen):
        # This rule reproduces transformers' image processor, to which the image size belongs.
        model = model.as_its_processor()
    return chosen, wrap_model(model, dataset, options)


def wrap_model(model: Model, dataset: Dataset, options: EvaluateOptions) -> Model:
    """Wraps the model for the options' studies, for example with several views of an image."""
    for study in with_all_study_options(options.studies):
        model = study.wrapped(model, dataset)
    return model


def rules_of(model: Model, names: Sequence[str]) -> list[Rule]:
    """Parses the rules of `--rule` for this model; its own rule if there are none. Raises BadArgument."""
    if not names:
        return [model.rule]
    found: dict[Rule, str] = {}
    for name in names:
        rule = parse_rule(name, model.rule, model.declared_rules)
        if rule in found:
            raise BadArgument(f"--rule {found[rule]} and {name} are the same rule of {model.spec.title}. Name it once.")
        found[rule] = name
    return list(found)


def check_fits(model: Model, dataset: Dataset, rules: Iterable[Rule], options: EvaluateOptions) -> None:
    """Raises BadArgument or BadDataset if rules or options do not fit the model or the dataset."""
    check_batch_size(options)
    refuse_useless_evaluation(dataset, options.save_predictions or options.unscored)
    for rule in rules:
        refuse_unfit(rule, model)
    for study in options.studies:
        study.check(dataset)


def with_model_categories(dataset: Dataset, model: Model) -> Dataset:
    """Gives the model's categories to a dataset without categories."""
    return dataset if dataset.categories else replace(dataset, categories=model_categories(model))


def refuse_unfit(rule: Rule, model: Model) -> None:
    """Raises BadArgument if a rule cannot take the model's outputs."""
    if rule.takes is not model.rule.takes:
        fitting = [name for name, kind in RULES.items() if kind.takes is model.rule.takes]
        raise unfit_rule(rule.name, rule_takes(rule), model.spec.title, rule_takes(model.rule), fitting)


def refuse_useless_evaluation(dataset: Dataset, save_predictions: bool) -> None:
    """Raises BadArgument for an evaluation without a result: no ground truth, and no predictions stored.

    Raises BadDataset if predictions are stored and those of two images would have the same name.
    """
    if save_predictions and (shared := shared_name(dataset)):
        one, other, name = shared
        raise BadDataset(
            f"The predictions of images {one} and {other} would both be {name}. Rename one of the images, or evaluate "
            "with --no-save-predictions."
        )
    if not dataset.has_ground_truth and not save_predictions:
        raise BadArgument(
            f"{dataset.gt} lists images without ground truth, so there is nothing to score. Add --save-predictions to "
            "keep what the model predicts, for `panbench export coco-server`."
        )
