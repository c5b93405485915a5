"""`panbench show plot calibration`: how often segments of a score are right, one line per run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from panbench.base.errors import BadRun
from panbench.base.text import in_sentence
from panbench.report.answers.views import Compared
from panbench.report.figures.plots import Look, Plot, add_legend, runs_of
from panbench.studies.calibration.answer import PARTLY_SCORED, partly_scored_label
from panbench.studies.calibration.calibration import calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def reliability(members: Sequence[Compared]) -> pd.DataFrame:
    """Tabulates how often segments of a score are right: run, low, high, segments, score, precision and its interval.

    unscored: the number of segments of the run without a score, which are left out (Panoptic FPN: all stuff)
    Empty bins are left out. Raises BadRun for a run whose predictions have no scores.
    """
    tables = []
    for member in members:
        try:
            found = calibration(member.matched, member.categories)
        except BadRun as problem:
            raise BadRun(f"{member.label} has no calibration: {problem}") from None
        curve = found.curve
        own = curve[(curve["group"] == "All") & (curve["segments"] > 0)].drop(columns="group")
        own.insert(0, "run", member.label)
        tables.append(own.assign(unscored=found.unscored))
    return pd.concat(tables, ignore_index=True)


def _partly_scored_caption(table: pd.DataFrame, look: Look) -> str:
    """Returns a caption that names the runs with segments without a score; "" if there are none."""
    counts = table.groupby("run", sort=False).agg(unscored=("unscored", "first"), segments=("segments", "sum"))
    partly = [
        partly_scored_label(str(row.Index), row.unscored, row.segments) for row in counts.itertuples() if row.unscored
    ]
    return look.lines(f"{PARTLY_SCORED} {in_sentence(partly)}", 0.85, most=None) if partly else ""


def _draw_reliability_curve(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
    axes.plot([0, 100], [0, 100], color="#565c68", linewidth=0.8, linestyle="--")
    runs = runs_of(table)
    for run in runs:
        own = table[table["run"] == run]
        below, above = own["precision"] - own["precision_low"], own["precision_high"] - own["precision"]
        axes.errorbar(
            100 * own["score"],
            100 * own["precision"],
            yerr=100 * np.clip([below, above], 0, None),
            label=look.lines(run, 0.8),
            linewidth=1.2,
            elinewidth=0.7,
            capsize=1.5,
            **look.of(run),
        )
    # A little beyond 0 and 100, so that markers there are not clipped.
    axes.set_xlim(-2, 102)
    axes.set_ylim(-2, 102)
    axes.set_aspect("equal")
    axes.set_xlabel("Score of a segment, %")
    axes.set_ylabel("Right, %")
    axes.set_title(_partly_scored_caption(table, look), loc="left", fontsize=look.small, color="#565c68")
    axes.grid()
    add_legend(axes, look, runs)


def _reliability_height(table: pd.DataFrame, look: Look) -> float:
    """Returns the height of the figure, with room for legend and caption."""
    caption = _partly_scored_caption(table, look)
    return 0.9 * look.width + look.legend_height(runs_of(table)) + look.line * len(caption.splitlines())


RELIABILITY = Plot(
    "how often segments are right, by their score", reliability, _draw_reliability_curve, _reliability_height
)
