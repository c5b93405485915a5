"""Names of facebookresearch/MaskFormer (da3e60d) under mmdet's. [Cheng et al. 2021]"""

from collections.abc import Iterator

from panbench.models.authors.names import NameMap

__all__ = ["of_encoder", "of_plain"]

_PIXELS, _QUERIES = "panoptic_head.pixel_decoder.", "sem_seg_head.predictor."
_DECODER = "panoptic_head.transformer_decoder.layers.#."


def _pixel_decoder(theirs: str, smallest: str) -> Iterator[tuple[str, str]]:
    """Names of the pixel decoder; smallest: what mmdet calls the convolution of the map of stride 32."""
    for level in (1, 2, 3):
        yield f"{theirs}adapter_{level}.", f"{_PIXELS}lateral_convs.{level - 1}.conv."
        yield f"{theirs}adapter_{level}.norm.", f"{_PIXELS}lateral_convs.{level - 1}.gn."
        yield f"{theirs}layer_{level}.", f"{_PIXELS}output_convs.{level - 1}.conv."
        yield f"{theirs}layer_{level}.norm.", f"{_PIXELS}output_convs.{level - 1}.gn."
    yield f"{theirs}layer_4.", f"{_PIXELS}{smallest}.conv."
    yield f"{theirs}layer_4.norm.", f"{_PIXELS}{smallest}.gn."
    yield f"{theirs}mask_features.", f"{_PIXELS}mask_feature."
    if smallest == "encoder_out_proj":
        yield f"{theirs}input_proj.", f"{_PIXELS}encoder_in_proj."
        yield from _layer(f"{theirs}transformer.encoder.layers.#.", f"{_PIXELS}encoder.layers.#.", ["self_attn"])


def _layer(theirs: str, ours: str, attentions: list[str]) -> Iterator[tuple[str, str]]:
    """Names of one transformer layer: its attentions, each with its norm, and the two linear layers with theirs."""
    for number, attention in enumerate(attentions):
        yield f"{theirs}{attention}.", f"{ours}{'cross_attn' if number else 'self_attn'}.attn."
        yield f"{theirs}norm{number + 1}.", f"{ours}norms.{number}."
    yield f"{theirs}linear1.", f"{ours}ffn.layers.0.0."
    yield f"{theirs}linear2.", f"{ours}ffn.layers.1."
    yield f"{theirs}norm{len(attentions) + 1}.", f"{ours}norms.{len(attentions)}."


def _names(smallest: str) -> NameMap:
    return NameMap(
        {
            # The second form is that of files from before version 2 of the authors' head.
            **dict(_pixel_decoder("sem_seg_head.pixel_decoder.", smallest)),
            **dict(_pixel_decoder("sem_seg_head.", smallest)),
            **dict(_layer(f"{_QUERIES}transformer.decoder.layers.#.", _DECODER, ["self_attn", "multihead_attn"])),
            f"{_QUERIES}transformer.decoder.norm.": "panoptic_head.transformer_decoder.post_norm.",
            f"{_QUERIES}query_embed.": "panoptic_head.query_embed.",
            f"{_QUERIES}input_proj.": "panoptic_head.decoder_input_proj.",
            f"{_QUERIES}class_embed.": "panoptic_head.cls_embed.",
            # Linear layers between which mmdet counts the ReLUs.
            **{f"{_QUERIES}mask_embed.layers.{layer}.": f"panoptic_head.mask_embed.{2 * layer}." for layer in range(3)},
        },
        left_out={"criterion.empty_weight": "the weights of the classes in the loss"},
    )


of_encoder = _names("encoder_out_proj")
"""With transformer layers in the pixel decoder: R50, R101."""
of_plain = _names("last_feat_conv")
"""Without: Swin."""
