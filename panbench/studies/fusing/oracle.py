"""A lower bound of the PQ that fusion costs: the same masks, with some decisions of the rule taken by the ground truth.

    labels      each segment of the rule that matches a true one (IoU > 0.5) gets its category
    selection   unmatched segments of the rule are removed; for each true segment that it missed, a stored mask of the
                right category that fits is added on the free pixels
    order       a segment that matches gets all pixels of its true segment that its full mask covers
    all         each true segment gets the shape that fits it best, whatever its label; overlaps are decided by the
                truth, and shapes that match nothing are removed

A shape is a mask (probability of at least 0.5), or a segment made by the run's rule, another rule or a step above.
So every step matches, in every image, each true segment that the rule matches, at no lower IoU, and has no more false
positives; `all` has none, and the same holds for it against every step and each other rule. `all` is one possible map,
not the best one: a rule with other thresholds may cut a mask better still. The gain of `all` over the rule is therefore
a lower bound of what scores and fusion lose, and 1 − PQ of `all` an upper bound of what is lost because no mask fits.
Each step is a panoptic map, scored like any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.models.candidates import NO_LABEL, Candidates, Instances
from panbench.models.labels import CategoryIds
from panbench.models.rules.base import SegmentedMap
from panbench.models.rules.panoptic_fpn import paste_masks
from panbench.models.rules.resize import semantic_argmax, upsampled_blocks
from panbench.panoptic.types import IdMap, PanopticPrediction, Segment

STEPS = ("labels", "selection", "order", "all")

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _MeasuredMasks:
    """K masks of an image: (K, H, W) bool, (K,) category ids, and (K, G) IoU with each of the G true segments."""

    covers: Bool
    category: npt.NDArray[np.int64]
    iou: Float

    def matches(self, true: Sequence[Segment], *, any_category: bool = False) -> dict[int, int]:
        """Returns the index of the best mask for each true segment that a mask fits (IoU > 0.5)."""
        if not len(true) or not len(self.covers):
            return {}
        alike = self.category[:, None] == np.array([segment.category_id for segment in true], np.int64)[None]
        iou = self.iou if any_category else np.where(alike, self.iou, 0.0)
        return {index: int(iou[:, index].argmax()) for index in range(len(true)) if iou[:, index].max() > 0.5}


def oracle_maps(
    output: Candidates | Instances,
    fused: SegmentedMap,
    category_ids: CategoryIds,
    gt_ids: IdMap,
    gt_segments: Sequence[Segment],
    image_id: int = 0,
    others: Sequence[SegmentedMap] = (),
) -> dict[str, PanopticPrediction]:
    """Returns the panoptic map with each kind of fusion decision set to the truth: labels, selection, order, or all.

    fused: the rule's map of this output; others: further rules' maps of it
    category_ids: by label; gt_segments: crowds are ignored, as no mask can match one
    """
    true = [segment for segment in gt_segments if not segment.iscrowd]
    masks = _network_masks(output, category_ids, gt_ids, true)
    own = _fused_masks(fused, category_ids, gt_ids, true)
    selected = _select_by_truth(masks, own, gt_ids, true)
    ordered = _order_by_truth(masks, own, gt_ids, true)
    drawn = [own, selected, ordered, *(_fused_masks(each, category_ids, gt_ids, true) for each in others)]
    steps = {
        "labels": replace(own, category=_categories_by_truth(own, true)),
        "selection": selected,
        "order": ordered,
        "all": _best_masks_by_truth(masks, drawn, gt_ids, true),
    }
    return {step: _prediction_of_masks(image_id, made) for step, made in steps.items()}


def _network_masks(
    output: Candidates | Instances, category_ids: CategoryIds, gt_ids: IdMap, true: Sequence[Segment]
) -> _MeasuredMasks:
    """Returns all masks of the network before fusion, thresholded at probability 0.5."""
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
    return _measured_masks(covers, [category_ids[int(label)] for label in labels], gt_ids, true)


def _fused_masks(
    segmented: SegmentedMap, category_ids: CategoryIds, gt_ids: IdMap, true: Sequence[Segment]
) -> _MeasuredMasks:
    """Returns the segments of a fused map as masks."""
    ids, segments = segmented
    covers = [ids == segment.id for segment in segments]
    return _measured_masks(
        _stack_masks(covers, ids.shape), [category_ids[each.label] for each in segments], gt_ids, true
    )


def _stack_masks(covers: Sequence[Bool], shape: tuple[int, ...]) -> Bool:
    """Stacks masks to (K, H, W), also if there are none."""
    return np.stack(covers) if len(covers) else np.zeros((0, *shape), np.bool_)


def _instance_masks(output: Instances) -> tuple[Bool, npt.NDArray[np.int64]]:
    """Returns full-size masks with labels: one per instance, one per semantic class that is highest at some pixel."""
    height, width = output.frame.original
    covers = np.zeros((len(output.labels), height, width), np.bool_)
    for number, (window, mask) in enumerate(paste_masks(output, 0.5)):
        covers[number][window] = _to_numpy(mask)
    winner = _to_numpy(semantic_argmax(output.semantic_logits, output.frame))
    channels = [
        channel
        for channel, label in enumerate(output.semantic_labels)
        if label != NO_LABEL and (winner == channel).any()
    ]
    stuff = [winner == channel for channel in channels]
    labels = [*output.labels, *(output.semantic_labels[channel] for channel in channels)]
    every = np.concatenate([covers, np.stack(stuff)]) if stuff else covers
    return every, np.array(labels, np.int64)


def _to_numpy(values: Tensor) -> npt.NDArray[np.generic]:
    return values.cpu().numpy()


def _measured_masks(covers: Bool, categories: Sequence[int], gt_ids: IdMap, true: Sequence[Segment]) -> _MeasuredMasks:
    """Computes the masks' IoU with the true segments; as in PQ, pixels on void do not count."""
    flat = gt_ids.ravel()
    # The index of each pixel's true segment plus 1; 0 for void, crowds and unlisted ids.
    ids = np.array([segment.id for segment in true], np.int64)
    order = np.argsort(ids, kind="stable")
    found = np.minimum(np.searchsorted(ids, flat, sorter=order), max(len(ids) - 1, 0))
    segment_at = np.where(ids[order][found] == flat, order[found] + 1, 0) if len(ids) else np.zeros(len(flat), np.int64)
    unlabelled = flat == 0
    iou = np.zeros((len(covers), len(true)))
    area = np.array([segment.area for segment in true], np.float64)
    for number, cover in enumerate(covers):
        covered = cover.ravel()
        shared = np.bincount(segment_at[covered], minlength=len(true) + 1)[1:].astype(np.float64)
        counted = covered.sum() - (covered & unlabelled).sum()
        iou[number] = shared / np.maximum(counted + area - shared, 1)
    return _MeasuredMasks(covers, np.array(categories, np.int64), iou)


