"""Runs Panoptic SegFormer as its authors do: images of any size, unpadded, and candidates for mask-wise merging."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from panbench.catalog import ModelSpec
from panbench.models.adapter import Adapter
from panbench.models.attention import Attention
from panbench.models.candidates import Candidates, Frame, pixel_boxes, scores_of_pairs
from panbench.models.decoders import Decoder, Part, without_last
from panbench.models.feeding import to_host
from panbench.models.labels import coco_labels
from panbench.models.mmdet import speedups
from panbench.models.panoptic_segformer.network import Layout, PanopticSegFormer, rename
from panbench.models.preprocess import Resize
from panbench.models.rules import parse_rule

__all__ = ["PanopticSegFormerAdapter"]


class PanopticSegFormerAdapter(Adapter):
    """settings: `backbone` (an mmdet config), `channels`, `quality` of the merging, and any other size of Layout."""

    # The authors pad with size_divisor 1, which is not at all; their masks are stretched from the padded image.
    resize = Resize(short=800, long=1333, way="cv2")
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

    def __init__(self, spec: ModelSpec) -> None:
        """Reads the settings."""
        super().__init__(spec)
        settings = dict(spec.settings)
        self.rule = parse_rule(f"mask-wise:quality={settings.pop('quality', 0.25)}")
        self.layout = Layout(**settings)
        self.class_names, self.isthing = coco_labels()

    def build(self) -> nn.Module:
        """The network with the initial weights of its layers."""
        return PanopticSegFormer(self.layout)

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """From the names of the authors' code."""
        return rename(state_dict, self.layout)

    def speed_up(self, module: nn.Module, device: torch.device) -> nn.Module:
        """mmdet's parts without what training needs, and without waiting for the device."""
        return speedups.speed_up_parts(module, device)

    def candidates(self, module: Any, pixels: Tensor, frames: Sequence[Frame]) -> list[Candidates]:
        """The 100 best (query, class) pairs and the 53 stuff classes of each image; masks are no logits."""
        outputs = module(pixels, [frame.resized for frame in frames])
        chosen = [module.choose(outputs, image) for image in range(len(frames))]
        # Labels are small numbers, so float32 holds them exactly.
        host = to_host(torch.stack([torch.stack([each.labels.float(), each.scores]) for each in chosen])).numpy()
        found = []
        for (labels, scores, masks, boxes), frame, (labels_here, gate) in zip(chosen, frames, host, strict=True):
            class_scores, class_weights = scores_of_pairs(labels, scores, self.isthing)
            found.append(
                Candidates(
                    labels_here.astype(np.int64),
                    gate,
                    scores,
                    masks,
                    dataclasses.replace(frame, one_step=True),
                    self.isthing,
                    "identity",
                    class_scores,
                    class_weights,
                    boxes=_within(boxes, frame.original, len(labels)),
                )
            )
        return found

    def decoder(self, module: Any) -> Decoder:
        """The decoder that finds things: class and box branches after each layer are its own, mask heads all layers'.

        Stuff has queries that no layer changes.
        """
        layers = module.decoder.layers
        count = len(layers)
        parts = (module.backbone, module.neck, *module.encoder.layers, *layers, module.stuff_mask_head)
        return Decoder(count, lambda kept: without_last(layers, count - kept), [Part(each) for each in parts])

    def look(self, module: Any, pixels: Tensor, frame: Frame) -> Attention:
        """Sampling points of the thing queries in the decoder; stuff queries have only a mask head."""
        outputs, layers = module.look(lambda: module(pixels, [frame.resized]))
        scores, labels = outputs.thing_logits[0].float().sigmoid().max(dim=-1)
        # Masks are no logits: half of their range is where merging counts a pixel in.
        return Attention(scores, labels, layers, frame, threshold=0.5)


def _within(fractions: Tensor, original: tuple[int, int], count: int) -> Tensor:
    """(count, 4) boxes in pixels, cut off at the image as the authors do; zeros for stuff, which is no instance."""
    height, width = original
    boxes = fractions.new_zeros((count, 4), dtype=torch.float32)
    found = pixel_boxes(fractions, height, width)
    boxes[: len(found), 0::2] = found[:, 0::2].clamp(0, width)
    boxes[: len(found), 1::2] = found[:, 1::2].clamp(0, height)
    return boxes
