"""mmdet's panoptic models: one adapter for the families of families.py.

Images go through the test pipeline of the model's own config, but for what reads ground truth. The forward pass calls
mmdet's modules.
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

from panbench.base.errors import BadDataset, BadModel, ModelFailed
from panbench.catalog import ModelSpec
from panbench.models.adapter import Adapter, Placed
from panbench.models.candidates import Output
from panbench.models.checkpoints import Checkpoint
from panbench.models.decoders import Decoder
from panbench.models.external import code_of
from panbench.models.mmdet import operators
from panbench.models.mmdet.attention import attend
from panbench.models.mmdet.config import (
    build_model,
    config_text,
    describe_backbone,
    family_of,
    in_scope_of,
    load_config,
)
from panbench.models.mmdet.custom import custom_packages
from panbench.models.mmdet.families import Family
from panbench.models.mmdet.inputs import (
    frame_of,
    innermost_dataset,
    padded_size_of,
    pipelines_of,
    preprocessed,
    reads_as_opencv,
    without_file,
)
from panbench.models.mmdet.speedups import speed_up
from panbench.models.model import LoadedImage
from panbench.models.preprocess import decode, refuse_other_size
from panbench.panoptic.photo import inspect_photo, read_photo
from panbench.panoptic.types import Exif, Scene


class MmdetAdapter(Adapter):
    """Panoptic FPN, MaskFormer and Mask2Former of mmdet 3.3.0, and classes that inherit from them."""

    kind: Family
    """The family of the built module."""
    half_weights = True

    def __init__(self, spec: ModelSpec) -> None:
        """Reads the config file, which is Python and is run. Raises BadModel."""
        super().__init__(spec)
        self.config = load_config(spec)
        self.config_text = config_text(self.config)
        self.backbone = spec.backbone or describe_backbone(self.config)
        self.versions = {"operators": operators.install()}

    def build(self) -> nn.Module:
        """The config's model; nothing is downloaded for its backbone. Raises BadModel."""
        module = build_model(self.config)
        self.packages = custom_packages(self.config)
        self.kind = family_of(module)
        self.family = self.kind.name
        things, stuff = self.kind.counts(module)
        self.isthing = (True,) * things + (False,) * stuff
        self.rule = self.kind.rule(module)
        return module

    def loaded(self, module: nn.Module, checkpoint: Checkpoint | None) -> None:
        """The categories are the config's, or the checkpoint's, or those of the config's type of dataset."""
        self.class_names = _class_names(self.config, checkpoint, len(self.isthing))
        self._pipelines = pipelines_of(self.config)
        self._padded: dict[tuple[int, int], tuple[int, int] | None] = {}

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """mmdet's modules without what only training needs."""
        return speed_up(module, device, self.kind.speed_up)

    def scaled(self, factor: float) -> "MmdetAdapter":
        """The same model with a test pipeline that resizes to `factor` times the size. Raises BadArgument."""
        other = copy.copy(self)
        other._pipelines = pipelines_of(self.config, factor)
        other._padded = {}
        return other

    def padded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """The input size (h, w) after the pipeline's resize and the preprocessor's padding."""
        if (height, width) not in self._padded:
            # They differ in how they read the file alone.
            pipeline = next(iter(self._pipelines.values()))
            self._padded[height, width] = padded_size_of(pipeline, self.config, height, width)
        return self._padded[height, width]

    def read(self, scene: Scene) -> LoadedImage:
        """The image through the config's test pipeline: `inputs` (3, h, w) uint8, and mmdet's sample with the sizes."""
        image = scene.image
        # mmdet's own loader decodes a damaged JPEG without an error, and an absurd size before it is compared.
        size = (image.height, image.width)
        exif: Exif = scene.exif if "apply" in self._pipelines else "ignore"
        own = next(iter(self._pipelines.values()))
        bgr = None
        if reads_as_opencv(own):
            bgr, facts = read_photo(scene.image_path or "", size, image_id=image.id, exif=exif)
        else:
            facts = inspect_photo(scene.image_path or "", size, image_id=image.id, exif=exif)
        if exif != scene.exif and facts.orientation != 1:
            raise BadModel(
                f"{scene.image_path} (image {image.id}) has the EXIF orientation {facts.orientation}, and the test "
                f"pipeline of {self.spec.config} takes photographs as they are stored. Say so with --exif ignore."
            )
        record = {"img_path": str(scene.image_path), "img_id": image.id, "height": image.height, "width": image.width}
        pipeline = self._pipelines.get(exif)
        if pipeline is None:
            raise BadModel(
                f"{self.spec.config}: its test pipeline does not load images by LoadImageFromFile, so panbench cannot "
                "have it ignore EXIF orientations. Leave --exif ignore out."
            )
        try:
            with code_of(self.packages, [scene]):
                packed = pipeline(record) if bgr is None else without_file(pipeline, record, bgr, self.spec.title)
        except ModelFailed:
            raise
        except Exception as error:
            if scene.image_path is None or decode(str(scene.image_path)) is None:
                raise BadDataset(f"{scene.image_path} (image {image.id}) cannot be decoded as an image.") from error
            raise BadModel(
                f"{self.spec.config}: the test pipeline fails on {scene.image_path} ({type(error).__name__}: {error})."
            ) from error
        height, width = packed["data_samples"].metainfo["ori_shape"][:2]
        refuse_other_size(scene, (height, width))
        return LoadedImage(scene, packed["inputs"], packed["data_samples"], facts)

    def read_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """These pixels through the config's test pipeline, in place of what its first step reads. Raises BadModel."""
        image = scene.image
        record = {"img_path": str(scene.image_path), "img_id": image.id, "height": image.height, "width": image.width}
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        packed = without_file(next(iter(self._pipelines.values())), record, bgr, self.spec.title)
        return LoadedImage(scene, packed["inputs"], packed["data_samples"])

    def run(self, module: Any, batch: Sequence[LoadedImage], device: torch.device) -> list[Output]:
        """Normalised, padded and sent to the device by mmdet's own preprocessor, then through the family's heads."""
        inputs, samples = preprocessed(module, batch)
        frames = [frame_of(sample.metainfo) for sample in samples]
        return self.kind.outputs(module, inputs, samples, frames, self.isthing)

    def attend(self, model: Placed, scene: Scene, **wishes: Any) -> Any:
        """What queries looked at, read off the decoder's cross-attention. Raises BadModel for Panoptic FPN."""
        return attend(model, scene, **wishes)

    def decoder(self, module: nn.Module) -> Decoder | None:
        """The transformer decoder of MaskFormer and Mask2Former; None for Panoptic FPN."""
        return self.kind.decoder(module)

    def plant_segments(self, module: nn.Module, count: int) -> Callable[[], None]:
        """Replaces the final output of mmdet's heads, on the device or the host."""
        return self.kind.plant(module, count)


def _class_names(config: Config, checkpoint: Checkpoint | None, count: int) -> tuple[str, ...]:
    """The names of the model's labels: from the config, else the checkpoint, else the config's type of dataset."""
    dataset = innermost_dataset(config)
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
