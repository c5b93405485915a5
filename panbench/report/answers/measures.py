"""Computes what `panbench metrics` reports of a run, from sums over its images.

A measure is a value: the accumulators that it needs of a run, and a function from their results to lines of the table
"Measure", further tables, and keys of the record. The core's are in MEASURES; studies add theirs for `panbench
metrics` (`Study.measures["metrics"]`) and for `panbench errors` (`Study.measures["errors"]`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import pandas as pd

from panbench.base.reporter import SILENT, Reporter
from panbench.metrics.deviations import DEVIATIONS, DeviationAccumulator
from panbench.metrics.jackknife import interval_notes, intervals
from panbench.metrics.matched import Accumulator, SeveralAccumulators
from panbench.metrics.pq import CategorySums, summarise
from panbench.metrics.samples import SampleAccumulator
from panbench.metrics.semantic import PixelAccumulator, SemanticScores
from panbench.metrics.slices import (
    SLICINGS,
    THRESHOLDS,
    DaggerAccumulator,
    ImageSlices,
    SliceAccumulator,
    StatisticsAccumulator,
    curve_of,
    pq_by,
    slice_by_images,
)
from panbench.panoptic.types import GROUPS, in_groups
from panbench.report.answers.answer import as_records
from panbench.report.answers.grid import Grid, percent
from panbench.report.answers.tables import headline, notes_below, sentences_above
from panbench.runs import Run
from panbench.scoring.semantic import NO_INSTANCES

Made = TypeVar("Made", bound=Accumulator[Any] | None)
Row = tuple[str, ...]


class Question:
    """A run, the options of `panbench metrics` or `errors`, and the sums over its images that answer them.

    One pass over the images computes all sums.
    """

    def __init__(
        self,
        run: Run,
        by: Sequence[str] = (),
        per_category: bool = False,
        slices: Sequence[ImageSlices] = (),
        reporter: Reporter = SILENT,
    ) -> None:
        """Takes a run and the requested tables of PQ: by size or the like, by category, by the user's image sets.

        by: keys of SLICINGS
        """
        self.run, self.by, self.per_category, self.slices, self.reporter = run, by, per_category, slices, reporter
        self._accumulators: dict[Callable[[Question], Accumulator[Any] | None], Accumulator[Any] | None] = {}

    def run_accumulators(self, measures: Iterable["Measure"]) -> None:
        """Reads the images once, and computes the sums (accumulators) that these measures need, shared ones once."""
        makers = dict.fromkeys(make for measure in measures for make in measure.accumulators)
        self._accumulators = {make: make(self) for make in makers}
        self.run.accumulate(*(accumulator for accumulator in self._accumulators.values() if accumulator is not None))

    def accumulated(self, make: "Callable[[Question], Made]") -> Made:
        """Returns an accumulator that holds its sums over all images of the run.

        make: the function that created it
        """
        return cast(Made, self._accumulators[make])

    @cached_property
    def pq(self) -> pd.DataFrame:
        """Returns the table of PQ, SQ, RQ, TP, FP and FN by category.

        Only for a measure with `category_sums` among its `accumulators`.
        """
        return self.accumulated(category_sums).table()

    @cached_property
    def semantic(self) -> SemanticScores:
        """Returns mIoU, pixel accuracy and related scores of the predicted map, its segments merged by category.

        Only for a measure with `pixels` among its `accumulators`.
        """
        return self.accumulated(pixels).scores()


@dataclass(frozen=True)
class Measured:
    """The result of one measure, such as boundary PQ: table lines, notes, further tables, and keys of the JSON.

    rows: lines of the table "Measure": a name, then All, Things and Stuff in percent, "" for an absent number
    notes: sentences below that table; grids: further tables; record: keys of the JSON, fractions 0–1
    """

    rows: tuple[Row, ...] = ()
    notes: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """A measure of a run: the sums over images (accumulators) that it needs, and the function that answers from them.

    found: computes the answer of a question whose accumulators hold all images
    accumulators: functions that make its accumulators, or None if the run or the question has no use for one;
        measures that name the same function share its accumulator
    """

    found: Callable[[Question], Measured]
    accumulators: tuple[Callable[[Question], Accumulator[Any] | None], ...] = ()


def measured(question: Question, measures: Sequence[Measure]) -> list[Measured]:
    """Computes measures of a run, such as boundary PQ and mIoU, in one pass over its images; returns their results."""
    question.run_accumulators(measures)
    return [measure.found(question) for measure in measures]


def category_sums(question: Question) -> CategorySums:
    """Returns an empty accumulator of TP, FP, FN and IoU by category, at each IoU threshold of a match, for PQ."""
    return CategorySums(question.run.categories, THRESHOLDS)


def boundary_sums(question: Question) -> CategorySums | None:
    """Returns an empty accumulator of the counts behind boundary PQ; None for a run that stored no boundaries."""
    return CategorySums(question.run.categories, boundary=True) if question.run.has_boundary else None


def pixels(question: Question) -> PixelAccumulator:
    """Returns an empty accumulator of pixel counts by true and predicted category, for mIoU and related scores."""
    return PixelAccumulator(question.run.categories)


def stuff_pixels(question: Question) -> DaggerAccumulator:
    """Returns an empty accumulator of the IoUs and pixel counts behind PQ† and weighted PQ."""
    return DaggerAccumulator(question.run.categories)


def _sample_accumulator(question: Question) -> SampleAccumulator:
    """Returns an empty accumulator of each image's contributions to PQ, for intervals."""
    return SampleAccumulator(question.run.categories, question.run.images)


