"""`panbench compare`, `metrics` and `errors`: stored runs, asked again."""

import sys
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from panbench.base.errors import BadArgument, BadRun
from panbench.cli import console
from panbench.cli.command import (
    AsJson,
    Claims,
    OwnSlices,
    Raw,
    Runs,
    command,
    family,
    find_runs,
    flag,
    note_damage,
    option,
    slicings,
)

if TYPE_CHECKING:
    from panbench.report.answers.comparison import Standing
    from panbench.report.answers.findings import Findings
    from panbench.runs import Run as StoredRun
    from panbench.studies.seeds.answer import SeedStanding

app = family()


class Format(str, Enum):
    """How `compare` prints."""

    text = "text"
    md = "md"
    csv = "csv"
    json = "json"
    latex = "latex"
    parquet = "parquet"

    @classmethod
    def of(cls, out: Path | None) -> "Format":
        """The format that a file's ending names; text without one. Raises BadArgument for an unknown ending."""
        if out is None:
            return cls.text
        ending = out.suffix.lower().removeprefix(".")
        named = {"tex": "latex", "txt": "text", "": "text", "markdown": "md"}.get(ending, ending)
        if named in cls.__members__:
            return cls(named)
        if named in ("html", "htm"):
            raise BadArgument(f"compare writes no web page ({out}): `panbench report RUN … --out {out}` does.")
        raise BadArgument(
            f"compare cannot tell a format from the ending of {out}. Known endings are .txt, .md, .csv, .json, .tex "
            "and .parquet; or name one with --format."
        )


@command(
    app,
    "compare",
    "panbench compare results/coco-maskformer-r50 results/coco-mask2former-r50",
    "panbench compare results --by size --out table.md",
    "panbench compare results/coco-mask2former-r50 --published 'Mask DINO'",
    "panbench compare 'results/m2f@seed*' 'results/pfpn@seed*'",
)
def compare(
    runs: Runs,
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="How to print. Default: by the ending of --out, else text."),
    ] = None,
    out: Annotated[Path | None, option("Write to this file instead of printing.", None, "FILE")] = None,
    by: Annotated[
        str | None, option("Also PQ by size, share, segments or supercategory.", None, "WHAT", autocompletion=slicings)
    ] = None,
    slices: OwnSlices = None,
    per_category: Annotated[bool, flag("--per-category", "Also PQ of each category, by the difference.")] = False,
    baseline: Annotated[str | None, option("The run to compare all others with.", None, "RUN")] = None,
    published: Claims = None,
    metrics: Annotated[
        str,
        option("Also what networks say before fusion: ap (AP_pan), miou.", None, "pq,ap,miou"),
    ] = "pq",
    detect: Annotated[
        float, option("Of models by seeds ('a@seed*'): the difference to count seeds for.", None, "POINTS")
    ] = 0.5,
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="Ranks, 95 % intervals and significance.", metavar="")
    ] = True,
    common_images: Annotated[bool, flag("--common-images", "Compare on the images that all runs have.")] = False,
    mixed: Annotated[bool, flag("--mixed", "Put runs on different data into one table, as they are.")] = False,
    raw: Raw = False,
    digits: Annotated[
        int | None, option("Decimals of percentages: 2 in text and md, 1 in latex.", None, "N", min=0, max=6)
    ] = None,
) -> None:
    """Print stored runs side by side. csv, json and parquet hold fractions 0-1, the others percent.

    A quoted pattern, 'results/a@seed*', is one model that was trained several times where the runs differ in weights
    alone; other runs it names one by one.
    """
    chosen = format or Format.of(out)
    if chosen is Format.parquet and out is None and sys.stdout.isatty():
        raise BadArgument("Parquet is not for a terminal. Name a file with --out FILE.parquet, or redirect the output.")

    with console.working("Reading runs"):
        from panbench.report.answers.comparison import standing
        from panbench.report.answers.own_slices import slices_for
        from panbench.report.answers.stored import refuse_inputs
        from panbench.studies.seeds.answer import is_pattern, named_by, seed_standing
        from panbench.studies.unfused.options import parse_metrics

    measured = parse_metrics(metrics)
    places = digits if digits is not None else 1 if chosen is Format.latex else 2
    named = named_by(runs) if any(map(is_pattern, runs)) else None
    if named is not None and named.models:
        if by or slices or per_category or baseline or published or mixed or not intervals or measured != ("pq",):
            raise BadArgument(
                "Models by seeds are compared in PQ of all, things and stuff: leave out --by, --slices, "
                "--per-category, --baseline, --published, --metrics, --mixed and --no-intervals, or name single runs."
            )
        seeds = seed_standing(named.models, common_images=common_images, detect=detect / 100, digits=places)
        _print(chosen, out, seeds, seeds.sentences, raw)
        return
    for reason in () if named is None else named.reasons:
        console.note(reason)
    stored = find_runs(runs if named is None else named.folders)
    if out is not None:
        refuse_inputs(out, stored)
    with console.Bars(transient=True) as bars:
        found = standing(
            stored,
            common_images=common_images,
            mixed=mixed,
            intervals=intervals,
            by=by,
            per_category=per_category,
            baseline=baseline,
            slices=slices_for(slices, stored),
            reporter=bars,
            digits=places,
        )
    if measured != ("pq",):
        from panbench.studies.unfused.answer import with_unfused

        found = with_unfused(found, stored, measured)
    if published:
        from panbench.report.answers.published import with_published

        found = with_published(found, published)
    _print(chosen, out, found, [] if found.verdict is None else [found.verdict.text()], raw)


