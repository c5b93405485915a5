"""Whether the memory of `panbench score` grows with the number of images: peaks of few pairs of PNGs and of many.

    python scripts/bench/score_memory.py --images 1000 10000 100000

The images share 100 generated pairs of PNGs, under ids of their own in the two JSONs. Each number of images is scored
in a process of its own, into a run folder; printed is the most memory that it held (resident set), beside that of a
process that only reads the two JSONs.
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.idmap import count_ids
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from scripts.bench.child import in_child
from scripts.bench.harness import arguments, finish

PAIRS = 100
SIZE = (120, 160)


def write_pairs(folder: Path) -> dict[str, list[tuple[Segment, ...]]]:
    """Writes PAIRS pairs of PNGs; returns the segments of each, by ground truth and prediction."""
    segments: dict[str, list[tuple[Segment, ...]]] = {"gt": [], "pred": []}
    for pair in range(PAIRS):
        generator = np.random.default_rng(pair)
        ids = np.kron(generator.integers(1, 9, (6, 8)), np.ones((20, 20), np.int64)).astype(np.int32)
        answer = ids.copy()
        answer[:, : int(generator.integers(0, 60))] = 3
        for side, found in (("gt", ids), ("pred", answer)):
            write_id_png(folder / side / f"{pair}.png", found)
            areas = sorted(count_ids(found).items())
            segments[side].append(tuple(Segment(number, 1 + number % 4, area, score=0.5) for number, area in areas))
    return segments


def write_jsons(folder: Path, images: int, segments: dict[str, list[tuple[Segment, ...]]]) -> None:
    """Writes the two JSONs of that many images, which share the pairs in turn."""
    categories = tuple(Category(1 + number, f"kind {number}", bool(number % 2)) for number in range(4))
    infos = {image: ImageInfo(image, f"{image}.jpg", *SIZE) for image in range(images)}
    for side, of_pairs in segments.items():
        pairs = {image: image % PAIRS for image in range(images)}
        annotations = {image: Annotation(image, f"{pair}.png", of_pairs[pair]) for image, pair in pairs.items()}
        path = folder / f"{side}-{images}.json"
        write_panoptic_json(path, PanopticSet(categories, infos, annotations, folder / side, path))


def scoring(folder: str, images: int) -> Callable[[], None]:
    """Returns a function that scores that many images into a run folder."""
    from panbench.scoring.folder import score_folder

    gt, pred = (Path(folder) / f"{side}-{images}.json" for side in ("gt", "pred"))

    def run() -> None:
        score_folder(gt, pred, gt.parent / "gt", gt.parent / "pred", gt.parent / f"run-{images}")

    return run


def reading(folder: str, images: int) -> Callable[[], None]:
    """Returns a function that only reads both JSONs and holds them at once, with the same packages imported."""
    import panbench.scoring.folder  # noqa: F401
    from panbench.panoptic.coco import read_annotation_columns

    gt, pred = (Path(folder) / f"{side}-{images}.json" for side in ("gt", "pred"))

    def run() -> None:
        kept = [read_annotation_columns(gt, gt.parent / "gt")]
        kept.append(read_annotation_columns(pred, gt.parent / "pred", predictions=True))
        assert all(kept)

    return run


def main() -> None:
    """Prints a row for each number of images."""
    options = arguments(__doc__, images=(1000, 10_000))
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        segments = write_pairs(Path(scratch))
        for images in options.images:
            write_jsons(Path(scratch), images, segments)
            read, scored = (in_child(work, scratch, images) for work in (reading, scoring))
            rows.append(
                {
                    "pairs": f"{images:,}",
                    "`panbench score`, peak MB": f"{scored.megabytes:.0f}",
                    "reading both JSONs alone, peak MB": f"{read.megabytes:.0f}",
                    "CPU s of scoring": f"{scored.cpu:.1f}",
                }
            )
    finish("score_memory", rows, options.write)


if __name__ == "__main__":
    main()