def _deviation_accumulator(question: Question) -> DeviationAccumulator:
    """Returns an empty accumulator for variants of PQ, such as PQ that counts predictions on void as errors."""
    return DeviationAccumulator(question.run.categories)


def _slicing_accumulators(question: Question) -> SeveralAccumulators[SliceAccumulator]:
    """Returns empty accumulators for PQ by size, by number of segments and the like, one for each requested table."""
    return SeveralAccumulators([SliceAccumulator(question.run.categories, name) for name in question.by])


def _statistics_accumulator(question: Question) -> StatisticsAccumulator | None:
    """Returns an empty accumulator of each image's counts for PQ, or None if the user defined no subsets of images."""
    return StatisticsAccumulator(question.run.categories) if question.slices else None


def _report_summary(question: Question) -> Measured:
    """Returns PQ, SQ and RQ of all categories, things and stuff, for the output of `--json`."""
    return Measured(record={"summary": summarise(question.pq)})


def _report_boundary_pq(question: Question) -> Measured:
    """Reports boundary PQ in the table and the JSON; null there if the run stored no boundaries."""
    sums = question.accumulated(boundary_sums)
    if sums is None:
        return Measured(record={"boundary": None})
    found = summarise(sums.table())
    row = ("boundary PQ", *(percent(found[group]["PQ"]) for group in GROUPS))
    return Measured((row,), record={"boundary": found})


def _report_intervals(question: Question) -> Measured:
    """Reports PQ, SQ and RQ with their 95 % intervals, as a table and in the JSON."""
    sure = intervals(question.accumulated(_sample_accumulator).result())
    grid = _interval_grid(question.run, sure, summarise(question.pq))
    return Measured(grids=(grid,), record={"intervals": as_records(sure)})


def _report_pq_dagger(question: Question) -> Measured:
    """Reports PQ†, for which stuff needs no IoU above 0.5 to match, in the table and the JSON."""
    table = question.accumulated(stuff_pixels).dagger(question.pq)
    members = in_groups(table["isthing"].to_numpy(bool))
    found = {group: _mean_or_none(table[own]["PQ_dagger"]) for group, own in members.items()}
    row = ("PQ†, stuff without threshold", *(percent(found[group]) for group in GROUPS))
    return Measured((row,), record={"PQ_dagger": found})


