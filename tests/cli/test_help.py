"""`--help`: every command teaches by an example, and the examples are command lines that panbench takes."""

import re
import shlex
from typing import Any

import pytest
import typer
from support import commands, panbench, ran

from panbench.base.studies import find_studies, load_from_studies
from panbench.cli.app import app
from panbench.cli.command import STUDIES

PROGRAM: Any = typer.main.get_command(app)


COMMANDS = dict(commands(PROGRAM))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_begins_with_examples_that_the_command_takes(path):
    shown = ran(*path, "--help", columns=80)
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "<bool>" not in shown.stdout
    examples = [line.strip() for line in COMMANDS[path].epilog.strip().splitlines()[1:]]
    assert examples
    for example in examples:
        assert f"   {example}" in shown.stdout.partition("╭")[0], (
            "an example stands on one line of 80 columns, further in than the text"
        )
        words = shlex.split(example)
        assert tuple(words[: len(path) + 1]) == ("panbench", *path)
        COMMANDS[path].make_context(path[-1], words[len(path) + 1 :])


WITHOUT_RESULTS = {
    *("predict", "report", "site", "serve", "show overlay", "show side-by-side", "show diff", "show errors"),
    *("show attention", "show plot", "export", "runs delete", "runs finish"),
}
"""Commands that write files or serve pages: they print paths and counts, no results. Most of `data` do, too."""


def test_every_command_that_prints_results_prints_them_as_json():
    without = {" ".join(path) for path, command in COMMANDS.items() if "--json" not in names_of(command)}
    making_data = {name for name in without if name.startswith("data ")}
    assert without - making_data == WITHOUT_RESULTS
    assert "data check" not in making_data


def test_eval_has_at_most_24_options_besides_those_of_studies():
    own = [one for one in COMMANDS[("eval",)].params if one.rich_help_panel != STUDIES]
    assert len(own) <= 24
    assert (len(COMMANDS[("eval",)].params) > len(own)) == bool(load_from_studies("options", "eval")), (
        "a panel of their own"
    )


def test_the_help_of_eval_fits_90_lines_of_80_columns():
    assert len(ran("eval", "--help", columns=80).stdout.splitlines()) <= 90


def names_of(command: Any) -> set[str]:
    return {name for param in command.params for name in param.opts}


SHIPPED = (
    *("eval", "score", "predict", "bench", "fuse", "ensemble"),
    *("compare", "metrics", "errors", "calibration", "robustness", "relabel", "gate", "reproduce"),
    *("report", "show", "serve", "site"),
    *("data", "runs", "export"),
    *("models", "doctor"),
)
"""The commands of panbench and of the studies that come with it, by panel. Those of other studies come on top."""


def test_the_help_of_the_program_has_five_panels_and_at_most_23_commands_as_shipped():
    assert len(SHIPPED) <= 23
    of_studies = {command.name for study in find_studies() for command in study.commands}
    assert set(PROGRAM.commands) <= {*SHIPPED, *of_studies}
    shown = panbench("--help", columns=80).stdout
    panels = re.findall(r"^╭─ (.+?) ─", shown, re.MULTILINE)
    assert panels == ["Options", "Run", "Ask", "Show", "Keep", "About"]
    inside = [line for line in shown.partition("─ Run")[2].splitlines() if line.startswith("│ ")]
    assert len(inside) == len(PROGRAM.commands), "each command is one line of 80 columns"
    assert inside[0].startswith("│ eval ")


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=" ".join)
def test_help_shows_words_for_values_and_no_program_notation(path):
    shown = panbench(*path, "--help", columns=200).stdout
    assert not re.search(r"\{\w|\[\[|<\w|x>=|<=x|\brange\b|PosixPath", shown.replace("<list>", "")), path
