"""Published results: chosen by name, on the split of the runs, marked as claims."""

import json
import shutil
from pathlib import Path

import pytest
from support import panbench

from panbench.base.errors import BadArgument
from panbench.published import choose, published_results
from panbench.report.answers.comparison import standing
from panbench.report.answers.published import published_grid, published_row, with_published
from panbench.report.answers.views import compared
from panbench.report.figures.plots import CLAIMED, draw_plot
from panbench.runs import load_run
from panbench.scoring.folder import score_folder

ON_VAL = {"dataset": "coco", "split": "val2017"}


@pytest.fixture(scope="module")
def coco_run(tmp_path_factory):
    """A scored run that calls itself COCO val2017."""
    folder = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"
    path = tmp_path_factory.mktemp("runs") / "mine"
    score_folder(folder / "gt.json", folder / "pred.json", out=path, index=False)
    info = json.loads((path / "run.json").read_text())
    info["dataset"] |= {"name": "coco", "split": "val2017"}
    (path / "run.json").write_text(json.dumps(info))
    return path


def test_every_row_has_a_pq_a_source_and_sane_numbers():
    results = published_results()
    assert len(results) == 70
    for result in results:
        assert result.source
        assert 0.35 < result.PQ < 0.65, result
        if result.PQ_th is not None:
            # 80 things and 53 stuff classes: PQ lies between the two, to the rounding of the table.
            assert result.PQ == pytest.approx((80 * result.PQ_th + 53 * result.PQ_st) / 133, abs=0.0025), result
        assert result.params is None or 10_000_000 < result.params < 2_000_000_000
    r50 = next(result for result in results if result.title == "Mask2Former R50")
    assert (r50.PQ, r50.PQ_th, r50.PQ_st, r50.params, r50.gflops) == (0.519, 0.577, 0.43, 44_000_000, 226)


def test_a_model_a_backbone_or_both_choose():
    assert {result.model for result in choose(["Mask DINO"])} == {"Mask DINO"}
    assert {result.backbone for result in choose(["r50"])} == {"R50"}
    assert {result.title for result in choose(["mask2former swin-l"])} == {"Mask2Former Swin-L"}
    both = choose(["mask2former R50", "MaskFormer R50"])
    assert {result.title for result in both} == {"Mask2Former R50", "MaskFormer R50"}
    assert len(choose([])) == len(choose(["all"])) == 70
    assert {result.split for result in choose(["R50"], **ON_VAL)} == {"val2017"}


def test_maskformer_is_not_mask2former():
    assert {result.model for result in choose(["maskformer"])} == {"MaskFormer"}


def test_what_nobody_published_is_refused_with_what_there_is():
    with pytest.raises(BadArgument, match=r"Nothing is published here of 'YOLO': the models are DETR, EoMT"):
        choose(["YOLO"])
    with pytest.raises(BadArgument, match=r"What is published of 'R50' is on coco test-dev, coco val2017, not on"):
        choose(["R50"], dataset="coco", split="train2017")


def test_claims_stand_under_the_measured_rows_and_are_never_best(coco_run):
    shown = panbench("compare", coco_run, "--published", "Mask DINO R50", "--published", "mask2former r50")
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    measured = next(number for number, line in enumerate(lines) if line.startswith("mine"))
    claims = [number for number, line in enumerate(lines) if "(published)" in line and "51.90" in line]
    assert claims
    assert min(claims) > measured
    assert "A claim, not measured here: arXiv 2112.01527v3, table 1" in shown.stdout
    rows = json.loads(panbench("compare", coco_run, "--published", "mask2former r50", "--format", "json").stdout)
    assert [row["status"] for row in rows] == ["done", "published", "published"]
    assert rows[1]["PQ"] == 0.519
    assert rows[1]["rank"] is None
    assert not published_row(choose(["mask2former r50"])[0]).believable
    latex = panbench("compare", coco_run, "--published", "mask2former r50", "--format", "latex").stdout
    assert "51.9" in latex
    assert r"\textbf{51.9}" not in latex


def test_superseded_claims_are_listed_but_not_compared_with(coco_run):
    assert any(result.superseded for result in choose(["Panoptic SegFormer"]))
    rows = with_published(standing([load_run(coco_run)]), ["Panoptic SegFormer"]).rows
    assert len(rows) > 1
    assert not any("superseded" in note for row in rows for note in row.notes)


