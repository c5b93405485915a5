"""The least that fusion costs: the same masks, with single decisions of the rule taken by the ground truth.

    labels      every segment of the rule that matches a true one (IoU > 0.5) gets its category
    selection   the rule's segments that match nothing are left out; where it missed a true segment, a stored mask of
                the right category that fits is added, on the pixels that are free then
    order       where a segment matches, the pixels of its true segment that its full mask covers are its own
    all         each true segment gets the shape that fits it best, whatever its label; overlaps are decided by the
                truth, and what matches nothing is left out

A shape is a mask where it is at least half sure, or a segment that the run's rule, another rule or a step above made.
So every step matches, in every image, each true segment that the rule matches, at no lower IoU, and has no more false
positives; `all` has none, and holds the same against every step and each of the other rules. It is a map that could
have been made, not the best of all: a rule with other thresholds may cut a mask better still. What `all` gains over the
rule is therefore the least that scores and fusion lose, and 1 − PQ of `all` the most that is lost as no mask fits.
Each step is a map like any other, scored like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import NO_LABEL, Candidates, Instances
from panbench.models.labels import CategoryIds
from panbench.models.rules.base import SettledMap
from panbench.models.rules.panoptic_fpn import paste_masks
from panbench.models.rules.resize import semantic_argmax, upsampled_blocks
from panbench.panoptic.types import IdMap, PanopticPrediction, Segment

__all__ = ["STEPS", "oracle_maps"]

STEPS = ("labels", "selection", "order", "all")

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Masks:
    """Masks of an image: (K, H, W) bool where each is, (K,) its category id, (K, G) its IoU with each true segment."""

    covers: Bool
    category: npt.NDArray[np.int64]
    iou: Float

    def matches(self, true: Sequence[Segment], *, any_category: bool = False) -> dict[int, int]:
        """The mask of each true segment that has one: the best of those with IoU > 0.5, by the segment's place."""
        if not len(true) or not len(self.covers):
            return {}
        alike = self.category[:, None] == np.array([segment.category_id for segment in true], np.int64)[None]
        iou = self.iou if any_category else np.where(alike, self.iou, 0.0)
        return {place: int(iou[:, place].argmax()) for place in range(len(true)) if iou[:, place].max() > 0.5}


def oracle_maps(
    output: Candidates | Instances,
    fused: SettledMap,
    category_ids: CategoryIds,
    gt_ids: IdMap,
    gt_segments: Sequence[Segment],
    image_id: int = 0,
    others: Sequence[SettledMap] = (),
) -> dict[str, PanopticPrediction]:
    """The map of each step of STEPS.

    fused: what the rule made of the same output; others: what further rules made of it
    category_ids: of each label of the model; gt_segments: crowds are left to the rule, as no mask can match one
    """
    true = [segment for segment in gt_segments if not segment.iscrowd]
    masks = _masks(output, category_ids, gt_ids, true)
    own = _segments(fused, category_ids, gt_ids, true)
    selected = _selected(masks, own, gt_ids, true)
    ordered = _by_truth(masks, own, gt_ids, true)
    drawn = [own, selected, ordered, *(_segments(each, category_ids, gt_ids, true) for each in others)]
    steps = {
        "labels": replace(own, category=_relabelled(own, true)),
        "selection": selected,
        "order": ordered,
        "all": _ideal(masks, drawn, gt_ids, true),
    }
    return {step: _painted(image_id, made) for step, made in steps.items()}


def _masks(output: Candidates | Instances, category_ids: CategoryIds, gt_ids: IdMap, true: Sequence[Segment]) -> _Masks:
    """All masks of the network, each where it is at least half sure."""
    if isinstance(output, Candidates):
        rows = np.flatnonzero(output.labels >= 0)
        index = torch.from_numpy(rows).to(output.masks.device)
        sure = [
            ((block.sigmoid() if output.activation == "sigmoid" else block) >= 0.5).cpu().numpy()
            for _, block in upsampled_blocks(output.masks[index], output.frame)
        ]
        covers = np.concatenate(sure) if sure else np.zeros((0, *output.frame.original), np.bool_)
        labels = output.labels[rows]
    else:
        covers, labels = _instance_masks(output)
    return _with_iou(covers, [category_ids[int(label)] for label in labels], gt_ids, true)


def _segments(settled: SettledMap, category_ids: CategoryIds, gt_ids: IdMap, true: Sequence[Segment]) -> _Masks:
    """The segments of a map that a rule made."""
    ids, segments = settled
    covers = [ids == segment.id for segment in segments]
    return _with_iou(_stacked(covers, ids.shape), [category_ids[each.label] for each in segments], gt_ids, true)


def _stacked(covers: Sequence[Bool], shape: tuple[int, ...]) -> Bool:
    return np.stack(covers) if len(covers) else np.zeros((0, *shape), np.bool_)


def _instance_masks(output: Instances) -> tuple[Bool, npt.NDArray[np.int64]]:
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
    every = np.concatenate([covers, np.stack(stuff)]) if stuff else covers
    return every, np.array(labels, np.int64)


def _on_host(values: Tensor) -> npt.NDArray[np.generic]:
    return values.cpu().numpy()


