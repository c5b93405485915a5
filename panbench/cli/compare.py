"""Declares `panbench compare`, `metrics` and `errors`, which analyse stored runs."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer
from rich.text import Text

from panbench.base.errors import BadArgument, BadRun
from panbench.base.program import one_thread_for_blas
from panbench.base.reporter import Reporter
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
    note_damaged_runs,
    option,
    options_from,
    slicing_names,
)

if TYPE_CHECKING:
    from panbench.report.answers.answer import Answer
    from panbench.report.answers.findings import Findings
    from panbench.report.answers.options import CompareOptions
    from panbench.runs import Run as StoredRun

app = family()


Format = Literal["text", "md", "csv", "json", "latex", "parquet"]
"""Output formats of `compare`."""


def _format_by_suffix(out: Path | None) -> Format:
    """Returns the output format that a file name's suffix means; text without one. Raises BadArgument."""
    ending = "" if out is None else out.suffix.lower().removeprefix(".")
    named = {"tex": "latex", "txt": "text", "": "text", "markdown": "md"}.get(ending, ending)
    if named in get_args(Format):
        return cast("Format", named)
    if named in ("html", "htm"):
        raise BadArgument(f"compare writes no web page ({out}): `panbench report RUN … --out {out}` does.")
    raise BadArgument(
        f"compare knows no format by the ending of {out}. Known endings are .txt, .md, .csv, .json, .tex "
        "and .parquet; or name one with --format."
    )


@dataclass(frozen=True)
class CompareRequest:
    """The options of `panbench compare`, a field each; studies add their own."""

    runs: Runs
    format: Annotated[
        Format | None,
        typer.Option("--format", "-f", help="How to print. Default: by the extension of --out, else text."),
    ] = None
    out: Annotated[Path | None, option("Write to this file instead of printing.", None, "FILE")] = None
    by: Annotated[
        str | None,
        option("Also PQ by size, share, segments or supercategory.", None, "WHAT", autocompletion=slicing_names),
    ] = None
    slices: OwnSlices = None
    per_category: Annotated[bool, flag("--per-category", "Also PQ of each category, by the difference.")] = False
    baseline: Annotated[
        str | None, option("Compare all other runs with this one: its folder or name.", None, "RUN")
    ] = None
    published: Claims = None
    intervals: Annotated[
        bool, typer.Option("--intervals/--no-intervals", help="Ranks, 95 % intervals and significance.", metavar="")
    ] = True
    common_images: Annotated[bool, flag("--common-images", "Compare on the images that all runs have.")] = False
    mixed: Annotated[bool, flag("--mixed", "Show runs on different data in one table.")] = False
    raw: Raw = False
    digits: Annotated[
        int | None, option("Decimals of percentages: 2 in text and md, 1 in latex.", None, "N", min=0, max=6)
    ] = None

    as_json: Annotated[bool, flag("--json", "Print JSON, fractions 0-1: as --format json.")] = False

    @property
    def output_format(self) -> Format:
        """The output format. Raises BadArgument for --json together with another format."""
        if not self.as_json:
            return self.format or _format_by_suffix(self.out)
        if self.format not in (None, "json"):
            raise BadArgument(f"--json and --format {self.format} contradict each other. Name one of them.")
        return "json"

    @property
    def decimal_places(self) -> int:
        """The number of decimals of percentages."""
        return self.digits if self.digits is not None else 1 if self.output_format == "latex" else 2

    def refuse_idle_options(self) -> None:
        """Raises BadArgument for options that have no effect together with the others."""
        if self.raw and self.output_format != "csv":
            raise BadArgument(f"--raw is about cells of CSV, and the format is {self.output_format}. Leave it out.")
        if self.digits is not None and self.output_format in ("csv", "json", "parquet"):
            raise BadArgument(f"--digits is for people: {self.output_format} has fractions in full. Leave it out.")
        if self.baseline and not (self.intervals or self.by or self.slices or self.per_category):
            raise BadArgument(
                "--baseline is for differences, which --no-intervals leaves out. Leave out one of the two."
            )

    @property
    def further_options(self) -> tuple[str, ...]:
        """The given options that print more than the table of PQ with intervals."""
        requested = {
            "--by": self.by,
            "--slices": self.slices,
            "--per-category": self.per_category,
            "--baseline": self.baseline,
            "--published": self.published,
            "--mixed": self.mixed,
            "--no-intervals": not self.intervals,
        }
        return tuple(name for name, given in requested.items() if given)


