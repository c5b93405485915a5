"""The decoder layers of transformers' families: where each keeps them, and what a pass calls up to each."""

from collections.abc import Callable, Mapping
from typing import Any

from panbench.models.decoders import Decoder, Part, without_last

__all__ = ["decoder_of"]


def decoder_of(kind: str, module: Any) -> Decoder:
    """The decoder of a network. kind: the family, as config.json says it."""
    return _READERS[kind](module)


def _of_layers(layers: Any, *others: Part) -> Decoder:
    count = len(layers)
    return Decoder(count, lambda kept: without_last(layers, count - kept), [*others, *map(Part, layers)])


def _mask2former(module: Any) -> Decoder:
    decoder = module.model.transformer_module.decoder
    # It predicts masks before the first layer and after each, so those of a layer are there already.
    return _of_layers(decoder.layers, Part(module.model.pixel_level_module), Part(decoder.mask_predictor))


def _maskformer(module: Any) -> Decoder:
    return _of_layers(module.model.transformer_module.decoder.layers, Part(module.model.pixel_level_module))


def _oneformer(module: Any) -> Decoder:
    model, decoder = module.model, module.model.transformer_module.decoder
    before = [Part(model.pixel_level_module), Part(model.task_encoder), Part(decoder.query_transformer)]
    return _of_layers(decoder.layers, *before, Part(decoder, "forward_prediction_heads"))


def _detr(module: Any) -> Decoder:
    network = module.detr.model
    return _of_layers(network.decoder.layers, Part(network.backbone), Part(network.encoder))


def _eomt(module: Any) -> Decoder:
    layers, blocks = module.layers, module.config.num_blocks

    def cut(kept: int) -> None:
        without_last(layers, blocks - kept)
        # By these two numbers the network knows at which layer its queries join.
        module.num_hidden_layers -= blocks - kept
        module.config.num_blocks = kept

    return Decoder(blocks, cut, [Part(module.embeddings), *map(Part, layers)])


_READERS: Mapping[str, Callable[[Any], Decoder]] = {
    "mask2former": _mask2former,
    "maskformer": _maskformer,
    "oneformer": _oneformer,
    "detr": _detr,
    "eomt": _eomt,
    "eomt_dinov3": _eomt,
}
