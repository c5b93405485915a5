import numpy as np
import pytest
import torch

from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import find_model
from panbench.models.mmdet.attention import attend
from panbench.models.opening import open_model
from panbench.models.predict import model_categories, scene_of
from panbench.studies.attention.figure import attention_figure


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    import cv2

    path = tmp_path_factory.mktemp("photo") / "noise.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (70, 100, 3), np.uint8))
    return scene_of(path, 1, 70, 100)


@pytest.fixture(scope="module", params=["mask2former-tiny", "maskformer-tiny"])
def model(request):
    return open_model(find_model(request.param), weights="random", device="cpu", speedups=False)


def test_weights_lie_where_the_query_may_look_and_have_the_size_of_the_photograph(model, photo):
    found = attend(model, photo, queries=[3, 0])
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


def test_listening_changes_nothing_and_leaves_no_hooks(model, photo):
    hooks = sum(len(part._forward_hooks) for part in model.module.modules())
    before = model.candidates([model.load(photo)])
    attend(model, photo, queries=[0])
    after = model.candidates([model.load(photo)])
    assert np.array_equal(before[0].gate, after[0].gate)
    assert torch.equal(before[0].masks, after[0].masks)
    assert sum(len(part._forward_hooks) for part in model.module.modules()) == hooks


def test_the_last_mask_is_the_one_that_the_model_gives(model, photo):
    image = model.load(photo)
    classes, masks = None, None

    def keep(_, __, output):
        nonlocal classes, masks
        classes, masks = output

    hook = model.module.panoptic_head.register_forward_hook(keep)
    try:
        (query,) = attend(model, photo, queries=[2])
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


def test_queries_layers_and_categories_that_are_not_there_are_refused(model, photo):
    with pytest.raises(BadArgument, match="There is no layer 99"):
        attend(model, photo, queries=[0], layers=[99])
    with pytest.raises(BadArgument, match="There is no query 5000"):
        attend(model, photo, queries=[5000])
    with pytest.raises(BadArgument, match="no category 'unicorn'"):
        attend(model, photo, category="unicorn")


def test_the_figure_has_a_row_a_query_and_a_panel_a_layer(model, photo):
    found = attend(model, photo, queries=[0, 1], layers=[1, 2])
    figure = attention_figure(np.zeros((70, 100, 3), np.uint8), found)
    assert len(figure.axes) == 2 * 3
    assert figure.axes[0].get_title(loc="left").startswith("query 0: ")
    assert figure.axes[1].get_title(loc="left") == "layer 1"
    with pytest.raises(BadArgument, match="no query to show"):
        attention_figure(np.zeros((70, 100, 3), np.uint8), [])


def test_a_model_without_queries_is_refused(photo):
    model = open_model(find_model("panoptic-fpn-tiny"), weights="random", device="cpu")
    with pytest.raises(BadModel, match="has no queries"):
        attend(model, photo)


def test_a_model_with_speedups_says_that_it_keeps_no_attention(photo):
    model = open_model(find_model("mask2former-tiny"), weights="random", device="cpu")
    with pytest.raises(BadModel, match="keeps no weights"):
        attend(model, photo, queries=[0])


def test_labels_get_the_ids_and_colours_of_the_set_that_they_are_from(model):
    categories = model_categories(model)
    assert [category.name for category in categories] == list(model.class_names)
    assert {category.name: category.id for category in categories}["star"] == 8
    assert categories[0].color is not None
