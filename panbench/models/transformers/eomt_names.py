"""Renames EoMT's parameters from its authors' names (tue-mps/eomt) or transformers 4 to transformers 5.

In the authors' code DINOv2's backbone is timm's, with query, key and value in one matrix; DINOv3's is transformers'.
The
gated layers of the giant model are one matrix in transformers 4, which transformers 5 does not convert for EoMT.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_BACKBONE = "encoder.backbone."
_RENAMES = (
    (r"encoder\.backbone\.patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"encoder\.backbone\.patch_embed\.", "embeddings."),
    (r"encoder\.backbone\.cls_token", "embeddings.cls_token"),
    (r"encoder\.backbone\.reg_token", "embeddings.register_tokens"),
    (r"encoder\.backbone\.pos_embed", "embeddings.position_embeddings.weight"),
    (r"encoder\.backbone\.norm\.", "layernorm."),
    (r"encoder\.backbone\.blocks\.(\d+)\.attn\.proj\.", r"layers.\1.attention.out_proj."),
    (r"encoder\.backbone\.blocks\.(\d+)\.attn\.", r"layers.\1.attention."),
    (r"encoder\.backbone\.blocks\.(\d+)\.ls(\d)\.gamma", r"layers.\1.layer_scale\2.lambda1"),
    (r"encoder\.backbone\.blocks\.", "layers."),
    (r"q\.weight", "query.weight"),
    (r"class_head\.", "class_predictor."),
    (r"mask_head\.([024])\.", lambda found: f"mask_head.fc{int(found[1]) // 2 + 1}."),
    (r"upscale\.(\d)\.norm\.", r"upscale_block.block.\1.layernorm2d."),
    (r"upscale\.", "upscale_block.block."),
)
"""Prefixes of the authors' names and their replacements; the first match is used."""


_OF_TRAINING = {"criterion.empty_weight", "embeddings.mask_token"}
"""Tensors of transformers that the authors' files may lack; prediction does not use them."""


def renamed(state_dict: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Renames EoMT's parameters to those of `known`, a network of transformers 5; unknown names stay."""
    if state_dict.keys() == known.keys():
        return state_dict
    found: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        new = next((re.sub(old, words, name, count=1) for old, words in _RENAMES if re.match(old, name)), name)
        if ".qkv." in new:
            parts = zip("qkv", value.chunk(3), strict=True)
            found |= {new.replace(".qkv.", f".{part}_proj."): each for part, each in parts}
        elif new not in known and (gated := re.fullmatch(r"(.*\.mlp\.)(?:fc1|weights_in)(\.\w+)", new)):
            parts = zip(("gate", "up"), value.chunk(2), strict=True)
            found |= {f"{gated[1]}{part}_proj{gated[2]}": each for part, each in parts}
        elif new not in known:
            found[re.sub(r"\.mlp\.(fc2|weights_out)\.", ".mlp.down_proj.", new)] = value
        else:
            found[new] = value.squeeze(0) if name.endswith("pos_embed") else value
    if any(name.startswith(_BACKBONE) for name in state_dict):
        for name in [name for name in found if name.startswith((_BACKBONE, "encoder.pixel_"))]:
            del found[name]
        for name in _OF_TRAINING & known.keys():
            found.setdefault(name, torch.zeros(known[name].shape))
    return found
