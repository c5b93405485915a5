"""`--precision fp32+openvino`: OpenVINO's answers are PyTorch's, or there is a message; the run says what computed."""

import importlib.machinery
import importlib.util
import sys
import types

import numpy as np
import pytest
from support import drawn, ran, refusal, refused

from panbench.base.errors import BadArgument, BadModel
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.evaluation.tools import benchmark
from panbench.runs import load_run
from panbench.studies.openvino import runtime

TINY = ("eval", "--model", "mask2former-tiny", "--data", "shapes", "--limit", "2")
BY = ("--precision", "fp32+openvino")
FAMILIES = ("panoptic-fpn", "maskformer", "mask2former", "oneformer", "eomt")


class Played:
    """OpenVINO as the study calls it: PyTorch answers in its place, `change` what it answers."""

    change = staticmethod(lambda value: value)

    def convert_model(self, network, example_input):
        self.network = network
        return self

    def Core(self):
        return self

    def compile_model(self, model, device, settings):
        assert (device, settings["INFERENCE_PRECISION_HINT"]) == ("CPU", "f32")
        return self

    def create_infer_request(self):
        return self

    def infer(self, arrays, share_inputs):
        import torch

        assert len(arrays[0]) == 1, "images go one by one"
        found = self.network(*map(torch.from_numpy, arrays))
        return {place: self.change(each.numpy()) for place, each in enumerate(found)}


@pytest.fixture
def played(monkeypatch):
    module, by = types.ModuleType("openvino"), Played()
    module.__spec__ = importlib.machinery.ModuleSpec("openvino", None)
    for name in ("convert_model", "Core"):
        setattr(module, name, getattr(by, name))
    module.__version__ = "1.2.3"
    monkeypatch.setitem(sys.modules, "openvino", module)
    return by


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp32+openvino", "--device", "cuda:1"), "computes on a CPU, and the device is cuda:1"),
        (("--precision", "fp32+openvino", "--device", "mps"), "computes on a CPU, and the device is mps"),
        (("--precision", "fp32+openvino", "--gpus", "2"), "computes on a CPU, and the device is cuda"),
        (("--precision", "bf16+openvino"), "computes in fp32, not in bf16"),
        (("--precision", "fp32+openvin"), "behind the + stands compile or openvino"),
    ],
)
def test_models_that_openvino_cannot_compute_are_refused(options, message, monkeypatch):
    monkeypatch.setattr("panbench.base.computing.importlib.metadata.version", lambda name: "2.13.0")
    assert message in " ".join(refused(*TINY, *options).split())


def test_without_openvino_the_error_has_the_install_command(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "_openvino_is_installed", lambda: False)
    said = refused(*TINY, *BY, "--out", tmp_path / "m")
    assert "needs the package openvino. Install it with: pip install" in said
    assert "[openvino]" in said


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(drawn(tmp_path_factory, 3))


@pytest.mark.slow
def test_bench_measures_what_openvino_changes(played, monkeypatch):
    monkeypatch.setattr(benchmark, "REFERENCE_IMAGE", (64, 96))
    report = benchmark.benchmark(
        [find_model("mask2former-tiny")], size=(64, 96), count=2, warm_up=1, device="cpu", precisions=["fp32+openvino"]
    )
    assert [(row.precision, row.status) for row in report.rows] == [("fp32", "ok"), ("fp32+openvino", "ok")]
    assert report.rows[1].pixels_differ == 0
    assert played.network is not None


@pytest.mark.slow
def test_a_run_records_its_runtime_and_resumes_only_with_it(played, dataset, tmp_path):
    line = ("eval", "--model", "mask2former-tiny", "--data", dataset.images.parent, "--out")
    plain, other = tmp_path / "plain", tmp_path / "other"
    ran(*line, plain)
    assert "fp32 by openvino" in ran(*line, other, *BY).stderr
    info = load_run(other).info
    assert (info.arguments["runtime"], info.versions["openvino"]) == ("OpenVINO", "1.2.3")
    assert "runtime" not in load_run(plain).info.arguments
    assert load_run(other).table.to_arrow().equals(load_run(plain).table.to_arrow())
    assert "¹ Computed by OpenVINO" in ran("compare", plain, other).output
    assert "runtime was None and is now 'OpenVINO'" in refused(*line, plain, *BY, "--resume")
    assert "runtime was 'OpenVINO' and is now None" in refused(*line, other, "--resume")


