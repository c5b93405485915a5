"""Rows of long text as Markdown lists, which read where a table of such rows would not: written here and read back.

An item has its first cell in bold, and each other cell as a sentence after its heading: "Why: it is there."
"""

import re
import textwrap
from collections.abc import Sequence

WIDTH = 140

# Words that would begin a list, a heading or a quotation if a line broke before them.
_MARKS = re.compile(r" (?=(?:[-+*#>=|]+|\d+[.)])(?: |$))")
_CODE = re.compile(r"`[^`]+`")
_KEPT = "\0"


def wrapped(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most WIDTH, none broken inside of `code`; `indent` stands before all but the first."""
    whole = _CODE.sub(lambda found: found[0].replace(" ", _KEPT), _MARKS.sub(_KEPT, text))
    lines = textwrap.wrap(whole, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(_KEPT, " ")


def item(headings: Sequence[str], cells: Sequence[str]) -> str:
    """A row as an item of a list; empty cells are left out.

    headings: those of the other cells. A first cell that is a number numbers the item, and the second is in bold.
    """
    number, headings, cells = (cells[0], headings[1:], cells[1:]) if cells[0].isdigit() else ("", headings, cells)
    sentences = [f"**{_ended(cells[0])}**"]
    sentences += [
        f"{heading[0].upper()}{heading[1:]}: {_ended(cell)}"
        for heading, cell in zip(headings, cells[1:], strict=True)
        if cell
    ]
    mark = f"{number}. " if number else "- "
    return wrapped(mark + " ".join(sentences), " " * len(mark))


def items(text: str, headings: Sequence[str]) -> list[dict[str, str]]:
    """The items of a page that have these headings: each cell under its heading, the first under ""; ends are kept."""
    named = [f"{heading[0].upper()}{heading[1:]}" for heading in headings]
    pattern = r"(?:- |\d+\. )\*\*(.+?)\*\*" + "".join(rf"(?: {re.escape(name)}: (.+?))?" for name in named)
    found = []
    for block in re.findall(r"^(?:- |\d+\. )\*\*.*(?:\n {2,}\S.*)*", text, re.MULTILINE):
        fits = re.fullmatch(pattern, " ".join(block.split()))
        if fits is not None and any(fits.groups()[1:]):
            found.append(dict(zip(("", *headings), (cell or "" for cell in fits.groups()), strict=True)))
    return found


def _ended(sentence: str) -> str:
    return sentence if re.search(r"[.!?:;][\"”’)]?$", sentence) else f"{sentence}."
