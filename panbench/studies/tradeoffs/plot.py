"""Plots PQ against time in a panel by decoder layer and one by image scale, with a line per model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from panbench.base.errors import BadRun
from panbench.report.figures.colors import Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TITLES = {"layer": "by decoder layer", "size": "by image size"}


def tradeoff_figure(curves: pd.DataFrame, styles: Mapping[str, Style], *, width: float = 7.0) -> "Figure":
    """Draws PQ against time, from `tradeoff_curves`, `width` inches wide.

    styles: by run, as named in `curves`
    Vertical bars: 95 % intervals of PQ; horizontal: the middle half of the times. Without times the x axis shows the
    steps. Raises BadRun if only some models of a panel were timed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(curves["by"]))
    with mpl.rc_context({"font.size": 8, "axes.linewidth": 0.6, "legend.frameon": False, "grid.color": "#e6e8ec"}):
        figure = Figure(figsize=(width, 3.2), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for panel, by in zip(axes, panels, strict=True):
            _draw_panel(panel, curves[curves["by"] == by], by, styles)
        figure.supylabel("PQ", fontsize=8)
        handles = {
            name: handle for panel in axes for handle, name in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles, loc="outside upper left", ncols=min(len(handles), 3), fontsize=7)
        figure.draw_without_rendering()
    return figure


def _draw_panel(panel: "Axes", own: pd.DataFrame, by: str, styles: Mapping[str, Style]) -> None:
    """Draws PQ by decoder layer or by image size, over time if it was measured, with a line per model."""
    timed = own["milliseconds"].notna()
    if timed.any() and not timed.all():
        lacking = ", ".join(dict.fromkeys(own.loc[~timed, "run"]))
        raise BadRun(f"The times of {lacking} were not measured. `panbench eval … --resume` measures them.")
    across = "milliseconds" if timed.all() else "step"
    panel.set_title(_TITLES[by], fontsize=8, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", linewidth=0.6)
    panel.set_axisbelow(True)
    for run, style in styles.items():
        line = own[own["run"] == run].sort_values("step")
        if line.empty:
            continue
        time_errors = [line["milliseconds"] - line["first"], line["third"] - line["milliseconds"]]
        panel.errorbar(
            line[across],
            100 * line["PQ"],
            yerr=[100 * (line["PQ"] - line["low"]).clip(lower=0), 100 * (line["high"] - line["PQ"]).clip(lower=0)],
            xerr=time_errors if across == "milliseconds" else None,
            **style.drawn,
            markersize=4,
            linewidth=1.2,
            elinewidth=0.7,
            capsize=1.5,
            label=run.replace("$", r"\$"),
        )
        for row in line.itertuples():
            panel.annotate(
                f"{row.step:g}", (getattr(row, across), 100 * row.PQ), xytext=(4, -9), textcoords="offset points",
                fontsize=7, color=style.drawn["color"],
            )  # fmt: skip
    panel.set_xlabel("ms/image" if across == "milliseconds" else by, fontsize=8)
    panel.set_xlim(left=0)
    panel.tick_params(labelsize=7, width=0.6)
