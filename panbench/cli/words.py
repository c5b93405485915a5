"""Answers unknown words and options: with a guess, or where to look."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["is_meant", "unknown_word", "usage_sentence"]

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
"""Words that people type for a command, by the group that they type them behind."""


def is_meant(group: str, word: str, names: Iterable[str]) -> bool:
    """Whether a word after a group of commands is meant as one of them, and is not a folder."""
    known = word in _MEANT.get(group, {}) or bool(difflib.get_close_matches(word, list(names), n=1, cutoff=0.7))
    return known and not Path(word).exists()


def unknown_word(word: str, path: str, commands: Mapping[str, Sequence[str]]) -> str:
    """The answer to a word that is not a command.

    path: the group that it stands behind, as `panbench data`; commands: those of the group, each with the commands in
        it where it is a group itself
    """
    group = path.partition(" ")[2]
    return f"There is no command `{path} {word}`. {_hint(word, path, group, commands)}"


def _hint(word: str, path: str, group: str, commands: Mapping[str, Sequence[str]]) -> str:
    if word in _MEANT.get(group, {}):
        return _MEANT[group][word]
    inside = {name: f"{path} {first} {name}" for first, names in commands.items() for name in names}
    full = {**inside, **{name: f"{path} {name}" for name in commands}}
    near = difflib.get_close_matches(word, list(full), n=1, cutoff=0.6)
    if near:
        return f"Did you mean `{full[near[0]]}`?"
    if not group and (model := _model(word)):
        return f"Did you mean `panbench eval --model {model}`?"
    if not group and (Path(word) / "run.json").is_file():
        return f"`panbench metrics {word}` and `panbench report {word}` take a run."
    return f"`{path} --help` lists the commands."


def usage_sentence(error: Any) -> str:
    """What is wrong with a command line, and what to write instead. error: Click's, a UsageError."""
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    path = context.command_path
    options = {each for param in context.command.get_params(context) for each in param.opts}
    if extra := re.match(r"Got unexpected extra argument\S* \((.*)\)", message):
        word = extra[1].split(" ")[0]
        return f"`{path}` takes no {word!r} here. {_meant_by(word, options) or _look(path)}"
    if possible := re.match(r"(No such option: \S+?)\.? \(Possible options: (.*)\)", message):
        return f"{possible[1]}. Did you mean {' or '.join(possible[2].split(', '))}?"
    if message[-1:] not in ".?":
        message += "."
    if getattr(error, "param", None) is not None and message.startswith("Missing "):
        return f"{message} The shortest form is `{_shortest(context)}`."
    return message if "Did you mean" in message else f"{message} {_look(path)}"


def _shortest(context: Any) -> str:
    """A command line with what the command cannot do without."""
    words = [context.command_path]
    for param in context.command.get_params(context):
        if param.required:
            value = param.metavar or param.name.upper()
            words.append(f"{param.opts[0]} {value}" if param.param_type_name == "option" else value)
    if words[1:] == ["--gt FILE"]:
        words.append("--pred FILE")  # or --semantic; without either there is nothing to score
    return " ".join(words)


def _meant_by(word: str, options: set[str]) -> str:
    """The option that an argument without one is likely the value of; nothing where none is."""
    place = Path(word)
    if "--config" in options and word.endswith(".py"):
        return f"Did you mean --config {word}?"
    if "--model" in options and (model := _model(word)):
        return f"Did you mean --model {model}?"
    if "--data" in options and (word in ("coco", "shapes") or place.is_dir()):
        return f"Did you mean --data {word}?"
    if {"--gt", "--pred"} <= options:
        return "Write --gt FILE.json --pred FILE.json."
    return ""


def _model(word: str) -> str | None:
    """The model that a word names, or nearly names."""
    from panbench.catalog import load_catalog

    if word.startswith("hf:"):
        return word
    names = [name for spec in load_catalog().values() for name in (spec.name, *spec.aliases)]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.75)
    return near[0] if near else None


def _look(path: str) -> str:
    return f"`{path} --help` shows what it takes."