def _print(
    format: Format, out: Path | None, found: "Standing | SeedStanding", sentences: Sequence[str], raw: bool
) -> None:
    """Shows or writes a comparison; a terminal shows the sentences before the tables."""
    from panbench.report.answers.grid import plain

    if format is Format.text and out is None:
        for sentence in sentences:
            console.show(Text(plain(sentence)))
        if sentences:
            console.show("")
        console.show_grids(found.grids)
        return
    printed: dict[Format, Callable[[], str | bytes]] = {
        Format.text: found.text,
        Format.md: found.markdown,
        Format.latex: found.latex,
        Format.csv: lambda: found.csv(raw=raw),
        Format.json: found.json,
        Format.parquet: found.parquet,
    }
    content = printed[format]()
    if out is not None:
        console.write_file(out, content)
    elif isinstance(content, bytes):
        sys.stdout.buffer.write(content)
    else:
        console.write(content)


@command(
    app,
    "metrics",
    "panbench metrics results/coco-mask2former-r50 --by size --per-category",
    "panbench metrics results --json",
)
def metrics(
    runs: Runs,
    by: Annotated[
        list[str] | None,
        option("By size, share, segments or supercategory; several times.", None, "WHAT", autocompletion=slicings),
    ] = None,
    slices: OwnSlices = None,
    per_category: Annotated[bool, flag("--per-category", "Also a line for each category.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every measure of stored runs: PQ with intervals, PQ by size, PQ†, mIoU, Dice and others."""
    with console.working("Reading runs"):
        from panbench.report.answers.findings import metric_findings
        from panbench.report.answers.own_slices import slices_for

    chosen: dict[str, Any] = {"by": by} if by else {}
    stored = find_runs(runs)
    own = slices_for(slices, stored)
    found = partial(metric_findings, per_category=per_category, slices=own, **chosen)
    _show_each(stored, found, runs, as_json)


@command(app, "errors", "panbench errors results/coco-mask2former-r50 --per-category")
def errors(
    runs: Runs,
    most: Annotated[int, option("How many of the worst images to name for each cause.", None, "N", min=0)] = 5,
    slices: OwnSlices = None,
    per_category: Annotated[bool, flag("--per-category", "Also what each category loses most to.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print why PQ is lost in stored runs: each cause, what fixing it would gain, and where it happens."""
    with console.working("Reading runs"):
        from panbench.report.answers.findings import error_findings
        from panbench.report.answers.own_slices import slices_for

    stored = find_runs(runs)
    own = slices_for(slices, stored)
    found = partial(error_findings, images=most, per_category=per_category, slices=own)
    _show_each(stored, found, runs, as_json)


def _show_each(
    stored: "Sequence[StoredRun]", find: "Callable[..., Findings]", given: Sequence[Path], as_json: bool
) -> None:
    """Prints what is found of each run; as JSON a list of objects, or the object of the one run that was named.

    Of several runs, one that has nothing to find is named and left out. Raises BadRun when that holds of all.
    """
    one = len(given) == 1 and [run.path for run in stored] == [given[0]]
    records: list[Any] = []
    for run in stored:
        try:
            with console.Bars(transient=True) as bars:
                found = find(run, reporter=bars)
        except BadRun as problem:
            if len(stored) == 1:
                raise
            console.note(f"Left out: {problem}")
            continue
        if not as_json:
            if len(stored) > 1:
                console.show(Text(f"{run.path}" if not records else f"\n{run.path}", style="bold"))
            console.show_grids(found.grids)
        records.append(found.record)
    if not records:
        raise BadRun(f"None of these {len(stored)} runs holds a scored image, so there is nothing to measure.")
    if as_json:
        note_damage(stored)
        console.show_json(records[0] if one else records)
