"""How commands are declared: one way to mount them, options that several of them share, and their completions.

Each file of commands has an `app = family()`, declares commands by `@command(app, "name", "panbench name …")` with at
least one example for `--help`, and cli/app.py mounts the families.
"""

import copy
import os
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from panbench.base.addresses import refuse_address
from panbench.base.computing import DEVICES, check_device_name
from panbench.base.errors import PanbenchError
from panbench.cli import console
from panbench.cli.words import unknown_word

if TYPE_CHECKING:
    from panbench.catalog import ModelSpec
    from panbench.cli.request import Missing
    from panbench.runs import Run as StoredRun


class UnknownCommand(PanbenchError):
    """The command line names an unknown command."""


# The key under which the context has the options of the command that runs.
OPTIONS = "options"
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


def _as_everywhere(work: Callable[..., None]) -> None:
    """Gives the options and arguments of a command what all commands have.

    -o for --out; a word for a value (RUN, PATH, N), not its type; bounds that help does not print as `x>=1`.
    """
    for name, hint in get_type_hints(work, include_extras=True).items():
        kind, *infos = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        for info in infos:
            if isinstance(info, OptionInfo):
                if info.metavar is None:
                    info.metavar = _word_for(kind)
                # Typer keeps the first name that was given, if one was, as `default`.
                if kind is not bool and not isinstance(info.default, str):
                    # Typer takes a metavar that spells the name, as WAY, for the name of the option.
                    info.param_decls = info.param_decls or (f"--{name.replace('_', '-')}",)
                if name == "out" and "-o" not in (info.param_decls or ()):
                    info.param_decls = (*(info.param_decls or ()), "-o")
                if info.min is not None or info.max is not None:
                    info.callback = _between(info.min, info.max)
                    info.min = info.max = None


def _in_words(params: list[Any]) -> list[Any]:
    """The parameters as help shows them: flags without a type, an argument as RUN, [RUN], RUN... or [RUN]..."""
    for param in params:
        if param.param_type_name != "argument":
            param.metavar = param.metavar or ""
            continue
        name = (param.metavar or param.name.upper()).strip("[]")
        word = name if param.required else f"[{name}]"
        usage = word if param.nargs == 1 else f"{word}..."
        param.metavar = name
        param.get_usage_pieces = lambda ctx, usage=usage: [usage]
        param.display_type_rich = lambda ctx: ""
        if hasattr(param, "type"):
            # Typer before 0.29 asks the type, which other parameters may share.
            param.type = copy.copy(param.type)
            param.type.get_metavar = lambda **_: " "
    return params


def _between(lowest: float | None, highest: float | None) -> Callable[[float | None], float | None]:
    """A callback that refuses numbers outside of a range."""

    def check(value: float | None) -> float | None:
        if value is not None and lowest is not None and value < lowest:
            raise typer.BadParameter(f"{value} must be greater than or equal to {lowest}.")
        if value is not None and highest is not None and value > highest:
            raise typer.BadParameter(f"{value} must be less than or equal to {highest}.")
        return value

    return check


def _word_for(kind: Any) -> str:
    """The metavar of an option that has none of its own, from its type."""
    kinds = [each for each in get_args(kind) or (kind,) if each is not type(None)]
    first = kinds[0]
    if isinstance(first, type) and issubclass(first, Enum):
        return "|".join(str(each.value) for each in first)
    if first is bool:
        return ""
    return {int: "N", float: "N", Path: "PATH"}.get(first, "TEXT")


class Command(TyperCommand):
    """A command whose help shows words for values; its errors suggest only options that it has."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _in_words(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        ctx.meta[OPTIONS] = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        if isinstance(out := ctx.params.get("out"), str | Path):
            refuse_address(out, "--out")
        return super().invoke(ctx)


class Commands(TyperGroup):
    """A group of commands whose help shows words for values; it answers unknown words with a suggestion."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _in_words(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands and not ctx.resilient_parsing:
            inside = {name: tuple(getattr(each, "commands", ())) for name, each in self.commands.items()}
            raise UnknownCommand(unknown_word(args[0], ctx.command_path, inside))
        return super().resolve_command(ctx, args)


def family(name: str | None = None, help: str | None = None) -> typer.Typer:
    """A family of commands: with a name a group (`panbench data …`), without one commands of panbench itself."""
    return typer.Typer(
        name=name,
        cls=Commands,
        help=help,
        no_args_is_help=True,
        # The options that install completion are panbench's own, not each command's.
        add_completion=False,
        context_settings=dict(HELP_OPTIONS),
    )


