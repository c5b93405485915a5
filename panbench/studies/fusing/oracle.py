"""What fusion costs at most: the same masks, with single decisions of the rule taken by the ground truth.

    labels      every segment that matches a true one (IoU > 0.5) gets its category
    selection   of all stored masks, those are taken that fit a true segment of their category best
    order       where masks lie over each other, the pixel goes to the one whose true segment is there
    all         all three: the best mask of any category for each true segment, relabelled, overlaps decided by truth

1 − PQ of `all` is what no fusion could save: the masks were not there. What `all` gains over the rule is what scoring
and fusion threw away. Each step is a map like any other, scored like any other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import NO_LABEL, Candidates, Instances
from panbench.models.predict import CategoryIds
from panbench.models.rules.base import Rule, SettledMap
from panbench.models.rules.panoptic_fpn import paste_masks
from panbench.models.rules.resize import semantic_argmax, upsampled_blocks
from panbench.panoptic.types import IdMap, PanopticPrediction, Segment

__all__ = ["STEPS", "oracle_maps"]

STEPS = ("labels", "selection", "order", "all")

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Masks:
    """All masks of an image: (K, H, W) bool where each is sure, its category id, its score, and the IoU with truth."""

    covers: Bool
    category: npt.NDArray[np.int64]
    score: Float
    iou: Float


def oracle_maps(
    output: Candidates | Instances,
    fused: SettledMap,
    category_ids: CategoryIds,
    gt_ids: IdMap,
    gt_segments: Sequence[Segment],
    isthing: Mapping[int, bool],
    image_id: int = 0,
    rule: Rule | None = None,
) -> dict[str, PanopticPrediction]:
    """The map of each step of STEPS.

    fused: what the rule made of the same output; category_ids: of each label of the model
    rule: among the masks of `selection` it decides overlaps, without its thresholds; None and for boxes: the score does
    gt_segments: crowds are left to the rule, as no mask can match one; isthing: of each category id
    """
    true = [segment for segment in gt_segments if not segment.iscrowd]
    masks = _masks(output, category_ids, gt_ids, true)
    ids, segments = fused
    own = [(int(segment.id), int(category_ids[segment.label]), segment.score) for segment in segments]
    own_masks = _Masks(
        np.stack([ids == one for one, _, _ in own]) if own else np.zeros((0, *ids.shape), np.bool_),
        np.array([category for _, category, _ in own], np.int64),
        np.array([1.0 if score is None else score for _, _, score in own]),
        np.zeros((0, 0)),
    )
    own_masks = _with_iou(own_masks, gt_ids, true)
    # Full masks of what the rule kept: the candidate of its category that covers most of each segment.
    kept = [_origin(masks, own_masks, number) for number in range(len(own))]
    selected = _assigned(masks, true, same_category=True)
    best = _assigned(masks, true, same_category=False)
    return {
        "labels": _painted(image_id, own_masks.covers, _relabelled(own_masks, true), isthing),
        "selection": _selection(output, masks, sorted(selected.values()), rule, category_ids, isthing, image_id),
        "order": _painted(
            image_id,
            *_by_truth(masks, own_masks, kept, gt_ids, true),
            isthing,
        ),
        "all": _painted(image_id, *_ideal(masks, best, gt_ids, true), isthing),
    }


def _masks(output: Candidates | Instances, category_ids: CategoryIds, gt_ids: IdMap, true: Sequence[Segment]) -> _Masks:
    if isinstance(output, Candidates):
        rows = np.flatnonzero(output.labels >= 0)
        index = torch.from_numpy(rows).to(output.masks.device)
        sure = [
            ((block.sigmoid() if output.activation == "sigmoid" else block) >= 0.5).cpu().numpy()
            for _, block in upsampled_blocks(output.masks[index], output.frame)
        ]
        covers = np.concatenate(sure) if sure else np.zeros((0, *output.frame.original), np.bool_)
        labels, scores = output.labels[rows], output.gate[rows].astype(np.float64)
    else:
        covers, labels, scores = _instance_masks(output)
    category = np.array([category_ids[int(label)] for label in labels], np.int64)
    return _with_iou(_Masks(covers, category, scores, np.zeros((0, 0))), gt_ids, true)


def _instance_masks(output: Instances) -> tuple[Bool, npt.NDArray[np.int64], Float]:
    """The pasted instances, then one mask for each semantic channel that wins somewhere."""
    height, width = output.frame.original
    covers = np.zeros((len(output.labels), height, width), np.bool_)
    for number, (window, mask) in enumerate(paste_masks(output, 0.5)):
        covers[number][window] = _on_host(mask)
    winner = _on_host(semantic_argmax(output.semantic_logits, output.frame))
    channels = [
        channel
        for channel, label in enumerate(output.semantic_labels)
        if label != NO_LABEL and (winner == channel).any()
    ]
    stuff = [winner == channel for channel in channels]
    labels = [*output.labels, *(output.semantic_labels[channel] for channel in channels)]
    scores = np.array([*output.scores, *(1.0 for _ in channels)], np.float64)
    every = np.concatenate([covers, np.stack(stuff)]) if stuff else covers
    return every, np.array(labels, np.int64), scores


def _on_host(values: Tensor) -> npt.NDArray[np.generic]:
    return values.cpu().numpy()


def _with_iou(masks: _Masks, gt_ids: IdMap, true: Sequence[Segment]) -> _Masks:
    """The same with (K, G) IoUs with the true segments; pixels of a mask on void count for nothing, as in PQ."""
    count, flat = len(masks.covers), gt_ids.ravel()
    # The place of each pixel's segment, counted from 1; 0 for void, crowds and ids that are not listed.
    ids = np.array([segment.id for segment in true], np.int64)
    order = np.argsort(ids, kind="stable")
    found = np.minimum(np.searchsorted(ids, flat, sorter=order), max(len(ids) - 1, 0))
    place_at = np.where(ids[order][found] == flat, order[found] + 1, 0) if len(ids) else np.zeros(len(flat), np.int64)
    unlabelled = flat == 0
    iou = np.zeros((count, len(true)))
    area = np.array([segment.area for segment in true], np.float64)
    for mask in range(count):
        covered = masks.covers[mask].ravel()
        shared = np.bincount(place_at[covered], minlength=len(true) + 1)[1:].astype(np.float64)
        own = covered.sum() - (covered & unlabelled).sum()
        iou[mask] = shared / np.maximum(own + area - shared, 1)
    return _Masks(masks.covers, masks.category, masks.score, iou)


def _origin(masks: _Masks, rule: _Masks, number: int) -> int | None:
    """The mask that a segment of the rule was made of: of its category, the one that fits it best."""
    alike = np.flatnonzero(masks.category == rule.category[number])
    if not len(alike):
        return None
    segment = rule.covers[number]
    shared = np.array([(masks.covers[each] & segment).sum() for each in alike], np.float64)
    union = np.array([(masks.covers[each] | segment).sum() for each in alike], np.float64)
    return int(alike[np.argmax(shared / np.maximum(union, 1))])


def _assigned(masks: _Masks, true: Sequence[Segment], *, same_category: bool) -> dict[int, int]:
    """For each true segment that has one, its mask: pairs in falling order of IoU, each mask and segment once."""
    iou = masks.iou.copy()
    if same_category:
        iou[masks.category[:, None] != np.array([segment.category_id for segment in true], np.int64)[None]] = 0
    chosen: dict[int, int] = {}
    taken: set[int] = set()
    for flat in np.argsort(-iou, axis=None, kind="stable").tolist():
        mask, place = divmod(flat, max(len(true), 1))
        if iou[mask, place] <= 0:
            break
        if place not in chosen and mask not in taken:
            chosen[place] = mask
            taken.add(mask)
    return chosen


def _relabelled(rule: _Masks, true: Sequence[Segment]) -> list[int]:
    category = rule.category.tolist()
    for number in range(len(category)):
        place = int(rule.iou[number].argmax()) if len(true) else -1
        if place >= 0 and rule.iou[number, place] > 0.5:
            category[number] = true[place].category_id
    return category


def _by_score(masks: _Masks, rows: Sequence[int]) -> tuple[Bool, list[int]]:
    """The chosen masks, each without what one of higher score covers."""
    order = sorted(rows, key=lambda row: -masks.score[row])
    free = np.ones(masks.covers.shape[1:], np.bool_)
    parts = []
    for row in order:
        parts.append(masks.covers[row] & free)
        free &= ~masks.covers[row]
    covers = np.stack(parts) if parts else np.zeros((0, *free.shape), np.bool_)
    return covers, [int(masks.category[row]) for row in order]


def _by_truth(
    masks: _Masks, rule: _Masks, kept: Sequence[int | None], gt_ids: IdMap, true: Sequence[Segment]
) -> tuple[Bool, list[int]]:
    """The rule's segments; each also gets the pixels of its full mask where its true segment is."""
    covers = rule.covers.copy()
    for number, row in enumerate(kept):
        if row is None or not len(true):
            continue
        place = int(rule.iou[number].argmax())
        if rule.iou[number, place] <= 0 or true[place].category_id != rule.category[number]:
            continue
        won = masks.covers[row] & (gt_ids == true[place].id)
        covers &= ~won[None]
        covers[number] |= won
    return covers, rule.category.tolist()


