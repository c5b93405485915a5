"""The outputs of models before fusion: one record per image, on the device, the same for all networks.

`softmax_candidates` and `sigmoid_candidates` convert class logits to candidates in the two common ways; an adapter may
score its queries differently.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.base.errors import BadModel
from panbench.models import async_device

NO_LABEL = -1
"""The label of a query that predicts "no object"; rules ignore it."""


MASK_DINO_TEMPERATURE = 0.06
"""Mask DINO's divisor of class probabilities before they compete. [IDEA-Research/MaskDINO, `pano_temp`]"""


@dataclass(frozen=True)
class Frame:
    """Holds an image's (height, width) as padded network input, as resized, and in the original."""

    padded: tuple[int, int]
    resized: tuple[int, int]
    original: tuple[int, int]
    one_step: bool = False
    """Whether masks are resized to the original in one bilinear step, as by Panoptic SegFormer's authors, instead of
    in two, via the padded size, as in mmdet and detectron2."""


@dataclass(frozen=True)
class Candidates:
    """Holds the K masks that a query decoder predicts for one image, in any order; they compete for its pixels."""

    labels: npt.NDArray[np.int64]
    """(K,) on the host: the contiguous label of each candidate, or NO_LABEL."""
    gate: npt.NDArray[np.float32]
    """(K,) on the host: the confidence that rules compare with their score thresholds."""
    weight: Tensor
    """(K,) float32 on the device: the candidate's weight in the competition for pixels; the gate in most families."""
    masks: Tensor
    """(K, h, w) on the device, covering the padded input."""
    frame: Frame
    isthing: tuple[bool, ...]
    """For each label of the model, whether it is a thing."""
    activation: Literal["sigmoid", "identity"] = "sigmoid"
    """How `masks` become probabilities: "sigmoid" for logits, "identity" if they already are."""
    class_scores: Tensor | None = None
    """(K, classes) float32 on the device: each candidate's score for each class, for AP before fusion (AP_pan).
    None if the adapter gives none."""
    class_weights: Tensor | None = None
    """(K, classes) float32 on the device: each candidate's weight for each class in the semantic sum Σ class × mask
    (mIoU_pan). None if they are `class_scores`."""
    most_instances: int = 100
    """The largest number of (candidate, class) pairs, by falling `class_scores`, that are instances: max_per_image."""
    boxes: Tensor | None = None
    """(K, 4) float on the device, x1 y1 x2 y2 in pixels of the original image (may lie partly outside), from the
    model's
    box head, for box AP before fusion. None without a box head: boxes are then those of the masks."""


@dataclass(frozen=True)
class Instances:
    """Holds Panoptic FPN's output for one image: boxes with masks, by falling score, and semantic logits."""

    boxes: Tensor | None
    """(N, 4) float on the device, x1 y1 x2 y2 in pixels of the original image. None: each mask covers the image."""
    masks: Tensor
    """(N, m, m) probabilities on the device, stretched over the boxes; without boxes (N, height, width)."""
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    semantic_logits: Tensor
    """(C, h, w) on the device, covering the padded input."""
    semantic_labels: tuple[int, ...]
    """The label of each of the C channels; NO_LABEL for the channel that means "a thing"."""
    frame: Frame


@dataclass(frozen=True)
class LabelledSegment:
    """Describes a segment of an id map, with the model's contiguous label; `score` is None if the model gives none."""

    id: int
    label: int
    area: int
    score: float | None


@dataclass(frozen=True)
class FinishedMap:
    """Holds an id map that needs no fusion, (H, W) int32 on the host, 0 = void, and its segments."""

    ids: npt.NDArray[np.int32]
    segments: tuple[LabelledSegment, ...]
    frame: Frame

    def to_host(self) -> "FinishedMap":
        """Returns this map, which is in host memory already."""
        return self


Output = Candidates | Instances | FinishedMap
"""A model's output for one image."""


