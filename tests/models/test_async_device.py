"""What is done on an asynchronous device: the CPU's answers, and at most two waits a batch of networks with queries."""

import dataclasses
import importlib.machinery
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_maps import maps_of, photographs, queries
from support import python

from panbench.catalog import find_model
from panbench.models import async_device
from panbench.models.candidates import Candidates, Frame
from panbench.models.mmdet import compiled_attention, operators
from panbench.models.opening import open_model
from panbench.models.rules import fuse, parse_rule
from panbench.models.rules.compete import probabilities_of
from panbench.models.rules.resize import upsample
from scripts.make import tiny_networks

REPO = Path(__file__).resolve().parents[2]
TINY = ["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny"]
QUERIES = TINY[:2]
"""Panoptic FPN's heads are mmdet's, which read numbers from the device image by image."""
SIZES = [(96, 128), (90, 120), (96, 101)]


@pytest.mark.parametrize("name", TINY)
def test_maps_equal_those_of_the_cpu_code(name: str, tmp_path: Path, monkeypatch):
    def maps() -> list[np.ndarray]:
        model = open_model(find_model(name), device="cpu")
        return [ids for ids, _ in maps_of(model, [model.load(scene) for scene in photographs(tmp_path, SIZES)])]

    expected = maps()
    monkeypatch.setattr(async_device, "is_async", lambda device: True)
    found = maps()
    assert all(len(np.unique(ids)) > 2 for ids in expected)
    for one, other in zip(expected, found, strict=True):
        assert (one != other).mean() <= 1e-4


@pytest.mark.parametrize("name", tiny_networks.SPECS)
def test_other_families_equal_their_libraries_on_an_async_device(name: str, tmp_path: Path):
    """speedups=False leaves the networks as transformers and mmdet have them."""
    plain, fast = (tiny_networks.open_tiny(name, speedups=speedups) for speedups in (False, True))
    batch = [plain.load(*photographs(tmp_path, SIZES[:1]))] * 2
    for expected, found in zip(plain.candidates(batch), fast.candidates(batch), strict=True):
        assert isinstance(expected, Candidates)
        assert isinstance(found, Candidates)
        assert (expected.labels == found.labels).all()
        torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.masks, expected.masks, rtol=1e-4, atol=1e-4)


# Tall and wide ones share EoMT's square; Panoptic SegFormer pads nothing, so its images are of one size when resized.
ALIKE = {
    "panoptic-segformer-untrained": [(48, 64), (96, 128), (72, 96)],
    "eomt-of-transformers": [(64, 64), (40, 64), (64, 33)],
    "eomt_dinov3-of-transformers": [(64, 64), (40, 64), (64, 33)],
}


@pytest.mark.parametrize("name", [name for name in tiny_networks.SPECS if not name.startswith("detr")])
def test_images_of_one_padded_size_give_equal_outputs_alone_and_in_a_batch(name: str, tmp_path: Path):
    """DETR is left out: its batches hold images of one exact size."""
    model = tiny_networks.open_tiny(name)
    if name.startswith("panoptic-segformer"):
        model.adapter.resize = dataclasses.replace(model.adapter.resize, short=96)
    found = photographs(tmp_path, ALIKE.get(name, SIZES))
    assert len({model.batch_key(scene.image) for scene in found}) == 1
    assert len({(scene.image.height, scene.image.width) for scene in found}) == 3
    loaded = [model.load(scene) for scene in found]
    for image, together in zip(loaded, model.candidates(loaded), strict=True):
        (alone,) = model.candidates([image])
        assert isinstance(alone, Candidates)
        assert isinstance(together, Candidates)
        assert alone.frame == together.frame
        np.testing.assert_allclose(together.gate, alone.gate, rtol=1e-4, atol=1e-5)
        # An untrained Panoptic SegFormer's best pairs of query and class are level, so rounding orders them.
        rows = slice(100 if name.startswith("panoptic-segformer") else 0, None)
        assert (alone.labels[rows] == together.labels[rows]).all()
        torch.testing.assert_close(together.masks[rows], alone.masks[rows], rtol=1e-3, atol=1e-4)
        # So are the queries of others at many pixels: what wins together must win alone, or be level.
        values, others = strengths(alone)[rows], strengths(together)[rows]
        short = values.amax(dim=0) - values.gather(0, others.argmax(dim=0, keepdim=True))[0]
        assert (short > 1e-5).float().mean() <= 1e-4


