"""How far one folder of parts goes: storage, merging and asking, on generated parts of up to a million images.

    python scripts/bench/scale.py --images 1000000 [--folder DIR]
    python scripts/bench/scale.py --images 10000000 --folder DIR      # 0.9 GB, kept: a second call asks alone

The rows of 200 generated COCO-shaped images are repeated under new image ids until there are enough, in parts of 10,000
images; of a folder that holds them already they are taken as they are. Then PQ of all categories is computed from the
parts, by panbench and by DuckDB (SQL), in processes of their own, with seconds of the clock (for an idle machine),
CPU seconds and peak memory; both answers must agree. DuckDB: pip install duckdb.
"""

import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from panbench.panoptic.overlap import OverlapTable, concat, overlap_table, take
from panbench.panoptic.types import Category, Segment
from panbench.runs import ImagesRecord, RunInfo, RunWriter, load_run
from scripts.bench.child import in_child
from scripts.bench.harness import arguments, finish

IMAGES_A_PART = 10_000
PQ_IN_SQL = """
with parts as (select * from read_parquet('{parts}')),
     gt as (select image_id, gt_id, category_id, pixels as area, iscrowd from parts where kind = 'gt'),
     pred as (select image_id, pred_id, category_id, pixels as area from parts where kind = 'pred'),
     pairs as (select image_id, gt_id, pred_id, pixels from parts where kind = 'overlap'),
     void as (select image_id, pred_id, pixels from pairs where gt_id = 0),
     matched as (
       select gt.category_id, gt.image_id, gt.gt_id, pred.pred_id,
              pairs.pixels / (pred.area + gt.area - pairs.pixels - coalesce(void.pixels, 0)) as iou
       from pairs join gt using (image_id, gt_id) join pred using (image_id, pred_id)
            left join void using (image_id, pred_id)
       where gt.category_id = pred.category_id and not gt.iscrowd
         and pairs.pixels * 2 > pred.area + gt.area - pairs.pixels - coalesce(void.pixels, 0)),
     hits as (select category_id, count(*) as tp, sum(iou) as iou from matched group by category_id),
     misses as (select category_id, count(*) as n from gt where not iscrowd group by category_id),
     crowd as (select image_id, category_id, max(gt_id) as gt_id from gt where iscrowd group by all),
     excused as (
       select pred.image_id, pred.pred_id from pred
            left join void using (image_id, pred_id)
            left join crowd on crowd.image_id = pred.image_id and crowd.category_id = pred.category_id
            left join pairs on pairs.image_id = pred.image_id and pairs.pred_id = pred.pred_id
                           and pairs.gt_id = crowd.gt_id
       where 2 * (coalesce(void.pixels, 0) + coalesce(pairs.pixels, 0)) > pred.area),
     counted as (
       select pred.category_id, count(*) as n from pred
            anti join excused using (image_id, pred_id) anti join matched using (image_id, pred_id)
       group by pred.category_id)
select category_id, coalesce(hits.iou, 0) / (coalesce(hits.tp, 0)
         + 0.5 * (coalesce(counted.n, 0) + coalesce(misses.n, 0) - coalesce(hits.tp, 0))) as pq
from misses full join counted using (category_id) full join hits using (category_id)
order by category_id
"""


def seed_tables(count: int, seed: int = 0) -> tuple[list[OverlapTable], tuple[Category, ...]]:
    """Generates overlap tables of `count` images like COCO's: 480×640, about 10 segments of 133 categories."""
    generator = np.random.default_rng(seed)
    categories = tuple(Category(n + 1, f"category {n + 1}", isthing=n < 80) for n in range(133))
    tables = []
    for image in range(count):
        ids = [_map_of_regions(generator) for _ in range(2)]
        noisy = np.where(generator.random((480, 1)) < 0.85, ids[0], ids[1])
        sides = []
        for id_map in (ids[0], noisy):
            found, areas = np.unique(id_map[id_map > 0], return_counts=True)
            chosen = [
                int(generator.integers(0, 133)) + 1 if side else 1 + int(i) * 7 % 133 for side, i in enumerate(found)
            ]
            sides.append([Segment(int(i), c, int(a)) for i, c, a in zip(found, chosen, areas, strict=True)])
        prediction = [
            Segment(s.id, next((g.category_id for g in sides[0] if g.id == s.id), s.category_id), s.area)
            for s in sides[1]
        ]
        tables.append(overlap_table(image, ids[0], sides[0], noisy, prediction))
    return tables, categories


