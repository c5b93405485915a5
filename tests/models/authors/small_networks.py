"""Small networks with the authors' whole names: values and images, the same here and where answers are recorded."""

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

SHORT, LONG = 64, 96
"""The shorter side of an image in the network, and the most of the longer."""

SIZES = [(71, 100), (61, 83), (80, 81), (97, 69), (40, 121), (90, 90), (73, 100), (81, 57), (66, 90), (71, 100)]
"""(height, width) of the images. Resized, three are of one size, and more of one with zeros to multiples of 32."""

IMPORTANT = {
    "class_embed.weight": 2.0,
    "mask_embed.layers.2.weight": 0.3,
    "out_proj.weight": 0.3,
    "linear2.weight": 0.3,
    "bottom_up.stem.conv1.weight": 0.00005,
    "anchor_deltas.weight": 0.05,
    "cls_score.weight": 0.7,
    "bbox_pred.weight": 0.08,
    "mask_head.predictor.weight": 1.3,
}
"""What is drawn larger or smaller, so that classes are sure of themselves and nothing grows out of bounds."""


def values_of(shapes: Mapping[str, Any], seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """An array for each name; each depends on name, shape and seed alone. RandomState's stream never changes."""
    return {name: value_of(name, tuple(shape), seed) for name, shape in shapes.items()}


def value_of(name: str, shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    """The array of a name."""
    random = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))
    drawn = random.standard_normal(shape)
    if name.endswith("running_var"):
        drawn = 1 + 0.5 * np.tanh(drawn)
    elif name.endswith("sampling_offsets.bias"):
        drawn = 2 * drawn
    elif name.endswith(("bias", "running_mean")):
        drawn = 0.1 * drawn
    elif len(shape) == 1:
        drawn = 1 + 0.1 * drawn
    elif name.endswith(("query_feat.weight", "query_embed.weight")):
        drawn = 4 * drawn
    elif not name.endswith(("level_embed", "level_embed.weight")):
        scale = next((scale for ending, scale in IMPORTANT.items() if name.endswith(ending)), 1.3)
        drawn = drawn * scale / np.sqrt(np.prod(shape[1:]))
    return np.asarray(drawn, np.float32)


def image(number: int) -> npt.NDArray[np.uint8]:
    """(H, W, 3) red, green, blue: blocks of colour with noise."""
    height, width = SIZES[number]
    random = np.random.RandomState(number)
    blocks = random.randint(0, 200, (-(-height // 24), -(-width // 24), 3))
    noise = random.randint(0, 55, (height, width, 3))
    return np.asarray(np.kron(blocks, np.ones((24, 24, 1), int))[:height, :width] + noise, np.uint8)


def small_config(name: str) -> dict[str, Any]:
    """What a config changes in the shipped one of this name for the small network: `model` and the test pipeline."""
    if name.startswith("panoptic-fpn"):
        return _small_panoptic_fpn()
    channels = [24, 48, 96, 192] if "swin" in name else [32, 64, 128, 256]
    backbone = {"embed_dims": 24, "num_heads": [1, 2, 4, 8]} if "swin" in name else {"base_channels": 8}
    attention, feed_forward = {"embed_dims": 64}, {"embed_dims": 64, "feedforward_channels": 128}
    layer = {"self_attn_cfg": attention, "cross_attn_cfg": attention, "ffn_cfg": feed_forward}
    encoder = {"self_attn_cfg": attention, "ffn_cfg": feed_forward}
    if name.startswith("mask2former"):
        encoder = {"self_attn_cfg": attention, "ffn_cfg": attention}
    pixel_decoder: dict[str, Any] = {"encoder": {"layer_cfg": encoder}, "positional_encoding": {"num_feats": 32}}
    head = {
        "in_channels": channels,
        "feat_channels": 64,
        "out_channels": 64,
        "num_queries": 6,
        "pixel_decoder": {} if name.startswith("maskformer-swin") else pixel_decoder,
        "positional_encoding": {"num_feats": 32},
        "transformer_decoder": {"layer_cfg": layer},
    }
    return {"model": {"backbone": backbone, "panoptic_head": head}, **_PIPELINE}


_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
_STEPS: list[dict[str, Any]] = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (LONG, SHORT), "keep_ratio": True, "backend": "pillow"},
    {"type": "PackDetInputs", "meta_keys": _KEYS},
]
_PIPELINE = {"test_dataloader": {"dataset": {"pipeline": _STEPS}}}


def _small_panoptic_fpn() -> dict[str, Any]:
    model = {
        "backbone": {"base_channels": 8},
        "neck": {"in_channels": [32, 64, 128, 256], "out_channels": 32},
        "rpn_head": {"in_channels": 32, "feat_channels": 32},
        "roi_head": {
            "bbox_roi_extractor": {"out_channels": 32},
            "bbox_head": {"in_channels": 32, "fc_out_channels": 64},
            "mask_roi_extractor": {"out_channels": 32},
            "mask_head": {"in_channels": 32, "conv_out_channels": 32},
        },
        "semantic_head": {"in_channels": 32, "inner_channels": 32},
    }
    return {"model": model, **_PIPELINE}
