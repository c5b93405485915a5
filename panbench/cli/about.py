"""Declares `panbench models` (catalog, downloads of weights) and `panbench doctor` (check of the machine)."""

from typing import Annotated

from rich.table import Table
from rich.text import Text

from panbench.cli import console
from panbench.cli.command import command, family, flag, model_names, option

app = family()


@command(
    app,
    "models",
    "panbench models",
    "panbench models --filter 'swin-l mit'",
    "panbench models --data ade20k",
    "panbench models --download mask2former-r50",
    "panbench models --published --filter 'Mask DINO val2017'",
    idle_beside=dict.fromkeys(("--filter", "--data", "--published", "--json"), ("--download",)),
)
def models(
    filter: Annotated[
        str | None,
        option("Only rows with these words, of a name, family, licence …; or `published only`.", None, "WORDS"),
    ] = None,
    data: Annotated[
        str | None, option("Only models trained on this set (coco, ade20k …), or results on it.", None, "NAME")
    ] = None,
    published: Annotated[
        bool,
        flag(
            "--published",
            "Show published results with sources instead. --filter takes model, backbone, data and split.",
        ),
    ] = False,
    as_json: Annotated[bool, flag("--json", "Print a list of objects.")] = False,
    download: Annotated[
        list[str] | None,
        option(
            "Download the weights of this model; repeatable or comma-separated.",
            None,
            "NAME",
            autocompletion=model_names,
        ),
    ] = None,
) -> None:
    """List the models: data, source, licence, parameters, published PQ; and systems that are only published."""
    from panbench.catalog import load_catalog, resolve_models

    if download:
        from panbench.weights import fetch_weights

        for spec in resolve_models(download):
            with console.Bars() as bars:
                path = fetch_weights(spec, reporter=bars)
            console.wrote([path])
        return
    if published:
        _show_published(filter or "", data, as_json)
        return
    with console.working("Reading the list"):
        from panbench.report.answers.models import list_models

        listing = list_models(list(load_catalog().values()), filter or "", data)
    if as_json:
        console.show_json(listing.records())
    else:
        for text in listing.texts():
            console.show(text)
            console.show("")


def _show_published(words: str, data: str | None, as_json: bool) -> None:
    """Prints published results to compare runs with (`compare --published NAME`)."""
    with console.working("Reading the list"):
        from panbench.published import filtered
        from panbench.report.answers.published import published_grid, published_records

    found = filtered(words, data)
    if as_json:
        console.show_json(published_records(found))
    else:
        console.show_grids([published_grid(found)])


@command(app, "doctor", "panbench doctor", "panbench doctor --json")
def doctor(as_json: Annotated[bool, flag("--json", "Print an object.")] = False) -> None:
    """Check this machine: versions, devices, compiled code, cache, space, and problems."""
    from panbench.evaluation.tools.doctor import diagnose

    with console.Bars() as bars:
        bars.status("Checking this machine")
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
            text = ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)
            table.add_row(Text(f"  {name}"), Text(text))
        console.show(table)
    console.show("")
    for problem in found.problems:
        console.show(Text(f"Problem: {problem}"), soft_wrap=True)
    if not found.problems:
        console.show("No problems found.")
