"""Panoptic FPN's boxes and masks on a device that is fed: the whole batch at once, and two waits.

mmdet's heads go image by image and ask the device for a number some hundred times: which boxes are left, how long a
loop is to run. Here all images share their operations, the suppression of boxes runs a fixed number of rounds, and the
host asks twice: for the proposals and for the detections. Where the rounds were too few, they are made more, for later
batches as well; where even those are too few, or the heads are not those of mmdet's Mask R-CNN, mmdet's own code
answers. Same boxes, same order. [He et al. 2017; mmdet 3.3.0]
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from panbench.models.feeding import constant, to_host, upload
from panbench.models.mmdet import operators

ROUNDS = 16
"""Rounds of suppression: chains of boxes, each dropped by the one before, are seldom longer than five."""

MOST_ROUNDS = 256
"""The rounds are multiplied by four up to this many; untrained heads, whose scores are level, have chains so long."""

SIZES_OF_ANCHORS = 8
"""Of so many sizes anchors are kept: 3.5 MB each for a ResNet's pyramid at 800×1088."""

MOST_DETECTIONS = 2048
"""Pairs of box and class above the threshold, of which an image may have so many; the zoo's thresholds leave 1000."""


@dataclass(frozen=True)
class Detections:
    """What the box head found in a batch: images one after another, each by falling score.

    boxes: (N, 4) on the device, in the network's input; labels: (N,) int64, scores: (N,), counts: of each image, on the
    host; masks: (N, m, m) probabilities on the device
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    counts: list[int]
    masks: Tensor


def fits(module: Any) -> bool:
    """Whether the heads are those that this module knows, with the settings that it knows."""
    rpn, roi = module.rpn_head, module.roi_head
    names = {type(rpn).__name__, type(roi).__name__}
    coders: Any = (rpn.bbox_coder, getattr(roi.bbox_head, "bbox_coder", None))
    extractors: Any = (getattr(roi, "bbox_roi_extractor", None), getattr(roi, "mask_roi_extractor", None))
    return (
        names == {"RPNHead", "StandardRoIHead"}
        and all(type(coder).__name__ == "DeltaXYWHBBoxCoder" and not coder.add_ctr_clamp for coder in coders)
        and all(coder.clip_border and not getattr(coder, "use_box_type", False) for coder in coders)
        and all(type(each).__name__ == "SingleRoIExtractor" and len(each.roi_layers) > 1 for each in extractors)
        and all(_is_average(layer) for each in extractors for layer in each.roi_layers)
        and not getattr(roi.bbox_head, "custom_cls_channels", False)
        and roi.bbox_head.with_reg
        and rpn.use_sigmoid_cls
        and not roi.bbox_head.predict_box_type.startswith("r")
        and all(_is_greedy(config.nms) for config in (rpn.test_cfg, roi.test_cfg))
        and min(rpn.test_cfg.nms_pre, rpn.test_cfg.max_per_img, roi.test_cfg.max_per_img) > 0
        and rpn.test_cfg.get("min_bbox_size", -1) >= 0
        and not rpn.test_cfg.nms.get("class_agnostic", False)
    )


def _is_greedy(nms: Any) -> bool:
    return nms.get("type") == "nms" and set(nms) <= {"type", "iou_threshold", "class_agnostic"}


def _is_average(layer: Any) -> bool:
    return type(layer).__name__ == "RoIAlign" and layer.pool_mode == "avg" and not layer.use_torchvision


def detect(module: Any, features: Sequence[Tensor], resized: Sequence[tuple[int, int]]) -> Detections | None:
    """The detections of a batch; None where mmdet's own code must answer.

    resized: (height, width) of each image in the network's input, without the zeros
    """
    kept = module.rpn_head.__dict__
    rounds: int = kept.get("rounds", ROUNDS)
    while True:
        try:
            return _detect(module, features, resized, rounds)
        except _TooFewRounds:
            if rounds >= MOST_ROUNDS:
                return None
            kept["rounds"] = rounds = min(4 * rounds, MOST_ROUNDS)


class _TooFewRounds(Exception):
    """A round of suppression still changed something when it was the last."""


def _detect(
    module: Any, features: Sequence[Tensor], resized: Sequence[tuple[int, int]], rounds: int
) -> Detections | None:
    rpn, head = module.rpn_head, module.roi_head
    device = features[0].device
    shapes = upload(torch.tensor(resized, dtype=torch.float32), device)
    boxes, count, settled = _proposals(rpn, features, shapes, rounds)
    # The first wait.
    host = to_host(torch.cat([boxes.flatten(1), count[:, None].float(), settled.float()[:, None]], dim=1))
    if not host[:, -1].all():
        raise _TooFewRounds
    counts = [int(each) for each in host[:, -2]]
    if not sum(counts):
        return None
    rois = _rois(boxes, host[:, :-2].view(len(host), -1, 4), counts)
    found = head._bbox_forward(features, rois)
    limit = max(counts) if head.test_cfg.score_thr >= 0.5 else MOST_DETECTIONS
    chosen, scores, labels, kept, settled, enough = _detections(head, rois, found, counts, shapes, limit, rounds)
    # The second wait.
    numbers = torch.cat([chosen, scores[..., None], labels[..., None].float(), kept[..., None].float()], dim=2)
    flags = (settled.float() + 2 * enough.float())[:, None].expand(-1, numbers.shape[2])[:, None]
    host = to_host(torch.cat([numbers, flags], dim=1))
    if (host[:, -1] < 2).any():
        return None
    if (host[:, -1] < 3).any():
        raise _TooFewRounds
    host = host[:, :-1]
    counts = [int(each) for each in host[..., 6].sum(dim=1)]
    rows = _rows(counts, host.shape[1])
    host = host.flatten(0, 1)[rows]
    labels = host[:, 5].long()
    if len(rows):
        rois = _rois(chosen, host[:, :4], counts, flat=True)
        masks = head._mask_forward(features, rois)["mask_preds"].sigmoid()
        place = torch.arange(len(masks), device=device)
        masks = masks[:, 0] if head.mask_head.class_agnostic else masks[place, upload(labels, device)]
        boxes = rois[:, 1:]
    else:
        masks, boxes = features[0].new_zeros((0, 1, 1)), features[0].new_zeros((0, 4))
    return Detections(boxes, labels, host[:, 4].contiguous(), counts, masks)


def _proposals(rpn: Any, features: Sequence[Tensor], shapes: Tensor, rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, most, 4) by falling score, how many of them count (B,), and whether the rounds sufficed (B,)."""
    config = rpn.test_cfg
    classes, deltas = rpn(features)
    sizes = tuple((level.shape[-2], level.shape[-1]) for level in classes)
    levels = []
    for scores, offsets, anchors in zip(classes, deltas, _anchors(rpn, sizes, classes[0]), strict=True):
        batch = len(scores)
        scores = scores.permute(0, 2, 3, 1).reshape(batch, -1).sigmoid()
        offsets = offsets.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        anchors = anchors.expand(batch, -1, -1)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        scores, order = scores[:, : config.nms_pre], order[:, : config.nms_pre, None].expand(-1, -1, 4)
        levels.append((scores, decode(rpn.bbox_coder, anchors.gather(1, order), offsets.gather(1, order), shapes)))
    boxes = torch.cat([each for _, each in levels], dim=1)
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(dim=-1)
    there = (width > config.min_bbox_size) & (height > config.min_bbox_size)
    # As mmcv keeps levels apart: moved by more than any box is long, in the same arithmetic.
    beyond = boxes.masked_fill(~there[..., None], 0.0).amax(dim=(1, 2)) + 1
    stays, settled, start = [], [], 0
    for number, (scores, own) in enumerate(levels):
        block = slice(start, start + scores.shape[1])
        start = block.stop
        moved = own + (number * beyond)[:, None, None]
        left, enough = suppress(moved, there[:, block], config.nms.iou_threshold, rounds)
        stays.append(left)
        settled.append(enough)
    scores = torch.cat([each for each, _ in levels], dim=1)
    # Below all sigmoids where suppressed.
    scores, order = scores.masked_fill(~torch.cat(stays, dim=1), -1.0).sort(dim=1, descending=True, stable=True)
    order = order[:, : config.max_per_img]
    count = (scores[:, : config.max_per_img] >= 0).sum(dim=1)
    return boxes.gather(1, order[..., None].expand(-1, -1, 4)), count, torch.stack(settled).all(dim=0)


