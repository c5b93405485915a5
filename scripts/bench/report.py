"""`panbench report`, `compare`, `metrics` and `errors` on five models of a set like COCO's val2017.

    python scripts/bench/report.py [--images 5000] [--folder DIR] [--before PATH] [--make-only] [--rounds 3] [--write]

The set is made by scripts/make/coco_like.py (at most 500 scenes under as many ids as are asked for; kept in DIR, if
given) and scored by `panbench score`, so `report` has photographs and predictions for its pictures. PATH is another
checkout of panbench (`git worktree add PATH COMMIT`); both read the same runs, each command in a process of its own, in
turn. Seconds (CPU: of all threads and processes) and the peak of memory are those of the whole command with its
imports; of several rounds the least counts. Where PYTHONDONTWRITEBYTECODE is set, as in some containers, every process
compiles the package again: unset it. With --write the rows go to results/benchmarks/report.csv, those of 5,000 images
to report_5000.csv.
"""

import functools
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.child import in_child, panbench
from scripts.bench.harness import arguments, checkouts, compared, finish, turns

FULL = 5000
"""As many images as COCO's val2017 has."""


def make_runs(folder: Path, images: int) -> list[Path]:
    """Returns the runs of the five models in the folder; makes them if they do not exist."""
    from scripts.make.coco_like import MODELS, write_set

    runs = [folder / "results" / name for name in MODELS]
    if not all((run / "run.json").exists() for run in runs):
        write_set(folder, images, min(images, 500))
        for name, run in zip(MODELS, runs, strict=True):
            given = ["--gt", folder / "gt.json", "--pred", folder / f"{name}.json", "--images", folder / "images"]
            in_child(panbench, "score", *given, "--out", run, "--overwrite")
    return runs


def main() -> None:
    """Makes the runs and prints a row for each command."""
    options = arguments(__doc__, images=60, folder=Path, before=Path, make_only=False, rounds=1)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = make_runs((options.folder or Path(scratch)).resolve(), options.images)
        if options.make_only:
            return
        commands: dict[str, list[str | Path]] = {
            "`report` of five models": ["report", *runs, "--out", Path(scratch) / "report.html"],
            "`compare` of five": ["compare", *runs],
            "`metrics` of one": ["metrics", runs[0]],
            "`errors` of one": ["errors", runs[0]],
        }
        for command, words in commands.items():
            sides = {
                side: functools.partial(in_child, panbench, *words, checkout=at)
                for side, at in checkouts(options.before).items()
            }
            found = turns(sides, options.rounds)
            row = {f"{options.images:,} images": command}
            for side, spent in found.items():
                of = f", {side}" if options.before else ""
                row[f"s{of}"] = f"{min(one.clock for one in spent):.1f}"
                row[f"CPU s{of}"] = f"{min(one.cpu for one in spent):.1f}"
                row[f"peak GB{of}"] = f"{max(one.megabytes for one in spent) / 1e3:.2f}"
            if options.before:
                row |= compared([one.cpu for one in found["before"]], [one.cpu for one in found["now"]])
            rows.append(row)
    # A set of COCO's size has a table of its own beside the small one of `make benchmarks`.
    write = options.write and not options.before
    if options.images == FULL:
        finish("report_5000", rows, write)
    else:
        finish("report", rows, write)


if __name__ == "__main__":
    main()
