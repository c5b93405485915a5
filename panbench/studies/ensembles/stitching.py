"""Outputs for the tiles of an image become one output for the image.

Each tile's masks are laid on a canvas of the image. Where tiles overlap, both saw the same pixels: candidates of one
label from two tiles whose masks agree there (IoU > 0.5, counted in what the tiles share) are parts of one segment, at
most one of each tile. Tiles that share nothing are compared along their common border. In the overlap the parts are
averaged, each with a weight that falls linearly to the border of its tile, where a network sees least.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from panbench.base.errors import BadArgument
from panbench.models.candidates import Candidates, Frame, Instances, Output
from panbench.panoptic.clusters import join_by_overlap
from panbench.studies.ensembles.grids import sampled
from panbench.studies.ensembles.tiles import Window

__all__ = ["AGREEMENT", "stitch"]

AGREEMENT = 0.5
"""Two parts are joined when the IoU of their masks, in what their tiles share, is above this."""

_OUTSIDE = -40.0
"""What is added to a mask's logits beyond its tile: there it never wins against one that saw the pixel. The farther,
the lower, so that rules without void give pixels of which no tile is sure to the nearest candidate."""

_LEAST_GATE = 0.01

Float = npt.NDArray[np.float64]


def stitch(outputs: Sequence[Output], windows: Sequence[Window], size: tuple[int, int]) -> Output:
    """One output for an image from those for its tiles.

    outputs: all Candidates, or all Instances with boxes, each in the frame of its tile
    windows: the tile of each; size: (height, width) of the image
    Raises BadArgument for outputs of another kind.
    """
    if all(isinstance(output, Candidates) for output in outputs):
        return _stitch_candidates([each for each in outputs if isinstance(each, Candidates)], windows, size)
    if all(isinstance(output, Instances) and output.boxes is not None for output in outputs):
        return _stitch_instances([each for each in outputs if isinstance(each, Instances)], windows, size)
    raise BadArgument(
        "--tiles puts together masks of queries, or boxes with masks; this model's outputs for tiles are neither."
    )


MOST_BYTES = 512 << 20
"""Bound for the maps of an image's tiles on their canvas, as long as that is not coarser than the tiles' own grid."""


class _Canvas:
    """The grid of cells on which the tiles' masks meet: the image's pixels, coarser only for the sake of memory.

    A tile's cells lie across those of its neighbours and of any coarse grid of the image. Resampled onto one, masks
    lose their edges once more than in a run on whole images: 1.2 PQ with 1x2 tiles on `shapes`.
    """

    def __init__(
        self, first: Frame, cells: Sequence[int], size: tuple[int, int], device: torch.device, count: int
    ) -> None:
        """cells: (rows, columns) of the first tile's masks, which cover its padded input; count: maps of all tiles."""
        self.size = size
        self.device = device
        # Each map is there twice: laid on the canvas, and in what is put together.
        bound = (MOST_BYTES / (8 * max(count, 1) * size[0] * size[1])) ** 0.5
        fine = [
            min(1.0, max(bound, cells[side] / first.padded[side] * first.resized[side] / first.original[side]))
            for side in (0, 1)
        ]
        self.shape = tuple(max(1, int(np.ceil(size[side] * fine[side] - 1e-6))) for side in (0, 1))
        self.frame = Frame(size, size, size)

    def centres(self, side: int) -> Tensor:
        """The middle of each row (side 0) or column (side 1) of cells, in pixels of the image."""
        count = self.shape[side]
        return (torch.arange(count, device=self.device, dtype=torch.float32) + 0.5) * (self.size[side] / count)

    def laid(self, maps: Tensor, frame: Frame, window: Window) -> Tensor:
        """(K, rows, columns) of the canvas: a tile's maps at its cells; beyond the tile, the values at its border."""
        axes = []
        for side, (low, high) in enumerate((window.rows, window.columns)):
            count = maps.shape[-2 + side]
            inside = self.centres(side).clamp(low, high) - low
            axes.append(inside / frame.original[side] * frame.resized[side] / frame.padded[side] * count)
        # The network's padding is behind the tile's last cell.
        own = [maps.shape[-2 + side] * frame.resized[side] / frame.padded[side] for side in (0, 1)]
        y, x = (axis.clamp(0.5, max(0.5, end - 0.5)) for axis, end in zip(axes, own, strict=True))
        return sampled(maps, y, x)

    def shared(self, one: Window, other: Window) -> Tensor:
        """(rows, columns) bool: the cells of both tiles; where there are none, those of each that touch the other."""
        common = self.inside(one) & self.inside(other)
        return common if bool(common.any()) else self.inside(one, reach=1.0) & self.inside(other, reach=1.0)

    def inside(self, window: Window, reach: float = 0.0) -> Tensor:
        """(rows, columns) bool: the cells whose middle is in a tile, or so many cells beside it."""
        axes = []
        for side, (low, high) in enumerate((window.rows, window.columns)):
            cell = self.size[side] / self.shape[side]
            centres = self.centres(side)
            axes.append((centres >= low - reach * cell) & (centres < high + reach * cell))
        return axes[0][:, None] & axes[1][None]

    def distance(self, window: Window) -> Tensor:
        """(rows, columns): how far each cell is from a tile, 0 within, 1 an image away along one side."""
        axes = []
        for side, (low, high) in enumerate((window.rows, window.columns)):
            centres = self.centres(side)
            axes.append(((low - centres).clamp_min(0) + (centres - high).clamp_min(0)) / self.size[side])
        return axes[0][:, None] + axes[1][None]

    def trust(self, window: Window, windows: Sequence[Window]) -> Tensor:
        """(rows, columns): the weight of a tile, 1 where it alone is, falling to 0 at a border within the image."""
        axes = [_ramp(self.centres(side), window, windows, side, self.size[side] / self.shape[side]) for side in (0, 1)]
        return axes[0][:, None] * axes[1][None]