def _categories_by_truth(own: _MeasuredMasks, true: Sequence[Segment]) -> npt.NDArray[np.int64]:
    """Returns the segments' categories, replaced by the true one where IoU with a true segment exceeds 0.5.

    This is the oracle step `labels`.
    """
    category = own.category.copy()
    for index, number in own.matches(true, any_category=True).items():
        category[number] = true[index].category_id
    return category


def _select_by_truth(
    masks: _MeasuredMasks, own: _MeasuredMasks, gt_ids: IdMap, true: Sequence[Segment]
) -> _MeasuredMasks:
    """Keeps the segments that match a true one, and adds the best candidate mask for each missed true segment.

    This is the oracle step `selection`.
    """
    matched = own.matches(true)
    parts, category = (
        [own.covers[number] for number in matched.values()],
        [own.category[row] for row in matched.values()],
    )
    free = ~np.any(parts, axis=0) if parts else np.ones(gt_ids.shape, np.bool_)
    missed = {index: row for index, row in masks.matches(true).items() if index not in matched}
    iou = {index: float(masks.iou[row, index]) for index, row in missed.items()}
    for index in sorted(missed, key=lambda index: -iou[index]):
        part = masks.covers[missed[index]] & free
        if _measured_masks(part[None], [0], gt_ids, true).iou[0, index] > 0.5:
            parts.append(part)
            category.append(true[index].category_id)
            free &= ~part
    return _measured_masks(_stack_masks(parts, gt_ids.shape), category, gt_ids, true)


