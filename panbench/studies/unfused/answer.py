"""AP_pan, box AP_pan and mIoU_pan of stored runs, measured before fusion, for `metrics` and `compare`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument, BadRun
from panbench.base.text import in_sentence
from panbench.metrics.jackknife import Jackknife
from panbench.metrics.samples import FEWEST_IMAGES
from panbench.panoptic.types import Category
from panbench.report.answers.comparison import Standing
from panbench.report.answers.grid import Grid, interval_text, percent, signed
from panbench.report.answers.measures import Measure, Measured, Question, pixels
from panbench.report.answers.tables import labels, shared_images
from panbench.runs import Run
from panbench.runs.comparable import why_incomparable
from panbench.studies.unfused.boxes import source_in_words
from panbench.studies.unfused.instance_ap import InstanceAP, instance_ap
from panbench.studies.unfused.map_ap import instances_of_map
from panbench.studies.unfused.metric import (
    AP_NAMES,
    BOX_AP_NAMES,
    MIOU_NAME,
    UnfusedTable,
    jackknifed_unfused,
    thing_ids,
)
from panbench.studies.unfused.rows import read_unfused

METRICS_EXPLAINED = (
    "AP_pan is of the instances before fusion, which may overlap, by their masks, box AP_pan by their boxes; mIoU_pan "
    "of the semantic sum of the queries, class × mask, before fusion; mIoU of the fused map, in which each pixel has "
    "one segment."
)

COMMAND = "`panbench eval --metrics pq,ap,miou`"
TABLE_NAMES = {"AP": "AP_pan", "AP_box": "box AP_pan"}
"""The names of metrics in tables where they differ from those of the record."""


@dataclass(frozen=True)
class UnfusedScores:
    """AP_pan, box AP_pan and mIoU_pan of a run with intervals, by name; None for missing numbers.

    has_ap, has_miou: whether the run has the rows; truth: the ground truth of AP, in words
    boxes: the source of the detections' boxes, in words
    """

    values: dict[str, float | None]
    low: dict[str, float | None]
    high: dict[str, float | None]
    has_ap: bool
    has_miou: bool
    truth: str
    boxes: str | None = None

    def record(self) -> dict[str, Any]:
        """Returns the metrics for `metrics --json`: fractions, None where pycocotools has -1 or the run has no rows."""
        return {
            "AP_pan": {name: self.values[name] for name in AP_NAMES} if self.has_ap else None,
            "AP_box_pan": {name: self.values[f"{name}_box"] for name in AP_NAMES} if self.has_ap else None,
            "AP_box_pan_of": self.boxes,
            "AP_pan_gt": self.truth if self.has_ap else None,
            "mIoU_pan": self.values[MIOU_NAME] if self.has_miou else None,
            "before_fusion_intervals": {
                name: [self.low[name], self.high[name]] for name in self.values if self.values[name] is not None
            },
        }


def unfused_scores(run: Run) -> UnfusedScores:
    """Computes AP_pan and mIoU_pan of a run with intervals. Raises BadRun for damaged or incomplete rows."""
    table = unfused_rows_of(run)
    values: dict[str, float | None] = dict.fromkeys((*AP_NAMES, *BOX_AP_NAMES, MIOU_NAME))
    low, high = dict(values), dict(values)
    if table is None:
        return UnfusedScores(values, low, high, False, False, ap_truth(run))
    measured = measured_before_fusion(table, run.categories)
    values |= measured
    images = np.sort(table.image_id)
    if len(images) >= FEWEST_IMAGES:
        for name, jackknife in jackknifed_unfused(table, images, run.categories).items():
            low[name], high[name] = _interval_ends(jackknife.estimate().interval(0.95))
    return UnfusedScores(values, low, high, "AP" in measured, MIOU_NAME in measured, ap_truth(run), _box_source(table))


def measured_before_fusion(table: UnfusedTable, categories: Sequence[Category]) -> dict[str, float | None]:
    """Computes AP_pan, box AP_pan and mIoU_pan, by name, from a run's pixel counts, as far as it has them.

    Names: AP … APl, AP_box … APl_box, and mIoU_pan.
    """
    found: dict[str, float | None] = {}
    if (masks := table.average_precision(categories)) is not None:
        found |= masks.as_record()
    if (boxes := table.box_precision(categories)) is not None:
        found |= dict(zip(BOX_AP_NAMES, boxes.as_record().values(), strict=True))
    if table.pixels is not None:
        found[MIOU_NAME] = table.semantic_iou(categories)
    return found


def ap_truth(run: Run) -> str:
    """Names the ground truth that the AP of a run is measured against."""
    name = run.info.arguments.get("ap_gt")
    if isinstance(name, str):
        return f"the instances of {name}"
    panoptic = (run.info.dataset.gt or "the panoptic ground truth").replace("\\", "/").rpartition("/")[2]
    return f"the thing segments of {panoptic}"


def unfused_grid(scores: UnfusedScores, miou: float | None) -> Grid:
    """Tabulates the metrics before fusion for `panbench metrics`.

    miou: that of the fused map, printed below mIoU_pan
    """

    def value_and_interval(name: str) -> tuple[str, str]:
        """Returns the value and the interval of a metric as text."""
        return percent(scores.values[name]), interval_text(scores.low[name], scores.high[name])

    rows: list[tuple[str, ...]] = []
    if scores.has_ap:
        for name in AP_NAMES:
            rows.append(
                (
                    "AP_pan" if name == "AP" else f"AP_pan, {name}",
                    *value_and_interval(name),
                    *value_and_interval(f"{name}_box"),
                )
            )
    if scores.has_miou:
        rows.append((MIOU_NAME, *value_and_interval(MIOU_NAME), "", ""))
    rows.append(("mIoU of the fused map", percent(miou), "", "", ""))
    notes = [METRICS_EXPLAINED, "Intervals: jackknife over images."]
    if scores.has_ap:
        notes = [f"AP_pan against {scores.truth}.", f"Box AP_pan: {scores.boxes}.", *notes]
    columns = ("Before fusion", "", "95 % interval", "of boxes", "95 % interval")
    # Without AP there is nothing of boxes.
    used = len(columns) if scores.has_ap else 3
    return Grid(columns[:used], tuple(row[:used] for row in rows), notes=tuple(notes))


def map_ap(run: Run) -> dict[str, float | None] | None:
    """Computes AP, AP50 and so on of the thing segments in a run's fused maps; None if they have no scores.

    Also None for a run that is read in chunks, because AP ranks all detections at once.
    """
    if run.in_chunks:
        return None
    try:
        table = instances_of_map(run.matched, run.categories)
    except BadRun:
        return None
    return instance_ap(table, thing_ids(run.categories)).as_record()


def map_ap_grid(found: InstanceAP, truth: str) -> Grid:
    """Tabulates mask AP of the thing segments of predicted panoptic maps, for `panbench score --metrics pq,ap`.

    truth: the ground truth of AP, in words
    """
    record = found.as_record()
    note = (
        f"Mask AP of the thing segments of the maps, ranked by their scores, against {truth}. It is not AP_pan, which "
        "is of a network's instances before fusion."
    )
    return Grid(
        ("AP of the map", *list(record)[1:]), (tuple(percent(value) for value in record.values()),), 0, notes=(note,)
    )


def _measure_before_fusion(question: Question) -> Measured:
    """Answers `panbench metrics`: the metrics before fusion, or a note on how to measure them."""
    run = question.run
    scores = unfused_scores(run)
    record = {**scores.record(), "AP_map": map_ap(run)}
    if scores.has_ap or scores.has_miou:
        return Measured(grids=(unfused_grid(scores, question.semantic.mIoU),), record=record)
    missing = unmeasured_note(run)
    return Measured(notes=() if missing is None else (missing,), record=record)


BEFORE_FUSION = Measure(_measure_before_fusion, (pixels,))
"""AP_pan and mIoU_pan, and AP of the maps, for `panbench metrics`."""


def unmeasured_note(run: Run) -> str | None:
    """Returns a hint on how to measure AP_pan and mIoU_pan; None for scored predictions, which are already fused."""
    return None if run.info.kind == "score" else f"AP_pan and mIoU_pan are made by {COMMAND}: this run has no rows."


def with_unfused(standing: Standing, runs: Sequence[Run], metrics: Sequence[str]) -> Standing:
    """Adds AP_pan, box AP_pan and mIoU_pan of the runs, and their paired differences, to a comparison.

    metrics: "ap", "miou" or both
    Raises BadRun for a run without rows, and for runs whose AP has different ground truth; BadArgument for mixed data.
    """
    tables, keys = [], standing.keys
    if why_incomparable(runs, "ground truth"):
        raise BadArgument("--metrics ap,miou cannot be combined with --mixed: the runs have no images in common.")
    for run in runs:
        table = unfused_rows_of(run)
        lacking = [
            name
            for metric, name, rows in (("ap", "AP_pan", "instances"), ("miou", "mIoU_pan", "pixels"))
            if metric in metrics and getattr(table, rows, None) is None
        ]
        if lacking or table is None:
            run.require_model(f"ask for {in_sentence(lacking)} before fusion")
            raise BadRun(
                f"{run.name} has no rows of {in_sentence(lacking)} before fusion. {COMMAND} makes them while it "
                "evaluates."
            )
        tables.append(table)
    if "ap" in metrics and len({run.info.arguments.get("ap_gt_sha256") for run in runs}) > 1:
        raise BadRun(
            "AP_pan of these runs has different ground truth: "
            + "; ".join(f"{run.name} {ap_truth(run)}" for run in runs)
            + ". Evaluate them alike."
        )
    names = (*((*AP_NAMES, "AP_box") if "ap" in metrics else ()), *((MIOU_NAME,) if "miou" in metrics else ()))
    images = shared_images(runs)
    categories = runs[0].categories
    values: list[dict[str, float | None]] = []
    jackknifed: list[dict[str, Jackknife]] = []
    for table in tables:
        own = table.only(images) if len(table.image_id) != len(images) else table
        values.append({**dict.fromkeys(names), **measured_before_fusion(own, categories)})
        jackknifed.append(jackknifed_unfused(own, images, categories) if len(images) >= FEWEST_IMAGES else {})
    names_of = dict(zip(keys, labels(standing.rows), strict=True))
    return replace(
        standing,
        grids=(
            *standing.grids,
            _tabulate_before_fusion([names_of[key] for key in keys], names, values, (runs, tables), standing.digits),
            *_tabulate_differences([names_of[key] for key in keys], names, values, jackknifed, standing.digits),
        ),
        details={**standing.details, "before_fusion": _unfused_details(keys, names, values, jackknifed)},
    )


def _tabulate_before_fusion(
    titles: Sequence[str],
    names: Sequence[str],
    values: Sequence[dict[str, float | None]],
    of: tuple[Sequence[Run], Sequence[UnfusedTable]],
    digits: int,
) -> Grid:
    """Tabulates AP_pan, box AP_pan and mIoU_pan of each run."""
    rows = tuple(
        (title, *(percent(own[name], digits) for name in names)) for title, own in zip(titles, values, strict=True)
    )
    runs, tables = of
    notes = [METRICS_EXPLAINED]
    if "AP" in names:
        sources: dict[str | None, list[str]] = {}
        for title, table in zip(titles, tables, strict=True):
            sources.setdefault(_box_source(table), []).append(title)
        boxes = "; ".join(f"{in_sentence(of_source, 3)}: {source}" for source, of_source in sources.items())
        notes = [f"AP against {ap_truth(runs[0])}.", f"Box AP_pan: {boxes}.", *notes]
    return Grid(("Before fusion", *(TABLE_NAMES.get(name, name) for name in names)), rows, notes=tuple(notes))


def _tabulate_differences(
    titles: Sequence[str],
    names: Sequence[str],
    values: Sequence[dict[str, float | None]],
    jackknifed: Sequence[dict[str, Jackknife]],
    digits: int,
) -> list[Grid]:
    """Tabulates the paired differences of AP_pan and mIoU_pan between runs.

    Every two runs are compared; of more than five runs, each only to the first.
    The better run of each pair is named first.
    """
    rows = []
    pairs = list(combinations(range(len(titles)), 2))
    pairs = pairs if len(titles) <= 5 else [pair for pair in pairs if pair[0] == 0]
    for a, b in pairs:
        for name in names:
            one, other = values[a][name], values[b][name]
            if name in ("APs", "APm", "APl") or one is None or other is None:
                continue
            better, worse = (b, a) if other >= one else (a, b)
            low = high = None
            if jackknifed[a] and jackknifed[b]:
                low, high = _interval_ends((jackknifed[better][name] - jackknifed[worse][name]).estimate().ends(0.95))
            rows.append(
                (
                    titles[better],
                    titles[worse],
                    TABLE_NAMES.get(name, name),
                    signed(abs(other - one), digits),
                    interval_text(low, high, digits, with_sign=True),
                    "*" if low is not None and low > 0 else "",
                )
            )
    if not rows:
        return []
    note = "Intervals: paired jackknife over images. *: the interval lies above 0."
    return [Grid(("Better", "than", "in", "by", "95 % interval", ""), tuple(rows), words=3, notes=(note,))]


def _unfused_details(
    keys: Sequence[str],
    names: Sequence[str],
    values: Sequence[dict[str, float | None]],
    jackknifed: Sequence[dict[str, Jackknife]],
) -> pd.DataFrame:
    """Returns one row per run and metric: run, metric, value, low, high."""
    rows = []
    for key, own, of in zip(keys, values, jackknifed, strict=True):
        for name in names:
            low, high = _interval_ends(of[name].estimate().interval(0.95)) if name in of else (None, None)
            rows.append({"run": key, "metric": name, "value": own[name], "low": low, "high": high})
    table = pd.DataFrame(rows)
    return table.astype({"value": float, "low": float, "high": float})


def unfused_rows_of(run: Run) -> UnfusedTable | None:
    """Reads the rows of AP_pan and mIoU_pan of a run; None if it has none. Raises BadRun if some are missing."""
    table = read_unfused(run)
    if table is None:
        return None
    absent = np.setdiff1d(run.images, table.image_id)
    if len(absent):
        raise BadRun(
            f"{run.name} lacks the rows before fusion of {len(absent):,} of its images. Continue it with --resume."
        )
    # A run that was killed between writing rows and part has rows of more images.
    return table if len(table.image_id) == len(run.images) else table.only(run.images)


def _box_source(table: UnfusedTable) -> str | None:
    """Returns in words where a run's detection boxes come from; None without AP_pan."""
    if table.instances is None or table.instances.boxes is None:
        return None
    return source_in_words(table.instances.boxes)


def _interval_ends(ends: tuple[Any, Any]) -> tuple[float | None, float | None]:
    """Returns both ends of an interval as floats; None for NaN."""
    low, high = map(float, ends)
    return (None, None) if low != low else (low, high)
