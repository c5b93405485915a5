"""Panoptic SegFormer as a torch module: mmdet 3.3.0's deformable DETR, and the two mask heads that it does not have.

Deformable DETR places things; a mask head reads each query's mask off the attention that it pays to the encoder's
memory. Stuff has a fixed query a class, and a mask head of its own. [Li et al. 2022, secs. 3.3 and 3.4; the arithmetic
is that of the authors' code, zhiqi-li/Panoptic-SegFormer cdb9b68]
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panbench.models.attention import Look, calls_of
from panbench.models.mmdet import deformable, lean, operators
from panbench.models.mmdet.backbone_names import match_official_epsilons, rename_backbone

operators.install()
lean.import_mmdet()

from mmdet.models.detectors.deformable_detr import DeformableDETR  # noqa: E402

__all__ = ["Layout", "MaskHead", "Outputs", "PanopticSegFormer", "rename"]

MOST_THINGS = 100
"""How many (query, class) pairs compete for being things: upstream's `max_per_img`."""

_LAYER_NORM_EPS = 1e-6


class Layout(NamedTuple):
    """The sizes of a Panoptic SegFormer; the defaults are those of every published one, whatever its backbone.

    backbone: an mmdet backbone's config with three output levels of strides 8, 16, 32; channels: theirs
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
    """The network's output for a batch of n images, before the best (query, class) pairs are chosen.

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
    """The candidates of one image: the chosen (query, class) pairs, then one a stuff class.

    labels: (k,); scores: (k,) probabilities; masks: (k, h, w) of the padded image's extent at stride 8, ≥ 0
    boxes: (pairs, 4) as in Outputs; stuff has none
    """

    labels: Tensor
    scores: Tensor
    masks: Tensor
    boxes: Tensor


