"""Reads the file of `--slices`: which images belong together.

JSON: an object of slices, {"night": [139, 285], "day": [632]}, or of several ways to slice, {"site": {"A": [139]}}.
CSV: a column image_id and one or more columns of what is known of the image (camera, night, site); each is a way to
slice, its values are the slices, and an empty cell leaves the image out of it.
"""

import csv
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.metrics.image_slices import ImageSlices
from panbench.panoptic.image_ids import image_id_of, typed
from panbench.runs import Run

__all__ = ["images_of_slice", "read_slices", "slices_for"]

MOST_SLICES = 100
"""A column of more values is an id or a measurement, not a way to slice."""


def slices_for(path: str | os.PathLike[str] | None, runs: Iterable[Run]) -> list[ImageSlices]:
    """The slices of a file, checked against the images of some runs; none without a file.

    Raises BadArgument when a slice names an image that no run has scored, or has no image.
    """
    if path is None:
        return []
    found = read_slices(path)
    known = frozenset(image for run in runs for image in run.images.tolist())
    for slices in found:
        slices.check(known)
    return found


def images_of_slice(slices: Iterable[ImageSlices], name: str) -> frozenset[int]:
    """The images of a slice, called "night" or, as pages write it, "light: night".

    Raises BadArgument for an unknown slice, and for a name that several have.
    """
    known = {f"{own.name}: {one}": frozenset(images) for own in slices for one, images in own.images.items()}
    fitting = [full for full in known if full == name] or [full for full in known if full.partition(": ")[2] == name]
    if len(fitting) == 1:
        return known[fitting[0]]
    if fitting:
        raise BadArgument(f"--slice {name} may be {listed(fitting, 5)}. Give one of these.")
    raise BadArgument(f"There is no slice {name!r}. Choose from {listed(list(known), 20)}.")


def read_slices(path: str | os.PathLike[str]) -> list[ImageSlices]:
    """The ways to slice in a JSON or CSV file. Raises BadArgument, naming the file, for anything else."""
    path = Path(path)
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadArgument(f"--slices {path} cannot be read: {reason}.") from None
    if path.suffix.lower() == ".json":
        return _of_json(path, text)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _of_csv(path, text, "\t" if path.suffix.lower() == ".tsv" else ",")
    raise BadArgument(f"--slices {path} is neither .json nor .csv.")


def _of_json(path: Path, text: str) -> list[ImageSlices]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadArgument(f"--slices {path} is not JSON ({error}).") from None
    if not isinstance(document, dict) or not document:
        raise BadArgument(f'--slices {path} must be an object of slices, as {{"night": [139, 285]}}.')
    if all(isinstance(value, dict) for value in document.values()):
        return [_slices(path, name, slices) for name, slices in document.items()]
    return [_slices(path, path.stem, document)]


def _slices(path: Path, name: str, slices: dict[str, Any]) -> ImageSlices:
    for slice_name, images in slices.items():
        if not isinstance(images, list) or not all(type(image) in (int, str) for image in images):
            raise BadArgument(f"--slices {path}: the slice {slice_name!r} of {name} must be a list of image ids.")
    return ImageSlices(
        name, MappingProxyType({key: frozenset(map(image_id_of, images)) for key, images in slices.items()})
    )


def _of_csv(path: Path, text: str, delimiter: str) -> list[ImageSlices]:
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    columns: Sequence[str] = list(rows[0]) if rows else []
    if "image_id" not in columns or len(columns) < 2:
        raise BadArgument(f"--slices {path} must have a column image_id and a column of slices, such as camera.")
    found: dict[str, dict[str, set[int]]] = {name: defaultdict(set) for name in columns if name != "image_id"}
    for number, row in enumerate(rows, start=2):
        image = (row["image_id"] or "").strip()
        if not image:
            raise BadArgument(f"--slices {path}, line {number} has no image id.")
        for name, slices in found.items():
            value = (row.get(name) or "").strip()
            if value:
                slices[value].add(typed(image))
    for name, slices in found.items():
        if len(slices) > MOST_SLICES:
            raise BadArgument(
                f"--slices {path}: the column {name} has {len(slices):,} values, too many for slices. Leave it out, or "
                "write ranges."
            )
    return [
        ImageSlices(name, MappingProxyType({value: frozenset(slices[value]) for value in sorted(slices)}))
        for name, slices in found.items()
        if slices
    ]
