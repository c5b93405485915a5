"""What queries look at, for every family: which queries are shown, and their attention brought to the photograph.

A family reads its decoder's cross-attention off a forward pass (`Attention`): hooks listen to its modules while the
network runs as always. Dense attention is the mean of the heads, softmax over the feature map; masked attention gives 0
where a query may not look; deformable attention, which samples a few points, is scattered to the finest map.
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
from panbench.panoptic.attention import AttendedLayer, AttendedQuery

__all__ = ["Attention", "Call", "Look", "attended_queries", "blocked_by", "calls_of", "scattered"]

DEFAULT_QUERIES = 4


@dataclasses.dataclass(frozen=True)
class Look:
    """Where all queries of one image attended in one decoder layer.

    weights: (queries, h, w) of the padded input's extent
    blocked: (queries, h, w) bool, where looking was forbidden; None where it never was
    masks: (queries, h', w') the masks that the layer's output led to, as logits; None where only the last gives some
    """

    weights: Tensor
    blocked: Tensor | None = None
    masks: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Attention:
    """Where all queries of one image attended, and what they found.

    scores, labels: (queries,) at the last layer; the label is the model's, or NO_LABEL
    layers: from the first on; the last one has masks
    threshold: from which value on a pixel is of a mask: 0 for logits
    """

    scores: Tensor
    labels: Tensor
    layers: Sequence[Look]
    frame: Frame
    threshold: float = 0.0


class Named(Protocol):
    """A model, as far as it is asked here."""

    class_names: tuple[str, ...]
    rule: Rule


def attended_queries(
    model: Named,
    found: Attention,
    *,
    queries: Sequence[int] = (),
    category: str | None = None,
    layers: Sequence[int] = (),
    most: int = DEFAULT_QUERIES,
) -> tuple[AttendedQuery, ...]:
    """What some queries looked at, at the photograph's size, in the decoder layers `layers` (from 1; () for all).

    queries: their numbers, from 0; () takes, by falling score, the `most` queries that are kept for the panoptic map,
        of `category` if it is given
    Raises BadArgument for queries, layers or categories that are not there.
    """
    count = len(found.layers)
    wrong = [number for number in layers if not 1 <= number <= count]
    if wrong:
        raise BadArgument(f"There is no layer {wrong[0]}: the decoder has layers 1 to {count}.")
    chosen = _choose(model, found.scores, found.labels, queries, category, most)
    wanted = sorted(set(layers)) or list(range(1, count + 1))
    attended = []
    for query in chosen:
        looked = tuple(_at_photo(found, number, query) for number in wanted)
        label = int(found.labels[query])
        name = model.class_names[label] if 0 <= label < len(model.class_names) else "nothing"
        attended.append(AttendedQuery(query, name, float(found.scores[query]), looked))
    return tuple(attended)


@contextmanager
def calls_of(modules: Mapping[Any, nn.Module]) -> "Iterator[dict[Any, list[Call]]]":
    """The calls of some modules while it is entered, in order, by the module's key; nothing of them changes."""
    calls: dict[Any, list[Call]] = {key: [] for key in modules}

    def listen(key: Any) -> Any:
        return lambda _, positional, named, output: calls[key].append(Call(positional, named, output))

    hooks = [module.register_forward_hook(listen(key), with_kwargs=True) for key, module in modules.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a module."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    output: Any


def scattered(locations: Tensor, weights: Tensor, size: tuple[int, int], *, at_once: int = 64) -> Tensor:
    """(queries, h, w): the weights of sampled points, added up at the four cells around each, mean of the heads.

    locations: (queries, heads, points, 2) x, y as fractions of the padded input; points outside count nowhere
    weights: (queries, heads, points), which sum to 1 over the points of a head
    """
    height, width = size
    queries, heads = weights.shape[:2]
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


def blocked_by(mask: Tensor | None, queries: int) -> Tensor | None:
    """(queries, keys) bool of the first image's first head, from attention's mask; None where all may be seen."""
    if mask is None:
        return None
    single = mask.reshape(-1, *mask.shape[-2:])[0]
    blocked = single if single.dtype == torch.bool else single < -1e4
    return blocked if blocked.shape[0] == queries else None


def _at_photo(found: Attention, number: int, query: int) -> AttendedLayer:
    look, frame = found.layers[number - 1], found.frame
    smooth, allowed = _resized(look.weights[query].float(), frame), None
    if look.blocked is not None:
        allowed = _resized((~look.blocked[query]).float(), frame, nearest=True) > 0.5
        # Interpolation would let attention seep to where there is none.
        smooth = np.where(allowed, smooth, np.float32(0))
    mask = None
    if look.masks is not None:
        mask = (upsample(look.masks[[query]].float(), frame)[0] >= found.threshold).cpu().numpy()
    return AttendedLayer(number, smooth, allowed, mask)


def _resized(values: Tensor, frame: Frame, nearest: bool = False) -> npt.NDArray[np.float32]:
    """(H, W) of the photograph from (h, w) of the padded input's extent."""
    mode = {"mode": "nearest"} if nearest else {"mode": "bilinear", "align_corners": False}
    padded = F.interpolate(values[None, None], size=frame.padded, **cast(Any, mode))[0, 0]
    inside = padded[: frame.resized[0], : frame.resized[1]].cpu().numpy().astype(np.float32)
    way = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cast("npt.NDArray[np.float32]", cv2.resize(inside, frame.original[::-1], interpolation=way))


def _choose(
    model: Named, scores: Tensor, labels: Tensor, queries: Sequence[int], category: str | None, most: int
) -> list[int]:
    if queries:
        beyond = [query for query in queries if not 0 <= query < len(scores)]
        if beyond:
            raise BadArgument(f"There is no query {beyond[0]}: the model has queries 0 to {len(scores) - 1}.")
        return list(dict.fromkeys(queries))
    threshold = float(getattr(model.rule, "score", 0.0))
    kept = (labels != NO_LABEL) & (scores > threshold)
    if category is not None:
        if category not in model.class_names:
            raise BadArgument(f"The model has no category {category!r}. It has {listed(model.class_names, 20)}.")
        kept &= labels == model.class_names.index(category)
    found = torch.nonzero(kept).flatten()
    if not len(found):
        what = "no query" if category is None else f"no query as {category}"
        raise BadArgument(
            f"The model keeps {what} in this image: none scores above {threshold:g}. Name queries with --query."
        )
    return found[torch.argsort(scores[found], descending=True)][:most].tolist()
