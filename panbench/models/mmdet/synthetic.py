"""Segments for models with random weights, and generated images in any model's categories: what timings need.

An untrained model finds nothing, so its fusion and scoring would be timed on empty maps. Planting replaces the last
answers of its heads, after they were computed: everything before runs as it is, on mmdet's side as on ours.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from panbench.base.files import cache_dir, write_json
from panbench.datasets import Dataset, shapes
from panbench.datasets.coco import open_json

SURE = 12.0
"""A logit whose probability is 1 for all purposes of merging."""


def generated_dataset(
    class_names: Sequence[str],
    num_things: int,
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
        gt = _renamed(gt, class_names, num_things)
    name = f"shapes-{size[0]}x{size[1]}"
    return open_json(gt, root / "val", gt_dir=root / "annotations" / "panoptic_val", name=name, split="val")


def plant_segments(module: nn.Module, family: str, count: int) -> Callable[[], None]:
    """Makes a model answer with `count` segments, tiles of a grid, in every image; the function returned undoes it.

    The forward pass is not spared anything: only what the heads say last is replaced, with the same tiles wherever the
    same module runs. Panoptic FPN plants `count` instances; the stuff between them stays as the model says.
    """
    model = cast(Any, module)
    if family == "panoptic-fpn":
        return _plant_instances(model, count)
    handle = model.panoptic_head.register_forward_hook(
        lambda head, inputs, outputs: _plant_queries(outputs, count, head.num_things_classes)
    )
    return handle.remove


def _plant_queries(outputs: tuple[Any, Any], count: int, num_things: int) -> tuple[Any, Any]:
    class_logits, mask_logits = (list(output) for output in outputs)
    classes, masks = torch.zeros_like(class_logits[-1]), mask_logits[-1].clone()
    _, queries, width = classes.shape
    count = min(count, queries)
    classes[:, count:, -1] = SURE
    for query in range(count):
        # Things and stuff by turns; each stuff class once, as two regions of one class would be one segment.
        stuff = num_things + query // 2
        classes[:, query, query // 2 % num_things if query % 2 == 0 or stuff >= width - 1 else stuff] = SURE
    for query, (rows, columns) in enumerate(_tiles(count, *masks.shape[-2:])):
        masks[:, query] = -SURE
        masks[:, query, rows, columns] = SURE
    return [*class_logits[:-1], classes], [*mask_logits[:-1], masks]


def _plant_instances(model: Any, count: int) -> Callable[[], None]:
    head = model.roi_head
    box_forward = head._bbox_forward

    def planted(features: Sequence[Tensor], rois: Tensor, *args: Any) -> dict[str, Tensor]:
        found = box_forward(features, rois, *args)
        stride = head.bbox_roi_extractor.featmap_strides[0]
        height, width = (side * stride for side in features[0].shape[-2:])
        tiles = [(c.start, r.start, c.stop, r.stop) for r, c in _tiles(count, height, width)]
        targets = rois.new_tensor(tiles)
        scores, deltas = torch.zeros_like(found["cls_score"]), found["bbox_pred"].clone()
        scores[:, -1] = SURE
        for image in rois[:, 0].unique():
            rows = torch.nonzero(rois[:, 0] == image).flatten()[:count]
            encoded = head.bbox_head.bbox_coder.encode(rois[rows, 1:], targets[: len(rows)])
            for row, delta, label in zip(rows, encoded, range(count), strict=False):
                label %= head.bbox_head.num_classes
                scores[row, -1], scores[row, label] = 0.0, SURE
                deltas[row].view(-1, 4)[label if deltas.shape[1] > 4 else 0] = delta.to(deltas)
        return {**found, "cls_score": scores, "bbox_pred": deltas}

    head._bbox_forward = planted
    handle = head.mask_head.register_forward_hook(lambda module, inputs, output: torch.full_like(output, SURE))

    def undo() -> None:
        handle.remove()
        del head._bbox_forward

    return undo


def _tiles(count: int, height: int, width: int) -> list[tuple[slice, slice]]:
    """`count` rectangles of a grid that covers height × width, in reading order."""
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    return [
        (
            slice(index // columns * height // rows, (index // columns + 1) * height // rows),
            slice(index % columns * width // columns, (index % columns + 1) * width // columns),
        )
        for index in range(count)
    ]


def _renamed(gt: Path, class_names: Sequence[str], num_things: int) -> Path:
    """A copy of a JSON of shapes whose categories are a model's, with the ids 1, 2, … in label order."""
    things, stuff = list(range(num_things)), list(range(num_things, len(class_names)))
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
        {"id": label + 1, "name": name, "isthing": int(label < num_things), "supercategory": "", "color": [label, 0, 0]}
        for label, name in enumerate(class_names)
    ]
    path = gt.with_name(f"panoptic_val-{len(class_names)}-classes.json")
    write_json(path, content, indent=None)
    return path
