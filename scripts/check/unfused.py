"""AP_pan, box AP_pan and mIoU_pan of a tiny model, held against pycocotools and a count of our own, image by image.

    python scripts/check/unfused.py --model mask2former-tiny            # all 200 scenes
    python scripts/check/unfused.py --model panoptic-fpn-tiny --limit 4

Independent of panbench from the network's raw outputs on: instances come from mmdet's own code (`instance_postprocess`
of its fusion head, or its pasting of box masks), AP from pycocotools on run-length masks, and the semantic map from one
einsum over all queries, counted pixel by pixel. The run is made by `evaluate`, as `panbench eval --metrics pq,ap,miou`
makes it. Exit code 1 when a number differs by more than 1e-6.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from panbench.catalog import find_model
from panbench.datasets import Dataset, open_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.evaluation.options import EvaluateOptions
from panbench.models.candidates import Instances
from panbench.models.mmdet import families
from panbench.models.opening import open_model
from panbench.report.answers.findings import metric_findings
from panbench.studies.unfused.options import UnfusedOptions

TOLERANCE = 1e-6
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
KINDS = {"segm": "", "bbox": "_box"}
"""What pycocotools calls AP of masks and of boxes, and how panbench's names end."""


Found = tuple[list[int], list[float], list[np.ndarray], list[list[float]], np.ndarray]


