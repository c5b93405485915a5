"""A static site of many runs: a leaderboard with intervals, and the report of each run. Ready for GitHub Pages.

out/index.html            a table for each dataset, the best run first
out/runs/NAME.html        the report of one run
out/.nojekyll             GitHub Pages serves the files as they are
out/.panbench-site.json   what was written, so that the next call may replace it
"""

import base64
import hashlib
import html
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from panbench import __version__
from panbench.base.errors import BadArgument, BadRun
from panbench.base.files import atomic_write
from panbench.base.reporter import SILENT, NoticesOnly, Reporter
from panbench.metrics.coverage import interval_notes
from panbench.report.answers.comparison import standing
from panbench.report.answers.grid import percent
from panbench.report.answers.tables import ComparisonRow, count, labels, rate
from panbench.report.pages.page.document import write_report
from panbench.report.pages.page.elements import Html, scrolling, tag
from panbench.runs import Run

__all__ = ["write_site"]

MARK = ".panbench-site.json"
EXAMPLES = 24

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1200px; padding: 20px clamp(14px, 3vw, 40px); }
h1 { font-size: 1.8rem; margin: 0; } h2 { font-size: 1.2rem; margin: 28px 0 6px; }
p { max-width: 80ch; } .quiet { opacity: 0.75; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid #8888; }
th, td { font-weight: 400; white-space: nowrap; }
.number { text-align: right; } sup { line-height: 0; } a { color: LinkText; }
"""


@dataclass(frozen=True)
class _Entry:
    """A run of the table: its row, its rank's range, and its page, None where it holds no image."""

    run: Run
    row: ComparisonRow
    label: str
    ranks: tuple[int, int] | None
    page: str | None


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
    written = ["index.html", ".nojekyll"]
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for number, (run, page) in enumerate(zip(runs, pages, strict=True)):
        reporter.progress("Writing reports", number, len(runs), "files")
        if run.image_ids():
            write_report([run], folder / page, examples=examples, reporter=NoticesOnly(reporter))
            written.append(page)
            _mark(folder, written)
    reporter.progress("Writing reports", len(runs), len(runs), "files")
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, run in enumerate(runs):
        groups.setdefault((run.info.dataset.fingerprint, hash(tuple(run.image_ids()))), []).append(index)
    sections = [
        _section(_entries([runs[index] for index in members], [pages[index] for index in members], reporter))
        for _, members in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]
    (folder / ".nojekyll").touch()
    with atomic_write(folder / "index.html", "w") as handle:
        handle.write(_index(title, len(runs), sections))
    _mark(folder, written)
    return folder / "index.html"


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
    with atomic_write(folder / MARK, "w") as handle:
        handle.write(json.dumps({"panbench": __version__, "files": list(files)}, indent=2) + "\n")


def _page_names(runs: Sequence[Run]) -> list[str]:
    """A file for each run, of its name's letters and digits, with a number where two would be the same."""
    names: list[str] = []
    for run in runs:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip(".-") or "run"
        name, number = f"runs/{stem}.html", 2
        while name in names:
            name, number = f"runs/{stem}-{number}.html", number + 1
        names.append(name)
    return names


def _entries(runs: Sequence[Run], pages: Sequence[str], reporter: Reporter) -> list[_Entry]:
    """The runs of one table, the best first, those without images last."""
    try:
        found = standing(runs)
    except BadRun as error:
        reporter.notice(error.reason)
        found = standing(runs, mixed=True)
    ranks: dict[str, tuple[int, int]] = {}
    if found.comparison is not None:
        table = found.comparison.runs
        table = table[(table["group"] == "All") & (table["metric"] == "PQ") & table["rank_low"].notna()]
        ranks = {row.run: (int(row.rank_low), int(row.rank_high)) for row in table.itertuples()}
    entries = [
        _Entry(run, row, label, ranks.get(key), page if run.image_ids() else None)
        for run, row, label, key, page in zip(runs, found.rows, labels(found.rows), found.keys, pages, strict=True)
    ]
    return sorted(entries, key=lambda entry: (entry.row.PQ is None, -(entry.row.PQ or 0)))


def _section(entries: Sequence[_Entry]) -> Html:
    row = entries[0].row
    where = " ".join(part for part in (row.dataset, row.split) if part) or "their data"
    head = [
        tag("th", name, scope="col", class_=None if name == "Model" else "number")
        for name in ("Rank", "Model", "PQ", "95 % interval", "SQ", "RQ", _THINGS, _STUFF, "parameters", "images/s")
    ]
    notes = [
        f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(n for entry in entries for n in entry.row.notes)
    ]
    if any(entry.row.PQ_low is not None for entry in entries):
        notes.extend(interval_notes(row.images or 0))
    body = tag("tbody", *map(_line, entries))
    table = scrolling(tag("table", tag("thead", tag("tr", *head)), body), f"Runs on {where}")
    images = f"{row.images or 0:,} images, PQ in percent"
    return Html(
        tag("h2", where)
        + tag("p", images, class_="quiet")
        + table
        + "".join(tag("p", note, class_="quiet") for note in notes)
    )


def _line(entry: _Entry) -> Html:
    row = entry.row
    rank = "–" if row.rank is None else str(row.rank)
    if entry.ranks and entry.ranks[0] != entry.ranks[1]:
        rank += f" ({entry.ranks[0]}–{entry.ranks[1]})"
    known = row.PQ_low is not None and row.PQ_high is not None
    numbers = [
        percent(row.PQ),
        f"{percent(row.PQ_low, 1)} – {percent(row.PQ_high, 1)}" if known else "–",
        *(percent(value) for value in (row.SQ, row.RQ, row.PQ_th, row.PQ_st)),
        count(row.params),
        rate(row.images_per_second),
    ]
    name = entry.label if row.complete else f"{entry.label} (incomplete)"
    cells = [tag("td", rank, class_="number"), tag("th", _link(entry.page, name), scope="row")]
    return tag("tr", *cells, *(tag("td", number, class_="number") for number in numbers))


def _link(page: str | None, name: str) -> str | Html:
    return name if page is None else tag("a", name, href=page)


def _index(title: str, runs: int, sections: Sequence[Html]) -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    made = f"{runs} runs · {datetime.now(timezone.utc):%Y-%m-%d} · panbench {__version__}"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{tag('h1', title)}\n{tag('p', made, class_='quiet')}\n{''.join(sections)}\n</main>\n</body>\n</html>\n"
    )


_THINGS, _STUFF = Html("PQ<sup>Th</sup>"), Html("PQ<sup>St</sup>")
