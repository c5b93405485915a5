"""mmcv's operators in plain PyTorch, for an mmcv that came without its compiled extension.

`install()` puts a stand-in for `mmcv._ext` where none can be imported. The stand-in gives compiled mmcv's answers.
"""

import importlib
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.errors import PanbenchError

# Weighted cells gathered at a time: bounds the index and weight arrays of RoIAlign to some 40 MB.
_CELLS_AT_ONCE = 1 << 20


class MissingOperator(PanbenchError):
    """An operator of mmcv that exists only compiled was called."""

    exit_code = 2


def install() -> str:
    """Makes `import mmcv.ops` work; returns whose operators it will use: "compiled", "torchvision" or "pytorch"."""
    present = sys.modules.get("mmcv._ext")
    if present is None:
        try:
            present = importlib.import_module("mmcv._ext")
        except ImportError:
            present = _stand_in()
            sys.modules["mmcv._ext"] = present
            importlib.import_module("mmcv")._ext = present  # type: ignore[attr-defined]
    return "pytorch" if getattr(present, "__panbench__", False) else "compiled"


def _stand_in() -> types.ModuleType:
    module = types.ModuleType("mmcv._ext", __doc__)
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None, origin="panbench")
    module.__panbench__ = True  # type: ignore[attr-defined]
    for operator in (nms, roi_align_forward, roi_align_backward, ms_deform_attn_forward):
        setattr(module, operator.__name__, operator)
    module.get_compiler_version = lambda: "not compiled"  # type: ignore[attr-defined]
    module.get_compiling_cuda_version = lambda: "not compiled"  # type: ignore[attr-defined]
    module.__getattr__ = _missing  # type: ignore[method-assign]
    return module


def _missing(name: str) -> Callable[..., Any]:
    if name.startswith("__"):
        raise AttributeError(f"module 'mmcv._ext' has no attribute '{name}'")

    def operator(*args: Any, **kwargs: Any) -> Any:
        raise MissingOperator(
            f"The operator {name} of mmcv exists only compiled, and this mmcv has no compiled operators. "
            "Install compiled mmcv 2.1.0: pip uninstall mmcv-lite && pip install mmcv==2.1.0."
        )

    return operator


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Indices of the boxes that greedy non-maximum suppression keeps, best score first."""
    order = scores.sort(dim=0, descending=True, stable=True).indices
    sorted_boxes = boxes.index_select(0, order).float()
    x1, y1, x2, y2 = sorted_boxes.unbind(1)
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    alive = torch.ones_like(order, dtype=torch.bool)
    for i in range(len(order)):
        if not alive[i]:
            continue
        w = (torch.minimum(x2[i], x2[i + 1 :]) - torch.maximum(x1[i], x1[i + 1 :]) + offset).clamp_(min=0)
        h = (torch.minimum(y2[i], y2[i + 1 :]) - torch.maximum(y1[i], y1[i + 1 :]) + offset).clamp_(min=0)
        inter = w * h
        alive[i + 1 :] &= ~(inter / (areas[i] + areas[i + 1 :] - inter) > iou_threshold)
    return order[alive]


def roi_align(
    input: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign with average pooling; gradients flow to `input`.

    input: (N, C, H, W); rois: (R, 5) as batch index, x1, y1, x2, y2 in image pixels. Returns (R, C, height, width).
    """
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    return _RoIAlign.apply(input, rois, height, width, spatial_scale, sampling_ratio, aligned)


class _RoIAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, rois: Tensor, *arguments: Any) -> Tensor:
        height, width, spatial_scale, sampling_ratio, aligned = arguments
        ctx.save_for_backward(rois)
        ctx.input_shape, ctx.arguments = input.shape, arguments
        output = input.new_empty((len(rois), input.shape[1], height, width))
        _average_pool(input, rois, output, spatial_scale, sampling_ratio, aligned)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = grads
        grad_input = grad_output.new_zeros(ctx.input_shape)
        _, _, spatial_scale, sampling_ratio, aligned = ctx.arguments
        _average_pool_backward(grad_output, ctx.saved_tensors[0], grad_input, spatial_scale, sampling_ratio, aligned)
        return grad_input, None, None, None, None, None, None


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
    """Writes RoIAlign of `input` into `output`."""
    if pool_mode == 0:
        _missing("roi_align_forward with pool_mode='max'")()
    _average_pool(input, rois, output, spatial_scale, sampling_ratio, aligned)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of RoIAlign's input to `grad_input`."""
    if pool_mode == 0:
        _missing("roi_align_backward with pool_mode='max'")()
    _average_pool_backward(grad_output, rois, grad_input, spatial_scale, sampling_ratio, aligned)


