"""The answers of `panbench serve` to a filter, here and in another checkout: CPU seconds and bytes.

    python scripts/bench/serve_lists.py [--runs DIR/results] [--before ../panbench-before] [--images 24] [--scenes 40]

The runs are those of five models on a set of scripts/make/coco_like.py (480×640 pixels), scored where the predictions
lie, or those in DIR/results. Each checkout answers in a process of its own: the comparison is made first, then the list
that a page opens with, a filter that finds other images, the same again, and one whole image. CPU seconds are those of
the process (user and system); bytes are those of the JSON.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.child import in_child
from scripts.bench.harness import arguments, cpu_seconds, finish
from scripts.bench.report import make_runs


def questions(runs: str, limit: int) -> Callable[[], list[tuple[float, int]]]:
    """Asks everything in turn; of each question CPU seconds and bytes."""
    from panbench.report.pages.live.library import Library
    from panbench.report.pages.live.selection import Query

    library = Library(runs)
    selection = library.selection([one.name for one in library.runs()])

    def measured(ask: Callable[[], Any]) -> tuple[float, int]:
        texts: list[str] = []
        seconds = cpu_seconds(lambda: texts.append(json.dumps(ask(), separators=(",", ":"))))
        return seconds, len(texts[0])

    def run() -> list[tuple[float, int]]:
        first = selection.find(Query())[:limit]
        # A page of the filter's answer of which no image was on the first list, where there is one.
        found = selection.find(Query(verdict="FN", order="best"))
        others = (at for at in range(len(found) - limit + 1) if not set(found[at : at + limit]) & set(first))
        wanted = Query(verdict="FN", order="best", limit=limit, offset=next(others, 0))
        asked = [Query(limit=limit), wanted, wanted]
        answers = [measured(lambda query=query: selection.answer(query)) for query in asked]  # type: ignore[misc]
        return [*answers, measured(lambda: selection.example(selection.image_ids[-1]))]

    return run


def main() -> None:
    """Prints a row for each question."""
    options = arguments(__doc__, runs=Path, before=Path, images=24, scenes=40)
    with tempfile.TemporaryDirectory() as scratch:
        runs = options.runs or make_runs(Path(scratch), options.scenes)[0].parent
        here = in_child(questions, runs.resolve(), options.images).answer
        before = (
            in_child(questions, runs.resolve(), options.images, checkout=options.before) if options.before else None
        )
    rows = []
    for place, name in enumerate(("the first list", "a filter", "the same again", "one whole image")):
        seconds, size = here[place]
        row = {"question": name, "CPU s": f"{seconds:.3f}", "kB": f"{size / 1e3:,.0f}"}
        if before:
            row |= {
                "CPU s, before": f"{before.answer[place][0]:.3f}",
                "kB, before": f"{before.answer[place][1] / 1e3:,.0f}",
            }
        rows.append(row)
    finish("serve_lists", rows, options.write and not options.before and not options.runs)


if __name__ == "__main__":
    main()
