"""What Mask2Former keeps of each image size: as much as it needs, and of a few sizes."""

from typing import Any

import pytest
import torch

from panbench.catalog import find_model
from panbench.models.mmdet import operators, pixel_decoder
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


def test_positions_equal_mmdets_sine_encoding_bit_for_bit(decoder: Any) -> None:
    found = pixel_decoder.geometry_of(decoder, features_of(3, 5)).positions()
    expected = []
    for number, scale in enumerate((1, 2, 4)):
        sine = decoder.postional_encoding(torch.zeros(1, 3 * scale, 5 * scale, dtype=torch.bool))
        embedded = decoder.level_encoding.weight[number].view(1, -1, 1, 1) + sine
        expected.append(embedded.flatten(2).permute(0, 2, 1))
    assert torch.equal(found, torch.cat(expected, dim=1))


def held(*tensors: torch.Tensor) -> int:
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}.values())


def test_caching_a_thousand_sizes_takes_less_memory_than_one_image(decoder: Any) -> None:
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
