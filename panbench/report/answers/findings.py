"""What one stored run tells: `panbench metrics` (how good, by every measure) and `panbench errors` (why not better)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import capitalised
from panbench.metrics.deviations import DEVIATIONS, DeviationFold
from panbench.metrics.errors import CAUSES, ErrorFold
from panbench.metrics.image_slices import ImageSlices, slice_by_images
from panbench.metrics.matched import Fold, Narrowed
from panbench.metrics.pq import CategorySums, summarise
from panbench.metrics.semantic import PixelFold
from panbench.metrics.slices import SLICINGS, THRESHOLDS, DaggerFold, SliceFold, StatisticsFold, curve_of, pq_by
from panbench.metrics.uncertainty import SampleFold, intervals
from panbench.report.answers.grid import ABSENT, Grid, percent
from panbench.report.answers.tables import comparison_row
from panbench.runs import Run
from panbench.studies.fusing.answer import oracle_grid, oracle_record, read_oracle
from panbench.studies.unfused.answer import map_ap, missing_note, unfused_grid, unfused_scores

__all__ = ["Findings", "error_findings", "metric_findings"]

GROUPS = ("All", "Things", "Stuff")


@dataclass(frozen=True)
class Findings:
    """Tables for people (`grids`, percent), and for programs `record` (fractions, None for what is absent)."""

    grids: tuple[Grid, ...]
    record: Mapping[str, Any]

    def json(self) -> str:
        """`record` as JSON."""
        return json.dumps(self.record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def metric_findings(
    run: Run,
    *,
    by: Sequence[str] = ("size", "segments", "supercategory"),
    per_category: bool = False,
    slices: Sequence[ImageSlices] = (),
    reporter: Reporter = SILENT,
) -> Findings:
    """Every measure of a run: PQ with intervals, PQ†, weighted PQ, thresholds, slices, and mIoU and its kin.

    by: keys of SLICINGS; per_category: also a table with a line a category (the record always has it)
    slices: sets of images, for a table of PQ by slice each; reporter: hears of reading and of resampling
    Raises BadRun for a run without images, BadArgument for an unknown slicing.
    """
    unknown = [name for name in by if name not in SLICINGS]
    if unknown:
        raise BadArgument(f"There is no slicing {unknown[0]!r}. Choose from {', '.join(SLICINGS)}.")
    run.reporter = reporter
    _check_images(run)
    categories = run.categories
    sums, near = CategorySums(categories, THRESHOLDS), CategorySums(categories, boundary=True)
    stuff, pixels, whole = DaggerFold(categories), PixelFold(categories), SampleFold(categories, run.images)
    parts, statistics = [SliceFold(categories, name) for name in by], StatisticsFold(categories)
    deviations = DeviationFold(categories)
    folds: list[Fold[Any]] = [deviations, sums, stuff, pixels, whole, *parts]
    run.fold(*folds, *([near] if run.has_boundary else []), *([statistics] if slices else []))
    sure = intervals(whole.result(), reporter=reporter)
    pq = sums.table()
    summary = summarise(pq)
    dagger, semantic, curve = stuff.dagger(pq), pixels.scores(), curve_of(sums)
    sliced = {name: one.table() for name, one in zip(by, parts, strict=True)}
    own = {chosen.name: pq_by(slice_by_images(statistics.result(), chosen)) for chosen in slices}
    weighted = {"pixels": stuff.weighted(pq, "pixels"), "segments": stuff.weighted(pq, "segments")}
    daggers = {group: _mean(dagger[_in_group(dagger, group)]["PQ_dagger"]) for group in GROUPS}

    boundary = summarise(near.table()) if run.has_boundary else None

    before = unfused_scores(run)
    has_rows = before.has_ap or before.has_miou

    rows = [
        *([] if boundary is None else [("boundary PQ", *(percent(boundary[group]["PQ"]) for group in GROUPS))]),
        ("PQ†, stuff without threshold", *(percent(daggers[group]) for group in GROUPS)),
        ("PQ weighted by pixels", percent(weighted["pixels"]), "", ""),
        ("PQ weighted by segments", percent(weighted["segments"]), "", ""),
        ("mIoU", percent(semantic.mIoU), percent(semantic.mIoU_th), percent(semantic.mIoU_st)),
        ("frequency-weighted IoU", percent(semantic.fwIoU), "", ""),
        ("pixel accuracy", percent(semantic.pixel_accuracy), "", ""),
        ("mean accuracy", percent(semantic.mean_accuracy), "", ""),
        ("mean Dice", percent(semantic.mean_dice), "", ""),
    ]
    missing = missing_note(run)
    others = deviations.record()
    if not run.info.dataset.has_ground_truth:
        # Where nothing is labelled, "void counts as wrong" would make a number of predictions that nobody can judge.
        others = {name: dict.fromkeys(groups) for name, groups in others.items()}
    merged = pq.merge(dagger[["category_id", "PQ_dagger"]], on="category_id").merge(
        semantic.per_category.drop(columns=["name", "isthing"]), on="category_id"
    )
    # panopticapi's 0 of a category that is neither in the ground truth nor predicted is no score.
    occurs = merged[["TP", "FP", "FN"]].sum(axis=1) > 0
    merged = merged.assign(**merged[["PQ", "SQ", "RQ"]].where(occurs))
    grids = [
        _interval_grid(run, sure, summary),
        Grid(("Measure", *GROUPS), tuple(rows), notes=() if has_rows or missing is None else (missing,)),
        *([unfused_grid(before, semantic.mIoU)] if has_rows else []),
        Grid(
            ("Not PQ: other conventions", *GROUPS),
            tuple((one.label, *(percent(others[one.name][group]) for group in GROUPS)) for one in DEVIATIONS),
        ),
        _curve_grid(curve),
        *(_slice_grid(SLICINGS[name].title, table) for name, table in sliced.items()),
        *(_slice_grid(name, table) for name, table in own.items()),
        *([_category_grid(merged)] if per_category else []),
    ]
    record = {
        **_identity(run),
        "summary": summary,
        "boundary": boundary,
        "intervals": _records(sure),
        "PQ_dagger": daggers,
        "weighted_PQ": weighted,
        "semantic": {
            name: getattr(semantic, name)
            for name in ("mIoU", "mIoU_th", "mIoU_st", "fwIoU", "pixel_accuracy", "mean_accuracy", "mean_dice")
        },
        **before.record(),
        "AP_map": map_ap(run),
        "deviations": {one.name: {**others[one.name], "description": one.description} for one in DEVIATIONS},
        "thresholds": _records(curve),
        "by": {name: _records(table) for name, table in sliced.items()},
        "slices": {name: _records(table) for name, table in own.items()},
        "per_category": _records(merged),
    }
    return Findings(tuple(grids), record)


def error_findings(
    run: Run,
    *,
    images: int = 5,
    per_category: bool = False,
    slices: Sequence[ImageSlices] = (),
    reporter: Reporter = SILENT,
) -> Findings:
    """Where the PQ of a run is lost: what each cause costs, what it means, and the images where it costs most.

    images: how many of the worst images to name for each cause
    per_category: also the costliest causes of each category (the record always has all)
    slices: sets of images, for a table of what each cause costs in each slice; reporter: hears of reading
    Raises BadRun for a run without images.
    """
    run.reporter = reporter
    _check_images(run)
    errors = ErrorFold(run.categories)
    own = {chosen.name: {name: ErrorFold(run.categories) for name in chosen.images} for chosen in slices}
    narrowed = [
        Narrowed(own[chosen.name][name], members) for chosen in slices for name, members in chosen.images.items()
    ]
    run.fold(errors, *narrowed)
    lost, worst = errors.lost(), errors.worst(images)
    groups = lost[lost["group"].notna()].set_index(["cause", "group"])

    def cell(cause: str, group: str, column: str) -> float | None:
        return float(groups.loc[(cause, group), column]) if (cause, group) in groups.index else None

    names = [cause.name for cause in CAUSES]
    gains = tuple(
        (
            name,
            *(percent(cell(name, group, "gain")) for group in GROUPS),
            percent(cell(name, "All", "lost")),
            *(str(int(cell(name, "All", column) or 0)) for column in ("FP", "FN", "TP")),
        )
        for name in names
    )
    places = {
        name: ", ".join(str(image) for image in worst[worst["cause"] == name]["image_id"]) or ABSENT for name in names
    }
    total = lost[lost["group"] == "All"]
    pq = float(total["PQ"].iloc[0]) if len(total) else None
    grids = [
        Grid(
            ("Cause", *GROUPS, "part of loss", "FP", "FN", "TP"),
            gains,
            title=f"{_headline(run)}: PQ {percent(pq)}",
            notes=(
                *map(capitalised, comparison_row(run).notes),
                "All, Things, Stuff: PQ gained if this cause alone were fixed. Part of loss: these add up to the "
                f"{percent(None if pq is None else 1 - pq)} that PQ lacks of 100. TP: found, but not with the exact "
                "mask.",
            ),
        ),
        Grid(("Cause", "What it means"), tuple((cause.name, cause.description) for cause in CAUSES), words=2),
        Grid(("Cause", "Images where it costs most"), tuple(places.items()), words=2),
    ]
    if per_category:
        grids.append(_costliest_grid(lost))
    oracle = read_oracle(run)
    if oracle is not None:
        grids.append(oracle_grid(oracle))
    of_slices = {name: {part: one.lost() for part, one in parts.items()} for name, parts in own.items()}
    grids.extend(_lost_grid(name, tables) for name, tables in of_slices.items())
    record = {
        **_identity(run),
        "oracle": None if oracle is None else oracle_record(oracle),
        "causes": [{"name": cause.name, "description": cause.description, "fix": cause.fix} for cause in CAUSES],
        "lost": _records(lost[lost["group"].notna()].drop(columns=["category_id", "name"])),
        "per_category": _records(lost[lost["group"].isna()].drop(columns=["group"])),
        "worst_images": _records(worst),
        "slices": {
            name: {
                part: _records(table[table["group"].notna()].drop(columns=["category_id", "name"]))
                for part, table in tables.items()
            }
            for name, tables in of_slices.items()
        },
    }
    return Findings(tuple(grids), record)


def _lost_grid(name: str, tables: Mapping[str, pd.DataFrame]) -> Grid:
    """What fixing each cause alone would gain in each slice, of all categories, and the slice's PQ."""
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


