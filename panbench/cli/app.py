"""The program `panbench`: mounts the families of commands, and turns errors into one message and an exit code.

Each command parses its arguments, calls one function and prints the result. Results go to stdout, status and progress
to stderr. A command is imported when it is called; the lines of `--help` are declared here, and by studies in
their records. Exit codes: 0 done, 1 a model failed or a fault of ours, 2 bad input (one message explains it), 130
interrupted, 141 the reader of a pipe closed it. Other packages are imported inside the commands, so `--help`,
completion and every command that needs no model start without torch.
"""

import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections import UserDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from panbench import __version__
from panbench.base import program
from panbench.base.addresses import allow_recorded_urls
from panbench.base.errors import PanbenchError
from panbench.base.extras import EXTRA_OF, install_line
from panbench.base.references import load
from panbench.base.studies import SHOW, broken_studies, find_studies
from panbench.cli import console
from panbench.cli.command import HELP_OPTIONS, OPTIONS, Commands, flag
from panbench.cli.pipes import flushing_output, quiet_when_closed
from panbench.cli.signals import interrupted_by_signals
from panbench.cli.words import usage_sentence

INTERRUPTED = 130

# Options allowed anywhere on the command line, and what they set.
_ANYWHERE = {
    **{"--debug": "debug", "--quiet": "quiet", "-q": "quiet", "--verbose": "verbose", "-v": "verbose"},
    "--from-addresses": "addresses",
}

_EPILOG = """Example:
  panbench eval --model mask2former-tiny --limit 20

Environment:
  PANBENCH_CACHE          folder of downloads and generated data
  PANBENCH_CONFIGS        folder of your own model configs
  PANBENCH_DOWNLOAD=1     download what is missing, as --download does
  PANBENCH_MIRROR_COCO    another address or folder for COCO
  PANBENCH_MIRROR_OPENMMLAB  the same for the model zoo's weights
  PANBENCH_NATIVE=0       do not use compiled code
  HTTPS_PROXY, NO_PROXY, NO_COLOR, FORCE_COLOR   as in other programs"""


# The commands of the core in the order of `panbench --help`: panel, name, summary, and the module whose `app` has it.
_PANELS = ("Run", "Ask", "Show", "Keep", "About")
_CORE = (
    ("Run", "eval", "Run models on a dataset, score them and compare them.", "eval"),
    ("Run", "score", "Score predictions of any framework, as panopticapi does.", "score"),
    ("Run", "predict", "Segment your own photographs.", "report"),
    ("Run", "bench", "Measure speed, memory and FLOPs.", "bench"),
    ("Ask", "compare", "Compare runs, and find out which differences are real.", "compare"),
    ("Ask", "metrics", "Print every measure of stored runs.", "compare"),
    ("Ask", "errors", "Print why PQ is lost in stored runs.", "compare"),
    ("Show", "report", "Write one HTML file that shows runs. It needs no network.", "report"),
    ("Show", "show", "Draw pictures and plots of stored runs: PNG, SVG or PDF.", "report"),
    ("Show", "serve", "Show the runs of a folder in the browser.", "serve"),
    ("Show", "site", "Write a static site of many runs, for GitHub Pages.", "report"),
    ("Keep", "data", "Fetch, check and convert datasets.", "data"),
    ("Keep", "runs", "List stored runs, verify, delete or merge them.", "runs"),
    ("Keep", "export", "Write a run for other programs and servers.", "export"),
    ("About", "models", "List the models and published results.", "about"),
    ("About", "doctor", "Check this machine: versions, devices, problems.", "about"),
)


@dataclass(frozen=True)
class _DeclaredCommand:
    """A command whose module is not imported yet.

    reference: "package.module:app", the `typer.Typer` with it
    """

    panel: str
    name: str
    summary: str
    reference: str

    def import_command(self) -> Any:
        """Imports the module and returns the command."""
        found = typer.main.get_command(load(self.reference))
        inner = getattr(found, "commands", None)
        return inner[self.name] if inner is not None and found.name != self.name else found


