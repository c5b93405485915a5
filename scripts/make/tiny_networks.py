"""Tiny networks with random weights of the families that have no trained tiny model here: for counting and for tests.

What they answer means nothing; what they do is what their families do.
"""

import dataclasses
from typing import Any

import torch

from panbench.catalog import ModelSpec, find_model
from panbench.datasets import shapes
from panbench.models.host import HostedModel
from panbench.models.opening import open_model

__all__ = ["MASK_DINO", "NAMES", "NETWORKS", "SEGFORMER", "SPECS", "open_tiny"]

NAMES = [str(category["name"]) for category in shapes.CATEGORIES]
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_SWIN = {
    "model_type": "swin",
    "embed_dim": 8,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 1, 2, 2],
    "window_size": 4,
    "out_features": _STAGES,
}
_RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 16, 32],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": _STAGES,
}
_DECODER = {
    "hidden_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
    "num_queries": 7,
}
_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 64,
    "num_blocks": 2,
    "num_queries": 7,
}
_DETR = {
    "model_type": "detr",
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "num_queries": 7,
}

NETWORKS: dict[str, dict[str, Any]] = {
    "mask2former": {
        "model_type": "mask2former",
        "backbone_config": _SWIN,
        "mask_feature_size": 32,
        "feature_size": 32,
        **_DECODER,
    },
    "maskformer": {
        "model_type": "maskformer",
        "backbone_config": _SWIN,
        "decoder_config": {
            **_DETR,
            "backbone_config": {"model_type": "resnet"},
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
        },
        "fpn_feature_size": 32,
        "mask_feature_size": 32,
    },
    "oneformer": {
        "model_type": "oneformer",
        "backbone_config": _RESNET,
        "conv_dim": 32,
        "mask_dim": 32,
        "query_dec_layers": 1,
        **_DECODER,
    },
    "eomt": {"model_type": "eomt", **_VIT},
    "eomt_dinov3": {"model_type": "eomt_dinov3", "intermediate_size": 32, **_VIT},
    "detr": {**_DETR, "backbone_config": _RESNET, "encoder_attention_heads": 8, "decoder_attention_heads": 8},
}
"""transformers' families, as config.json says them, without their labels."""

SEGFORMER: dict[str, Any] = {
    "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [1, 2, 3]},
    "channels": [16, 32, 64],
    "width": 64,
    "feedforward": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "queries": 40,
    "thing_mask_layers": 2,
    "stuff_mask_layers": 2,
}
MASK_DINO: dict[str, Any] = {
    "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [0, 1, 2, 3]},
    "channels": [8, 16, 32, 64],
    "width": 64,
    "feedforward": 64,
    "decoder_feedforward": 64,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "queries": 30,
}


def _of_transformers(kind: str) -> ModelSpec:
    network = {**NETWORKS[kind], "id2label": dict(enumerate(NAMES))}
    settings = {"network": network, "sizes": {"short": None}}
    return dataclasses.replace(find_model("hf:tiny/network"), title=f"{kind} of transformers", settings=settings)


SPECS: dict[str, ModelSpec] = {
    **{f"{kind}-of-transformers": _of_transformers(kind) for kind in NETWORKS},
    "panoptic-segformer-untrained": dataclasses.replace(find_model("panoptic-segformer"), settings=SEGFORMER),
    "mask-dino-untrained": dataclasses.replace(find_model("mask-dino"), settings=MASK_DINO),
}
"""By name; panbench's catalog has none of these names."""


def open_tiny(name: str, device: str | torch.device = "cpu", **options: Any) -> HostedModel:
    """Opens one of these networks with random weights; images keep their size if the family allows it.

    options: as of `open_model`
    """
    model = open_model(SPECS[name], weights="random", device=device, **options)
    assert isinstance(model, HostedModel)
    model.adapter.resize = dataclasses.replace(model.adapter.resize, short=None)
    return model
