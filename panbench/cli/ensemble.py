"""`panbench ensemble`: stored runs voted into one."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from panbench.base.errors import BadArgument
from panbench.cli import console
from panbench.cli.command import command, family, find_runs, flag, option

app = family()


@command(
    app,
    "ensemble",
    "panbench ensemble results/a results/b --tune --out results/ab",
)
def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or folders of runs.")],
    out: Annotated[Path, option("The folder of the new run.", metavar="DIR")],
    weights: Annotated[
        str | None, option("How much each run counts, in their order: 1,0.5,1. Default: all alike.", metavar="LIST")
    ] = None,
    tune: Annotated[
        bool,
        flag("--tune", "Choose weights for things and stuff on one half of the images for the other, both ways."),
    ] = False,
    seed: Annotated[int, option("Which halves.", metavar="N")] = 0,
    name: Annotated[str | None, option("What tables call it. Default: Ensemble of N runs.", metavar="TEXT")] = None,
    overwrite: Annotated[bool, flag("--overwrite", "Replace a run that is already there.")] = False,
    threads: Annotated[int | None, option("Default: the cores, up to 8.", metavar="N", min=1)] = None,
) -> None:
    """Vote the id maps of several runs into one map an image, and score it.

    The runs need their maps: `eval --save-predictions`, or folders that `score` scored. No model is run.
    """
    from panbench.report.tables import comparison_row, summary_text
    from panbench.scoring.voting import ensemble_runs

    members = find_runs(runs)
    with console.Bars() as bars:
        run, shares = ensemble_runs(
            members,
            out,
            weights=None if weights is None else _weights(weights),
            tuned=tune,
            seed=seed,
            title=name,
            overwrite=overwrite,
            threads=threads,
            reporter=bars,
        )
    row = comparison_row(run)
    console.show(summary_text(row.title, run.summary(), row.notes))
    for share in shares:
        origin = "given" if share.pq_here is None else f"chosen on the others, PQ {100 * share.pq_here:.2f} there"
        console.say(
            f"{share.images} images: weights of {', '.join(member.name for member in members)} {origin}: things "
            f"{_listed(share.things)}, stuff {_listed(share.stuff)}."
        )
    places = [str(run.path or run.name) for run in (*members, run)]
    console.say(f"Against its members: `panbench compare {shlex.join(places)}`")


def _weights(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise BadArgument(f"--weights {text}: write one number a run, for example 1,0.5,1.") from None


def _listed(weights: tuple[float, ...]) -> str:
    return ", ".join(f"{weight:g}" for weight in weights)
