"""panopticapi's `pq_compute` as it is and with `panbench.patch_panopticapi()`, on the same generated scenes.

    python scripts/bench/patch.py --images 200

Prints the CPU seconds (of child processes too) and the ratios of CPU time and of the clock, and the largest difference
between the dictionaries. Each side runs in a process of its own, in turns.
"""

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.child import in_child
from scripts.bench.harness import arguments, compared, finish, turns


def scoring(folder: str, patched: bool) -> Callable[[], Any]:
    """Returns a function that scores the folder once."""
    import panopticapi.evaluation

    import panbench

    if patched:
        panbench.patch_panopticapi()
    return lambda: panopticapi.evaluation.pq_compute(f"{folder}/gt.json", f"{folder}/pred.json")


def make(folder: Path, images: int, size: tuple[int, int]) -> None:
    """Generates scenes as ground truth, and predictions with every second segment of a scene shifted."""
    import numpy as np

    from panbench.datasets import open_dataset, shapes
    from panbench.panoptic.coco import read_id_png, write_id_png, write_panoptic_json
    from panbench.panoptic.idmap import count_ids
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
            areas = count_ids(ids)
            segments = tuple(
                Segment(each.id, each.category_id, areas[each.id])
                for each in scene.annotation.segments
                if each.id in areas
            )
            infos[scene.image.id] = ImageInfo(scene.image.id, name, *ids.shape)
            annotations[scene.image.id] = Annotation(scene.image.id, name, segments)
        path = folder / f"{side}.json"
        write_panoptic_json(path, PanopticSet(dataset.categories, infos, annotations, folder / side, path))


def largest_difference(theirs: Any, ours: Any) -> float:
    """Returns the largest difference between two results. panopticapi's last bits depend on the number of cores."""
    if isinstance(theirs, dict):
        assert theirs.keys() == ours.keys()
        return max((largest_difference(theirs[key], ours[key]) for key in theirs), default=0.0)
    return abs(float(theirs) - float(ours))


def main() -> None:
    """Measures both sides in turn and prints a row for each."""
    options = arguments(__doc__, images=60, height=480, width=640, rounds=2)
    with tempfile.TemporaryDirectory() as place:
        make(Path(place), options.images, (options.height, options.width))
        sides = {"panopticapi": False, "with `patch_panopticapi()`": True}
        work = {name: functools.partial(in_child, scoring, place, patched) for name, patched in sides.items()}
        found = turns(work, options.rounds)
    theirs, _ = found.values()
    rows = []
    for name, runs in found.items():
        apart = largest_difference(theirs[0].answer, runs[0].answer)
        if apart > 1e-9:
            raise SystemExit(f"{name}: a number differs by {apart:.1e}")
        clock = compared([one.clock for one in theirs], [one.clock for one in runs])
        rows.append(
            {
                f"{options.images:,} images of {options.height}×{options.width}": name,
                "CPU s": f"{min(one.cpu for one in runs):.2f}",
                "× by the clock": clock["ratio"],
                **compared([one.cpu for one in theirs], [one.cpu for one in runs], "× in CPU"),
                "largest difference of a number": f"{apart:.0e}",
            }
        )
    finish("patch", rows, options.write)


if __name__ == "__main__":
    main()
