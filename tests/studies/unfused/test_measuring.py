"""AP_pan and mIoU_pan: measured in the pass of PQ, equal to pycocotools, stored, resumed, compared."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import drawn, edit, evaluated, panbench, refusal, refused

from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.catalog import find_model
from panbench.datasets import Dataset, open_dataset
from panbench.evaluation.evaluate import evaluate, evaluate_rules
from panbench.evaluation.options import EvaluateOptions
from panbench.models.candidates import Candidates, Frame, Instances, softmax_candidates
from panbench.models.functions import FunctionModel
from panbench.models.opening import open_model
from panbench.models.rules import parse_rule, resize
from panbench.report.answers.comparison import compare
from panbench.report.answers.findings import metric_findings
from panbench.runs import Run, load_run
from panbench.runs.merge import merge_runs
from panbench.studies.ensembles.merging import flip
from panbench.studies.unfused.answer import unfused_scores, with_unfused
from panbench.studies.unfused.boxes import tight_box
from panbench.studies.unfused.options import UnfusedOptions, parse_metrics
from panbench.studies.unfused.outputs import unfused
from panbench.studies.unfused.packed_masks import mask_areas, pack_masks, shared_pixels
from panbench.studies.unfused.rows import read_unfused

ALL = ("pq", "ap", "miou")
MEASURED = (UnfusedOptions("pq,ap,miou"),)
REPO = Path(__file__).resolve().parents[3]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("unfused", REPO / "scripts" / "check" / "unfused.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory, 12, (96, 128))


@pytest.fixture(scope="module")
def dataset(folder: Path) -> Dataset:
    return open_dataset(folder)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return evaluated(
        find_model("mask2former-tiny"),
        open_dataset(folder),
        tmp_path_factory.mktemp("runs") / "whole",
        studies=MEASURED,
    )


def rows(run: Run) -> dict[str, list[Any]]:
    """All rows of a run before fusion, by column."""
    table = read_unfused(run)
    assert table is not None
    assert table.instances is not None
    assert table.pixels is not None
    assert table.instances.boxes is not None
    instances = {name: value for name, value in vars(table.instances).items() if name != "boxes"}
    boxes = {f"boxes {name}": value for name, value in vars(table.instances.boxes).items()}
    columns = {**instances, **boxes, **{f"pixels {name}": value for name, value in vars(table.pixels).items()}}
    return {"images": table.image_id.tolist(), **{name: value.tolist() for name, value in columns.items()}}


@pytest.mark.parametrize("name", ["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny"])
def test_numbers_equal_pycocotools_and_an_independent_count(name, folder, tmp_path):
    dataset = open_dataset(folder, limit=4)
    check = script()
    model = open_model(find_model(name))
    expected = check.independent(model, dataset)
    assert expected["AP50"] > 0.2
    assert expected["AP50_box"] > 0.2
    assert expected["AP_box"] != expected["AP"]
    assert expected["mIoU_pan"] > 0.2
    measured = check.measured(model, dataset, tmp_path / "run")
    for metric, value in expected.items():
        assert (measured[metric] is None) == (value is None), metric
        assert value is None or measured[metric] == pytest.approx(value, abs=1e-6), metric


def test_measuring_changes_no_pq_and_no_part(whole, dataset, tmp_path):
    plain = evaluated(find_model("mask2former-tiny"), dataset, tmp_path / "plain")
    assert plain.summary() == whole.summary()
    assert plain.info.study_tables == {}
    assert json.loads((plain.path / "run.json").read_text())["unfused"] is None
    assert not (tmp_path / "plain" / "unfused").exists()
    assert whole.info.arguments["metrics"] == "pq,ap,miou"
    assert [record.images for record in whole.info.study_tables["unfused"]] == [12]


@pytest.mark.parametrize("lost", ["parts", "unfused"])
def test_a_resumed_run_restores_the_rows_of_any_lost_file(lost, whole, dataset, tmp_path):
    model, out = find_model("mask2former-tiny"), tmp_path / "run"
    first = open_dataset(Path(dataset.gt).parents[1], limit=12)
    evaluated(model, first, out, studies=MEASURED)
    # As a run that was killed between its two files of a chunk.
    edit((out / "run.json"), status="running", parts=[], unfused=None)
    for file in (out / lost).glob("*.parquet"):
        file.unlink()
    again = evaluated(model, first, out, studies=MEASURED, resume=True)
    assert again.info.status == "done"
    assert rows(again) == rows(whole)
    assert again.summary() == whole.summary()


def test_every_rule_of_a_pass_gets_the_rows(whole, folder, tmp_path):
    model = open_model(find_model("mask2former-tiny"))
    folders = {model.rule: tmp_path / "own", parse_rule("argmax", model.rule): tmp_path / "argmax"}
    some = open_dataset(folder, limit=3)
    own, argmax = evaluate_rules(model, some, folders, EvaluateOptions(studies=MEASURED))
    # What is measured before fusion does not depend on it.
    assert rows(own) == rows(argmax)
    assert rows(own)["images"] == rows(whole)["images"][:3]


def test_a_run_with_rows_is_resumed_only_with_them(whole, dataset):
    with pytest.raises(BadRun, match="metrics was 'pq,ap,miou' and is now None"):
        evaluated(find_model("mask2former-tiny"), dataset, whole.path, resume=True)


def test_changed_and_missing_rows_are_reported(dataset, tmp_path):
    out = tmp_path / "run"
    evaluated(find_model("mask2former-tiny"), dataset, out, studies=MEASURED)
    (file,) = (out / "unfused").glob("*.parquet")
    content = file.read_bytes()
    assert panbench("runs", "verify", out).exit_code == 0
    file.write_bytes(content[:-1])
    damaged = panbench("runs", "verify", out)
    assert damaged.exit_code == 1
    assert "its SHA-256 differs" in damaged.output
    file.unlink()
    assert "which held 12 images, is missing" in refused("metrics", out)
    file.write_bytes(content)
    assert panbench("metrics", out).exit_code == 0
    assert panbench("runs", "delete", out, "--yes").exit_code == 0
    assert not out.exists()


def test_merged_shards_have_the_same_numbers(whole, dataset, folder, tmp_path):
    ids = [scene.image.id for scene in dataset.scenes]
    shards = []
    for number, chosen in enumerate((ids[:5], ids[5:])):
        shards.append(tmp_path / f"shard-{number}")
        evaluated(find_model("mask2former-tiny"), open_dataset(folder, image_ids=chosen), shards[-1], studies=MEASURED)
    merged = merge_runs(shards, tmp_path / "merged")
    assert rows(merged) == rows(whole)
    # All files stand in run.json, the first shard's too: changed ones are noticed.
    assert [record.images for record in merged.info.study_tables["unfused"]] == [5, 7]
    assert merged.study_tables["unfused"].notices == ()
    assert metric_findings(merged).record["AP_pan"] == metric_findings(whole).record["AP_pan"]


def test_ap_can_be_measured_against_an_instance_json(dataset, folder, tmp_path):
    # The same things as run lengths, and one that overlaps another: only instances of their own can say so.
    from pycocotools import mask as rle_masks

    from panbench.panoptic.coco import read_id_png

    things = {category.id: category.name for category in dataset.categories if category.isthing}
    annotations = []
    for scene in dataset.scenes:
        ids = read_id_png(scene.gt_path)
        for segment in scene.annotation.segments:
            if segment.category_id in things:
                coded = rle_masks.encode(np.asfortranarray((ids == segment.id).astype(np.uint8)))
                coded["counts"] = coded["counts"].decode()
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": scene.image.id,
                        "category_id": segment.category_id,
                        "area": segment.area,
                        "iscrowd": int(segment.iscrowd),
                        "segmentation": coded,
                    }
                )
    document = {
        "images": [
            {"id": scene.image.id, "height": scene.image.height, "width": scene.image.width} for scene in dataset.scenes
        ],
        "categories": [{"id": id, "name": name} for id, name in things.items()],
        "annotations": annotations,
    }
    (tmp_path / "instances.json").write_text(json.dumps(document))
    model = open_model(find_model("mask2former-tiny"))
    options = EvaluateOptions(studies=(UnfusedOptions(f"pq,ap={tmp_path / 'instances.json'}"),))
    own = evaluate(model, dataset, tmp_path / "own", options)
    panoptic = evaluate(model, dataset, tmp_path / "panoptic", EvaluateOptions(studies=(UnfusedOptions("pq,ap"),)))
    record = metric_findings(own).record
    assert record["AP_pan"] == metric_findings(panoptic).record["AP_pan"]
    assert record["AP_pan_gt"] == "the instances of instances.json"
    assert record["mIoU_pan"] is None
    both = compare([own, panoptic])
    assert "different ground truth" in refusal(BadRun, with_unfused, both, [own, panoptic], ("ap",))
    polygon = [[10.0, 10.0, 60.0, 10.0, 60.0, 50.0, 10.0, 50.0]]
    one = {"id": 9999, "image_id": dataset.scenes[0].image.id, "category_id": 1, "area": 2000.0, "iscrowd": 0}
    document["annotations"].append({**one, "segmentation": polygon})
    (tmp_path / "instances.json").write_text(json.dumps(document))
    more = evaluate(model, dataset, tmp_path / "more", options)
    found = read_unfused(more).instances
    assert len(found.gt_id) == len(read_unfused(own).instances.gt_id) + 1
    assert 2000 in found.gt_area.tolist()
    document["categories"][0]["name"] = "ballon"
    (tmp_path / "instances.json").write_text(json.dumps(document))
    assert "have different things: ball" in refusal(BadDataset, evaluate, model, dataset, tmp_path / "other", options)
    assert not (tmp_path / "other").exists()


def test_metrics_and_compare_print_what_was_measured(whole, dataset, tmp_path):
    plain = evaluated(find_model("mask2former-tiny"), dataset, tmp_path / "plain")
    printed = json.loads(panbench("metrics", whole.path, "--json").stdout)
    assert list(printed["AP_pan"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    assert printed["AP_pan"]["APl"] is None
    assert list(printed["AP_box_pan"]) == list(printed["AP_pan"])
    assert printed["AP_box_pan_of"] == "the tight boxes of the masks (the model predicts none)"
    assert printed["before_fusion_intervals"]["AP_box"][0] <= printed["AP_box_pan"]["AP"]
    assert printed["AP_pan_gt"] == "the thing segments of panoptic_val.json"
    assert 0 < printed["before_fusion_intervals"]["AP"][0] <= printed["AP_pan"]["AP"]
    assert "mIoU of the fused map" in panbench("metrics", whole.path).output
    without = json.loads(panbench("metrics", plain.path, "--json").stdout)
    assert without["AP_pan"] is None
    assert without["mIoU_pan"] is None
    assert "`panbench eval --metrics pq,ap,miou`" in panbench("metrics", plain.path).output
    table = panbench("compare", whole.path, whole.path, "--metrics", "pq,ap,miou", "--format", "json")
    found = {row["metric"]: row for row in json.loads(table.stdout)[0]["before_fusion"]}
    assert found["AP"]["value"] == pytest.approx(printed["AP_pan"]["AP"], abs=1e-12)
    assert found["AP"]["low"] == pytest.approx(printed["before_fusion_intervals"]["AP"][0], abs=1e-12)
    assert found["AP_box"]["value"] == pytest.approx(printed["AP_box_pan"]["AP"], abs=1e-12)
    assert found["mIoU_pan"]["value"] == pytest.approx(printed["mIoU_pan"], abs=1e-12)
    said = refused("compare", whole.path, plain.path, "--metrics", "ap")
    assert "plain has no rows of AP_pan before fusion. `panbench eval --metrics pq,ap,miou` makes them" in said


def test_metrics_that_cannot_be_measured_are_refused_before_anything_is_written(dataset, tmp_path):
    assert parse_metrics("miou, ap") == ALL
    assert parse_metrics("pq") == ("pq",)
    said = refused("eval", "--model", "mask2former-tiny", "--metrics", "pq,mota", "--out", tmp_path / "run")
    assert "there is no metric 'mota'. They are pq, ap, miou" in said
    assert "miou takes no file" in refusal(BadArgument, UnfusedOptions, "pq,miou=instances.json")
    assert UnfusedOptions("pq,ap=My Instances.json,miou").ap_gt == Path("My Instances.json")
    maps = FunctionModel(find_model("mask2former-tiny"), lambda image: (np.zeros(image.shape[:2], np.int32), []))
    with pytest.raises(BadArgument, match="gives finished id maps"):
        evaluate(maps, dataset, tmp_path / "run", EvaluateOptions(studies=MEASURED))
    assert not (tmp_path / "run").exists()


def test_a_comparison_says_whether_boxes_are_predicted_or_of_masks(whole, folder, tmp_path):
    boxes = evaluated(find_model("panoptic-fpn-tiny"), open_dataset(folder), tmp_path / "boxes", studies=MEASURED)
    assert unfused_scores(boxes).boxes == "the boxes of the model's own box head"
    told = with_unfused(compare([whole, boxes]), [whole, boxes], ("ap",))
    values, differences = told.grids[-2:]
    assert values.columns[-1] == "box AP_pan"
    (note,) = (note for note in values.notes if note.startswith("Box AP_pan"))
    assert "Mask2Former tiny: the tight boxes of the masks (the model predicts none)" in note
    assert "Panoptic FPN tiny: the boxes of the model's own box head" in note
    assert "box AP_pan" in {row[2] for row in differences.rows}


# Small pieces


def test_boxes_are_tight_around_masks_or_the_box_heads():
    output = two_queries()
    found = unfused(output, (True, True, False)).instances
    assert not found.boxes_predicted
    for mask, box in zip(found.masks, found.boxes.tolist(), strict=True):
        assert tuple(box) == tight_box(np.unpackbits(mask)[:64].reshape(8, 8).astype(bool))
    assert sorted({tuple(box) for box in found.boxes.tolist()}) == [(0, 0, 4, 8), (0, 0, 8, 8)]
    own = torch.tensor([[1.0, 2.0, 3.5, 4.0], [-1.0, 0.0, 9.0, 8.0]])
    told = unfused(dataclasses.replace(output, boxes=own), (True, True, False)).instances
    assert told.boxes_predicted
    # Each of the two queries stands for two things: its box comes with both.
    assert sorted(told.boxes.tolist()) == sorted([*own.tolist(), *own.tolist()])
    assert np.array_equal(told.scores, found.scores)


def test_a_mask_without_a_pixel_has_an_empty_box():
    output = two_queries()
    nowhere = dataclasses.replace(output, masks=torch.full_like(output.masks, -4.0))
    assert not unfused(nowhere, (True, True, False)).instances.boxes.any()


def test_boxes_of_a_mirrored_image_are_not_used():
    output = dataclasses.replace(two_queries(), boxes=torch.tensor([[0.0, 0, 4, 8], [0, 0, 8, 8]]))
    turned = unfused(flip(output), (True, True, False)).instances
    assert not turned.boxes_predicted
    assert [4, 0, 8, 8] in turned.boxes.tolist()


def two_queries() -> Candidates:
    """Two queries on an image of 8×8: the left half for sure, and all of it a little."""
    masks = torch.full((1, 2, 8, 8), -4.0)
    masks[0, 0, :, :4] = 4.0
    masks[0, 1] = 0.5
    logits = torch.tensor([[[3.0, 1.0, 0.0, 0.0], [0.0, 1.0, 0.5, 2.0]]])
    (found,) = softmax_candidates(logits, masks, [Frame((8, 8), (8, 8), (8, 8))], (True, True, False))
    return found


def test_instances_are_ranked_by_class_score_times_mask_score():
    output = two_queries()
    found = unfused(output, (True, True, False)).instances
    # Two queries × three classes, those of the stuff class left out.
    assert len(found.labels) == 4
    score = output.class_scores
    sure = torch.sigmoid(torch.tensor([4.0, 0.5]))
    expected = sorted(float(score[query, label] * sure[query]) for query in (0, 1) for label in (0, 1))
    assert sorted(found.scores.tolist()) == pytest.approx(expected, abs=1e-6)
    assert sorted(mask_areas(found.masks).tolist()) == [32, 32, 64, 64]
    # Class scores choose, over all classes; then the mask score ranks.
    three = unfused(dataclasses.replace(output, most_instances=3), (True, True, False)).instances
    kept = score.flatten().topk(3).indices
    assert len(three.labels) == int((kept % 3 < 2).sum())


def test_the_semantic_map_does_not_depend_on_the_number_of_classes_at_a_time(monkeypatch):
    output = two_queries()
    sums = torch.einsum("qc,qhw->chw", output.class_scores, output.masks.sigmoid())
    expected = sums.argmax(0).numpy()
    assert np.array_equal(unfused(output, (True, True, False)).semantic, expected)
    # One class and one mask at a time.
    monkeypatch.setattr(resize, "ELEMENTS_AT_ONCE", 1)
    assert np.array_equal(unfused(output, (True, True, False)).semantic, expected)


def test_an_output_without_instances_has_a_semantic_map():
    logits = torch.zeros((3, 8, 8))
    logits[1, :, 4:] = 5.0
    frame = Frame((8, 8), (8, 8), (8, 8))
    none = Instances(torch.zeros((0, 4)), torch.zeros((0, 1, 1)), (), (), logits, (1, 2, -1), frame)
    found = unfused(none, (True, False, False))
    assert len(found.instances.labels) == 0
    assert np.array_equal(found.semantic[0], [1] * 4 + [2] * 4)


def test_packed_masks_share_the_same_pixels_as_masks():
    random = np.random.default_rng(0)
    ones, others = random.random((3, 13, 7)) < 0.5, random.random((5, 13, 7)) < 0.3
    packed = pack_masks(list(ones), (13, 7)), pack_masks(list(others), (13, 7))
    expected = (ones[:, None] & others[None]).sum(axis=(2, 3))
    assert np.array_equal(shared_pixels(*packed), expected)
    assert np.array_equal(mask_areas(packed[0]), ones.sum(axis=(1, 2)))
    assert shared_pixels(packed[0], pack_masks([], (13, 7))).shape == (3, 0)


def test_a_stored_run_is_loaded_with_its_rows(whole):
    again = load_run(whole.path)
    assert again.study_tables["unfused"].notices == ()
    assert rows(again) == rows(whole)
