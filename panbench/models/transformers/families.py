"""What differs between the families that come from transformers: class, size of the input, and how logits are read.

Each is run as its paper's code runs it, not as transformers' image processors do: images are resized with antialiasing
and padded at the right and below, and the padding is cropped from the masks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from panbench.base.errors import BadModel
from panbench.base.text import listed

__all__ = ["FAMILIES", "IMAGENET_MEAN", "IMAGENET_STD", "Family", "Size", "family_of"]

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

Size = tuple[int, int]


@dataclass(frozen=True)
class Family:
    """A family of networks in transformers."""

    name: str
    """As transformers' config.json says it in `model_type`, and panbench's catalog."""
    title: str
    network: str
    """The class with the masks, among `architectures` of config.json."""
    rule: str
    """The fusion rule of its paper."""
    size: Callable[[Size, int, int], Size]
    """(height, width) that an image is resized to, of its own, the shorter side wished for, and the longest allowed."""
    divisor: int = 32
    square: bool = False
    """Whether the network takes a square of one size only: images are fitted into it, the rest is black."""
    backbone: str = "model.pixel_level_module.encoder"
    """The path of its backbone; "" where the network is one."""
    class_logits: str = "class_queries_logits"
    mask_logits: str = "masks_queries_logits"


def shortest_edge(image: Size, short: int, long: int) -> Size:
    """detectron2's size: rounded to the nearest pixel."""
    scale = min(short / min(image), long / max(image))
    return int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)


def detr_size(image: Size, short: int, long: int) -> Size:
    """DETR's size: the shorter side rounded to fit the longer, the other cut off to whole pixels."""
    if max(image) / min(image) * short > long:
        short = round(long * min(image) / max(image))
    if short == min(image):
        return image
    height, width = image
    if width < height:
        return int(short * height / width), short
    return short, int(short * width / height)


def fitted(image: Size, short: int, long: int) -> Size:
    """EoMT's size: as large as fits into the square."""
    scale = min(short / image[0], short / image[1])
    return round(image[0] * scale), round(image[1] * scale)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("mask2former", "Mask2Former", "Mask2FormerForUniversalSegmentation", "mask2former", shortest_edge),
        Family("maskformer", "MaskFormer", "MaskFormerForInstanceSegmentation", "maskformer", shortest_edge),
        Family("oneformer", "OneFormer", "OneFormerForUniversalSegmentation", "oneformer", shortest_edge),
        Family("eomt", "EoMT", "EomtForUniversalSegmentation", "eomt", fitted, 1, True, ""),
        Family("eomt_dinov3", "EoMT (DINOv3)", "EomtDinov3ForUniversalSegmentation", "eomt", fitted, 1, True, ""),
        Family(
            "detr",
            "DETR",
            "DetrForSegmentation",
            "detr",
            detr_size,
            1,
            backbone="detr.model.backbone",
            class_logits="logits",
            mask_logits="pred_masks",
        ),
    )
}


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family of a config.json. Raises BadModel for others, and for networks that give no panoptic masks."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise BadModel(
            f"{where} is a {kind}, which has no masks of things and stuff that panbench "
            f"could fuse. From transformers it runs {listed(family.title for family in FAMILIES.values())}."
        )
    family = FAMILIES[kind]
    stated = config.get("architectures") or [family.network]
    if family.network not in stated:
        raise BadModel(
            f"{where} holds a {listed(stated)}, which gives no panoptic masks; {family.title} does so as "
            f"{family.network}."
        )
    return family
