"""Mask DINO as a torch module: mmdet 3.3.0's deformable encoder and DINO decoder layers under heads of our own.

The best positions of the encoder's memory become the queries, the decoder refines them and their boxes, and a query's
mask is the product of its embedding with a map of stride 4. Classes are sigmoids, without "no object". [Li
et al. 2023, sec. 3; the arithmetic is that of the authors' code, IDEA-Research/MaskDINO 3831d85]

Resizing and padding are detectron2's, as in the authors' code.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panbench.base.errors import BadCheckpoint
from panbench.catalog import ModelSpec
from panbench.models.adapter import Adapter
from panbench.models.attention import Attention, LayerAttention, record_module_calls
from panbench.models.candidates import MASK_DINO_TEMPERATURE, Candidates, Frame, pixel_boxes, sigmoid_candidates
from panbench.models.decoders import Decoder, Part
from panbench.models.labels import coco_labels
from panbench.models.mmdet import deformable, lean, operators, speedups
from panbench.models.mmdet.backbone_names import match_official_epsilons, renamed
from panbench.models.preprocess import Resize
from panbench.models.rules import parse_rule

operators.install()
lean.import_mmdet()

from mmdet.models.layers.positional_encoding import SinePositionalEncoding  # noqa: E402
from mmdet.models.layers.transformer.deformable_detr_layers import (  # noqa: E402
    DeformableDetrTransformerDecoderLayer,
    DeformableDetrTransformerEncoder,
)
from mmdet.models.layers.transformer.utils import MLP, coordinate_to_encoding, inverse_sigmoid  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402

SIZE_DIVISOR = 32


class NetworkLayout(NamedTuple):
    """Describes the sizes of a Mask DINO; the defaults are those of the published panoptic R50.

    backbone: an mmdet backbone's config with four output levels of strides 4, 8, 16, 32; channels: of these levels
    encoded: how many levels, from the coarsest, the encoder takes; one of stride 64 is added
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
    """Holds the network's output for a batch of n images.

    class_logits: (n, queries, classes), for sigmoids; mask_logits: (n, queries, h, w) at stride 4 of the padded image
    boxes: (n, queries, 4) cx, cy, w, h as fractions of the padded image
    """

    class_logits: Tensor
    mask_logits: Tensor
    boxes: Tensor


class _EncoderMemory(NamedTuple):
    """Holds the encoder's feature maps for the decoder, concatenated in one sequence of tokens, and their sizes."""

    tokens: Tensor
    levels: deformable.FeatureLevels
    valid: Tensor  # (n, levels, 2) ones: the authors do not mask padding at inference


class MaskDINO(nn.Module):
    """Joins backbone and head to the complete network."""

    def __init__(self, layout: NetworkLayout) -> None:
        """Builds backbone and head in the sizes of `layout`."""
        super().__init__()
        self.layout = layout
        self.backbone = MODELS.build({**layout.backbone})
        match_official_epsilons(self.backbone)
        self.head = MaskDINOHead(layout)

    def forward(self, pixels: Tensor) -> Outputs:
        """Runs the network on (n, 3, H, W) normalised pixels; H and W are multiples of 32."""
        return cast(Outputs, self.head(self.backbone(pixels)))


