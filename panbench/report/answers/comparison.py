"""Several runs weighed against each other: ranks, intervals, which differences are real, and where they come from.

The numbers are those of metrics/uncertainty.py; here they meet the rows of report/answers/tables.py and become tables.
"""

import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console, Group

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import for_spreadsheet, in_sentence
from panbench.metrics.coverage import interval_notes
from panbench.metrics.errors import ErrorFold
from panbench.metrics.image_slices import ImageSlices, slice_by_images
from panbench.metrics.samples import Sample, SampleFold
from panbench.metrics.slices import SLICINGS, ImageStatistics, StatisticsFold
from panbench.metrics.uncertainty import Comparison, weigh
from panbench.panoptic.types import GROUPS
from panbench.report.answers.folded import folded
from panbench.report.answers.grid import (
    ABSENT,
    Grid,
    as_latex,
    as_markdown,
    as_texts,
    deciding,
    letter,
    markdown_text,
    percent,
    sentence_text,
    signed,
)
from panbench.report.answers.records import as_records
from panbench.report.answers.tables import (
    ComparisonRow,
    comparable_images,
    comparison_grid,
    comparison_rows,
    labels,
    render,
    row_record,
    shared_images,
    typed_table,
)
from panbench.report.answers.verdict import Lost, Verdict, verdict
from panbench.runs import Run

__all__ = ["Standing", "corrected_p", "first_grid", "p_in_words", "rank_note", "standing"]

MOST_PAIRS = 5
"""Up to so many runs each is compared with each other; beyond, only with the first, unless a baseline is named."""

MOST_GROUPED = 3
"""Up to so many runs each difference has a line, with interval and p; more stand in matrices."""

_SUFFIXED = {group: f"PQ{suffix}" for group, suffix in GROUPS.items()}


