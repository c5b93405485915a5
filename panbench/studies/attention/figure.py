"""What a query looked at, layer by layer, over the photograph. models/ reads it off a model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from panbench.base.errors import BadArgument
from panbench.report.figures.pictures import Photo, outlines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from panbench.panoptic.attention import AttendedQuery

__all__ = ["attention_figure"]

MOST_CELLS = 400


def attention_figure(photo: Photo, queries: Sequence[AttendedQuery], *, width: float = 7.0) -> "Figure":
    """A row for each query, a panel for each layer: attention as heat over the grey photograph, brightest = most.

    The line is the mask that the layer's output led to; where masked attention let the query not look, the photograph
    is dark. Each panel has its own scale, from 0 to its largest weight. Raises BadArgument when it would have too many.
    """
    import matplotlib as mpl
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    if not queries:
        raise BadArgument("There is no query to show.")
    if not 0.5 <= width <= 60:
        raise BadArgument(f"A figure of {width:g} inches cannot be drawn. Give --width between 0.5 and 60.")
    columns = 1 + max(len(query.layers) for query in queries)
    if columns * len(queries) > MOST_CELLS:
        raise BadArgument(f"{len(queries)} queries in {columns - 1} layers are too many panels. Choose some.")
    gap, head, below = 0.04, 0.2, 0.32
    panel = (width - gap * (columns - 1)) / columns
    tall = panel * photo.shape[0] / photo.shape[1]
    height = len(queries) * (tall + head) + below
    figure = Figure(figsize=(width, height))
    grey = np.repeat(photo.mean(axis=2, keepdims=True), 3, axis=2) / 255
    heat = mpl.colormaps["inferno"]
    size = float(np.clip(panel * 72 / 11, 4, 8))
    for row, query in enumerate(queries):
        last = next((layer.mask for layer in reversed(query.layers) if layer.mask is not None), None)
        pictures = [(f"query {query.query}: {query.category} {query.score:.2f}", photo / 255, last)]
        for layer in query.layers:
            strength = layer.weights / max(float(layer.weights.max()), 1e-12)
            color = heat(0.12 + 0.88 * strength)[..., :3]
            share = np.clip(strength[..., None] * 1.3, 0, 0.85)
            base = (
                grey * 0.75 if layer.allowed is None else np.where(layer.allowed[..., None], grey * 0.75, grey * 0.18)
            )
            pictures.append((f"layer {layer.number}", base * (1 - share) + color * share, layer.mask))
        for column, (title, picture, mask) in enumerate(pictures):
            left, top = column * (panel + gap), row * (tall + head) + head
            axes = figure.add_axes((left / width, 1 - (top + tall) / height, panel / width, tall / height))
            axes.set_axis_off()
            axes.imshow((np.clip(picture, 0, 1) * 255).round().astype(np.uint8))
            if mask is not None:
                lines = outlines(mask.astype(np.int32))
                axes.add_collection(LineCollection(lines, colors="#33ddff", linewidths=0.8, capstyle="projecting"))
            axes.set_xlim(-0.5, photo.shape[1] - 0.5)
            axes.set_ylim(photo.shape[0] - 0.5, -0.5)
            if row == 0 or column == 0:
                axes.set_title(title, fontsize=size, pad=2, loc="left", parse_math=False)
    masked = any(layer.allowed is not None for query in queries for layer in query.layers)
    note = "Line: the mask that the layer led to. Bright: most attention, each panel on its own scale."
    note += " Dark: masked, the query could not look there." if masked else ""
    figure.text(0.005, 0.08 / height, note, fontsize=min(7, width), va="bottom")
    return figure
