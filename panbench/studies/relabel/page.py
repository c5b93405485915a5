"""The page of `panbench relabel`: tables, and pictures of each suspect label; one HTML file without scripts.

Each suspect has a strip of pictures: the photograph, both truths and the models' predictions, cropped around the
suspect. The suspect segment and the models' segments are outlined.
"""

import base64
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panbench import __version__
from panbench.base.errors import BadDataset
from panbench.base.files import atomic_write, write_json, write_text
from panbench.base.reporter import SILENT, Reporter
from panbench.panoptic import pixels
from panbench.panoptic.coco import read_ids
from panbench.panoptic.types import PanopticSet
from panbench.report.answers.grid import ABSENT
from panbench.report.figures.pictures import Layer, Photo, blend, paint, read_photo, segment_colors
from panbench.report.pages.rendering import FOOTER, whole_page
from panbench.studies.relabel.answer import TRUTH_NAMES, Relabelling
from panbench.studies.relabel.suspects import KINDS

PICTURED = 60
"""The default number of suspects per truth that are shown with pictures."""

HEIGHT, WIDEST = 150, 190
_EDGE, _AROUND = (255, 238, 0), (0, 0, 0)


def write_relabelling(
    found: Relabelling, out: Path, *, images: Path | None = None, pictured: int = PICTURED, reporter: Reporter = SILENT
) -> list[Path]:
    """Writes index.html, relabel.json and a CSV of suspects per truth into a folder; returns their paths.

    images: the folder of photographs; None leaves photographs out. pictured: the number of suspects per truth on the
    page. Raises BadDataset if `images` is not a folder.
    """
    if images is not None and not images.is_dir():
        raise BadDataset(f"There is no folder {images} with the photographs. Name it with --images, or leave it out.")
    paths = [out / "relabel.json", *(out / f"suspects-{name}.csv" for name in TRUTH_NAMES), out / "index.html"]
    write_json(paths[0], found.record())
    for side in (0, 1):
        with atomic_write(paths[1 + side], "w") as handle:
            handle.write(found.csv(side))
    page = _relabelling_page(found, images, pictured, reporter)
    write_text(paths[-1], page)
    return paths


def _relabelling_page(found: Relabelling, images: Path | None, pictured: int, reporter: Reporter) -> str:
    made = f"{found.images:,} images · {datetime.now(timezone.utc):%Y-%m-%d} · panbench {__version__}"
    return whole_page(
        "panbench.studies.relabel:page.html",
        title="Two truths",
        subtitle=made,
        footer=FOOTER,
        styles=("panbench.studies.relabel:page.css",),
        message=found.message,
        truths=[(name, truth.path) for name, truth in zip(TRUTH_NAMES, found.truths, strict=True)],
        grids=found.grids(0),
        sides=[_suspect_facts(found, side, images, pictured, reporter) for side in (0, 1)],
    )


def _suspect_facts(
    found: Relabelling, side: int, images: Path | None, pictured: int, reporter: Reporter
) -> dict[str, Any]:
    """Returns a truth's disputed labels for the template: their number, their kinds, and pictures of the first ones."""
    table = found.suspects[side]
    top = table[:pictured]
    cards = []
    for index, row in enumerate(top.itertuples()):
        reporter.progress(f"Pictures of {TRUTH_NAMES[side]}", index + 1, len(top))
        cards.append(_suspect_card(found, side, row, images))
    kinds = [kind for kind in KINDS if (top["kind"] == kind.name).any()]
    return {"name": TRUTH_NAMES[side], "suspects": len(table), "kinds": kinds, "cards": cards}


def _suspect_card(found: Relabelling, side: int, row: Any, images: Path | None) -> dict[str, Any]:
    """Returns what the page shows of one label that looks wrong: its table row, category names and pictures."""
    other = TRUTH_NAMES[1 - side]
    other_truth = {"models": f"{other} agrees with the models", "label": f"{other} has this label, too"}.get(row.other)
    return {
        "row": row,
        "label": found.name_of(int(row.category_id)) if row.kind != "unlabelled" else "nothing",
        "suggested": found.name_of(int(row.suggested_id)),
        "other": other_truth,
        "tiles": [
            {"title": title, "source": _jpeg_data_url(tile), "width": tile.shape[1], "height": tile.shape[0]}
            for title, tile in _suspect_tiles(found, side, row, images)
        ],
    }


