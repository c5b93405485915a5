"""Generated `shapes` images in any model's categories and of any size: what timings run on."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from panbench.base.files import cache_dir, write_json
from panbench.datasets import Dataset, shapes
from panbench.datasets.coco import open_json


def generated_dataset(
    class_names: Sequence[str],
    isthing: Sequence[bool],
    *,
    size: tuple[int, int],
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """`count` generated `shapes` images of one size (height, width), whose categories are those of a model.

    The categories of shapes take the names of the model's first things and stuff; a model trained on shapes has them
    already. Images are kept in the cache; a second call reads them.
    """
    root = cache_dir() / "bench" / f"shapes-v{shapes.VERSION}-{size[0]}x{size[1]}-{count}"
    gt = shapes.generate(root, count=count, size=size, progress=progress)
    own = tuple(category["name"] for category in shapes.CATEGORIES)
    if set(own) != set(class_names):
        gt = _renamed(gt, class_names, isthing)
    name = f"shapes-{size[0]}x{size[1]}"
    return open_json(gt, root / "val", gt_dir=root / "annotations" / "panoptic_val", name=name, split="val")


def _renamed(gt: Path, class_names: Sequence[str], isthing: Sequence[bool]) -> Path:
    """A copy of a JSON of shapes whose categories are a model's, with the ids 1, 2, … in label order."""
    things = [label for label, thing in enumerate(isthing) if thing]
    stuff = [label for label, thing in enumerate(isthing) if not thing]
    new_ids, seen = {}, {1: 0, 0: 0}
    for category in shapes.CATEGORIES:
        choices = things if category["isthing"] else stuff
        new_ids[category["id"]] = choices[seen[category["isthing"]] % len(choices)] + 1
        seen[category["isthing"]] += 1
    content = json.loads(gt.read_text("utf-8"))
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            segment["category_id"] = new_ids[segment["category_id"]]
    content["categories"] = [
        {"id": label + 1, "name": name, "isthing": int(isthing[label]), "supercategory": "", "color": [label, 0, 0]}
        for label, name in enumerate(class_names)
    ]
    path = gt.with_name(f"panoptic_val-{len(class_names)}-classes.json")
    write_json(path, content, indent=None)
    return path