def _order_by_truth(
    masks: _MeasuredMasks, own: _MeasuredMasks, gt_ids: IdMap, true: Sequence[Segment]
) -> _MeasuredMasks:
    """Decides overlaps by the truth (oracle step `order`): matching segments get all true pixels in their masks."""
    covers = own.covers.copy()
    for index, number in own.matches(true).items():
        row = _network_mask_of_segment(masks, own, number)
        if row is None:
            continue
        won = masks.covers[row] & (gt_ids == true[index].id)
        covers &= ~won[None]
        covers[number] |= won
    return _measured_masks(covers, own.category.tolist(), gt_ids, true)


def _network_mask_of_segment(masks: _MeasuredMasks, own: _MeasuredMasks, number: int) -> int | None:
    """Returns the index of the network mask that became a segment: the best fit of its category; None if none is."""
    alike = np.flatnonzero(masks.category == own.category[number])
    if not len(alike):
        return None
    segment = own.covers[number]
    shared = np.array([(masks.covers[each] & segment).sum() for each in alike], np.float64)
    union = np.array([(masks.covers[each] | segment).sum() for each in alike], np.float64)
    return int(alike[np.argmax(shared / np.maximum(union, 1))])


def _best_masks_by_truth(
    masks: _MeasuredMasks, drawn: Sequence[_MeasuredMasks], gt_ids: IdMap, true: Sequence[Segment]
) -> _MeasuredMasks:
    """Gives each true segment the best-fitting mask or segment, as if fusion decided all rightly (oracle step `all`).

    A shape always keeps its pixels within its true segment and loses only pixels outside, so its IoU cannot fall.
    Pixels outside go to the shapes by falling IoU.
    """
    shapes = _concat_masks([masks, *drawn])
    found = shapes.matches(true, any_category=True)
    best = {index: shapes.covers[row] for index, row in found.items()}
    fit = {index: float(shapes.iou[row, index]) for index, row in found.items()}
    won = np.zeros(gt_ids.shape, np.bool_)
    for index, cover in best.items():
        won |= cover & (gt_ids == true[index].id)
    # A mask that matches nothing may match a missed segment once the pixels won by others are removed.
    for row in sorted(set(range(len(masks.covers))) - set(found.values())):
        rest = _measured_masks((masks.covers[row] & ~won)[None], [0], gt_ids, true).iou[0]
        index = max(set(range(len(true))) - set(best), key=lambda each: float(rest[each]), default=-1)
        if index >= 0 and rest[index] > 0.5:
            best[index], fit[index] = masks.covers[row], float(rest[index])
            won |= masks.covers[row] & (gt_ids == true[index].id)
    order = sorted(best, key=lambda index: -fit[index])
    parts = []
    for index in order:
        outside = best[index] & ~won
        parts.append(best[index] & (gt_ids == true[index].id) | outside)
        won |= outside
    return _measured_masks(
        _stack_masks(parts, gt_ids.shape), [true[index].category_id for index in order], gt_ids, true
    )


def _concat_masks(several: Sequence[_MeasuredMasks]) -> _MeasuredMasks:
    """Concatenates several sets of masks of one image to one set."""
    return _MeasuredMasks(
        *(np.concatenate([getattr(each, name) for each in several]) for name in ("covers", "category", "iou"))
    )


def _prediction_of_masks(image_id: int, masks: _MeasuredMasks) -> PanopticPrediction:
    """Turns disjoint masks into a prediction with one segment each."""
    ids = np.zeros(masks.covers.shape[1:], np.int32)
    segments: list[Segment] = []
    for mask, category in zip(masks.covers, masks.category.tolist(), strict=True):
        if area := int(mask.sum()):
            segments.append(Segment(len(segments) + 1, category, area))
            ids[mask] = len(segments)
    return PanopticPrediction(image_id, ids, tuple(segments))
