"""Tables for people and programs: one run's PQ, several runs side by side, the list of models.

A comparison is a list of `ComparisonRow`, which hold fractions 0–1, as CSV, JSON and Parquet do; tables show percent.
"""

import dataclasses
import math
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
from panbench.base.text import capitalised, in_sentence, listed
from panbench.metrics.absent import AbsentAccumulator
from panbench.panoptic.types import GROUPS
from panbench.report.answers.grid import (
    ABSENT,
    Grid,
    as_text,
    count,
    percent,
    pipe_table,
    plain,
    sentence_text,
    signed,
    three_digits,
)
from panbench.report.answers.patterns import expanded_run_folders
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
from panbench.runs.comparable import arithmetic, detection_library, ground_truths, views, why_incomparable
from panbench.runs.definitions import definitions_in_words, differing_definitions, stored_definitions

if TYPE_CHECKING:
    import pandas as pd

# A difference from a published number is meaningful only on the images that it was published for.
PUBLISHED_IMAGES: dict[tuple[Any, Any], int] = {("coco", "val2017"): 5000}


# Suggests --mixed for commands that have it: one table in spite of the difference.
_ALL_THE_SAME = Way("show them in one table all the same with --mixed", "--mixed")

MOST_SKEW = 1.5
"""Maximum ratio of the distances to the two ends of an interval for which it is written as "±"."""


@dataclass(frozen=True)
class ComparisonRow:
    """One run in a comparison, or a model that could not be run. Fractions 0–1; None for absent values.

    model: the model's name; None for scored predictions
    images: number of scored images; complete: every requested image is scored
    published_PQ: only if dataset, split and images are those of the publication
    notes: caveats about the numbers
    gflops: of published results, as their authors count them; panbench counts them in `bench`
    rank, rank_low, rank_high, PQ_low, PQ_high, versus: certainty of the order, if answers/comparison.py tested it
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
        """Returns PQ minus the published PQ, if both exist."""
        return None if self.PQ is None or self.published_PQ is None else self.PQ - self.published_PQ

    @property
    def ranks(self) -> str:
        """Returns the possible ranks: "1–3", or "1" if the rank is certain."""
        if self.rank_low is None or self.rank_high is None:
            return ABSENT
        return str(self.rank_low) if self.rank_low == self.rank_high else f"{self.rank_low}–{self.rank_high}"

    @property
    def believable(self) -> bool:
        """Returns whether the numbers may be marked as best: trained weights, every image scored."""
        return self.complete and not self.random_weights and self.error is None


def headline(run: Run) -> str:
    """Describes a run in one line: its title, its data, and the number of images."""
    row = comparison_row(run)
    where = " ".join(part for part in (row.dataset, row.split) if part)
    return f"{row.title}{' on ' + where if where else ''}, {row.images:,} images"


@dataclass(frozen=True)
class FoundRuns:
    """The runs found in folders, and sentences on unreadable runs and on folders with runs further down."""

    runs: Sequence[Run]
    unreadable: Sequence[str]
    deeper: Sequence[str]


def find_runs(paths: Sequence[str | os.PathLike[str]], reporter: Reporter = SILENT) -> list[Run]:
    """Returns the runs in these folders, each a run or a folder of runs.

    A pattern such as 'results/coco-*' names all runs that match. Files next to several runs are skipped with a notice,
    since a shell's pattern includes them. Raises BadRun for any other file, for a path that neither is a run nor holds
    one, and for a pattern that no run matches.
    reporter: gets a notice for each unreadable run in a folder of runs, and for runs further down
    """
    found = look_for_runs(paths)
    for message in (*found.unreadable, *found.deeper):
        reporter.notice(message)
    return list(found.runs)


def look_for_runs(paths: Sequence[str | os.PathLike[str]]) -> FoundRuns:
    """Returns the runs in these folders, and sentences on what was left out. Raises as `find_runs`."""
    given = expanded_run_folders([Path(path) for path in paths])
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
        # If no run is inside, raise the error for a folder that is not a run.
        runs.extend(inside or [load_run(path)])
    return FoundRuns(runs, unreadable, further)


def _is_beside_runs(file: Path, given: Sequence[Path]) -> bool:
    """Returns whether a file lies next to several of the given folders, or next to a folder of runs."""
    others = [path for path in given if path.is_dir() and path.parent == file.parent]
    return len(others) > 1 or any(not looks_like_run(path) for path in others)


def comparison_rows(runs: Sequence[Run], *, common_images: bool = False, mixed: bool = False) -> list[ComparisonRow]:
    """Returns a row for each run, in the order given.

    common_images: compare on the images that all runs have in common
    mixed: put different datasets and images into one table, with notes that say which
    Raises BadRun when the runs are of different datasets or images.
    """
    if not runs:
        raise BadArgument("No run is named. Pass one or more run folders, such as results/*.")
    shared = None if mixed and not common_images else comparable_images(runs, common_images=common_images)
    narrowed = shared if common_images else None
    rows = [
        dataclasses.replace(comparison_row(run, narrowed), run=name)
        for run, name in zip(runs, numbered_names(distinct_names(runs)), strict=True)
    ]
    rows = _with_differences(runs, rows)
    if mixed and len({(row.dataset, row.split) for row in rows}) > 1:
        rows = [
            dataclasses.replace(row, notes=(f"on {row.dataset} {row.split or ''}".strip(), *row.notes)) for row in rows
        ]
    return rows


def distinct_names(runs: Sequence[Run]) -> list[str]:
    """Returns a distinct name for each run: its own, or with an equal name the end of its path."""
    names = [run.name for run in runs]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [index for index, other in enumerate(names) if other == name]
        paths = [runs[index].path for index in alike]
        parts = [() if path is None else path.absolute().parts for path in paths]
        longest = max(map(len, parts))
        for length in range(1, longest + 1):
            ends = ["/".join(own[-length:]) for own in parts]
            if len(set(ends)) == len(ends) and all(ends):
                for index, end in zip(alike, ends, strict=True):
                    names[index] = end
                break
    return names


def numbered_names(names: Sequence[str]) -> list[str]:
    """Returns names that differ from one another: repeated ones get a number."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def comparable_images(runs: Sequence[Run], *, common_images: bool = False) -> npt.NDArray[np.int64]:
    """Returns the ids of the images on which runs are compared, ascending. Raises BadRun if there are none.

    common_images: the images that all runs have in common; otherwise all runs must have the same images
    """
    if not common_images:
        check_comparable(runs)
        return runs[0].images
    _check_alike(runs)
    shared = shared_images(runs)
    if not len(shared):
        raise BadRun(f"{in_sentence([run.name for run in runs], len(runs))} have no image in common.")
    return shared


