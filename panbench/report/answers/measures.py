"""The measures of `panbench metrics`: what each sums over a run's images, and the answer made of it.

A measure is a value: the folds that it needs of a run, and a function from what they found to lines of the table
"Measure", tables of its own, and keys of the record. The core's are in MEASURES; studies add theirs
(`Study.measures["metrics"]`), and so do they to `panbench errors` (`Study.measures["errors"]`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import pandas as pd

from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import capitalised
from panbench.metrics.coverage import interval_notes
from panbench.metrics.deviations import DEVIATIONS, DeviationFold
from panbench.metrics.image_slices import ImageSlices, slice_by_images
from panbench.metrics.jackknife import intervals
from panbench.metrics.matched import Fold, Together
from panbench.metrics.pq import CategorySums, summarise
from panbench.metrics.samples import SampleFold
from panbench.metrics.semantic import PixelFold, SemanticScores
from panbench.metrics.slices import SLICINGS, THRESHOLDS, DaggerFold, SliceFold, StatisticsFold, curve_of, pq_by
from panbench.panoptic.types import GROUPS, in_groups
from panbench.report.answers.grid import Grid, percent
from panbench.report.answers.records import as_records
from panbench.report.answers.tables import comparison_row, headline
from panbench.runs import Run
from panbench.scoring.semantic import NO_INSTANCES

__all__ = ["AFTER_STUDIES", "MEASURES", "Measure", "Measured", "Question", "as_records", "measured", "pixels"]

Made = TypeVar("Made", bound=Fold[Any] | None)
Row = tuple[str, ...]


class Question:
    """A run, what is asked of it, and what the folds of all measures found in one pass over its images."""

    def __init__(
        self,
        run: Run,
        by: Sequence[str] = (),
        per_category: bool = False,
        slices: Sequence[ImageSlices] = (),
        reporter: Reporter = SILENT,
    ) -> None:
        """by: keys of SLICINGS; per_category: also a table by category; slices: sets of images for a table each."""
        self.run, self.by, self.per_category, self.slices, self.reporter = run, by, per_category, slices, reporter
        self._folds: dict[Callable[[Question], Fold[Any] | None], Fold[Any] | None] = {}

    def look(self, measures: Iterable["Measure"]) -> None:
        """Looks at all images of the run once, with the folds of these measures; each fold is made once."""
        makers = dict.fromkeys(make for measure in measures for make in measure.folds)
        self._folds = {make: make(self) for make in makers}
        self.run.fold(*(fold for fold in self._folds.values() if fold is not None))

    def folded(self, make: "Callable[[Question], Made]") -> Made:
        """What a function among a measure's `folds` made: the fold, with all images in it."""
        return cast(Made, self._folds[make])

    @cached_property
    def pq(self) -> pd.DataFrame:
        """The table of PQ by category, of a measure that has `category_sums` among its folds."""
        return self.folded(category_sums).table()

    @cached_property
    def semantic(self) -> SemanticScores:
        """mIoU and its kin of the fused map, of a measure that has `pixels` among its folds."""
        return self.folded(pixels).scores()


