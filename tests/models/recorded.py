"""Small networks of random weights, and what their authors' code answered (tests/reference/other_models)."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from panbench.models import mask_dino
from panbench.models import panoptic_segformer as segformer
from scripts.make import tiny_networks

FOLDER = Path(__file__).parents[1] / "reference" / "other_models"
Recorded = dict[str, npt.NDArray[Any]]

MASK_DINO = mask_dino.NetworkLayout(
    backbone={"type": "ResNet", "depth": 18, "base_channels": 8},
    channels=(16, 24, 32, 40),
    feedforward=128,
    decoder_feedforward=128,
    encoder_layers=1,
    decoder_layers=2,
    queries=30,
)
SEGFORMER = segformer.NetworkLayout(**tiny_networks.SEGFORMER)


@cache
def recorded(name: str) -> Recorded:
    """The arrays of NAME.npz; parameters that upstream keeps under several names are stored once (`same`)."""
    with np.load(FOLDER / f"{name}.npz") as stored:
        arrays = dict(stored)
    for other, kept in arrays.pop("same", []):
        arrays[str(other)] = arrays[str(kept)]
    return arrays


def state_of(arrays: Recorded, prefix: str = "") -> dict[str, torch.Tensor]:
    """The recorded parameters under the authors' names."""
    return {
        prefix + name.removeprefix("state/"): torch.from_numpy(value)
        for name, value in arrays.items()
        if name.startswith("state/")
    }


def features_of(arrays: Recorded) -> list[torch.Tensor]:
    """The recorded feature maps from fine to coarse: what went into the network after its backbone."""
    names = [f"in_res{stage}" for stage in (2, 3, 4, 5)]
    if names[0] not in arrays:
        names = [f"neck_{level}" for level in range(4)]
    return [torch.from_numpy(arrays[name]) for name in names]


def segformer_of() -> segformer.PanopticSegFormer:
    """The recorded Panoptic SegFormer; its backbone was not recorded."""
    module = segformer.PanopticSegFormer(SEGFORMER).eval()
    misfit = module.load_state_dict(segformer.rename(state_of(recorded("panoptic_segformer")), SEGFORMER), strict=False)
    assert not misfit.unexpected_keys
    assert all(name.startswith("backbone.") for name in misfit.missing_keys)
    return module


def mask_dino_of() -> mask_dino.MaskDINOHead:
    """The recorded head of Mask DINO."""
    module = mask_dino.MaskDINOHead(MASK_DINO).eval()
    state = mask_dino.rename(state_of(recorded("mask_dino"), "sem_seg_head."), MASK_DINO)
    module.load_state_dict({name.removeprefix("head."): value for name, value in state.items()}, strict=True)
    return module


def same(ours: torch.Tensor, theirs: npt.NDArray[Any]) -> None:
    """Holds two arrays to 1e-4."""
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-4)