def _report_weighted_pq(question: Question) -> Measured:
    """Reports PQ weighted by the categories' pixels, and by their segments, in the table and the JSON."""
    accumulator = question.accumulated(stuff_pixels)
    found = {name: accumulator.weighted(question.pq, name) for name in ("pixels", "segments")}
    rows = tuple((f"PQ weighted by {name}", percent(value), "", "") for name, value in found.items())
    return Measured(rows, record={"weighted_PQ": found})


def _report_semantic(question: Question) -> Measured:
    """Reports mIoU, pixel accuracy and related scores of the predicted map in the table and the JSON."""
    return _report_semantic_scores(question.semantic)


def semantic_answer(run: Run) -> Measured:
    """Returns mIoU and related scores of a run of semantic maps, with a note that such a run has no PQ."""
    accumulator = PixelAccumulator(run.categories)
    run.accumulate(accumulator)
    found = _report_semantic_scores(accumulator.scores())
    grid = Grid(("Measure", *GROUPS), found.rows, notes=(NO_INSTANCES,))
    return Measured(grids=(grid,), record={**found.record, "note": NO_INSTANCES})


def _report_semantic_scores(found: SemanticScores) -> Measured:
    """Reports given semantic scores (mIoU, pixel accuracy, …) as lines of the table and keys of the JSON."""
    rows = (
        ("mIoU", percent(found.mIoU), percent(found.mIoU_th), percent(found.mIoU_st)),
        ("frequency-weighted IoU", percent(found.fwIoU), "", ""),
        ("pixel accuracy", percent(found.pixel_accuracy), "", ""),
        ("mean accuracy", percent(found.mean_accuracy), "", ""),
        ("mean Dice", percent(found.mean_dice), "", ""),
    )
    names = ("mIoU", "mIoU_th", "mIoU_st", "fwIoU", "pixel_accuracy", "mean_accuracy", "mean_dice")
    return Measured(rows, record={"semantic": {name: getattr(found, name) for name in names}})


def _report_deviations(question: Question) -> Measured:
    """Reports the scores that conventions other than PQ's would give, as a table and in the JSON."""
    found = question.accumulated(_deviation_accumulator).record()
    if not question.run.info.dataset.has_ground_truth:
        # If nothing is labelled, "void counts as wrong" would score predictions that nobody can judge.
        found = {name: dict.fromkeys(groups) for name, groups in found.items()}
    grid = Grid(
        ("Not PQ: other conventions", *GROUPS),
        tuple((one.label, *(percent(found[one.name][group]) for group in GROUPS)) for one in DEVIATIONS),
    )
    record = {one.name: {**found[one.name], "description": one.description} for one in DEVIATIONS}
    return Measured(grids=(grid,), record={"deviations": record})


def _report_thresholds(question: Question) -> Measured:
    """Reports PQ, SQ and RQ by the IoU that a match needs, as a table and in the JSON."""
    curve = curve_of(question.accumulated(category_sums))
    return Measured(grids=(_curve_grid(curve),), record={"thresholds": as_records(curve)})


def _report_slices(question: Question) -> Measured:
    """Reports PQ by slice (a part of the data, such as small segments), a table for each requested way to slice."""
    accumulators = question.accumulated(_slicing_accumulators).accumulators
    tables = {name: accumulator.table() for name, accumulator in zip(question.by, accumulators, strict=True)}
    return Measured(
        grids=tuple(_slice_grid(SLICINGS[name].title, table) for name, table in tables.items()),
        record={"by": {name: as_records(table) for name, table in tables.items()}},
    )


def _report_user_slices(question: Question) -> Measured:
    """Reports PQ by the user's slices (subsets of images, such as night), a table for each grouping in their file."""
    statistics = question.accumulated(_statistics_accumulator)
    tables = {}
    if statistics is not None:
        tables = {chosen.name: pq_by(slice_by_images(statistics.result(), chosen)) for chosen in question.slices}
    return Measured(
        grids=tuple(_slice_grid(name, table) for name, table in tables.items()),
        record={"slices": {name: as_records(table) for name, table in tables.items()}},
    )


