"""A static site of many runs: a leaderboard with intervals, and the report of each run. Ready for GitHub Pages.

out/index.html            a table for each dataset, the best run first
out/runs/NAME.html        the report of one run
out/compare/DATA.html     the report of a table's runs together, where it has several
out/.nojekyll             GitHub Pages serves the files as they are
out/.panbench-site.json   what was written, so that the next call may replace it
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from panbench import __version__
from panbench.base.errors import BadArgument, BadRun
from panbench.base.files import write_json, write_text
from panbench.base.reporter import SILENT, NoticesOnly, Reporter
from panbench.base.text import capitalised
from panbench.metrics.jackknife import interval_notes
from panbench.report.answers.comparison import compare, rank_note
from panbench.report.answers.grid import ABSENT, count, percent
from panbench.report.answers.tables import ComparisonRow, comparable_groups, labels, rate
from panbench.report.figures.colors import run_styles
from panbench.report.pages.page.document import write_report
from panbench.report.pages.page.overview import interval_bars
from panbench.report.pages.page.wall import costliest_crop
from panbench.report.pages.rendering import FOOTER, unique_data_names, whole_page
from panbench.runs import Run

MARK = ".panbench-site.json"
EXAMPLES = 24
COMPARED = 12
"""Maximum number of runs on a comparison page: the best of its table."""


@dataclass(frozen=True)
class _SiteEntry:
    """A run in the site's table: its row, and its page, None if it holds no image."""

    run: Run
    row: ComparisonRow
    label: str
    page: str | None


def write_site(
    runs: Sequence[Run],
    out: str | os.PathLike[str],
    *,
    title: str = "Panoptic segmentation, measured",
    examples: int = EXAMPLES,
    reporter: Reporter = SILENT,
) -> Path:
    """Writes the site of some runs into a folder and returns the path of its index.html.

    Runs on the same images of the same ground truth share a table, in which they are ranked. Raises BadArgument if
    `out` holds files that no earlier call wrote, BadRun if no run is given.
    """
    if not runs:
        raise BadRun("No run is named. Pass run folders, or a folder of runs.")
    folder = Path(out)
    _remove_old_site(folder)
    pages = _page_names(runs)
    tables = [
        _site_entries([runs[index] for index in members], [pages[index] for index in members], reporter)
        for members in comparable_groups(runs)
    ]
    compared = _comparison_pages(tables)
    # Written before the first page, so that the next call can replace the site of a killed one.
    together = dict(filter(None, compared))
    files = ["index.html", ".nojekyll", *pages, *together]
    write_json(folder / MARK, {"panbench": __version__, "files": files})
    runs_of = {page: [run] for run, page in zip(runs, pages, strict=True) if run.image_ids()}
    runs_of |= together
    for number, (page, members) in enumerate(runs_of.items()):
        reporter.progress("Writing reports", number, len(runs_of), "files")
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        write_report(members, folder / page, examples=examples, home="../index.html", reporter=NoticesOnly(reporter))
    reporter.progress("Writing reports", len(runs_of), len(runs_of), "files")
    (folder / ".nojekyll").touch()
    found = [_table_context(entries, comparison) for entries, comparison in zip(tables, compared, strict=True)]
    fingerprints = [entries[0].run.info.dataset.fingerprint for entries in tables]
    for table, name in zip(found, unique_data_names([table["data"] for table in found], fingerprints), strict=True):
        table["data"] = name
    write_text(folder / "index.html", _render_index(title, len(runs), found))
    return folder / "index.html"


def _comparison_pages(tables: Sequence[Sequence[_SiteEntry]]) -> list[tuple[str, list[Run]] | None]:
    """Returns for each dataset the site's page that compares the best runs, and these runs; None if fewer than two."""
    found: list[tuple[str, list[Run]] | None] = []
    names: list[str] = []
    for entries in tables:
        members = [entry.run for entry in entries if entry.page][:COMPARED]
        names.append(_free_page_name("compare", _data_of(entries[0].row), names))
        found.append((names[-1], members) if len(members) > 1 else None)
    return found


