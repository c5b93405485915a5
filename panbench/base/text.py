"""Formats text for messages: makes text of unknown origin safe to print, and joins values into sentences."""

import re
from collections.abc import Iterable
from typing import Any

# Control characters except tab and newline, marks of text direction, and undecodable bytes of file names.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

# Line ends stay, and so do marks of text direction, which some languages need.
_NOT_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def plain(text: str) -> str:
    r"""Spells out control characters (`\x1b`), so that a file name in `text` cannot control the terminal."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def for_file(text: str) -> str:
    r"""Spells out control characters and undecodable bytes as JSON does (`\u009b`), for files and pipes.

    Valid JSON stays valid and keeps its meaning.
    """
    return _NOT_TEXT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def for_xml(text: str) -> str:
    """Spells out characters that XML 1.0 cannot hold or that control a terminal."""
    return re.sub("[\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", plain(text))


def for_spreadsheet(value: Any) -> Any:
    """Makes text safe for a spreadsheet cell: no control characters, and an apostrophe before a formula.

    Values that are not text are returned unchanged.
    """
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if value[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def listed(values: Iterable[Any], most: int = 10) -> str:
    """Joins values for a message, at most `most` of them: `1, 2, 3 and 4 more`."""
    items = [str(value) for value in values]
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more


def kind_of(value: object) -> str:
    """Names the type of a value for a message, with its article: `an int`, `a str`, `an ndarray`."""
    name = type(value).__name__
    return f"{'an' if name.lower().startswith(('a', 'e', 'i', 'o', 'u', 'nd')) else 'a'} {name}"


def in_sentence(values: Iterable[Any], most: int = 10) -> str:
    """Joins values for a sentence: `1, 2 and 3`; `1, 2 and 8 more` if there are more than `most`."""
    items = [str(value) for value in values]
    if len(items) > most:
        return listed(items, most)
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def with_sign(number: float, digits: int = 2) -> str:
    """Formats a number with its sign: `+1.50`, `-0.25`; a number that rounds to zero has no sign."""
    text = f"{number:+.{digits}f}"
    return text if float(text) else text.lstrip("+-")


def size_in_words(size: float) -> str:
    """Formats a number of bytes: `850 kB`, `176 MB`, `1.7 GB`."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}" if unit == "GB" else f"{size / factor:,.0f} {unit}"
    return f"{size:,.0f} bytes"


def shape_in_words(shape: Iterable[int]) -> str:
    """Formats the shape of an array: `480×640`."""
    return "×".join(map(str, shape))


def licence_in_words(licence: str) -> str:
    """Describes a licence by its name and its main restriction: `CC-BY-NC-4.0, not for commercial use`."""
    name = licence.upper() if re.fullmatch(r"cc-[a-z0-9.-]+", licence) else licence
    forbids = re.search(r"\bnc\b|non-?commercial", licence.lower()) is not None
    return f"{name}, not for commercial use" if forbids else name


def capitalised(message: str) -> str:
    """Capitalises the first letter, unless the text begins with a path, an option or another name."""
    first = message.split(" ", 1)[0].rstrip(".,:;")
    return message[:1].upper() + message[1:] if first.isalpha() else message
