"""Options of a command that are the fields of a dataclass, and of those that studies add."""

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from panbench.base.studies import Option
from panbench.cli import command as declarations
from panbench.cli.command import DoubledOption, option, options_from


@dataclass(frozen=True)
class Request:
    """What a command is asked for."""

    name: Annotated[str, option("Whom to greet.")]
    times: Annotated[int, option("How often.", metavar="N", min=1)] = 1


@dataclass(frozen=True)
class Politeness:
    """What a study adds."""

    kiss_hands: Annotated[bool, Option("Also kiss hands.")] = False
    title: Annotated[str | None, Option("Of the person.", "TITLE", ("Dr", "Count"))] = None


def command_with(studies, monkeypatch):
    monkeypatch.setattr(
        declarations, "load_from_studies", lambda kind, key: studies if (kind, key) == ("options", "greet") else {}
    )
    heard = []
    app = typer.Typer()

    @app.command()
    @options_from(Request, "greet")
    def greet(ctx, request, of_studies):
        """Greet somebody."""
        heard.append((request, of_studies))

    return app, heard


def test_each_field_is_an_option_and_studies_have_their_own_help_panel(monkeypatch):
    app, heard = command_with({"manners": Politeness}, monkeypatch)
    assert CliRunner().invoke(app, ["--name", "Ada", "--kiss-hands", "--title", "Countess"]).exit_code == 0
    assert CliRunner().invoke(app, ["--name", "Bob"]).exit_code == 0
    assert heard == [(Request("Ada"), (Politeness(True, "Countess"),)), (Request("Bob"), (Politeness(),))]
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    assert "Greet somebody." in shown
    assert "Studies" in shown
    assert "--no-kiss-hands" not in shown
    assert CliRunner().invoke(app, ["--name", "Bob", "--times", "0"]).exit_code == 2
    assert CliRunner().invoke(app, []).exit_code == 2


def test_an_option_that_a_command_already_has_is_refused_with_the_study_named(monkeypatch):
    @dataclass(frozen=True)
    class Louder(Politeness):
        times: Annotated[int, Option("How often.")] = 2

    with pytest.raises(DoubledOption, match="study shouting adds --times to greet, an option of panbench"):
        command_with({"shouting": Louder}, monkeypatch)
    with pytest.raises(DoubledOption, match="study other adds --kiss-hands to greet, an option of manners"):
        command_with({"manners": Politeness, "other": type("Other", (Politeness,), {})}, monkeypatch)
