"""Makes the generated images that timings run on: `shapes` of any size, in any model's categories."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from panbench.base.files import cache_dir, write_json
from panbench.datasets import Dataset, shapes
from panbench.datasets.coco import open_json
from panbench.panoptic.coco import read_id_png, write_id_png


def generated_dataset(
    class_names: Sequence[str],
    isthing: Sequence[bool],
    *,
    size: tuple[int, int],
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Makes a dataset of `count` `shapes` images of one size (height, width) in a model's categories.

    The categories of shapes are renamed to the model's first things and stuff, unless the model was trained on shapes.
    For a model without things, or without stuff, such segments are void. Images are cached for the next call.
    """
    root = cache_dir() / "bench" / f"shapes-v{shapes.VERSION}-{size[0]}x{size[1]}-{count}"
    gt = shapes.generate(root, count=count, size=size, progress=progress)
    own = tuple(category["name"] for category in shapes.CATEGORIES)
    folder = root / "annotations" / "panoptic_val"
    if set(own) != set(class_names):
        gt, folder = _shapes_with_model_categories(gt, folder, class_names, isthing)
    name = f"shapes-{size[0]}x{size[1]}"
    return open_json(gt, root / "val", gt_dir=folder, name=name, split="val")


def _shapes_with_model_categories(
    gt: Path, folder: Path, class_names: Sequence[str], isthing: Sequence[bool]
) -> tuple[Path, Path]:
    """Writes a JSON of shapes again with a model's categories, ids 1, 2, … by label; returns it and its id maps.

    folder: the id maps of `gt`; they are copied only if some of their segments become void
    """
    choices = {kind: [label for label, thing in enumerate(isthing) if thing == kind] for kind in (1, 0)}
    new_ids, seen = {}, {1: 0, 0: 0}
    for category in shapes.CATEGORIES:
        kind = category["isthing"]
        if choices[kind]:
            new_ids[category["id"]] = choices[kind][seen[kind] % len(choices[kind])] + 1
            seen[kind] += 1
    content = json.loads(gt.read_text("utf-8"))
    for annotation in content["annotations"]:
        annotation["segments_info"] = [
            {**segment, "category_id": new_ids[segment["category_id"]]}
            for segment in annotation["segments_info"]
            if segment["category_id"] in new_ids
        ]
    if not all(choices.values()):
        folder = _copy_id_pngs_with_void(folder, "things-only" if choices[1] else "stuff-only", content["annotations"])
    content["categories"] = [
        {"id": label + 1, "name": name, "isthing": int(isthing[label]), "supercategory": "", "color": [label, 0, 0]}
        for label, name in enumerate(class_names)
    ]
    path = gt.with_name(f"panoptic_val-{len(class_names)}-classes.json")
    write_json(path, content, indent=None)
    return path, folder


def _copy_id_pngs_with_void(folder: Path, kind: str, annotations: Sequence[dict[str, Any]]) -> Path:
    """Copies a folder of id maps, setting segments that no annotation lists to void."""
    copy = folder.with_name(f"{folder.name}-{kind}")
    copy.mkdir(exist_ok=True)
    for annotation in annotations:
        ids = read_id_png(folder / annotation["file_name"])
        listed = [segment["id"] for segment in annotation["segments_info"]]
        write_id_png(copy / annotation["file_name"], np.where(np.isin(ids, listed), ids, 0))
    return copy
