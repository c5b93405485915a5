"""Tables that people and programs read: one run's PQ, several runs side by side, the list of models.

A comparison is a list of `ComparisonRow`; the renderers turn it into text, Markdown, CSV, JSON, LaTeX or Parquet. Rows
hold fractions 0–1, as CSV, JSON and Parquet do; the others show percent.
"""

import csv
import dataclasses
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import numpy as np
import numpy.typing as npt
from rich.console import Group, RenderableType
from rich.text import Text

from panbench.base.errors import BadArgument, BadRun, Way
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import capitalised, for_spreadsheet, in_sentence, listed
from panbench.metrics.pq import CategorySums
from panbench.panoptic.types import GROUPS
from panbench.report.answers.absences import absent
from panbench.report.answers.grid import (
    ABSENT,
    Grid,
    as_latex,
    as_markdown,
    as_text,
    count,
    percent,
    pipe_table,
    plain,
    sentence_text,
    signed,
    three_digits,
)
from panbench.report.answers.patterns import spelled_out
from panbench.runs import (
    CategoryMapRecord,
    DatasetRecord,
    ModelRecord,
    Run,
    RunInfo,
    load_run,
    looks_like_run,
    read_runs,
)
from panbench.runs.alike import arithmetic, detection_library, ground_truths, unlike, views
from panbench.runs.definitions import definitions_in_words, differing_definitions, stored_definitions

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ComparisonRow",
    "FoundRuns",
    "check_comparable",
    "comparable_images",
    "comparison_row",
    "comparison_rows",
    "comparison_text",
    "distinct_names",
    "failed_row",
    "find_runs",
    "headline",
    "labels",
    "look_for_runs",
    "render",
    "row_record",
    "summary_text",
    "typed_table",
]

# A difference to a published number means something only on the images that it was published for.
PUBLISHED_IMAGES: dict[tuple[Any, Any], int] = {("coco", "val2017"): 5000}


# In one table all the same: the way out of commands that have --mixed.
_ALL_THE_SAME = Way("show them in one table all the same with --mixed", "--mixed")

MOST_SKEW = 1.5
"""How many times farther than the other one end of an interval may lie for "±" to describe it."""


@dataclass(frozen=True)
class ComparisonRow:
    """One run (or a model that never became one) in a comparison. Fractions 0–1; what does not exist is None.

    model: the model's name; None for scored predictions. images: how many were scored. published_PQ: only where
    dataset, split and images are those of the publication. complete: every image that was asked for is scored.
    notes: what a reader must know before believing the numbers.
    gflops: of published results, as their authors count them; panbench counts them in `bench`.
    rank, the lowest and the highest rank that are possible, PQ_low, PQ_high, versus: how sure the order is, where
        answers/comparison.py found out; None and () otherwise.
    """

    run: str
    model: str | None = None
    dataset: str | None = None
    images: int | None = None
    PQ: float | None = None
    SQ: float | None = None
    RQ: float | None = None
    PQ_th: float | None = None
    SQ_th: float | None = None
    RQ_th: float | None = None
    PQ_st: float | None = None
    SQ_st: float | None = None
    RQ_st: float | None = None
    params: int | None = None
    images_per_second: float | None = None
    published_PQ: float | None = None
    complete: bool = False
    title: str = ""
    rule: str | None = None
    split: str | None = None
    status: str = "done"
    weights_sha256: str | None = None
    random_weights: bool = False
    device: str | None = None
    precision: str | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()
    rank: int | None = None
    rank_low: int | None = None
    rank_high: int | None = None
    PQ_low: float | None = None
    PQ_high: float | None = None
    gflops: float | None = None
    loop_seconds: float | None = None
    versus: tuple[Mapping[str, Any], ...] = ()

    @property
    def difference(self) -> float | None:
        """PQ minus the published PQ, where both exist."""
        return None if self.PQ is None or self.published_PQ is None else self.PQ - self.published_PQ

    @property
    def ranks(self) -> str:
        """The ranks that are possible: "1–3", or "1" where it is sure."""
        if self.rank_low is None or self.rank_high is None:
            return ABSENT
        return str(self.rank_low) if self.rank_low == self.rank_high else f"{self.rank_low}–{self.rank_high}"

    @property
    def believable(self) -> bool:
        """Whether the numbers may be called best: trained weights, every image scored."""
        return self.complete and not self.random_weights and self.error is None


