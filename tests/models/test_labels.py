"""Models and datasets of other categories are refused with the way to evaluate all the same."""

import pytest

from panbench.base.errors import BadModel
from panbench.datasets.convert import shipped_categories
from panbench.datasets.published import kitti_step_categories
from panbench.models.labels import match_categories


def test_a_cityscapes_model_on_kitti_step_gets_a_hint_on_the_shipped_map():
    own = shipped_categories("cityscapes")
    names, isthing = [category.name for category in own], [category.isthing for category in own]
    with pytest.raises(BadModel) as refused:
        match_categories("Mask2Former", names, isthing, kitti_step_categories())
    said = str(refused.value)
    assert "disagree on which categories are things: rider, truck, bus, train, motorcycle, bicycle." in said
    assert "`panbench eval --category-map cityscapes_to_kitti_step`" in said


def test_categories_that_no_shipped_map_fits_need_a_file():
    with pytest.raises(BadModel, match="`panbench eval --category-map FILE` evaluates through a list"):
        match_categories("Mask2Former", ["ball"], [True], kitti_step_categories())


def test_classes_must_list_things_before_stuff():
    own = kitti_step_categories()
    names = [category.name for category in own]
    with pytest.raises(BadModel, match=r"first 2 labels are its things: name its classes .*things first\."):
        match_categories("Mask2Former", names, [True, True] + [False] * (len(own) - 2), own)
