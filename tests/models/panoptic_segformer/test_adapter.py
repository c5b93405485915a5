import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from views import check_views

from panbench.catalog import find_model
from panbench.models.adapter import Adapter
from panbench.models.candidates import Candidates, Frame
from panbench.models.host import HostedModel
from panbench.models.opening import open_model
from panbench.models.panoptic_segformer import PanopticSegFormerAdapter, rename
from panbench.models.predict import predict, scene_of
from panbench.models.preprocess import Resize
from panbench.models.rules import fuse, parse_rule
from panbench.models.rules.resize import upsample
from panbench.runs import ModelRecord
from panbench.runs.definitions import current_definitions
from scripts.make.tiny_networks import SEGFORMER
from tests.models.recorded import features_of, recorded, state_of

RULE = parse_rule("mask-wise")
SPEC = dataclasses.replace(find_model("panoptic-segformer"), settings=SEGFORMER)
RECORDED = recorded("panoptic_segformer")


def test_views_of_an_image_are_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PanopticSegFormerAdapter, "resize", Resize(short=64, long=133, way="cv2"))
    check_views(open_model(SPEC, weights="random", device="cpu"), tmp_path)


def recorded_candidates(original: tuple[int, int]) -> Candidates:
    """What the recorded network says of the recorded image, were the image of this size before it was resized."""
    adapter = PanopticSegFormerAdapter(SPEC)
    module: Any = adapter.build().eval()
    module.load_state_dict(rename(state_of(RECORDED), adapter.layout), strict=False)
    resized = tuple(RECORDED["meta"][:2].tolist())
    # The record begins behind the backbone.
    module.forward = lambda pixels, sizes: module.transform(features_of(RECORDED), resized, sizes)
    with torch.inference_mode():
        (output,) = adapter.candidates(module, torch.zeros(1, 3, *resized), [Frame(resized, resized, original)])
    return output


def test_masks_are_resized_in_one_step_as_in_the_authors_code() -> None:
    """In two, over the resized image's size, some pixels of the map were another segment's."""
    differing = 0
    for original in ((112, 144), (101, 133), (150, 199), (97, 211)):
        output = recorded_candidates(original)
        masks = output.masks.float()
        authors = F.interpolate(masks[:, None], size=original, mode="bilinear", align_corners=False)[:, 0]
        assert torch.equal(upsample(masks, output.frame), authors)
        (ours,) = fuse([output], RULE)
        (theirs,) = fuse([dataclasses.replace(output, masks=authors, frame=Frame(original, original, original))], RULE)
        assert (RULE.to_segments(ours)[0] == RULE.to_segments(theirs)[0]).all()
        (before,) = fuse([dataclasses.replace(output, frame=dataclasses.replace(output.frame, one_step=False))], RULE)
        differing += int((RULE.to_segments(before)[0] != RULE.to_segments(theirs)[0]).sum())
    assert differing > 0


def test_one_step_resizing_leaves_padding_out() -> None:
    """A ramp of 4×4 cells over a padded image of 32×32, whose left 24 columns become 48 of the original."""
    ramp = torch.arange(4.0).repeat(4, 1)[None]
    frame = Frame((32, 32), (32, 24), (64, 48), one_step=True)
    found = upsample(ramp, frame)
    assert found.shape == (1, 64, 48)
    expected = ((torch.arange(48) + 0.5) / 16 - 0.5).clamp(min=0)
    torch.testing.assert_close(found[0], expected.expand(64, 48), rtol=0, atol=1e-6)


def test_runs_record_the_version_of_mask_resizing() -> None:
    record = ModelRecord(name="psf-r50-1x", family=find_model("psf-r50-1x").family)
    assert current_definitions(record, {}) == {"Panoptic SegFormer's masks": 1}
    assert current_definitions(ModelRecord(family="mask2former"), {}) == {}


def test_the_map_equals_the_authors() -> None:
    output = recorded_candidates(tuple(RECORDED["meta"][2:4].tolist()))
    ids, segments = RULE.to_segments(fuse([output], RULE)[0])
    categories = {category: label for label, category in enumerate(coco_ids())}
    theirs = RECORDED["category"].astype(int)
    expected = np.vectorize(lambda each: categories.get(each, -1))(theirs)
    ours = np.full(ids.shape, -1)
    for segment in segments:
        ours[ids == segment.id] = segment.label
    assert (ours == expected).all()
    # Things of one category are told apart in the same way.
    pairs = {
        (int(a), int(b)) for a, b in zip(ids.ravel(), theirs.ravel() * 1000 + RECORDED["instance"].ravel(), strict=True)
    }
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) > 2


def test_boxes_of_pairs_equal_the_authors_code() -> None:
    output = recorded_candidates(tuple(RECORDED["meta"][2:4].tolist()))
    things = sum(output.isthing)
    assert output.boxes is not None
    assert output.boxes.shape == (len(output.labels), 4)
    assert not output.boxes[output.labels >= things].any(), "stuff is no instance and has no box"
    ours = [
        (int(label), *box) for label, box in zip(output.labels, output.boxes.tolist(), strict=True) if label < things
    ]
    theirs = [
        (int(label), *map(float, box[:4]))
        for label, box in zip(RECORDED["thing_labels"], RECORDED["thing_boxes"], strict=True)
    ]
    # Theirs are in the order of the final score, which the merging makes; each is one of ours with its label.
    np.testing.assert_allclose(sorted(ours), sorted(theirs), atol=1e-3)


def coco_ids() -> list[int]:
    from panbench.datasets.convert import shipped_categories

    ordered = sorted(shipped_categories("coco"), key=lambda category: (not category.isthing, category.id))
    return [category.id for category in ordered]


def test_a_small_model_runs_from_image_to_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PanopticSegFormerAdapter, "resize", Resize(short=80, long=133))
    model = open_model(SPEC, weights="random", device="cpu")
    assert isinstance(model, HostedModel)
    assert str(model.rule) == "mask-wise"
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8))
    loaded = model.load(scene_of(path, 1, 40, 48))
    assert loaded.inputs.shape == (3, 80, 96)
    (found,) = model.candidates([loaded])
    assert isinstance(found, Candidates)
    assert (len(found.labels), found.activation, found.masks.min().item() >= 0) == (153, "identity", True)
    assert predict(model, scene_of(path, 1, 40, 48), range(133)).ids.shape == (40, 48)
    (attended,) = model.attend(scene_of(path, 1, 40, 48), queries=[5])
    assert [layer.weights.shape for layer in attended.layers] == [(40, 48)] * 2
    # The decoder gives no masks; the mask head after it does.
    assert attended.layers[0].mask is None
    assert attended.layers[1].mask is not None


def test_mask_quality_settings_depend_on_the_backbone() -> None:
    def rule_of(name: str) -> str:
        adapter: Adapter = PanopticSegFormerAdapter(find_model(name))
        return str(adapter.rule)

    assert rule_of("psf-r50-1x") == rule_of("psf-r101") == "mask-wise"
    assert rule_of("psf-pvtv2-b5") == rule_of("psf-swin-l") == "mask-wise:quality=0.3"
