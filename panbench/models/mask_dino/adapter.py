"""Runs Mask DINO as its authors do: detectron2's resizing and padding, sigmoid classes sharpened by a softmax."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from panbench.catalog import ModelSpec
from panbench.models.adapter import Adapter
from panbench.models.attention import Attention
from panbench.models.candidates import MASK_DINO_TEMPERATURE, Candidates, Frame, pixel_boxes, sigmoid_candidates
from panbench.models.decoders import Decoder, Part, without_last
from panbench.models.labels import coco_labels
from panbench.models.mask_dino.network import SIZE_DIVISOR, Layout, MaskDINO, rename
from panbench.models.mmdet import speedups
from panbench.models.preprocess import Resize
from panbench.models.rules import parse_rule

__all__ = ["MaskDINOAdapter"]


class MaskDINOAdapter(Adapter):
    """settings: `backbone` (an mmdet config), `channels`, and any other size of Layout."""

    resize = Resize(short=800, long=1333, way="pil", divisor=SIZE_DIVISOR)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def __init__(self, spec: ModelSpec) -> None:
        """Reads the settings."""
        super().__init__(spec)
        self.rule = parse_rule("maskdino")
        self.layout = Layout(**spec.settings)
        self.class_names, self.isthing = coco_labels()

    def build(self) -> nn.Module:
        """The network with the initial weights of its layers."""
        return MaskDINO(self.layout)

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """From the names of the authors' code."""
        return rename(state_dict, self.layout)

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """mmdet's parts without what training needs, and without waiting for the device."""
        return speedups.speed_up_parts(module, device)

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> list[Candidates]:
        """One candidate a query: its gate is a sigmoid, its label and weight those of the sharpened classes."""
        outputs = module(pixels)
        found = sigmoid_candidates(
            outputs.class_logits, outputs.mask_logits, frames, self.isthing, temperature=MASK_DINO_TEMPERATURE
        )
        return [
            dataclasses.replace(each, boxes=pixel_boxes(boxes, *_padded_in_original_pixels(each.frame)))
            for each, boxes in zip(found, outputs.boxes, strict=True)
        ]

    def decoder(self, module: Any) -> Decoder:
        """The decoder's layers, which share their heads."""
        head, layers = module.head, module.head.decoder
        count = len(layers)
        parts = [Part(module.backbone), Part(head, "encode"), Part(head, "propose"), *map(Part, layers)]
        return Decoder(count, lambda kept: without_last(layers, count - kept), parts)

    def look(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """The points that the decoder's deformable cross-attention samples, scattered to its finest map."""
        outputs, layers = module.head.look(lambda: module(pixels))
        scores, labels = outputs.class_logits[0].float().sigmoid().max(dim=-1)
        return Attention(scores, labels, layers, frame)


def _padded_in_original_pixels(frame: Frame) -> tuple[float, float]:
    """Height and width of the padded image, were its pixels as large as the original's: what boxes are fractions of."""
    height, width = (
        original * padded / resized
        for original, padded, resized in zip(frame.original, frame.padded, frame.resized, strict=True)
    )
    return height, width
