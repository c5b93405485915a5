"""Declares commands: groups of them, their options (from the fields of a dataclass), and completion in the shell.

Each file of commands has an `app = family()` (Typer's group of commands) and declares commands by
`@command(app, "name", "panbench name …")` with at least one example for `--help`; cli/app.py mounts the groups.
"""

import copy
import dataclasses
import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from panbench.base.addresses import refuse_url
from panbench.base.computing import DEVICES, check_device_name
from panbench.base.errors import BadArgument, PanbenchError
from panbench.base.studies import Option, load_from_studies
from panbench.cli import console
from panbench.cli.words import unknown_command_message

if TYPE_CHECKING:
    from panbench.catalog import ModelSpec
    from panbench.cli.request import MissingFiles
    from panbench.runs import Run as StoredRun


class UnknownCommand(PanbenchError):
    """Raised if the command line names an unknown command."""


# The key in the context for the options of the running command.
OPTIONS = "options"
HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


def _apply_option_conventions(work: Callable[..., None]) -> None:
    """Completes the options of a command in place: -o for --out, names of values (PATH, N), checks of ranges.

    -o for --out; a word for a value (RUN, PATH, N) instead of its type; no bounds such as `x>=1` in help.
    """
    for name, hint in get_type_hints(work, include_extras=True).items():
        kind, *infos = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        for info in infos:
            if isinstance(info, OptionInfo):
                if info.metavar is None:
                    info.metavar = _metavar_for(kind)
                # Typer stores the first explicit name of an option as `default`.
                if kind is not bool and not isinstance(info.default, str):
                    # Typer treats a metavar that equals the parameter's name, such as WAY, as the option's name.
                    info.param_decls = info.param_decls or (f"--{name.replace('_', '-')}",)
                if name == "out" and "-o" not in (info.param_decls or ()):
                    info.param_decls = (*(info.param_decls or ()), "-o")
                if info.min is not None or info.max is not None:
                    info.callback = _range_check(info.min, info.max)
                    info.min = info.max = None


def _reworded_params(params: list[Any]) -> list[Any]:
    """Rewrites parameters for the help text: options without a type, arguments as RUN, [RUN] or RUN..."""
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
            # Typer before 0.29 asks the type for its metavar, and other parameters may share the type.
            param.type = copy.copy(param.type)
            param.type.get_metavar = lambda **_: " "
    return params


def _range_check(lowest: float | None, highest: float | None) -> Callable[[float | None], float | None]:
    """Makes a callback for an option that refuses numbers outside a range."""

    def check_range(value: float | None) -> float | None:
        """Returns an option's number if it is within the range. Raises BadParameter."""
        if value is not None and lowest is not None and value < lowest:
            raise typer.BadParameter(f"{value} must be greater than or equal to {lowest}.")
        if value is not None and highest is not None and value > highest:
            raise typer.BadParameter(f"{value} must be less than or equal to {highest}.")
        return value

    return check_range


def _metavar_for(kind: Any) -> str:
    """Chooses the word for an option's value in the help, such as PATH or N, by the option's type."""
    if get_origin(kind) is not Literal:
        kind = next(each for each in get_args(kind) or (kind,) if each is not type(None))
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return {bool: "", int: "N", float: "N", Path: "PATH"}.get(kind, "TEXT")


