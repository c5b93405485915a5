"""Image ids that are text, as Cityscapes' and ADE20K's: each stands for a number in tables, and is printed as itself.

The number is a hash of the text, so it is the same in every file, run and process: runs of one set compare and merge.
It lies between 2⁵² and 2⁵³, above what people number by hand and exact in JavaScript. The texts are remembered for as
long as the process lives; a part of a run has those of its images in its metadata.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from panbench.base.errors import BadDataset

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "TextId",
    "as_metadata",
    "image_id_of",
    "name_of",
    "own_id",
    "remember",
    "text_names",
    "typed",
    "with_own_ids",
]

_LOWEST = 1 << 52
_KEY = b"panbench.image_ids"

_texts: dict[int, str] = {}


class TextId(int):
    """The number of an image id that is text, which is printed as the text."""

    def __str__(self) -> str:
        return str(own_id(int(self)))

    def __format__(self, form: str) -> str:
        return format(str(self) if form in ("", "s") else int(self), form)

    def __reduce__(self) -> tuple[Any, ...]:
        """Takes the text along to another process, which has read no JSON."""
        own = own_id(int(self))
        return (image_id_of, (own,)) if isinstance(own, str) else (TextId, (own,))


def image_id_of(value: int | str) -> int:
    """The number that tables hold for an image id. Raises BadDataset for two texts with one hash, which is a chance."""
    if not isinstance(value, str):
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).digest()
    number = _LOWEST | int.from_bytes(digest[:8], "big") >> 12
    if (other := _texts.setdefault(number, value)) != value:
        raise BadDataset(f"The image ids {other!r} and {value!r} have the same hash. Rename one of the images.")
    return TextId(number)


def own_id(image_id: int) -> int | str:
    """The id of an image as its JSON has it."""
    return _texts.get(int(image_id), int(image_id))


def with_own_ids(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A table whose column image_id has the ids as their JSON has them."""
    return frame.assign(image_id=frame["image_id"].map(own_id)) if _texts else frame


def text_names(image_ids: Iterable[int]) -> dict[int, str]:
    """The text of each image id that is one, for a page's scripts."""
    return {number: _texts[number] for number in map(int, image_ids) if number in _texts}


def name_of(image_id: int) -> dict[str, str]:
    """`name` of a record whose image id is text; nothing for a number."""
    return {"name": _texts[int(image_id)]} if int(image_id) in _texts else {}


def typed(text: str) -> int:
    """The image id that a user typed: a number, else a text; in double quotes a text of digits."""
    text = text.strip()
    return int(text) if re.fullmatch("-?[0-9]+", text) else image_id_of(text.strip('"'))


def as_metadata(image_ids: Iterable[int]) -> dict[bytes, bytes]:
    """The texts of some images for `remember`; empty where ids are numbers."""
    found = text_names(image_ids)
    return {_KEY: json.dumps(found).encode()} if found else {}


def remember(metadata: Mapping[bytes, bytes] | None) -> None:
    """Takes in texts that `as_metadata` wrote. Raises ValueError for metadata that are damaged."""
    content: Any = json.loads((metadata or {}).get(_KEY, b"{}"))
    for text in content.values():
        image_id_of(text)
