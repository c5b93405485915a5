"""mmcv's operators in plain PyTorch, for an mmcv that came without its compiled extension (mmcv-lite).

`install()` puts a stand-in where `mmcv._ext` cannot be imported. It answers as compiled mmcv 2.1.0 does (same kept
boxes, values within 1e-5) and its names and arguments are those that mmcv/ops/*.py calls. docs/operators.md has the
measurements.
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
from panbench.models import feeding
from panbench.models.devices import one_thread
from panbench.models.mmdet import compiled_attention, distributions

__all__ = [
    "BadBoxes",
    "MissingOperator",
    "deformable_attention",
    "deformable_attention_around",
    "install",
    "ms_deform_attn_forward",
    "nms",
    "roi_align",
    "roi_align_forward",
    "speed_up_deformable_attention",
    "why_not_compiled",
]

# These bound the memory of an operator; larger ones were no faster.
_NMS_BLOCK = {"cpu": 128, "cuda": 1024}
_SAMPLES_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 22}
_ROIS_AT_ONCE = 256
_LONGEST_BOX = 1_000_000


class MissingOperator(PanbenchError):
    """An operator of mmcv was called that is neither compiled nor stood in for, or mmcv itself cannot be imported."""


class BadBoxes(PanbenchError):
    """Boxes that cannot be pooled: not finite, turned inside out, or on an image that the batch does not have."""


# ---- standing in for mmcv._ext


def install() -> str:
    """Makes `import mmcv.ops` work; returns which operators it uses: "compiled", "torchvision" or "pytorch".

    Call it before mmcv.ops or mmdet.models is imported, in every process (a spawned worker starts without it); calling
    again changes nothing. mmcv's own compiled operators are used wherever they load; `why_not_compiled()` tells of
    ones that are there but do not. "torchvision": torchvision's kernels serve nms and RoIAlign off the CPU. On the CPU
    ours are the faster ones, so they serve there in any case.
    Raises MissingOperator when mmcv cannot be imported at all, or mmdet is a fork that was not tested.
    """
    if (reason := distributions.refusal()) is not None:
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
        extension = _stand_in(None if absent else f"{type(error).__name__}: {error}")
        sys.modules["mmcv._ext"] = extension
        mmcv._ext = extension  # type: ignore[attr-defined]
    distributions.import_quietly()
    if not isinstance(extension, _StandIn):
        return "compiled"
    return "torchvision" if _torchvision_loads() else "pytorch"


def why_not_compiled() -> str | None:
    """The error that mmcv's compiled operators failed to load with (another torch's build, most often).

    None when they loaded, when mmcv has none (mmcv-lite), and before `install()`.
    """
    extension = sys.modules.get("mmcv._ext")
    return extension.failure if isinstance(extension, _StandIn) else None


class _StandIn(types.ModuleType):
    """A module with every operator's name: those of this file work, any other raises when it is called."""

    failure: str | None

    def __getattr__(self, name: str) -> "_Absent":
        # Python and its tools probe modules for dunder names; those must be absent, not operators.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return _Absent(name)


@dataclass(frozen=True)
class _Absent:
    """An operator without an implementation: mmcv.ops asks at import that it exists, and models may never call it."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise MissingOperator(
            f"{self.name} is an operator of mmcv that exists only compiled, and this mmcv has no compiled operators. "
            "Install compiled mmcv (pip uninstall -y mmcv-lite, then pip install mmcv==2.1.0, with a compiler at hand)."
        )


def _stand_in(failure: str | None) -> _StandIn:
    extension = _StandIn("mmcv._ext", __doc__)
    extension.failure = failure
    # A spec keeps importlib.util.find_spec("mmcv._ext") from raising; without a loader mmengine sees mmcv as not full.
    extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", loader=None, origin=__name__)
    for operator in (
        nms,
        roi_align_forward,
        ms_deform_attn_forward,
        get_compiler_version,
        get_compiling_cuda_version,
    ):
        setattr(extension, operator.__name__, operator)
    return extension


def get_compiler_version() -> str:
    """What mmcv's environment report prints as its compiler."""
    return "none (panbench stands in)"


def get_compiling_cuda_version() -> str:
    """What mmcv's environment report prints as its CUDA compiler."""
    return "none (panbench stands in)"


