"""`panbench ensemble`: stored runs made one, by their masks or by votes."""

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panbench.base.errors import BadArgument, refuse_overwrite_and_resume
from panbench.base.threads import MOST
from panbench.cli import console
from panbench.cli.command import AsJson, command, family, find_runs, flag, one_of, option

if TYPE_CHECKING:
    from panbench.runs import Run

app = family()

WAYS = ("auto", "masks", "votes")


@command(
    app,
    "ensemble",
    "panbench ensemble results/a results/b --tune --out results/ab",
    "panbench ensemble results/a results/b --way masks --out results/ab",
)
def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or folders of runs.")],
    out: Annotated[Path, option("The folder of the new run.", metavar="DIR")],
    way: Annotated[
        str,
        option(
            "masks: the networks' outputs are averaged, then fused (`eval --keep-candidates`). votes: finished maps "
            "of any framework (`eval --save-predictions`, `score`). auto: masks if all runs have them.",
            metavar="WAY",
            autocompletion=one_of(*WAYS),
        ),
    ] = "auto",
    shares: Annotated[
        str | None, option("The weight of each run, in their order: 1,0.5,1. Default: all equal.", metavar="LIST")
    ] = None,
    tune: Annotated[
        bool,
        flag("--tune", "Choose weights for things and stuff on one half of the images for the other, both ways."),
    ] = False,
    halves: Annotated[int, option("The seed of the halves that --tune draws.", metavar="N")] = 0,
    rule: Annotated[
        str | None,
        option("By masks: the fusion rule. Default: that of the first run.", metavar="NAME[:KEY=VALUE,…]"),
    ] = None,
    keep_candidates: Annotated[
        bool, flag("--keep-candidates", "By masks: also store the averages, for `panbench fuse`.")
    ] = False,
    name: Annotated[str | None, option("Its name in tables. Default: Ensemble of N runs.", metavar="TEXT")] = None,
    overwrite: Annotated[bool, flag("--overwrite", "Replace an existing run.")] = False,
    resume: Annotated[bool, flag("--resume", "Continue an interrupted run.")] = False,
    workers: Annotated[int | None, option(f"Threads. Default: one per core, up to {MOST}.", metavar="N", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Combine the maps of several runs into one, and score it. No model is run."""
    from panbench.report.answers.tables import comparison_row, summary_text

    if way not in WAYS:
        raise BadArgument(f"--way is {way!r} but is one of {', '.join(WAYS)}.")
    refuse_overwrite_and_resume(overwrite, resume)
    given = None if shares is None else _weights(shares)
    members = find_runs(runs)
    with console.Bars() as bars:
        if _way(way, members, bars) == "masks":
            bars.status("Loading PyTorch")

            from panbench.evaluation.kept.stored_model import StoredModel
            from panbench.evaluation.options import EvaluateOptions
            from panbench.models.rules import parse_rule
            from panbench.studies.ensembles.by_masks import average_runs

            run, found = average_runs(
                members,
                out,
                weights=given,
                tuned=tune,
                seed=halves,
                title=name,
                rule=None if rule is None else parse_rule(rule, StoredModel(members[0]).paper),
                options=EvaluateOptions(
                    overwrite=overwrite,
                    resume=resume,
                    save_predictions=True,
                    keep_candidates=keep_candidates,
                    workers=workers,
                    command=("panbench", *sys.argv[1:]),
                ),
                reporter=bars,
            )
        else:
            if rule is not None or keep_candidates:
                what = "--rule" if rule is not None else "--keep-candidates"
                raise BadArgument(f"{what} is for --way masks: votes are about maps that are fused already.")

            from panbench.studies.ensembles.by_votes import ensemble_runs

            run, found = ensemble_runs(
                members,
                out,
                weights=given,
                tuned=tune,
                seed=halves,
                title=name,
                overwrite=overwrite,
                resume=resume,
                threads=workers,
                reporter=bars,
            )
    if as_json:
        from panbench.scoring.folder import as_json as scores_of

        console.show_json({**scores_of(run), "path": str(run.path), "shares": [vars(share) for share in found]})
    else:
        row = comparison_row(run)
        console.show(summary_text(row.title, run.summary(), row.notes))
    for share in found:
        origin = "given" if share.pq_here is None else f"chosen on the others, PQ {100 * share.pq_here:.2f} there"
        console.say(
            f"{share.images} images: weights of {', '.join(member.name for member in members)} {origin}: things "
            f"{_listed(share.things)}, stuff {_listed(share.stuff)}."
        )
    places = [str(run.path or run.name) for run in (*members, run)]
    console.say(f"Against its members: `panbench compare {shlex.join(places)}`")


def _way(by: str, members: "list[Run]", bars: console.Bars) -> str:
    """Chooses masks or votes; prints what `auto` chose, and why."""
    if by != "auto":
        return by
    from panbench.runs import candidate_files

    kept = [run.path is not None and bool(candidate_files(run.path)) for run in members]
    if not all(kept) or len(members) < 2 or importlib.util.find_spec("torch") is None:
        return "votes"

    from panbench.studies.ensembles.by_masks import why_not_averaged

    if reason := why_not_averaged(members):
        bars.notice(f"By votes: {reason}")
        return "votes"
    bars.notice("By masks, as all runs kept their candidates; --way votes takes their maps instead.")
    return "masks"


def _weights(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise BadArgument(f"--shares {text}: write one number a run, for example 1,0.5,1.") from None


def _listed(weights: tuple[float, ...]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)
