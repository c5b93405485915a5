"""`panbench reproduce`: is the number that was published the number that comes out?"""

from pathlib import Path
from typing import Annotated

import typer

from panbench.cli import console
from panbench.cli.command import AsJson, command, family, flag, model_names, option

app = family()

NOT_REPRODUCED = 3


@command(
    app,
    "reproduce",
    "panbench reproduce mask2former-tiny",
    "panbench reproduce mask2former-r50 --download",
    "panbench reproduce mask2former-r50 --run results/coco-mask2former-r50",
)
def reproduce(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="A model's name.", autocompletion=model_names)],
    run: Annotated[Path | None, option("Judge this stored run instead of making one.", None, "RUN")] = None,
    data: Annotated[str | None, option("The data, if they are not in their usual place.", None, "DIR")] = None,
    out: Annotated[Path | None, option("The run's folder. Default: results/published/MODEL.", None, "DIR")] = None,
    download: Annotated[bool, flag("--download", "Fetch data and weights that are not here.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a model on the data of its published number, and say whether the number comes out. Exit code 3: it does not.

    An interrupted run is gone on with. results/published/ is where verified runs are kept under version control.
    """
    from panbench.catalog import find_model
    from panbench.report.reproduction import claim_for, judge
    from panbench.runs import load_run

    spec = find_model(name)
    claim = claim_for(spec)
    folder = run or out or Path("results/published") / spec.name
    if run is None:
        _evaluate(spec.name, data or claim.dataset, folder, download)
    found = judge(load_run(folder), spec)
    if as_json:
        console.show_json(found.record())
    else:
        console.show(found.sentence)
        console.show_grids([found.grid()])
        if not found.reproduced:
            console.show("What to suspect, in this order:")
            for number, suspect in enumerate(found.suspects, start=1):
                console.show(f"{number}. {suspect}")
    if not found.reproduced:
        raise typer.Exit(NOT_REPRODUCED)


def _evaluate(name: str, data: str, out: Path, download: bool) -> None:
    """Runs `panbench eval`, or goes on with it."""
    from panbench.cli import eval

    program = typer.main.get_command(eval.app)
    words = ["--model", name, "--data", data, "--out", str(out), "--resume", *(["--download"] if download else [])]
    commands = getattr(program, "commands", None)
    (commands["eval"] if commands else program).main(args=words, prog_name="panbench eval", standalone_mode=False)
