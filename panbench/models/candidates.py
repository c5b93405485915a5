"""What leaves a model, as plain records on the device, one an image. No fusion rule knows which network made them.

`softmax_candidates` and `sigmoid_candidates` are the two common ways from a network's class logits to candidates; an
adapter may score its queries in any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.base.errors import BadModel
from panbench.models import feeding

__all__ = [
    "MASK_DINO_TEMPERATURE",
    "NO_LABEL",
    "Candidates",
    "FinishedMap",
    "Frame",
    "Instances",
    "LabelledSegment",
    "NonFiniteOutput",
    "Output",
    "check_classes",
    "pair_candidates",
    "pixel_boxes",
    "scores_of_pairs",
    "sigmoid_candidates",
    "softmax_candidates",
]

NO_LABEL = -1
"""The label of a query that says "there is nothing": no rule takes it."""


MASK_DINO_TEMPERATURE = 0.06
"""What Mask DINO divides its class probabilities by before they compete. [IDEA-Research/MaskDINO, `pano_temp`]"""


@dataclass(frozen=True)
class Frame:
    """An image's way through the model, as (height, width): padded with its batch, resized, and as it was."""

    padded: tuple[int, int]
    resized: tuple[int, int]
    original: tuple[int, int]
    one_step: bool = False
    """Whether masks go from the network's size to the original in one bilinear step, as Panoptic SegFormer's authors
    bring them; else in two, over the padded size, as mmdet and detectron2 do."""


@dataclass(frozen=True)
class Candidates:
    """The masks that compete for the pixels of one image, as query decoders give them: K candidates, in any order."""

    labels: npt.NDArray[np.int64]
    """(K,) on the host: the contiguous label of each candidate, or NO_LABEL."""
    gate: npt.NDArray[np.float32]
    """(K,) on the host: how sure the model is of the candidate; rules hold their score thresholds against it."""
    weight: Tensor
    """(K,) float32 on the device: how strongly the candidate competes for pixels. For most families it is the gate."""
    masks: Tensor
    """(K, h, w) on the device, of the padded input's extent."""
    frame: Frame
    isthing: tuple[bool, ...]
    """For each label of the model, whether it is a thing."""
    activation: Literal["sigmoid", "identity"] = "sigmoid"
    """What makes probabilities of `masks`: "sigmoid" of logits, "identity" where they are probabilities already."""
    class_scores: Tensor | None = None
    """(K, classes) float32 on the device: the score of each candidate as each class, for AP before fusion (AP_pan).
    None where the adapter gives none."""
    class_weights: Tensor | None = None
    """(K, classes) float32 on the device: how strongly each candidate stands for each class in the semantic sum
    Σ class × mask (mIoU_pan). None where that is `class_scores`."""
    most_instances: int = 100
    """How many pairs of candidate and class, by falling `class_scores`, are instances: the config's max_per_image."""
    boxes: Tensor | None = None
    """(K, 4) float on the device, x1 y1 x2 y2 in pixels of the original image, as the model's own box head says, for
    box AP before fusion; it may lie partly outside. None where the model predicts no boxes: masks have theirs."""


@dataclass(frozen=True)
class Instances:
    """Boxes with masks, by falling score, and a semantic map of one image, as Panoptic FPN gives them."""

    boxes: Tensor | None
    """(N, 4) float on the device, x1 y1 x2 y2 in pixels of the original image. None: each mask covers the image."""
    masks: Tensor
    """(N, m, m) probabilities on the device, stretched over the boxes; without boxes (N, height, width)."""
    labels: tuple[int, ...]
    scores: tuple[float, ...]
    semantic_logits: Tensor
    """(C, h, w) on the device, of the padded input's extent."""
    semantic_labels: tuple[int, ...]
    """The label that each of the C channels stands for; NO_LABEL for the channel that means "a thing"."""
    frame: Frame


@dataclass(frozen=True)
class LabelledSegment:
    """A segment of an id map, with the model's contiguous label; `score` is None where the model gives none."""

    id: int
    label: int
    area: int
    score: float | None


@dataclass(frozen=True)
class FinishedMap:
    """An id map that needs no fusion: (H, W) int32 on the host, 0 = void, and the segments that it holds."""

    ids: npt.NDArray[np.int32]
    segments: tuple[LabelledSegment, ...]
    frame: Frame

    def to_host(self) -> "FinishedMap":
        """The same; it never was elsewhere."""
        return self


Output = Candidates | Instances | FinishedMap
"""What a model says of one image."""


class NonFiniteOutput(Exception):
    """The model's output holds NaN or infinity; the message names the output."""


