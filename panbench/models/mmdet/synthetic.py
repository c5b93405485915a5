"""Segments planted into mmdet's heads: what timings of untrained models need, on mmdet's own side as on ours.

An untrained model finds nothing, so its fusion and scoring would be timed on empty maps. Planting replaces the last
answers of its heads, after they were computed: everything before runs as it is, with the same tiles wherever the same
module runs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from panbench.models.synthetic import SURE, tiles


def plant_queries(model: Any, count: int) -> Callable[[], None]:
    """Makes MaskFormer or Mask2Former answer with `count` queries in every image; the function returned undoes it."""
    handle = model.panoptic_head.register_forward_hook(
        lambda head, inputs, outputs: _plant_queries(outputs, count, head.num_things_classes)
    )
    return handle.remove  # type: ignore[no-any-return]


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
    for query, (rows, columns) in enumerate(tiles(count, *masks.shape[-2:])):
        masks[:, query] = -SURE
        masks[:, query, rows, columns] = SURE
    return [*class_logits[:-1], classes], [*mask_logits[:-1], masks]


def plant_instances(model: Any, count: int) -> Callable[[], None]:
    """Makes Panoptic FPN answer with `count` instances in every image; the function returned undoes it."""
    head = model.roi_head
    box_forward = head._bbox_forward

    def planted(features: Sequence[Tensor], rois: Tensor, *args: Any) -> dict[str, Tensor]:
        found = box_forward(features, rois, *args)
        stride = head.bbox_roi_extractor.featmap_strides[0]
        height, width = (side * stride for side in features[0].shape[-2:])
        boxes = [(c.start, r.start, c.stop, r.stop) for r, c in tiles(count, height, width)]
        targets = rois.new_tensor(boxes)
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