def comparable_groups(runs: Sequence[Run]) -> list[list[int]]:
    """Returns groups of runs, by index, that share ground truth and images; the largest group first."""
    groups: dict[tuple[int, bytes], list[int]] = {}
    for index, truth in enumerate(ground_truths([run.info.dataset for run in runs])):
        groups.setdefault((truth, runs[index].images.tobytes()), []).append(index)
    return sorted(groups.values(), key=len, reverse=True)


def shared_images(runs: Sequence[Run]) -> npt.NDArray[np.int64]:
    """Returns the ids of the images that all runs have, ascending."""
    return reduce(lambda known, other: np.intersect1d(known, other, assume_unique=True), (run.images for run in runs))


def _scores_by_group(run: Run, images: npt.NDArray[np.int64] | None) -> dict[str, dict[str, float | int | None]]:
    """Returns PQ, SQ and RQ of a run by group, on some of its images (None: all)."""
    if images is None and not run.in_chunks:
        return run.summary()
    from panbench.report.answers.totals import totals_of

    return totals_of(run, images).summary


def comparison_row(run: Run, images: npt.NDArray[np.int64] | None = None) -> ComparisonRow:
    """Returns the row of a stored run; with `images`, PQ, SQ and RQ on these images only."""
    info = run.info
    model = info.model or ModelRecord()
    # Count what is on disk: run.json may list more than a killed or torn run holds.
    held = run.images
    scored = len(held)
    narrowed = images is not None and len(images) != len(held)
    summary = _scores_by_group(run, images) if len(held) else None
    is_complete = (
        info.status == "done" and scored == info.images.expected and not info.images.missing and not run.faults
    )
    requested, n_images = info.images.expected, info.dataset.n_images
    selected = requested is not None and n_images is not None and requested < n_images
    # For a scored folder this would be the speed of scoring, next to the speeds of models.
    timed = info.kind != "score" and "candidates" not in info.arguments
    return ComparisonRow(
        run=run.name,
        model=model.name,
        dataset=info.dataset.name,
        images=scored if images is None or not narrowed else len(images),
        **_row_score_fields(summary),
        params=model.params,
        images_per_second=info.images_per_second if timed else None,
        loop_seconds=info.seconds.wall if timed else None,
        published_PQ=None if narrowed or selected or not is_complete else _published_pq(model, info.dataset, scored),
        complete=is_complete,
        title=model.title or model.name or run.name,
        rule=None if info.rule is None else str(info.rule),
        split=info.dataset.split,
        status=info.status,
        weights_sha256=model.weights_sha256,
        random_weights=model.random_weights,
        device=info.device.name,
        precision=info.precision,
        error=_failure_reason(info.error) if info.status == "failed" else None,
        notes=tuple(_run_notes(run, is_complete, selected, None if images is None or not narrowed else len(images))),
    )


