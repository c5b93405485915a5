"""What tests of models share: drawn photographs, the maps of a batch, and maps held against those of others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from panbench.datasets import shapes
from panbench.models.candidates import Candidates, Frame, Instances
from panbench.models.model import LoadedImage
from panbench.models.rules import fuse
from panbench.models.rules.base import SegmentedMap
from panbench.panoptic.types import ImageInfo, Scene

FRAME = Frame(padded=(128, 160), resized=(120, 160), original=(96, 128))


def queries(seed: int, count: int = 12) -> Candidates:
    """Smooth random masks, so that many boundaries are near ties."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.randn((count, 5, 6), generator=random) * 3
    masks = F.interpolate(coarse[None], size=(32, 40), mode="bicubic")[0]
    gate = torch.rand(count, generator=random).numpy().astype(np.float32)
    gate[:6] = 0.85 + gate[:6] / 10
    labels = np.arange(count) % 4
    return Candidates(labels, gate, torch.from_numpy(gate.copy()), masks, FRAME, (True, True, False, False))


def boxes(seed: int, count: int = 8) -> Instances:
    """Random boxes with masks, best first, over smooth semantic channels."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=random) * 60
    extent = 10 + torch.rand((count, 2), generator=random) * 40
    scores = sorted(torch.rand(count, generator=random).tolist(), reverse=True)
    return Instances(
        boxes=torch.cat([corner, corner + extent], dim=1),
        masks=torch.rand((count, 28, 28), generator=random),
        labels=tuple(number % 3 for number in range(count)),
        scores=tuple(scores),
        semantic_logits=F.interpolate(torch.randn((1, 5, 6, 7), generator=random) * 2, (32, 40), mode="bicubic")[0],
        semantic_labels=(3, 4, 5, 6, -1),
        frame=FRAME,
    )


def photographs(folder: Path, sizes: Sequence[tuple[int, int]]) -> list[Scene]:
    """Drawn photographs of these sizes, image ids 0, 1, …"""
    found = []
    for index, size in enumerate(sizes):
        path = folder / f"{index}.png"
        assert cv2.imwrite(str(path), shapes.make_scene(index, size=size).image[..., ::-1])
        found.append(Scene(ImageInfo(index, path.name, *size), path))
    return found


def maps_of(model: Any, batch: Sequence[LoadedImage]) -> list[SegmentedMap]:
    """The map of each image of a batch, by the model's own rule."""
    return [model.rule.to_segments(fused) for fused in fuse(model.candidates(batch), model.rule)]


def assert_maps_of_each_alone(model: Any, batch: Sequence[LoadedImage]) -> None:
    """Each image of a batch has the segments that it has alone, and its map but for rounding."""
    for image, (ids, segments) in zip(batch, maps_of(model, batch), strict=True):
        ((alone, own),) = maps_of(model, [image])
        assert [segment.label for segment in segments] == [segment.label for segment in own] != []
        assert (ids != alone).mean() <= 1e-4


def wrong_pixels(found: SegmentedMap, theirs: np.ndarray, labels: np.ndarray, void: int = -1) -> np.ndarray:
    """(H, W) bool: pixels of another label than theirs, or of another segment under whatever number.

    theirs: (H, W) a number for each of their segments; labels: (H, W) its label, `void` where there is none
    """
    ids, segments = found
    label_of = np.full(ids.max() + 1, void)
    for segment in segments:
        label_of[segment.id] = segment.label
        assert segment.area == (ids == segment.id).sum()
    wrong = label_of[ids] != labels
    for segment in segments:
        inside = ids == segment.id
        values, counts = np.unique(theirs[inside], return_counts=True)
        wrong |= (theirs == values[counts.argmax()]) != inside
    return wrong
