"""mmdet's panoptic models: built, loaded, and run up to the outputs that fusion takes.

Images go through the test pipeline of the model's own config, but for what reads ground truth. The forward pass calls
mmdet's modules; the merging of their outputs is models/fusion.py's.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from panbench.base.errors import BadArgument, BadDataset, BadModel
from panbench.catalog import ModelSpec
from panbench.models import fusion
from panbench.models.checkpoints import Checkpoint, apply_checkpoint, load_checkpoint
from panbench.models.fusion import Frame, FusedMap, InstanceRule, Instances, Queries, QueryRule, SettledMap
from panbench.models.mmdet.config import (
    build_model,
    count_parameters,
    describe_backbone,
    family_of,
    in_scope_of,
    load_config,
)
from panbench.models.mmdet.speedups import speed_up
from panbench.panoptic.types import Category, PanopticPrediction, Scene, Segment

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_READS_GROUND_TRUTH = ("LoadPanopticAnnotations", "LoadAnnotations")

Output = Queries | Instances


@dataclass(frozen=True)
class LoadedImage:
    """An image as the model's pipeline leaves it: `inputs` (3, h, w) uint8 and mmdet's sample with the sizes."""

    scene: Scene
    inputs: Tensor
    sample: Any


class PanopticModel:
    """A model of one of the three families, ready to run on one device."""

    def __init__(
        self,
        spec: ModelSpec,
        module: nn.Module,
        config: Config,
        *,
        device: torch.device,
        precision: str = "fp32",
        checkpoint: Checkpoint | None = None,
        speedups: bool = True,
    ) -> None:
        """Use `load_model`."""
        self.spec = spec
        self.family = family_of(module)
        self.backbone = spec.backbone or describe_backbone(config)
        self.parameters = count_parameters(module)
        self.device = device
        self.precision = precision
        self.checkpoint = checkpoint
        self.compiled = False
        self.seed = 0
        placed = module.to(device).eval()
        self.module = speed_up(placed, self.family, device) if speedups else placed
        if device.type == "cuda":
            cast(Any, module).data_preprocessor._non_blocking = True
        self.rule = _rule_of(module, self.family)
        self.class_names = _class_names(config, checkpoint, self.num_classes)
        self.config_text: str = config.pretty_text
        self._load = _pipeline(config)

    @property
    def num_things(self) -> int:
        return self.rule.num_things

    @property
    def num_classes(self) -> int:
        rule = self.rule
        return rule.num_classes if isinstance(rule, QueryRule) else rule.num_things + rule.num_stuff

    def category_ids(self, categories: Sequence[Category]) -> tuple[int, ...]:
        """The dataset's category id of each label. Raises BadModel, showing the difference, when names do not match."""
        return match_categories(self.spec.title, self.class_names, self.num_things, categories)

    def load(self, scene: Scene) -> LoadedImage:
        """Reads and resizes one image; safe to call from several threads. Raises BadDataset naming the file."""
        image = scene.image
        record = {"img_path": str(scene.image_path), "img_id": image.id, "height": image.height, "width": image.width}
        try:
            packed = self._load(record)
        except Exception as error:
            if scene.image_path is None or not _decodes(str(scene.image_path)):
                raise BadDataset(f"{scene.image_path} (image {image.id}) cannot be decoded as an image.") from error
            raise BadModel(
                f"{self.spec.config}: the test pipeline fails on {scene.image_path} ({type(error).__name__}: {error})."
            ) from error
        found = tuple(packed["data_samples"].metainfo["ori_shape"][:2])
        if found != (image.height, image.width):
            raise BadDataset(
                f"{scene.image_path} (image {image.id}) is {found[0]}×{found[1]} but the JSON says "
                f"{image.height}×{image.width} (height × width)."
            )
        inputs = packed["inputs"]
        if self.device.type == "cuda":
            # From pinned memory the copy to the device does not hold up the thread that runs the model.
            inputs = inputs.pin_memory()
        return LoadedImage(scene, inputs, packed["data_samples"])

    @torch.inference_mode()
    def forward(self, batch: Sequence[LoadedImage]) -> list[Output]:
        """What the model says of each image of a batch, on the device. Raises NonFiniteOutput."""
        with self._numerics():
            data = {"inputs": [image.inputs for image in batch], "data_samples": [image.sample for image in batch]}
            prepared = cast(Any, self.module).data_preprocessor(data, False)
            inputs, samples = prepared["inputs"], prepared["data_samples"]
            frames = [_frame_of(sample.metainfo) for sample in samples]
            try:
                if isinstance(self.rule, QueryRule):
                    return list(self._queries(inputs, samples, frames, self.rule))
                return list(self._instances(inputs, samples, frames))
            except TorchDynamoException as error:
                reason = str(error).strip().splitlines()[0]
                raise BadArgument(
                    f"--compile: torch.compile cannot compile the backbone here ({reason}). On a CPU it needs a C++ "
                    "compiler, on CUDA Triton; leave --compile out."
                ) from error

    @torch.inference_mode()
    def fuse(self, outputs: Sequence[Output]) -> list[FusedMap]:
        """The fused map of each output, on its way to the host (on CUDA: synchronise before `settle`)."""
        fused = []
        for output in outputs:
            if isinstance(output, Queries):
                fused.append(fusion.fuse_queries(output, cast(QueryRule, self.rule)).to_host())
            else:
                fused.append(fusion.fuse_instances(output, cast(InstanceRule, self.rule)).to_host())
        return fused

    def settle(self, fused: FusedMap) -> SettledMap:
        """The id map and labelled segments of one image, on the host. Raises NonFiniteOutput."""
        if isinstance(self.rule, QueryRule):
            return fusion.settle_queries(fused, self.rule)
        return fusion.settle_instances(fused, self.rule)

    def predict(self, scene: Scene, category_ids: Sequence[int]) -> PanopticPrediction:
        """The panoptic map of a single image: `load`, `forward`, `fuse` and `settle` in one."""
        (fused,) = self.fuse(self.forward([self.load(scene)]))
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return prediction_of(scene.image.id, self.settle(fused), category_ids)

    def _queries(
        self, inputs: Tensor, samples: Sequence[Any], frames: Sequence[Frame], rule: QueryRule
    ) -> Iterator[Queries]:
        module = cast(Any, self.module)
        class_logits, mask_logits = module.panoptic_head(module.extract_feat(inputs), samples)
        yield from fusion.select_queries(class_logits[-1], mask_logits[-1], frames, rule)

    def _instances(self, inputs: Tensor, samples: Sequence[Any], frames: Sequence[Frame]) -> Iterator[Instances]:
        module = cast(Any, self.module)
        head = module.roi_head
        features = module.extract_feat(inputs)
        proposals = module.rpn_head.predict(features, samples, rescale=False)
        metas = [sample.metainfo for sample in samples]
        found = head.predict_bbox(features, metas, proposals, rcnn_test_cfg=head.test_cfg, rescale=False)
        semantic = module.semantic_head(features)["seg_preds"]
        counts = [len(instances) for instances in found]
        boxes = torch.cat([instances.bboxes for instances in found])
        scores, labels = (torch.cat([instances[key] for instances in found]) for key in ("scores", "labels"))
        if len(boxes):
            owner = torch.repeat_interleave(torch.arange(len(found)), torch.tensor(counts)).to(boxes)
            masks = head._mask_forward(features, torch.cat([owner[:, None], boxes], dim=1))["mask_preds"].sigmoid()
            row = torch.arange(len(masks), device=masks.device)
            masks = masks[:, 0] if head.mask_head.class_agnostic else masks[row, labels]
        else:
            masks = semantic.new_zeros((0, 1, 1))
        host = torch.stack([scores.double(), labels.double()]).cpu()
        start = 0
        for frame, meta, logits, count in zip(frames, metas, semantic, counts, strict=True):
            rows = slice(start, start + count)
            start += count
            order = torch.argsort(-host[0, rows].float())
            there = order.to(boxes.device)
            scale = boxes.new_tensor(meta.get("scale_factor", (1.0, 1.0))).repeat((1, 2))
            yield Instances(
                boxes=(boxes[rows] / scale)[there],
                scores=tuple(host[0, rows][order].tolist()),
                labels=tuple(int(label) for label in host[1, rows][order]),
                mask_probabilities=masks[rows][there],
                semantic_logits=logits,
                frame=frame,
            )

    @contextlib.contextmanager
    def _numerics(self) -> Iterator[None]:
        """The arithmetic that `precision` names. TF32 is off unless asked for, also where torch's default has it on."""
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        if self.precision not in _AUTOCAST:
            yield
            return
        with torch.autocast(self.device.type, dtype=_AUTOCAST[self.precision]):
            yield


