"""Elements of the page as text. Whatever is not `Html` already is escaped: names come from anywhere."""

import html
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

__all__ = [
    "Html",
    "code",
    "head",
    "left_out",
    "marker",
    "named",
    "number",
    "prose",
    "scrolling",
    "section",
    "shortened",
    "table_of_models",
    "tag",
]


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


def head(text: str) -> Html:
    """The head of a column of numbers."""
    return tag("th", text, scope="col", class_="number")


def marker(index: int) -> Html:
    """The place where the scripts draw the marker of a model."""
    return tag("span", class_="marker", data_marker=index)


def named(label: str, index: int) -> Html:
    """A model's marker and name."""
    return Html(marker(index) + tag("span", label))


def table_of_models(label: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    """A table with a row a model: its name (`named`), then numbers."""
    top = [tag("th", heads[0], scope="col"), *map(head, heads[1:])]
    body = []
    for name, *cells in rows:
        numbers = (tag("td", number(cell), class_="number") for cell in cells)
        body.append(tag("tr", tag("th", name, scope="row", class_="model"), *numbers))
    return scrolling(tag("table", tag("thead", tag("tr", *top)), tag("tbody", *body)), label)


def _escaped(child: str | None) -> str:
    return "" if child is None else str(child) if isinstance(child, Html) else html.escape(str(child))


def shortened(values: Iterable[float]) -> list[float]:
    """Each fraction with as few digits, from four on, as show the same percent with none to two decimals.

    The scripts round once more: 0.80949 as 0.8095 would read 81.0 in a chart and 80.9 in a sentence.
    """
    exact = [float(value) for value in values]
    return [next(short for short in _shorter(value) if _reads(short) == _reads(value)) for value in exact]


def _shorter(value: float) -> Iterator[float]:
    yield from (round(value, digits) for digits in (4, 6, 8, 10, 12))
    yield value


def _reads(value: float) -> list[str]:
    return [f"{100 * value:.{digits}f}" for digits in range(3)]