@dataclass(frozen=True)
class Standing:
    """A comparison of runs, ready to be printed: `grids` for people, `json`, `csv` and `parquet` for programs.

    rows: one a run, with rank, interval and differences where they were asked for
    grids: the comparison first, then what was asked for besides
    details: long tables by name ("per_category", "by"): run, group or category, metric, value, low, high; fractions
    digits: decimals of percentages
    comparison: the tests behind the ranks, whose runs are named as `keys` of the rows; None without them
    verdict: what they say, in words; None without tests
    notes: sentences on how sure intervals and ranks are
    """

    rows: tuple[ComparisonRow, ...]
    grids: tuple[Grid, ...]
    details: Mapping[str, pd.DataFrame]
    digits: int = 2
    comparison: Comparison | None = None
    verdict: Verdict | None = None
    notes: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """What `comparison` calls each row's run."""
        return _keys(self.rows)

    def text(self, width: int = 120) -> str:
        """All tables as a terminal of `width` columns shows them, without colours."""
        console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None)
        if self.verdict is not None:
            console.print(sentence_text(self.verdict.text()), "", crop=False, sep="\n")
        for index, text in enumerate(as_texts(self.grids)):
            console.print(Group(*([""] if index else []), text), crop=False)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    @property
    def sentences(self) -> tuple[str, ...]:
        """The verdict, if there is one."""
        return () if self.verdict is None else (self.verdict.text(),)

    def markdown(self) -> str:
        """The verdict and all tables, one below the other."""
        words = [] if self.verdict is None else [markdown_text(self.verdict.text()) + "\n"]
        return "\n".join([*words, *(as_markdown(grid) for grid in self.grids)])

    def latex(self) -> str:
        """All tables, one below the other; in the first, PQ has its interval beside it."""
        first = comparison_grid(self.rows, self.digits, with_intervals=True)
        return "\n".join(as_latex(grid) for grid in (first, *self.grids[1:]))

    def json(self) -> str:
        """A list with an object a run; details, when asked for, are lists in each object."""
        records = [row_record(row) for row in self.rows]
        for name, table in self.details.items():
            for record, key in zip(records, _keys(self.rows), strict=True):
                own = table[table["run"] == key].drop(columns="run")
                record[name] = as_records(own)
        return json.dumps(records, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def csv(self, *, raw: bool = False) -> str:
        """A line a run; when details were asked for, those instead, a line a value. raw: as for `render`."""
        if not self.details:
            return render(self.rows, "csv", raw=raw)
        details = pd.concat(self.details.values(), ignore_index=True)
        if not raw:
            details = details.map(for_spreadsheet)
        return details.to_csv(index=False, lineterminator="\n")

    def parquet(self) -> bytes:
        """The rows and columns of `csv` as a Parquet file, typed; what does not exist is null."""
        import pyarrow as pa
        import pyarrow.parquet

        if self.details:
            table = pa.Table.from_pandas(pd.concat(self.details.values(), ignore_index=True), preserve_index=False)
        else:
            table = typed_table(self.rows)
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()


def standing(
    runs: Sequence[Run],
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
    """The comparison of some runs, with ranks, intervals and paired differences of PQ where their images are the same.

    common_images, mixed: as in `comparison_rows`; mixed runs are not weighed against each other
    by: a key of SLICINGS for a table of PQ by slice; per_category: a table of PQ by category, sorted by the difference
    slices: sets of images, for a table of PQ by slice each
    baseline: the run that all others are compared with; default: each with each, or with the first beyond five runs
    reporter: gets the progress of reading and testing
    Raises BadRun for runs that cannot be compared, BadArgument for a slicing or a baseline that is not there.
    """
    for run in runs:
        run.reporter = reporter
    if intervals and not mixed and any(run.in_blocks for run in runs):
        # One pass for all that follows: rows, intervals and the verdict.
        images = comparable_images(runs, common_images=common_images)
        for run in runs:
            if run.in_blocks:
                folded(run, images, reporter)
    rows = comparison_rows(runs, common_images=common_images, mixed=mixed)
    weighable = not mixed and any(row.images for row in rows)
    if (by or slices or per_category or baseline) and not weighable:
        why = (
            "--mixed shows runs on other images as they are. Leave it out, or use --common-images"
            if mixed
            else "none of these runs has a scored image"
        )
        raise BadArgument(f"--by, --slices, --per-category and --baseline compare runs image by image, but {why}.")
    if by is not None and by not in SLICINGS:
        raise BadArgument(f"There is no slicing {by!r}. Choose one of {', '.join(SLICINGS)}.")
    keys = _keys(rows)
    if baseline is not None:
        baseline = _baseline(baseline, runs, rows, keys)
    grids: list[Grid] = []
    details: dict[str, pd.DataFrame] = {}
    comparison = words = None
    notes: tuple[str, ...] = ()
    if weighable and (intervals or per_category):
        comparison = weigh(_statistics(runs, rows, keys), baseline=baseline or _first(keys), reporter=reporter)
        if intervals:
            rows = [_with_standing(row, key, comparison) for row, key in zip(rows, keys, strict=True)]
            differences, alike = _difference_grids(rows, keys, comparison, digits)
            notes = (*interval_notes(comparison.images), *rank_note(rows), *alike)
            grids.extend(differences)
            words = verdict(comparison, dict(zip(keys, labels(rows), strict=True)), _lost(runs, keys))
        if per_category:
            grids.append(_detail_grid(rows, keys, comparison, "Category", digits, of_categories=True))
            details["per_category"] = _details(comparison, of_categories=True)
    if by is not None:
        sliced = weigh(_statistics(runs, rows, keys, by), baseline=baseline or _first(keys), reporter=reporter)
        grids.append(_detail_grid(rows, keys, sliced, SLICINGS[by].title.capitalize(), digits))
        details["by"] = _details(sliced, of_categories=False)
    own = []
    for chosen in slices:
        cut = {key: _cut(run, chosen) for run, row, key in zip(runs, rows, keys, strict=True) if row.images}
        sliced = weigh(cut, baseline=baseline or _first(keys), reporter=reporter)
        grids.append(_detail_grid(rows, keys, sliced, chosen.name, digits))
        own.append(_details(sliced, of_categories=False).assign(slicing=chosen.name))
    if own:
        details["slices"] = pd.concat(own, ignore_index=True)
    tests = comparison if intervals else None
    first = first_grid(rows, tests, digits, notes)
    return Standing(tuple(rows), (first, *grids), details, digits, tests, words, notes)


def _lost(runs: Sequence[Run], keys: Sequence[str]) -> Lost:
    """What each cause takes of a run's PQ in a group, on the images that all runs have; computed when asked for."""
    shared = shared_images([run for run in runs if len(run.images)])

    @cache
    def table(key: str) -> pd.DataFrame:
        run = runs[keys.index(key)]
        if run.in_blocks:
            return folded(run, shared).lost
        errors = ErrorFold(run.categories, of_images=False)
        run.fold(errors, images=shared)
        return errors.lost()

    def of_group(key: str, group: str) -> dict[str, float]:
        own = table(key)
        own = own[own["group"] == group]
        return dict(zip(own["cause"], own["lost"].astype(float), strict=True))

    return of_group


def _keys(rows: Sequence[ComparisonRow]) -> list[str]:
    """A name for each row that no other has: the run's, with a number where two runs share it."""
    names = [row.run for row in rows]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: index + 1].count(name)})"
        for index, name in enumerate(names)
    ]