@command(
    app,
    "compare",
    "panbench compare results/coco-maskformer-r50 results/coco-mask2former-r50",
    "panbench compare results --by size --out table.md",
    "panbench compare results/coco-mask2former-r50 --published 'Mask DINO'",
    "panbench compare 'results/m2f@seed*' 'results/pfpn@seed*'",
)
@options_from(CompareRequest, "compare")
def compare(ctx: typer.Context, request: CompareRequest, studies: "tuple[CompareOptions, ...]") -> None:
    """Compare stored runs side by side. csv, json and parquet hold fractions 0-1, the others percent.

    A quoted pattern, 'results/a@seed*', stands for one model trained several times, if the runs differ only in their
    weights; otherwise it names runs one by one.
    """
    if request.output_format == "parquet" and request.out is None and sys.stdout.isatty():
        raise BadArgument("Parquet is not for a terminal. Name a file with --out FILE.parquet, or redirect the output.")
    request.refuse_idle_options()
    one_thread_for_blas()
    with console.working("Reading runs"):
        from panbench.report.answers.comparison import compare as compared
        from panbench.report.answers.own_slices import slices_for
        from panbench.report.answers.stored import refuse_inputs

    with console.Bars(transient=True) as bars:
        instead = _study_answer(request, studies, bars)
    if instead is not None:
        _print_comparison(request, instead)
        return
    stored = find_runs(request.runs)
    if request.out is not None:
        refuse_inputs(request.out, stored)
    with console.Bars(transient=True) as bars:
        found = compared(
            stored,
            common_images=request.common_images,
            mixed=request.mixed,
            intervals=request.intervals,
            by=request.by,
            per_category=request.per_category,
            baseline=request.baseline,
            slices=slices_for(request.slices, stored),
            reporter=bars,
            digits=request.decimal_places,
        )
    for study in studies:
        found = study.added(found, stored)
    if request.published:
        from panbench.report.answers.published import with_published

        found = with_published(found, request.published)
    _print_comparison(request, found)


def _study_answer(request: CompareRequest, studies: "Sequence[CompareOptions]", reporter: Reporter) -> "Answer | None":
    """Returns what a study (plug-in) prints in place of the comparison of runs; None if none replaces it."""
    from panbench.report.answers.options import Comparing, given_options

    for study in studies:
        others = [name for other in studies if other is not study for name in given_options(other)]
        comparing = Comparing(
            tuple(request.runs),
            request.common_images,
            request.decimal_places,
            (*request.further_options, *others),
            reporter,
        )
        if (answer := study.instead(comparing)) is not None:
            return answer
    return None


def _print_comparison(request: CompareRequest, found: "Answer") -> None:
    """Prints a comparison or writes it to a file; on a terminal, notes come before the tables."""
    from panbench.report.answers.grid import sentence_text

    format, out, raw = request.output_format, request.out, request.raw
    if format == "text" and out is None:
        for message in found.messages:
            console.show(sentence_text(message))
        if found.messages:
            console.show("")
        console.show_grids(found.grids)
        return
    printed: dict[Format, Callable[[], str | bytes]] = {
        "text": found.text,
        "md": found.markdown,
        "latex": found.latex,
        "csv": lambda: found.csv(raw=raw),
        "json": found.json,
        "parquet": found.parquet,
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
        option("By size, share, segments or supercategory; repeatable.", None, "WHAT", autocompletion=slicing_names),
    ] = None,
    slices: OwnSlices = None,
    per_category: Annotated[bool, flag("--per-category", "Also one row per category.")] = False,
    per_image: Annotated[bool, flag("--per-image", "Also one row per image, the worst first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every measure of stored runs: PQ with intervals, PQ by size, PQ†, mIoU, Dice and others."""
    with console.working("Reading runs"):
        from panbench.report.answers.findings import metric_findings
        from panbench.report.answers.own_slices import slices_for

    chosen: dict[str, Any] = {"by": by} if by else {}
    stored = find_runs(runs)
    own = slices_for(slices, stored)
    found = partial(metric_findings, per_category=per_category, per_image=per_image, slices=own, **chosen)
    _show_findings_of_each(stored, found, runs, as_json)


@command(app, "errors", "panbench errors results/coco-mask2former-r50 --per-category")
def errors(
    runs: Runs,
    most: Annotated[int, option("How many of the worst images to list per cause.", None, "N", min=0)] = 5,
    slices: OwnSlices = None,
    per_category: Annotated[bool, flag("--per-category", "Also the main cause of loss of each category.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print why PQ is lost in stored runs: each cause, what fixing it would gain, and where it happens."""
    with console.working("Reading runs"):
        from panbench.report.answers.findings import error_findings
        from panbench.report.answers.own_slices import slices_for

    stored = find_runs(runs)
    own = slices_for(slices, stored)
    found = partial(error_findings, images=most, per_category=per_category, slices=own)
    _show_findings_of_each(stored, found, runs, as_json)


def _show_findings_of_each(
    stored: "Sequence[StoredRun]", find: "Callable[..., Findings]", given: Sequence[Path], as_json: bool
) -> None:
    """Prints the findings for each run; as JSON a list of objects, or one object if a single run was named.

    With several runs, one without findings is named and left out. Raises BadRun if none has any.
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
        note_damaged_runs(stored)
        console.show_json(records[0] if one else records)
