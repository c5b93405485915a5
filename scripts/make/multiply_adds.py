"""Counts the multiply-adds of every model for one photograph, and writes configs/_multiply_adds.json.

    python scripts/make/multiply_adds.py            # all, some minutes
    python scripts/make/multiply_adds.py NAME…      # prints these, writes nothing

Counted are matrix products, convolutions and attention of one forward pass as panbench runs it, by PyTorch's
FlopCounterMode on tensors without data; sampling, norms and sums are not, as in papers. The photograph has 480×640
pixels, as most of COCO, and is resized as the model's paper does. Panoptic FPN is left out: its work depends on what it
finds.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from panbench.base.files import write_text
from panbench.base.references import load
from panbench.catalog import ModelSpec, configs_folder, load_catalog, repository_of
from panbench.models.adapter import Adapter
from panbench.panoptic.types import ImageInfo, Scene
from scripts.check.hub_networks import without_hub

SIZE = (480, 640)
FILE = "_multiply_adds.json"
# One for all: panbench keeps small constant tensors for further models.
_FAKE = FakeTensorMode(allow_non_fake_inputs=True)
_END = "is not supported for tensor subclasses"
"""What PyTorch says where logits are brought to the host: the network has run."""


def counted(spec: ModelSpec) -> int | None:
    """Counts the multiply-adds of a forward pass; None if they depend on what the network finds."""
    if spec.family == "panoptic-fpn":
        return None
    adapter = cast(Adapter, load(spec.adapter)(without_hub(spec) if repository_of(spec) else spec))
    try:
        with torch.device("meta"):
            module = adapter.build().eval()
    except RuntimeError:
        # mmdet's PVTv2 asks tensors for their values while it is built.
        module = adapter.build().eval()
    for part in module.modules():
        if "attn_mask_probs" in part._buffers:
            # Published EoMTs attend without masks; these numbers are read in Python.
            part.__dict__["attn_mask_probs"] = [0.0] * len(cast(Any, part._buffers.pop("attn_mask_probs")))
    module = _without_data(adapter.speed_up(module, torch.device("meta")))
    adapter.loaded(module, None)
    image = ImageInfo(1, "photo.jpg", *SIZE)
    loaded = adapter.read_pixels(Scene(image, None), np.zeros((*SIZE, 3), np.uint8))
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={attention: _of_attention})
    with _FAKE, torch.no_grad(), counter:
        try:
            adapter.run(module, [loaded], torch.device("cpu"))
        except RuntimeError as error:
            if _END not in str(error):
                raise
    return counter.get_total_flops() // 2


def _of_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _without_data(module: nn.Module) -> nn.Module:
    """Replaces all parameters and buffers by tensors without data."""
    with _FAKE:
        for part in module.modules():
            for name, weight in part._parameters.items():
                part._parameters[name] = None if weight is None else nn.Parameter(torch.empty(weight.shape), False)
            for name, buffer in part._buffers.items():
                part._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)
    return module


def main() -> None:
    """Prints each model's count; writes the file if all models were counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    warnings.simplefilter("ignore")
    found: dict[str, int] = {}
    for name, spec in load_catalog().items():
        if not names or name in names:
            count = counted(spec)
            print(f"{name:26} {'depends on the image' if count is None else f'{count / 1e9:8,.1f} G'}", flush=True)
            if count is not None:
                found[name] = count
    if not names:
        write_text(configs_folder() / FILE, json.dumps(dict(sorted(found.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
