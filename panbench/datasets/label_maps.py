"""Reads semantic PNGs: files in a folder, their pixels, and the category that each pixel value means."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panbench.base.errors import BadArgument, BadDataset
from panbench.base.text import listed
from panbench.datasets.instances import read_json
from panbench.panoptic.types import Category, IdMap

NOTHING = -1
"""The label of a pixel without a category; 0 can be a category."""

_COMMON = {
    "1": "as COCO-Stuff's pixel maps, which hold id − 1",
    "-1": "as ADE20K's, which hold id + 1",
    "order": "train ids, in the order of the categories",
}

_UNKNOWN = -2
_VALUES = 1 << 16


def read_label_png(path: Path) -> npt.NDArray[Any]:
    """Reads a PNG's pixel values as stored: palette indices, 8 or 16 bits, or several channels."""
    try:
        with path.open("rb") as handle, Image.open(handle) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadDataset(f"{path} cannot be read as PNG ({error}).") from error


def files_with_suffix(folder: str | os.PathLike[str], suffix: str) -> list[Path]:
    """Finds the files with a suffix in a folder and below, sorted. Raises BadDataset if there are none."""
    if not Path(folder).is_dir():
        raise BadDataset(f"{folder} is not a folder.")
    found = sorted(path for path in Path(folder).rglob(f"*{suffix}") if not path.name.startswith("."))
    if not found:
        raise BadDataset(f"{folder} holds no {suffix} files.")
    return found


class SemanticMaps:
    """Reads one-channel PNGs, one per image with the same name or stem, as maps of category ids."""

    def __init__(self, folder: str | os.PathLike[str], categories: Sequence[Category], offset: str = "0") -> None:
        """Finds the semantic PNGs in a folder; `offset` turns pixel values into category ids.

        offset: a number is added to the value for the category id, `order` counts categories from 0, else it names a
            JSON of a category id, or null for void, by value: `{"0": 7, "1": 8, "255": null}`.
        A value that is not a category is void if it is 255 or, after adding, not above 0.
        Raises BadDataset without PNGs, BadArgument for any other offset.
        """
        self.folder, self.categories, self.offset = folder, tuple(categories), offset
        files = files_with_suffix(folder, ".png")
        self._by_name = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
        self._by_stem: dict[str, list[Path]] = {}
        for path in files:
            self._by_stem.setdefault(path.stem, []).append(path)
        self._taken: dict[Path, str] = {}
        self._lookup = _category_by_pixel_value(self.categories, offset)

    def has(self, file_name: str) -> bool:
        """True if an image has a PNG."""
        return bool(self._matching_pngs(file_name))

    def _matching_pngs(self, file_name: str) -> list[Path]:
        """Returns the PNG with an image's exact relative path, or else all PNGs with its stem."""
        exact = self._by_name.get(os.path.splitext(file_name)[0])
        return self._by_stem.get(Path(file_name).stem, []) if exact is None else [exact]

    def read(self, file_name: str, size: tuple[int, int]) -> IdMap:
        """Reads the category id of each pixel of an image, (H, W) int32; void is NOTHING. Raises BadDataset."""
        found = self._matching_pngs(file_name)
        if not found:
            raise BadDataset(f"{self.folder} has no {Path(file_name).stem}.png for the image {file_name}.")
        path = found[0]
        of_another = self._taken.setdefault(path, file_name) != file_name
        if len(found) > 1 or of_another:
            shared = f"{self._taken[path]} has it, too" if of_another else f"{found[1]} could be, too"
            raise BadDataset(
                f"{path} cannot be matched to the image {file_name}: {shared}. Name the maps as the images, "
                "folders included."
            )
        values = read_label_png(path)
        if values.ndim != 2:
            raise BadDataset(f"{path} has colour channels; a semantic PNG has one, whose value names the category.")
        if values.shape != size:
            raise BadDataset(
                f"{path} is {values.shape[0]}×{values.shape[1]}, the JSON says {size[0]}×{size[1]} (height × width)."
            )
        ids: IdMap = self._lookup[values.astype(np.uint16)]
        if (ids == _UNKNOWN).any():
            unknown = np.unique(values[ids == _UNKNOWN]).tolist()
            hint = self._offset_hint(np.unique(values))
            raise BadDataset(f"{path}: the values {listed(unknown)} are neither a category nor void. {hint}")
        return ids

    def _offset_hint(self, values: npt.NDArray[Any]) -> str:
        """Suggests a value of `--offset` with which every pixel value of a PNG means a category or void."""
        fitting = [
            f"--offset {offset} ({whose})"
            for offset, whose in _COMMON.items()
            if (_category_by_pixel_value(self.categories, offset)[values] != _UNKNOWN).all()
        ]
        return (
            f"All of them would be with {' or '.join(fitting)}."
            if fitting
            else 'Name what each means in a JSON such as {"0": 7, "255": null}, and give it with --offset.'
        )


def _category_by_pixel_value(categories: Sequence[Category], offset: str) -> npt.NDArray[np.int32]:
    """Returns the category id of every 16-bit value: NOTHING for void, _UNKNOWN if it is neither."""
    table = np.full(_VALUES, _UNKNOWN, np.int32)
    table[255] = NOTHING
    known = [category.id for category in categories]
    if offset == "order":
        table[: len(known)] = known
    elif offset.lstrip("+-").isdigit():
        ids = np.arange(_VALUES) + int(offset)
        table[ids <= 0] = NOTHING
        is_category = np.isin(ids, known)
        table[is_category] = ids[is_category]
    else:
        if not Path(offset).is_file():
            raise BadArgument(f"--offset {offset} is not a number, `order`, or a JSON of category ids by value.")
        for value, category_id in _read_value_meanings(Path(offset)).items():
            if category_id is not None and category_id not in known:
                raise BadDataset(f"{offset}: the value {value} means {category_id}, which is not among the categories.")
            table[value] = NOTHING if category_id is None else category_id
    return table


def _read_value_meanings(path: Path) -> Mapping[int, int | None]:
    """Reads category ids (None: void) by pixel value from a JSON. Raises BadDataset."""
    document = read_json(path, ())
    try:
        pairs = {int(value): None if found is None else int(found) for value, found in document.items()}
        if all(0 <= value < _VALUES for value in pairs):
            return pairs
    except (AttributeError, TypeError, ValueError):
        pass
    raise BadDataset(f'{path} must hold category ids, or null, by pixel value, such as {{"0": 7, "255": null}}.')