@dataclass(frozen=True)
class Measured:
    """The answer of one measure.

    rows: lines of the table "Measure": a name, then All, Things and Stuff in percent, "" where there is no such number
    notes: sentences below that table; grids: tables of its own; record: keys of the JSON, fractions 0–1
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """One measure: the folds that it needs, and the function that makes its answer.

    found: makes the answer of a question whose folds hold all images
    folds: functions that make the folds it needs, or None where the run or the question has no use for one; measures
        that name the same function share its fold
    """

    found: Callable[[Question], Measured]
    folds: tuple[Callable[[Question], Fold[Any] | None], ...] = ()


def measured(question: Question, measures: Sequence[Measure]) -> list[Measured]:
    """The answers of the measures, in their order, from one pass over the run."""
    question.look(measures)
    return [measure.found(question) for measure in measures]


def category_sums(question: Question) -> CategorySums:
    """The fold of PQ by category, at all THRESHOLDS."""
    return CategorySums(question.run.categories, THRESHOLDS)


def boundary_sums(question: Question) -> CategorySums | None:
    """The fold of boundary PQ; None of a run that stored no boundaries."""
    return CategorySums(question.run.categories, boundary=True) if question.run.has_boundary else None


def pixels(question: Question) -> PixelFold:
    """The fold of mIoU and its kin."""
    return PixelFold(question.run.categories)


def stuff_pixels(question: Question) -> DaggerFold:
    """The fold of PQ† and weighted PQ."""
    return DaggerFold(question.run.categories)


def _sample(question: Question) -> SampleFold:
    return SampleFold(question.run.categories, question.run.images)


def _deviation(question: Question) -> DeviationFold:
    return DeviationFold(question.run.categories)


def _by(question: Question) -> Together[SliceFold]:
    return Together([SliceFold(question.run.categories, name) for name in question.by])


def _statistics(question: Question) -> StatisticsFold | None:
    return StatisticsFold(question.run.categories) if question.slices else None


def _summary(question: Question) -> Measured:
    return Measured(record={"summary": summarise(question.pq)})


def _boundary(question: Question) -> Measured:
    sums = question.folded(boundary_sums)
    if sums is None:
        return Measured(record={"boundary": None})
    found = summarise(sums.table())
    row = ("boundary PQ", *(percent(found[group]["PQ"]) for group in GROUPS))
    return Measured((row,), record={"boundary": found})


def _intervals(question: Question) -> Measured:
    sure = intervals(question.folded(_sample).result())
    grid = _interval_grid(question.run, sure, summarise(question.pq))
    return Measured(grids=(grid,), record={"intervals": as_records(sure)})


def _dagger(question: Question) -> Measured:
    table = question.folded(stuff_pixels).dagger(question.pq)
    members = in_groups(table["isthing"].to_numpy(bool))
    found = {group: _mean(table[own]["PQ_dagger"]) for group, own in members.items()}
    row = ("PQ†, stuff without threshold", *(percent(found[group]) for group in GROUPS))
    return Measured((row,), record={"PQ_dagger": found})


def _weighted(question: Question) -> Measured:
    fold = question.folded(stuff_pixels)
    found = {name: fold.weighted(question.pq, name) for name in ("pixels", "segments")}
    rows = tuple((f"PQ weighted by {name}", percent(value), "", "") for name, value in found.items())
    return Measured(rows, record={"weighted_PQ": found})


def _semantic(question: Question) -> Measured:
    return _of_pixels(question.semantic)


def semantic_answer(run: Run) -> Measured:
    """mIoU and its kin of a run of semantic maps, with what its PQ is not."""
    fold = PixelFold(run.categories)
    run.fold(fold)
    found = _of_pixels(fold.scores())
    grid = Grid(("Measure", *GROUPS), found.rows, notes=(NO_INSTANCES,))
    return Measured(grids=(grid,), record={**found.record, "note": NO_INSTANCES})


def _of_pixels(found: SemanticScores) -> Measured:
    rows = (
        ("mIoU", percent(found.mIoU), percent(found.mIoU_th), percent(found.mIoU_st)),
        ("frequency-weighted IoU", percent(found.fwIoU), "", ""),
        ("pixel accuracy", percent(found.pixel_accuracy), "", ""),
        ("mean accuracy", percent(found.mean_accuracy), "", ""),
        ("mean Dice", percent(found.mean_dice), "", ""),
    )
    names = ("mIoU", "mIoU_th", "mIoU_st", "fwIoU", "pixel_accuracy", "mean_accuracy", "mean_dice")
    return Measured(rows, record={"semantic": {name: getattr(found, name) for name in names}})


def _deviations(question: Question) -> Measured:
    found = question.folded(_deviation).record()
    if not question.run.info.dataset.has_ground_truth:
        # Where nothing is labelled, "void counts as wrong" would make a number of predictions that nobody can judge.
        found = {name: dict.fromkeys(groups) for name, groups in found.items()}
    grid = Grid(
        ("Not PQ: other conventions", *GROUPS),
        tuple((one.label, *(percent(found[one.name][group]) for group in GROUPS)) for one in DEVIATIONS),
    )
    record = {one.name: {**found[one.name], "description": one.description} for one in DEVIATIONS}
    return Measured(grids=(grid,), record={"deviations": record})


def _thresholds(question: Question) -> Measured:
    curve = curve_of(question.folded(category_sums))
    return Measured(grids=(_curve_grid(curve),), record={"thresholds": as_records(curve)})


def _sliced(question: Question) -> Measured:
    folds = question.folded(_by).folds
    tables = {name: fold.table() for name, fold in zip(question.by, folds, strict=True)}
    return Measured(
        grids=tuple(_slice_grid(SLICINGS[name].title, table) for name, table in tables.items()),
        record={"by": {name: as_records(table) for name, table in tables.items()}},
    )


def _own_slices(question: Question) -> Measured:
    statistics = question.folded(_statistics)
    tables = {}
    if statistics is not None:
        tables = {chosen.name: pq_by(slice_by_images(statistics.result(), chosen)) for chosen in question.slices}
    return Measured(
        grids=tuple(_slice_grid(name, table) for name, table in tables.items()),
        record={"slices": {name: as_records(table) for name, table in tables.items()}},
    )


def _per_category(question: Question) -> Measured:
    dagger = question.folded(stuff_pixels).dagger(question.pq)
    merged = question.pq.merge(dagger[["category_id", "PQ_dagger"]], on="category_id").merge(
        question.semantic.per_category.drop(columns=["name", "isthing"]), on="category_id"
    )
    # panopticapi's 0 of a category that is neither in the ground truth nor predicted is no score.
    occurs = merged[["TP", "FP", "FN"]].sum(axis=1) > 0
    merged = merged.assign(**merged[["PQ", "SQ", "RQ"]].where(occurs))
    grids = (_category_grid(merged),) if question.per_category else ()
    return Measured(grids=grids, record={"per_category": as_records(merged)})


MEASURES = (
    Measure(_summary, (category_sums,)),
    Measure(_boundary, (boundary_sums,)),
    Measure(_intervals, (category_sums, _sample)),
    Measure(_dagger, (category_sums, stuff_pixels)),
    Measure(_weighted, (category_sums, stuff_pixels)),
    Measure(_semantic, (pixels,)),
)
"""The core's measures that stand before those of studies: PQ and what is said of the fused map in a line each."""