def _first(keys: Sequence[str]) -> str | None:
    return keys[0] if len(keys) > MOST_PAIRS else None


def _baseline(name: str, runs: Sequence[Run], rows: Sequence[ComparisonRow], keys: Sequence[str]) -> str:
    """The key of the run that a path or a name names. Raises BadArgument."""
    place = os.path.realpath(name)
    matches = [key for run, key in zip(runs, keys, strict=True) if run.path and os.path.realpath(run.path) == place]
    if not matches:
        matches = [key for row, key in zip(rows, keys, strict=True) if name in (key, row.run, row.model)]
    if len(matches) != 1:
        what = "is not among the runs" if not matches else "names several runs"
        raise BadArgument(f"The baseline {name!r} {what}: {', '.join(keys)}.")
    return matches[0]


def _statistics(
    runs: Sequence[Run], rows: Sequence[ComparisonRow], keys: Sequence[str], by: str | None = None
) -> dict[str, Sample]:
    shared = shared_images([run for run, row in zip(runs, rows, strict=True) if row.images])
    return {key: _sample(run, shared, by) for run, row, key in zip(runs, rows, keys, strict=True) if row.images}


def _cut(run: Run, slices: ImageSlices) -> ImageStatistics:
    statistics = StatisticsFold(run.categories)
    run.fold(statistics)
    return slice_by_images(statistics.result(), slices)


def _sample(run: Run, shared: npt.NDArray[np.int64], by: str | None) -> Sample:
    if by is None and run.in_blocks:
        return folded(run, shared).sample
    sample = SampleFold(run.categories, shared, by)
    run.fold(sample, images=shared)
    return sample.result()


def _with_standing(row: ComparisonRow, key: str, comparison: Comparison) -> ComparisonRow:
    found = comparison.scores.get((key, "All", "PQ"))
    if found is None:
        return row
    versus = []
    for (*runs, group, metric), pair in comparison.tests.items():
        if key not in runs or (group, metric) != ("All", "PQ"):
            continue
        sign = 1 if key == pair.b else -1
        low, high = sorted((sign * pair.low, sign * pair.high))
        versus.append(
            {
                "run": pair.a if key == pair.b else pair.b,
                "PQ_difference": _known(sign * pair.difference),
                "low": _known(low),
                "high": _known(high),
                "p": _known(pair.p),
                "p_holm": _known(pair.p_holm),
                "significant": bool(pair.significant),
            }
        )
    return dataclasses.replace(
        row,
        rank=_whole(found.rank),
        rank_low=_whole(found.rank_low),
        rank_high=_whole(found.rank_high),
        PQ_low=_known(found.low),
        PQ_high=_known(found.high),
        versus=tuple(versus),
    )


