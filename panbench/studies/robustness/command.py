"""`panbench robustness`: PQ of models on corrupted images."""

from pathlib import Path
from typing import Annotated

import typer

from panbench.cli import console
from panbench.cli.command import AsJson, command, family, option, run_folders

app = family()


@command(
    app,
    "robustness",
    "panbench robustness results/coco-mask2former-r50",
    "panbench robustness results/one results/other --plot corruptions.png",
)
def robustness(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Clean runs of `eval --corrupt`.", autocompletion=run_folders)
    ],
    plot: Annotated[Path | None, option("Also draw PQ by severity here (.png, .svg, .pdf).", None, "FILE")] = None,
    out: Annotated[Path | None, option("Write the tables to this Markdown file.", None, "FILE.md")] = None,
    as_json: AsJson = False,
) -> None:
    """Print PQ under corruption: mPC, rPC and each kind, with paired intervals. The clean run names its corrupted ones.

    `panbench eval --corrupt all` makes the runs.
    """
    from panbench.report.answers.grid import as_markdown
    from panbench.report.answers.tables import find_runs
    from panbench.studies.robustness.answer import robustness as measure
    from panbench.studies.robustness.answer import robustness_grids, robustness_record

    with console.Bars(transient=True) as bars:
        bars.status("Computing intervals")
        clean = find_runs(runs, bars)
        found = measure(clean)
    grids = robustness_grids(found)
    if as_json:
        console.show_json(robustness_record(found))
    elif out is None:
        console.show_grids(grids)
    if out is not None:
        console.write_file(out, "\n".join(map(as_markdown, grids)))
    if plot is not None:
        from panbench.report.figures.colors import styles_by_name
        from panbench.report.figures.pictures import save_figure
        from panbench.studies.robustness.answer import robustness_curves
        from panbench.studies.robustness.plot import corruption_figure

        styles = styles_by_name([one.title for one in found], clean)
        save_figure(corruption_figure(robustness_curves(found), styles), plot)
        console.wrote([plot])
