"""Times panbench against transformers' own way, image by image, in one run: before, in and after the forward pass.

    python scripts/bench/against_transformers.py                     # a tiny Mask2Former, random weights, 160 pixels
    python scripts/bench/against_transformers.py --swin --images 8   # Mask2Former Swin-T, 800 pixels

Both sides run the same module on the same images, one at a time, turn about. transformers: its image processor,
`model(**inputs)`, `post_process_panoptic_segmentation` at threshold 0.8 with stuff fused. The processor is the one on
Pillow and NumPy: that on torchvision needs a torchvision built for the installed torch, which the registry does not
have for CPU builds. panbench: load, candidates, fuse and settle of the paper's rule. After the forward pass, outside of
both clocks, the network's answer is replaced by a scene of `--segments` segments, so that post-processing has the work
of a trained model. Printed are medians of CPU milliseconds an image on one thread, and transformers / panbench.
"""

import importlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import cv2
import numpy as np
import torch

from panbench.catalog import find_model
from panbench.datasets import shapes
from panbench.models.host import HostedModel
from panbench.models.labels import coco_labels
from panbench.models.opening import open_model
from panbench.models.predict import scene_of
from panbench.models.rules import fuse
from scripts.bench.harness import arguments, compared, finish

Answer = TypeVar("Answer")


def save_network(folder: Path, tiny: bool) -> None:
    """A Mask2Former with a Swin backbone and random weights, whose classes are COCO's, as save_pretrained has it."""
    transformers: Any = importlib.import_module("transformers")

    names, _ = coco_labels()
    stages = ["stage1", "stage2", "stage3", "stage4"]
    if tiny:
        swin = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4], "window_size": 4}
        sizes = {
            "hidden_dim": 64,
            "mask_feature_size": 64,
            "feature_size": 64,
            "encoder_layers": 2,
            "decoder_layers": 4,
        }
        rest = {"num_attention_heads": 4, "dim_feedforward": 256, "encoder_feedforward_dim": 256, "num_queries": 24}
    else:
        swin = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
        sizes, rest = {}, {"num_queries": 100}
    torch.manual_seed(0)
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**swin, out_features=stages), **sizes, **rest
    )
    config.id2label = dict(enumerate(names))
    config.label2id = {name: label for label, name in enumerate(names)}
    network = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    # Untrained, every query says about the same of every class. These are as sure and as different as trained ones are.
    torch.nn.init.normal_(network.class_predictor.weight, std=1.0)
    network.save_pretrained(folder)


def plant(outputs: Any, segments: int, stuff: int) -> Any:
    """The outputs with the class and mask logits of a scene of `segments` segments, tiles, in the first queries.

    A third of them are stuff, of classes from `stuff` on; the other queries say "nothing", as most do when trained.
    """
    classes, masks = outputs.class_queries_logits, outputs.masks_queries_logits
    classes.fill_(0.0)
    classes[..., -1] = 8.0
    height, width = masks.shape[-2:]
    columns = math.ceil(math.sqrt(segments))
    rows = math.ceil(segments / columns)
    for index in range(min(segments, masks.shape[1])):
        row, column = divmod(index, columns)
        label = stuff + index if index % 3 == 0 else index
        classes[:, index, label], classes[:, index, -1] = 12.0, 0.0
        masks[:, index] = -6.0
        top, bottom = row * height // rows, (row + 1) * height // rows
        left, right = column * width // columns, (column + 1) * width // columns
        masks[:, index, top:bottom, left:right] = 6.0
    return outputs


def timed(seconds: list[float], work: Callable[[], Answer]) -> Answer:
    """What `work` returns; how long it took is added to `seconds`."""
    began = time.process_time()
    answer = work()
    seconds.append(time.process_time() - began)
    return answer