def first_grid(
    rows: Sequence[ComparisonRow], comparison: Comparison | None, digits: int, notes: tuple[str, ...] = ()
) -> Grid:
    """The comparison, the best first; beside PQ its interval, the range of ranks, and p against the best.

    comparison: None where nothing was tested; notes: sentences on intervals and ranks
    """
    grid = comparison_grid(rows, digits)
    if comparison is None:
        return grid
    keys, level = _keys(rows), f"{100 * comparison.level:g} %"
    order = [keys.index(key) for key in _ranking(comparison)]
    # Last what has no rank: claims, and runs without an image.
    order += [place for place in range(len(rows)) if place not in order]
    tested = [keys[place] for place in order if keys[place] in set(comparison.runs["run"])]
    base = next((key for key in tested if all(_test(comparison, key, other) for other in tested if other != key)), "")

    def beside(place: int) -> tuple[str, ...]:
        test = _test(comparison, base, keys[place])
        p = ABSENT if test is None else corrected_p(test.p_holm, bool(test.at_floor))
        return _interval(rows[place].PQ_low, rows[place].PQ_high, digits), rows[place].ranks or ABSENT, p

    def moved(cells: frozenset[tuple[int, int]]) -> frozenset[tuple[int, int]]:
        return frozenset((order.index(row), column + 3 * (column >= at)) for row, column in cells)

    at = 1 + grid.columns.index("PQ")
    said = f"p: of no difference in PQ to {labels(rows)[keys.index(base)]}, corrected (Holm)." if base else ""
    return replace(
        grid,
        columns=(*grid.columns[:at], f"{level} interval", f"ranks at {level}", "p", *grid.columns[at:]),
        rows=tuple((*grid.rows[place][:at], *beside(place), *grid.rows[place][at:]) for place in order),
        best=moved(grid.best),
        second=moved(grid.second),
        marks=tuple(grid.marks[place] for place in order) if grid.marks else (),
        notes=(*grid.notes, *notes, *((said,) if said and len(tested) > 1 else ())),
    )


def _test(comparison: Comparison, a: str, b: str) -> Any:
    """The test of two runs in PQ of all categories; None where there is none."""
    return comparison.tests.get((a, b, "All", "PQ")) or comparison.tests.get((b, a, "All", "PQ"))


def _ranking(comparison: Comparison) -> list[str]:
    """The runs, the best first."""
    table = comparison.runs
    table = table[(table["group"] == "All") & (table["metric"] == "PQ")]
    return list(table.sort_values("rank", kind="stable")["run"])


