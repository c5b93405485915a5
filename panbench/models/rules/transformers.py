"""The post-processing of Hugging Face's `transformers`, exactly as upstream, faults included.

[transformers 5.23.0, image_processing_pil_mask2former.py and image_processing_pil_maskformer.py,
`post_process_panoptic_segmentation`; issues 23461, 39382, 44901]. For measuring what it costs, not for use.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from panbench.models.candidates import Candidates, LabelledSegment
from panbench.models.rules.base import (
    FusedMap,
    Rule,
    SegmentedMap,
    check_finite,
    choice,
    codes_of,
    empty_codes,
    fraction,
)
from panbench.models.rules.compete import candidates_above, count_pixels_per_code, take_rows
from panbench.models.rules.resize import ELEMENTS_AT_ONCE

SIZE_OF_MASK2FORMER = (384, 384)
"""The size to which its Mask2Former processor resizes all masks first."""


@dataclass(frozen=True)
class Transformers(Rule):
    """Fuses exactly as Hugging Face's `transformers`, with its faults: for example, two segments can share an id."""

    name: ClassVar[str] = "transformers"
    summary: ClassVar[str] = (
        "What `transformers` does: masks go through 384×384 and are stretched with their padding, score × probability "
        "is compared with 0.5, uncertain pixels are not void, and after stuff is fused two segments can share an id."
    )
    source: ClassVar[str] = "huggingface/transformers 5.23.0, post_process_panoptic_segmentation, as it is"

    score: float = fraction(0.5)
    """`threshold`: 0.5 by default, 0.9 in its pipeline."""
    overlap: float = fraction(0.8)
    """`overlap_mask_area_threshold`: 0.8 by default, 0.5 in its pipeline."""
    mask: float = fraction(0.5)
    """`mask_threshold`, compared with score × probability."""
    processor: str = choice("mask2former", "maskformer")
    """The image processor: Mask2Former's resizes via 384×384, MaskFormer's (also OneFormer's and DETR's) does not."""
    fuse_stuff: bool = True
    """`label_ids_to_fuse`: the stuff. False is upstream's default, which leaves stuff in pieces."""

    def fuse(self, output: Candidates) -> FusedMap:
        """Gives each pixel of the original image to the candidate of largest score × probability."""
        rows = candidates_above(output, self.score)
        masks, weights, count = take_rows(output.masks, rows).float(), take_rows(output.weight, rows), len(rows)
        height, width = output.frame.original
        device, logits = masks.device, masks
        if self.processor == "mask2former" and count:
            masks = F.interpolate(masks[None], size=SIZE_OF_MASK2FORMER, mode="bilinear", align_corners=False)[0]
        masks = masks.sigmoid() if output.activation == "sigmoid" else masks
        best = torch.zeros((height, width), device=device)
        winner = empty_codes(output, count)
        mask_areas = [torch.zeros(0, dtype=torch.int64, device=device)]
        block = max(1, ELEMENTS_AT_ONCE // (height * width))
        for start in range(0, count, block):
            part = masks[start : start + block]
            values = F.interpolate(part[None], size=(height, width), mode="bilinear", align_corners=False)[0]
            values = values * weights[start : start + block, None, None]
            mask_areas.append((values >= self.mask).flatten(1).sum(dim=1))
            for offset in range(len(values)):
                # The first candidate takes every pixel, even where it is 0: so does argmax.
                better = values[offset] > best if start + offset else torch.ones_like(best, dtype=torch.bool)
                best = torch.where(better, values[offset], best)
                winner.masked_fill_(better, start + offset)
        claimed = count_pixels_per_code(winner, count)
        return FusedMap.of_candidates(output, rows, winner, logits, claimed=claimed, mask_areas=torch.cat(mask_areas))

    def to_segments(self, fused: FusedMap) -> SegmentedMap:
        """Numbers segments with upstream's fault: two may share an id, with the label of the later one."""
        check_finite(fused, "mask logits")
        assert fused.claimed is not None
        assert fused.mask_areas is not None
        codes = codes_of(fused)
        table = np.zeros(np.iinfo(codes.dtype).max + 1, np.int32)
        claimed, mask_areas = fused.claimed.numpy().astype(np.float32), fused.mask_areas.numpy().astype(np.float32)
        current, id_of_stuff, named = 0, dict[int, int](), dict[int, int]()
        for index, label in enumerate(fused.labels):
            if not (
                claimed[index] > 0
                and mask_areas[index] > 0
                and float(claimed[index] / mask_areas[index]) > self.overlap
            ):
                continue
            # Upstream's bug: the id of fused stuff becomes the current one, and the next segment continues from it.
            current = id_of_stuff.get(label, current + 1)
            table[index] = current
            named[current] = index
            if self.fuse_stuff and not fused.things[index]:
                id_of_stuff[label] = current
        ids = table[codes]
        areas = np.bincount(ids.ravel(), minlength=max(named, default=0) + 1)
        segments = tuple(
            LabelledSegment(segment_id, fused.labels[index], int(areas[segment_id]), fused.scores[index])
            for segment_id, index in sorted(named.items())
            if areas[segment_id]
        )
        return ids, segments