def best_score(output: Output) -> float:
    """Returns the highest score in a model's output for one image; 0 without candidates or scores."""
    if isinstance(output, Candidates):
        return float(output.gate[output.labels >= 0].max(initial=0.0))
    return max(output.scores, default=0.0) if isinstance(output, Instances) else 0.0


class NonFiniteOutput(Exception):
    """Raised if a model's output contains NaN or infinity; the message names the output, such as "class logits"."""


def check_classes(outputs: Sequence[Output], class_names: Sequence[str], title: str) -> None:
    """Raises BadModel if the outputs' classes do not match the model's class names; a model without names passes.

    Otherwise a class output with too few columns would be scored silently, because labels are only indices.
    """
    count = len(class_names)
    for output in outputs if count else ():
        if isinstance(output, Candidates):
            for name, scores in (("scores", output.class_scores), ("weights", output.class_weights)):
                if scores is not None and scores.shape[-1] != count:
                    raise BadModel(
                        f"{title} names {count} categories, and its class {name} have {scores.shape[-1]} columns. Its "
                        'class output needs a column for each category and, under a softmax, one more for "nothing".'
                    )
            labels, things = output.labels.tolist(), len(output.isthing)
        elif isinstance(output, Instances):
            labels, things = [*output.labels, *output.semantic_labels], count
            if output.semantic_logits.shape[0] != len(output.semantic_labels):
                raise BadModel(
                    f"{title} names the labels of {len(output.semantic_labels)} semantic channels, and its semantic "
                    f"output has {output.semantic_logits.shape[0]}."
                )
        else:
            labels, things = [segment.label for segment in output.segments], count
        if things != count:
            raise BadModel(f"{title} names {count} categories, but its output has isthing for {things}.")
        if wrong := [label for label in labels if not NO_LABEL <= label < count]:
            raise BadModel(f"{title} predicted label {wrong[0]}, but has {count} categories: labels 0 to {count - 1}.")


def softmax_candidates(
    class_logits: Tensor,
    mask_logits: Tensor,
    frames: Sequence[Frame],
    isthing: tuple[bool, ...],
    *,
    nothing_wins: bool = True,
    most_instances: int = 100,
) -> list[Candidates]:
    """Turns class and mask logits into Candidates by a softmax over the classes and "nothing", the last one.

    [Cheng et al. 2021, sec. 3.4]
    class_logits: (B, Q, classes + 1); mask_logits: (B, Q, h, w), both on the device.
    nothing_wins: a query whose likeliest class is "nothing" gets NO_LABEL; False gives it its best other class (kMaX)
    most_instances: as in Candidates
    The batch's only synchronisation with the device happens here. Raises NonFiniteOutput.
    """
    probabilities = class_logits.float().softmax(dim=-1)
    scores, labels = (probabilities if nothing_wins else probabilities[..., :-1]).max(dim=-1)
    labels = torch.where(labels == class_logits.shape[-1] - 1, NO_LABEL, labels)
    found = _candidates_of_batch(
        class_logits, scores, labels, scores, mask_logits, frames, isthing, probabilities[..., :-1]
    )
    return [replace(each, most_instances=most_instances) for each in found]


def sigmoid_candidates(
    class_logits: Tensor,
    mask_logits: Tensor,
    frames: Sequence[Frame],
    isthing: tuple[bool, ...],
    *,
    temperature: float | None = None,
) -> list[Candidates]:
    """Turns class and mask logits into Candidates scored by their best sigmoid; there is no class "nothing".

    class_logits: (B, Q, classes); mask_logits: (B, Q, h, w), both on the device.
    temperature: Mask DINO's; label and weight then come from softmax(sigmoid / temperature), which sharpens the
        competition, and the gate stays the sigmoid. [Li et al. 2023; IDEA-Research/MaskDINO, `pano_temp`]
    The batch's only synchronisation with the device happens here. Raises NonFiniteOutput.
    """
    probabilities = class_logits.float().sigmoid()
    gate, labels = probabilities.max(dim=-1)
    weight, class_weights = gate, None
    if temperature is not None:
        class_weights = (probabilities / temperature).softmax(dim=-1)
        weight, labels = class_weights.max(dim=-1)
    found = _candidates_of_batch(class_logits, gate, labels, weight, mask_logits, frames, isthing, probabilities)
    if class_weights is None:
        return found
    return [replace(each, class_weights=own) for each, own in zip(found, class_weights, strict=True)]


