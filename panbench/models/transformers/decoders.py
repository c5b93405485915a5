"""Describes the decoders of transformers' families: their layers, and the attention of queries in a forward pass.

Mask2Former and OneFormer mask attention and predict after every layer; MaskFormer and DETR attend to the whole map and
predict masks after the last layer only. EoMT has no decoder: its queries join the patches in the last blocks of the
encoder, and their attention to the patches is used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from panbench.models.attention import LayerAttention, ModuleCall, dense_layer, layers_by_level, record_module_calls
from panbench.models.decoders import Decoder, Part

Size = tuple[int, int]


def decoder_of(kind: str, module: Any) -> Decoder:
    """Returns the decoder of a network, which can be cut after any layer.

    kind: the family's `model_type` in config.json
    """
    return _FAMILIES[kind][0](module)


def forward_with_attention(kind: str, module: Any, forward: Callable[[], Any]) -> tuple[Any, list[LayerAttention]]:
    """Runs `forward`, the network on one image; returns its outputs and the queries' attention in each layer.

    kind: the family's `model_type` in config.json; the last layer's masks are those of the outputs
    """
    with _eager_attention(module):
        return _FAMILIES[kind][1](module, forward)


@contextmanager
def _eager_attention(module: Any) -> Iterator[None]:
    """Computes attention without fused kernels within the block, because those return no weights."""
    configs = {id(part.config): part.config for part in module.modules() if hasattr(part, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    for config, _ in before:
        config._attn_implementation = "eager"
    try:
        yield
    finally:
        for config, implementation in before:
            config._attn_implementation = implementation


def _decoder_of_mask2former(module: Any) -> Decoder:
    """Returns Mask2Former's decoder, which can be cut after any layer."""
    decoder = module.model.transformer_module.decoder
    # Masks are predicted before the first layer and after each, so a cut decoder needs no other head.
    return Decoder.of_layers(decoder.layers, Part(module.model.pixel_level_module), Part(decoder.mask_predictor))


def _attention_of_mask2former(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[LayerAttention]]:
    """Runs Mask2Former by `forward`; returns its outputs and each decoder layer's cross-attention."""
    transformer = module.model.transformer_module
    layers = list(transformer.decoder.layers)
    attentions = {number: layer.cross_attn for number, layer in enumerate(layers)}
    with record_module_calls({**attentions, "maps": transformer, "masks": transformer.decoder.mask_predictor}) as calls:
        outputs = forward()
    sizes = _feature_map_sizes(calls["maps"][-1])
    # The first masks are predicted before the first layer.
    masks = [call.output[0][0] for call in calls["masks"][1:]]
    return outputs, layers_by_level(calls, sizes, masks)


def _decoder_of_oneformer(module: Any) -> Decoder:
    """Returns OneFormer's decoder, which can be cut after any layer."""
    model, decoder = module.model, module.model.transformer_module.decoder
    before = [Part(model.pixel_level_module), Part(model.task_encoder), Part(decoder.query_transformer)]
    return Decoder.of_layers(decoder.layers, *before, Part(decoder, "forward_prediction_heads"))


def _attention_of_oneformer(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[LayerAttention]]:
    """Runs OneFormer by `forward`; returns its outputs and each decoder layer's cross-attention."""
    transformer = module.model.transformer_module
    decoder = transformer.decoder
    attentions = {number: layer.cross_attn.multihead_attn for number, layer in enumerate(decoder.layers)}
    with record_module_calls({**attentions, "maps": transformer, "masks": decoder.mask_embed}) as calls:
        outputs = forward()
    features = calls["maps"][-1].named["mask_features"]
    masks = [torch.einsum("qc,chw->qhw", call.output[0], features[0]) for call in calls["masks"][1:]]
    return outputs, layers_by_level(calls, _feature_map_sizes(calls["maps"][-1]), masks)


def _feature_map_sizes(transformer: ModuleCall) -> list[Size]:
    """Returns (h, w) of the feature maps in a call of the transformer module."""
    maps = transformer.named["multi_scale_features"]
    return [(int(each.shape[-2]), int(each.shape[-1])) for each in maps]


def _decoder_of_maskformer(module: Any) -> Decoder:
    """Returns MaskFormer's decoder, which can be cut after any layer."""
    return Decoder.of_layers(module.model.transformer_module.decoder.layers, Part(module.model.pixel_level_module))


