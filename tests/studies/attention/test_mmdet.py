import numpy as np
import pytest
import torch
from support import refusal

from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import find_model
from panbench.models.opening import open_model
from panbench.models.predict import model_categories, scene_of
from panbench.studies.attention.answer import attention_figure


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    import cv2

    path = tmp_path_factory.mktemp("photo") / "noise.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (70, 100, 3), np.uint8))
    return scene_of(path, 1, 70, 100)


@pytest.fixture(scope="module", params=["mask2former-tiny", "maskformer-tiny"])
def model(request):
    return open_model(find_model(request.param), weights="random", device="cpu", speedups=False)


def test_attention_is_within_the_mask_and_has_the_photographs_size(model, photo):
    found = model.attend(photo, queries=[3, 0])
    assert [query.query for query in found] == [3, 0]
    for query in found:
        assert [layer.number for layer in query.layers] == list(range(1, len(query.layers) + 1))
        for layer in query.layers:
            assert layer.weights.shape == layer.mask.shape == (70, 100)
            assert layer.weights.min() >= 0
            assert 0 < layer.weights.max() <= 1
            if layer.allowed is not None and not layer.allowed.all():
                # Interpolation bleeds over the border of a cell, no farther.
                assert layer.weights[layer.allowed].sum() > layer.weights[~layer.allowed].sum()
    masked = [layer.allowed is not None for query in found for layer in query.layers]
    assert all(masked) if model.describe().family == "mask2former" else not any(masked)


def test_recording_attention_changes_nothing_and_leaves_no_hooks(model, photo):
    hooks = sum(len(part._forward_hooks) for part in model.module.modules())
    before = model.candidates([model.load(photo)])
    model.attend(photo, queries=[0])
    after = model.candidates([model.load(photo)])
    assert np.array_equal(before[0].gate, after[0].gate)
    assert torch.equal(before[0].masks, after[0].masks)
    assert sum(len(part._forward_hooks) for part in model.module.modules()) == hooks


def test_the_mask_of_the_last_layer_is_the_models(model, photo):
    image = model.load(photo)
    classes, masks = None, None

    def keep(_, __, output):
        nonlocal classes, masks
        classes, masks = output

    hook = model.module.panoptic_head.register_forward_hook(keep)
    try:
        (query,) = model.attend(photo, queries=[2])
    finally:
        hook.remove()
    # The tiny models take images as they are, padded to a multiple of 32: one step of upsampling is left.
    height, width = image.sample.metainfo["img_shape"][:2]
    if (height, width) != (70, 100):
        pytest.skip("the config resizes this image")
    padded = tuple(image.inputs.shape[-2:])
    padded = tuple(-(-side // 32) * 32 for side in padded)
    logits = torch.nn.functional.interpolate(masks[-1][:, [2]], padded, mode="bilinear")[0, 0, :70, :100]
    assert (query.layers[-1].mask == (logits >= 0).numpy()).mean() > 0.999


def test_unknown_queries_layers_and_categories_are_refused(model, photo):
    assert "There is no layer 99" in refusal(BadArgument, model.attend, photo, queries=[0], layers=[99])
    assert "There is no query 5000" in refusal(BadArgument, model.attend, photo, queries=[5000])
    assert "no category 'unicorn'" in refusal(BadArgument, model.attend, photo, category="unicorn")


def test_the_figure_has_a_row_per_query_and_a_panel_per_layer(model, photo):
    found = model.attend(photo, queries=[0, 1], layers=[1, 2])
    figure = attention_figure(np.zeros((70, 100, 3), np.uint8), found)
    assert len(figure.axes) == 2 * 3
    assert figure.axes[0].get_title(loc="left").startswith("query 0: ")
    assert figure.axes[1].get_title(loc="left") == "layer 1"
    assert "no query to show" in refusal(BadArgument, attention_figure, np.zeros((70, 100, 3), np.uint8), [])


def test_a_model_without_queries_is_refused(photo):
    model = open_model(find_model("panoptic-fpn-tiny"), weights="random", device="cpu")
    assert "has no queries" in refusal(BadModel, model.attend, photo)


def test_a_model_with_speedups_refuses_to_record_attention(photo):
    model = open_model(find_model("mask2former-tiny"), weights="random", device="cpu")
    assert "keeps no weights" in refusal(BadModel, model.attend, photo, queries=[0])


def test_categories_have_the_ids_and_colours_of_their_data_set(model):
    categories = model_categories(model)
    assert [category.name for category in categories] == list(model.class_names)
    assert {category.name: category.id for category in categories}["star"] == 8
    assert categories[0].color is not None