def _ramp(places: Tensor, window: Window, windows: Sequence[Window], side: int, cell: float) -> Tensor:
    """The weight of a tile at places along one side, in pixels; 0 outside of it."""
    spans = sorted({each.rows if side == 0 else each.columns for each in windows})
    low, high = window.rows if side == 0 else window.columns
    number = spans.index((low, high))
    weight = torch.ones_like(places)
    if number > 0 and (shared := spans[number - 1][1] - low) > 0:
        weight = torch.minimum(weight, (places - low) / shared)
    if number + 1 < len(spans) and (shared := high - spans[number + 1][0]) > 0:
        weight = torch.minimum(weight, (high - places) / shared)
    # Never quite 0 within, where a tile may be the only one that saw a candidate.
    return torch.where((places >= low) & (places < high), weight.clamp_min(1e-3), torch.zeros_like(weight))


def _stitch_candidates(outputs: Sequence[Candidates], windows: Sequence[Window], size: tuple[int, int]) -> Candidates:
    first = outputs[0]
    device = first.masks.device
    in_logits = first.activation == "sigmoid"
    bar = 0.0 if in_logits else 0.5
    kept = [np.flatnonzero((each.labels >= 0) & (each.gate > _LEAST_GATE)) for each in outputs]
    canvas = _Canvas(first.frame, first.masks.shape[-2:], size, device, sum(map(len, kept)))
    owner = np.concatenate([np.full(len(rows), number) for number, rows in enumerate(kept)]).astype(np.int64)
    labels = np.concatenate([each.labels[rows] for each, rows in zip(outputs, kept, strict=True)])
    gates = np.concatenate([each.gate[rows] for each, rows in zip(outputs, kept, strict=True)]).astype(np.float64)
    rows_of = [torch.from_numpy(rows).to(device) for rows in kept]
    laid = [
        canvas.laid(each.masks[rows], each.frame, window)
        for each, rows, window in zip(outputs, rows_of, windows, strict=True)
    ]
    clusters = _clusters(owner, labels, _agreement([masks >= bar for masks in laid], canvas, windows, owner))
    trust = [canvas.trust(window, windows) for window in windows]
    area = torch.cat(
        [((masks >= bar) * weight).flatten(1).sum(dim=1) for masks, weight in zip(laid, trust, strict=True)]
    )
    mixing = _mixing(clusters, area.cpu().numpy().astype(np.float64), device)
    masks = [mask for of_tile in laid for mask in of_tile]
    far = [canvas.distance(window) for window in windows]
    merged = torch.empty((len(clusters), *canvas.shape), device=device)
    for number, members in enumerate(clusters):
        parts = [(masks[member], int(owner[member])) for member in members]
        merged[number] = _joined([(mask, trust[tile], far[tile]) for mask, tile in parts], in_logits)
    strength = torch.cat([each.weight[rows].float() for each, rows in zip(outputs, rows_of, strict=True)])
    return Candidates(
        labels=labels[[members[0] for members in clusters]] if clusters else np.zeros(0, np.int64),
        gate=(mixing.cpu().numpy().astype(np.float64) @ gates).astype(np.float32),
        weight=mixing @ strength,
        masks=merged,
        frame=canvas.frame,
        isthing=first.isthing,
        activation=first.activation,
        class_scores=_mixed([each.class_scores for each in outputs], rows_of, mixing),
        class_weights=_mixed([each.class_weights for each in outputs], rows_of, mixing),
        most_instances=first.most_instances,
    )


