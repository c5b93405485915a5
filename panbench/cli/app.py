"""The command line: each command parses its arguments, calls one function and prints what it returns.

Results go to stdout, status and progress to stderr. Exit codes: 0 done, 1 a model failed or a fault of ours, 2 bad
input (one sentence says what), 130 interrupted. Imports of other rooms are made inside the commands: `--help`,
completion and every command that needs no model start without torch.
"""

import contextlib
import json
import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text
from typer.core import TyperGroup

from panbench import __version__
from panbench.base.errors import BadArgument, PanbenchError
from panbench.base.files import atomic_write
from panbench.cli import bench as cli_bench
from panbench.cli import data as cli_data
from panbench.cli import report as cli_report

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from panbench.catalog import ModelSpec
    from panbench.report.findings import Findings
    from panbench.report.grid import Grid
    from panbench.runs import Run

INTERRUPTED = 130
# Where nobody sets a width, as in a file or a pipe.
WIDTH_WITHOUT_TERMINAL = 120


class _Commands(TyperGroup):
    """Turns what a command raises into one line on stderr and an exit code; `--debug`, anywhere, adds the traceback."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if "--debug" in args:
            args = [arg for arg in args if arg != "--debug"]
            ctx.meta["debug"] = True
        return super().parse_args(ctx, args)  # type: ignore[arg-type]

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        if not ctx.meta.get("debug"):
            # What our libraries warn their own developers of says nothing to who runs panbench.
            warnings.filterwarnings("ignore", module=r"(torch|mmdet|mmengine|mmcv)\b")
        try:
            return super().invoke(ctx)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            _complain("Interrupted.", label="")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            # Usage errors, Exit and Abort are Typer's own; a closed pipe (`| head`) is nobody's fault.
            if hasattr(error, "format_message") or isinstance(error, (typer.Exit, typer.Abort, BrokenPipeError)):
                raise
            sentence, code = _explained(error)
            _complain(sentence, error if ctx.meta.get("debug") else None)
            raise typer.Exit(code) from None


app = typer.Typer(
    name="panbench",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run panoptic segmentation models, score them as panopticapi does, and compare them.",
)


# The groups of options in `panbench eval --help`.
_MODEL, _DATA, _HOW, _RUN = "Models", "Data", "Computing", "The run"


def _option(help: str, panel: str | None = None, metavar: str | None = None, **settings: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, metavar=metavar, **settings)


def _flag(name: str, help: str, panel: str | None = None, **settings: Any) -> Any:
    return typer.Option(name, help=help, rich_help_panel=panel, metavar="", **settings)


app.add_typer(cli_data.data_app, name="data")


class Format(str, Enum):
    """How `compare` prints."""

    text = "text"
    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"
    parquet = "parquet"

    @classmethod
    def of(cls, out: Path | None) -> "Format":
        """The format that a file's ending names; text for another ending and for no file."""
        ending = "" if out is None else out.suffix.lower().removeprefix(".")
        named = {"tex": "latex"}.get(ending, ending)
        return cls(named) if named in cls.__members__ else cls.text


def _version(asked: bool) -> None:
    if asked:
        _write(f"panbench {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, _flag("--version", "Print the version.", callback=_version, is_eager=True)] = False,
    debug: Annotated[bool, _flag("--debug", "Show the traceback of an error; anywhere on the line.")] = False,
) -> None:
    pass


def _model_names(incomplete: str) -> list[str]:
    """Completions of a model's name; after a comma, of the last one."""
    from panbench.catalog import load_catalog

    *before, last = incomplete.split(",")
    prefix = ",".join(before) + "," if before else ""
    names = {name for spec in load_catalog().values() for name in (spec.name, *spec.aliases)}
    return sorted(prefix + name for name in names if name.startswith(last))


@app.command()
def models(
    as_json: Annotated[bool, _flag("--json", "Print a list of objects.")] = False,
    download: Annotated[
        list[str] | None,
        _option("Fetch the weights of this model; several times or comma-separated.", None, "NAME"),
    ] = None,
) -> None:
    """List the models: family, backbone, parameters, published PQ, input size, and whether the weights are here."""
    from panbench.catalog import load_catalog, resolve_models
    from panbench.report.tables import models_record, models_text

    if download:
        from panbench.models.checkpoints import fetch_weights

        for spec in resolve_models(download):
            with _Progress(spec.title) as progress:
                _write(f"{fetch_weights(spec, progress=progress.bytes)}\n")
        return
    specs = list(load_catalog().values())
    if as_json:
        _print_json([models_record(spec) for spec in specs])
    else:
        _print(models_text(specs))