def failed_row(name: str, title: str, reason: str, dataset: str | None = None) -> ComparisonRow:
    """Returns the row of a model that could not be run, with the reason."""
    return ComparisonRow(
        run=name, model=name, dataset=dataset, title=title, status="failed", error=reason, notes=(f"failed: {reason}",)
    )


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises BadRun, naming the difference, unless the runs have the same ground truth and the same images."""
    _check_same_images(runs)
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


def summary_text(run: Run, title: str | None = None, without: str | None = None) -> RenderableType:
    """Returns a table `| title | PQ | SQ | RQ | categories |` of All, Things and Stuff, percent.

    Warnings stand above it, other notes below. title: default that of the model; without: leave out notes that begin so
    """
    row, summary, first = comparison_row(run), run.summary(), warnings(run)
    rows = [
        [group, *(percent(scores[name]) for name in ("PQ", "SQ", "RQ")), str(scores["n"])]
        for group, scores in summary.items()
    ]
    lines = pipe_table([plain(title or row.title), "PQ", "SQ", "RQ", "categories"], rows)
    below = [note for note in row.notes if note not in first and not (without and note.startswith(without))]
    return Group(
        *(sentence_text(f"{capitalised(note)}.") for note in first),
        *(Text(line, style="" if index else "bold", no_wrap=True) for index, line in enumerate(lines)),
        *(sentence_text(f"Note: {note}") for note in below),
    )


def comparison_text(rows: Sequence[ComparisonRow], digits: int = 2) -> RenderableType:
    """Returns the comparison as a table for a terminal of 80 columns or more; the best of a column is bold."""
    return as_text(comparison_grid(rows, digits))


def comparison_grid(rows: Sequence[ComparisonRow], digits: int = 2, *, with_intervals: bool = False) -> Grid:
    """Returns the comparison as people read it: percent, notes below, empty columns left out.

    with_intervals: cells of PQ include the 95 % interval, if there is one: "± half its width", or both ends in all
        cells if one interval is skewed
    """
    columns = _columns(rows, digits)
    marked = tuple(dict.fromkeys(note for row in rows for note in row.notes))
    notes = []
    if with_intervals and any(row.PQ_low is not None for row in rows):
        skewed = any(map(_has_skewed_interval, rows))
        columns = [_with_interval(column, digits, skewed) if column.name == "PQ" else column for column in columns]
        notes.append("In brackets: the 95 % interval." if skewed else "±: half the width of the 95 % interval.")
    indices = [column.best(rows) for column in columns]
    return Grid(
        columns=("Model", *(column.name for column in columns)),
        rows=tuple(
            (label, *(column.cell(row) for column in columns)) for row, label in zip(rows, labels(rows), strict=True)
        ),
        notes=tuple(notes),
        best=frozenset((row, 1 + index) for index, (first, _) in enumerate(indices) for row in first),
        second=frozenset((row, 1 + index) for index, (_, second) in enumerate(indices) for row in second),
        marks=tuple(tuple(1 + marked.index(note) for note in row.notes) for row in rows),
        marked=tuple(map(capitalised, marked)),
    )


def rate(per_second: float | None) -> str:
    """Formats images per second to three digits: 0.42, 12.3, 231."""
    return ABSENT if per_second is None else three_digits(per_second)


def speed_text(title: str, info: RunInfo) -> str:
    """Reports the speed of an evaluation in a sentence: its steady rate if measured, and the total wall time."""
    wall, scored = info.seconds.wall, info.images.scored
    is_complete = f"{scored:,} {'image' if scored == 1 else 'images'}"
    is_complete += "" if wall is None else f" in {wall:,.1f} s, from the first read to the last write"
    if info.images_per_second is None:
        return f"{title}: {is_complete}; too few batches for images a second."
    low, high = info.images_per_second_low, info.images_per_second_high
    span = "" if low is None or high is None else f", {rate(low)} to {rate(high)} in parts of the run"
    return f"{title}: {rate(info.images_per_second)} images a second{span}. {is_complete}."


@dataclass(frozen=True)
class _Column:
    """A column of numbers in a comparison; `key`, if given, returns the value that decides which row is best."""

    name: str
    cell: Callable[[ComparisonRow], str]
    key: Callable[[ComparisonRow], float | None] | None = None

    def best(self, rows: Sequence[ComparisonRow]) -> tuple[frozenset[int], frozenset[int]]:
        """Returns which rows have the best and the second-best value of the column.

        No second among fewer than three values; neither if all values are equal.
        """
        if self.key is None:
            return frozenset(), frozenset()
        values = {
            index: value for index, row in enumerate(rows) if row.believable and (value := self.key(row)) is not None
        }
        ordered = sorted(set(values.values()), reverse=True)
        if len(ordered) < 2:
            return frozenset(), frozenset()
        first, second = (
            frozenset(index for index, value in values.items() if value == ordered[position]) for position in (0, 1)
        )
        return first, second if len(values) > 2 else frozenset()


def _has_skewed_interval(row: ComparisonRow) -> bool:
    """Returns whether the ends of PQ's interval are so unequally far away that "±" would mislead."""
    if row.PQ is None or row.PQ_low is None or row.PQ_high is None:
        return False
    near, far = sorted((row.PQ - row.PQ_low, row.PQ_high - row.PQ))
    return far > MOST_SKEW * near


