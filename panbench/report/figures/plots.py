"""Plots for papers and notebooks: each kind draws one table of views.py, which can be written next to it as CSV.

A plot is drawn for its printed width: text has the same few sizes at 3.3 inches (a column) and at 7, names are broken
into lines, the height follows from the rows, and legends lie outside the axes.
"""

import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.base.files import atomic_write
from panbench.base.references import load
from panbench.base.studies import names_in_studies
from panbench.base.text import for_spreadsheet
from panbench.metrics.slices import SLICINGS
from panbench.published import PublishedResult
from panbench.report.answers import views
from panbench.report.answers.views import Compared
from panbench.report.figures.colors import CAUSES_LIGHT, Style, styles_by_name
from panbench.report.figures.pictures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_BARS = 30
MOST_CONFUSED = 16
COLUMN = 5.0
"""Below this width in inches a figure counts as one column of two, and its text is a point smaller."""


@dataclass(frozen=True)
class Look:
    """The style of a plot.

    size: of its text in points (ticks are one smaller); styles: of each run, by its label
    """

    width: float
    size: float
    styles: Mapping[str, Style]

    @property
    def small(self) -> float:
        """Returns the size of the text of ticks, legends and marks, in points."""
        return self.size - 1

    def of(self, run: str) -> dict[str, Any]:
        """Returns the colour and marker of a run as arguments of matplotlib's plot."""
        return self.styles[run].drawn

    def lines(self, text: str, share: float = 0.34, most: int | None = 3) -> str:
        """Breaks a name or sentence into at most `most` lines of at most `share` of the figure's width."""
        room = max(8, int(self.width * 72 * share / (0.56 * self.small)))
        found = textwrap.wrap(text, room, max_lines=most, placeholder=" …") or [text]
        return "\n".join(_escape_tex(line) for line in found)

    def rows(self, names: Sequence[str], share: float = 0.34) -> float:
        """Returns the height in inches of some names that are printed one below the other."""
        return sum(1.0 + self.lines(name, share).count("\n") for name in names) * self.line

    @property
    def line(self) -> float:
        """Returns the height in inches of a line of text with its spacing."""
        return 1.55 * self.size / 72

    def columns(self, names: Sequence[str]) -> int:
        """Returns how many columns of these names fit into a legend."""
        longest = max((max(map(len, self.lines(name, 0.8).split("\n"))) for name in names), default=1)
        return int(np.clip(self.width * 72 * 0.94 / ((0.56 * longest + 4.5) * self.small), 1, max(len(names), 1)))

    def legend_height(self, names: Sequence[str]) -> float:
        """Returns the height in inches of a legend with these names."""
        return self.line * (-(-len(names) // self.columns(names)) + 0.6)


ANY = (1, 1000)
"""Minimum and maximum number of runs of a plot for any number."""


@dataclass(frozen=True)
class Plot:
    """A kind of plot: `table` computes its data, `draw` draws them onto axes, `height` is in inches."""

    description: str
    table: Callable[[Sequence[Compared]], pd.DataFrame]
    draw: "Callable[[Axes, pd.DataFrame, Look], None]"
    height: "Callable[[pd.DataFrame, Look], float]"
    runs: tuple[int, int] = ANY


def draw_plot(
    kind: str,
    members: Sequence[Compared],
    *,
    published: Sequence[PublishedResult] = (),
    width: float = 7.0,
    font: str | None = None,
    font_size: float | None = None,
) -> "tuple[Figure, pd.DataFrame]":
    """Draws one of `kinds`, `width` inches wide; returns the figure, and the table of its data.

    published: claims to draw next to the runs, as hollow markers; only for kinds in CLAIMED
    font: an installed family, such as "Times New Roman"; font_size: in points, by default 8, and 7 below 5 inches
    Raises BadArgument for an unknown kind or font, the wrong number of runs, or runs without the plotted values.
    """
    from matplotlib.figure import Figure

    check_kind(kind, bool(published))
    plot = find_plot(kind)
    least, most = plot.runs
    if not least <= len(members) <= most:
        requested = f"{least}" if least == most else f"at least {least}"
        raise BadArgument(f"The plot {kind} shows {requested} run(s), not {len(members)}.")
    if not 1 <= width <= 60:
        raise BadArgument(f"A plot of {width:g} inches cannot be drawn. Give --width between 1 and 60.")
    if font_size is not None and not 4 <= font_size <= 72:
        raise BadArgument(f"Text of {font_size:g} points cannot be read or does not fit. Give --font-size 4 to 72.")
    table = plot.table(members)
    if published:
        table = _with_published_claims(kind, table, published)
    if table.empty and kind in CLAIMED and kind not in PLOTS:
        raise BadArgument(
            f"Nothing is known for the plot {kind}: {plot.description}. It shows published results (--published NAME) "
            "and runs of models that have one."
        )
    if table.empty:
        raise BadArgument(f"These runs have no data for the plot {kind}: {plot.description}.")
    styles = styles_by_name([member.label for member in members], [member.run for member in members])
    size = font_size or (7.0 if width < COLUMN else 8.0)
    look = Look(width, size, styles)
    with _matplotlib_settings(look, font):
        figure = Figure(figsize=(width, plot.height(table, look)), layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        plot.draw(axes, table, look)
        # Ticks fix their font when they are first drawn.
        figure.draw_without_rendering()
    return figure, table


def kinds() -> tuple[str, ...]:
    """Returns the names of all plots: first those for any number of runs, with those of studies, then the others."""
    any_number = [name for name, plot in PLOTS.items() if plot.runs == ANY]
    return tuple(dict.fromkeys([*any_number, *names_in_studies("plots"), *PLOTS, *CLAIMED]))


def find_plot(kind: str) -> Plot:
    """Returns the plot with a given name, be it of the core or of a study."""
    found: Plot | None = PLOTS.get(kind) or CLAIMED.get(kind)
    return found or cast(Plot, load(names_in_studies("plots")[kind]))


def check_kind(kind: str, with_claims: bool = False) -> None:
    """Raises BadArgument for an unknown kind of plot, or one that cannot show published results."""
    if kind not in kinds():
        raise BadArgument(f"There is no plot {kind!r}. Choose one of {', '.join(kinds())}.")
    if with_claims and kind not in CLAIMED:
        raise BadArgument(
            f"The plot {kind} cannot show published results: --published goes with {' or '.join(CLAIMED)}."
        )


def _with_published_claims(kind: str, table: pd.DataFrame, published: Sequence[PublishedResult]) -> pd.DataFrame:
    """Adds rows of published claims that have the plot's values to a table of runs; `claimed` marks them."""
    rows = [
        {"run": f"{result.title} (claimed)", "PQ": result.PQ, kind: getattr(result, kind), "source": result.source}
        for result in published
        if getattr(result, kind) is not None
    ]
    if not rows:
        raise BadArgument(f"None of these published results states its {CLAIMED[kind].description.split()[-1]}.")
    claims = pd.DataFrame(rows).assign(claimed=True)
    both = pd.concat([table.assign(claimed=False), claims], ignore_index=True) if len(table) else claims
    return both.reindex(columns=[*dict.fromkeys([*table.columns, "claimed", "source"])])


def write_plot(
    kind: str,
    members: Sequence[Compared],
    out: str | os.PathLike[str],
    *,
    published: Sequence[PublishedResult] = (),
    data: bool = False,
    raw: bool = False,
    width: float = 7.0,
    dpi: float = 200,
    font: str | None = None,
    font_size: float | None = None,
) -> list[Path]:
    """Writes a plot as PNG, SVG or PDF and, with `data`, its table next to it as CSV (fractions 0–1).

    raw: leave names unescaped that a spreadsheet would run as a formula
    """
    target = Path(out)
    figure, table = draw_plot(kind, members, published=published, width=width, font=font, font_size=font_size)
    save_figure(figure, target, dpi=dpi)
    if not data:
        return [target]
    csv_path = target.with_suffix(".csv")
    with atomic_write(csv_path, "w") as handle:
        handle.write((table if raw else table.map(for_spreadsheet)).to_csv(index=False, lineterminator="\n"))
    return [target, csv_path]


@contextmanager
def _matplotlib_settings(look: Look, font: str | None) -> Iterator[None]:
    """Applies matplotlib's settings for a look while a plot is drawn: one font family, two sizes."""
    import matplotlib as mpl
    from matplotlib import font_manager

    settings: dict[str, Any] = {
        "font.size": look.size,
        "axes.labelsize": look.size,
        "xtick.labelsize": look.small,
        "ytick.labelsize": look.small,
        "legend.fontsize": look.small,
        "lines.markersize": 0.7 * look.size,
        "axes.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "grid.linewidth": 0.6,
        "grid.color": "#e6e8ec",
        "legend.frameon": False,
        "legend.borderaxespad": 0.2,
        "legend.columnspacing": 1.2,
        "legend.handletextpad": 0.4,
        "legend.handlelength": 1.4,
    }
    if font is not None:
        try:
            font_manager.findfont(font, fallback_to_default=False)
        except ValueError:
            raise BadArgument(f"The font {font!r} is not installed. `fc-list : family` lists those that are.") from None
        settings["font.family"] = font
    with mpl.rc_context(cast(Any, settings)):
        yield


def runs_of(table: pd.DataFrame) -> list[str]:
    """Returns the labels of the runs in a table, each once, in their order."""
    return list(dict.fromkeys(table["run"]))


def _escape_tex(text: str) -> str:
    """Escapes text that matplotlib would read as TeX or, at its start, as "not in the legend": names are untrusted."""
    return text.replace("$", r"\$") if not text.startswith("_") else "\u200b" + text.replace("$", r"\$")


def add_legend(axes: "Axes", look: Look, names: Sequence[str]) -> None:
    """Draws the legend above the plot, in as many columns as fit; constrained layout reserves its room."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure()
    assert figure is not None
    figure.legend(handles, labels, loc="outside upper left", ncols=look.columns(names))


def _draw_intervals(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
    """Draws the PQ of each run with its interval, one row per run."""
    for index, row in enumerate(table.itertuples()):
        style = look.of(row.run)
        if row.low == row.low:
            axes.plot([100 * row.low, 100 * row.high], [index, index], color=style["color"], linewidth=1.6)
        axes.plot([100 * row.PQ], [index], linestyle="", **style)
    axes.set_yticks(range(len(table)), [look.lines(name) for name in table["run"]])
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("PQ with 95 % interval")
    axes.grid(axis="x")


def _pq_by(column: str, label: str) -> "Callable[[Axes, pd.DataFrame, Look], None]":
    """Returns a function that draws PQ against a column, such as params, on a logarithmic axis."""

    def draw(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
        """Draws PQ against a number such as parameters: a marker per run, and published results as hollow circles."""
        from matplotlib.ticker import NullLocator

        measured = table[~table["claimed"].astype(bool)] if "claimed" in table else table
        claims = table[table["claimed"].astype(bool)] if "claimed" in table else table[:0]
        for row in measured.itertuples():
            style, at = look.of(row.run), getattr(row, column)
            if row.low == row.low:
                axes.plot([at, at], [100 * row.low, 100 * row.high], color=style["color"], linewidth=1.2)
            axes.plot([at], [100 * row.PQ], linestyle="", label=look.lines(row.run, 0.8), **style)
        axes.set_xscale("log")
        low, high = table[column].min() / 1.35, table[column].max() * 1.35
        axes.set_xlim(low, high)
        ticks = _log_ticks(low, high, 4 if look.width < COLUMN else 7)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(ticks, [_short_number(tick) for tick in ticks])
        axes.set_xlabel(label)
        axes.set_ylabel("PQ")
        axes.grid()
        if len(claims):
            axes.plot(
                claims[column], 100 * claims["PQ"], linestyle="", marker="o", markerfacecolor="none",
                color=_CLAIM, label="claimed, not measured here",
            )  # fmt: skip
            _label_points(axes, look, list(claims["run"]), claims[column], 100 * claims["PQ"])
        add_legend(axes, look, [*measured["run"], *(["claimed, not measured here"] if len(claims) else [])])

    return draw


_CLAIM = "#565c68"


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Spot:
    """Position of a name relative to its point: offset in points, and alignment of the text."""

    dx: float
    dy: float
    across: str
    up: str

    def label_box(self, x: float, y: float, wide: float, high: float) -> Box:
        """Returns left, low, right, top of a text of this size next to the point (x, y)."""
        left = x + self.dx - {"left": 0.0, "right": wide, "center": wide / 2}[self.across]
        low = y + self.dy - {"bottom": 0.0, "top": high, "center": high / 2}[self.up]
        return left, low, left + wide, low + high


def _label_points(axes: "Axes", look: Look, names: Sequence[str], xs: pd.Series, ys: pd.Series) -> None:
    """Writes a name next to each point of a plot, where it covers the fewest other points and names."""
    size = look.small - 1
    figure = cast("Figure", axes.figure)
    # Constrained layout moves the axes only a little afterwards, and only neighbours matter here.
    figure.draw_without_rendering()
    points = axes.transData.transform(np.column_stack([xs, ys])) * 72 / figure.dpi
    left, low, right, top = (float(end) * 72 / figure.dpi for end in axes.get_window_extent().extents)
    edges = (left, low, right, top)
    taken: list[Box] = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    high = 1.15 * size
    lines = (("center", 0.0), ("bottom", 4.0), ("top", -4.0), ("bottom", 4 + high), ("top", -4 - high))
    sides = (("left", 6.0), ("right", -6.0), ("center", 0.0))
    spots = [_Spot(dx, dy, across, up) for up, dy in lines for across, dx in sides if dx or dy]
    for name, (x, y), at in zip(names, points, zip(xs, ys, strict=True), strict=True):
        text = _escape_tex(name.removesuffix(" (claimed)"))
        wide = 0.56 * size * len(text)
        boxes = {spot: spot.label_box(x, y, wide, high) for spot in spots}
        best = min(spots, key=lambda spot: _label_overlap(boxes[spot], taken, edges))
        taken.append(boxes[best])
        axes.annotate(
            text, at, (best.dx, best.dy), textcoords="offset points", ha=best.across, va=best.up, fontsize=size,
            color=_CLAIM,
        )  # fmt: skip


def _label_overlap(box: Box, taken: Sequence[Box], edges: Box) -> float:
    """Returns how much a box overlaps other boxes, in square points; lying outside the edges is far worse."""
    left, low, right, top = box
    outside = max(0.0, edges[0] - left, right - edges[2], edges[1] - low, top - edges[3])
    shared = (
        max(0.0, min(right, other[2]) - max(left, other[0])) * max(0.0, min(top, other[3]) - max(low, other[1]))
        for other in taken
    )
    return 1000 * outside + sum(shared)


def _draw_categories(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
    """Draws the PQ of each category, a row per category and a marker per run."""
    runs = runs_of(table)
    names = list(dict.fromkeys(table["name"]))
    for run in runs:
        own = table[table["run"] == run].set_index("name")["PQ"]
        axes.plot(
            [100 * own[name] for name in names],
            range(len(names)),
            linestyle="",
            label=look.lines(run, 0.8),
            **look.of(run),
        )
    axes.set_yticks(range(len(names)), [look.lines(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("PQ")
    axes.grid()
    add_legend(axes, look, runs)


def _shown_categories(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns the categories with the lowest PQ or, for several runs, the largest differences: at most MOST_BARS."""
    table = views.per_category(members).dropna(subset="PQ")
    scores = table.groupby("name")["PQ"]
    weight = scores.max() - scores.min() if len(members) > 1 else -scores.mean()
    chosen = weight.nlargest(MOST_BARS).index
    table = table[table["name"].isin(chosen)].copy()
    table["name"] = pd.Categorical(table["name"], list(chosen))
    return table.sort_values(["name"], kind="stable", ignore_index=True).astype({"name": str})


def _shown_causes(table: pd.DataFrame) -> list[str]:
    """Returns the causes to which any run loses PQ."""
    lost = table[table["lost"] > 0]
    return [name for name in table["cause"].cat.categories if (lost["cause"] == name).any()]


def _draw_causes(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
    """Draws the PQ that each run loses, as one bar per run, divided by cause."""
    runs, names = runs_of(table), _shown_causes(table)
    left = np.zeros(len(runs))
    for name in names:
        position = list(table["cause"].cat.categories).index(name)
        lost = 100 * table[table["cause"] == name].set_index("run")["lost"].reindex(runs).to_numpy()
        axes.barh(
            range(len(runs)), lost, left=left, label=name, edgecolor="white", linewidth=0.6,
            color=CAUSES_LIGHT[position % len(CAUSES_LIGHT)],
        )  # fmt: skip
        left += lost
    axes.set_yticks(range(len(runs)), [look.lines(run) for run in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlabel("Points of PQ lost to")
    add_legend(axes, look, names)


def _draw_slices(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
    """Draws the PQ of each slice, with a marker per run."""
    runs = runs_of(table)
    names = list(dict.fromkeys(table["slice"]))
    step = 0.7 / len(runs)
    for index, run in enumerate(runs):
        own = 100 * table[table["run"] == run].set_index("slice")["PQ"].reindex(names)
        rows = np.arange(len(names)) + (index - (len(runs) - 1) / 2) * step
        style = look.of(run)
        axes.hlines(rows, 0, own, color=style["color"], linewidth=1)
        axes.plot(own, rows, linestyle="", label=look.lines(run, 0.8), **style)
    axes.set_yticks(range(len(names)), [look.lines(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("PQ")
    axes.grid(axis="x")
    add_legend(axes, look, runs)


def _draw_thresholds(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
    """Draws the PQ of each run against the IoU that a match needs."""
    runs = runs_of(table)
    for run in runs:
        own = table[table["run"] == run]
        axes.plot(own["threshold"], 100 * own["PQ"], label=look.lines(run, 0.8), linewidth=1.2, **look.of(run))
    axes.set_xlabel("A match needs IoU above")
    axes.set_ylabel("PQ")
    axes.grid()
    add_legend(axes, look, runs)


def _draw_images(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
    """Draws a point per image: its PQ in one run against its PQ in the other."""
    first, second = (column for column in table.columns if column != "image_id")
    axes.plot([0, 100], [0, 100], color="#565c68", linewidth=0.8, linestyle="--")
    axes.plot(100 * table[first], 100 * table[second], linestyle="", marker=".", alpha=0.5, color="#3a3f4a")
    axes.set_xlim(0, 100)
    axes.set_ylim(0, 100)
    axes.set_aspect("equal")
    axes.set_xlabel(f"PQ of {look.lines(first, 0.6)}, image by image")
    axes.set_ylabel(f"PQ of {look.lines(second, 0.6)}")
    axes.grid()


def _image_pq_of_two_runs(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns the PQ of each image in two runs: image_id, and a column per run."""
    table = views.per_image(members).pivot(index="image_id", columns="run", values="PQ")
    return table[[member.label for member in members]].dropna().rename_axis(columns=None).reset_index()


def _draw_confusion(axes: "Axes", table: pd.DataFrame, look: Look) -> None:
    """Draws the shares of each true category's pixels by predicted category, in shades."""
    wide = table.pivot(index="true", columns="predicted", values="share").fillna(0.0)
    names = list(dict.fromkeys(table["true"]))
    columns = [*names, *(["void"] if "void" in wide.columns and "void" not in names else [])]
    grid = 100 * wide.reindex(index=names, columns=columns, fill_value=0.0).to_numpy()
    axes.imshow(grid, cmap="Blues", vmin=0, vmax=100)
    for row, line in enumerate(grid):
        for column, share in enumerate(line):
            if share >= (5 if look.width < COLUMN else 0.5):
                ink = "white" if share > 60 else "black"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=look.small - 1, color=ink)
    axes.set_xticks(range(len(columns)), [look.lines(name, 0.3) for name in columns], rotation=90)
    axes.set_yticks(range(len(names)), [look.lines(name, 0.3) for name in names])
    axes.set_xlabel("Predicted")
    axes.set_ylabel("True (percent of its pixels)")
    axes.spines[:].set_visible(False)


def _most_confused(members: Sequence[Compared]) -> pd.DataFrame:
    """Returns the confusion of pixels between categories, for the MOST_CONFUSED categories that are confused most."""
    table = views.confusion(members)
    wrong = table[(table["true"] != table["predicted"]) & (table["predicted"] != "void")]
    weight = wrong.groupby("true")["share"].sum().add(wrong.groupby("predicted")["share"].sum(), fill_value=0)
    weight = weight.reindex(list(dict.fromkeys(table["true"])), fill_value=0)
    chosen = set(weight.nlargest(MOST_CONFUSED).index)
    names = [category.name for category in members[0].categories if category.name in chosen]
    shown = table[table["true"].isin(names) & table["predicted"].isin([*names, "void"])].copy()
    shown["true"] = pd.Categorical(shown["true"], names)
    return shown.sort_values("true", kind="stable", ignore_index=True).astype({"true": str})


def _runs_with_known(column: str) -> Callable[[Sequence[Compared]], pd.DataFrame]:
    """Returns a function that makes the table of runs whose PQ and another value, such as "params", are known."""
    return lambda members: views.overview(members).dropna(subset=["PQ", column]).reset_index(drop=True)


def _height_by_runs(table: pd.DataFrame, look: Look) -> float:
    """Returns the height in inches of a plot with one row per run."""
    return 0.55 + look.line + 1.25 * look.rows(runs_of(table))


def _total_height(look: Look, names: Sequence[str], plot: float) -> float:
    """Returns the height in inches of a figure: its plot, the legend of these names, and the axis labels."""
    return plot + look.legend_height(names) + 0.55


def _height_by_rows(column: str) -> "Callable[[pd.DataFrame, Look], float]":
    """Returns a function for the height in inches of a plot with a row per value of a column."""

    def height(table: pd.DataFrame, look: Look) -> float:
        """Returns a plot's height in inches: a row for each category or size, with space for all runs' markers."""
        runs, names = runs_of(table), list(dict.fromkeys(table[column].astype(str)))
        a_row = max(1.0, 0.75 * len(runs)) if column == "slice" else 1.0
        return _total_height(look, runs, max(1.0, a_row * look.rows(names)))

    return height


def _landscape_plot_height(table: pd.DataFrame, look: Look) -> float:
    """Returns the height in inches of a plot that is wider than high."""
    return _total_height(look, runs_of(table), 0.46 * look.width)


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """Returns at most `most` round numbers between low and high, more of them on a shorter axis."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    found: list[float] = []
    for factors in (
        (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
        (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
        (1, 1.5, 2, 3, 5, 7),
        (1, 2, 5),
        (1, 3),
        (1,),
    ):
        found = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(found) <= most:
            break
    return found


def _short_number(value: float) -> str:
    """Formats a number of an axis, short: 250k, 44M, 1.2G."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


PLOTS: Mapping[str, Plot] = {
    "intervals": Plot("PQ of each run with its 95 % interval", views.overview, _draw_intervals, _height_by_runs),
    "speed": Plot(
        "PQ against images a second",
        _runs_with_known("images_per_second"),
        _pq_by("images_per_second", "Images a second"),
        _landscape_plot_height,
    ),
    "params": Plot(
        "PQ against the number of parameters",
        _runs_with_known("params"),
        _pq_by("params", "Parameters"),
        _landscape_plot_height,
    ),
    "categories": Plot(
        f"PQ by category: the {MOST_BARS} in which the runs differ most, or of one run the lowest",
        _shown_categories,
        _draw_categories,
        _height_by_rows("name"),
    ),
    "causes": Plot(
        "what PQ is lost to",
        views.causes,
        _draw_causes,
        lambda table, look: _total_height(look, _shown_causes(table), 1.25 * look.rows(runs_of(table)) + 0.1),
    ),
    **{
        name: Plot(f"PQ by {slicing.title}", partial(views.slices, by=name), _draw_slices, _height_by_rows("slice"))
        for name, slicing in SLICINGS.items()
    },
    "thresholds": Plot("PQ as matches need a higher IoU", views.thresholds, _draw_thresholds, _landscape_plot_height),
    "confusion": Plot(
        "which categories' pixels are given to which",
        _most_confused,
        _draw_confusion,
        lambda table, look: 0.95 * look.width,
        runs=(1, 1),
    ),
    "images": Plot(
        "PQ of two runs, image by image",
        _image_pq_of_two_runs,
        _draw_images,
        lambda table, look: 0.95 * look.width,
        runs=(2, 2),
    ),
}
"""The core's plots for `panbench show plot`, by name; studies add more (`kinds`)."""

CLAIMED: Mapping[str, Plot] = {
    "params": PLOTS["params"],
    "gflops": Plot(
        "PQ against published GFLOPs",
        _runs_with_known("gflops"),
        _pq_by("gflops", "GFLOPs, as published"),
        _landscape_plot_height,
    ),
}
"""Plots that can include published results; those not in PLOTS need one for each run's model, or --published."""
