"""Declares `panbench export`, which writes a run in the formats of other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panbench.base.errors import BadArgument
from panbench.base.studies import load_from_studies
from panbench.base.text import listed
from panbench.cli import console
from panbench.cli.command import command, family, flag, note_damaged_runs, one_of, option, options_from, run_folders

if TYPE_CHECKING:
    from panbench.report.answers.options import ExportOptions

app = family()

# The core's formats; a test compares them with those that export_run writes.
FORMATS = ("parquet", "csv", "coco-results", "fiftyone", "huggingface-card")
_OF_STUDIES = tuple(name for kind in load_from_studies("options", "export").values() for name in kind.formats)
_ALL_FORMATS = (*FORMATS, *_OF_STUDIES)


def _check_format_argument(format: str) -> str:
    if format not in _ALL_FORMATS:
        raise BadArgument(
            f"There is no format {format!r} to export to. Formats are {listed(_ALL_FORMATS, len(_ALL_FORMATS))}."
        )
    return format


@dataclass(frozen=True)
class ExportRequest:
    """The options of `panbench export`, a field each; studies add their own."""

    format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help=f"{listed(_ALL_FORMATS, len(_ALL_FORMATS))}.",
            autocompletion=one_of(*_ALL_FORMATS),
            callback=_check_format_argument,
        ),
    ]
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder.", autocompletion=run_folders),
    ]
    out: Annotated[Path, option("The folder to write to; for coco-server the zip, or its folder.", None, "DIR|FILE")]
    overwrite: Annotated[bool, flag("--overwrite", "Write into a folder that is not empty.")] = False


@command(
    app,
    "export",
    "panbench export parquet results/mine --out tables",
    "panbench export huggingface-card results/mine --out card",
)
@options_from(ExportRequest, "export")
def export(ctx: typer.Context, request: ExportRequest, studies: "tuple[ExportOptions, ...]") -> None:
    """Write a run for other programs: tables, COCO results for pycocotools, FiftyOne, a model card.

    Formats of predictions need them (`eval --save-predictions`, or a scored folder that is still here).
    """
    from panbench.report.answers.export import export_run
    from panbench.report.answers.options import given_options
    from panbench.runs import load_run

    for study in studies:
        if request.format in study.formats:
            with console.Bars(transient=True) as bars:
                messages = study.export(request.run, request.out, request.overwrite, bars)
            for message in messages:
                console.show(message, soft_wrap=True)
            return
        if unfit := given_options(study):
            raise BadArgument(f"{listed(unfit, len(unfit))}: only for {listed(study.formats, 9)}.")
    loaded = load_run(request.run)
    written = export_run(loaded, request.format, request.out, overwrite=request.overwrite)
    note_damaged_runs([loaded])
    if (shortfall := loaded.shortfall) is not None:
        console.note(shortfall)
    console.wrote(written)