def load_model(
    spec: ModelSpec,
    weights: str | None,
    *,
    device: torch.device,
    precision: str = "fp32",
    seed: int = 0,
    speedups: bool = True,
    compiled: bool = False,
) -> PanopticModel:
    """The model of a spec with the weights of a file, or with random ones (None) drawn from `seed`.

    speedups: False keeps mmdet's modules as they are, with the attention weights and masks of every decoder layer
    compiled: the backbone is compiled by torch.compile when it first runs, which takes a minute and needs a compiler
    Raises BadModel, BadCheckpoint, BadArgument.
    """
    if precision not in PRECISIONS:
        raise BadArgument(f"--precision {precision} is unknown; it is one of {', '.join(PRECISIONS)}.")
    if precision == "tf32" and device.type != "cuda":
        raise BadArgument(f"--precision tf32 needs a CUDA device; this run is on {device}.")
    config = load_config(spec)
    torch.manual_seed(seed)
    module = build_model(config)
    checkpoint = None
    if weights is not None:
        checkpoint = load_checkpoint(weights)
        apply_checkpoint(module, checkpoint)
    model = PanopticModel(
        spec, module, config, device=device, precision=precision, checkpoint=checkpoint, speedups=speedups
    )
    model.seed = seed
    if compiled:
        built = cast(Any, model.module)
        built.backbone = torch.compile(built.backbone, dynamic=True)
        model.compiled = True
    return model


