import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from panbench.datasets import shapes
from panbench.models.predict import scene_of
from panbench.models.rules import fuse
from panbench.models.rules.detr import DETR
from panbench.models.transformers import speedups
from scripts.make import tiny_networks

BATCH, QUERIES, HEADS, WIDTH = 2, 7, 8, 32


@pytest.fixture(scope="module")
def head() -> Any:
    return tiny_networks.open_tiny("detr-of-transformers", speedups=False).module.mask_head


@pytest.fixture(scope="module")
def maps() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Features, attention, and the backbone's maps from coarse to fine, with sides that do not double exactly."""
    random = torch.Generator().manual_seed(0)
    features = torch.randn(BATCH, WIDTH, 3, 5, generator=random)
    attention = torch.rand(BATCH, QUERIES, HEADS, 3, 5, generator=random)
    fine = [
        torch.randn(BATCH, channels, *size, generator=random)
        for channels, size in ((16, (5, 9)), (16, (9, 18)), (8, (18, 35)))
    ]
    return features, attention, fine


@pytest.mark.parametrize("at_once", [1, 3, QUERIES, 100])
def test_the_mask_head_in_blocks_equals_transformers(at_once, head, maps, monkeypatch) -> None:
    monkeypatch.setattr(speedups, "queries_at_once", lambda maps: at_once)
    with torch.inference_mode():
        expected, found = head(*maps), speedups.mask_logits(head, *maps)
    assert found.shape == expected.shape == (BATCH * QUERIES, 1, 18, 35)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_channels_last_changes_no_more_than_rounding(head: Any, maps: Any) -> None:
    last = copy.deepcopy(head).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        torch.testing.assert_close(speedups.mask_logits(last, *maps), head(*maps), rtol=0, atol=2e-5)


def test_a_block_is_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    finest = torch.zeros(2, 32, 200, 267)  # DETR at 800×1067: 6.8 MB a query
    coarser = [torch.zeros(2, 128, 50, 67), torch.zeros(2, 64, 100, 134), finest]
    whole = speedups.LIVE * finest[0].numel() * 4
    monkeypatch.setitem(speedups.BYTES_AT_ONCE, "cpu", 10 * whole)
    assert speedups.queries_at_once(coarser) == 10
    monkeypatch.setitem(speedups.BYTES_AT_ONCE, "cpu", 1)
    assert speedups.queries_at_once(coarser) == 1


def test_maps_equal_those_of_transformers_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images in a batch, a query a block: 0 pixels differ."""
    monkeypatch.setitem(speedups.BYTES_AT_ONCE, "cpu", 1)
    plain, fast = (tiny_networks.open_tiny("detr-of-transformers", speedups=speedups) for speedups in (False, True))
    # Untrained queries would all look at the same places and say "nothing".
    attention = torch.randn(2, QUERIES, HEADS, 3, 4, generator=torch.Generator().manual_seed(0))
    for model in (plain, fast):
        monkeypatch.setattr(model.module.bbox_attention, "forward", lambda *_, **__: attention)
        with torch.inference_mode():
            model.module.detr.class_labels_classifier.bias[0] = 100  # a thing
    batch = []
    for index in range(2):
        drawn = shapes.make_scene(index, size=(72, 104)).image
        batch.append(plain.load_pixels(scene_of(Path("drawn.png"), index, 72, 104), drawn))
    rule = DETR(score=0.0, small=0)
    expected, found = (
        [rule.to_segments(fused)[0] for fused in fuse(model.candidates(batch), rule)] for model in (plain, fast)
    )
    assert all(len(np.unique(ids)) > 2 for ids in expected)
    for one, other in zip(expected, found, strict=True):
        assert (one == other).all()
