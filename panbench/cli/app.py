"""The program `panbench`: mounts the families of commands, and turns errors into one sentence and an exit code.

Each command parses its arguments, calls one function and prints what it returns. Results go to stdout, status and
progress to stderr. A command is imported when it is called; the lines of `--help` are declared here, and by studies in
their records. Exit codes: 0 done, 1 a model failed or a fault of ours, 2 bad input (one sentence says what), 130
interrupted, 141 the reader of a pipe has gone. Imports of other rooms are made inside the commands: `--help`,
completion and every command that needs no model start without torch.
"""

import contextlib
import errno
import os
import sys
import traceback
import warnings
from collections.abc import Collection, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from panbench import __version__
from panbench.base import program
from panbench.base.addresses import open_recorded
from panbench.base.errors import PanbenchError
from panbench.base.extras import EXTRA_OF, install_line
from panbench.base.places import load
from panbench.base.studies import SHOW, broken_studies, find_studies
from panbench.cli import console
from panbench.cli.command import HELP_OPTIONS, OPTIONS, Commands, flag
from panbench.cli.pipes import flushed, quiet_when_closed
from panbench.cli.signals import interrupted_by_signals
from panbench.cli.words import usage_sentence

INTERRUPTED = 130

# Options that are taken anywhere on the line, and what they set.
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
    ("About", "models", "List the models and published results.", "models"),
    ("About", "doctor", "Check this machine: versions, devices, problems.", "doctor"),
)


@dataclass(frozen=True)
class _Declared:
    """A command before its module is imported. place: "package.module:app", a `typer.Typer` that has it."""

    panel: str
    name: str
    summary: str
    place: str

    def load(self) -> Any:
        """The command itself."""
        found = typer.main.get_command(load(self.place))
        inner = getattr(found, "commands", None)
        return inner[self.name] if inner is not None and found.name != self.name else found


def _declared() -> dict[str, _Declared]:
    """The commands of the core and of the studies, panel by panel."""
    core = [_Declared(panel, name, text, f"panbench.cli.{module}:app") for panel, name, text, module in _CORE]
    ours = {one.name for one in core}
    added = [
        _Declared(command.panel, command.name, command.summary, command.place)
        for study in find_studies()
        for command in study.commands
        if command.name not in ours and command.panel != SHOW
    ]
    found = [*core, *added]
    panels = [*_PANELS, *(one.panel for one in found if one.panel not in _PANELS)]
    return {one.name: one for one in sorted(found, key=lambda one: panels.index(one.panel))}


class _Lazy(MutableMapping[str, Any]):
    """Commands by name; the module of one is imported when it is taken out."""

    def __init__(self) -> None:
        self.declared = _declared()
        self.loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self.loaded:
            self.loaded[name] = self.declared[name].load()
        return self.loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self.loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self.declared[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.declared)

    def __len__(self) -> int:
        return len(self.declared)


class _Program(Commands):
    """Turns what a command raises into one line on stderr and an exit code; takes `--debug`, -q and -v anywhere."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Lazy()

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of the help. Typer's own takes each command out, which would import it."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What help and completion need of a command: its name, line and panel. `resolve_command` has the command."""
        declared = self.commands.declared.get(cmd_name)  # type: ignore[attr-defined]
        if declared is None:
            return None
        return TyperCommand(declared.name, help=declared.summary, rich_help_panel=declared.panel)

    def make_context(self, info_name: Any, args: list[str], *more: Any, **extra: Any) -> Any:
        """The context of the whole line; what its options get wrong is a sentence."""
        with quiet_when_closed(), _usage_explained():
            return super().make_context(info_name, args, *more, **extra)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the line names, loaded; of `help COMMAND` the command with --help."""
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        if args == ["--help"]:
            console.write(self.get_help(ctx))
            raise typer.Exit
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and self.commands[command.name or ""], rest

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        ctx.meta.update({_ANYWHERE[word]: True for word in args if word in _ANYWHERE})
        console.set_quiet(bool(ctx.meta.get("quiet")))
        open_recorded(bool(ctx.meta.get("addresses")))
        return super().parse_args(ctx, [word for word in args if word not in _ANYWHERE])  # type: ignore[arg-type]

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        with quiet_when_closed():
            return self._invoked(ctx)

    def _invoked(self, ctx: typer.Context) -> Any:
        if not (ctx.meta.get("debug") or ctx.meta.get("verbose")):
            # What our libraries warn their own developers of says nothing to who runs panbench.
            warnings.filterwarnings("ignore", module=r"(torch|mmdet|mmengine|mmcv)\b")
            warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        for sentence in broken_studies():
            console.note(sentence)
        try:
            with interrupted_by_signals(), _usage_explained():
                return super().invoke(ctx)  # type: ignore[arg-type]
        except KeyboardInterrupt as interruption:
            console.complain(str(interruption) or "Interrupted.", label="")
            raise typer.Exit(getattr(interruption, "exit_code", INTERRUPTED)) from None
        except Exception as error:
            # Usage errors, Exit and Abort are Typer's own; a closed pipe (`| head`) is nobody's fault.
            if hasattr(error, "format_message") or isinstance(error, (typer.Exit, typer.Abort, BrokenPipeError)):
                raise
            sentence, code = _explained(error, ctx.meta.get(OPTIONS))
            console.complain(sentence, error if ctx.meta.get("debug") else None)
            raise typer.Exit(code) from None


@contextlib.contextmanager
def _usage_explained() -> Iterator[None]:
    """Turns Click's usage errors into one sentence and exit code 2."""
    try:
        yield
    except Exception as error:
        # A group without a command (`panbench data`) shows its help.
        if not hasattr(error, "format_message") or type(error).__name__ == "NoArgsIsHelpError":
            raise
        console.complain(usage_sentence(error))
        raise typer.Exit(2) from None


