"""Mask DINO as a torch module: mmdet 3.3.0's deformable encoder and DINO decoder layers under heads of our own.

The encoder's memory proposes the queries (the best positions of all levels), the decoder refines them and their boxes,
and each query's mask is its embedding's product with a map of stride 4. No class means "no object": classes are
sigmoids. [Li et al. 2023, sec. 3; the arithmetic is that of the authors' code, IDEA-Research/MaskDINO 3831d85]
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panbench.base.errors import BadCheckpoint
from panbench.models.attention import Look, calls_of
from panbench.models.mmdet import deformable, lean, operators
from panbench.models.mmdet.backbone_names import match_official_epsilons, rename_backbone

operators.install()
lean.import_mmdet()

from mmdet.models.layers.positional_encoding import SinePositionalEncoding  # noqa: E402
from mmdet.models.layers.transformer.deformable_detr_layers import (  # noqa: E402
    DeformableDetrTransformerDecoderLayer,
    DeformableDetrTransformerEncoder,
)
from mmdet.models.layers.transformer.utils import MLP, coordinate_to_encoding, inverse_sigmoid  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402

__all__ = ["Layout", "MaskDINO", "MaskDINOHead", "Outputs", "rename"]

SIZE_DIVISOR = 32


class Layout(NamedTuple):
    """The sizes of a Mask DINO; the defaults are those of the published panoptic R50.

    backbone: an mmdet backbone's config with four output levels of strides 4, 8, 16, 32; channels: theirs
    encoded: how many of them, from the coarsest, the encoder sees; one coarser level of stride 64 is added to them
    """

    backbone: Mapping[str, Any]
    channels: tuple[int, ...]
    encoded: int = 3
    width: int = 256
    feedforward: int = 2048
    decoder_feedforward: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 9
    queries: int = 300
    classes: int = 133
    heads: int = 8


class Outputs(NamedTuple):
    """The network's output for a batch of n images.

    class_logits: (n, queries, classes), for sigmoids; mask_logits: (n, queries, h, w) at stride 4 of the padded image
    boxes: (n, queries, 4) cx, cy, w, h as fractions of the padded image
    """

    class_logits: Tensor
    mask_logits: Tensor
    boxes: Tensor


class _Memory(NamedTuple):
    """The encoder's levels as the decoder takes them: one row of tokens, and where in it each level begins."""

    tokens: Tensor
    levels: deformable.Levels
    whole: Tensor  # (n, levels, 2) ones: upstream hides no padding at inference


