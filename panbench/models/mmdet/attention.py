"""Reads the cross-attention of MaskFormer's and Mask2Former's decoder off a forward pass, for chosen queries.

The model itself is not changed: hooks listen to the attention modules while it runs as always.
"""

from typing import Any, cast

import torch

from panbench.base.errors import BadModel
from panbench.catalog import no_queries
from panbench.models.adapter import Placed
from panbench.models.attention import Attention, Call, Look, attended_queries, blocked_by, calls_of
from panbench.models.candidates import NO_LABEL
from panbench.models.mmdet.config import family_of
from panbench.models.mmdet.inputs import frame_of, preprocessed
from panbench.panoptic.attention import AttendedQuery
from panbench.panoptic.types import Scene

__all__ = ["attend"]


@torch.inference_mode()
def attend(model: Placed, scene: Scene, **wishes: Any) -> tuple[AttendedQuery, ...]:
    """Where chosen queries of a model attended in a photograph; wishes as in `models.attention.attended_queries`.

    model: loaded without speed-ups, which drop the weights and all masks but the last layer's
    Raises BadModel for a model without queries, BadArgument for queries, layers or categories that are not there.
    """
    if not family_of(model.module).has_queries:
        raise no_queries(model.spec.title)
    image = model.load(scene)
    module = cast(Any, model.module)
    head = module.panoptic_head
    decoder = list(head.transformer_decoder.layers)
    inputs, samples = preprocessed(module, [image])
    parts = {number: layer.cross_attn.attn for number, layer in enumerate(decoder)}
    with calls_of({**parts, "pixels": head.pixel_decoder}) as calls, model.numerics():
        classes, masks = head(module.extract_feat(inputs), samples)
    scores, labels = classes[-1][0].float().softmax(dim=-1).max(dim=-1)
    labels = torch.where(labels == classes[-1].shape[-1] - 1, NO_LABEL, labels)
    if any(calls[number][-1].output[1] is None for number in parts):
        raise BadModel("The model's attention keeps no weights. Load it with `load_model(…, speedups=False)`.")
    # Mask2Former predicts once before the first layer; MaskFormer only after each.
    first = len(masks) - len(decoder)
    sizes = _sizes_of(calls["pixels"][-1])
    layers = [_look(calls[number][-1], number, sizes, masks[first + number][0]) for number in parts]
    return attended_queries(model, Attention(scores, labels, layers, frame_of(samples[0].metainfo)), **wishes)


def _look(call: Call, number: int, sizes: list[tuple[int, int]], masks: torch.Tensor) -> Look:
    """What one layer, from 0, looked at."""
    weights = call.output[1][0]
    # The layer's own level first.
    turn = number % len(sizes)
    fitting = [size for size in [*sizes[turn:], *sizes[:turn]] if size[0] * size[1] == weights.shape[-1]]
    if not fitting:
        raise BadModel(f"The decoder's layer {number + 1} looks at a feature map of unknown size.")
    blocked = blocked_by(call.named.get("attn_mask"), len(weights))
    return Look(
        weights.reshape(len(weights), *fitting[0]),
        None if blocked is None else blocked.reshape(len(weights), *fitting[0]),
        masks,
    )


def _sizes_of(pixels: Call) -> list[tuple[int, int]]:
    memory = pixels.output[1]
    maps = memory if isinstance(memory, (list, tuple)) else [memory]
    return [(int(each.shape[-2]), int(each.shape[-1])) for each in maps]