@pytest.mark.slow
def test_shards_of_another_runtime_are_not_merged(played, dataset, tmp_path):
    line = ("eval", "--model", "mask2former-tiny", "--data", dataset.images.parent, "--out")
    ran(*line, tmp_path / "m.1", "--shard", "1/2", *BY)
    ran(*line, tmp_path / "m.2", "--shard", "2/2")
    assert "runtime" in refused("runs", "merge", tmp_path / "m.1", tmp_path / "m.2", "--out", tmp_path / "m")


def opened(name="mask2former-tiny", **settings):
    from panbench.models.opening import open_model

    return open_model(find_model(name), device="cpu", **settings)


def computed(model):
    from panbench.studies.openvino.model import by_openvino

    return by_openvino(model)


@pytest.mark.slow
def test_a_model_handed_to_openvino_still_computes_in_pytorch_itself(played, dataset):
    model = opened()
    names = set(vars(model.module.backbone))
    other = computed(model)
    assert other.module.backbone.forward is other._computed
    assert set(vars(model.module.backbone)) == names
    assert "runtime" not in model.settings
    images = [model.load(scene) for scene in dataset.scenes[:2]]
    for ours, theirs in zip(other.candidates(images), model.candidates(images), strict=True):
        np.testing.assert_allclose(ours.gate, theirs.gate, rtol=1e-4)  # a batch of two is summed otherwise
    assert other._computed.answers == 2


@pytest.mark.slow
@pytest.mark.parametrize("change", [lambda value: value + 0.1 * abs(value).max(), lambda value: value[..., :-1]])
def test_an_output_unlike_pytorchs_is_refused(change, played, dataset):
    model = computed(opened())
    image = model.load(dataset.scenes[0])
    model.candidates([image])
    played.change = change
    model.candidates([image])  # a size that was compared is trusted
    larger = opened().scaled(2).load(dataset.scenes[0])
    height, width = larger.inputs.shape[-2:]
    said = refusal(BadModel, model.candidates, [larger])
    assert f"OpenVINO's answer of Mask2Former tiny for an image of {height}×{width} is not PyTorch's" in said


@pytest.mark.slow
def test_a_failed_conversion_is_reported_with_the_reason(played, dataset, monkeypatch):
    def fail(network, example_input):
        raise RuntimeError("Check failed\nNo conversion rule found for operations: aten::nan_to_num_\n")

    monkeypatch.setattr(sys.modules["openvino"], "convert_model", fail)
    model = computed(opened())
    said = refusal(BadModel, model.candidates, [model.load(dataset.scenes[0])])
    assert said.startswith("OpenVINO cannot convert Mask2Former tiny (RuntimeError: No conversion rule found")


@pytest.mark.slow
def test_a_network_whose_forward_is_not_called_is_refused(played, dataset, monkeypatch):
    model = computed(opened())
    monkeypatch.setattr(model.module, "backbone", opened().module.backbone)
    assert "would compute nothing" in refusal(BadModel, model.candidates, [model.load(dataset.scenes[0])])


@pytest.mark.slow
def test_functions_layers_and_compiled_networks_are_refused(played):
    assert "runs a network in parts" in refusal(BadArgument, computed(opened()).with_copied_network)
    assert "torch.compile" in refusal(BadArgument, computed, opened("mask2former-tiny", compiled=True))
    function = types.SimpleNamespace(spec=find_model("mask2former-tiny"))
    assert "is a function of its own" in refusal(BadModel, computed, function)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
@pytest.mark.parametrize("family", FAMILIES)
def test_maps_by_openvino_equal_pytorchs_at_every_size(family):
    from panbench.models.rules import fuse

    model = opened(f"{family}-tiny")
    other = computed(model)
    for size in ("128x160", "96x192", "160x96"):
        (scene,) = open_dataset(f"shapes:{size}", limit=1).scenes
        images = [model.load(scene)] * 2
        maps = [
            [way.rule.to_segments(each)[0] for each in fuse(way.candidates(images), way.rule)] for way in (model, other)
        ]
        for theirs, ours in zip(*maps, strict=True):
            assert (theirs != ours).mean() <= 1e-3
            assert len(np.unique(ours)) > 1
    assert other._computed.answers == 6


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_openvino_is_imported_without_its_telemetry():
    from support import python

    code = (
        "import sys; from panbench.studies.openvino.model import _import_openvino; _import_openvino(); "
        "print(sys.modules.get('openvino_telemetry'))"
    )
    assert python("-c", code).stdout == "None\n"