def _joined(parts: Sequence[tuple[Tensor, Tensor, Tensor]], in_logits: bool) -> Tensor:
    """(rows, columns): one mask from its parts, each laid on the canvas, with its tile's trust and distance.

    Beyond all tiles of the parts a probability is 0; a logit is the nearest tile's at its border, far lower.
    """
    total, weights = torch.zeros_like(parts[0][0]), torch.zeros_like(parts[0][0])
    nearest, beyond = parts[0][0], parts[0][2]
    for mask, trust, distance in parts:
        total += mask * trust
        weights += trust
        nearest, beyond = torch.where(distance < beyond, mask, nearest), torch.minimum(distance, beyond)
    outside = nearest.clamp(-10, 10) + _OUTSIDE * (1 + beyond.clamp_max(1.0)) if in_logits else torch.zeros_like(total)
    return torch.where(weights > 0, total / weights.clamp_min(1e-12), outside)


def _agreement(
    sure: Sequence[Tensor], canvas: _Canvas, windows: Sequence[Window], owner: npt.NDArray[np.int64]
) -> Float:
    """(N, N) IoU of masks of different tiles, in the cells that both tiles have, or along their border; else 0.

    sure: (K, rows, columns) bool of each tile
    """
    iou = np.zeros((len(owner), len(owner)))
    places = [np.flatnonzero(owner == number) for number in range(len(sure))]
    for one in range(len(sure)):
        for other in range(one + 1, len(sure)):
            common = canvas.shared(windows[one], windows[other]).flatten()
            if not bool(common.any()) or not len(places[one]) or not len(places[other]):
                continue
            left, right = (sure[tile].flatten(1)[:, common].float() for tile in (one, other))
            both = left @ right.T
            union = left.sum(dim=1)[:, None] + right.sum(dim=1)[None] - both
            iou[np.ix_(places[one], places[other])] = (both / union.clamp_min(1)).cpu().numpy()
    return iou


def _clusters(owner: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], iou: Float) -> list[list[int]]:
    """Members of each cluster, the lowest first: of one label, from different tiles."""
    one, other = np.nonzero((iou > AGREEMENT) & (labels[:, None] == labels[None]))
    cluster = join_by_overlap(owner, one, other, iou[one, other])
    return [np.flatnonzero(cluster == number).tolist() for number in np.unique(cluster).tolist()]


def _mixing(clusters: Sequence[Sequence[int]], area: Float, device: torch.device) -> Tensor:
    """(clusters, members): how much each member's scores count in its cluster's, by the area of its part."""
    mixing = np.zeros((len(clusters), len(area)), np.float32)
    for number, members in enumerate(clusters):
        share = area[list(members)]
        mixing[number, members] = share / share.sum() if share.sum() > 0 else 1 / len(members)
    return torch.from_numpy(mixing).to(device)


def _mixed(values: Sequence[Tensor | None], rows: Sequence[Tensor], mixing: Tensor) -> Tensor | None:
    """(clusters, classes): class scores of each cluster; None if a tile's output has none."""
    known = [each.float()[own] for each, own in zip(values, rows, strict=True) if each is not None]
    return mixing @ torch.cat(known) if len(known) == len(values) else None


def _stitch_instances(outputs: Sequence[Instances], windows: Sequence[Window], size: tuple[int, int]) -> Instances:
    first = outputs[0]
    device = first.semantic_logits.device
    channels = tuple(dict.fromkeys(label for each in outputs for label in each.semantic_labels))
    canvas = _Canvas(first.frame, first.semantic_logits.shape[-2:], size, device, len(channels))
    semantic = torch.zeros((len(channels), *canvas.shape), device=device)
    weights = torch.zeros(canvas.shape, device=device)
    boxes: list[Tensor] = []
    for each, window in zip(outputs, windows, strict=True):
        assert each.boxes is not None
        trust = canvas.trust(window, windows)
        places = [channels.index(label) for label in each.semantic_labels]
        semantic[places] += canvas.laid(each.semantic_logits, each.frame, window).softmax(dim=0) * trust
        weights += trust
        shift = torch.tensor([window.left, window.top, window.left, window.top], device=device)
        boxes.append(each.boxes.float() + shift)
    owner = np.concatenate([np.full(len(each.labels), number) for number, each in enumerate(outputs)]).astype(np.int64)
    labels = np.concatenate([np.array(each.labels, np.int64) for each in outputs])
    scores = np.concatenate([np.array(each.scores, np.float64) for each in outputs])
    joined = torch.cat(boxes)
    cell = [size[side] / canvas.shape[side] for side in (0, 1)]
    clusters = _clusters(owner, labels, _box_agreement(joined, owner, windows, cell))
    area = (joined[:, 2:] - joined[:, :2]).clamp_min(0).prod(dim=1).cpu().numpy().astype(np.float64)
    mixing = _mixing(clusters, area, device)
    confidence = mixing.cpu().numpy().astype(np.float64) @ scores
    masks = [mask.float() for each in outputs for mask in each.masks]
    side = int(first.masks.shape[-1])
    found_boxes, found_masks = joined.new_zeros((len(clusters), 4)), joined.new_zeros((len(clusters), side, side))
    for number, members in enumerate(clusters):
        if len(members) == 1:
            found_boxes[number], found_masks[number] = joined[members[0]], masks[members[0]]
            continue
        whole = torch.cat([joined[members, :2].amin(dim=0), joined[members, 2:].amax(dim=0)])
        found_boxes[number] = whole
        found_masks[number] = _joined_mask(
            [masks[member] for member in members],
            joined[members],
            [windows[int(owner[member])] for member in members],
            whole,
            windows,
            side,
        )
    order = np.argsort(-confidence, kind="stable")
    there = torch.from_numpy(order).to(device)
    return Instances(
        boxes=found_boxes[there],
        masks=found_masks[there],
        labels=tuple(int(labels[clusters[place][0]]) for place in order),
        scores=tuple(confidence[order].tolist()),
        semantic_logits=(semantic / weights.clamp_min(1e-12)).clamp_min(1e-12).log(),
        semantic_labels=channels,
        frame=canvas.frame,
    )


