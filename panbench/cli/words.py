"""Suggests corrections for unknown commands and options."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_MEANT: Mapping[str, Mapping[str, str]] = {
    "": {
        "list": "`panbench runs` lists stored runs, `panbench models` the models.",
        "ls": "`panbench runs` lists stored runs, `panbench models` the models.",
        "download": "`panbench models --download NAME` fetches weights, `panbench data coco` the data.",
        "fetch": "`panbench models --download NAME` fetches weights, `panbench data coco` the data.",
        "plot": "Did you mean `panbench show plot`?",
        "run": "Did you mean `panbench eval`?",
        "test": "Did you mean `panbench eval`?",
        "infer": "Did you mean `panbench predict`?",
        "benchmark": "Did you mean `panbench bench`?",
        "view": "`panbench report` writes a page, `panbench show` pictures; `panbench serve` opens the browser.",
        "visualize": "`panbench report` writes a page, `panbench show` pictures; `panbench serve` opens the browser.",
        "rm": "Did you mean `panbench runs delete`?",
        "train": "panbench trains nothing. `panbench eval` runs and scores trained models.",
        "validate": "Did you mean `panbench data check` for a dataset, or `panbench runs verify` for a run?",
        "version": "Did you mean `panbench --version`?",
    },
    "runs": {"rm": "Did you mean `panbench runs delete`?", "ls": "Did you mean `panbench runs list`?"},
    "data": {"download": "Did you mean `panbench data coco`?", "fetch": "Did you mean `panbench data coco`?"},
}
"""Hints for words that people type instead of a command, by the group before them."""


def resembles_command(group: str, word: str, names: Iterable[str]) -> bool:
    """True if a word after a group's name resembles one of its commands and is not a path."""
    known = word in _MEANT.get(group, {}) or bool(difflib.get_close_matches(word, list(names), n=1, cutoff=0.7))
    return known and not Path(word).exists()


def unknown_command_message(word: str, path: str, commands: Mapping[str, Sequence[str]]) -> str:
    """Explains that a word is not a command, and suggests one.

    path: the group before the word, such as `panbench data`
    commands: the group's commands; a nested group maps to its own commands
    """
    group = path.partition(" ")[2]
    return f"There is no command `{path} {word}`. {_suggest_command(word, path, group, commands)}"


def _suggest_command(word: str, path: str, group: str, commands: Mapping[str, Sequence[str]]) -> str:
    """Suggests a command, a model or a run that an unknown word may mean; else the group's help."""
    if word in _MEANT.get(group, {}):
        return _MEANT[group][word]
    inside = {name: f"{path} {first} {name}" for first, names in commands.items() for name in names}
    full = {**inside, **{name: f"{path} {name}" for name in commands}}
    near = difflib.get_close_matches(word, list(full), n=1, cutoff=0.6)
    if near:
        return f"Did you mean `{full[near[0]]}`?"
    if not group and (model := _nearest_model(word)):
        return f"Did you mean `panbench eval --model {model}`?"
    if not group and (Path(word) / "run.json").is_file():
        return f"`panbench metrics {word}` and `panbench report {word}` take a run."
    return f"`{path} --help` lists the commands."


def usage_sentence(error: Any) -> str:
    """Explains an error in a command line, and what to write instead.

    error: Click's UsageError
    """
    message = " ".join(error.format_message().split()).replace(": Value error, ", ": ")
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    path = context.command_path
    options = {each for param in context.command.get_params(context) for each in param.opts}
    if extra := re.match(r"Got unexpected extra argument\S* \((.*)\)", message):
        word = extra[1].split(" ")[0]
        return f"`{path}` takes no {word!r} here. {_suggest_option(word, options) or _help_hint(path)}"
    if possible := re.match(r"(No such option: \S+?)\.? \(Possible options: (.*)\)", message):
        return f"{possible[1]}. Did you mean {' or '.join(possible[2].split(', '))}?"
    if message[-1:] not in ".?":
        message += "."
    if getattr(error, "param", None) is not None and message.startswith("Missing "):
        return f"{message} The shortest form is `{shortest_usage(context)}`."
    return message if "Did you mean" in message else f"{message} {_help_hint(path)}"


def shortest_usage(context: Any) -> str:
    """Returns the shortest valid form of a command line: the command with its required parameters."""
    params, words = context.command.get_params(context), [context.command_path]
    needed = [names[0] for name, names in context.command.needs.items() if _is_required(params, name)]
    for param in params:
        if param.required or param.opts[0] in needed:
            value = f"{param.metavar or param.name.upper()}{'' if param.nargs == 1 else '...'}"
            words.append(f"{param.opts[0]} {value}" if param.param_type_name == "option" else value)
    return " ".join(words)


def _is_required(params: Iterable[Any], name: str) -> bool:
    """True if a parameter of this name is required."""
    return any(param.required and name in param.opts for param in params)


def _suggest_option(word: str, options: set[str]) -> str:
    """Suggests the option that a stray argument may belong to; empty if none fits."""
    path = Path(word)
    if "--config" in options and word.endswith(".py"):
        return f"Did you mean --config {word}?"
    if "--model" in options and (model := _nearest_model(word)):
        return f"Did you mean --model {model}?"
    if "--data" in options and (word in ("coco", "shapes") or path.is_dir()):
        return f"Did you mean --data {word}?"
    if {"--gt", "--pred"} <= options:
        return "Write --gt FILE.json --pred FILE.json."
    return ""


def _nearest_model(word: str) -> str | None:
    """Returns the name of the model that a misspelt word probably means; None if none is near."""
    from panbench.catalog import load_catalog

    if word.startswith("hf:"):
        return word
    names = [name for spec in load_catalog().values() for name in (spec.name, *spec.aliases)]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    return near[0] if near else None


def _help_hint(path: str) -> str:
    return f"`{path} --help` shows what it takes."
