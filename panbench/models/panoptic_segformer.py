"""Panoptic SegFormer as a torch module: mmdet 3.3.0's deformable DETR, and the two mask heads that it does not have.

Deformable DETR finds things; a mask head computes each query's mask from its attention to the encoder's memory. Stuff
has a fixed query per class, and its own mask head. [Li et al. 2022, secs. 3.3 and 3.4; the arithmetic
is that of the authors' code, zhiqi-li/Panoptic-SegFormer cdb9b68]

Images are resized and not padded, and candidates are for mask-wise merging, as in the authors' code.
"""

import dataclasses
import itertools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panbench.catalog import ModelSpec
from panbench.models.adapter import Adapter
from panbench.models.async_device import to_host
from panbench.models.attention import Attention, LayerAttention, record_module_calls
from panbench.models.candidates import Candidates, Frame, one_class_scores, pixel_boxes
from panbench.models.decoders import Decoder, Part
from panbench.models.labels import coco_labels
from panbench.models.mmdet import deformable, lean, operators, speedups
from panbench.models.mmdet.backbone_names import match_official_epsilons, renamed
from panbench.models.preprocess import Resize
from panbench.models.rules import parse_rule

operators.install()
lean.import_mmdet()

from mmdet.models.detectors.deformable_detr import DeformableDETR  # noqa: E402

MOST_THINGS = 100
"""The number of best (query, class) pairs that are thing candidates: the authors' `max_per_img`."""

_LAYER_NORM_EPS = 1e-6


class NetworkLayout(NamedTuple):
    """Describes the sizes of a Panoptic SegFormer; the defaults are those of every published one.

    backbone: an mmdet backbone's config with three output levels of strides 8, 16, 32; channels: of these levels
    """

    backbone: Mapping[str, Any]
    channels: tuple[int, ...]
    width: int = 256
    feedforward: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 300
    things: int = 80
    stuff: int = 53
    heads: int = 8
    thing_mask_layers: int = 4
    stuff_mask_layers: int = 6


class Outputs(NamedTuple):
    """Holds the network's output for a batch of n images, before the best (query, class) pairs are selected.

    thing_logits: (n, queries, things); boxes: (n, queries, 4) cx, cy, w, h as fractions of the resized image
    memory: (n, Σ h·w, width) of the three finer levels; queries: (n, queries, width)
    levels: (h, w) of those three levels
    """

    thing_logits: Tensor
    boxes: Tensor
    memory: Tensor
    queries: Tensor
    levels: tuple[tuple[int, int], ...]


class Masks(NamedTuple):
    """Holds the candidates of one image: the selected (query, class) pairs, then one per stuff class.

    labels: (k,); scores: (k,) probabilities; masks: (k, h, w) at stride 8, covering the padded image, ≥ 0
    boxes: (pairs, 4) as in Outputs; none for stuff
    """

    labels: Tensor
    scores: Tensor
    masks: Tensor
    boxes: Tensor