class Command(TyperCommand):
    """A command whose help names values (PATH, N), and whose errors suggest only its own options.

    needs: options that have no effect without one of the given words on the line
    idle_beside: options that have no effect with one of the given words
        A word is an option, the value of an argument such as FORMAT, or an option with its value (`--place none`).
        `words.shortest_usage` also reads `needs`: it names the first word that a required option needs.
    """

    needs: Mapping[str, Sequence[str]] = {}
    idle_beside: Mapping[str, Sequence[str]] = {}

    def get_params(self, ctx: Any) -> list[Any]:
        """Called by Click: returns the parameters, reworded for the help text."""
        return _reworded_params(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Prints the examples before the options, and only the first name of `--this/--no-this`."""
        printed = copy.copy(self)
        paragraphs = [" ".join(text.split()) for text in (self.help or "").split("\n\n")]
        # After the first paragraph, Typer removes the indentation of all lines but the first.
        examples = (self.epilog or "").strip() if paragraphs[1:] else self.epilog
        printed.help, printed.epilog = "\n\n".join([*paragraphs, examples or ""]), None
        printed.params = [copy.copy(param) for param in self.params]
        for param in printed.params:
            param.secondary_opts = []
        TyperCommand.format_help(printed, ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Called by Click to run the command: first refuses options without an effect, and a URL as --out."""
        params = self.get_params(ctx)
        self._refuse_idle(
            _typed_words(ctx, params), [name for param in params if param.required for name in param.opts]
        )
        ctx.meta[OPTIONS] = {name for param in self.get_params(ctx) for name in (*param.opts, *param.secondary_opts)}
        if isinstance(out := ctx.params.get("out"), str | Path):
            refuse_url(out, "--out")
        return super().invoke(ctx)

    def _refuse_idle(self, typed: Collection[str], required: Collection[str]) -> None:
        """Raises BadArgument for an option that was typed but would do nothing."""
        for name, words in self.needs.items():
            if name in typed and not any(word in typed for word in words):
                way = "Give one" if name in required else "Leave it out"
                raise BadArgument(f"{name} has no effect without {' or '.join(words)}. {way}.")
        for name, words in self.idle_beside.items():
            if name in typed and (extra := [word for word in words if word in typed]):
                raise BadArgument(f"{name} has no effect with {extra[0]}. Leave it out.")


def _typed_words(ctx: Any, params: Sequence[Any]) -> set[str]:
    """Returns the options on the command line, each with and without its value, and the values of arguments."""
    found: set[str] = set()
    for param in params:
        if getattr(ctx.get_parameter_source(param.name), "name", "") != "COMMANDLINE":
            continue
        value = ctx.params[param.name]
        text = str(getattr(value, "value", value))
        names = param.secondary_opts if value is False else param.opts
        is_option = param.param_type_name == "option"
        found.update([*names, *(f"{name} {text}" for name in names)] if is_option else [text])
    return found


class Commands(TyperGroup):
    """A group of commands whose help names values (PATH, N); for an unknown command it suggests a known one."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Called by Click: returns the parameters, reworded for the help text."""
        return _reworded_params(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Called by Click: finds the command that a word names. Raises UnknownCommand with a suggestion."""
        if args and not args[0].startswith("-") and args[0] not in self.commands and not ctx.resilient_parsing:
            inside = {name: tuple(getattr(each, "commands", ())) for name, each in self.commands.items()}
            raise UnknownCommand(unknown_command_message(args[0], ctx.command_path, inside))
        return super().resolve_command(ctx, args)


def family(name: str | None = None, help: str | None = None) -> typer.Typer:
    """Makes a Typer app for some commands: a subcommand group if named (`panbench data …`), else top-level commands."""
    return typer.Typer(
        name=name,
        cls=Commands,
        help=help,
        no_args_is_help=True,
        # Only the program itself has the options that install completion.
        add_completion=False,
        context_settings=dict(HELP_OPTIONS),
    )


def command(
    app: typer.Typer,
    name: str,
    *examples: str,
    needs: Mapping[str, Sequence[str]] = MappingProxyType({}),
    idle_beside: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declares the decorated function as a command of `app`, with examples for its help.

    examples: command lines at the top of `--help`; needs, idle_beside: as in `Command`
    """
    # Begins with a newline: without it, Typer would remove the indentation of all other lines.
    epilog = "\n".join(["", "Examples:" if len(examples) > 1 else "Example:", *(f"  {line}" for line in examples)])
    kind = type("Command", (Command,), {"needs": needs, "idle_beside": idle_beside})
    declare = app.command(name, cls=kind, epilog=epilog, context_settings=dict(HELP_OPTIONS))

    def declare_command(work: Callable[..., None]) -> Callable[..., None]:
        """Registers a function as a command of the Typer app, and returns it."""
        _apply_option_conventions(work)
        return declare(work)

    return declare_command


def option(help: str, panel: str | None = None, metavar: str | None = None, **settings: Any) -> Any:
    """Declares an option with a value, which is named after its parameter."""
    return typer.Option(help=help, rich_help_panel=panel, metavar=metavar, **settings)


_SHORT = {"--version": "-V", "--quiet": "-q", "--verbose": "-v"}


def flag(name: str, help: str, panel: str | None = None, **settings: Any) -> Any:
    """Declares an option without a value, such as `--json`."""
    names = (name, _SHORT[name]) if name in _SHORT else (name,)
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar="", **settings)


def model_names(incomplete: str) -> list[str]:
    """Completes the models of --model in the shell; after a comma, the last one."""
    from panbench.catalog import load_catalog

    *before, last = incomplete.split(",")
    prefix = ",".join(before) + "," if before else ""
    names = {name for spec in load_catalog().values() for name in (spec.name, *spec.aliases)}
    return sorted(prefix + name for name in names if name.startswith(last))


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Makes the shell completion of an option with few values; after a comma, it completes the last value."""

    def complete_value(incomplete: str) -> list[str]:
        """Returns the completions of a half-typed option value."""
        *before, last = incomplete.split(",")
        prefix = ",".join(before) + "," if before else ""
        return [prefix + value for value in values if value.startswith(last)]

    return complete_value


def data_names(incomplete: str) -> list[str]:
    """Completes the value of --data in the shell: names of datasets, and folders with annotations."""
    folders = sorted(str(path.parent) for path in Path().glob("data/*/annotations"))
    return [name for name in ("coco", "shapes", *folders) if name.startswith(incomplete)]


def run_folders(incomplete: str) -> list[str]:
    """Completes a run argument in the shell: run folders next to or below what is typed."""
    parent = Path(incomplete) if incomplete.endswith(("/", os.sep)) else Path(incomplete or ".").parent
    extra = [path.parent for pattern in ("*/run.json", "*/*/run.json") for path in parent.glob(pattern)]
    if not incomplete:
        extra += [path.parent for path in Path("results").glob("*/run.json")]
    return sorted({str(path) for path in extra if str(path).startswith(incomplete)})


def may_download(missing: "MissingFiles", download: bool) -> bool:
    """Returns whether to download missing files: asks once on a terminal, refuses with one message elsewhere."""
    from panbench.cli.request import ask_once

    return ask_once(missing, download, console.terminal_question())


def find_runs(paths: Sequence[Path]) -> "list[StoredRun]":
    """Opens the runs of a command's RUN arguments; unreadable runs are reported on stderr and left out."""
    from panbench.report.answers import tables

    return tables.find_runs(paths, console.NOTES)


def note_damaged_runs(runs: "Sequence[StoredRun]") -> None:
    """Reports on stderr the missing or changed files of runs, as results then lack some images."""
    for run in runs:
        if run.faults:
            console.note(f"{run.name} is damaged: {' '.join(run.faults)}")


def show_scores(run: "StoredRun", as_json: bool, more: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Prints a run's scores as a table, or as JSON, to which `more` adds fields.

    The table has warnings; the JSON has every category.
    """
    if as_json:
        from panbench.scoring.folder import as_json as scores_of

        console.show_json({**scores_of(run), **more})
    else:
        from panbench.report.answers.tables import summary_text

        console.show(summary_text(run))


def may_download_weights(specs: Sequence["ModelSpec"], checkpoint: Path | None, download: bool) -> bool:
    """Returns whether to download missing weights of these models; asks like `may_download`."""
    # Imported here, as it imports NumPy and OpenCV, which `--help` does not need.
    from panbench.catalog import check_checkpoint, weights_named
    from panbench.cli.request import find_missing_files

    check_checkpoint(checkpoint)
    return may_download(find_missing_files(specs, weights=weights_named(checkpoint)), download)


_MODELS_PANEL = "Models"


def _model_option(help: str) -> Any:
    """Declares `--model` or `-m`, completed by the shell."""
    return typer.Option(
        "--model", "-m", metavar="NAME", autocompletion=model_names, rich_help_panel=_MODELS_PANEL, help=help
    )


Models = Annotated[
    list[str] | None,
    _model_option("Names, by commas; all; or 'mask2former*'."),
]
Model = Annotated[str | None, _model_option("A model; `panbench models` lists them.")]
Config = Annotated[Path | None, option("Your own config, instead of a model.", _MODELS_PANEL, "FILE.py")]
Checkpoint = Annotated[
    Path | None,
    option(
        "The weights of --config or of one --model; random[:SEED]: untrained ones.",
        _MODELS_PANEL,
        "FILE|random",
    ),
]
OFFSET = "What a pixel of --semantic means: N to add for a category id, `order`, or a JSON of ids by value."
SHARD = "A share of the images, as 3/8; `panbench runs merge` joins the runs."
Labels = Annotated[
    str | None,
    option(
        "Labels of a hub model: coco, ade20k, cityscapes, or a JSON of categories.",
        _MODELS_PANEL,
        "SET|FILE",
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


Orientation = Literal["apply", "ignore"]
"""Ways to treat EXIF orientations, for --exif."""


def exif_option(panel: str | None = None) -> Any:
    """Declares `--exif apply|ignore`: whether photographs are rotated by their EXIF orientation."""
    return typer.Option(
        "--exif",
        help="Rotate photographs by their EXIF orientation, as mmdet does, or not.",
        rich_help_panel=panel,
    )


def slicing_names(incomplete: str) -> list[str]:
    """Completes the value of --by in the shell: ways to divide the images or segments."""
    from panbench.metrics.slices import SLICINGS

    return one_of(*SLICINGS)(incomplete)


def rule_names(incomplete: str) -> list[str]:
    """Completes the value of --rule in the shell."""
    from panbench.catalog import RULES

    return one_of("paper", *(name for name in RULES if name != "given"))(incomplete)


def check_rules(text: str | None) -> str | None:
    """Called with the value of --rule: returns it. Raises BadArgument for an unknown rule."""
    from panbench.catalog import split_rules

    if text is not None:
        split_rules(text)
    return text


_MOVED_PANEL = "Where the data is, if it has moved"
MovedImages = Annotated[Path | None, option("The folder of images.", _MOVED_PANEL, "DIR")]
MovedTruth = Annotated[Path | None, option("The ground truth's JSON.", _MOVED_PANEL, "FILE.json")]
MovedPngs = Annotated[Path | None, option("The folder of its PNGs.", _MOVED_PANEL, "DIR")]
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


STUDIES = "Studies"
"""The panel of `--help` with the options that studies add."""

Work = Callable[[typer.Context, Any, tuple[Any, ...]], None]


class DoubledOption(PanbenchError):
    """Raised if a study adds an option with a name that the command or another study already uses."""


def options_from(request: type, command: str) -> Callable[[Work], Callable[..., None]]:
    """Declares the options of a command: one per field of `request`, and those that studies add to `command`.

    request: a frozen dataclass; a field's type is `Annotated[type, typer.Option(…)]`, its default the option's
    The decorated function is called with the context, the request, and the options of each study in their order; its
    docstring is the help. Raises DoubledOption if a study's option has a name that the command uses.
    """

    def declare_options(work: Work) -> Callable[..., None]:
        """Returns a function for Typer that has the options as parameters and calls `work` with their values."""
        studies = load_from_studies("options", command)
        fields = {request: _option_parameters(request)}
        taken = {parameter.name: "panbench" for parameter in fields[request]}
        for name, kind in studies.items():
            fields[kind] = _option_parameters(kind, STUDIES)
            for parameter in fields[kind]:
                if parameter.name in taken:
                    raise DoubledOption(
                        f"The study {name} adds --{parameter.name.replace('_', '-')} to {command}, an option of "
                        f"{taken[parameter.name]}. Rename it, or uninstall one of the two."
                    )
                taken[parameter.name] = name

        def run_command(ctx: typer.Context, **values: Any) -> None:
            """Passes the option values that Typer parsed to the function of the command, as dataclasses."""
            given, *of_studies = (
                kind(**{parameter.name: values[parameter.name] for parameter in own}) for kind, own in fields.items()
            )
            work(ctx, given, tuple(of_studies))

        context = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        options = [parameter for own in fields.values() for parameter in own]
        # Typer reads a command's options from these two attributes.
        run_command.__signature__ = inspect.Signature([context, *options])  # type: ignore[attr-defined]
        run_command.__annotations__ = {each.name: each.annotation for each in (context, *options)}
        run_command.__doc__ = work.__doc__
        return run_command

    return declare_options


def _option_parameters(kind: type, panel: str | None = None) -> list[inspect.Parameter]:
    """Returns a keyword parameter for each field of a dataclass, annotated for Typer."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            annotation=_option_annotation(field.name, hints[field.name], panel),
        )
        for field in dataclasses.fields(kind)
    ]


def _option_annotation(name: str, hint: Any, panel: str | None) -> Any:
    """Returns a field's type annotated with its Typer option; a study's `Option` is converted to one."""
    if get_origin(hint) is not Annotated:
        return hint
    kind, declared = get_args(hint)[:2]
    if not isinstance(declared, Option):
        return hint
    if kind is bool:
        return Annotated[kind, flag(f"--{name.replace('_', '-')}", declared.help, panel)]
    completion = {"autocompletion": one_of(*declared.values)} if declared.values else {}
    return Annotated[kind, option(declared.help, panel, declared.metavar, **completion)]
