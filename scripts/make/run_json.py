"""The site's page on run.json: each field of the records of panbench.runs, with the text under it."""

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from panbench.panoptic.types import Category
from panbench.runs import RunInfo
from scripts.make import markdown_tables


def page() -> str:
    """Returns the page: a table of each field's path, type and meaning."""
    text = "`panbench/runs/record.py` reads and writes it. A value that does not exist is null, never 0 or NaN."
    fields = ((f"`{path}`", *rest) for path, *rest in rows(RunInfo))
    return f"# run.json, field by field\n\n{text}\n\n{markdown_tables.table(('field', 'type', 'meaning'), fields)}\n"


def rows(record: type, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Returns (path, type, meaning) of each field of a record; nested records follow their own row."""
    hints = typing.get_type_hints(record, include_extras=True)
    texts = _text_below_each_field(record)
    for field in dataclasses.fields(record):
        place = f"{path}.{field.name}" if path else field.name
        text = " ".join(texts.get(field.name, "").split())
        if field.name == "study_tables":
            # Not under this name: each table stands under its own.
            yield "TABLE", "list of object or null", text
            continue
        yield place, _type_in_words(hints[field.name]), text
        for part in (hints[field.name], *typing.get_args(hints[field.name])):
            if dataclasses.is_dataclass(part) and _text_below_each_field(typing.cast(type, part)):
                yield from rows(typing.cast(type, part), place)


def _text_below_each_field(record: type) -> dict[str, str]:
    """Returns the documentation string below each field of a dataclass."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(record))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = str(below.value.value)
    return found


def _type_in_words(kind: Any) -> str:
    """Describes a type in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return "text" if arguments[0] is str else "count"
    if origin is typing.Literal:
        return "text"
    if origin in (types.UnionType, typing.Union):
        parts = [_type_in_words(part) for part in arguments if part is not type(None)]
        return " or ".join([*(["value"] if len(parts) > 1 else parts), *(["null"] if type(None) in arguments else [])])
    if origin is tuple:
        return f"list of {_type_in_words(arguments[0])}"
    if origin is not None and issubclass(origin, Mapping):
        value = "value" if len(typing.get_args(arguments[1])) > 1 else _type_in_words(arguments[1])
        return f"object of {value} by {'number' if arguments[0] is int else 'name'}"
    if kind is Category:
        return "categories"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(kind, "object")
