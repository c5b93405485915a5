"""What fusion does to PQ: the table and the heat map of a sweep, and the loss that an oracle splits."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from panbench.base.errors import BadRun
from panbench.evaluation.kept.tuning import Tuned
from panbench.metrics.slices import ImageStatistics, pq_by
from panbench.panoptic.parts import readable
from panbench.report.answers.grid import ABSENT, Grid, percent, signed
from panbench.report.answers.measures import Measure, Measured, Question
from panbench.runs import ORACLE, Run, check_recorded, write_recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ORACLE_LOSS",
    "ORACLE_STEPS",
    "ORACLE_VERSION",
    "heat_map",
    "oracle_grid",
    "oracle_record",
    "read_oracle",
    "sweep_grids",
    "sweep_record",
    "thresholds_of",
    "write_oracle",
]

ORACLE_STEPS = {
    "rule": "the rule itself",
    "labels": "… with the right category for each segment that fits",
    "selection": "… with the right masks dropped and admitted",
    "order": "… with overlaps decided by the ground truth",
    "all": "… with all three: what the masks can achieve at least",
}
ORACLE_VERSION = 1
"""Of what the steps mean; oracles of another version are made again."""
_SCORES = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")

Thresholds = Mapping[str, Mapping[str, Any]]
"""Of each setting of a sweep, its thresholds by name."""


def sweep_grids(tuned: Tuned, thresholds: Thresholds, most: int = 10) -> list[Grid]:
    """The best points of a sweep beside the published one, and what choosing among them is worth."""
    axes = _axes(thresholds)
    table = tuned.table.sort_values("PQ", ascending=False, kind="stable")
    shown = list(dict.fromkeys([*table["setting"].iloc[:most], tuned.published]))
    rows = []
    for setting in shown:
        row = tuned.table[tuned.table["setting"] == setting].iloc[0]
        mark = " (published)" if setting == tuned.published else ""
        rows.append(
            (
                *(f"{thresholds[setting].get(axis, '–'):g}" for axis in axes),
                *(percent(row[score]) for score in _SCORES),
                mark.strip(),
            )
        )
    points = Grid(
        (*axes, "PQ", "SQ", "RQ", "PQ_th", "PQ_st", ""),
        tuple(rows),
        words=0,
        title=f"{len(tuned.table)} points, the {min(most, len(table))} best",
        notes=("All of these are chosen and scored on the same images, so the best is too optimistic: see below.",),
    )
    halves = Grid(
        ("Half", "Chosen on it", "PQ there", "PQ on the other half", "Published there"),
        tuple(
            (
                str(number),
                " ".join(f"{axis}={thresholds[half.chosen].get(axis, '–'):g}" for axis in axes),
                percent(half.pq_here),
                percent(half.pq_there),
                percent(half.published_there),
            )
            for number, half in enumerate(tuned.halves, 1)
        ),
        words=2,
        title="Chosen on one half of the images, reported on the other",
        notes=(_verdict(tuned),),
    )
    return [points, halves]


def _verdict(tuned: Tuned) -> str:
    found = tuned.comparison.differences
    row = found[(found["group"] == "All") & (found["metric"] == "PQ")].iloc[0]
    sure = (
        "tuning pays" if row["low"] > 0 else "tuning costs" if row["high"] < 0 else "the difference is not significant"
    )
    return (
        f"Tuned on other images PQ is {percent(tuned.held_out['PQ'])}, published thresholds give "
        f"{percent(row['value_a'])}: {signed(row['difference'])} [{signed(row['low'])}, "
        f"{signed(row['high'])}], {sure}. The best point on all images promises "
        f"{100 * tuned.flattery:.2f} more than that, which is optimism."
    )


def sweep_record(tuned: Tuned, thresholds: Thresholds) -> dict[str, Any]:
    """All of a sweep as JSON: points, halves, the honest PQ and the flattery, fractions 0–1."""
    found = tuned.comparison.differences
    row = found[(found["group"] == "All") & (found["metric"] == "PQ")].iloc[0]
    return {
        "points": [
            {
                "setting": setting,
                "thresholds": dict(thresholds[setting]),
                **{score: _plain(scores[score]) for score in _SCORES},
            }
            for setting, scores in tuned.table.set_index("setting").to_dict("index").items()
        ],
        "published": tuned.published,
        "best": tuned.best,
        "halves": [
            {
                "chosen": half.chosen,
                "PQ_here": half.pq_here,
                "PQ_there": half.pq_there,
                "published_there": half.published_there,
            }
            for half in tuned.halves
        ],
        "held_out": tuned.held_out,
        "flattery": tuned.flattery,
        "difference": {name: _plain(row[name]) for name in ("value_a", "value_b", "difference", "low", "high", "p")},
        "images": tuned.comparison.images,
    }


def heat_map(tuned: Tuned, thresholds: Thresholds, *, width: float = 7.0) -> "Figure":
    """PQ over two thresholds as a map, or over one as a line; the published point and the best are marked."""
    from matplotlib.figure import Figure

    axes_names = _axes(thresholds)
    pq = tuned.table.set_index("setting")["PQ"]
    figure = Figure(figsize=(width, 0.75 * width), layout="constrained")
    axes = figure.subplots()
    x = axes_names[0]
    if len(axes_names) == 1:
        points = sorted((float(thresholds[setting][x]), 100 * pq[setting]) for setting in pq.index)
        axes.plot([one for one, _ in points], [value for _, value in points], marker="o", markersize=3)
        axes.set_ylabel("PQ (%)")
    else:
        y = axes_names[1]
        columns, rows = (sorted({float(thresholds[setting][axis]) for setting in pq.index}) for axis in (x, y))
        values = np.full((len(rows), len(columns)), np.nan)
        for setting in pq.index:
            place = (rows.index(float(thresholds[setting][y])), columns.index(float(thresholds[setting][x])))
            values[place] = np.nanmax([values[place], 100 * pq[setting]])
        image = axes.pcolormesh(_edges(columns), _edges(rows), values, cmap="cividis")
        figure.colorbar(image, ax=axes, label="PQ (%)")
        axes.set_ylabel(y)
    axes.set_xlabel(x)
    for setting, marker, label in ((tuned.published, "s", "published"), (tuned.best, "*", "best on these images")):
        where = [float(thresholds[setting][axis]) for axis in axes_names[:2]]
        if len(axes_names) == 1:
            where.append(100 * float(pq[setting]))
        axes.plot(
            *where,
            marker,
            markersize=11,
            markerfacecolor="white",
            markeredgecolor="black",
            label=label,
            linestyle="none",
        )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2, frameon=False)
    return figure


def _axes(thresholds: Thresholds) -> list[str]:
    """The thresholds that differ between settings, in their order."""
    names = list(next(iter(thresholds.values())))
    return [name for name in names if len({of_setting.get(name) for of_setting in thresholds.values()}) > 1]


def _edges(values: Sequence[float]) -> list[float]:
    """The borders of cells around some values, ascending."""
    middle = [(one + other) / 2 for one, other in pairwise(values)]
    if not middle:
        return [values[0] - 0.5, values[0] + 0.5]
    return [2 * values[0] - middle[0], *middle, 2 * values[-1] - middle[-1]]


def write_oracle(run: Run, steps: Mapping[str, ImageStatistics]) -> Path:
    """Stores the oracle of a run as rows beside its parts: step, image_id, category_id, TP, FP, FN, iou_sum."""
    assert run.path is not None
    table = pd.concat([of_step.table.assign(step=step) for step, of_step in steps.items()], ignore_index=True)
    rows = pa.Table.from_pandas(table.drop(columns="slice"), preserve_index=False)
    content = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({"panbench": json.dumps(_stands_for(run))}), content)
    return write_recorded(run.path, ORACLE, bytes(content.getvalue()))


def _stands_for(run: Run) -> dict[str, Any]:
    """What an oracle must share with the run that it is of, and with this program."""
    return {"run": run.info.id, "images": len(run.image_ids()), "version": ORACLE_VERSION}


def read_oracle(run: Run) -> dict[str, ImageStatistics] | None:
    """The oracle of a run; None when it has none. Raises BadRun when it is damaged or of other images."""
    if run.path is None or not (run.path / ORACLE).is_file():
        return None
    path = run.path / ORACLE
    again = f"Make it again with `panbench fuse {run.path} --oracle`."
    try:
        check_recorded(run.path, ORACLE)
        rows = pq.read_table(readable(path))
        table = rows.to_pandas()
        stored = json.loads((rows.schema.metadata or {}).get(b"panbench", b"null"))
        steps = {
            step: ImageStatistics.from_frame(
                np.array(run.image_ids(), np.int64), table[table["step"] == step], run.categories
            )
            for step in ORACLE_STEPS
        }
    except (OSError, ValueError, KeyError) as problem:
        raise BadRun(f"{path} is damaged ({problem}). {again}") from None
    if stored != _stands_for(run) or not set(table["image_id"]) <= set(run.image_ids()):
        raise BadRun(f"{path} is the oracle of another run, of other images, or of another panbench. {again}")
    return steps


def oracle_grid(steps: Mapping[str, ImageStatistics]) -> Grid:
    """PQ of the rule and of each step of its oracle, and how the loss splits."""
    rows = []
    scores = {step: pq_by(of_step).iloc[0] for step, of_step in steps.items()}
    rule = scores["rule"]["PQ"]
    for step, words in ORACLE_STEPS.items():
        row = scores[step]
        gain = ABSENT if step == "rule" else signed(row["PQ"] - rule)
        rows.append((words, *(percent(row[name]) for name in ("PQ", "PQ_th", "PQ_st")), gain))
    lost, kept = 1 - scores["all"]["PQ"], scores["all"]["PQ"] - rule
    return Grid(
        ("Fusion", "PQ", "PQ_th", "PQ_st", "gain"),
        tuple(rows),
        title="The least that fusion costs",
        notes=(
            f"Of the {100 * (1 - rule):.2f} points of PQ that are lost, at least {100 * kept:.2f} are lost by scores "
            f"and fusion (the masks existed) and at most {100 * lost:.2f} because no mask fits. The last line is a "
            "map that these masks allow, not the best one.",
        ),
    )


def oracle_record(steps: Mapping[str, ImageStatistics]) -> dict[str, dict[str, float | None]]:
    """PQ, PQ_th and PQ_st of the rule and of each step, fractions 0–1."""
    rows = {step: pq_by(of_step).iloc[0] for step, of_step in steps.items()}
    return {step: {name: _plain(row[name]) for name in ("PQ", "PQ_th", "PQ_st")} for step, row in rows.items()}


def thresholds_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The thresholds in a rule's record."""
    return {name: value for name, value in record.items() if name != "name"}


def _plain(value: Any) -> float | None:
    return None if value is None or value != value else float(value)


def _oracle_loss(question: Question) -> Measured:
    found = read_oracle(question.run)
    if found is None:
        return Measured(record={"oracle": None})
    return Measured(grids=(oracle_grid(found),), record={"oracle": oracle_record(found)})


ORACLE_LOSS = Measure(_oracle_loss)
"""What `panbench fuse --oracle` stored, for `panbench errors`."""
