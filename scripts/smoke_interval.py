"""Holds a run's PQ to the interval in a file: python scripts/smoke_interval.py RUN FILE

Prints a sentence. Without the file it is written from this run, and the program fails: an interval that nobody has
looked at must not pass. Commit it once its PQ is believed. .github/workflows/smoke.yml calls this on images of COCO.
"""

import json
import sys
from pathlib import Path

from panbench import load_run
from panbench.base.files import write_json

# Points of PQ to either side. Processors and versions of PyTorch add in other orders, which moves a pixel here and
# there; a fault in resizing, in categories or in a threshold moves more. Not measured on COCO: narrow it once it is.
TOLERANCE = 0.5


def check(run_folder: Path, file: Path) -> tuple[int, str]:
    """The exit code (0 inside, 1 otherwise) and the sentence."""
    run = load_run(run_folder)
    found, images = run.summary()["All"]["PQ"], list(run.image_ids())
    if found is None:
        return 1, f"{run_folder} has no PQ: no image was scored."
    points = 100 * found
    if not file.exists():
        written = {
            "PQ": points,
            "low": round(points - TOLERANCE, 3),
            "high": round(points + TOLERANCE, 3),
            "images": images,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, written)
        return 1, f"PQ is {points:.3f} on {len(images)} images. There was no interval: look at {file} and commit it."
    interval = json.loads(file.read_text("utf-8"))
    if images != interval["images"]:
        return 1, f"{run_folder} has other images than {file} was made with: {len(images)}, not those that it lists."
    low, high = interval["low"], interval["high"]
    verdict = "inside" if low <= points <= high else "outside"
    return int(verdict == "outside"), f"PQ is {points:.3f} on {len(images)} images, {verdict} {low} to {high}."


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python scripts/smoke_interval.py RUN FILE")
    code, sentence = check(Path(sys.argv[1]), Path(sys.argv[2]))
    print(sentence)
    sys.exit(code)
