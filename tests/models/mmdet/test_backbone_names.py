from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from panbench.models.mmdet import operators
from panbench.models.mmdet.backbone_names import match_official_epsilons, rename_backbone

operators.install()

import mmdet.models  # noqa: E402, F401
from mmdet.registry import MODELS  # noqa: E402

from tests.models.recorded import state_of  # noqa: E402

REFERENCE = Path(__file__).parents[2] / "reference" / "other_models" / "backbones.npz"
SWIN = {"type": "SwinTransformer", "embed_dims": 6, "num_heads": [1, 2, 3, 6]}
CONFIGS: dict[str, dict[str, Any]] = {
    "pvtv2": {
        "type": "PyramidVisionTransformerV2",
        "embed_dims": 8,
        "num_heads": [1, 2, 5, 8],
        "num_layers": [1, 2, 1, 1],
        "mlp_ratios": [4, 4, 4, 4],
        "out_indices": (1, 2, 3),
    },
    "swin": {**SWIN, "depths": [2, 1, 2, 1], "window_size": 7, "out_indices": (1, 2, 3)},
    "swin_detectron2": {**SWIN, "depths": [1, 2, 1, 2], "window_size": 6, "pretrain_img_size": 96},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_backbone_of_official_code_gives_the_same_output_under_mmdets_names(name: str) -> None:
    recorded = np.load(REFERENCE)
    config = CONFIGS[name]
    state = state_of({key.removeprefix(f"{name}/"): recorded[key] for key in recorded if key.startswith(f"{name}/")})
    module = MODELS.build(config)
    match_official_epsilons(module)
    module.load_state_dict(rename_backbone(state, config), strict=True)
    module.eval()
    with torch.inference_mode():
        found = module(torch.from_numpy(recorded["pixels"]))
    expected = [recorded[f"{name}/out_{index}"] for index in range(len(found))]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-5)


def test_detectron2s_resnet_converts_to_mmdets() -> None:
    config = {"type": "ResNet", "depth": 50}
    with torch.device("meta"):
        module = MODELS.build(config)
    ours = module.state_dict()
    # The names that detectron2's build_resnet_backbone makes, and their widths: stem, 3 + 4 + 6 + 3 bottlenecks.
    norm = ("weight", "bias", "running_mean", "running_var")
    theirs = {"stem.conv1.weight": (64, 3, 7, 7), **{f"stem.conv1.norm.{part}": (64,) for part in norm}}
    width_in = 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True), start=2):
        for block in range(blocks):
            at = f"res{stage}.{block}"
            convs = {"conv1": (width, width_in, 1, 1), "conv2": (width, width, 3, 3), "conv3": (4 * width, width, 1, 1)}
            if block == 0:
                convs["shortcut"] = (4 * width, width_in, 1, 1)
            for conv, shape in convs.items():
                theirs[f"{at}.{conv}.weight"] = shape
                theirs.update({f"{at}.{conv}.norm.{part}": shape[:1] for part in norm})
            width_in = 4 * width
    renamed = rename_backbone({name: torch.empty(shape, device="meta") for name, shape in theirs.items()}, config)
    assert set(renamed) == set(ours)
    assert {name: tuple(value.shape) for name, value in renamed.items()} == {
        name: tuple(value.shape) for name, value in ours.items()
    }


def test_parameters_that_have_mmdets_names_keep_them() -> None:
    config = CONFIGS["swin"]
    module = MODELS.build(config)
    assert set(rename_backbone(module.state_dict(), config)) == set(module.state_dict())
