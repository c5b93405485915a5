"""Elements of the page as text. Whatever is not `Html` already is escaped: names come from anywhere."""

import html
from typing import Any

from panbench.report.grid import Grid

__all__ = ["Html", "code", "grid_table", "left_out", "scrolling", "section", "tag"]


class Html(str):
    """Text that is HTML already. Everything else is escaped by `tag`."""

    __slots__ = ()


def tag(name: str, *children: str | None, **attributes: Any) -> Html:
    """An element. Children that are not Html are escaped; `class_` is class, `_` in names is `-`; None is left out."""
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{html.escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    return Html(f"<{name}{written}>{''.join(map(_escaped, children))}</{name}>")


def section(key: str, title: str, intro: str, *content: Html) -> Html:
    """A section of the page, with its head and a sentence on how to read it; `key` is its id."""
    return tag(
        "section", tag("h2", title, id=f"{key}-title"), tag("p", intro, class_="intro"), *content, id=key,
        aria_labelledby=f"{key}-title",
    )  # fmt: skip


def left_out(key: str, title: str, sentence: str) -> Html:
    """The head of a section that these runs cannot fill, and why."""
    return tag(
        "section", tag("h2", title, id=f"{key}-title"), tag("p", f"Left out. {sentence}", class_="note"), id=key,
        aria_labelledby=f"{key}-title",
    )  # fmt: skip


def grid_table(grid: Grid, label: str) -> Html:
    """A grid as a table with its notes below; `label` is what screen readers call it."""
    head = [
        tag("th", name, scope="col", class_=None if index < grid.words else "number") if name else tag("td")
        for index, name in enumerate(grid.columns)
    ]
    body = [
        tag("tr", *(tag("td", cell, class_=None if index < grid.words else "number") for index, cell in enumerate(row)))
        for row in grid.rows
    ]
    table = scrolling(tag("table", tag("thead", tag("tr", *head)), tag("tbody", *body)), label)
    return Html(table + "".join(tag("p", note, class_="note") for note in grid.notes))


def scrolling(table: Html, label: str) -> Html:
    """Wide tables scroll in their own box, which the keyboard can reach."""
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)


def code(text: str) -> Html:
    """Text to be copied as it stands: names of files, hashes, commands."""
    return tag("code", text)


def _escaped(child: str | None) -> str:
    return "" if child is None else str(child) if isinstance(child, Html) else html.escape(str(child))
