import csv
import dataclasses
import importlib.metadata
import json

import numpy as np
import pytest
import torch
from support import Recorder

from panbench.base.computing import STAGES
from panbench.base.errors import BadArgument
from panbench.catalog import find_model
from panbench.cli.bench import parse_batch_sizes, parse_size, table_of
from panbench.datasets import shapes
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.tools import benchmark as bench
from panbench.models.opening import open_model
from panbench.models.predict import predict
from panbench.panoptic.coco import read_id_png
from panbench.panoptic.types import PanopticPrediction, Segment
from panbench.scoring.folder import score_folder

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "bench-cache"))


def prediction(rows, categories):
    ids = np.array(rows, np.int32)
    return PanopticPrediction(
        1, ids, tuple(Segment(key, category, int((ids == key).sum())) for key, category in categories.items())
    )


def test_maps_that_differ_only_in_ids_are_the_same():
    first = prediction([[1, 1, 2, 0]], {1: 7, 2: 7})
    second = prediction([[2, 2, 1, 0]], {1: 7, 2: 7})
    assert bench.share_that_differs(first, second) == 0.0


def test_a_pixel_that_changes_segment_differs():
    first = prediction([[1, 1, 2, 2]], {1: 7, 2: 8})
    second = prediction([[1, 1, 1, 2]], {1: 7, 2: 8})
    assert bench.share_that_differs(first, second) == 0.25


def test_a_segment_of_another_category_differs_whole():
    first = prediction([[1, 1, 1, 0]], {1: 7})
    second = prediction([[1, 1, 1, 0]], {1: 8})
    assert bench.share_that_differs(first, second) == 0.75


def test_a_segment_broken_in_two_agrees_on_its_larger_part_only():
    first = prediction([[1, 1, 1, 1]], {1: 7})
    second = prediction([[1, 1, 1, 2]], {1: 7, 2: 7})
    assert bench.share_that_differs(first, second) == 0.25


def test_ids_of_any_width_are_compared():
    first = prediction([[1, 300]], {1: 7, 300: 8})
    second = dataclasses.replace(first, ids=first.ids.astype(np.uint16))
    assert bench.share_that_differs(second, first) == 0.0


def test_a_convolution_counts_two_operations_a_multiply_add():
    class Model:
        def candidates(self, batch):
            with torch.inference_mode():
                torch.nn.functional.conv2d(batch[0], torch.ones(5, 3, 1, 1))

    assert bench.count_flops(Model(), torch.ones(1, 3, 4, 6)) == 2 * 5 * 3 * 4 * 6


def test_attention_counts_both_of_its_products():
    class Model:
        def candidates(self, batch):
            with torch.inference_mode():
                torch.nn.functional.scaled_dot_product_attention(*batch[0])

    query, key = torch.ones(2, 4, 3, 8), torch.ones(2, 4, 5, 8)
    products = 2 * 4 * 3 * 5 * 8
    assert bench.count_flops(Model(), (query, key, key)) == 2 * (products + products)


@pytest.mark.parametrize("name", ["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny"])
def test_planted_segments_survive_in_an_untrained_model(name):
    model = open_model(find_model(name), weights="random", device=CPU)
    dataset = generated_dataset(model.class_names, model.isthing, size=(96, 128), count=1)
    undo = model.plant_segments(6)
    ids = model.category_ids(dataset.categories)
    planted = predict(model, dataset.scenes[0], ids)
    # Panoptic FPN's instances cover the image; stuff between them may add segments.
    assert len(planted.segments) >= 6
    assert (planted.ids > 0).mean() > 0.99
    undo()
    again = predict(model, dataset.scenes[0], ids)
    assert len(again.segments) != len(planted.segments)


def test_generated_images_take_the_categories_of_any_model():
    names = tuple(f"class {label}" for label in range(133))
    dataset = generated_dataset(names, [True] * 80 + [False] * 53, size=(64, 64), count=3)
    assert [category.name for category in dataset.categories] == list(names)
    assert [category.isthing for category in dataset.categories] == [True] * 80 + [False] * 53
    own = generated_dataset(
        tuple(category["name"] for category in shapes.CATEGORIES), [True] * 5 + [False] * 4, size=(64, 64), count=3
    )
    for ours, theirs in zip(own.scenes, dataset.scenes, strict=True):
        assert ours.image_path == theirs.image_path
        assert [segment.id for segment in ours.annotation.segments] == [
            segment.id for segment in theirs.annotation.segments
        ]


@pytest.mark.parametrize("is_thing", [True, False])
def test_what_a_model_without_things_or_stuff_has_no_category_for_is_void(is_thing):
    dataset = generated_dataset([f"class {label}" for label in range(5)], [is_thing] * 5, size=(64, 64), count=2)
    assert {category.isthing for category in dataset.categories} == {is_thing}
    for scene in dataset.scenes:
        ids = read_id_png(scene.gt_path)
        assert set(np.unique(ids).tolist()) - {0} == {segment.id for segment in scene.annotation.segments}
        assert 0 < (ids == 0).mean() < 1
    run = score_folder(dataset.gt, dataset.gt, gt_dir=dataset.gt_dir, pred_dir=dataset.gt_dir)
    assert run.summary()["All"]["PQ"] == 1.0


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "bench-cache"))
        # FLOPs have a test of their own; here a small image spares a second.
        patch.setattr(bench, "REFERENCE_IMAGE", (64, 96))
        return bench.benchmark(
            [find_model("mask2former-tiny")],
            size=(64, 96),
            count=3,
            device="cpu",
            precisions=["bf16", "tf32"],
            batch_sizes=[2],
            warm_up=0,
            command=["panbench", "bench"],
        )


