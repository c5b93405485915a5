"""Compares several runs: ranks, intervals, which differences are significant, and where they come from.

The numbers are those of metrics/uncertainty.py; here they meet the rows of report/answers/tables.py and become tables.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import in_sentence, kind_of
from panbench.metrics.jackknife import interval_notes
from panbench.metrics.samples import Sample, SampleAccumulator
from panbench.metrics.slices import SLICINGS, ImageSlices, ImageStatistics, StatisticsAccumulator, slice_by_images
from panbench.metrics.uncertainty import Comparison, Difference, compare_runs
from panbench.panoptic.types import GROUPS
from panbench.report.answers.answer import Answer, as_records
from panbench.report.answers.grid import ABSENT, Grid, as_latex, format_p, interval_text, known, letter, percent, signed
from panbench.report.answers.tables import (
    ComparisonRow,
    comparable_images,
    comparison_grid,
    comparison_rows,
    find_runs,
    labels,
    row_record,
    rows_table,
    shared_images,
)
from panbench.report.answers.totals import lost_to_causes, totals_of
from panbench.report.answers.verdict import Verdict, verdict
from panbench.runs import Run

MOST_PAIRS = 5
"""Up to this many runs, all pairs are compared; beyond, each only with the first, unless a baseline is given."""

_SUFFIXED = {group: f"PQ{suffix}" for group, suffix in GROUPS.items()}


@dataclass(frozen=True)
class Standing(Answer):
    """The result of comparing runs: a row per run, tables, the tests behind them, and a verdict.

    rows: one per run, with rank, interval and differences if they were requested
    grids: the comparison first, then the other requested tables
    details: long tables by name ("per_category", "by"): run, group or category, metric, value, low, high; fractions
    digits: decimals of percentages
    comparison: the tests behind the ranks, which name runs by the `keys` of the rows; None without tests
    verdict: the results of the tests in words; None without tests
    notes: sentences on how certain intervals and ranks are
    """

    rows: tuple[ComparisonRow, ...]
    grids: tuple[Grid, ...] = ()
    details: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    digits: int = 2
    comparison: Comparison | None = None
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """Returns the unique names of the runs, in the order of the rows.

        `comparison` names the runs by them.
        """
        return [row.run for row in self.rows]

    @property
    def messages(self) -> tuple[str, ...]:
        """Returns the verdict, if there is one."""
        return () if self.verdict is None else (self.verdict.text(),)

    def latex(self) -> str:
        """Returns all tables as LaTeX; the first has PQ with its interval."""
        first = comparison_grid(self.rows, self.digits, with_intervals=True)
        return "\n".join(map(as_latex, (first, *self.grids[1:])))

    def record(self) -> list[dict[str, Any]]:
        """Returns one JSON object per run; requested tables by category or slice are lists inside each."""
        records = [row_record(row) for row in self.rows]
        for name, table in self.details.items():
            for record, key in zip(records, self.keys, strict=True):
                record[name] = as_records(table[table["run"] == key].drop(columns="run"))
        return records

    def table(self) -> pd.DataFrame:
        """Returns a table with a row per run; if requested, with a row per run and category or slice."""
        return pd.concat(self.details.values(), ignore_index=True) if self.details else rows_table(self.rows)


RunOrPath = Run | str | os.PathLike[str]


def compare(
    runs: Iterable[RunOrPath] | RunOrPath,
    *,
    common_images: bool = False,
    mixed: bool = False,
    intervals: bool = True,
    by: str | None = None,
    per_category: bool = False,
    baseline: str | None = None,
    digits: int = 2,
    slices: Sequence[ImageSlices] = (),
    reporter: Reporter = SILENT,
) -> Standing:
    """Compares runs, with ranks, intervals and paired differences of PQ if their images are the same.

    runs: `Run`s, or paths of run folders and of folders of runs, as `panbench compare` takes them
    common_images: compare on the images that all runs have; mixed: show runs on other images as they are
    intervals: False leaves out intervals and ranks, which take the longest
    by: a slicing ("size", "share", "segments", "supercategory"); slices: sets of images; per_category: a table of each
    baseline: the name of the run that all others are compared with; default: all pairs, or beyond five runs each with
        the first
    digits: decimals of percentages; reporter: gets the progress of reading and testing
    Raises BadRun for a path without a run and for runs that cannot be compared, BadArgument for other arguments.
    """
    runs = _open_runs(runs, reporter)
    for run in runs:
        run.reporter = reporter
    if intervals and not mixed and any(run.in_chunks for run in runs):
        # One pass over the runs serves rows, intervals and the verdict.
        images = comparable_images(runs, common_images=common_images)
        for run in runs:
            totals_of(run, images).read()
    rows = comparison_rows(runs, common_images=common_images, mixed=mixed)
    held = {row.run: run for run, row in zip(runs, rows, strict=True) if row.images}
    if (by or slices or per_category or baseline) and (mixed or not held):
        why = (
            "--mixed shows runs on other images as they are. Leave it out, or use --common-images"
            if mixed
            else "none of these runs has a scored image"
        )
        raise BadArgument(f"--by, --slices, --per-category and --baseline compare runs image by image, but {why}.")
    if by is not None and by not in SLICINGS:
        raise BadArgument(f"There is no slicing {by!r}. Choose one of {', '.join(SLICINGS)}.")
    first = rows[0].run if len(rows) > MOST_PAIRS else None
    base = first if baseline is None else _baseline_row_name(baseline, runs, rows)
    shared = np.zeros(0, np.int64) if mixed or not held else shared_images(list(held.values()))

    def compared_by(sample: Callable[[Run], Sample | ImageStatistics]) -> Comparison:
        """Tests whether the runs' PQs differ; `sample` is the function that reads a run's contributions per image."""
        return compare_runs({key: sample(run) for key, run in held.items()}, baseline=base, reporter=reporter)

    grids: list[Grid] = []
    details: dict[str, pd.DataFrame] = {}
    comparison = words = None
    notes: tuple[str, ...] = ()
    if len(shared) and (intervals or per_category):
        comparison = compared_by(partial(sample_of, shared=shared))
        if intervals:
            rows = [_with_tests(row, comparison) for row in rows]
            differences, alike = _difference_grids(rows, comparison, digits)
            notes = (*interval_notes(comparison.images), *rank_note(rows), *alike)
            grids.extend(differences)
            names = dict(zip((row.run for row in rows), labels(rows), strict=True))
            words = verdict(comparison, names, lambda key, group: lost_to_causes(totals_of(held[key], shared), group))
        if per_category:
            grids.append(_detail_grid(rows, comparison, "Category", digits, of_categories=True))
            details["per_category"] = _detail_rows(comparison, of_categories=True)
    if by is not None:
        sliced = compared_by(partial(sample_of, shared=shared, by=by))
        grids.append(_detail_grid(rows, sliced, SLICINGS[by].title.capitalize(), digits))
        details["by"] = _detail_rows(sliced)
    own = []
    for chosen in slices:
        sliced = compared_by(partial(_statistics_by_slice, slices=chosen))
        grids.append(_detail_grid(rows, sliced, chosen.name, digits))
        own.append(_detail_rows(sliced).assign(slicing=chosen.name))
    if own:
        details["slices"] = pd.concat(own, ignore_index=True)
    tests = comparison if intervals else None
    return Standing(
        tuple(rows), (ranked_comparison_grid(rows, tests, digits, notes), *grids), details, digits, tests, words, notes
    )


def _open_runs(given: Any, reporter: Reporter) -> list[Run]:
    """Returns the runs that were given as `Run`s or as paths. Raises BadArgument, BadRun."""
    if isinstance(given, Run | str | os.PathLike):
        given = [given]
    if not isinstance(given, Iterable):
        raise BadArgument(f"runs must be a list of runs or of their paths, not {kind_of(given)}.")
    found: list[Run] = []
    for number, each in enumerate(given):
        if isinstance(each, Run):
            found.append(each)
        elif isinstance(each, str | os.PathLike):
            found.extend(find_runs([each], reporter))
        else:
            kind = "None" if each is None else f"an object of the type {type(each).__name__}"
            ways = ["make a run of it with its save(path)"] if type(each).__name__ == "Evaluator" else []
            raise BadArgument(f"runs[{number}] is neither a run nor a path but {kind}.", ways=ways)
    return found


def _baseline_row_name(name: str, runs: Sequence[Run], rows: Sequence[ComparisonRow]) -> str:
    """Returns the baseline's name in the table, found by path or name. Raises BadArgument unless one run matches."""
    index = os.path.realpath(name)
    keys = [row.run for row in rows]
    matches = [key for run, key in zip(runs, keys, strict=True) if run.path and os.path.realpath(run.path) == index]
    matches = matches or [row.run for row in rows if name in (row.run, row.model)]
    if len(matches) != 1:
        what = "is not among the runs" if not matches else "names several runs"
        raise BadArgument(f"The baseline {name!r} {what}: {', '.join(keys)}.")
    return matches[0]


