"""From a model's raw output to one panoptic map: the merging rules, each by name.

Both rules work in two steps. `fuse_*` runs on the device and gives a small `FusedMap`, a code per pixel and a few
counts, without waiting for the device. `settle_*` runs on the host: it decides which codes become segments, and numbers
them.
The maps equal those of mmdet 3.3.0 [mmdet/models/seg_heads/panoptic_fusion_heads]; what is spared is work whose result
mmdet throws away (upsampling queries that are dropped, classes that cannot win) and one wait per query.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

ELEMENTS_AT_ONCE = 1 << 25
"""Bound on the values of one upsampled block: 2^25 float32 are 128 MiB."""

NOTHING = 255
"""The code of a pixel that belongs to no candidate."""


@dataclass(frozen=True)
class Frame:
    """An image's way through the model, as (height, width): padded with its batch, resized, and as it was."""

    padded: tuple[int, int]
    resized: tuple[int, int]
    original: tuple[int, int]


@dataclass(frozen=True)
class QueryRule:
    """How MaskFormer and Mask2Former merge masks, from the config's `test_cfg`. [Cheng et al. 2021, sec. 3.4]

    score_threshold: queries whose best class scores no more are dropped
    overlap_threshold: a mask is dropped when less than this share of its pixels (probability ≥ 0.5) is left to it
    drop_uncertain_pixels: pixels where the winning mask's probability is below 0.5 are void (Mask2Former)
    """

    num_things: int
    num_classes: int
    score_threshold: float
    overlap_threshold: float
    drop_uncertain_pixels: bool


@dataclass(frozen=True)
class InstanceRule:
    """How Panoptic FPN lays instances over semantics, from the config's `test_cfg`. [Kirillov et al. 2019]

    overlap_threshold: an instance is dropped when more than this share of it is already covered
    stuff_area_limit: a stuff class with fewer pixels is void
    mask_threshold: pixels of a pasted mask from this probability on belong to it
    """

    num_things: int
    num_stuff: int
    overlap_threshold: float
    stuff_area_limit: int
    mask_threshold: float


@dataclass(frozen=True)
class Queries:
    """The queries of one image that stay: scores and labels on the host, mask logits (K, h, w) on the device."""

    scores: tuple[float, ...]
    labels: tuple[int, ...]
    score_values: Tensor
    mask_logits: Tensor
    frame: Frame


@dataclass(frozen=True)
class Instances:
    """One image of Panoptic FPN, instances by falling score.

    boxes (N, 4) x1 y1 x2 y2 in pixels of the original image and mask_probabilities (N, m, m) on the device, scores and
    labels on the host; semantic_logits (stuff classes + 1, h, w), the last channel meaning "a thing".
    """

    boxes: Tensor
    scores: tuple[float, ...]
    labels: tuple[int, ...]
    mask_probabilities: Tensor
    semantic_logits: Tensor
    frame: Frame


@dataclass(frozen=True)
class FusedMap:
    """What the host needs to number the segments of one image.

    codes: (H, W) uint8 or int16, the candidate that won each pixel, or NOTHING
    scores, labels: of the candidates
    finite: () bool, whether all outputs that went into the map are numbers
    claimed, wanted: (K,) int64, MaskFormer's areas of each query: pixels won, and pixels of probability ≥ 0.5
    """

    codes: Tensor
    scores: tuple[float, ...]
    labels: tuple[int, ...]
    finite: Tensor
    claimed: Tensor | None = None
    wanted: Tensor | None = None

    def to_host(self) -> "FusedMap":
        """The same on the host; on CUDA the copies are queued, and `wait_for` tells when they have arrived."""
        if self.codes.device.type == "cpu":
            return self

        def copied(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            target = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.device.type == "cuda")
            return target.copy_(values, non_blocking=True)

        codes, finite = copied(self.codes), copied(self.finite)
        assert codes is not None
        assert finite is not None
        return replace(self, codes=codes, finite=finite, claimed=copied(self.claimed), wanted=copied(self.wanted))


class NonFiniteOutput(Exception):
    """The model's output holds NaN or infinity; the message names the output."""


@dataclass(frozen=True)
class LabelledSegment:
    """A segment of a settled map, with the model's contiguous label; `score` is None where the model gives none."""

    id: int
    label: int
    area: int
    score: float | None


SettledMap = tuple[npt.NDArray[np.int32], tuple[LabelledSegment, ...]]
"""(H, W) int32 ids, 0 = void, and the segments that they name."""