def _check_images(run: Run) -> None:
    if not len(run.images):
        raise BadRun(f"{run.name} holds no scored image, so there is nothing to measure.")


def _identity(run: Run) -> dict[str, Any]:
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


def _headline(run: Run) -> str:
    row = comparison_row(run)
    where = " ".join(part for part in (row.dataset, row.split) if part)
    return f"{row.title}{' on ' + where if where else ''}, {row.images:,} images"


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
        "In brackets: 95 % intervals, from resamples of the images. n: categories.",
        *map(capitalised, comparison_row(run).notes),
    )
    return Grid(("", "PQ", "SQ", "RQ", "n"), tuple(rows), title=_headline(run), notes=notes)


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


def _costliest_grid(lost: pd.DataFrame) -> Grid:
    """For each category, worst first, its PQ and the three causes that take most of it."""
    own = lost[lost["group"].isna()]
    rows = []
    for (_, name), table in sorted(own.groupby(["category_id", "name"]), key=lambda pair: pair[1]["PQ"].iloc[0]):
        top = table.sort_values("lost", ascending=False, kind="stable").head(3)
        causes = [f"{row.cause} {percent(row.lost)}" for row in top.itertuples() if row.lost > 0]
        rows.append((str(name), ", ".join(causes) or ABSENT, percent(float(table["PQ"].iloc[0]))))
    return Grid(("Category", "What its PQ is lost to", "PQ"), tuple(rows), words=2)


def _in_group(table: pd.DataFrame, group: str) -> Any:
    isthing = table["isthing"].to_numpy(bool)
    return np.ones(len(table), bool) if group == "All" else isthing if group == "Things" else ~isthing


def _mean(values: pd.Series) -> float | None:
    mean = values.mean()
    return None if pd.isna(mean) else float(mean)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(table.to_json(orient="records", double_precision=15))
