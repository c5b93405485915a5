"""Selects queries and resizes their attention to the photograph, for every family.

A family records its decoder's cross-attention during a forward pass (`Attention`), by hooks on its modules. Dense
attention is the mean over heads of the softmax over the feature map; masked attention is 0 where a query may not
attend; deformable attention, which samples a few points, is scattered to the finest map.
[Carion et al. 2020, fig. 6; Cheng et al. 2022, sec. 3.2.1; Zhu et al. 2021, sec. 4.1]
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panbench.base.errors import BadArgument
from panbench.base.text import listed
from panbench.models.candidates import NO_LABEL, Frame
from panbench.models.rules import Rule
from panbench.models.rules.resize import upsample
from panbench.panoptic.types import AttendedLayer, AttendedQuery

DEFAULT_QUERIES = 4


@dataclasses.dataclass(frozen=True)
class LayerAttention:
    """Holds the cross-attention of all queries of one image in one decoder layer.

    weights: (queries, h, w), covering the padded input
    blocked: (queries, h, w) bool, where attention was masked; None without a mask
    masks: (queries, h', w') logits of the masks predicted from the layer's output; None if it predicts none
    """

    weights: Tensor
    blocked: Tensor | None = None
    masks: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Attention:
    """Holds the cross-attention of all queries of one image in all layers, and the queries' predictions.

    scores, labels: (queries,) of the last layer; labels are the model's, or NO_LABEL
    layers: in order; the last one has masks
    threshold: the least value of a pixel in a mask: 0 for logits
    """

    scores: Tensor
    labels: Tensor
    layers: Sequence[LayerAttention]
    frame: Frame
    threshold: float = 0.0


def best_classes(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Returns each query's best score and label, from (queries, classes + 1) logits whose last class is "nothing"."""
    scores, labels = logits.float().softmax(dim=-1).max(dim=-1)
    return scores, torch.where(labels == logits.shape[-1] - 1, NO_LABEL, labels)


def dense_layer(
    weights: Tensor, size: tuple[int, int], masks: Tensor | None, forbidden: Tensor | None = None
) -> LayerAttention:
    """Makes the LayerAttention of a decoder layer that attends to every position of a feature map (h, w).

    weights: (queries, h·w); forbidden: the attention mask, of which the first image's and head's is used
    """
    blocked = None
    if forbidden is not None:
        single = forbidden.reshape(-1, *forbidden.shape[-2:])[0]
        single = single if single.dtype == torch.bool else single < -1e4
        blocked = single.reshape(-1, *size) if len(single) == len(weights) else None
    return LayerAttention(weights.reshape(-1, *size), blocked, masks)


def layers_by_level(
    calls: "Mapping[Any, Sequence[ModuleCall]]", sizes: Sequence[tuple[int, int]], masks: Sequence[Tensor]
) -> list[LayerAttention]:
    """Makes the LayerAttention of decoder layers that attend to the feature maps in turn, the coarsest first.

    calls: of PyTorch's multi-head attention, by the layer's number; sizes: of the maps; masks: after each layer
    """
    layers = []
    for number, after in enumerate(masks):
        call = calls[number][-1]
        layers.append(dense_layer(call.output[1][0], sizes[number % len(sizes)], after, call.named.get("attn_mask")))
    return layers


class ModelWithRule(Protocol):
    """A model with category names, and with a fusion rule that has a score threshold."""

    class_names: tuple[str, ...]
    rule: Rule


def attended_queries(
    model: ModelWithRule,
    found: Attention,
    *,
    queries: Sequence[int] = (),
    category: str | None = None,
    layers: Sequence[int] = (),
    most: int = DEFAULT_QUERIES,
) -> tuple[AttendedQuery, ...]:
    """Returns where some queries attend, at the photograph's size, in the decoder layers `layers` (from 1; () for all).

    queries: their indices; () selects the `most` best-scored queries above the rule's threshold, of `category` if given
    Raises BadArgument for unknown queries, layers or categories.
    """
    count = len(found.layers)
    wrong = [number for number in layers if not 1 <= number <= count]
    if wrong:
        raise BadArgument(f"There is no layer {wrong[0]}: the decoder has layers 1 to {count}.")
    chosen = _choose_queries(model, found.scores, found.labels, queries, category, most)
    requested = sorted(set(layers)) or list(range(1, count + 1))
    attended = []
    for query in chosen:
        of_layers = tuple(_attended_layer(found, number, query) for number in requested)
        label = int(found.labels[query])
        name = model.class_names[label] if 0 <= label < len(model.class_names) else "nothing"
        attended.append(AttendedQuery(query, name, float(found.scores[query]), of_layers))
    return tuple(attended)