def _remove_old_site(folder: Path) -> None:
    """Removes the files of an earlier site from a folder. Raises BadArgument if it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise BadArgument(f"{folder} is a file. Give a folder for the site with --out.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        record = json.loads((folder / MARK).read_text("utf-8"))
        files = [str(name) for name in record["files"]]
    except (OSError, ValueError, TypeError, KeyError):
        raise BadArgument(
            f"{folder} is not empty and was not made by `panbench site`. Name an empty or a new folder with --out."
        ) from None
    for name in files:
        path = folder / name
        if path.is_file() and path.resolve().is_relative_to(folder.resolve()):
            path.unlink()


def _page_names(runs: Sequence[Run]) -> list[str]:
    """Returns a unique file name for each run, from its name's letters and digits, numbered if repeated."""
    names: list[str] = []
    for run in runs:
        names.append(_free_page_name("runs", run.name, names))
    return names


def _free_page_name(folder: str, title: str, taken: Sequence[str]) -> str:
    """Returns a file name made from a title that is not taken yet."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip(".-") or "run"
    name, number = f"{folder}/{stem}.html", 2
    while name in taken:
        name, number = f"{folder}/{stem}-{number}.html", number + 1
    return name


def _site_entries(runs: Sequence[Run], pages: Sequence[str], reporter: Reporter) -> list[_SiteEntry]:
    """Returns the rows of one of the site's tables: best run first, runs without images last."""
    try:
        found = compare(runs)
    except BadRun as error:
        reporter.notice(error.reason)
        found = compare(runs, mixed=True)
    entries = [
        _SiteEntry(run, row, label, page if run.image_ids() else None)
        for run, row, label, page in zip(runs, found.rows, labels(found.rows), pages, strict=True)
    ]
    return sorted(entries, key=lambda entry: (entry.row.PQ is None, -(entry.row.PQ or 0)))


def _data_of(row: ComparisonRow) -> str:
    """Names the data of a run: dataset and split."""
    return " ".join(part for part in (row.dataset, row.split) if part) or "their data"


def _table_context(entries: Sequence[_SiteEntry], comparison: tuple[str, list[Run]] | None) -> dict[str, Any]:
    """Returns the values for the site's template of one table: dataset, runs, page that compares them, and notes."""
    row = entries[0].row
    notes = [f"{capitalised(note)}." for note in dict.fromkeys(n for entry in entries for n in entry.row.notes)]
    if any(entry.row.PQ_low is not None for entry in entries):
        notes.extend(interval_notes(row.images or 0))
        notes.extend(rank_note([entry.row for entry in entries]))
    crops = [costliest_crop(entry.run) if entry.page else None for entry in entries]
    rows = [entry.row for entry in entries]
    styles = run_styles([entry.run for entry in entries])
    bars = interval_bars([(one.PQ_low, one.PQ_high, one.PQ) for one in rows])
    lines = [
        {**_run_row_facts(entry), "style": style.record, "bar": bar, "crop": crop}
        for entry, style, bar, crop in zip(entries, styles, bars, crops, strict=True)
    ]
    held = sum(entry.page is not None for entry in entries)
    together = comparison and {"page": comparison[0], "runs": len(comparison[1]), "all": len(comparison[1]) == held}
    return {"data": _data_of(row), "images": row.images or 0, "lines": lines, "comparison": together, "notes": notes}


def _run_row_facts(entry: _SiteEntry) -> dict[str, Any]:
    """Returns the facts of a run in its table: rank, label, page and numbers."""
    row = entry.row
    known = row.PQ_low is not None and row.PQ_high is not None
    return {
        "rank": ABSENT if row.rank is None else str(row.rank),
        "ranks": "" if row.rank_low == row.rank_high else row.ranks,
        "label": entry.label if row.complete else f"{entry.label} (incomplete)",
        "page": entry.page,
        "numbers": (
            percent(row.PQ),
            f"{percent(row.PQ_low)} – {percent(row.PQ_high)}" if known else ABSENT,
            *(percent(value) for value in (row.SQ, row.RQ, row.PQ_th, row.PQ_st)),
            count(row.params),
            rate(row.images_per_second),
        ),
    }


def _render_index(title: str, runs: int, tables: Sequence[Mapping[str, Any]]) -> str:
    """Renders the site's index.html."""
    made = f"{runs} runs · {datetime.now(timezone.utc):%Y-%m-%d} · panbench {__version__}"
    columns = ("PQ", "95 % interval", "SQ", "RQ", "PQ_th", "PQ_st", "parameters", "images/s")
    return whole_page(
        "panbench.report.pages:site.html", title=title, subtitle=made, footer=FOOTER, columns=columns, tables=tables
    )