AFTER_STUDIES = (
    Measure(_deviations, (_deviation,)),
    Measure(_thresholds, (category_sums,)),
    Measure(_sliced, (_by,)),
    Measure(_own_slices, (_statistics,)),
    Measure(_per_category, (category_sums, stuff_pixels, pixels)),
)
"""Those that stand behind them: other conventions, and PQ by threshold, slice and category."""


def _interval_grid(run: Run, sure: pd.DataFrame, summary: Mapping[str, Mapping[str, Any]]) -> Grid:
    rows = []
    for group in GROUPS:
        of_group = sure[sure["group"] == group].set_index("metric")
        cells = []
        for metric in ("PQ", "SQ", "RQ"):
            found = of_group.loc[metric]
            known = not (pd.isna(found["low"]) or pd.isna(found["high"]))
            shown = f" [{percent(found['low'], 1)}, {percent(found['high'], 1)}]" if known else ""
            cells.append(percent(found["value"]) + shown)
        rows.append((group, *cells, str(summary[group]["n"])))
    notes = (
        "In brackets: 95 % intervals. n: categories.",
        *interval_notes(len(run.images), ("PQ", "SQ", "RQ")),
        *_sq_note(sure),
        *map(capitalised, comparison_row(run).notes),
    )
    return Grid(("", "PQ", "SQ", "RQ", "n"), tuple(rows), title=headline(run), notes=notes)


def _sq_note(sure: pd.DataFrame) -> tuple[str, ...]:
    """Why an SQ lies outside of its own interval, where one does."""
    sq = sure[(sure["metric"] == "SQ") & sure["group"].notna()]
    if not ((sq["value"] < sq["low"]) | (sq["value"] > sq["high"])).any():
        return ()
    return (
        "SQ counts a category without a match as 0; its interval allows for the matches that more images would show, "
        "so it can lie above the value.",
    )


def _curve_grid(curve: pd.DataFrame) -> Grid:
    of_all = curve[curve["group"] == "All"]
    thresholds = tuple(f"{threshold:.2f}" for threshold in of_all["threshold"])
    rows = tuple((name, *(percent(value, 1) for value in of_all[name])) for name in ("PQ", "SQ", "RQ"))
    return Grid(("IoU >", *thresholds), rows)


def _slice_grid(title: str, table: pd.DataFrame) -> Grid:
    scores = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")
    rows = tuple(
        (
            str(row["slice"]),
            *(percent(row[score]) for score in scores),
            *(str(int(row[column])) for column in ("n", "TP", "FP", "FN")),
        )
        for _, row in table.iterrows()
        if row["n"]
    )
    return Grid((title[:1].upper() + title[1:], *scores, "n", "TP", "FP", "FN"), rows)


def _category_grid(merged: pd.DataFrame) -> Grid:
    ordered = merged[(merged["TP"] + merged["FP"] + merged["FN"]) > 0].sort_values("PQ", ascending=False, kind="stable")
    rows = tuple(
        (
            str(row["name"]),
            "thing" if row["isthing"] else "stuff",
            *(percent(row[score]) for score in ("PQ", "SQ", "RQ", "IoU", "Dice")),
            *(str(int(row[column])) for column in ("TP", "FP", "FN")),
        )
        for _, row in ordered.iterrows()
    )
    columns = ("Category", "Kind", "PQ", "SQ", "RQ", "IoU", "Dice", "TP", "FP", "FN")
    return Grid(columns, rows, words=2)


def _mean(values: pd.Series) -> float | None:
    mean = values.mean()
    return None if pd.isna(mean) else float(mean)
