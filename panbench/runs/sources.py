"""The ground truth and the predictions that run.json names.

Of a run that was merged from runs on JSONs of their own they are several, joined by ` + `.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

from panbench.base.addresses import is_elsewhere, recorded_path
from panbench.panoptic.coco import joined_set, png_folder, read_panoptic_json, read_png_names, read_predictions_json
from panbench.panoptic.types import PanopticSet

__all__ = ["exist", "ground_truth", "joined_text", "paths_in", "png_names", "predicted"]

_PLUS = " + "


def joined_text(paths: Iterable[str]) -> str:
    """What stands for several paths in run.json, each once."""
    return _PLUS.join(dict.fromkeys(paths))


def paths_in(text: str | os.PathLike[str]) -> list[Path]:
    """The paths that a text of run.json stands for: one, or those that were joined."""
    if not isinstance(text, str) and is_elsewhere(text):
        return [cast(Path, text)]
    text = os.fspath(text)
    return [recorded_path(text)] if os.path.lexists(text) else [recorded_path(piece) for piece in text.split(_PLUS)]


def exist(text: str | os.PathLike[str]) -> bool:
    """Whether all files that a text of run.json stands for are there."""
    return all(path.is_file() for path in paths_in(text))


def ground_truth(gt: str | os.PathLike[str], gt_dir: str | os.PathLike[str] | None = None) -> PanopticSet:
    """The ground truth that run.json names by JSON and folder of id PNGs. Raises BadDataset."""
    return _read(gt, gt_dir, lambda path, folder: read_panoptic_json(path, folder, images_suffice=True))


def predicted(json: str | os.PathLike[str], folder: str | os.PathLike[str]) -> PanopticSet:
    """The predictions that run.json names by JSON and folder of id PNGs. Raises BadDataset."""
    return _read(json, folder, read_predictions_json)


def png_names(json: str | os.PathLike[str]) -> dict[int, str]:
    """The id PNG of each image as the JSON names it; where there are several JSONs, its absolute path."""
    paths = paths_in(json)
    if len(paths) == 1:
        return read_png_names(paths[0])
    names = ((png_folder(path), read_png_names(path)) for path in paths)
    return {image_id: os.path.abspath(folder / name) for folder, of_one in names for image_id, name in of_one.items()}


def _read(
    json: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None,
    read: Callable[[Path, Path | None], PanopticSet],
) -> PanopticSet:
    jsons = paths_in(json)
    folders: list[Path | None] = [None] if folder is None else [*paths_in(folder)]
    if len(folders) == 1:
        folders *= len(jsons)  # one folder holds the id PNGs of all
    return joined_set([read(path, of_one) for path, of_one in zip(jsons, folders, strict=True)])
