"""`panbench data …`: datasets are fetched, checked and converted."""

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.text import Text

from panbench.base.errors import BadArgument
from panbench.base.reporter import counter
from panbench.cli import console
from panbench.cli.command import OFFSET, command, family, option

if TYPE_CHECKING:
    from panbench.datasets.check import CheckReport
    from panbench.datasets.convert import Converted

SHOWN_PER_KIND = 10

app = family()
data_app = family("data", "Fetch, check and convert datasets.")


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
    """The formats that `data convert` reads; `detection` is the reverse."""

    instances = "instances"
    two_channel = "two-channel"
    arrays = "arrays"
    panoptic = "panoptic"
    shards = "shards"
    detection = "detection"


class Crowds(str, Enum):
    """What instances with iscrowd 1 become."""

    keep = "keep"
    instances = "instances"


_Root = Annotated[Path | None, typer.Option("--root", help="The folder of the new set. Default: data/NAME.")]
_SplitOption = Annotated[Split, typer.Option("--split", help="The split.")]
_ImagesOption = Annotated[
    Images, typer.Option("--place", help="Link the images beside the annotations, copy, or leave.")
]
_Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a set that already exists.")]


@command(data_app, "coco", "panbench data coco --limit 100")
def coco(
    split: Annotated[
        CocoSplit, typer.Option(help="val, train, or test-dev (images and their list only).")
    ] = CocoSplit.val,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images and their ground truth.")] = None,
    root: Annotated[Path, typer.Option(help="The folder of the set.")] = Path("data/coco"),
    instances: Annotated[
        bool, typer.Option("--instances", help="Also instances_SPLIT2017.json: what `eval --metrics ap=FILE` takes.")
    ] = False,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keep whole archives in ROOT/archives.")
    ] = False,
    archives_from: Annotated[
        Path | None, typer.Option("--from", help="A folder with COCO's archives; they are read in place.")
    ] = None,
) -> None:
    """Download COCO panoptic: only what is missing, verified. After an interruption the same command continues.

    A second call verifies what is on disk and downloads nothing. PANBENCH_MIRROR_COCO names another host or a folder.
    """
    from panbench.datasets.fetch import fetch_coco

    with console.Bars() as bars:
        folder = fetch_coco(
            root,
            split.value,
            limit=limit,
            instances=instances,
            keep_archives=keep_archives,
            archives_from=archives_from,
            reporter=bars,
        )
    pngs = "" if folder.pngs is None else f" and {folder.n_pngs:,} ground-truth PNGs"
    downloaded = f"{decimal(int(folder.fetched))} downloaded" if folder.fetched else "nothing to download"
    _print(f"{folder.root}, {split.value}: {folder.n_images:,} images{pngs} verified; {downloaded}.")
    _print(f"JSON: {folder.json}")
    if folder.instances is not None:
        _print(f"Instances: {folder.instances}")
    if split is not CocoSplit.test_dev:
        options = f" --limit {limit}" if limit is not None else ""
        options += f" --split {split.value}" if split is not CocoSplit.val else ""
        console.say(f"Next: `panbench eval --model NAME --data {folder.root}{options}`")


