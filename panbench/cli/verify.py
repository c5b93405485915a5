"""`panbench verify`: whether runs are what was written."""

import typer

from panbench.base.reporter import counter
from panbench.cli import console
from panbench.cli.command import AsJson, Runs, command, family

app = family()


@command(app, "verify", "panbench verify results/coco-mask2former-r50", "panbench verify results")
def verify(paths: Runs, as_json: AsJson = False) -> None:
    """Check that runs are what was written: parts, summary, files that were read, predictions and candidates."""
    from panbench.report.answers.stored import DAMAGED
    from panbench.report.answers.stored import verify as verification
    from panbench.report.answers.tables import look_for_runs

    looked = look_for_runs(paths)
    with console.Bars(transient=True) as bars:
        for sentence in (*looked.unreadable, *looked.deeper):
            bars.notice(sentence)
        found = [verification(run, counter(bars, run.name)) for run in looked.runs]
    if as_json:
        console.show_json([vars(one) for one in found])
    else:
        for one in found:
            console.write(f"{one.run}: {one.state}\n")
            for sentence in one.checked:
                console.write(f"  {sentence}\n")
            for sentence in one.problems:
                console.write(f"  Problem: {sentence}\n")
    if looked.unreadable or any(one.state == DAMAGED for one in found):
        raise typer.Exit(1)
