"""`panbench score` against panopticapi and hotcoco, side by side, on generated COCO-shaped pairs of id PNGs.

    python scripts/bench/score.py                     # 500 images, the table of docs/benchmarks.md
    python scripts/bench/score.py --images 5000 --rounds 5
    python scripts/bench/score.py --fallback   # only panopticapi and panbench without its compiled library

Needs, beside panbench: pip install --no-deps panopticapi-lite==0.2.0, and for a CSV hotcoco as well (pip install
hotcoco==1.3.0), which is left out where it is not installed. Each measurement is a process of its own; the tools take
turns, so a disturbed minute hits all. Times are of the scoring call, imports excluded, files in the page cache. All
tools must find the same PQ.

The pairs: 640×480 and 480×640, things and stuff with curved and with ragged edges, occlusion, crowds, void; predictions
are the ground truth bent by some pixels, with missed, merged, invented and misnamed segments. Pillow writes the PNGs
with its defaults, as it does for panopticapi and detectron2; sizes and filters come out like those of COCO's own. 500
pairs are distinct; larger sets repeat them under new names and ids.
"""

import functools
import importlib
import importlib.util
import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from scripts.bench.child import Spent, in_child
from scripts.bench.harness import Row, arguments, compared, finish, turns

DISTINCT = 500
N_THINGS, N_CATEGORIES = 80, 133

Array = npt.NDArray[Any]


