"""`panbench ensemble`: combines stored runs into one, by their masks or by votes."""

import importlib.util
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panbench.base.errors import BadArgument, refuse_overwrite_and_resume
from panbench.base.program import MOST
from panbench.cli import console
from panbench.cli.command import AsJson, check_rules, command, family, find_runs, flag, one_of, option, show_scores

if TYPE_CHECKING:
    from panbench.runs import Run

app = family()

WAYS = ("auto", "masks", "votes")


@command(
    app,
    "ensemble",
    "panbench ensemble results/a results/b --tune --out results/ab",
    "panbench ensemble results/a results/b --way masks --out results/ab",
    needs={"--halves": ("--tune",)},
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
        bool, flag("--tune", "Choose weights for things and stuff on one half of the images for the other, both ways.")
    ] = False,
    halves: Annotated[int, option("The seed of the halves that --tune draws.", metavar="N")] = 0,
    rule: Annotated[
        str | None,
        option(
            "By masks: the fusion rule. Default: that of the first run.",
            metavar="NAME[:KEY=VALUE,…]",
            callback=check_rules,
        ),
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
    if way not in WAYS:
        raise BadArgument(f"--way is {way!r} but is one of {', '.join(WAYS)}.")
    refuse_overwrite_and_resume(overwrite, resume)
    given = None if shares is None else _parse_weights(shares)
    members = find_runs(runs)
    with console.Bars() as bars:
        if _chosen_way(way, members, bars) == "masks":
            bars.status("Loading PyTorch")

            from panbench.evaluation.options import EvaluateOptions
            from panbench.evaluation.stored.stored_model import StoredModel
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
                raise BadArgument(f"{what} is for --way masks: votes combine maps that are already fused.")

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
    show_scores(run, as_json, {"path": str(run.path), "shares": [vars(share) for share in found]})
    for share in found:
        origin = "given" if share.pq_here is None else f"chosen on the others, PQ {100 * share.pq_here:.2f} there"
        console.hint(
            f"{share.images} images: weights of {', '.join(member.name for member in members)} {origin}: things "
            f"{_run_weights_text(share.things)}, stuff {_run_weights_text(share.stuff)}."
        )
    names = [str(run.path or run.name) for run in (*members, run)]
    console.hint(f"Against its members: `panbench compare {shlex.join(names)}`")


def _chosen_way(way: str, members: "list[Run]", bars: console.Bars) -> str:
    """Resolves `--way` to masks or votes; for `auto`, reports the choice and its reason."""
    if way != "auto":
        return way
    from panbench.runs import candidate_files

    stored = [run.path is not None and bool(candidate_files(run.path)) for run in members]
    if not all(stored) or len(members) < 2 or importlib.util.find_spec("torch") is None:
        return "votes"

    from panbench.studies.ensembles.by_masks import why_not_averaged

    if reason := why_not_averaged(members):
        bars.notice(f"By votes: {reason}")
        return "votes"
    bars.notice("By masks, as all runs stored their candidates; --way votes takes their maps instead.")
    return "masks"


def _parse_weights(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise BadArgument(f"--shares {text}: write one number a run, for example 1,0.5,1.") from None


def _run_weights_text(weights: tuple[float, ...]) -> str:
    """Returns the weights of an ensemble's runs as text, separated by commas."""
    return ", ".join(f"{weight:g}" for weight in weights)