def measure(
    images: int, tiny: bool, size: tuple[int, int], segments: int
) -> tuple[dict[str, dict[str, list[float]]], str]:
    """CPU seconds of each side, stage and image, and a line on what both saw and found."""
    from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

    short, long = (160, 267) if tiny else (800, 1333)
    seen: dict[str, str] = {}
    stages: dict[str, dict[str, list[float]]] = {
        side: {stage: [] for stage in ("before", "forward", "after")} for side in ("transformers", "panbench")
    }
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name) / "network"
        save_network(folder, tiny)
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"size": {"shortest_edge": short, "longest_edge": long}})
        )
        model = open_model(find_model(str(folder)), device="cpu")
        assert isinstance(model, HostedModel)
        module: Any = model.module
        processor = Mask2FormerImageProcessorPil(size={"shortest_edge": short, "longest_edge": long})
        stuff = {label for label, thing in enumerate(model.isthing) if not thing}
        for index in range(images + 1):
            path = Path(name) / f"{index}.jpg"
            cv2.imwrite(str(path), shapes.make_scene(index, size=size).image[..., ::-1])

            def read(path: Path = path) -> Any:
                bgr = cv2.imread(str(path))
                assert bgr is not None
                return processor(images=[np.ascontiguousarray(bgr[..., ::-1])], return_tensors="pt")

            def theirs(read: Callable[[], Any] = read) -> None:
                side = stages["transformers"]
                inputs = timed(side["before"], read)
                outputs = plant(
                    timed(side["forward"], lambda: module(**inputs)), segments, len(model.isthing) - len(stuff)
                )
                (found,) = timed(
                    side["after"],
                    lambda: processor.post_process_panoptic_segmentation(
                        outputs, threshold=0.8, target_sizes=[size], label_ids_to_fuse=stuff
                    ),
                )
                seen["transformers"] = (
                    f"{tuple(inputs['pixel_values'].shape[-2:])}, {len(found['segments_info'])} segments"
                )

            def ours(path: Path = path) -> None:
                side = stages["panbench"]
                loaded = timed(side["before"], lambda: model.load(scene_of(path, 1, *size)))
                began = time.process_time()
                forward: list[float] = []
                planting: list[float] = []
                plain = module.forward

                def listened(**given: Any) -> Any:
                    outputs = timed(forward, lambda: plain(**given))
                    seen["panbench"] = str(tuple(given["pixel_values"].shape[-2:]))
                    return timed(planting, lambda: plant(outputs, segments, len(model.isthing) - len(stuff)))

                module.forward = listened
                try:
                    outputs = model.candidates([loaded])
                finally:
                    module.forward = plain
                (fused,) = fuse(outputs, model.rule)
                _, found = model.rule.settle(fused)
                side["forward"].append(forward[0])
                # Normalising, padding and scoring happen around the module: all but its own time is counted here.
                side["after"].append(time.process_time() - began - forward[0] - planting[0])
                seen["panbench"] += f", {len(found)} segments"

            for way in (theirs, ours) if index % 2 else (ours, theirs):
                way()
    counted = {side: {stage: each[1:] for stage, each in of_side.items()} for side, of_side in stages.items()}
    return counted, "; ".join(f"{side}: input {what}" for side, what in seen.items())


def main() -> None:
    """Measures and prints a row for each stage."""
    options = arguments(__doc__, images=10, swin=False, threads=1, segments=12)
    torch.set_num_threads(options.threads)
    found, seen = measure(options.images, not options.swin, (480, 640), options.segments)
    print(f"{options.images} images of 480×640, {options.threads} threads, torch {torch.__version__}; {seen}")
    stages = ("before", "forward", "after")
    parts = {
        "before the forward pass": stages[:1],
        "forward pass": stages[1:2],
        "after it": stages[2:],
        "all but the forward pass": (stages[0], stages[2]),
    }
    rows = []
    for part, of_part in parts.items():
        each = {
            name: [sum(one) for one in zip(*(side[stage] for stage in of_part), strict=True)]
            for name, side in found.items()
        }
        rows.append(
            {
                f"{'Swin-T' if options.swin else 'tiny'}, {options.images} images": part,
                **{f"{name}, CPU ms": f"{1e3 * statistics.median(seconds):.1f}" for name, seconds in each.items()},
                **compared(each["transformers"], each["panbench"]),
            }
        )
    finish("against_transformers", rows, options.write)


if __name__ == "__main__":
    main()
