"""Implements mmcv's operators in plain PyTorch, for an mmcv without its compiled extension (mmcv-lite).

`install()` registers a replacement if `mmcv._ext` cannot be imported. It returns the same boxes as compiled mmcv 2.1.0,
and values within 1e-5; names and arguments are those that mmcv/ops/*.py calls. docs/operators.md has measurements.
"""

import functools
import importlib
import importlib.machinery
import importlib.metadata
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.base.errors import PanbenchError
from panbench.models import async_device
from panbench.models.devices import one_thread
from panbench.models.mmdet import compiled_attention, distributions

# Bounds for an operator's memory; larger blocks were not faster.
_NMS_BLOCK = {"cpu": 128, "cuda": 1024}
_SAMPLES_AT_ONCE = 1 << 22
_ROIS_AT_ONCE = 256
_LONGEST_BOX = 1_000_000


class MissingOperator(PanbenchError):
    """Raised for an operator of mmcv that is neither compiled nor implemented here, and if mmcv cannot be imported."""


class BadBoxes(PanbenchError):
    """Raised for boxes that RoIAlign cannot pool: not finite, of negative size, or on no image of the batch."""


# ---- replacing mmcv._ext


def install() -> str:
    """Makes `import mmcv.ops` work; returns which operators it uses: "compiled", "torchvision" or "pytorch".

    Call it before mmcv.ops or mmdet.models is imported, in every process (also in spawned workers); further calls do
    nothing. mmcv's compiled operators are used if they load; `why_not_compiled()` returns the error if they exist and
    do not. "torchvision": its kernels run nms and RoIAlign on devices other than the CPU, where ours are faster.
    Raises MissingOperator if mmcv cannot be imported, or mmdet is an untested fork.
    """
    if (reason := distributions.fork_refusal()) is not None:
        raise MissingOperator(reason)
    try:
        mmcv = importlib.import_module("mmcv")
    except ImportError as error:
        raise MissingOperator(
            f"mmcv cannot be imported ({error}). Install it with: pip install mmcv-lite==2.1.0"
        ) from error
    try:
        extension = importlib.import_module("mmcv._ext")
    except (ImportError, OSError) as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == "mmcv._ext"
        extension = _make_extension(None if absent else f"{type(error).__name__}: {error}")
        sys.modules["mmcv._ext"] = extension
        mmcv._ext = extension  # type: ignore[attr-defined]
    distributions.import_quietly()
    if not isinstance(extension, _ReplacedExtension):
        return "compiled"
    return "torchvision" if _torchvision_loads() else "pytorch"


def why_not_compiled() -> str | None:
    """Returns the error with which mmcv's compiled operators failed to load (usually built for another torch).

    None if they loaded, if mmcv has none (mmcv-lite), and before `install()`.
    """
    extension = sys.modules.get("mmcv._ext")
    return extension.failure if isinstance(extension, _ReplacedExtension) else None


class _ReplacedExtension(types.ModuleType):
    """Replaces mmcv's compiled extension: operators of this file work, all others raise when they are called."""

    failure: str | None

    def __getattr__(self, name: str) -> "_UnavailableOperator":
        """Returns a placeholder, which raises when called, for an operator that this file does not implement."""
        # Python probes modules for dunder names, which are not operators.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _UnavailableOperator(name)


@dataclass(frozen=True)
class _UnavailableOperator:
    """Replaces an operator without an implementation: mmcv.ops requires at import that it exists."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raises MissingOperator, which says how to install compiled mmcv."""
        raise MissingOperator(
            f"{self.name} is an operator of mmcv that exists only compiled, and this mmcv has no compiled operators. "
            "Install compiled mmcv (pip uninstall -y mmcv-lite, then pip install mmcv==2.1.0, which needs a compiler)."
        )


def _make_extension(failure: str | None) -> _ReplacedExtension:
    """Makes the module that replaces mmcv's compiled extension.

    failure: the error with which that did not load
    """
    extension = _ReplacedExtension("mmcv._ext", __doc__)
    extension.failure = failure
    # A spec keeps importlib.util.find_spec("mmcv._ext") from raising; without a loader mmengine sees mmcv as not full.
    extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", loader=None, origin=__name__)
    for operator in (nms, roi_align_forward, ms_deform_attn_forward):
        setattr(extension, operator.__name__, operator)
    for name in ("get_compiler_version", "get_compiling_cuda_version"):  # what mmcv's environment report prints
        setattr(extension, name, lambda: "none (replaced by panbench)")
    return extension