def sample_of(run: Run, shared: npt.NDArray[np.int64], by: str | None = None) -> Sample:
    """Returns the contributions of a run's images to PQ, from which intervals and tests are computed."""
    if by is None:
        return totals_of(run, shared).sample
    sample = SampleAccumulator(run.categories, shared, by)
    run.accumulate(sample, images=shared)
    return sample.result()


def _statistics_by_slice(run: Run, slices: ImageSlices) -> ImageStatistics:
    """Returns each image's contributions to PQ, grouped by the user's slices (subsets of images, such as night)."""
    statistics = StatisticsAccumulator(run.categories)
    run.accumulate(statistics)
    return slice_by_images(statistics.result(), slices)


def _with_tests(row: ComparisonRow, comparison: Comparison) -> ComparisonRow:
    """Returns the row with its run's rank, interval of PQ, and tests against other runs."""
    key = row.run
    found = comparison.scores.get((key, "All", "PQ"))
    if found is None:
        return row
    others = dict.fromkeys(run for a, b, *_ in comparison.tests if key in (a, b) for run in (a, b) if run != key)
    versus = [
        {
            "run": other,
            "PQ_difference": known(test.difference),
            "low": known(test.low),
            "high": known(test.high),
            "p": known(test.alone),
            "p_holm": known(test.p),
            "significant": test.significant,
        }
        for other in others
        if (test := comparison.between(key, other))
    ]
    return dataclasses.replace(
        row,
        rank=_rank_or_none(found.rank),
        rank_low=_rank_or_none(found.rank_low),
        rank_high=_rank_or_none(found.rank_high),
        PQ_low=known(found.low),
        PQ_high=known(found.high),
        versus=tuple(versus),
    )


