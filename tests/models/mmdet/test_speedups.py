"""mmdet's own modules, as they come, are the reference: the faster ones must give the same outputs and maps."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn

from panbench.catalog import find_model
from panbench.models.checkpoints import apply_checkpoint, load_checkpoint
from panbench.models.mmdet import config as configs
from panbench.models.mmdet import operators, pixel_decoder, speedups
from panbench.weights import fetch_weights

operators.install()

TINY = ("mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny")
CPU = torch.device("cpu")


def trained(name: str) -> nn.Module:
    """A tiny model of mmdet with its weights, which a test may change."""
    return copy.deepcopy(_trained(name))


@functools.cache
def _trained(name: str) -> nn.Module:
    spec = find_model(name)
    module = configs.build_model(configs.load_config(spec))
    apply_checkpoint(module, load_checkpoint(fetch_weights(spec)))
    return module


def image(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def sample(height: int = 64, width: int = 96):
    from mmdet.structures import DetDataSample

    size = (height, width)
    return DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0), "img_id": 1})


@torch.no_grad()
def mmdet_map(module: nn.Module) -> np.ndarray:
    (found,) = module.test_step({"inputs": [image()], "data_samples": [sample()]})
    return found.pred_panoptic_seg.sem_seg[0].numpy().copy()


@pytest.mark.parametrize("name", TINY)
def test_maps_equal_those_of_mmdets_own_modules(name):
    plain = trained(name)
    expected = mmdet_map(plain)
    faster = speedups.speed_up(copy.deepcopy(plain), CPU, configs.family_of(plain).speed_up)
    assert len(np.unique(expected)) > 1, "a map of one segment would prove nothing"
    assert np.mean(mmdet_map(faster) == expected) >= 0.9999


@pytest.mark.parametrize("name", ["mask2former-tiny", "maskformer-tiny"])
def test_the_last_layers_logits_equal_mmdets_head(name):
    plain = trained(name)
    faster = speedups.speed_up(copy.deepcopy(plain), CPU, configs.family_of(plain).speed_up)
    prepared = plain.data_preprocessor({"inputs": [image()] * 2, "data_samples": [sample(), sample()]}, False)
    inputs, samples = prepared["inputs"], prepared["data_samples"]
    with torch.no_grad():
        expected_classes, expected_masks = plain.panoptic_head(plain.extract_feat(inputs), samples)
        classes, masks = faster.panoptic_head(faster.extract_feat(inputs), samples)
    assert len(classes) == len(masks) == 1
    assert len(expected_masks) > 1
    torch.testing.assert_close(classes[-1], expected_classes[-1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(masks[-1], expected_masks[-1], rtol=1e-3, atol=1e-2)


def test_all_batch_norms_of_a_resnet_are_folded():
    plain = trained("mask2former-tiny")
    before = sum(isinstance(part, nn.BatchNorm2d) for part in plain.modules())
    folded = speedups.fold_batch_norm(plain)
    assert folded == before > 0
    assert not any(isinstance(part, nn.BatchNorm2d) for part in plain.modules())


def test_folding_keeps_the_backbones_features():
    plain = trained("panoptic-fpn-tiny").backbone
    folded = copy.deepcopy(plain)
    speedups.fold_batch_norm(folded)
    pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for expected, found in zip(plain(pixels), folded(pixels), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_swins_features_equal_mmdets_with_shifted_and_padded_windows():
    from mmdet.models.backbones import SwinTransformer

    torch.manual_seed(0)
    plain = SwinTransformer(embed_dims=24, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24), out_indices=(0, 1, 2, 3))
    plain.eval()  # which returns None
    for part in plain.modules():
        if hasattr(part, "relative_position_bias_table"):
            part.relative_position_bias_table.normal_()
    faster = speedups.speed_up(copy.deepcopy(plain), CPU, lambda _module, _device: None)
    pixels = torch.randn(2, 3, 100, 130)
    for found, expected in zip(faster(pixels), plain(pixels), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_group_norm_and_other_modules_are_not_changed():
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    assert speedups.fold_batch_norm(block) == 0
    assert isinstance(block[3], nn.BatchNorm2d)


@torch.no_grad()
def test_the_semantic_head_equals_mmdets():
    plain = trained("panoptic-fpn-tiny")
    levels = plain.extract_feat(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))
    expected = plain.semantic_head(levels)["seg_preds"]
    found = speedups.semantic_logits(plain.semantic_head, levels)["seg_preds"]
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("with_identity", [False, True])
def test_feeding_keys_in_blocks_gives_the_same_result(monkeypatch, with_identity):
    part = trained("mask2former-tiny").panoptic_head.pixel_decoder.encoder.layers[0].ffn
    keys = torch.randn(2, 50, part.embed_dims, generator=torch.Generator().manual_seed(1))
    identity = keys * 2 if with_identity else None
    monkeypatch.setattr(pixel_decoder, "KEYS_AT_ONCE", 16)
    assert torch.allclose(pixel_decoder.feed_forward(part, keys, identity), part(keys, identity), atol=1e-6)