# --- MaskFormer, Mask2Former -------------------------------------------------------------------------------------


def select_queries(
    class_logits: Tensor, mask_logits: Tensor, frames: Sequence[Frame], rule: QueryRule
) -> list[Queries]:
    """The queries of each image of a batch that can leave a trace.

    class_logits: (B, Q, classes + 1), the last one "no object"; mask_logits: (B, Q, h, w).
    The one wait for the device of a batch happens here. Raises NonFiniteOutput.
    """
    scores, labels = class_logits.float().softmax(dim=-1).max(dim=-1)
    kept = (labels != rule.num_classes) & (scores > rule.score_threshold)
    finite = torch.isfinite(class_logits).flatten(1).all(dim=1)
    summary = torch.stack([scores.double(), labels.double(), kept.double(), finite[:, None].expand_as(kept).double()])
    host = summary.cpu().numpy()
    if not host[3].all():
        raise NonFiniteOutput("class logits")
    chosen = []
    for image, frame in enumerate(frames):
        host_scores, host_labels, host_kept, _ = host[:, image]
        rows = np.flatnonzero(host_kept)
        index = torch.from_numpy(rows).to(class_logits.device, non_blocking=True)
        chosen.append(
            Queries(
                scores=tuple(host_scores[rows].tolist()),
                labels=tuple(int(label) for label in host_labels[rows]),
                score_values=scores[image, index],
                mask_logits=mask_logits[image, index],
                frame=frame,
            )
        )
    return chosen