@app.command("eval")
def evaluate(
    ctx: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME",
            autocompletion=_model_names,
            rich_help_panel=_MODEL,
            help="A model or family; several times or comma-separated.",
        ),
    ] = None,
    config: Annotated[Path | None, _option("Your own mmdet config instead of a model.", _MODEL, "FILE.py")] = None,
    checkpoint: Annotated[Path | None, _option("The weights of --config or of one --model.", _MODEL, "FILE")] = None,
    weights: Annotated[
        str, _option("auto, a path, or random: untrained, for plumbing and timing.", _MODEL, "WEIGHTS")
    ] = "auto",
    seed: Annotated[int, _option("Seed of random weights.", _MODEL, "N")] = 0,
    data: Annotated[
        str | None,
        _option("shapes (generated; the default), coco (data/coco), or a folder in its layout.", _DATA, "NAME|DIR"),
    ] = None,
    images: Annotated[Path | None, _option("A folder of images, with --gt.", _DATA, "DIR")] = None,
    gt: Annotated[Path | None, _option("A panoptic JSON, with --images.", _DATA, "FILE.json")] = None,
    gt_dir: Annotated[Path | None, _option("The id PNGs of --gt, when not beside it.", _DATA, "DIR")] = None,
    split: Annotated[
        str, _option("The split of the dataset; test-dev with --save-predictions.", _DATA, "NAME")
    ] = "val",
    limit: Annotated[int | None, _option("Only the first N images.", _DATA, "N", min=1)] = None,
    image_ids: Annotated[str | None, _option("Only these: 139,285 or @FILE with an id a line.", _DATA, "IDS")] = None,
    category_map: Annotated[
        str | None,
        _option("For a model of other categories: which is which, as coco_to_cityscapes.", _DATA, "FILE|NAME"),
    ] = None,
    download: Annotated[
        bool, _flag("--download", "Fetch weights, and files of COCO, that are not here.", _DATA)
    ] = False,
    device: Annotated[str, _option("auto, cpu, cuda, cuda:N or mps.", _HOW, "DEVICE")] = "auto",
    batch_size: Annotated[
        str | None, _option("Images a batch, or auto. Default: 1 on a CPU, else auto.", _HOW, "N|auto")
    ] = None,
    precision: Annotated[str, _option("fp32, tf32, bf16 or fp16.", _HOW, "KIND")] = "fp32",
    compiled: Annotated[
        bool, _flag("--compile", "Compile the backbone by torch.compile; takes a minute.", _HOW)
    ] = False,
    workers: Annotated[
        int | None, _option("Threads that load, and as many that score. Default: the cores, up to 8.", _HOW, "N", min=1)
    ] = None,
    out: Annotated[
        Path | None,
        _option(
            "The run's folder; several models get a folder each in it. Default: results/DATASET-MODEL.", _RUN, "DIR"
        ),
    ] = None,
    overwrite: Annotated[bool, _flag("--overwrite", "Replace a run that is already there.", _RUN)] = False,
    resume: Annotated[bool, _flag("--resume", "Go on with an interrupted run.", _RUN)] = False,
    skip_bad_images: Annotated[
        bool, _flag("--skip-bad-images", "Leave out images that do not decode; the run is marked.", _RUN)
    ] = False,
    save_predictions: Annotated[
        bool, _flag("--save-predictions", "Also write COCO panoptic PNGs and JSON.", _RUN)
    ] = False,
    log: Annotated[
        list[str] | None,
        _option(
            "Tell tensorboard, wandb or mlflow how it goes; several times. Files go to logs/ beside the run.", _RUN
        ),
    ] = None,
) -> None:
    """Run models on a dataset, score them and compare them."""
    from panbench.evaluation.trackers import check_logs, live_logs

    check_logs(log or [])
    if overwrite and resume:
        raise BadArgument("--overwrite and --resume contradict each other. Give one of them.")
    specs = _specs(model or [], config, checkpoint)
    if len(specs) > 1 and weights not in ("auto", "random"):
        raise BadArgument("--weights with a path fits one model. Name one --model, or use auto or random.")
    ids = None if image_ids is None else _image_ids(image_ids)
    size = None if batch_size is None else _batch_size(batch_size)

    from panbench.datasets import Dataset, open_dataset
    from panbench.evaluation.several import Outcome, run_folders, run_models
    from panbench.report.tables import comparison_row, comparison_text, summary_text

    def opened() -> Dataset:
        with _Progress("Drawing shapes") as progress:
            return open_dataset(
                data or "shapes",
                images=images,
                gt=gt,
                gt_dir=gt_dir,
                split=split,
                limit=limit,
                image_ids=ids,
                progress=progress.images,
                download=download,
                downloaded=progress.fetch,
                notice=progress.notice,
            )

    if download and "RANK" in os.environ:
        from panbench.evaluation.evaluate import open_dataset_once

        dataset = open_dataset_once(opened)
    else:
        dataset = opened()
    folders = run_folders(specs, dataset.name, out, keep=not (overwrite or resume or _is_further_rank()))

    # From here on torch is needed; what is wrong with the rest of the line is said before.
    from panbench.evaluation.evaluate import EvaluateOptions, open_model_once, refuse_without_purpose
    from panbench.evaluation.evaluate import evaluate as evaluate_model
    from panbench.models.base import choose_device

    choose_device(device)
    refuse_without_purpose(dataset, save_predictions)

    options = EvaluateOptions(
        batch_size=size,
        workers=workers,
        overwrite=overwrite,
        resume=resume,
        save_predictions=save_predictions,
        skip_bad_images=skip_bad_images,
        category_map=category_map,
        command=("panbench", *sys.argv[1:]),
    )

    def run(spec: "ModelSpec", folder: Path) -> "Run":
        logs = live_logs(
            [] if _is_further_rank() else log or [], folder.name, folder.parent / "logs" / folder.name, _note
        )
        with _Progress(spec.title, at_once=True) as progress, logs as live:
            reporter = _Both(progress, live)
            opened = open_model_once(
                spec,
                weights=weights,
                device=device,
                precision=precision,
                seed=seed,
                compiled=compiled,
                download=download,
                reporter=reporter,
            )
            evaluated = evaluate_model(opened, dataset, folder, options, reporter)
            live.finished(evaluated)
            return evaluated

    def show(outcome: Outcome) -> None:
        if outcome.run is None:
            _complain(f"{outcome.spec.name}: {outcome.reason}", outcome.error if ctx.meta.get("debug") else None)
            return
        row = comparison_row(outcome.run)
        _print(summary_text(row.title, outcome.run.info.get("summary"), row.notes))
        _print("")

    try:
        outcomes = run_models(specs, folders, run, show)
    except KeyboardInterrupt:
        place = folders[0] if len(folders) == 1 else out or "results"
        _complain(f"Interrupted. What was scored stays in {place}; the same command with --resume goes on.", label="")
        raise typer.Exit(INTERRUPTED) from None
    _print(comparison_text([outcome.row(dataset.name) for outcome in outcomes]))
    stored = [str(folder) for folder, outcome in zip(folders, outcomes, strict=True) if outcome.run is not None]
    if stored:
        if dataset.has_ground_truth:
            _say(f"Again at any time: panbench compare {shlex.join(stored)}")
        else:
            _say(f"For COCO's server: panbench submit {shlex.quote(stored[0])} --out FILE.zip")
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def score(
    gt: Annotated[Path, _option("The ground truth: COCO panoptic JSON.", metavar="FILE.json")],
    pred: Annotated[Path, _option("The predictions: COCO panoptic JSON.", metavar="FILE.json")],
    gt_dir: Annotated[
        Path | None, _option("The id PNGs of --gt. Default: its path without .json.", metavar="DIR")
    ] = None,
    pred_dir: Annotated[
        Path | None, _option("The id PNGs of --pred. Default: its path without .json.", metavar="DIR")
    ] = None,
    out: Annotated[Path | None, _option("Store the run here, for compare and metrics.", metavar="DIR")] = None,
    overwrite: Annotated[bool, _flag("--overwrite", "Replace a run that is already there.")] = False,
    as_json: Annotated[bool, _flag("--json", "Print JSON with every category, fractions 0-1.")] = False,
    ignore_extra: Annotated[bool, _flag("--ignore-extra", "Pass over images that the ground truth lacks.")] = False,
    allow_missing: Annotated[bool, _flag("--allow-missing", "Score images without a prediction as empty.")] = False,
    boundary: Annotated[bool, _flag("--boundary", "Also store what boundary PQ needs.")] = False,
    threads: Annotated[int | None, _option("Default: the cores.", metavar="N", min=1)] = None,
    max_pixels: Annotated[
        int | None, _option("Refuse larger PNGs before they are decoded.", metavar="N", min=1)
    ] = None,
) -> None:
    """Score predictions of any framework: the same numbers as panopticapi."""
    from panbench.panoptic.idmap import DEFAULT_MAX_PIXELS
    from panbench.report.tables import comparison_row, summary_text
    from panbench.scoring.folder import as_json as scores_of
    from panbench.scoring.folder import score_folder

    with _Progress("Scoring") as progress:
        run = score_folder(
            gt,
            pred,
            gt_dir,
            pred_dir,
            out,
            threads=threads,
            ignore_extra=ignore_extra,
            allow_missing=allow_missing,
            boundary=boundary,
            max_pixels=max_pixels or DEFAULT_MAX_PIXELS,
            overwrite=overwrite,
            progress=progress.images,
        )
    if as_json:
        _print_json(scores_of(run))
    else:
        row = comparison_row(run)
        _print(summary_text(row.title, run.info["summary"], row.notes))
    if out is None:
        _say("Not stored. With --out results/NAME, panbench compare, metrics and errors can ask it more.")
    else:
        _say(f"Stored. More: panbench metrics {shlex.quote(str(out))}, errors, compare")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or folders of runs.")],
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="How to print. Default: by the ending of --out, else text."),
    ] = None,
    out: Annotated[Path | None, _option("Write to this file instead of printing.", None, "FILE")] = None,
    by: Annotated[str | None, _option("Also PQ by size, share, segments or supercategory.", None, "WHAT")] = None,
    per_category: Annotated[bool, _flag("--per-category", "Also PQ of each category, by the difference.")] = False,
    baseline: Annotated[str | None, _option("The run to compare all others with.", None, "RUN")] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="Ranks, 95 % intervals and significance.", metavar="")
    ] = True,
    common_images: Annotated[bool, _flag("--common-images", "Compare on the images that all runs have.")] = False,
    mixed: Annotated[bool, _flag("--mixed", "Put runs on different data into one table, as they are.")] = False,
    digits: Annotated[
        int | None, _option("Decimals of percentages: 2 in text and md, 1 in latex.", None, "N", min=0, max=6)
    ] = None,
) -> None:
    """Print stored runs side by side. csv, json and parquet hold fractions 0-1, the others percent."""
    chosen = format or Format.of(out)
    if chosen is Format.parquet and out is None and sys.stdout.isatty():
        raise BadArgument("Parquet is not for a terminal. Name a file with --out FILE.parquet, or redirect the output.")

    from panbench.report.comparison import standing
    from panbench.report.tables import find_runs

    found = standing(
        find_runs(runs),
        common_images=common_images,
        mixed=mixed,
        intervals=intervals,
        by=by,
        per_category=per_category,
        baseline=baseline,
        digits=digits if digits is not None else 1 if chosen is Format.latex else 2,
    )
    if chosen is Format.text and out is None:
        _print_grids(found.grids)
        return
    printed: dict[Format, Callable[[], str | bytes]] = {
        Format.text: found.text,
        Format.md: found.markdown,
        Format.latex: found.latex,
        Format.csv: found.csv,
        Format.json: found.json,
        Format.parquet: found.parquet,
    }
    content = printed[chosen]()
    if out is not None:
        _write_file(out, content)
    elif isinstance(content, bytes):
        sys.stdout.buffer.write(content)
    else:
        _write(content)


