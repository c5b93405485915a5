import csv
import dataclasses
import importlib.metadata
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
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


def prediction(row, categories):
    ids = np.array([row], np.int32)
    return PanopticPrediction(
        1, ids, tuple(Segment(key, category, int((ids == key).sum())) for key, category in categories.items())
    )


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        pytest.param(([1, 1, 2, 0], {1: 7, 2: 7}), ([2, 2, 1, 0], {1: 7, 2: 7}), 0, id="other ids"),
        pytest.param(([1, 1, 2, 2], {1: 7, 2: 8}), ([1, 1, 1, 2], {1: 7, 2: 8}), 0.25, id="a pixel changes segment"),
        pytest.param(([1, 1, 1, 0], {1: 7}), ([1, 1, 1, 0], {1: 8}), 0.75, id="another category differs whole"),
        pytest.param(([1, 1, 1, 1], {1: 7}), ([1, 1, 1, 2], {1: 7, 2: 7}), 0.25, id="in two: the larger part agrees"),
    ],
)
def test_maps_differ_at_pixels_of_another_segment(first, second, share):
    assert bench.share_of_different_pixels(prediction(*first), prediction(*second)) == share


def test_maps_are_compared_whatever_the_integer_type_of_their_ids():
    first = prediction([1, 300], {1: 7, 300: 8})
    second = dataclasses.replace(first, ids=first.ids.astype(np.uint16))
    assert bench.share_of_different_pixels(second, first) == 0.0


@pytest.mark.parametrize(
    ("forward", "sizes", "products"),
    [
        (lambda pixels: F.conv2d(pixels, torch.ones(5, 3, 1, 1)), [(1, 3, 4, 6)], 5 * 3 * 4 * 6),
        (F.scaled_dot_product_attention, [(2, 4, 3, 8), (2, 4, 5, 8), (2, 4, 5, 8)], 2 * (2 * 4 * 3 * 5 * 8)),
    ],
    ids=["convolution", "both products of attention"],
)
def test_a_multiply_add_counts_as_two_operations(forward, sizes, products):
    class Model:
        def candidates(self, batch):
            with torch.inference_mode():
                forward(*batch[0])

    assert bench.count_flops(Model(), tuple(map(torch.ones, sizes))) == 2 * products


@pytest.mark.parametrize("name", ["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny"])
def test_planted_segments_survive_fusion_in_an_untrained_model(name):
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


def test_generated_images_use_the_categories_of_any_model():
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
def test_generated_pixels_without_a_category_of_the_model_are_void(is_thing):
    dataset = generated_dataset([f"class {label}" for label in range(5)], [is_thing] * 5, size=(64, 64), count=2)
    assert {category.isthing for category in dataset.categories} == {is_thing}
    for scene in dataset.scenes:
        ids = read_id_png(scene.gt_path)
        assert set(np.unique(ids).tolist()) - {0} == {segment.id for segment in scene.annotation.segments}
        assert 0 < (ids == 0).mean() < 1
    run = score_folder(dataset.gt, dataset.gt, gt_dir=dataset.gt_dir, pred_dir=dataset.gt_dir)
    assert run.summary()["All"]["PQ"] == 1.0


def measured(count, **settings):
    return bench.benchmark(
        [find_model("mask2former-tiny")], size=(64, 96), count=count, device="cpu", warm_up=0, **settings
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PANBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "bench-cache"))
        # FLOPs have a test of their own; here a small image spares a second.
        patch.setattr(bench, "REFERENCE_IMAGE", (64, 96))
        return measured(3, precisions=["bf16", "tf32"], batch_sizes=[2], command=["panbench", "bench"])


def test_fp32_runs_first_and_other_precisions_are_compared_with_it(report):
    first, second, _ = report.rows
    assert (first.precision, first.batch_size, first.status) == ("fp32", 2, "ok")
    assert first.pixels_differ == 0.0
    assert first.pq_difference == 0.0
    assert second.precision == "bf16"
    assert 0.0 <= second.pixels_differ < 0.5
    assert second.pq_difference == pytest.approx(second.PQ - first.PQ)


def test_unsupported_settings_keep_a_row_with_the_reason(report):
    last = report.rows[-1]
    assert last.precision == "tf32"
    assert "CUDA" in last.status
    assert last.PQ is None
    assert last.images_per_second is None


def test_a_row_has_image_sizes_operations_parameters_and_memory(report):
    row = report.rows[0]
    assert (row.height, row.width, row.images) == (64, 96, 3)
    assert (row.input_height, row.input_width) == (64, 96)
    assert row.gmacs == pytest.approx(row.gflops / 2)
    assert row.params == find_model("mask2former-tiny").params
    assert all(getattr(row, stage) >= 0 for stage in STAGES)
    assert row.host_peak_bytes > 0
    assert row.device_peak_bytes is None


def test_a_failing_operator_ends_only_its_setting_of_the_sweep(monkeypatch):
    whole = bench._time_batches

    def fails_in_bf16(context, model, batch_size):
        if model.precision == "bf16":
            raise RuntimeError("\"something\" not implemented for 'BFloat16'")
        return whole(context, model, batch_size)

    monkeypatch.setattr(bench, "_time_batches", fails_in_bf16)
    monkeypatch.setattr(bench, "REFERENCE_IMAGE", (64, 96))
    recorder = Recorder()
    found = measured(1, precisions=["bf16", "fp32"], reporter=recorder)
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


def test_csv_names_are_quoted_for_spreadsheets_or_raw_on_request(report, tmp_path):
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "at least"),
        ({"batch_sizes": [0]}, "at least"),
        ({"batch_sizes": []}, "at least"),
        ({"plant": -1}, "at least"),
        ({"precisions": ["fp8"]}, "fp8"),
    ],
)
def test_unmeasurable_settings_are_refused_before_anything_runs(arguments, words):
    with pytest.raises(BadArgument, match=words):
        bench.benchmark([find_model("mask2former-tiny")], device="cpu", **arguments)


@pytest.mark.parametrize(
    ("parse", "bad", "example"),
    [(parse_size, text, "480x640") for text in ("480", "x640", "480x", "axb", "4.5x3")]
    + [(parse_batch_sizes, text, "1,2,4") for text in ("", "0", "1,,2", "a", "-1")],
)
def test_sizes_and_batch_sizes_are_positive_whole_numbers(parse, bad, example):
    assert parse_size("480x640") == (480, 640)
    assert parse_batch_sizes("1, 2,4") == [1, 2, 4]
    with pytest.raises(BadArgument, match=example):
        parse(bad)
