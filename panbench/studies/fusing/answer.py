"""The effect of fusion on PQ: table and heat map of a sweep, and what an oracle says of the lost PQ."""

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
from panbench.evaluation.stored.tuning import Tuned
from panbench.metrics.slices import ImageStatistics, pq_by
from panbench.panoptic.parts import readable
from panbench.report.answers.grid import ABSENT, Grid, known, percent, signed
from panbench.report.answers.measures import Measure, Measured, Question
from panbench.runs import ORACLE, Run, check_recorded, write_recorded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORACLE_STEPS = {
    "rule": "the rule itself",
    "labels": "… with the right category for each segment that fits",
    "selection": "… with the right masks dropped and admitted",
    "order": "… with overlaps decided by the ground truth",
    "all": "… with all three: what the masks can achieve at least",
}
ORACLE_VERSION = 1
"""The version of the steps' definitions; oracles of other versions must be made again."""
_SCORES = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")

Thresholds = Mapping[str, Mapping[str, Any]]
"""The thresholds, by name, of each setting of a sweep."""


def sweep_grids(tuned: Tuned, thresholds: Thresholds, most: int = 10) -> list[Grid]:
    """Tabulates a sweep's best thresholds next to the published ones, and the gain that remains on other images."""
    axes = _varied_thresholds(thresholds)
    table = tuned.table.sort_values("PQ", ascending=False, kind="stable")
    settings = list(dict.fromkeys([*table["setting"].iloc[:most], tuned.published]))
    rows = []
    for setting in settings:
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
        notes=(_sweep_note(tuned),),
    )
    return [points, halves]


def _sweep_note(tuned: Tuned) -> str:
    """Returns a sentence on the PQ that tuned thresholds gain over published ones on held-out images."""
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
    """Returns a threshold sweep for JSON: PQ by thresholds, the best thresholds, and their PQ on held-out images.

    All PQ are fractions 0–1.
    """
    found = tuned.comparison.differences
    row = found[(found["group"] == "All") & (found["metric"] == "PQ")].iloc[0]
    return {
        "points": [
            {
                "setting": setting,
                "thresholds": dict(thresholds[setting]),
                **{score: known(scores[score]) for score in _SCORES},
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
        "difference": {name: known(row[name]) for name in ("value_a", "value_b", "difference", "low", "high", "p")},
        "images": tuned.comparison.images,
    }


def heat_map(tuned: Tuned, thresholds: Thresholds, title: str = "", *, width: float = 7.0) -> "Figure":
    """Draws PQ over two thresholds as a heat map, or over one as a line; marks the published and the best point.

    title: the name of the model
    """
    from matplotlib.figure import Figure

    axes_names = _varied_thresholds(thresholds)
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
            position = (rows.index(float(thresholds[setting][y])), columns.index(float(thresholds[setting][x])))
            values[position] = np.nanmax([values[position], 100 * pq[setting]])
        image = axes.pcolormesh(_cell_edges(columns), _cell_edges(rows), values, cmap="cividis")
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
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure


def _varied_thresholds(thresholds: Thresholds) -> list[str]:
    """Returns the names of the thresholds that differ between the settings of a sweep."""
    names = list(next(iter(thresholds.values())))
    return [name for name in names if len({of_setting.get(name) for of_setting in thresholds.values()}) > 1]


def _cell_edges(values: Sequence[float]) -> list[float]:
    """Returns the borders of a heat map's cells, given the threshold of each cell, ascending."""
    middle = [(one + other) / 2 for one, other in pairwise(values)]
    if not middle:
        return [values[0] - 0.5, values[0] + 0.5]
    return [2 * values[0] - middle[0], *middle, 2 * values[-1] - middle[-1]]


def write_oracle(run: Run, steps: Mapping[str, ImageStatistics]) -> Path:
    """Writes a Parquet file into the run folder: the scores that a fusion that knows the ground truth would reach.

    Columns: step (the kind of decision), image_id, category_id, TP, FP, FN, iou_sum.
    """
    assert run.path is not None
    table = pd.concat([of_step.table.assign(step=step) for step, of_step in steps.items()], ignore_index=True)
    rows = pa.Table.from_pandas(table.drop(columns="slice"), preserve_index=False)
    content = pa.BufferOutputStream()
    pq.write_table(rows.replace_schema_metadata({"panbench": json.dumps(_oracle_metadata(run))}), content)
    return write_recorded(run.path, ORACLE, bytes(content.getvalue()))


def _oracle_metadata(run: Run) -> dict[str, Any]:
    """Returns the metadata that tie an oracle file (PQ with fusion decisions set to the truth) to its run.

    They are the id of the run, its number of images, and the version of the oracle.
    """
    return {"run": run.info.id, "images": len(run.image_ids()), "version": ORACLE_VERSION}


def read_oracle(run: Run) -> dict[str, ImageStatistics] | None:
    """Reads a run's stored scores with fusion decisions set to the truth; None if none. Raises BadRun if damaged.

    Also raises BadRun for an oracle of another run, of other images, or of another panbench.
    """
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
    if stored != _oracle_metadata(run) or not set(table["image_id"]) <= set(run.image_ids()):
        raise BadRun(f"{path} is the oracle of another run, of other images, or of another panbench. {again}")
    return steps


def oracle_grid(steps: Mapping[str, ImageStatistics]) -> Grid:
    """Tabulates PQ of a fusion rule, and with each kind of its decisions set to the truth; notes what fusion loses."""
    rows = []
    scores = {step: pq_by(of_step).iloc[0] for step, of_step in steps.items()}
    rule = scores["rule"]["PQ"]
    for step, words in ORACLE_STEPS.items():
        row = scores[step]
        gain = ABSENT if step == "rule" else signed(row["PQ"] - rule)
        rows.append((words, *(percent(row[name]) for name in ("PQ", "PQ_th", "PQ_st")), gain))
    lost, gained = 1 - scores["all"]["PQ"], scores["all"]["PQ"] - rule
    return Grid(
        ("Fusion", "PQ", "PQ_th", "PQ_st", "gain"),
        tuple(rows),
        title="The least that fusion costs",
        notes=(
            f"Of the {100 * (1 - rule):.2f} points of PQ that are lost, at least {100 * gained:.2f} are lost by scores "
            f"and fusion (the masks existed) and at most {100 * lost:.2f} because no mask fits. The last line is a "
            "map that these masks allow, not the best one.",
        ),
    )


def oracle_record(steps: Mapping[str, ImageStatistics]) -> dict[str, dict[str, float | None]]:
    """Returns PQ, PQ_th and PQ_st of a fusion rule, and with each kind of decision set to the truth, fractions 0–1."""
    rows = {step: pq_by(of_step).iloc[0] for step, of_step in steps.items()}
    return {step: {name: known(row[name]) for name in ("PQ", "PQ_th", "PQ_st")} for step, row in rows.items()}


def thresholds_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the thresholds of a rule's record by name."""
    return {name: value for name, value in record.items() if name != "name"}


def _oracle_loss(question: Question) -> Measured:
    """Tabulates for `panbench errors` the PQ of a fusion that knows the ground truth; empty if it was not computed."""
    found = read_oracle(question.run)
    if found is None:
        return Measured(record={"oracle": None})
    return Measured(grids=(oracle_grid(found),), record={"oracle": oracle_record(found)})


ORACLE_LOSS = Measure(_oracle_loss)
"""The result of `panbench fuse --oracle`, for `panbench errors`."""
