import numpy as np
import pytest
import torch
from support import evaluated, refusal

from panbench.base.errors import BadArgument
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.models.candidates import Candidates, Frame, Instances
from panbench.models.opening import open_model
from panbench.models.preprocess import read_photograph
from panbench.models.rules import fuse
from panbench.report.answers.tables import comparison_rows
from panbench.studies.ensembles.augmented_model import AugmentedModel
from panbench.studies.ensembles.merging import flip, merge_outputs
from panbench.studies.ensembles.options import ViewOptions
from panbench.studies.ensembles.views import Views, parse_views
from panbench.studies.robustness.corrupted_runs import CorruptedModel
from panbench.studies.robustness.corruptions import Corruption, corrupt

MODELS = ("panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny", "oneformer-tiny", "eomt-tiny")


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return open_model(find_model(request.param))


@pytest.fixture(scope="module")
def scenes():
    return open_dataset("shapes", limit=4).scenes


def settled(model, scene):
    (fused,) = fuse(model.candidates([model.load(scene)]), model.rule)
    return model.rule.to_segments(fused)


def test_a_single_view_gives_the_models_own_map(model, scenes):
    for scene in scenes[:2]:
        ids, segments = settled(AugmentedModel(model, parse_views("none")), scene)
        expected_ids, expected_segments = settled(model, scene)
        assert np.array_equal(ids, expected_ids)
        assert segments == expected_segments


def test_merged_views_agree_with_the_image_on_most_pixels(model, scenes):
    # What a trained model sees mirrored and larger is the same scene: flipped or shifted masks would not agree.
    views = AugmentedModel(model, parse_views("flip" if model.spec.name == "eomt-tiny" else "flip,scales=1.25"))
    agreeing = []
    for scene in scenes:
        ids, segments = settled(views, scene)
        own_ids, own_segments = settled(model, scene)
        labels, own = (
            np.array([-1, *(segment.label for segment in each)])[one]
            for one, each in ((ids, segments), (own_ids, own_segments))
        )
        agreeing.append((labels == own).mean())
    assert np.mean(agreeing) > 0.9


def test_views_are_parsed_from_text():
    assert parse_views("flip,scales=0.75:1.25") == Views((1.0, 0.75, 1.25), True)
    assert parse_views("scales=1") == parse_views("none") == Views()
    assert str(parse_views("flip,scales=0.75")) == "flip,scales=1:0.75"
    assert len(parse_views("flip,scales=0.75:1.25")) == 6


@pytest.mark.parametrize("line", ["flop", "scales=big", "scales=0", "scales=50", "flip=1"])
def test_text_without_a_view_is_refused(line):
    assert "--tta" in refusal(BadArgument, parse_views, line)


def candidates(frame: Frame, masks: torch.Tensor, labels: list[int], gate: list[float]) -> Candidates:
    scores = np.array(gate, np.float32)
    return Candidates(np.array(labels), scores, torch.from_numpy(scores.copy()), masks, frame, (True, True, False))


FRAME = Frame((32, 48), (32, 40), (64, 80))


def blob(left: int, right: int, size: tuple[int, int] = (16, 24)) -> torch.Tensor:
    mask = torch.full(size, -6.0)
    mask[4:12, left:right] = 6.0
    return mask


def test_mirroring_moves_only_columns_of_the_image_and_not_its_padding():
    # 20 of the 24 columns are the image's; columns 2–6 from the left lie at 14–18 once turned.
    turned = flip(candidates(FRAME, blob(2, 6)[None], [0], [0.9])).masks[0]
    assert torch.equal(turned > 0, blob(14, 18) > 0)


def test_an_image_that_ends_within_a_cell_is_mirrored_about_its_middle():
    frame = Frame((32, 48), (32, 39), (64, 78))
    turned = flip(candidates(frame, blob(2, 6)[None], [0], [0.9])).masks[0]
    columns = torch.nonzero((turned > 0).any(dim=0)).flatten().tolist()
    # The image is 19.5 columns wide: 2–6 become 13.5–17.5.
    assert columns in ([13, 14, 15, 16, 17], [14, 15, 16, 17], [13, 14, 15, 16])


