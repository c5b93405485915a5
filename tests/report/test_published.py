"""Published results: chosen by name, on the split of the runs, marked as claims."""

import json
import shutil
from pathlib import Path

import pytest
from support import edited, panbench, ran, refusal, refused

from panbench.base.errors import BadArgument
from panbench.published import choose, gflops_of, published_results
from panbench.report.answers.comparison import compare
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
    score_folder(folder / "gt.json", folder / "pred.json", out=path)
    with edited(path / "run.json") as info:
        info["dataset"] |= {"name": "coco", "split": "val2017"}
    return path


def test_every_row_has_a_pq_a_source_and_sane_numbers():
    results = published_results()
    assert len(results) == 138
    for result in results:
        assert result.source
        assert 0.35 < result.PQ < 0.71, result
        if result.PQ_th is not None:
            # PQ lies between the two, by the number of classes, to the rounding of the table.
            things, stuff = {"coco": (80, 53), "cityscapes": (8, 11)}[result.dataset]
            mean = (things * result.PQ_th + stuff * result.PQ_st) / (things + stuff)
            assert result.PQ == pytest.approx(mean, abs=0.0025), result
        if result.SQ is not None:
            # Means of products are not products of means, and yet not far off.
            assert result.PQ == pytest.approx(result.SQ * result.RQ, abs=0.02), result
        assert result.params is None or 5_000_000 < result.params < 2_000_000_000
    r50 = next(result for result in results if result.title == "Mask2Former R50")
    assert (r50.PQ, r50.PQ_th, r50.PQ_st, r50.params, r50.gflops) == (0.519, 0.577, 0.43, 44_000_000, 226)


def test_published_results_are_chosen_by_model_backbone_or_both():
    assert {result.model for result in choose(["Mask DINO"])} == {"Mask DINO"}
    assert {result.backbone for result in choose(["r50"])} == {"R50"}
    assert {result.title for result in choose(["mask2former swin-l"])} == {"Mask2Former Swin-L"}
    both = choose(["mask2former R50", "MaskFormer R50"])
    assert {result.title for result in both} == {"Mask2Former R50", "MaskFormer R50"}
    assert len(choose([])) == len(choose(["all"])) == 138
    assert {result.split for result in choose(["R50"], **ON_VAL)} == {"val2017"}


def test_of_two_versions_of_a_table_the_later_one_counts():
    detr = {(row.gflops, row.superseded) for row in choose(["DETR R50"], **ON_VAL)}
    assert detr == {(None, False), (248, False), (137, True)}
    assert gflops_of("DETR R50") == 248
    assert gflops_of("DETR R101") == 306
    knet = {row.PQ: row for row in choose(["K-Net R50"], **ON_VAL)}
    assert (knet[0.451].PQ_th, knet[0.451].PQ_st, knet[0.451].superseded) == (0.503, 0.373, True)
    assert not knet[0.471].superseded
    assert 0.515 in {row.PQ for row in choose(["Mask2Former R50"], **ON_VAL)}
    (dev,) = choose(["Panoptic SegFormer Swin-L"], dataset="coco", split="test-dev")
    assert dev.PQ == 0.562
    cityscapes = choose(["Mask2Former Swin-L"], dataset="cityscapes", split="val")
    assert [row.PQ for row in cityscapes] == [0.666]


def test_a_model_trained_on_more_data_is_another_system():
    large = {row.title: row for row in choose(["Mask DINO Swin-L"])}
    assert large["Mask DINO Swin-L (IN-22K + O365)"].PQ == 0.594
    assert large["Mask DINO Swin-L"].PQ == 0.583
    shown = panbench("models", "--filter", "Mask DINO Swin-L", columns=120).stdout
    assert "Mask DINO Swin-L (IN-22K + O365)" in shown
    assert "59.4" in shown
    # Backbones that saw ImageNet alone are the same system, whoever pre-trained them.
    assert next(row for row in choose(["Mask2Former Swin-L"])).title == "Mask2Former Swin-L"


def test_the_list_has_speed_queries_pre_training_and_box_ap():
    shown = panbench(
        "models", "--published", "--filter", "Mask2Former Swin-L, Mask DINO R50 val2017", columns=200
    ).stdout
    lines = {line.split(" [")[0]: line.split() for line in shown.splitlines() if " [" in line}
    heads = next(line for line in shown.splitlines() if "pre-training" in line)
    assert all(head in heads for head in ("fps", "queries", "box AP_th"))
    assert {"200", "4", "ImageNet-21k"} <= set(lines["Mask2Former Swin-L"])
    assert {row.AP_box_pan_th for row in choose(["Mask DINO R50"])} == {0.477, 0.488, 0.464, 0.432}
    assert "fps: on the authors' own machines" in shown


def test_results_of_kmax_and_oneformer_equal_their_readmes():
    (kmax,) = (row for row in choose(["kMaX-DeepLab R50"], **ON_VAL) if row.SQ)
    assert (kmax.PQ, kmax.SQ, kmax.RQ, kmax.PQ_th, kmax.PQ_st) == (0.533, 0.832, 0.633, 0.588, 0.45)
    (dinat,) = choose(["OneFormer DiNAT-L"], **ON_VAL)
    assert (dinat.PQ_th, dinat.PQ_st, dinat.AP_pan_th, dinat.mIoU_pan) == (0.643, 0.484, 0.492, 0.681)