def command(app: typer.Typer, name: str, *examples: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declares a command of a family. examples: command lines that `--help` ends with."""
    # Begins with a line end: without it the indentation of all other lines would be taken away.
    epilog = "\n".join(["", "Examples:" if len(examples) > 1 else "Example:", *(f"  {line}" for line in examples)])
    declare = app.command(name, cls=Command, epilog=epilog, context_settings=dict(HELP_OPTIONS))

    def declared(work: Callable[..., None]) -> Callable[..., None]:
        _as_everywhere(work)
        return declare(work)

    return declared


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


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Completions of an option with few values; after a comma, of the last one."""

    def complete(incomplete: str) -> list[str]:
        *before, last = incomplete.split(",")
        prefix = ",".join(before) + "," if before else ""
        return [prefix + value for value in values if value.startswith(last)]

    return complete


def data_names(incomplete: str) -> list[str]:
    """Completions of --data: names, and folders that hold annotations."""
    here = sorted(str(path.parent) for path in Path().glob("data/*/annotations"))
    return [name for name in ("coco", "shapes", *here) if name.startswith(incomplete)]


def run_folders(incomplete: str) -> list[str]:
    """Completions of a run: the run folders beside or below what is typed."""
    parent = Path(incomplete) if incomplete.endswith(("/", os.sep)) else Path(incomplete or ".").parent
    beside = [path.parent for pattern in ("*/run.json", "*/*/run.json") for path in parent.glob(pattern)]
    if not incomplete:
        beside += [path.parent for path in Path("results").glob("*/run.json")]
    return sorted({str(path) for path in beside if str(path).startswith(incomplete)})


def may_download(missing: "Missing", download: bool) -> bool:
    """Whether to download what is missing: asked once on a terminal, refused in one sentence elsewhere."""
    from panbench.cli.request import ask_once

    return ask_once(missing, download, console.question())


def find_runs(paths: Sequence[Path]) -> "list[StoredRun]":
    """The runs of an argument `Runs`; a run in a folder that cannot be read is named on stderr and left out."""
    from panbench.report.answers import tables

    return tables.find_runs(paths, console.NOTES)


def note_damage(runs: "Sequence[StoredRun]") -> None:
    """Reports on stderr which parts of runs are missing or changed: results of such runs lack their images."""
    for run in runs:
        if run.faults:
            console.note(f"{run.name} is damaged: {' '.join(run.faults)}")


def may_download_weights(specs: Sequence["ModelSpec"], checkpoint: Path | None, download: bool) -> bool:
    """Like `may_download`, for the weights of some models."""
    # Imported here: it brings NumPy and OpenCV, and `--help` comes without them.
    from panbench.catalog import check_checkpoint, weights_named
    from panbench.cli.request import missing_for

    check_checkpoint(checkpoint)
    return may_download(missing_for(specs, weights=weights_named(checkpoint)), download)


_MODELS_PANEL = "Models"


def _model_option(help: str) -> Any:
    return typer.Option(
        "--model", "-m", metavar="NAME", autocompletion=model_names, rich_help_panel=_MODELS_PANEL, help=help
    )


Models = Annotated[
    list[str] | None,
    _model_option("A model; repeat the option or separate names by commas; all, or a pattern such as 'mask2former*'."),
]
Model = Annotated[str | None, _model_option("A model; `panbench models` lists them.")]
Config = Annotated[Path | None, option("Your own config, instead of a model.", _MODELS_PANEL, "FILE.py")]
Checkpoint = Annotated[
    Path | None,
    option(
        "The weights of --config or of one --model; random[:SEED] for untrained weights, for smoke tests and timing.",
        _MODELS_PANEL,
        "FILE|random",
    ),
]
OFFSET = "What a pixel of --semantic means: N to add for a category id, `order`, or a JSON of ids by value."
SHARD = "Only this share of the images, as 3/8; `panbench runs merge` joins the runs."
Things = Annotated[
    Path | None,
    option(
        "For hub models of unknown categories: a file with the names of the things, one per line.",
        _MODELS_PANEL,
        "FILE",
    ),
]
Download = Annotated[
    bool, flag("--download", "Download missing weights and files of COCO.", envvar="PANBENCH_DOWNLOAD")
]
Device = Annotated[
    str,
    option(
        "auto, cpu, cuda, cuda:N or mps.",
        "Computing",
        "DEVICE",
        autocompletion=one_of(*DEVICES),
        callback=check_device_name,
    ),
]


class Orientation(str, Enum):
    """What is done about EXIF orientations, for --exif."""

    apply = "apply"
    ignore = "ignore"

    @property
    def choice(self) -> Literal["apply", "ignore"]:
        """The value in the form that the library takes."""
        return "apply" if self is Orientation.apply else "ignore"


def exif_option(panel: str | None = None) -> Any:
    """`--exif apply|ignore`."""
    return typer.Option(
        "--exif",
        help="Rotate photographs by their EXIF orientation, as mmdet does, or read them as stored.",
        rich_help_panel=panel,
    )


def slicings(incomplete: str) -> list[str]:
    """Completions of --by."""
    from panbench.metrics.slices import SLICINGS

    return one_of(*SLICINGS)(incomplete)


def rule_names(incomplete: str) -> list[str]:
    """Completions of --rule."""
    from panbench.catalog import RULES

    return one_of("paper", *(name for name in RULES if name != "given"))(incomplete)


def check_rules(text: str | None) -> str | None:
    """The value of --rule. Raises BadArgument for an unknown rule."""
    from panbench.catalog import split_rules

    if text is not None:
        split_rules(text)
    return text


Rules = Annotated[
    str | None,
    option(
        "The fusion rule: paper (the model's own; the default), or others, comma-separated, with thresholds "
        "as mask2former:score=0.7.",
        "Computing",
        "RULES",
        autocompletion=rule_names,
        callback=check_rules,
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", autocompletion=run_folders)]
Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN", help="Run folders, or folders of runs.", autocompletion=run_folders),
]


AsJson = Annotated[bool, flag("--json", "Print everything as JSON, fractions 0-1.")]
Raw = Annotated[
    bool, flag("--raw", "CSV: do not put a ' before names that begin with =, +, - or @ (it keeps them text).")
]
OwnSlices = Annotated[
    Path | None, option("Also by your own slices: images by camera, night … (JSON, CSV).", None, "FILE")
]
Claims = Annotated[
    list[str] | None, option("Also published results of a model or backbone, or all; repeatable.", None, "NAME")
]
