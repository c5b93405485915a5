"""A run in the formats of other programs, read back by them where they are here."""

import json
import re

import pandas as pd
import pyarrow.parquet
import pytest
from little_runs import finished, scored
from support import edited, panbench, ran, refused

from panbench.base.errors import BadRun
from panbench.report.answers.export import FORMATS, NOTICE, segments_with_verdicts

GT = {1: "ppppqqqqssss", 2: "ddddssss....", 3: "ssssssss"}
PRED = ["ppppq...ssss", "ddddssss....", "pppppsss"]
SCORES = {"p": 0.9, "q": 0.8, "d": 0.7, "s": 0.6}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return scored(tmp_path_factory.mktemp("export"), "mine", GT, PRED, SCORES)


def exported(run, format, out):
    result = ran("export", format, run.path, "--out", out)
    assert set(result.stdout.splitlines()) == {str(path) for path in out.iterdir()}
    return out


def test_the_parquet_export_has_segments_with_their_verdicts(run, tmp_path):
    out = exported(run, "parquet", tmp_path / "tables")
    segments = pd.read_parquet(out / "segments.parquet")
    table = run.pq()
    for verdict in ("FP", "FN"):
        assert (segments["verdict"] == verdict).sum() == table[verdict].sum()
    assert ((segments["verdict"] == "TP") & (segments["side"] == "gt")).sum() == table["TP"].sum()
    hits = segments[(segments["verdict"] == "TP") & (segments["side"] == "gt")]
    assert hits["iou"].sum() == pytest.approx(table["iou_sum"].sum())
    wrong = segments[segments["verdict"].isin(["FP", "FN"])]
    assert wrong["cause"].notna().all()
    assert len(pd.read_parquet(out / "overlaps.parquet")) == len(run.overlaps())
    assert pd.read_parquet(out / "per_category.parquet")["PQ"].tolist() == table["PQ"].tolist()


def test_the_export_has_sums_per_image(run, tmp_path):
    """Image 1: p (4 of 4), q (1 of 4 pixels: no match, and no segment of its own above IoU 0.5), s (4 of 4)."""
    images = pd.read_parquet(exported(run, "parquet", tmp_path / "tables") / "images.parquet")
    assert images.columns.tolist() == ["image_id", "PQ", "iou_sum", "TP", "FP", "FN"]
    first = images.set_index("image_id").loc[1]
    assert (first.iou_sum, first.TP, first.FP, first.FN) == (2.0, 2, 1, 1)
    assert first.PQ == pytest.approx((1 / 2 + 1) / 2)
    table = run.pq()
    assert images[["TP", "FP", "FN"]].sum().tolist() == table[["TP", "FP", "FN"]].sum().tolist()
    assert images["iou_sum"].sum() == pytest.approx(table["iou_sum"].sum())


def test_the_csv_export_has_the_same_tables(run, tmp_path):
    out, other = (exported(run, format, tmp_path / format) for format in ("csv", "parquet"))
    for path in other.iterdir():
        expected = pd.read_parquet(path)
        found = pd.read_csv(out / f"{path.stem}.csv", keep_default_na="supercategory" not in expected)
        pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def test_coco_results_are_what_pycocotools_loads(run, tmp_path):
    from pycocotools.coco import COCO

    out = exported(run, "coco-results", tmp_path / "coco")
    results = json.loads((out / "results.json").read_text())
    assert {result["category_id"] for result in results} == {1, 2}
    truth = COCO()
    truth.dataset = {
        "images": [{"id": image, "height": 1, "width": len(marks)} for image, marks in GT.items()],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(out / "results.json"))
    areas = {
        (a["image_id"], a["category_id"], round(a["score"], 2)): int(a["area"]) for a in loaded.dataset["annotations"]
    }
    assert areas == {(1, 1, 0.9): 4, (1, 1, 0.8): 1, (2, 2, 0.7): 4, (3, 1, 0.9): 5}


