"""The commands `panbench data …` and `panbench submit`: each parses, calls one function and prints what it returns.

Results go to stdout, progress and status to stderr. Errors are raised; cli/app.py turns them into a line.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from panbench.base.errors import BadArgument

if TYPE_CHECKING:
    from panbench.datasets.check import CheckReport
    from panbench.datasets.convert import Converted
    from panbench.panoptic.types import Category

SHOWN_PER_KIND = 10
_WIDTH_WITHOUT_TERMINAL = 120

data_app = typer.Typer(
    no_args_is_help=True,
    help="Fetch, check and convert datasets.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CocoSplit(str, Enum):
    """Splits of COCO panoptic."""

    val = "val"
    train = "train"
    test_dev = "test-dev"


class Split(str, Enum):
    """Splits that have public ground truth."""

    val = "val"
    train = "train"


class Images(str, Enum):
    """What happens to the images."""

    link = "link"
    copy = "copy"
    none = "none"


class Format(str, Enum):
    """What `data convert` reads; `detection` is the way back."""

    instances = "instances"
    two_channel = "two-channel"
    arrays = "arrays"
    panoptic = "panoptic"
    detection = "detection"


_Root = Annotated[Path | None, typer.Option("--root", help="Where the set is to stand. Default: data/NAME.")]
_SplitOption = Annotated[Split, typer.Option("--split", help="The split.")]
_ImagesOption = Annotated[
    Images, typer.Option("--images", help="Link the images beside the annotations, copy, or leave.")
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a set that stands already.")]


@data_app.command()
def coco(
    split: Annotated[
        CocoSplit, typer.Option(help="val, train, or test-dev (images and their list only).")
    ] = CocoSplit.val,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images and their ground truth.")] = None,
    root: Annotated[Path, typer.Option(help="Where the set is to stand.")] = Path("data/coco"),
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep whole archives in ROOT/archives.")
    ] = False,
    archives_from: Annotated[
        Path | None, typer.Option("--from", help="A folder where COCO's archives already lie; read in place.")
    ] = None,
) -> None:
    """Fetch COCO panoptic: only what is missing, verified; interrupted, the same command goes on.

    A second call verifies what stands and fetches nothing. PANBENCH_MIRROR_COCO names another host or a folder.
    """
    from panbench.datasets.fetch import fetch_coco

    with _byte_progress() as progress:
        folder = fetch_coco(
            root,
            split.value,
            limit=limit,
            keep_archives=keep_archives,
            archives_from=archives_from,
            progress=progress,
            say=_say,
        )
    pngs = "" if folder.pngs is None else f" and {folder.n_pngs:,} ground-truth PNGs"
    fetched = f"{_readable(folder.fetched)} fetched" if folder.fetched else "nothing had to be fetched"
    _print(f"{folder.root}, {split.value}: {folder.n_images:,} images{pngs} stand verified; {fetched}.")
    _print(f"JSON: {folder.json}")
    if split is not CocoSplit.test_dev:
        options = f" --limit {limit}" if limit is not None else ""
        options += f" --split {split.value}" if split is not CocoSplit.val else ""
        _say(f"Next: panbench eval --model NAME --data {folder.root}{options}")


@data_app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A panoptic JSON, or a folder such as data/coco.")],
    split: Annotated[str, typer.Option(help="The split, where PATH is a folder.")] = "val",
    images: Annotated[Path | None, typer.Option(help="The folder of images, if not in its usual place.")] = None,
    pngs: Annotated[Path | None, typer.Option(help="The folder of id PNGs, if not beside the JSON.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Print every finding, not only the first {SHOWN_PER_KIND} of a kind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object with every finding.")] = False,
) -> None:
    """Say whether a panoptic set can be scored: JSON against PNGs against images.

    Exit code 1 when a finding would change a number or stop a run.
    """
    from panbench.datasets.check import check_set

    with _count_progress("checking") as progress:
        report = check_set(path, split=split, images=images, pngs=pngs, limit=limit, progress=progress)
    if as_json:
        sys.stdout.write(json.dumps(report.as_record(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        _print_check(report, everything)
    if report.errors:
        raise typer.Exit(1)


@data_app.command()
def cityscapes(
    source: Annotated[Path, typer.Argument(help="The folder that holds gtFine and leftImg8bit.")],
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Make a panoptic set of Cityscapes' gtFine (fetch it from cityscapes-dataset.com)."""
    from panbench.datasets.cityscapes import convert_cityscapes

    _converted(convert_cityscapes, source, root or Path("data/cityscapes"), split.value, images, overwrite)