def headline(run: Run) -> str:
    """A run in a line: its title, what it is on, and how many images."""
    row = comparison_row(run)
    where = " ".join(part for part in (row.dataset, row.split) if part)
    return f"{row.title}{' on ' + where if where else ''}, {row.images:,} images"


@dataclass(frozen=True)
class FoundRuns:
    """Runs, a sentence for each run that cannot be read, and a sentence for each folder with runs further down."""

    runs: Sequence[Run]
    unreadable: Sequence[str]
    deeper: Sequence[str]


def find_runs(paths: Sequence[str | os.PathLike[str]], reporter: Reporter = SILENT) -> list[Run]:
    """The runs in these folders, each a run or a folder of runs.

    A pattern, as 'results/coco-*', names all runs that fit. Files beside several runs are left out with a notice, as a
    shell's pattern names them, too. Raises BadRun for another file, for a path that is no run and holds none, and for a
    pattern that no run fits.
    reporter: gets a notice for each run in a folder of runs that cannot be read, and for runs further down
    """
    found = look_for_runs(paths)
    for sentence in (*found.unreadable, *found.deeper):
        reporter.notice(sentence)
    return list(found.runs)


def look_for_runs(paths: Sequence[str | os.PathLike[str]]) -> FoundRuns:
    """Like `find_runs`, and also returns what was left out."""
    given = spelled_out([Path(path) for path in paths])
    files = [path for path in given if path.is_file() and path.name != "run.json"]
    # What a shell's `results/*` names may be passed over; a file that was typed is refused by `load_run`.
    passed = [file for file in files if _is_beside_runs(file, given)]
    runs: list[Run] = []
    unreadable: list[str] = []
    further = [f"Left out, as they are not runs: {listed(list(map(str, passed)), 5)}."] if passed else []
    for path in (path for path in given if path not in passed):
        if not path.is_dir() or looks_like_run(path):
            runs.append(load_run(path))
            continue
        inside, problems = read_runs(path)
        if problems and not inside:
            raise BadRun(f"{path} holds no run that can be read. {' '.join(problems)}")
        unreadable += [f"Left out: {problem}" for problem in problems]
        deeper = {str(found.parent.parent) for found in path.glob("*/*/run.json")} - {str(run.path) for run in inside}
        if deeper and not inside:
            raise BadRun(f"{path} holds no run itself, but its folders do. Name them: {listed(sorted(deeper), 5)}.")
        if deeper:
            names = listed(sorted(deeper), 5)
            further.append(f"Runs further down are left out; their folders are {names}. Name these, too.")
        # Without a run inside, the error of a folder that is none.
        runs.extend(inside or [load_run(path)])
    return FoundRuns(runs, unreadable, further)


def _is_beside_runs(file: Path, given: Sequence[Path]) -> bool:
    """Whether a file lies beside several of the folders that were given, or beside a folder of runs."""
    beside = [path for path in given if path.is_dir() and path.parent == file.parent]
    return len(beside) > 1 or any(not looks_like_run(path) for path in beside)


