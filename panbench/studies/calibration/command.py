"""`panbench calibration`: are segments correct as often as their scores say?"""

from pathlib import Path
from typing import Annotated

import typer

from panbench.cli import console
from panbench.cli.command import AsJson, command, family, flag, option

app = family()


@command(
    app,
    "calibration",
    "panbench calibration results/coco-mask2former-r50",
    "panbench calibration results/mine --target 95 --per-category",
)
def calibration(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    target: Annotated[
        float, option("The percentage of segments above the threshold that must be correct.", None, "PERCENT")
    ] = 90.0,
    per_category: Annotated[bool, flag("--per-category", "Also one row per category.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print how often segments are correct, by score, and the score from which 90 % of them are.

    `panbench show plot calibration RUN` draws it.
    """
    from panbench.runs import load_run
    from panbench.studies.calibration.answer import calibration_findings

    found = calibration_findings(load_run(run), target=target / 100, per_category=per_category)
    console.show_findings(found, as_json)
