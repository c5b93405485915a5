"""EoMT at inference, without what only training reads. [Kerssies et al. 2025, sec. 3]

In blocks that mask their attention transformers predicts all masks at full size to shrink them to patches, and makes
a mask of all tokens by all tokens, one for each head, although only rows of queries are ever masked. In all blocks it
multiplies the outputs by a scale that can be part of the weights before it.
"""

import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["speed_up"]


def speed_up(module: Any) -> None:
    """Changes an EomtForUniversalSegmentation of transformers in place; it can no longer be trained."""
    module.forward = types.MethodType(_forward, module)
    for layer in module.layers:
        layer.attention.forward = types.MethodType(_attend, layer.attention)
        _fold(layer, "layer_scale1", layer.attention.out_proj)
        _fold(layer, "layer_scale2", layer.mlp.fc2 if hasattr(layer.mlp, "fc2") else layer.mlp.down_proj)


def _fold(layer: Any, name: str, linear: nn.Linear) -> None:
    """Multiplies a layer's scale into the linear layer before it."""
    scale = getattr(layer, name).lambda1
    with torch.no_grad():
        linear.weight.mul_(scale[:, None])
        if linear.bias is not None:
            linear.bias.mul_(scale)
    setattr(layer, name, nn.Identity())


def _forward(module: Any, pixel_values: Tensor, **given: Any) -> Any:
    """Equal to transformers' forward but for rounding; attention as matrix products is left to that one."""
    config = module.config
    if given or config._attn_implementation == "eager":
        return type(module).forward(module, pixel_values=pixel_values, **given)
    tokens = module.embeddings(pixel_values)
    first, mask = module.num_hidden_layers - config.num_blocks, None
    for number, layer in enumerate(module.layers):
        if number == first:
            tokens = torch.cat([module.query.weight[None].expand(len(tokens), -1, -1), tokens], dim=1)
        if number >= first and (share := module.attn_mask_probs[number - first]) > 0:
            mask = _seen(module, tokens, share)
        tokens = layer(tokens, mask)
    tokens = module.layernorm(tokens)
    masks, classes = module.predict(tokens)
    return types.SimpleNamespace(masks_queries_logits=masks, class_queries_logits=classes, last_hidden_state=tokens)


def _seen(module: Any, tokens: Tensor, share: Tensor) -> Tensor:
    """(B, 1, queries, tokens) bool: what each query attends to: all queries, and the patches on its own mask.

    share: of the queries whose attention is masked; the others are drawn, as transformers draws them
    """
    queries, patches = module.config.num_queries, module.config.num_queries + module.embeddings.num_prefix_tokens
    tokens = module.layernorm(tokens)
    maps = tokens[:, patches:].transpose(1, 2).unflatten(2, module.grid_size)
    # Resizing is linear: 384 channels are resized in place of 200 masks that would first have to be computed.
    maps = F.interpolate(module.upscale_block(maps), size=module.grid_size, mode="bilinear")
    logits = torch.bmm(module.mask_head(tokens[:, :queries]), maps.flatten(2))
    seen = torch.ones((len(tokens), queries, tokens.shape[1]), dtype=torch.bool, device=tokens.device)
    seen[..., patches:] = logits > 0
    if share < 1:
        free = torch.rand(len(tokens), queries, device=tokens.device) > share
        seen |= free[..., None]
    return seen[:, None]


def _attend(attention: Any, hidden_states: Tensor, attention_mask: Tensor | None = None, **given: Any) -> Any:
    """Equal to transformers' attention; of a mask for the first rows alone, those rows are computed apart."""
    if attention_mask is None or attention_mask.shape[-2] == hidden_states.shape[-2]:
        return type(attention).forward(attention, hidden_states, attention_mask=attention_mask, **given)
    shape = (*hidden_states.shape[:-1], attention.num_heads, attention.head_dim)
    query, key, value = (
        projection(hidden_states).view(shape).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    rows = attention_mask.shape[-2]
    masked = F.scaled_dot_product_attention(query[:, :, :rows], key, value, attention_mask, scale=attention.scale)
    others = F.scaled_dot_product_attention(query[:, :, rows:], key, value, scale=attention.scale)
    found = torch.cat([masked, others], dim=2).transpose(1, 2).flatten(2)
    return attention.out_proj(found), None