def strengths(candidates: Candidates) -> torch.Tensor:
    """(K, H, W): weight × mask of each candidate at each pixel of the original image."""
    masks = probabilities_of(upsample(candidates.masks.float(), candidates.frame), candidates)
    return candidates.weight[:, None, None] * masks


@pytest.mark.parametrize("text", ["detr:score=0.1,small=30", "mask-wise:quality=0.01"])
def test_rules_synchronize_once_per_batch(text: str, monkeypatch):
    """Three images, of which one has nothing: the maps are those of each alone, and DETR's rounds are shared."""
    monkeypatch.setattr(async_device, "is_async", lambda device: True)
    generator = torch.Generator().manual_seed(0)
    frame = Frame((24, 32), (24, 32), (40, 50))
    labels, things = np.arange(20) % 5, (True, True, True, False, False)
    batch = []
    for gate in (0.9, 0.0, 0.8):
        masks = torch.rand(20, 12, 16, generator=generator)
        gates = np.full(20, gate, np.float32)
        batch.append(Candidates(labels, gates, torch.from_numpy(gates), masks, frame, things, "identity"))
    rule = parse_rule(text)
    before = async_device.copies
    together = fuse(batch, rule)
    spent = async_device.copies - before
    before = async_device.copies
    alone = [fuse([each], rule)[0] for each in batch]
    assert spent <= max(1, (async_device.copies - before) - 1)
    if text.startswith("mask-wise"):
        assert spent == 1
    for one, other in zip(together, alone, strict=True):
        ids, segments = rule.to_segments(one)
        own_ids, own_segments = rule.to_segments(other)
        assert (ids == own_ids).all()
        assert segments == own_segments
    assert len(rule.to_segments(together[0])[1]) > (1 if text.startswith("detr") else 0)


@pytest.mark.parametrize("rule", ["maskformer:score=0.3", "mask2former:score=0.3", "argmax:score=0.3"])
def test_competition_of_masks_in_few_kernels_has_the_same_winners(rule: str, monkeypatch):
    candidates = queries(0, 30)
    candidates.masks[7] = candidates.masks[3]  # of equals the first wins
    candidates.gate[[3, 7]] = 0.9
    candidates.weight[[3, 7]] = 0.9

    def settled():
        chosen = parse_rule(rule)
        return chosen.to_segments(fuse([candidates], chosen)[0])

    ids, segments = settled()
    monkeypatch.setattr(async_device, "is_async", lambda device: True)
    monkeypatch.setattr("panbench.models.rules.resize.ELEMENTS_AT_ONCE", 7 * 96 * 128)
    fed_ids, fed_segments = settled()
    assert (ids == fed_ids).all()
    assert segments == fed_segments


PLAYED = {"mmdet": (QUERIES, 0), "others": (list(tiny_networks.SPECS), 3)}


