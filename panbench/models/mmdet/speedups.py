"""Makes mmdet's modules faster at inference, with the same outputs except for rounding.

For training, mmdet's modules compute the masks of every decoder layer for losses, keep batch norm separate, and average
unused attention weights. `speed_up` removes that from a built model, in place.
docs/inference_speed.md has what each step gains; tests/models/mmdet/test_speedups.py holds the maps against mmdet's.
"""

import functools
import itertools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from panbench.models.mmdet import deformable, pixel_decoder, swin


def speed_up(module: nn.Module, device: torch.device, of_family: Callable[[Any, torch.device], None]) -> nn.Module:
    """Makes an mmdet model faster, in place, and returns it; it can no longer be trained.

    module: an mmdet model in eval mode with its weights loaded; device: where it runs
    of_family: the family's further changes
    """
    module.requires_grad_(False)
    fold_batch_norm(module)
    drop_attention_averages(module)
    of_family(module, device)
    if device.type == "cpu":
        for part in module.modules():
            if (type(part).__module__, type(part).__name__) == ("mmdet.models.backbones.swin", "SwinTransformer"):
                swin.speed_up(part)
    if device.type in ("cpu", "cuda"):
        # oneDNN and cuDNN's tensor cores use channels-last; other layouts are copied around each convolution.
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def speed_up_mmdet_parts(module: nn.Module, device: torch.device) -> nn.Module:
    """Makes mmdet's modules faster, in place, in a network that is partly mmdet's (Mask DINO); returns it.

    Folds batch norm, fuses attention, gathers deformable attention, and runs feed-forward modules in blocks of keys.
    """
    deformable.speed_up(module)
    part: Any
    for part in module.modules():
        if type(part).__name__ == "FFN":
            part.forward = types.MethodType(pixel_decoder.feed_forward, part)
    return speed_up(module, device, lambda _module, _device: None)


def fold_batch_norm(module: nn.Module) -> int:
    """Folds the batch norm of mmdet's ResNets into the preceding convolutions; returns how many were folded."""
    from mmdet.models.backbones import ResNet
    from mmdet.models.backbones.resnet import BasicBlock, Bottleneck

    folded = 0
    for part in list(module.modules()):
        if isinstance(part, (ResNet, BasicBlock, Bottleneck)):
            for number in (1, 2, 3):
                folded += _fold_norm_into_convolution(part, f"conv{number}", getattr(part, f"norm{number}_name", ""))
        downsample = getattr(part, "downsample", None)
        if isinstance(part, (BasicBlock, Bottleneck)) and isinstance(downsample, nn.Sequential):
            names = list(downsample._modules)
            for convolution, norm in itertools.pairwise(names):
                folded += _fold_norm_into_convolution(downsample, convolution, norm)
    return folded


def _fold_norm_into_convolution(parent: nn.Module, convolution_name: str, norm_name: str) -> bool:
    """Folds a batch norm into the convolution before it, in place; returns False for kinds that cannot be folded."""
    convolution, norm = getattr(parent, convolution_name, None), getattr(parent, norm_name, None) if norm_name else None
    # Other kinds (deformable convolutions, synchronised or group norm) cannot be folded.
    if not isinstance(convolution, nn.Conv2d) or type(norm) is not nn.BatchNorm2d or norm.running_var is None:
        return False
    setattr(parent, convolution_name, fuse_conv_bn_eval(convolution.eval(), norm.eval()))
    setattr(parent, norm_name, nn.Identity())
    return True


def drop_attention_averages(module: nn.Module) -> None:
    """Makes attention return no weights, so that PyTorch uses fused kernels and takes no mean over heads."""
    part: Any
    for part in module.modules():
        if isinstance(part, nn.MultiheadAttention):
            part.forward = functools.partial(part.forward, need_weights=False)  # type: ignore[method-assign]


def semantic_logits(head: Any, features: Sequence[Tensor]) -> dict[str, Tensor]:
    """Replaces the forward of mmdet's PanopticFPNHead; returns the semantic logits `seg_preds`.

    The logits are (B, stuff classes + 1, h, w), of the sum of all levels.

    mmdet stacks the levels in one tensor and sums over it, which takes three passes over memory.
    [Kirillov et al. 2019, fig. 3]
    """
    total: Tensor | None = None
    for layer, level in zip(head.conv_upsample_layers, features[head.start_level : head.end_level], strict=True):
        found = layer(level)
        total = found if total is None else total.add_(found)
    return {"seg_preds": head.conv_logits(total)}


def last_layer_of_mask2former(head: Any, features: Sequence[Tensor], samples: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Replaces the forward of Mask2Former's head; returns class and mask logits of the last decoder layer only.

    Both are lists of one tensor: (B, Q, classes + 1) and (B, Q, h, w).

    A layer's attention is masked where the previous layer's masks are negative, at the resolution of its level.
    Resizing is linear, so the mask features are resized once instead of every layer's masks.
    [Cheng et al. 2022, sec. 3.2]
    """
    mask_features, memories = head.pixel_decoder(features)
    levels = head.num_transformer_feat_level
    keys, positions, small_features = [], [], []
    for level in range(levels):
        memory = memories[level]
        key = head.decoder_input_projs[level](memory).flatten(2).transpose(1, 2)
        keys.append(key + head.level_embed.weight[level])
        nowhere = memory.new_zeros((len(memory), *memory.shape[-2:]), dtype=torch.bool)
        positions.append(head.decoder_positional_encoding(nowhere).flatten(2).transpose(1, 2))
        small = F.interpolate(mask_features, memory.shape[-2:], mode="bilinear", align_corners=False)
        small_features.append(small.flatten(2))
    batch = len(mask_features)
    queries = head.query_feat.weight.expand(batch, -1, -1)
    query_positions = head.query_embed.weight.expand(batch, -1, -1)
    for number, layer in enumerate(head.transformer_decoder.layers):
        level = number % levels
        embedding = head.mask_embed(head.transformer_decoder.post_norm(queries))
        outside = torch.bmm(embedding, small_features[level]).sigmoid() < 0.5
        # A fully masked query attends everywhere.
        outside &= ~outside.all(dim=-1, keepdim=True)
        queries = layer(
            query=queries,
            key=keys[level],
            value=keys[level],
            query_pos=query_positions,
            key_pos=positions[level],
            cross_attn_mask=outside[:, None].expand(-1, head.num_heads, -1, -1).flatten(0, 1),
            query_key_padding_mask=None,
            key_padding_mask=None,
        )
    queries = head.transformer_decoder.post_norm(queries)
    masks = torch.einsum("bqc,bchw->bqhw", head.mask_embed(queries), mask_features)
    return [head.cls_embed(queries)], [masks]
