"""One HTML file that shows some runs: mailed, opened offline, clicked through. Everything is in the file.

Python computes the numbers (numbers.py), writes what must be read without JavaScript (sections.py) and packs the
examples (gallery.py); assets/*.js draw the charts and the viewer from the JSON in the page. Names are untrusted: Python
escapes every string that it puts into HTML, the scripts only ever set text, and a content security policy forbids every
request and every script but ours.
"""

import base64
import hashlib
import html
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from panbench import __version__
from panbench.base.errors import BadArgument
from panbench.base.files import atomic_write
from panbench.report import views
from panbench.report.colors import DARK, LIGHT
from panbench.report.comparison import Standing
from panbench.report.page.gallery import EXAMPLES, Gallery, make_gallery
from panbench.report.page.numbers import chart_numbers
from panbench.report.page.sections import overview, provenance, sections
from panbench.report.pictures import Pictures
from panbench.report.views import Compared
from panbench.runs import Run

__all__ = ["EXAMPLES", "report_page", "write_report"]

LARGEST = 15_000_000
"""Bytes that a page may have: what mail takes. Photographs are made smaller until it fits."""

PHOTO_SIZES = ((640, 82), (512, 78), (400, 72), (280, 65))
"""Longest side in pixels and JPEG quality of the photographs, tried in turn."""

SCRIPTS = ("dom.js", "charts.js", "categories.js", "gallery.js", "page.js")
Notice = Callable[[str], None]


def write_report(
    runs: Sequence[Run], out: str | os.PathLike[str], *, notice: Notice = lambda sentence: None, **options: Any
) -> Path:
    """Writes the page of some runs, atomically; its path. Options are those of `report_page`."""
    target = Path(out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise BadArgument(f"{target} does not end in .html: the report is one HTML file.")
    if target.is_dir():
        raise BadArgument(f"{target} is a folder. Give the report's file name with --out.")
    page = report_page(runs, notice=notice, **options)
    with atomic_write(target, "w") as handle:
        handle.write(page)
    return target


def report_page(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    common_images: bool = False,
    examples: int = EXAMPLES,
    image_ids: Sequence[int] = (),
    images: Path | None = None,
    gt: Path | None = None,
    gt_dir: Path | None = None,
    notice: Notice = lambda sentence: None,
) -> str:
    """The HTML of one page that shows some runs: tables, charts and a gallery of `examples` images.

    common_images: show the images that all runs have, when they have others besides
    image_ids: images for the gallery before those that are chosen
    images, gt, gt_dir: where photographs and ground truth are, when they have moved
    notice: called with a sentence for each thing that is left out
    Raises BadRun for runs that cannot be compared or hold no image.
    """
    if examples < 0:
        raise BadArgument(f"--examples must be at least 0, not {examples}.")
    members, standing = views.compared(runs, common_images=common_images)
    per_image = views.per_image(members)
    data = chart_numbers(members, per_image)
    page = ""
    for side, quality in PHOTO_SIZES:
        gallery = make_gallery(
            members,
            per_image,
            examples,
            image_ids,
            Pictures(runs[0], images=images, gt=gt, gt_dir=gt_dir),
            side,
            quality,
        )
        page = _page(members, standing, {**data, "gallery": list(gallery.images)}, gallery, title)
        if len(page.encode()) < LARGEST or not gallery.images:
            break
    else:
        notice(f"The page has {len(page.encode()) / 1e6:.0f} MB; fewer --examples make it smaller.")
    for sentence in gallery.missing:
        notice(sentence)
    return page


def _page(
    members: Sequence[Compared], standing: Standing, data: Mapping[str, Any], gallery: Gallery, title: str | None
) -> str:
    script = "\n".join(_asset(name) for name in SCRIPTS)
    style = Template(_asset("page.css")).substitute(light=_colors(LIGHT), dark=_colors(DARK))
    row = members[0].row
    where = " ".join(part for part in (row.dataset, row.split) if part) or "their data"
    number = "1 run" if len(members) == 1 else f"{len(members)} runs"
    shown = title or f"{number if len(members) > 1 else members[0].label} on {where}"
    return Template(_asset("page.html")).substitute(
        title=html.escape(shown),
        subtitle=html.escape(
            f"{row.images:,} images · {len(members[0].categories)} categories · "
            f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC · panbench {__version__}"
        ),
        policy=html.escape(
            f"default-src 'none'; img-src data:; script-src {_hash_of(script)}; style-src {_hash_of(style)}; "
            "base-uri 'none'; form-action 'none'"
        ),
        style=style,
        script=script,
        overview=overview(members, standing),
        provenance=provenance(members),
        sections="".join(sections(members, gallery)),
        data=_json(data),
    )


def _json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end the script element it stands in, whatever its strings hold."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _colors(colors: Sequence[str]) -> str:
    """The models' colours as CSS variables."""
    return " ".join(f"--m{index}: {color};" for index, color in enumerate(colors))


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files("panbench.report.page").joinpath("assets", name).read_text("utf-8")
