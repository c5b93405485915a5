"""`panbench runs merge`: runs of shards joined to one."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from panbench.cli import console
from panbench.cli.command import command, family, flag, option

app = family("runs", "Work with stored runs as a whole.")


@command(
    app,
    "merge",
    "panbench runs merge results/shard-1 results/shard-2 --out results/all",
    "panbench runs merge results/shard-* --out results/all",
)
def merge(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD", help="Run folders, made alike on other images.")],
    out: Annotated[Path, option("The folder of the run of all.", metavar="DIR")],
    overwrite: Annotated[bool, flag("--overwrite", "Replace a run that is already there.")] = False,
) -> None:
    """Join the runs of shards to one run of all their images.

    Shards are made by `score --shard I/N`, or by `eval --image-ids`. Their settings must be the same, and no image may
    be in two of them.
    """
    from panbench.report.tables import comparison_row, summary_text
    from panbench.runs.merge import merge_runs

    run = merge_runs(shards, out, overwrite=overwrite)
    row = comparison_row(run)
    console.show(summary_text(row.title, run.summary(), row.notes))
    console.say(f"Merged. More: panbench metrics {shlex.quote(str(out))}, errors, compare")