def test_coco_results_have_the_areas_of_masks_in_pycocotools(tmp_path):
    """A box as well would make pycocotools take the box's area, and with it another size and AP."""
    from pycocotools.coco import COCO

    holed = scored(tmp_path, "holed", {1: "pp.pqqqq"}, ["p..pqqqq"])
    out = exported(holed, "coco-results", tmp_path / "coco")
    truth = COCO()
    truth.dataset = {"images": [{"id": 1, "height": 1, "width": 8}], "categories": [{"id": 1}], "annotations": []}
    truth.createIndex()
    loaded = truth.loadRes(str(out / "results.json"))
    assert sorted(int(found["area"]) for found in loaded.dataset["annotations"]) == [2, 4]


def test_the_fiftyone_export_is_coco_json_with_verdicts(run, tmp_path):
    out = exported(run, "fiftyone", tmp_path / "fo")
    truth, found = (json.loads((out / f"{name}.json").read_text()) for name in ("ground_truth", "predictions"))
    assert [image["id"] for image in truth["images"]] == [1, 2, 3]
    assert truth["images"] == found["images"]
    verdicts = segments_with_verdicts(run)
    for document, side in ((truth, "gt"), (found, "pred")):
        told = {(a["image_id"], a["segment_id"]): a["verdict"] for a in document["annotations"]}
        own = verdicts[verdicts["side"] == side]
        assert told == {(row.image_id, row.id): row.verdict for row in own.itertuples()}
    compile((out / "open_in_fiftyone.py").read_text(), "open_in_fiftyone.py", "exec")


def test_the_model_card_has_a_valid_yaml_index(run, tmp_path):
    yaml = pytest.importorskip("yaml")
    text = (exported(run, "huggingface-card", tmp_path / "card") / "README.md").read_text("utf-8")
    head = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    (model,) = head["model-index"]
    metrics = {metric["name"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert metrics["PQ"] == round(100 * run.summary()["All"]["PQ"], 3)
    assert {"PQ_th", "RQ_st"} <= set(metrics)
    assert f"| All | {metrics['PQ']:.2f} |" in text


def test_missing_inputs_and_existing_files_are_reported(run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert "is not empty" in refused("export", "parquet", run.path, "--out", tmp_path / "full")
    assert panbench("export", "parquet", run.path, "--out", tmp_path / "full", "--overwrite").exit_code == 0
    assert (tmp_path / "full" / "mine.txt").exists()
    gone = scored(tmp_path, "gone", GT, PRED)
    (tmp_path / "gone-pred.json").unlink()
    assert "gone has no predictions here" in refused("export", "coco-results", gone.path, "--out", tmp_path / "x")
    with pytest.raises(BadRun):
        FORMATS["fiftyone"].write(gone, tmp_path / "y")


@pytest.mark.parametrize("format", ["parquet", "coco-results"])
def test_an_export_of_an_incomplete_run_says_so(tmp_path, format):
    drawn = {1: "ppqs.", 2: "ddss."}
    scored(tmp_path, "a", drawn, drawn)
    folder = tmp_path / "a"
    with edited(folder / "run.json") as record:
        record["images"]["expected"] = 3
    result = panbench("export", format, folder, "--out", tmp_path / "out")
    assert "a is incomplete: it holds 2 of 3 images." in " ".join(result.stderr.split())
    if format == "parquet":
        for table in (tmp_path / "out").glob("*.parquet"):
            assert pyarrow.parquet.read_schema(table).metadata[NOTICE] == b"a is incomplete: it holds 2 of 3 images."


def test_an_export_of_a_damaged_run_names_the_part_in_its_files(tmp_path):
    run = finished(tmp_path / "a", 1, 2)
    part = run / "parts" / "0000-000001.parquet"
    part.unlink()
    panbench("export", "parquet", run, "--out", tmp_path / "out")
    notice = pyarrow.parquet.read_schema(tmp_path / "out" / "segments.parquet").metadata[NOTICE].decode()
    assert f"{part}, which held 1 images, is missing." in notice


def test_an_export_of_a_whole_run_has_no_notice(run, tmp_path):
    panbench("export", "parquet", run.path, "--out", tmp_path / "out")
    assert NOTICE not in pyarrow.parquet.read_schema(tmp_path / "out" / "segments.parquet").metadata