@app.command()
def metrics(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    by: Annotated[
        list[str] | None, _option("Cut by size, share, segments or supercategory; several times.", None, "WHAT")
    ] = None,
    per_category: Annotated[bool, _flag("--per-category", "Also a line for each category.")] = False,
    as_json: Annotated[bool, _flag("--json", "Print everything as JSON, fractions 0-1.")] = False,
) -> None:
    """Print every measure of a stored run: PQ with intervals, PQ by size, PQ†, mIoU, Dice and others."""
    from panbench.report.findings import metric_findings
    from panbench.runs import load_run

    chosen = {"by": by} if by else {}
    _print_findings(metric_findings(load_run(run), per_category=per_category, **chosen), as_json)


@app.command()
def errors(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    images: Annotated[int, _option("How many of the worst images to name for each cause.", None, "N", min=0)] = 5,
    per_category: Annotated[bool, _flag("--per-category", "Also what each category loses most to.")] = False,
    as_json: Annotated[bool, _flag("--json", "Print everything as JSON, fractions 0-1.")] = False,
) -> None:
    """Print why PQ is lost in a stored run: each cause, what fixing it would gain, and where it happens."""
    from panbench.report.findings import error_findings
    from panbench.runs import load_run

    _print_findings(error_findings(load_run(run), images=images, per_category=per_category), as_json)