@pytest.fixture(scope="module")
def counts() -> list[dict[str, Any]]:
    """What was counted of PLAYED, in one process: what it imports takes as long as the counting."""
    jobs = [(name, "auto", planted, (1, 3)) for names, planted in PLAYED.values() for name in names]
    done = python(REPO / "tests" / "played_device.py", input=json.dumps(jobs))
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLAYED)
def test_a_batch_synchronizes_at_most_twice(kind: str, counts: list[dict[str, Any]]):
    """Counted on a device that the CPU plays, for one image and for several.

    DETR's competition asks once a round: two where, as here, no query is left with a few pixels.
    """
    rows = [row for row in counts if row["model"] in PLAYED[kind][0]]
    assert len(rows) == 2 * len(PLAYED[kind][0])
    for row in rows:
        assert row["waits"] <= 2, row["places"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", QUERIES)
def test_cuda_settings_are_only_those_intended(name: str, tmp_path: Path):
    model = open_model(find_model(name), device="cuda")
    batch = [model.load(scene) for scene in photographs(tmp_path, SIZES)]
    fuse(model.candidates(batch), model.rule)
    before = async_device.copies
    torch.cuda.set_sync_debug_mode("error")
    try:
        fuse(model.candidates(batch), model.rule)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert async_device.copies - before <= 2


def attention_case() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([(3, 4), (5, 7)])
    value = torch.randn(2, 12 + 35, 3, 12, generator=generator)
    # Some beyond the borders.
    places = torch.rand(2, 9, 3, 2, 4, 2, generator=generator) * 1.4 - 0.2
    return value, shapes, torch.tensor([0, 12]), places, torch.rand(2, 9, 3, 2, 4, generator=generator)


def test_deformable_attention_of_a_batch_equals_that_of_each_image():
    value, shapes, _, places, weights = attention_case()
    together = operators.deformable_attention(value, shapes, places, weights)
    for image in range(2):
        one = slice(image, image + 1)
        assert torch.equal(operators.deformable_attention(value[one], shapes, places[one], weights[one]), together[one])


@pytest.fixture
def hub(monkeypatch):
    """The package `kernels`, played: what it answers can be set, and what its kernel is given is looked at."""
    hub = types.SimpleNamespace(asked=0, factor=1.0)

    def forward(value, shapes, starts, places, weights, step):
        assert value.dtype == places.dtype == weights.dtype == torch.float32
        assert len(value) % min(len(value), step) == 0
        return operators.deformable_attention(value, shapes, places, weights) * hub.factor

    def get_kernel(repository, version):
        hub.asked += 1
        if hub.factor is None:
            raise OSError("no connection")
        return types.SimpleNamespace(ms_deform_attn_forward=forward)

    kernels = types.ModuleType("kernels")
    kernels.__spec__ = importlib.machinery.ModuleSpec("kernels", None)
    kernels.get_kernel = get_kernel
    monkeypatch.setitem(sys.modules, "kernels", kernels)
    monkeypatch.setattr(operators, "_is_on_cuda", lambda device: True)
    monkeypatch.delitem(sys.modules, "mmcv._ext", raising=False)
    compiled_attention.kernel_of_hub.cache_clear()
    yield hub
    compiled_attention.kernel_of_hub.cache_clear()


def test_a_hub_kernel_is_used_after_it_agreed_with_pytorch(hub):
    value, shapes, starts, places, weights = attention_case()
    found = operators.attend_deformably(value, shapes, starts, places, weights)
    assert torch.equal(found, operators.deformable_attention(value, shapes, places, weights))
    hub.factor = 2.0  # a mark of whose answer the next one is
    assert torch.equal(operators.attend_deformably(value, shapes, starts, places, weights), 2 * found)
    assert hub.asked == 1


@pytest.mark.parametrize(("factor", "why"), [(1.01, "its output differs from PyTorch's"), (None, "no connection")])
def test_a_kernel_that_is_wrong_or_cannot_be_had_is_left_out(factor, why, hub):
    hub.factor = factor
    value, shapes, starts, places, weights = attention_case()
    expected = operators.deformable_attention(value, shapes, places, weights)
    with pytest.warns(UserWarning, match=f"is not used: {why}"):
        assert torch.equal(operators.attend_deformably(value, shapes, starts, places, weights), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(operators.attend_deformably(value, shapes, starts, places, weights), expected)
    assert hub.asked == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_compiled_kernels_are_given_float32_and_batches_of_any_size(dtype, monkeypatch):
    """mmcv's has no code for half types, and requires batches of 64 images or a multiple of them, or fewer."""
    given = []

    def forward(value, shapes, starts, places, weights, im2col_step):
        given.append({value.dtype, places.dtype, weights.dtype})
        assert len(value) % min(len(value), im2col_step) == 0
        return torch.zeros(len(value), places.shape[1], value.shape[2] * value.shape[3])

    monkeypatch.setattr(operators, "_is_on_cuda", lambda device: True)
    monkeypatch.setitem(sys.modules, "mmcv._ext", types.SimpleNamespace(ms_deform_attn_forward=forward))
    value, shapes, starts, places, weights = attention_case()
    value, places, weights = (each.to(dtype).repeat(33, *[1] * (each.dim() - 1)) for each in (value, places, weights))
    found = operators.attend_deformably(value, shapes, starts, places, weights)
    assert given == [{torch.float32}]
    assert (found.dtype, len(found)) == (dtype, 66)


def test_a_compiled_kernel_is_launched_on_the_device_of_its_tensors(monkeypatch):
    """Kernels are launched on the current device: on another GPU than the tensors' they would read memory at random."""
    events: list[object] = []

    class OnDevice:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __enter__(self) -> None:
            events.append(("enter", self.tensor.shape))

        def __exit__(self, *_: object) -> None:
            events.append("exit")

    monkeypatch.setattr(torch.cuda, "device_of", OnDevice)
    value, *rest = attention_case()
    compiled_attention.run(lambda *given: events.append("launch") or given[0], value, *rest)
    assert events == [("enter", value.shape), "launch", "exit"]