def choose_device(name: str) -> torch.device:
    """The device that `--device` names: auto (CUDA if there is one, else CPU), cpu, cuda, cuda:1, mps. BadArgument."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not index.isdigit()):
        raise BadArgument(f"--device {name} is unknown; it is auto, cpu, cuda, cuda:N or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        reason = "this PyTorch has no CUDA" if torch.version.cuda is None else "no CUDA device is found"
        raise BadArgument(f"--device {name}: {reason}. Use --device cpu, or install a CUDA build of PyTorch.")
    if kind == "cuda" and index and int(index) >= torch.cuda.device_count():
        raise BadArgument(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise BadArgument("--device mps: this machine or this PyTorch has no Metal. Use --device cpu.")
    return torch.device(name)


def match_categories(
    title: str, class_names: Sequence[str], num_things: int, categories: Sequence[Category]
) -> tuple[int, ...]:
    """The category id of each of the model's labels, by name; things and stuff must agree. Raises BadModel."""
    by_name = {category.name: category for category in categories}
    lacking = [name for name in class_names if name not in by_name]
    unknown = [name for name in by_name if name not in class_names]
    if lacking or unknown or len(class_names) != len(categories):
        raise BadModel(
            f"{title} and the dataset have different categories: "
            f"the model has {len(class_names)}, of them not in the dataset {_some(lacking)}; "
            f"the dataset has {len(categories)}, of them not in the model {_some(unknown)}. "
            "`panbench eval --category-map FILE` evaluates through a list of which is which (docs/data.md)."
        )
    swapped = [name for label, name in enumerate(class_names) if by_name[name].isthing != (label < num_things)]
    if swapped:
        raise BadModel(f"{title} and the dataset disagree on which categories are things: {_some(swapped)}.")
    return tuple(by_name[name].id for name in class_names)


