import ast
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from panbench.models.panoptic_segformer.network import Layout, Outputs, PanopticSegFormer, rename

REFERENCE = Path(__file__).parents[2] / "reference" / "other_models"
RESNET_50 = {"type": "ResNet", "depth": 50, "out_indices": (1, 2, 3), "norm_cfg": {"type": "BN"}, "style": "pytorch"}
TINY = Layout(
    backbone={"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": (1, 2, 3)},
    channels=(16, 32, 64),
    width=64,
    feedforward=128,
    encoder_layers=2,
    decoder_layers=2,
    queries=40,
    thing_mask_layers=2,
    stuff_mask_layers=2,
)

Recorded = dict[str, npt.NDArray[np.generic]]


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return dict(np.load(REFERENCE / "panoptic_segformer.npz"))


@pytest.fixture(scope="module")
def network(recorded: Recorded) -> PanopticSegFormer:
    module = PanopticSegFormer(TINY).eval()
    state = {
        name.removeprefix("state/"): torch.from_numpy(value)
        for name, value in recorded.items()
        if name.startswith("state/")
    }
    misfit = module.load_state_dict(rename(state, TINY), strict=False)
    assert not misfit.unexpected_keys
    assert all(name.startswith("backbone.") for name in misfit.missing_keys)
    return module


@pytest.fixture(scope="module")
def outputs(network: PanopticSegFormer, recorded: Recorded) -> Outputs:
    features = [torch.from_numpy(recorded[f"neck_{level}"]) for level in range(4)]
    with torch.inference_mode():
        return network.transform(features, (224, 288), [(224, 288)])


def same(ours: torch.Tensor, theirs: npt.NDArray[np.generic]) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-4)


def test_memory_queries_classes_and_boxes_are_those_of_the_authors_code(outputs: Outputs, recorded: Recorded) -> None:
    same(outputs.memory[:, ::8], recorded["memory_every_8th"])
    same(outputs.queries, recorded["query"])
    same(outputs.thing_logits, recorded["cls_logits"])
    same(outputs.boxes, recorded["boxes"])


def test_masks_and_stuff_scores_are_those_of_the_authors_code(
    network: PanopticSegFormer, outputs: Outputs, recorded: Recorded
) -> None:
    with torch.inference_mode():
        labels, scores, masks = network.choose(outputs, 0)
    assert masks.shape == (153, 28, 36)
    same(masks[:100:5].flatten(1), recorded["things_masks_every_5th"])
    same(masks[100::5].flatten(1), recorded["stuff_masks_every_5th"])
    same(scores[100:], recorded["stuff_scores"])
    assert labels[100:].tolist() == list(range(80, 133))


def test_what_lies_in_the_padding_does_not_change_the_classes(network: PanopticSegFormer, recorded: Recorded) -> None:
    features = [torch.from_numpy(recorded[f"neck_{level}"]) for level in range(4)]
    changed = [feature.clone() for feature in features]
    for feature, stride in zip(changed, (8, 16, 32, 64), strict=True):
        feature[:, :, 160 // stride + 1 :] = 7.0
    with torch.inference_mode():
        before, after = (network.transform(each, (224, 288), [(160, 288)]) for each in (features, changed))
    torch.testing.assert_close(before.thing_logits, after.thing_logits)
    torch.testing.assert_close(before.boxes, after.boxes)


def test_the_published_r50_checkpoint_fits_by_its_names() -> None:
    layout = Layout(RESNET_50, (512, 1024, 2048))
    lines = (REFERENCE / "panoptic_segformer_r50_keys.txt").read_text().splitlines()
    published = {
        name: torch.empty(ast.literal_eval(shape), device="meta")
        for name, shape in (line.split(" ", 1) for line in lines)
    }
    with torch.device("meta"):
        ours = PanopticSegFormer(layout).state_dict()
    renamed = rename(published, layout)
    assert {name: value.shape for name, value in renamed.items()} == {name: value.shape for name, value in ours.items()}
