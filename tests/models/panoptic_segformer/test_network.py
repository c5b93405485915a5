import ast
from typing import Any

import pytest
import torch

from panbench.models.panoptic_segformer import NetworkLayout, Outputs, PanopticSegFormer, rename
from tests.models import recorded as reference
from tests.models.recorded import FOLDER, Recorded, features_of, same, segformer_of

RESNET_50 = {"type": "ResNet", "depth": 50, "out_indices": (1, 2, 3), "norm_cfg": {"type": "BN"}, "style": "pytorch"}


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return reference.recorded("panoptic_segformer")


@pytest.fixture(scope="module")
def network() -> PanopticSegFormer:
    return segformer_of()


@pytest.fixture(scope="module")
def outputs(network: PanopticSegFormer, recorded: Recorded) -> Outputs:
    with torch.inference_mode():
        return network.transform(features_of(recorded), (224, 288), [(224, 288)])


def test_memory_queries_classes_and_boxes_equal_the_authors_code(outputs: Outputs, recorded: Recorded) -> None:
    same(outputs.memory[:, ::8], recorded["memory_every_8th"])
    same(outputs.queries, recorded["query"])
    same(outputs.thing_logits, recorded["cls_logits"])
    same(outputs.boxes, recorded["boxes"])


def test_masks_and_stuff_scores_equal_the_authors_code(network, outputs, recorded) -> None:
    with torch.inference_mode():
        labels, scores, masks, _ = network.select_candidates(outputs, 0)
    assert masks.shape == (153, 28, 36)
    same(masks[:100:5].flatten(1), recorded["things_masks_every_5th"])
    same(masks[100::5].flatten(1), recorded["stuff_masks_every_5th"])
    same(scores[100:], recorded["stuff_scores"])
    assert labels[100:].tolist() == list(range(80, 133))


def test_boxes_and_reference_points_stay_float32_in_bf16(network: PanopticSegFormer, recorded: Recorded) -> None:
    """bfloat16 has steps of 8 pixels from 1,024 on, and each layer of the decoder refines the last one's boxes."""
    heard: list[torch.Tensor] = []
    layers: Any = network.decoder.layers
    hooks = [
        layer.cross_attn.register_forward_pre_hook(
            lambda part, inputs, named: heard.append(named["reference_points"]), with_kwargs=True
        )
        for layer in layers
    ]
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = network.transform(features_of(recorded), (224, 288), [(224, 288)])
    for hook in hooks:
        hook.remove()
    assert found.boxes.dtype == torch.float32
    assert (found.boxes != found.boxes.bfloat16().float()).float().mean() > 0.9, "else they were rounded before"
    assert [points.dtype for points in heard] == [torch.float32] * len(layers)
    first = network.reference_points_fc(network.query_embedding.weight[:, :64]).sigmoid()
    assert torch.equal(heard[0][0, :, 0], first), "the first come from the weights alone"


def test_padding_does_not_change_classes(network: PanopticSegFormer, recorded: Recorded) -> None:
    features = features_of(recorded)
    changed = [feature.clone() for feature in features]
    for feature, stride in zip(changed, (8, 16, 32, 64), strict=True):
        feature[:, :, 160 // stride + 1 :] = 7.0
    with torch.inference_mode():
        before, after = (network.transform(each, (224, 288), [(160, 288)]) for each in (features, changed))
    torch.testing.assert_close(before.thing_logits, after.thing_logits)
    torch.testing.assert_close(before.boxes, after.boxes)


def test_the_published_r50_checkpoint_has_the_expected_names() -> None:
    layout = NetworkLayout(RESNET_50, (512, 1024, 2048))
    lines = (FOLDER / "panoptic_segformer_r50_keys.txt").read_text().splitlines()
    published = {
        name: torch.empty(ast.literal_eval(shape), device="meta")
        for name, shape in (line.split(" ", 1) for line in lines)
    }
    with torch.device("meta"):
        ours = PanopticSegFormer(layout).state_dict()
    renamed = rename(published, layout)
    assert {name: value.shape for name, value in renamed.items()} == {name: value.shape for name, value in ours.items()}
