"""Packed linear layers: PyTorch's answers, for one evaluation, decided once and recorded; off where nothing is won."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import evaluated
from torch import nn

from panbench.base.errors import BadRun
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.models import onednn
from panbench.models.opening import open_model
from panbench.models.rules import fuse

CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(not onednn._is_available(), reason="this PyTorch has no oneDNN")


@pytest.fixture(autouse=True)
def unasked(monkeypatch):
    monkeypatch.delenv(onednn.VARIABLE, raising=False)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


LAYERS = [
    pytest.param(nn.Linear(24, 40), (3, 7, 24), id="linear"),
    pytest.param(nn.Linear(24, 40, bias=False), (5, 24), id="linear without bias"),
    pytest.param(nn.Conv2d(24, 40, 1), (2, 24, 9, 5), id="1x1 convolution"),
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_a_packed_layer_equals_pytorch_and_is_restored(layer, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    with torch.inference_mode():
        expected = layer(values)
        with onednn.packed(layer):
            assert "forward" in vars(layer)
            for found in (layer(values), layer(values)):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert layer(values[:0]).shape == expected[:0].shape
    assert "forward" not in vars(layer)
    assert all(torch.equal(value, weights[name]) for name, value in layer.state_dict().items())


def test_layers_are_not_packed_where_gradients_are_computed(monkeypatch):
    layer, values = nn.Linear(6, 4), torch.ones(3, 6)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", None)
    with onednn.packed(layer):
        layer(values).sum().backward()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(values).dtype == torch.bfloat16
    assert torch.equal(layer.weight.grad, torch.full((4, 6), 3.0))


def test_an_evaluation_after_an_optimizer_step_has_the_new_weights():
    layer, values = nn.Linear(6, 4), torch.ones(3, 6)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(2):
        with torch.inference_mode(), onednn.packed(layer):
            torch.testing.assert_close(layer(values), F.linear(values, layer.weight, layer.bias))
        layer(values).square().sum().backward()
        optimizer.step()


def test_a_packed_layer_unlike_pytorch_is_not_used_and_reported(monkeypatch):
    layer, values = nn.Linear(6, 4), torch.ones(3, 6)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", lambda values, *_: torch.zeros(len(values), 4))
    with torch.inference_mode(), onednn.packed(layer):
        with pytest.warns(UserWarning, match="differs from PyTorch's"):
            assert torch.equal(layer(values), F.linear(values, layer.weight, layer.bias))
        assert torch.equal(layer(values), F.linear(values, layer.weight, layer.bias))


def test_a_layer_with_its_own_forward_is_not_packed():
    layer = nn.Linear(6, 4)
    layer.forward = own = lambda values: values
    with onednn.packed(layer):
        assert layer.forward is own
    assert layer.forward is own


@pytest.mark.parametrize(("ours", "faster"), [(0.5, True), (0.76, True), (0.8, False), (1.0, False), (1.2, False)])
def test_the_probe_chooses_onednn_only_if_clearly_faster(ours, faster, monkeypatch):
    spent = iter([9.0, 9.0] + [1.0, ours] * 5)
    monkeypatch.setattr(onednn, "_cpu_seconds", lambda work: next(spent))
    assert onednn.is_faster.__wrapped__() == faster


@pytest.mark.parametrize(
    ("asked", "is_faster", "precision", "parameters", "serves"),
    [
        (None, True, "fp32", 44_000_000, True),
        (None, True, "ieee", 44_000_000, True),
        (None, True, "fp32", 1_000_000, False),  # a light network gains nothing
        (None, False, "fp32", 44_000_000, False),
        (None, True, "bf16", 44_000_000, False),  # PyTorch takes oneDNN by itself
        ("0", True, "fp32", 44_000_000, False),
        ("1", False, "fp32", 1_000_000, True),
        ("1", False, "bf16", 44_000_000, False),
    ],
)
def test_an_environment_variable_decides_or_else_the_probe(
    asked, is_faster, precision, parameters, serves, monkeypatch
):
    if asked is not None:
        monkeypatch.setenv(onednn.VARIABLE, asked)
    monkeypatch.setattr(onednn, "is_faster", lambda: is_faster)
    assert onednn.serves(CPU, precision, parameters) == serves
    assert not onednn.serves(torch.device("cuda"), precision, parameters)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("family", ["mask2former", "maskformer", "panoptic-fpn", "eomt", "oneformer"])
def test_maps_of_packed_networks_equal_pytorchs(family):
    model = open_model(find_model(f"{family}-tiny"), device=CPU)
    for scene in open_dataset("shapes", limit=2).scenes:
        maps = []
        for packing in (contextlib.nullcontext(), onednn.packed(model.module)):
            with packing:
                (fused,) = fuse(model.candidates([model.load(scene)]), model.rule)
            maps.append(model.rule.to_segments(fused)[0])
        assert (maps[0] != maps[1]).mean() <= 1e-4
        assert len(np.unique(maps[0])) > 1
    assert not any("forward" in vars(part) for part in model.module.modules() if type(part) is nn.Linear)


def test_a_run_records_the_decision_and_resumes_only_with_it(monkeypatch, tmp_path):
    dataset, spec = open_dataset("shapes", limit=2), find_model("mask2former-tiny")
    plain = evaluated(spec, dataset, tmp_path / "plain")
    assert "linear" not in plain.info.arguments
    monkeypatch.setenv(onednn.VARIABLE, "1")
    packed = evaluated(spec, dataset, tmp_path / "packed")
    assert packed.info.arguments["linear"] == "oneDNN"
    assert packed.summary()["All"]["PQ"] == pytest.approx(plain.summary()["All"]["PQ"], abs=5e-5)
    with pytest.raises(BadRun, match="linear was None and is now 'oneDNN'"):
        evaluated(spec, dataset, tmp_path / "plain", resume=True)
    monkeypatch.setenv(onednn.VARIABLE, "0")
    with pytest.raises(BadRun, match="linear was 'oneDNN' and is now None"):
        evaluated(spec, dataset, tmp_path / "packed", resume=True)
