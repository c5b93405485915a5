"""The adapter of mmdet's panoptic models, for the families in families.py.

Images go through the test pipeline of the model's config, without the steps that read ground truth. The forward pass
calls mmdet's modules.
"""

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from mmengine.config import Config
from torch import nn

from panbench.base.errors import BadModel, ModelFailed
from panbench.catalog import ModelSpec, no_queries
from panbench.models.adapter import Adapter
from panbench.models.attention import Attention
from panbench.models.candidates import Output
from panbench.models.checkpoints import Checkpoint
from panbench.models.decoders import Decoder
from panbench.models.external import guarded_package_code
from panbench.models.mmdet import operators
from panbench.models.mmdet.config import (
    build_model,
    config_text,
    custom_packages,
    describe_backbone,
    family_of,
    in_registry_scope_of,
    load_config,
)
from panbench.models.mmdet.families import Family
from panbench.models.mmdet.inputs import (
    applies_exif_orientation,
    decodes_as_opencv,
    innermost_dataset_config,
    padded_size_of,
    pipeline_of,
    preprocessed,
    run_on_pixels,
)
from panbench.models.mmdet.speedups import speed_up
from panbench.models.model import LoadedImage
from panbench.panoptic.photo import inspect_photo, read_photo
from panbench.panoptic.types import Exif, Scene


class MmdetAdapter(Adapter):
    """Runs Panoptic FPN, MaskFormer and Mask2Former of mmdet 3.3.0, and their subclasses."""

    kind: Family
    """The family of the built module."""
    half_weights = True

    def __init__(self, spec: ModelSpec) -> None:
        """Runs the config file, which is Python, and reads its model. Raises BadModel."""
        super().__init__(spec)
        self.config = load_config(spec)
        self.config_text = config_text(self.config)
        self.backbone = spec.backbone or describe_backbone(self.config)
        self.versions = {"operators": operators.install()}

    def build(self) -> nn.Module:
        """Builds the config's model, without downloading weights of its backbone. Raises BadModel."""
        module = build_model(self.config)
        self.packages = custom_packages(self.config)
        self.kind = family_of(module)
        self.family = self.kind.name
        things, stuff = self.kind.counts(module)
        self.isthing = (True,) * things + (False,) * stuff
        self.rule = self.kind.rule(module)
        return module

    def loaded(self, module: nn.Module, checkpoint: Checkpoint | None) -> None:
        """Reads the category names of the config, else of the checkpoint, else of the config's dataset class."""
        self.class_names = _class_names(self.config, checkpoint, len(self.isthing))
        self._pipeline = pipeline_of(self.config)
        self._padded: dict[tuple[int, int], tuple[int, int] | None] = {}

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Makes mmdet's modules faster; removes what only training needs."""
        return speed_up(module, device, self.kind.speed_up)

    def scaled(self, factor: float) -> "MmdetAdapter":
        """Returns an adapter whose test pipeline makes images `factor` times as large. Raises BadModel."""
        other = copy.copy(self)
        other._pipeline = pipeline_of(self.config, factor)
        other._padded = {}
        return other

    def padded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Returns the network's input size (h, w) after the pipeline's resize and the preprocessor's padding."""
        if (height, width) not in self._padded:
            self._padded[height, width] = padded_size_of(self._pipeline, self.config, height, width)
        return self._padded[height, width]

    def read(self, scene: Scene) -> LoadedImage:
        """Runs the config's test pipeline on an image file; returns (3, h, w) uint8 pixels and mmdet's sample."""
        image, pipeline = scene.image, self._pipeline
        # mmdet's own loader decodes damaged JPEGs without an error, and any size before it is checked.
        size = (image.height, image.width)
        turns, as_opencv = applies_exif_orientation(pipeline), decodes_as_opencv(pipeline)
        exif: Exif = scene.exif if turns and as_opencv else "apply" if turns else "ignore"
        bgr = None
        if as_opencv:
            bgr, facts = read_photo(scene.image_path or "", size, image_id=image.id, exif=exif)
        else:
            facts = inspect_photo(scene.image_path or "", size, image_id=image.id, exif=exif)
        if exif != scene.exif and facts.orientation != 1:
            way = "rotates photographs accordingly" if turns else "reads photographs as stored"
            raise BadModel(
                f"{scene.image_path} (image {image.id}) has the EXIF orientation {facts.orientation}, and the test "
                f"pipeline of {self.spec.config} {way}. Say so with --exif {exif}."
            )
        record = _pipeline_input(scene)
        try:
            with guarded_package_code(self.packages, [scene]):
                packed = pipeline(record) if bgr is None else run_on_pixels(pipeline, record, bgr, self.spec.title)
        except ModelFailed:
            raise
        except Exception as error:
            raise BadModel(
                f"{self.spec.config}: the test pipeline fails on {scene.image_path} ({type(error).__name__}: {error})."
            ) from error
        return LoadedImage(scene, packed["inputs"], packed["data_samples"], facts)

    def read_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Runs the test pipeline, without its step that reads a file, on the given pixels. Raises BadModel."""
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        packed = run_on_pixels(self._pipeline, _pipeline_input(scene), bgr, self.spec.title)
        return LoadedImage(scene, packed["inputs"], packed["data_samples"])

    def run(self, module: Any, batch: Sequence[LoadedImage], device: torch.device) -> list[Output]:
        """Normalises and pads a batch on the device as mmdet's preprocessor does, and runs the family's network."""
        return self.kind.outputs(module, preprocessed(module, batch), self.isthing)

    def attend(self, module: Any, image: LoadedImage, device: torch.device) -> Attention:
        """Returns the cross-attention of the decoder's queries. Raises BadModel for Panoptic FPN."""
        found = self.kind.attention(module, preprocessed(module, [image]))
        if found is None:
            raise no_queries(self.spec.title)
        return found

    def decoder(self, module: nn.Module) -> Decoder | None:
        """Returns the decoder of MaskFormer and Mask2Former, which can be cut after any layer; else None."""
        return self.kind.decoder(module)

    def plant_segments(self, module: nn.Module, count: int) -> Callable[[], None]:
        """Replaces the output of mmdet's heads by `count` segments; returns a function that undoes it."""
        return self.kind.plant(module, count)


def _pipeline_input(scene: Scene) -> dict[str, Any]:
    """Makes the dict that mmdet's pipeline takes for an image."""
    image = scene.image
    return {"img_path": str(scene.image_path), "img_id": image.id, "height": image.height, "width": image.width}


def _class_names(config: Config, checkpoint: Checkpoint | None, count: int) -> tuple[str, ...]:
    """Returns the label names of the config, else of the checkpoint, else of mmdet's dataset class. Raises BadModel."""
    dataset = innermost_dataset_config(config)
    declared = [(dataset.get("metainfo") or {}).get("classes"), checkpoint and checkpoint.classes]
    with in_registry_scope_of(config), contextlib.suppress(Exception):
        from mmdet.registry import DATASETS

        kind: Any = dataset["type"]
        dataset_type: Any = kind if isinstance(kind, type) else DATASETS.get(kind)
        declared.append(dataset_type.METAINFO.get("classes"))
    for names in declared:
        if names and len(names) == count:
            return tuple(names)
    raise BadModel(
        f"{config.filename} does not name its model's {count} categories. Add "
        "test_dataloader = dict(dataset=dict(metainfo=dict(classes=(…)))), things first."
    )
