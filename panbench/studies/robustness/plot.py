"""PQ by the severity of corruption: a panel for all kinds and one for each group, a line a model."""

from typing import TYPE_CHECKING

import pandas as pd

from panbench.report.figures.colors import LIGHT, MARKERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["corruption_figure"]

_COLUMNS = 3
_TITLES = {"all": "all (what mPC averages)", "extra": "extra kinds"}


def corruption_figure(curves: pd.DataFrame, *, width: float = 7.0) -> "Figure":
    """The figure of `robustness_curves`, `width` inches wide; bands are the 95 % intervals."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(curves["group"]))
    runs = list(dict.fromkeys(curves["run"]))
    rows = -(-len(groups) // _COLUMNS)
    columns = min(_COLUMNS, len(groups))
    with mpl.rc_context({"font.size": 8, "axes.linewidth": 0.6, "legend.frameon": False, "grid.color": "#e6e8ec"}):
        figure = Figure(figsize=(width, 0.4 + 1.9 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for place, panel in enumerate(axes.flat):
            if place >= len(groups):
                panel.set_visible(False)
                continue
            own = curves[curves["group"] == groups[place]]
            panel.set_title(_TITLES.get(groups[place], groups[place]), fontsize=8, loc="left")
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", linewidth=0.6)
            panel.set_axisbelow(True)
            for number, run in enumerate(runs):
                line = own[own["run"] == run].sort_values("severity")
                color = LIGHT[number % len(LIGHT)]
                panel.plot(
                    line["severity"],
                    100 * line["PQ"],
                    color=color,
                    marker=MARKERS[number % len(MARKERS)],
                    markersize=4,
                    linewidth=1.2,
                    label=run.replace("$", r"\$"),
                )
                known = line.dropna(subset=["low", "high"])
                low, high = (100 * known[side].astype(float) for side in ("low", "high"))
                panel.fill_between(known["severity"], low, high, color=color, alpha=0.15, linewidth=0)
            severities = sorted(set(own["severity"]))
            panel.set_xticks(severities, ["clean" if level == 0 else str(level) for level in severities])
            panel.tick_params(labelsize=7, width=0.6, labelbottom=place + columns >= len(groups))
            panel.set_ylim(bottom=0)
        figure.supxlabel("severity of corruption", fontsize=8)
        figure.supylabel("PQ", fontsize=8)
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=min(len(names), 3), fontsize=7)
        figure.draw_without_rendering()
    return figure