@functools.cache
def _torchvision_loads() -> bool:
    """Returns whether torchvision can be imported with its kernels; a build for another torch raises various errors."""
    try:
        importlib.import_module("torchvision")
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        _ = torch.ops.torchvision.roi_align
    except Exception:
        return False
    return True


def _uses_torchvision(device: torch.device) -> bool:
    """Returns whether torchvision's kernels are used on a device: not on the CPU, where ours are faster."""
    return device.type != "cpu" and _torchvision_loads()


# ---- non-maximum suppression


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Returns indices of the boxes that greedy non-maximum suppression keeps, best score first.

    A box is dropped when its IoU with a kept box of higher score exceeds `iou_threshold` (strictly). Boxes of equal
    score come in the order of torch's sort, as in compiled mmcv. A box that holds NaN is kept and drops none.

    boxes: (N, 4) as x1, y1, x2, y2; scores: (N,); offset: 0, or 1 for boxes whose x2 and y2 are their last pixel.
    Returns (at most N,) int64 on the boxes' device.
    """
    order = scores.sort(dim=0, descending=True).indices
    boxes = boxes.detach().index_select(0, order).to(_compute_type(boxes.dtype))
    if offset == 0 and _uses_torchvision(boxes.device):
        # Strictly falling ranks in place of scores, so that ties keep the order above.
        rank = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
        try:
            return order[torch.ops.torchvision.nms(boxes, rank, float(iou_threshold))]
        except NotImplementedError:  # a torchvision without kernels for this device
            pass
    with one_thread():
        return order[_greedy_nms(boxes, iou_threshold, offset)]


def _greedy_nms(boxes: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Suppresses sorted boxes block by block; returns the indices left.

    Computes O(left × N) IoUs in O(block × N) memory.
    """
    block = _NMS_BLOCK.get(boxes.device.type, _NMS_BLOCK["cuda"])
    x1, y1, x2, y2 = boxes.T
    columns = torch.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])
    left = torch.arange(len(boxes), device=boxes.device)
    remaining = [left[:0]]
    while len(left):
        head, tail = columns[:, :block], columns[:, block:]
        remains = _resolve_overlaps(ious_exceed(head, head, iou_threshold, offset))
        remaining.append(left[:block][remains])
        free = (~ious_exceed(head[:, remains], tail, iou_threshold, offset).any(0)).nonzero().flatten()
        columns, left = tail.index_select(1, free), left[block:][free]
    return torch.cat(remaining)


