"""Text of unknown origin made safe to show, and lists in sentences."""

import re
from collections.abc import Iterable
from typing import Any

# Control characters except tab and newline, marks of text direction, and undecodable bytes of file names.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Line ends stay, and marks of text direction, which some languages need.
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(text: str) -> str:
    """`text` with its control characters spelled out (`\\x1b`), so that a name in it cannot steer a terminal."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def for_file(text: str) -> str:
    """`text` with control characters and undecodable bytes spelled out as JSON does (`\\u009b`): for files and pipes.

    Valid JSON stays valid, and means the same.
    """
    return _NOT_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def for_xml(text: str) -> str:
    """`text` with the characters spelled out that XML 1.0 cannot hold, and those that steer a terminal."""
    return re.sub("[\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", plain(text))


def for_spreadsheet(value: Any) -> Any:
    """`value` for a cell: text without control characters, and with an apostrophe before what would be a formula."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def listed(values: Iterable[Any], most: int = 10) -> str:
    """`1, 2, 3 and 4 more`: values for a sentence."""
    items = [str(value) for value in values]
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def kind_of(value: object) -> str:
    """The type of a value in a sentence, with its article: `an int`, `a str`, `an ndarray`."""
    name = type(value).__name__
    return f"{'an' if name.lower().startswith(('a', 'e', 'i', 'o', 'u', 'nd')) else 'a'} {name}"


def in_sentence(values: Iterable[Any], most: int = 10) -> str:
    """`1, 2 and 3`; `1, 2 and 8 more` when there are more than `most`."""
    items = [str(value) for value in values]
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most} more"
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def with_sign(number: float, digits: int = 2) -> str:
    """`+1.50`, `-0.25`; what rounds to zero has no sign."""
    text = f"{number:+.{digits}f}"
    return text if float(text) else text.lstrip("+-")


def size_in_words(size: float) -> str:
    """`850 kB`, `176 MB`, `1.7 GB` of that many bytes."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}" if unit == "GB" else f"{size / factor:,.0f} {unit}"
    return f"{size:,.0f} bytes"


def licence_in_words(licence: str) -> str:
    """`CC-BY-NC-4.0, not for commercial use`: a licence by its name, and what keeps many users from it said plainly."""
    name = licence.upper() if re.fullmatch(r"cc-[a-z0-9.-]+", licence) else licence
    forbids = re.search(r"\bnc\b|non-?commercial", licence.lower()) is not None
    return f"{name}, not for commercial use" if forbids else name


def capitalised(sentence: str) -> str:
    """`sentence` with a capital letter first, unless it begins with a path, an option or another name."""
    first = sentence.split(" ", 1)[0].rstrip(".,:;")
    return sentence[:1].upper() + sentence[1:] if first.isalpha() else sentence
