"""What the queries of transformers' families look at."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import refusal

from panbench.base.errors import BadArgument
from panbench.datasets import shapes
from panbench.models.candidates import Candidates
from panbench.models.host import HostedModel
from panbench.models.opening import open_model
from panbench.models.predict import scene_of
from panbench.models.rules.resize import upsample
from panbench.panoptic.types import Scene
from panbench.studies.attention.answer import attention_figure
from tests.models.transformers.test_adapter import BUILDERS, opened, saved

MASKED = ("mask2former", "oneformer", "eomt", "eomt_dinov3")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    path = tmp_path_factory.mktemp("photo") / "scene.png"
    assert cv2.imwrite(str(path), shapes.make_scene(0, size=(56, 64)).image[..., ::-1])
    return scene_of(path, 1, 56, 64)


@pytest.fixture(scope="module", params=BUILDERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HostedModel:
    config = BUILDERS[request.param]()
    if hasattr(config, "decoder_layers"):
        config.decoder_layers = 4
    folder = saved(config, tmp_path_factory.mktemp("models") / request.param)
    return opened(folder, sizes={"short": None})


def test_every_layer_has_attention_of_the_photographs_size(model: HostedModel, photo: Scene) -> None:
    family = model.adapter.family
    found = model.attend(photo, queries=[3, 0])
    assert [query.query for query in found] == [3, 0]
    counts = {"mask2former": 3, "oneformer": 3, "maskformer": 1, "detr": 4, "eomt": 2, "eomt_dinov3": 2}
    for query in found:
        assert [layer.number for layer in query.layers] == list(range(1, counts[str(family)] + 1))
        for layer in query.layers:
            assert layer.weights.shape == (56, 64)
            assert 0 <= layer.weights.min() < layer.weights.max() <= 1
            assert (layer.allowed is not None) == (family in MASKED)
            if layer.allowed is not None:
                assert (layer.weights[~layer.allowed] == 0).all()
        masks = [layer.mask is not None for layer in query.layers]
        assert masks[-1]
        assert all(masks) or family in ("maskformer", "detr")


def test_the_last_mask_and_score_are_the_models(model: HostedModel, photo: Scene) -> None:
    (query,) = model.attend(photo, queries=[2])
    (found,) = model.candidates([model.load(photo)])
    assert isinstance(found, Candidates)
    expected = (upsample(found.masks[[2]].float(), found.frame)[0] >= 0).numpy()
    # Attention as matrix products rounds otherwise than PyTorch's fused kernel.
    assert (query.layers[-1].mask == expected).mean() > 0.999
    assert query.score == pytest.approx(float(found.gate[2]), abs=1e-5)
    label = int(found.labels[2])
    assert query.category == (model.class_names[label] if label >= 0 else "nothing")


def test_recording_attention_changes_nothing(model: HostedModel, photo: Scene) -> None:
    def hooks() -> int:
        return sum(len(part._forward_hooks) for part in model.module.modules())

    had, implementation = hooks(), model.module.config._attn_implementation
    (before,) = model.candidates([model.load(photo)])
    model.attend(photo, queries=[0])
    (after,) = model.candidates([model.load(photo)])
    assert isinstance(before, Candidates)
    assert isinstance(after, Candidates)
    assert torch.equal(before.masks, after.masks)
    assert (hooks(), model.module.config._attn_implementation) == (had, implementation)


def test_unknown_queries_and_layers_are_refused(model: HostedModel, photo: Scene) -> None:
    assert "There is no layer 99" in refusal(BadArgument, model.attend, photo, queries=[0], layers=[99])
    assert "There is no query 5000" in refusal(BadArgument, model.attend, photo, queries=[5000])


@pytest.mark.parametrize("name", ["oneformer-tiny", "eomt-tiny"])
def test_trained_queries_attend_to_their_objects(name: str, tmp_path: Path) -> None:
    from panbench.catalog import find_model

    trained = open_model(find_model(name), device="cpu", speedups=False)
    assert isinstance(trained, HostedModel)
    drawn = shapes.make_scene(3)
    path = tmp_path / "scene.png"
    assert cv2.imwrite(str(path), drawn.image[..., ::-1])
    scene = scene_of(path, 1, *drawn.image.shape[:2])
    found = trained.attend(scene, most=3)
    assert len(found) == 3
    for query in found:
        assert query.score > 0.8
        assert query.category in trained.class_names
        last = query.layers[-1]
        assert last.mask is not None
        # Of equal areas, more attention lies on the mask than beside it.
        assert last.weights[last.mask].mean() > last.weights[~last.mask].mean()
    figure = attention_figure(drawn.image, found)
    assert len(figure.axes) == 3 * (1 + len(found[0].layers))


def test_the_figure_draws_a_layer_without_masks(model: HostedModel, photo: Scene) -> None:
    found = model.attend(photo, queries=[0])
    figure = attention_figure(np.zeros((56, 64, 3), np.uint8), found)
    assert len(figure.axes) == 1 + len(found[0].layers)