app = typer.Typer(
    name="panbench",
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=dict(HELP_OPTIONS),
    help="Run panoptic segmentation models, score them as panopticapi does, and compare them.",
)


def _version(asked: bool) -> None:
    if asked:
        console.write(f"panbench {__version__}\n")
        raise typer.Exit


@app.callback(epilog=_EPILOG)
def _options(
    version: Annotated[bool, flag("--version", "Print the version.", callback=_version, is_eager=True)] = False,
    quiet: Annotated[bool, flag("--quiet", "No progress bars and no hints; anywhere on the line.")] = False,
    verbose: Annotated[bool, flag("--verbose", "Also show warnings of libraries; anywhere on the line.")] = False,
    from_addresses: Annotated[
        bool, flag("--from-addresses", "Open addresses that a run names (s3://, https://); anywhere on the line.")
    ] = False,
    debug: Annotated[bool, flag("--debug", "Show the traceback of an error; anywhere on the line.")] = False,
) -> None:
    pass


def main() -> None:
    """The program `panbench`."""
    program.begin()
    # Python has None for a stream that the caller closed (`>&-`).
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A pipe gets UTF-8 whatever the locale, a terminal what it can show; neither ends a program over a dash.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")  # type: ignore[union-attr]
    with flushed():
        app()


# What a folder or a disk refuses, wherever it is met: the path says where, and the user can mend it.
_OF_THE_SYSTEM = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS", "ENOENT", "ENOTDIR", "EISDIR", "ENAMETOOLONG", "ELOOP", "EEXIST", "ENOTEMPTY"),
        *("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EMFILE", "ENFILE", "ENODEV", "ENXIO", "ETXTBSY"),
    )
    if hasattr(errno, name)
)


# What writing to standard output meets, which has no file name.
_FULL = frozenset(getattr(errno, name) for name in ("ENOSPC", "EDQUOT") if hasattr(errno, name))


def _explained(error: Exception, options: Collection[str] | None) -> tuple[str, int]:
    """One sentence for an error, and the exit code: 2 where the user can mend it, 1 where it is our fault.

    options: of the command that failed: ways out that need another one are left out. None: it is not known
    """
    if isinstance(error, PanbenchError):
        return error.sentence(options), error.exit_code
    if isinstance(error, ImportError):
        return _missing(error), 2
    if isinstance(error, OSError) and error.filename is not None and error.errno in _OF_THE_SYSTEM:
        return f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}.", 2
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"The output cannot be written: {error.strerror}. Free some space, or write elsewhere.", 2
    if isinstance(error, OSError) and error.errno == errno.EBADF:
        return "A file that panbench had open was closed by other code in its process, such as the model's.", 1
    return f"{_in_short(error)}. This is a fault of panbench, not of your input; --debug shows the traceback.", 1


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _missing(error: ImportError) -> str:
    """What to do about an import that fails: a package that is absent, or a system library that OpenCV wants."""
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
    return f"{_in_short(error)}. A package is damaged or does not fit the others: install panbench with pip again."
