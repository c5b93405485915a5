"""Several answers to one image become one: views of test-time augmentation, or models of an ensemble.

Answers are brought to one grid, candidates of one label whose masks overlap (IoU > 0.5, at most one of each answer) are
joined and averaged, and any fusion rule takes the result. One answer alone comes out as it went in.
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
from panbench.panoptic.clusters import join_by_overlap

__all__ = ["flip", "merge_outputs"]

MATCH_IOU = 0.5

Float = npt.NDArray[np.float64]


def merge_outputs(
    outputs: Sequence[Output], weights: Sequence[float] | None = None, stuff_weights: Sequence[float] | None = None
) -> Output:
    """Merges the outputs of several views or models for one image into one output.

    outputs: all Candidates or all Instances, with the same labels and the same original size
    weights: how much each counts; None for all alike
    stuff_weights: how much each counts for stuff, where that is something else than for things
    Raises BadArgument when they do not fit together.
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
    shares = np.stack([_shares(given, len(outputs)) for given in (weights, stuff_weights or weights)])
    counting = np.flatnonzero(shares.any(axis=0))
    chosen, shares = [outputs[place] for place in counting.tolist()], shares[:, counting]
    if len(chosen) == 1:
        return chosen[0]
    if isinstance(outputs[0], Candidates):
        return _merge_candidates([each for each in chosen if isinstance(each, Candidates)], shares)
    return _merge_instances([each for each in chosen if isinstance(each, Instances)], shares)


def _shares(weights: Sequence[float] | None, count: int) -> Float:
    """(count,) weights that add up to 1."""
    shares = np.ones(count) if weights is None else np.asarray(weights, np.float64)
    if len(shares) != count or (shares < 0).any() or shares.sum() <= 0:
        raise BadArgument(
            f"{count} answers need as many weights, none below 0 and one above, not {listed(weights or ())}."
        )
    return shares / shares.sum()


def flip(output: Output) -> Output:
    """The answer to an image that was mirrored left to right, as an answer to the image.

    Zeros are added at the right, so a mirrored image has them on the same side: only its own columns turn.
    """
    if isinstance(output, Candidates):
        # Views are averaged by their masks, so what comes of them has the masks' boxes, not a box head's.
        return dataclasses.replace(output, masks=_flipped(output.masks, output.frame), boxes=None)
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
            semantic_logits=_flipped(output.semantic_logits, output.frame),
        )
    raise BadArgument("A finished id map cannot be averaged with others: --tta needs a network's masks.")


def _flipped(maps: Tensor, frame: Frame) -> Tensor:
    """(K, h, w) of the padded input's extent, the image's own part mirrored."""
    own = maps.shape[-1] * frame.resized[1] / frame.padded[1]
    if own == int(own):
        own = int(own)
        return torch.cat([maps[..., :own].flip(-1), maps[..., own:]], dim=-1)
    # The image ends within a column of cells: sampled at mirrored places, clamped at the rim.
    centres = torch.arange(maps.shape[-1], device=maps.device, dtype=torch.float32) + 0.5
    return _sampled(maps, None, own - centres)


def _on_grid(maps: Tensor, frame: Frame, target: Frame, shape: tuple[int, int]) -> Tensor:
    """Maps of one frame at the cells of another frame's grid, both of the same image."""
    if tuple(maps.shape[-2:]) == shape and (frame.padded, frame.resized) == (target.padded, target.resized):
        return maps.float()

    def axis(side: int) -> Tensor:
        cells = torch.arange(shape[side], device=maps.device, dtype=torch.float32) + 0.5
        of_image = cells * target.padded[side] / shape[side] / target.resized[side]
        return of_image * frame.resized[side] / frame.padded[side] * maps.shape[-2 + side]

    return _sampled(maps, axis(0), axis(1))


def _sampled(maps: Tensor, y: Tensor | None, x: Tensor | None) -> Tensor:
    """(K, rows, columns): maps (K, h, w) read bilinearly at coordinates in cells; None keeps an axis."""
    height, width = maps.shape[-2:]
    y = torch.arange(height, device=maps.device, dtype=torch.float32) + 0.5 if y is None else y
    x = torch.arange(width, device=maps.device, dtype=torch.float32) + 0.5 if x is None else x
    grid = torch.stack(
        [
            (x * 2 / width - 1)[None, :].expand(len(y), len(x)),
            (y * 2 / height - 1)[:, None].expand(len(y), len(x)),
        ],
        dim=-1,
    )
    sampled = F.grid_sample(maps[None].float(), grid[None], align_corners=False, padding_mode="border")
    return sampled[0]


def _clusters(owner: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], iou: Float) -> list[list[int]]:
    """Members of each cluster: of one label, from different owners, joined in falling order of IoU."""
    one, other = np.nonzero(
        np.triu(iou > MATCH_IOU, 1) & (labels[:, None] == labels[None]) & (owner[:, None] != owner[None])
    )
    cluster = join_by_overlap(owner, one, other, iou[one, other])
    return [np.flatnonzero(cluster == number).tolist() for number in np.unique(cluster).tolist()]


def _confidence(values: Float, shares: Float) -> float:
    """The score of a cluster: the mean of those who see it where they are at least half, else the rest counts as 0."""
    present = shares.sum()
    return float((values * shares).sum() / (present if present >= 0.5 else 1.0))


