"""Draws single errors: selects a run's errors and draws their crops in a grid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.text import listed
from panbench.metrics.errors import CAUSES
from panbench.metrics.fixes import SIZES
from panbench.panoptic.image_ids import own_id
from panbench.report.answers.fixes import error_words
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.figures.colors import ERRORS
from panbench.report.figures.cutting import Answer, Crop, Cutter, Polygon, PricedError
from panbench.report.figures.pictures import STROKES, Pictures, RunPictures, draw_error_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_crop(axes: Axes, crop: Crop, title: str = "", note: str = "", answer: Answer | None = None) -> None:
    """Draws a crop into matplotlib axes, with outlines in the style of all errors (STROKES), and words around it.

    answer: another model's answer, drawn instead of the run's own prediction
    """
    from matplotlib.collections import LineCollection, PolyCollection
    from matplotlib.patches import Rectangle

    height, width = crop.photo.shape[:2]
    axes.imshow(crop.photo, extent=(0, width, height, 0), interpolation="bilinear")

    def stroke(lines: Sequence[Polygon], color: str, under: str, broken: bool = False) -> None:
        """Draws closed outlines in a colour, over wider ones in the colour `under`."""
        closed = [np.concatenate([line, line[:1]]) for line in lines]
        axes.add_collection(LineCollection(closed, colors=under, linewidths=2.4))
        axes.add_collection(
            LineCollection(closed, colors=color, linewidths=1.3, linestyles=[(0, (3, 2)) if broken else "solid"])
        )

    kind = crop.kind
    if answer is not None:
        stroke(answer.outlines, "white", "black")
    elif kind == "false":
        axes.add_collection(PolyCollection(crop.predicted, facecolors=ERRORS[kind], alpha=0.45))
    if answer is None:
        stroke(crop.predicted, ERRORS[kind], STROKES[kind][0])
    if not answer.outlines if answer is not None else kind != "confused":
        of_truth = "bad mask" if kind == "bad mask" else "missed"
        stroke(crop.truth, ERRORS[of_truth], STROKES[of_truth][0], broken=True)
    x, y, across, down = crop.box
    # A small map shows where the crop lies in its image, if it is a small part of it.
    scale = 0.22 * width / max(crop.shape)
    frame = width - scale * crop.shape[1] - 0.03 * width, 0.03 * width
    parts = (
        (frame, (scale * crop.shape[1], scale * crop.shape[0]), "black"),
        ((frame[0] + scale * x, frame[1] + scale * y), (scale * across, scale * down), "white"),
    )
    for corner, size, color in parts if 2 * across * down < crop.shape[0] * crop.shape[1] else ():
        axes.add_patch(Rectangle(corner, *size, facecolor=color, edgecolor="white", linewidth=0.6, alpha=0.75))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    axes.set_title(title, fontsize=7, pad=2, loc="left", parse_math=False)
    if note:
        axes.text(0, -0.02, note, transform=axes.transAxes, fontsize=6.5, va="top", color="#565c68", parse_math=False)


def errors_of(table: pd.DataFrame) -> Iterator[PricedError]:
    """Yields the rows of a table of errors, each with the PQ that fixing it gains, as `PricedError` tuples."""
    return (PricedError(*row) for row in table[list(PricedError._fields)].itertuples(index=False, name=None))


def errors_figure(
    members: Sequence[Compared],
    pictures: Pictures,
    *,
    cause: str | None = None,
    category: str | None = None,
    size: str | None = None,
    images: Collection[int] | None = None,
    most: int = 12,
    columns: int = 4,
    width: float = 7.0,
) -> Figure:
    """Returns a figure of the first run's costliest errors; a second run's prediction is next to each.

    cause, category, size: only such errors; images: only in these. Raises BadArgument for an unknown word and if no
        error matches, BadRun without stored predictions, and BadDataset if no picture can be read.
    """
    from matplotlib.figure import Figure

    table = fitting_errors(members[0], cause, category, size, images)
    chosen = list(islice(errors_of(table), most))
    if not chosen:
        raise BadArgument(f"{members[0].label} has no such error.")
    sources = [RunPictures(member.run, member.label) for member in members]
    for source in sources:
        source.png_path(chosen[0].image_id, pictures)
    crops, faults = Cutter(sources, pictures).cut([(0, one) for one in chosen])
    cut = [crop for crop in crops if crop is not None]
    if not cut:
        raise BadDataset(faults[0])
    names = {one.id: one.name for one in members[0].categories}
    titles = [
        (
            error_words(crop.error.cause, _category_text(crop, names), crop.error.size),
            f"+{percent(crop.error.gain)} · image {own_id(crop.error.image_id)}",
        )
        for crop in cut
    ]
    heading = ", and beside it ".join(member.label for member in members)
    per_error = len(members)
    across = min(max(1, columns // per_error), len(cut))
    cell, head, foot, above, below = width / (across * per_error), 0.2, 0.22, 0.3, 0.25
    height = -(-len(cut) // across) * (cell + head + foot) + above + below
    figure = Figure(figsize=(width, height))
    figure.text(0.01, 1 - 0.18 / height, heading, fontsize=8, parse_math=False)
    draw_error_legend(figure)
    for index, (crop, (title, note)) in enumerate(zip(cut, titles, strict=True)):
        row, column = divmod(index, across)
        for side, member in enumerate(members):
            left = (column * per_error + side) * cell
            top = above + row * (cell + head + foot) + head
            axes = figure.add_axes(
                ((left + 0.03) / width, 1 - (top + cell) / height, (cell - 0.06) / width, cell / height)
            )
            if side == 0:
                draw_crop(axes, crop, title, note)
            else:
                answer = crop.answers[side] or Answer("kept no predictions", ())
                draw_crop(axes, crop, "", f"{member.label}: {answer.words}", answer)
    return figure


def _category_text(crop: Crop, names: Mapping[int, str]) -> str:
    """Returns the category of an error in words; of a wrong category "book → clock"."""
    return " → ".join(names[one] for one in crop.taken or (crop.error.category_id,))


def fitting_errors(
    member: Compared,
    cause: str | None = None,
    category: str | None = None,
    size: str | None = None,
    images: Collection[int] | None = None,
) -> pd.DataFrame:
    """Returns a run's errors of a given cause, category, size and images, those that cost most PQ first.

    Only errors of a cause, category (its name) and size, and in some images. Raises BadArgument for an unknown cause,
    category or size.
    """
    table = member.priced
    kinds = {
        "cause": (cause, [one.name for one in CAUSES], "cause"),
        "category": (category, [one.name for one in member.categories], "category_id"),
        "size": (size, list(SIZES), "size"),
    }
    for kind, (word, known, column) in kinds.items():
        if word is None:
            continue
        if word not in known:
            raise BadArgument(f"There is no {kind} {word!r}. Choose from {listed(known, 20)}.")
        ids = [one.id for one in member.categories if one.name == word]
        table = table[table[column].isin(ids if column == "category_id" else [word])]
    return table if images is None else table[table["image_id"].isin(list(images))]
