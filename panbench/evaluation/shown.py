"""What an evaluation asks of a model before the first image: its fusion rules, and the model as studies want it."""

from collections.abc import Sequence

from panbench.base.errors import BadArgument
from panbench.evaluation.options import EvaluateOptions
from panbench.models.model import Model
from panbench.models.rules import Rule, parse_rule

__all__ = ["as_asked", "as_shown", "rules_of"]


def as_asked(model: Model, names: Sequence[str], options: EvaluateOptions) -> tuple[list[Rule], Model]:
    """The rules that `--rule` names, and the model `as_shown`, with the image sizes that belong to these rules."""
    chosen = rules_of(model, names)
    if all(rule.name == "transformers" for rule in chosen):
        # What people get who call its image processor: its size belongs to it as much as its thresholds.
        model = model.as_its_processor()
    return chosen, as_shown(model, options)


def as_shown(model: Model, options: EvaluateOptions) -> Model:
    """The model as the studies of the options want it: behind views of an image, say."""
    for study in options.studies:
        model = study.wrapped(model)
    return model


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