app.command()(cli_data.submit)
app.command()(cli_report.report)
app.add_typer(cli_report.show_app, name="show")
app.command()(cli_report.predict)
cli_bench.mount(app, show=lambda table: _print(table), say=lambda sentence: _say(sentence))


def main() -> None:
    """The program `panbench`."""
    for stream in (sys.stdout, sys.stderr):
        # A pipe gets UTF-8 whatever the locale, a terminal what it can show; neither ends a program over a dash.
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="replace")  # type: ignore[union-attr]
    if _is_further_rank():
        # Of the processes that torchrun started, the first speaks for all; errors are each one's own.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    app()


def _is_further_rank() -> bool:
    return os.environ.get("RANK", "0") != "0"


def _specs(names: list[str], config: Path | None, checkpoint: Path | None) -> "list[ModelSpec]":
    from panbench.catalog import resolve_models, spec_from_config, with_weights

    if not names and config is None:
        raise BadArgument("Name a --model (`panbench models` lists them), or your own --config with its --checkpoint.")
    specs = resolve_models(names) if names else []
    if config is not None:
        return [*specs, spec_from_config(config, checkpoint)]
    if checkpoint is not None:
        if len(specs) > 1:
            raise BadArgument("--checkpoint fits one model. Name one --model, or use --config.")
        return [with_weights(specs[0], checkpoint)]
    return specs


