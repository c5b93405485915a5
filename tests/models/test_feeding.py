"""What is done on a device that is fed: the CPU's answers, and at most two waits a batch."""

import dataclasses
import importlib.machinery
import json
import sys
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support import python

from panbench.catalog import find_model
from panbench.datasets import shapes
from panbench.models import feeding
from panbench.models.candidates import Candidates, Frame, Instances
from panbench.models.mmdet import compiled_attention, detection, operators
from panbench.models.opening import open_model
from panbench.models.rules import fuse, parse_rule
from panbench.models.rules.compete import probabilities_of
from panbench.models.rules.resize import upsample
from panbench.panoptic.types import ImageInfo, Scene
from scripts.make import tiny_networks

REPO = Path(__file__).resolve().parents[2]
TINY = ["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny"]
SIZES = [(96, 128), (90, 120), (96, 101)]


def scenes(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Scene]:
    found = []
    for index, size in enumerate(sizes):
        path = folder / f"{index}.png"
        cv2.imwrite(str(path), shapes.make_scene(index, size=size).image[..., ::-1])
        found.append(Scene(ImageInfo(index, path.name, *size), path))
    return found


@pytest.mark.parametrize("name", TINY)
def test_maps_are_those_of_the_cpus_own_way(name: str, tmp_path: Path, monkeypatch):
    def maps() -> list[np.ndarray]:
        model = open_model(find_model(name), device="cpu")
        batch = [model.load(scene) for scene in scenes(tmp_path)]
        return [model.rule.settle(fused)[0] for fused in fuse(model.candidates(batch), model.rule)]

    expected = maps()
    monkeypatch.setattr(feeding, "is_fed", lambda device: True)
    found = maps()
    assert all(len(np.unique(ids)) > 2 for ids in expected)
    for one, other in zip(expected, found, strict=True):
        assert (one != other).mean() <= 1e-4


@pytest.mark.parametrize("name", tiny_networks.SPECS)
def test_other_families_answer_as_their_libraries_have_them(name: str, tmp_path: Path):
    """speedups=False leaves the networks as transformers and mmdet have them."""
    plain, fast = (tiny_networks.open_tiny(name, speedups=speedups) for speedups in (False, True))
    drawn = shapes.make_scene(0, size=SIZES[0]).image
    cv2.imwrite(str(tmp_path / "0.png"), drawn[..., ::-1])
    batch = [plain.load(Scene(ImageInfo(0, "0.png", *SIZES[0]), tmp_path / "0.png"))] * 2
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
def test_images_of_one_padded_size_answer_the_same_alone_and_together(name: str, tmp_path: Path):
    """DETR is left out: its batches hold images of one exact size."""
    model = tiny_networks.open_tiny(name)
    if name.startswith("panoptic-segformer"):
        model.adapter.resize = dataclasses.replace(model.adapter.resize, short=96)
    found = scenes(tmp_path, ALIKE.get(name, SIZES))
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


@pytest.mark.parametrize("name", ["oneformer-tiny", "eomt-tiny"])
def test_maps_of_trained_ones_are_the_same_alone_and_together(name: str, tmp_path: Path):
    model = open_model(find_model(name), device="cpu")
    loaded = [model.load(scene) for scene in scenes(tmp_path)]
    assert len({model.batch_key(image.scene.image) for image in loaded}) == 1  # type: ignore[attr-defined]
    together = [model.rule.settle(fused) for fused in fuse(model.candidates(loaded), model.rule)]
    for image, (ids, segments) in zip(loaded, together, strict=True):
        ((alone, own),) = [model.rule.settle(fused) for fused in fuse(model.candidates([image]), model.rule)]
        assert [segment.label for segment in segments] == [segment.label for segment in own] != []
        assert (ids != alone).mean() <= 1e-4


