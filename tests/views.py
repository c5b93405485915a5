"""What test-time augmentation promises of any family, whatever its weights."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from panbench.models.candidates import Candidates
from panbench.models.predict import scene_of


def check_views(model: Any, folder: Path, size: tuple[int, int] = (64, 96), scales: bool = True) -> None:
    """One view is the model, to the bit; what both views of an image say turns when the image is mirrored.

    size: (height, width) of the image, such that the network's cells divide it
    """
    AugmentedModel = pytest.importorskip("panbench.studies.ensembles.augmented_model").AugmentedModel
    parse_views = pytest.importorskip("panbench.studies.ensembles.views").parse_views
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8), (9, 9), 0)
    scenes = []
    for name, pixels in (("image", picture), ("mirrored", picture[:, ::-1])):
        cv2.imwrite(str(folder / f"{name}.png"), pixels)
        scenes.append(scene_of(folder / f"{name}.png", 1, *size))
    one_view = AugmentedModel(model, parse_views("none"))
    (plain,), (alone,) = (each.candidates([each.load(scenes[0])]) for each in (model, one_view))
    assert isinstance(plain, Candidates)
    assert torch.equal(plain.masks, alone.masks)
    assert np.array_equal(plain.gate, alone.gate)
    assert torch.equal(plain.weight, alone.weight)
    flipped = AugmentedModel(model, parse_views("flip"))
    one, other = (flipped.candidates([flipped.load(scene)])[0] for scene in scenes)
    np.testing.assert_allclose(np.sort(one.gate), np.sort(other.gate), atol=1e-5)
    width = one.masks.shape[-1] * one.frame.resized[1] // one.frame.padded[1]
    left, right = (torch.einsum("k,khw->hw", each.weight, each.masks)[:, :width] for each in (one, other))
    torch.testing.assert_close(left, right.flip(-1), atol=1e-3, rtol=1e-3)
    if scales:
        scaled = AugmentedModel(model, parse_views("flip,scales=0.5:1.5"))
        loaded = scaled.load(scenes[0])
        widths = [view.inputs.shape[-1] for view in loaded.sample]
        assert widths[1] < widths[0] < widths[2]
        (merged,) = scaled.candidates([loaded])
        # The finest grid of all views.
        assert merged.masks.shape[-1] > plain.masks.shape[-1]
        assert merged.frame.original == size
