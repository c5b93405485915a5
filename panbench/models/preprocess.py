"""From an image file to the tensor that a network takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from panbench.base.errors import BadDataset
from panbench.models.feeding import current, upload
from panbench.panoptic.photo import PhotoFacts, read_photo
from panbench.panoptic.types import Scene

__all__ = ["Resize", "decode", "normalised", "on_device", "read_photograph", "refuse_other_size", "sizes_of"]


@dataclass(frozen=True)
class Resize:
    """How an image is brought to the network's size, and what is put around it."""

    short: int | None = None
    """The shorter side becomes this, as long as the longer does not exceed `long`; None leaves the size as it is."""
    long: int | None = None
    """What the longer side may be at most; None for no bound."""
    exact: tuple[int, int] | None = None
    """(height, width) whatever the image's proportions, in place of `short` and `long`."""
    way: Literal["cv2", "pil"] = "cv2"
    """Bilinear as OpenCV does it (mmdet), or with antialiasing as Pillow does (detectron2, DETR, Hugging Face)."""
    divisor: int = 1
    """Zeros are added at the right and at the bottom until both sides are multiples of this."""
    square: int | None = None
    """Zeros are added at the right and at the bottom until both sides are this long."""
    factor: float = 1.0
    """`short` and `long`, or the size as it is, times this: the scales of test-time augmentation."""

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) that an image of this size is resized to."""
        if self.exact is not None:
            return self.exact
        scale = 1.0 if self.short is None else self.short / min(height, width)
        if self.short is not None and self.long is not None:
            scale = min(scale, self.long / max(height, width))
        if (scale := scale * self.factor) == 1.0:
            return height, width
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def padded(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) with the zeros."""
        if self.square is not None:
            return self.square, self.square
        return -(-height // self.divisor) * self.divisor, -(-width // self.divisor) * self.divisor

    def apply(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The resized image, without the zeros."""
        height, width = self.size_of(*rgb.shape[:2])
        if (height, width) == rgb.shape[:2]:
            return rgb
        if self.way == "pil":
            return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))
        return cast("npt.NDArray[np.uint8]", cv2.resize(rgb, (width, height), interpolation=cv2.INTER_LINEAR))


def read_photograph(scene: Scene) -> tuple[npt.NDArray[np.uint8], PhotoFacts]:
    """(H, W, 3) red, green, blue of a scene's image, and its facts. BadDataset: damaged, or not of the stated size."""
    image = scene.image
    bgr, facts = read_photo(scene.image_path or "", (image.height, image.width), image_id=image.id, exif=scene.exif)
    return np.ascontiguousarray(bgr[..., ::-1]), facts


def decode(path: str) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) blue, green, red of an image file, None when it cannot be read as one."""
    try:
        return cast("npt.NDArray[np.uint8] | None", cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR))
    except (OSError, cv2.error):
        return None


def refuse_other_size(scene: Scene, found: tuple[int, int]) -> None:
    """Raises BadDataset when an image's (height, width) differs from its dataset's."""
    image = scene.image
    if found != (image.height, image.width):
        raise BadDataset(
            f"{scene.image_path} (image {image.id}) is {found[0]}×{found[1]} but the JSON says "
            f"{image.height}×{image.width} (height × width)."
        )


def sizes_of(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """The (height, width) of each image."""
    return [(image.shape[-2], image.shape[-1]) for image in images]


def on_device(images: Sequence[Tensor], size: tuple[int, int], device: torch.device) -> Tensor:
    """(B, 3, height, width) of a size on the device: each image at the top left, the rest undefined.

    images: (3, h, w) uint8 on the host, at most that large. One copy, which on CUDA is only queued.
    """
    shape = (len(images), *images[0].shape[:-2], *size)
    with current(device):
        batch = torch.empty(shape, dtype=images[0].dtype, pin_memory=device.type == "cuda")
    for place, image in enumerate(images):
        batch[place, ..., : image.shape[-2], : image.shape[-1]] = image
    return upload(batch, device)


def normalised(
    pixels: Tensor, mean: Tensor, std: Tensor, sizes: Sequence[tuple[int, int]], padding: float = 0.0
) -> Tensor:
    """(pixels - mean) / std in float32, and `padding` beyond the (height, width) of each image."""
    found = (pixels.float() - mean) / std
    alike = len(set(sizes)) == 1
    for place, (height, width) in enumerate(sizes[:1] if alike else sizes):
        of_image = found if alike else found[place]
        if height < found.shape[-2]:
            of_image[..., height:, :] = padding
        if width < found.shape[-1]:
            of_image[..., :height, width:] = padding
    return found
