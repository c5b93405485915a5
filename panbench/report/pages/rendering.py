"""Our pages from templates: one shell, one style sheet, and a folder templates/ beside the code of each page.

A template is named by its package and file: "panbench.studies.calibration:section.html" is
panbench/studies/calibration/templates/section.html, and a study in another package has its own in the same way.
Whatever a template prints is escaped, unless it is `Markup`: names come from anywhere. templates/elements.html has the
pieces that several pages share.
"""

import base64
import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from panbench.base.text import for_file
from panbench.report.answers.grid import percent
from panbench.report.figures.colors import CAUSES_DARK, CAUSES_LIGHT, DARK, ERRORS, LIGHT

__all__ = ["FOOTER", "Markup", "json_in_html", "named_apart", "render", "scripts_of", "whole_page"]

FOOTER = "Written by panbench. This file needs no network and sends nothing."
"""The last line of a page that is a file."""


STYLES = tuple(f"{__package__}:{name}.css" for name in ("base", "report", "wall", "print"))
"""The parts of the style sheet that every page has."""

_SELF, _NONE = "'self'", "'none'"


def render(template: str, /, **facts: Any) -> Markup:
    """The HTML that a template, "package:file", makes of facts."""
    # The template has escaped what is not HTML.
    return Markup(_environment().get_template(template).render(facts))


def whole_page(
    template: str,
    /,
    *,
    title: str,
    styles: Sequence[str] = (),
    script: str | None = None,
    asks: bool = False,
    forms: bool = False,
    **facts: Any,
) -> str:
    """A whole page, of a template that fills the blocks of shell.html, as one file that requests nothing.

    styles: templates of style sheets that this page has besides STYLES; script: its only script, a module
    asks: the script may ask the server that the page came from; forms: forms lead to it
    facts: what the template shows; `subtitle` and `footer` are the shell's
    """
    style = "\n".join(_style(name) for name in (*STYLES, *styles))
    policy = _policy(style=style, script=script, asks=asks, forms=forms)
    whole = {"subtitle": None, **facts, "title": title, "style": Markup(style), "script": script and Markup(script)}
    return str(render(template, policy=policy, **whole))


def named_apart(names: Sequence[str], fingerprints: Sequence[str | None]) -> list[str]:
    """Names of tables; of several with one name each says which ground truth it is of, by its SHA-256."""
    return [
        name if names.count(name) == 1 or not mark else f"{name} (ground truth {mark[:8]})"
        for name, mark in zip(names, fingerprints, strict=True)
    ]


def json_in_html(data: Mapping[str, Any] | Sequence[Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return for_file(text)


def scripts_of(folder: str, names: Sequence[str]) -> str:
    """Some scripts as one; `folder` is a package and a folder beside its code: "panbench.report.pages.page:assets"."""
    return "\n".join(_script(folder, name) for name in names)


@functools.cache
def _script(folder: str, name: str) -> str:
    package, _, inside = folder.partition(":")
    return resources.files(package).joinpath(inside, name).read_text("utf-8")


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FunctionLoader(_source),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    made.filters |= {"minus": _minus, "percent": percent, "thousands": "{:,}".format}
    return made


def _source(template: str) -> str | None:
    package, _, file = template.partition(":")
    try:
        return resources.files(package).joinpath("templates", file).read_text("utf-8")
    except (FileNotFoundError, ModuleNotFoundError):
        return None


_BEFORE_DIGITS = re.compile(r"(?<![^\s\[(])-(?=[\d.])")


def _minus(text: str) -> str:
    """A number, or words with numbers, as it is set: with a minus before digits; a hyphen in a name stays one."""
    return _BEFORE_DIGITS.sub("\u2212", text)


@functools.cache
def _style(template: str) -> str:
    errors = " ".join(f"--{kind.partition(' ')[0]}: {color};" for kind, color in ERRORS.items())
    colors = {"light": _colors(LIGHT, CAUSES_LIGHT), "dark": _colors(DARK, CAUSES_DARK), "errors": errors}
    return str(render(template, **colors))


def _colors(models: Sequence[str], causes: Sequence[str]) -> str:
    """The colours of models (--m0 …) and of causes (--c0 …) as CSS variables."""
    return " ".join(
        f"--{letter}{index}: {color};"
        for letter, colors in (("m", models), ("c", causes))
        for index, color in enumerate(colors)
    )


def _policy(*, style: str, script: str | None, asks: bool, forms: bool) -> str:
    """The content security policy of a page: its own style and script, nothing else."""
    rules = ["default-src 'none'", "img-src data:", f"style-src {_hash_of(style)}"]
    rules += [f"script-src {_hash_of(script)}"] if script is not None else []
    rules += ["connect-src 'self'"] if asks else []
    return "; ".join([*rules, "base-uri 'none'", f"form-action {_SELF if forms else _NONE}"])


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