def _declared_commands() -> dict[str, _DeclaredCommand]:
    """Returns all commands by name, grouped as in `panbench --help`."""
    core = [_DeclaredCommand(panel, name, text, f"panbench.cli.{module}:app") for panel, name, text, module in _CORE]
    ours = {one.name for one in core}
    added = [
        _DeclaredCommand(command.panel, command.name, command.summary, command.reference)
        for study in find_studies()
        for command in study.commands
        if command.name not in ours and command.panel != SHOW
    ]
    found = [*core, *added]
    panels = [*_PANELS, *(one.panel for one in found if one.panel not in _PANELS)]
    return {one.name: one for one in sorted(found, key=lambda one: panels.index(one.panel))}


class _LazyCommands(UserDict[str, Any]):
    """Maps names to commands; a command's module is imported when the command is looked up."""

    def __getitem__(self, name: str) -> Any:
        """Imports and returns the command with this name."""
        return self.data[name].import_command()


class _ProgramCommands(Commands):
    """Turns exceptions of commands into one line on stderr and an exit code; takes `--debug`, -q and -v anywhere."""

    def __init__(self, **settings: Any) -> None:
        """Takes the settings of a Typer group, and collects the commands without importing them."""
        super().__init__(**settings)
        self.declared = _declared_commands()
        self.commands = _LazyCommands(self.declared)

    def list_commands(self, ctx: Any) -> list[str]:
        """Returns the commands' names in the order of the help; imports none of them, which Typer would do."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns a placeholder with name and help line, without an import; `resolve_command` loads the command."""
        declared = self.declared.get(cmd_name)
        if declared is None:
            return None
        return TyperCommand(declared.name, help=declared.summary, rich_help_panel=declared.panel)

    def make_context(self, info_name: Any, args: list[str], *more: Any, **extra: Any) -> Any:
        """Called by Click to parse the line: errors in options become one message."""
        with quiet_when_closed(), _usage_explained():
            return super().make_context(info_name, args, *more, **extra)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Imports and returns the command that the line names; `help COMMAND` becomes `COMMAND --help`."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        if args == ["--help"]:
            console.write(self.get_help(ctx))
            raise typer.Exit
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and self.commands[command.name or ""], rest

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Called by Click: takes options that may stand anywhere, such as --debug, out of the line."""
        ctx.meta.update({_ANYWHERE[word]: True for word in args if word in _ANYWHERE})
        console.set_quiet(bool(ctx.meta.get("quiet")))
        allow_recorded_urls(bool(ctx.meta.get("addresses")))
        return super().parse_args(ctx, [word for word in args if word not in _ANYWHERE])  # type: ignore[arg-type]

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Called by Click to run the command: ends quietly if the reader of a pipe has gone."""
        with quiet_when_closed():
            return self._invoke_command(ctx)

    def _invoke_command(self, ctx: typer.Context) -> Any:
        """Runs the command, and turns its exceptions into one message and an exit code."""
        if not (ctx.meta.get("debug") or ctx.meta.get("verbose")):
            # Warnings of these libraries are for developers, not for users of panbench.
            warnings.filterwarnings("ignore", module=r"(torch|mmdet|mmengine|mmcv)\b")
            warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        for text in broken_studies():
            console.note(text)
        try:
            with interrupted_by_signals(), _usage_explained():
                return super().invoke(ctx)  # type: ignore[arg-type]
        except KeyboardInterrupt as interruption:
            console.print_error(str(interruption) or "Interrupted.", label="")
            raise typer.Exit(getattr(interruption, "exit_code", INTERRUPTED)) from None
        except Exception as error:
            # Typer handles its usage errors, Exit and Abort; a closed pipe (`| head`) is not an error.
            if hasattr(error, "format_message") or isinstance(error, (typer.Exit, typer.Abort, BrokenPipeError)):
                raise
            text, code = _error_message(error, ctx.meta.get(OPTIONS))
            console.print_error(text, error if ctx.meta.get("debug") else None)
            raise typer.Exit(code) from None