@command(data_app, "check", "panbench data check data/coco --limit 100")
def check(
    path: Annotated[Path, typer.Argument(help="A panoptic JSON, or a folder such as data/coco.")],
    split: Annotated[str, typer.Option(help="The split, where PATH is a folder.")] = "val",
    images: Annotated[Path | None, typer.Option(help="The folder of images, if not in its usual place.")] = None,
    gt_dir: Annotated[Path | None, typer.Option(help="The folder of id PNGs, if not beside the JSON.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help=f"Print every finding, not only the first {SHOWN_PER_KIND} of a kind.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print an object with every finding.")] = False,
) -> None:
    """Check whether a panoptic set can be scored: JSON, PNGs and images.

    Exit code 1 if a finding would change a number or stop a run.
    """
    from panbench.datasets.check import check_set

    with console.Bars(transient=True) as bars:
        report = check_set(
            path, split=split, images=images, pngs=gt_dir, limit=limit, progress=counter(bars, "Checking")
        )
    if as_json:
        console.show_json(report.as_record())
    else:
        _print_check(report, everything)
    if report.errors:
        raise typer.Exit(1)


@command(data_app, "cityscapes", "panbench data cityscapes cityscapes/")
def cityscapes(
    source: Annotated[Path, typer.Argument(help="The folder that holds gtFine and leftImg8bit, or their zips.")],
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Make a panoptic set of Cityscapes' gtFine (fetch it from cityscapes-dataset.com)."""
    from panbench.datasets.cityscapes import convert_cityscapes

    _converted(convert_cityscapes, source, root or Path("data/cityscapes"), split.value, images, overwrite)


@command(data_app, "ade20k", "panbench data ade20k ADEChallengeData2016/")
def ade20k(
    source: Annotated[Path, typer.Argument(help="The folder of ADE20K's archives, or ADEChallengeData2016.")],
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Make a panoptic set of ADE20K's 150 categories (fetch it from sceneparsing.csail.mit.edu)."""
    from panbench.datasets.ade20k import convert_ade20k

    _converted(convert_ade20k, source, root or Path("data/ade20k"), split.value, images, overwrite)


class Release(str, Enum):
    """Releases of Mapillary Vistas that have a panoptic JSON."""

    v1_2 = "v1.2"
    v2_0 = "v2.0"


@command(data_app, "mapillary", "panbench data mapillary mapillary/ --release v1.2")
def mapillary(
    source: Annotated[Path, typer.Argument(help="The unpacked dataset, with training and validation.")],
    release: Annotated[
        Release | None, typer.Option(help="v1.2 (65 categories, as the models) or v2.0. Default: the newest there.")
    ] = None,
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Make a panoptic set of Mapillary Vistas (fetch it from mapillary.com/dataset/vistas)."""
    from panbench.datasets.mapillary import convert_mapillary

    chosen = None if release is None else release.value
    arguments = (source, root or Path("data/mapillary"), split.value)
    _converted(convert_mapillary, *arguments, images, overwrite, release=chosen)


@command(data_app, "kitti-step", "panbench data kitti-step kitti/")
def kitti_step(
    source: Annotated[Path, typer.Argument(help="The folder that holds panoptic_maps and training/image_02.")],
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Make a panoptic set of KITTI-STEP's frames (fetch it from cvlibs.net/datasets/kitti)."""
    from panbench.datasets.kitti_step import convert_kitti_step

    _converted(convert_kitti_step, source, root or Path("data/kitti-step"), split.value, images, overwrite)


@command(data_app, "coconut", "panbench data coconut relabeled_coco_val.json --gt-dir relabeled_coco_val/")
def coconut(
    source: Annotated[Path, typer.Argument(help="relabeled_coco_val.json, coconut_s.json or coconut_b.json.")],
    gt_dir: Annotated[Path | None, typer.Option(help="The unpacked PNGs, if not beside the JSON.")] = None,
    images_from: Annotated[Path, typer.Option("--images", help="COCO's images of the same split.")] = Path(
        "data/coco/val2017"
    ),
    root: _Root = None,
    split: _SplitOption = Split.val,
    images: _ImagesOption = Images.link,
    overwrite: _Overwrite = False,
) -> None:
    """Put COCONut's masks beside COCO's images (fetch them from Kaggle or Hugging Face)."""
    from panbench.datasets.coconut import convert_coconut

    options = {"pngs": gt_dir, "images_from": images_from}
    _converted(convert_coconut, source, root or Path("data/coconut"), split.value, images, overwrite, **options)


@command(
    data_app,
    "convert",
    "panbench data convert two-channel maps/ --categories coco --out data/mine",
    "panbench data convert shards val-000.tar val-001.tar --out data/mine",
    "panbench data convert detection panoptic_val2017.json --out detection.json",
)
def convert(
    format: Annotated[
        Format, typer.Argument(help="What SOURCE is; `detection` writes a panoptic set as COCO detection.")
    ],
    sources: Annotated[
        list[Path],
        typer.Argument(help="A folder (two-channel, arrays), a JSON (the others), or shards.", metavar="SOURCE"),
    ],
    out: Annotated[Path, typer.Option(help="The new set's root; for detection the JSON to write.")],
    categories: Annotated[
        str | None, typer.Option(help="coco, ade20k, cityscapes, mapillary, or a JSON with id, name and isthing.")
    ] = None,
    semantic: Annotated[
        Path | None, typer.Option(help="instances: semantic PNGs, one channel. Without: things only.")
    ] = None,
    offset: Annotated[str, option(OFFSET, metavar="N|order|FILE")] = "0",
    gt_dir: Annotated[Path | None, typer.Option(help="panoptic, detection: id PNGs, if not beside the JSON.")] = None,
    images_from: Annotated[Path | None, typer.Option("--images", help="The folder of images.")] = None,
    split: Annotated[str, typer.Option(help="The new set's split.")] = "val",
    images: _ImagesOption = Images.link,
    crowds: Annotated[
        Crowds | None, typer.Option(help="instances: what iscrowd 1 becomes. Default: keep, unless all are crowds.")
    ] = None,
    things_only: Annotated[bool, typer.Option("--things-only", help="detection: leave stuff out.")] = False,
    overwrite: _Overwrite = False,
) -> None:
    """Convert label maps to a panoptic set, or a panoptic set to COCO detection JSON.

    instances: COCO instance JSON, and semantic PNGs where there are any; without, a set of things only. two-channel:
    PNGs with category and instance. arrays: .npz with `labels` and `instances`. panoptic: a JSON that is almost
    COCO's. shards: tar files of WebDataset, Parquet of the hub, JSON lines. detection: the reverse.
    """
    from panbench.datasets import convert as converters

    if format is Format.shards:
        from panbench.datasets.shards import convert_shards

        given = None if categories is None else converters.categories_named(categories)
        with console.Bars(transient=True) as bars:
            _show_converted(
                convert_shards(
                    sources,
                    out,
                    split,
                    given,
                    images_from=images_from,
                    overwrite=overwrite,
                    progress=counter(bars, "Unpacking shards"),
                )
            )
        return
    if len(sources) > 1:
        raise BadArgument(f"`data convert {format.value}` takes one SOURCE, not {len(sources)}.")
    (source,) = sources
    if format is Format.detection:
        if out.exists() and not overwrite:
            raise BadArgument(f"{out} already exists. Give another name, or --overwrite.")
        with console.Bars(transient=True) as bars:
            n = converters.panoptic_to_detection(
                source, out, pngs=gt_dir, things_only=things_only, progress=counter(bars, "Converting")
            )
        _print(f"{out}: {n:,} annotations.")
        return
    if format is Format.panoptic:
        known = None if categories is None else converters.categories_named(categories)
        options: dict[str, Any] = {"images_from": images_from, "categories": known}
        _converted(converters.convert_panoptic, source, gt_dir, out, images, overwrite, split=split, **options)
        return
    if format is Format.instances:
        if semantic is not None and categories is None:
            raise BadArgument("`data convert instances --semantic` needs --categories: which of them are stuff?")
        known = None if categories is None else converters.categories_named(categories)
        options = {"images_from": images_from, "crowds": None if crowds is None else crowds.value, "offset": offset}
        _converted(converters.convert_instances, source, semantic, known, out, split, images, overwrite, **options)
        if semantic is None:
            _print("A set of things only: what no instance covers is void. With --semantic PNGs it has stuff, too.")
        return
    if categories is None:
        raise BadArgument(
            f"`data convert {format.value}` needs --categories: {', '.join(converters.SHIPPED)} or a JSON."
        )
    known = converters.categories_named(categories)
    function = converters.convert_two_channel if format is Format.two_channel else converters.convert_arrays
    _converted(function, source, known, out, split, images, overwrite, images_from=images_from)


# What is shared


def _converted(function: Callable[..., "Converted"], *arguments: Any, **options: Any) -> None:
    """Calls a converter; the last two positional arguments are its options for images and overwriting."""
    *positional, images, overwrite = arguments
    with console.Bars(transient=True) as bars:
        made = function(
            *positional, images=images.value, overwrite=overwrite, progress=counter(bars, "Converting"), **options
        )
    _show_converted(made)


def _show_converted(made: "Converted") -> None:
    _print(f"{made.root}: {_counted(made.n_images, 'image')}, {_counted(made.n_segments, 'segment')}.")
    for words, count in made.left_out.items():
        _print(f"Left out: {count:,} {words}.")
    for note in made.notes:
        _print(f"Note: {note}")
    console.say(f"Next: `panbench data check {made.json}`")


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
        verdict = "mend the errors before scoring this set" if report.errors else "none would change a number"
        _print(f"{_counted(report.errors, 'error')}, {_counted(report.warnings, 'warning')}: {verdict}.")


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _print(content: Any) -> None:
    console.show(content, soft_wrap=True)


app.add_typer(data_app)
