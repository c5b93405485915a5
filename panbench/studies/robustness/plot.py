"""Plots PQ by the severity of corruption: a panel for all kinds and one per group, a line per model."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pandas as pd

from panbench.report.figures.colors import Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_TITLES = {"all": "all (what mPC averages)", "extra": "extra kinds"}


def corruption_figure(curves: pd.DataFrame, styles: Mapping[str, Style], *, width: float = 7.0) -> "Figure":
    """Draws PQ by severity, from `robustness_curves`, `width` inches wide; bands are the 95 % intervals.

    styles: by run, as named in `curves`
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(curves["group"]))
    rows = -(-len(groups) // _COLUMNS)
    columns = min(_COLUMNS, len(groups))
    with mpl.rc_context({"font.size": 8, "axes.linewidth": 0.6, "legend.frameon": False, "grid.color": "#e6e8ec"}):
        figure = Figure(figsize=(width, 0.4 + 1.9 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for index, panel in enumerate(axes.flat):
            if index >= len(groups):
                panel.set_visible(False)
                continue
            own = curves[curves["group"] == groups[index]]
            panel.set_title(_TITLES.get(groups[index], groups[index]), fontsize=8, loc="left")
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(axis="y", linewidth=0.6)
            panel.set_axisbelow(True)
            for run, style in styles.items():
                line = own[own["run"] == run].sort_values("severity")
                panel.plot(
                    line["severity"],
                    100 * line["PQ"],
                    **style.drawn,
                    markersize=4,
                    linewidth=1.2,
                    label=run.replace("$", r"\$"),
                )
                known = line.dropna(subset=["low", "high"])
                low, high = (100 * known[end].astype(float) for end in ("low", "high"))
                panel.fill_between(known["severity"], low, high, color=style.drawn["color"], alpha=0.15, linewidth=0)
            severities = sorted(set(own["severity"]))
            panel.set_xticks(severities, ["clean" if level == 0 else str(level) for level in severities])
            panel.tick_params(labelsize=7, width=0.6, labelbottom=index + columns >= len(groups))
            panel.set_ylim(bottom=0)
        figure.supxlabel("severity of corruption", fontsize=8)
        figure.supylabel("PQ", fontsize=8)
        handles, names = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=min(len(names), 3), fontsize=7)
        figure.draw_without_rendering()
    return figure
