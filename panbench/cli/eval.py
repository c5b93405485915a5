"""`panbench eval`: models on a dataset."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from panbench.base.errors import Interrupted
from panbench.cli import console
from panbench.cli.command import command, family
from panbench.cli.eval_request import EvalRequest
from panbench.cli.options import options_from

if TYPE_CHECKING:
    from panbench.cli.prepare import Prepared
    from panbench.evaluation.options import StudyOptions
    from panbench.evaluation.several import Outcome

app = family()


@command(
    app,
    "eval",
    "panbench eval --model mask2former --download",
    "panbench eval --model mask2former-tiny,maskformer-tiny --limit 20",
    "panbench eval --model mask2former-tiny --rule paper,argmax --limit 20",
    "panbench eval --config mine.py --checkpoint mine.pth --data data/mine",
)
@options_from(EvalRequest, "eval")
def evaluate(ctx: typer.Context, request: EvalRequest, studies: "tuple[StudyOptions, ...]") -> None:
    """Run models on a dataset, score them and compare them."""
    with console.Bars() as bars:
        bars.status("Looking for models and data")

        from panbench.cli.prepare import prepare

    work = prepare(request, studies)
    with console.Bars() as bars:
        bars.status("Loading PyTorch")

        from panbench.evaluation.several import check_before, evaluate_models, unused_bf16, what_runs
        from panbench.evaluation.tools.doctor import unused_gpu

        check_before(work.dataset, work.folders, work.opening, work.options, work.rules)
    console.say(what_runs(work.specs, work.dataset, work.opening, work.options))
    if request.device == "auto" and (reason := unused_gpu()) is not None:
        console.note(reason)
    if (faster := unused_bf16(work.specs, work.opening)) is not None:
        console.note(faster)
    try:
        outcomes = evaluate_models(
            work.specs,
            work.dataset,
            work.folders,
            work.opening,
            work.options,
            # In a log, the bars of several models are lines between their results.
            reporters=lambda: console.Bars(transient=len(work.specs) > 1 and not sys.stderr.isatty()),
            finished=_show_outcome(work, bool(ctx.meta.get("debug")), request.as_json),
            rules=work.rules,
            spread=work.spread,
        )
    except KeyboardInterrupt as interruption:
        place = work.folders[0] if len(work.folders) == 1 else request.out or "results"
        raise Interrupted(
            f"{str(interruption) or 'Interrupted.'} Scored images are kept in {place}; the same command with --resume "
            "continues.",
            getattr(interruption, "exit_code", 130),
        ) from None
    if request.as_json:
        console.show_json([_record(work, outcome) for outcome in outcomes])
    else:
        _show_all(work, outcomes)
    _say_next(work, outcomes)
    if any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(1)


def _show_outcome(work: "Prepared", debug: bool, as_json: bool) -> "Callable[[Outcome], None]":
    """Prints what became of one model; with `as_json` only that it failed."""
    from panbench.report.answers.tables import SUBSET, comparison_row, speed_text, summary_text

    def show(outcome: "Outcome") -> None:
        if outcome.run is None:
            console.complain(f"{outcome.spec.name}: {outcome.reason}", outcome.error if debug else None)
            return
        if as_json:
            return
        if work.is_timed_only:
            console.say(speed_text(outcome.spec.title, outcome.run.info))
            return
        row = comparison_row(outcome.run)
        # A run for each rule: the table says which.
        title = f"{row.title} [{(row.rule or '').partition(':')[0]}]" if len(work.rules) > 1 else row.title
        # What is so of all is said once, in the line before them and below the table of all.
        notes = [note for note in row.notes if len(work.specs) == 1 or not note.startswith(SUBSET)]
        console.show(summary_text(title, outcome.run.summary(), notes))
        console.show("")

    return show


def _record(work: "Prepared", outcome: "Outcome") -> dict[str, Any]:
    """What became of one model as JSON: its row of `compare --json`, where the run is, and every category."""
    from panbench.report.answers.tables import row_record
    from panbench.scoring.folder import as_json as scores_of

    run = outcome.run
    record = {**row_record(outcome.row(work.dataset.name)), "path": None if run is None else str(run.path)}
    return record if run is None or not len(run.images) else {**record, **scores_of(run)}


def _show_all(work: "Prepared", outcomes: "Sequence[Outcome]") -> None:
    """Prints the runs side by side."""
    from panbench.report.answers.tables import comparison_text

    if len(outcomes) > 1 or work.is_timed_only or outcomes[0].run is None:
        # Of one model that was scored, its own table says it all.
        console.show(comparison_text([outcome.row(work.dataset.name) for outcome in outcomes]))


def _say_next(work: "Prepared", outcomes: "Sequence[Outcome]") -> None:
    """Prints what to do next with the runs."""
    stored = [Path(outcome.run.path) for outcome in outcomes if outcome.run is not None and outcome.run.path]
    if not stored:
        return
    if work.is_timed_only:
        console.say("Only timed: without --gt nothing is scored. `panbench predict` makes pictures.")
    elif work.dataset.has_ground_truth:
        named = shlex.join(map(str, stored))
        console.say(
            f"Again at any time: `panbench compare {named}`; `errors` says why PQ is lost, `report` makes a page."
        )
    else:
        console.say(f"For COCO's server: `panbench export coco-server {shlex.quote(str(stored[0]))} --out FILE.zip`")
    for sentence in (sentence for study in work.options.studies for sentence in study.next_steps(stored)):
        console.say(sentence)
