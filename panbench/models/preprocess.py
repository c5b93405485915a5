"""Turns an image file into the network's input tensor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from panbench.models.async_device import current, upload
from panbench.panoptic.photo import PhotoFacts, read_photo
from panbench.panoptic.types import Scene


@dataclass(frozen=True)
class Resize:
    """Describes how an image is resized to the network's size, and padded."""

    short: int | None = None
    """The length of the shorter side, unless the longer one would exceed `long`; None keeps the image's size."""
    long: int | None = None
    """The largest length of the longer side; None for no bound."""
    exact: tuple[int, int] | None = None
    """(height, width) whatever the image's proportions, in place of `short` and `long`."""
    way: Literal["cv2", "pil"] = "cv2"
    """OpenCV's bilinear resizing (mmdet), or Pillow's with antialiasing (detectron2, DETR, Hugging Face)."""
    divisor: int = 1
    """Zeros are added at the right and at the bottom until both sides are multiples of this."""
    square: int | None = None
    """Zeros are added at the right and at the bottom until both sides are this long."""
    black: bool = False
    """Whether the padding is black pixels, normalised like the image, instead of zeros after normalisation."""
    fit: Callable[[tuple[int, int], int, int], tuple[int, int]] | None = None
    """Computes (height, width) from the image's, `short` and `long`, for papers whose code rounds differently."""
    factor: float = 1.0
    """Scales the size that results from the fields above: test-time augmentation."""

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) that an image of this size is resized to."""
        if self.exact is not None:
            return self.exact
        scale = 1.0
        if self.short is not None and self.fit is not None:
            height, width = self.fit((height, width), self.short, self.long or 0)
        elif self.short is not None:
            scale = min(
                self.short / min(height, width), math.inf if self.long is None else self.long / max(height, width)
            )
        if (scale := scale * self.factor) == 1.0:
            return height, width
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) that a resized image has with padding."""
        if self.square is not None:
            return self.square, self.square
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor

    def apply(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Resizes (H, W, 3) pixels, without padding them."""
        height, width = self.size_of(*rgb.shape[:2])
        if (height, width) == rgb.shape[:2]:
            return rgb
        if self.way == "pil":
            return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
        return cast("npt.NDArray[np.uint8]", cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR))


def read_photograph(scene: Scene) -> tuple[npt.NDArray[np.uint8], PhotoFacts]:
    """Reads a dataset's image file as (H, W, 3) RGB, with facts about the file. Raises BadDataset if it is damaged.

    Raises BadDataset also for an image of another size than the dataset declares.
    """
    image = scene.image
    bgr, facts = read_photo(scene.image_path or "", (image.height, image.width), image_id=image.id, exif=scene.exif)
    return np.ascontiguousarray(bgr[..., ::-1]), facts


def image_sizes_of(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Returns the (height, width) of each image tensor."""
    return [(image.shape[-2], image.shape[-1]) for image in images]


def on_device(images: Sequence[Tensor], size: tuple[int, int], device: torch.device) -> Tensor:
    """Copies images to the device as one (B, 3, *size) tensor, each at the top left; the padding is undefined.

    images: (3, h, w) uint8 on the host, at most that large. On CUDA the copy is only queued.
    """
    shape = (len(images), *images[0].shape[:-2], *size)
    with current(device):
        batch = torch.empty(shape, dtype=images[0].dtype, pin_memory=device.type == "cuda")
    for index, image in enumerate(images):
        batch[index, ..., : image.shape[-2], : image.shape[-1]] = image
    return upload(batch, device)


def normalised(
    pixels: Tensor, mean: Tensor, std: Tensor, sizes: Sequence[tuple[int, int]], padding: float = 0.0
) -> Tensor:
    """Returns (pixels - mean) / std in float32, with `padding` outside the (height, width) of each image."""
    found = (pixels.float() - mean) / std
    alike = len(set(sizes)) == 1
    for index, (height, width) in enumerate(sizes[:1] if alike else sizes):
        of_image = found if alike else found[index]
        if height < found.shape[-2]:
            of_image[..., height:, :] = padding
        if width < found.shape[-1]:
            of_image[..., :height, width:] = padding
    return found
