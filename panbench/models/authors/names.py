"""Maps parameter names of the authors' code to mmdet's: a table of prefixes per family.

[facebookresearch/Mask2Former 9b0651c, facebookresearch/MaskFormer da3e60d, detectron2 02b5c4e]
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from panbench.base.errors import BadCheckpoint
from panbench.base.text import listed
from panbench.models.mmdet.backbone_names import rename_backbone


@dataclass(frozen=True)
class ParameterNameMap:
    """Maps the authors' parameter names of one family to mmdet's.

    prefixes: the authors' → mmdet's; `#` stands for a number that is kept; the longest matching prefix is used
    backbone: the prefix of the authors' backbone
    left_out: names that mmdet's network lacks, each with the reason; `#` as above
    """

    prefixes: Mapping[str, str]
    backbone: str = "backbone."
    left_out: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, state_dict: Mapping[str, Tensor], backbone: Mapping[str, Any]) -> dict[str, Tensor]:
        """Renames a checkpoint's tensors to mmdet's names. Raises BadCheckpoint for unknown names.

        backbone: its mmdet config
        """
        of_backbone = {
            name.removeprefix(self.backbone): value
            for name, value in state_dict.items()
            if name.startswith(self.backbone) and self._mmdet_name(name) is None
        }
        found = {f"backbone.{name}": value for name, value in rename_backbone(of_backbone, backbone).items()}
        wrong = []
        for name, value in state_dict.items():
            source = self._mmdet_name(name)
            if source in found or (
                source is None and not name.startswith(self.backbone) and not self.is_left_out(name)
            ):
                wrong.append(name)
            elif source is not None:
                found[source] = value
        if wrong or not of_backbone:
            reason = f"unknown are {listed(wrong, 8)}" if wrong else f"it has no {self.backbone}…"
            raise BadCheckpoint(
                f"These weights do not have the names of the authors' code: {reason}. Files of mmdet belong to the "
                "model without -authors in its name."
            )
        return found

    def is_left_out(self, name: str) -> bool:
        """Returns whether mmdet's network has no such parameter by design, such as the loss's class weights."""
        return any(re.fullmatch(_prefix_pattern(left), name) for left in self.left_out)

    def _mmdet_name(self, name: str) -> str | None:
        """Translates one of the authors' parameter names to mmdet's; None for backbone parameters and unknown names."""
        # Files from before version 2 of the authors' head have the shorter form.
        name = name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.", 1)
        for theirs in sorted(self.prefixes, key=len, reverse=True):
            if found := re.match(_prefix_pattern(theirs), name):
                ours = self.prefixes[theirs]
                for number in found.groups():
                    ours = ours.replace("#", number, 1)
                return ours + name[found.end() :]
        return None


def _prefix_pattern(text: str) -> str:
    """Returns a regular expression for a name prefix in which `#` stands for a number."""
    return re.escape(text).replace(r"\#", r"(\d+)")


_HEAD, _QUERIES = "sem_seg_head.", "sem_seg_head.predictor."
_PIXELS, _DECODER = "panoptic_head.pixel_decoder.", "panoptic_head.transformer_decoder.layers.#."


def _convolution_and_norm(theirs: str, ours: str) -> dict[str, str]:
    """Returns prefixes, the authors' → mmdet's, of a convolution and the group norm after it."""
    return {f"{theirs}.": f"{ours}.conv.", f"{theirs}.norm.": f"{ours}.gn."}


def _transformer_layer(theirs: str, ours: str, attentions: Mapping[str, str]) -> dict[str, str]:
    """Returns prefixes, the authors' → mmdet's, of a transformer layer's attentions, linear layers and norms."""
    norms = {f"{theirs}norm{number + 1}.": f"{ours}norms.{number}." for number in range(len(attentions) + 1)}
    linear = {f"{theirs}linear1.": f"{ours}ffn.layers.0.0.", f"{theirs}linear2.": f"{ours}ffn.layers.1."}
    return {f"{theirs}{name}.": f"{ours}{other}." for name, other in attentions.items()} | norms | linear


_HEADS = {
    f"{_HEAD}mask_features.": f"{_PIXELS}mask_feature.",
    f"{_QUERIES}query_embed.": "panoptic_head.query_embed.",
    f"{_QUERIES}class_embed.": "panoptic_head.cls_embed.",
    # Linear layers between which mmdet counts the ReLUs.
    **{f"{_QUERIES}mask_embed.layers.{layer}.": f"panoptic_head.mask_embed.{2 * layer}." for layer in range(3)},
}
_LOSS = {"criterion.empty_weight": "the weights of the classes in the loss"}