def _jpeg_data_url(tile: Photo) -> str:
    """Returns a picture as a data: URL, encoded as JPEG."""
    return "data:image/jpeg;base64," + base64.b64encode(pixels.encode_jpeg(tile, 85)).decode()


def _suspect_tiles(found: Relabelling, side: int, row: Any, images: Path | None) -> list[tuple[str, Photo]]:
    """Returns titled pictures of a disputed label: the photograph, both ground truths, and each model's prediction."""
    image_id = int(row.image_id)
    layers: list[tuple[str, Layer, int]] = []
    for index, truth in enumerate(found.truths):
        marked = int(row.segment_id) if index == side and row.kind != "unlabelled" else 0
        layers.append((TRUTH_NAMES[index], _map_layer(truth, image_id), marked))
    answers = list(row.answers) or [0] * len(found.answers)
    for answer, segment in zip(found.answers, answers, strict=True):
        layers.append((answer.name, _map_layer(answer.panoptic, image_id), int(segment)))
    shape = layers[0][1].ids.shape
    photo = _photo_of_truth(found, images, image_id, shape)
    marks = [layer.ids == marked for _, layer, marked in layers if marked]
    window = _window_around(np.any(marks, axis=0) if marks else np.ones(shape, np.bool_), shape)
    titles = {category.id: category.name for category in found.categories}
    tiles = [] if photo is None else [("Photograph", _crop_tile(photo, None, window))]
    ground: Photo = np.full((*shape, 3), 128, np.uint8) if photo is None else photo
    for name, layer, marked in layers:
        painted = blend(ground, paint(layer, segment_colors(layer, found.categories)), 0.6)
        mask = layer.ids == marked if marked else None
        text = next((titles.get(s.category_id, ABSENT) for s in layer.segments if s.id == marked), None)
        tiles.append((f"{name}: {text}" if text else name, _crop_tile(painted, mask, window)))
    return tiles


def _map_layer(panoptic: PanopticSet, image_id: int) -> Layer:
    """Reads an image's id map with its segments, ready to be painted."""
    ids = read_ids(panoptic, image_id)
    return Layer.of("", ids, panoptic.annotations[image_id].segments)


def _photo_of_truth(found: Relabelling, images: Path | None, image_id: int, shape: tuple[int, ...]) -> Photo | None:
    """Reads the photograph if it exists and has the truth's size, with or without its EXIF rotation."""
    named = next((truth.images[image_id] for truth in found.truths if image_id in truth.images), None)
    if images is None or named is None:
        return None
    for turned in (True, False):
        try:
            photo = read_photo(images / named.file_name, turned=turned)
        except BadDataset:
            return None
        if photo.shape[:2] == shape:
            return photo
    return None


Window = tuple[int, int, int, int]


def _window_around(mask: npt.NDArray[np.bool_], shape: tuple[int, ...]) -> Window:
    """Returns top, left, bottom, right of a mask's box with a margin of half its longer edge."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    margin = max(16, round(0.5 * max(bottom - top, right - left)))
    return max(0, top - margin), max(0, left - margin), min(shape[0], bottom + margin), min(shape[1], right + margin)


def _crop_tile(picture: Photo, mask: npt.NDArray[np.bool_] | None, window: Window) -> Photo:
    """Crops a picture to the window, scales it to a tile, and outlines the mask if there is one."""
    top, left, bottom, right = window
    height, width = bottom - top, right - left
    scale = min(HEIGHT / height, WIDEST / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    tile = picture[top:bottom, left:right]
    tile = np.array(pixels.shrink(tile, size) if scale < 1 else pixels.nearest(tile, size))
    if mask is not None:
        small = pixels.nearest(mask[top:bottom, left:right], size)
        # A pixel of the mask is at its edge if a neighbour is outside.
        edge = small & pixels.dilate(~small, 3)
        tile[pixels.dilate(edge, 5)] = _AROUND
        tile[pixels.dilate(edge, 3)] = _EDGE
    return tile