def test_mirrored_boxes_are_on_the_other_side():
    instances = Instances(
        boxes=torch.tensor([[10.0, 5.0, 30.0, 25.0]]),
        masks=torch.linspace(0, 1, 4).repeat(1, 4, 1),
        labels=(0,),
        scores=(0.9,),
        semantic_logits=torch.zeros((2, 16, 24)),
        semantic_labels=(2, -1),
        frame=FRAME,
    )
    turned = flip(instances)
    assert turned.boxes.tolist() == [[50.0, 5.0, 70.0, 25.0]]
    assert torch.equal(turned.masks[0, 0], torch.linspace(0, 1, 4).flip(0))


def test_matching_masks_are_averaged_and_unmatched_ones_lose_score():
    one = candidates(FRAME, torch.stack([blob(2, 8), blob(12, 18)]), [0, 1], [0.9, 0.8])
    other = candidates(FRAME, torch.stack([blob(3, 8)]), [0], [0.7])
    third = candidates(FRAME, torch.stack([blob(2, 8)]), [0], [0.8])
    merged = merge_outputs([one, other, third])
    by_label = dict(zip(merged.labels.tolist(), merged.gate.tolist(), strict=True))
    assert by_label == pytest.approx({0: 0.8, 1: 0.8 / 3})
    of_cat = merged.masks[merged.labels.tolist().index(0)]
    # Logits of 6, −6 and 6.
    assert merged.activation == "sigmoid"
    assert float(of_cat[6, 2]) == pytest.approx(2.0)


def test_outputs_on_different_grids_are_resampled_to_the_finest():
    fine = candidates(FRAME, torch.stack([blob(2, 8)]), [0], [0.9])
    coarse_mask = torch.nn.functional.interpolate(blob(2, 8)[None, None], scale_factor=0.5, mode="area")[0]
    coarse = candidates(Frame((32, 48), (32, 40), (64, 80)), coarse_mask, [0], [0.9])
    merged = merge_outputs([coarse, fine])
    assert merged.masks.shape[-2:] == (16, 24)
    assert len(merged.labels) == 1


def test_outputs_that_cannot_be_merged_are_refused():
    one = candidates(FRAME, torch.stack([blob(2, 8)]), [0], [0.9])
    other = candidates(Frame((32, 48), (32, 40), (10, 10)), torch.stack([blob(2, 8)]), [0], [0.9])
    assert "one size" in refusal(BadArgument, merge_outputs, [one, other])
    assert "weights" in refusal(BadArgument, merge_outputs, [one, one], [0.0, 0.0])


def test_augmentation_of_a_corrupted_model_uses_the_corrupted_pixels(scenes):
    model = open_model(find_model("mask2former-tiny"))
    corruption = Corruption("fog", 3)
    corrupted = CorruptedModel(model, corruption)
    scene = scenes[0]
    seen = corrupted.load(scene).inputs
    expected = corrupt(read_photograph(scene)[0], corruption, scene.image.id)
    own = model.load(scene).inputs
    assert not torch.equal(seen, own)
    if seen.shape[1:] == expected.shape[:2]:
        # mmdet's pipeline keeps blue first.
        assert np.array_equal(seen.numpy().transpose(1, 2, 0)[..., ::-1], expected)
    assert corrupted.describe().published is None
    assert corrupted.settings["corruption"] == "fog:3"


def test_a_run_records_its_views_and_compare_reports_different_views(tmp_path):
    model = find_model("mask2former-tiny")
    plain, one, two = (
        evaluated(model, open_dataset("shapes", limit=2), tmp_path / name, studies=(ViewOptions(tta=views),))
        for name, views in (("plain", None), ("one", "none"), ("two", "flip"))
    )
    assert "tta" not in plain.info.arguments
    assert (one.info.arguments["tta"], two.info.arguments["tta"]) == ("scales=1", "flip,scales=1")
    assert one.summary() == plain.summary()
    assert comparison_rows([plain, one])[1].notes == comparison_rows([plain, plain])[1].notes
    notes = [" ".join(row.notes) for row in comparison_rows([plain, two])]
    assert "the mean of several views of each image (flip,scales=1)" not in notes[0]
    assert "the mean of several views of each image (flip,scales=1)" in notes[1]
