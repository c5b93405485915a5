"""Fusion rules: turn a model's output into a panoptic map; each is a frozen value with a name and its thresholds.

    rule = parse_rule("mask2former:score=0.7")
    fused = fuse(outputs, rule)                     # on the device, on their way to the host
    ids, segments = rule.to_segments(fused[0])      # on the host

To add a rule, write a frozen dataclass that inherits from `Rule`. `--rule package.module:Class` uses it as it is; an
entry point of the group `panbench.rules`, or a line in `panbench.catalog.RULES`, gives it a name.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from panbench.base.errors import BadArgument
from panbench.base.references import BrokenReference, load
from panbench.base.text import listed
from panbench.catalog import PAPER, RULES, rule_name, rule_reference, unknown_threshold
from panbench.models.candidates import FinishedMap, Output
from panbench.models.rules.base import Fused, FusedMap, Rule, SegmentedMap, rule_takes

__all__ = [
    "PAPER",
    "RULES",
    "Fused",
    "FusedMap",
    "Rule",
    "SegmentedMap",
    "check_rule_fits",
    "fuse",
    "parse_rule",
    "parse_rules",
]


@torch.inference_mode()
def fuse(outputs: Sequence[Output], rule: Rule) -> list[Fused]:
    """Fuses each image's output to a map of the mask that won each pixel, and starts copying the maps to the host.

    On CUDA: synchronise before `rule.to_segments`. Raises BadArgument when the rule does not fit the outputs.
    """
    check_rule_fits(rule, outputs)
    return [fused.to_host() for fused in rule.fuse_batch(outputs)]


def check_rule_fits(rule: Rule, outputs: Sequence[Output]) -> None:
    """Raises BadArgument if a rule cannot fuse the model's kind of output."""
    for output in outputs:
        if not isinstance(output, rule.takes):
            gives = next(name for name, kind in RULES.items() if isinstance(output, kind.takes))
            raise BadArgument(
                f"The rule {rule.name} takes {rule_takes(rule)}, and this model does not give them. "
                f"Rules that fit it: {listed(name for name, kind in RULES.items() if isinstance(output, kind.takes))}."
                if not isinstance(output, FinishedMap)
                else f"The rule {rule.name} cannot be applied: this model gives finished id maps ({gives})."
            )


def parse_rule(text: str, paper: Rule | None = None, declared: Mapping[str, Rule] | None = None) -> Rule:
    """Parses a rule: `mask2former`, `mask2former:score=0.7,overlap=0.8`, `package.module:Class:score=0.7`.

    paper: the meaning of `paper`; thresholds after `paper:` replace its own
    declared: rules by name with default thresholds from a model's files
    Raises BadArgument for an unknown name, threshold or value, naming the nearest.
    """
    if (reference := rule_reference(text)) is not None:
        return _with_thresholds(_load_rule(reference), text.strip()[len(reference) + 1 :], text)
    key, assignments = rule_name(text), text.strip().partition(":")[2]
    if key == PAPER:
        if paper is None:
            raise BadArgument("--rule paper is the rule of a model's paper, and there is no model here. Name a rule.")
        return _with_thresholds(paper, assignments, text)
    return _with_thresholds((declared or {}).get(key) or RULES[key](), assignments, text)


def parse_rules(text: str, paper: Rule | None = None) -> list[Rule]:
    """Parses rules separated by commas, without duplicates: `paper,transformers:score=0.8,overlap=0.5` are two."""
    parts: list[str] = []
    for part in text.split(","):
        # A value without a rule's name is a further threshold of the rule before it.
        if parts and "=" in part and ":" not in part:
            parts[-1] += f",{part}"
        elif part.strip():
            parts.append(part)
    if not parts:
        raise BadArgument(f"--rule names no rule. Rules are {listed(RULES, most=len(RULES))}.")
    return list(dict.fromkeys(parse_rule(part, paper) for part in parts))


def _load_rule(reference: str) -> Rule:
    """Imports a user's rule by `module:Class`, with its default thresholds. Raises BadArgument."""
    try:
        kind = load(reference, here=True)
    except BrokenReference as error:
        raise BadArgument(f"--rule {reference}: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, Rule) and dataclasses.is_dataclass(kind)):
        raise BadArgument(
            f"--rule {reference} is not a fusion rule: a frozen dataclass that inherits from {Rule.__module__}:Rule."
        )
    rule: Rule = kind()
    return rule


def _with_thresholds(rule: Rule, assignments: str, text: str) -> Rule:
    """Returns the rule with thresholds from text such as `score=0.7,overlap=0.8`. Raises BadArgument."""
    fields = {field.name: field for field in dataclasses.fields(rule)}
    changes: dict[str, Any] = {}
    for assignment in (part for part in assignments.split(",") if part.strip()):
        name, equals, value = (part.strip() for part in assignment.partition("="))
        key = name.replace("-", "_")
        if not equals:
            raise BadArgument(f"--rule {text}: {assignment.strip()!r} has no value. Write {rule.name}:NAME=VALUE,….")
        if key not in fields:
            raise unknown_threshold(rule.name, name, fields)
        if key in changes:
            raise BadArgument(f"--rule {text} gives {name} twice.")
        changes[key] = _threshold_value(rule, fields[key], value)
    return dataclasses.replace(rule, **changes)


def _threshold_value(rule: Rule, field: "dataclasses.Field[Any]", text: str) -> Any:
    """Parses the value of a threshold, in the type of its default. Raises BadArgument."""
    where = f"The rule {rule.name}: {field.name}"
    choices = field.metadata.get("choices")
    if choices is not None:
        if text not in choices:
            raise BadArgument(f"{where} is {text!r} but is one of {listed(choices)}.")
        return text
    if isinstance(field.default, bool):
        if text.lower() not in ("true", "false"):
            raise BadArgument(f"{where} is {text!r} but is true or false.")
        return text.lower() == "true"
    kind: type[float] | type[int] = int if isinstance(field.default, int) else float
    low, high = field.metadata["range"]
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not low <= value <= high:
        expected = "a whole number from 0 on" if kind is int else f"a number from {low:g} to {high:g}"
        raise BadArgument(f"{where} is {text!r} but must be {expected}.")
    return value
