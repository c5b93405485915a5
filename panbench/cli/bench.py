"""`panbench bench`: speed, memory and FLOPs, on generated images."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from panbench.base import program
from panbench.base.computing import PRECISIONS, STAGES, check_precision_name
from panbench.base.errors import BadArgument
from panbench.catalog import choose_models, random_seed, split_rules, weights_named
from panbench.cli import console
from panbench.cli.command import (
    AsJson,
    Checkpoint,
    Config,
    Device,
    Download,
    Models,
    Orientation,
    Raw,
    Rules,
    Things,
    command,
    exif_option,
    family,
    may_download_weights,
    one_of,
)

app = family()

_MODEL, _WHAT = "Models", "What is measured"


@command(
    app,
    "bench",
    "panbench bench --model mask2former-tiny",
    "panbench bench -m mask2former-r50 --precision fp32,bf16 --batch-size 1,4",
)
def bench(
    model: Models = None,
    config: Config = None,
    checkpoint: Checkpoint = None,
    things: Things = None,
    download: Download = False,
    plant: Annotated[
        int,
        typer.Option(
            help="Make the heads answer with N segments an image; for random weights, which find none.",
            metavar="N",
            min=0,
            rich_help_panel=_MODEL,
        ),
    ] = 0,
    size: Annotated[
        str, typer.Option(help="Height and width of the generated images.", metavar="HxW", rich_help_panel=_WHAT)
    ] = "480x640",
    count: Annotated[int, typer.Option(help="How many images.", metavar="N", min=1, rich_help_panel=_WHAT)] = 20,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            help="Your own photographs instead of generated images: a file or a folder; repeatable.",
            metavar="PATH",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    exif: Annotated[Orientation, exif_option(_WHAT)] = Orientation.apply,
    device: Device = "auto",
    rule: Rules = None,
    precision: Annotated[
        str,
        typer.Option(
            help="Of fp32, ieee, tf32, bf16, fp16, comma-separated.",
            metavar="LIST",
            rich_help_panel=_WHAT,
            autocompletion=one_of(*PRECISIONS),
        ),
    ] = "fp32",
    batch_size: Annotated[
        str, typer.Option(help="Batch sizes, comma-separated.", metavar="LIST", rich_help_panel=_WHAT)
    ] = "1",
    warm_up: Annotated[
        int, typer.Option(help="Batches before the clock runs.", metavar="N", min=0, rich_help_panel=_WHAT)
    ] = 3,
    out: Annotated[Path | None, typer.Option(help="A folder for bench.csv and bench.json.", metavar="DIR")] = None,
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """Measure speed, memory, FLOPs, and what lower precisions cost, on generated images."""
    for path in images or []:
        if path.name.isdigit() and not path.exists():
            raise BadArgument(f"--images takes photographs. For {path} generated images write --count {path}.")
    height_and_width = parse_size(size)
    batch_sizes = parse_batch_sizes(batch_size)
    precisions = [check_precision_name(name.strip()) for name in precision.split(",") if name.strip()]
    specs = choose_models(model or [], config, checkpoint, things)
    download = may_download_weights(specs, checkpoint, download)

    with program.importing():
        from panbench.evaluation.tools.benchmark import benchmark, write_report

    with console.Bars() as bars:
        report = benchmark(
            specs,
            size=height_and_width,
            count=count,
            photographs=images or (),
            exif=exif.choice,
            device=device,
            rules=[] if rule is None else split_rules(rule),
            precisions=precisions,
            batch_sizes=batch_sizes,
            weights=weights_named(checkpoint),
            seed=random_seed(checkpoint) or 0,
            plant=plant,
            warm_up=warm_up,
            download=download,
            command=["panbench", *sys.argv[1:]],
            reporter=bars,
        )
    if as_json:
        console.show_json(report.record())
    else:
        _show(report, plant)
    if out is not None:
        written = write_report(report, out, raw=raw)
        console.say(f"Written: {written[0]}, {written[1]}")


def _show(report: Any, plant: int) -> None:
    console.show(table_of(report))
    if plant:
        console.say(f"Planted: the heads' last answers are replaced by {plant} segments an image.")
    console.say(
        "Img/s: once warm; Loop s: all images, from the first read to the last write. p50, p99: a batch from file to "
        "map. Stages: ms an image, overlapping. GMACs: multiply-adds, each once, of a 480×640 image through the "
        "model's pipeline."
    )


def parse_size(size: str) -> tuple[int, int]:
    """(height, width) of `480x640`. Raises BadArgument."""
    height, by, width = size.lower().partition("x")
    if not (by and height.isdigit() and width.isdigit()):
        raise BadArgument(f"--size {size} is not a size: write HEIGHTxWIDTH, for example 480x640.")
    return int(height), int(width)


def parse_batch_sizes(sizes: str) -> list[int]:
    """The batch sizes of `1,2,4`. Raises BadArgument."""
    parts = [part.strip() for part in sizes.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise BadArgument(f"--batch-size {sizes} is not a list of whole numbers from 1 on: write for example 1,2,4.")
    return [int(part) for part in parts]


def table_of(report: Any) -> Group:
    """The rows for a terminal of 80 columns: a line a model, then each model's speed, stages, memory and quality."""
    models = list(dict.fromkeys(map(_named, report.rows)))
    parts: list[Any] = [_overview(report.rows), ""] if len(models) > 1 else []
    for model in models:
        speed = _table("Img/s", "Loop s", "p50 ms", "p99 ms", *(name.title() for name in STAGES))
        size = _table("Host MB", "GPU MB", "GMACs", "Params", "PQ", "ΔPQ", "Pixels differ")
        failed = []
        for row in (row for row in report.rows if _named(row) == model):
            key = (row.precision, str(row.batch_size))
            if row.status != "ok":
                failed.append(f"{row.precision}, batch size {row.batch_size}: {row.status}")
                continue
            speed.add_row(
                *key,
                _number(row.images_per_second, 2),
                _number(row.loop_seconds, 1),
                *(_milliseconds(value) for value in (row.latency_p50, row.latency_p99)),
                *(_milliseconds(getattr(row, stage)) for stage in STAGES),
            )
            size.add_row(
                *key,
                *(_number(value, 0, 1e-6) for value in (row.host_peak_bytes, row.device_peak_bytes)),
                _number(row.gmacs, 1),
                "–" if row.params is None else _number(row.params, 1, 1e-6) + " M",
                *(_number(value, 2, 100) for value in (row.PQ, row.pq_difference)),
                "–" if row.pixels_differ is None else f"{100 * row.pixels_differ:.3f} %",
            )
        title = model + (" (random weights)" if _is_random(report.rows, model) else "")
        parts.extend(
            ([""] if parts and parts[-1] != "" else [])
            + [Text(title, style="bold"), speed, "", size, *map(Text, failed)]
        )
    return Group(*parts)


