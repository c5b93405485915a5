"""A corrupted image reaches any model in memory, as it would have from a lossless file; no file is written."""

import dataclasses
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from panbench.base.errors import BadModel
from panbench.catalog import find_model
from panbench.datasets import open_dataset, shapes
from panbench.models.functions import FunctionModel
from panbench.models.host import HostedModel
from panbench.models.model import Model
from panbench.models.opening import open_model
from panbench.models.predict import prediction_of
from panbench.models.preprocess import read_photograph
from panbench.models.rules import fuse
from panbench.panoptic.types import Scene
from panbench.studies.robustness.corrupted_model import CorruptedModel
from panbench.studies.robustness.corruptions import Corruption, corrupt

FOG = Corruption("fog", 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("scenes")
    shapes.generate(root, count=3, size=(64, 96))
    return open_dataset(root)


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
def test_a_model_sees_the_pixels_that_a_lossless_file_would_show(name, dataset, tmp_path):
    model = model_of(name)
    corrupted = CorruptedModel(model, FOG)
    for scene in dataset.scenes:
        shown = corrupted.load(scene)
        expected = model.load(through_a_file(scene, tmp_path))
        assert torch.equal(shown.inputs, expected.inputs)
        assert not torch.equal(shown.inputs, model.load(scene).inputs)
        assert shown.scene == scene
        assert shown.facts == model.load(scene).facts


def test_maps_are_those_of_the_file(dataset, tmp_path):
    model = model_of("mask2former-tiny")
    ids = model.category_ids(dataset.categories)
    loaded = [CorruptedModel(model, FOG).load(scene) for scene in dataset.scenes]
    from_files = [model.load(through_a_file(scene, tmp_path)) for scene in dataset.scenes]
    maps = []
    for batch in (loaded, from_files):
        fused = fuse(model.candidates(batch), model.rule)
        maps.append([prediction_of(1, model.rule.settle(each), ids) for each in fused])
    for one, other in zip(*maps, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert one.segments == other.segments


def test_no_file_is_written(dataset, monkeypatch):
    def refused(*_, **__):
        raise AssertionError("a temporary file")

    model = CorruptedModel(model_of("mask2former-tiny"), FOG)
    monkeypatch.setattr(tempfile, "mkstemp", refused)
    monkeypatch.setattr(cv2, "imwrite", refused)
    model.load(dataset.scenes[0])


def test_views_of_a_corrupted_image_are_views_of_its_pixels(dataset, tmp_path):
    augmented = pytest.importorskip("panbench.studies.ensembles.augmented_model")
    views = pytest.importorskip("panbench.studies.ensembles.views")
    model = augmented.AugmentedModel(model_of("mask2former-tiny"), views.parse_views("scales=0.5"))
    scene = dataset.scenes[0]
    shown = CorruptedModel(model, FOG).load(scene)
    expected = model.load(through_a_file(scene, tmp_path))
    for one, other in zip(shown.sample, expected.sample, strict=True):
        assert torch.equal(one.inputs, other.inputs)


def test_an_adapter_that_reads_files_by_itself_is_refused_and_never_shown_the_clean_image(dataset):
    model = model_of("eomt-tiny")
    assert isinstance(model, HostedModel)

    class Own(type(model.adapter)):  # type: ignore[misc]
        def read(self, scene):
            return super().read(scene)

    model.adapter.__class__ = Own
    with pytest.raises(BadModel, match=r"reads its images from files.*read_pixels"):
        CorruptedModel(model, FOG).load(dataset.scenes[0])
