"""Declares `panbench bench`: speed, memory and FLOPs on generated images."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from panbench.base import program
from panbench.base.computing import PRECISIONS, STAGES, runtimes
from panbench.base.errors import BadArgument
from panbench.catalog import choose_models, random_seed, split_rules, weights_named
from panbench.cli import console
from panbench.cli.command import (
    AsJson,
    Checkpoint,
    Config,
    Device,
    Download,
    Labels,
    Models,
    Orientation,
    Raw,
    Rules,
    command,
    exif_option,
    family,
    may_download_weights,
    one_of,
    option,
)
from panbench.evaluation.options import computing_of

app = family()

_MODEL, _WHAT = "Models", "What is measured"


@command(
    app,
    "bench",
    "panbench bench --model mask2former-tiny",
    "panbench bench -m mask2former-r50 --precision fp32,bf16 --batch-size 1,4",
    needs={"--exif": ("--images",), "--raw": ("--out",)},
    idle_beside={"--size": ("--images",)},
)
def bench(
    model: Models = None,
    config: Config = None,
    checkpoint: Checkpoint = None,
    labels: Labels = None,
    download: Download = False,
    plant: Annotated[
        int,
        option("Make the heads output N segments per image; for random weights, which find none.", _MODEL, min=0),
    ] = 0,
    size: Annotated[str, option("Height and width of the generated images.", _WHAT, "HxW")] = "480x640",
    count: Annotated[int, option("How many images.", _WHAT, min=1)] = 20,
    images: Annotated[
        list[Path] | None,
        option("Your own photographs instead of generated images: a file or a folder; repeatable.", _WHAT, "PATH"),
    ] = None,
    exif: Annotated[Orientation, exif_option(_WHAT)] = "apply",
    device: Device = "auto",
    rule: Rules = None,
    precision: Annotated[
        str,
        option(
            f"Of fp32, ieee, tf32, bf16, fp16, comma-separated; with +{' or +'.join(runtimes())} as in `eval`.",
            _WHAT,
            "LIST",
            autocompletion=one_of(*PRECISIONS, *(f"fp32+{name}" for name in runtimes())),
        ),
    ] = "fp32",
    batch_size: Annotated[str, option("Batch sizes, comma-separated.", _WHAT, "LIST")] = "1",
    warm_up: Annotated[int, option("Batches before the clock runs.", _WHAT, min=0)] = 3,
    out: Annotated[Path | None, option("A folder for bench.csv and bench.json.", metavar="DIR")] = None,
    raw: Raw = False,
    as_json: AsJson = False,
) -> None:
    """Measure speed, memory, FLOPs, and what lower precisions cost, on generated images."""
    for path in images or []:
        if path.name.isdigit() and not path.exists():
            raise BadArgument(f"--images takes photographs. For {path} generated images write --count {path}.")
    height_and_width = parse_size(size)
    batch_sizes = parse_batch_sizes(batch_size)
    precisions = [name.strip() for name in precision.split(",") if name.strip()]
    for name in precisions:
        computing_of(name, device)
    specs = choose_models(model or [], config, checkpoint, labels)
    download = may_download_weights(specs, checkpoint, download)

    with program.importing():
        from panbench.evaluation.tools.benchmark import benchmark, write_report

    with console.Bars() as bars:
        report = benchmark(
            specs,
            size=height_and_width,
            count=count,
            photographs=images or (),
            exif=exif,
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
        _show_report(report, plant)
    if out is not None:
        written = write_report(report, out, raw=raw)
        console.hint(f"Written: {written[0]}, {written[1]}")


def _show_report(report: Any, plant: int) -> None:
    console.show(table_of(report))
    if plant:
        console.hint(f"Planted: the heads' final outputs are replaced by {plant} segments per image.")
    console.hint(
        "Img/s: once warm; Loop s: all images, from the first read to the last write. p50, p99: a batch from file to "
        "map. Stages: ms an image, overlapping. GMACs: multiply-adds, each once, of a 480×640 image through the "
        "model's pipeline."
    )


def parse_size(size: str) -> tuple[int, int]:
    """Parses `480x640` to (height, width). Raises BadArgument."""
    height, by, width = size.lower().partition("x")
    if not (by and height.isdigit() and width.isdigit()):
        raise BadArgument(f"--size {size} is not a size: write HEIGHTxWIDTH, for example 480x640.")
    return int(height), int(width)


def parse_batch_sizes(sizes: str) -> list[int]:
    """Parses the batch sizes of `1,2,4`. Raises BadArgument."""
    parts = [part.strip() for part in sizes.split(",")]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise BadArgument(f"--batch-size {sizes} is not a list of whole numbers from 1 on: write for example 1,2,4.")
    return [int(part) for part in parts]


def table_of(report: Any) -> Group:
    """Formats the report for 80 columns: a line per model, then speed, stages, memory and quality of each."""
    models = list(dict.fromkeys(map(_model_and_rule, report.rows)))
    parts: list[Any] = [_benchmark_overview_table(report.rows), ""] if len(models) > 1 else []
    for model in models:
        speed = _empty_benchmark_table("Img/s", "Loop s", "p50 ms", "p99 ms", *(name.title() for name in STAGES))
        size = _empty_benchmark_table("Host MB", "GPU MB", "GMACs", "Params", "PQ", "ΔPQ", "Pixels differ")
        failed = []
        for row in (row for row in report.rows if _model_and_rule(row) == model):
            key = (row.precision, str(row.batch_size))
            if row.status != "ok":
                failed.append(f"{row.precision}, batch size {row.batch_size}: {row.status}")
                continue
            speed.add_row(
                *key,
                _decimal_text(row.images_per_second, 2),
                _decimal_text(row.loop_seconds, 1),
                *(_milliseconds_text(value) for value in (row.latency_p50, row.latency_p99)),
                *(_milliseconds_text(getattr(row, stage)) for stage in STAGES),
            )
            size.add_row(
                *key,
                *(_decimal_text(value, 0, 1e-6) for value in (row.host_peak_bytes, row.device_peak_bytes)),
                _decimal_text(row.gmacs, 1),
                "–" if row.params is None else _decimal_text(row.params, 1, 1e-6) + " M",
                *(_decimal_text(value, 2, 100) for value in (row.PQ, row.pq_difference)),
                "–" if row.pixels_differ is None else f"{100 * row.pixels_differ:.3f} %",
            )
        title = model + (" (random weights)" if _has_random_weights(report.rows, model) else "")
        parts.extend(
            ([""] if parts and parts[-1] != "" else [])
            + [Text(title, style="bold"), speed, "", size, *map(Text, failed)]
        )
    return Group(*parts)


def _benchmark_overview_table(rows: Sequence[Any]) -> Table:
    """Builds a table with one line per model, of its first setting: fp32 at the smallest batch size."""
    table = Table(box=None, pad_edge=False)
    table.add_column("Model", no_wrap=True)
    for heading in ("Img/s", "p50 ms", "Host MB", "GPU MB", "GMACs", "Params"):
        table.add_column(heading, justify="right", no_wrap=True)
    first = {_model_and_rule(row): row for row in reversed(rows)}
    for model in dict.fromkeys(map(_model_and_rule, rows)):
        row = first[model]
        table.add_row(
            Text(model + ("*" if _has_random_weights(rows, model) else "")),
            _decimal_text(row.images_per_second, 2),
            _milliseconds_text(row.latency_p50),
            *(_decimal_text(value, 0, 1e-6) for value in (row.host_peak_bytes, row.device_peak_bytes)),
            _decimal_text(row.gmacs, 1),
            "–" if row.params is None else _decimal_text(row.params, 1, 1e-6) + " M",
        )
    if any(row.weights == "random" for row in rows):
        table.caption = "* random weights"
        table.caption_justify = "left"
    return table


def _model_and_rule(row: Any) -> str:
    """Returns a model's name, with its rule if one was named."""
    return str(row.model) if row.rule is None else f"{row.model} [{row.rule}]"


def _has_random_weights(rows: Sequence[Any], model: str) -> bool:
    return any(row.weights == "random" for row in rows if _model_and_rule(row) == model)


def _empty_benchmark_table(*numbers: str) -> Table:
    """Builds an empty table of benchmark results; `numbers` are the headings after precision and batch size."""
    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for heading in ("Precision", "Batch"):
        table.add_column(heading, no_wrap=True)
    for heading in numbers:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _milliseconds_text(value: float | None) -> str:
    return _decimal_text(value, 1 if value is not None and value < 100 else 0)


def _decimal_text(value: float | None, digits: int, factor: float = 1.0) -> str:
    """Formats a number times `factor` with fixed decimal places; – if it is None."""
    return "–" if value is None else f"{value * factor:.{digits}f}"
