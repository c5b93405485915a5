"""Writes some runs as one self-contained HTML file that can be mailed and opened offline.

Python computes the numbers (numbers.py) and packs the examples (gallery.py); templates/*.html write what must be
readable without JavaScript; assets/*.js draw the charts and the viewer from the JSON in the page. Names are untrusted:
templates escape every string, the scripts only ever set text, and a content security policy forbids every request and
every script but ours.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from panbench import __version__
from panbench.base.errors import BadArgument
from panbench.base.files import write_text
from panbench.base.reporter import SILENT, Reporter
from panbench.base.text import for_file, listed
from panbench.panoptic.image_ids import own_id
from panbench.report.answers import views
from panbench.report.answers.comparison import Standing
from panbench.report.answers.own_slices import slices_for
from panbench.report.answers.published import with_published
from panbench.report.answers.tables import shared_images
from panbench.report.answers.views import Compared
from panbench.report.figures.pictures import Pictures
from panbench.report.pages.page.leads import Lead, choose_gallery_images, displayed_images_by_lead, find_leads
from panbench.report.pages.page.numbers import chart_numbers, speed_notes
from panbench.report.pages.page.overview import overview, title_of
from panbench.report.pages.page.packing import EXAMPLES, Examples, Gallery, pack_pictures
from panbench.report.pages.page.provenance import provenance
from panbench.report.pages.page.section import FurtherSections, find_further_sections
from panbench.report.pages.page.wall import Wall, errors_of_page, fix_first_numbers, make_wall
from panbench.report.pages.rendering import FOOTER, Markup, json_in_html, scripts_of, whole_page
from panbench.runs import Run

LARGEST = 8_000_000
"""Maximum size of a page in bytes, small enough for mail. Photographs are made smaller until it fits."""

FRAME = 220_000
"""Maximum bytes of a page besides numbers and pictures."""

PHOTO_SIZES = ((640, 82), (512, 78), (400, 72), (280, 65))
"""Longest side in pixels and JPEG quality of the photographs, tried in turn."""

SCRIPTS = (
    "dom.js",
    "charts.js",
    "segments.js",
    "leads.js",
    "paint.js",
    "viewer.js",
    "images.js",
    "gallery.js",
    "lost.js",
    "where.js",
    "page.js",
)


def write_report(runs: Sequence[Run], out: str | os.PathLike[str], **options: Any) -> Path:
    """Writes the report of some runs atomically and returns its path. Options are those of `report_page`."""
    target = Path(out)
    if target.suffix.lower() not in (".html", ".htm"):
        raise BadArgument(f"{target} does not end in .html: the report is one HTML file.")
    if target.is_dir():
        raise BadArgument(f"{target} is a folder. Give the report's file name with --out.")
    page = report_page(runs, **options)
    write_text(target, page)
    return target


def report_page(
    runs: Sequence[Run],
    *,
    title: str | None = None,
    common_images: bool = False,
    examples: int | None = None,
    image_ids: Sequence[int] = (),
    images: Path | None = None,
    gt: Path | None = None,
    gt_dir: Path | None = None,
    slices: Path | None = None,
    published: Sequence[str] = (),
    reporter: Reporter = SILENT,
    command: Sequence[str] = (),
    home: str | None = None,
) -> str:
    """Returns the HTML of one page that shows some runs, the best first: verdict, tables, charts and a gallery.

    examples: maximum number of images in the gallery; None: enough for what the page lists, at most EXAMPLES
    common_images: show the images that all runs have in common, if they differ
    image_ids: images for the gallery before the chosen ones
    images, gt, gt_dir: where photographs and ground truth are, if they have moved
    slices: a file of sets of images (own_slices); published: names of claims for the comparison (published.choose)
    reporter: gets a notice for everything that is left out, and progress
    command: the command line that makes this page, which the page prints with more images
    home: the URL of a list of runs that the page links back to
    Raises BadRun for runs that cannot be compared or hold no image.
    """
    if examples is not None and examples < 0:
        raise BadArgument(f"--examples must be at least 0, not {examples}.")
    reporter.status("Comparing runs")
    runs = views.best_first(_without_variants(runs, reporter), reporter)
    unknown_ids = np.setdiff1d(np.array(image_ids, np.int64), shared_images(runs)).tolist()
    if unknown_ids:
        raise BadArgument(f"--image {own_id(unknown_ids[0])}: the runs have no image with this id.")
    own = slices_for(slices, runs)
    members, standing = views.compared(runs, common_images=common_images, reporter=reporter)
    per_image = views.per_image(members, image_ids)
    most = EXAMPLES if examples is None else examples
    drawn = bool(most or image_ids)
    moved = {"--images": images, "--gt": gt, "--gt-dir": gt_dir, "--slices": slices}
    examples_of = Examples(members, Pictures(runs[0], images=images, gt=gt, gt_dir=gt_dir))
    kinds = find_leads(members, per_image, own)
    chosen = choose_gallery_images(kinds, max(most, len(image_ids)), image_ids) if drawn else []
    errors = errors_of_page(examples_of) if drawn else {}
    more = find_further_sections(members, own, claims=bool(published))
    numbers = {
        **chart_numbers(members, standing, per_image),
        **more.numbers,
        "fixes": fix_first_numbers(members),
        "command": shlex.join(command or _report_command(runs, common_images, published, moved)),
    }
    if published:
        standing = with_published(standing, published)
    room = LARGEST - FRAME - len(json_in_html(numbers).encode())
    gallery, crops = pack_pictures(examples_of, chosen, errors, PHOTO_SIZES, room, reporter)
    reporter.status("Drawing the page")
    wall = make_wall(members, errors, crops, own)
    data = {**numbers, "wall": wall.numbers}
    shown = {
        "leads": displayed_images_by_lead(kinds, [image["id"] for image in gallery.images]),
        "pictured": [image["id"] for image in gallery.images],
    }
    if gallery.missing and not gallery.images:
        data["command"] = ""  # --image would add no picture here
    page = for_file(_render_page(members, standing, {**data, **shown}, gallery, more, wall, title, home))
    if (size := len(page.encode())) > LARGEST:
        reporter.notice(f"The page has {size / 1e6:.0f} MB; fewer --examples make it smaller.")
    if gallery.missing:
        reporter.notice(" ".join([*gallery.missing, *gallery.commands]))
    return page


def _without_variants(runs: Sequence[Run], reporter: Reporter) -> Sequence[Run]:
    """Returns the runs without variants of another one at an earlier decoder layer or another image size."""
    complete = {run.path for run in runs if not _is_variant(run)}
    variants = [
        run
        for run in runs
        if _is_variant(run) and run.path and run.path.with_name(run.path.name.partition("@")[0]) in complete
    ]
    if variants:
        names = listed([run.path.name for run in variants if run.path], 3)
        reporter.notice(f"{names}: in the section on PQ against time, and not among the models.")
    return [run for run in runs if run not in variants]


def _is_variant(run: Run) -> bool:
    """Returns whether a run is of a single decoder layer or image size of another run."""
    return any(name in run.info.arguments for name in ("layer", "size"))


def live_page(
    members: Sequence[Compared],
    standing: Standing,
    per_image: pd.DataFrame,
    kinds: Sequence[Sequence[Lead]],
    live: Mapping[str, Any],
    missing: Sequence[str] = (),
    commands: Sequence[str] = (),
) -> str:
    """Returns the HTML page of `panbench serve`, which requests its example images from the server.

    live: URLs and choices of the search; live["api"] is the URL that the page's scripts request images from
    """
    images = [image for kind in kinds for lead in kind for image in lead.images]
    more = find_further_sections(members)
    data = {
        **chart_numbers(members, standing, per_image),
        **more.numbers,
        "fixes": fix_first_numbers(members),
        "wall": Wall().numbers,
        "command": "",
        "leads": displayed_images_by_lead(kinds, images),
        "pictured": [],
        "live": live,
    }
    gallery = Gallery((), tuple(missing), tuple(commands), live=any(live["pictures"]))
    return for_file(_render_page(members, standing, data, gallery, more, Wall(), None, live["home"]))


def _report_command(
    runs: Sequence[Run], common_images: bool, published: Sequence[str], paths: Mapping[str, Path | None]
) -> list[str]:
    """Returns the command that makes this page again, from any folder of this machine."""
    words = ["panbench", "report", *(str(run.path.resolve()) for run in runs if run.path)]
    for name, path in paths.items():
        words += [name, str(Path(path).resolve())] if path else []
    for name in published:
        words += ["--published", name]
    return [*words, *(["--common-images"] if common_images else [])]


def _render_page(
    members: Sequence[Compared],
    standing: Standing,
    data: Mapping[str, Any],
    gallery: Gallery,
    more: FurtherSections,
    wall: Wall,
    title: str | None,
    home: str | None,
) -> str:
    """Renders the page's template with all facts, numbers and pictures."""
    row = members[0].row
    return whole_page(
        "panbench.report.pages.page:page.html",
        title=title or title_of(members),
        subtitle=f"{row.images:,} images · {len(members[0].categories)} categories · "
        f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC · panbench {__version__}",
        footer="Served by panbench on this machine, to this machine only." if "live" in data else FOOTER,
        script=scripts_of(f"{__package__}:assets", SCRIPTS),
        asks=gallery.live,
        home=home,
        sampled=views.sampled(members),
        overview=overview(members, standing),
        gallery=gallery,
        wall=wall,
        added=more,
        cost=speed_notes(members),
        provenance=provenance(members),
        # Escaped as JSON inside a script element; escaped as text it would not be JSON.
        data=Markup(json_in_html(data)),
        # Separate from the numbers: the scripts parse them after the first paint.
        pictures=Markup(json_in_html(list(gallery.images))),
    )
