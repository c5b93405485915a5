"""Fuses the stored outputs of one forward pass again: by other rules, by grids of thresholds, and by an oracle."""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.evaluation.stored.rule_statistics import (
    ChunkCache,
    Readable,
    chunk_statistics,
    ground_truth_of,
    overlap_table_of,
)
from panbench.evaluation.stored.stored_model import StoredModel, as_evaluated, dataset_of
from panbench.metrics.slices import ImageStatistics
from panbench.models.labels import CategoryIds
from panbench.models.rules import RULES, Rule, parse_rule
from panbench.panoptic.overlap import OverlapTable, overlap_table
from panbench.panoptic.types import Category, Scene
from panbench.runs import Run
from panbench.studies.fusing.oracle import STEPS, oracle_maps

_NOT_ADDED = ("oneformer", "eomt", "transformers")
"""Rules that the oracle does not add: two equal mask2former's, and under one two segments can share an id."""


def folder_of_rule(out: Path, rule: Rule, several: bool) -> Path:
    """Returns the run folder of a rule: `out` for a single rule, else a folder in it."""
    return out / re.sub(r"[^\w.=-]+", "-", str(rule)) if several else out


def fuse_run(
    run: Run, rules: Sequence[Rule], out: Path, *, options: EvaluateOptions | None = None, reporter: Reporter = SILENT
) -> list[Run]:
    """Fuses a run's stored network outputs by other rules into new runs, each in a folder of its own if several.

    options: only overwrite, resume, save_predictions, workers and command are used
    Raises BadArgument for a rule that does not fit what was stored or needs candidates that were not stored.
    """
    if not rules:
        raise BadArgument("No rule is named. Give --rule, or --sweep for many.")
    stored = StoredModel(run)
    models = [stored.with_rule(rule) for rule in rules]
    dataset = dataset_of(run, stored.stored.image_ids)
    options = as_evaluated(run, options or EvaluateOptions())
    return [
        evaluate(model, dataset, folder_of_rule(out, model.rule, len(rules) > 1), options, reporter) for model in models
    ]


def other_rules(model: StoredModel) -> list[Rule]:
    """Returns the rules besides the model's own that can fuse its stored candidates, with default thresholds."""
    found = []
    for name, kind in RULES.items():
        rule = kind()
        with contextlib.suppress(BadArgument):
            model.check(rule)
            if name not in _NOT_ADDED and rule != model.paper:
                found.append(rule)
    return found


MOST_POINTS = 10_000


def parse_sweep(text: str, paper: Rule | None = None) -> list[Rule]:
    """Parses a sweep to one rule per combination of thresholds: `mask2former:score=0.5:0.95:0.05,overlap=0.8`.

    A threshold has one value, or first:last:step.
    Raises BadArgument for a rule or threshold that is unknown, and for a grid without points.
    """
    name, _, rest = text.strip().partition(":")
    axes: dict[str, list[str]] = {}
    for part in (part.strip() for part in rest.split(",") if part.strip()):
        threshold, equals, values = part.partition("=")
        if not equals:
            raise BadArgument(f"--sweep {text}: {part!r} has no values. Write for example score=0.5:0.95:0.05.")
        axes[threshold.strip()] = _threshold_values(values, f"--sweep {text}: {threshold.strip()}")
    if not any(len(values) > 1 for values in axes.values()):
        raise BadArgument(
            f"--sweep {text} has one point only. Give a threshold first:last:step, as score=0.5:0.95:0.05."
        )
    return [
        parse_rule(f"{name}:" + ",".join(f"{key}={value}" for key, value in zip(axes, point, strict=True)), paper)
        for point in itertools.product(*axes.values())
    ]


def count_sweep_points(text: str) -> int:
    """Counts the combinations of thresholds in a sweep, before any rule is built."""
    count = 1
    for part in text.partition(":")[2].split(","):
        if "=" in part:
            count *= len(_threshold_values(part.partition("=")[2], f"--sweep {text}"))
    return count


def _threshold_values(text: str, where: str) -> list[str]:
    """Returns the values of a threshold in a sweep, as text: its single value, or first:last:step spelled out."""
    parts = text.split(":")
    if len(parts) == 1:
        return [text.strip()]
    try:
        first, last, step = (float(part) for part in parts)
    except ValueError:
        raise BadArgument(f"{where} is {text!r}; write first:last:step, for example 0.5:0.95:0.05.") from None
    if not step > 0 or last < first:
        raise BadArgument(f"{where} is {text!r}: it goes up from the first to the last by steps above 0.")
    # Half a step of slack, so that rounding does not lose the last value.
    count = int((last - first) / step + 0.5) + 1
    digits = max(len(part.partition(".")[2]) for part in parts)
    return [f"{first + index * step:.{digits}f}" for index in range(count) if first + index * step <= last + step / 2]


def oracle_statistics(
    stored: Readable,
    scenes: Sequence[Scene],
    categories: Sequence[Category],
    category_ids: CategoryIds,
    rule: Rule,
    *,
    others: Sequence[Rule] = (),
    workers: int | None = None,
    cache: ChunkCache | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, ImageStatistics]:
    """Scores a fusion rule per image: as it is ("rule"), and with each kind of decision set to the ground truth.

    The names of the decisions are those of `oracle.STEPS`.
    others: further rules whose segments the oracle may use
    """

    def rule_and_oracle_tables(scene: Scene) -> list[tuple[str, OverlapTable]]:
        """Returns an image's overlap tables by the fusion rule, and with each kind of decision set to the truth."""
        output, truth = stored.read(scene.image.id), ground_truth_of(scene)
        gt_ids, gt_segments = truth
        with torch.inference_mode():
            fused, *further = [
                one.to_segments(one.fuse(dataclasses.replace(output)).to_host()) for one in (rule, *others)
            ]
        maps = oracle_maps(output, fused, category_ids, gt_ids, gt_segments, scene.image.id, further)
        return [
            ("rule", overlap_table_of(scene, truth, fused, category_ids)),
            *(
                (step, overlap_table(scene.image.id, gt_ids, gt_segments, each.ids, each.segments))
                for step, each in maps.items()
            ),
        ]

    return chunk_statistics(
        scenes, ["rule", *STEPS], rule_and_oracle_tables, categories, "Asking the oracle", workers, cache, reporter
    )
