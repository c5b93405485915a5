"""`panbench reproduce`: checks whether a published number is reproduced."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from panbench.base.errors import BadArgument
from panbench.cli import console
from panbench.cli.command import AsJson, command, family, flag, model_names, option

if TYPE_CHECKING:
    from panbench.studies.reproduction.answer import Reproduction

app = family()

NOT_REPRODUCED = 3


@command(
    app,
    "reproduce",
    "panbench reproduce mask2former-tiny",
    "panbench reproduce mask2former-r50 --download",
    "panbench reproduce mask2former-r50 --run results/coco-mask2former-r50",
    "panbench reproduce --page results/published/README.md",
    idle_beside={**dict.fromkeys(("--data", "--out", "--download"), ("--run", "--page")), "--json": ("--page",)},
)
def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="A model's name.", autocompletion=model_names)
    ] = None,
    run: Annotated[Path | None, option("Judge this stored run instead of making one.", None, "RUN")] = None,
    data: Annotated[str | None, option("The data, if not in the usual folder.", None, "DIR")] = None,
    out: Annotated[Path | None, option("The run's folder. Default: results/published/MODEL.", None, "DIR")] = None,
    download: Annotated[bool, flag("--download", "Download missing data and weights.")] = False,
    page: Annotated[
        Path | None,
        option("Write a page with the verdicts on all runs in this file's folder instead.", None, "FILE.md"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a model on the data of its published number and check that it is reproduced. Exit code 3: it is not.

    An interrupted run is continued. Verified runs stand under version control in results/published/.
    """
    from panbench.catalog import find_model
    from panbench.runs import load_run
    from panbench.studies.reproduction.answer import claim_for, files_not_to_commit, judge, reproduction_page

    if page is not None:
        if name is not None or run is not None:
            raise BadArgument("--page is made of all runs in the file's folder: leave out the model and --run.")
        console.write_file(page, reproduction_page(page.parent))
        return
    if name is None:
        raise BadArgument("Name a model, as `panbench reproduce mask2former-tiny`, or give --page.")
    spec = find_model(name)
    claim = claim_for(spec)
    folder = run or out or Path("results/published") / spec.name
    if run is None:
        _run_eval_command(spec.name, data or claim.dataset, folder, download)
    found = judge(load_run(folder), spec)
    if as_json:
        console.show_json(found.record())
    else:
        console.show(found.message)
        console.show_grids([found.grid()])
        _print_departures(found)
    if run is None and out is None and not as_json:
        for message in files_not_to_commit(folder):
            console.note(message)
    if not found.reproduced:
        raise typer.Exit(NOT_REPRODUCED)


def _print_departures(found: "Reproduction") -> None:
    """Prints the differences from the claimed evaluation, and what to suspect if the numbers do not agree."""
    if found.departures:
        console.show("What differs from the claimed evaluation:")
        for number, departure in enumerate(found.departures, start=1):
            console.show(f"{number}. {departure}")
    else:
        console.show("Nothing that the run records differs from the claimed evaluation.")
    if not found.agrees:
        console.show("What else to suspect, in this order:")
        for number, suspect in enumerate(found.suspects, start=1):
            console.show(f"{number}. {suspect}")


def _run_eval_command(name: str, data: str, out: Path, download: bool) -> None:
    """Runs or resumes `panbench eval`."""
    from panbench.cli import eval

    program = typer.main.get_command(eval.app)
    words = ["--model", name, "--data", data, "--out", str(out), "--resume", *(["--download"] if download else [])]
    commands = getattr(program, "commands", None)
    (commands["eval"] if commands else program).main(args=words, prog_name="panbench eval", standalone_mode=False)
