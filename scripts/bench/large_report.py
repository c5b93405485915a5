"""How long the report and the server take to open runs of up to millions of images.

    python scripts/bench/large_report.py --images 1000000 --folder DIR     # 0.2 GB, kept: a second call measures alone

Two runs are generated (scripts/bench/scale.py; the second takes one segment in fifty for another category). Each
command is a process of its own that reads all images; seconds by the clock are for an idle machine. `serve` is asked
over 127.0.0.1: the list of runs, then the comparison of both.
"""

import hashlib
import os
import re
import shutil
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from panbench.panoptic.overlap import OverlapTable
from panbench.runs import DatasetRecord, ImagesRecord, RunInfo, load_run
from scripts.bench.child import in_child, panbench, peak_of, serving
from scripts.bench.harness import Row, arguments, finish
from scripts.bench.scale import seed_tables, write_run

PATIENCE = 1_200
"""Seconds that the server has for a page."""


def make_run(folder: Path, images: int, worse: bool) -> None:
    """Generates a run with that many images, whose parts run.json lists."""
    tables, categories = seed_tables(200)
    if worse:
        tables = [_with_wrong_categories(table, number) for number, table in enumerate(tables)]
    # The server lists runs by their ground truth.
    data = DatasetRecord(name="generated", fingerprint=hashlib.sha256(str(images).encode()).hexdigest())
    number = ImagesRecord(expected=images)
    info = RunInfo(kind="score", name=folder.name, categories=categories, images=number, dataset=data)
    write_run(folder, tables, info)


def _with_wrong_categories(table: OverlapTable, number: int) -> OverlapTable:
    segments = table.segments
    wrong = ~segments.is_gt & ((np.arange(len(segments)) + number) % 50 == 0)
    category_id = np.where(wrong, segments.category_id % 133 + 1, segments.category_id).astype(np.int32)
    return replace(table, segments=replace(segments, category_id=category_id))


def served(folder: Path) -> dict[str, float]:
    """Measures seconds until `serve` has shown the list and then a page of all runs; also megabytes and CPU seconds."""
    began = time.perf_counter()
    with serving(folder) as (process, home):
        names = re.findall(r'name="run" value="([^"]+)"', _read_page(home))
        listed = time.perf_counter() - began
        began = time.perf_counter()
        page = _read_page(f"{home}/compare?" + "&".join(f"run={urllib.parse.quote(name)}" for name in names))
        if 'id="overview"' not in page:
            raise SystemExit("The server did not show the comparison.")
        compared = time.perf_counter() - began
        times = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        cpu = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
        return {"list": listed, "compare": compared, "cpu": cpu, "megabytes": peak_of(process) / 1e3}


def _read_page(address: str) -> str:
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def _row(what: str, clock: float, cpu: float, megabytes: float) -> Row:
    numbers = {"s by the clock": f"{clock:.1f}", "CPU s": f"{cpu:.1f}", "peak GB": f"{megabytes / 1e3:.2f}"}
    return {"opening": what, **numbers}


def main() -> None:
    """Generates the runs, opens them and prints a row for each command."""
    options = arguments(__doc__, images=100_000, folder=Path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        runs = [folder / "results" / name for name in ("better", "worse")]
        for run in runs:
            if not (run / "run.json").exists():
                make_run(run, options.images, run.name == "worse")
            elif load_run(run).info.images.expected != options.images:
                raise SystemExit(f"{run} has another number of images. Give another --folder.")
        rows: list[Row] = []
        for number in (1, 2):
            spent = in_child(panbench, "report", *runs[:number], "--out", scratch / f"{number}.html")
            what = f"`report` of {number}, {options.images:,} images"
            rows.append(_row(what, spent.clock, spent.cpu, spent.megabytes))
            print(rows[-1], file=sys.stderr)
        found = served(folder / "results")
        what = f"`serve` of 2, {options.images:,} images"
        rows.append({"opening": f"{what}: list", "s by the clock": f"{found['list']:.1f}"})
        rows.append(_row(f"{what}: comparison", found["compare"], found["cpu"], found["megabytes"]))
        shutil.rmtree(scratch)
    finish("large_report", rows, options.write)


if __name__ == "__main__":
    main()
