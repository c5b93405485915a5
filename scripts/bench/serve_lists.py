"""Measures the answers of `panbench serve` to a filter, here and in another checkout: CPU seconds and bytes.

    python scripts/bench/serve_lists.py DIR/results [--against ../panbench-before] [--images 24]

DIR/results are runs of scripts/make/coco_like.py (five models, 480×640 pixels) whose predictions were scored where
they lie. Each checkout answers in a process of its own: the comparison is made first, then the list that a page opens
with, a filter that finds other images, the same again, and one whole image. CPU seconds are those of the process (user
and system), so other work on the machine counts little; bytes are those of the JSON.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ASK = """
import json, resource, sys
from panbench.report.pages.live.library import Library
from panbench.report.pages.live.selection import Query
library = Library(sys.argv[1])
selection = library.selection([one.name for one in library.runs()])

def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime

def measured(ask):
    before = cpu()
    text = json.dumps(ask(), separators=(",", ":"))
    return [cpu() - before, len(text)]

limit = int(sys.argv[2])
first = selection.find(Query())[:limit]
# A page of the filter's answer of which no image was on the first list.
wanted = Query(verdict="FN", order="best")
offset = next(at for at in range(10**6) if not set(selection.find(wanted)[at : at + limit]) & set(first))
wanted = Query(verdict="FN", order="best", limit=limit, offset=offset)
found = [measured(lambda query=query: selection.answer(query)) for query in (Query(limit=limit), wanted, wanted)]
found.append(measured(lambda: selection.example(selection.image_ids[-1])))
print(json.dumps(found))
"""


def answers(checkout: Path, runs: Path, images: int) -> list[list[float]]:
    """Of each question of a checkout CPU seconds and bytes."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    words = [sys.executable, "-c", ASK, str(runs.resolve()), str(images)]
    ran = subprocess.run(words, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    found: list[list[float]] = json.loads(ran.stdout)
    return found


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--against", type=Path, help="another checkout, measured on the same runs")
    parser.add_argument("--images", type=int, default=24, help="images of a list (default: 24, as the page asks)")
    chosen = parser.parse_args()
    here = answers(Path(__file__).resolve().parents[2], chosen.runs, chosen.images)
    there = answers(chosen.against.resolve(), chosen.runs, chosen.images) if chosen.against else None
    for place, name in enumerate(("the first list", "a filter", "the same again", "one whole image")):
        seconds, size = here[place]
        line = f"{name}: {seconds:.2f} s CPU, {size / 1e3:,.0f} kB"
        if there:
            line += f"; before {there[place][0]:.2f} s, {there[place][1] / 1e3:,.0f} kB"
            line += f" ({there[place][0] / max(seconds, 1e-3):.1f} × the CPU, {there[place][1] / size:.1f} × the bytes)"
        print(line)


if __name__ == "__main__":
    main()