def test_claims_on_another_split_or_dataset_are_refused(coco_run, tmp_path):
    folder = Path(__file__).resolve().parents[1] / "reference" / "pq_edges"
    score_folder(folder / "gt.json", folder / "pred.json", out=tmp_path / "other", index=False)
    refused = panbench("compare", tmp_path / "other", "--published", "R50")
    assert refused.exit_code == 2
    assert "What is published of 'R50' is on coco test-dev, coco val2017, not on gt." in refused.output
    mixed = panbench("compare", coco_run, tmp_path / "other", "--mixed", "--published", "R50")
    assert mixed.exit_code == 2
    assert "--published needs runs of one dataset and split" in mixed.output


def test_the_list_filters_and_says_that_nothing_was_measured():
    shown = panbench("published", "Mask DINO", "--split", "val2017")
    assert shown.exit_code == 0
    assert "Mask DINO R50 [" in shown.stdout
    assert "nothing here was measured by panbench" in shown.stdout
    assert "Mask2Former" not in shown.stdout
    records = json.loads(panbench("published", "R50", "--json").stdout)
    assert {record["backbone"] for record in records} == {"R50"}
    assert all(0 < record["PQ"] < 1 for record in records)
    assert panbench("published", "YOLO").exit_code == 2


def test_columns_that_no_result_fills_are_left_out():
    assert "AP_th" not in published_grid(choose(["K-Net"])).columns
    assert "AP_th" in published_grid(choose(["Mask2Former"])).columns


@pytest.mark.parametrize("kind", CLAIMED)
def test_a_plot_draws_claims_hollow_and_says_that_they_are_claimed(coco_run, kind):
    members, _ = compared([load_run(coco_run)])
    figure, table = draw_plot(kind, members, published=choose(["Mask2Former", "MaskFormer R50"], **ON_VAL))
    claims = table[table["claimed"].astype(bool)]
    assert len(claims) > 3
    assert claims[kind].notna().all()
    assert claims["source"].str.len().gt(0).all()
    (hollow,) = (line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none")
    assert sorted(hollow.get_ydata()) == pytest.approx(sorted(100 * claims["PQ"]))
    assert sorted(hollow.get_xdata()) == pytest.approx(sorted(claims[kind]))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["claimed, not measured here"], "the run itself has neither parameters nor GFLOPs"
    named = {text.get_text() for text in figure.axes[0].texts}
    assert named == {name.removesuffix(" (claimed)") for name in claims["run"]}


def test_a_model_of_the_catalogue_has_its_published_gflops(coco_run, tmp_path):
    info = json.loads((coco_run / "run.json").read_text("utf-8"))
    info["model"] = {"name": "mask2former-r50", "title": "Mask2Former R50", "params": 44_000_000}
    shutil.copytree(coco_run, tmp_path / "m2f")
    (tmp_path / "m2f" / "run.json").write_text(json.dumps(info), "utf-8")
    out = tmp_path / "plot.pdf"
    made = panbench("show", "plot", "gflops", tmp_path / "m2f", "--published", "mask2former", "--out", out, "--csv")
    assert made.exit_code == 0, made.output
    lines = out.with_suffix(".csv").read_text("utf-8").splitlines()
    measured = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
    assert (float(measured["gflops"]), measured["claimed"]) == (226, "False")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["gflops"], "It shows published results (--published NAME)"),
        (["speed", "--published", "all"], "--published goes with params or gflops"),
        (["params", "--published", "SOLOv2"], "None of these published results states its parameters"),
        (["params", "--published", "YOLO"], "Nothing is published here of 'YOLO'"),
        (["colour"], "There is no plot 'colour'"),
    ],
)
def test_plots_of_what_is_not_known_are_refused(coco_run, tmp_path, words, sentence):
    told = panbench("show", "plot", words[0], coco_run, *words[1:], "--out", tmp_path / "x.pdf")
    assert told.exit_code == 2, told.output
    assert sentence in told.stderr
    assert not (tmp_path / "x.pdf").exists()


def test_tables_of_claims_have_their_gflops_in_latex_too(coco_run):
    latex = panbench("compare", coco_run, "--published", "mask2former r50", "--format", "latex").stdout
    assert "GFLOPs" in latex
    assert " 226 " in latex
    assert "GFLOPs" not in panbench("compare", coco_run, "--format", "latex").stdout
