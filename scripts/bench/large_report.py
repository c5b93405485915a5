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
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from panbench.panoptic.overlap import OverlapTable
from panbench.runs import DatasetRecord, ImagesRecord, RunInfo, RunWriter, load_run
from scripts.bench.child import Spent, in_child, panbench
from scripts.bench.harness import ROOT, Row, arguments, finish
from scripts.bench.scale import IMAGES_A_PART, repeated, seed_tables

PATIENCE = 1_200
"""Seconds that the server has for a page."""


def write_run(folder: Path, images: int, worse: bool) -> None:
    """A run of that many images, whose parts run.json lists."""
    tables, categories = seed_tables(200)
    if worse:
        tables = [_worse(table, number) for number, table in enumerate(tables)]
    # The server lists runs by their ground truth.
    data = DatasetRecord(name="generated", fingerprint=hashlib.sha256(str(images).encode()).hexdigest())
    number = ImagesRecord(expected=images)
    info = RunInfo(kind="score", name=folder.name, categories=tuple(categories), images=number, dataset=data)
    writer = RunWriter.create(folder, info)
    for done in range(0, images, IMAGES_A_PART):
        writer.write_part(repeated(tables, done, min(IMAGES_A_PART, images - done)))
    writer.finish("done")


def _worse(table: OverlapTable, number: int) -> OverlapTable:
    segments = table.segments
    wrong = ~segments.is_gt & ((np.arange(len(segments)) + number) % 50 == 0)
    category_id = np.where(wrong, segments.category_id % 133 + 1, segments.category_id).astype(np.int32)
    return replace(table, segments=replace(segments, category_id=category_id))


def served(folder: str) -> Callable[[], dict[str, float]]:
    """Seconds until `serve` of a folder has shown its list, and then a page of all its runs; megabytes and CPU s."""

    def run() -> dict[str, float]:
        words = [sys.executable, "-m", "panbench", "serve", folder, "--port", "0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        began = time.perf_counter()
        server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
        try:
            assert server.stdout is not None
            lines = iter(server.stdout.readline, "")
            home = next(where[0] for line in lines if (where := re.search(r"http://127\.0\.0\.1:\d+/\S*", line)))
            names = re.findall(r'name="run" value="([^"]+)"', _read(home))
            found: dict[str, float] = {"list": time.perf_counter() - began}
            began = time.perf_counter()
            asked = "&".join(f"run={urllib.parse.quote(name)}" for name in names)
            page = _read(f"{home.rstrip('/')}/compare?{asked}")
            if 'id="overview"' not in page:
                raise SystemExit("The server did not show the comparison.")
            found["compare"] = time.perf_counter() - began
            status = Path(f"/proc/{server.pid}/status").read_text()
            times = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
            found["cpu"] = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
            peak = re.search(r"VmHWM:\s+(\d+) kB", status)
            return {**found, "megabytes": int(peak[1]) / 1e3 if peak else float("nan")}
        finally:
            server.terminate()
            server.wait()

    return run


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        return str(answer.read().decode())


def _row(what: str, clock: float, cpu: float, megabytes: float) -> Row:
    numbers = {"s by the clock": f"{clock:.1f}", "CPU s": f"{cpu:.1f}", "peak GB": f"{megabytes / 1e3:.2f}"}
    return {"opening": what, **numbers}


def _reports(runs: list[Path], images: int, scratch: Path) -> list[Row]:
    """`report` of one run and of two."""
    rows = []
    for number in (1, 2):
        words: list[str | Path] = ["report", *runs[:number], "--out", scratch / f"{number}.html"]
        spent: Spent = in_child(panbench, *words)
        rows.append(_row(f"`report` of {number}, {images:,} images", spent.clock, spent.cpu, spent.megabytes))
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    """Makes the runs, opens them and prints a row for each."""
    options = arguments(__doc__, images=100_000, folder=Path)
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        scratch = folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        runs = [folder / "results" / name for name in ("better", "worse")]
        for run in runs:
            if not (run / "run.json").exists():
                write_run(run, options.images, run.name == "worse")
            elif load_run(run).info.images.expected != options.images:
                raise SystemExit(f"{run} has another number of images. Give another --folder.")
        rows = _reports(runs, options.images, scratch)
        found = in_child(served, folder / "results").answer
        what = f"`serve` of 2, {options.images:,} images"
        rows.append(
            {"opening": f"{what}: list", "s by the clock": f"{found['list']:.1f}", "CPU s": "–", "peak GB": "–"}
        )
        rows.append(_row(f"{what}: comparison", found["compare"], found["cpu"], found["megabytes"]))
        shutil.rmtree(scratch)
    finish("large_report", rows, options.write)


if __name__ == "__main__":
    main()
