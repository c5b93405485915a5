"""Parameters of other code's backbones under mmdet's names: official Swin and PVTv2, and detectron2's ResNet."""

import re
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["match_official_epsilons", "rename_backbone"]

_DETECTRON2_RESNET = (
    (r"^stem\.", ""),
    (r"^res(\d)\.", lambda found: f"layer{int(found[1]) - 1}."),
    (r"\bconv(\d)\.norm\.", r"bn\1."),
    (r"\bshortcut\.norm\.", "downsample.1."),
    (r"\bshortcut\.", "downsample.0."),
)


def match_official_epsilons(backbone: nn.Module) -> None:
    """Sets the epsilons of the official code where mmdet's differ from them.

    Official PVTv2 has 1e-6 in its blocks and after its stages, but torch's default after patch embeddings and
    reductions; mmdet has 1e-6 everywhere.
    """
    if type(backbone).__name__ != "PyramidVisionTransformerV2":
        return
    for name, layer in backbone.named_modules():
        if isinstance(layer, nn.LayerNorm) and re.search(r"(^layers\.\d+\.0\.norm|\.attn\.norm)$", name):
            layer.eps = 1e-5


def rename_backbone(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters of a backbone under mmdet's names, whether they have them already or those of the other code.

    config: the mmdet backbone's; mmdet.models must be importable (`operators.install()`)
    """
    kind = str(config["type"])
    if kind == "PyramidVisionTransformerV2" and any(name.startswith("block") for name in state_dict):
        from mmdet.models.backbones.pvt import pvt_convert

        return dict(pvt_convert({**state_dict}))
    if kind == "SwinTransformer" and any(name.startswith("layers.") for name in state_dict):
        from mmdet.models.backbones.swin import swin_converter

        return {name.removeprefix("backbone."): value for name, value in swin_converter({**state_dict}).items()}
    if kind == "ResNet" and any(name.startswith("stem.") for name in state_dict):
        return _from_detectron2(state_dict)
    return dict(state_dict)


def _from_detectron2(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        for pattern, replacement in _DETECTRON2_RESNET:
            name = re.sub(pattern, cast(Any, replacement), name)
        renamed[name] = value
    # detectron2's frozen batch norm does not count batches, torch's does.
    for name in [name for name in renamed if name.endswith("running_mean")]:
        renamed[name.replace("running_mean", "num_batches_tracked")] = torch.zeros((), dtype=torch.long)
    return renamed