def _overview(rows: Sequence[Any]) -> Table:
    """A line a model: its first setting, fp32 at the smallest batch size."""
    table = Table(box=None, pad_edge=False)
    table.add_column("Model", no_wrap=True)
    for heading in ("Img/s", "p50 ms", "Host MB", "GPU MB", "GMACs", "Params"):
        table.add_column(heading, justify="right", no_wrap=True)
    first = {_named(row): row for row in reversed(rows)}
    for model in dict.fromkeys(map(_named, rows)):
        row = first[model]
        table.add_row(
            Text(model + ("*" if _is_random(rows, model) else "")),
            _number(row.images_per_second, 2),
            _milliseconds(row.latency_p50),
            *(_number(value, 0, 1e-6) for value in (row.host_peak_bytes, row.device_peak_bytes)),
            _number(row.gmacs, 1),
            "–" if row.params is None else _number(row.params, 1, 1e-6) + " M",
        )
    if any(row.weights == "random" for row in rows):
        table.caption = "* random weights"
        table.caption_justify = "left"
    return table


def _named(row: Any) -> str:
    """A model, with its rule where one was named."""
    return str(row.model) if row.rule is None else f"{row.model} [{row.rule}]"


def _is_random(rows: Sequence[Any], model: str) -> bool:
    return any(row.weights == "random" for row in rows if _named(row) == model)


def _table(*numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for heading in ("Precision", "Batch"):
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _milliseconds(value: float | None) -> str:
    return _number(value, 1 if value is not None and value < 100 else 0)


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return "–" if value is None else f"{value * factor:.{digits}f}"
