"""`panbench submit`: a run's predictions for COCO's server."""

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from panbench.base.reporter import counter
from panbench.cli import console
from panbench.cli.command import command, family

app = family()


@command(app, "submit", "panbench submit results/test-dev --out submission.zip")
def submit(
    run: Annotated[Path, typer.Argument(help="A run with predictions, or a predictions JSON.")],
    out: Annotated[Path, typer.Option(help="The zip, or a folder for it.")],
    testset: Annotated[str, typer.Option(help="test-dev2017 or val2017.")] = "test-dev2017",
    algorithm: Annotated[str | None, typer.Option(help="The name on the leaderboard. Default: the model's.")] = None,
    image_list: Annotated[Path | None, typer.Option(help="The list of the test set's images. Default: COCO's.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a zip that already exists.")] = False,
) -> None:
    """Pack a run's predictions as COCO's evaluation server takes them, checked before anything is written."""
    from panbench.studies.submission.submission import write_submission

    with console.Bars(transient=True) as bars:
        made = write_submission(
            run,
            out,
            testset=testset,
            algorithm=algorithm,
            images=image_list,
            overwrite=overwrite,
            progress=counter(bars, "Checking"),
        )
    console.show(
        f"{made.path}: {made.n_images:,} images, {made.n_segments:,} segments, {decimal(int(made.bytes))}.",
        soft_wrap=True,
    )
    console.show(f"In it: {made.json_name} and {made.folder_name}/", soft_wrap=True)