@contextlib.contextmanager
def _usage_explained() -> Iterator[None]:
    """Turns Click's usage errors into one message and exit code 2."""
    try:
        yield
    except Exception as error:
        # A group without a command (`panbench data`) shows its help.
        if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
            raise
        console.print_error(usage_sentence(error))
        raise typer.Exit(2) from None


app = typer.Typer(
    name="panbench",
    cls=_ProgramCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=dict(HELP_OPTIONS),
    help="Run panoptic segmentation models, score them as panopticapi does, and compare them.",
)


def _print_version(requested: bool) -> None:
    if requested:
        console.write(f"panbench {__version__}\n")
        raise typer.Exit


@app.callback(epilog=_EPILOG)
def _global_options(
    version: Annotated[bool, flag("--version", "Print the version.", callback=_print_version, is_eager=True)] = False,
    quiet: Annotated[bool, flag("--quiet", "No progress bars or hints. May stand anywhere on the line.")] = False,
    verbose: Annotated[bool, flag("--verbose", "Also show warnings of libraries. May stand anywhere.")] = False,
    from_addresses: Annotated[
        bool,
        flag("--from-addresses", "Open addresses that a run names (s3://, https://). May stand anywhere."),
    ] = False,
    debug: Annotated[bool, flag("--debug", "Show the traceback of an error. May stand anywhere.")] = False,
) -> None:
    pass


def main() -> None:
    """Runs the program `panbench`."""
    program.mark_as_program()
    # Python sets a stream that the caller closed (`>&-`) to None.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # Pipes get UTF-8 whatever the locale, terminals what they can display; no character may end the program.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")  # type: ignore[union-attr]
    with flushing_output():
        app()


# Errors of writing to standard output have no file name.
_DISK_FULL_ERRORS = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))


def _error_message(error: Exception, options: Collection[str] | None) -> tuple[str, int]:
    """Returns a message for an error, and the exit code: 2 if the user can fix it, 1 if it is our fault.

    options: of the failed command, None if unknown; hints that need other options are left out
    """
    if isinstance(error, PanbenchError):
        return error.message(options), error.exit_code
    if isinstance(error, ImportError):
        return _import_error_message(error), 2
    # Errors of files and disks, wherever they occur: the message names the path, and the user can fix it.
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}.", 2
    if isinstance(error, OSError) and error.errno in _DISK_FULL_ERRORS:
        return f"The output cannot be written: {error.strerror}. Free some space, or write elsewhere.", 2
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return "A file that panbench had open was closed by other code in its process, such as the model's.", 1
    return f"{_error_text(error)}. This is a fault of panbench, not of your input; --debug shows the traceback.", 1


def _error_text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _import_error_message(error: ImportError) -> str:
    """Explains how to fix a failed import: a missing package, or a system library that OpenCV needs."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("panbench"):
        package = error.name.split(".")[0]
        if package in EXTRA_OF:
            extra = EXTRA_OF[package]
            what = "the packages that run models" if extra == "models" else f"the extra {extra}"
            return f"This needs {what} ({package} is not installed). Install with: {install_line(extra)}"
        return f"This needs the Python package {package}, which is not installed. Install panbench with pip again."
    if ".so" in str(error) and "cv2" in "".join(traceback.format_tb(error.__traceback__)):
        return (
            f"OpenCV cannot load a library of the system ({error}). On Debian and Ubuntu: apt-get install libgl1 "
            "libglib2.0-0; or, without it: pip install --force-reinstall --no-deps opencv-python-headless."
        )
    return f"{_error_text(error)}. A package is damaged or does not fit the others: install panbench with pip again."
