"""`panbench gate`: fails a build when a run is worse than its baseline."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from panbench.base.errors import BadArgument
from panbench.base.text import plain
from panbench.cli import console
from panbench.cli.command import AsJson, command, family, flag, option

app = family()


Metric = Literal[
    "PQ", "SQ", "RQ", "IoU", "PQ_th", "SQ_th", "RQ_th", "IoU_th", "PQ_st", "SQ_st", "RQ_st", "IoU_st",
]  # fmt: skip
"""The metrics that a gate can compare."""


@command(
    app,
    "gate",
    "panbench gate results/new --baseline results/released",
    "panbench gate results/new --baseline results/released --max-drop 0.5",
)
def gate(
    run: Annotated[Path, typer.Argument(help="The run to judge.")],
    baseline: Annotated[Path, option("The run to compare it with.", None, "RUN")],
    max_drop: Annotated[float, option("The allowed drop, in points.", None, "POINTS")] = 0.0,
    metrics: Annotated[
        Metric, option("The metric that must not drop. IoU: of the matches, over categories that both match.", None)
    ] = "PQ",
    by: Annotated[
        str | None, option("Also check each slice by size, share, segments or supercategory.", None, "WHAT")
    ] = None,
    slices: Annotated[Path | None, option("Also check each of your own slices: JSON or CSV.", None, "FILE")] = None,
    strict: Annotated[bool, flag("--strict", "Exit with 4 if the images cannot tell.")] = False,
    common_images: Annotated[bool, flag("--common-images", "Compare on the images that both have.")] = False,
    summary: Annotated[
        Path | None, option("Append a Markdown summary here. Default: $GITHUB_STEP_SUMMARY.", None, "FILE")
    ] = None,
    junit: Annotated[Path | None, option("Write JUnit XML here.", None, "FILE")] = None,
    as_json: AsJson = False,
) -> None:
    """Check whether a run is worse than a baseline. Exit code 3: worse; 0: not worse, or cannot tell (4: --strict).

    Worse means a drop above --max-drop whose 95 % interval lies below 0.
    """
    from panbench.report.answers.own_slices import slices_for
    from panbench.runs import load_run
    from panbench.studies.gate.answer import gate as judge
    from panbench.studies.gate.answer import notes_on_incomplete_runs

    if not baseline.exists() and re.fullmatch(r"[\d.]+ ?%?", str(baseline)):
        raise BadArgument(
            f"--baseline {baseline} is a number. A gate compares image by image, so it takes the folder of a run: keep "
            "one of the released model, by eval or score --out, in the repository (docs/ci.md)."
        )
    runs = load_run(run), load_run(baseline)
    notes_on_incomplete_runs(runs, common_images)  # before files of slices are read
    result = judge(
        *runs, metric=metrics, max_drop=max_drop, by=by, slices=slices_for(slices, runs), common_images=common_images
    )
    if as_json:
        console.show_json(result.record())
    else:
        console.show(result.message)
        if len(result.checks) > 1:
            console.show_grids([result.grid()])
    for message in result.notes:
        console.note(message)
    if result.outcome == "cannot tell" and not as_json:
        console.note("These images are too few to decide; --strict fails here.")
    target = summary or (Path(os.environ["GITHUB_STEP_SUMMARY"]) if os.environ.get("GITHUB_STEP_SUMMARY") else None)
    if target is not None:
        try:
            with open(target, "a", encoding="utf-8") as handle:
                handle.write(plain(result.markdown()) + "\n")
        except OSError as error:
            raise BadArgument(f"The summary {target} cannot be written: {error.strerror or error}.") from None
    if junit is not None:
        console.write_file(junit, result.junit(strict))
    if code := result.exit_code(strict):
        raise typer.Exit(code)
