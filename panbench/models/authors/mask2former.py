"""Names of facebookresearch/Mask2Former (9b0651c) under mmdet's. [Cheng et al. 2022]"""

from panbench.models.authors.names import NameMap

__all__ = ["NAMES"]

_QUERIES = "sem_seg_head.predictor."
_ENCODER, _DECODER = "panoptic_head.pixel_decoder.encoder.layers.#.", "panoptic_head.transformer_decoder.layers.#."


def _pixel_decoder(theirs: str) -> dict[str, str]:
    return {
        f"{theirs}input_proj.#.0.": "panoptic_head.pixel_decoder.input_convs.#.conv.",
        f"{theirs}input_proj.#.1.": "panoptic_head.pixel_decoder.input_convs.#.gn.",
        f"{theirs}transformer.level_embed": "panoptic_head.pixel_decoder.level_encoding.weight",
        f"{theirs}transformer.encoder.layers.#.self_attn.": f"{_ENCODER}self_attn.",
        f"{theirs}transformer.encoder.layers.#.norm1.": f"{_ENCODER}norms.0.",
        f"{theirs}transformer.encoder.layers.#.linear1.": f"{_ENCODER}ffn.layers.0.0.",
        f"{theirs}transformer.encoder.layers.#.linear2.": f"{_ENCODER}ffn.layers.1.",
        f"{theirs}transformer.encoder.layers.#.norm2.": f"{_ENCODER}norms.1.",
        # The stride of 4 alone is made by convolutions.
        f"{theirs}adapter_1.": "panoptic_head.pixel_decoder.lateral_convs.0.conv.",
        f"{theirs}adapter_1.norm.": "panoptic_head.pixel_decoder.lateral_convs.0.gn.",
        f"{theirs}layer_1.": "panoptic_head.pixel_decoder.output_convs.0.conv.",
        f"{theirs}layer_1.norm.": "panoptic_head.pixel_decoder.output_convs.0.gn.",
        f"{theirs}mask_features.": "panoptic_head.pixel_decoder.mask_feature.",
    }


NAMES = NameMap(
    {
        # The second form is that of files from before version 2 of the authors' head.
        **_pixel_decoder("sem_seg_head.pixel_decoder."),
        **_pixel_decoder("sem_seg_head."),
        f"{_QUERIES}transformer_cross_attention_layers.#.multihead_attn.": f"{_DECODER}cross_attn.attn.",
        f"{_QUERIES}transformer_cross_attention_layers.#.norm.": f"{_DECODER}norms.0.",
        f"{_QUERIES}transformer_self_attention_layers.#.self_attn.": f"{_DECODER}self_attn.attn.",
        f"{_QUERIES}transformer_self_attention_layers.#.norm.": f"{_DECODER}norms.1.",
        f"{_QUERIES}transformer_ffn_layers.#.linear1.": f"{_DECODER}ffn.layers.0.0.",
        f"{_QUERIES}transformer_ffn_layers.#.linear2.": f"{_DECODER}ffn.layers.1.",
        f"{_QUERIES}transformer_ffn_layers.#.norm.": f"{_DECODER}norms.2.",
        f"{_QUERIES}decoder_norm.": "panoptic_head.transformer_decoder.post_norm.",
        f"{_QUERIES}query_feat.": "panoptic_head.query_feat.",
        f"{_QUERIES}static_query.": "panoptic_head.query_feat.",
        f"{_QUERIES}query_embed.": "panoptic_head.query_embed.",
        f"{_QUERIES}level_embed.": "panoptic_head.level_embed.",
        f"{_QUERIES}class_embed.": "panoptic_head.cls_embed.",
        # Linear layers between which mmdet counts the ReLUs.
        **{f"{_QUERIES}mask_embed.layers.{layer}.": f"panoptic_head.mask_embed.{2 * layer}." for layer in range(3)},
    },
    left_out={"criterion.empty_weight": "the weights of the classes in the loss"},
)
