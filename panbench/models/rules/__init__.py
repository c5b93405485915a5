"""Fusion rules: from a model's output to one panoptic map, each a frozen value with a name and all its thresholds.

    rule = parse_rule("mask2former:score=0.7")
    fused = fuse(outputs, rule)                     # on the device, on their way to the host
    ids, segments = rule.settle(fused[0])           # on the host

A rule of your own: a frozen dataclass that inherits from `Rule`, and a line in `panbench.catalog.RULES`, an entry point
of the group `panbench.rules`, or nothing: `--rule package.module:Class` takes it from where it is.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from panbench.base.errors import BadArgument
from panbench.base.places import BrokenPlace, load
from panbench.base.text import listed
from panbench.catalog import PAPER, RULES, rule_name, rule_place
from panbench.models.candidates import FinishedMap, Output
from panbench.models.rules.base import Fused, FusedMap, Rule, SettledMap, rule_takes

__all__ = [
    "PAPER",
    "RULES",
    "Fused",
    "FusedMap",
    "Rule",
    "SettledMap",
    "check_fit",
    "fuse",
    "parse_rule",
    "parse_rules",
]


@torch.inference_mode()
def fuse(outputs: Sequence[Output], rule: Rule) -> list[Fused]:
    """The fused map of each output, on its way to the host (on CUDA: synchronise before `rule.settle`).

    Raises BadArgument when the rule does not fit the outputs.
    """
    check_fit(rule, outputs)
    return [fused.to_host() for fused in rule.fuse_batch(outputs)]


def check_fit(rule: Rule, outputs: Sequence[Output]) -> None:
    """Raises BadArgument when a rule does not take what a model gives."""
    for output in outputs:
        if not isinstance(output, rule.takes):
            gives = next(name for name, kind in RULES.items() if isinstance(output, kind.takes))
            raise BadArgument(
                f"The rule {rule.name} takes {rule_takes(rule)}, and this model does not give them. "
                f"Rules that fit it: {listed(name for name, kind in RULES.items() if isinstance(output, kind.takes))}."
                if not isinstance(output, FinishedMap)
                else f"The rule {rule.name} cannot be applied: this model gives finished id maps ({gives})."
            )


def parse_rule(text: str, paper: Rule | None = None, stated: Mapping[str, Rule] | None = None) -> Rule:
    """The rule that a text names: `mask2former`, `mask2former:score=0.7,overlap=0.8`, `package.module:Class:score=0.7`.

    paper: the rule that `paper` stands for; a threshold after `paper:` replaces one of its own
    stated: rules by name whose defaults a model's files state
    Raises BadArgument for a name, a threshold or a value that is not known, naming the nearest.
    """
    if (place := rule_place(text)) is not None:
        return _changed(_rule_at(place), text.strip()[len(place) + 1 :], text)
    key, assignments = rule_name(text), text.strip().partition(":")[2]
    if key == PAPER:
        if paper is None:
            raise BadArgument("--rule paper is the rule of a model's paper, and there is no model here. Name a rule.")
        return _changed(paper, assignments, text)
    return _changed((stated or {}).get(key) or RULES[key](), assignments, text)


def parse_rules(text: str, paper: Rule | None = None) -> list[Rule]:
    """The rules of a comma-separated list, each once: `paper,transformers:score=0.8,overlap=0.5,argmax` are three."""
    parts: list[str] = []
    for part in text.split(","):
        # What has a value and names no rule is one more threshold of the rule before it.
        if parts and "=" in part and ":" not in part:
            parts[-1] += f",{part}"
        elif part.strip():
            parts.append(part)
    if not parts:
        raise BadArgument(f"--rule names no rule. Rules are {listed(RULES, most=len(RULES))}.")
    return list(dict.fromkeys(parse_rule(part, paper) for part in parts))


def _rule_at(place: str) -> Rule:
    """The rule at a place, with its defaults. Raises BadArgument."""
    try:
        kind = load(place, here=True)
    except BrokenPlace as error:
        raise BadArgument(f"--rule {place}: {error}") from None
    if not (isinstance(kind, type) and issubclass(kind, Rule) and dataclasses.is_dataclass(kind)):
        raise BadArgument(
            f"--rule {place} is not a fusion rule: a frozen dataclass that inherits from {Rule.__module__}:Rule."
        )
    rule: Rule = kind()
    return rule


def _changed(rule: Rule, assignments: str, text: str) -> Rule:
    fields = {field.name: field for field in dataclasses.fields(rule)}
    changes: dict[str, Any] = {}
    for assignment in (part for part in assignments.split(",") if part.strip()):
        name, equals, value = (part.strip() for part in assignment.partition("="))
        key = name.replace("-", "_")
        if not equals:
            raise BadArgument(f"--rule {text}: {assignment.strip()!r} has no value. Write {rule.name}:NAME=VALUE,….")
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else _thresholds(rule, fields)
            raise BadArgument(f"The rule {rule.name} has no threshold {name!r}. {hint}")
        if key in changes:
            raise BadArgument(f"--rule {text} gives {name} twice.")
        changes[key] = _value(rule, fields[key], value)
    return dataclasses.replace(rule, **changes)


def _thresholds(rule: Rule, names: Iterable[str]) -> str:
    names = list(names)
    return f"It has {listed(names)}." if names else "It has none."


def _value(rule: Rule, field: "dataclasses.Field[Any]", text: str) -> Any:
    """The value that a text gives to a field, of the type of its default."""
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
        wanted = "a whole number from 0 on" if kind is int else f"a number from {low:g} to {high:g}"
        raise BadArgument(f"{where} is {text!r} but must be {wanted}.")
    return value