class _Attention(nn.Module):
    """Attends from queries to the encoder's output, and computes masks from the attention weights.

    For a mask, the weights of each level (before the softmax) go through a linear layer over the heads, are resized to
    the finest level, and are combined by another one. The last attention of a head has no values, only masks.
    """

    def __init__(self, width: int, heads: int, has_values: bool = True) -> None:
        """Builds attention with `heads` heads; with `has_values` False it predicts only masks."""
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        if has_values:
            self.v, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.linear_l1, self.linear_l2, self.linear_l3 = (
            nn.Sequential(nn.Linear(heads, heads), nn.ReLU()) for _ in range(3)
        )
        self.linear = nn.Sequential(nn.Linear(3 * heads, 1), nn.ReLU())

    def attention_weights(self, query: Tensor, key: Tensor) -> Tensor:
        """Returns attention weights (n, heads, queries, Σ h·w) before the softmax."""
        q, k = self._split_heads(self.q(query)), self._split_heads(self.k(key))
        return (q @ k.transpose(-2, -1)) * (q.shape[-1] ** -0.5)

    def attend(self, query: Tensor, memory: Tensor) -> Tensor:
        """Returns the attended values of the encoder's output, (n, queries, width)."""
        n, queries, width = query.shape
        seen = self.attention_weights(query, memory).softmax(dim=-1) @ self._split_heads(self.v(memory))
        return cast(Tensor, self.proj(seen.transpose(1, 2).reshape(n, queries, width)))

    def predict_masks(self, query: Tensor, memory: Tensor, levels: Sequence[tuple[int, int]]) -> Tensor:
        """Predicts masks (n, queries, h, w), not below 0, at the finest level from the attention weights."""
        weights = self.attention_weights(query, memory).permute(0, 2, 3, 1)
        n, queries = weights.shape[:2]
        parts = weights.split([h * w for h, w in levels], dim=2)
        same_size = []
        for layer, part, (h, w) in zip((self.linear_l1, self.linear_l2, self.linear_l3), parts, levels, strict=True):
            maps = layer(part).permute(0, 1, 3, 2).reshape(n * queries, self.heads, h, w)
            if (h, w) != levels[0]:
                maps = F.interpolate(maps, size=levels[0], mode="bilinear")
            same_size.append(maps)
        stacked = torch.cat(same_size, dim=1).permute(0, 2, 3, 1)
        return cast(Tensor, self.linear(stacked).reshape(n, queries, *levels[0]))

    def _split_heads(self, tokens: Tensor) -> Tensor:
        """Splits tokens (n, count, width) into heads, (n, heads, count, width / heads)."""
        n, count, width = tokens.shape
        return tokens.reshape(n, count, self.heads, width // self.heads).transpose(1, 2)


class _SelfAttention(nn.Module):
    """Attends among the queries."""

    def __init__(self, width: int, heads: int) -> None:
        """Builds the layers for queries of `width` channels."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, query: Tensor) -> Tensor:
        """Returns queries (n, queries, width) after self-attention."""
        n, count, width = query.shape
        q, k, v = self.qkv(query).reshape(n, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5).softmax(dim=-1)
        return cast(Tensor, self.proj((weights @ v).transpose(1, 2).reshape(n, count, width)))


class _MaskHeadLayer(nn.Module):
    """Refines queries in one layer of a mask head; the layers for its own masks are used in training only."""

    def __init__(self, width: int, heads: int, self_attention: bool) -> None:
        """Builds one layer of a mask head; heads of stuff have self-attention."""
        super().__init__()
        self.head_norm1, self.head_norm2 = (nn.LayerNorm(width, eps=_LAYER_NORM_EPS) for _ in range(2))
        self.attn = _Attention(width, heads)
        inner, outer = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(OrderedDict(fc1=inner, gelu=nn.GELU(), fc2=outer))
        self.self_attention: _SelfAttention | None = None
        if self_attention:
            self.self_attention = _SelfAttention(width, heads)
            self.norm3 = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """Returns the queries refined by attention to `memory`, the encoder's output, and a feed-forward network."""
        if self.self_attention is not None:
            query = self.norm3(query + self.self_attention(query))
        query = self.head_norm1(query + self.attn.attend(query, memory))
        return cast(Tensor, self.head_norm2(query + self.mlp(query)))


class MaskHead(nn.Module):
    """Refines queries by attending to the encoder's output, and predicts their masks. Names are the authors'."""

    def __init__(self, width: int, heads: int, layers: int, self_attention: bool = False) -> None:
        """Builds a mask head of some layers, and the attention that predicts its masks."""
        super().__init__()
        self.blocks = nn.ModuleList(_MaskHeadLayer(width, heads, self_attention) for _ in range(layers))
        self.attnen = _Attention(width, heads, has_values=False)

    def forward(
        self, query: Tensor, memory: Tensor, levels: Sequence[tuple[int, int]], position: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns masks (n, queries, h, w) and refined queries (n, queries, width).

        position: of stuff queries, added before each layer, also to its residual, as in the authors' code
        """
        for block in self.blocks:
            query = block(query if position is None else query + position, memory)
        return self.attnen.predict_masks(query if position is None else query + position, memory, levels), query


class PanopticSegFormer(DeformableDETR):
    """Joins deformable DETR and two mask heads, for things and for stuff, to the complete network.

    `forward` runs the network, `select_candidates` selects an image's candidates.
    """

    def __init__(self, layout: NetworkLayout) -> None:
        """Builds deformable DETR and the two mask heads in the sizes of `layout`."""
        width = layout.width
        attention = {"embed_dims": width, "num_levels": 4, "batch_first": True}
        feed_forward = {"embed_dims": width, "feedforward_channels": layout.feedforward}
        super().__init__(
            num_queries=layout.queries,
            num_feature_levels=4,
            with_box_refine=True,
            as_two_stage=False,
            backbone={**layout.backbone},
            neck={
                "type": "ChannelMapper",
                "in_channels": list(layout.channels),
                "kernel_size": 1,
                "out_channels": width,
                "act_cfg": None,
                "norm_cfg": {"type": "GN", "num_groups": 32},
                "num_outs": 4,
            },
            encoder={
                "num_layers": layout.encoder_layers,
                "layer_cfg": {"self_attn_cfg": attention, "ffn_cfg": feed_forward},
            },
            decoder={
                "num_layers": layout.decoder_layers,
                "return_intermediate": True,
                "layer_cfg": {
                    "self_attn_cfg": {"embed_dims": width, "num_heads": 8, "batch_first": True},
                    "cross_attn_cfg": attention,
                    "ffn_cfg": feed_forward,
                },
                "post_norm_cfg": None,
            },
            positional_encoding={"num_feats": width // 2, "normalize": True, "offset": -0.5},
            bbox_head={
                "type": "DeformableDETRHead",
                "num_classes": layout.things,
                "embed_dims": width,
                "loss_cls": {"type": "FocalLoss", "use_sigmoid": True},
            },
        )
        match_official_epsilons(self.backbone)
        nn.init.normal_(self.level_embed)  # mmdet does not initialise it
        deformable.keep_in_float32(self.reference_points_fc, *cast(Any, self.bbox_head).reg_branches)
        self.layout = layout
        self.stuff_query = nn.Embedding(layout.stuff, 2 * width)
        self.things_mask_head = MaskHead(width, layout.heads, layout.thing_mask_layers)
        self.stuff_mask_head = MaskHead(width, layout.heads, layout.stuff_mask_layers, self_attention=True)
        self.stuff_classifier = nn.Linear(width, 1)

    def forward(self, pixels: Tensor, resized: Sequence[tuple[int, int]]) -> Outputs:  # type: ignore[override]
        """Runs the network on normalised pixels, padded at right and bottom.

        pixels: (n, 3, H, W); resized: each image's (h, w) without padding
        """
        return self.transform(self.extract_feat(pixels), (int(pixels.shape[-2]), int(pixels.shape[-1])), resized)

    def transform(
        self, features: Sequence[Tensor], padded: tuple[int, int], resized: Sequence[tuple[int, int]]
    ) -> Outputs:
        """Runs encoder and decoder on the neck's four feature maps."""
        levels = deformable.feature_levels_of(features)
        masks = self._padding_masks(features, padded, resized)
        positions = torch.cat(
            [
                self.positional_encoding(mask, input=feature).flatten(2).transpose(1, 2) + self.level_embed[level]
                for level, (feature, mask) in enumerate(itertools.zip_longest(features, masks))
            ],
            dim=1,
        )
        tokens = torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], dim=1)
        valid = tokens.new_ones((len(tokens), len(features), 2), dtype=torch.float32)
        padding: Tensor | None = None
        if masks:
            padding = torch.cat([mask.flatten(1) for mask in masks], dim=1)
            valid = torch.stack([self.get_valid_ratio(mask) for mask in masks], dim=1)
        references = self.encoder.get_encoder_reference_points(levels.sizes, valid, device=tokens.device)
        memory = deformable.encode(self.encoder, tokens, positions, levels, references, padding)
        found, _ = self.pre_decoder(memory, padding, levels.shapes)
        hidden = self.forward_decoder(
            **found,
            memory_mask=padding,
            spatial_shapes=levels.shapes,
            level_start_index=levels.starts,
            valid_ratios=valid,
        )
        states, references = hidden["hidden_states"], hidden["references"]
        classes, boxes = cast(Any, self.bbox_head)(states, references)
        finer = sum(h * w for h, w in levels.sizes[:3])
        return Outputs(classes[-1], boxes[-1], memory[:, :finer], states[-1], levels.sizes[:3])

    def _padding_masks(
        self, features: Sequence[Tensor], padded: tuple[int, int], resized: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """Returns for each level a mask (n, h, w) that is true on padding; [] if no image is padded."""
        if all(tuple(size) == tuple(padded) for size in resized):
            return []
        outside = features[0].new_ones((1, len(resized), *padded))
        for image, (height, width) in enumerate(resized):
            outside[0, image, :height, :width] = 0
        return [F.interpolate(outside, size=feature.shape[-2:])[0].bool() for feature in features]

    def forward_with_attention(self, forward: Callable[[], Outputs]) -> tuple[Outputs, list[LayerAttention]]:
        """Runs `forward`, the network on one image; returns its outputs and the attention of thing queries by layer.

        Only the last layer has masks, those of the mask head.
        """
        parts = {number: layer.cross_attn for number, layer in enumerate(cast(Any, self.decoder).layers)}
        with record_module_calls(parts) as calls:
            outputs = forward()
        masks, _ = self.things_mask_head(outputs.queries[:1], outputs.memory[:1], outputs.levels)
        last = len(parts) - 1
        by_layer = [
            LayerAttention(
                deformable.sampled_attention(part, calls[number][-1]), None, masks[0] if number == last else None
            )
            for number, part in parts.items()
        ]
        return outputs, by_layer

    def select_candidates(self, outputs: Outputs, image: int) -> Masks:
        """Selects the candidates of one image: the 100 best (query, class) pairs, and every stuff class."""
        things, width = self.layout.things, self.layout.width
        memory = outputs.memory[image : image + 1]
        probabilities = outputs.thing_logits[image].float().sigmoid().flatten()
        scores, pairs = probabilities.topk(min(MOST_THINGS, len(probabilities)))
        queries, labels = pairs // things, pairs % things
        thing_masks, _ = self.things_mask_head(outputs.queries[image : image + 1, queries], memory, outputs.levels)
        content, position = self.stuff_query.weight[None].split(width, dim=2)
        stuff_masks, refined = self.stuff_mask_head(content, memory, outputs.levels, position)
        stuff_scores = self.stuff_classifier(refined)[0, :, 0].float().sigmoid()
        stuff_labels = torch.arange(things, things + self.layout.stuff, device=labels.device)
        return Masks(
            torch.cat([labels, stuff_labels]),
            torch.cat([scores, stuff_scores]),
            torch.cat([thing_masks[0], stuff_masks[0]]),
            outputs.boxes[image, queries],
        )


_ONLY_TRAINED = ("bbox_head.reg_branches2.", "bbox_head.cls_thing_branches.")
"""Branches of the authors' mask heads for losses of weight 0; inference never calls them."""

_PATTERNS = (
    (r"^bbox_head\.transformer\.level_embeds$", "level_embed"),
    (r"^bbox_head\.transformer\.reference_points\.", "reference_points_fc."),
    (r"^bbox_head\.transformer\.(encoder|decoder)\.", r"\1."),
    (r"^bbox_head\.(query_embedding|stuff_query|things_mask_head|stuff_mask_head)\.", r"\1."),
    (r"^encoder\.layers\.(\d+)\.attentions\.0\.", r"encoder.layers.\1.self_attn."),
    (r"^decoder\.layers\.(\d+)\.attentions\.0\.", r"decoder.layers.\1.self_attn."),
    (r"^decoder\.layers\.(\d+)\.attentions\.1\.", r"decoder.layers.\1.cross_attn."),
    (r"^(encoder|decoder)\.layers\.(\d+)\.ffns\.0\.", r"\1.layers.\2.ffn."),
)


def rename(state_dict: Mapping[str, Tensor], layout: NetworkLayout) -> dict[str, Tensor]:
    """Renames the parameters of the authors' checkpoint to this module's names.

    Drops what only training uses: branches for losses of weight 0, and all stuff classifiers but the last.
    """
    *others, last = (f"bbox_head.cls_stuff_branches.{layer}." for layer in range(layout.stuff_mask_layers))
    patterns = ((f"^{re.escape(last)}", "stuff_classifier."), *_PATTERNS)
    return renamed(state_dict, patterns, layout.backbone, (*_ONLY_TRAINED, *others))


class PanopticSegFormerAdapter(Adapter):
    """Runs Panoptic SegFormer on an mmdet backbone.

    settings: `backbone` (an mmdet config), `channels`, `quality`, and other fields of NetworkLayout
    """

    # The authors pad with size_divisor 1, which is no padding.
    resize = Resize(short=800, long=1333, way="cv2")
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def __init__(self, spec: ModelSpec) -> None:
        """Reads the sizes of the network's layers and the fusion rule's threshold from the model's settings."""
        super().__init__(spec)
        settings = dict(spec.settings)
        self.rule = parse_rule(f"mask-wise:quality={settings.pop('quality', 0.25)}")
        self.layout = NetworkLayout(**settings)
        self.class_names, self.isthing = coco_labels()

    def build(self) -> nn.Module:
        """Returns the network with the initial weights of its layers."""
        return PanopticSegFormer(self.layout)

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames the parameters of the authors' checkpoint to this module's names."""
        return rename(state_dict, self.layout)

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Removes from mmdet's modules what only training needs, and host synchronisation."""
        return speedups.speed_up_mmdet_parts(module, device)

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> list[Candidates]:
        """Returns the 100 best (query, class) pairs and the 53 stuff classes of each image; masks are not logits."""
        outputs = module(pixels, [frame.resized for frame in frames])
        chosen = [module.select_candidates(outputs, image) for image in range(len(frames))]
        # Labels are small numbers, so float32 holds them exactly.
        host = to_host(torch.stack([torch.stack([each.labels.float(), each.scores]) for each in chosen])).numpy()
        found = []
        for (labels, scores, masks, boxes), frame, (host_labels, gate) in zip(chosen, frames, host, strict=True):
            class_scores, class_weights = one_class_scores(labels, scores, self.isthing)
            found.append(
                Candidates(
                    host_labels.astype(np.int64),
                    gate,
                    scores,
                    masks,
                    dataclasses.replace(frame, one_step=True),
                    self.isthing,
                    "identity",
                    class_scores,
                    class_weights,
                    boxes=_clipped_boxes(boxes, frame.original, len(labels)),
                )
            )
        return found

    def decoder(self, module: Any) -> Decoder:
        """Returns the decoder of things, which can be cut after any layer; each has its own class and box branches.

        Its layers do not affect stuff queries.
        """
        before = (module.backbone, module.neck, *module.encoder.layers, module.stuff_mask_head)
        return Decoder.of_layers(module.decoder.layers, *map(Part, before))

    def attention_of(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """Returns the decoder's cross-attention, for queries of things only.

        Stuff queries attend in their mask head instead.
        """
        outputs, layers = module.forward_with_attention(lambda: module(pixels, [frame.resized]))
        scores, labels = outputs.thing_logits[0].float().sigmoid().max(dim=-1)
        # Masks are not logits: a pixel belongs to a mask from 0.5 on.
        return Attention(scores, labels, layers, frame, threshold=0.5)


def _clipped_boxes(fractions: Tensor, original: tuple[int, int], count: int) -> Tensor:
    """Returns (count, 4) boxes of things in pixels, clipped to the image as by the authors; zeros for stuff."""
    height, width = original
    boxes = fractions.new_zeros((count, 4), dtype=torch.float32)
    found = pixel_boxes(fractions, height, width)
    boxes[: len(found), 0::2] = found[:, 0::2].clamp(0, width)
    boxes[: len(found), 1::2] = found[:, 1::2].clamp(0, height)
    return boxes