@pytest.mark.parametrize("text", ["detr:score=0.1,small=30", "mask-wise:quality=0.01"])
def test_rules_that_wait_wait_once_for_a_batch(text: str, monkeypatch):
    """Three images, of which one has nothing: the maps are those of each alone, and DETR's rounds are shared."""
    monkeypatch.setattr(feeding, "is_fed", lambda device: True)
    generator = torch.Generator().manual_seed(0)
    frame = Frame((24, 32), (24, 32), (40, 50))
    labels, things = np.arange(20) % 5, (True, True, True, False, False)
    batch = []
    for gate in (0.9, 0.0, 0.8):
        masks = torch.rand(20, 12, 16, generator=generator)
        gates = np.full(20, gate, np.float32)
        batch.append(Candidates(labels, gates, torch.from_numpy(gates), masks, frame, things, "identity"))
    rule = parse_rule(text)
    before = feeding.copies
    together = fuse(batch, rule)
    spent = feeding.copies - before
    before = feeding.copies
    alone = [fuse([each], rule)[0] for each in batch]
    assert spent <= max(1, (feeding.copies - before) - 1)
    if text.startswith("mask-wise"):
        assert spent == 1
    for one, other in zip(together, alone, strict=True):
        ids, segments = rule.settle(one)
        own_ids, own_segments = rule.settle(other)
        assert (ids == own_ids).all()
        assert segments == own_segments
    assert len(rule.settle(together[0])[1]) > (1 if text.startswith("detr") else 0)


def test_panoptic_fpns_boxes_are_mmdets_in_mmdets_order(tmp_path: Path, monkeypatch):
    def instances(fed: bool) -> list[Instances]:
        monkeypatch.setattr(feeding, "is_fed", lambda device: fed)
        model = open_model(find_model("panoptic-fpn-tiny"), device="cpu")
        model.module.roi_head.test_cfg.score_thr = 0.05  # many, of several classes a box
        return list(model.candidates([model.load(scene) for scene in scenes(tmp_path)]))

    for expected, found in zip(instances(False), instances(True), strict=True):
        assert len(found.scores) == len(expected.scores) > 2
        assert found.labels == expected.labels
        torch.testing.assert_close(found.boxes, expected.boxes, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.masks, expected.masks, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("links", [5, 40])
def test_chains_of_boxes_are_right_or_said_to_be_too_long(links: int):
    """Each box overlaps the next alone: every second stays, and each round is right for one more."""
    left = torch.arange(links) * 4.0
    boxes = torch.stack([left, torch.zeros(links), left + 10, torch.full((links,), 10.0)], dim=1)
    stays, settled = detection.suppress(boxes[None], torch.ones(1, links, dtype=torch.bool), 0.4)
    assert bool(settled) == (links < detection.ROUNDS)
    expected = operators.nms(boxes, torch.arange(links, 0, -1).float(), 0.4)
    if settled:
        assert stays[0].nonzero().flatten().tolist() == sorted(expected.tolist())


def test_where_the_rounds_were_too_few_mmdets_own_code_answers(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(feeding, "is_fed", lambda device: True)
    model = open_model(find_model("panoptic-fpn-tiny"), device="cpu")
    batch = [model.load(scene) for scene in scenes(tmp_path)]
    expected = model.candidates(batch)
    monkeypatch.setattr(detection, "ROUNDS", 1)
    monkeypatch.setattr(detection, "MOST_ROUNDS", 1)
    for one, other in zip(expected, model.candidates(batch), strict=True):
        assert one.labels == other.labels
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)


def test_too_few_rounds_are_made_more_and_remembered(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(feeding, "is_fed", lambda device: True)
    model = open_model(find_model("panoptic-fpn-tiny"), device="cpu")
    batch = [model.load(scene) for scene in scenes(tmp_path)]
    expected = model.candidates(batch)
    monkeypatch.setattr(detection, "ROUNDS", 1)
    for still_looking in (True, False):
        before = feeding.copies
        found = model.candidates(batch)
        assert (feeding.copies - before > 2) == still_looking
        for one, other in zip(expected, found, strict=True):
            assert isinstance(one, Instances)
            assert isinstance(other, Instances)
            assert one.labels == other.labels
            torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)
    assert 1 < model.module.rpn_head.__dict__["rounds"] <= 64  # type: ignore[attr-defined]


@pytest.mark.parametrize("rule", ["maskformer:score=0.3", "mask2former:score=0.3", "argmax:score=0.3"])
def test_competitions_in_few_operations_have_the_same_winners(rule: str, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randn(30, 12, 16, generator=generator)
    masks[7] = masks[3]  # of equals the first wins
    gate = torch.rand(30, generator=generator)
    gate[7] = gate[3] = 0.9
    frame = Frame((24, 32), (24, 30), (40, 50))
    candidates = Candidates(np.arange(30) % 5, gate.numpy(), gate, masks, frame, (True, True, True, False, False))

    def settled():
        chosen = parse_rule(rule)
        return chosen.settle(fuse([candidates], chosen)[0])

    ids, segments = settled()
    monkeypatch.setattr(feeding, "is_fed", lambda device: True)
    monkeypatch.setattr("panbench.models.rules.resize.ELEMENTS_AT_ONCE", 7 * 40 * 50)
    fed_ids, fed_segments = settled()
    assert (ids == fed_ids).all()
    assert segments == fed_segments


@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 1.0])
def test_painting_in_few_operations_keeps_the_same_instances(overlap: float, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(40, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 2 + torch.rand(40, 2, generator=generator) * 30], dim=1)
    instances = Instances(
        boxes=boxes,
        masks=torch.rand(40, 7, 7, generator=generator),
        labels=tuple(number % 3 for number in range(40)),
        scores=tuple(1 - number / 100 for number in range(40)),
        semantic_logits=torch.randn(4, 12, 16, generator=generator),
        semantic_labels=(3, 4, 5, -1),
        frame=Frame((48, 64), (48, 60), (60, 70)),
    )
    rule = parse_rule(f"panoptic-fpn:overlap={overlap},stuff_area=10")
    expected = rule.settle(fuse([instances], rule)[0])
    monkeypatch.setattr(feeding, "is_fed", lambda device: True)
    monkeypatch.setattr("panbench.models.rules.resize.ELEMENTS_AT_ONCE", 60 * 70 * 9)
    ids, segments = rule.settle(fuse([instances], rule)[0])
    assert (ids == expected[0]).all()
    assert segments == expected[1]


