"""Answers about one stored run: `panbench metrics` (every measure) and `panbench errors` (why PQ is lost)."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from panbench.base.errors import BadArgument
from panbench.base.reporter import SILENT, Reporter
from panbench.base.studies import load_from_studies
from panbench.metrics.errors import CAUSES, ErrorAccumulator
from panbench.metrics.fixes import FixAccumulator
from panbench.metrics.matched import AccumulatorOfImages
from panbench.metrics.pq import ImageAccumulator
from panbench.metrics.slices import SLICINGS, ImageSlices
from panbench.panoptic.image_ids import own_id, with_own_ids
from panbench.panoptic.types import GROUPS
from panbench.report.answers.fixes import fix_first_grid, fix_first_json
from panbench.report.answers.grid import ABSENT, Grid, adding_up, percent
from panbench.report.answers.measures import AFTER_STUDIES, MEASURES, Question, as_records, measured
from panbench.report.answers.remaking import predictions_are_pending
from panbench.report.answers.tables import comparison_row, headline, notes_below, sentences_above
from panbench.report.answers.totals import totals_of
from panbench.runs import Run, predictions_paths


@dataclass(frozen=True)
class Findings:
    """What `panbench metrics` and `errors` answer: tables in percent, and a record for JSON with fractions."""

    grids: tuple[Grid, ...]
    record: Mapping[str, Any]


def metric_findings(
    run: Run,
    *,
    by: Sequence[str] = ("size", "segments", "supercategory"),
    per_category: bool = False,
    per_image: bool = False,
    slices: Sequence[ImageSlices] = (),
    reporter: Reporter = SILENT,
) -> Findings:
    """Computes every measure of a run: PQ with intervals, PQ†, weighted PQ, thresholds, slices, and the mIoU family.

    by: keys of SLICINGS; per_category: also a table with one line per category (the record always has it)
    per_image: also a table with one line per image, the worst first, with the slices that the image belongs to
    slices: sets of images, for a table of PQ by slice each; reporter: gets the progress of reading and testing
    Raises BadRun for a run without images, BadArgument for an unknown slicing.
    """
    unknown = [name for name in by if name not in SLICINGS]
    if unknown:
        raise BadArgument(f"There is no slicing {unknown[0]!r}. Choose from {', '.join(SLICINGS)}.")
    run.reporter = reporter
    run.require_images("measure")
    measures = (*MEASURES, *load_from_studies("measures", "metrics").values(), *AFTER_STUDIES)
    found = measured(Question(run, by, per_category, slices, reporter), measures)
    lines = Grid(
        ("Measure", *GROUPS),
        tuple(row for one in found for row in one.rows),
        notes=tuple(note for one in found for note in one.notes),
    )
    first, *others = (grid for one in found for grid in one.grids)
    record = _run_fields_of_answer(run)
    for one in found:
        record.update(one.record)
    if per_image:
        table = image_table(run, slices)
        record["images"] = as_records(table)
        others.append(_image_grid(table))
    return Findings((first, lines, *others), record)


def image_table(run: Run, slices: Sequence[ImageSlices] = ()) -> pd.DataFrame:
    """Returns a row for each image, the worst first: image_id, PQ, iou_sum, TP, FP, FN, and its slices."""
    accumulator = ImageAccumulator()
    run.accumulate(accumulator)
    table = accumulator.table().sort_values("PQ", kind="stable", ignore_index=True)
    for own in slices:
        table[own.name] = [
            ", ".join(name for name, images in own.images.items() if image in images) for image in table["image_id"]
        ]
    return with_own_ids(table)


def _image_grid(table: pd.DataFrame) -> Grid:
    """Returns the rows of `image_table` as a table for people, PQ in percent."""
    image_id, PQ, iou_sum, *counts = (table[name] for name in ("image_id", "PQ", "iou_sum", "TP", "FP", "FN"))
    own = [name for name in table if name not in ("image_id", "PQ", "iou_sum", "TP", "FP", "FN")]
    columns = [
        image_id.map(str),
        *(table[name].map(lambda slices: slices or ABSENT) for name in own),
        PQ.map(percent),
        iou_sum.map("{:.2f}".format),
        *(count.map(str) for count in counts),
    ]
    rows = tuple(zip(*columns, strict=True))
    return Grid(("Image", *own, "PQ", "IoU sum", "TP", "FP", "FN"), rows, words=1 + len(own))


_MEANING = {cause.name: cause.description for cause in CAUSES}


def _cause_notes(lacking: float, unused: Sequence[str]) -> list[str]:
    """Explains the columns of the table of causes, and names the causes without an error."""
    return [
        "All, Things, Stuff: PQ gained if only this cause were fixed. Part of loss: these add up to the "
        f"{lacking:.2f} that PQ lacks of 100. TP: found, but not with the exact mask.",
        *([f"No errors of these causes: {', '.join(unused)}."] if unused else []),
    ]


def _note_on_pictures(run: Run, worst: pd.DataFrame) -> tuple[str, ...]:
    """Returns a note with the command that displays the costliest errors; empty if no error was found."""
    if not len(worst) or not run.path:
        return ()
    if predictions_paths(run) is None and predictions_are_pending(run):
        return ("Pictures need predictions, and this run is not complete. `panbench eval … --resume` completes it.",)
    if predictions_paths(run) is None:
        how = "`panbench score` of their files" if run.info.kind == "score" else "`panbench eval … --save-predictions`"
        return (f"Pictures need predictions, and this run stored none. {how} does.",)
    dataset = run.info.dataset
    moved = (" --images DIR" if dataset.images is None else "") + (" --gt FILE.json" if dataset.gt is None else "")
    return (f"To see the costliest: `panbench show errors {shlex.quote(str(run.path))}{moved}`",)


def error_findings(
    run: Run,
    *,
    images: int = 5,
    per_category: bool = False,
    slices: Sequence[ImageSlices] = (),
    reporter: Reporter = SILENT,
) -> Findings:
    """Finds where a run loses PQ: the cost of each cause, what to fix first, and the images where each costs most.

    images: how many of the worst images to list for each cause
    per_category: also the costliest causes of each category (the record always has all)
    slices: sets of images, for a table of the cost of each cause in each slice; reporter: gets the progress of reading
    Raises BadRun for a run without images.
    """
    run.reporter = reporter
    run.require_images("measure")
    fixes = FixAccumulator(run.categories, run.images)
    own = {chosen.name: {name: ErrorAccumulator(run.categories) for name in chosen.images} for chosen in slices}
    narrowed = [
        AccumulatorOfImages(own[chosen.name][name], members)
        for chosen in slices
        for name, members in chosen.images.items()
    ]
    run.accumulate(fixes, *narrowed)
    lost, worst, cells = fixes.explained.lost(), fixes.explained.worst(images), fixes.cells()
    # Without predictions there is nothing to choose what to fix first from: every segment is missed.
    chosen = run.in_chunks or totals_of(run).absent.has_predictions
    cells = cells if chosen else cells.head(0)
    groups = lost[lost["group"].notna()].set_index(["cause", "group"])

    def cause_value(cause: str, group: str, column: str) -> float | None:
        """Returns a cause's lost PQ, gain or number of errors (the column) on All, Things or Stuff; None if absent."""
        return float(groups.loc[(cause, group), column]) if (cause, group) in groups.index else None

    # The costliest first; a cause can cost PQ without an error of its own.
    names = sorted(
        (one.name for one in CAUSES if any(cause_value(one.name, "All", key) for key in ("lost", "FP", "FN", "TP"))),
        key=lambda name: -(cause_value(name, "All", "lost") or 0.0),
    )
    total = lost[lost["group"] == "All"]
    pq = float(total["PQ"].iloc[0]) if len(total) else None
    lacking = 0.0 if pq is None else 100 - float(percent(pq))
    parts = dict(zip(names, adding_up([cause_value(name, "All", "lost") for name in names], lacking, 2), strict=True))
    unused = [cause.name for cause in CAUSES if cause.name not in names]
    gains = tuple(
        (
            name,
            *(percent(cause_value(name, group, "gain")) for group in GROUPS),
            parts[name],
            *(str(int(cause_value(name, "All", column) or 0)) for column in ("FP", "FN", "TP")),
        )
        for name in names
    )
    indices = {
        name: ", ".join(str(own_id(image)) for image in worst[worst["cause"] == name]["image_id"]) or ABSENT
        for name in names
    }
    grids = [
        Grid(
            ("Cause", *GROUPS, "part of loss", "FP", "FN", "TP"),
            gains,
            title=f"{headline(run)}: PQ {percent(pq)}",
            lead=sentences_above(run),
            notes=(*notes_below(run), *(_cause_notes(lacking, unused) if pq is not None else ())),
        ),
        *([fix_first_grid(cells, run.categories)] if chosen else []),
        Grid(("Cause", "What it means"), tuple((name, _MEANING[name]) for name in names), words=2),
        Grid(
            ("Cause", "Images where it costs most"),
            tuple(indices.items()),
            words=2,
            notes=_note_on_pictures(run, worst),
        ),
    ]
    if per_category:
        grids.append(_costliest_grid(lost))
    further = measured(
        Question(run, (), per_category, slices, reporter), tuple(load_from_studies("measures", "errors").values())
    )
    grids.extend(grid for one in further for grid in one.grids)
    of_slices = {name: {part: one.lost() for part, one in parts.items()} for name, parts in own.items()}
    grids.extend(_gains_by_slice(name, tables) for name, tables in of_slices.items())
    record = {
        **_run_fields_of_answer(run),
        **{key: value for one in further for key, value in one.record.items()},
        "causes": [{"name": cause.name, "description": cause.description, "fix": cause.fix} for cause in CAUSES],
        "lost": as_records(lost[lost["group"].notna()].drop(columns=["category_id", "name"])),
        "per_category": as_records(lost[lost["group"].isna()].drop(columns=["group"])),
        "worst_images": as_records(worst),
        "fix_first": fix_first_json(cells, run.categories),
        "slices": {
            name: {
                part: as_records(table[table["group"].notna()].drop(columns=["category_id", "name"]))
                for part, table in tables.items()
            }
            for name, tables in of_slices.items()
        },
    }
    return Findings(tuple(grids), record)


