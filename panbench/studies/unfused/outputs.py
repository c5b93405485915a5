"""Extracts overlapping instances and the semantic map from a network's outputs, for AP_pan and mIoU_pan.

Instances are the pairs of candidate and thing class among those with the highest class scores (the config's
max_per_image, 100), ranked by class score × mask score, the mean probability within the mask; the semantic map is the
class of highest Σ class × mask at each pixel. [Cheng et al. 2021, 2022; as mmdet and the authors' code compute them]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import NO_LABEL, Candidates, Instances
from panbench.models.rules import resize
from panbench.models.rules.panoptic_fpn import paste_probabilities
from panbench.models.rules.resize import upsampled_blocks
from panbench.studies.unfused.boxes import tight_box
from panbench.studies.unfused.packed_masks import PackedMasks, packed_bytes

MOST_INSTANCES = 100
"""The number of boxes with masks that count, by falling score."""


@dataclass(frozen=True)
class InstanceMasks:
    """Predicted instances of an image, on the host: contiguous label, score, packed mask and box of each.

    boxes: (N, 4) x1 y1 x2 y2 in pixels; boxes_predicted: True for those of a box head, False for tight boxes of masks
    """

    labels: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    masks: PackedMasks
    boxes: npt.NDArray[np.float32]
    boxes_predicted: bool


@dataclass(frozen=True)
class Unfused:
    """Instances and semantic map of an image before fusion, on the host; None for what was not requested.

    semantic: (H, W) int16, the contiguous label of each pixel, NO_LABEL where all sums are 0
    """

    instances: InstanceMasks | None
    semantic: npt.NDArray[np.int16] | None


@torch.inference_mode()
def unfused(
    output: Candidates | Instances, things: Sequence[bool], *, instances: bool = True, semantic: bool = True
) -> Unfused:
    """Extracts the instances of an image and its semantic map, and waits for the device.

    things: whether each label is mapped to a thing of the dataset
    Raises ValueError for candidates without `class_scores`.
    """
    if isinstance(output, Candidates):
        return _unfused_candidates(output, things, instances, semantic)
    return _unfused_boxes(output, things, instances, semantic)


def _unfused_candidates(output: Candidates, things: Sequence[bool], instances: bool, semantic: bool) -> Unfused:
    """Extracts instances and semantic map from the candidates of queries."""
    scores, frame = output.class_scores, output.frame
    if scores is None:
        raise ValueError("the candidates have no class_scores")
    device = scores.device
    classes = scores.shape[1]
    best, pairs = scores.float().flatten().topk(min(output.most_instances, scores.numel()))
    query, label = pairs // max(classes, 1), pairs % max(classes, 1)
    is_thing = torch.tensor(tuple(things), dtype=torch.bool, device=device)[label]
    # A score of 0 is not an instance: a candidate for a single class scores 0 in all others.
    is_thing &= best > 0
    best, query, label = best[is_thing], query[is_thing], label[is_thing]
    needed = torch.unique(query)
    weights = (scores if output.class_weights is None else output.class_weights).float()
    sums = _SemanticSums(weights, frame.original) if semantic else None
    rows = torch.arange(len(output.masks), device=device) if semantic else needed
    found: list[Tensor] = []
    tight = torch.zeros((len(output.masks), 4), device=device)
    certainty = torch.zeros(len(output.masks), device=device)
    is_requested = torch.zeros(len(output.masks), dtype=torch.bool, device=device)
    is_requested[needed] = instances
    for start, values in upsampled_blocks(output.masks[rows], frame):
        own = rows[start : start + len(values)]
        chosen = is_requested[own]
        covered = values[chosen] > (0.0 if output.activation == "sigmoid" else 0.5)
        probabilities = values.sigmoid_() if output.activation == "sigmoid" else values
        if len(covered):
            inside = (probabilities[chosen] * covered).flatten(1).sum(1)
            certainty[own[chosen]] = inside / (covered.flatten(1).sum(1) + 1e-6)
            found.append(_pack_bits(covered))
            if output.boxes is None:
                tight[own[chosen]] = _tight_boxes(covered)
        if sums is not None:
            sums.add(own, probabilities)
    masks = None
    if instances:
        packed = (
            torch.cat(found)
            if found
            else torch.zeros((0, packed_bytes(frame.original)), dtype=torch.uint8, device=device)
        )
        index = torch.searchsorted(needed, query)
        boxes = (tight if output.boxes is None else output.boxes.float())[query]
        host = torch.cat([torch.stack([label.float(), best * certainty[query]]), boxes.T]).cpu().numpy()
        labels, predicted = host[0].astype(np.int64), output.boxes is not None
        masks = InstanceMasks(labels, host[1], packed[index].cpu().numpy(), host[2:].T, predicted)
    semantic_map = None
    if sums is not None:
        while not sums.is_last_group:
            sums.start_next_classes()
            for start, values in upsampled_blocks(output.masks, frame):
                probabilities = values.sigmoid_() if output.activation == "sigmoid" else values
                sums.add(rows[start : start + len(values)], probabilities)
        semantic_map = sums.labels()
    return Unfused(masks, semantic_map)


def _unfused_boxes(output: Instances, things: Sequence[bool], instances: bool, semantic: bool) -> Unfused:
    """Extracts instances by score, and the semantic map: Σ score × mask for things, softmax of the logits for stuff."""
    height, width = output.frame.original
    device = output.semantic_logits.device
    classes = len(things)
    packed = np.zeros((0, packed_bytes(output.frame.original)), np.uint8)
    chosen: list[int] = []
    found: list[npt.NDArray[np.uint8]] = []
    tight: list[tuple[float, ...]] = []
    sums = torch.zeros((classes, height, width), device=device) if semantic else None
    for index, (window, probabilities) in enumerate(paste_probabilities(output)):
        label = output.labels[index]
        if instances and index < MOST_INSTANCES and things[label]:
            mask = np.zeros((height, width), np.bool_)
            mask[window] = (probabilities >= 0.5).cpu().numpy()
            chosen.append(index)
            found.append(np.packbits(mask))
            tight.append(tight_box(mask))
        if sums is not None:
            sums[label][window] += output.scores[index] * probabilities
    masks = None
    if instances:
        boxes = np.array(tight, np.float32).reshape(-1, 4)
        if output.boxes is not None:
            boxes = output.boxes.float().cpu().numpy()[chosen]
        masks = InstanceMasks(
            np.array([output.labels[index] for index in chosen], np.int64),
            np.array([output.scores[index] for index in chosen], np.float32),
            np.stack(found) if found else packed,
            boxes,
            output.boxes is not None,
        )
    if sums is None:
        return Unfused(masks, None)
    # Softmax over channels in three passes over blocks, to bound memory: highest logit, denominator, shares.
    peak = torch.full((height, width), -torch.inf, device=device)
    for _, logits in upsampled_blocks(output.semantic_logits, output.frame):
        peak = torch.maximum(peak, logits.amax(0))
    total = torch.zeros((height, width), device=device)
    for _, logits in upsampled_blocks(output.semantic_logits, output.frame):
        total += logits.sub_(peak).exp_().sum(0)
    for start, logits in upsampled_blocks(output.semantic_logits, output.frame):
        for offset, channel in enumerate(logits):
            label = output.semantic_labels[start + offset]
            if label != NO_LABEL:
                sums[label] += channel.sub_(peak).exp_() / total
    best, winner = sums.max(dim=0)
    return Unfused(masks, torch.where(best > 0, winner, NO_LABEL).to(torch.int16).cpu().numpy())


class _SemanticSums:
    """Finds the class with the highest Σ class × mask at each pixel, some classes at a time to bound memory."""

    def __init__(self, weights: Tensor, shape: tuple[int, int]) -> None:
        """Takes the class scores of all queries, (queries, classes), and the height and width of the image."""
        self._weights, self._shape = weights, shape
        pixels = shape[0] * shape[1]
        self._step = max(1, min(weights.shape[1], 2 * resize.ELEMENTS_AT_ONCE // max(pixels, 1)))
        self._first = 0
        self._sums = torch.zeros((self._step, pixels), device=weights.device)
        self._best: Tensor | None = None
        self._winner: Tensor | None = None

    @property
    def is_last_group(self) -> bool:
        """True if the classes in memory are the last; classes are summed some at a time to bound memory."""
        return self._first + self._step >= self._weights.shape[1]

    def add(self, rows: Tensor, probabilities: Tensor) -> None:
        """Adds some queries' class score × mask probability to the sums of the classes in memory, pixel by pixel.

        probabilities: (queries, H, W)
        """
        own = self._weights[rows, self._first : self._first + self._step]
        self._sums[: own.shape[1]].addmm_(own.T, probabilities.flatten(1))

    def start_next_classes(self) -> None:
        """Moves on to the next few classes that fit in memory; all masks must then be added again."""
        self._update_best()
        self._first += self._step
        self._sums.zero_()

    def labels(self) -> npt.NDArray[np.int16]:
        """Returns (H, W) int16, the class of highest Σ class × mask at each pixel; NO_LABEL where no sum is above 0."""
        best, winner = self._update_best()
        return torch.where(best > 0, winner, NO_LABEL).view(self._shape).to(torch.int16).cpu().numpy()

    def _update_best(self) -> tuple[Tensor, Tensor]:
        """Updates each pixel's highest Σ class × mask, and its class, with the current classes; returns both."""
        count = min(self._step, self._weights.shape[1] - self._first)
        best, winner = self._sums[:count].max(dim=0)
        winner = winner + self._first
        if self._best is not None and self._winner is not None:
            # Ties go to the first class, as in a single argmax over all.
            winner = torch.where(best > self._best, winner, self._winner)
            best = torch.maximum(best, self._best)
        self._best, self._winner = best, winner
        return best, winner


def _tight_boxes(masks: Tensor) -> Tensor:
    """Returns (N, 4) float32, the box around each of (N, H, W) bool masks; four zeros for an empty one."""
    ends = []
    for along in (masks.any(dim=1), masks.any(dim=2)):
        filled, length = along.float(), along.shape[1]
        ends.append((filled.argmax(dim=1), length - filled.flip(1).argmax(dim=1)))
    (x1, x2), (y1, y2) = ends
    boxes = torch.stack([x1, y1, x2, y2], dim=1).float()
    return boxes * masks.flatten(1).any(dim=1)[:, None]


def _pack_bits(masks: Tensor) -> Tensor:
    """Packs (N, H, W) bool masks to (N, bytes) uint8, as NumPy's packbits does."""
    flat = masks.flatten(1)
    if flat.device.type == "cpu":
        return torch.from_numpy(np.packbits(flat.numpy(), axis=1))
    flat = torch.nn.functional.pad(flat, (0, -flat.shape[1] % 8)).view(len(flat), -1, 8)
    weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=flat.device)
    return (flat * weights).sum(dim=2, dtype=torch.uint8)
