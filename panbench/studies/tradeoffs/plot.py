"""PQ against time: a panel for layers and one for sizes, a line a model, its steps named, bands for the intervals."""

from typing import TYPE_CHECKING

import pandas as pd

from panbench.base.errors import BadRun
from panbench.report.figures.colors import LIGHT, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["tradeoff_figure"]

_TITLES = {"layer": "by decoder layer", "size": "by image size"}


def tradeoff_figure(curves: pd.DataFrame, *, width: float = 7.0) -> "Figure":
    """The figure of `tradeoff_curves`, `width` inches wide.

    Vertical bars: 95 % intervals of PQ; horizontal: the middle half of the times. Without times the steps themselves
    are the axis. Raises BadRun when some of the models of a panel were timed and others were not.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(curves["by"]))
    runs = list(dict.fromkeys(curves["run"]))
    with mpl.rc_context({"font.size": 8, "axes.linewidth": 0.6, "legend.frameon": False, "grid.color": "#e6e8ec"}):
        figure = Figure(figsize=(width, 3.2), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, by in zip(axes, panels, strict=True):
            _draw(panel, curves[curves["by"] == by], by, runs)
        figure.supylabel("PQ", fontsize=8)
        handles = {
            name: handle for panel in axes for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles, loc="outside upper left", ncols=min(len(handles), 3), fontsize=7)
        figure.draw_without_rendering()
    return figure


def _draw(panel: "Axes", own: pd.DataFrame, by: str, runs: list[str]) -> None:
    timed = own["milliseconds"].notna()
    if timed.any() and not timed.all():
        lacking = ", ".join(dict.fromkeys(own.loc[~timed, "run"]))
        raise BadRun(f"The times of {lacking} were not measured. `panbench eval … --resume` measures them.")
    across = "milliseconds" if timed.all() else "step"
    panel.set_title(_TITLES[by], fontsize=8, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", linewidth=0.6)
    panel.set_axisbelow(True)
    for number, run in enumerate(runs):
        line = own[own["run"] == run].sort_values("step")
        if line.empty:
            continue
        aside = [line["milliseconds"] - line["first"], line["third"] - line["milliseconds"]]
        panel.errorbar(
            line[across],
            100 * line["PQ"],
            yerr=[100 * (line["PQ"] - line["low"]).clip(lower=0), 100 * (line["high"] - line["PQ"]).clip(lower=0)],
            xerr=aside if across == "milliseconds" else None,
            color=LIGHT[number % len(LIGHT)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            linewidth=1.2,
            elinewidth=0.7,
            capsize=1.5,
            label=run.replace("$", r"\$"),
        )
        for row in line.itertuples():
            panel.annotate(
                f"{row.step:g}", (getattr(row, across), 100 * row.PQ), xytext=(4, -9), textcoords="offset points",
                fontsize=7, color=LIGHT[number % len(LIGHT)],
            )  # fmt: skip
    panel.set_xlabel("ms/image" if across == "milliseconds" else by, fontsize=8)
    panel.set_xlim(left=0)
    panel.tick_params(labelsize=7, width=0.6)
