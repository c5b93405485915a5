"""`--help`: every command teaches by an example, and the examples are command lines that panbench takes."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from support import panbench

from panbench.cli.app import app

PROGRAM: Any = typer.main.get_command(app)


def commands(group: Any = PROGRAM, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that lead to it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_ends_with_examples_that_the_command_takes(path):
    shown = panbench(*path, "--help", columns=80)
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "<bool>" not in shown.stdout
    examples = [line.strip() for line in COMMANDS[path].epilog.strip().splitlines()[1:]]
    assert examples
    for example in examples:
        assert f"   {example}" in shown.stdout, "an example stands on one line of 80 columns, further in than the text"
        words = shlex.split(example)
        assert tuple(words[: len(path) + 1]) == ("panbench", *path)
        COMMANDS[path].make_context(path[-1], words[len(path) + 1 :])
