"""panopticapi's `pq_compute` as it is and with `panbench.patch_panopticapi()`, on the same generated scenes.

    python scripts/bench/patch.py --images 200

Prints the seconds of CPU (user and system, of child processes too) and of the clock of both sides, their ratios, and
the largest difference between the dictionaries. Each side runs in a process of its own, in turns.
"""

import argparse
import contextlib
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def measure(folder: Path, patched: bool) -> dict[str, object]:
    """Scores the folder once; the seconds and the result."""
    import panopticapi.evaluation

    import panbench

    if patched:
        panbench.patch_panopticapi()

    def cpu() -> float:
        uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(use.ru_utime + use.ru_stime for use in uses)

    clock, used = time.perf_counter(), cpu()
    with contextlib.redirect_stdout(io.StringIO()):
        result = panopticapi.evaluation.pq_compute(str(folder / "gt.json"), str(folder / "pred.json"))
    return {"clock": time.perf_counter() - clock, "cpu": cpu() - used, "result": result}


def make(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Generated scenes as ground truth, and as predictions the same with every second segment of a scene shifted."""
    import numpy as np

    from panbench.datasets import open_dataset, shapes
    from panbench.panoptic.coco import read_id_png, write_id_png, write_panoptic_json
    from panbench.panoptic.types import Annotation, ImageInfo, PanopticSet, Segment

    shapes.generate(folder / "scenes", count=images, size=size)
    dataset = open_dataset(folder / "scenes")
    for side in ("gt", "pred"):
        annotations, infos = {}, {}
        for scene in dataset.scenes:
            assert scene.gt_path is not None
            assert scene.annotation is not None
            ids = read_id_png(scene.gt_path)
            if side == "pred":
                odd = {segment.id for segment in scene.annotation.segments[::2]}
                moved = np.roll(ids, 3, axis=1)
                ids = np.where(np.isin(moved, list(odd)), moved, ids)
            name = f"{scene.image.id:012}.png"
            write_id_png(folder / side / name, ids)
            found, areas = np.unique(ids[ids > 0], return_counts=True)
            area_of = dict(zip(found.tolist(), areas.tolist(), strict=True))
            segments = tuple(
                Segment(each.id, each.category_id, area_of[each.id])
                for each in scene.annotation.segments
                if each.id in area_of
            )
            infos[scene.image.id] = ImageInfo(scene.image.id, name, *ids.shape)
            annotations[scene.image.id] = Annotation(scene.image.id, name, segments)
        path = folder / f"{side}.json"
        write_panoptic_json(path, PanopticSet(dataset.categories, infos, annotations, folder / side, path))


def largest_difference(theirs: Any, ours: Any) -> float:
    """Between two dictionaries of the same keys. panopticapi's depends on the number of cores, by the last bits."""
    if isinstance(theirs, dict):
        assert theirs.keys() == ours.keys()
        return max((largest_difference(theirs[key], ours[key]) for key in theirs), default=0.0)
    return abs(float(theirs) - float(ours))


def main() -> None:
    """Measures both sides in turns and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=200, help="how many scenes")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640), help="height and width")
    parser.add_argument("--repeats", type=int, default=3, help="how often each side runs")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(Path(options.child[0]), options.child[1] == "ours")))
        return
    with tempfile.TemporaryDirectory(prefix="panbench-") as place:
        folder = Path(place)
        make(folder, options.images, tuple(options.size))
        found: dict[str, list[dict[str, object]]] = {"theirs": [], "ours": []}
        for _ in range(options.repeats):
            for side, runs in found.items():
                command = [sys.executable, __file__, "--child", str(folder), side]
                finished = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
                runs.append(json.loads(finished.stdout))
    apart = largest_difference(found["theirs"][0]["result"], found["ours"][0]["result"])
    print(
        f"{options.images} images of {options.size[0]}×{options.size[1]}; largest difference of a number: {apart:.1g}"
    )
    for what, words in (("cpu", "CPU seconds"), ("clock", "seconds of the clock")):
        theirs, ours = (statistics.median(float(str(run[what])) for run in found[side]) for side in ("theirs", "ours"))
        print(f"{words}: panopticapi {theirs:.2f}, patched {ours:.2f}: {theirs / ours:.1f} times as fast")


if __name__ == "__main__":
    main()