def make_scene(rng: np.random.Generator, height: int, width: int) -> tuple[Array, list[dict[str, Any]]]:
    """Generates a scene: labels 1…n of segments (0: void), and category_id and iscrowd of each."""
    n_stuff = int(rng.integers(3, 7))
    fields = np.stack([_smooth(rng, height, width, int(rng.integers(3, 8))) for _ in range(n_stuff)])
    fields[::2] += 0.06 * _smooth(rng, height, width, height // 6, cv2.INTER_LINEAR)
    labels = fields.argmax(0).astype(np.int32) + 1
    segments = [
        {"category_id": int(category) + 1, "iscrowd": 0}
        for category in rng.choice(np.arange(N_THINGS, N_CATEGORIES), n_stuff, replace=False)
    ]
    for _ in range(1 + rng.poisson(5)):
        segments.append({"category_id": 1 + int(N_THINGS * rng.random() ** 2), "iscrowd": int(rng.random() < 0.02)})
        cv2.fillPoly(labels, [_blob(rng, height, width)], len(segments))
    if rng.random() < 0.5:
        cv2.fillPoly(labels, [_blob(rng, height, width)], 0)
    return labels, segments


def predict(
    rng: np.random.Generator, labels: Array, segments: list[dict[str, Any]]
) -> tuple[Array, list[dict[str, Any]]]:
    """Generates a prediction for a scene: edges shifted by some pixels, some segments missed, merged or misnamed."""
    height, width = labels.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    dy, dx = (4 * _smooth(rng, height, width, 8) for _ in range(2))
    bent = cv2.remap(labels.astype(np.float32), x + dx, y + dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    answer = bent.astype(np.int32)
    said = [dict(segment) for segment in segments]
    for number, segment in enumerate(said, start=1):
        fate = rng.random()
        if fate < 0.08:
            answer[answer == number] = 0
        elif fate < 0.14:
            answer[answer == number] = int(rng.integers(1, len(said) + 1))
        elif fate < 0.25:
            segment["category_id"] = int(rng.integers(1, N_CATEGORIES + 1))
    if rng.random() < 0.5:
        said.append({"category_id": int(rng.integers(1, N_THINGS + 1))})
        cv2.fillPoly(answer, [_blob(rng, height, width)], len(said))
    return answer, said


def make_pair(arguments: tuple[int, str]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Writes the PNGs of pair `number` into a folder; returns its records for `images` and both `annotations`."""
    number, folder = arguments
    cv2.setNumThreads(1)
    rng = np.random.default_rng([2019, number])
    height, width = (480, 640) if rng.random() < 0.7 else (640, 480)
    labels, segments = make_scene(rng, height, width)
    records = []
    for side, (side_labels, side_segments) in (("gt", (labels, segments)), ("pred", predict(rng, labels, segments))):
        ids = np.concatenate([[0], rng.choice((1 << 24) - 1, len(side_segments), replace=False) + 1])
        areas = np.bincount(side_labels.ravel(), minlength=len(ids))
        pixels = ids[side_labels].astype("<i4").view(np.uint8).reshape(height, width, 4)[..., :3]
        name = f"{number:012d}.png"
        Image.fromarray(np.ascontiguousarray(pixels)).save(Path(folder) / side / name)
        info = []
        for label, segment in enumerate(side_segments, start=1):
            if areas[label]:
                ys, xs = np.nonzero(side_labels == label)
                box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
                shape = {"bbox": box, "iscrowd": segment["iscrowd"]} if side == "gt" else {}
                entry = {"id": int(ids[label]), "category_id": segment["category_id"], "area": int(areas[label])}
                info.append({**entry, **shape})
        records.append({"image_id": number, "file_name": name, "segments_info": info})
    return {"id": number, "file_name": f"{number:012d}.jpg", "height": height, "width": width}, records[0], records[1]


def make_set(folder: Path, images: int) -> None:
    """Writes gt.json, pred.json and their PNGs for that many images."""
    for side in ("gt", "pred"):
        (folder / side).mkdir(parents=True)
    with multiprocessing.Pool() as pool:
        pairs = pool.map(make_pair, [(number, str(folder)) for number in range(min(images, DISTINCT))], chunksize=8)
    listing: dict[str, list[dict[str, Any]]] = {"images": [], "gt": [], "pred": []}
    for number in range(images):
        image, *records = pairs[number % DISTINCT]
        listing["images"].append({**image, "id": number, "file_name": f"{number:012d}.jpg"})
        for side, record in zip(("gt", "pred"), records, strict=True):
            name = f"{number:012d}.png"
            if number >= DISTINCT:
                shutil.copyfile(folder / side / record["file_name"], folder / side / name)
            listing[side].append({**record, "image_id": number, "file_name": name})
    categories = [
        {"id": number + 1, "name": f"category {number + 1}", "isthing": int(number < N_THINGS), "color": [number] * 3}
        for number in range(N_CATEGORIES)
    ]
    ground_truth = {"images": listing["images"], "annotations": listing["gt"], "categories": categories}
    (folder / "gt.json").write_text(json.dumps(ground_truth))
    (folder / "pred.json").write_text(json.dumps({"annotations": listing["pred"]}))


def by_rival(module: str, folder: str) -> Callable[[], float]:
    """Returns PQ by panopticapi, which starts one process per core, or by hotcoco, which uses all cores."""
    pq_compute = importlib.import_module(module).pq_compute
    return lambda: float(pq_compute(f"{folder}/gt.json", f"{folder}/pred.json")["All"]["pq"])


def by_panbench(folder: str) -> Callable[[], float]:
    """Returns PQ by panbench."""
    from panbench.panoptic.native import native
    from panbench.scoring.folder import score_folder

    native()  # loading the library is in nobody's time, as imports are not
    run = functools.partial(score_folder, Path(folder) / "gt.json", Path(folder) / "pred.json")
    return lambda: float(run().summary()["All"]["PQ"] or 0.0)


# What is measured: function, what it takes before the folder, environment. Cold: nothing is kept of an earlier scoring.
CONTENDERS: dict[str, tuple[Callable[..., Callable[[], float]], tuple[str, ...], dict[str, str]]] = {
    "panopticapi": (by_rival, ("panopticapi.evaluation",), {}),
    "hotcoco": (by_rival, ("hotcoco.panoptic",), {}),
    "panbench, cold": (by_panbench, (), {}),
    "panbench without its compiled library, cold": (by_panbench, (), {"PANBENCH_NATIVE": "0"}),
}


def measure(name: str, folder: Path) -> Spent:
    """Measures one tool in its own process."""
    way, how, environment = CONTENDERS[name]
    return in_child(way, *how, folder, environment=environment)


def main() -> None:
    """Makes the set, scores it by each tool in turn and prints a row for each."""
    options = arguments(__doc__, images=500, rounds=2, fallback=False)
    names = [name for name in CONTENDERS if name != "hotcoco" or importlib.util.find_spec("hotcoco")]
    if options.fallback:
        names = [name for name in names if name == "panopticapi" or "without" in name]
    with tempfile.TemporaryDirectory() as scratch:
        make_set(Path(scratch), options.images)
        found = turns({name: functools.partial(measure, name, Path(scratch)) for name in names}, options.rounds)
    scores = [one.answer for runs in found.values() for one in runs]
    if max(scores) - min(scores) > 1e-9:
        raise SystemExit(f"The tools find different PQ: {scores}")

    def row(name: str, rival: str) -> Row:
        (clock, cpu), (clock_of_rival, cpu_of_rival) = (
            ([one.clock for one in found[each]], [one.cpu for one in found[each]]) for each in (name, rival)
        )
        return {
            f"{options.images:,} images": name,
            "CPU s": f"{min(cpu):.2f}",
            "peak MB": f"{max(one.megabytes for one in found[name]):.0f}",
            "× by the clock": next(iter(compared(clock_of_rival, clock).values())),
            **compared(cpu_of_rival, cpu, "× in CPU"),
        }

    if "hotcoco" in names:
        finish("against hotcoco", [row(name, "hotcoco") for name in names], write=False)
    absent = () if "hotcoco" in names else ("hotcoco",)
    rows = [row(name, "panopticapi") for name in names]
    finish("score", rows, options.write and not options.fallback, absent)


def _smooth(rng: np.random.Generator, height: int, width: int, nodes: int, how: int = cv2.INTER_CUBIC) -> Array:
    coarse = rng.normal(size=(int(nodes), int(nodes * 4 / 3) + 1)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=how)


def _blob(rng: np.random.Generator, height: int, width: int) -> Array:
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    radius = np.exp(rng.uniform(np.log(12), np.log(130))) * (
        1 + sum(0.22 / order * rng.normal() * np.cos(order * angle + rng.uniform(0, 6.3)) for order in range(1, 8))
    )
    center = rng.uniform(0, width), rng.uniform(0, height)
    stretch = rng.uniform(0.6, 1.5)
    outline = np.stack([center[0] + stretch * radius * np.cos(angle), center[1] + radius * np.sin(angle)], axis=1)
    return outline.astype(np.int32)


if __name__ == "__main__":
    main()