def pixel_boxes(fractions: Tensor, height: float, width: float) -> Tensor:
    """Converts (K, 4) boxes from fractions (centre x, centre y, width, height) to pixels (x1 y1 x2 y2).

    height, width: the size that fractions refer to, in pixels of the original image; with padding larger than the image
    """
    x, y, w, h = fractions.float().unbind(dim=-1)
    return torch.stack([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height], dim=-1)


def one_class_scores(labels: Tensor, scores: Tensor, isthing: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Makes two (K, classes) tensors from a class and a score per mask: one of things only, one of all classes.

    They are the fields `class_scores` and `class_weights` of Candidates, for Panoptic SegFormer.

    labels, scores: (K,) on the device. The class scores of stuff are 0, because stuff is no instance and must not
    displace things; its weights are not.
    """
    weights = scores.new_zeros((len(labels), len(isthing))).scatter_(1, labels[:, None], scores[:, None])
    return weights * async_device.constant(tuple(isthing), scores.device), weights


def pair_candidates(
    thing_logits: Tensor,
    thing_masks: Tensor,
    stuff_logits: Tensor,
    stuff_masks: Tensor,
    frame: Frame,
    isthing: tuple[bool, ...],
    *,
    most: int = 100,
    activation: Literal["sigmoid", "identity"] = "identity",
) -> Candidates:
    """Turns Panoptic SegFormer's logits for one image into Candidates: the best (query, thing) pairs, and all stuff.

    thing_logits: (Q, things) for a sigmoid; the `most` best pairs of query × thing are used, so a query may occur twice
    thing_masks: (Q, h, w); stuff_logits: (stuff,) for a sigmoid; stuff_masks: (stuff, h, w), a query for each stuff
    [Li et al. 2022; zhiqi-li/Panoptic-SegFormer]. The host waits for the device. Raises NonFiniteOutput.
    """
    things = [label for label, thing in enumerate(isthing) if thing]
    stuff = [label for label, thing in enumerate(isthing) if not thing]
    scores, pairs = thing_logits.float().sigmoid().flatten().topk(min(most, thing_logits.numel()))
    gate = torch.cat([scores, stuff_logits.float().sigmoid()])
    host = gate.cpu().numpy()
    if not np.isfinite(host).all():
        raise NonFiniteOutput("class logits")
    labels = np.concatenate([np.asarray(things)[(pairs % len(things)).cpu().numpy()], stuff]).astype(np.int64)
    masks = torch.cat([thing_masks[pairs // len(things)], stuff_masks])
    class_scores, class_weights = one_class_scores(torch.from_numpy(labels).to(gate.device), gate, isthing)
    return Candidates(labels, host, gate, masks, frame, isthing, activation, class_scores, class_weights, most)


def _candidates_of_batch(
    class_logits: Tensor,
    gate: Tensor,
    labels: Tensor,
    weight: Tensor,
    masks: Tensor,
    frames: Sequence[Frame],
    isthing: tuple[bool, ...],
    class_scores: Tensor,
) -> list[Candidates]:
    """Makes the Candidates of each image of a batch with one copy to the host. Raises NonFiniteOutput."""
    finite = torch.isfinite(class_logits).flatten(1).all(dim=1)
    # One copy with everything that the host needs. Labels are small numbers, so float32 holds them exactly.
    host = async_device.to_host(torch.stack([gate, labels.float(), finite[:, None].expand_as(gate).float()])).numpy()
    if not host[2].all():
        raise NonFiniteOutput("class logits")
    host_labels = host[1].astype(np.int64)
    found = [
        Candidates(host_labels[image], host[0, image], weight[image], masks[image], frame, isthing)
        for image, frame in enumerate(frames)
    ]
    return [replace(each, class_scores=scores) for each, scores in zip(found, class_scores, strict=True)]