def _box_agreement(
    boxes: Tensor, owner: npt.NDArray[np.int64], windows: Sequence[Window], cell: Sequence[float]
) -> Float:
    """(N, N) IoU of boxes of different tiles, cut to what both tiles have, or to their border; else 0."""
    iou = np.zeros((len(owner), len(owner)))
    places = [np.flatnonzero(owner == number) for number in range(len(windows))]
    for one in range(len(windows)):
        for other in range(one + 1, len(windows)):
            low, high = _common(windows[one], windows[other], cell)
            if low[0] >= high[0] or low[1] >= high[1]:
                continue
            ends = [torch.tensor(each, device=boxes.device, dtype=torch.float32).repeat(2) for each in (low, high)]
            left, right = (
                torch.minimum(torch.maximum(boxes[places[tile].tolist()], ends[0]), ends[1]) for tile in (one, other)
            )
            inner = torch.minimum(left[:, None, 2:], right[None, :, 2:]) - torch.maximum(
                left[:, None, :2], right[None, :, :2]
            )
            both = inner.clamp_min(0).prod(dim=2)
            areas = [(each[:, 2:] - each[:, :2]).prod(dim=1) for each in (left, right)]
            union = areas[0][:, None] + areas[1][None] - both
            iou[np.ix_(places[one], places[other])] = (both / union.clamp_min(1e-9)).cpu().numpy()
    return iou


def _common(one: Window, other: Window, cell: Sequence[float]) -> tuple[list[float], list[float]]:
    """(x, y) where what two tiles share begins, and where it ends; a side that they only touch on has a cell of each.

    cell: (height, width) of a cell in pixels
    """
    low, high = [], []
    for spans, wide in (((one.columns, other.columns), cell[1]), ((one.rows, other.rows), cell[0])):
        begin, end = max(span[0] for span in spans), min(span[1] for span in spans)
        touching = wide if begin == end else 0.0
        low.append(begin - touching)
        high.append(end + touching)
    return low, high


def _joined_mask(
    masks: Sequence[Tensor],
    boxes: Tensor,
    own: Sequence[Window],
    whole: Tensor,
    windows: Sequence[Window],
    side: int,
) -> Tensor:
    """(side, side) probabilities over the box `whole`: the mean of the parts, by the trust in each one's tile there."""
    steps = (torch.arange(side, device=whole.device, dtype=torch.float32) + 0.5) / side
    x = whole[0] + steps * (whole[2] - whole[0])
    y = whole[1] + steps * (whole[3] - whole[1])
    total, weights = whole.new_zeros((side, side)), whole.new_zeros((side, side))
    for mask, box, window in zip(masks, boxes, own, strict=True):
        left, top, right, bottom = box.tolist()
        extent = mask.shape[-1]
        across = (x - left) / max(right - left, 1e-6) * extent
        down = (y - top) / max(bottom - top, 1e-6) * extent
        within = ((y >= top) & (y <= bottom))[:, None] & ((x >= left) & (x <= right))[None]
        probability = sampled(mask[None], down, across)[0] * within
        trust = _ramp(y, window, windows, 0, 1.0)[:, None] * _ramp(x, window, windows, 1, 1.0)[None]
        total += probability * trust
        weights += trust
    return total / weights.clamp_min(1e-12)
