"""What a worker's start costs by the number of images: from the two JSONs, and from their indexes.

    python scripts/bench/index.py --images 10000,100000,1000000

A generated ground truth and predictions of eight segments an image; the images share a hundred PNG names. The first of
64 workers of `eval` (dataset, settings, its batches, its first scene) and of `score` (both sides, its plan) starts in a
process of its own, once from the JSONs and once from their indexes. Printed is its CPU time (user and system) and the
most memory that it held, less those of the same worker on ten images read from JSON; and what making the indexes took.
CPU time counts, so other work on the machine does not matter much. Sets of more images than `--most-json` get indexes
of generated columns, without JSONs.
"""

import argparse
import json
import multiprocessing
import os
import re
import resource
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

WORKERS = 64
NAMES = 100
SEGMENTS = 8
CATEGORIES: list[dict[str, Any]] = [
    {"id": 1 + number, "name": f"kind {number}", "isthing": number % 2} for number in range(133)
]


def write_set(folder: Path, images: int) -> tuple[Path, Path]:
    """Writes the two JSONs of that many images; record by record, so that this process stays small."""
    paths = folder / f"gt-{images}.json", folder / f"pred-{images}.json"
    for path, is_truth in zip(paths, (True, False), strict=True):
        with path.open("w") as handle:
            handle.write('{"categories": ' + json.dumps(CATEGORIES))
            if is_truth:
                handle.write(', "images": [')
                handle.writelines(_joined(_image(number) for number in range(images)))
                handle.write("]")
            handle.write(', "annotations": [')
            handle.writelines(_joined(_annotation(number, is_truth) for number in range(images)))
            handle.write("]}")
        os.utime(path, ns=(10**18, 10**18))
    return paths


def _joined(records: Iterator[dict]) -> Iterator[str]:
    for number, record in enumerate(records):
        yield (",\n" if number else "\n") + json.dumps(record)


def _image(number: int) -> dict:
    height, width = ((480, 640), (640, 480), (427, 640), (500, 375))[number % 4]
    return {"id": number, "file_name": f"{number % NAMES}.png", "height": height, "width": width}


def _annotation(number: int, is_truth: bool) -> dict:
    segments = [
        {"id": 1 + (number * 31 + k * 7919) % 16_000_000, "category_id": 1 + (number + k) % 133}
        | ({"area": 1000 + k, "iscrowd": 0, "bbox": [k, k, 10, 20]} if is_truth else {"score": 0.5})
        for k in range(SEGMENTS)
    ]
    return {"image_id": number, "file_name": f"{number % NAMES}.png", "segments_info": segments}


def write_indexes(folder: Path, images: int) -> tuple[Path, Path]:
    """Writes the two indexes of that many images, of stand-ins for the JSONs."""
    import numpy as np

    from panbench.datasets import index
    from panbench.panoptic.types import AnnotationColumns, Category, ImageColumns, SetColumns

    paths = folder / f"gt-{images}.json", folder / f"pred-{images}.json"
    categories = tuple(Category(one["id"], one["name"], bool(one["isthing"])) for one in CATEGORIES)
    number, k = np.divmod(np.arange(images * SEGMENTS), SEGMENTS)
    names = [f"{one % NAMES}.png" for one in range(images)]
    for path, is_truth in zip(paths, (True, False), strict=True):
        path.write_text(f"stands for {path.name}")
        stat = path.stat()
        source = index.Source(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, index.sha256_of(path))
        annotations = AnnotationColumns(
            categories=categories if is_truth else (),
            image_ids=list(range(images)),
            file_names=names,
            first=np.arange(images + 1) * SEGMENTS,
            id=(1 + (number * 31 + k * 7919) % 16_000_000).astype(np.int32),
            category_id=(1 + (number + k) % 133).astype(np.int32),
            area=1000 + k if is_truth else 0 * k,
            iscrowd=np.zeros(len(k), np.bool_),
            score=np.full(len(k), np.nan if is_truth else 0.5, np.float32),
            folder=folder,
            path=path,
        )
        sizes = np.full(images if is_truth else 0, 480)
        listing = ImageColumns(np.arange(len(sizes)), names[: len(sizes)], sizes, sizes + 160)
        boxes = np.tile([1.0, 1.0, 10.0, 20.0], (len(k), 1)) if is_truth else np.full((len(k), 4), np.nan)
        columns = SetColumns(annotations, listing, boxes, annotations.score.astype(np.float64))
        of_source = np.zeros(images, np.int32)
        table = index._tabulated(columns, of_source, (source,), not is_truth, stat.st_mtime_ns)
        index._write(index.index_paths([path], predictions=not is_truth)[0], *table)
    return paths