def _image_ids(text: str) -> list[int]:
    """The ids of `1,2,3`, or of a file after `@` with ids separated by commas, spaces or line ends."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadArgument(f"--image-ids {text}: the file cannot be read ({error}).") from None
    words = text.replace(",", " ").split()
    wrong = [word for word in words if not (word.isascii() and word.isdigit())]
    if wrong or not words:
        what = f"{wrong[0]!r} is no image id" if wrong else "there are no ids"
        raise BadArgument(f"--image-ids: {what}. Give whole numbers such as 139,285, or @FILE with one a line.")
    return [int(word) for word in words]


def _batch_size(text: str) -> "int | Literal['auto']":
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise BadArgument(f"--batch-size is {text!r} but must be a whole number above 0, or auto.")
    return int(text)


class _Both:
    """A Reporter that shows what it hears and tells the trackers of images."""

    def __init__(self, shown: "_Progress", live: Any) -> None:
        self._shown, self._live = shown, live

    def progress(self, task: str, done: int, total: int | None, unit: str = "images") -> None:
        if unit == "bytes":
            self._shown.bytes(done, total)
        else:
            assert total is not None
            self._shown.images(done, total)
            self._live.images(done, total)

    def status(self, words: str) -> None:
        pass

    def notice(self, sentence: str) -> None:
        self._shown.notice(sentence)


class _Progress:
    """Bars on stderr while something runs: images with images/s and time left, and bytes of a download.

    at_once: shows the bar of images from the start, before the first is done; else a bar appears when there is news
    """

    def __init__(self, title: str, *, at_once: bool = False) -> None:
        from rich.progress import Progress

        self._title = title
        self._tasks: dict[str, Any] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self._bars = Progress(*_progress_columns(), console=_status())
        if at_once:
            self._add("images", title, None)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        for title, task in self._tasks.items():
            self._bars.update(task, visible=title in self._first)
        if self._tasks:
            self._bars.stop()

    def images(self, done: int, total: int) -> None:
        self._show("images", self._title, done, total)

    def bytes(self, done: int, total: int | None) -> None:
        self._show("bytes", f"{self._title}: weights", done, total)

    def fetch(self, what: str, done: int, total: int | None) -> None:
        # `fetch_coco` counts files where it verifies them or fetches them singly, else bytes.
        unit = "files" if what.startswith(("verifying ", "images of ")) else "bytes"
        if done:
            self._show(unit, what, done, total)

    def notice(self, sentence: str) -> None:
        self._bars.console.print(Text.assemble(("Note: ", "bold"), " ".join(sentence.split())), soft_wrap=True)

    def _add(self, unit: str, title: str, total: int | None) -> None:
        if not self._tasks:
            self._bars.start()
        self._tasks[title] = self._bars.add_task(title, total=total, unit=unit, speed=None)

    def _show(self, unit: str, title: str, done: int, total: int | None) -> None:
        if title not in self._tasks:
            self._add(unit, title, total)
        now = time.monotonic()
        # From the first news on: a resumed run starts with images done, and loading a model is no image.
        began, before = self._first.setdefault(title, (now, done))
        speed = (done - before) / (now - began) if now > began and done > before else None
        self._bars.update(self._tasks[title], completed=done, total=total, speed=speed)


def _progress_columns() -> "list[ProgressColumn]":
    from rich.filesize import decimal
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn

    class Done(ProgressColumn):
        def render(self, task: Task) -> Text:
            show = decimal if task.fields["unit"] == "bytes" else "{:.0f}".format
            total = "?" if task.total is None else show(int(task.total))
            return Text(f"{show(int(task.completed))}/{total}", style="progress.download")

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.fields["speed"]
            if speed is None:
                return Text("")
            unit = task.fields["unit"]
            shown = f"{decimal(int(speed))}/s" if unit == "bytes" else f"{speed:.1f} {unit}/s"
            return Text(shown, style="progress.data.speed")

    return [TextColumn("{task.description}"), BarColumn(bar_width=None), Done(), Speed(), TimeRemainingColumn()]


def _console(stream: Any, *, quiet: bool = False) -> Console:
    console = Console(file=stream, highlight=False, quiet=quiet)
    sized = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    if not sized:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console


def _status() -> Console:
    """Where progress and notices go. Of the processes that torchrun started, the first speaks for all."""
    return _console(sys.stderr, quiet=_is_further_rank())


def _print(content: RenderableType) -> None:
    _console(sys.stdout).print(content, markup=False, crop=False)


def _write(text: str) -> None:
    sys.stdout.write(text)


def _write_file(path: Path, content: str | bytes) -> None:
    """Writes a result as a whole or not at all, and prints its path."""
    try:
        with atomic_write(path) as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise BadArgument(f"{path} cannot be written: {error.strerror or error}. Name another --out.") from None
    _write(f"{path}\n")


def _print_grids(grids: "Sequence[Grid]") -> None:
    from panbench.report.grid import as_text

    for index, grid in enumerate(grids):
        _print(Group(*([""] if index else []), as_text(grid)))


def _print_findings(findings: "Findings", as_json: bool) -> None:
    if as_json:
        _write(findings.json())
    else:
        _print_grids(findings.grids)


def _print_json(content: Any) -> None:
    _write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _say(sentence: str) -> None:
    _status().print(sentence, markup=False, style="dim", soft_wrap=True)


def _note(sentence: str) -> None:
    _status().print(Text.assemble(("Note: ", "bold"), " ".join(sentence.split())), soft_wrap=True)


def _complain(sentence: str, error: Exception | None = None, label: str = "Error: ") -> None:
    """The sentences on stderr, each on one line; before them the traceback of `error`, where one is given."""
    stderr = _console(sys.stderr)
    if error is not None:
        stderr.print("".join(traceback.format_exception(error)), markup=False, soft_wrap=True)
    lines = [" ".join(line.split()) for line in sentence.splitlines()]
    stderr.print(Text.assemble((label, "bold red"), "\n".join(lines)), soft_wrap=True)


def _explained(error: Exception) -> tuple[str, int]:
    """One sentence for an error, and the exit code: 2 where the user can mend it, 1 where it is our fault."""
    if isinstance(error, PanbenchError):
        return str(error), error.exit_code
    if isinstance(error, ImportError):
        return _missing(error), 2
    return f"{_in_short(error)}. This is a fault of panbench, not of your input; --debug shows the traceback.", 1


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")


def _missing(error: ImportError) -> str:
    """What to do about an import that fails: a package that is absent, or a system library that OpenCV wants."""
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("panbench"):
        package = error.name.split(".")[0]
        return f"This needs the Python package {package}, which is not installed. Install panbench with pip again."
    if ".so" in str(error) and "cv2" in "".join(traceback.format_tb(error.__traceback__)):
        return (
            f"OpenCV cannot load a library of the system ({error}). On Debian and Ubuntu: apt-get install libgl1 "
            "libglib2.0-0; or, without it: pip install --force-reinstall --no-deps opencv-python-headless."
        )
    return f"{_in_short(error)}. A package is damaged or does not fit the others: install panbench with pip again."