def ious_exceed(first: Tensor, second: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Returns (M, N) bool: which IoUs exceed the threshold, rounded as by compiled mmcv.

    first, second: (5, M) and (5, N): x1, y1, x2, y2 and the area
    """
    x1, y1, x2, y2, area = first[..., None]
    second = second[..., None, :]
    width = torch.minimum(x2, second[2]).sub_(torch.maximum(x1, second[0])).add_(offset).clamp_(min=0)
    height = torch.minimum(y2, second[3]).sub_(torch.maximum(y1, second[1])).add_(offset).clamp_(min=0)
    shared = width.mul_(height)
    union = torch.add(area, second[4], out=height).sub_(shared)
    return shared.div_(union) > iou_threshold


def _resolve_overlaps(overlap: Tensor) -> Tensor:
    """Returns (N,) bool: which boxes stay, if each is dropped by an earlier overlapping box that stays.

    Box i is final after at most i rounds; rounds end when nothing changes, mostly after a few.
    """
    before = overlap.triu(1)
    remains = torch.ones(len(before), dtype=torch.bool, device=before.device)
    while True:
        update = ~(before & remains[:, None]).any(0)
        if torch.equal(update, remains):
            return remains
        remains = update


# ---- RoIAlign


@dataclass(frozen=True)
class _Pooling:
    """Holds RoIAlign's settings: output size, scale of boxes, samples per bin."""

    height: int
    width: int
    spatial_scale: float
    sampling_ratio: int
    aligned: bool


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fills `output` (R, C, height, width) with the mean of bilinear samples in each bin of each RoI; no gradients.

    input: (N, C, H, W) of any float type (computed in float32 at least); rois: (R, 5) as batch index, x1, y1, x2, y2
    in image pixels; spatial_scale: feature cells a pixel; sampling_ratio: samples a bin along each axis, 0 for as many
    as the bin is cells long; aligned: cell centres at half-integers [He et al. 2017; detectron2's half-pixel shift].
    A NaN or infinity in `input` appears in every bin of the RoIs that cover it.
    Raises BadBoxes for RoIs that are not finite, of negative size (when aligned), over a million cells long, or on no
    image of the batch; MissingOperator for maxima (pool_mode 0).
    """
    if pool_mode == 0:
        _UnavailableOperator("roi_align_forward with pool_mode='max'")()
    pooling = _Pooling(aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    if not _pool_with_torchvision(input, rois, output, pooling):
        _roi_align_average(input, rois.cpu(), output, pooling)


def _pool_with_torchvision(input: Tensor, rois: Tensor, output: Tensor, pooling: _Pooling) -> bool:
    """Runs torchvision's RoIAlign into `output`; returns False if it has no kernel for the device."""
    if not _uses_torchvision(input.device):
        return False
    dtype = _compute_type(input.dtype)
    try:
        pooled = torch.ops.torchvision.roi_align(
            input.to(dtype),
            rois.to(dtype),
            pooling.spatial_scale,
            pooling.height,
            pooling.width,
            pooling.sampling_ratio,
            pooling.aligned,
        )
    except NotImplementedError:  # a torchvision without kernels for this device
        return False
    output.copy_(pooled)
    return True


def _roi_extents(rois: Tensor, images: int, pooling: _Pooling) -> tuple[Tensor, Tensor]:
    """Returns top left corners and sizes of RoIs (R, 5) in feature map cells, each (R, 2) as x, y. Raises BadBoxes."""
    corners = rois[:, 1:] * pooling.spatial_scale - (0.5 if pooling.aligned else 0.0)
    sizes = corners[:, 2:] - corners[:, :2]
    bad = ~rois.isfinite().all(1) | (rois[:, 0] < 0) | (rois[:, 0] >= images) | (sizes > _LONGEST_BOX).any(1)
    if pooling.aligned:
        bad |= (sizes < 0).any(1)
    else:
        sizes = sizes.clamp(min=1.0)
    if bad.any():
        first = int(bad.nonzero()[0])
        image, *box = rois[first].tolist()
        raise BadBoxes(
            f"{int(bad.sum())} of {len(rois)} boxes cannot be pooled: the first, number {first}, is "
            f"{box} on image {image:g} of {images}. Boxes must be finite, with x1 ≤ x2 and y1 ≤ y2, and at most "
            f"{_LONGEST_BOX} cells long; a model whose features overflowed or whose weights are damaged gives others."
        )
    return corners[:, :2], sizes


def _roi_bin_weights(start: Tensor, size: Tensor, bins: int, extent: int, ratio: int) -> tuple[Tensor, Tensor, Tensor]:
    """Computes along one axis how much each feature map cell weighs in each RoIAlign bin's mean of bilinear samples.

    start, size: (R,) of the RoIs, in cells; extent: cells of the map; ratio: samples of a bin, 0 for one a cell
    A sample up to one cell outside of the map counts as on it and takes the border's value; one further out is zero.
    Returns first (R,) int64, the first cell of each RoI; length (R,), how many cells it touches; weight
    (R, bins, max(length)), of the cells from `first` on.
    """
    grid = (torch.full_like(size, ratio) if ratio > 0 else torch.ceil(size / bins)).long()[:, None, None]
    number = torch.arange(bins)[:, None]
    # RoIs with fewer samples than the largest repeat their last one, with weight 0.
    step = torch.arange(max(1, int(grid.max())))
    bin_size = (size / bins)[:, None, None]
    # The order of operations is compiled mmcv's, so that rounding puts a sample on the same side of a border.
    at = start[:, None, None] + number * bin_size + (torch.minimum(step, grid - 1) + 0.5) * bin_size / grid
    at = at.nan_to_num_()
    scale = ((at >= -1) & (at <= extent) & (step < grid)) / grid.clamp(min=1)
    at = at.clamp(0, extent - 1)
    floor = at.floor()
    low, high_share = floor.long(), at - floor
    first = low.amin((1, 2))
    low = low - first[:, None, None]
    length = low.amax((1, 2)) + 2
    weight = high_share.new_zeros((*low.shape[:2], int(length.max())))
    weight.scatter_add_(2, low, (1 - high_share) * scale).scatter_add_(2, low + 1, high_share * scale)
    return first, length, weight


def _roi_align_average(input: Tensor, rois: Tensor, output: Tensor, pooling: _Pooling) -> None:
    """Computes RoIAlign as two small matrix products per RoI, over its window of the feature map.

    rois: on the host
    """
    images, channels, map_height, map_width = input.shape
    if not output.numel():
        return
    if not map_height * map_width:
        output.zero_()
        return
    dtype = _compute_type(input.dtype)
    with torch.no_grad(), torch.autocast(input.device.type, enabled=False), one_thread():
        starts, sizes = _roi_extents(rois.to(dtype), images, pooling)
        # With channels last, a window's rows are matrix rows. Convert the whole map only if windows cover more than it.
        maps = input.permute(0, 2, 3, 1)
        cells = (sizes[:, 1].clamp(max=map_height) + 2) * (sizes[:, 0].clamp(max=map_width) + 2)
        if float(cells.sum()) > images * map_height * map_width:
            maps = maps.to(dtype).contiguous()
        for r, window, weight_y, weight_x in _roi_windows(maps, rois[:, 0].long(), starts, sizes, pooling):
            rows = window.to(dtype).flatten(1)
            strips = torch.mm(weight_y, rows).view(pooling.height, -1, channels)
            pooled = torch.matmul(weight_x, strips)
            # Copied while still in the cache, as a transposed matrix, which torch does in tiles.
            output[r].view(channels, -1).copy_(pooled.view(-1, channels).T)


def _roi_windows(
    maps: Tensor, image: Tensor, starts: Tensor, sizes: Tensor, pooling: _Pooling
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yields for each RoI its index, its window (h, w, C) of the feature map, and the weights of rows and columns.

    maps: (N, H, W, C); weights: (height, h) of rows and (width, w) of columns in the bins
    """
    ratio = pooling.sampling_ratio
    # RoIs of one block are padded to as many samples as its largest has.
    for block in sizes.sum(1).argsort(stable=True).split(_ROIS_AT_ONCE):
        (left, top), (wide, high) = starts[block].T, sizes[block].T
        y, rows, weight_y = _roi_bin_weights(top, high, pooling.height, maps.shape[1], ratio)
        x, columns, weight_x = _roi_bin_weights(left, wide, pooling.width, maps.shape[2], ratio)
        windows = torch.stack([block, image[block], y, rows, x, columns], 1).tolist()
        weight_y, weight_x = (async_device.upload(each, maps.device) for each in (weight_y, weight_x))
        for i, (r, n, row, h, column, w) in enumerate(windows):
            window = maps[n, row : row + h, column : column + w]  # ends at the border, past which cells weigh nothing
            yield r, window, weight_y[i, :, : window.shape[0]], weight_x[i, :, : window.shape[1]]


# ---- multi-scale deformable attention


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Runs `deformable_attention` under the name and arguments of mmcv's operator, for mmcv to call.

    Ignores `im2col_step`, mmcv's bound on memory: `deformable_attention` has a bound of its own.
    """
    return deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights)


def deformable_attention(
    value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Computes multi-scale deformable attention, (batch, queries, heads × channels), without gradients.

    Each query and head sums weighted bilinear samples of its channels over levels and points; samples outside a level
    are zero, partly so at its border. [Zhu et al. 2021, sec. 4.1]

    value: (batch, keys, heads, channels), the levels concatenated, each row by row; value_spatial_shapes:
    (levels, 2) int64 as height, width; sampling_locations: (batch, queries, heads, levels, points, 2) as x, y from 0 to
    1; attention_weights: (batch, queries, heads, levels, points). Computed in float32 at least, returned in
    `value`'s type.
    """
    locations = sampling_locations.flatten(0, 1)

    def sampled_positions(rows: slice, size: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and y of the points that the queries in `rows` sample, in pixels of each feature map."""
        x, y = locations[rows].to(size.dtype).movedim(-1, 0).contiguous()
        return x * size[:, None, 0] - 0.5, y * size[:, None, 1] - 0.5

    return _attend_in_blocks(value, value_spatial_shapes, sampled_positions, attention_weights)


def deformable_attention_around(
    value: Tensor, value_spatial_shapes: Tensor, references: Tensor, offsets: Tensor, attention_weights: Tensor
) -> Tensor:
    """Computes deformable attention from reference points and offsets, without all locations in memory at once.

    All locations at once would be among the largest tensors of an encoder, in three passes over memory. references:
    (batch or 1, queries, levels, 2) points or (…, 4) boxes; offsets: (batch, queries, heads, levels, points, 2).
    """
    batch, queries, _heads, _levels, points, _ = offsets.shape
    around = references.expand(batch, -1, -1, -1).reshape(batch * queries, *references.shape[2:])
    steps = offsets.flatten(0, 1)

    def sampled_positions(rows: slice, size: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x and y of the points that the queries in `rows` sample, in pixels of each feature map."""
        centre = (around[rows, :, :2].to(size.dtype) * size - 0.5)[:, None, :, None]
        step = steps[rows].to(size.dtype)
        if around.shape[-1] == 4:
            step = step * (around[rows, :, 2:].to(size.dtype) * size * (0.5 / points))[:, None, :, None]
        return step[..., 0] + centre[..., 0], step[..., 1] + centre[..., 1]

    return _attend_in_blocks(value, value_spatial_shapes, sampled_positions, attention_weights)


def _attend_in_blocks(
    value: Tensor,
    value_spatial_shapes: Tensor,
    sampled_positions: Callable[[slice, Tensor], tuple[Tensor, Tensor]],
    attention_weights: Tensor,
) -> Tensor:
    """Computes deformable attention in blocks of (image, query) rows, from a function that locates the samples.

    sampled_positions: called with rows and (levels, 2) widths and heights; returns the sampled x and y in cells, each
        (rows,
        heads, levels, points), with the centre of cell 0 at 0
    """
    batch, keys, heads, channels = value.shape
    _, queries, _, levels, points = attention_weights.shape
    dtype = _compute_type(value.dtype)
    with torch.no_grad(), torch.autocast(value.device.type, enabled=False):
        # One table for the whole batch: a few large gathers instead of one per image.
        table = value.to(dtype).reshape(batch * keys * heads, channels)
        shapes = torch.as_tensor(value_spatial_shapes, device=value.device).int()
        height, width = shapes[:, :1], shapes[:, 1:]
        size = shapes.flip(1).to(dtype)
        level_start = (height * width).cumsum(0, dtype=torch.int32) - height * width
        head = torch.arange(heads, dtype=torch.int32, device=value.device)[:, None, None, None, None]
        shares = attention_weights.flatten(0, 1)
        output = table.new_empty((batch * queries, heads * channels))
        at_once = max(1, _SAMPLES_AT_ONCE // (heads * levels * points))
        index = torch.int32 if len(table) < 1 << 31 else torch.int64
        for begin in range(0, len(output), at_once):
            block = slice(begin, begin + at_once)
            x, y = sampled_positions(block, size)
            x, weight_x = _neighbour_cells(x, width)
            y, weight_y = _neighbour_cells(y, height)
            weight_y *= shares[block, :, None].to(dtype)
            cells = (y * width + level_start)[:, :, :, None] + x[:, :, None]
            cells = cells.to(index).mul_(heads).add_(head)
            if batch > 1:
                rows = torch.arange(begin, begin + len(cells), dtype=index, device=value.device)
                cells += (rows.div_(queries, rounding_mode="floor") * (keys * heads)).view(-1, 1, 1, 1, 1, 1)
            weights = weight_y[:, :, :, None] * weight_x[:, :, None]
            entries = 4 * levels * points
            attended = F.embedding_bag(
                cells.view(-1, entries), table, per_sample_weights=weights.view(-1, entries), mode="sum"
            )
            output[block] = attended.view(-1, heads * channels)
    return output.view(batch, queries, -1).to(value.dtype)


def attend_deformably(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Computes deformable attention by compiled mmcv or the hub's kernel on CUDA, else by this file.

    starts: (levels,) int64, the first key of each level; other arguments as in `deformable_attention`
    """
    forward = _compiled_kernel(value.device)
    if forward is None:
        return deformable_attention(value, shapes, locations, weights)
    return compiled_attention.run(forward, value, shapes, starts, locations, weights)


def _is_on_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def _compiled_kernel(device: torch.device) -> compiled_attention.Forward | None:
    """Returns a compiled kernel of deformable attention on CUDA, mmcv's or the hub's; else None."""
    if not _is_on_cuda(device):
        return None
    extension = sys.modules.get("mmcv._ext")  # absent where transformers' models run without mmcv
    if extension is not None and not isinstance(extension, _ReplacedExtension):
        return extension.ms_deform_attn_forward  # type: ignore[no-any-return]
    return compiled_attention.kernel_of_hub(deformable_attention, device)


def _neighbour_cells(at: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """Returns along one axis the two feature map cells around each sampled position, and their bilinear weights.

    Both are (queries, heads, 2, levels, points); cells are int32 clamped to the map, and weights outside it are 0.
    """
    low = at.floor()
    share = at - low
    low = low.nan_to_num_().clamp_(min=-2)
    cells = torch.stack([low, low + 1], 2)
    on_map = torch.minimum(cells.clamp(min=0), extent - 1)
    return on_map.int(), torch.stack([1 - share, share], 2).mul_(cells == on_map)


def _compute_type(dtype: torch.dtype) -> torch.dtype:
    """Returns float64 for float64, else float32: half precision is too coarse for coordinates and sums of products."""
    return torch.float64 if dtype == torch.float64 else torch.float32
