"""Plots for papers and notebooks: each kind draws one table of views.py, which can be written beside it as CSV.

Colours are apart for colour-blind eyes and each run has its own marker, so a plot survives a black-and-white print.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.base.files import atomic_write
from panbench.metrics.slices import SLICINGS
from panbench.report import views
from panbench.report.pictures import save_figure
from panbench.report.views import Compared

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PLOTS", "Plot", "draw_plot", "write_plot"]

COLORS = ("#0072B2", "#C44E00", "#00805E", "#A8448F", "#7A6A00", "#4A4F5A", "#1F95D4", "#B3261E")
MARKERS = ("o", "s", "^", "D", "P", "v", "h", "p")
CAUSE_COLORS = (*("#CC6677", "#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#D9822B", "#AA4499"),)
MOST_BARS = 30
MOST_CONFUSED = 16


@dataclass(frozen=True)
class Plot:
    """A kind of plot. `table`: its data, as views.py makes it; `draw`: onto axes; `height`: inches for a width of 7."""

    description: str
    table: Callable[[Sequence[Compared]], pd.DataFrame]
    draw: "Callable[[Axes, pd.DataFrame], None]"
    height: "Callable[[pd.DataFrame], float]" = lambda table: 3.6
    runs: tuple[int, int] = (1, 1000)


def draw_plot(kind: str, members: Sequence[Compared], *, width: float = 7.0) -> "tuple[Figure, pd.DataFrame]":
    """The figure of one kind of PLOTS, `width` inches wide, and the table that it shows.

    Raises BadArgument for an unknown kind, the wrong number of runs, or runs that lack what it shows.
    """
    from matplotlib.figure import Figure

    if kind not in PLOTS:
        raise BadArgument(f"There is no plot {kind!r}. Choose one of {', '.join(PLOTS)}.")
    plot = PLOTS[kind]
    least, most = plot.runs
    if not least <= len(members) <= most:
        wanted = f"{least}" if least == most else f"at least {least}"
        raise BadArgument(f"The plot {kind} shows {wanted} run(s), not {len(members)}.")
    if not 1 <= width <= 60:
        raise BadArgument(f"A plot of {width:g} inches cannot be drawn. Give --width between 1 and 60.")
    table = plot.table(members)
    if table.empty:
        raise BadArgument(f"These runs hold nothing for the plot {kind}: {plot.description}.")
    figure = Figure(figsize=(width, plot.height(table) * max(1.0, width / 7)), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    plot.draw(axes, table)
    return figure, table


def write_plot(
    kind: str,
    members: Sequence[Compared],
    out: str | os.PathLike[str],
    *,
    data: bool = False,
    width: float = 7.0,
    dpi: float = 200,
) -> list[Path]:
    """Writes a plot as PNG, SVG or PDF and, with `data`, its table beside it as CSV (fractions 0–1); the paths."""
    target = Path(out)
    figure, table = draw_plot(kind, members, width=width)
    save_figure(figure, target, dpi=dpi)
    if not data:
        return [target]
    beside = target.with_suffix(".csv")
    with atomic_write(beside, "w") as handle:
        handle.write(table.to_csv(index=False, lineterminator="\n"))
    return [target, beside]


def _runs(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(table["run"]))


def _style(index: int) -> dict[str, Any]:
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def _plain(text: str) -> str:
    """Text without what matplotlib would read as TeX, or, at its start, as "not in the legend": names are anyone's."""
    return text.replace("$", r"\$") if not text.startswith("_") else "\u200b" + text.replace("$", r"\$")


def _legend_above(axes: "Axes") -> None:
    """Where marks fill the plot, the legend stands over it."""
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0))


def _draw_intervals(axes: "Axes", table: pd.DataFrame) -> None:
    for index, row in enumerate(table.itertuples()):
        style = _style(index)
        if row.low == row.low:
            axes.plot([100 * row.low, 100 * row.high], [index, index], color=style["color"], linewidth=2)
        axes.plot([100 * row.PQ], [index], linestyle="", **style)
    axes.set_yticks(range(len(table)), [_plain(name) for name in table["run"]])
    axes.invert_yaxis()
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("PQ with 95 % interval")
    axes.grid(axis="x", color="#e6e8ec")


