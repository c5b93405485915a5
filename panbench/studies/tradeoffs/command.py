"""`panbench tradeoffs`: PQ against time, by decoder layer or by image size."""

from pathlib import Path
from typing import Annotated

import typer

from panbench.cli import console
from panbench.cli.command import AsJson, command, family, option, run_folders

app = family()


@command(
    app,
    "tradeoffs",
    "panbench tradeoffs results/coco-mask2former-r50",
    "panbench tradeoffs results/one results/other --plot layers.png",
)
def tradeoffs(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN", help="Runs of `eval --layers` or `--size`.", autocompletion=run_folders),
    ],
    plot: Annotated[Path | None, option("Also draw PQ against time here (.png, .svg, .pdf).", None, "FILE")] = None,
    out: Annotated[Path | None, option("Write the tables to this Markdown file.", None, "FILE.md")] = None,
    as_json: AsJson = False,
) -> None:
    """Print PQ against time, by decoder layer or by image size, with paired intervals. The runs beside each are found.

    `panbench eval --layers all` and `--size 0.5,0.75,1` make the runs.
    """
    from panbench.report.answers.grid import as_markdown
    from panbench.report.answers.tables import find_runs
    from panbench.studies.tradeoffs.answer import tradeoff_curves, tradeoff_grids, tradeoff_record
    from panbench.studies.tradeoffs.answer import tradeoffs as measure

    with console.Bars(transient=True) as bars:
        bars.status("Resampling")
        found = measure(find_runs(runs, bars), reporter=bars)
    grids = tradeoff_grids(found)
    if as_json:
        console.show_json(tradeoff_record(found))
    elif out is None:
        console.show_grids(grids)
    if out is not None:
        console.write_file(out, "\n".join(map(as_markdown, grids)))
    if plot is not None:
        from panbench.report.answers.tables import comparison_row, labels
        from panbench.report.figures.pictures import save_figure
        from panbench.studies.tradeoffs.plot import tradeoff_figure

        titles = labels([comparison_row(one.run) for one in found])
        save_figure(tradeoff_figure(tradeoff_curves(found, titles)), plot)
        console.wrote([plot])
