"""`panbench published`: what papers claim."""

from typing import Annotated

import typer

from panbench.cli import console
from panbench.cli.command import command, family, flag, option

app = family()


@command(app, "published", "panbench published R50", "panbench published 'Mask DINO' --split val2017 --json")
def published(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]", help="A model, a backbone or both, as 'Mask DINO' or R50. Default: all."),
    ] = None,
    data: Annotated[str | None, option("Only results on this dataset.", None, "NAME")] = None,
    split: Annotated[str | None, option("Only results on this split, as val2017.", None, "NAME")] = None,
    as_json: Annotated[bool, flag("--json", "Print a list of objects, fractions 0-1.")] = False,
) -> None:
    """List published results with their sources, to set runs against (`compare --published NAME`)."""
    with console.working("Reading the list"):
        from panbench.published import choose
        from panbench.report.answers.published import published_grid, published_records

    found = choose(names or [], dataset=data, split=split)
    if as_json:
        console.show_json(published_records(found))
    else:
        console.show_grids([published_grid(found)])