def _cost(column: str, label: str) -> Callable[["Axes", pd.DataFrame], None]:
    def draw(axes: "Axes", table: pd.DataFrame) -> None:
        for index, row in enumerate(table.itertuples()):
            style, at = _style(index), getattr(row, column)
            if row.low == row.low:
                axes.plot([at, at], [100 * row.low, 100 * row.high], color=style["color"], linewidth=1.5)
            axes.plot([at], [100 * row.PQ], linestyle="", markersize=7, label=_plain(row.run), **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        axes.xaxis.set_minor_formatter(lambda value, _: _short(value) if len(table) < 4 or _leading(value) < 6 else "")
        axes.margins(x=0.2)
        axes.set_xlabel(label)
        axes.set_ylabel("PQ")
        axes.grid(color="#e6e8ec")
        axes.legend(frameon=False, fontsize=8)

    return draw


def _draw_categories(axes: "Axes", table: pd.DataFrame) -> None:
    runs = _runs(table)
    names = list(dict.fromkeys(table["name"]))
    for index, run in enumerate(runs):
        own = table[table["run"] == run].set_index("name")["PQ"]
        axes.plot(
            [100 * own[name] for name in names], range(len(names)), linestyle="", label=_plain(run), **_style(index)
        )
    axes.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=7)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("PQ")
    axes.grid(color="#e6e8ec")
    _legend_above(axes)


def _shown_categories(members: Sequence[Compared]) -> pd.DataFrame:
    """The categories of lowest PQ or, of several runs, those in which the runs differ most: at most MOST_BARS."""
    table = views.per_category(members).dropna(subset="PQ")
    scores = table.groupby("name")["PQ"]
    weight = scores.max() - scores.min() if len(members) > 1 else -scores.mean()
    chosen = weight.nlargest(MOST_BARS).index
    table = table[table["name"].isin(chosen)].copy()
    table["name"] = pd.Categorical(table["name"], list(chosen))
    return table.sort_values(["name"], kind="stable", ignore_index=True).astype({"name": str})


def _draw_causes(axes: "Axes", table: pd.DataFrame) -> None:
    runs = _runs(table)
    names = [name for name in table["cause"].cat.categories if table.loc[table["cause"] == name, "lost"].gt(0).any()]
    left = np.zeros(len(runs))
    for name in names:
        position = list(table["cause"].cat.categories).index(name)
        lost = 100 * table[table["cause"] == name].set_index("run")["lost"].reindex(runs).to_numpy()
        axes.barh(
            range(len(runs)), lost, left=left, label=name, edgecolor="white", linewidth=0.6,
            color=CAUSE_COLORS[position % len(CAUSE_COLORS)],
        )  # fmt: skip
        left += lost
    axes.set_yticks(range(len(runs)), [_plain(run) for run in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlabel("Points of PQ lost to")
    axes.legend(
        frameon=False, fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.4, -0.35 if len(runs) < 4 else -0.18)
    )


def _draw_slices(axes: "Axes", table: pd.DataFrame) -> None:
    runs = _runs(table)
    names = list(dict.fromkeys(table["slice"]))
    step = 0.7 / len(runs)
    for index, run in enumerate(runs):
        own = 100 * table[table["run"] == run].set_index("slice")["PQ"].reindex(names)
        rows = np.arange(len(names)) + (index - (len(runs) - 1) / 2) * step
        style = _style(index)
        axes.hlines(rows, 0, own, color=style["color"], linewidth=1.5)
        axes.plot(own, rows, linestyle="", label=_plain(run), **style)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("PQ")
    axes.grid(axis="x", color="#e6e8ec")
    _legend_above(axes)


def _draw_thresholds(axes: "Axes", table: pd.DataFrame) -> None:
    for index, run in enumerate(_runs(table)):
        own = table[table["run"] == run]
        axes.plot(own["threshold"], 100 * own["PQ"], label=_plain(run), markersize=4, **_style(index))
    axes.set_xlabel("A match needs IoU above")
    axes.set_ylabel("PQ")
    axes.grid(color="#e6e8ec")
    axes.legend(frameon=False, fontsize=8)


def _draw_images(axes: "Axes", table: pd.DataFrame) -> None:
    first, second = (column for column in table.columns if column != "image_id")
    axes.plot([0, 100], [0, 100], color="#565c68", linewidth=0.8, linestyle="--")
    axes.plot(100 * table[first], 100 * table[second], linestyle="", marker=".", alpha=0.5, color=COLORS[0])
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_aspect("equal")
    axes.set_xlabel(f"PQ of {_plain(first)}, image by image")
    axes.set_ylabel(f"PQ of {_plain(second)}")
    axes.grid(color="#e6e8ec")


def _both_images(members: Sequence[Compared]) -> pd.DataFrame:
    """image_id and a column of PQ for each of two runs."""
    table = views.per_image(members).pivot(index="image_id", columns="run", values="PQ")
    return table[[member.label for member in members]].dropna().rename_axis(columns=None).reset_index()


def _draw_confusion(axes: "Axes", table: pd.DataFrame) -> None:
    wide = table.pivot(index="true", columns="predicted", values="share").fillna(0.0)
    names = list(dict.fromkeys(table["true"]))
    columns = [*names, *(["void"] if "void" in wide.columns and "void" not in names else [])]
    grid = 100 * wide.reindex(index=names, columns=columns, fill_value=0.0).to_numpy()
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=100)
    for row, line in enumerate(grid):
        for column, share in enumerate(line):
            if share >= 0.5:
                ink = "white" if share > 60 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=6, color=ink)
    axes.set_xticks(range(len(columns)), [_plain(name) for name in columns], rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=7)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True (percent of its pixels)")
    axes.spines[:].set_visible(False)