def _map_of_regions(generator: np.random.Generator) -> np.ndarray:
    """Generates a (480, 640) int32 map: about ten regions around random centres, some of them void."""
    count = int(generator.integers(6, 15))
    centres = generator.random((count, 2)) * [480, 640]
    ys, xs = np.mgrid[0:480:8, 0:640:8]
    nearest = ((ys[..., None] - centres[:, 0]) ** 2 + (xs[..., None] - centres[:, 1]) ** 2).argmin(axis=2)
    return np.kron(np.where(nearest == count - 1, 0, nearest + 1), np.ones((8, 8), int)).astype(np.int32)


def write_run(folder: Path, tables: list[OverlapTable], info: RunInfo) -> None:
    """Writes a run with as many images as it expects, repeating the tables' rows under new image ids."""
    chunk, images = concat(tables), info.images.expected or 0
    writer = RunWriter.create(folder, info)
    for done in range(0, images, IMAGES_A_PART):
        writer.write_part(repeated(chunk, done, min(IMAGES_A_PART, images - done)))
    writer.finish("done")


def repeated(chunk: OverlapTable, first: int, images: int) -> OverlapTable:
    """Repeats the rows of 200 images under the ids `first`, `first` + 1, … until there are enough."""
    return concat([_with_later_ids(chunk, first + start, images - start) for start in range(0, images, 200)])


def _with_later_ids(chunk: OverlapTable, first: int, most: int) -> OverlapTable:
    segments = take(chunk.segments, chunk.segments.image_id < most)
    overlaps = take(chunk.overlaps, chunk.overlaps.image_id < most)
    return OverlapTable(
        replace(segments, image_id=segments.image_id + first), replace(overlaps, image_id=overlaps.image_id + first)
    )


def by_panbench(folder: str) -> Callable[[], dict[int, float]]:
    """Returns a function that computes PQ of each category by panbench from the parts of a run."""

    def run() -> dict[int, float]:
        return {int(row.category_id): float(row.PQ) for row in load_run(Path(folder)).pq().reset_index().itertuples()}

    return run


def by_duckdb(folder: str) -> Callable[[], dict[int, float]]:
    """Returns a function that computes PQ of each category by DuckDB from the same parts."""
    import duckdb

    def run() -> dict[int, float]:
        duckdb.execute("set preserve_insertion_order = false")
        rows = duckdb.execute(PQ_IN_SQL.format(parts=Path(folder) / "parts" / "*.parquet")).fetchall()
        return {int(category): float(pq) for category, pq in rows}

    return run


def main() -> None:
    """Writes the parts, runs each engine in its own process and prints a row for each."""
    options = arguments(__doc__, images=50_000, folder=Path)
    engines = {"panbench": by_panbench, "duckdb": by_duckdb}
    absent = [name for name in ("duckdb",) if importlib.util.find_spec(name) is None]
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.folder or Path(scratch)) / "run"
        if (folder / "run.json").exists():
            if load_run(folder).info.images.expected != options.images:
                raise SystemExit(f"{folder} has another number of images. Give another --folder.")
        else:
            tables, categories = seed_tables(200)
            began = time.perf_counter()
            number = ImagesRecord(expected=options.images)
            write_run(folder, tables, RunInfo(kind="score", categories=categories, images=number))
            seconds = time.perf_counter() - began
            print(f"written in {seconds:.0f} s ({options.images / seconds:,.0f} images/s)")
        size = sum(path.stat().st_size for path in (folder / "parts").iterdir())
        print(f"parts: {options.images:,} images, {size / options.images:.0f} bytes an image, {size / 1e9:.2f} GB")
        spent = {name: in_child(engine, folder) for name, engine in engines.items() if name not in absent}
    ours = spent["panbench"].answer
    rows = [
        {
            f"PQ of {len(ours)} categories, {options.images:,} images": name,
            "bytes an image": f"{size / options.images:.0f}",
            "s by the clock": f"{one.clock:.1f}",
            "CPU s": f"{one.cpu:.1f}",
            "peak GB": f"{one.megabytes / 1e3:.2f}",
            "largest difference": f"{max(abs(ours[key] - pq) for key, pq in one.answer.items()):.0e}",
        }
        for name, one in spent.items()
    ]
    finish("scale", rows, options.write, absent)
    if any(float(row["largest difference"]) > 1e-9 for row in rows):
        raise SystemExit("The answers differ.")


if __name__ == "__main__":
    main()
