"""`eval --size`: the same network on smaller and larger images, each in a run of its own."""

import json

import pytest
from support import evaluated, panbench, ran, refuses_without_torch

from panbench.base.errors import BadArgument
from panbench.catalog import find_model
from panbench.datasets import open_dataset
from panbench.models.opening import open_model
from panbench.runs import load_run
from panbench.studies.tradeoffs.further_runs import ScaledModel
from panbench.studies.tradeoffs.options import TradeoffOptions


@pytest.mark.parametrize("name", ["panoptic-fpn-tiny", "mask2former-tiny", "oneformer-tiny"])
def test_size_1_equals_the_ordinary_run_and_size_0_5_halves_the_input(name, tmp_path):
    data = open_dataset("shapes:96x128", limit=2)
    spec = find_model(name)
    plain = evaluated(spec, data, tmp_path / "plain")
    run = evaluated(spec, data, tmp_path / "run", studies=(TradeoffOptions(size="0.5,1"),))
    assert run.overlaps().equals(plain.overlaps())
    assert run.info.arguments == plain.info.arguments
    half = load_run(tmp_path / "run@size0.5")
    assert half.info.arguments["size"] == "0.5"
    assert half.info.model.name == f"{name}@size0.5"
    assert not half.overlaps().equals(plain.overlaps())
    model = open_model(spec)
    full, small = (each.load(data.scenes[0]).inputs.shape[-2:] for each in (model, ScaledModel(model, 0.5)))
    assert [2 * side for side in small] == list(full)
    assert set(json.loads((tmp_path / "run@sizes.json").read_text())["milliseconds"]) == {"0.5", "1"}


def test_a_model_of_one_size_is_refused():
    with pytest.raises(BadArgument, match="EoMT tiny takes images of one size only"):
        ScaledModel(open_model(find_model("eomt-tiny")), 0.5)


def test_impossible_sizes_are_refused_without_pytorch(tmp_path):
    line = ["eval", "--model", "mask2former-tiny", "--data", "shapes", "--size"]
    refuses_without_torch(
        tmp_path,
        [
            ([*line, "half"], "'half' is not a number"),
            ([*line, "0.5,9"], "9.0 is not between 0.1 and 4"),
            ([*line, ","], "no size is named"),
            ([*line, "0.5", "--tta", "flip"], "--tta shows a network several views"),
            ([*line, "0.5", "--corrupt", "fog:1"], "--corrupt and --size each make further runs"),
        ],
    )


def test_tradeoffs_finds_the_sizes_of_a_run(tmp_path):
    out = tmp_path / "fpn"
    ran("eval", "--model", "panoptic-fpn-tiny", "--data", "shapes:96x128", "--limit", 10, "--size", "0.5,1",
                    "--out", out)  # fmt: skip
    (found,) = json.loads(panbench("compare", "--tradeoffs", out, "--json").stdout)
    assert [step["size"] for step in found["steps"]] == [0.5, 1]
