"""Opens the ground truth and the predictions whose paths are in run.json.

A run merged from runs on separate JSONs has several paths in one field, joined by ` + `.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

from panbench.base.addresses import is_remote, recorded_path
from panbench.panoptic.coco import joined_set, png_folder, read_panoptic_json, read_png_names, read_predictions_json
from panbench.panoptic.types import PanopticSet

_PLUS = " + "


def join_paths(paths: Iterable[str]) -> str:
    """Joins paths to one text for a field of run.json, each path once."""
    return _PLUS.join(dict.fromkeys(paths))


def split_paths(text: str | os.PathLike[str]) -> list[Path]:
    """Splits a field of run.json into its paths: one, or several joined by ` + `."""
    if not isinstance(text, str) and is_remote(text):
        return [cast(Path, text)]
    text = os.fspath(text)
    return [recorded_path(text)] if os.path.lexists(text) else [recorded_path(piece) for piece in text.split(_PLUS)]


def files_exist(text: str | os.PathLike[str]) -> bool:
    """True if all files exist whose paths, joined by ` + `, a text in run.json names."""
    return all(path.is_file() for path in split_paths(text))


def read_ground_truth(gt: str | os.PathLike[str], gt_dir: str | os.PathLike[str] | None = None) -> PanopticSet:
    """Reads ground truth from the JSON and the folder of id PNGs in run.json. Raises BadDataset."""
    return _read_joined_sets(gt, gt_dir, lambda path, folder: read_panoptic_json(path, folder, images_suffice=True))


def read_predictions(json: str | os.PathLike[str], folder: str | os.PathLike[str]) -> PanopticSet:
    """Reads predictions from the JSON and the folder of id PNGs in run.json. Raises BadDataset."""
    return _read_joined_sets(json, folder, read_predictions_json)


def png_names(json: str | os.PathLike[str]) -> dict[int, str]:
    """Returns the file name of each image's id PNG, as in the JSON; absolute paths if there are several JSONs."""
    paths = split_paths(json)
    if len(paths) == 1:
        return read_png_names(paths[0])
    names = ((png_folder(path), read_png_names(path)) for path in paths)
    return {image_id: os.path.abspath(folder / name) for folder, of_one in names for image_id, name in of_one.items()}


def _read_joined_sets(
    json: str | os.PathLike[str],
    folder: str | os.PathLike[str] | None,
    read: Callable[[Path, Path | None], PanopticSet],
) -> PanopticSet:
    """Reads each JSON with its folder of PNGs by `read`, and joins them to one set."""
    jsons = split_paths(json)
    folders: list[Path | None] = [None] if folder is None else [*split_paths(folder)]
    if len(folders) == 1:
        folders *= len(jsons)  # one folder holds the id PNGs of all
    return joined_set([read(path, of_one) for path, of_one in zip(jsons, folders, strict=True)])
