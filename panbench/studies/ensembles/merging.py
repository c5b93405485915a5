"""Merges several outputs for one image into one: those of augmented views, or of the models of an ensemble.

Outputs are resampled to one grid; candidates of one label whose masks overlap (IoU > 0.5, at most one per output) are
joined and averaged. Any fusion rule takes the result. A single output is returned unchanged.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.models.candidates import Candidates, Frame, Instances, Output
from panbench.studies.ensembles.vote import join_by_overlap

MATCH_IOU = 0.5

Float = npt.NDArray[np.float64]


def merge_outputs(
    outputs: Sequence[Output], weights: Sequence[float] | None = None, stuff_weights: Sequence[float] | None = None
) -> Output:
    """Merges the outputs of several views or models for one image into one output.

    outputs: all Candidates or all Instances, with the same labels and the same original size
    weights: one per output; None weights all equally
    stuff_weights: one per output for stuff; None uses `weights`
    Raises BadArgument if the outputs cannot be merged.
    """
    if len({type(output) for output in outputs}) != 1 or not isinstance(outputs[0], (Candidates, Instances)):
        raise BadArgument(
            "Only answers of one kind can be averaged: masks of queries with masks of queries, or boxes with boxes. "
            "`panbench ensemble --way votes` takes finished maps of any models instead."
        )
    if len({output.frame.original for output in outputs}) != 1:
        raise BadArgument("Only answers to images of one size can be averaged.")
    if len(outputs) == 1:
        return outputs[0]
    shares = np.stack([_normalized_weights(given, len(outputs)) for given in (weights, stuff_weights or weights)])
    counting = np.flatnonzero(shares.any(axis=0))
    chosen, shares = [outputs[index] for index in counting.tolist()], shares[:, counting]
    if len(chosen) == 1:
        return chosen[0]
    if isinstance(outputs[0], Candidates):
        return _merge_candidates([each for each in chosen if isinstance(each, Candidates)], shares)
    return _merge_instances([each for each in chosen if isinstance(each, Instances)], shares)


def _normalized_weights(weights: Sequence[float] | None, count: int) -> Float:
    """Returns (count,) weights that sum to 1. Raises BadArgument for another number of weights, or negative ones."""
    shares = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if len(shares) != count or (shares < 0).any() or shares.sum() <= 0:
        raise BadArgument(
            f"{count} answers need as many weights, none below 0 and one above, not {listed(weights or ())}."
        )
    return shares / shares.sum()


def flip(output: Output) -> Output:
    """Converts the output for a mirrored image to one for the image itself.

    Padding is always on the right, so only the columns of the image itself are mirrored.
    """
    if isinstance(output, Candidates):
        # Views are averaged by masks: the boxes of a box head would not match the averaged masks.
        return dataclasses.replace(output, masks=_mirror_image_part(output.masks, output.frame), boxes=None)
    if isinstance(output, Instances):
        width = output.frame.original[1]
        boxes = output.boxes
        if boxes is not None:
            left, top, right, bottom = boxes.unbind(dim=1)
            boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
        return dataclasses.replace(
            output,
            boxes=boxes,
            masks=output.masks.flip(-1),
            semantic_logits=_mirror_image_part(output.semantic_logits, output.frame),
        )
    raise BadArgument("A finished id map cannot be averaged with others: --tta needs a network's masks.")


def _mirror_image_part(maps: Tensor, frame: Frame) -> Tensor:
    """Mirrors (K, h, w) maps left to right, but only in the columns that show the image, not in its padding."""
    own = maps.shape[-1] * frame.resized[1] / frame.padded[1]
    if own == int(own):
        own = int(own)
        return torch.cat([maps[..., :own].flip(-1), maps[..., own:]], dim=-1)
    # The image ends within a cell: sample at mirrored positions, clamped at the border.
    centres = torch.arange(maps.shape[-1], device=maps.device, dtype=torch.float32) + 0.5
    return _sample_maps(maps, None, own - centres)


def _resampled_to_view(maps: Tensor, frame: Frame, target: Frame, shape: tuple[int, int]) -> Tensor:
    """Resamples one view's maps to the height, width and padding of another view of the same image."""
    if tuple(maps.shape[-2:]) == shape and (frame.padded, frame.resized) == (target.padded, target.resized):
        return maps.float()

    def sampled_positions(side: int) -> Tensor:
        """Returns where in the source maps to sample the target's pixel rows (side 0) or columns (side 1)."""
        cells = torch.arange(shape[side], device=maps.device, dtype=torch.float32) + 0.5
        of_image = cells * target.padded[side] / shape[side] / target.resized[side]
        return of_image * frame.resized[side] / frame.padded[side] * maps.shape[-2 + side]

    return _sample_maps(maps, sampled_positions(0), sampled_positions(1))