def evaluation(gt: Path, pred: Path, pngs: Path) -> None:
    """What the first rank of 64 does before its first forward pass."""
    import pandas  # noqa: F401 - `eval` imports both, whatever the dataset is read from
    import pyarrow.parquet  # noqa: F401

    from panbench.datasets.coco import open_json
    from panbench.datasets.scenes import order_sha256
    from panbench.evaluation.plan import BatchPlan
    from panbench.models.model import Model

    class Bare(Model):
        def describe(self) -> Any:
            pass

        def load(self, scene: object) -> Any:
            pass

        def candidates(self, batch: object) -> Any:
            pass

    dataset = open_json(gt, pngs, gt_dir=pngs, share=(1, WORKERS))
    assert order_sha256(dataset.scenes)
    plan = BatchPlan(dataset.scenes, 1, Bare()).share(0, WORKERS)
    assert plan.images
    assert next(iter(plan))


def scoring(gt: Path, pred: Path, pngs: Path) -> None:
    """What the first shard of 64 does before its first PNG."""
    import pyarrow.parquet  # noqa: F401 - parts are written with it, whatever the sides are read from

    from panbench.scoring import folder
    from panbench.scoring.pairing import Plan
    from panbench.scoring.sides import read_sides

    shard = (1, 10 if gt.name == "gt-10.json" else WORKERS)
    plan = Plan.of(*read_sides(gt, pred, pngs, pngs, shard), shard)
    assert not plan.faults(False, False)
    plan.oddities()
    assert folder._info(plan, None, {}, None).dataset.rows


def indexing(gt: Path, pred: Path, pngs: Path) -> None:
    """Makes both indexes."""
    from panbench.datasets.index import build_index

    build_index([gt])
    build_index([pred], predictions=True)


def worker(name: str, gt: Path, pred: Path, pngs: Path, by_index: bool, answer: Connection) -> None:
    """Runs one of the above in this process; sends CPU seconds and the peak in bytes."""
    from panbench.datasets import index

    if not by_index:
        index.fresh_index = lambda *_, **__: None
    {"eval": evaluation, "score": scoring, "index": indexing}[name](gt, pred, pngs)
    used = resource.getrusage(resource.RUSAGE_SELF)
    # Not ru_maxrss: a process that was forked starts with its parent's peak, which here has generated the columns.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    answer.send((used.ru_utime + used.ru_stime, int(peak) * 1024))


def measured(name: str, gt: Path, pred: Path, pngs: Path, by_index: bool) -> tuple[float, float]:
    """CPU seconds and the peak in bytes of a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=worker, args=(name, gt, pred, pngs, by_index, there))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def main() -> None:
    """Prints a line for each number of images and each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="10000,100000", help="numbers of images, comma-separated")
    parser.add_argument("--most-json", type=int, default=10**9, help="the most images that are also read from JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["PANBENCH_CACHE"] = f"{scratch}/cache"
        pngs = Path(scratch) / "pngs"
        pngs.mkdir()
        for number in range(NAMES):
            (pngs / f"{number}.png").touch()
        few = write_set(Path(scratch), 10)
        for name in ("eval", "score"):  # once for the disk
            measured(name, *few, pngs, False)
        bare = {name: measured(name, *few, pngs, False) for name in ("eval", "score")}
        for images in map(int, given.images.split(",")):
            with_json = images <= given.most_json
            gt, pred = (write_set if with_json else write_indexes)(Path(scratch), images)
            made = f", made in {_words(measured('index', gt, pred, pngs, True))}" if with_json else ""
            sizes = [_megabytes(Path(scratch).glob(f"*-{images}.{end}")) for end in ("json", "panbench*")]
            print(f"{images:>9,} images: JSONs {sizes[0]} MB, indexes {sizes[1]} MB{made}", flush=True)
            for name in ("eval", "score"):
                for by_index in (False, True):
                    if not by_index and not with_json:
                        continue
                    seconds, peak = measured(name, gt, pred, pngs, by_index)
                    print(
                        f"    {name:5} from {'index' if by_index else 'JSON':5}: {seconds - bare[name][0]:+7.2f} CPU s "
                        f"{(peak - bare[name][1]) / 1e6:+8.0f} MB   (ten images: {bare[name][0]:.2f} s, "
                        f"{bare[name][1] / 1e6:.0f} MB)",
                        flush=True,
                    )
            for path in Path(scratch).glob(f"*-{images}.*"):
                path.unlink()


def _words(used: tuple[float, float]) -> str:
    return f"{used[0]:.1f} CPU s with {used[1] / 1e6:,.0f} MB"


def _megabytes(paths: Iterator[Path]) -> str:
    return f"{sum(path.stat().st_size for path in paths) / 1e6:,.0f}"


if __name__ == "__main__":
    main()
