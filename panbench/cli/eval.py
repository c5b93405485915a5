"""Declares `panbench eval`, which runs models on a dataset."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from panbench.base.errors import Interrupted
from panbench.cli import console
from panbench.cli.command import command, family, options_from
from panbench.cli.eval_request import EvalRequest

if TYPE_CHECKING:
    from panbench.evaluation.options import StudyOptions
    from panbench.evaluation.several import Outcome, Prepared

app = family()


@command(
    app,
    "eval",
    "panbench eval --model mask2former --download",
    "panbench eval --model mask2former-tiny,maskformer-tiny --limit 20",
    "panbench eval --model mask2former-tiny --rule paper,argmax --limit 20",
    "panbench eval --config mine.py --checkpoint mine.pth --data data/mine",
    idle_beside={"--data": ("--images", "--gt")},
)
@options_from(EvalRequest, "eval")
def evaluate(ctx: typer.Context, request: EvalRequest, studies: "tuple[StudyOptions, ...]") -> None:
    """Run models on a dataset, score them and compare them."""
    with console.Bars() as bars:
        bars.status("Finding models and data")

        from panbench.cli.prepare import prepare

    work = prepare(request, studies)
    with console.Bars() as bars:
        bars.status("Loading PyTorch")

        from panbench.evaluation.several import check_before, describe_plan, evaluate_models, suggest_bf16
        from panbench.evaluation.tools.doctor import unused_gpu

        check_before(work)
    console.hint(describe_plan(work))
    if request.device == "auto" and (reason := unused_gpu()) is not None:
        console.note(reason)
    if (faster := suggest_bf16(work.specs, work.opening)) is not None:
        console.note(faster)
    try:
        outcomes = evaluate_models(
            work,
            # In a log, the bars of several models are lines between their results.
            reporters=lambda: console.Bars(transient=len(work.specs) > 1 and not sys.stderr.isatty()),
            finished=_show_outcome(work, bool(ctx.meta.get("debug")), request.as_json),
        )
    except KeyboardInterrupt as interruption:
        folder = work.folders[0] if len(work.folders) == 1 else request.out or "results"
        raise Interrupted(
            f"{str(interruption) or 'Interrupted.'} Scored images are saved in {folder}; the same command with "
            "--resume continues.",
            getattr(interruption, "exit_code", 130),
        ) from None
    if request.as_json:
        console.show_json([_outcome_record(work, outcome) for outcome in outcomes])
    else:
        _show_comparison(work, outcomes)
    _suggest_next_steps(work, outcomes)
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(1)


def _show_outcome(work: "Prepared", debug: bool, as_json: bool) -> "Callable[[Outcome], None]":
    """Returns a callback that prints each model's outcome; with `as_json` it prints only failures."""
    from panbench.report.answers.tables import SUBSET, comparison_row, speed_text, summary_text

    def show_outcome(outcome: "Outcome") -> None:
        """Prints the scores of a model that was evaluated, or the error that stopped it."""
        if outcome.run is None:
            console.print_error(f"{outcome.spec.name}: {outcome.reason}", outcome.error if debug else None)
            return
        if as_json:
            return
        if work.options.unscored:
            console.hint(speed_text(outcome.spec.title, outcome.run.info))
            return
        row = comparison_row(outcome.run)
        # One run per rule: the title names the rule.
        title = f"{row.title} [{(row.rule or '').partition(':')[0]}]" if len(work.rules) > 1 else row.title
        # Notes that hold for all models are printed once, in the line before them and below the common table.
        console.show(summary_text(outcome.run, title, without=SUBSET if len(work.specs) > 1 else None))
        console.show("")

    return show_outcome


def _outcome_record(work: "Prepared", outcome: "Outcome") -> dict[str, Any]:
    """Returns a model's outcome as JSON: its row of `compare --json`, the run folder, and every category."""
    from panbench.report.answers.tables import row_record
    from panbench.scoring.folder import as_json as scores_of

    run = outcome.run
    record = {**row_record(outcome.row(work.dataset.name)), "path": None if run is None else str(run.path)}
    return record if run is None or not len(run.images) else {**record, **scores_of(run)}


def _show_comparison(work: "Prepared", outcomes: "Sequence[Outcome]") -> None:
    """Prints the runs of all models side by side."""
    from panbench.report.answers.tables import comparison_text

    if len(outcomes) > 1 or work.options.unscored or outcomes[0].run is None:
        # For a single scored model, its own table is enough.
        console.show(comparison_text([outcome.row(work.dataset.name) for outcome in outcomes]))


def _suggest_next_steps(work: "Prepared", outcomes: "Sequence[Outcome]") -> None:
    """Prints commands to look at the new runs with, and those that studies suggest."""
    stored = [Path(outcome.run.path) for outcome in outcomes if outcome.run is not None and outcome.run.path]
    if not stored:
        return
    if work.options.unscored:
        console.hint("Only timed: without --gt nothing is scored. `panbench predict` makes pictures.")
    elif work.dataset.has_ground_truth:
        named = shlex.join(map(str, stored))
        console.hint(
            f"Again at any time: `panbench compare {named}`; `errors` says why PQ is lost, `report` makes a page."
        )
    else:
        console.hint(f"For COCO's server: `panbench export coco-server {shlex.quote(str(stored[0]))} --out FILE.zip`")
    for message in (message for study in work.options.studies for message in study.next_steps(stored)):
        console.hint(message)
