"""Renders pages from templates: one shell, one style sheet, and a folder templates/ next to the code of each page.

A template is named by its package and file: "panbench.studies.calibration:section.html" is
panbench/studies/calibration/templates/section.html, and a study in another package has its own in the same way.
Template output is escaped, unless it is `Markup`: names are untrusted. templates/elements.html has the pieces that
several pages share.
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

FOOTER = "Written by panbench. This file needs no network and sends nothing."
"""The last line of a page saved as a file."""


STYLES = tuple(f"{__package__}:{name}.css" for name in ("base", "report", "wall", "print"))
"""The parts of the style sheet on every page."""

_SELF, _NONE = "'self'", "'none'"


def render(template: str, /, **facts: Any) -> Markup:
    """Returns the HTML of a template, "package:file", filled with facts."""
    # The template has already escaped everything that is not HTML.
    return Markup(_jinja_environment().get_template(template).render(facts))


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
    """Returns a complete page as one file that requests nothing; its template fills the blocks of shell.html.

    styles: templates of this page's style sheets in addition to STYLES; script: its only script, a module
    asks: the script may send requests to the page's server; forms: so may forms
    facts: variables of the template; `subtitle` and `footer` are the shell's
    """
    style = "\n".join(_stylesheet(name) for name in (*STYLES, *styles))
    policy = _content_security_policy(style=style, script=script, asks=asks, forms=forms)
    values = {"subtitle": None, **facts, "title": title, "style": Markup(style), "script": script and Markup(script)}
    return str(render(template, policy=policy, **values))


def unique_data_names(names: Sequence[str], fingerprints: Sequence[str | None]) -> list[str]:
    """Makes dataset names unique: repeated ones get the first digits of the SHA-256 of their ground truth."""
    return [
        name if names.count(name) == 1 or not mark else f"{name} (ground truth {mark[:8]})"
        for name, mark in zip(names, fingerprints, strict=True)
    ]


def json_in_html(data: Mapping[str, Any] | Sequence[Any]) -> str:
    """Returns JSON that cannot end its script element, whatever its strings contain."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return for_file(text)


def scripts_of(folder: str, names: Sequence[str]) -> str:
    """Joins scripts of a folder into one.

    folder: a package and a folder next to its code: "panbench.report.pages.page:assets"
    """
    return "\n".join(_script(folder, name) for name in names)


@functools.cache
def _script(folder: str, name: str) -> str:
    """Returns the text of a script in a folder, given as "package:folder"."""
    package, _, inside = folder.partition(":")
    return resources.files(package).joinpath(inside, name).read_text("utf-8")


@functools.cache
def _jinja_environment() -> Environment:
    """Returns Jinja's environment, with panbench's filters."""
    made = Environment(
        loader=FunctionLoader(_source),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    made.filters |= {"minus": _with_minus_signs, "percent": percent, "thousands": "{:,}".format}
    return made


def _source(template: str) -> str | None:
    """Returns the text of a template, given as "package:file"; None if it does not exist."""
    package, _, file = template.partition(":")
    try:
        return resources.files(package).joinpath("templates", file).read_text("utf-8")
    except (FileNotFoundError, ModuleNotFoundError):
        return None


_BEFORE_DIGITS = re.compile(r"(?<![^\s\[(])-(?=[\d.])")


def _with_minus_signs(text: str) -> str:
    """Replaces the hyphen before digits by a minus sign; a hyphen in a name stays."""
    return _BEFORE_DIGITS.sub("\u2212", text)


@functools.cache
def _stylesheet(template: str) -> str:
    """Renders a style sheet with the colours of models, causes and errors, light and dark."""
    errors = " ".join(f"--{kind.partition(' ')[0]}: {color};" for kind, color in ERRORS.items())
    colors = {"light": _colors(LIGHT, CAUSES_LIGHT), "dark": _colors(DARK, CAUSES_DARK), "errors": errors}
    return str(render(template, **colors))


def _colors(models: Sequence[str], causes: Sequence[str]) -> str:
    """Returns the colours of models (--m0 …) and of causes (--c0 …) as CSS variables."""
    return " ".join(
        f"--{letter}{index}: {color};"
        for letter, colors in (("m", models), ("c", causes))
        for index, color in enumerate(colors)
    )


def _content_security_policy(*, style: str, script: str | None, asks: bool, forms: bool) -> str:
    """Returns the content security policy of a page: only its own style and script."""
    rules = ["default-src 'none'", "img-src data:", f"style-src {_policy_hash(style)}"]
    rules += [f"script-src {_policy_hash(script)}"] if script is not None else []
    rules += ["connect-src 'self'"] if asks else []
    return "; ".join([*rules, "base-uri 'none'", f"form-action {_SELF if forms else _NONE}"])


def _policy_hash(text: str) -> str:
    """Returns the SHA-256 of a text as a content security policy writes it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
