"""Trains a tiny model of a `transformers` family on generated `shapes` scenes, with the loss that transformers brings.

    python scripts/make/train_tiny_transformers.py eomt-tiny --hold 9000 --decay 1500
    python scripts/make/train_tiny_transformers.py eomt-tiny --export

The learning rate warms up, stays, and falls linearly to zero over the last `--decay` iterations. An interrupted
training goes on from its last checkpoint, also with another --hold. The second line writes float16 weights and the
model card into configs/weights/, after evaluating the written weights with panbench itself.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from panbench.catalog import find_model  # noqa: E402
from panbench.datasets import shapes  # noqa: E402
from panbench.models.transformers.adapter import TransformersAdapter  # noqa: E402
from scripts.make import tiny_export  # noqa: E402

TRAIN_SCENES = 6000
TRAIN_SEED = 20260  # the evaluated scenes use seed 0 and another split: no scene is in both
WARM_UP = 300
BATCH = 8
CHECKPOINT_EVERY = 250
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TASK = (49406, 518, 10549, 533, 1072, 24755, 49407)  # "the task is panoptic" in CLIP's tokens
RECIPES: dict[str, dict[str, Any]] = {
    "eomt-tiny": {"lr": 8e-4, "clip": 1.0, "square": 160},
    "oneformer-tiny": {"lr": 1e-3, "clip": 1.0, "square": None},
}

Scene = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], list[int], list[int]]


class ShapesForTraining:
    """Generated scenes, drawn once and cached; randomly flipped and relit in batches."""

    def __init__(self, count: int, square: int | None) -> None:
        label_of = {c["id"]: label for label, c in enumerate(shapes.CATEGORIES)}
        self.square = square
        self.scenes: list[Scene] = []
        for index in range(count):
            scene = shapes.make_scene(index, split="train", seed=TRAIN_SEED)
            layers = np.zeros(shapes.DEFAULT_SIZE, np.uint8)
            kept, labels = [], []
            for number, segment in enumerate(scene.segments_info, start=1):
                layers[scene.ids == segment["id"]] = number
                if not segment["iscrowd"]:
                    kept.append(number)
                    labels.append(label_of[segment["category_id"]])
            self.scenes.append((scene.image, layers, kept, labels))

    def batches(self, generator: np.random.Generator) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor]]]:
        """Yields endlessly (pixels (B, 3, H, W), masks (N, H, W) per image, labels (N,) per image)."""
        height, width = (self.square, self.square) if self.square else shapes.DEFAULT_SIZE
        mean, std = (np.array(value, np.float32) for value in (MEAN, STD))
        while True:
            order = generator.permutation(len(self.scenes))
            for start in range(0, len(order) - BATCH + 1, BATCH):
                pixels, masks, classes = [], [], []
                for index in order[start : start + BATCH]:
                    image, layers, kept, labels = self.scenes[index]
                    if generator.random() < 0.5:
                        image, layers = image[:, ::-1], layers[:, ::-1]
                    gain, offset = 0.85 + 0.3 * generator.random(), 24.0 * generator.random() - 12.0
                    canvas = np.zeros((height, width, 3), np.float32)
                    canvas[: image.shape[0], : image.shape[1]] = np.clip(image * gain + offset, 0, 255)
                    numbers = np.zeros((height, width), np.uint8)
                    numbers[: image.shape[0], : image.shape[1]] = layers
                    pixels.append(torch.from_numpy(((canvas / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)))
                    masks.append(torch.from_numpy(np.stack([numbers == number for number in kept]).astype(np.float32)))
                    classes.append(torch.tensor(labels, dtype=torch.long))
                yield torch.stack(pixels), masks, classes


def build(name: str) -> nn.Module:
    """Builds the network of a model's config with transformers' own initial weights."""
    return TransformersAdapter(find_model(name)).build()


def train(name: str, options: argparse.Namespace, work_dir: Path) -> None:
    """Trains a model in `work_dir`, from its last checkpoint if there is one."""
    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    work_dir.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES[name]
    module = build(name).train()
    decayed = [value for value in module.parameters() if value.ndim >= 2]
    others = [value for value in module.parameters() if value.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}])
    last, done = work_dir / "last.pth", 0
    if last.exists():
        kept = torch.load(last, weights_only=True)
        module.load_state_dict(kept["module"])
        optimizer.load_state_dict(kept["optimizer"])
        done = kept["done"]
    total = options.hold + options.decay
    print(f"{name}: {sum(p.numel() for p in module.parameters()):,} parameters, from iteration {done} to {total}")
    batches = ShapesForTraining(options.scenes, recipe["square"]).batches(np.random.default_rng((7, done)))
    task = torch.tensor([[*TASK, *[0] * (77 - len(TASK))]] * BATCH)
    extra = {"task_inputs": task} if name.startswith("oneformer") else {}
    began, losses = time.monotonic(), []
    while done < total:
        rate = recipe["lr"] * min(1.0, (done + 1) / WARM_UP, (total - done) / max(options.decay, 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pixels, masks, labels = next(batches)
        loss = module(pixel_values=pixels, mask_labels=masks, class_labels=labels, **extra).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), recipe["clip"])
        optimizer.step()
        losses.append(float(loss.detach()))
        done += 1
        if done % 50 == 0:
            seconds = time.monotonic() - began
            print(f"{done}: loss {np.mean(losses[-50:]):.3f}, rate {rate:.2e}, {seconds:.0f} s", flush=True)
        if done % CHECKPOINT_EVERY == 0 or done == total:
            whole = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "done": done}
            torch.save(whole | {"hold": options.hold, "decay": options.decay}, last.with_suffix(".new"))
            os.replace(last.with_suffix(".new"), last)


def export(name: str, work_dir: Path) -> None:
    """Writes configs/weights/<name>.safetensors from the last checkpoint, evaluates it, and writes its model card."""
    kept = torch.load(work_dir / "last.pth", weights_only=True)
    trained = (
        f"`python scripts/make/train_tiny_transformers.py {name} --hold {kept['hold']} --decay {kept['decay']}`: "
        f"{kept['done']:,} iterations of {BATCH} scenes, drawn from {TRAIN_SCENES:,} scenes of the split `train` with "
        f"seed {TRAIN_SEED}, {shapes.DEFAULT_SIZE[0]}×{shapes.DEFAULT_SIZE[1]} pixels; AdamW, learning rate "
        f"{RECIPES[name]['lr']}, falling linearly to 0 at the end; transformers' own loss, on a CPU"
    )
    kind = f"{find_model(name).family} model of transformers"
    tiny_export.export(name, kept["module"], kind=kind, trained=trained)


def main() -> None:
    """Parses the arguments and trains or exports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--hold", type=int, default=8000, metavar="N", help="iterations before the learning rate falls")
    parser.add_argument("--decay", type=int, default=1500, metavar="N", help="iterations over which it falls to zero")
    parser.add_argument("--scenes", type=int, default=TRAIN_SCENES, help="how many training scenes are drawn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--export", action="store_true", help="write safetensors and model card instead of training")
    options = parser.parse_args()
    work_dir = options.work_dir or ROOT / "work_dirs" / options.model
    if options.export:
        export(options.model, work_dir)
        return
    train(options.model, options, work_dir)


if __name__ == "__main__":
    main()
