"""What is done on a device that is fed: the CPU's answers, and at most two waits a batch."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from panbench.catalog import find_model
from panbench.datasets import shapes
from panbench.models import feeding
from panbench.models.base import open_model
from panbench.models.candidates import Candidates, Frame, Instances
from panbench.models.mmdet import detection, operators, triton_attention
from panbench.models.rules import fuse, parse_rule
from panbench.panoptic.types import ImageInfo, Scene

REPO = Path(__file__).resolve().parents[2]
TINY = ["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny"]
SIZES = [(96, 128), (90, 120), (96, 101)]


def scenes(folder: Path) -> list[Scene]:
    found = []
    for index, size in enumerate(SIZES):
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
    for one, other in zip(expected, model.candidates(batch), strict=True):
        assert one.labels == other.labels
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-4, atol=1e-3)


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


@pytest.mark.slow
def test_a_batch_costs_at_most_two_waits(tmp_path: Path):
    """Counted on a device that the CPU plays, for one image and for several."""
    command = [sys.executable, str(REPO / "scripts" / "simulated_cuda.py"), "--device", "meta", "--batch", "1,3"]
    command += ["--model", ",".join(TINY), "--size", "96x128", "--weights", "auto", "--plant", "0"]
    target = tmp_path / "counts.json"
    path = os.pathsep.join([str(REPO), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, "--json", str(target)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = json.loads(target.read_text())
    assert len(rows) == 2 * len(TINY)
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


def test_the_triton_kernel_is_held_to_the_fallback():
    pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA wheels")
    script = (
        "from test_feeding import attention_case, operators, triton_attention\n"
        "found = triton_attention.attend(*attention_case(), fallback=operators.deformable_attention)\n"
        "assert found is not None\n"
    )
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PANBENCH_TRITON": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPO), str(Path(__file__).parent)])
    done = subprocess.run([sys.executable, "-W", "error::UserWarning:panbench", "-c", script], env=environment)
    assert done.returncode == 0


def test_a_kernel_that_is_wrong_or_does_not_compile_is_left_out(monkeypatch):
    monkeypatch.setattr(triton_attention, "_failed", [])
    monkeypatch.setattr(triton_attention, "_checked", set())
    monkeypatch.setattr(triton_attention, "_run", lambda value, shapes, starts, places, weights: torch.zeros(2, 9, 36))
    monkeypatch.setenv("PANBENCH_TRITON", "1")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert triton_attention.is_wanted(torch.device("cpu"))
    with pytest.warns(UserWarning, match="left out .*differs from PyTorch's answer"):
        assert triton_attention.attend(*attention_case(), fallback=operators.deformable_attention) is None
    assert not triton_attention.is_wanted(torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, shapes, starts, places, weights = attention_case()
        assert operators.attend_deformably(value, shapes, starts, places, weights, None).shape == (2, 9, 36)


def test_triton_is_off_by_default(monkeypatch):
    monkeypatch.delenv("PANBENCH_TRITON", raising=False)
    assert not triton_attention.is_wanted(torch.device("cuda"))