@functools.cache
def _torchvision_loads() -> bool:
    """Whether torchvision imports with its kernels; one built for another torch raises RuntimeError, OSError, …"""
    try:
        importlib.import_module("torchvision")
        torch.ops.torchvision.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
        _ = torch.ops.torchvision.roi_align
    except Exception:
        return False
    return True


def _torchvision_serves(device: torch.device) -> bool:
    return device.type != "cpu" and _torchvision_loads()


# ---- non-maximum suppression


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of the boxes that greedy non-maximum suppression keeps, best score first.

    A box is dropped when its IoU with a kept box of higher score exceeds `iou_threshold` (strictly). Boxes of equal
    score come in the order of torch's sort, as in compiled mmcv. A box that holds NaN is kept and drops none.

    boxes: (N, 4) as x1, y1, x2, y2; scores: (N,); offset: 0, or 1 for boxes whose x2 and y2 are their last pixel.
    Returns (at most N,) int64 on the boxes' device.
    """
    order = scores.sort(dim=0, descending=True).indices
    boxes = boxes.detach().index_select(0, order).to(_precise(boxes.dtype))
    if offset == 0 and _torchvision_serves(boxes.device):
        # Boxes already sorted, with scores that fall strictly: ties keep the order above.
        rank = torch.arange(len(order), 0, -1, dtype=boxes.dtype, device=boxes.device)
        try:
            return order[torch.ops.torchvision.nms(boxes, rank, float(iou_threshold))]
        except NotImplementedError:  # a torchvision without kernels for this device
            pass
    with one_thread():
        return order[_greedy(boxes, iou_threshold, offset)]


def _greedy(boxes: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Numbers of the boxes kept, taken best first, block by block: O(kept × N) IoUs, O(block × N) memory."""
    block = _NMS_BLOCK.get(boxes.device.type, _NMS_BLOCK["cuda"])
    x1, y1, x2, y2 = boxes.T
    columns = torch.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])
    left = torch.arange(len(boxes), device=boxes.device)
    kept = [left[:0]]
    while len(left):
        head, tail = columns[:, :block], columns[:, block:]
        stays = _resolve(overlaps(head, head, iou_threshold, offset))
        kept.append(left[:block][stays])
        free = (~overlaps(head[:, stays], tail, iou_threshold, offset).any(0)).nonzero().flatten()
        columns, left = tail.index_select(1, free), left[block:][free]
    return torch.cat(kept)