def ranked_comparison_grid(
    rows: Sequence[ComparisonRow], comparison: Comparison | None, digits: int, notes: tuple[str, ...] = ()
) -> Grid:
    """Returns the main table, best run first: PQ with its interval, the range of ranks, and p against the best.

    comparison: None where nothing was tested; notes: sentences on intervals and ranks
    """
    grid = comparison_grid(rows, digits)
    if comparison is None:
        return grid
    keys, level = [row.run for row in rows], f"{100 * comparison.level:g} %"
    order = [keys.index(key) for key in _keys_by_rank(comparison)]
    # Rows without a rank come last: claims, and runs without an image.
    order += [position for position in range(len(rows)) if position not in order]
    tested = [keys[position] for position in order if keys[position] in set(comparison.runs["run"])]
    base = next((key for key in tested if all(comparison.between(key, one) for one in tested if one != key)), "")

    def interval_cells(position: int) -> tuple[str, ...]:
        """Returns a run's cells: the interval of its PQ, its range of ranks, and p against the best run."""
        test = comparison.between(base, keys[position])
        p = ABSENT if test is None else corrected_p(test.p, test.at_floor)
        return interval_text(rows[position].PQ_low, rows[position].PQ_high, digits), rows[position].ranks or ABSENT, p

    def moved_table_cells(cells: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        """Returns where table cells are after sorting the rows and adding columns for the interval, ranks and p."""
        return frozenset((order.index(row), column + 3 * (column >= at)) for row, column in cells)

    at = 1 + grid.columns.index("PQ")
    note = f"p: of no difference in PQ to {labels(rows)[keys.index(base)]}, corrected (Holm)." if base else ""
    return replace(
        grid,
        columns=(*grid.columns[:at], f"{level} interval", f"ranks at {level}", "p", *grid.columns[at:]),
        rows=tuple(
            (*grid.rows[position][:at], *interval_cells(position), *grid.rows[position][at:]) for position in order
        ),
        best=moved_table_cells(grid.best),
        second=moved_table_cells(grid.second),
        marks=tuple(grid.marks[position] for position in order) if grid.marks else (),
        notes=(*grid.notes, *notes, *((note,) if note and len(tested) > 1 else ())),
    )


def _keys_by_rank(comparison: Comparison) -> list[str]:
    """Returns the unique names of the compared runs, best first."""
    table = comparison.runs
    table = table[(table["group"] == "All") & (table["metric"] == "PQ")]
    return list(table.sort_values("rank", kind="stable")["run"])


def _difference_grids(
    rows: Sequence[ComparisonRow], comparison: Comparison, digits: int
) -> tuple[list[Grid], tuple[str, ...]]:
    """Returns a table of the differences of all pairs of runs, and sentences on pairs without a difference."""
    own = dict(zip((row.run for row in rows), labels(rows), strict=True))
    order = _keys_by_rank(comparison)
    # Letters that replace names follow the order of the ranks.
    names = {run: own[run] for run in dict.fromkeys([*order, *own])}
    lines: list[tuple[str, ...]] = []
    equal: dict[tuple[str, str], list[str]] = {}
    for a, b in combinations(order, 2):
        for group, score in _SUFFIXED.items() if len(order) <= MOST_PAIRS else (("All", "PQ"),):
            test = comparison.between(a, b, group)
            if test is None or math.isnan(test.difference):
                continue
            if test.difference == 0:
                equal.setdefault((names[a], names[b]), []).append(score)
                continue
            better, worse = (a, b) if test.difference > 0 else (b, a)
            gain, *how_sure = _difference_cells(comparison.between(better, worse, group), digits)
            # A difference exists, even if it is too small to print.
            by = gain if gain != signed(0.0, digits) else f"<{10**-digits:.{digits}f}"
            lines.append((names[better], names[worse], score, by, *how_sure))
    alike = tuple(f"{a} and {b}: no difference in {in_sentence(scores)}." for (a, b), scores in equal.items())
    if not lines:
        return [], alike
    tests = sum(row.metric == "PQ" and not math.isnan(row.p) for row in comparison.tests.values())
    note = (
        f"p: {comparison.permutations:,} swaps of the two runs, image by image, corrected for {tests} comparisons "
        f"(Holm). *: significant at {100 * (1 - comparison.level):g} %."
    )
    columns = ("Better", "than", "in", "by", f"{100 * comparison.level:g} % interval", "p", "")
    return [Grid(columns, tuple(lines), words=3, notes=(note, *alike), names=tuple(names.values()))], ()


def _difference_cells(test: Difference | None, digits: int) -> tuple[str, ...]:
    """Returns the cells of a difference: its size, its interval, its corrected p, and a star if it is significant."""
    if test is None:
        return (ABSENT, ABSENT, ABSENT, "")
    return (
        signed(test.difference, digits),
        interval_text(test.low, test.high, digits, with_sign=True),
        corrected_p(test.p, test.at_floor),
        "*" if test.significant else "",
    )


def rank_note(rows: Sequence[ComparisonRow]) -> tuple[str, ...]:
    """Explains in a sentence what ranks such as 1–2 mean, if at least two of the runs have scored images."""
    if sum(row.images is not None and row.images > 0 for row in rows) < 2:
        return ()
    return ("Ranks at 95 %: the best and the worst rank that the tests leave possible.",)


def _detail_grid(
    rows: Sequence[ComparisonRow], comparison: Comparison, head: str, digits: int, *, of_categories: bool = False
) -> Grid:
    """Returns a table of PQ by slice or category: a column per run (A, B, …), and of two runs their difference.

    head: heading of the column that names the lines; of_categories: the lines are categories, sorted by the difference
    """
    table = comparison.runs
    table = table[(table["metric"] == "PQ") & (table["group"].isna() == of_categories)]
    values = table.pivot_table(index=["category_id", "name"], columns="run", values="value", sort=False, dropna=False)
    names = {row.run: label for row, label in zip(rows, labels(rows), strict=True) if row.run in values.columns}
    present = list(names)
    letters = [letter(index) for index in range(len(present))]
    values = values[present].dropna(how="all")
    lines: list[tuple[float, tuple[str, ...]]] = []
    two = len(present) == 2
    pairs = comparison.differences
    pairs = pairs[(pairs["metric"] == "PQ") & (pairs["group"].isna() == of_categories)]
    tests = {(row.category_id, row.name): Difference.of(row, present[-1]) for row in pairs.itertuples()} if two else {}
    for position, (scope, of_runs) in enumerate(values.iterrows()):
        cells = (str(scope[1]), *(percent(value, digits) for value in of_runs))
        cells += _difference_cells(tests[scope], digits) if two else ()
        weight = of_runs.max() - of_runs.min() if len(present) != 2 else of_runs.iloc[1] - of_runs.iloc[0]
        lines.append((-weight if of_categories and weight == weight else position, cells))
    if of_categories:
        lines.sort(key=lambda line: line[0])
    level = f"{100 * comparison.level:g} %"
    columns = (head, *letters, *(("B - A", f"{level} interval", "p", "") if two else ()))
    notes = tuple(f"{short}: {name}" for short, name in zip(letters, names.values(), strict=True))
    if two:
        notes += (f"p is corrected for all lines (Holm). *: significant at {100 * (1 - comparison.level):g} %.",)
        if any("<" in cells[-2] and cells[-2] != "<0.001" for _, cells in lines):
            notes += (f"p <: none of {comparison.permutations:,} swaps differed as much, so p may be smaller still.",)
    title = f"PQ by {head[:1].lower()}{head[1:]}"
    if two and of_categories and not any(cells[-1] for _, cells in lines):
        title += ": no difference is significant"
    return Grid(columns, tuple(cells for _, cells in lines), title=title, notes=notes)


def _detail_rows(comparison: Comparison, *, of_categories: bool = False) -> pd.DataFrame:
    """Returns the scores of the runs by slice or by category as a long table, for JSON and CSV."""
    table = comparison.runs
    table = table[table["group"].isna() == of_categories]
    columns = ["run", "group", "category_id", "name", "metric", "value", "low", "high", "images"]
    return table[columns].drop(columns=["group"] if of_categories else ["category_id", "name"]).reset_index(drop=True)


def corrected_p(value: float, at_floor: bool) -> str:
    """Formats a corrected p-value, with "<" if only an upper bound is known.

    at_floor: no swap of the runs differed as much as they do, so only an upper bound is known
    """
    if pd.isna(value):
        return ABSENT
    if value < 0.001:
        return "<0.001"
    return f"<{format_p(value, 3, rounding=math.ceil)}" if at_floor and value < 0.5 else format_p(value, 3)


def p_in_words(value: float, at_floor: bool) -> str:
    """Returns `corrected_p` as "p = 0.012" or "p < 0.001"; "" if there is none."""
    p = corrected_p(value, at_floor)
    return "" if p == ABSENT else f"p < {p[1:]}" if p.startswith("<") else f"p = {p}"


def _rank_or_none(value: Any) -> int | None:
    """Returns a rank as an int; None if there is none."""
    return None if pd.isna(value) else int(value)
