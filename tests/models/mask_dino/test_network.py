import numpy as np
import pytest
import torch

from panbench.base.errors import BadCheckpoint
from panbench.models.mask_dino import MaskDINO, MaskDINOHead, rename
from tests.models import recorded as reference
from tests.models.recorded import MASK_DINO as TINY
from tests.models.recorded import Recorded, features_of, mask_dino_of, same, state_of


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return reference.recorded("mask_dino")


@pytest.fixture(scope="module")
def state(recorded: Recorded) -> dict[str, torch.Tensor]:
    return state_of(recorded, "sem_seg_head.")


@pytest.fixture(scope="module")
def head() -> MaskDINOHead:
    return mask_dino_of()


def test_encoder_levels_and_mask_features_equal_the_authors_code(head: MaskDINOHead, recorded: Recorded) -> None:
    with torch.inference_mode():
        levels, mask_features = head.encode(features_of(recorded))
    assert len(levels) == 4
    for index, level in enumerate(levels):
        same(level[:, :8], recorded[f"multi_scale_{index}_first8"])
    same(mask_features[:, ::32], recorded["mask_features"])


def test_classes_masks_and_boxes_equal_the_authors_code(head: MaskDINOHead, recorded: Recorded) -> None:
    with torch.inference_mode():
        class_logits, mask_logits, boxes = head(features_of(recorded))
    same(class_logits, recorded["class_logits"])
    same(mask_logits[..., ::2, ::2], recorded["mask_logits_every_2nd"])
    same(boxes, recorded["boxes"])


def test_a_box_of_nearly_the_whole_image_is_not_moved_by_rounding(head: MaskDINOHead) -> None:
    module = MaskDINOHead(TINY).eval()
    module.load_state_dict(head.state_dict())
    for parameter in module.box_embed.layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    box = torch.tensor([0.5, 0.5, 0.9998, 0.0004])
    levels = [torch.zeros(1, 256, size, size) for size in (8, 4, 2, 1)]
    with torch.inference_mode():
        from panbench.models.mask_dino import _encoder_memory

        _, boxes = module.decode(torch.zeros(1, 1, 256), torch.logit(box)[None, None], _encoder_memory(levels))
    # mmdet's own DINO decoder makes 0.999 and 0.001 of these.
    np.testing.assert_allclose(boxes[0, 0].numpy(), box.numpy(), atol=1e-6)


def test_a_checkpoint_whose_layers_share_no_box_head_is_refused(state: dict[str, torch.Tensor]) -> None:
    name = "sem_seg_head.predictor.bbox_embed.1.layers.0.bias"
    with pytest.raises(BadCheckpoint, match=r"bbox_embed\.1.*_bbox_embed.*differ"):
        rename({**state, name: state[name] + 1.0}, TINY)


@pytest.mark.parametrize("encoded", [3, 4])
def test_the_encoder_works_with_three_or_four_levels(encoded: int) -> None:
    backbone = {"type": "ResNet", "depth": 18, "base_channels": 8}
    layout = TINY._replace(backbone=backbone, channels=(8, 16, 32, 64), encoded=encoded)
    module = MaskDINO(layout).eval()
    assert module.head.level_embed.shape[0] == encoded + 1
    with torch.inference_mode():
        outputs = module(torch.zeros(2, 3, 64, 96))
    assert outputs.mask_logits.shape == (2, 30, 16, 24)
    assert outputs.class_logits.shape == (2, 30, 133)