def _sample_maps(maps: Tensor, y: Tensor | None, x: Tensor | None) -> Tensor:
    """Samples (K, h, w) maps bilinearly at rows y and columns x; None leaves that axis unchanged.

    y, x: positions in pixels of the maps, whose centres are at .5. Returns (K, rows, columns).
    """
    height, width = maps.shape[-2:]
    y = torch.arange(height, device=maps.device, dtype=torch.float32) + 0.5 if y is None else y
    x = torch.arange(width, device=maps.device, dtype=torch.float32) + 0.5 if x is None else x
    grid = torch.stack(
        [(x * 2 / width - 1)[None, :].expand(len(y), len(x)), (y * 2 / height - 1)[:, None].expand(len(y), len(x))],
        dim=-1,
    )
    sampled = F.grid_sample(maps[None].float(), grid[None], align_corners=False, padding_mode="border")
    return sampled[0]


def _candidate_clusters(owner: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], iou: Float) -> list[list[int]]:
    """Groups overlapping masks with the same label from different models or views; returns the rows of each group.

    The pairs of highest IoU are joined first; a group has at most one mask per network output.
    """
    one, other = np.nonzero(
        np.triu(iou > MATCH_IOU, 1) & (labels[:, None] == labels[None]) & (owner[:, None] != owner[None])
    )
    cluster = join_by_overlap(owner, one, other, iou[one, other])
    return [np.flatnonzero(cluster == number).tolist() for number in np.unique(cluster).tolist()]


def _merged_score(values: Float, shares: Float) -> float:
    """Returns the weighted mean score of merged masks; outputs without one count as 0 if they have most weight."""
    present = shares.sum()
    return float((values * shares).sum() / (present if present >= 0.5 else 1.0))


def _merge_candidates(outputs: Sequence[Candidates], shares: Float) -> Candidates:
    """Merges the candidates of several outputs: each cluster of overlapping masks becomes one candidate.

    shares: (2, outputs) weights for things and for stuff
    """
    best = max(range(len(outputs)), key=lambda each: outputs[each].masks.shape[-1] * outputs[each].masks.shape[-2])
    frame = outputs[best].frame
    shape = (int(outputs[best].masks.shape[-2]), int(outputs[best].masks.shape[-1]))
    device = outputs[best].masks.device
    # The row of `shares` for each label; NO_LABEL (-1) indexes the last entry and is dropped below.
    group = np.array([0 if thing else 1 for thing in outputs[best].isthing] + [1])
    remaining = [
        np.flatnonzero((each.labels >= 0) & (each.gate > 0.01) & (shares[group[each.labels], number] > 0))
        for number, each in enumerate(outputs)
    ]
    owner = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(remaining)])
    labels = np.concatenate([each.labels[rows] for each, rows in zip(outputs, remaining, strict=True)])
    gates = np.concatenate([each.gate[rows] for each, rows in zip(outputs, remaining, strict=True)]).astype(np.float64)
    # Logits are averaged where all have them: between cells they are upsampled to sharper borders than probabilities.
    in_logits = all(each.activation == "sigmoid" for each in outputs)
    masks = torch.cat(
        [
            _resampled_to_view(
                (each.masks.float() if in_logits else _mask_probabilities(each))[torch.from_numpy(rows).to(device)],
                each.frame,
                frame,
                shape,
            )
            for each, rows in zip(outputs, remaining, strict=True)
        ]
    )
    weights = torch.cat(
        [each.weight[torch.from_numpy(rows).to(device)].float() for each, rows in zip(outputs, remaining, strict=True)]
    )
    sure = (masks >= (0.0 if in_logits else 0.5)).flatten(1).float()
    shared = (sure @ sure.T).cpu().numpy().astype(np.float64)
    area = np.diag(shared)
    iou = shared / np.maximum(area[:, None] + area[None] - shared, 1)
    clusters = _candidate_clusters(owner, labels, iou)
    mixing = torch.zeros((len(clusters), len(owner)), device=device)
    gate = np.zeros(len(clusters), np.float32)
    strength = torch.zeros(len(clusters), device=device)
    strengths = torch.zeros_like(mixing)
    for number, members in enumerate(clusters):
        share = shares[group[labels[members[0]]], owner[members]]
        mixing[number, members] = torch.tensor(share / share.sum(), dtype=torch.float32, device=device)
        gate[number] = _merged_score(gates[members], share)
        total = share.sum() if share.sum() >= 0.5 else 1.0
        strengths[number, members] = torch.tensor(share / total, dtype=torch.float32, device=device)
        strength[number] = (weights[members] * strengths[number, members]).sum()
    merged = (mixing @ masks.flatten(1)).view(len(clusters), *shape)
    return Candidates(
        labels=labels[[members[0] for members in clusters]] if clusters else np.zeros(0, np.int64),
        gate=gate,
        weight=strength,
        masks=merged,
        frame=frame,
        isthing=outputs[best].isthing,
        activation="sigmoid" if in_logits else "identity",
        class_scores=_mean_class_scores([each.class_scores for each in outputs], remaining, strengths),
        class_weights=_mean_class_scores([each.class_weights for each in outputs], remaining, strengths),
        most_instances=outputs[best].most_instances,
    )


