"""Overlays as pixels: segments over a photograph at its own size, or at an integer multiple of it, without matplotlib.

A figure of `pictures.py` has vectors, axes and any width, but takes half a second; this is for many photographs.
"""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from panbench.base.files import atomic_write
from panbench.base.text import for_xml
from panbench.panoptic.types import Category, IdMap
from panbench.report.figures.pictures import Layer, Photo, blend, named_spots, paint, segment_colors

SIDE = 1000
"""Minimum of the longer side in pixels: a smaller photograph is enlarged, so that names can be read."""
FIGURE_POINTS = 504
"""Width of a figure in points: names are as large relative to the picture as in a figure."""


def overlay_picture(
    photo: Photo,
    layer: Layer,
    categories: Sequence[Category],
    *,
    opacity: float = 0.5,
    names: bool = True,
    scores: bool = False,
) -> Image.Image:
    """Draws a segment map over the photograph, enlarged by a whole factor if its longer side is under 1,000 pixels."""
    times = max(1, -(-SIDE // max(layer.ids.shape)))
    pixels = blend(photo, paint(layer, segment_colors(layer, categories)), opacity)
    pixels = pixels.repeat(times, axis=0).repeat(times, axis=1)
    pixels[_segment_edges(layer.ids.repeat(times, axis=0).repeat(times, axis=1))] = 255
    picture = Image.fromarray(pixels)
    if names:
        _draw_category_names(picture, layer, categories, scores, times)
    return picture


def save_picture(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a picture as PNG, atomically; the same picture gives the same bytes."""
    with atomic_write(Path(path)) as handle:
        picture.save(handle, "PNG", compress_level=3)


def _segment_edges(ids: IdMap) -> npt.NDArray[np.bool_]:
    """Marks (H, W) the pixels whose segment differs from that of the pixel above or to the left."""
    found = np.zeros(ids.shape, bool)
    found[1:] |= ids[1:] != ids[:-1]
    found[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    return found


def _draw_category_names(
    picture: Image.Image, layer: Layer, categories: Sequence[Category], scores: bool, times: int
) -> None:
    """Writes each segment's category at its roomiest spot, white on a dark box, if there is space for it."""
    point = max(picture.width, SIDE) / FIGURE_POINTS
    canvas = ImageDraw.Draw(picture, "RGBA")
    for _, name, *spot in named_spots(layer, categories, scores):
        x, y, room = (times * each for each in spot)
        if room < 3.5 * point:
            continue
        text = for_xml(name)
        font = ImageFont.truetype(_FONT, float(np.clip(room / 2, 4 * point, 8 * point)))
        left, top, right, bottom = canvas.textbbox((x, y), text, font, anchor="mm")
        # Inside the picture, if it is wide enough for the name.
        by = max(0.0, -left) - max(0.0, right - picture.width) if right - left < picture.width else 0.0
        pad = 0.12 * font.size
        box = (left + by - pad, top - pad, right + by + pad, bottom + pad)
        canvas.rounded_rectangle(box, radius=pad, fill=(0, 0, 0, 153))
        canvas.text((x + by, y), text, "white", font, anchor="mm")


# matplotlib's font covers most languages; matplotlib itself is not imported.
_FONT = str(Path(importlib.util.find_spec("matplotlib").origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf")  # type: ignore[union-attr,arg-type]