def _anchors(rpn: Any, sizes: tuple[tuple[int, int], ...], like: Tensor) -> list[Tensor]:
    """The anchors of each level; kept for the last sizes, as mmdet copies some numbers to the device for them."""
    kept = rpn.__dict__.setdefault("anchors_by_size", {})
    name = (sizes, like.device, like.dtype)
    if name not in kept:
        while len(kept) >= SIZES_OF_ANCHORS:
            kept.pop(next(iter(kept)))
        with torch.inference_mode(False):
            kept[name] = rpn.prior_generator.grid_priors(sizes, dtype=like.dtype, device=like.device)
    found: list[Tensor] = kept[name]
    return found


def decode(coder: Any, boxes: Tensor, deltas: Tensor, shapes: Tensor) -> Tensor:
    """(B, N, 4) boxes moved by deltas as DeltaXYWHBBoxCoder does, within (height, width) of each image, (B, 2).

    A coder with `least_delta` shrinks boxes by as much as that says; mmdet's own by no more than it lets them grow.
    """
    device = deltas.device
    deltas = deltas * constant(tuple(coder.stds), device) + constant(tuple(coder.means), device)
    centre, size = (boxes[..., :2] + boxes[..., 2:]) * 0.5, boxes[..., 2:] - boxes[..., :2]
    bound = abs(math.log(16 / 1000))
    centre = centre + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(min=getattr(coder, "least_delta", -bound), max=bound).exp() * 0.5
    largest = shapes.flip(1).repeat(1, 2)[:, None]
    return torch.minimum(torch.cat([centre - half, centre + half], dim=-1).clamp(min=0), largest)


