"""The adapter interface: how a family of networks is built, fed and read."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import ModelSpec
from panbench.models.async_device import constant
from panbench.models.attention import Attention
from panbench.models.candidates import Frame, Output
from panbench.models.checkpoints import Checkpoint
from panbench.models.decoders import Decoder
from panbench.models.model import LoadedImage
from panbench.models.preprocess import Resize, image_sizes_of, normalised, on_device, read_photograph
from panbench.models.rules import Rule
from panbench.panoptic.types import Scene


class Adapter:
    """Describes a family of networks to panbench: how to build one, load its weights, prepare images and run it.

    The author writes `build` and `candidates`, declares class names, things, rule, `resize`, `mean` and `std`, and
    `rename` where upstream's parameters have other names. Everything else has a default. docs/own_models.md shows one.
    """

    packages: frozenset[str] = frozenset()
    """Packages of a user's classes in the module; what they raise is their own."""
    class_names: tuple[str, ...] = ()
    isthing: tuple[bool, ...] = ()
    rule: Rule
    resize: Resize = Resize()
    mean: Sequence[float] = (0.0, 0.0, 0.0)
    std: Sequence[float] = (1.0, 1.0, 1.0)
    """Values of red, green and blue in 0–255: pixels become (pixel - mean) / std."""
    needs_weights: bool = True
    """False where `build` loads weights by itself, or there are none to load."""
    half_weights: bool = False
    """Whether the weights of convolutions and linear layers may be cast once for autocast, instead of in every batch:
    true
    if no code but these layers reads their weights."""
    compiled_part: str = "backbone"
    """The path of the module that `+compile` compiles; the whole network if it has no such module."""
    declared_rules: Mapping[str, Rule] = {}
    """Rules by name, with the default thresholds that this model's files declare."""
    processor_size: tuple[int, int] | None = None
    """(height, width) to which the model's own image processor stretches images; None if it resizes as the paper
    does."""
    versions: Mapping[str, str] = {}
    """Names and versions for run.json, in addition to the packages that it always names."""

    @classmethod
    def check(cls, spec: ModelSpec) -> None:
        """Raises BadModel if this machine lacks something that the family needs.

        Called before weights are downloaded.
        """

    def __init__(self, spec: ModelSpec) -> None:
        """Reads the config's settings for the adapter, `spec.settings`."""
        self.spec = spec
        self.family = spec.family
        self.backbone = spec.backbone
        self.config_text = f"{spec.adapter} {sorted(spec.settings.items())}"

    def build(self) -> nn.Module:
        """Builds the network in eval mode on the CPU, its parameters as its layers initialize them. Raises BadModel."""
        raise NotImplementedError

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames a checkpoint's tensors to the module's names."""
        return state_dict

    def loaded(self, module: nn.Module, checkpoint: Checkpoint | None) -> None:
        """Called once after the weights are loaded, for what only a checkpoint says, such as the categories."""

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Makes the network, which is on its device, faster without changing its outputs beyond rounding."""
        return module.requires_grad_(False)

    def prepare(self, rgb: npt.NDArray[np.uint8]) -> tuple[Tensor, Frame]:
        """Resizes an (H, W, 3) image; returns (3, h, w) uint8 on the host, and padded, resized and original size."""
        small = self.resize.apply(rgb)
        size = (small.shape[0], small.shape[1])
        frame = Frame(self.resize.padded(*size), size, (rgb.shape[0], rgb.shape[1]))
        pixels = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)))
        if self.resize.black:
            pixels = nn.functional.pad(pixels, (0, frame.padded[1] - size[1], 0, frame.padded[0] - size[0]))
        return pixels, frame

    def padded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """Returns the network's padded (height, width) for an image of this size; None if unknown beforehand.

        Images of one padded size share a batch, so batching does not change an image's padding. An adapter that
        overrides `prepare` or `run` should override this too; otherwise its batches hold images of one size.
        """
        if type(self).prepare is not Adapter.prepare or type(self).run is not Adapter.run:
            return None
        return self.resize.padded(*self.resize.size_of(height, width))

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> Sequence[Output]:
        """Runs the network; returns each image's masks (Candidates), boxes (Instances) or id map (FinishedMap).

        pixels: (B, 3, H, W) float32 on the device, normalised and padded
        """
        raise NotImplementedError

    def as_its_processor(self) -> "Adapter":
        """Returns an adapter that resizes images as the model's own image processor (Hugging Face) does.

        Returns itself if that is how the paper resizes.
        """
        return self if self.processor_size is None else self._with_resize(exact=self.processor_size)

    def scaled(self, factor: float) -> "Adapter":
        """Returns an adapter that makes images `factor` times as large. Raises BadArgument if only one size fits."""
        if self.resize.exact is not None or self.resize.square is not None:
            raise BadArgument(f"{self.spec.title} takes images of one size only: it has no views of other scales.")
        return self._with_resize(factor=self.resize.factor * factor)

    def _with_resize(self, **changes: Any) -> "Adapter":
        """Returns a copy of the adapter with some fields of its `resize` changed."""
        other = copy.copy(self)
        other.resize = dataclasses.replace(self.resize, **changes)
        return other

    def mirrored(self, image: LoadedImage) -> LoadedImage:
        """Returns an image that `read` has prepared, flipped left to right."""
        return dataclasses.replace(image, inputs=image.inputs.flip(-1))

    def read(self, scene: Scene) -> LoadedImage:
        """Reads the image file of a dataset's image and prepares it for the network. Raises BadDataset."""
        rgb, facts = read_photograph(scene)
        inputs, frame = self.prepare(rgb)
        return LoadedImage(scene, inputs, frame, facts)

    def read_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Prepares (H, W, 3) pixels as input for the network, instead of those in an image file.

        Raises BadModel for an adapter that has a `read` and no `read_pixels` of its own.
        """
        if type(self).read is not Adapter.read:
            raise BadModel(
                f"{self.spec.title} reads images from files only, so it cannot run on changed images. Its adapter "
                "lacks read_pixels (docs/own_models.md)."
            )
        inputs, frame = self.prepare(rgb)
        return LoadedImage(scene, inputs, frame)

    def run(self, module: Any, batch: Sequence[LoadedImage], device: torch.device) -> Sequence[Output]:
        """Normalises images of one padded size on the device, and runs the network; returns an output for each."""
        return self.candidates(module, *self.normalised_batch(batch, device))

    def normalised_batch(self, batch: Sequence[LoadedImage], device: torch.device) -> tuple[Tensor, list[Frame]]:
        """Copies images of one padded size to the device; returns normalised (B, 3, H, W) pixels and image sizes."""
        frames = [cast(Frame, image.sample) for image in batch]
        images = [image.inputs for image in batch]
        mean, std = constant((tuple(self.mean), tuple(self.std)), device)[..., None, None]
        return normalised(on_device(images, frames[0].padded, device), mean, std, image_sizes_of(images)), frames

    def attend(self, module: Any, image: LoadedImage, device: torch.device) -> Attention:
        """Returns the queries' cross-attention in an image, by decoder layer. Raises BadModel without queries."""
        pixels, (frame,) = self.normalised_batch([image], device)
        return self.attention_of(module, pixels, frame)

    def attention_of(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """Returns the queries' cross-attention in one image, given its normalised (1, 3, H, W) pixels.

        Called by `attend`.
        """
        raise BadModel(
            f"{self.spec.title} shows no attention: panbench does not know its queries. Models of "
            "MaskFormer, Mask2Former, OneFormer, EoMT, DETR, Panoptic SegFormer and Mask DINO show theirs."
        )

    def decoder(self, module: Any) -> Decoder | None:
        """Returns the network's transformer decoder, which can be cut after any layer; None if the network has none."""
        return None

    def plant_segments(self, module: nn.Module, count: int) -> Callable[[], None] | None:
        """Makes the heads output `count` segments, for timing untrained models; returns a function that undoes it.

        Returns None if the adapter cannot; HostedModel then replaces the network's output.
        """
        return None