def _attention_of_maskformer(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[LayerAttention]]:
    """Runs MaskFormer by `forward`; returns its outputs and each decoder layer's cross-attention."""
    transformer = module.model.transformer_module
    attentions = {number: layer.encoder_attn for number, layer in enumerate(transformer.decoder.layers)}
    with record_module_calls({**attentions, "maps": transformer}) as calls:
        outputs = forward()
    size = calls["maps"][-1].positional[0].shape[-2:]
    return outputs, _whole_map_attention(calls, len(attentions), size, outputs.masks_queries_logits[0])


def _decoder_of_detr(module: Any) -> Decoder:
    """Returns DETR's decoder, which can be cut after any layer."""
    network = module.detr.model
    return Decoder.of_layers(network.decoder.layers, Part(network.backbone), Part(network.encoder))


def _attention_of_detr(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[LayerAttention]]:
    """Runs DETR by `forward`; returns its outputs and each decoder layer's cross-attention."""
    network = module.detr.model
    attentions = {number: layer.encoder_attn for number, layer in enumerate(network.decoder.layers)}
    with record_module_calls({**attentions, "maps": network.input_projection}) as calls:
        outputs = forward()
    size = calls["maps"][-1].output.shape[-2:]
    return outputs, _whole_map_attention(calls, len(attentions), size, outputs.pred_masks[0])


def _whole_map_attention(
    calls: Mapping[Any, Sequence[ModuleCall]], count: int, size: Size, masks: Tensor
) -> list[LayerAttention]:
    """Returns the attention of decoder layers that all attend to the same feature map.

    Only the last layer predicts masks.
    """
    weights = [calls[number][-1].output[1][0].mean(dim=0) for number in range(count)]
    return [dense_layer(each, size, masks if number == count - 1 else None) for number, each in enumerate(weights)]


def _decoder_of_eomt(module: Any) -> Decoder:
    """Returns EoMT's last layers, in which queries join the patches, as a decoder that can be cut after any layer."""
    blocks, other = module.config.num_blocks, len(module.layers) - module.config.num_blocks

    def set_decoder_layer_count(left: int) -> None:
        # These two numbers determine the layer at which the queries join.
        module.num_hidden_layers = other + left
        module.config.num_blocks = left

    return Decoder.of_layers(module.layers, Part(module.embeddings), last=blocks, cut=set_decoder_layer_count)


def _attention_of_eomt(module: Any, forward: Callable[[], Any]) -> tuple[Any, list[LayerAttention]]:
    """Runs EoMT by `forward`; returns its outputs and the queries' attention to patches in the last layers."""
    config = module.config
    blocks = list(module.layers)[len(module.layers) - config.num_blocks :]
    attentions = {number: block.attention for number, block in enumerate(blocks)}
    with record_module_calls(
        {**attentions, **{("block", number): block for number, block in enumerate(blocks)}}
    ) as calls:
        outputs = forward()
    queries, first = config.num_queries, config.num_queries + module.embeddings.num_prefix_tokens
    by_layer = []
    for number in attentions:
        call, after = calls[number][-1], calls["block", number][-1].output
        weights = call.output[1][0].mean(dim=0)[:queries, first:]
        seen = call.named.get("attention_mask")
        seen = None if seen is None else seen[:, :, :queries, first:]
        masks, _ = module.predict(module.layernorm(after[0] if isinstance(after, tuple) else after))
        by_layer.append(dense_layer(weights, module.grid_size, masks[0], seen))
    return outputs, by_layer


_Reader = Callable[[Any, Callable[[], Any]], tuple[Any, list[LayerAttention]]]
_FAMILIES: Mapping[str, tuple[Callable[[Any], Decoder], _Reader]] = {
    "mask2former": (_decoder_of_mask2former, _attention_of_mask2former),
    "oneformer": (_decoder_of_oneformer, _attention_of_oneformer),
    "maskformer": (_decoder_of_maskformer, _attention_of_maskformer),
    "detr": (_decoder_of_detr, _attention_of_detr),
    "eomt": (_decoder_of_eomt, _attention_of_eomt),
    "eomt_dinov3": (_decoder_of_eomt, _attention_of_eomt),
}
