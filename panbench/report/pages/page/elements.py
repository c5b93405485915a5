"""Elements of the page as text. Whatever is not `Html` already is escaped: names come from anywhere."""

import html
from typing import Any

__all__ = ["Html", "code", "left_out", "number", "prose", "scrolling", "section", "tag"]


class Html(str):
    """Text that is HTML already. Everything else is escaped by `tag`."""

    __slots__ = ()


def tag(name: str, /, *children: str | None, **attributes: Any) -> Html:
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
        "section", tag("h2", title, id=f"{key}-title"), tag("p", prose(intro), class_="intro"), *content, id=key,
        aria_labelledby=f"{key}-title",
    )  # fmt: skip


def left_out(key: str, title: str, sentence: str) -> Html:
    """The head of a section that these runs cannot fill, and why."""
    return tag(
        "section", tag("h2", title, id=f"{key}-title"), tag("p", prose(f"Left out. {sentence}"), class_="note"), id=key,
        aria_labelledby=f"{key}-title",
    )  # fmt: skip


def scrolling(table: Html, label: str) -> Html:
    """Wide tables scroll in their own box, which the keyboard can reach where it scrolls (dom.js)."""
    return tag("div", table, class_="scroll", role="region", aria_label=label)


def prose(text: str) -> Html:
    """A sentence in which what stands between backticks is code."""
    parts = text.split("`")
    return Html("".join(code(part) if index % 2 else _escaped(part) for index, part in enumerate(parts)))


def number(text: str) -> str:
    """A number as it is set: with a minus instead of a hyphen."""
    return text.replace("-", "−")


def code(text: str) -> Html:
    """Text to be copied as it stands: names of files, hashes, commands."""
    return tag("code", text)


def _escaped(child: str | None) -> str:
    return "" if child is None else str(child) if isinstance(child, Html) else html.escape(str(child))