def independent(model: Any, dataset: Dataset) -> dict[str, float | None]:
    """Computes AP_pan, box AP_pan (six numbers each) and mIoU_pan of an mmdet model; None for pycocotools' -1."""
    from pycocotools import mask as rle_masks
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    ids = [category.id for category in dataset.categories]
    label_to_id = [next(c.id for c in dataset.categories if c.name == name) for name in model.class_names]
    things = {category.id for category in dataset.categories if category.isthing}
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    confusion = np.zeros((1 + max(ids), 1 + max(ids)), np.int64)

    def coded(mask: np.ndarray) -> dict[str, Any]:
        return rle_masks.encode(np.asfortranarray(mask.astype(np.uint8)))

    for scene in dataset.scenes:
        assert scene.gt_path is not None
        assert scene.annotation is not None
        rgb = np.asarray(Image.open(scene.gt_path).convert("RGB")).astype(np.int64)
        id_map = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        true_category = np.zeros(id_map.shape, np.int64)
        for segment in scene.annotation.segments:
            mask = id_map == segment.id
            true_category[mask] = segment.category_id
            if segment.category_id in things:
                entry: dict[str, Any] = {
                    "image_id": scene.image.id,
                    "id": len(truth) + 1,
                    "category_id": segment.category_id,
                }
                assert segment.bbox is not None
                entry |= {"bbox": list(segment.bbox), "area": segment.area, "iscrowd": int(segment.iscrowd)}
                truth.append({**entry, "segmentation": coded(mask)})
        labels, scores, masks, boxes, semantic = of_network(model, scene)
        for label, score, mask, (x1, y1, x2, y2) in zip(labels, scores, masks, boxes, strict=True):
            entry = {"image_id": scene.image.id, "category_id": label_to_id[label], "score": float(score)}
            found.append({**entry, "segmentation": coded(mask), "bbox": [x1, y1, x2 - x1, y2 - y1]})
        predicted = np.array(label_to_id)[semantic]
        np.add.at(confusion, (true_category, predicted), 1)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [
                {"id": scene.image.id, "height": scene.image.height, "width": scene.image.width}
                for scene in dataset.scenes
            ],
            "categories": [{"id": category} for category in sorted(things)],
            "annotations": truth,
        }
        coco.createIndex()
        numbers = {}
        for kind, ending in KINDS.items():
            # pycocotools takes the area of a result with a box from it: those of masks are given without.
            results = [{key: value for key, value in one.items() if kind == "bbox" or key != "bbox"} for one in found]
            evaluation = COCOeval(coco, coco.loadRes(results), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for name, value in zip(NAMES, evaluation.stats, strict=False):
                numbers[name + ending] = None if value == -1 else float(value)
    labelled = confusion[1:, 1:]
    right, union = np.diag(labelled), labelled.sum(0) + labelled.sum(1) - np.diag(labelled)
    iou = [right[category - 1] / union[category - 1] for category in ids if union[category - 1]]
    return {**numbers, "mIoU_pan": float(np.mean(iou))}


@torch.inference_mode()
def of_network(model: Any, scene: Any) -> Found:
    """Returns labels, scores, masks and boxes (x1 y1 x2 y2) of an image's instances, and the label of each pixel."""
    image = model.load(scene)
    with raw_outputs() as raw:
        (output,) = model.candidates([image])
    height, width = scene.image.height, scene.image.width
    if isinstance(output, Instances):
        return of_boxes(output, height, width, len(model.class_names))
    class_logits, mask_logits, frame = raw["class_logits"][0], raw["mask_logits"], raw["frames"][0]
    masks = F.interpolate(mask_logits, size=frame.padded, mode="bilinear", align_corners=False)
    masks = masks[:, :, : frame.resized[0], : frame.resized[1]]
    masks = F.interpolate(masks, size=(height, width), mode="bilinear", align_corners=False)[0]
    head = model.module.panoptic_fusion_head
    result = head.instance_postprocess(class_logits, masks)
    sums = torch.einsum("qc,qhw->chw", class_logits.softmax(-1)[:, :-1], masks.sigmoid())
    labels, scores, boxes = (values.tolist() for values in (result.labels, result.scores, result.bboxes))
    return labels, scores, list(result.masks.numpy()), boxes, sums.argmax(0).numpy()


def of_boxes(output: Instances, height: int, width: int, classes: int) -> Found:
    """Returns the same for boxes with masks and semantic logits: things Σ score × mask, stuff by softmax."""
    from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

    pasted, _ = _do_paste_mask(output.masks[:, None], output.boxes, height, width, skip_empty=False)
    frame = output.frame
    logits = F.interpolate(output.semantic_logits[None], size=frame.padded, mode="bilinear", align_corners=False)
    logits = logits[:, :, : frame.resized[0], : frame.resized[1]]
    logits = F.interpolate(logits, size=(height, width), mode="bilinear", align_corners=False)[0]
    sums = np.zeros((classes, height, width))
    for label, share in zip(output.semantic_labels, logits.softmax(0).numpy(), strict=True):
        if label >= 0:
            sums[label] += share
    for label, score, mask in zip(output.labels, output.scores, pasted.numpy(), strict=True):
        sums[label] += score * mask
    kept = range(min(100, len(output.labels)))
    masks = [pasted[index].numpy() >= 0.5 for index in kept]
    assert output.boxes is not None
    labels, scores = [output.labels[i] for i in kept], [output.scores[i] for i in kept]
    return labels, scores, masks, output.boxes[: len(kept)].tolist(), sums.argmax(0)


@contextlib.contextmanager
def raw_outputs() -> Iterator[dict[str, Any]]:
    """Records the outputs of an mmdet model of queries, before panbench makes candidates of them."""
    raw: dict[str, Any] = {}
    original = families.softmax_candidates

    def remember(class_logits: Any, mask_logits: Any, frames: Any, *rest: Any, **named: Any) -> Any:
        raw.update(class_logits=class_logits.float(), mask_logits=mask_logits.float(), frames=frames)
        return original(class_logits, mask_logits, frames, *rest, **named)

    families.softmax_candidates = remember
    try:
        yield raw
    finally:
        families.softmax_candidates = original


def measured(model: Any, dataset: Dataset, out: Path) -> dict[str, float | None]:
    """Returns the same numbers as panbench stores and prints them."""
    run = evaluate(model, dataset, out, EvaluateOptions(studies=(UnfusedOptions("pq,ap,miou"),), overwrite=True))
    record = metric_findings(run).record
    boxes = {f"{name}_box": value for name, value in record["AP_box_pan"].items()}
    return {**record["AP_pan"], **boxes, "mIoU_pan": record["mIoU_pan"]}


def main() -> int:
    """Prints both values of each metric; returns 1 if they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny"])
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--limit", type=int)
    arguments = parser.parse_args()
    dataset = open_dataset(arguments.data, limit=arguments.limit)
    worst = 0.0
    print(f"{len(dataset.scenes)} images of {dataset.name}\n")
    print("| model | metric | pycocotools, own count | panbench | difference |\n| --- | --- | ---: | ---: | ---: |")
    for name in arguments.model:
        model = open_model(find_model(name))
        with tempfile.TemporaryDirectory() as folder:
            ours = measured(model, dataset, Path(folder) / "run")
        theirs = independent(model, dataset)
        for metric, expected in theirs.items():
            value = ours[metric]
            if (value is None) != (expected is None):
                worst = float("inf")
            difference = abs((value or 0.0) - (expected or 0.0))
            worst = max(worst, difference)
            shown = ["–" if one is None else f"{one:.9f}" for one in (expected, value)]
            print(f"| {name} | {metric} | {shown[0]} | {shown[1]} | {difference:.1e} |")
    print(f"\nLargest difference: {worst:.1e}; allowed: {TOLERANCE:.0e}.")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
