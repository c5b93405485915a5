"""Whether the memory of `panbench score` grows with the number of images: peaks of few pairs of PNGs and of many.

    python scripts/bench/score_memory.py --images 1000,10000,100000

The images share 100 generated pairs of PNGs, under ids of their own in the two JSONs. Each number of images is scored
in a process of its own, into a run folder; printed is the most memory that it held (resident set), beside that of a
process that only reads the two JSONs.
"""

import argparse
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from panbench.panoptic.coco import write_id_png  # noqa: E402

PAIRS = 100
SIZE = (120, 160)


def write_pairs(folder: Path) -> tuple[list[list[dict]], list[list[dict]]]:
    """Writes PAIRS pairs of PNGs; the segments of each, of the truth and of the prediction."""
    truths: list[list[dict]] = []
    answers: list[list[dict]] = []
    for pair in range(PAIRS):
        generator = np.random.default_rng(pair)
        ids = np.kron(generator.integers(1, 9, (6, 8)), np.ones((20, 20), np.int64)).astype(np.int32)
        answer = ids.copy()
        answer[:, : int(generator.integers(0, 60))] = 3
        for side, found, rows in (("gt", ids, truths), ("pred", answer, answers)):
            write_id_png(folder / side / f"{pair}.png", found)
            numbers, areas = np.unique(found, return_counts=True)
            rows.append(
                [
                    {
                        "id": int(number),
                        "category_id": 1 + int(number) % 4,
                        "area": int(area),
                        "iscrowd": 0,
                        "score": 0.5,
                    }
                    for number, area in zip(numbers, areas, strict=True)
                ]
            )
    return truths, answers


def write_jsons(folder: Path, images: int, segments: tuple[list[list[dict]], list[list[dict]]]) -> None:
    """The two JSONs of that many images, which take the pairs in turn."""
    categories = [{"id": 1 + number, "name": f"kind {number}", "isthing": number % 2} for number in range(4)]
    for side, rows in zip(("gt", "pred"), segments, strict=True):
        with (folder / f"{side}-{images}.json").open("w") as handle:
            json.dump(
                {
                    "images": [
                        {"id": image, "file_name": f"{image}.jpg", "height": SIZE[0], "width": SIZE[1]}
                        for image in range(images)
                    ],
                    "annotations": [
                        {"image_id": image, "file_name": f"{image % PAIRS}.png", "segments_info": rows[image % PAIRS]}
                        for image in range(images)
                    ],
                    "categories": categories,
                },
                handle,
            )


def score(folder: Path, images: int, bare: bool, answer: "multiprocessing.connection.Connection") -> None:
    """Scores that many images in this process; sends seconds and the peak in bytes."""
    from panbench.panoptic.coco import read_annotation_columns
    from panbench.scoring.folder import score_folder

    began = time.perf_counter()
    gt, pred = (folder / f"{side}-{images}.json" for side in ("gt", "pred"))
    if bare:
        kept = [
            read_annotation_columns(gt, folder / "gt"),
            read_annotation_columns(pred, folder / "pred", predictions=True),
        ]
        assert kept
    else:
        score_folder(gt, pred, folder / "gt", folder / "pred", folder / f"run-{images}", index=False)
    answer.send((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def main() -> None:
    """Prints a line for each number of images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,10000,100000", help="numbers of images, comma-separated")
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        segments = write_pairs(folder)
        for images in map(int, given.images.split(",")):
            write_jsons(folder, images, segments)
            peaks = []
            for bare in (True, False):
                here, there = context.Pipe()
                process = context.Process(target=score, args=(folder, images, bare, there))
                process.start()
                seconds, peak = here.recv()
                process.join()
                peaks.append(peak)
            print(
                f"{images:>9,} images: {seconds:7.1f} s, peak {peaks[1] / 1e6:6.0f} MB; reading both JSONs alone "
                f"{peaks[0] / 1e6:6.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