def test_fp32_comes_first_and_the_others_are_held_against_it(report):
    first, second, _ = report.rows
    assert (first.precision, first.batch_size, first.status) == ("fp32", 2, "ok")
    assert first.pixels_differ == 0.0
    assert first.pq_difference == 0.0
    assert second.precision == "bf16"
    assert 0.0 <= second.pixels_differ < 0.5
    assert second.pq_difference == pytest.approx(second.PQ - first.PQ)


def test_what_the_device_cannot_do_keeps_a_row_that_says_why(report):
    last = report.rows[-1]
    assert last.precision == "tf32"
    assert "CUDA" in last.status
    assert last.PQ is None
    assert last.images_per_second is None


def test_a_row_names_sizes_and_counts(report):
    row = report.rows[0]
    assert (row.height, row.width, row.images) == (64, 96, 3)
    assert (row.input_height, row.input_width) == (64, 96)
    assert row.gmacs == pytest.approx(row.gflops / 2)
    assert row.params == find_model("mask2former-tiny").params
    assert all(getattr(row, stage) >= 0 for stage in STAGES)
    assert row.host_peak_bytes > 0
    assert row.device_peak_bytes is None


def test_a_failing_operator_ends_one_setting_and_not_the_sweep(monkeypatch):
    whole = bench._one_after_another

    def fails_in_bf16(context, model, batch_size):
        if model.precision == "bf16":
            raise RuntimeError("\"something\" not implemented for 'BFloat16'")
        return whole(context, model, batch_size)

    monkeypatch.setattr(bench, "_one_after_another", fails_in_bf16)
    monkeypatch.setattr(bench, "REFERENCE_IMAGE", (64, 96))
    recorder = Recorder()
    found = bench.benchmark(
        [find_model("mask2former-tiny")],
        size=(64, 96),
        count=1,
        device="cpu",
        precisions=["bf16", "fp32"],
        warm_up=0,
        reporter=recorder,
    )
    assert [row.status == "ok" for row in found.rows] == [True, False]
    assert "BFloat16" in found.rows[1].status
    assert [notice for notice in recorder.notices if "cannot" in notice] == [
        f"mask2former-tiny, bf16, batch size 1: {found.rows[1].status}"
    ]


def test_csv_and_json_hold_the_same_rows(report, tmp_path):
    table, record = bench.write_report(report, tmp_path / "bench")
    stored = json.loads(record.read_text("utf-8"))
    assert stored["schema"] == bench.SCHEMA
    assert stored["command"] == ["panbench", "bench"]
    assert stored["versions"]["torch"] == importlib.metadata.version("torch")
    assert stored["device"]["type"] == "cpu"
    with open(table, newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    assert [line["precision"] for line in lines] == [row["precision"] for row in stored["rows"]]
    assert float(lines[0]["PQ"]) == stored["rows"][0]["PQ"]
    assert lines[-1]["PQ"] == ""


def test_names_in_the_csv_are_quoted_for_spreadsheets_or_left_raw(report, tmp_path):
    named = dataclasses.replace(report, rows=tuple(dataclasses.replace(row, model="=1+1") for row in report.rows))
    for raw, name in ((False, "'=1+1"), (True, "=1+1")):
        table, _ = bench.write_report(named, tmp_path / str(raw), raw=raw)
        assert {row["model"] for row in csv.DictReader(table.open())} == {name}


def test_the_table_shows_why_a_setting_did_not_run(report):
    from rich.console import Console

    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table_of(report))
    text = console.export_text()
    assert "tf32" in text
    assert "CUDA" in text
    assert "…" not in text


@pytest.mark.parametrize("arguments", [{"count": 0}, {"batch_sizes": [0]}, {"batch_sizes": []}, {"plant": -1}])
def test_numbers_that_cannot_be_measured_are_refused(arguments):
    with pytest.raises(BadArgument, match="at least"):
        bench.benchmark([find_model("mask2former-tiny")], device="cpu", **arguments)


def test_an_unknown_precision_is_refused_before_anything_runs():
    with pytest.raises(BadArgument, match="fp8"):
        bench.benchmark([find_model("mask2former-tiny")], device="cpu", precisions=["fp8"])


@pytest.mark.parametrize("size", ["480", "x640", "480x", "axb", "4.5x3"])
def test_a_size_is_two_whole_numbers(size):
    assert parse_size("480x640") == (480, 640)
    with pytest.raises(BadArgument, match="480x640"):
        parse_size(size)


@pytest.mark.parametrize("sizes", ["", "0", "1,,2", "a", "-1"])
def test_batch_sizes_are_whole_numbers_from_one_on(sizes):
    assert parse_batch_sizes("1, 2,4") == [1, 2, 4]
    with pytest.raises(BadArgument, match="1,2,4"):
        parse_batch_sizes(sizes)