MASK2FORMER = ParameterNameMap(
    {
        **_HEADS,
        f"{_HEAD}input_proj.#.0.": f"{_PIXELS}input_convs.#.conv.",
        f"{_HEAD}input_proj.#.1.": f"{_PIXELS}input_convs.#.gn.",
        f"{_HEAD}transformer.level_embed": f"{_PIXELS}level_encoding.weight",
        **_transformer_layer(
            f"{_HEAD}transformer.encoder.layers.#.", f"{_PIXELS}encoder.layers.#.", {"self_attn": "self_attn"}
        ),
        # The stride of 4 alone is made by convolutions.
        **_convolution_and_norm(f"{_HEAD}adapter_1", f"{_PIXELS}lateral_convs.0"),
        **_convolution_and_norm(f"{_HEAD}layer_1", f"{_PIXELS}output_convs.0"),
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
        f"{_QUERIES}level_embed.": "panoptic_head.level_embed.",
    },
    left_out=_LOSS,
)
"""[Cheng et al. 2022]"""


def _maskformer_names(smallest: str) -> ParameterNameMap:
    """Returns the table from MaskFormer's parameter names to mmdet's, for one of its two pixel decoders.

    smallest: mmdet's name of the convolution of the map of stride 32
    """
    attention, both = (
        {"self_attn": "self_attn.attn"},
        {"self_attn": "self_attn.attn", "multihead_attn": "cross_attn.attn"},
    )
    prefixes = {
        **_HEADS,
        **_convolution_and_norm(f"{_HEAD}layer_4", f"{_PIXELS}{smallest}"),
        f"{_HEAD}input_proj.": f"{_PIXELS}encoder_in_proj.",
        **_transformer_layer(f"{_HEAD}transformer.encoder.layers.#.", f"{_PIXELS}encoder.layers.#.", attention),
        **_transformer_layer(f"{_QUERIES}transformer.decoder.layers.#.", _DECODER, both),
        f"{_QUERIES}transformer.decoder.norm.": "panoptic_head.transformer_decoder.post_norm.",
        f"{_QUERIES}input_proj.": "panoptic_head.decoder_input_proj.",
    }
    for level in (1, 2, 3):
        prefixes |= _convolution_and_norm(f"{_HEAD}adapter_{level}", f"{_PIXELS}lateral_convs.{level - 1}")
        prefixes |= _convolution_and_norm(f"{_HEAD}layer_{level}", f"{_PIXELS}output_convs.{level - 1}")
    return ParameterNameMap(prefixes, left_out=_LOSS)


MASKFORMER = _maskformer_names("encoder_out_proj")
"""With transformer layers in the pixel decoder: R50, R101. [Cheng et al. 2021]"""
MASKFORMER_PLAIN = _maskformer_names("last_feat_conv")
"""Without: Swin."""

_SEMANTIC = "semantic_head.conv_upsample_layers"

PANOPTIC_FPN = ParameterNameMap(
    {
        **{f"backbone.fpn_lateral{level}.": f"neck.lateral_convs.{level - 2}.conv." for level in (2, 3, 4, 5)},
        **{f"backbone.fpn_output{level}.": f"neck.fpn_convs.{level - 2}.conv." for level in (2, 3, 4, 5)},
        "proposal_generator.rpn_head.conv.": "rpn_head.rpn_conv.",
        "proposal_generator.rpn_head.objectness_logits.": "rpn_head.rpn_cls.",
        "proposal_generator.rpn_head.anchor_deltas.": "rpn_head.rpn_reg.",
        "roi_heads.box_head.fc1.": "roi_head.bbox_head.shared_fcs.0.",
        "roi_heads.box_head.fc2.": "roi_head.bbox_head.shared_fcs.1.",
        "roi_heads.box_predictor.cls_score.": "roi_head.bbox_head.fc_cls.",
        "roi_heads.box_predictor.bbox_pred.": "roi_head.bbox_head.fc_reg.",
        **{
            f"roi_heads.mask_head.mask_fcn{conv}.": f"roi_head.mask_head.convs.{conv - 1}.conv." for conv in range(1, 5)
        },
        "roi_heads.mask_head.deconv.": "roi_head.mask_head.upsample.",
        "roi_heads.mask_head.predictor.": "roi_head.mask_head.conv_logits.",
        # Upsampling counts in their list of layers: a convolution stands at every second place.
        **{
            f"sem_seg_head.p{level}.{2 * conv}.{theirs}": f"{_SEMANTIC}.{level - 2}.conv.{conv}.{ours}."
            for level in (2, 3, 4, 5)
            for conv in range(max(1, level - 2))
            for theirs, ours in (("", "conv"), ("norm.", "gn"))
        },
        "sem_seg_head.predictor.": "semantic_head.conv_logits.",
    },
    backbone="backbone.bottom_up.",
    left_out={
        "proposal_generator.anchor_generator.cell_anchors.#": "the anchors, which the config describes",
        "pixel_mean": "the means, which the config states",
        "pixel_std": "the deviations, which the config states",
    },
)
"""[detectron2's config panoptic_fpn]"""
