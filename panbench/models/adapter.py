"""What the author of a family of networks writes: how one is built, fed and read."""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import ModelSpec
from panbench.models.attention import Attention, attended_queries
from panbench.models.candidates import Frame, Output
from panbench.models.checkpoints import Checkpoint
from panbench.models.decoders import Decoder
from panbench.models.feeding import constant
from panbench.models.model import LoadedImage
from panbench.models.preprocess import Resize, normalised, on_device, read_photograph, sizes_of
from panbench.models.rules import Rule
from panbench.panoptic.types import Scene

__all__ = ["Adapter", "Placed"]


class Placed(Protocol):
    """A network on its device, as `host.HostedModel` runs it."""

    spec: ModelSpec
    class_names: tuple[str, ...]
    isthing: tuple[bool, ...]
    rule: Rule
    device: torch.device
    module: Any

    def load(self, scene: Scene) -> LoadedImage:
        """The image of a scene, as the network takes it."""
        ...

    def numerics(self) -> AbstractContextManager[None]:
        """The arithmetic of the model's precision."""
        ...


class Adapter:
    """A family of networks: how one is built, fed and read.

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
    """Of red, green and blue, in 0–255: pixels become (pixel - mean) / std."""
    needs_weights: bool = True
    """False where `build` loads weights by itself, or there are none to load."""
    half_weights: bool = False
    """Whether autocast's copies of convolutions' and linear layers' weights may be kept in place of the originals, so
    that they are not made again for each batch: true where no code reads a weight but these layers themselves."""
    compiled_part: str = "backbone"
    """The path of the module that `+compile` compiles; where the network has none there, all of it is compiled."""
    stated_rules: Mapping[str, Rule] = {}
    """Rules by name whose default thresholds this model's files state otherwise."""
    processor_size: tuple[int, int] | None = None
    """(height, width) to which the model's own image processor stretches images, where its paper does otherwise."""
    versions: Mapping[str, str] = {}
    """Programs and what they run with, beyond the packages that run.json names anyway."""

    @classmethod
    def check(cls, spec: ModelSpec) -> None:
        """Called before any weights are downloaded. Raises BadModel for what this machine lacks to run the family."""

    def __init__(self, spec: ModelSpec) -> None:
        """Reads what the config says; `spec.settings` is the config's own dict for the adapter."""
        self.spec = spec
        self.family = spec.family
        self.backbone = spec.backbone
        self.config_text = f"{spec.adapter} {sorted(spec.settings.items())}"

    def build(self) -> nn.Module:
        """The network in eval mode on the CPU, its parameters as its layers initialize them. Raises BadModel."""
        raise NotImplementedError

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A checkpoint's tensors under the names that the module has."""
        return state_dict

    def loaded(self, module: nn.Module, checkpoint: Checkpoint | None) -> None:
        """Called once the weights are in: an adapter that learns its categories from the checkpoint sets them here."""

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """The same network, faster, with the same answers but for rounding; it is on its device already."""
        return module.requires_grad_(False)

    def prepare(self, rgb: npt.NDArray[np.uint8]) -> tuple[Tensor, Frame]:
        """(3, h, w) uint8 on the host and the frame, from an image (H, W, 3); by default as `resize` says."""
        small = self.resize.apply(rgb)
        size = (small.shape[0], small.shape[1])
        frame = Frame(self.resize.padded(*size), size, (rgb.shape[0], rgb.shape[1]))
        return torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))), frame

    def padded_size(self, height: int, width: int) -> tuple[int, int] | None:
        """The (height, width) of the network's input for an image of this size; None where that is not known before.

        Images of one padded size share a batch: each then has the zeros around it that it has alone. An adapter with a
        `prepare` or `run` of its own says it here, else its batches hold images of one size.
        """
        if type(self).prepare is not Adapter.prepare or type(self).run is not Adapter.run:
            return None
        return self.resize.padded(*self.resize.size_of(height, width))

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> Sequence[Output]:
        """The network's output for each image: Candidates, Instances or a FinishedMap.

        pixels: (B, 3, H, W) float32 on the device, normalised and padded
        """
        raise NotImplementedError

    def as_its_processor(self) -> "Adapter":
        """The same family with images resized as its own image processor does; itself where the paper does the same."""
        return self

    def scaled(self, factor: float) -> "Adapter":
        """The same family with images `factor` times as large. Raises BadArgument when it takes one size only."""
        if self.resize.exact is not None or self.resize.square is not None:
            raise BadArgument(f"{self.spec.title} takes images of one size only: it has no views of other scales.")
        other = copy.copy(self)
        other.resize = dataclasses.replace(self.resize, factor=self.resize.factor * factor)
        return other

    def mirrored(self, image: LoadedImage) -> LoadedImage:
        """The image as it would be loaded had it been mirrored left to right."""
        return dataclasses.replace(image, inputs=image.inputs.flip(-1))

    def read(self, scene: Scene) -> LoadedImage:
        """Decodes and prepares the image of a scene. Raises BadDataset."""
        rgb, facts = read_photograph(scene)
        inputs, frame = self.prepare(rgb)
        return LoadedImage(scene, inputs, frame, facts)

    def read_pixels(self, scene: Scene, rgb: npt.NDArray[np.uint8]) -> LoadedImage:
        """Prepares these (H, W, 3) pixels in place of the image of a scene.

        Raises BadModel for an adapter that has a `read` and no `read_pixels` of its own.
        """
        if type(self).read is not Adapter.read:
            raise BadModel(
                f"{self.spec.title} reads its images from files: it cannot be shown changed ones. Its adapter lacks "
                "read_pixels (docs/own_models.md)."
            )
        inputs, frame = self.prepare(rgb)
        return LoadedImage(scene, inputs, frame)

    def run(self, module: Any, batch: Sequence[LoadedImage], device: torch.device) -> Sequence[Output]:
        """Brings a batch of images of one padded size to the device, normalises it, and calls `candidates`."""
        return self.candidates(module, *self.batched(batch, device))

    def batched(self, batch: Sequence[LoadedImage], device: torch.device) -> tuple[Tensor, list[Frame]]:
        """(B, 3, H, W) normalised and padded pixels of images of one padded size, on the device, and their frames."""
        frames = [cast(Frame, image.sample) for image in batch]
        images = [image.inputs for image in batch]
        mean, std = constant((tuple(self.mean), tuple(self.std)), device)[..., None, None]
        return normalised(on_device(images, frames[0].padded, device), mean, std, sizes_of(images)), frames

    def attend(self, model: Placed, scene: Scene, **wishes: Any) -> Any:
        """What queries looked at in an image, as panoptic.attention's records; wishes: of `attended_queries`."""
        with torch.inference_mode(), model.numerics():
            pixels, frames = self.batched([model.load(scene)], model.device)
            found = self.look(model.module, pixels, frames[0])
            return attended_queries(model, found, **wishes)

    def look(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """What each query attends to in each layer; pixels: (1, 3, H, W). Raises BadModel without queries."""
        raise BadModel(
            f"{self.spec.title} shows no attention: panbench does not know where its queries look. Models of "
            "MaskFormer, Mask2Former, OneFormer, EoMT, DETR, Panoptic SegFormer and Mask DINO show theirs."
        )

    def decoder(self, module: Any) -> Decoder | None:
        """The layers of the network's decoder, after each of which its heads can answer; None where it has none."""
        return None

    def plant_segments(self, module: nn.Module, count: int) -> Callable[[], None] | None:
        """Makes the heads answer with `count` segments, for timing untrained models; returns what undoes it.

        None where the adapter cannot: then the host replaces the candidates of the network by as many of its own.
        """
        return None