class _Attention(nn.Module):
    """Queries that look at the memory: what they see, and the mask that the weights of their heads make.

    For the mask, the weights of each level (before the softmax) go through a small layer over the heads, are brought to
    the finest level, and are summed up by another. The last attention of a head has no values: it gives the mask alone.
    """

    def __init__(self, width: int, heads: int, has_values: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k = nn.Linear(width, width), nn.Linear(width, width)
        if has_values:
            self.v, self.proj = nn.Linear(width, width), nn.Linear(width, width)
        self.linear_l1, self.linear_l2, self.linear_l3 = (
            nn.Sequential(nn.Linear(heads, heads), nn.ReLU()) for _ in range(3)
        )
        self.linear = nn.Sequential(nn.Linear(3 * heads, 1), nn.ReLU())

    def weights(self, query: Tensor, key: Tensor) -> Tensor:
        """(n, heads, queries, Σ h·w) before the softmax."""
        q, k = self._by_head(self.q(query)), self._by_head(self.k(key))
        return (q @ k.transpose(-2, -1)) * (q.shape[-1] ** -0.5)

    def look(self, query: Tensor, memory: Tensor) -> Tensor:
        """(n, queries, width): the memory as the queries see it."""
        n, queries, width = query.shape
        seen = self.weights(query, memory).softmax(dim=-1) @ self._by_head(self.v(memory))
        return cast(Tensor, self.proj(seen.transpose(1, 2).reshape(n, queries, width)))

    def mask(self, query: Tensor, memory: Tensor, levels: Sequence[tuple[int, int]]) -> Tensor:
        """(n, queries, h, w) of the finest level, not below 0."""
        weights = self.weights(query, memory).permute(0, 2, 3, 1)
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

    def _by_head(self, tokens: Tensor) -> Tensor:
        n, count, width = tokens.shape
        return tokens.reshape(n, count, self.heads, width // self.heads).transpose(1, 2)


class _SelfAttention(nn.Module):
    """Queries that look at each other."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, query: Tensor) -> Tensor:
        n, count, width = query.shape
        q, k, v = self.qkv(query).reshape(n, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = ((q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5).softmax(dim=-1)
        return cast(Tensor, self.proj((weights @ v).transpose(1, 2).reshape(n, count, width)))


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, query: Tensor) -> Tensor:
        return cast(Tensor, self.fc2(F.gelu(self.fc1(query))))


class _Block(nn.Module):
    """A layer of a mask head. Its attention also carries the layers of a mask that only training looks at."""

    def __init__(self, width: int, heads: int, self_attention: bool) -> None:
        super().__init__()
        self.head_norm1, self.head_norm2 = (nn.LayerNorm(width, eps=_LAYER_NORM_EPS) for _ in range(2))
        self.attn = _Attention(width, heads)
        self.mlp = _FeedForward(width)
        self.self_attention: _SelfAttention | None = None
        if self_attention:
            self.self_attention = _SelfAttention(width, heads)
            self.norm3 = nn.LayerNorm(width, eps=_LAYER_NORM_EPS)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        if self.self_attention is not None:
            query = self.norm3(query + self.self_attention(query))
        query = self.head_norm1(query + self.attn.look(query, memory))
        return cast(Tensor, self.head_norm2(query + self.mlp(query)))


class MaskHead(nn.Module):
    """Refines queries over the memory and reads their masks off a last attention. Names are those of upstream."""

    def __init__(self, width: int, heads: int, layers: int, self_attention: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, heads, self_attention) for _ in range(layers))
        self.attnen = _Attention(width, heads, has_values=False)

    def forward(
        self, query: Tensor, memory: Tensor, levels: Sequence[tuple[int, int]], position: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(n, queries, h, w) masks and the (n, queries, width) refined queries, of (n, queries, width).

        position: added to the queries before each layer (stuff's), in whose residual it stays, as upstream has it
        """
        for block in self.blocks:
            query = block(query if position is None else query + position, memory)
        return self.attnen.mask(query if position is None else query + position, memory, levels), query


class PanopticSegFormer(DeformableDETR):
    """The whole network; `forward` takes normalised pixels, `choose` makes the candidates of one image."""

    def __init__(self, layout: Layout) -> None:
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
        nn.init.normal_(self.level_embed)  # mmdet leaves it as the memory was
        deformable.keep_in_float32(self.reference_points_fc, *cast(Any, self.bbox_head).reg_branches)
        self.layout = layout
        self.stuff_query = nn.Embedding(layout.stuff, 2 * width)
        self.things_mask_head = MaskHead(width, layout.heads, layout.thing_mask_layers)
        self.stuff_mask_head = MaskHead(width, layout.heads, layout.stuff_mask_layers, self_attention=True)
        self.stuff_classifier = nn.Linear(width, 1)

    def forward(self, pixels: Tensor, resized: Sequence[tuple[int, int]]) -> Outputs:  # type: ignore[override]
        """pixels: (n, 3, H, W) normalised and padded at the right and below; resized: each image's (h, w) within."""
        return self.transform(self.extract_feat(pixels), (int(pixels.shape[-2]), int(pixels.shape[-1])), resized)

    def transform(
        self, features: Sequence[Tensor], padded: tuple[int, int], resized: Sequence[tuple[int, int]]
    ) -> Outputs:
        """The outputs from the neck's four feature maps."""
        levels = deformable.levels_of(features)
        masks = self._padding(features, padded, resized)
        positions = torch.cat(
            [
                self.positional_encoding(mask, input=feature).flatten(2).transpose(1, 2) + self.level_embed[level]
                for level, (feature, mask) in enumerate(zip(features, masks, strict=True))
            ],
            dim=1,
        )
        tokens = torch.cat([feature.flatten(2).transpose(1, 2) for feature in features], dim=1)
        whole = tokens.new_ones((len(tokens), len(features), 2), dtype=torch.float32)
        padding: Tensor | None = None
        known = [mask for mask in masks if mask is not None]
        if known:
            padding = torch.cat([mask.flatten(1) for mask in known], dim=1)
            whole = torch.stack([self.get_valid_ratio(mask) for mask in known], dim=1)
        memory = deformable.encode(self.encoder, tokens, positions, levels, whole, padding)
        found, _ = self.pre_decoder(memory, padding, levels.shapes)
        hidden = self.forward_decoder(
            **found,
            memory_mask=padding,
            spatial_shapes=levels.shapes,
            level_start_index=levels.starts,
            valid_ratios=whole,
        )
        states, references = hidden["hidden_states"], hidden["references"]
        classes, boxes = cast(Any, self.bbox_head)(states, references)
        finer = sum(h * w for h, w in levels.sizes[:3])
        return Outputs(classes[-1], boxes[-1], memory[:, :finer], states[-1], levels.sizes[:3])

    def _padding(
        self, features: Sequence[Tensor], padded: tuple[int, int], resized: Sequence[tuple[int, int]]
    ) -> list[Tensor | None]:
        """(n, h, w) bool for each level, true on padding; None if no image has any."""
        if all(tuple(size) == tuple(padded) for size in resized):
            return [None for _ in features]
        outside = features[0].new_ones((1, len(resized), *padded))
        for image, (height, width) in enumerate(resized):
            outside[0, image, :height, :width] = 0
        return [F.interpolate(outside, size=feature.shape[-2:])[0].bool() for feature in features]

    def look(self, forward: Callable[[], Outputs]) -> tuple[Outputs, list[Look]]:
        """The outputs of `forward`, which runs the network on one image, and what its queries of things looked at.

        Only the last layer leads to masks: those of the mask head.
        """
        parts = {number: layer.cross_attn for number, layer in enumerate(cast(Any, self.decoder).layers)}
        with calls_of(parts) as calls:
            outputs = forward()
        masks, _ = self.things_mask_head(outputs.queries[:1], outputs.memory[:1], outputs.levels)
        last = len(parts) - 1
        looks = [
            Look(deformable.sampled_attention(part, calls[number][-1]), None, masks[0] if number == last else None)
            for number, part in parts.items()
        ]
        return outputs, looks

    def choose(self, outputs: Outputs, image: int) -> Masks:
        """The candidates of one image of the batch: the 100 best (query, class) pairs, and every stuff class."""
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
"""Branches that upstream's mask heads have for losses of weight 0, and that inference never calls."""

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


def rename(state_dict: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The parameters of a checkpoint of the authors' code under this module's names.

    What only their training uses is left out: losses of weight 0, and all but the last of the stuff classifiers.
    """
    last_stuff = f"bbox_head.cls_stuff_branches.{layout.stuff_mask_layers - 1}."
    renamed: dict[str, Tensor] = {}
    backbone: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if name.startswith("backbone."):
            backbone[name.removeprefix("backbone.")] = value
            continue
        if name.startswith(_ONLY_TRAINED):
            continue
        if name.startswith("bbox_head.cls_stuff_branches."):
            if name.startswith(last_stuff):
                renamed["stuff_classifier." + name.removeprefix(last_stuff)] = value
            continue
        for pattern, replacement in _PATTERNS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    backbone = rename_backbone(backbone, layout.backbone)
    return {**{f"backbone.{name}": value for name, value in backbone.items()}, **renamed}