def test_maskformer_is_not_mask2former():
    assert {result.model for result in choose(["maskformer"])} == {"MaskFormer"}


def test_unpublished_combinations_are_refused_with_the_known_ones():
    assert "Nothing is published here of 'YOLO': the models are DETR, EoMT" in refusal(BadArgument, choose, ["YOLO"])
    with pytest.raises(
        BadArgument,
        match=r"What is published of 'R50' is on ade20k val, cityscapes val, coco test-dev, coco val2017, mapil",
    ):
        choose(["R50"], dataset="coco", split="train2017")


def test_claims_are_below_measured_rows_and_never_best(coco_run):
    shown = ran("compare", coco_run, "--published", "Mask DINO R50", "--published", "mask2former r50")
    lines = shown.stdout.splitlines()
    measured = next(number for number, line in enumerate(lines) if line.startswith("mine"))
    claims = [number for number, line in enumerate(lines) if "(published)" in line and "51.90" in line]
    assert claims
    assert min(claims) > measured
    assert "A claim, not measured here: arXiv 2112.01527v3, table 1" in shown.stdout
    rows = json.loads(panbench("compare", coco_run, "--published", "mask2former r50", "--format", "json").stdout)
    assert [row["status"] for row in rows] == ["done", "published", "published", "published"]
    assert rows[1]["PQ"] == 0.519
    assert rows[1]["rank"] is None
    assert not published_row(choose(["mask2former r50"])[0]).believable
    latex = panbench("compare", coco_run, "--published", "mask2former r50", "--format", "latex").stdout
    assert "51.9" in latex
    assert r"\textbf{51.9}" not in latex


def test_superseded_claims_are_listed_but_not_compared_with(coco_run):
    assert any(result.superseded for result in choose(["Panoptic SegFormer"]))
    rows = with_published(compare([load_run(coco_run)]), ["Panoptic SegFormer"]).rows
    assert len(rows) > 1
    assert not any("superseded" in note for row in rows for note in row.notes)


def test_claims_on_another_split_or_dataset_are_refused(coco_run, tmp_path):
    folder, other = Path(__file__).resolve().parents[1] / "reference" / "pq_edges", tmp_path / "other"
    score_folder(folder / "gt.json", folder / "pred.json", out=other)
    sets = "ade20k val, cityscapes val, coco test-dev, coco val2017, mapillary val"
    said = refused("compare", other, "--published", "R50")
    assert f"What is published of 'R50' is on {sets}, not on gt." in said
    said = refused("compare", coco_run, other, "--mixed", "--published", "R50")
    assert "--published needs runs of one dataset and split" in said


def test_published_results_are_filtered_and_marked_as_not_measured():
    shown = ran("models", "--published", "--filter", "Mask DINO val2017")
    assert "Mask DINO R50 [" in shown.stdout
    assert "nothing here was measured by panbench" in shown.stdout
    assert "Mask2Former" not in shown.stdout
    records = json.loads(panbench("models", "--published", "--filter", "R50", "--json").stdout)
    assert {record["backbone"] for record in records} == {"R50"}
    assert all(0 < record["PQ"] < 1 for record in records)
    assert panbench("models", "--published", "--filter", "YOLO").exit_code == 2


@pytest.mark.parametrize("arguments", [("--data", "cityscapes"), ("--filter", "cityscapes")])
def test_a_data_sets_name_lists_its_results(arguments):
    records = json.loads(panbench("models", "--published", "--json", *arguments).stdout)
    assert {record["dataset"] for record in records} == {"cityscapes"}
    claims = {(record["model"], record["backbone"]): record["PQ"] for record in records}
    assert claims[("Mask2Former", "Swin-L")] == 0.666
    assert "Nothing is published here on 'kitti', but on ade20k, city" in refused(
        "models", "--published", "--data", "kitti"
    )


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
    ran("show", "plot", "gflops", tmp_path / "m2f", "--published", "mask2former", "--out", out, "--csv")
    lines = out.with_suffix(".csv").read_text("utf-8").splitlines()
    measured = dict(zip(lines[0].split(","), lines[1].split(","), strict=False))
    assert (float(measured["gflops"]), measured["claimed"]) == (226, "False")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gflops"], "It shows published results (--published NAME)"),
        (["speed", "--published", "all"], "--published goes with params or gflops"),
        (["params", "--published", "SOLOv2"], "None of these published results states its parameters"),
        (["params", "--published", "YOLO"], "Nothing is published here of 'YOLO'"),
        (["colour"], "There is no plot 'colour'"),
    ],
)
def test_plots_of_unknown_values_are_refused(coco_run, tmp_path, words, message):
    assert message in refused("show", "plot", words[0], coco_run, *words[1:], "--out", tmp_path / "x.pdf")
    assert not (tmp_path / "x.pdf").exists()


def test_tables_of_claims_have_their_gflops_in_latex_too(coco_run):
    latex = panbench("compare", coco_run, "--published", "mask2former r50", "--format", "latex").stdout
    assert "GFLOPs" in latex
    assert " 226 " in latex
    assert "GFLOPs" not in panbench("compare", coco_run, "--format", "latex").stdout
