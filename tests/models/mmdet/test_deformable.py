"""Sampled attention as a map: what it says must be what the operator took."""

import pytest
import torch

from panbench.models.attention import ModuleCall, record_module_calls, scatter_attention
from panbench.models.mmdet import operators

operators.install()

from mmcv.ops import MultiScaleDeformableAttention  # noqa: E402

from panbench.models.mmdet.deformable import sampled_attention  # noqa: E402

SIZES = [(6, 8), (3, 4)]


@pytest.mark.parametrize("sides", [2, 4], ids=["points", "boxes"])
def test_the_attention_map_reproduces_the_operators_output(sides: int) -> None:
    """With one level, values that are positions, and no projections, the output is the mean position of the map."""
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(embed_dims=8, num_heads=2, num_levels=1, num_points=3, batch_first=True)
    attention.eval().requires_grad_(False)
    for part in (attention.sampling_offsets, attention.attention_weights):
        part.weight.normal_(std=0.3)
    for part in (attention.value_proj, attention.output_proj):
        part.weight.copy_(torch.eye(8))
        part.bias.zero_()
    (height, width) = SIZES[0]
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    values = torch.stack([row, column, torch.ones(height, width), torch.zeros(height, width)], dim=-1).float()
    query = torch.randn(1, 5, 8)
    reference = torch.full((1, 5, 1, sides), 0.5)
    with record_module_calls({0: attention}) as heard:
        taken = attention(
            query=query,
            value=values.repeat(1, 1, 2).reshape(1, height * width, 8),
            query_pos=torch.ones_like(query),
            identity=torch.zeros_like(query),
            reference_points=reference,
            spatial_shapes=torch.tensor(SIZES[:1]),
            level_start_index=torch.tensor([0]),
        )[0]
    found = sampled_attention(attention, heard[0][0])
    assert found.shape == (5, height, width)
    by_hand = torch.einsum("qhw,hwc->qc", found, values)
    # The heads have a half of the channels each; the map is their mean.
    torch.testing.assert_close(by_hand, (taken[:, :4] + taken[:, 4:]) / 2, rtol=0, atol=1e-5)


def test_attention_of_coarser_levels_is_drawn_at_the_same_position_of_the_finest() -> None:
    attention = MultiScaleDeformableAttention(embed_dims=8, num_heads=2, num_levels=2, num_points=3, batch_first=True)
    attention.requires_grad_(False)
    attention.sampling_offsets.weight.zero_()
    attention.sampling_offsets.bias.zero_()
    given = {
        "query": torch.zeros(1, 1, 8),
        "reference_points": torch.tensor([[[[0.3125, 1 / 3]] * 2]]),  # the centre of column 2, between rows 1 and 2
        "spatial_shapes": torch.tensor(SIZES),
    }
    expected = torch.zeros(6, 8)
    expected[1:3, 2] = torch.tensor([0.5, 0.5])
    torch.testing.assert_close(sampled_attention(attention, ModuleCall((), given, None))[0], expected)


def test_points_outside_the_image_do_not_count() -> None:
    locations = torch.tensor([[[[0.5, 0.5], [-3.0, 0.5], [0.5, 9.0]]]])
    weights = torch.tensor([[[0.25, 0.25, 0.5]]])
    assert scatter_attention(locations, weights, (3, 3)).tolist() == [[[0, 0, 0], [0, 0.25, 0], [0, 0, 0]]]
