"""`panbench export`: a run in the formats of other programs."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from panbench.cli import console
from panbench.cli.command import command, family, flag, note_damage, option

app = family()


class Format(str, Enum):
    """What `export` writes."""

    parquet = "parquet"
    coco_results = "coco-results"
    fiftyone = "fiftyone"
    huggingface_card = "huggingface-card"


@command(
    app,
    "export",
    "panbench export parquet results/mine --out tables",
    "panbench export huggingface-card results/mine --out card",
)
def export(
    format: Annotated[Format, typer.Argument(help="parquet, coco-results, fiftyone or huggingface-card.")],
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, option("The folder to write to.", None, "DIR")],
    overwrite: Annotated[bool, flag("--overwrite", "Write into a folder that is not empty.")] = False,
) -> None:
    """Write a run for other programs: tables, COCO results for pycocotools, FiftyOne, a model card.

    coco-results and fiftyone need the predictions (`eval --save-predictions`, or a scored folder that is still here).
    """
    from panbench.report.answers.export import export_run
    from panbench.runs import load_run

    loaded = load_run(run)
    written = export_run(loaded, format.value, out, overwrite=overwrite)
    note_damage([loaded])
    console.wrote(written)