def comparison_rows(runs: Sequence[Run], *, common_images: bool = False, mixed: bool = False) -> list[ComparisonRow]:
    """A row for each run, in the order given.

    Raises BadRun when the runs are of different datasets or images.
    common_images: compare on the images that all of them hold.
    mixed: put different datasets and images into one table all the same; the notes say which.
    """
    if not runs:
        raise BadArgument("No run is named. Pass one or more run folders, such as results/*.")
    shared = None if mixed and not common_images else comparable_images(runs, common_images=common_images)
    narrowed = shared if common_images else None
    rows = [
        dataclasses.replace(comparison_row(run, narrowed), run=name)
        for run, name in zip(runs, distinct_names(runs), strict=True)
    ]
    rows = _told_apart(runs, rows)
    if mixed and len({(row.dataset, row.split) for row in rows}) > 1:
        rows = [
            dataclasses.replace(row, notes=(f"on {row.dataset} {row.split or ''}".strip(), *row.notes)) for row in rows
        ]
    return rows


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """The runs' names; for runs with the same name, the end of the path that distinguishes them."""
    names = [run.name for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [place for place, other in enumerate(names) if other == name]
        paths = [runs[place].path for place in alike]
        parts = [() if path is None else path.absolute().parts for path in paths]
        longest = max(map(len, parts))
        for length in range(1, longest + 1):
            ends = ["/".join(own[-length:]) for own in parts]
            if len(set(ends)) == len(ends) and all(ends):
                for place, end in zip(alike, ends, strict=True):
                    names[place] = end
                break
    return names


def comparable_images(runs: Sequence[Run], *, common_images: bool = False) -> npt.NDArray[np.int64]:
    """The ids of the images on which runs are compared, ascending. Raises BadRun when they cannot be.

    common_images: those that all of them hold; otherwise all must hold the same ones
    """
    if not common_images:
        check_comparable(runs)
        return runs[0].images
    _check_alike(runs)
    shared = shared_images(runs)
    if not len(shared):
        raise BadRun(f"{_listed([run.name for run in runs])} have no image in common.")
    return shared


def shared_images(runs: Sequence[Run]) -> npt.NDArray[np.int64]:
    """The ids of the images that all runs have, ascending."""
    return reduce(lambda known, other: np.intersect1d(known, other, assume_unique=True), (run.images for run in runs))


def comparison_row(run: Run, images: npt.NDArray[np.int64] | None = None) -> ComparisonRow:
    """The row of a stored run; with `images`, PQ, SQ and RQ on these images only."""
    info = run.info
    model = info.model or ModelRecord()
    # What is on disk counts: run.json may promise more than a killed or torn run holds.
    held = run.images
    scored = len(held)
    summary: Mapping[str, Mapping[str, Any]] | None = None
    narrowed = images is not None and len(images) != len(held)
    if images is not None and narrowed:
        summary = _summary_on(run, images)
    elif len(held):
        summary = _summary_of(run)
    whole = info.status == "done" and scored == info.images.expected and not info.images.missing and not run.faults
    selected = _is_subset(info)
    # Of a scored folder this would be the speed of scoring, beside the speeds of models.
    timed = info.kind != "score" and "candidates" not in info.arguments
    return ComparisonRow(
        run=run.name,
        model=model.name,
        dataset=info.dataset.name,
        images=scored if images is None or not narrowed else len(images),
        **_flat(summary),
        params=model.params,
        images_per_second=info.images_per_second if timed else None,
        loop_seconds=info.seconds.wall if timed else None,
        published_PQ=None if narrowed or selected or not whole else _published_pq(model, info.dataset, scored),
        complete=whole,
        title=model.title or model.name or run.name,
        rule=None if info.rule is None else str(info.rule),
        split=info.dataset.split,
        status=info.status,
        weights_sha256=model.weights_sha256,
        random_weights=model.random_weights,
        device=info.device.name,
        precision=info.precision,
        error=_reason(info.error) if info.status == "failed" else None,
        notes=tuple(_notes(run, whole, selected, None if images is None or not narrowed else len(images))),
    )


def failed_row(name: str, title: str, reason: str, dataset: str | None = None) -> ComparisonRow:
    """The row of a model that could not be run, with the reason."""
    return ComparisonRow(
        run=name,
        model=name,
        dataset=dataset,
        title=title,
        status="failed",
        error=reason,
        notes=(f"failed: {reason}",),
    )


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises BadRun, with the difference, when the runs are not of the same ground truth and the same images."""
    _check_groups(runs)
    _check_alike(runs)
    first, *others = runs
    for run in others:
        left, right = first.images, run.images
        if np.array_equal(left, right):
            continue
        both = len(np.intersect1d(left, right, assume_unique=True))
        shared = f"{both:,} of them in both" if both else "none of them in both"
        on_both = Way("compare on the images that all runs have with --common-images", "--common-images")
        raise BadRun(
            f"{first.name} has {len(left):,} images and {run.name} {len(right):,}, {shared}: their numbers cannot be "
            "compared.",
            ways=[*([on_both] if both else []), Way("show the runs as they are with --mixed", "--mixed")],
        )


def summary_text(
    title: str, summary: Mapping[str, Mapping[str, Any]] | None, notes: Sequence[str] = ()
) -> RenderableType:
    """`| title | PQ | SQ | RQ | categories |` with the rows All, Things and Stuff, in percent, and the notes below."""
    rows = []
    for group in GROUPS:
        scores = (summary or {}).get(group) or {}
        n = scores.get("n")
        rows.append(
            [group, *(percent(scores.get(name)) for name in ("PQ", "SQ", "RQ")), ABSENT if n is None else str(n)]
        )
    lines = pipe_table([plain(title), "PQ", "SQ", "RQ", "categories"], rows)
    return Group(
        *(Text(line, style="" if index else "bold", no_wrap=True) for index, line in enumerate(lines)),
        *(sentence_text(f"Note: {note}") for note in notes),
    )


def comparison_text(rows: Sequence[ComparisonRow], digits: int = 2) -> RenderableType:
    """The comparison as a table for a terminal of 80 columns or more; the best of a column is bold."""
    return as_text(comparison_grid(rows, digits))


def render(rows: Sequence[ComparisonRow], format: str, digits: int | None = None, *, raw: bool = False) -> str:
    """The comparison as Markdown (`md`), `csv`, `json` or `latex`, ending in a newline.

    digits: decimals of percentages in md (2) and latex (1, as papers print PQ); csv and json are fractions in full.
    raw: leave text in csv as it is that a spreadsheet would take for a formula; else it gets an apostrophe before it
    """
    renderers: dict[str, Callable[[], str]] = {
        "md": lambda: as_markdown(comparison_grid(rows, 2 if digits is None else digits)),
        "csv": lambda: _csv(rows, raw),
        "json": lambda: (
            json.dumps([row_record(row) for row in rows], indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        ),
        "latex": lambda: as_latex(comparison_grid(rows, 1 if digits is None else digits)),
    }
    if format not in renderers:
        raise BadArgument(f"There is no format {format!r}. Choose one of {', '.join(renderers)}.")
    return renderers[format]()


def typed_table(rows: Sequence[ComparisonRow]) -> "pa.Table":
    """The columns of CSV with their types, which a column without any value has, too."""
    import pyarrow as pa

    kinds = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    hints = get_type_hints(ComparisonRow)
    schema = pa.schema(
        (name, next((kinds[hint] for hint in (hints[name], *get_args(hints[name])) if hint in kinds), pa.string()))
        for name in _flat_columns()
    )
    records = [_flat_record(row) for row in rows]
    return pa.table({name: [record[name] for record in records] for name in schema.names}, schema=schema)


def comparison_grid(rows: Sequence[ComparisonRow], digits: int = 2, *, with_intervals: bool = False) -> Grid:
    """The comparison as people read it: percent, notes below, columns that no row fills left out.

    with_intervals: the cells of PQ go on with its 95 % interval, where there is one: "± half its width", or both ends
        of all of them when one is skewed
    """
    columns = _columns(rows, digits)
    marked = tuple(dict.fromkeys(note for row in rows for note in row.notes))
    notes = []
    if with_intervals and any(row.PQ_low is not None for row in rows):
        skewed = any(map(_is_skewed, rows))
        columns = [_with_interval(column, digits, skewed) if column.name == "PQ" else column for column in columns]
        notes.append("In brackets: the 95 % interval." if skewed else "±: half the width of the 95 % interval.")
    places = [column.best(rows) for column in columns]
    return Grid(
        columns=("Model", *(column.name for column in columns)),
        rows=tuple(
            (label, *(column.cell(row) for column in columns)) for row, label in zip(rows, labels(rows), strict=True)
        ),
        notes=tuple(notes),
        best=frozenset((row, 1 + index) for index, (first, _) in enumerate(places) for row in first),
        second=frozenset((row, 1 + index) for index, (_, second) in enumerate(places) for row in second),
        marks=tuple(tuple(1 + marked.index(note) for note in row.notes) for row in rows),
        marked=tuple(map(capitalised, marked)),
    )


def rate(per_second: float | None) -> str:
    """Images a second to three digits: 0.42, 12.3, 231."""
    return ABSENT if per_second is None else three_digits(per_second)


def speed_text(title: str, info: RunInfo) -> str:
    """A sentence on how fast an evaluation was: its steady rate where it has one, and the wall time of all of it."""
    wall, scored = info.seconds.wall, info.images.scored
    whole = f"{scored:,} {'image' if scored == 1 else 'images'}"
    whole += "" if wall is None else f" in {wall:,.1f} s, from the first read to the last write"
    if info.images_per_second is None:
        return f"{title}: {whole}; too few batches for images a second."
    low, high = info.images_per_second_low, info.images_per_second_high
    span = "" if low is None or high is None else f", {rate(low)} to {rate(high)} in parts of the run"
    return f"{title}: {rate(info.images_per_second)} images a second{span}. {whole}."


@dataclass(frozen=True)
class _Column:
    """A column of numbers. `key` gives the printed value to rank rows by, if one can be best."""

    name: str
    cell: Callable[[ComparisonRow], str]
    key: Callable[[ComparisonRow], float | None] | None = None

    def best(self, rows: Sequence[ComparisonRow]) -> tuple[frozenset[int], frozenset[int]]:
        """The rows with the best value and, of three or more, with the second; none where all values are the same."""
        if self.key is None:
            return frozenset(), frozenset()
        values = {
            index: value for index, row in enumerate(rows) if row.believable and (value := self.key(row)) is not None
        }
        ordered = sorted(set(values.values()), reverse=True)
        if len(ordered) < 2:
            return frozenset(), frozenset()
        first, second = (
            frozenset(index for index, value in values.items() if value == ordered[place]) for place in (0, 1)
        )
        return first, second if len(values) > 2 else frozenset()


def _is_skewed(row: ComparisonRow) -> bool:
    """Whether one end of PQ's interval is so much farther away than the other that "±" would mislead."""
    if row.PQ is None or row.PQ_low is None or row.PQ_high is None:
        return False
    near, far = sorted((row.PQ - row.PQ_low, row.PQ_high - row.PQ))
    return far > MOST_SKEW * near


def _with_interval(column: _Column, digits: int, both_ends: bool) -> _Column:
    def cell(row: ComparisonRow) -> str:
        if row.PQ is None or row.PQ_low is None or row.PQ_high is None:
            return column.cell(row)
        if both_ends:
            return f"{column.cell(row)} [{percent(row.PQ_low, digits)}, {percent(row.PQ_high, digits)}]"
        return f"{column.cell(row)} ± {percent((row.PQ_high - row.PQ_low) / 2, digits)}"

    return dataclasses.replace(column, cell=cell)


def _columns(rows: Sequence[ComparisonRow], digits: int) -> list[_Column]:
    """PQ, SQ and RQ always, the other columns where they hold anything."""

    def score(name: str) -> _Column:
        def key(row: ComparisonRow) -> float | None:
            value = getattr(row, name)
            return None if value is None else round(value, digits + 2)

        return _Column(name, lambda row: percent(getattr(row, name), digits), key)

    columns = [score(name) for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")]
    if any(row.params is not None for row in rows):
        columns.append(_Column("params", lambda row: count(row.params)))
    if any(row.gflops is not None for row in rows):
        columns.append(_Column("GFLOPs", lambda row: ABSENT if row.gflops is None else f"{row.gflops:.0f}"))
    if any(row.images_per_second is not None for row in rows):
        # No best: the order of speeds changes with what else the machine does.
        columns.append(_Column("img/s", lambda row: rate(row.images_per_second)))
    if any(row.published_PQ is not None for row in rows):
        columns.append(_Column("publ.", lambda row: percent(row.published_PQ, digits)))
        columns.append(_Column("diff", lambda row: signed(row.difference, digits)))
    return columns


def _csv(rows: Sequence[ComparisonRow], raw: bool) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _flat_columns(), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        record = _flat_record(row)
        writer.writerow(
            {
                key: str(value).lower() if isinstance(value, bool) else value if raw else for_spreadsheet(value)
                for key, value in record.items()
            }
        )
    return buffer.getvalue()


def _flat_columns() -> list[str]:
    """What of a row fits into one line: all but its differences to the others."""
    return [field.name for field in dataclasses.fields(ComparisonRow) if field.name != "versus"]


def _flat_record(row: ComparisonRow) -> dict[str, Any]:
    return {**{name: getattr(row, name) for name in _flat_columns()}, "notes": "; ".join(row.notes)}


def row_record(row: ComparisonRow) -> dict[str, Any]:
    """A row as JSON lists it."""
    return {**dataclasses.asdict(row), "notes": list(row.notes), "versus": [dict(other) for other in row.versus]}


def _flat(summary: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    return {
        f"{name}{suffix}": ((summary or {}).get(group) or {}).get(name)
        for group, suffix in GROUPS.items()
        for name in ("PQ", "SQ", "RQ")
    }


def _summary_of(run: Run) -> Mapping[str, Mapping[str, Any]]:
    if not run.in_blocks:
        return run.summary()
    from panbench.report.answers.folded import known_summary

    return known_summary(run)


def _summary_on(run: Run, images: npt.NDArray[np.int64]) -> dict[str, Any]:
    sums = CategorySums(run.categories)
    run.fold(sums, images=images)
    return sums.summary()


def _check_alike(runs: Sequence[Run]) -> None:
    """Raises BadRun for runs of different ground truth, of files that changed, or of other definitions."""
    if reason := unlike(runs, "ground truth"):
        raise BadRun(f"{reason}: their numbers cannot be compared.", ways=[_ALL_THE_SAME])
    if reason := unlike(runs, "files"):
        reason += ", and their numbers cannot be compared."
        raise BadRun(reason, ways=["make one of them again", _ALL_THE_SAME])
    if reason := unlike(runs, "definitions"):
        raise BadRun(f"{reason}.", ways=["make the older ones again", _ALL_THE_SAME])


def _check_groups(runs: Sequence[Run]) -> None:
    """Raises BadRun that sorts more than two runs into those that can be compared with each other."""
    groups: dict[tuple[int, bytes], list[Run]] = {}
    for run, truth in zip(runs, ground_truths([run.info.dataset for run in runs]), strict=True):
        groups.setdefault((truth, run.images.tobytes()), []).append(run)
    if len(runs) < 3 or len(groups) < 2:
        return
    one_truth = len({truth for truth, _ in groups}) == 1
    name_of = {id(run): name for run, name in zip(runs, distinct_names(runs), strict=True)}
    told, seen = [], set[str]()
    for group in sorted(groups.values(), key=len, reverse=True):
        data = group[0].info.dataset
        where = f"{data.name or 'unknown data'} {data.split or ''}".strip()
        names = in_sentence([name_of[id(run)] for run in group])
        held = f"{len(group[0].images):,} images of {where}"
        # Groups that look alike differ in what is not printed: which images, or what the ground truth says of them.
        other = "" if held not in seen else " (others)" if one_truth else f" ({data.gt})"
        seen.add(held)
        told.append(f"{names} {'has' if len(group) == 1 else 'have'} {held}{other}")
    common = Way("add --common-images to compare on the images that all have", "--common-images")
    what = "images" if one_truth else "images or versions of the ground truth"
    raise BadRun(
        f"These runs are of different {what}, and PQ on different images cannot be compared: {'; '.join(told)}.",
        ways=[
            "name runs that belong together",
            *([common] if one_truth else []),
            Way("add --mixed to show all as they are", "--mixed"),
        ],
    )


def _told_apart(runs: Sequence[Run], rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """The rows with notes on what the runs differ in besides the model: rule, views, precision, mmdet, EXIF."""
    rules = [run.info.rule for run in runs]
    precisions = {arithmetic(run.info) for run in runs if run.info.precision is not None}
    libraries = [detection_library(run.info) for run in runs]
    turnings = {run.info.arguments.get("exif", "apply") for run in runs if run.info.kind == "eval"}
    shown = {views(run.info) for run in runs if run.info.kind == "eval"}
    is_defined_alike = differing_definitions(runs) is None
    told = []
    for run, row, rule, library in zip(runs, rows, rules, libraries, strict=True):
        notes = list(row.notes)
        if library is not None and len({other for other in libraries if other is not None}) > 1:
            notes.append(f"run by {library}")
        if rule is not None and len({str(other) for other in rules if other is not None}) > 1:
            # A model's own rule needs no word, but beside the same one with other thresholds. Those are shown where the
            # name does not tell two rules apart.
            alike = {str(other) for other in rules if other is not None and other.name == rule.name}
            if len(alike) > 1 or not rule.default:
                notes.append(f"fused by the rule {rule if len(alike) > 1 else rule.name}")
        if len(shown) > 1 and (several := views(run.info)):
            notes.append(f"the mean of several views of each image ({several})")
        notes.extend(_of_processor(run.info))
        if len(precisions) > 1 and run.info.precision is not None:
            notes.append(f"in {run.info.precision}")
        if len(turnings) > 1 and run.info.kind == "eval":
            ignored = run.info.arguments.get("exif") == "ignore"
            notes.append("photographs as stored (--exif ignore)" if ignored else "photographs rotated by their EXIF")
        if not is_defined_alike and (versions := definitions_in_words(stored_definitions(run.info))):
            notes.append(f"panbench's definitions changed between the runs; here {versions}")
        told.append(dataclasses.replace(row, notes=tuple(notes)))
    return told


def _of_processor(info: RunInfo) -> Iterator[str]:
    """Where a run by the rule `transformers` has another input size than the model's image processor, or its paper."""
    size = info.arguments.get("processor_size")
    if size is None or info.rule is None or info.rule.name != "transformers":
        return
    if info.arguments.get("processor_size_used"):
        yield f"images stretched to {size}, as its image processor does and its paper does not"
    else:
        yield f"images resized as in its paper; its image processor stretches them to {size}"


def _published_pq(model: ModelRecord, dataset: DatasetRecord, scored: int) -> float | None:
    published = model.published
    if published is None or model.random_weights:
        return None
    where = (published.dataset, published.split)
    if where != (dataset.name, dataset.split) or PUBLISHED_IMAGES.get(where, scored) != scored:
        return None
    return published.PQ


SUBSET = "a subset: "
"""How the note on a run of some images begins."""


def _is_subset(info: RunInfo) -> bool:
    expected, listed = info.images.expected, info.dataset.n_images
    return expected is not None and listed is not None and expected < listed


def _notes(run: Run, whole: bool, selected: bool, common: int | None) -> list[str]:
    info = run.info
    counts, status, scored = info.images, info.status, len(run.images)
    notes = []
    if info.model is not None and info.model.random_weights:
        notes.append("random weights: an untrained model, for plumbing and timing only")
    if not info.dataset.has_ground_truth:
        notes.append("no ground truth: predictions only, nothing is scored")
    if info.category_map is not None:
        notes.append(_mapping_note(info.category_map, len(info.categories)))
    if status == "failed":
        notes.append(f"failed: {_reason(info.error)}")
    if not whole and status != "failed":
        state = {"done": "incomplete", "running": "still running or killed"}.get(status, status)
        predicted = scored - counts.missing if info.kind == "score" else scored
        notes.append(f"{state}: {_number(predicted)} of {_number(counts.expected)} images scored")
    if counts.missing and info.kind == "score":
        notes.append(f"{counts.missing:,} images without a prediction scored as empty")
    if counts.skipped:
        notes.append(f"{counts.skipped:,} images skipped")
    if selected:
        notes.append(f"{SUBSET}{_number(counts.expected)} of {_number(info.dataset.n_images)} images")
    notes.extend(run.notices)
    if scored and info.dataset.has_ground_truth:
        notes.extend(absent(run).sentences(None if info.rule is None else str(info.rule)))
    if common is not None:
        notes.append(f"on the {common:,} images that all runs have")
    return notes


def _mapping_note(mapped: CategoryMapRecord, categories: int) -> str:
    lost = len(mapped.unmapped_dataset)
    note = f"the model's categories were mapped to the dataset's by {mapped.name}"
    return f"{note}, {lost} of {categories} of which it cannot predict" if lost else note


def labels(rows: Sequence[ComparisonRow]) -> list[str]:
    """The title of each row's model; with its fusion rule where rows of one title differ in it, else the run's name."""
    titles = Counter(row.title or row.run for row in rows)
    names = []
    for row in rows:
        title = row.title or row.run
        same = [other.rule for other in rows if (other.title or other.run) == title]
        if titles[title] == 1:
            names.append(title)
        elif row.rule is not None and None not in same and len(set(same)) == len(same):
            names.append(f"{title} [{_rule_among(row.rule, [rule for rule in same if rule is not None])}]")
        else:
            names.append(row.run)
    return names


def _rule_among(rule: str, rules: Sequence[str]) -> str:
    """A short name that distinguishes a rule: its name, and thresholds that differ between rules of that name."""
    name, _, thresholds = rule.partition(":")
    namesakes = [other.partition(":")[2].split(",") for other in rules if other.partition(":")[0] == name]
    if len(namesakes) == 1:
        return name
    shared = set(namesakes[0]).intersection(*namesakes)
    return f"{name}:{','.join(part for part in thresholds.split(',') if part not in shared)}"


def _number(value: int | None) -> str:
    return "an unknown number" if value is None else f"{value:,}"


def _reason(error: str | None) -> str:
    return " ".join(error.split()) if error else "no reason was stored"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else words[0]
