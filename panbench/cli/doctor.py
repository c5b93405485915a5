"""`panbench doctor`: what a report of trouble needs first."""

from typing import Annotated

from rich.table import Table
from rich.text import Text

from panbench.cli import console
from panbench.cli.command import command, family, flag

app = family()


@command(app, "doctor", "panbench doctor", "panbench doctor --json")
def doctor(as_json: Annotated[bool, flag("--json", "Print an object.")] = False) -> None:
    """Check this machine: versions, devices, compiled code, cache, space, and problems."""
    from panbench.evaluation.tools.doctor import diagnose

    with console.Bars() as bars:
        bars.status("Looking at this machine")
        found = diagnose()
    if as_json:
        console.show_json({**found.record, "problems": found.problems})
        return
    for section, values in found.record.items():
        if not values:
            continue
        console.show(Text(section, style="bold"))
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in values.items():
            shown = ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)
            table.add_row(Text(f"  {name}"), Text(shown))
        console.show(table)
    console.show("")
    for problem in found.problems:
        console.show(Text(f"Problem: {problem}"), soft_wrap=True)
    if not found.problems:
        console.show("No problems found.")
