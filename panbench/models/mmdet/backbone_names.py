"""Renames parameters of other code to mmdet's names: official Swin and PVTv2, detectron2's ResNet, and heads."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Patterns = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
"""Regular expressions and their replacements in names, applied one after the other."""

_DETECTRON2_RESNET: Patterns = (
    (r"^stem\.", ""),
    (r"^res(\d)\.", lambda found: f"layer{int(found[1]) - 1}."),
    (r"\bconv(\d)\.norm\.", r"bn\1."),
    (r"\bshortcut\.norm\.", "downsample.1."),
    (r"\bshortcut\.", "downsample.0."),
)


def match_official_epsilons(backbone: nn.Module) -> None:
    """Sets the layer norms' epsilons of the official PVTv2 where mmdet's differ.

    Official PVTv2 has 1e-6 in its blocks and after its stages, but torch's default after patch embeddings and
    reductions; mmdet has 1e-6 everywhere.
    """
    if type(backbone).__name__ != "PyramidVisionTransformerV2":
        return
    for name, layer in backbone.named_modules():
        if isinstance(layer, nn.LayerNorm) and re.search(r"(^layers\.\d+\.0\.norm|\.attn\.norm)$", name):
            layer.eps = 1e-5


def rename_backbone(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Renames parameters of official Swin, PVTv2 or detectron2's ResNet to mmdet's names; others stay.

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


def renamed(
    state_dict: Mapping[str, Tensor], patterns: Patterns, backbone: Mapping[str, Any], left_out: tuple[str, ...]
) -> dict[str, Tensor]:
    """Renames a network's parameters by regular expressions, and its backbone's to mmdet's names.

    backbone: the mmdet backbone's config; left_out: prefixes of names to drop
    """
    of_backbone = {name: value for name, value in state_dict.items() if name.startswith("backbone.")}
    bare = {name.removeprefix("backbone."): value for name, value in of_backbone.items()}
    found = {f"backbone.{name}": value for name, value in rename_backbone(bare, backbone).items()}
    others = {name: value for name, value in state_dict.items() if not name.startswith(("backbone.", *left_out))}
    return found | {_rename_by_patterns(name, patterns): value for name, value in others.items()}


def _rename_by_patterns(name: str, patterns: Patterns) -> str:
    """Applies regular expressions to a parameter name, one after another."""
    for pattern, replacement in patterns:
        name = re.sub(pattern, replacement, name)
    return name


def _from_detectron2(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of detectron2's ResNet to mmdet's names."""
    renamed = {_rename_by_patterns(name, _DETECTRON2_RESNET): value for name, value in state_dict.items()}
    # detectron2's frozen batch norm does not count batches, torch's does.
    for name in [name for name in renamed if name.endswith("running_mean")]:
        renamed[name.replace("running_mean", "num_batches_tracked")] = torch.zeros((), dtype=torch.long)
    return renamed