def _confused(members: Sequence[Compared]) -> pd.DataFrame:
    """views.confusion among the MOST_CONFUSED categories that are confused most."""
    table = views.confusion(members)
    wrong = table[(table["true"] != table["predicted"]) & (table["predicted"] != "void")]
    weight = wrong.groupby("true")["share"].sum().add(wrong.groupby("predicted")["share"].sum(), fill_value=0)
    weight = weight.reindex(list(dict.fromkeys(table["true"])), fill_value=0)
    chosen = set(weight.nlargest(MOST_CONFUSED).index)
    names = [category.name for category in members[0].categories if category.name in chosen]
    kept = table[table["true"].isin(names) & table["predicted"].isin([*names, "void"])].copy()
    kept["true"] = pd.Categorical(kept["true"], names)
    return kept.sort_values("true", kind="stable", ignore_index=True).astype({"true": str})


def _slices_by(name: str) -> Callable[[Sequence[Compared]], pd.DataFrame]:
    return lambda members: views.slices(members, name)


def _known(column: str) -> Callable[[Sequence[Compared]], pd.DataFrame]:
    return lambda members: views.overview(members).dropna(subset=["PQ", column]).reset_index(drop=True)


def _rows(per_row: float, least: float = 2.0, head: float = 0.9) -> Callable[[pd.DataFrame], float]:
    """Height by the number of rows that a table of one row a run makes."""
    return lambda table: max(least, head + per_row * table["run"].nunique())


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _leading(value: float) -> float:
    return value / 10 ** np.floor(np.log10(value)) if value > 0 else 0


PLOTS: Mapping[str, Plot] = {
    "intervals": Plot(
        "PQ of each run with its 95 % interval", views.overview, _draw_intervals, height=_rows(0.32, 1.4)
    ),
    "speed": Plot(
        "PQ against images a second", _known("images_per_second"), _cost("images_per_second", "Images a second")
    ),
    "params": Plot("PQ against the number of parameters", _known("params"), _cost("params", "Parameters")),
    "categories": Plot(
        f"PQ by category: the {MOST_BARS} in which the runs differ most, or of one run the lowest",
        _shown_categories,
        _draw_categories,
        height=lambda table: 1.0 + 0.17 * table["name"].nunique(),
    ),
    "causes": Plot("what PQ is lost to", views.causes, _draw_causes, height=_rows(0.4, 2.2, 1.4)),
    **{
        name: Plot(
            f"PQ by {slicing.title}",
            _slices_by(name),
            _draw_slices,
            height=lambda table: 0.9 + (0.16 + 0.13 * table["run"].nunique()) * table["slice"].nunique(),
        )
        for name, slicing in SLICINGS.items()
    },
    "thresholds": Plot("PQ as matches need a higher IoU", views.thresholds, _draw_thresholds),
    "confusion": Plot(
        "which categories' pixels are given to which", _confused, _draw_confusion, lambda table: 6.4, runs=(1, 1)
    ),
    "images": Plot("PQ of two runs, image by image", _both_images, _draw_images, lambda table: 6.4, runs=(2, 2)),
}
"""What `panbench show plot` draws, by name."""
