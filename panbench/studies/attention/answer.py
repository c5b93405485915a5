"""Draws what a model's queries look at, layer by layer: in a photograph, or in an image of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panbench.base.errors import BadArgument, BadModel, BadRun
from panbench.base.reporter import SILENT, Reporter
from panbench.catalog import WITHOUT_QUERIES, ModelSpec, find_model, load_catalog, no_queries
from panbench.panoptic.types import AttendedQuery, Scene
from panbench.report.figures.pictures import Photo, Pictures, outlines, read_photo
from panbench.runs import ModelRecord, load_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


Wishes = Mapping[str, Any]
"""The queries, category and layers to draw: arguments of `models.attention.attended_queries`."""


def attention_in_photo(
    spec: ModelSpec, photo: Path, wishes: Wishes, *, download: bool = False, reporter: Reporter = SILENT
) -> "Figure":
    """Draws the attention of a model's queries over a photograph."""
    pixels = read_photo(photo)
    from panbench.models.predict import scene_of

    return _open_model_and_draw_attention(
        spec, "auto", scene_of(photo, 1, *pixels.shape[:2]), pixels, download, reporter, wishes
    )


def attention_in_run(
    run: Path, image: int, wishes: Wishes, *, spec: ModelSpec | None = None, reporter: Reporter = SILENT
) -> "Figure":
    """Draws the attention over one image of a run, with the run's model and weights.

    spec: the model, if the catalog does not list it
    Raises BadRun and BadModel if the run does not say which model made it.
    """
    stored = load_run(run)
    described = stored.info.model
    stored.require_model("inspect")
    if described is None or not described.config:
        raise BadRun(f"{stored.name} holds scored predictions: there is no model to inspect.")
    pictures = Pictures(stored)
    pixels, path = pictures.photo(image), pictures.path(image)
    if described.random_weights or described.weights is None:
        raise BadRun(f"{stored.name} was made with random weights, which are not stored. Name another run.")
    if not Path(described.weights).is_file():
        raise BadRun(f"The weights of {stored.name}, {described.weights}, were not found. Put them back.")
    spec = spec or _catalogued_model(described)
    if spec.family in WITHOUT_QUERIES:
        raise no_queries(spec.title)
    from panbench.models.predict import scene_of

    scene = scene_of(path, image, *pixels.shape[:2])
    if stored.info.arguments.get("exif") == "ignore":
        scene = replace(scene, exif="ignore")
    return _open_model_and_draw_attention(spec, described.weights, scene, pixels, False, reporter, wishes)


def _open_model_and_draw_attention(
    spec: ModelSpec, weights: str, scene: Scene, pixels: Photo, download: bool, reporter: Reporter, wishes: Wishes
) -> "Figure":
    """Opens a model and draws what its queries look at in a photograph."""
    # Imports torch, which takes seconds: run, photograph and family are checked first.
    from panbench.models.opening import open_model

    model = open_model(spec, weights=weights, speedups=False, download=download, reporter=reporter)
    return attention_figure(pixels, model.attend(scene, **wishes), spec.title)


def _catalogued_model(described: ModelRecord) -> ModelSpec:
    """Finds the model of a run in the catalog, by name.

    The config that run.json names is not run: it is a Python file, and a run, which may come from anybody, is data.
    """
    if described.name in load_catalog():
        return find_model(str(described.name))
    raise BadModel(
        f"The run's model {described.name} is not in the catalog. Its config, {described.config}, is a Python file, "
        "which panbench runs only when you name it: add --model FILE.py."
    )


MOST_CELLS = 400


def attention_figure(
    photo: Photo, queries: Sequence[AttendedQuery], model: str = "", *, width: float = 7.0
) -> "Figure":
    """Draws one row per query and one panel per layer: attention as heat over the grey photograph, brightest = most.

    The line is the mask predicted after the layer; regions that masked attention hid from the query are dark. Each
    panel has its own scale, from 0 to its largest weight. Raises BadArgument for more than MOST_CELLS panels.
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
    for x, text, side in ((0.005, note, "left"), (0.995, model, "right")):
        figure.text(x, 0.08 / height, text, fontsize=min(7, width), va="bottom", ha=side, parse_math=False)
    return figure