def overlaps(first: Tensor, second: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """(…, M, N) bool: IoU above the threshold, in the arithmetic and order of compiled mmcv, so that rounding agrees.

    first, second: (5, …, M) and (5, …, N): x1, y1, x2, y2 and the area
    """
    x1, y1, x2, y2, area = first[..., None]
    second = second[..., None, :]
    width = torch.minimum(x2, second[2]).sub_(torch.maximum(x1, second[0])).add_(offset).clamp_(min=0)
    height = torch.minimum(y2, second[3]).sub_(torch.maximum(y1, second[1])).add_(offset).clamp_(min=0)
    shared = width.mul_(height)
    union = torch.add(area, second[4], out=height).sub_(shared)
    return shared.div_(union) > iou_threshold


def _resolve(overlap: Tensor) -> Tensor:
    """(N,) bool: which boxes stay, when each is dropped by an overlapping one before it that stays.

    Box i is right after i rounds at the latest; rounds end when nothing changes, mostly after a few.
    """
    before = overlap.triu(1)
    stays = torch.ones(len(before), dtype=torch.bool, device=before.device)
    while True:
        update = ~(before & stays[:, None]).any(0)
        if torch.equal(update, stays):
            return stays
        stays = update


# ---- RoIAlign


@dataclass(frozen=True)
class _Pooling:
    """What RoIAlign is asked for, but for the tensors."""

    height: int
    width: int
    spatial_scale: float
    sampling_ratio: int
    aligned: bool


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """The mean of bilinear samples in each bin of each RoI, (R, C, height, width), without gradients.

    input: (N, C, H, W) of any float type (computed in float32 at least); rois: (R, 5) as batch index, x1, y1, x2, y2
    in image pixels; spatial_scale: feature cells a pixel; sampling_ratio: samples a bin along each axis, 0 for as many
    as the bin is cells long; aligned: cell centres at half-integers [He et al. 2017; detectron2's half-pixel shift].
    A NaN or infinity in `input` reaches every bin of the RoIs that cover it.
    Raises BadBoxes for RoIs that are not finite, of negative size (when aligned), over a million cells long, or on no
    image of the batch.
    """
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    output = input.new_empty((len(rois), input.shape[1], height, width))
    _average(input, rois, output, _Pooling(height, width, spatial_scale, sampling_ratio, aligned))
    return output


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
    """Fills `output` (R, C, height, width) as `roi_align` returns it; MissingOperator for maxima (pool_mode 0)."""
    if pool_mode == 0:
        _Absent("roi_align_forward with pool_mode='max'")()
    pooling = _Pooling(aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    if not _torchvision_pools(input, rois, output, pooling):
        _average(input, rois, output, pooling)


def _torchvision_pools(input: Tensor, rois: Tensor, output: Tensor, pooling: _Pooling) -> bool:
    if not _torchvision_serves(input.device):
        return False
    dtype = _precise(input.dtype)
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


@dataclass(frozen=True)
class _Axis:
    """Where samples lie along one axis: `bins` bins of `grid` samples each, from `start` over `size` cells.

    start, size: (R,) in cells; grid: (R,) int64; extent: cells of the map.
    """

    start: Tensor
    size: Tensor
    grid: Tensor
    bins: int
    extent: int

    def __getitem__(self, rois: Tensor) -> "_Axis":
        return _Axis(self.start[rois], self.size[rois], self.grid[rois], self.bins, self.extent)

    def samples(self, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Places (R, bins, samples), which of them lie on the map, and which are more than repeats of the last one.

        most: the largest of `grid`, where the host knows it already
        RoIs with fewer samples than the others repeat their last. A sample up to one cell outside of the map counts
        as on it and takes the border's value; one further out is zero.
        """
        device = self.start.device
        grid = self.grid[:, None, None]
        number = torch.arange(self.bins, device=device)[:, None]
        step = torch.arange(max(1, int(self.grid.max()) if most is None else most), device=device)
        bin_size = (self.size / self.bins)[:, None, None]
        # The order of operations is compiled mmcv's, so that rounding puts a sample on the same side of a border.
        at = self.start[:, None, None] + number * bin_size + (torch.minimum(step, grid - 1) + 0.5) * bin_size / grid
        return at.nan_to_num_(), (at >= -1) & (at <= self.extent), step < grid

    def cells(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """The lower of the two cells that a place lies between, and the share of the higher one."""
        at = at.clamp(0, self.extent - 1)
        low = at.floor()
        return low.long(), at - low

    def weights(self, each_bin: bool, bounds: tuple[int, int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The bilinear samples of a bin, summed up: the weight of each cell in the bin's mean.

        bounds: at least the largest of `grid` and of `length`, where the host knows them already

        Returns first (R, bins or 1, 1) int64, the first cell of each bin (each_bin) or of the RoI; length (R,), how
        many cells the longest bin or the RoI touches; weight (R, bins, max(length)), of the cells from `first` on.
        """
        most, longest = bounds or (None, None)
        at, on_map, own = self.samples(most)
        low, high_share = self.cells(at)
        scale = (on_map & own) / self.grid.clamp(min=1)[:, None, None]
        first = low.amin(2, keepdim=True) if each_bin else low.amin((1, 2), keepdim=True)
        low = low - first
        length = low.amax((1, 2)) + 2
        weight = high_share.new_zeros((*low.shape[:2], int(length.max()) if longest is None else longest))
        weight.scatter_add_(2, low, (1 - high_share) * scale).scatter_add_(2, low + 1, high_share * scale)
        return first, length, weight


def _axes(
    rois: Tensor, images: int, map_height: int, map_width: int, pooling: _Pooling, *, known: bool = False
) -> tuple[_Axis, _Axis]:
    """The samples of RoIs (R, 5) along y and along x. known: they are known to be good, and are not looked at."""
    size_of_map = {"y": map_height, "x": map_width}
    corners = rois[:, 1:] * pooling.spatial_scale - (0.5 if pooling.aligned else 0.0)
    sizes = corners[:, 2:] - corners[:, :2]
    bad = (
        torch.zeros((), dtype=torch.bool)
        if known
        else ~rois.isfinite().all(1) | (rois[:, 0] < 0) | (rois[:, 0] >= images) | (sizes > _LONGEST_BOX).any(1)
    )
    if pooling.aligned:
        bad = bad if known else bad | (sizes < 0).any(1)
    else:
        sizes = sizes.clamp(min=1.0)
    if not known and bad.any():
        first = int(bad.nonzero()[0])
        image, *box = rois[first].tolist()
        raise BadBoxes(
            f"{int(bad.sum())} of {len(rois)} boxes cannot be pooled: the first, number {first}, is "
            f"{box} on image {image:g} of {images}. Boxes must be finite, with x1 ≤ x2 and y1 ≤ y2, and at most "
            f"{_LONGEST_BOX} cells long; a model whose features overflowed or whose weights are damaged gives others."
        )
    axes = []
    for axis, bins, column in (("y", pooling.height, 1), ("x", pooling.width, 0)):
        start, size = corners[:, column], sizes[:, column]
        adaptive = torch.ceil(size / bins)
        grid = adaptive.fill_(pooling.sampling_ratio) if pooling.sampling_ratio > 0 else adaptive
        axes.append(_Axis(start, size, grid.long(), bins, size_of_map[axis]))
    return axes[0], axes[1]


def _blocks(cost: Tensor, budget: int, kind: Tensor | None = None) -> Iterator[Tensor]:
    """All numbers 0…R-1 in blocks of one kind, such that length × dearest ≤ budget (or length 1)."""
    order = cost.argsort(stable=True)
    if kind is not None:
        order = order[kind[order].argsort(stable=True)]
    costs = cost[order].tolist()
    kinds = kind[order].tolist() if kind is not None else [0] * len(costs)
    begin = 0
    for end in range(1, len(costs) + 1):
        if (
            end == len(costs)
            or kinds[end] != kinds[begin]
            or (end - begin + 1) * costs[end] > budget
            or end - begin == _ROIS_AT_ONCE
        ):
            yield order[begin:end]
            begin = end


def _product_blocks(y: Tensor, x: Tensor, each: int, budget: int) -> Iterator[Tensor]:
    """Blocks of RoIs alike in their lengths along y and x: padded to y × x × each, they stay within the budget."""
    # A block pads each length to its longest: lengths within a factor of √2 waste less than half.
    y, x = ((2 * length.clamp(min=1).log2()).ceil() for length in (y, x))
    yield from _blocks(2 ** ((y + x) / 2) * each, budget, kind=64 * y + x)


def _average(input: Tensor, rois: Tensor, output: Tensor, pooling: _Pooling) -> None:
    if not output.numel():
        return
    if not input.shape[2] * input.shape[3]:
        output.zero_()
        return
    with torch.no_grad(), torch.autocast(input.device.type, enabled=False):
        pool = _pool_bins if input.device.type == "cuda" else _pool_windows
        pool(input, rois.to(_precise(input.dtype)), output, pooling)


def _pool_windows(input: Tensor, rois: Tensor, output: Tensor, pooling: _Pooling) -> None:
    """RoIAlign as two small matrix products a RoI, over the window of the map that the RoI covers."""
    images, channels, map_height, map_width = input.shape
    axes = along_y, along_x = _axes(rois, images, map_height, map_width, pooling)
    # Channels last, a window's rows are matrix rows. Small windows are copied out; many, and the whole map is turned.
    maps = input.permute(0, 2, 3, 1)
    cells = (along_y.size.clamp(max=map_height) + 2) * (along_x.size.clamp(max=map_width) + 2)
    if float(cells.sum()) > images * map_height * map_width:
        maps = maps.to(rois.dtype).contiguous()
    with one_thread():
        for r, window, weight_y, weight_x in _windows(maps, rois, axes):
            rows = window.to(rois.dtype).flatten(1)
            strips = torch.mm(weight_y, rows).view(pooling.height, -1, channels)
            pooled = torch.matmul(weight_x, strips)
            # Copied while warm in the cache, and as a transposed matrix, which torch does in tiles.
            output[r].view(channels, -1).copy_(pooled.view(-1, channels).T)


def _windows(maps: Tensor, rois: Tensor, axes: tuple[_Axis, _Axis]) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yields each RoI's number, its window (h, w, C) of `maps` (N, H, W, C), a view, and the weights of
    the window's rows (height, h) and columns (width, w) in the bins.
    """
    along_y, along_x = axes
    image = rois[:, 0].long()
    for block in _blocks(along_y.bins * along_y.grid + along_x.bins * along_x.grid, 1 << 20):
        y, rows, weight_y = along_y[block].weights(each_bin=False)
        x, columns, weight_x = along_x[block].weights(each_bin=False)
        places = torch.stack([block, image[block], y.flatten(), rows, x.flatten(), columns], 1).tolist()
        for i, (r, n, top, h, left, w) in enumerate(places):
            window = maps[n, top : top + h, left : left + w]  # ends at the border, past which cells weigh nothing
            yield r, window, weight_y[i, :, : window.shape[0]], weight_x[i, :, : window.shape[1]]


def pool_known_rois(layer: Any, input: Tensor, rois: Tensor, on_host: Tensor) -> Tensor:
    """What mmcv's RoIAlign `layer` gives for RoIs that are on the device and on the host: without waiting.

    on_host: (R, 5) float32, the same as `rois`. Raises BadBoxes.
    """
    compiled = not isinstance(sys.modules.get("mmcv._ext"), _StandIn)
    if compiled or _torchvision_serves(input.device):
        return layer(input, rois)  # type: ignore[no-any-return]
    height, width = layer.output_size
    pooling = _Pooling(height, width, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
    output = input.new_empty((len(rois), input.shape[1], height, width))
    with torch.no_grad(), torch.autocast(input.device.type, enabled=False):
        _pool_bins(input, rois.to(_precise(input.dtype)), output, pooling, on_host)
    return output


def _pool_bins(input: Tensor, rois: Tensor, output: Tensor, pooling: _Pooling, on_host: Tensor | None = None) -> None:
    """RoIAlign as one weighted sum of cells a bin: few, large kernels, where launching many small ones is slow."""
    channels = input.shape[1]
    table = input.permute(0, 2, 3, 1).to(rois.dtype).reshape(-1, channels)
    budget = _SAMPLES_AT_ONCE["cuda"]
    blocks = (
        _bins(rois, input.shape, pooling, budget)
        if on_host is None
        else _bins_of_known(rois, on_host, input.shape, pooling, budget)
    )
    for block, cells, weights in blocks:
        pooled = F.embedding_bag(cells, table, per_sample_weights=weights, mode="sum")
        pooled = pooled.view(len(block), pooling.height, pooling.width, channels)
        output[block] = pooled.permute(0, 3, 1, 2).to(output.dtype)


def _bins(
    rois: Tensor, input_shape: torch.Size, pooling: _Pooling, budget: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Blocks of RoIs with the cells (bins, k) of their bins, as rows of the flattened maps, and the cells' weights."""
    images, _, map_height, map_width = input_shape
    along_y, along_x = _axes(rois, images, map_height, map_width, pooling)
    for block in _product_blocks(_reach(along_y), _reach(along_x), pooling.height * pooling.width, budget):
        samples = along_y[block].weights(each_bin=True), along_x[block].weights(each_bin=True)
        yield block, *_cells(rois[block, 0], *samples, map_height, map_width)


def _bins_of_known(
    rois: Tensor, on_host: Tensor, input_shape: torch.Size, pooling: _Pooling, budget: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Like `_bins`, with blocks and their sizes computed from the RoIs on the host."""
    images, _, map_height, map_width = input_shape
    of_host = _axes(on_host, images, map_height, map_width, pooling)
    along_y, along_x = _axes(rois, images, map_height, map_width, pooling, known=True)
    reach_y, reach_x = map(_reach, of_host)
    for chosen in _product_blocks(reach_y, reach_x, pooling.height * pooling.width, budget):
        block = feeding.upload(chosen, rois.device)
        # One more than needed, should the device round otherwise than the host.
        most_y, most_x = (max(1, int(axis.grid[chosen].max())) + 1 for axis in of_host)
        y = along_y[block].weights(each_bin=True, bounds=(most_y, int(reach_y[chosen].max()) + 1))
        x = along_x[block].weights(each_bin=True, bounds=(most_x, int(reach_x[chosen].max()) + 1))
        yield block, *_cells(rois[block, 0], y, x, map_height, map_width)


def _reach(axis: _Axis) -> Tensor:
    """(R,) how many cells a bin touches at most."""
    return torch.ceil(axis.size / axis.bins) + 2


def _cells(
    image: Tensor,
    along_y: tuple[Tensor, Tensor, Tensor],
    along_x: tuple[Tensor, Tensor, Tensor],
    map_height: int,
    map_width: int,
) -> tuple[Tensor, Tensor]:
    """The cells (bins, k) of the bins of RoIs, as rows of the flattened maps, and the cells' weights."""
    (y, _, weight_y), (x, _, weight_x) = along_y, along_x
    # Cells past the border carry no weight; any cell of the map may stand for them.
    y = (y + torch.arange(weight_y.shape[2], device=y.device)).clamp_(max=map_height - 1)
    x = (x + torch.arange(weight_x.shape[2], device=x.device)).clamp_(max=map_width - 1)
    y = (image.long()[:, None, None] * map_height + y) * map_width
    cells = y[:, :, None, :, None] + x[:, None, :, None, :]
    weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
    bins = len(image) * weight_y.shape[1] * weight_x.shape[1]
    return cells.reshape(bins, -1), weights.reshape(bins, -1)


# ---- multi-scale deformable attention


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Like `deformable_attention`. Blocks of queries bound the memory, so `im2col_step` is ignored."""
    return deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights)


def deformable_attention(
    value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """Multi-scale deformable attention, (batch, queries, heads × channels), without gradients.

    Each query and head sums bilinear samples of its channels over levels and points, weighted; a sample outside of a
    level is zero, one astride its border counts in part. [Zhu et al. 2021, sec. 4.1]

    value: (batch, keys, heads, channels), the levels one after another, each row by row; value_spatial_shapes:
    (levels, 2) int64 as height, width; sampling_locations: (batch, queries, heads, levels, points, 2) as x, y from 0 to
    1; attention_weights: (batch, queries, heads, levels, points). Computed in float32 at least, returned in
    `value`'s type.
    """
    locations = sampling_locations.flatten(0, 1)

    def places(rows: slice, size: Tensor) -> tuple[Tensor, Tensor]:
        x, y = locations[rows].to(size.dtype).movedim(-1, 0).contiguous()
        return x * size[:, None, 0] - 0.5, y * size[:, None, 1] - 0.5

    return _sum_samples(value, value_spatial_shapes, places, attention_weights)


def deformable_attention_around(
    value: Tensor, value_spatial_shapes: Tensor, references: Tensor, offsets: Tensor, attention_weights: Tensor
) -> Tensor:
    """`deformable_attention` at `offsets` from `references`, as `deformable.places_of` adds them, block by block.

    In one go, they are some of the largest tensors of an encoder, and go through memory three times. references: (batch
    or 1, queries, levels, 2) points or (…, 4) boxes; offsets: (batch, queries, heads, levels, points, 2).
    """
    batch, queries, _heads, _levels, points, _ = offsets.shape
    around = references.expand(batch, -1, -1, -1).reshape(batch * queries, *references.shape[2:])
    steps = offsets.flatten(0, 1)

    def places(rows: slice, size: Tensor) -> tuple[Tensor, Tensor]:
        centre = (around[rows, :, :2].to(size.dtype) * size - 0.5)[:, None, :, None]
        step = steps[rows].to(size.dtype)
        if around.shape[-1] == 4:
            step = step * (around[rows, :, 2:].to(size.dtype) * size * (0.5 / points))[:, None, :, None]
        return step[..., 0] + centre[..., 0], step[..., 1] + centre[..., 1]

    return _sum_samples(value, value_spatial_shapes, places, attention_weights)


def _sum_samples(
    value: Tensor,
    value_spatial_shapes: Tensor,
    places: Callable[[slice, Tensor], tuple[Tensor, Tensor]],
    attention_weights: Tensor,
) -> Tensor:
    """Deformable attention at x and y in cells of each level: `places` of some rows of batch × queries.

    places: from rows and (levels, 2) width and height, (rows, heads, levels, points) each, cell 0's centre at 0
    """
    batch, keys, heads, channels = value.shape
    _, queries, _, levels, points = attention_weights.shape
    dtype = _precise(value.dtype)
    with torch.no_grad(), torch.autocast(value.device.type, enabled=False):
        # One table for the whole batch: few large gathers, where a loop over images would launch many.
        table = value.to(dtype).reshape(batch * keys * heads, channels)
        shapes = torch.as_tensor(value_spatial_shapes, device=value.device).int()
        height, width = shapes[:, :1], shapes[:, 1:]
        size = shapes.flip(1).to(dtype)
        level_start = (height * width).cumsum(0, dtype=torch.int32) - height * width
        head = torch.arange(heads, dtype=torch.int32, device=value.device)[:, None, None, None, None]
        shares = attention_weights.flatten(0, 1)
        output = table.new_empty((batch * queries, heads * channels))
        at_once = _SAMPLES_AT_ONCE.get(value.device.type, _SAMPLES_AT_ONCE["cpu"])
        at_once = max(1, at_once // (heads * levels * points))
        index = torch.int32 if len(table) < 1 << 31 else torch.int64
        for begin in range(0, len(output), at_once):
            block = slice(begin, begin + at_once)
            x, y = places(block, size)
            x, weight_x = _straddle(x, width)
            y, weight_y = _straddle(y, height)
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
    """Deformable attention by the fastest code at hand: on CUDA compiled mmcv's, else the hub's kernel, else ours.

    starts: (levels,) int64, the first key of each level; the rest as `deformable_attention`
    """
    forward = _compiled_attention(value.device)
    if forward is None:
        return deformable_attention(value, shapes, locations, weights)
    return compiled_attention.run(forward, value, shapes, starts, locations, weights)


def _is_on_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def _compiled_attention(device: torch.device) -> compiled_attention.Forward | None:
    if not _is_on_cuda(device):
        return None
    extension = sys.modules.get("mmcv._ext")  # absent where transformers' models run without mmcv
    if extension is not None and not isinstance(extension, _StandIn):
        return extension.ms_deform_attn_forward  # type: ignore[no-any-return]
    return compiled_attention.kernel_of_hub(deformable_attention, device)


def _straddle(at: Tensor, extent: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells that a place (queries, heads, levels, points) lies between, and their weights: zero off the map.

    Returns both as (queries, heads, 2, levels, points); cells are int32, on the map in any case.
    """
    low = at.floor()
    share = at - low
    low = low.nan_to_num_().clamp_(min=-2)
    cells = torch.stack([low, low + 1], 2)
    on_map = torch.minimum(cells.clamp(min=0), extent - 1)
    return on_map.int(), torch.stack([1 - share, share], 2).mul_(cells == on_map)


def speed_up_deformable_attention() -> None:
    """Makes mmcv's MultiScaleDeformableAttention run on `deformable_attention` on the CPU, where no gradient is needed.

    mmcv has no compiled CPU kernel for it: it goes through grid_sample level by level, several times slower. Training
    keeps mmcv's own. Call after `install()`; imports mmcv.ops; calling again changes nothing.
    """
    module: Any = importlib.import_module("mmcv.ops.multi_scale_deform_attn")
    slow = module.multi_scale_deformable_attn_pytorch
    if hasattr(slow, "__wrapped__"):
        return

    @functools.wraps(slow)
    def attend(
        value: Tensor, value_spatial_shapes: Tensor, sampling_locations: Tensor, attention_weights: Tensor
    ) -> Tensor:
        tensors = (value, sampling_locations, attention_weights)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return slow(value, value_spatial_shapes, sampling_locations, attention_weights)
        return deformable_attention(value, value_spatial_shapes, sampling_locations, attention_weights)

    module.multi_scale_deformable_attn_pytorch = attend


def _precise(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: half and bfloat16 hold neither coordinates nor sums of products well enough."""
    return torch.float64 if dtype == torch.float64 else torch.float32
