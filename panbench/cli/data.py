"""Declares `panbench data …`, which downloads, checks and converts datasets."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.filesize import decimal
from rich.text import Text

from panbench.base.errors import BadArgument
from panbench.base.references import load
from panbench.base.reporter import counter
from panbench.cli import console
from panbench.cli.command import OFFSET, command, family, flag, option

if TYPE_CHECKING:
    from panbench.datasets.check import CheckReport
    from panbench.datasets.convert import Converted

SHOWN_PER_KIND = 10

app = family()
data_app = family("data", "Fetch, check and convert datasets.")


Split = Literal["val", "train"]
Placing = Literal["link", "copy", "none"]

_Root = Annotated[Path | None, option("The folder of the new set. Default: data/NAME.")]
_Split = Annotated[Split, option("The split.")]
_Place = Annotated[Placing, option("Link the images next to the annotations, copy them, or leave them out.")]
_Overwrite = Annotated[bool, flag("--overwrite", "Replace a set that already exists.")]


@command(data_app, "coco", "panbench data coco --limit 100")
def coco(
    split: Annotated[
        Literal["val", "train", "test-dev"], option("val, train, or test-dev (images and their list only).")
    ] = "val",
    limit: Annotated[int | None, option("Only the first N images and their ground truth.", min=1)] = None,
    root: Annotated[Path, option("The folder of the set.")] = Path("data/coco"),
    instances: Annotated[
        bool, flag("--instances", "Also instances_SPLIT2017.json: what `eval --metrics ap=FILE` takes.")
    ] = False,
    keep_archives: Annotated[bool, flag("--keep-archives", "Keep whole archives in ROOT/archives.")] = False,
    archives_from: Annotated[
        Path | None, typer.Option("--from", help="A folder with COCO's archives; they are read without unpacking them.")
    ] = None,
) -> None:
    """Download COCO panoptic: only what is missing, verified. After an interruption the same command continues.

    A second call verifies what is on disk and downloads nothing. PANBENCH_MIRROR_COCO names another host or a folder.
    """
    from panbench.datasets.fetch import fetch_coco

    with console.Bars() as bars:
        folder = fetch_coco(
            root,
            split,
            limit=limit,
            instances=instances,
            keep_archives=keep_archives,
            archives_from=archives_from,
            reporter=bars,
        )
    pngs = "" if folder.pngs is None else f" and {folder.n_pngs:,} ground-truth PNGs"
    downloaded = f"{decimal(int(folder.fetched))} downloaded" if folder.fetched else "nothing to download"
    _print_line(f"{folder.root}, {split}: {folder.n_images:,} images{pngs} verified; {downloaded}.")
    _print_line(f"JSON: {folder.json}")
    if folder.instances is not None:
        _print_line(f"Instances: {folder.instances}")
    if split != "test-dev":
        options = f" --limit {limit}" if limit is not None else ""
        options += f" --split {split}" if split != "val" else ""
        console.hint(f"Next: `panbench eval --model NAME --data {folder.root}{options}`")


@command(data_app, "check", "panbench data check data/coco --limit 100", idle_beside={"--all": ("--json",)})
def check(
    path: Annotated[Path, typer.Argument(help="A panoptic JSON, or a folder such as data/coco.")],
    split: Annotated[str | None, option("The split, where PATH is a folder. Default: val.")] = None,
    images: Annotated[Path | None, option("The folder of images, if not in the usual folder.")] = None,
    gt_dir: Annotated[Path | None, option("The folder of id PNGs, if not next to the JSON.")] = None,
    limit: Annotated[int | None, option("Only the first N images.", min=1)] = None,
    everything: Annotated[
        bool, flag("--all", f"Print every finding, not only the first {SHOWN_PER_KIND} of a kind.")
    ] = False,
    as_json: Annotated[bool, flag("--json", "Print an object with every finding.")] = False,
) -> None:
    """Check whether a panoptic set can be scored: JSON, PNGs and images.

    Exit code 1 if a finding would change a number or stop a run.
    """
    from panbench.datasets.check import check_set

    if split is not None and path.is_file():
        raise BadArgument(f"--split chooses a JSON of a folder, and {path} is a file. Leave it out.")

    with console.Bars(transient=True) as bars:
        report = check_set(
            path, split=split or "val", images=images, pngs=gt_dir, limit=limit, progress=counter(bars, "Checking")
        )
    if as_json:
        console.show_json(report.as_record())
    else:
        _print_check_report(report, everything)
    if report.errors:
        raise typer.Exit(1)


def _declare_conversion_command(name: str, example: str, source_help: str, summary: str, converter: str) -> None:
    """Declares `panbench data NAME SOURCE`, which converts a dataset.

    converter: the import path of the function that converts it
    """

    def convert_source(
        source: Annotated[Path, typer.Argument(help=source_help)],
        root: _Root = None,
        split: _Split = "val",
        place: _Place = "link",
        overwrite: _Overwrite = False,
    ) -> None:
        """Converts a dataset, such as Cityscapes, from the folder `source` to COCO panoptic format."""
        _run_converter(load(converter), source, root or Path("data") / name, split, place, overwrite)

    convert_source.__doc__ = summary
    command(data_app, name, f"panbench data {name} {example}")(convert_source)


_declare_conversion_command(
    "cityscapes",
    "cityscapes/",
    "The folder that holds gtFine and leftImg8bit, or their zips.",
    "Make a panoptic set of Cityscapes' gtFine (fetch it from cityscapes-dataset.com).",
    "panbench.datasets.published:convert_cityscapes",
)
_declare_conversion_command(
    "ade20k",
    "ADEChallengeData2016/",
    "The folder of ADE20K's archives, or ADEChallengeData2016.",
    "Make a panoptic set of ADE20K's 150 categories (fetch it from sceneparsing.csail.mit.edu).",
    "panbench.datasets.published:convert_ade20k",
)


@command(data_app, "mapillary", "panbench data mapillary mapillary/ --release v1.2")
def mapillary(
    source: Annotated[Path, typer.Argument(help="The unpacked dataset, with training and validation.")],
    release: Annotated[
        Literal["v1.2", "v2.0"] | None,
        option("v1.2 (65 categories, as the models) or v2.0. Default: the newest there."),
    ] = None,
    root: _Root = None,
    split: _Split = "val",
    place: _Place = "link",
    overwrite: _Overwrite = False,
) -> None:
    """Make a panoptic set of Mapillary Vistas (fetch it from mapillary.com/dataset/vistas)."""
    from panbench.datasets.published import convert_mapillary

    _run_converter(convert_mapillary, source, root or Path("data/mapillary"), split, place, overwrite, release=release)


_declare_conversion_command(
    "kitti-step",
    "kitti/",
    "The folder that holds panoptic_maps and training/image_02.",
    "Make a panoptic set of KITTI-STEP's frames (fetch it from cvlibs.net/datasets/kitti).",
    "panbench.datasets.published:convert_kitti_step",
)


@command(
    data_app,
    "coconut",
    "panbench data coconut relabeled_coco_val.json --gt-dir relabeled_coco_val/",
    idle_beside={"--images": ("--place none",)},
)
def coconut(
    source: Annotated[Path, typer.Argument(help="relabeled_coco_val.json, coconut_s.json or coconut_b.json.")],
    gt_dir: Annotated[Path | None, option("The unpacked PNGs, if not next to the JSON.")] = None,
    images_from: Annotated[Path, typer.Option("--images", help="COCO's images of the same split.")] = Path(
        "data/coco/val2017"
    ),
    root: _Root = None,
    split: _Split = "val",
    place: _Place = "link",
    overwrite: _Overwrite = False,
) -> None:
    """Combine COCONut's masks with COCO's images (fetch them from Kaggle or Hugging Face)."""
    from panbench.datasets.published import convert_coconut

    options = {"pngs": gt_dir, "images_from": images_from}
    _run_converter(convert_coconut, source, root or Path("data/coconut"), split, place, overwrite, **options)


@command(
    data_app,
    "convert",
    "panbench data convert two-channel maps/ --categories coco --out data/mine",
    "panbench data convert shards val-000.tar val-001.tar --out data/mine",
    "panbench data convert detection panoptic_val2017.json --out detection.json",
    needs={
        "--semantic": ("instances",),
        "--offset": ("--semantic",),
        "--crowds": ("instances",),
        "--gt-dir": ("panoptic", "detection"),
        "--things-only": ("detection",),
    },
    idle_beside={
        **dict.fromkeys(("--categories", "--images", "--split"), ("detection",)),
        "--place": ("detection", "shards"),
    },
)
def convert(
    format: Annotated[
        Literal["instances", "two-channel", "arrays", "panoptic", "shards", "detection"],
        typer.Argument(help="What SOURCE is; `detection` writes a panoptic set as COCO detection."),
    ],
    sources: Annotated[
        list[Path],
        typer.Argument(help="A folder (two-channel, arrays), a JSON (the others), or shards.", metavar="SOURCE"),
    ],
    out: Annotated[Path, option("The new set's root; for detection the JSON to write.")],
    categories: Annotated[
        str | None, option("coco, ade20k, cityscapes, mapillary, or a JSON with id, name and isthing.")
    ] = None,
    semantic: Annotated[Path | None, option("instances: semantic PNGs, one channel. Without: things only.")] = None,
    offset: Annotated[str, option(OFFSET, metavar="N|order|FILE")] = "0",
    gt_dir: Annotated[Path | None, option("panoptic, detection: id PNGs, if not next to the JSON.")] = None,
    images_from: Annotated[Path | None, typer.Option("--images", help="The folder of images.")] = None,
    split: Annotated[str, option("The new set's split.")] = "val",
    place: _Place = "link",
    crowds: Annotated[
        Literal["keep", "instances"] | None,
        option("instances: what iscrowd 1 becomes. Default: keep, unless all are crowds."),
    ] = None,
    things_only: Annotated[bool, flag("--things-only", "detection: leave stuff out.")] = False,
    overwrite: _Overwrite = False,
) -> None:
    """Convert label maps to a panoptic set, or a panoptic set to COCO detection JSON.

    instances: COCO instance JSON, and semantic PNGs where there are any; without, a set of things only. two-channel:
    PNGs with category and instance. arrays: .npz with `labels` and `instances`. panoptic: a JSON that is almost
    COCO's. shards: tar files of WebDataset, Parquet of the hub, JSON lines. detection: the reverse.
    """
    from panbench.datasets import convert as converters

    if len(sources) > 1 and format != "shards":
        raise BadArgument(f"`data convert {format}` takes one SOURCE, not {len(sources)}.")
    if categories is None and format in ("two-channel", "arrays"):
        raise BadArgument(f"`data convert {format}` needs --categories: {', '.join(converters.SHIPPED)} or a JSON.")
    if semantic is not None and categories is None:
        raise BadArgument("`data convert instances --semantic` needs --categories: which of them are stuff?")
    source = sources[0]
    if format == "detection":
        if out.exists() and not overwrite:
            raise BadArgument(f"{out} already exists. Give another name, or --overwrite.")
        with console.Bars(transient=True) as bars:
            n = converters.panoptic_to_detection(
                source, out, pngs=gt_dir, things_only=things_only, progress=counter(bars, "Converting")
            )
        _print_line(f"{out}: {n:,} annotations.")
        return
    known = None if categories is None else converters.categories_named(categories)
    options: dict[str, Any] = {"images_from": images_from}
    if format == "shards":
        from panbench.datasets.shards import convert_shards

        _run_converter(convert_shards, sources, out, split, known, None, overwrite, **options)
    elif format == "panoptic":
        _run_converter(
            converters.convert_panoptic, source, gt_dir, out, split, place, overwrite, categories=known, **options
        )
    elif format == "instances":
        options |= {"crowds": crowds, "offset": offset}
        _run_converter(converters.convert_instances, source, semantic, known, out, split, place, overwrite, **options)
        if semantic is None:
            _print_line(
                "A set of things only: what no instance covers is void. With --semantic PNGs it has stuff, too."
            )
    else:
        function = converters.convert_two_channel if format == "two-channel" else converters.convert_arrays
        _run_converter(function, source, known, out, split, place, overwrite, **options)


# Shared helpers


def _run_converter(function: Callable[..., "Converted"], *arguments: Any, **options: Any) -> None:
    """Calls a converter and prints a summary of the set it made.

    arguments: the last two are the value for its `images` (or None), and for `overwrite`
    """
    *positional, images, overwrite = arguments
    options |= {} if images is None else {"images": images}
    with console.Bars(transient=True) as bars:
        made = function(*positional, overwrite=overwrite, progress=counter(bars, "Converting"), **options)
    _print_line(
        f"{made.root}: {_count_in_words(made.n_images, 'image')}, {_count_in_words(made.n_segments, 'segment')}."
    )
    for words, count in made.left_out.items():
        _print_line(f"Left out: {count:,} {words}.")
    for note in made.notes:
        _print_line(f"Note: {note}")
    console.hint(f"Next: `panbench data check {made.json}`")


def _print_check_report(report: "CheckReport", everything: bool) -> None:
    from rich.table import Table

    from panbench.datasets.check import KINDS

    things = sum(category.isthing for category in report.categories)
    used = [category for category in report.categories if category.segments]
    _print_line(f"{report.json}")
    _print_line(f"images {report.n_images:,}, segments {report.n_segments:,}, of which crowds {report.n_crowds:,}")
    _print_line(
        f"categories {len(report.categories)} ({things} things, {len(report.categories) - things} stuff), "
        f"of which without a segment here {len(report.categories) - len(used)}"
    )
    if report.median is not None and report.smallest is not None and report.largest is not None:
        sizes = ", ".join(
            f"{name} {height}×{width}"
            for name, (height, width) in zip(
                ("smallest", "median", "largest"), (report.smallest, report.median, report.largest), strict=True
            )
        )
        _print_line(f"height×width: {sizes}")
    if report.void_share is not None:
        _print_line(f"void: {report.void_share:.1%} of an image on average, {report.void_share_max:.1%} at most")
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
        _print_line("")
        _print_line(table)
    _print_line("")
    for kind, (severity, why) in KINDS.items():
        found = [finding for finding in report.findings if finding.kind == kind]
        if not found:
            continue
        style = "bold red" if severity == "error" else "bold yellow"
        _print_line(Text.assemble((f"{severity}: {kind}", style), f" ({len(found):,}): {why}"))
        for finding in found if everything else found[:SHOWN_PER_KIND]:
            _print_line(Text(f"  {finding.file}: {finding.message}" if finding.file else f"  {finding.message}"))
        if len(found) > SHOWN_PER_KIND and not everything:
            _print_line(Text(f"  … and {len(found) - SHOWN_PER_KIND:,} more; --all or --json lists them.", "dim"))
    if not report.findings:
        _print_line("No findings: this set can be scored.")
    else:
        verdict = "fix the errors before scoring this set" if report.errors else "none would change a number"
        _print_line(
            f"{_count_in_words(report.errors, 'error')}, {_count_in_words(report.warnings, 'warning')}: {verdict}."
        )


def _count_in_words(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _print_line(content: Any) -> None:
    """Prints text without breaking lines at the terminal's width."""
    console.show(content, soft_wrap=True)


app.add_typer(data_app)