def _mean_class_scores(
    values: Sequence[Tensor | None], remaining: Sequence[npt.NDArray[np.int64]], strengths: Tensor
) -> Tensor | None:
    """Averages the class scores of each group of merged masks, as (groups, classes); None if a model gives none."""
    known = [each for each in values if each is not None]
    if len(known) < len(values):
        return None
    device = strengths.device
    rows = [each.float()[torch.from_numpy(own).to(device)] for each, own in zip(known, remaining, strict=True)]
    return strengths @ torch.cat(rows)


def _mask_probabilities(candidates: Candidates) -> Tensor:
    """Returns candidate masks as float probabilities 0–1, by the sigmoid if they are logits."""
    masks = candidates.masks.float()
    return masks.sigmoid() if candidates.activation == "sigmoid" else masks


def _merge_instances(outputs: Sequence[Instances], shares: Float) -> Instances:
    """Merges the instances of several outputs: each cluster of overlapping boxes becomes one instance.

    Semantic maps are averaged. shares: (2, outputs) weights for things (the boxes) and for stuff
    """
    if any(each.boxes is None for each in outputs):
        raise BadArgument("Instances without boxes cannot be averaged.")
    best = max(range(len(outputs)), key=lambda each: outputs[each].semantic_logits[0].numel())
    frame, logits = outputs[best].frame, outputs[best].semantic_logits
    shape = (int(logits.shape[-2]), int(logits.shape[-1]))
    # Stored outputs may lack channels that win nowhere: those have probability 0.
    channels = tuple(dict.fromkeys(label for each in outputs for label in each.semantic_labels))
    semantic = torch.zeros((len(channels), *shape), device=logits.device)
    for each, share in zip(outputs, shares[1], strict=True):
        indices = [channels.index(label) for label in each.semantic_labels]
        semantic[indices] += float(share) * _resampled_to_view(each.semantic_logits, each.frame, frame, shape).softmax(
            dim=0
        )
    owner = np.concatenate([np.full(len(each.labels), number) for number, each in enumerate(outputs)]).astype(np.int64)
    labels = np.concatenate([np.array(each.labels, np.int64) for each in outputs])
    scores = np.concatenate([np.array(each.scores, np.float64) for each in outputs])
    boxes = torch.cat([each.boxes.float() for each in outputs if each.boxes is not None])
    side = max(each.masks.shape[-1] for each in outputs)
    masks = torch.cat(
        [
            each.masks.float()
            if each.masks.shape[-1] == side or not len(each.masks)
            else F.interpolate(each.masks[None].float(), size=(side, side), mode="bilinear", align_corners=False)[0]
            for each in outputs
            if len(each.masks)
        ]
        or [outputs[best].masks.float()]
    )
    clusters = _candidate_clusters(owner, labels, _box_iou(boxes).cpu().numpy().astype(np.float64))
    mixing = torch.zeros((len(clusters), len(owner)), device=boxes.device)
    confidence = np.zeros(len(clusters))
    for number, members in enumerate(clusters):
        share = shares[0, owner[members]]
        confidence[number] = _merged_score(scores[members], share)
        # An output of weight 0 adds nothing to a cluster of others; a cluster of it alone scores 0.
        share = share * np.maximum(scores[members], 1e-6)
        mixing[number, members] = torch.tensor(
            share / max(share.sum(), 1e-12), dtype=torch.float32, device=boxes.device
        )
    order = np.argsort(-confidence, kind="stable")
    rows = torch.from_numpy(order).to(boxes.device)
    return Instances(
        boxes=(mixing @ boxes)[rows],
        masks=(mixing @ masks.flatten(1)).view(len(clusters), *masks.shape[1:])[rows],
        labels=tuple(int(labels[clusters[index][0]]) for index in order),
        scores=tuple(confidence[order].tolist()),
        semantic_logits=semantic.clamp_min(1e-12).log(),
        semantic_labels=channels,
        frame=frame,
    )


def _box_iou(boxes: Tensor) -> Tensor:
    """Returns the (N, N) IoU of boxes (N, 4), x1 y1 x2 y2."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(dim=1)
    return shared / (area[:, None] + area[None] - shared).clamp_min(1e-9)
