"""What does not fit together is refused before anything is written: model, dataset, rules and options."""

from collections.abc import Iterable
from dataclasses import replace

from panbench.base.errors import BadArgument, BadDataset
from panbench.datasets import Dataset
from panbench.evaluation.batch_size import check_batch_size
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.prediction_names import shared_name
from panbench.models.model import Model
from panbench.models.predict import model_categories
from panbench.models.rules import RULES, Rule
from panbench.models.rules.base import rule_takes

__all__ = ["check_fits", "refuse_unfit", "refuse_without_purpose", "with_model_categories"]


def check_fits(model: Model, dataset: Dataset, rules: Iterable[Rule], options: EvaluateOptions) -> None:
    """Raises BadArgument or BadDataset for rules and options that do not fit the model or the dataset."""
    check_batch_size(options)
    refuse_without_purpose(dataset, options.save_predictions or options.unscored)
    for rule in rules:
        refuse_unfit(rule, model)
    for study in options.studies:
        study.check(dataset)


def with_model_categories(dataset: Dataset, model: Model) -> Dataset:
    """The dataset, with the model's categories where it has none of its own."""
    return dataset if dataset.categories else replace(dataset, categories=model_categories(model))


def refuse_unfit(rule: Rule, model: Model) -> None:
    """Raises BadArgument for a rule that does not take what the model gives."""
    if rule.takes is not model.rule.takes:
        fitting = [name for name, kind in RULES.items() if kind.takes is model.rule.takes]
        raise BadArgument(
            f"The rule {rule.name} takes {rule_takes(rule)}, and {model.spec.title} gives {rule_takes(model.rule)}. "
            f"Rules that fit it: {', '.join(fitting)}."
        )


def refuse_without_purpose(dataset: Dataset, save_predictions: bool) -> None:
    """Raises BadArgument for an evaluation without a result: no ground truth, and no predictions kept.

    Raises BadDataset when predictions are kept and those of two images would have one name.
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
