"""Converts image ids that are text (Cityscapes, ADE20K) to numbers for tables, and back to text for printing.

The number is a hash of the text, so it is the same in every file, run and process, and runs can be compared and merged.
It lies between 2⁵² and 2⁵³: above ids in use, and exact in JavaScript. This module remembers the texts of the process;
each part of a run stores those of its images in its metadata.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from panbench.base.errors import BadDataset

if TYPE_CHECKING:
    import pandas as pd

_LOWEST = 1 << 52
_KEY = b"panbench.image_ids"

_texts: dict[int, str] = {}


class TextId(int):
    """The number of an image id that is text; prints as the text."""

    def __str__(self) -> str:
        """Returns the text of the image id."""
        return str(own_id(int(self)))

    def __format__(self, form: str) -> str:
        """Formats the image id as text; a format for numbers formats its number instead."""
        return format(str(self) if form in ("", "s") else int(self), form)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the image id as its text, as another process may not know the text of the number."""
        own = own_id(int(self))
        return (image_id_of, (own,)) if isinstance(own, str) else (TextId, (own,))


def image_id_of(value: int | str) -> int:
    """Returns an image id as an integer: text becomes its hash. Raises BadDataset if two texts have the same hash."""
    if not isinstance(value, str):
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
    number = _LOWEST | int.from_bytes(digest[:8], "big") >> 12
    if (other := _texts.setdefault(number, value)) != value:
        raise BadDataset(f"The image ids {other!r} and {value!r} have the same hash. Rename one of the images.")
    return TextId(number)


def own_id(image_id: int) -> int | str:
    """Returns an image id as the dataset's JSON writes it: text (Cityscapes, ADE20K) or a number."""
    return _texts.get(int(image_id), int(image_id))


def with_own_ids(frame: "pd.DataFrame") -> "pd.DataFrame":
    """Copies a table with its image ids as in the dataset's JSON, where they can be text."""
    return frame.assign(image_id=frame["image_id"].map(own_id)) if _texts else frame


def text_names(image_ids: Iterable[int]) -> dict[int, str]:
    """Maps the numbers of those image ids that are text to their texts, for a page's scripts."""
    return {number: _texts[number] for number in map(int, image_ids) if number in _texts}


def name_of(image_id: int) -> dict[str, str]:
    """Returns {"name": text} for an image id that is text, to merge into a JSON record; {} for a number."""
    return {"name": _texts[int(image_id)]} if int(image_id) in _texts else {}


def typed(text: str) -> int:
    """Parses an image id that a user typed: a number, else a text; quotes mark digits as text."""
    text = text.strip()
    return int(text) if re.fullmatch("-?[0-9]+", text) else image_id_of(text.strip('"'))


def text_ids_as_metadata(image_ids: Iterable[int]) -> dict[bytes, bytes]:
    """Encodes the texts of some image ids as Parquet metadata; {} if all ids are numbers."""
    found = text_names(image_ids)
    return {_KEY: json.dumps(found).encode()} if found else {}


def remember_text_ids(metadata: Mapping[bytes, bytes] | None) -> None:
    """Loads image ids that are text from Parquet metadata, so that messages show the text. Raises ValueError."""
    content: Any = json.loads((metadata or {}).get(_KEY, b"{}"))
    for text in content.values():
        image_id_of(text)
