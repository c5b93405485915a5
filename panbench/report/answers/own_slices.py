"""Reads the file of `--slices`, which groups images into slices.

JSON: an object of slices, {"night": [139, 285], "day": [632]}, or of several slicings, {"site": {"A": [139]}}.
CSV: a column image_id and one or more columns of facts about the image (camera, night, site); each is a slicing, its
values are the slices, and an empty cell leaves the image out of it.
"""

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.metrics.slices import ImageSlices
from panbench.panoptic.image_ids import image_id_of, typed
from panbench.runs import Run

MOST_SLICES = 100
"""A column with more values than this is an id or a measurement, not a slicing."""


def slices_for(path: str | os.PathLike[str] | None, runs: Iterable[Run]) -> list[ImageSlices]:
    """Returns the user's subsets of images from a --slices file, checked against the runs; [] without a file.

    Raises BadArgument when a slice names an image that no run has scored, or has no image.
    """
    if path is None:
        return []
    found = read_slices_file(path)
    known = frozenset(image for run in runs for image in run.images.tolist())
    for slices in found:
        slices.check(known)
    return found


def images_of_slice(slices: Iterable[ImageSlices], name: str) -> frozenset[int]:
    """Returns the images of a slice, called "night" or, as pages write it, "light: night".

    Raises BadArgument for an unknown slice, and for a name that several have.
    """
    known = {f"{own.name}: {one}": frozenset(images) for own in slices for one, images in own.images.items()}
    fitting = [full for full in known if full == name] or [full for full in known if full.partition(": ")[2] == name]
    if len(fitting) == 1:
        return known[fitting[0]]
    if fitting:
        raise BadArgument(f"--slice {name} may be {listed(fitting, 5)}. Give one of these.")
    raise BadArgument(f"There is no slice {name!r}. Choose from {listed(list(known), 20)}.")


def read_slices_file(path: str | os.PathLike[str]) -> list[ImageSlices]:
    """Reads groupings of images into slices, such as day and night, from JSON or CSV. Raises BadArgument."""
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadArgument(f"--slices {path} cannot be read: {reason}.") from None
    if path.suffix.lower() == ".json":
        return _slicings_of_json(path, text)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _slicings_of_csv(path, text, "\t" if path.suffix.lower() == ".tsv" else ",")
    raise BadArgument(f"--slices {path} is neither .json nor .csv.")


def _slicings_of_json(path: Path, text: str) -> list[ImageSlices]:
    """Reads groupings of images from JSON: {slice: image ids}, or several as {name: {slice: image ids}}.

    Raises BadArgument.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadArgument(f"--slices {path} is not JSON ({error}).") from None
    if not isinstance(document, dict) or not document:
        raise BadArgument(f'--slices {path} must be an object of slices, as {{"night": [139, 285]}}.')
    if all(isinstance(value, dict) for value in document.values()):
        return [_slices_from_id_lists(path, name, slices) for name, slices in document.items()]
    return [_slices_from_id_lists(path, path.stem, document)]


def _slices_from_id_lists(path: Path, name: str, slices: dict[str, Any]) -> ImageSlices:
    """Returns one grouping of images, given as {slice: list of image ids}. Raises BadArgument for anything else."""
    for slice_name, images in slices.items():
        if not isinstance(images, list) or not all(type(image) in (int, str) for image in images):
            raise BadArgument(f"--slices {path}: the slice {slice_name!r} of {name} must be a list of image ids.")
    return ImageSlices(
        name, MappingProxyType({key: frozenset(map(image_id_of, images)) for key, images in slices.items()})
    )


def _slicings_of_csv(path: Path, text: str, delimiter: str) -> list[ImageSlices]:
    """Reads groupings of images from a CSV file: each column besides image_id is one. Raises BadArgument."""
    try:
        table = pd.read_csv(io.StringIO(text), sep=delimiter, dtype=str, keep_default_na=False, index_col=False)
    except ValueError:
        table = pd.DataFrame()
    if "image_id" not in table or len(table.columns) < 2:
        raise BadArgument(f"--slices {path} must have a column image_id and a column of slices, such as camera.")
    table = table.fillna("").map(str.strip)
    if (empty := np.flatnonzero(table["image_id"] == "")).size:
        raise BadArgument(f"--slices {path}, line {empty[0] + 2} has no image id.")
    found = []
    for name in table.columns.drop("image_id"):
        own = table[table[name] != ""].groupby(name)["image_id"]
        if own.ngroups > MOST_SLICES:
            raise BadArgument(
                f"--slices {path}: the column {name} has {own.ngroups:,} values, too many for slices. Leave it out, or "
                "write ranges."
            )
        if own.ngroups:
            slices = {str(value): frozenset(map(typed, images)) for value, images in own}
            found.append(ImageSlices(str(name), MappingProxyType(slices)))
    return found
