"""How commands are declared: one way to mount them, options that several of them share, and their completions.

Each file of commands has an `app = family()`, declares commands by `@command(app, "name", "panbench name …")` with at
least one example for `--help`, and cli/app.py mounts the families.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


def _without_bool(params: list[Any]) -> list[Any]:
    """The parameters, flags without a type: `--json`, not `--json <bool>`."""
    for param in params:
        if getattr(param, "is_bool_flag", False) and param.metavar is None:
            param.metavar = ""
    return params


class Command(TyperCommand):
    """A command whose help shows flags as flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_bool(super().get_params(ctx))


class Commands(TyperGroup):
    """A group of commands whose help shows flags as flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_bool(super().get_params(ctx))


def family(name: str | None = None, help: str | None = None) -> typer.Typer:
    """A family of commands: with a name a group (`panbench data …`), without one commands of panbench itself."""
    return typer.Typer(name=name, cls=Commands, help=help, no_args_is_help=True, context_settings=dict(HELP_OPTIONS))


def command(app: typer.Typer, name: str, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declares a command of a family. examples: command lines that `--help` ends with."""
    epilog = "\n".join(["Examples:" if len(examples) > 1 else "Example:", *(f"  {line}" for line in examples)])
    return app.command(name, cls=Command, epilog=epilog, context_settings=dict(HELP_OPTIONS))


def option(help: str, panel: str | None = None, metavar: str | None = None, **settings: Any) -> Any:
    """An option that is named after its parameter."""
    return typer.Option(help=help, rich_help_panel=panel, metavar=metavar, **settings)


_SHORT = {"--version": "-V", "--quiet": "-q", "--verbose": "-v"}


def flag(name: str, help: str, panel: str | None = None, **settings: Any) -> Any:
    """An option without a value."""
    names = (name, _SHORT[name]) if name in _SHORT else (name,)
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar="", **settings)


def model_names(incomplete: str) -> list[str]:
    """Completions of a model's name; after a comma, of the last one."""
    from panbench.catalog import load_catalog

    *before, last = incomplete.split(",")
    prefix = ",".join(before) + "," if before else ""
    names = {name for spec in load_catalog().values() for name in (spec.name, *spec.aliases)}
    return sorted(prefix + name for name in names if name.startswith(last))


Runs = Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or folders of runs.")]
AsJson = Annotated[bool, flag("--json", "Print everything as JSON, fractions 0-1.")]
