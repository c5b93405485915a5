from pathlib import Path

import numpy as np
import pytest
import torch

from panbench.datasets import shapes
from panbench.models.candidates import Candidates
from panbench.models.host import HostedModel
from panbench.models.predict import scene_of
from panbench.models.rules import fuse
from scripts.make import tiny_networks


def answer(model: HostedModel) -> list[Candidates]:
    """Of two images in a batch, with the same random numbers for all models."""
    drawn = [shapes.make_scene(index, size=(64, 48)).image for index in range(2)]
    batch = [model.load_pixels(scene_of(Path("drawn.png"), index, 64, 48), rgb) for index, rgb in enumerate(drawn)]
    torch.manual_seed(1)
    return list(model.candidates(batch))  # type: ignore[arg-type]


@pytest.mark.parametrize("gated", [False, True], ids=["mlp", "swiglu"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_masked_attention_equals_transformers(share: float, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """share: of the queries whose attention is masked, in each block."""
    monkeypatch.setitem(tiny_networks.SPECS["eomt-of-transformers"].settings["network"], "use_swiglu_ffn", gated)
    plain, fast = (tiny_networks.open_tiny("eomt-of-transformers", speedups=speedups) for speedups in (False, True))
    assert hasattr(plain.module.layers[0].mlp, "down_proj") == gated
    scale = torch.rand(32, generator=torch.Generator().manual_seed(0)) + 0.5
    for module in (plain.module, fast.module):
        module.attn_mask_probs.fill_(share)
    # They are ones in an untrained network.
    with torch.no_grad():
        for layer in (*plain.module.layers, *fast.module.layers):
            layer.layer_scale1.lambda1.mul_(scale)
    rule = plain.rule.__class__(score=0.0)  # type: ignore[call-arg]
    for expected, found in zip(answer(plain), answer(fast), strict=True):
        assert expected.masks.std() > 0.01
        torch.testing.assert_close(found.masks, expected.masks, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.weight, expected.weight, rtol=0, atol=1e-5)
        (one,), (other,) = fuse([expected], rule), fuse([found], rule)
        assert np.array_equal(rule.to_segments(one)[0], rule.to_segments(other)[0])


def test_masks_change_what_queries_see() -> None:
    """Else the test above could not fail."""
    masked, open_ = (tiny_networks.open_tiny("eomt-of-transformers") for _ in range(2))
    open_.module.attn_mask_probs.fill_(0.0)
    assert (answer(masked)[0].masks - answer(open_)[0].masks).abs().max() > 1e-4
