"""What Mask2Former keeps of each image size: as much as it needs, and of a few sizes."""

from typing import Any

import pytest
import torch

from panbench.catalog import find_model
from panbench.models.mmdet import detection, operators, pixel_decoder
from panbench.models.mmdet.config import build_model, load_config

operators.install()


@pytest.fixture(scope="module")
def decoder() -> Any:
    torch.manual_seed(0)
    model: Any = build_model(load_config(find_model("mask2former-tiny")))
    pixel_decoder.speed_up(model.panoptic_head.pixel_decoder)
    return model.panoptic_head.pixel_decoder


def features_of(height: int, width: int) -> list[torch.Tensor]:
    """Maps of the three encoded levels, coarsest first, of an image of that many cells at stride 32."""
    return [torch.zeros(1, 1, height * scale, width * scale) for scale in (1, 2, 4)]


def test_positions_are_those_of_mmdets_sine_encoding_to_the_last_bit(decoder: Any) -> None:
    found = pixel_decoder.geometry_of(decoder, features_of(3, 5)).positions()
    expected = []
    for number, scale in enumerate((1, 2, 4)):
        sine = decoder.postional_encoding(torch.zeros(1, 3 * scale, 5 * scale, dtype=torch.bool))
        embedded = decoder.level_encoding.weight[number].view(1, -1, 1, 1) + sine
        expected.append(embedded.flatten(2).permute(0, 2, 1))
    assert torch.equal(found, torch.cat(expected, dim=1))


def held(*tensors: torch.Tensor) -> int:
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def test_the_sizes_of_a_thousand_mixed_images_keep_less_than_one_of_them_takes(decoder: Any) -> None:
    """What is kept of 32 sizes at 800 pixels was 594 MB of a Mask2Former R50."""
    decoder.geometries.clear()
    for width in range(25, 65):
        pixel_decoder.geometry_of(decoder, features_of(25, width))
    kept = decoder.geometries.values()
    assert len(kept) == pixel_decoder.MOST_SIZES
    largest = list(kept)[-1].positions()
    channels = largest.shape[-1]
    of_sizes = [held(each.references, *each.rows, *each.columns) for each in kept]
    # As if it had an R50's 256 channels: rows and columns grow with them, reference points do not.
    assert sum(of_sizes) < held(largest) * 256 // channels


def test_anchors_are_kept_of_eight_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = build_model(load_config(find_model("panoptic-fpn-tiny")))
    like = torch.zeros(1)
    for width in range(2, 22):
        sizes = tuple((8 * scale, width * scale) for scale in (16, 8, 4, 2, 1))
        assert detection._anchors(model.rpn_head, sizes, like)[-1].shape[0] == 8 * width * 3
    assert len(model.rpn_head.anchors_by_size) == 8
