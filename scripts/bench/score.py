"""Times `panbench score` against panopticapi and hotcoco, side by side, on generated COCO-shaped pairs of id PNGs.

    python scripts/bench/score.py                     # 500 and 5,000 images, the table of docs/benchmarks.md
    python scripts/bench/score.py --images 500 --repeat 5
    python scripts/bench/score.py --images 500 --fallback   # only panopticapi and panbench without its compiled library

Needs, beside panbench: pip install hotcoco==1.3.0, pip install --no-deps panopticapi-lite==0.2.0. A tool that is not
installed is left out. Each measurement is a process of its own; the tools take turns, so a disturbed minute hits all.
Seconds are of the scoring call, imports excluded, files in the page cache. All tools must find the same PQ.

The pairs: 640×480 and 480×640, things and stuff with curved and with ragged edges, occlusion, crowds, void; predictions
are the ground truth bent by some pixels, with missed, merged, invented and misnamed segments. Pillow writes the PNGs
with its defaults, as it does for panopticapi and detectron2; sizes and filters come out like those of COCO's own. 500
pairs are distinct; larger sets repeat them under new names and ids.
"""

import argparse
import contextlib
import importlib
import importlib.util
import io
import json
import multiprocessing
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

DISTINCT = 500
N_THINGS, N_CATEGORIES = 80, 133

Array = npt.NDArray[Any]


def make_scene(rng: np.random.Generator, height: int, width: int) -> tuple[Array, list[dict[str, Any]]]:
    """Labels 1…n of segments (0: void), and what each is: category_id, iscrowd."""
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
    """What a fair model might say of a scene: edges off by some pixels, some segments missed, merged or misnamed."""
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
    """Writes the PNGs of pair `number` into a folder; its records for `images` and for both `annotations`."""
    number, folder = arguments
    cv2.setNumThreads(1)
    rng = np.random.default_rng([2019, number])
    height, width = (480, 640) if rng.random() < 0.7 else (640, 480)
    labels, segments = make_scene(rng, height, width)
    records = []
    for side, (side_labels, side_segments) in (
        ("gt", (labels, segments)),
        ("pred", predict(rng, labels, segments)),
    ):
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
    """Makes gt.json, pred.json and their PNGs for so many images, unless they are there."""
    if (folder / "made").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
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
    (folder / "made").touch()


def score_with_panopticapi(folder: Path) -> float:
    """PQ by the official tool, which starts one process a core."""
    from panopticapi.evaluation import pq_compute

    with contextlib.redirect_stdout(io.StringIO()):
        return float(pq_compute(str(folder / "gt.json"), str(folder / "pred.json"))["All"]["pq"])


def score_with_hotcoco(folder: Path) -> float:
    """PQ by hotcoco, which uses all cores."""
    from hotcoco.panoptic import pq_compute

    with contextlib.redirect_stdout(io.StringIO()):
        return float(pq_compute(str(folder / "gt.json"), str(folder / "pred.json"))["All"]["pq"])


def score_with_panbench(folder: Path, *, index: bool = True) -> float:
    """PQ by panbench."""
    from panbench.scoring.folder import score_folder

    run = score_folder(folder / "gt.json", folder / "pred.json", index=index)
    return float(run.summary()["All"]["PQ"] or 0.0)


def score_without_index(folder: Path) -> float:
    """PQ by panbench that neither reads nor writes an index."""
    return score_with_panbench(folder, index=False)


# What is measured: name, function, whether an index of the ground truth is there before, environment.
CONTENDERS: dict[str, tuple[Callable[[Path], float], bool, dict[str, str]]] = {
    "panopticapi": (score_with_panopticapi, False, {}),
    "hotcoco": (score_with_hotcoco, False, {}),
    "panbench, cold": (score_with_panbench, False, {}),
    "panbench, GT indexed": (score_with_panbench, True, {}),
    "panbench, no index at all": (score_without_index, False, {}),
    "panbench, no compiled library, cold": (score_with_panbench, False, {"PANBENCH_NATIVE": "0"}),
    "panbench, no compiled library, GT indexed": (score_with_panbench, True, {"PANBENCH_NATIVE": "0"}),
}


def measure_here(name: str, folder: Path) -> None:
    """Runs one contender in this process and prints what it took, as JSON."""
    # Imports, and loading the library, are no part of the time of any of them.
    if name.startswith("panbench"):
        import panbench.scoring.folder  # noqa: F401
        from panbench.panoptic.native import native

        native()
    else:
        importlib.import_module({"panopticapi": "panopticapi.evaluation", "hotcoco": "hotcoco.panoptic"}[name])
    began, cpu = time.perf_counter(), _cpu_seconds()
    pq = CONTENDERS[name][0](folder)
    wall, cpu = time.perf_counter() - began, _cpu_seconds() - cpu
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak * (1 if sys.platform == "darwin" else 1024), "PQ": pq}))


def measure(name: str, folder: Path) -> dict[str, float]:
    """Runs one contender in a process of its own: wall and CPU seconds, peak bytes of its largest process, PQ."""
    _, indexed, environment = CONTENDERS[name]
    index = folder / "gt.panbench-index"
    if not indexed:
        index.unlink(missing_ok=True)
    elif not index.exists():
        score_with_panbench(folder)
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(folder: Path, images: int, names: list[str], repeat: int) -> None:
    """Prints the table of one set."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for turn in range(repeat):
        for name in names:
            print(f"{images} images, turn {turn + 1} of {repeat}: {name}", file=sys.stderr)
            taken[name].append(measure(name, folder))
    best = {name: {key: min(one[key] for one in runs) for key in runs[0]} for name, runs in taken.items()}
    scores = [one["PQ"] for runs in taken.values() for one in runs]
    print(f"\n{images} images, best of {repeat} turns, all PQ equal to {max(scores) - min(scores):.1e}\n")
    rivals = [name for name in ("panopticapi", "hotcoco") if name in best]
    heads = ["", "wall s", "CPU s", "images/s", "peak MB", *(f"wall × {rival}" for rival in rivals)]
    heads += [f"CPU × {rival}" for rival in rivals]
    print("| " + " | ".join(heads) + " |")
    print("| --- " + "| ---: " * (len(heads) - 1) + "|")
    for name, one in best.items():
        cells = [name, f"{one['wall']:.2f}", f"{one['cpu']:.2f}", f"{images / one['wall']:.0f}"]
        cells.append(f"{one['peak'] / 1e6:.0f}")
        cells += [f"{best[rival][key] / one[key]:.2f}" for key in ("wall", "cpu") for rival in rivals]
        print("| " + " | ".join(cells) + " |")


def main() -> None:
    """Parses the arguments, makes the sets and prints a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[500, 5000], help="sizes of the sets")
    parser.add_argument("--repeat", type=int, default=3, help="turns; the best of each tool counts")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "panbench-bench-score")
    parser.add_argument("--fallback", action="store_true", help="only panopticapi and panbench without its library")
    parser.add_argument("--measure", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure_here(arguments.measure, arguments.folder)
        return
    absent = {name for name in ("panopticapi", "hotcoco") if importlib.util.find_spec(name) is None}
    for name in absent:
        print(f"{name} is not installed and is left out.", file=sys.stderr)
    names = [name for name in CONTENDERS if name not in absent]
    if arguments.fallback:
        names = [name for name in names if name == "panopticapi" or name.startswith("panbench, no compiled library")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}")
    for images in arguments.images:
        folder = arguments.folder / str(images)
        make_set(folder, images)
        compare(folder, images, names, arguments.repeat)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


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
