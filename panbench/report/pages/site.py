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
from panbench.metrics.coverage import interval_notes
from panbench.report.answers.comparison import rank_note, standing
from panbench.report.answers.grid import ABSENT, count, percent
from panbench.report.answers.tables import ComparisonRow, labels, rate
from panbench.report.pages.page.document import write_report
from panbench.report.pages.rendering import FOOTER, named_apart, whole_page
from panbench.runs import Run
from panbench.runs.alike import ground_truths

__all__ = ["write_site"]

MARK = ".panbench-site.json"
EXAMPLES = 24
COMPARED = 12
"""Runs of a page that compares, at most: the best of its table."""


@dataclass(frozen=True)
class _Entry:
    """A run of the table: its row, and its page, None where it holds no image."""

    run: Run
    row: ComparisonRow
    label: str
    page: str | None


@dataclass(frozen=True)
class _Comparison:
    """The page that shows the best runs of a table together."""

    page: str
    runs: Sequence[Run]


def write_site(
    runs: Sequence[Run],
    out: str | os.PathLike[str],
    *,
    title: str = "Panoptic segmentation, measured",
    examples: int = EXAMPLES,
    reporter: Reporter = SILENT,
) -> Path:
    """Writes the site of some runs into a folder; its index.html.

    Runs on the same images of the same ground truth share a table, in which they are ranked. Raises BadArgument when
    `out` holds files that no earlier call wrote, BadRun when no run is named.
    """
    if not runs:
        raise BadRun("No run is named. Pass run folders, or a folder of runs.")
    folder = Path(out)
    _make_room(folder)
    pages = _page_names(runs)
    tables = [
        _entries([runs[index] for index in members], [pages[index] for index in members], reporter)
        for members in _of_one_data(runs)
    ]
    compared = _comparisons(tables)
    # Before the first page: a call that is killed leaves an earlier site, which the next one replaces.
    _mark(folder, ["index.html", ".nojekyll", *pages, *(one.page for one in compared if one)])
    shown = {page: [run] for run, page in zip(runs, pages, strict=True) if run.image_ids()}
    shown |= {one.page: list(one.runs) for one in compared if one}
    for number, (page, members) in enumerate(shown.items()):
        reporter.progress("Writing reports", number, len(shown), "files")
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        write_report(members, folder / page, examples=examples, home="../index.html", reporter=NoticesOnly(reporter))
    reporter.progress("Writing reports", len(shown), len(shown), "files")
    (folder / ".nojekyll").touch()
    found = [_table(entries, comparison) for entries, comparison in zip(tables, compared, strict=True)]
    fingerprints = [entries[0].run.info.dataset.fingerprint for entries in tables]
    for table, name in zip(found, named_apart([table["data"] for table in found], fingerprints), strict=True):
        table["data"] = name
    write_text(folder / "index.html", _index(title, len(runs), found))
    return folder / "index.html"


def _of_one_data(runs: Sequence[Run]) -> list[list[int]]:
    """The runs, by their places, that share ground truth and images; the largest group first."""
    groups: dict[tuple[object, ...], list[int]] = {}
    truths = ground_truths([run.info.dataset for run in runs])
    for index, run in enumerate(runs):
        groups.setdefault((truths[index], hash(tuple(run.image_ids()))), []).append(index)
    return sorted(groups.values(), key=lambda members: -len(members))


def _comparisons(tables: Sequence[Sequence[_Entry]]) -> list[_Comparison | None]:
    """The page that compares the best runs of each table; None where fewer than two hold images."""
    found: list[_Comparison | None] = []
    names: list[str] = []
    for entries in tables:
        members = [entry.run for entry in entries if entry.page][:COMPARED]
        names.append(_free_name("compare", _data_of(entries[0].row), names))
        found.append(_Comparison(names[-1], members) if len(members) > 1 else None)
    return found


def _make_room(folder: Path) -> None:
    """Removes what an earlier call wrote. Raises BadArgument for a folder that holds anything else."""
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


def _mark(folder: Path, files: Sequence[str]) -> None:
    write_json(folder / MARK, {"panbench": __version__, "files": list(files)})


def _page_names(runs: Sequence[Run]) -> list[str]:
    """A file for each run, of its name's letters and digits, with a number where two would be the same."""
    names: list[str] = []
    for run in runs:
        names.append(_free_name("runs", run.name, names))
    return names


def _free_name(folder: str, title: str, taken: Sequence[str]) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip(".-") or "run"
    name, number = f"{folder}/{stem}.html", 2
    while name in taken:
        name, number = f"{folder}/{stem}-{number}.html", number + 1
    return name


def _entries(runs: Sequence[Run], pages: Sequence[str], reporter: Reporter) -> list[_Entry]:
    """The runs of one table, the best first, those without images last."""
    try:
        found = standing(runs)
    except BadRun as error:
        reporter.notice(error.reason)
        found = standing(runs, mixed=True)
    entries = [
        _Entry(run, row, label, page if run.image_ids() else None)
        for run, row, label, page in zip(runs, found.rows, labels(found.rows), pages, strict=True)
    ]
    return sorted(entries, key=lambda entry: (entry.row.PQ is None, -(entry.row.PQ or 0)))


def _data_of(row: ComparisonRow) -> str:
    return " ".join(part for part in (row.dataset, row.split) if part) or "their data"


def _table(entries: Sequence[_Entry], comparison: _Comparison | None) -> dict[str, Any]:
    """The data, the runs' lines, the page that compares them, and notes."""
    row = entries[0].row
    notes = [f"{capitalised(note)}." for note in dict.fromkeys(n for entry in entries for n in entry.row.notes)]
    if any(entry.row.PQ_low is not None for entry in entries):
        notes.extend(interval_notes(row.images or 0))
        notes.extend(rank_note([entry.row for entry in entries]))
    lines = list(map(_line, entries))
    held = sum(entry.page is not None for entry in entries)
    together = comparison and {
        "page": comparison.page,
        "runs": len(comparison.runs),
        "all": len(comparison.runs) == held,
    }
    return {
        "data": _data_of(row),
        "images": row.images or 0,
        "lines": lines,
        "comparison": together,
        "notes": notes,
    }


def _line(entry: _Entry) -> dict[str, Any]:
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


def _index(title: str, runs: int, tables: Sequence[Mapping[str, Any]]) -> str:
    made = f"{runs} runs · {datetime.now(timezone.utc):%Y-%m-%d} · panbench {__version__}"
    columns = ("PQ", "95 % interval", "SQ", "RQ", "PQ_th", "PQ_st", "parameters", "images/s")
    return whole_page(
        "panbench.report.pages:site.html", title=title, subtitle=made, footer=FOOTER, columns=columns, tables=tables
    )