def _ideal(masks: _Masks, best: Mapping[int, int], gt_ids: IdMap, true: Sequence[Segment]) -> tuple[Bool, list[int]]:
    """For each true segment its best mask: first where the segment is, then by falling IoU the rest of the masks."""
    order = sorted(best, key=lambda place: -masks.iou[best[place], place])
    parts = [masks.covers[best[place]] & (gt_ids == true[place].id) for place in order]
    free = ~np.any(parts, axis=0) if parts else np.ones(masks.covers.shape[1:], np.bool_)
    for number, place in enumerate(order):
        rest = masks.covers[best[place]] & free
        parts[number] |= rest
        free &= ~rest
    covers = np.stack(parts) if parts else np.zeros((0, *free.shape), np.bool_)
    return covers, [true[place].category_id for place in order]


def _selection(
    output: Candidates | Instances,
    masks: _Masks,
    rows: Sequence[int],
    rule: Rule | None,
    category_ids: CategoryIds,
    isthing: Mapping[int, bool],
    image_id: int,
) -> PanopticPrediction:
    """The chosen masks alone, as the rule would fuse them if it dropped nothing."""
    if rule is None or isinstance(output, Instances) or not rows:
        return _painted(image_id, *_by_score(masks, rows), isthing)
    # Masks without a label were left out of `masks`: these are the places of the others.
    chosen = np.flatnonzero(output.labels >= 0)[list(rows)]
    index = torch.from_numpy(chosen).to(output.masks.device)
    subset = replace(
        output,
        labels=output.labels[chosen],
        gate=output.gate[chosen],
        weight=output.weight[index],
        masks=output.masks[index],
    )
    loose = replace(rule, **{name: 0.0 for name in ("score", "overlap") if hasattr(rule, name)})  # type: ignore[arg-type]
    ids, segments = loose.settle(loose.fuse(subset).to_host())
    found = tuple(Segment(one.id, category_ids[one.label], one.area, score=one.score) for one in segments)
    return PanopticPrediction(image_id, ids, found)


def _painted(image_id: int, covers: Bool, category: Sequence[int], isthing: Mapping[int, bool]) -> PanopticPrediction:
    """Disjoint masks as a prediction; stuff of a category is one segment."""
    ids = np.zeros(covers.shape[1:], np.int32)
    segments: list[Segment] = []
    of_stuff: dict[int, int] = {}
    for mask, label in zip(covers, category, strict=True):
        if not mask.any():
            continue
        one = of_stuff.get(label)
        if one is None:
            one = len(segments) + 1
            segments.append(Segment(one, label, 0))
            if not isthing[label]:
                of_stuff[label] = one
        ids[mask] = one
    area = np.bincount(ids.ravel(), minlength=len(segments) + 1)
    return PanopticPrediction(
        image_id,
        ids,
        tuple(
            Segment(segment.id, segment.category_id, int(area[segment.id])) for segment in segments if area[segment.id]
        ),
    )
