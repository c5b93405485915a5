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
    SettledMap,
    check_finite,
    choice,
    code_type,
    codes_of,
    fraction,
    nothing_of,
)
from panbench.models.rules.compete import above, count_codes, take
from panbench.models.rules.resize import ELEMENTS_AT_ONCE

SIZE_OF_MASK2FORMER = (384, 384)
"""Its Mask2Former processor brings all masks to this size first, whatever the image's."""


@dataclass(frozen=True)
class Transformers(Rule):
    """The post-processing of `transformers`: masks times scores before the test at 0.5, ids that collide, no crop."""

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
    """Whose: Mask2Former's goes through 384×384, MaskFormer's (also OneFormer's and DETR's) does not."""
    fuse_stuff: bool = True
    """`label_ids_to_fuse`: the stuff. False is upstream's default, which leaves stuff in pieces."""

    def fuse(self, output: Candidates) -> FusedMap:
        """The competition of score × probability at the original size."""
        rows = above(output, self.score)
        masks, weights, count = take(output.masks, rows).float(), take(output.weight, rows), len(rows)
        height, width = output.frame.original
        device, dtype = masks.device, code_type(count)
        finite = torch.isfinite(masks).all()
        if self.processor == "mask2former" and count:
            masks = F.interpolate(masks[None], size=SIZE_OF_MASK2FORMER, mode="bilinear", align_corners=False)[0]
        masks = masks.sigmoid() if output.activation == "sigmoid" else masks
        best = torch.zeros((height, width), device=device)
        winner = torch.full((height, width), nothing_of(count), dtype=dtype, device=device)
        wanted = [torch.zeros(0, dtype=torch.int64, device=device)]
        block = max(1, ELEMENTS_AT_ONCE // (height * width))
        for start in range(0, count, block):
            part = masks[start : start + block]
            values = F.interpolate(part[None], size=(height, width), mode="bilinear", align_corners=False)[0]
            values = values * weights[start : start + block, None, None]
            wanted.append((values >= self.mask).flatten(1).sum(dim=1))
            for offset in range(len(values)):
                # The first candidate takes every pixel, even where it is 0: so does argmax.
                better = values[offset] > best if start + offset else torch.ones_like(best, dtype=torch.bool)
                best = torch.where(better, values[offset], best)
                winner.masked_fill_(better, start + offset)
        labels = tuple(int(label) for label in output.labels[rows])
        return FusedMap(
            codes=winner,
            labels=labels,
            scores=tuple(output.gate[rows].tolist()),
            things=tuple(output.isthing[label] for label in labels),
            finite=finite,
            claimed=count_codes(winner, count),
            wanted=torch.cat(wanted),
        )

    def settle(self, fused: FusedMap) -> SettledMap:
        """Segments as upstream numbers them: a later segment may get an earlier one's id, and then takes its label."""
        check_finite(fused, "mask logits")
        assert fused.claimed is not None
        assert fused.wanted is not None
        codes = codes_of(fused)
        table = np.zeros(np.iinfo(codes.dtype).max + 1, np.int32)
        claimed, wanted = fused.claimed.numpy().astype(np.float32), fused.wanted.numpy().astype(np.float32)
        current, id_of_stuff, named = 0, dict[int, int](), dict[int, int]()
        for index, label in enumerate(fused.labels):
            if not (claimed[index] > 0 and wanted[index] > 0 and float(claimed[index] / wanted[index]) > self.overlap):
                continue
            # Here is the fault: the id of fused stuff becomes the current one, and the next segment counts on from it.
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