class MaskDINOHead(nn.Module):
    """Predicts queries from the backbone's maps: pixel decoder, query selection, decoder and prediction heads."""

    def __init__(self, layout: NetworkLayout) -> None:
        """Builds the layers of pixel decoder, query selection, decoder and predictions, in the sizes of `layout`."""
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

    def forward_with_attention(self, forward: Callable[[], Outputs]) -> tuple[Outputs, list[LayerAttention]]:
        """Runs `forward`, the network on one image; returns its outputs and each decoder layer's attention."""
        layers = dict(enumerate(self.decoder))
        parts = {number: cast(Any, layer).cross_attn for number, layer in layers.items()}
        points = {("points", number): part for number, part in parts.items()}
        with record_module_calls({**layers, **points, "pixels": self.mask_features}) as calls:
            outputs = forward()
        by_layer = []
        for number, part in parts.items():
            query = self.decoder_norm(self.decoder_norm(calls[number][-1].output))
            masks = self.predict(query, calls["pixels"][-1].output, outputs.boxes).mask_logits
            by_layer.append(
                LayerAttention(deformable.sampled_attention(part, calls["points", number][-1]), None, masks[0])
            )
        return outputs, by_layer

    def forward(self, features: Sequence[Tensor]) -> Outputs:
        """Runs the head on the backbone's four feature maps, of strides 4, 8, 16 and 32."""
        levels, mask_features = self.encode(features)
        memory = _encoder_memory(levels[::-1])  # the decoder counts levels from the coarsest
        query, reference = self.select_queries(memory)
        query, reference = self.decode(query, reference, memory)
        # The authors normalise the last layer's queries twice: again in the prediction heads.
        query = self.decoder_norm(query)
        return self.predict(query, mask_features, reference)

    def encode(self, features: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Runs the pixel decoder; returns its maps, from fine to coarse, and the mask features of stride 4."""
        encoded = [feature.float() for feature in features[-self.layout.encoded :]]
        sources = [layer(feature) for layer, feature in zip(self.input_proj, [*encoded, encoded[-1]], strict=True)]
        memory = _encoder_memory(sources)
        position = torch.cat(
            [
                self.position(None, input=source).flatten(2).transpose(1, 2) + self.level_embed[level]
                for level, source in enumerate(sources)
            ],
            dim=1,
        )
        sizes, device = memory.levels.sizes, position.device
        references = self.encoder.get_encoder_reference_points(sizes, memory.valid, device=device)
        tokens = deformable.encode(self.encoder, memory.tokens, position, memory.levels, references)
        parts = tokens.split([source.shape[-2] * source.shape[-1] for source in sources], dim=1)
        levels = [part.transpose(1, 2).reshape(source.shape) for part, source in zip(parts, sources, strict=True)]
        lateral = self.lateral(features[0].float())
        # PyTorch does not recognise a view of tokens as channels-last: it would convert the resized map twice.
        last = lateral.is_contiguous(memory_format=torch.channels_last)
        finest = levels[0].clone(memory_format=torch.channels_last if last else torch.contiguous_format)
        finest = F.interpolate(finest, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        return levels, self.mask_features(self.smooth(lateral + finest))

    def select_queries(self, memory: _EncoderMemory) -> tuple[Tensor, Tensor]:
        """Selects the encoder positions with the best classes; returns queries (n, queries, width) and boxes there.

        The boxes, (n, queries, 4), are before the sigmoid.
        """
        boxes = torch.cat(
            [_grid_boxes(h, w, 0.05 * 2.0**level, memory.tokens) for level, (h, w) in enumerate(memory.levels.sizes)]
        )
        inside = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1, keepdim=True)
        unsquashed = torch.log(boxes / (1 - boxes)).masked_fill(~inside, float("inf"))
        tokens = self.enc_output_norm(self.enc_output(memory.tokens.masked_fill(~inside, 0.0)))
        best = self.class_embed(tokens).amax(dim=-1).topk(self.layout.queries, dim=1).indices
        query = tokens.gather(1, best[..., None].expand(-1, -1, tokens.shape[-1]))
        # Positions near the border have infinity in place of a box, as in the authors' code; its sigmoid is 1.
        return query, self.box_embed(query) + unsquashed[best]

    def decode(self, query: Tensor, reference: Tensor, memory: _EncoderMemory) -> tuple[Tensor, Tensor]:
        """Runs the decoder; returns the last layer's normalised queries and their (n, queries, 4) boxes.

        reference: boxes before the sigmoid
        """
        boxes = reference.sigmoid()
        valid = torch.cat([memory.valid, memory.valid], dim=-1)[:, None]
        for layer in self.decoder:
            by_level = boxes[:, :, None] * valid
            query = layer(
                query,
                query_pos=self.reference(coordinate_to_encoding(by_level[:, :, 0], self.layout.width // 2)),
                value=memory.tokens,
                key_padding_mask=None,
                self_attn_mask=None,
                spatial_shapes=memory.levels.shapes,
                level_start_index=memory.levels.starts,
                valid_ratios=memory.valid,
                reference_points=by_level,
            )
            # Not mmdet's DINO decoder: that clamps at 1e-3, so that a box of the whole image (w > 0.999) moves.
            boxes = (self.box_embed(query) + inverse_sigmoid(boxes, eps=1e-5)).sigmoid()
        return self.decoder_norm(query), boxes

    def predict(self, query: Tensor, mask_features: Tensor, boxes: Tensor) -> Outputs:
        """Predicts class and mask logits of normalised queries; boxes are passed through."""
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(query), mask_features)
        return Outputs(self.class_embed(query), masks, boxes)


def _encoder_memory(levels: Sequence[Tensor]) -> _EncoderMemory:
    """Concatenates feature maps (n, width, h, w), in order, to one sequence of tokens."""
    tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
    return _EncoderMemory(
        tokens, deformable.feature_levels_of(levels), tokens.new_ones((tokens.shape[0], len(levels), 2))
    )


def _grid_boxes(h: int, w: int, side: float, like: Tensor) -> Tensor:
    """Returns (h·w, 4) boxes centred on the cells of an h×w feature map, `side` wide and high, as image fractions."""
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
    # The authors' norms are numbered by the base class; a layer runs self-attention (norm2) first.
    (r"^(head\.decoder\.\d+)\.norm2\.", r"\1.norms.0."),
    (r"^(head\.decoder\.\d+)\.norm1\.", r"\1.norms.1."),
    (r"^(head\.decoder\.\d+)\.norm3\.", r"\1.norms.2."),
    (r"^(head\.decoder\.\d+\.self_attn)\.", r"\1.attn."),
)


def rename(state_dict: Mapping[str, Tensor], layout: NetworkLayout) -> dict[str, Tensor]:
    """Renames the parameters of the authors' checkpoint to this module's names.

    Drops what only training uses, and further names of shared layers (the box head of every decoder layer, the
    decoder's norm). Raises BadCheckpoint if shared layers differ.
    """
    shared = {name: first for name in state_dict if (first := _first_shared_name(name)) is not None}
    for name, first in shared.items():
        if first in state_dict and not torch.equal(state_dict[name], state_dict[first]):
            raise BadCheckpoint(
                f"{name} and {first} differ in this checkpoint, but Mask DINO's decoder layers share them: it was "
                "not trained by the authors' code."
            )
    return renamed(state_dict, _PATTERNS, layout.backbone, (*_ONLY_TRAINED, *shared))


def _first_shared_name(name: str) -> str | None:
    """Returns the first name of a layer that the authors save under several names; None for other layers."""
    if found := re.match(rf"{re.escape(_PREDICTOR)}(?:decoder\.)?bbox_embed\.\d+\.(.*)", name):
        return f"{_PREDICTOR}_bbox_embed.{found[1]}"
    if name.startswith(_PREDICTOR + "decoder.norm."):
        return name.replace("decoder.norm.", "decoder_norm.")
    return None


class MaskDINOAdapter(Adapter):
    """Runs Mask DINO on an mmdet backbone.

    settings: `backbone` (an mmdet config), `channels`, and other fields of NetworkLayout
    """

    resize = Resize(short=800, long=1333, way="pil", divisor=SIZE_DIVISOR)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def __init__(self, spec: ModelSpec) -> None:
        """Reads the number and sizes of the network's layers from the model's settings."""
        super().__init__(spec)
        self.rule = parse_rule("maskdino")
        self.layout = NetworkLayout(**spec.settings)
        self.class_names, self.isthing = coco_labels()

    def build(self) -> nn.Module:
        """Returns the network with the initial weights of its layers."""
        return MaskDINO(self.layout)

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames the parameters of the authors' checkpoint to this module's names."""
        return rename(state_dict, self.layout)

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """Removes from mmdet's modules what only training needs, and host synchronisation."""
        return speedups.speed_up_mmdet_parts(module, device)

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> list[Candidates]:
        """Runs the network; returns for each image a mask, a confidence and a label per query.

        The gate is the sigmoid of the best class; label and weight come from sharpened class scores.
        """
        outputs = module(pixels)
        found = sigmoid_candidates(
            outputs.class_logits, outputs.mask_logits, frames, self.isthing, temperature=MASK_DINO_TEMPERATURE
        )
        return [
            dataclasses.replace(each, boxes=pixel_boxes(boxes, *_padded_size_in_original_pixels(each.frame)))
            for each, boxes in zip(found, outputs.boxes, strict=True)
        ]

    def decoder(self, module: Any) -> Decoder:
        """Returns the network's decoder, which can be cut after any layer; its layers share the prediction heads."""
        head = module.head
        return Decoder.of_layers(
            head.decoder, Part(module.backbone), Part(head, "encode"), Part(head, "select_queries")
        )

    def attention_of(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """Returns the decoder's deformable cross-attention, scattered to the finest feature map."""
        outputs, layers = module.head.forward_with_attention(lambda: module(pixels))
        scores, labels = outputs.class_logits[0].float().sigmoid().max(dim=-1)
        return Attention(scores, labels, layers, frame)


def _padded_size_in_original_pixels(frame: Frame) -> tuple[float, float]:
    """Returns the padded input's height and width, in pixels of the original image.

    Boxes are relative to it.
    """
    height, width = (
        original * padded / resized
        for original, padded, resized in zip(frame.original, frame.padded, frame.resized, strict=True)
    )
    return height, width
