"""`compare --tradeoffs` and the section of the page: steps beside a run, their times, and runs that do not belong."""

import json
import shutil

import pytest
from report_runs import data_of, text_of
from support import edited, refusal

from panbench.base.errors import BadRun
from panbench.base.reporter import Collected
from panbench.report.figures.colors import styles_by_name
from panbench.report.pages.page.document import report_page
from panbench.runs import load_run
from panbench.studies.tradeoffs.answer import TradeoffAnswer, tradeoff_curves, tradeoffs
from panbench.studies.tradeoffs.plot import tradeoff_figure


def beside(source, folder, layer):
    """A copy of a run as that of a layer of three."""
    shutil.copytree(source.path, folder)
    with edited(folder / "run.json") as record:
        record["arguments"] = {**record.get("arguments", {}), "layer": f"{layer} of 3"}


@pytest.fixture
def layers(make_runs, tmp_path):
    """A run whose first two layers have runs beside it: of the first another's answers, of the second its own."""
    good, other = make_runs(images=12)
    home = shutil.copytree(good.path, tmp_path / "m2f")
    beside(other, tmp_path / "m2f@layer1", 1)
    beside(good, tmp_path / "m2f@layer2", 2)
    with edited(tmp_path / "m2f@layer1" / "run.json") as record:
        # The other run has a model of its own.
        record["model"], record["rule"] = (
            json.loads((home / "run.json").read_text("utf-8"))[key] for key in ("model", "rule")
        )
    weights = load_run(home).info.model and load_run(home).info.model.weights_sha256
    spent = {"1": [10, 10, 14], "2": [20, 20, 20], "3": [40, 40, 40]}
    (tmp_path / "m2f@layers.json").write_text(
        json.dumps(
            {"weights_sha256": weights, "device": "cpu", "threads": 2, "precision": "fp32", "milliseconds": spent}
        )
    )
    return load_run(home), good, other


def test_a_layer_equal_to_the_last_loses_nothing_and_times_are_medians(layers):
    run, good, other = layers
    (found,) = tradeoffs([run])
    first, second, last = found.steps
    assert [step.number for step in found.steps] == [1, 2, 3]
    assert [step.is_run for step in found.steps] == [False, False, True]
    assert second.PQ == last.PQ == pytest.approx(good.summary()["All"]["PQ"])
    assert (second.lost, second.lost_low, second.lost_high, second.p) == (0, 0, 0, 1)
    assert first.lost == pytest.approx(good.summary()["All"]["PQ"] - other.summary()["All"]["PQ"])
    assert [step.milliseconds[0] for step in found.steps] == [10, 20, 40]
    assert found.enough is (first if first.p >= 0.05 or first.lost <= 0 else second)
    answer = TradeoffAnswer((found,), digits=1)
    (grid,) = answer.grids
    assert [row[-1] for row in grid.rows] == ["4.00×", "2.00×", "1.00×"]
    (record,) = answer.record()
    assert [step["milliseconds"] for step in record["steps"]] == [10, 20, 40]
    styles = styles_by_name(["m2f"], [found.run])
    assert tradeoff_figure(tradeoff_curves([found], ["m2f"]), styles).axes[0].get_xlabel() == "ms/image"


def test_steps_of_other_images_or_weights_are_refused(layers, tmp_path):
    run, _, _ = layers
    path = tmp_path / "m2f@layer1" / "run.json"
    record = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**record, "precision": "bf16"}), "utf-8")
    with pytest.raises(BadRun, match=r"m2f@layer1 differs from .*m2f: precision was None and is 'bf16'"):
        tradeoffs([run])
    del record["arguments"]["layer"]
    path.write_text(json.dumps(record), "utf-8")
    assert "does not say which layer it is of" in refusal(BadRun, tradeoffs, [run])


def test_a_run_without_steps_is_refused_with_the_command_that_makes_them(make_runs):
    run, _ = make_runs(images=10)
    assert "panbench eval --layers all --resume" in refusal(BadRun, tradeoffs, [run])


def test_times_of_other_weights_are_ignored(layers, tmp_path):
    run, _, _ = layers
    path = tmp_path / "m2f@layers.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "weights_sha256": "of another"}))
    (found,) = tradeoffs([run], tested=False)
    assert [step.milliseconds for step in found.steps] == [None] * 3
    path.write_text("[]")
    assert "is not a file of times" in refusal(BadRun, tradeoffs, [run])


def test_the_page_plots_pq_against_time_of_each_decoder_layer(layers, make_runs):
    run, good, _ = layers
    page = report_page([run])
    (curve,) = data_of(page)["curves"]["tradeoffs-layers"]["series"]
    assert "tradeoffs-sizes" not in data_of(page)["curves"], "sizes have a panel of their own"
    assert [point[0] for point in curve["points"]] == [0.25, 0.5, 1]
    # Each point has its name and the middle half of its times.
    assert [point[5:] for point in curve["points"]] == [["1", 0.25, 0.3], ["2", 0.5, 0.5], ["3", 1, 1]]
    assert "layer 2" in text_of(page)
    assert "panbench eval … --layers all" in text_of(report_page([good]))


def test_runs_of_layers_are_not_separate_models_of_the_page(layers):
    run, *_ = layers
    steps = [load_run(run.path.with_name(f"m2f@layer{number}")) for number in (1, 2)]
    told = Collected()
    page = report_page([*steps, run], reporter=told)
    assert len(data_of(page)["models"]) == 1
    assert any("m2f@layer1" in notice and "m2f@layer2" in notice for notice in told.notices)
    assert len(data_of(report_page(steps))["models"]) == 2, "without their run they are what there is"
