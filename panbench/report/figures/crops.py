"""Errors as figures: which of a run's fit what is asked for, and their crops in a grid."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.text import listed
from panbench.metrics.errors import CAUSES
from panbench.metrics.fixes import SIZES
from panbench.panoptic.image_ids import own_id
from panbench.report.answers.fixes import fix_words
from panbench.report.answers.grid import percent
from panbench.report.answers.views import Compared
from panbench.report.figures.cutting import Crop, Cutter, Polygon, PricedError
from panbench.report.figures.pictures import MISSED, Pictures, RunPictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["crops_figure", "draw_crop", "errors_figure", "errors_of", "fitting_errors"]

PREDICTED = "#d9601a"
"""The colour of outlines of predictions, which are solid; those of the truth are broken, as of what is missed."""


def draw_crop(axes: Axes, crop: Crop, outlines: Sequence[Polygon], title: str = "", note: str = "") -> None:
    """A crop in matplotlib axes: photograph, the truth broken, `outlines` of predictions solid, and words around it."""
    from matplotlib.collections import LineCollection

    height, width = crop.photo.shape[:2]
    axes.imshow(crop.photo, extent=(0, width, height, 0), interpolation="bilinear")
    predicted, true = ([np.concatenate([line, line[:1]]) for line in lines] for lines in (outlines, crop.truth))
    # A white line beneath, so that outlines show on any photograph; predictions show in the gaps of the truth's line.
    axes.add_collection(LineCollection([*predicted, *true], colors="white", linewidths=2.2))
    axes.add_collection(LineCollection(predicted, colors=PREDICTED, linewidths=1.2))
    axes.add_collection(LineCollection(true, colors=MISSED, linewidths=1.2, linestyles=[(0, (3, 2))]))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    axes.set_title(title, fontsize=7, pad=2, loc="left", parse_math=False)
    if note:
        axes.text(0, -0.02, note, transform=axes.transAxes, fontsize=6.5, va="top", color="#565c68", parse_math=False)


def crops_figure(
    crops: Sequence[Crop],
    titles: Sequence[tuple[str, str]],
    *,
    against: int | None = None,
    against_label: str = "",
    columns: int = 4,
    width: float = 7.0,
) -> Figure:
    """Crops in a grid, each with (title, note); with `against`, beside each what that model has there."""
    from matplotlib.figure import Figure

    beside = 1 if against is None else 2
    across = min(max(1, columns // beside), max(1, len(crops)))
    down = -(-len(crops) // across)
    cell = width / (across * beside)
    head, foot, above = 0.2, 0.22, 0.3
    height = down * (cell + head + foot) + above
    figure = Figure(figsize=(width, height))
    words = "broken line: the true object; solid: what is predicted"
    figure.text(0.01, 1 - 0.18 / height, words, fontsize=7, color="#565c68")
    for place, (crop, (title, note)) in enumerate(zip(crops, titles, strict=True)):
        row, column = divmod(place, across)
        for side in range(beside):
            left = (column * beside + side) * cell
            top = above + row * (cell + head + foot) + head
            axes = figure.add_axes(
                ((left + 0.03) / width, 1 - (top + cell) / height, (cell - 0.06) / width, cell / height)
            )
            if side == 0:
                draw_crop(axes, crop, crop.predicted, title, note)
                continue
            answer = crop.answers[cast(int, against)]
            said = "kept no predictions" if answer is None else answer.words
            draw_crop(axes, crop, answer.outlines if answer else (), "", f"{against_label}: {said}")
    return figure


def errors_of(table: pd.DataFrame) -> Iterator[PricedError]:
    """The rows of `priced_errors`, in their order."""
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
    """The dearest errors of the first run, cut out; of two runs, beside each what the second has there.

    cause, category, size: only such errors; images: only in these. Raises BadArgument for an unknown word and where no
    error fits, BadRun without stored predictions, and BadDataset where no picture can be read.
    """
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
            fix_words(crop.error.cause, names[crop.error.category_id], crop.error.size),
            f"+{percent(crop.error.gain)} · image {own_id(crop.error.image_id)}",
        )
        for crop in cut
    ]
    other = None if len(members) < 2 else 1
    label = "" if other is None else members[other].label
    return crops_figure(cut, titles, against=other, against_label=label, columns=columns, width=width)


def fitting_errors(
    member: Compared,
    cause: str | None = None,
    category: str | None = None,
    size: str | None = None,
    images: Collection[int] | None = None,
) -> pd.DataFrame:
    """The rows of `priced_errors` of a run, the dearest first: only of a cause, category (its name) and size, and in
    some images. Raises BadArgument for an unknown cause, category or size."""
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