class MaskDINO(nn.Module):
    """The whole network; `forward` takes normalised pixels, padded to a multiple of 32."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.backbone = MODELS.build({**layout.backbone})
        match_official_epsilons(self.backbone)
        self.head = MaskDINOHead(layout)

    def forward(self, pixels: Tensor) -> Outputs:
        """pixels: (n, 3, H, W), normalised; H and W are multiples of 32."""
        return cast(Outputs, self.head(self.backbone(pixels)))


class MaskDINOHead(nn.Module):
    """Everything after the backbone."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        width = layout.width
        self.layout = layout
        encoded = layout.channels[-layout.encoded :]
        self.input_proj = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(32, width)) for channels in encoded]
            + [nn.Sequential(nn.Conv2d(encoded[-1], width, 3, stride=2, padding=1), nn.GroupNorm(32, width))]
        )
        levels = len(self.input_proj)
        deformable = {"embed_dims": width, "num_heads": layout.heads, "num_levels": levels, "batch_first": True}
        self.position = SinePositionalEncoding(num_feats=width // 2, normalize=True)
        self.level_embed = nn.Parameter(torch.zeros(levels, width))
        self.encoder = DeformableDetrTransformerEncoder(
            num_layers=layout.encoder_layers,
            layer_cfg={
                "self_attn_cfg": deformable,
                "ffn_cfg": {"embed_dims": width, "feedforward_channels": layout.feedforward},
            },
        )
        self.lateral = nn.Sequential(nn.Conv2d(layout.channels[0], width, 1, bias=False), nn.GroupNorm(32, width))
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(32, width), nn.ReLU()
        )
        self.mask_features = nn.Conv2d(width, width, 1)

        self.enc_output, self.enc_output_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, layout.classes)
        self.mask_embed = MLP(width, width, width, 3)
        self.box_embed = MLP(width, width, 4, 3)
        self.reference = MLP(2 * width, width, width, 2)
        self.decoder = nn.ModuleList(
            DeformableDetrTransformerDecoderLayer(
                self_attn_cfg={"embed_dims": width, "num_heads": layout.heads, "batch_first": True},
                cross_attn_cfg=deformable,
                ffn_cfg={"embed_dims": width, "feedforward_channels": layout.decoder_feedforward},
            )
            for _ in range(layout.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(width)

    def look(self, forward: Callable[[], Outputs]) -> tuple[Outputs, list[Look]]:
        """The outputs of `forward`, which runs the network on one image, and what each decoder layer looked at."""
        layers = dict(enumerate(self.decoder))
        parts = {number: cast(Any, layer).cross_attn for number, layer in layers.items()}
        points = {("points", number): part for number, part in parts.items()}
        with calls_of({**layers, **points, "pixels": self.mask_features}) as calls:
            outputs = forward()
        looks = []
        for number, part in parts.items():
            query = self.decoder_norm(self.decoder_norm(calls[number][-1].output))
            masks = self.predict(query, calls["pixels"][-1].output, outputs.boxes).mask_logits
            looks.append(Look(deformable.sampled_attention(part, calls["points", number][-1]), None, masks[0]))
        return outputs, looks

    def forward(self, features: Sequence[Tensor]) -> Outputs:
        """The outputs from the backbone's four feature maps, of strides 4, 8, 16 and 32."""
        levels, mask_features = self.encode(features)
        memory = _memory_of(levels[::-1])  # the decoder counts levels from the coarsest
        query, reference = self.propose(memory)
        query, reference = self.decode(query, reference, memory)
        # Upstream normalises the last layer's queries and then, in its prediction heads, once more.
        query = self.decoder_norm(query)
        return self.predict(query, mask_features, reference)

    def encode(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """The encoder's maps, from fine to coarse, and the mask features of stride 4."""
        encoded = [feature.float() for feature in features[-self.layout.encoded :]]
        sources = [layer(feature) for layer, feature in zip(self.input_proj, [*encoded, encoded[-1]], strict=True)]
        memory = _memory_of(sources)
        position = torch.cat(
            [
                self.position(None, input=source).flatten(2).transpose(1, 2) + self.level_embed[level]
                for level, source in enumerate(sources)
            ],
            dim=1,
        )
        tokens = deformable.encode(self.encoder, memory.tokens, position, memory.levels, memory.whole)
        parts = tokens.split([source.shape[-2] * source.shape[-1] for source in sources], dim=1)
        levels = [part.transpose(1, 2).reshape(source.shape) for part, source in zip(parts, sources, strict=True)]
        lateral = self.lateral(features[0].float())
        # PyTorch does not know a view of tokens as channels-last: it would turn the resized map around, twice.
        finest = levels[0].clone(memory_format=_layout_of(lateral))
        finest = F.interpolate(finest, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return levels, self.mask_features(self.smooth(lateral + finest))

    def propose(self, memory: _Memory) -> tuple[Tensor, Tensor]:
        """(n, queries, width) queries and their (n, queries, 4) boxes before the sigmoid, of the best positions."""
        boxes = torch.cat(
            [_grid_boxes(h, w, 0.05 * 2.0**level, memory.tokens) for level, (h, w) in enumerate(memory.levels.sizes)]
        )
        inside = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1, keepdim=True)
        unsquashed = torch.log(boxes / (1 - boxes)).masked_fill(~inside, float("inf"))
        tokens = self.enc_output_norm(self.enc_output(memory.tokens.masked_fill(~inside, 0.0)))
        best = self.class_embed(tokens).amax(dim=-1).topk(self.layout.queries, dim=1).indices
        query = tokens.gather(1, best[..., None].expand(-1, -1, tokens.shape[-1]))
        # A position near the border has no box of its own (infinity), as upstream has it; sigmoid makes it 1.
        return query, self.box_embed(query) + unsquashed[best]

    def decode(self, query: Tensor, reference: Tensor, memory: _Memory) -> tuple[Tensor, Tensor]:
        """The last layer's queries, normalised, and their (n, queries, 4) boxes, of boxes before a sigmoid."""
        boxes = reference.sigmoid()
        whole = torch.cat([memory.whole, memory.whole], dim=-1)[:, None]
        for layer in self.decoder:
            by_level = boxes[:, :, None] * whole
            query = layer(
                query,
                query_pos=self.reference(coordinate_to_encoding(by_level[:, :, 0], self.layout.width // 2)),
                value=memory.tokens,
                key_padding_mask=None,
                self_attn_mask=None,
                spatial_shapes=memory.levels.shapes,
                level_start_index=memory.levels.starts,
                valid_ratios=memory.whole,
                reference_points=by_level,
            )
            # Not mmdet's DINO decoder: that clamps at 1e-3, so that a box of the whole image (w > 0.999) moves.
            boxes = (self.box_embed(query) + inverse_sigmoid(boxes, eps=1e-5)).sigmoid()
        return self.decoder_norm(query), boxes

    def predict(self, query: Tensor, mask_features: Tensor, boxes: Tensor) -> Outputs:
        """Classes and masks of normalised queries."""
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(query), mask_features)
        return Outputs(self.class_embed(query), masks, boxes)


def _layout_of(maps: Tensor) -> torch.memory_format:
    """Whether feature maps (n, channels, h, w) are stored channels-last."""
    last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _memory_of(levels: Sequence[Tensor]) -> _Memory:
    """Feature maps (n, width, h, w), in order, as one row of tokens."""
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
    return _Memory(tokens, deformable.levels_of(levels), tokens.new_ones((tokens.shape[0], len(levels), 2)))


def _grid_boxes(h: int, w: int, side: float, like: Tensor) -> Tensor:
    """(h·w, 4) boxes of width and height `side` at the centres of an h×w grid, as fractions of the image."""
    y, x = torch.meshgrid(
        (torch.arange(h, device=like.device) + 0.5) / h, (torch.arange(w, device=like.device) + 0.5) / w, indexing="ij"
    )
    sides = torch.full_like(x, side)
    return torch.stack([x, y, sides, sides], dim=-1).reshape(-1, 4)


_ONLY_TRAINED = ("criterion.", "sem_seg_head.predictor.label_enc.")
_PREDICTOR = "sem_seg_head.predictor."
_PATTERNS = (
    (r"^sem_seg_head\.pixel_decoder\.transformer\.encoder\.", "head.encoder."),
    (r"^sem_seg_head\.pixel_decoder\.transformer\.level_embed$", "head.level_embed"),
    (r"^sem_seg_head\.pixel_decoder\.(input_proj|mask_features)\.", r"head.\1."),
    (r"^sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\.weight$", r"\1.0.weight"),
    (r"^sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\.norm\.", r"\1.1."),
    (r"^adapter_1\.", "head.lateral."),
    (r"^layer_1\.", "head.smooth."),
    (r"^sem_seg_head\.predictor\.decoder\.layers\.", "head.decoder."),
    (r"^sem_seg_head\.predictor\.decoder\.ref_point_head\.", "head.reference."),
    (r"^sem_seg_head\.predictor\._bbox_embed\.", "head.box_embed."),
    (r"^sem_seg_head\.predictor\.", "head."),
    (r"\.linear1\.", ".ffn.layers.0.0."),
    (r"\.linear2\.", ".ffn.layers.1."),
    (r"^(head\.encoder\.layers\.\d+)\.norm1\.", r"\1.norms.0."),
    (r"^(head\.encoder\.layers\.\d+)\.norm2\.", r"\1.norms.1."),
    # Upstream names its norms after what its class began with; a layer runs self-attention (norm2) first.
    (r"^(head\.decoder\.\d+)\.norm2\.", r"\1.norms.0."),
    (r"^(head\.decoder\.\d+)\.norm1\.", r"\1.norms.1."),
    (r"^(head\.decoder\.\d+)\.norm3\.", r"\1.norms.2."),
    (r"^(head\.decoder\.\d+\.self_attn)\.", r"\1.attn."),
)


def rename(state_dict: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The parameters of a checkpoint of the authors' code under this module's names.

    Left out: what only training uses, and the second and further names that upstream gives to shared layers (the box
    head of every decoder layer, the decoder's norm). Raises BadCheckpoint when those are not the same after all.
    """
    renamed: dict[str, Tensor] = {}
    backbone: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if name.startswith("backbone."):
            backbone[name.removeprefix("backbone.")] = value
            continue
        if name.startswith(_ONLY_TRAINED):
            continue
        if (shared := _shared_with(name)) is not None:
            if shared in state_dict and not torch.equal(value, state_dict[shared]):
                raise BadCheckpoint(
                    f"{name} and {shared} differ in this checkpoint, but Mask DINO's decoder layers share them: it was "
                    "not trained by the authors' code."
                )
            continue
        for pattern, replacement in _PATTERNS:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    names = rename_backbone(backbone, layout.backbone)
    return {**{f"backbone.{name}": value for name, value in names.items()}, **renamed}


def _shared_with(name: str) -> str | None:
    """The name under which a shared layer is kept, for its other names."""
    if found := re.match(rf"{re.escape(_PREDICTOR)}(?:decoder\.)?bbox_embed\.\d+\.(.*)", name):
        return f"{_PREDICTOR}_bbox_embed.{found[1]}"
    if name.startswith(_PREDICTOR + "decoder.norm."):
        return name.replace("decoder.norm.", "decoder_norm.")
    return None