@contextmanager
def record_module_calls(modules: Mapping[Any, nn.Module]) -> "Iterator[dict[Any, list[ModuleCall]]]":
    """Records all forward calls of some modules during a `with` block; yields a dict of each module's calls."""
    calls: dict[Any, list[ModuleCall]] = {key: [] for key in modules}

    def recording_hook(key: Any) -> Any:
        """Returns a forward hook that appends a module's calls to the list of `key`."""
        return lambda _, positional, named, output: calls[key].append(ModuleCall(positional, named, output))

    hooks = [module.register_forward_hook(recording_hook(key), with_kwargs=True) for key, module in modules.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@dataclasses.dataclass(frozen=True)
class ModuleCall:
    """Records one forward call of a module: its arguments and its output."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    output: Any


def scatter_attention(locations: Tensor, weights: Tensor, size: tuple[int, int]) -> Tensor:
    """Scatters the attention weights of sampled points bilinearly to a map (queries, h, w), the mean over heads.

    locations: (queries, heads, points, 2) x, y as fractions of the padded input; points outside are ignored
    weights: (queries, heads, points), which sum to 1 over the points of a head
    """
    height, width = size
    queries, heads = weights.shape[:2]
    at_once = 64
    maps = weights.new_zeros((queries, height * width))
    for start in range(0, queries, at_once):
        x = locations[start : start + at_once, ..., 0] * width - 0.5
        y = locations[start : start + at_once, ..., 1] * height - 0.5
        share = weights[start : start + at_once] / heads
        left, top = x.floor(), y.floor()
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                cell = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
                part = (share * across * down).masked_fill(~inside, 0)
                maps[start : start + at_once].scatter_add_(1, cell.flatten(1), part.flatten(1))
    return maps.reshape(queries, height, width)


def _attended_layer(found: Attention, number: int, query: int) -> AttendedLayer:
    """Resizes one query's attention and mask in decoder layer `number` (from 1) to the photograph's size."""
    layer, frame = found.layers[number - 1], found.frame
    smooth, allowed = _resize_attention(layer.weights[query].float(), frame), None
    if layer.blocked is not None:
        allowed = _resize_attention((~layer.blocked[query]).float(), frame, nearest=True) > 0.5
        # Interpolation would spread attention into masked pixels.
        smooth = np.where(allowed, smooth, np.float32(0))
    mask = None
    if layer.masks is not None:
        mask = (upsample(layer.masks[[query]].float(), frame)[0] >= found.threshold).cpu().numpy()
    return AttendedLayer(number, smooth, allowed, mask)


def _resize_attention(values: Tensor, frame: Frame, nearest: bool = False) -> npt.NDArray[np.float32]:
    """Resizes (h, w) values that cover the padded input to the photograph's (H, W), without the padding."""
    mode = {"mode": "nearest"} if nearest else {"mode": "bilinear", "align_corners": False}
    padded = F.interpolate(values[None, None], size=frame.padded, **cast(Any, mode))[0, 0]
    inside = padded[: frame.resized[0], : frame.resized[1]].cpu().numpy().astype(np.float32)
    way = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cast("npt.NDArray[np.float32]", cv2.resize(inside, frame.original[::-1], interpolation=way))


def _choose_queries(
    model: ModelWithRule, scores: Tensor, labels: Tensor, queries: Sequence[int], category: str | None, most: int
) -> list[int]:
    """Returns the requested query indices, else the best-scored ones, of `category` if given. Raises BadArgument."""
    if queries:
        beyond = [query for query in queries if not 0 <= query < len(scores)]
        if beyond:
            raise BadArgument(f"There is no query {beyond[0]}: the model has queries 0 to {len(scores) - 1}.")
        return list(dict.fromkeys(queries))
    threshold = float(getattr(model.rule, "score", 0.0))
    confident = (labels != NO_LABEL) & (scores > threshold)
    if category is not None:
        if category not in model.class_names:
            raise BadArgument(f"The model has no category {category!r}. It has {listed(model.class_names, 20)}.")
        confident &= labels == model.class_names.index(category)
    found = torch.nonzero(confident).flatten()
    if not len(found):
        what = "no query" if category is None else f"no query as {category}"
        raise BadArgument(
            f"The model has {what} with a score above {threshold:g} in this image. Name queries with --query."
        )
    return found[torch.argsort(scores[found], descending=True)][:most].tolist()