def _with_interval(column: _Column, digits: int, both_ends: bool) -> _Column:
    """Returns the column of PQ with the interval in its cells, as ± or as both ends."""

    def cell(row: ComparisonRow) -> str:
        """Returns the PQ of a row, with its interval if there is one."""
        if row.PQ is None or row.PQ_low is None or row.PQ_high is None:
            return column.cell(row)
        if both_ends:
            return f"{column.cell(row)} [{percent(row.PQ_low, digits)}, {percent(row.PQ_high, digits)}]"
        return f"{column.cell(row)} ± {percent((row.PQ_high - row.PQ_low) / 2, digits)}"

    return dataclasses.replace(column, cell=cell)


def _columns(rows: Sequence[ComparisonRow], digits: int) -> list[_Column]:
    """Returns the columns of a comparison: PQ, SQ and RQ, and others that hold any value."""

    def score_column(name: str) -> _Column:
        """Returns the column of a score, in percent; its printed value decides which row is best."""

        def printed_score(row: ComparisonRow) -> float | None:
            """Returns the score of a row, rounded as it is printed."""
            value = getattr(row, name)
            return None if value is None else round(value, digits + 2)

        return _Column(name, lambda row: percent(getattr(row, name), digits), printed_score)

    columns = [score_column(name) for name in ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")]
    if any(row.params is not None for row in rows):
        columns.append(_Column("params", lambda row: count(row.params)))
    if any(row.gflops is not None for row in rows):
        columns.append(_Column("GFLOPs", lambda row: ABSENT if row.gflops is None else f"{row.gflops:.0f}"))
    if any(row.images_per_second is not None for row in rows):
        # No best speed: the order changes with whatever else the machine does.
        columns.append(_Column("img/s", lambda row: rate(row.images_per_second)))
    if any(row.published_PQ is not None for row in rows):
        columns.append(_Column("publ.", lambda row: percent(row.published_PQ, digits)))
        columns.append(_Column("diff", lambda row: signed(row.difference, digits)))
    return columns


def rows_table(rows: Sequence[ComparisonRow]) -> "pd.DataFrame":
    """Returns the rows of a comparison as a DataFrame with typed columns, for CSV and Parquet.

    Tests against other runs (`versus`) are left out.
    """
    import pandas as pd
    import pyarrow as pa

    hints = get_type_hints(ComparisonRow)
    dtypes = {int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    columns = {
        name: pd.ArrowDtype(next((dtypes[kind] for kind in (hint, *get_args(hint)) if kind in dtypes), pa.string()))
        for name, hint in hints.items()
        if name != "versus"
    }
    records = [{**vars(row), "notes": "; ".join(row.notes)} for row in rows]
    return pd.DataFrame(records, columns=list(columns)).astype(columns)


def row_record(row: ComparisonRow) -> dict[str, Any]:
    """Returns a row as a JSON record."""
    return {**dataclasses.asdict(row), "notes": list(row.notes), "versus": [dict(other) for other in row.versus]}


def _row_score_fields(summary: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Returns scores by group as fields of a row: PQ, PQ_th, PQ_st, SQ, …; None for absent ones."""
    return {
        f"{name}{suffix}": ((summary or {}).get(group) or {}).get(name)
        for group, suffix in GROUPS.items()
        for name in ("PQ", "SQ", "RQ")
    }


def _check_alike(runs: Sequence[Run]) -> None:
    """Raises BadRun if the runs differ in ground truth, or in the versions of computations that panbench defines."""
    if reason := why_incomparable(runs, "ground truth"):
        raise BadRun(f"{reason}: their numbers cannot be compared.", ways=[_ALL_THE_SAME])
    if reason := why_incomparable(runs, "files"):
        reason += ", and their numbers cannot be compared."
        raise BadRun(reason, ways=["make one of them again", _ALL_THE_SAME])
    if reason := why_incomparable(runs, "definitions"):
        raise BadRun(f"{reason}.", ways=["make the older ones again", _ALL_THE_SAME])


def _check_same_images(runs: Sequence[Run]) -> None:
    """Raises BadRun if three or more runs are of different images, and says which can be compared."""
    groups = comparable_groups(runs)
    if len(runs) < 3 or len(groups) < 2:
        return
    one_truth = len(set(ground_truths([run.info.dataset for run in runs]))) == 1
    own_names = distinct_names(runs)
    found, seen = [], set[str]()
    for group in groups:
        first = runs[group[0]]
        data = first.info.dataset
        where = f"{data.name or 'unknown data'} {data.split or ''}".strip()
        names = in_sentence([own_names[index] for index in group])
        held = f"{len(first.images):,} images of {where}"
        # Groups that look alike differ in what is not printed: which images, or their ground truth.
        other = "" if held not in seen else " (others)" if one_truth else f" ({data.gt})"
        seen.add(held)
        found.append(f"{names} {'has' if len(group) == 1 else 'have'} {held}{other}")
    common = Way("add --common-images to compare on the images that all have", "--common-images")
    what = "images" if one_truth else "images or versions of the ground truth"
    raise BadRun(
        f"These runs are of different {what}, and PQ on different images cannot be compared: {'; '.join(found)}.",
        ways=[
            "name runs that belong together",
            *([common] if one_truth else []),
            Way("add --mixed to show all as they are", "--mixed"),
        ],
    )


def _with_differences(runs: Sequence[Run], rows: list[ComparisonRow]) -> list[ComparisonRow]:
    """Adds notes on how the runs differ besides the model: fusion rule, augmentation, precision, runtime, EXIF."""
    rules = [run.info.rule for run in runs]
    precisions = {arithmetic(run.info) for run in runs if run.info.precision is not None}
    libraries = [detection_library(run.info) for run in runs]
    runtimes = {run.info.arguments.get("runtime") for run in runs if run.info.kind == "eval"}
    turnings = {run.info.arguments.get("exif", "apply") for run in runs if run.info.kind == "eval"}
    of_runs = {views(run.info) for run in runs if run.info.kind == "eval"}
    is_defined_alike = differing_definitions(runs) is None
    found = []
    for run, row, rule, library in zip(runs, rows, rules, libraries, strict=True):
        notes = list(row.notes)
        if library is not None and len({other for other in libraries if other is not None}) > 1:
            notes.append(f"run by {library}")
        if rule is not None and len({str(other) for other in rules if other is not None}) > 1:
            # A model's own rule is not named, except next to the same rule with other thresholds. Thresholds are added
            # only if two rules have the same name.
            alike = {str(other) for other in rules if other is not None and other.name == rule.name}
            if len(alike) > 1 or not rule.default:
                notes.append(f"fused by the rule {rule if len(alike) > 1 else rule.name}")
        if len(of_runs) > 1 and (several := views(run.info)):
            notes.append(f"the mean of several views of each image ({several})")
        notes.extend(_input_size_notes(run.info))
        if len(precisions) > 1 and run.info.precision is not None:
            notes.append(f"in {run.info.precision}")
        if len(runtimes) > 1 and (runtime := run.info.arguments.get("runtime")):
            notes.append(f"computed by {runtime}")
        if len(turnings) > 1 and run.info.kind == "eval":
            ignored = run.info.arguments.get("exif") == "ignore"
            notes.append("photographs as stored (--exif ignore)" if ignored else "photographs rotated by their EXIF")
        if not is_defined_alike and (versions := definitions_in_words(stored_definitions(run.info))):
            notes.append(f"panbench's definitions changed between the runs; here {versions}")
        found.append(dataclasses.replace(row, notes=tuple(notes)))
    return found


def _input_size_notes(info: RunInfo) -> Iterator[str]:
    """Yields a note if the image processor of a `transformers` model has another input size than its paper."""
    size = info.arguments.get("processor_size")
    if size is None or info.rule is None or info.rule.name != "transformers":
        return
    if info.arguments.get("processor_size_used"):
        yield f"images stretched to {size}, as its image processor does and its paper does not"
    else:
        yield f"images resized as in its paper; its image processor stretches them to {size}"


def _published_pq(model: ModelRecord, dataset: DatasetRecord, scored: int) -> float | None:
    """Returns the published PQ of the model if it is on the same data and number of images; else None."""
    published = model.published
    if published is None or model.random_weights:
        return None
    where = (published.dataset, published.split)
    if where != (dataset.name, dataset.split) or PUBLISHED_IMAGES.get(where, scored) != scored:
        return None
    return published.PQ


SUBSET = "a subset: "
"""First words of the note on a run that has only some of the images."""


def _run_notes(run: Run, is_complete: bool, selected: bool, common: int | None) -> list[str]:
    """Returns the notes on a run's row: random weights, mapped categories, missing or skipped images, …"""
    info = run.info
    counts, status, scored = info.images, info.status, len(run.images)
    notes = []
    if info.model is not None and info.model.random_weights:
        notes.append("random weights: an untrained model, for plumbing and timing only")
    if not info.dataset.has_ground_truth:
        notes.append("no ground truth: predictions only, nothing is scored")
    if info.category_map is not None:
        notes.append(_category_map_note(info.category_map, len(info.categories)))
    if status == "failed":
        notes.append(f"failed: {_failure_reason(info.error)}")
    if not is_complete and status != "failed":
        state = {"done": "incomplete", "running": "still running or killed"}.get(status, status)
        predicted = scored - counts.missing if info.kind == "score" else scored
        notes.append(f"{state}: {_image_count(predicted)} of {_image_count(counts.expected)} images scored")
    if counts.missing and info.kind == "score":
        notes.append(f"{counts.missing:,} images without a prediction scored as empty")
    if counts.skipped:
        notes.append(f"{counts.skipped:,} images skipped")
    if selected:
        notes.append(f"{SUBSET}{_image_count(counts.expected)} of {_image_count(info.dataset.n_images)} images")
    notes.extend(run.notices)
    notes.extend(warnings(run))
    if common is not None:
        notes.append(f"on the {common:,} images that all runs have")
    return notes


def warnings(run: Run) -> list[str]:
    """Returns what to know before reading a run's numbers: what is never predicted, and a void ground truth."""
    if not (len(run.images) and run.info.dataset.has_ground_truth):
        return []
    lacking = _unpredicted_counts(run)
    return list(lacking.messages("" if lacking.has_predictions else _no_segments_reason(run)))


def _unpredicted_counts(run: Run) -> AbsentAccumulator:
    """Returns the counts of categories and images without a prediction, and of void in the ground truth."""
    if run.in_chunks:
        from panbench.report.answers.totals import totals_of

        return totals_of(run).absent
    found = AbsentAccumulator(run.categories)
    run.accumulate(found)
    return found


def sentences_above(run: Run) -> tuple[str, ...]:
    """Returns the warnings on a run, as sentences to stand above its numbers."""
    return tuple(f"{capitalised(warning)}." for warning in warnings(run))


def notes_below(run: Run) -> list[str]:
    """Returns the notes to print below a run's table, as sentences: all but the warnings printed above it."""
    first = warnings(run)
    return [capitalised(note) for note in comparison_row(run).notes if note not in first]


def _no_segments_reason(run: Run) -> str:
    """Explains why a run without any segment has none: what its fusion rule dropped, as far as recorded."""
    rule, best = run.info.rule, float(run.files.rows["dropped"].max(initial=0.0))
    if rule is None:
        return ""
    threshold = rule.thresholds.get("score")
    # Truncated, not rounded, so that a value below a threshold is printed below it.
    indices = 10 ** max(2, len(str(threshold).partition(".")[2]))
    scored = f"the best score was {math.floor(best * indices) / indices:g}" if best else ""
    if scored and threshold is not None:
        return f"{scored}, the rule's threshold is {threshold}"
    return f"{scored}{', and ' if scored else ''}what scores less than the thresholds of the rule {rule} is dropped"


def _category_map_note(mapped: CategoryMapRecord, categories: int) -> str:
    """Says by which map the model's categories became the dataset's, and how many it cannot predict."""
    lost = len(mapped.unmapped_dataset)
    note = f"the model's categories were mapped to the dataset's by {mapped.name}"
    return f"{note}, {lost} of {categories} of which it cannot predict" if lost else note


def labels(rows: Sequence[ComparisonRow]) -> list[str]:
    """Returns a label for each row: its model's title, plus the fusion rule if rows differ in it, or the run's name."""
    titles = Counter(row.title or row.run for row in rows)
    names = []
    for row in rows:
        title = row.title or row.run
        same = [other.rule for other in rows if (other.title or other.run) == title]
        if titles[title] == 1:
            names.append(title)
        elif row.rule is not None and None not in same and len(set(same)) == len(same):
            names.append(f"{title} [{_short_rule_name(row.rule, [rule for rule in same if rule is not None])}]")
        else:
            names.append(row.run)
    return names


def _short_rule_name(rule: str, rules: Sequence[str]) -> str:
    """Returns a short distinguishing name for a rule: its name, and thresholds that differ among rules of that name."""
    name, _, thresholds = rule.partition(":")
    namesakes = [other.partition(":")[2].split(",") for other in rules if other.partition(":")[0] == name]
    if len(namesakes) == 1:
        return name
    shared = set(namesakes[0]).intersection(*namesakes)
    return f"{name}:{','.join(part for part in thresholds.split(',') if part not in shared)}"


def _image_count(value: int | None) -> str:
    """Formats a number of images, which may be unknown."""
    return "an unknown number" if value is None else f"{value:,}"


def _failure_reason(error: str | None) -> str:
    """Returns the stored error of a failed run on one line."""
    return " ".join(error.split()) if error else "no reason was stored"