def _difference_grids(
    rows: Sequence[ComparisonRow], keys: Sequence[str], comparison: Comparison, digits: int
) -> tuple[list[Grid], tuple[str, ...]]:
    """The differences of all pairs, as lines or matrices, or sentences if no pair differs."""
    own = dict(zip(keys, labels(rows), strict=True))
    order = _ranking(comparison)
    # Letters, where they stand for names, are in the order of the ranks.
    names = {run: own[run] for run in dict.fromkeys([*order, *keys])}
    pairs = comparison.differences
    pairs = pairs[pairs["group"].notna() & (pairs["metric"] == "PQ")]
    if len(order) > MOST_GROUPED and len(pairs[pairs["group"] == "All"]) == len(order) * (len(order) - 1) // 2:
        return _matrices(order, names, pairs, comparison, digits), ()
    shown = pairs if len(order) <= MOST_GROUPED else pairs[pairs["group"] == "All"]
    lines = [_pair_line(pair, names, digits) for pair in shown.itertuples() if pair.difference != 0]
    equal: dict[tuple[str, str], list[str]] = {}
    for pair in shown[shown["difference"] == 0].itertuples():
        equal.setdefault((names[pair.a], names[pair.b]), []).append(_SUFFIXED[pair.group])
    alike = tuple(f"{a} and {b}: no difference in {in_sentence(scores)}." for (a, b), scores in equal.items())
    if not lines:
        return [], alike
    note = (
        f"p: {comparison.permutations:,} swaps of the two runs, image by image, corrected for "
        f"{int(pairs['p'].notna().sum())} comparisons (Holm). *: significant at {100 * (1 - comparison.level):g} %."
    )
    columns = ("Better", "than", "in", "by", f"{100 * comparison.level:g} % interval", "p", "")
    return [Grid(columns, tuple(lines), words=3, notes=(note, *alike), names=tuple(names.values()))], ()


def _pair_line(pair: Any, names: Mapping[str, str], digits: int) -> tuple[str, ...]:
    """A pair's difference, read as "better minus worse"."""
    sign, better, worse = (1, pair.b, pair.a) if pair.difference >= 0 else (-1, pair.a, pair.b)
    low, high = sorted((sign * pair.low, sign * pair.high))
    return (
        names[better],
        names[worse],
        _SUFFIXED[pair.group],
        _gain(sign * pair.difference, digits),
        _interval(low, high, digits, with_sign=True),
        corrected_p(pair.p_holm, pair.at_floor),
        "*" if pair.significant else "",
    )


def rank_note(rows: Sequence[ComparisonRow]) -> tuple[str, ...]:
    """What the range of a rank means, as a sentence, where at least two of the runs hold images."""
    if sum(row.images is not None and row.images > 0 for row in rows) < 2:
        return ()
    return ("Ranks at 95 %: the best and the worst rank that the tests leave possible.",)


def _matrices(
    order: Sequence[str], names: Mapping[str, str], pairs: pd.DataFrame, comparison: Comparison, digits: int
) -> list[Grid]:
    """One matrix per kind of category: differences of each pair of runs, row − column, best run first."""
    found = {(pair.group, pair.a, pair.b): pair for pair in pairs.itertuples()}

    def cell(group: str, row: str, column: str) -> str:
        pair = found.get((group, column, row)) or found.get((group, row, column))
        if pair is None or pd.isna(pair.difference):
            return "" if row == column else ABSENT
        if pair.difference == 0:
            return "0"
        shown = signed((1 if pair.b == row else -1) * pair.difference, digits)
        return shown + "*" if pair.significant else shown

    tests = int(pairs["p"].notna().sum())
    note = (
        f"*: significant at {100 * (1 - comparison.level):g} %: p, from {comparison.permutations:,} swaps of two runs "
        f"image by image, is corrected for {tests} comparisons (Holm). --format json has each p and interval of PQ."
    )
    groups = [group for group in _SUFFIXED if pairs.loc[pairs["group"] == group, "difference"].notna().any()]
    return [
        Grid(
            (f"{_SUFFIXED[group]}: row - column", *(names[key] for key in order)),
            tuple((names[row], *(cell(group, row, column) for column in order)) for row in order),
            names=tuple(names.values()),
            notes=(note,) if group == groups[-1] else (),
        )
        for group in groups
    ]


