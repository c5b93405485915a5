"""Reads the cross-attention of MaskFormer's and Mask2Former's decoder off a forward pass, for chosen queries.

The model itself is not changed: hooks listen to the attention modules while it runs as always. Weights are the mean of
the heads, softmax over the feature map; Mask2Former's masked attention gives 0 where a query may not look.
[Carion et al. 2020, fig. 6; Cheng et al. 2022, sec. 3.2.1]
"""

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from panbench.base.errors import BadArgument, BadModel
from panbench.base.text import listed
from panbench.models.base import HostedModel
from panbench.models.candidates import Frame
from panbench.models.mmdet.config import family_of
from panbench.models.mmdet.inputs import frame_of, preprocessed
from panbench.models.rules.resize import upsample
from panbench.panoptic.attention import AttendedLayer, AttendedQuery
from panbench.panoptic.types import Scene

__all__ = ["attend"]

DEFAULT_QUERIES = 4


@torch.inference_mode()
def attend(
    model: HostedModel,
    scene: Scene,
    *,
    queries: Sequence[int] = (),
    category: str | None = None,
    layers: Sequence[int] = (),
    most: int = DEFAULT_QUERIES,
) -> tuple[AttendedQuery, ...]:
    """What some queries of a model looked at in a photograph, in the decoder layers `layers` (from 1; () for all).

    queries: their numbers, from 0; () takes, by falling score, the `most` queries that are kept for the panoptic map,
        of `category` if it is given
    model: loaded without speed-ups, which drop the weights and all masks but the last layer's
    Raises BadModel for a model without queries, BadArgument for queries, layers or categories that are not there.
    """
    if not family_of(model.module).has_queries:
        raise BadModel(
            f"{model.spec.title} has no queries, so no attention to show. MaskFormer and Mask2Former models have."
        )
    image = model.load(scene)
    module = cast(Any, model.module)
    head = module.panoptic_head
    decoder = list(head.transformer_decoder.layers)
    wrong = [number for number in layers if not 1 <= number <= len(decoder)]
    if wrong:
        raise BadArgument(f"There is no layer {wrong[0]}: the decoder has layers 1 to {len(decoder)}.")
    wanted = sorted(set(layers)) or list(range(1, len(decoder) + 1))

    inputs, samples = preprocessed(module, [image])
    frame = frame_of(samples[0].metainfo)
    with _Listening(head, decoder) as heard, model.numerics():
        classes, masks = head(module.extract_feat(inputs), samples)
    scores, labels = classes[-1][0].float().softmax(dim=-1).max(dim=-1)
    chosen = _choose(model, scores, labels, queries, category, most)

    # Mask2Former predicts once before the first layer; MaskFormer only after each.
    first = len(masks) - len(decoder)
    found: list[AttendedQuery] = []
    for query in chosen:
        looked = []
        for number in wanted:
            weights, blocked, (h, w) = heard.of_layer(number - 1)
            mask = upsample(masks[first + number - 1][0, [query]].float(), frame)[0] >= 0
            smooth, allowed = _at_photo(weights[query].reshape(h, w).float(), frame), None
            if blocked is not None:
                allowed = _at_photo((~blocked[query]).reshape(h, w).float(), frame, nearest=True) > 0.5
                # Interpolation would let attention seep to where there is none.
                smooth = np.where(allowed, smooth, np.float32(0))
            looked.append(AttendedLayer(number, smooth, allowed, mask.cpu().numpy()))
        label = int(labels[query])
        name = model.class_names[label] if label < len(model.class_names) else "nothing"
        found.append(AttendedQuery(query, name, float(scores[query]), tuple(looked)))
    return tuple(found)


class _Listening:
    """Keeps what the decoder's cross-attentions see and give while it is entered."""

    def __init__(self, head: Any, decoder: Sequence[Any]) -> None:
        self._head, self._decoder = head, decoder
        self._heard: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._sizes: list[tuple[int, int]] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> "_Listening":
        def pixels(_: Any, __: Any, output: Any) -> None:
            memory = output[1]
            maps = memory if isinstance(memory, (list, tuple)) else [memory]
            self._sizes = [(int(each.shape[-2]), int(each.shape[-1])) for each in maps]

        def listen(number: int) -> Any:
            def hook(_: Any, __: Any, given: dict[str, Any], output: Any) -> None:
                if output[1] is not None:
                    self._heard[number] = (output[1][0], _blocked(given.get("attn_mask"), output[1].shape[1]))

            return hook

        self._hooks.append(self._head.pixel_decoder.register_forward_hook(pixels))
        for number, layer in enumerate(self._decoder):
            self._hooks.append(layer.cross_attn.attn.register_forward_hook(listen(number), with_kwargs=True))
        return self

    def __exit__(self, *raised: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def of_layer(self, number: int) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """(queries, h·w) weights, (queries, h·w) where looking was forbidden or None, and (h, w), of a layer from 0."""
        if number not in self._heard:
            raise BadModel("The model's attention keeps no weights. Load it with `load_model(…, speedups=False)`.")
        weights, blocked = self._heard[number]
        fitting = [size for size in self._levels(number) if size[0] * size[1] == weights.shape[-1]]
        if not fitting:
            raise BadModel(f"The decoder's layer {number + 1} looks at a feature map of unknown size.")
        return weights, blocked, fitting[0]

    def _levels(self, number: int) -> list[tuple[int, int]]:
        """The sizes of the feature maps, that of the layer's own level first."""
        turn = number % len(self._sizes)
        return [*self._sizes[turn:], *self._sizes[:turn]]


def _blocked(mask: Tensor | None, queries: int) -> Tensor | None:
    """(queries, pixels) bool of the first image's first head, from attention's mask; None where all may be seen."""
    if mask is None:
        return None
    single = mask if mask.dim() == 2 else mask[0]
    blocked = single if single.dtype == torch.bool else torch.isneginf(single)
    return blocked if blocked.shape[0] == queries else None


def _choose(
    model: HostedModel, scores: Tensor, labels: Tensor, queries: Sequence[int], category: str | None, most: int
) -> list[int]:
    if queries:
        beyond = [query for query in queries if not 0 <= query < len(scores)]
        if beyond:
            raise BadArgument(f"There is no query {beyond[0]}: the model has queries 0 to {len(scores) - 1}.")
        return list(dict.fromkeys(queries))
    threshold = float(getattr(model.rule, "score", 0.0))
    kept = (labels != len(model.class_names)) & (scores > threshold)
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


def _at_photo(values: Tensor, frame: Frame, nearest: bool = False) -> npt.NDArray[np.float32]:
    """(H, W) of the photograph from (h, w) of the padded input's extent."""
    mode = {"mode": "nearest"} if nearest else {"mode": "bilinear", "align_corners": False}
    padded = F.interpolate(values[None, None], size=frame.padded, **cast(Any, mode))[0, 0]
    inside = padded[: frame.resized[0], : frame.resized[1]].cpu().numpy().astype(np.float32)
    way = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cast("npt.NDArray[np.float32]", cv2.resize(inside, frame.original[::-1], interpolation=way))
