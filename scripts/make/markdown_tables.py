"""Markdown tables: written from rows, put between the marks of a page, and read back by tests and scripts."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_BORDER = re.compile(r"(?<!\\)\|")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a table with these headings; the cells are Markdown."""
    head, *body = (f"| {' | '.join(cells)} |".replace("  ", " ") for cells in (headings, *rows))
    return "\n".join([head, "|---" * len(headings) + "|", *body])


def write_between(page: Path, begin: str, end: str, text: str) -> None:
    """Replaces the text between two marks of a page."""
    before, rest = page.read_text("utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")


def rows_under(text: str, headings: Sequence[str]) -> list[dict[str, str]]:
    """Returns the rows of every table of a page with these headings, each cell by its heading."""
    return [
        dict(zip(headings, row, strict=True)) for first, *rows in tables(text) if first == [*headings] for row in rows
    ]


def tables(text: str) -> Iterator[list[list[str]]]:
    """Returns each table of a page: the cells of its headings, then those of its rows."""
    for block in re.findall(r"(?:^\|.*\|$\n?){2,}", text, re.MULTILINE):
        headings, _, *rows = ([cell.strip() for cell in _BORDER.split(line)[1:-1]] for line in block.splitlines())
        yield [headings, *rows]