def _detail_grid(
    rows: Sequence[ComparisonRow],
    keys: Sequence[str],
    comparison: Comparison,
    head: str,
    digits: int,
    *,
    of_categories: bool = False,
) -> Grid:
    """PQ by slice or category, a column a run (A, B, …); of two runs also the difference.

    head: of the column that names the lines; of_categories: those of categories, sorted by the difference
    """
    table = comparison.runs
    table = table[(table["metric"] == "PQ") & (table["group"].isna() == of_categories)]
    values = table.pivot_table(index=["category_id", "name"], columns="run", values="value", sort=False, dropna=False)
    present = [key for key in keys if key in values.columns]
    letters = [letter(index) for index in range(len(present))]
    values = values[present].dropna(how="all")
    lines: list[tuple[float, tuple[str, ...]]] = []
    pairs = comparison.differences
    two = len(present) == 2
    if two:
        pairs = pairs[(pairs["metric"] == "PQ") & (pairs["group"].isna() == of_categories)]
        pairs = pairs.set_index(["category_id", "name"])
    for place, (scope, of_runs) in enumerate(values.iterrows()):
        cells = (str(scope[1]), *(percent(value, digits) for value in of_runs))
        if two:
            pair = pairs.loc[scope]
            sign = 1 if pair["a"] == present[0] else -1
            low, high = sorted((sign * pair["low"], sign * pair["high"]))
            cells += (
                signed(sign * pair["difference"], digits),
                _interval(low, high, digits, with_sign=True),
                corrected_p(pair["p_holm"], pair["at_floor"]),
                "*" if pair["significant"] else "",
            )
        weight = of_runs.max() - of_runs.min() if len(present) != 2 else of_runs.iloc[1] - of_runs.iloc[0]
        lines.append((-weight if of_categories and weight == weight else place, cells))
    if of_categories:
        lines.sort(key=lambda line: line[0])
    level = f"{100 * comparison.level:g} %"
    columns = (head, *letters, *(("B - A", f"{level} interval", "p", "") if two else ()))
    names = dict(zip(keys, labels(rows), strict=True))
    notes = tuple(f"{short}: {names[key]}" for short, key in zip(letters, present, strict=True))
    if two:
        notes += (f"p is corrected for all lines (Holm). *: significant at {100 * (1 - comparison.level):g} %.",)
        if any("<" in cells[-2] and cells[-2] != "<0.001" for _, cells in lines):
            notes += (f"p <: none of {comparison.permutations:,} swaps differed as much, so p may be smaller still.",)
    title = f"PQ by {head[:1].lower()}{head[1:]}"
    if two and of_categories and not any(cells[-1] for _, cells in lines):
        title += ": no difference is significant"
    return Grid(columns, tuple(cells for _, cells in lines), title=title, notes=notes)


def _details(comparison: Comparison, *, of_categories: bool) -> pd.DataFrame:
    table = comparison.runs
    table = table[table["group"].isna() == of_categories]
    columns = ["run", "group", "category_id", "name", "metric", "value", "low", "high", "images"]
    return table[columns].drop(columns=["group"] if of_categories else ["category_id", "name"]).reset_index(drop=True)


def _interval(low: float | None, high: float | None, digits: int, *, with_sign: bool = False) -> str:
    if low is None or high is None or low != low or high != high:
        return ABSENT
    show = signed if with_sign else percent
    return f"[{show(low, digits)}, {show(high, digits)}]"


def _gain(difference: float, digits: int) -> str:
    """A difference that is there, though it may be too small to print."""
    shown = signed(difference, digits)
    return f"<{10**-digits:.{digits}f}" if difference and shown == signed(0.0, digits) else shown


def corrected_p(value: float, at_floor: bool) -> str:
    """A corrected p-value; at_floor: no swap differed as much, so that it is only known to be no larger."""
    if pd.isna(value):
        return ABSENT
    if value < 0.001:
        return "<0.001"
    return f"<{deciding(value, 3, rounding=math.ceil)}" if at_floor and value < 0.5 else deciding(value, 3)


def p_in_words(value: float, at_floor: bool) -> str:
    """`corrected_p` as "p = 0.012" or "p < 0.001"; "" if there is none."""
    p = corrected_p(value, at_floor)
    return "" if p == ABSENT else f"p < {p[1:]}" if p.startswith("<") else f"p = {p}"


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)


def _whole(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