def _average_pool(
    input: Tensor, rois: Tensor, output: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> None:
    _, channels, map_height, map_width = input.shape
    _, _, height, width = output.shape
    table = input.permute(0, 2, 3, 1).reshape(-1, channels).float()
    for which, index, weight in _bins(
        rois, height, width, map_height, map_width, spatial_scale, sampling_ratio, aligned
    ):
        pooled = F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")
        output[which] = pooled.view(-1, height, width, channels).permute(0, 3, 1, 2).to(output.dtype)


def _average_pool_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> None:
    batch, channels, map_height, map_width = grad_input.shape
    _, _, height, width = grad_output.shape
    grad_table = torch.zeros((batch * map_height * map_width, channels), device=grad_input.device)
    for which, index, weight in _bins(
        rois, height, width, map_height, map_width, spatial_scale, sampling_ratio, aligned
    ):
        grad_bins = grad_output[which].permute(0, 2, 3, 1).reshape(-1, channels).float()
        with torch.enable_grad():
            rows = torch.zeros_like(grad_table, requires_grad=True)
            pooled = F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")
        grad_table += torch.autograd.grad(pooled, rows, grad_bins)[0]
    grad_input += grad_table.view(batch, map_height, map_width, channels).permute(0, 3, 1, 2)


def _bins(
    rois: Tensor,
    height: int,
    width: int,
    map_height: int,
    map_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(RoI numbers, cells (bins, k), weights (bins, k)) of RoIs that share a sampling grid, a bounded number at a time."""
    rois = rois.detach().float()
    half_pixel = 0.5 if aligned else 0.0
    corners = rois[:, 1:] * spatial_scale - half_pixel
    start, size = corners[:, :2], corners[:, 2:] - corners[:, :2]
    if not aligned:
        size = size.clamp(min=1.0)
    if sampling_ratio > 0:
        grid = torch.full_like(size, sampling_ratio).long()
    else:
        grid = torch.ceil(size / size.new_tensor([width, height])).long().clamp(min=0)
    offset = rois[:, 0].long() * (map_height * map_width)
    for grid_x, grid_y in torch.unique(grid, dim=0).tolist():
        members = ((grid[:, 0] == grid_x) & (grid[:, 1] == grid_y)).nonzero().flatten()
        at_once = max(1, _CELLS_AT_ONCE // max(1, height * width * (grid_x + 1) * (grid_y + 1)))
        for which in members.split(at_once):
            x, weight_x = _axis(start[which, 0], size[which, 0], width, grid_x, map_width)
            y, weight_y = _axis(start[which, 1], size[which, 1], height, grid_y, map_height)
            rows = offset[which, None, None] + y * map_width
            cells = rows[:, :, None, :, None] + x[:, None, :, None, :]
            weights = weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]
            bins = len(which) * height * width
            yield which, cells.reshape(bins, -1), weights.reshape(bins, -1)


def _axis(start: Tensor, size: Tensor, bins: int, grid: int, extent: int) -> tuple[Tensor, Tensor]:
    """Cells (R, bins, k) along one axis and how much each adds to the mean of the bin's `grid` bilinear samples."""
    if grid == 0:
        shape = (len(start), bins, 1)
        return torch.zeros(shape, dtype=torch.long, device=start.device), torch.zeros(shape, device=start.device)
    bin_size = (size / bins)[:, None, None]
    number = torch.arange(bins, device=start.device)[None, :, None]
    step = torch.arange(grid, device=start.device)[None, None, :] + 0.5
    at = start[:, None, None] + number * bin_size + step * bin_size / grid
    inside = ((at >= -1) & (at <= extent)) / grid
    at = at.clamp(0, extent - 1)
    low = at.floor()
    fraction = at - low
    low = low.long()
    weight_low, weight_high = (1 - fraction) * inside, fraction * inside
    first = low[..., :1]
    span = int((low - first).max()) + 2
    if span >= 2 * grid:
        return torch.cat([low, (low + 1).clamp(max=extent - 1)], 2), torch.cat([weight_low, weight_high], 2)
    weight = torch.zeros((*low.shape[:2], span), device=start.device)
    weight.scatter_add_(2, low - first, weight_low).scatter_add_(2, low - first + 1, weight_high)
    return (first + torch.arange(span, device=start.device)).clamp(max=extent - 1), weight


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Multi-scale deformable attention: (batch, queries, heads * channels)."""
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(
        value, value_spatial_shapes, sampling_locations, attention_weights
    )