def check_classes(outputs: Sequence[Output], class_names: Sequence[str], title: str) -> None:
    """Raises BadModel when the outputs' classes are not those that the model names; a model without names passes.

    Else a class output with too few columns would be scored without a word, as labels are only places in a list.
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
            raise BadModel(f"{title} answered with label {wrong[0]}, and names {count} categories: 0 to {count - 1}.")


def softmax_candidates(
    class_logits: Tensor,
    mask_logits: Tensor,
    frames: Sequence[Frame],
    isthing: tuple[bool, ...],
    *,
    nothing_wins: bool = True,
    most_instances: int = 100,
) -> list[Candidates]:
    """Candidates scored by the softmax over the classes and "nothing", the last one. [Cheng et al. 2021, sec. 3.4]

    class_logits: (B, Q, classes + 1); mask_logits: (B, Q, h, w), both on the device.
    nothing_wins: a query whose likeliest class is "nothing" gets NO_LABEL; False gives it its best other class (kMaX)
    most_instances: as in Candidates
    The one wait for the device of a batch happens here. Raises NonFiniteOutput.
    """
    probabilities = class_logits.float().softmax(dim=-1)
    scores, labels = (probabilities if nothing_wins else probabilities[..., :-1]).max(dim=-1)
    labels = torch.where(labels == class_logits.shape[-1] - 1, NO_LABEL, labels)
    found = _candidates(class_logits, scores, labels, scores, mask_logits, frames, isthing)
    return [
        replace(each, class_scores=probabilities[image, :, :-1], most_instances=most_instances)
        for image, each in enumerate(found)
    ]


def sigmoid_candidates(
    class_logits: Tensor,
    mask_logits: Tensor,
    frames: Sequence[Frame],
    isthing: tuple[bool, ...],
    *,
    temperature: float | None = None,
) -> list[Candidates]:
    """Candidates scored by the largest of their independent class probabilities; there is no class "nothing".

    class_logits: (B, Q, classes); mask_logits: (B, Q, h, w), both on the device.
    temperature: Mask DINO's: label and weight are then those of softmax(sigmoid / temperature), which sharpens the
        competition, and the gate stays the sigmoid. [Li et al. 2023; IDEA-Research/MaskDINO, `pano_temp`]
    The one wait for the device of a batch happens here. Raises NonFiniteOutput.
    """
    probabilities = class_logits.float().sigmoid()
    gate, labels = probabilities.max(dim=-1)
    weight, class_weights = gate, None
    if temperature is not None:
        class_weights = (probabilities / temperature).softmax(dim=-1)
        weight, labels = class_weights.max(dim=-1)
    found = _candidates(class_logits, gate, labels, weight, mask_logits, frames, isthing)
    return [
        replace(
            each,
            class_scores=probabilities[image],
            class_weights=None if class_weights is None else class_weights[image],
        )
        for image, each in enumerate(found)
    ]


def pixel_boxes(fractions: Tensor, height: float, width: float) -> Tensor:
    """(K, 4) boxes as x1 y1 x2 y2 in pixels, from centre x, centre y, width and height as fractions of an extent.

    height, width: of that extent, in pixels of the original image; where a network saw padding it is larger than that
    """
    x, y, w, h = fractions.float().unbind(dim=-1)
    return torch.stack([(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height], dim=-1)


def scores_of_pairs(labels: Tensor, scores: Tensor, isthing: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """`class_scores` and `class_weights` of candidates with one class each, such as Panoptic SegFormer's.

    labels, scores: (K,) on the device. Stuff is no instance and must not take a thing's place among the best: its class
    scores are 0, its weights are not.
    """
    weights = scores.new_zeros((len(labels), len(isthing))).scatter_(1, labels[:, None], scores[:, None])
    return weights * feeding.constant(tuple(isthing), scores.device), weights


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
    """Candidates of one image, scored as Panoptic SegFormer does: the best pairs of query and thing, and all stuff.

    thing_logits: (Q, things) for a sigmoid; the `most` best pairs of query × thing are kept, so a query may occur twice
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
    class_scores, class_weights = scores_of_pairs(torch.from_numpy(labels).to(gate.device), gate, isthing)
    return Candidates(labels, host, gate, masks, frame, isthing, activation, class_scores, class_weights, most)


def _candidates(
    class_logits: Tensor,
    gate: Tensor,
    labels: Tensor,
    weight: Tensor,
    masks: Tensor,
    frames: Sequence[Frame],
    isthing: tuple[bool, ...],
) -> list[Candidates]:
    finite = torch.isfinite(class_logits).flatten(1).all(dim=1)
    # All that the host needs in one copy. Labels are small numbers, so float32 holds them exactly.
    host = feeding.to_host(torch.stack([gate, labels.float(), finite[:, None].expand_as(gate).float()])).numpy()
    if not host[2].all():
        raise NonFiniteOutput("class logits")
    return [
        Candidates(host[1, image].astype(np.int64), host[0, image], weight[image], masks[image], frame, isthing)
        for image, frame in enumerate(frames)
    ]
