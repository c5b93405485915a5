"""Fuses again what `eval --keep-candidates` kept: other rules and thresholds, without the network."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.kept.stored_model import StoredModel, as_evaluated, dataset_of
from panbench.evaluation.options import EvaluateOptions
from panbench.models.rules import RULES, Rule
from panbench.runs import Run

__all__ = ["folder_of_rule", "fuse_run", "other_rules"]

_NO_OTHERS = ("oneformer", "eomt", "transformers")
"""Two that decide as mask2former does, and one under which two segments can share an id."""


def folder_of_rule(out: Path, rule: Rule, several: bool) -> Path:
    """The run folder of a rule: `out`, or a folder in it where there are several rules."""
    return out / re.sub(r"[^\w.=-]+", "-", str(rule)) if several else out


def fuse_run(
    run: Run,
    rules: Sequence[Rule],
    out: Path,
    *,
    options: EvaluateOptions | None = None,
    reporter: Reporter = SILENT,
) -> list[Run]:
    """The runs that other rules make from a run's candidates, each in a folder of its own if there are several.

    options: overwrite, resume, save_predictions, workers and command count
    Raises BadArgument for a rule that does not fit what was stored or wants candidates that were not kept.
    """
    if not rules:
        raise BadArgument("No rule is named. Give --rule, or --sweep for many.")
    stored = StoredModel(run)
    models = [stored.by(rule) for rule in rules]
    dataset = dataset_of(run, stored.stored.image_ids)
    options = as_evaluated(run, options or EvaluateOptions())
    return [
        evaluate(model, dataset, folder_of_rule(out, model.rule, len(rules) > 1), options, reporter) for model in models
    ]


def other_rules(model: StoredModel) -> list[Rule]:
    """The rules, by their own thresholds, that fit what was kept of a network, without the run's own."""
    found = []
    for name, kind in RULES.items():
        rule = kind()
        with contextlib.suppress(BadArgument):
            model.check(rule)
            if name not in _NO_OTHERS and rule != model.paper:
                found.append(rule)
    return found
