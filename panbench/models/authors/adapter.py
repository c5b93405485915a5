"""Runs the weights of Mask2Former's, MaskFormer's and detectron2's authors on mmdet's networks, exactly.

A config is mmdet's, with what the authors' own configs say otherwise: Pillow's resizing, means, padding, thresholds.
Names are this folder's tables. What mmdet computes otherwise is replaced: of Panoptic FPN the pyramid level of a RoI,
the bounds of boxes, the order of proposals, the place of the things among the semantic channels, and the score from
which on an instance is painted.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from panbench.base.errors import BadCheckpoint
from panbench.models.authors import mask2former, maskformer, panoptic_fpn
from panbench.models.authors.names import NameMap
from panbench.models.candidates import NO_LABEL, Instances, Output
from panbench.models.mmdet.adapter import MmdetAdapter
from panbench.models.model import LoadedImage
from panbench.models.rules.panoptic_fpn import PanopticFPN as PanopticFPNRule

__all__ = ["AuthorsAdapter"]


class AuthorsAdapter(MmdetAdapter):
    """mmdet's adapter for files with the names of facebookresearch's Mask2Former, MaskFormer and detectron2."""

    @property
    def names(self) -> NameMap:
        """The table of the family, which for MaskFormer depends on the pixel decoder."""
        if self.family == "maskformer":
            plain = self.config.model.panoptic_head.pixel_decoder.type == "PixelDecoder"
            return maskformer.of_plain if plain else maskformer.of_encoder
        return panoptic_fpn.NAMES if self.family == "panoptic-fpn" else mask2former.NAMES

    def build(self) -> nn.Module:
        """mmdet's network of the config, with detectron2's boxes and threshold of instances."""
        module: Any = super().build()
        if isinstance(self.rule, PanopticFPNRule):
            # The boxes keep the detector's own, lower threshold, which AP_pan asks for.
            self.rule = dataclasses.replace(self.rule, score=0.5)
            panoptic_fpn.as_in_detectron2(module)
        return module  # type: ignore[no-any-return]

    def rename(self, state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The tensors under mmdet's names. Raises BadCheckpoint for unknown names, and for other pixel means."""
        preprocessor = self.config.model.data_preprocessor
        for name, stated in (("pixel_mean", preprocessor.mean), ("pixel_std", preprocessor.std)):
            found = state_dict.get(name)
            if found is not None and not torch.allclose(found.flatten().double(), torch.tensor(stated).double()):
                raise BadCheckpoint(
                    f"{self.spec.title}: the weights were trained with {name} {found.flatten().tolist()}, and the "
                    f"config has {list(stated)}. Use a config with theirs."
                )
        renamed = self.names.renamed(state_dict, self.config.model.backbone)
        # A power of two changes no digit, and only the order of proposals depends on it.
        return {
            name: value * panoptic_fpn.OBJECTNESS if name.startswith("rpn_head.rpn_cls.") else value
            for name, value in renamed.items()
        }

    def run(self, module: Any, batch: Sequence[LoadedImage], device: torch.device) -> list[Output]:
        """mmdet's outputs, with detectron2's order of semantic channels: the things are the first."""
        return [
            dataclasses.replace(output, semantic_labels=(NO_LABEL, *output.semantic_labels[:-1]))
            if isinstance(output, Instances)
            else output
            for output in super().run(module, batch, device)
        ]
