"""Every name of the published files has one place in mmdet's network, and every parameter gets one tensor."""

import gzip
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from panbench.base.errors import BadCheckpoint
from panbench.catalog import load_catalog
from panbench.models.authors.adapter import AuthorsAdapter
from panbench.models.mmdet.config import build_model

LAYOUTS = Path(__file__).parents[2] / "reference" / "authors" / "layouts.json.gz"
"""Names and shapes of the state dict of each published model, as the authors' code builds it from its config."""
AUTHORS = sorted(name for name in load_catalog() if name.endswith("-authors"))


@cache
def layouts() -> dict[str, dict[str, list[int]]]:
    with gzip.open(LAYOUTS, "rt") as file:
        return dict(json.load(file))


@cache
def adapter_of(name: str) -> AuthorsAdapter:
    return AuthorsAdapter(load_catalog()[name])


def published(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in layouts()[name].items()}


def test_every_model_has_a_name_layout() -> None:
    assert sorted(layouts()) == AUTHORS
    assert len(AUTHORS) == 16


@pytest.mark.parametrize("name", AUTHORS)
def test_every_tensor_is_used_once_and_every_parameter_set(name: str) -> None:
    adapter, theirs = adapter_of(name), published(name)
    renamed = adapter.rename(theirs)
    module = build_model(adapter.config, device="meta")
    own = {key: value.shape for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in renamed.items() if not key.endswith("num_batches_tracked")} == own
    left_out = [key for key in theirs if adapter.names.is_left_out(key)]
    assert left_out == ([] if name.startswith("panoptic") else ["criterion.empty_weight"])
    assert len(own) == len(theirs) - len(left_out)
    spec = load_catalog()[name]
    assert sum(each.numel() for each in module.parameters()) == spec.params


@pytest.mark.parametrize("name", ["mask2former-swin-t-authors", "maskformer-r50-authors"])
def test_names_before_version_2_of_the_authors_head_are_recognized(name: str) -> None:
    adapter, theirs = adapter_of(name), published(name)
    old = {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query"): value
        for key, value in theirs.items()
    }
    assert set(old) != set(theirs)
    assert adapter.rename(old).keys() == adapter.rename(theirs).keys()


def test_detectron2s_buffers_are_ignored_and_other_means_refused() -> None:
    name = "panoptic-fpn-r50-1x-authors"
    adapter, theirs = adapter_of(name), published(name)
    buffers = {f"proposal_generator.anchor_generator.cell_anchors.{i}": torch.zeros(3, 4) for i in range(5)}
    buffers |= {"pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(-1, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
    assert adapter.rename({**theirs, **buffers}).keys() == adapter.rename(theirs).keys()
    with pytest.raises(BadCheckpoint, match=r"pixel_std .*57\.1199.*the config has \[1\.0, 1\.0, 1\.0\]"):
        adapter.rename({**theirs, "pixel_std": torch.tensor([58.395, 57.12, 57.375])})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda names: {**names, "sem_seg_head.extra.weight": torch.zeros(1)}, r"unknown are sem_seg_head\.extra"),
        (
            lambda names: {**names, "sem_seg_head.predictor.static_query.weight": torch.zeros(1)},
            r"unknown are sem_seg_head\.predictor\.static_query",
        ),
        (
            lambda names: {re.sub("^sem_seg_head", "decode_head", key): value for key, value in names.items()},
            r"unknown are decode_head.* and \d+ more",
        ),
        (lambda names: {}, r"it has no backbone\.…"),
    ],
)
def test_unknown_and_repeated_names_are_refused(change: Callable[[dict[str, Any]], dict[str, Any]], words: str) -> None:
    adapter = adapter_of("mask2former-r50-authors")
    with pytest.raises(BadCheckpoint, match=words):
        adapter.rename(change(published("mask2former-r50-authors")))


def test_a_file_of_mmdet_is_not_taken_for_one_of_the_authors() -> None:
    adapter = adapter_of("mask2former-r50-authors")
    own = build_model(adapter.config, device="meta").state_dict()
    with pytest.raises(BadCheckpoint, match=r"Files of mmdet belong to the model without -authors in its name"):
        adapter.rename(own)