def _with_iou(covers: Bool, categories: Sequence[int], gt_ids: IdMap, true: Sequence[Segment]) -> _Masks:
    """Masks with their IoUs with the true segments; pixels of a mask on void count for nothing, as in PQ."""
    flat = gt_ids.ravel()
    # The place of each pixel's segment, counted from 1; 0 for void, crowds and ids that are not listed.
    ids = np.array([segment.id for segment in true], np.int64)
    order = np.argsort(ids, kind="stable")
    found = np.minimum(np.searchsorted(ids, flat, sorter=order), max(len(ids) - 1, 0))
    place_at = np.where(ids[order][found] == flat, order[found] + 1, 0) if len(ids) else np.zeros(len(flat), np.int64)
    unlabelled = flat == 0
    iou = np.zeros((len(covers), len(true)))
    area = np.array([segment.area for segment in true], np.float64)
    for number, cover in enumerate(covers):
        covered = cover.ravel()
        shared = np.bincount(place_at[covered], minlength=len(true) + 1)[1:].astype(np.float64)
        counted = covered.sum() - (covered & unlabelled).sum()
        iou[number] = shared / np.maximum(counted + area - shared, 1)
    return _Masks(covers, np.array(categories, np.int64), iou)


def _relabelled(own: _Masks, true: Sequence[Segment]) -> npt.NDArray[np.int64]:
    category = own.category.copy()
    for place, number in own.matches(true, any_category=True).items():
        category[number] = true[place].category_id
    return category


def _selected(masks: _Masks, own: _Masks, gt_ids: IdMap, true: Sequence[Segment]) -> _Masks:
    """The rule's segments that match, and on what they leave free, best first, masks that fit what the rule missed."""
    kept = own.matches(true)
    parts, category = [own.covers[number] for number in kept.values()], [own.category[row] for row in kept.values()]
    free = ~np.any(parts, axis=0) if parts else np.ones(gt_ids.shape, np.bool_)
    missed = {place: row for place, row in masks.matches(true).items() if place not in kept}
    iou = {place: float(masks.iou[row, place]) for place, row in missed.items()}
    for place in sorted(missed, key=lambda place: -iou[place]):
        part = masks.covers[missed[place]] & free
        if _with_iou(part[None], [0], gt_ids, true).iou[0, place] > 0.5:
            parts.append(part)
            category.append(true[place].category_id)
            free &= ~part
    return _with_iou(_stacked(parts, gt_ids.shape), category, gt_ids, true)


def _by_truth(masks: _Masks, own: _Masks, gt_ids: IdMap, true: Sequence[Segment]) -> _Masks:
    """The rule's segments; those that match also get the pixels of their full mask where their true segment is."""
    covers = own.covers.copy()
    for place, number in own.matches(true).items():
        row = _origin(masks, own, number)
        if row is None:
            continue
        won = masks.covers[row] & (gt_ids == true[place].id)
        covers &= ~won[None]
        covers[number] |= won
    return _with_iou(covers, own.category.tolist(), gt_ids, true)


def _origin(masks: _Masks, own: _Masks, number: int) -> int | None:
    """The mask that a segment of the rule was made of: of its category, the one that fits it best."""
    alike = np.flatnonzero(masks.category == own.category[number])
    if not len(alike):
        return None
    segment = own.covers[number]
    shared = np.array([(masks.covers[each] & segment).sum() for each in alike], np.float64)
    union = np.array([(masks.covers[each] | segment).sum() for each in alike], np.float64)
    return int(alike[np.argmax(shared / np.maximum(union, 1))])


def _ideal(masks: _Masks, drawn: Sequence[_Masks], gt_ids: IdMap, true: Sequence[Segment]) -> _Masks:
    """For each true segment the shape that fits it best: first where the segment is, then by falling IoU the rest.

    A shape keeps what it covers of its segment, and what it loses lies outside: it fits no worse than by itself.
    """
    shapes = _joined([masks, *drawn])
    found = shapes.matches(true, any_category=True)
    best = {place: shapes.covers[row] for place, row in found.items()}
    fit = {place: float(shapes.iou[row, place]) for place, row in found.items()}
    won = np.zeros(gt_ids.shape, np.bool_)
    for place, cover in best.items():
        won |= cover & (gt_ids == true[place].id)
    # A mask that fits nothing by itself may fit what is missed, without the pixels that others have won.
    for row in sorted(set(range(len(masks.covers))) - set(found.values())):
        rest = _with_iou((masks.covers[row] & ~won)[None], [0], gt_ids, true).iou[0]
        place = max(set(range(len(true))) - set(best), key=lambda each: float(rest[each]), default=-1)
        if place >= 0 and rest[place] > 0.5:
            best[place], fit[place] = masks.covers[row], float(rest[place])
            won |= masks.covers[row] & (gt_ids == true[place].id)
    order = sorted(best, key=lambda place: -fit[place])
    parts = []
    for place in order:
        outside = best[place] & ~won
        parts.append(best[place] & (gt_ids == true[place].id) | outside)
        won |= outside
    return _with_iou(_stacked(parts, gt_ids.shape), [true[place].category_id for place in order], gt_ids, true)


def _joined(several: Sequence[_Masks]) -> _Masks:
    return _Masks(
        *(np.concatenate([getattr(each, name) for each in several]) for name in ("covers", "category", "iou"))
    )


def _painted(image_id: int, masks: _Masks) -> PanopticPrediction:
    """Disjoint masks as a prediction, a segment each."""
    ids = np.zeros(masks.covers.shape[1:], np.int32)
    segments: list[Segment] = []
    for mask, category in zip(masks.covers, masks.category.tolist(), strict=True):
        if area := int(mask.sum()):
            segments.append(Segment(len(segments) + 1, category, area))
            ids[mask] = len(segments)
    return PanopticPrediction(image_id, ids, tuple(segments))
