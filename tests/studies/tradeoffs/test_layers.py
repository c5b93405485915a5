"""`eval --layers`: what the heads answer after each decoder layer, from one forward pass."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import Recorder, evaluated, panbench, ran, refusal, refuses_without_torch

from panbench.base.errors import BadArgument, BadRun
from panbench.catalog import ModelSpec, find_model
from panbench.datasets import open_dataset, shapes
from panbench.models.candidates import Candidates
from panbench.models.host import HostedModel
from panbench.models.opening import open_model
from panbench.runs import load_run
from panbench.studies.tradeoffs.layered_model import LayeredCandidates, LayeredModel, LayerRule, cut_after_layer
from panbench.studies.tradeoffs.options import TradeoffOptions
from scripts.make.tiny_networks import SPECS

LAYERS = 3


def _with_layers(spec: ModelSpec, layers: int) -> ModelSpec:
    """A network of `tiny_networks` with so many decoder layers."""
    settings = copy.deepcopy(dict(spec.settings))
    network = settings.get("network", settings)
    kind = network.get("model_type")
    if kind == "maskformer":
        network["decoder_config"]["decoder_layers"] = layers
    elif kind in ("eomt", "eomt_dinov3"):
        network |= {"num_hidden_layers": 1 + layers, "num_blocks": layers}
    elif kind == "oneformer":
        # One of those that its config counts are the learned queries.
        network["decoder_layers"] = layers + 1
    elif kind == "mask2former":
        # Its config counts likewise.
        network["decoder_layers"] = layers + 1
    else:
        network["decoder_layers"] = layers
    return dataclasses.replace(spec, settings=settings)


def _of_mmdet(name: str, layers: int, folder: Path) -> ModelSpec:
    """The tiny model of the catalogue with so many decoder layers, from a config of its own."""
    path = folder / f"{name}-{layers}.py"
    base = find_model(name).config
    path.write_text(
        f"_base_ = [{str(base)!r}]\nmodel = dict(panoptic_head=dict(transformer_decoder=dict(num_layers={layers})))\n"
    )
    return dataclasses.replace(find_model(name), config=path)


FAMILIES = ("mask2former-tiny", "maskformer-tiny", *SPECS)


def _opened(name: str, layers: int, folder: Path) -> HostedModel:
    spec = _of_mmdet(name, layers, folder) if name not in SPECS else _with_layers(SPECS[name], layers)
    with pytest.MonkeyPatch.context() as patched:
        # Formatting a config takes longer than building its network; runs record the text, and there is no run here.
        patched.setattr("panbench.models.mmdet.adapter.config_text", lambda config: "")
        model = open_model(spec, weights="random", seed=7)
    assert isinstance(model, HostedModel)
    model.adapter.resize = dataclasses.replace(model.adapter.resize, short=None)
    return model


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    # Two sizes: one padded, one whose sides no stride divides.
    sets = [tmp_path_factory.mktemp("scenes") for _ in range(2)]
    for folder, count, size in zip(sets, (2, 1), ((64, 96), (75, 101)), strict=True):
        shapes.generate(folder, count=count, size=size)
    return tuple(scene for folder in sets for scene in open_dataset(folder).scenes)


@pytest.fixture(scope="module", params=FAMILIES)
def whole(request, tmp_path_factory):
    return request.param, _opened(request.param, LAYERS, tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def layers(whole):
    return LayeredModel(whole[1], None)


def _are_equal(one: Candidates, other: Candidates) -> None:
    assert np.array_equal(one.labels, other.labels)
    assert np.array_equal(one.gate, other.gate)
    for name in ("weight", "masks", "class_scores", "boxes"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left is None) == (right is None)
        assert left is None or torch.equal(left, right), name
    assert one.frame == other.frame


def test_the_last_layer_equals_the_model_bit_for_bit(whole, layers, scenes):
    _, model = whole
    assert (layers.count, layers.earlier) == (LAYERS, (1, 2))
    for scene in scenes:
        batch = [model.load(scene)]
        (expected,) = model.candidates(batch)
        (found,) = layers.candidates(batch)
        _are_equal(found, expected)


def test_an_earlier_layer_equals_a_network_built_with_so_many_layers(whole, layers, scenes, tmp_path):
    name, model = whole
    batches = [[model.load(scene)] for scene in scenes]
    answers = [layers.candidates(batch)[0] for batch in batches]
    for layer in (1, 2):
        built = _opened(name, layer, tmp_path)
        known = model.module.state_dict()
        taken = {key: known[key] for key in built.module.state_dict()}
        if "attn_mask_probs" in taken:  # a number for each block of EoMT
            taken["attn_mask_probs"] = taken["attn_mask_probs"][:layer]
        built.module.load_state_dict(taken)
        for batch, answer in zip(batches, answers, strict=True):
            (expected,) = built.candidates(batch)
            _are_equal(answer.earlier[layer], expected)
        # The layers are worth something: not all of them give the same.
        assert not torch.equal(answers[0].earlier[layer].masks, answers[0].masks)


def test_a_batch_has_the_layers_of_each_of_its_images(whole, scenes):
    _, model = whole
    layers = LayeredModel(model, (1,))
    batch = [model.load(scene) for scene in scenes[:2]]
    cut = cut_after_layer(model, 1).candidates(batch)
    for found, expected in zip(layers.candidates(batch), cut, strict=True):
        _are_equal(found.earlier[1], expected)


def test_layer_copies_share_weights_and_leave_the_network_unchanged(whole, scenes):
    _, model = whole
    before = list(model.module.state_dict())
    cut = cut_after_layer(model, 1)
    LayeredModel(model, None).candidates([model.load(scenes[0])])
    assert list(model.module.state_dict()) == before
    own = {value.data_ptr() for value in model.module.parameters()}
    assert {value.data_ptr() for value in cut.module.parameters()} < own


def test_layers_are_scored_into_runs_next_to_the_models(tmp_path):
    data = open_dataset("shapes:96x128", limit=4)
    spec = find_model("mask2former-tiny")
    plain = evaluated(spec, data, tmp_path / "plain")
    run = evaluated(spec, data, tmp_path / "run", studies=(TradeoffOptions(layers="all"),))
    # The run of the last layer is the run that it would be without the option.
    assert run.overlaps().equals(plain.overlaps())
    assert run.info.arguments == plain.info.arguments
    assert run.summary() == plain.summary()
    beside = {path.name: load_run(path) for path in sorted(tmp_path.glob("run@layer*")) if path.is_dir()}
    assert list(beside) == ["run@layer1", "run@layer2"]
    for layer, found in enumerate(beside.values(), start=1):
        model = found.info.model
        assert (model.name, model.title) == (f"mask2former-tiny@layer{layer}", f"Mask2Former tiny@layer{layer}")
        assert found.info.arguments["layer"] == f"{layer} of 3"
        assert found.info.rule == run.info.rule
        assert model.weights_sha256 == run.info.model.weights_sha256
        assert found.images.tolist() == run.images.tolist()
        # As the network cut after the layer is scored by itself.
        cut = cut_after_layer(open_model(spec), layer)
        from panbench.evaluation.evaluate import evaluate

        alone = evaluate(cut, data, tmp_path / f"alone-{layer}")
        assert found.overlaps().equals(alone.overlaps())
    times = json.loads((tmp_path / "run@layers.json").read_text())
    assert list(times["milliseconds"]) == ["1", "2", "3"]
    assert {len(spent) for spent in times["milliseconds"].values()} == {4}
    # By the clock, a loaded machine would show its load as the network's time.
    assert times["clock"] == "CPU"
    assert isinstance(times["load"], float)


def test_layers_are_added_to_a_finished_run_by_resuming(tmp_path):
    data = open_dataset("shapes:96x128", limit=2)
    spec = find_model("maskformer-tiny")
    before = evaluated(spec, data, tmp_path / "run")
    reporter = Recorder()
    asked = (TradeoffOptions(layers="1"),)
    run = evaluated(spec, data, tmp_path / "run", reporter, resume=True, studies=asked)
    assert run.info.id == before.info.id
    assert len(load_run(tmp_path / "run@layer1").images) == 2
    assert "run@layer1 already exist" in refusal(BadRun, evaluated, spec, data, tmp_path / "run", studies=asked)


def test_missing_layers_are_refused():
    model = open_model(find_model("mask2former-tiny"))
    with pytest.raises(BadArgument, match=r"Mask2Former tiny has 3 decoder layers, and --layers names 4 and 9"):
        LayeredModel(model, (1, 4, 9))
    with pytest.raises(BadArgument, match="Panoptic FPN tiny has no decoder of layers"):
        LayeredModel(open_model(find_model("panoptic-fpn-tiny")), None)


def test_the_rule_of_a_layer_is_recorded_as_the_models_rule():
    paper = find_model("mask2former-tiny")
    rule = open_model(paper).rule
    one = LayerRule(rule, 1, 3)
    assert (one.name, str(one), one.record(), one.called) == (rule.name, str(rule), rule.record(), rule.called)
    assert one != LayerRule(rule, 2, 3)
    assert isinstance(LayeredCandidates, type)


def test_layers_that_cannot_be_scored_are_refused_without_pytorch(tmp_path):
    line = ["eval", "--model", "mask2former-tiny", "--data", "shapes"]
    fpn = ["eval", "--model", "panoptic-fpn-tiny", "--data", "shapes"]
    refuses_without_torch(
        tmp_path,
        [
            ([*line, "--layers", "0"], "'0' is not the number of a layer"),
            ([*line, "--layers", "1,two"], "'two' is not the number of a layer"),
            ([*line, "--layers", "all", "--size", "0.5"], "--layers and --size make two tables"),
            ([*line, "--layers", "all", "--tta", "flip"], "--tta shows a network several views"),
            ([*line, "--layers", "all", "--corrupt", "fog:1"], "--corrupt and --layers each make further runs"),
            ([*line, "--layers", "all", "--metrics", "pq,ap"], "--metrics ap and miou read the last layer alone"),
            ([*fpn, "--layers", "all"], "Panoptic FPN tiny has no decoder of layers"),
        ],
    )
    assert not (tmp_path / "results").exists()


def test_compare_and_tradeoffs_find_the_runs_of_the_command(tmp_path):
    out = tmp_path / "m2f"
    made = ran("eval", "--model", "mask2former-tiny", "--data", "shapes:96x128", "--limit", 10, "--layers", "1,2",
                    "--out", out)  # fmt: skip
    assert f"panbench compare --tradeoffs {out}`" in " ".join(made.stderr.split())
    table = panbench("compare", out, f"{out}@layer1", f"{out}@layer2")
    assert "Mask2Former tiny@layer1" in table.stdout
    found = json.loads(panbench("compare", "--tradeoffs", out, "--json").stdout)
    (layers,) = found
    assert [step["layer"] for step in layers["steps"]] == [1, 2, 3]
    expected = [load_run(folder).summary()["All"]["PQ"] for folder in (f"{out}@layer1", f"{out}@layer2", out)]
    assert [step["PQ"] for step in layers["steps"]] == pytest.approx(expected)