@data_app.command()
def ade20k(
    source: Annotated[Path, typer.Argument(help="ADEChallengeData2016 with annotations_instance in it.")],
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Make a panoptic set of ADE20K's 150 categories (fetch it from sceneparsing.csail.mit.edu)."""
    from panbench.datasets.ade20k import convert_ade20k

    _converted(convert_ade20k, source, root or Path("data/ade20k"), split.value, images, overwrite)


@data_app.command()
def mapillary(
    source: Annotated[Path, typer.Argument(help="The unpacked dataset, with training and validation.")],
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Make a panoptic set of Mapillary Vistas (fetch it from mapillary.com/dataset/vistas)."""
    from panbench.datasets.mapillary import convert_mapillary

    _converted(convert_mapillary, source, root or Path("data/mapillary"), split.value, images, overwrite)


@data_app.command()
def coconut(
    source: Annotated[Path, typer.Argument(help="relabeled_coco_val.json, coconut_s.json or coconut_b.json.")],
    pngs: Annotated[Path | None, typer.Option(help="The unpacked PNGs, if not beside the JSON.")] = None,
    images_from: Annotated[Path, typer.Option(help="COCO's images of the same split.")] = Path("data/coco/val2017"),
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Put COCONut's masks beside COCO's images (fetch them from Kaggle or Hugging Face)."""
    from panbench.datasets.coconut import convert_coconut

    options = {"pngs": pngs, "images_from": images_from}
    _converted(convert_coconut, source, root or Path("data/coconut"), split.value, images, overwrite, **options)


@data_app.command()
def convert(
    format: Annotated[
        Format, typer.Argument(help="What SOURCE is; `detection` writes a panoptic set as COCO detection.")
    ],
    source: Annotated[Path, typer.Argument(help="A folder (two-channel, arrays) or a JSON (the others).")],
    out: Annotated[Path, typer.Option(help="The new set's root; for detection the JSON to write.")],
    categories: Annotated[
        str | None, typer.Option(help="coco, ade20k, cityscapes, or a JSON with id, name and isthing.")
    ] = None,
    semantic: Annotated[Path | None, typer.Option(help="instances: semantic PNGs, pixel value = category id.")] = None,
    pngs: Annotated[Path | None, typer.Option(help="panoptic, detection: id PNGs, if not beside the JSON.")] = None,
    images_from: Annotated[Path | None, typer.Option(help="The folder of images.")] = None,
    split: Annotated[str, typer.Option(help="The new set's split.")] = "val",
    images: _ImagesOption = Images.link,
    things_only: Annotated[bool, typer.Option("--things-only", help="detection: leave stuff out.")] = False,
    overwrite: _Overwrite = False,
) -> None:
    """Convert label maps to a panoptic set, or a panoptic set to COCO detection JSON.

    instances: COCO instance JSON and semantic PNGs. two-channel: PNGs with category and instance. arrays: .npz with
    `labels` and `instances`. panoptic: a JSON that is almost COCO's. detection: the way back.
    """
    from panbench.datasets import convert as converters

    if format is Format.detection:
        if out.exists() and not overwrite:
            raise BadArgument(f"{out} stands already. Give another name, or --overwrite.")
        with _count_progress("converting") as progress:
            n = converters.panoptic_to_detection(source, out, pngs=pngs, things_only=things_only, progress=progress)
        _print(f"{out}: {n:,} annotations.")
        return
    if format is Format.panoptic:
        known = None if categories is None else _categories(categories)
        options: dict[str, Any] = {"images_from": images_from, "categories": known}
        _converted(converters.convert_panoptic, source, pngs, out, images, overwrite, split=split, **options)
        return
    if categories is None:
        raise BadArgument(f"`data convert {format.value}` needs --categories: coco, ade20k, cityscapes or a JSON.")
    known = _categories(categories)
    if format is Format.instances:
        if semantic is None:
            raise BadArgument("`data convert instances` needs --semantic: the folder of semantic PNGs.")
        arguments = (source, semantic, known, out)
        _converted(converters.convert_instances, *arguments, split, images, overwrite, images_from=images_from)
        return
    function = converters.convert_two_channel if format is Format.two_channel else converters.convert_arrays
    _converted(function, source, known, out, split, images, overwrite, images_from=images_from)


def submit(
    run: Annotated[Path, typer.Argument(help="A run with predictions, or a predictions JSON.")],
    out: Annotated[Path, typer.Option(help="The zip, or a folder for it.")],
    testset: Annotated[str, typer.Option(help="test-dev2017 or val2017.")] = "test-dev2017",
    algorithm: Annotated[str | None, typer.Option(help="The name on the leaderboard. Default: the model's.")] = None,
    images: Annotated[Path | None, typer.Option(help="The list of the test set's images. Default: COCO's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a zip that stands already.")] = False,
) -> None:
    """Pack a run's predictions as COCO's evaluation server takes them, checked before anything is written."""
    from panbench.scoring.submission import write_submission

    with _count_progress("checking") as progress:
        made = write_submission(
            run, out, testset=testset, algorithm=algorithm, images=images, overwrite=overwrite, progress=progress
        )
    _print(f"{made.path}: {made.n_images:,} images, {made.n_segments:,} segments, {_readable(made.bytes)}.")
    _print(f"In it: {made.json_name} and {made.folder_name}/")


# What is shared


def _converted(function: Callable[..., "Converted"], *arguments: Any, **options: Any) -> None:
    """Calls a converter, whose last two positional arguments here are the options of images and overwriting."""
    *positional, images, overwrite = arguments
    with _count_progress("converting") as progress:
        made = function(*positional, images=images.value, overwrite=overwrite, progress=progress, **options)
    _print(f"{made.root}: {made.n_images:,} images, {made.n_segments:,} segments.")
    for words, count in made.left_out.items():
        _print(f"Left out: {count:,} {words}.")
    _say(f"Next: panbench data check {made.json}")


def _categories(name: str) -> "tuple[Category, ...]":
    from panbench.datasets.convert import read_categories, shipped_categories

    return shipped_categories(name) if name in ("coco", "ade20k", "cityscapes") else read_categories(Path(name))


def _print_check(report: "CheckReport", everything: bool) -> None:
    from rich.table import Table

    from panbench.datasets.check import KINDS

    things = sum(category.isthing for category in report.categories)
    used = [category for category in report.categories if category.segments]
    _print(f"{report.json}")
    _print(f"images {report.n_images:,}, segments {report.n_segments:,}, of them crowds {report.n_crowds:,}")
    _print(
        f"categories {len(report.categories)} ({things} things, {len(report.categories) - things} stuff), "
        f"of them without a segment here {len(report.categories) - len(used)}"
    )
    if report.median is not None and report.smallest is not None and report.largest is not None:
        sizes = ", ".join(
            f"{name} {height}×{width}"
            for name, (height, width) in zip(
                ("smallest", "median", "largest"), (report.smallest, report.median, report.largest), strict=True
            )
        )
        _print(f"height×width: {sizes}")
    if report.void_share is not None:
        _print(f"void: {report.void_share:.1%} of an image on average, {report.void_share_max:.1%} at most")
    if used:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("category", "kind"):
            table.add_column(column)
        for column in ("id", "images", "segments", "crowds", "pixels"):
            table.add_column(column, justify="right")
        for category in sorted(used, key=lambda category: -category.segments):
            table.add_row(
                Text(category.name),
                "thing" if category.isthing else "stuff",
                str(category.id),
                *(f"{n:,}" for n in (category.images, category.segments, category.crowds, category.pixels)),
            )
        _print("")
        _print(table)
    _print("")
    for kind, (severity, why) in KINDS.items():
        found = [finding for finding in report.findings if finding.kind == kind]
        if not found:
            continue
        style = "bold red" if severity == "error" else "bold yellow"
        _print(Text.assemble((f"{severity}: {kind}", style), f" ({len(found):,}): {why}"))
        for finding in found if everything else found[:SHOWN_PER_KIND]:
            _print(Text(f"  {finding.file}: {finding.message}" if finding.file else f"  {finding.message}"))
        if len(found) > SHOWN_PER_KIND and not everything:
            _print(Text(f"  … and {len(found) - SHOWN_PER_KIND:,} more; --all or --json lists them.", "dim"))
    if not report.findings:
        _print("No findings: this set can be scored.")
    else:
        verdict = "this set must not be scored as it is" if report.errors else "none would change a number"
        _print(f"{_counted(report.errors, 'error')}, {_counted(report.warnings, 'warning')}: {verdict}.")


@contextlib.contextmanager
def _byte_progress() -> Iterator[Callable[[str, int, "int | None"], None]]:
    """Bars with rate and time left, one for each thing under way; yields what to call with (what, done, total)."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(sys.stderr), transient=not sys.stderr.isatty()) as bars:
        tasks: dict[str, Any] = {}

        def report(label: str, done: int, total: int | None) -> None:
            if total is None and done == 0:
                return
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)

        yield report


@contextlib.contextmanager
def _count_progress(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with images a second and time left; yields what to call with (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console(sys.stderr), transient=True) as bars:
        task = bars.add_task(label, total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield report


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _readable(size: float) -> str:
    from rich.filesize import decimal

    return decimal(int(size))


def _console(stream: Any) -> Console:
    sized = stream.isatty() or os.environ.get("COLUMNS", "").isdigit()
    return Console(file=stream, width=None if sized else _WIDTH_WITHOUT_TERMINAL, highlight=False)


def _print(content: RenderableType) -> None:
    _console(sys.stdout).print(content, markup=False, soft_wrap=True)


def _say(sentence: str) -> None:
    _console(sys.stderr).print(sentence, markup=False, style="dim", soft_wrap=True)
