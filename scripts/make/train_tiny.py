"""Trains one of the three tiny models on generated `shapes` scenes, with mmengine's Runner and mmdet's own losses.

    python scripts/make/train_tiny.py mask2former-tiny
    python scripts/make/train_tiny.py mask2former-tiny --export

The first line trains, and goes on from the last checkpoint in the folder when it was interrupted. The second writes the
weights as safetensors and the model card into configs/weights/, after evaluating those weights with panbench itself.
With --stop the schedule is left early; --finish then lets the learning rate fall to zero from there.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import DefaultSampler
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch.utils.data import Dataset

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from panbench.catalog import find_model  # noqa: E402
from panbench.datasets import shapes  # noqa: E402
from panbench.models.checkpoints import load_checkpoint  # noqa: E402
from panbench.models.mmdet import operators  # noqa: E402
from panbench.models.mmdet.config import load_config  # noqa: E402
from scripts.make import tiny_export  # noqa: E402

TRAIN_SCENES = 6000
TRAIN_SEED = 20260  # the evaluated scenes use seed 0 and another split: no scene is in both
RECIPES: dict[str, dict[str, Any]] = {
    "panoptic-fpn-tiny": {"iterations": 2500, "lr": 2e-3, "clip": 5.0},
    "maskformer-tiny": {"iterations": 10000, "lr": 1e-3, "clip": 5.0, "target_stride": 2},
    "mask2former-tiny": {"iterations": 8000, "lr": 1e-3, "clip": 1.0},
}


class ShapesForTraining(Dataset):
    """Generated scenes as mmdet's packed samples, drawn once and cached; randomly flipped and relit."""

    def __init__(self, count: int, size: tuple[int, int], target_stride: int = 1) -> None:
        self.target_stride = target_stride
        label_of = {c["id"]: label for label, c in enumerate(shapes.CATEGORIES)}
        self.size = size
        self.scenes = []
        for index in range(count):
            scene = shapes.make_scene(index, split="train", seed=TRAIN_SEED, size=size)
            layers = np.zeros(size, np.uint8)
            things, labels = [], []
            semantic_of_layer = [255]
            for number, segment in enumerate(scene.segments_info, start=1):
                layers[scene.ids == segment["id"]] = number
                label = label_of[segment["category_id"]]
                semantic_of_layer.append(255 if segment["iscrowd"] else label)
                if label < 5 and not segment["iscrowd"]:
                    things.append(number)
                    labels.append(label)
            self.scenes.append(
                (scene.image[..., ::-1].copy(), layers, np.array(semantic_of_layer, np.uint8), things, labels)
            )

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import InstanceData, PixelData

        image, layers, semantic_of_layer, things, labels = self.scenes[index]
        chance = torch.rand(4)
        if chance[0] < 0.5:
            image, layers = image[:, ::-1], layers[:, ::-1]
        gain, offset = 0.85 + 0.3 * float(chance[1]), 24.0 * float(chance[2]) - 12.0
        image = np.clip(image.astype(np.float32) * gain + offset, 0, 255).astype(np.uint8)
        # Every second target pixel is enough where the loss would upsample the masks anyway; a random phase keeps
        # the targets unbiased.
        phase_y, phase_x = int(chance[3] * 2) % self.target_stride, int(chance[3] * 4) % self.target_stride
        masks = (layers == np.array(things, np.uint8)[:, None, None]).astype(np.uint8)
        boxes = BitmapMasks(masks, *self.size).get_bboxes("hbox").tensor
        layers = layers[phase_y :: self.target_stride, phase_x :: self.target_stride]
        masks = masks[:, phase_y :: self.target_stride, phase_x :: self.target_stride]
        sample = DetDataSample(metainfo={"img_shape": self.size, "ori_shape": self.size, "scale_factor": (1.0, 1.0)})
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor(labels, dtype=torch.long), masks=BitmapMasks(masks, *layers.shape)
        )
        semantic = torch.from_numpy(semantic_of_layer[layers].astype(np.int64))[None]
        sample.gt_sem_seg = PixelData(sem_seg=semantic)
        return {"inputs": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), "data_samples": sample}