def _report_per_category(question: Question) -> Measured:
    """Reports PQ, PQ† and IoU of each category in the JSON, and as a table if one was requested."""
    dagger = question.accumulated(stuff_pixels).dagger(question.pq)
    merged = question.pq.merge(dagger[["category_id", "PQ_dagger"]], on="category_id").merge(
        question.semantic.per_category.drop(columns=["name", "isthing"]), on="category_id"
    )
    # panopticapi's 0 of a category that is neither in the ground truth nor predicted is no score.
    occurs = merged[["TP", "FP", "FN"]].sum(axis=1) > 0
    merged = merged.assign(**merged[["PQ", "SQ", "RQ"]].where(occurs))
    grids = (_category_grid(merged),) if question.per_category else ()
    return Measured(grids=grids, record={"per_category": as_records(merged)})


MEASURES = (
    Measure(_report_summary, (category_sums,)),
    Measure(_report_boundary_pq, (boundary_sums,)),
    Measure(_report_intervals, (category_sums, _sample_accumulator)),
    Measure(_report_pq_dagger, (category_sums, stuff_pixels)),
    Measure(_report_weighted_pq, (category_sums, stuff_pixels)),
    Measure(_report_semantic, (pixels,)),
)
"""The core's measures listed before those of studies: PQ and the measures of the fused map, one line each."""

AFTER_STUDIES = (
    Measure(_report_deviations, (_deviation_accumulator,)),
    Measure(_report_thresholds, (category_sums,)),
    Measure(_report_slices, (_slicing_accumulators,)),
    Measure(_report_user_slices, (_statistics_accumulator,)),
    Measure(_report_per_category, (category_sums, stuff_pixels, pixels)),
)
"""The core's measures listed after those of studies: other conventions, and PQ by threshold, slice and category."""


def _interval_grid(run: Run, sure: pd.DataFrame, summary: Mapping[str, Mapping[str, Any]]) -> Grid:
    """Returns the table of PQ, SQ and RQ with intervals, for all, things and stuff."""
    rows = []
    for group in GROUPS:
        of_group = sure[sure["group"] == group].set_index("metric")
        cells = []
        for metric in ("PQ", "SQ", "RQ"):
            found = of_group.loc[metric]
            known = not (pd.isna(found["low"]) or pd.isna(found["high"]))
            interval = f" [{percent(found['low'], 1)}, {percent(found['high'], 1)}]" if known else ""
            cells.append(percent(found["value"]) + interval)
        rows.append((group, *cells, str(summary[group]["n"])))
    notes = (
        "In brackets: 95 % intervals. n: categories.",
        *interval_notes(len(run.images), ("PQ", "SQ", "RQ")),
        *_sq_note(sure),
        *notes_below(run),
    )
    return Grid(("", "PQ", "SQ", "RQ", "n"), tuple(rows), title=headline(run), lead=sentences_above(run), notes=notes)


def _sq_note(sure: pd.DataFrame) -> tuple[str, ...]:
    """Explains why an SQ lies outside its own interval, if one does."""
    sq = sure[(sure["metric"] == "SQ") & sure["group"].notna()]
    if not ((sq["value"] < sq["low"]) | (sq["value"] > sq["high"])).any():
        return ()
    return (
        "SQ counts a category without a match as 0; its interval allows for the matches that more images would show, "
        "so it can lie above the value.",
    )


def _curve_grid(curve: pd.DataFrame) -> Grid:
    """Returns the table of PQ, SQ and RQ by IoU threshold."""
    of_all = curve[curve["group"] == "All"]
    thresholds = tuple(f"{threshold:.2f}" for threshold in of_all["threshold"])
    rows = tuple((name, *(percent(value, 1) for value in of_all[name])) for name in ("PQ", "SQ", "RQ"))
    return Grid(("IoU >", *thresholds), rows)


def _slice_grid(title: str, table: pd.DataFrame) -> Grid:
    """Returns the table of scores by slice; slices without any category are left out."""
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
    """Returns the table of scores by category, the highest PQ first."""
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


def _mean_or_none(values: pd.Series) -> float | None:
    """Returns the mean of the values that are not NaN; None if there are none."""
    mean = values.mean()
    return None if pd.isna(mean) else float(mean)