def _gains_by_slice(name: str, tables: Mapping[str, pd.DataFrame]) -> Grid:
    """Returns a table of the PQ that fixing each error cause alone would gain, with a column for each slice."""
    of_all = {part: table[table["group"] == "All"].set_index("cause") for part, table in tables.items()}
    heads = [
        f"{part} (PQ {percent(float(table['PQ'].iloc[0]) if len(table) else None, 1)})"
        for part, table in of_all.items()
    ]
    rows = tuple(
        (
            cause.name,
            *(
                percent(float(table.loc[cause.name, "gain"]) if cause.name in table.index else None)
                for table in of_all.values()
            ),
        )
        for cause in CAUSES
    )
    return Grid(("Cause", *heads), rows, title=f"PQ gained if a cause alone were fixed, by {name}")


def _run_fields_of_answer(run: Run) -> dict[str, Any]:
    """Returns the keys of a record that say which run it is of: name, model, data, damage, notes."""
    row = comparison_row(run)
    return {
        "run": row.run,
        "model": row.model,
        "dataset": row.dataset,
        "images": row.images,
        "complete": row.complete,
        "damage": list(run.faults),
        "notes": list(row.notes),
    }


def _costliest_grid(lost: pd.DataFrame) -> Grid:
    """Returns a table of categories, worst first: PQ, and the three causes that cost most of it."""
    own = lost[lost["group"].isna()]
    rows = []
    for (_, name), table in sorted(own.groupby(["category_id", "name"]), key=lambda pair: pair[1]["PQ"].iloc[0]):
        top = table.sort_values("lost", ascending=False, kind="stable").head(3)
        causes = [f"{row.cause} {percent(row.lost)}" for row in top.itertuples() if row.lost > 0]
        rows.append((str(name), ", ".join(causes) or ABSENT, percent(float(table["PQ"].iloc[0]))))
    return Grid(("Category", "Why its PQ is lost", "PQ"), tuple(rows), words=2)
