"""Thresholds swept over what one forward pass left, and what an oracle would have made of its masks."""

import dataclasses
import itertools
from collections.abc import Sequence

import torch

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.evaluation.kept.rule_statistics import Kept, Readable, block_statistics, map_table, truth_of
from panbench.metrics.slices import ImageStatistics
from panbench.models.labels import CategoryIds
from panbench.models.rules import Rule, parse_rule
from panbench.panoptic.overlap import OverlapTable, overlap_table
from panbench.panoptic.types import Category, Scene
from panbench.studies.fusing.oracle import STEPS, oracle_maps

__all__ = ["MOST_POINTS", "oracle_statistics", "parse_sweep", "points_of"]

MOST_POINTS = 10_000


def parse_sweep(text: str, paper: Rule | None = None) -> list[Rule]:
    """The rules of a grid: `mask2former:score=0.5:0.95:0.05,overlap=0.8` has first:last:step or one value a threshold.

    Raises BadArgument for a rule or threshold that is unknown, and for a grid without points.
    """
    name, _, rest = text.strip().partition(":")
    axes: dict[str, list[str]] = {}
    for part in (part.strip() for part in rest.split(",") if part.strip()):
        threshold, equals, values = part.partition("=")
        if not equals:
            raise BadArgument(f"--sweep {text}: {part!r} has no values. Write for example score=0.5:0.95:0.05.")
        axes[threshold.strip()] = _values(values, f"--sweep {text}: {threshold.strip()}")
    if not any(len(values) > 1 for values in axes.values()):
        raise BadArgument(
            f"--sweep {text} has one point only. Give a threshold first:last:step, as score=0.5:0.95:0.05."
        )
    return [
        parse_rule(f"{name}:" + ",".join(f"{key}={value}" for key, value in zip(axes, point, strict=True)), paper)
        for point in itertools.product(*axes.values())
    ]


def points_of(text: str) -> int:
    """How many points a sweep has, without making them."""
    count = 1
    for part in text.partition(":")[2].split(","):
        if "=" in part:
            count *= len(_values(part.partition("=")[2], f"--sweep {text}"))
    return count


def _values(text: str, where: str) -> list[str]:
    parts = text.split(":")
    if len(parts) == 1:
        return [text.strip()]
    try:
        first, last, step = (float(part) for part in parts)
    except ValueError:
        raise BadArgument(f"{where} is {text!r}; write first:last:step, for example 0.5:0.95:0.05.") from None
    if not step > 0 or last < first:
        raise BadArgument(f"{where} is {text!r}: it goes up from the first to the last by steps above 0.")
    # Half a step of room, so that rounding does not lose the last value.
    count = int((last - first) / step + 0.5) + 1
    digits = max(len(part.partition(".")[2]) for part in parts)
    return [f"{first + place * step:.{digits}f}" for place in range(count) if first + place * step <= last + step / 2]


def oracle_statistics(
    stored: Readable,
    scenes: Sequence[Scene],
    categories: Sequence[Category],
    category_ids: CategoryIds,
    rule: Rule,
    *,
    others: Sequence[Rule] = (),
    workers: int | None = None,
    kept: Kept | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, ImageStatistics]:
    """The statistics of the rule ("rule") and of each step of its oracle (`oracle.STEPS`).

    others: rules that fit what is stored, whose segments the oracle may use as well
    """

    def tables(scene: Scene) -> list[tuple[str, OverlapTable]]:
        output, truth = stored.read(scene.image.id), truth_of(scene)
        gt_ids, gt_segments = truth
        with torch.inference_mode():
            fused, *further = [one.settle(one.fuse(dataclasses.replace(output)).to_host()) for one in (rule, *others)]
        maps = oracle_maps(output, fused, category_ids, gt_ids, gt_segments, scene.image.id, further)
        return [
            ("rule", map_table(scene, truth, fused, category_ids)),
            *(
                (step, overlap_table(scene.image.id, gt_ids, gt_segments, each.ids, each.segments))
                for step, each in maps.items()
            ),
        ]

    return block_statistics(scenes, ["rule", *STEPS], tables, categories, "Asking the oracle", workers, kept, reporter)