def prediction_of(image_id: int, settled: SettledMap, category_ids: Sequence[int]) -> PanopticPrediction:
    """A settled map in the dataset's terms."""
    ids, segments = settled
    return PanopticPrediction(
        image_id,
        ids,
        tuple(
            Segment(segment.id, category_ids[segment.label], segment.area, score=segment.score) for segment in segments
        ),
    )


def _some(names: Sequence[str], most: int = 6) -> str:
    if not names:
        return "none"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _frame_of(meta: Mapping[str, Any]) -> Frame:
    padded, resized, original = (tuple(meta[key][:2]) for key in ("batch_input_shape", "img_shape", "ori_shape"))
    return Frame(cast(Any, padded), cast(Any, resized), cast(Any, original))


def _rule_of(module: nn.Module, family: str) -> QueryRule | InstanceRule:
    head = cast(Any, module).panoptic_fusion_head
    test = head.test_cfg
    if family == "panoptic-fpn":
        return InstanceRule(
            num_things=head.num_things_classes,
            num_stuff=head.num_stuff_classes,
            overlap_threshold=test.mask_overlap,
            stuff_area_limit=test.stuff_area_limit,
            mask_threshold=cast(Any, module).roi_head.test_cfg.mask_thr_binary,
        )
    return QueryRule(
        num_things=head.num_things_classes,
        num_classes=head.num_things_classes + head.num_stuff_classes,
        score_threshold=test.get("object_mask_thr", 0.8),
        overlap_threshold=test.get("iou_thr", 0.8),
        drop_uncertain_pixels=test.get("filter_low_score", False),
    )


def _test_dataset(config: Config) -> dict[str, Any]:
    """The innermost dataset of the config's test loader (or val loader), {} when there is none."""
    for key in ("test_dataloader", "val_dataloader"):
        dataset = (config.get(key) or {}).get("dataset")
        while dataset is not None and "dataset" in dataset:
            dataset = dataset["dataset"]
        if dataset:
            return cast("dict[str, Any]", dataset)
    return {}


def _pipeline(config: Config) -> Any:
    """The config's test pipeline as a callable, without the steps that read ground truth."""
    operators = _test_dataset(config).get("pipeline") or config.get("test_pipeline")
    if not operators:
        raise BadModel(
            f"{config.filename} has no test pipeline (`test_dataloader.dataset.pipeline` or `test_pipeline`)."
        )
    wanted = [step for step in operators if _type_name(step["type"]) not in _READS_GROUND_TRUTH]
    with in_scope_of(config):
        import mmdet.datasets.transforms  # noqa: F401  (registers mmdet's transforms)
        from mmcv.transforms import Compose

        try:
            return Compose(wanted)
        except Exception as error:
            raise BadModel(f"{config.filename}: its test pipeline cannot be built ({error}).") from error


def _class_names(config: Config, checkpoint: Checkpoint | None, count: int) -> tuple[str, ...]:
    """The names of the model's labels: from the config, else the checkpoint, else the config's type of dataset."""
    dataset = _test_dataset(config)
    stated = [(dataset.get("metainfo") or {}).get("classes"), checkpoint and checkpoint.classes]
    with in_scope_of(config), contextlib.suppress(Exception):
        from mmdet.registry import DATASETS

        kind: Any = dataset["type"]
        dataset_type: Any = kind if isinstance(kind, type) else DATASETS.get(kind)
        stated.append(dataset_type.METAINFO.get("classes"))
    for names in stated:
        if names and len(names) == count:
            return tuple(names)
    raise BadModel(
        f"{config.filename} does not name its model's {count} categories. Add "
        "test_dataloader = dict(dataset=dict(metainfo=dict(classes=(…)))), things first."
    )


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]


def _decodes(path: str) -> bool:
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) is not None
    except (OSError, cv2.error):
        return False