PLAYED = {"mmdet": (TINY, 0), "others": (list(tiny_networks.SPECS), 3)}


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
def test_a_batch_costs_at_most_two_waits(kind: str, counts: list[dict[str, Any]]):
    """Counted on a device that the CPU plays, for one image and for several.

    DETR's competition asks once a round: two where, as here, no query is left with a few pixels.
    """
    rows = [row for row in counts if row["model"] in PLAYED[kind][0]]
    assert len(rows) == 2 * len(PLAYED[kind][0])
    for row in rows:
        assert row["waits"] <= 2, row["places"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", TINY)
def test_cuda_is_asked_for_nothing_but_what_is_meant(name: str, tmp_path: Path):
    model = open_model(find_model(name), device="cuda")
    batch = [model.load(scene) for scene in scenes(tmp_path)]
    fuse(model.candidates(batch), model.rule)
    before = feeding.copies
    torch.cuda.set_sync_debug_mode("error")
    try:
        fuse(model.candidates(batch), model.rule)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert feeding.copies - before <= 2


def attention_case() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([(3, 4), (5, 7)])
    value = torch.randn(2, 12 + 35, 3, 12, generator=generator)
    # Some beyond the borders.
    places = torch.rand(2, 9, 3, 2, 4, 2, generator=generator) * 1.4 - 0.2
    return value, shapes, torch.tensor([0, 12]), places, torch.rand(2, 9, 3, 2, 4, generator=generator)


def test_deformable_attention_of_a_batch_is_that_of_each_image():
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


def test_a_kernel_of_the_hub_is_used_once_its_answer_is_pytorchs(hub):
    value, shapes, starts, places, weights = attention_case()
    found = operators.attend_deformably(value, shapes, starts, places, weights)
    assert torch.equal(found, operators.deformable_attention(value, shapes, places, weights))
    hub.factor = 2.0  # a mark of whose answer the next one is
    assert torch.equal(operators.attend_deformably(value, shapes, starts, places, weights), 2 * found)
    assert hub.asked == 1


@pytest.mark.parametrize(("factor", "why"), [(1.01, "its answer is not PyTorch's"), (None, "no connection")])
def test_a_kernel_that_is_wrong_or_cannot_be_had_is_left_out(factor, why, hub):
    hub.factor = factor
    value, shapes, starts, places, weights = attention_case()
    expected = operators.deformable_attention(value, shapes, places, weights)
    with pytest.warns(UserWarning, match=f"left out: {why}"):
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