def fuse_queries(queries: Queries, rule: QueryRule) -> FusedMap:
    """The map in which each pixel goes to the query of highest score × mask probability.

    Masks are upsampled as mmdet does it (to the padded input, cropped, to the original size), in blocks of queries.
    """
    height, width = queries.frame.original
    device, count = queries.mask_logits.device, len(queries.labels)
    code_type = torch.uint8 if count < NOTHING else torch.int16
    if count == 0:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        codes = torch.full((height, width), NOTHING, dtype=code_type, device=device)
        return FusedMap(codes, (), (), torch.ones((), dtype=torch.bool, device=device), none, none)
    nothing = _nothing_of(count)
    per_query = max(height * width, queries.frame.padded[0] * queries.frame.padded[1])
    block = max(1, ELEMENTS_AT_ONCE // per_query)
    best: Tensor | None = None
    winner, certain = torch.empty(0), torch.empty(0)
    wanted = []
    for start in range(0, count, block):
        probabilities = upsample(queries.mask_logits[start : start + block].float(), queries.frame).sigmoid_()
        sure = probabilities >= 0.5
        wanted.append(sure.flatten(1).sum(dim=1))
        probabilities *= queries.score_values[start : start + block, None, None]
        for offset in range(len(probabilities)):
            # Elementwise passes in order: the first of equals wins, as with argmax, and faster than argmax over dim 0.
            if best is None:
                best, certain = probabilities[0].clone(), sure[0].clone()
                winner = torch.zeros((height, width), dtype=code_type, device=device)
                continue
            better = probabilities[offset] > best
            best = torch.maximum(best, probabilities[offset])
            winner.masked_fill_(better, start + offset)
            if rule.drop_uncertain_pixels:
                certain = torch.where(better, sure[offset], certain)
    claimed = _count_codes(winner, count)
    if rule.drop_uncertain_pixels:
        winner.masked_fill_(~certain, nothing)
    finite = torch.isfinite(queries.mask_logits).all()
    return FusedMap(winner, queries.scores, queries.labels, finite, claimed, torch.cat(wanted))


def settle_queries(fused: FusedMap, rule: QueryRule) -> SettledMap:
    """The id map and segments of a fused map on the host. Stuff of one class is one segment, whatever its queries."""
    _check_finite(fused, "mask logits")
    assert fused.claimed is not None
    assert fused.wanted is not None
    claimed, wanted = fused.claimed.tolist(), fused.wanted.tolist()
    accepted = [
        index
        for index in range(len(fused.labels))
        if claimed[index] > 0 and wanted[index] > 0 and claimed[index] / wanted[index] >= rule.overlap_threshold
    ]
    groups: list[list[int]] = []
    group_of_stuff: dict[int, int] = {}
    for index in accepted:
        label = fused.labels[index]
        if label >= rule.num_things and label in group_of_stuff:
            groups[group_of_stuff[label]].append(index)
            continue
        if label >= rule.num_things:
            group_of_stuff[label] = len(groups)
        groups.append([index])
    return _number(fused, groups)


# --- Panoptic FPN ------------------------------------------------------------------------------------------------


def fuse_instances(instances: Instances, rule: InstanceRule) -> FusedMap:
    """Instances by falling score over the stuff class of each pixel; codes: stuff classes + 1, then instances."""
    height, width = instances.frame.original
    first = rule.num_stuff + 1
    count = first + len(instances.labels)
    code_type = torch.uint8 if count < NOTHING else torch.int16
    codes = semantic_argmax(instances.semantic_logits, instances.frame).to(code_type)
    covered = torch.zeros((height, width), dtype=torch.bool, device=codes.device)
    pasted = _paste_masks(instances, rule.mask_threshold)
    for index, (window, mask) in enumerate(pasted):
        below = covered[window]
        area = mask.sum()
        # The small constant is mmdet's; an empty mask is dropped, as nothing of it is seen.
        keep = (mask & below).sum() / (area + 1e-5) <= rule.overlap_threshold
        part = mask & ~below & keep
        codes[window].masked_fill_(part, first + index)
        below |= part
    outputs = (instances.boxes, instances.mask_probabilities, instances.semantic_logits)
    finite = torch.stack([torch.isfinite(output).all() for output in outputs]).all()
    return FusedMap(codes, instances.scores, instances.labels, finite)


def settle_instances(fused: FusedMap, rule: InstanceRule) -> SettledMap:
    """The id map and segments of a fused map on the host: instances in order of score, then stuff large enough."""
    _check_finite(fused, "boxes, masks or semantic logits")
    first = rule.num_stuff + 1
    counts = np.bincount(fused.codes.numpy().ravel(), minlength=first + len(fused.labels))
    stuff = [label for label in range(rule.num_stuff) if counts[label] >= max(rule.stuff_area_limit, 1)]
    candidates = replace(
        fused,
        scores=(*(float("nan") for _ in range(first)), *fused.scores),
        labels=(*(rule.num_things + label for label in range(first)), *fused.labels),
    )
    order = [[first + index] for index in range(len(fused.labels))] + [[label] for label in stuff]
    return _number(candidates, order)


def _paste_masks(instances: Instances, threshold: float) -> list[tuple[tuple[slice, slice], Tensor]]:
    """(window, bool mask within it) of each instance. On the CPU the window is the box, elsewhere the whole image."""
    height, width = instances.frame.original
    boxes, masks = instances.boxes, instances.mask_probabilities
    if not len(boxes):
        return []
    if boxes.device.type == "cpu":
        lows = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
        highs = (boxes[:, 2:].ceil() + 1).int().tolist()
        pasted = []
        for index, ((left, top), (right, bottom)) in enumerate(zip(lows, highs, strict=True)):
            rows, columns = range(top, min(bottom, height)), range(left, min(right, width))
            window = (slice(top, max(rows.stop, top)), slice(left, max(columns.stop, left)))
            one = slice(index, index + 1)
            pasted.append((window, _sample_masks(masks[one], boxes[one], rows, columns)[0] >= threshold))
        return pasted
    everywhere = (slice(0, height), slice(0, width))
    block = max(1, ELEMENTS_AT_ONCE // (3 * height * width))
    return [
        (everywhere, mask)
        for start in range(0, len(boxes), block)
        for mask in _sample_masks(
            masks[start : start + block], boxes[start : start + block], range(height), range(width)
        )
        >= threshold
    ]


def _sample_masks(masks: Tensor, boxes: Tensor, rows: range, columns: range) -> Tensor:
    """(N, rows, columns): masks (N, m, m) stretched over their boxes, bilinear, at pixel centres; 0 outside the box."""
    if not len(rows) or not len(columns):
        return masks.new_zeros((len(masks), len(rows), len(columns)))
    left, top, right, bottom = boxes.float().split(1, dim=1)
    y = torch.arange(rows.start, rows.stop, device=boxes.device, dtype=torch.float32) + 0.5
    x = torch.arange(columns.start, columns.stop, device=boxes.device, dtype=torch.float32) + 0.5
    y = (y - top) / (bottom - top) * 2 - 1
    x = (x - left) / (right - left) * 2 - 1
    # A box without extent divides by zero; its mask's centre stands for it, as in mmdet.
    y, x = torch.where(torch.isinf(y), 0.0, y), torch.where(torch.isinf(x), 0.0, x)
    shape = (len(masks), len(rows), len(columns))
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(masks.float()[:, None], grid, align_corners=False)[:, 0]


def semantic_argmax(logits: Tensor, frame: Frame) -> Tensor:
    """(H, W) int64: the channel of highest upsampled logit at each pixel of the original image.

    logits: (C, h, w). Channels that cannot win anywhere are not upsampled: each upsampled value is a mean, with weights
    that all channels share, of logits in a 3×3 neighbourhood, so a channel that is below one other channel in all of a
    neighbourhood loses there.
    """
    channels = possible_winners(logits) if _enlarges(logits, frame) else None
    kept = logits if channels is None else logits[channels]
    height, width = frame.original
    per_channel = max(height * width, frame.padded[0] * frame.padded[1])
    block = max(1, ELEMENTS_AT_ONCE // per_channel)
    best: Tensor | None = None
    winner = torch.zeros((height, width), dtype=torch.int64, device=logits.device)
    for start in range(0, len(kept), block):
        values = upsample(kept[start : start + block].float(), frame)
        for offset in range(len(values)):
            if best is None:
                best = values[0].clone()
                continue
            winner.masked_fill_(values[offset] > best, start + offset)
            best = torch.maximum(best, values[offset])
    return winner if channels is None else channels[winner]


def possible_winners(logits: Tensor) -> Tensor | None:
    """The channels, ascending, that can be the highest at some point between pixels; None to try all.

    logits: (C, h, w). None off the CPU, where choosing would mean waiting for the device.
    """
    if logits.device.type != "cpu" or len(logits) < 8:
        return None
    logits = logits.float()
    highest = F.max_pool2d(logits[None], 3, stride=1, padding=1)[0]
    lowest = -F.max_pool2d(-logits[None], 3, stride=1, padding=1)[0]
    # A margin far above the rounding of bilinear weights: a channel this far below cannot be rounded into a tie.
    bar = lowest.amax(dim=0)
    bar = bar - 1e-4 * (1.0 + bar.abs())
    return torch.nonzero((highest >= bar).flatten(1).any(dim=1)).flatten()


def _enlarges(logits: Tensor, frame: Frame) -> bool:
    return logits.shape[-2] <= frame.padded[0] and logits.shape[-1] <= frame.padded[1]


# --- both --------------------------------------------------------------------------------------------------------


def upsample(maps: Tensor, frame: Frame) -> Tensor:
    """(K, H, W) at the original size from (K, h, w) of the padded input's extent, in mmdet's two bilinear steps."""
    if tuple(maps.shape[-2:]) != frame.padded:
        maps = F.interpolate(maps[None], size=frame.padded, mode="bilinear", align_corners=False)[0]
    maps = maps[:, : frame.resized[0], : frame.resized[1]]
    if frame.resized != frame.original:
        maps = F.interpolate(maps[:, None], size=frame.original, mode="bilinear", align_corners=False)[:, 0]
    return maps.contiguous()


def _check_finite(fused: FusedMap, output: str) -> None:
    if not bool(fused.finite):
        raise NonFiniteOutput(output)


def _nothing_of(count: int) -> int:
    return NOTHING if count < NOTHING else -1


def _count_codes(codes: Tensor, count: int) -> Tensor:
    return torch.bincount(codes.flatten().int(), minlength=count)


def _number(candidates: FusedMap, groups: Sequence[Sequence[int]]) -> SettledMap:
    """Ids 1, 2, … for the groups of candidates, in order, that own at least one pixel; all other pixels are void."""
    codes = candidates.codes.numpy()
    table = np.zeros(256 if codes.dtype == np.uint8 else 1 << 16, np.int32)
    counts = np.bincount(codes.ravel().view(np.uint8 if codes.dtype == np.uint8 else np.uint16), minlength=len(table))
    segments: list[LabelledSegment] = []
    for group in groups:
        area = int(counts[list(group)].sum())
        if area == 0:
            continue
        segment_id = len(segments) + 1
        table[list(group)] = segment_id
        score = max(candidates.scores[index] for index in group)
        segments.append(
            LabelledSegment(segment_id, candidates.labels[group[0]], area, None if score != score else score)
        )
    return table[codes.view(np.uint8 if codes.dtype == np.uint8 else np.uint16)], tuple(segments)