def _merge_candidates(outputs: Sequence[Candidates], shares: Float) -> Candidates:
    """shares: (2, answers) for things and for stuff."""
    best = max(range(len(outputs)), key=lambda each: outputs[each].masks.shape[-1] * outputs[each].masks.shape[-2])
    frame = outputs[best].frame
    shape = (int(outputs[best].masks.shape[-2]), int(outputs[best].masks.shape[-1]))
    device = outputs[best].masks.device
    # The row of `shares` for each label; NO_LABEL, which is not kept, takes the last.
    group = np.array([0 if thing else 1 for thing in outputs[best].isthing] + [1])
    kept = [
        np.flatnonzero((each.labels >= 0) & (each.gate > 0.01) & (shares[group[each.labels], number] > 0))
        for number, each in enumerate(outputs)
    ]
    owner = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(kept)])
    labels = np.concatenate([each.labels[rows] for each, rows in zip(outputs, kept, strict=True)])
    gates = np.concatenate([each.gate[rows] for each, rows in zip(outputs, kept, strict=True)]).astype(np.float64)
    # Logits are averaged where all have them: between cells they are upsampled to sharper borders than probabilities.
    in_logits = all(each.activation == "sigmoid" for each in outputs)
    masks = torch.cat(
        [
            _on_grid(
                (each.masks.float() if in_logits else _probabilities(each))[torch.from_numpy(rows).to(device)],
                each.frame,
                frame,
                shape,
            )
            for each, rows in zip(outputs, kept, strict=True)
        ]
    )
    weights = torch.cat(
        [each.weight[torch.from_numpy(rows).to(device)].float() for each, rows in zip(outputs, kept, strict=True)]
    )
    sure = (masks >= (0.0 if in_logits else 0.5)).flatten(1).float()
    shared = (sure @ sure.T).cpu().numpy().astype(np.float64)
    area = np.diag(shared)
    iou = shared / np.maximum(area[:, None] + area[None] - shared, 1)
    clusters = _clusters(owner, labels, iou)
    mixing = torch.zeros((len(clusters), len(owner)), device=device)
    gate = np.zeros(len(clusters), np.float32)
    strength = torch.zeros(len(clusters), device=device)
    strengths = torch.zeros_like(mixing)
    for number, members in enumerate(clusters):
        share = shares[group[labels[members[0]]], owner[members]]
        mixing[number, members] = torch.tensor(share / share.sum(), dtype=torch.float32, device=device)
        gate[number] = _confidence(gates[members], share)
        whole = share.sum() if share.sum() >= 0.5 else 1.0
        strengths[number, members] = torch.tensor(share / whole, dtype=torch.float32, device=device)
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
        class_scores=_averaged([each.class_scores for each in outputs], kept, strengths),
        class_weights=_averaged([each.class_weights for each in outputs], kept, strengths),
        most_instances=outputs[best].most_instances,
    )


def _averaged(
    values: Sequence[Tensor | None], kept: Sequence[npt.NDArray[np.int64]], strengths: Tensor
) -> Tensor | None:
    """(clusters, classes): class scores of each cluster's members; None if one of them has none."""
    known = [each for each in values if each is not None]
    if len(known) < len(values):
        return None
    device = strengths.device
    rows = [each.float()[torch.from_numpy(own).to(device)] for each, own in zip(known, kept, strict=True)]
    return strengths @ torch.cat(rows)


def _probabilities(candidates: Candidates) -> Tensor:
    masks = candidates.masks.float()
    return masks.sigmoid() if candidates.activation == "sigmoid" else masks


def _merge_instances(outputs: Sequence[Instances], shares: Float) -> Instances:
    """shares: (2, answers) for things, which boxes are, and for stuff."""
    if any(each.boxes is None for each in outputs):
        raise BadArgument("Instances without boxes cannot be averaged.")
    best = max(range(len(outputs)), key=lambda each: outputs[each].semantic_logits[0].numel())
    frame, logits = outputs[best].frame, outputs[best].semantic_logits
    shape = (int(logits.shape[-2]), int(logits.shape[-1]))
    # Channels that win nowhere may have been left out of what was stored: a probability of 0 stands for them.
    channels = tuple(dict.fromkeys(label for each in outputs for label in each.semantic_labels))
    semantic = torch.zeros((len(channels), *shape), device=logits.device)
    for each, share in zip(outputs, shares[1], strict=True):
        places = [channels.index(label) for label in each.semantic_labels]
        semantic[places] += float(share) * _on_grid(each.semantic_logits, each.frame, frame, shape).softmax(dim=0)
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
    clusters = _clusters(owner, labels, _box_iou(boxes).cpu().numpy().astype(np.float64))
    mixing = torch.zeros((len(clusters), len(owner)), device=boxes.device)
    confidence = np.zeros(len(clusters))
    for number, members in enumerate(clusters):
        share = shares[0, owner[members]]
        confidence[number] = _confidence(scores[members], share)
        # An answer that does not count adds its box to a cluster of others, but no weight; alone it scores 0.
        share = share * np.maximum(scores[members], 1e-6)
        mixing[number, members] = torch.tensor(
            share / max(share.sum(), 1e-12), dtype=torch.float32, device=boxes.device
        )
    order = np.argsort(-confidence, kind="stable")
    there = torch.from_numpy(order).to(boxes.device)
    return Instances(
        boxes=(mixing @ boxes)[there],
        masks=(mixing @ masks.flatten(1)).view(len(clusters), *masks.shape[1:])[there],
        labels=tuple(int(labels[clusters[place][0]]) for place in order),
        scores=tuple(confidence[order].tolist()),
        semantic_logits=semantic.clamp_min(1e-12).log(),
        semantic_labels=channels,
        frame=frame,
    )


def _box_iou(boxes: Tensor) -> Tensor:
    """(N, N) IoU of boxes x1 y1 x2 y2."""
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(dim=2)
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(dim=1)
    return shared / (area[:, None] + area[None] - shared).clamp_min(1e-9)
