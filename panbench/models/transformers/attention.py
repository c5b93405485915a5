"""Reads attention off transformers' decoders: where each family keeps it, and what its layers' masks are.

Mask2Former and OneFormer mask it and predict after every layer; MaskFormer and DETR see the whole map and give masks
after the last layer alone. EoMT has no decoder: its queries join the patches in the last blocks of the encoder, and
what is shown is how they attend to the patches there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from panbench.models.attention import Call, Look, blocked_by, calls_of

__all__ = ["looks_of"]

Size = tuple[int, int]


def looks_of(kind: str, module: Any, forward: Callable[[], Any]) -> tuple[Any, list[Look]]:
    """The outputs of `forward`, which runs `module` on one image, and what each layer's queries looked at.

    kind: the family, as config.json says it; masks of the last layer are those of the outputs
    """
    with _weights_kept(module):
        return _READERS[kind](module, forward)


@contextmanager
def _weights_kept(module: Any) -> Iterator[None]:
    """Attention as matrix products while it is entered: the fused kernels of PyTorch keep no weights."""
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    for config, _ in before:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def _mask2former(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[Look]]:
    transformer = module.model.transformer_module
    layers = list(transformer.decoder.layers)
    attentions = {number: layer.cross_attn for number, layer in enumerate(layers)}
    with calls_of({**attentions, "maps": transformer, "masks": transformer.decoder.mask_predictor}) as calls:
        outputs = forward()
    sizes = _sizes_of(calls["maps"][-1])
    # The first masks are predicted before the first layer.
    masks = [call.output[0][0] for call in calls["masks"][1:]]
    return outputs, _of_multihead(calls, sizes, masks)


def _oneformer(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[Look]]:
    transformer = module.model.transformer_module
    decoder = transformer.decoder
    attentions = {number: layer.cross_attn.multihead_attn for number, layer in enumerate(decoder.layers)}
    with calls_of({**attentions, "maps": transformer, "masks": decoder.mask_embed}) as calls:
        outputs = forward()
    features = calls["maps"][-1].named["mask_features"]
    masks = [torch.einsum("qc,chw->qhw", call.output[0], features[0]) for call in calls["masks"][1:]]
    return outputs, _of_multihead(calls, _sizes_of(calls["maps"][-1]), masks)


def _of_multihead(calls: Mapping[Any, Sequence[Call]], sizes: Sequence[Size], masks: Sequence[Tensor]) -> list[Look]:
    """Layers of PyTorch's multi-head attention, each on the next of the feature maps, from the coarsest."""
    looks = []
    for number, after in enumerate(masks):
        call, size = calls[number][-1], sizes[number % len(sizes)]
        weights = call.output[1][0]
        blocked = blocked_by(call.named.get("attn_mask"), len(weights))
        looks.append(Look(weights.reshape(-1, *size), None if blocked is None else blocked.reshape(-1, *size), after))
    return looks


def _sizes_of(transformer: Call) -> list[Size]:
    maps = transformer.named["multi_scale_features"]
    return [(int(each.shape[-2]), int(each.shape[-1])) for each in maps]


def _maskformer(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[Look]]:
    transformer = module.model.transformer_module
    attentions = {number: layer.encoder_attn for number, layer in enumerate(transformer.decoder.layers)}
    with calls_of({**attentions, "maps": transformer}) as calls:
        outputs = forward()
    size = calls["maps"][-1].positional[0].shape[-2:]
    return outputs, _of_whole_map(calls, len(attentions), size, outputs.masks_queries_logits[0])


def _detr(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[Look]]:
    network = module.detr.model
    attentions = {number: layer.encoder_attn for number, layer in enumerate(network.decoder.layers)}
    with calls_of({**attentions, "maps": network.input_projection}) as calls:
        outputs = forward()
    size = calls["maps"][-1].output.shape[-2:]
    return outputs, _of_whole_map(calls, len(attentions), size, outputs.pred_masks[0])


def _of_whole_map(calls: Mapping[Any, Sequence[Call]], count: int, size: Size, masks: Tensor) -> list[Look]:
    """Layers that attend to the whole map; only the last one leads to masks."""
    looks = []
    for number in range(count):
        weights = calls[number][-1].output[1][0].mean(dim=0)
        looks.append(Look(weights.reshape(-1, *size), None, masks if number == count - 1 else None))
    return looks


def _eomt(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[Look]]:
    config = module.config
    blocks = list(module.layers)[len(module.layers) - config.num_blocks :]
    attentions = {number: block.attention for number, block in enumerate(blocks)}
    with calls_of({**attentions, **{("block", number): block for number, block in enumerate(blocks)}}) as calls:
        outputs = forward()
    queries, first = config.num_queries, config.num_queries + module.embeddings.num_prefix_tokens
    looks = []
    for number in attentions:
        call, after = calls[number][-1], calls["block", number][-1].output
        weights = call.output[1][0].mean(dim=0)[:queries, first:].reshape(-1, *module.grid_size)
        mask = call.named.get("attention_mask")
        blocked = blocked_by(None if mask is None else mask[:, :, :queries, first:], queries)
        masks, _ = module.predict(module.layernorm(after[0] if isinstance(after, tuple) else after))
        looks.append(Look(weights, None if blocked is None else blocked.reshape(-1, *module.grid_size), masks[0]))
    return outputs, looks


_READERS: Mapping[str, Callable[[Any, Callable[[], Any]], tuple[Any, list[Look]]]] = {
    "mask2former": _mask2former,
    "oneformer": _oneformer,
    "maskformer": _maskformer,
    "detr": _detr,
    "eomt": _eomt,
    "eomt_dinov3": _eomt,
}
