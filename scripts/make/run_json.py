#!/usr/bin/env python3
"""Writes the table of run.json in docs/run_folder.md from the records of panbench.runs and the text under their fields.

scripts/make/run_json.py            rewrite docs/run_folder.md
scripts/make/run_json.py --check    exit 1 when it is not what the records say
"""

import ast
import dataclasses
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.panoptic.types import Category
from panbench.runs import RunInfo

PAGE = Path(__file__).resolve().parents[2] / "docs" / "run_folder.md"
BEGIN = "<!-- run.json: made by scripts/make/run_json.py -->"
END = "<!-- /run.json -->"


def table() -> str:
    """The Markdown table: each field's path, type and meaning."""
    lines = ["| field | type | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{path}` | {kind} | {text} |" for path, kind, text in rows(RunInfo)]
    return "\n".join(lines)


def documented(page: str) -> str:
    """The text of docs/run_folder.md with the table between its marks made anew."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def rows(record: type, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, type, meaning) of each field of a record; nested records follow their own row."""
    hints = typing.get_type_hints(record, include_extras=True)
    texts = _texts(record)
    for field in dataclasses.fields(record):
        place = f"{path}.{field.name}" if path else field.name
        text = " ".join(texts.get(field.name, "").split())
        if field.name == "side_tables":
            # Not under this name: each table stands under its own.
            yield "TABLE", "list of object or null", text
            continue
        yield place, _spoken(hints[field.name]), text
        for part in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(part) and _texts(typing.cast(type, part)):
                yield from rows(typing.cast(type, part), place)


def _texts(record: type) -> dict[str, str]:
    """The string under each field of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = str(below.value.value)
    return found


def _spoken(kind: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return "text" if arguments[0] is str else "count"
    if origin is typing.Literal:
        return "text"
    if origin in (types.UnionType, typing.Union):
        parts = [_spoken(part) for part in arguments if part is not type(None)]
        return " or ".join([*(["value"] if len(parts) > 1 else parts), *(["null"] if type(None) in arguments else [])])
    if origin is tuple:
        return f"list of {_spoken(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        value = "value" if len(typing.get_args(arguments[1])) > 1 else _spoken(arguments[1])
        return f"object of {value} by {'number' if arguments[0] is int else 'name'}"
    if kind is Category:
        return "categories"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(kind, "object")


def main() -> None:
    """Rewrites or checks docs/run_folder.md."""
    page = PAGE.read_text("utf-8")
    wanted = documented(page)
    if sys.argv[1:] == ["--check"]:
        sys.exit("docs/run_folder.md: run scripts/make/run_json.py" if wanted != page else 0)
    PAGE.write_text(wanted, "utf-8")


if __name__ == "__main__":
    main()
