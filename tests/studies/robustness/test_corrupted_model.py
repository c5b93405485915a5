"""A corrupted image reaches any model in memory, as it would have from a lossless file; no file is written."""

import dataclasses
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import drawn

from panbench.base.errors import BadModel
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.models.functions import FunctionModel
from panbench.models.host import HostedModel
from panbench.models.model import Model
from panbench.models.opening import open_model
from panbench.models.predict import prediction_of
from panbench.models.preprocess import read_photograph
from panbench.models.rules import fuse
from panbench.panoptic.types import Scene
from panbench.studies.robustness.corrupted_runs import CorruptedModel
from panbench.studies.robustness.corruptions import Corruption, corrupt

FOG = Corruption("fog", 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(drawn(tmp_path_factory, 3))


def through_a_file(scene: Scene, folder: Path) -> Scene:
    """The scene with its corrupted image as a PNG, which is how models were shown it once."""
    rgb = corrupt(read_photograph(scene)[0], FOG, scene.image.id)
    path = folder / f"{scene.image.id}.png"
    cv2.imwrite(str(path), rgb[..., ::-1])
    return dataclasses.replace(scene, image_path=path)


def model_of(name: str) -> Model:
    if name == "function":
        spec = dataclasses.replace(find_model("mask2former-tiny"), adapter="mine:segment")
        return FunctionModel(spec, lambda rgb: (np.zeros(rgb.shape[:2], np.int32), []))
    return open_model(find_model(name), weights="random", device="cpu")


@pytest.mark.parametrize("name", ["mask2former-tiny", "panoptic-fpn-tiny", "eomt-tiny", "oneformer-tiny", "function"])
def test_corrupted_pixels_in_memory_equal_a_lossless_file(name, dataset, tmp_path):
    model = model_of(name)
    corrupted = CorruptedModel(model, FOG)
    for scene in dataset.scenes:
        shown = corrupted.load(scene)
        expected = model.load(through_a_file(scene, tmp_path))
        assert torch.equal(shown.inputs, expected.inputs)
        assert not torch.equal(shown.inputs, model.load(scene).inputs)
        assert shown.scene == scene
        assert shown.facts == model.load(scene).facts


def test_maps_of_corrupted_pixels_equal_those_of_the_file(dataset, tmp_path):
    model = model_of("mask2former-tiny")
    ids = model.category_ids(dataset.categories)
    loaded = [CorruptedModel(model, FOG).load(scene) for scene in dataset.scenes]
    from_files = [model.load(through_a_file(scene, tmp_path)) for scene in dataset.scenes]
    maps = []
    for batch in (loaded, from_files):
        fused = fuse(model.candidates(batch), model.rule)
        maps.append([prediction_of(1, model.rule.to_segments(each), ids) for each in fused])
    for one, other in zip(*maps, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert one.segments == other.segments


def test_corrupting_writes_no_file(dataset, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a temporary file")

    model = CorruptedModel(model_of("mask2former-tiny"), FOG)
    monkeypatch.setattr(tempfile, "mkstemp", refused)
    monkeypatch.setattr(cv2, "imwrite", refused)
    model.load(dataset.scenes[0])


def test_scaled_and_mirrored_views_use_the_corrupted_pixels(dataset, tmp_path):
    augmented = pytest.importorskip("panbench.studies.ensembles.augmented_model")
    views = pytest.importorskip("panbench.studies.ensembles.views")
    model = augmented.AugmentedModel(model_of("mask2former-tiny"), views.parse_views("scales=0.5"))
    scene = dataset.scenes[0]
    shown = CorruptedModel(model, FOG).load(scene)
    expected = model.load(through_a_file(scene, tmp_path))
    for one, other in zip(shown.sample, expected.sample, strict=True):
        assert torch.equal(one.inputs, other.inputs)


def test_an_adapter_that_reads_files_itself_is_refused(dataset):
    model = model_of("eomt-tiny")
    assert isinstance(model, HostedModel)

    class Own(type(model.adapter)):  # type: ignore[misc]
        def read(self, scene):
            return super().read(scene)

    model.adapter.__class__ = Own
    with pytest.raises(BadModel, match=r"reads images from files only.*read_pixels"):
        CorruptedModel(model, FOG).load(dataset.scenes[0])
