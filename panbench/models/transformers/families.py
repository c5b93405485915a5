"""The differences between transformers' families: class, input size, names of logits; and their config.json.

Images are prepared as in the papers' code, not as by transformers' image processors: resized with antialiasing and
padded at right and bottom; the padding is cropped from the masks.
"""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panbench.base.errors import BadModel
from panbench.base.text import listed

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

Size = tuple[int, int]


@dataclass(frozen=True)
class Family:
    """Describes a family of networks in transformers: its class, input size and names of logits."""

    name: str
    """The `model_type` in config.json, and the name in panbench's catalog."""
    title: str
    network: str
    """The class with the masks, among `architectures` of config.json."""
    rule: str
    """The fusion rule of its paper."""
    size: Callable[[Size, int, int], Size]
    """Computes the (height, width) that an image is resized to; see `Resize.fit`."""
    divisor: int = 32
    square: bool = False
    """True if the network takes squares of one size: images are fitted into it, and the rest is black."""
    backbone: str = "model.pixel_level_module.encoder"
    """The module path of its backbone; "" if the network has no separate one."""
    class_logits: str = "class_queries_logits"
    mask_logits: str = "masks_queries_logits"


def shortest_edge(image: Size, short: int, long: int) -> Size:
    """Returns the (height, width) to which detectron2 resizes an image, rounded to the nearest pixel."""
    scale = min(short / min(image), long / max(image))
    return int(image[0] * scale + 0.5), int(image[1] * scale + 0.5)


def detr_size(image: Size, short: int, long: int) -> Size:
    """Returns the (height, width) to which DETR resizes an image.

    The shorter side is rounded if the longer would be too long; the longer is truncated.
    """
    if max(image) / min(image) * short > long:
        short = round(long * min(image) / max(image))
    if short == min(image):
        return image
    height, width = image
    if width < height:
        return int(short * height / width), short
    return short, int(short * width / height)


def fit_into_square(image: Size, short: int, long: int) -> Size:
    """Resizes (height, width) as EoMT does: to the largest size that fits into a square of side `short`."""
    scale = min(short / image[0], short / image[1])
    return round(image[0] * scale), round(image[1] * scale)


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family("mask2former", "Mask2Former", "Mask2FormerForUniversalSegmentation", "mask2former", shortest_edge),
        Family("maskformer", "MaskFormer", "MaskFormerForInstanceSegmentation", "maskformer", shortest_edge),
        Family("oneformer", "OneFormer", "OneFormerForUniversalSegmentation", "oneformer", shortest_edge),
        Family("eomt", "EoMT", "EomtForUniversalSegmentation", "eomt", fit_into_square, 1, True, ""),
        Family(
            "eomt_dinov3", "EoMT (DINOv3)", "EomtDinov3ForUniversalSegmentation", "eomt", fit_into_square, 1, True, ""
        ),
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
    """Returns the family that a config.json names. Raises BadModel for others, and without panoptic masks."""
    kind = str(config.get("model_type"))
    if kind not in FAMILIES:
        raise BadModel(
            f"{where} is a {kind}, which has no masks of things and stuff that panbench "
            f"could fuse. From transformers it runs {listed(family.title for family in FAMILIES.values())}."
        )
    family = FAMILIES[kind]
    declared = config.get("architectures") or [family.network]
    if family.network not in declared:
        raise BadModel(
            f"{where} holds a {listed(declared)}, which gives no panoptic masks; {family.title} does so as "
            f"{family.network}."
        )
    return family


# Keys that earlier versions wrote and the classes still accept.
_EARLIER = frozenset(
    ("num_labels", "out_features", "out_indices", "partial_rotary_factor", "rope_scaling", "rope_theta")
)
# Keys of every class about running the network, which panbench decides.
_OF_THE_RUN = frozenset(
    ("architectures", "dtype", "output_hidden_states", "problem_type", "return_dict", "self", "transformers_version")
)


def network_settings(declared: Mapping[str, Any], transformers: Any, title: str) -> dict[str, Any]:
    """Selects the keys of a config.json that describe the network, its backbone and its decoder.

    A config.json is untrusted. It can also request kernels of another repository (`attn_implementation`), other weights
    (`use_pretrained_backbone`), quantisation, another dtype, or tuples as outputs: all of that is dropped.

    transformers: the module. Raises BadModel for a `model_type` that transformers does not know.
    """
    kind = declared.get("model_type")
    try:
        family = type(transformers.AutoConfig.for_model(kind))
    except (ValueError, KeyError, TypeError):
        raise BadModel(
            f"{title}: transformers {transformers.__version__} knows no network {kind!r} (model_type in config.json)."
        ) from None
    known = {*inspect.signature(family.__init__).parameters, *(family.attribute_map or ()), *_EARLIER} - _OF_THE_RUN
    found: dict[str, Any] = {"model_type": kind}
    for name, value in declared.items():
        if name in known:
            is_part = name.endswith("_config") and isinstance(value, dict)
            found[name] = network_settings(value, transformers, title) if is_part else value
    return found


def read_json(path: Path, title: str) -> dict[str, Any]:
    """Reads a JSON object from a file. Raises BadModel."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadModel(f"{title}: {path} not found.") from None
    except (OSError, ValueError) as error:
        raise BadModel(f"{title}: {path} cannot be read as JSON ({error}).") from error
    if not isinstance(found, dict):
        raise BadModel(f"{title}: {path} is not a JSON object.")
    return found
