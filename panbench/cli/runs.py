"""Declares `panbench runs`: list, verify, finish and delete runs, and merge shards into one."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from panbench.base.errors import BadArgument
from panbench.base.reporter import counter
from panbench.base.text import size_in_words
from panbench.cli import console
from panbench.cli.command import HELP_OPTIONS, AsJson, Commands, Runs, command, flag, option, run_folders, show_scores
from panbench.cli.words import resembles_command

_MOST_LAID_OUT = 300
"""The largest number of runs that is fitted to the width of the terminal."""


class _RunsGroup(Commands):
    """The command group `panbench runs`, which runs `list` if no subcommand is named.

    `panbench runs results` lists, `runs rm` does not.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, with `list` in front unless they begin with a subcommand."""
        if not args or not (
            args[0] in (*self.commands, "-h", "--help") or resembles_command("runs", args[0], self.commands)
        ):
            args = ["list", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="runs",
    cls=_RunsGroup,
    help="List stored runs (`panbench runs [FOLDER]`), verify, delete or merge them.",
    add_completion=False,
    context_settings=dict(HELP_OPTIONS),
)


@command(app, "list", "panbench runs list", "panbench runs list results/demo")
def list_stored(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of runs.", autocompletion=run_folders)
    ] = Path("results"),
    as_json: AsJson = False,
) -> None:
    """List the runs in a folder, damaged ones too: model, data, PQ, images, status, date, size.

    Only run.json and file sizes are read; `panbench runs verify` reads everything.
    """
    with console.working("Reading runs"):
        from panbench.report.answers.grid import as_markdown
        from panbench.report.answers.stored import runs_grid, stored_runs

        found = stored_runs(folder)
    if as_json:
        console.show_json([vars(run) for run in found])
    elif found:
        grid = runs_grid(found, folder)
        # Rich takes a millisecond to lay out a row.
        console.show_grids([grid]) if len(found) <= _MOST_LAID_OUT else console.write(f"{as_markdown(grid)}\n")
    else:
        console.hint(f"There are no runs in {folder}.")


@command(app, "delete", "panbench runs delete results/old")
def delete(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.", autocompletion=run_folders)],
    yes: Annotated[bool, flag("--yes", "Delete without asking.")] = False,
) -> None:
    """Delete runs, after asking: only files that panbench wrote, and no run that is being written."""
    from panbench.report.answers.stored import delete_runs
    from panbench.runs import load_run, run_bytes

    for path in paths:
        load_run(path)
    size = sum(map(run_bytes, paths))
    if not yes:
        ask = console.terminal_question()
        if ask is None:
            again = f"panbench runs delete {shlex.join(map(str, paths))} --yes"
            raise BadArgument(
                "Nothing was deleted, because there is no terminal to ask for confirmation. To delete without asking: "
                f"`{again}`."
            )
        if (
            ask(f"Delete {len(paths)} run{'s' * (len(paths) > 1)}, {size_in_words(size)}? [y/N] ").strip().lower()
            != "y"
        ):
            console.hint("Nothing is deleted.")
            return
    for message in delete_runs(paths):
        sys.stderr.write(f"{message}\n")


@command(app, "verify", "panbench runs verify results/coco-mask2former-r50", "panbench runs verify results")
def verify(paths: Runs, as_json: AsJson = False) -> None:
    """Check that the files of runs are unchanged: tables, summary, inputs, predictions and candidate masks."""
    from panbench.report.answers.stored import DAMAGED
    from panbench.report.answers.stored import verify as verification
    from panbench.report.answers.tables import look_for_runs

    found_runs = look_for_runs(paths)
    with console.Bars(transient=True) as bars:
        for message in (*found_runs.unreadable, *found_runs.deeper):
            bars.notice(message)
        found = [verification(run, counter(bars, run.name)) for run in found_runs.runs]
    if as_json:
        console.show_json([vars(one) for one in found])
    else:
        for one in found:
            console.write(f"{one.run}: {one.state}\n")
            for message in one.checked:
                console.write(f"  {message}\n")
            for message in one.problems:
                console.write(f"  Problem: {message}\n")
    if found_runs.unreadable or any(one.state == DAMAGED for one in found):
        raise typer.Exit(1)


@command(app, "finish", "panbench runs finish results/demo")
def finish(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="The run that was being replaced.")],
) -> None:
    """Finish replacing a run (`--overwrite`) after panbench was stopped in the middle of it."""
    from panbench.runs import finish_replacement, load_run

    finished = finish_replacement(path)
    run = load_run(path)
    console.hint(f"{path} is {'the new run' if finished else 'not being replaced'}: {len(run.images):,} images.")


@command(
    app,
    "merge",
    "panbench runs merge results/m.1 results/m.2 --out results/m",
    "panbench runs merge results/m.* --out results/m",
)
def merge(
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD", help="Run folders with equal settings and different images.")
    ],
    out: Annotated[Path, option("The folder of the merged run.", metavar="DIR")],
    allow_missing: Annotated[
        bool, flag("--allow-missing", "Merge without shards that are missing; `--resume` scores theirs later.")
    ] = False,
    overwrite: Annotated[bool, flag("--overwrite", "Replace an existing run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Merge the runs of shards into one run of all their images.

    Shards are made by `--shard I/N` of eval and score, or by `eval --limit @FILE`. Their settings must be equal, and no
    image may be in two of them. The run is the one that a single process would have made.
    """
    from panbench.runs.merge import merge_runs

    run = merge_runs(shards, out, overwrite=overwrite, allow_missing=allow_missing)
    show_scores(run, as_json)
    console.hint(f"Merged. More: `panbench metrics {shlex.quote(str(out))}`, `errors`, `compare`")
