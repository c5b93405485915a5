"""One page of PDF: the verdict, the table, what PQ is lost to, and the six dearest errors of the best run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from panbench.base.errors import PanbenchError
from panbench.metrics.errors import CAUSES
from panbench.report.answers.comparison import Standing
from panbench.report.answers.fixes import fix_sentence, fix_words
from panbench.report.answers.grid import ABSENT, percent
from panbench.report.answers.views import Compared, causes
from panbench.report.figures.crops import draw_crop, errors_of
from panbench.report.figures.cutting import Crop, Cutter
from panbench.report.figures.pictures import Pictures, RunPictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["one_page"]

PAGE = (8.27, 11.69)
"""A4, in inches."""

CROPS = 6

MOST_RUNS = 12
"""So many rows of the table fit; further runs are counted below it."""

WIDE = 112
"""Characters of a line of text."""

COLORS = ("#cc6677", "#332288", "#ddcc77", "#117733", "#88ccee", "#882255", "#44aa99", "#d9822b", "#aa4499")
"""Of the causes, as on the page."""

QUIET = "#565c68"


def one_page(members: Sequence[Compared], standing: Standing, title: str, pictures: Pictures) -> Figure:
    """The page, the best run first. Where no picture can be read, a sentence says why in the place of the errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=PAGE)
    top = _text(figure, 0.965, [title], size=14, weight="bold")
    said = [] if standing.verdict is None else standing.verdict.sentences
    words = " ".join("".join(clause.text for clause in sentence) for sentence in said)
    top = _text(figure, top - 0.012, textwrap.wrap(words, WIDE), size=8.5)
    to_fix = fix_sentence(members[0].to_fix, members[0].label)
    top = _text(figure, top - 0.006, textwrap.wrap(to_fix, WIDE), size=8.5, color=QUIET)
    top = _table(figure, top - 0.02, members)
    top = _losses(figure, top - 0.03, members[:MOST_RUNS])
    _errors(figure, top - 0.03, members[0], pictures)
    return figure


def _text(figure: Figure, top: float, lines: Sequence[str], **settings: object) -> float:
    """Writes lines from `top` downwards; where they end, as a fraction of the page."""
    size = float(str(settings.get("size", 8)))
    step = 1.35 * size / 72 / PAGE[1]
    for number, line in enumerate(lines):
        figure.text(0.07, top - number * step, line, va="top", parse_math=False, **settings)  # type: ignore[arg-type]
    return top - len(lines) * step


def _table(figure: Figure, top: float, members: Sequence[Compared]) -> float:
    heads = ("", "PQ", "95 % interval", "SQ", "RQ", "PQ things", "PQ stuff", "images")
    places = (0.07, 0.46, 0.575, 0.65, 0.72, 0.8, 0.87, 0.93)
    rows = []
    for member in members[:MOST_RUNS]:
        row = member.row
        known = row.PQ_low is not None and row.PQ_high is not None
        interval = f"{percent(row.PQ_low)} – {percent(row.PQ_high)}" if known else ABSENT
        scores = (percent(one) for one in (row.SQ, row.RQ, row.PQ_th, row.PQ_st))
        rows.append((textwrap.shorten(member.label, 44), percent(row.PQ), interval, *scores, f"{row.images:,}"))
    step = 0.0155
    for number, cells in enumerate((heads, *rows)):
        for place, (x, cell) in enumerate(zip(places, cells, strict=True)):
            color = QUIET if number == 0 else "black"
            side = "right" if place else "left"
            figure.text(x, top - number * step, cell, size=8, ha=side, va="top", color=color, parse_math=False)
    bottom = top - (1 + len(rows)) * step
    if len(members) > MOST_RUNS:
        return _text(figure, bottom, [f"and {len(members) - MOST_RUNS} more"], size=8, color=QUIET)
    return bottom


def _losses(figure: Figure, top: float, members: Sequence[Compared]) -> float:
    """Bars of what each run loses to each cause, in points of PQ."""
    table = causes(members)
    height = 0.022 * len(members) + 0.075
    _text(figure, top, ["What PQ is lost to, in points"], size=9, weight="bold")
    axes = figure.add_axes((0.3, top - height + 0.035, 0.63, height - 0.055))
    labels = [textwrap.shorten(member.label, 30) for member in members]
    for place, member in enumerate(members):
        left = 0.0
        for cause, color in zip(CAUSES, COLORS, strict=True):
            own = table[(table["run"] == member.label) & (table["cause"] == cause.name)]
            lost = 100 * float(own["lost"].iloc[0]) if len(own) else 0.0
            label = cause.name if place == 0 else None
            axes.barh(place, lost, left=left, color=color, edgecolor="white", linewidth=0.4, label=label)
            left += lost
    axes.set_yticks(range(len(members)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.tick_params(axis="x", labelsize=7)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    # In the order of CAUSES, beneath the axis.
    handles, names = axes.get_legend_handles_labels()
    spot = (0.5, top - height + 0.02)
    figure.legend(handles, names, loc="upper center", bbox_to_anchor=spot, ncols=len(CAUSES), fontsize=6, frameon=False,
                  columnspacing=0.9, handlelength=0.9, handletextpad=0.4)  # fmt: skip
    return top - height - 0.005


def _errors(figure: Figure, top: float, member: Compared, pictures: Pictures) -> None:
    crops, why = _dearest(member, pictures)
    of_sample = "" if member.folded is None else f", of {len(member.matched.image_ids):,} images"
    line = f"The dearest errors of {member.label}{of_sample}: + is the PQ that mending one would win, in points"
    top = _text(figure, top, [line], size=9, weight="bold")
    if not crops:
        _text(figure, top - 0.005, textwrap.wrap(why, WIDE), size=8, color=QUIET)
        return
    top = _text(figure, top - 0.002, ["Broken line: the true object; solid: what is predicted."], size=7, color=QUIET)
    names = {one.id: one.name for one in member.categories}
    width = 0.27
    height = min(width * PAGE[0] / PAGE[1], (top - 0.04) / 2 - 0.045)
    for place, crop in enumerate(crops):
        row, column = divmod(place, 3)
        axes: Axes = figure.add_axes(
            (0.07 + column * 0.295, top - 0.025 - height - row * (height + 0.045), width, height)
        )
        error = crop.error
        title = fix_words(error.cause, names[error.category_id], error.size)
        draw_crop(axes, crop, crop.predicted, title, f"+{percent(error.gain)} · image {error.image_id}")


def _dearest(member: Compared, pictures: Pictures) -> tuple[list[Crop], str]:
    """The crops, or why there are none."""
    chosen = list(islice(errors_of(member.priced), CROPS))
    if not chosen:
        return [], "There is none."
    source = RunPictures(member.run, member.label)
    try:
        source.png_path(chosen[0].image_id, pictures)
        crops, faults = Cutter([source], pictures).cut([(0, one) for one in chosen])
    except PanbenchError as problem:
        return [], str(problem)
    cut = [crop for crop in crops if crop is not None]
    return cut, "" if cut else faults[0]