def suppress(boxes: Tensor, there: Tensor, iou_threshold: float, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Which boxes stay (B, N), each image for itself, and whether enough rounds were run (B,).

    boxes: (B, N, 4) by falling score; there: (B, N), which are boxes at all
    A box is dropped by a better one that stays. A round is right for one more link of each chain, so when a round
    changes nothing, more would not.
    """
    stays, settled = [], []
    at_once = max(1, (1 << 26) // max(1, boxes.shape[1] ** 2))
    for some, own in zip(boxes.split(at_once), there.split(at_once), strict=True):
        x1, y1, x2, y2 = some.float().unbind(dim=-1)
        columns = torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])
        drops = operators.overlaps(columns, columns, iou_threshold, 0).triu_(1) & own[..., None]
        left, before = own, own
        for _ in range(rounds):
            before, left = left, own & ~(drops & left[..., None]).any(dim=1)
        stays.append(left)
        settled.append((left == before).all(dim=1))
    return torch.cat(stays), torch.cat(settled)


def _detections(
    head: Any,
    rois: Tensor,
    found: dict[str, Tensor],
    counts: list[int],
    shapes: Tensor,
    limit: int,
    rounds: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Boxes (B, most, 4), scores, labels, which count (B, most) each, and two of (B,): rounds and limit sufficed."""
    config, device, longest = head.test_cfg, rois.device, max(counts)
    number = torch.arange(longest)
    of_image = torch.tensor(counts)
    starts = of_image.cumsum(0) - of_image
    row = upload((starts[:, None] + number).clamp_(max=len(rois) - 1), device)
    real = upload(number < of_image[:, None], device)
    probabilities = found["cls_score"].softmax(dim=-1)[:, :-1]
    classes = probabilities.shape[1]
    scores = probabilities[row].flatten(1)
    above = (scores > config.score_thr) & real[..., None].expand(-1, -1, classes).flatten(1)
    enough = above.sum(dim=1) <= limit
    limit = min(limit, scores.shape[1])
    scores, order = scores.masked_fill(~above, -1.0).sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, :limit], order[:, :limit]
    there = scores >= 0
    labels = order % classes
    row = row.gather(1, order // classes)
    deltas = found["bbox_pred"].view(len(rois), -1, 4)
    deltas = deltas[row, torch.zeros_like(labels) if head.bbox_head.reg_class_agnostic else labels]
    boxes = decode(head.bbox_head.bbox_coder, rois[row][..., 1:], deltas, shapes)
    moved = boxes
    if not config.nms.get("class_agnostic", False):
        beyond = boxes.masked_fill(~there[..., None], 0.0).amax(dim=(1, 2)) + 1
        moved = boxes + (labels * beyond[:, None])[..., None]
    stays, settled = suppress(moved, there, config.nms.iou_threshold, rounds)
    most = min(config.max_per_img, limit)
    # Those that stay first, in their order.
    order = (~stays).to(torch.uint8).sort(dim=1, stable=True).indices[:, :most]
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    return boxes, scores.gather(1, order), labels.gather(1, order), stays.gather(1, order), settled, enough


def _rows(counts: Sequence[int], stride: int) -> Tensor:
    """The places of the first `counts` of each image's rows among all, on the host."""
    return torch.cat([torch.arange(count) + image * stride for image, count in enumerate(counts)])


def _rois(boxes: Tensor, host: Tensor, counts: Sequence[int], flat: bool = False) -> Tensor:
    """(R, 5), the image and the box of each RoI, on the device, and as its attribute `on_host` the same on the host."""
    image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).float()[:, None]
    rows = _rows(counts, boxes.shape[1])
    chosen = boxes.flatten(0, 1)[upload(rows, boxes.device)]
    rois = torch.cat([upload(image, boxes.device).to(chosen.dtype), chosen], dim=1)
    on_host = torch.cat([image, (host if flat else host.flatten(0, 1)[rows]).float()], dim=1)
    rois.on_host = on_host  # type: ignore[attr-defined]
    return rois


def pool_levels(extractor: Any, features: Sequence[Tensor], rois: Tensor, roi_scale_factor: Any = None) -> Tensor:
    """Equal to SingleRoIExtractor.forward: RoIAlign of each RoI on the level of its size, without synchronisation."""
    host = getattr(rois, "on_host", None)
    if host is None or roi_scale_factor is not None:
        return type(extractor).forward(extractor, features, rois, roi_scale_factor)  # type: ignore[no-any-return]
    pooled = features[0].new_zeros((len(rois), extractor.out_channels, *extractor.roi_layers[0].output_size))
    rois = rois.type_as(features[0])
    level_of = extractor.map_roi_levels(host, len(features))
    for level, (layer, feature) in enumerate(zip(extractor.roi_layers, features, strict=True)):
        rows = (level_of == level).nonzero().flatten()
        if len(rows):
            there = upload(rows, rois.device)
            pooled[there] = operators.pool_known_rois(layer, feature, rois[there], host[rows])
    return pooled