def train(name: str, options: argparse.Namespace, work_dir: Path) -> None:
    """Trains a model in `work_dir`, from its last checkpoint if there is one."""
    # mmengine reads its checkpoints as pickles; these are only ever the ones that this program wrote into `work_dir`.
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    recipe = RECIPES[name]
    iterations, stop, warm_up, peak = recipe["iterations"], options.stop or recipe["iterations"], 300, recipe["lr"]
    load_from = None
    if options.finish:
        load_from = (work_dir / "last_checkpoint").read_text().strip()
        work_dir = work_dir / "finish"
        iterations, stop, warm_up, peak = options.finish, options.finish, 50, recipe["lr"] / 2
    torch.set_num_threads(options.threads)
    config = load_config(ROOT / "configs" / f"{name}.py")
    dataset = ShapesForTraining(options.scenes, shapes.DEFAULT_SIZE, recipe.get("target_stride", 1))
    model = config.model
    if "target_stride" in recipe:
        model.data_preprocessor.update(pad_mask=False, pad_seg=False)
    if name == "panoptic-fpn-tiny":
        use_two_samples_a_bin()
        model.train_cfg.rpn_proposal.update(nms_pre=300, max_per_img=100)
        model.train_cfg.rpn.sampler.num = 96
        model.train_cfg.rcnn.sampler.num = 64
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader={
            "batch_size": 8,
            "num_workers": 0,
            "dataset": dataset,
            "sampler": {"type": DefaultSampler, "shuffle": True},
            "collate_fn": {"type": "pseudo_collate"},
        },
        train_cfg={"by_epoch": False, "max_iters": stop, "val_interval": stop + 1},
        optim_wrapper={
            "type": "OptimWrapper",
            "optimizer": {"type": "AdamW", "lr": peak, "weight_decay": 0.05},
            "clip_grad": {"max_norm": recipe["clip"]},
            "paramwise_cfg": {"norm_decay_mult": 0.0},
        },
        param_scheduler=[
            {"type": "LinearLR", "start_factor": 0.01, "by_epoch": False, "begin": 0, "end": warm_up},
            {
                "type": "CosineAnnealingLR",
                "by_epoch": False,
                "begin": warm_up,
                "end": iterations,
                "T_max": iterations - warm_up,
                "eta_min": peak * 0.01,
            },
        ],
        default_hooks={
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": 500, "max_keep_ckpts": 2},
            "logger": {"type": "LoggerHook", "interval": 100},
        },
        log_processor={"by_epoch": False},
        randomness={"seed": 0},
        default_scope="mmdet",
        load_from=load_from,
        resume=load_from is None,
    )
    runner.train()


def use_two_samples_a_bin() -> None:
    """Makes RoIAlign sample twice per bin and axis, with gradients: cheaper than one per pixel, and enough to learn."""
    from mmcv.ops import RoIAlign

    def forward(self: Any, features: torch.Tensor, rois: torch.Tensor) -> torch.Tensor:
        height, width = self.output_size
        pooled = features.new_zeros((len(rois), features.shape[1], height, width))
        for image in range(len(features)):
            chosen = (rois[:, 0] == image).nonzero().flatten()
            if not len(chosen):
                continue
            left, top, right, bottom = (rois[chosen, 1:] * self.spatial_scale).unbind(1)
            x = _sampled_places(left, right, 2 * width, features.shape[3])[:, None].expand(-1, 2 * height, -1)
            y = _sampled_places(top, bottom, 2 * height, features.shape[2])[:, :, None].expand(-1, -1, 2 * width)
            places = torch.stack([x, y], -1).flatten(0, 1)[None]
            samples = F.grid_sample(features[image : image + 1], places, padding_mode="border", align_corners=False)
            means = F.avg_pool2d(samples.unflatten(2, (len(chosen), 2 * height))[0].transpose(0, 1), 2)
            pooled = pooled.index_copy(0, chosen, means)
        return pooled

    RoIAlign.forward = forward


def _sampled_places(low: torch.Tensor, high: torch.Tensor, count: int, extent: int) -> torch.Tensor:
    """Returns (R, count) the centres of equal parts of each box along one axis, from -1 to 1 over the map."""
    middles = (torch.arange(count, device=low.device) + 0.5) / count
    return (low[:, None] + (high - low)[:, None] * middles) * 2 / extent - 1


def export(name: str, work_dir: Path) -> None:
    """Writes configs/weights/<name>.safetensors from the last checkpoint, evaluates it, and writes its model card."""
    stages = [work_dir, work_dir / "finish"] if (work_dir / "finish" / "last_checkpoint").exists() else [work_dir]
    checkpoints = [Path((folder / "last_checkpoint").read_text().strip()) for folder in stages]
    iterations = [int(path.stem.rpartition("_")[2]) for path in checkpoints]
    whole = iterations[0] == RECIPES[name]["iterations"]
    commands = [f"python scripts/make/train_tiny.py {name}" + ("" if whole else f" --stop {iterations[0]}")]
    if len(stages) == 2:
        commands.append(f"python scripts/make/train_tiny.py {name} --finish {iterations[1]}")
    recipe = RECIPES[name]
    trained = (
        f"`{'`, then `'.join(commands)}`: {sum(iterations):,} iterations of 8 "
        f"scenes, drawn from {TRAIN_SCENES:,} scenes of the split `train` with seed {TRAIN_SEED}, "
        f"{shapes.DEFAULT_SIZE[0]}×{shapes.DEFAULT_SIZE[1]} pixels; AdamW, learning rate {recipe['lr']}, cosine decay; "
        "mmdet's losses and mmengine's Runner, on a CPU"
    )
    state = load_checkpoint(checkpoints[-1]).state_dict
    tiny_export.export(name, state, kind=f"{find_model(name).family} model", trained=trained)


def main() -> None:
    """Parses the arguments and trains, finishes or exports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(RECIPES))
    parser.add_argument("--stop", type=int, metavar="N", help="stop after N iterations of the schedule")
    parser.add_argument(
        "--finish", type=int, metavar="N", help="N more iterations with a learning rate that falls to 0"
    )
    parser.add_argument("--scenes", type=int, default=TRAIN_SCENES, help="how many training scenes are drawn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work-dir", type=Path)
    parser.add_argument("--export", action="store_true", help="write safetensors and model card instead of training")
    options = parser.parse_args()
    work_dir = options.work_dir or ROOT / "work_dirs" / options.model
    operators.install()
    init_default_scope("mmdet")
    import mmdet.models  # noqa: F401

    if options.export:
        export(options.model, work_dir)
        return
    train(options.model, options, work_dir)


if __name__ == "__main__":
    main()
