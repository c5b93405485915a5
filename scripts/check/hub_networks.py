"""Networks of the hub's models by their published sizes: their config.json is not in this repository.

Sizes: Swin's and ResNet's stages, ViT's widths and depths, and the numbers of queries and labels are those of the
authors' configs (Mask2Former, MaskFormer, OneFormer, EoMT, DETR).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from panbench.catalog import ModelSpec

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_SWIN: dict[str, dict[str, Any]] = {
    "t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "s": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "b": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
    "l": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12},
}
_VIT = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "g": (1536, 40, 24)}
_LABELS = {"coco": 133, "cityscapes": 19, "ade20k": 150, "mapillary": 65}


def hub_network(spec: ModelSpec) -> nn.Module:
    """Builds the network of a Hugging Face model on the current default device."""
    import transformers as hf

    labels = _LABELS[str(spec.trained_on)]
    backbone = spec.backbone or ""
    size = backbone.lower().rpartition("-")[2]
    if spec.family == "eomt":
        return _eomt(spec, labels, size)
    if spec.family == "detr":
        depths = [3, 4, 23 if "101" in backbone else 6, 3]
        resnet = hf.ResNetConfig(depths=depths, out_features=_STAGES)
        # Its COCO checkpoints have 250 labels, which are category ids.
        return hf.DetrForSegmentation(hf.DetrConfig(use_timm_backbone=False, backbone_config=resnet, num_labels=250))
    if spec.family == "maskformer":
        swin = hf.MaskFormerSwinConfig(image_size=384, out_features=_STAGES, **_SWIN[size])
        return hf.MaskFormerForInstanceSegmentation(hf.MaskFormerConfig(backbone_config=swin, num_labels=labels))
    swin = hf.SwinConfig(image_size=384, out_features=_STAGES, **_SWIN[size])
    if spec.family == "oneformer":
        queries = 250 if size == "l" and spec.trained_on != "coco" else 150
        config = hf.OneFormerConfig(backbone_config=swin, num_labels=labels, num_queries=queries, is_training=False)
        return hf.OneFormerForUniversalSegmentation(config)
    queries = 200 if size == "l" else 100
    config = hf.Mask2FormerConfig(backbone_config=swin, num_labels=labels, num_queries=queries)
    return hf.Mask2FormerForUniversalSegmentation(config)


def without_hub(spec: ModelSpec, names: Sequence[str] | None = None, **changes: Any) -> ModelSpec:
    """Returns a hub model with its network in its settings, so that no config.json is needed.

    names: of its labels; some that do for counting if None. changes: to the network's config
    """
    with torch.device("meta"):
        config = cast(Any, hub_network(spec)).config
    if names is None:
        names = ["person", "sky-other-merged", *["N/A"] * (config.num_labels - 2)]
    network = {name: value for name, value in config.to_dict().items() if name not in ("label2id", "num_labels")}
    settings = {name: value for name, value in spec.settings.items() if name in ("rule", "sizes")}
    network |= {"id2label": dict(enumerate(names)), **changes}
    return dataclasses.replace(spec, settings={**settings, "network": network})


def _eomt(spec: ModelSpec, labels: int, size: str) -> nn.Module:
    import transformers as hf

    width, depth, heads = _VIT[size]
    common = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "image_size": int(str(spec.input_size).rstrip("²")),
        "num_labels": labels,
        "num_queries": 200,
    }
    if "dinov3" in spec.name:
        return hf.EomtDinov3ForUniversalSegmentation(hf.EomtDinov3Config(intermediate_size=4 * width, **common))
    return hf.EomtForUniversalSegmentation(hf.EomtConfig(use_swiglu_ffn=size == "g", **common))
