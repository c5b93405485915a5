import csv
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from little_runs import store
from rich.console import Console
from support import panbench, refusal

from panbench.base.errors import BadRun
from panbench.panoptic.overlap import OverlapTable, concat, overlap_table
from panbench.panoptic.types import Category, Segment
from panbench.report.answers.answer import as_csv
from panbench.report.answers.grid import as_latex, as_markdown, count
from panbench.report.answers.models import model_json_entry, models_table_text
from panbench.report.answers.tables import (
    ComparisonRow,
    comparison_grid,
    comparison_row,
    comparison_rows,
    comparison_text,
    failed_row,
    find_runs,
    rate,
    row_record,
    rows_table,
    speed_text,
    summary_text,
)
from panbench.runs import Run, RunInfo, category_record

BALL = Category(1, "ball", isthing=True)
SKY = Category(2, "sky", isthing=False)
KEYS_OF_JSON = (
    "run model dataset images PQ SQ RQ PQ_th SQ_th RQ_th PQ_st SQ_st RQ_st "
    "params images_per_second published_PQ complete"
).split()


def render(rows, format):
    """The rows in a format of `compare`."""
    if format == "json":
        return json.dumps([row_record(row) for row in rows], allow_nan=False, ensure_ascii=False)
    if format == "csv":
        return as_csv(rows_table(rows))
    return as_latex(comparison_grid(rows, 1)) if format == "latex" else as_markdown(comparison_grid(rows))


def scene(image_id: int, hit: bool):
    """A ball above sky, 2×4 pixels; without `hit` the ball is predicted as nothing."""
    gt = np.array([[1, 1, 1, 1], [2, 2, 2, 2]], np.int32)
    pred = gt if hit else np.where(gt == 1, 0, gt)
    segments = [Segment(1, BALL.id, 4), Segment(2, SKY.id, 4)]
    return overlap_table(image_id, gt, segments, pred, segments if hit else segments[1:])


def run(name: str = "a", hits: dict[int, bool] | None = None, **changes) -> Run:
    """A run whose images have their ball found or missed; `changes` replace keys of run.json, dicts are merged."""
    hits = {1: True, 2: False} if hits is None else hits
    table = concat([scene(image_id, hit) for image_id, hit in hits.items()])
    info = {
        "name": name,
        "status": "done",
        "model": {"name": "mask2former-r50", "title": "Mask2Former R50", "params": 44_000_000},
        "dataset": {"name": "balls", "split": "val", "fingerprint": "f00d", "gt": "balls.json", "n_images": len(hits)},
        "categories": [category_record(BALL), category_record(SKY)],
        "images": {"expected": len(hits), "scored": len(hits)},
        "images_per_second": 5.0,
        "arguments": {},
        "summary": None,
    }
    for key, value in changes.items():
        known = info.get(key)
        info[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return Run(RunInfo.from_json(info), table=table)


def text_of(renderable, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(renderable)
    return console.file.getvalue()


def published(pq: float, dataset: str = "balls", split: str = "val") -> dict:
    return {"published": {"PQ": pq, "dataset": dataset, "split": split, "source": "a paper"}}


def test_a_row_has_the_fractions_of_the_run():
    row = comparison_row(run())
    # Ball: one found, one missed, so PQ = 1 / (1 + 1/2); sky is found twice.
    assert row.PQ_th == pytest.approx(2 / 3)
    assert row.PQ_st == 1.0
    assert row.PQ == pytest.approx(5 / 6)
    assert (row.images, row.params, row.images_per_second, row.complete) == (2, 44_000_000, 5.0, True)


def test_json_is_a_list_with_the_promised_keys_first_and_null_for_what_is_absent():
    objects = json.loads(render([comparison_row(run())], "json"))
    assert list(objects[0])[: len(KEYS_OF_JSON)] == KEYS_OF_JSON
    assert objects[0]["model"] == "mask2former-r50"
    assert objects[0]["published_PQ"] is None


def test_the_total_wall_time_is_printed_next_to_the_rate():
    timed = {"images_per_second": 5.0, "images_per_second_low": 4.0, "images_per_second_high": 6.25}
    info = run(seconds={"wall": 12.34}, **timed).info
    said = speed_text("Tiny", info)
    assert said == (
        "Tiny: 5.00 images a second, 4.00 to 6.25 in parts of the run. 2 images in 12.3 s, from the first read to the "
        "last write."
    )
    unknown = speed_text("Tiny", run(seconds={"wall": 12.34}, images_per_second=None).info)
    assert unknown == (
        "Tiny: 2 images in 12.3 s, from the first read to the last write; too few batches for images a second."
    )
    row = json.loads(render([comparison_row(run(seconds={"wall": 12.34}))], "json"))[0]
    assert (row["images_per_second"], row["loop_seconds"]) == (5.0, 12.34)


def test_a_run_named_like_a_formula_is_text_in_a_spreadsheet():
    rows = [comparison_row(run("=HYPERLINK(1)"))]
    (quoted,) = csv.DictReader(io.StringIO(render(rows, "csv")))
    assert quoted["run"] == "'=HYPERLINK(1)"
    (raw,) = csv.DictReader(io.StringIO(as_csv(rows_table(rows), raw=True)))
    assert raw["run"] == "=HYPERLINK(1)"
    assert {**quoted, "run": ""} == {**raw, "run": ""}


def test_csv_reads_back_as_fractions():
    rows = list(csv.DictReader(io.StringIO(render([comparison_row(run())], "csv"))))
    assert float(rows[0]["PQ_th"]) == 2 / 3
    assert rows[0]["complete"] == "true"
    assert rows[0]["published_PQ"] == ""


def test_published_pq_appears_only_on_the_dataset_and_split_of_the_publication():
    assert comparison_row(run(model=published(0.8))).published_PQ == 0.8
    assert comparison_row(run(model=published(0.8, dataset="coco"))).published_PQ is None
    assert comparison_row(run(model=published(0.8, split="train"))).published_PQ is None


def test_published_pq_is_left_out_for_a_subset_for_random_weights_and_for_an_incomplete_run():
    assert comparison_row(run(model=published(0.8), dataset={"n_images": 3})).published_PQ is None
    assert comparison_row(run(model={**published(0.8), "random_weights": True})).published_PQ is None
    assert comparison_row(run(model=published(0.8), status="interrupted")).published_PQ is None


def test_published_pq_of_coco_needs_all_5000_images():
    coco = run(model=published(0.52, "coco", "val2017"), dataset={"name": "coco", "split": "val2017"})
    assert comparison_row(coco).published_PQ is None


def test_the_difference_to_the_published_pq_is_signed():
    rows = [comparison_row(run(model=published(0.8)))]
    assert rows[0].difference == pytest.approx(5 / 6 - 0.8)
    assert "+3.33" in text_of(comparison_text(rows))


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"model": {"random_weights": True}}, "random weights"),
        ({"dataset": {"n_images": 200}}, "a subset: 2 of 200 images"),
        ({"status": "interrupted", "images": {"expected": 5}}, "interrupted: 2 of 5 images scored"),
        ({"images": {"expected": 3}}, "incomplete: 2 of 3 images scored"),
        ({"kind": "score", "images": {"missing": 1}}, "1 images without a prediction"),
        ({"images": {"expected": 3, "skipped": 1}}, "1 images skipped"),
        ({"status": "failed", "error": "the disk went away"}, "failed: the disk went away"),
    ],
)
@pytest.mark.parametrize("format", ["text", "md", "csv", "json", "latex"])
def test_notes_are_in_every_format(changes, note, format):
    rows = [comparison_row(run(**changes))]
    printed = text_of(comparison_text(rows)) if format == "text" else render(rows, format)
    assert note.lower() in printed.lower()


@pytest.mark.parametrize(
    "changes", [{"status": "interrupted"}, {"images": {"expected": 3}}, {"images": {"missing": 1}}]
)
def test_a_run_without_all_images_is_marked_incomplete(changes):
    assert not comparison_row(run(**changes)).complete


def test_the_best_of_a_column_is_bold_and_the_second_underlined():
    rows = [
        ComparisonRow(run=name, title=name, PQ=pq, complete=True) for name, pq in (("a", 0.5), ("b", 0.7), ("c", 0.6))
    ]
    latex = render(rows, "latex")
    assert r"\textbf{70.0}" in latex
    assert r"\underline{60.0}" in latex


@pytest.mark.parametrize(
    ("rows", "bold"),
    [
        ([{"PQ": 0.5}, {"PQ": 0.7}, {"PQ": 0.6}], ["70.00"]),
        ([{"images_per_second": 1}, {"images_per_second": 9}], []),
        ([{"PQ": 0.5}, {"PQ": 0.6}, {"PQ": 0.9, "random_weights": True}, {"PQ": 0.8, "complete": False}], ["60.00"]),
        ([{}, {}], []),
    ],
    ids=["the best PQ", "no speed", "neither random weights nor an incomplete run", "no tie"],
)
def test_the_best_run_is_marked_as_such(rows, bold):
    made = [ComparisonRow(**{"run": str(place), "PQ": 0.5, "complete": True, **row}) for place, row in enumerate(rows)]
    assert re.findall(r"\*\*(.*?)\*\*", render(made, "md")) == bold


def test_a_failed_model_keeps_a_row_that_says_why():
    rows = [comparison_row(run()), failed_row("maskformer-r50", "MaskFormer R50", "its weights are not here", "balls")]
    for printed in (text_of(comparison_text(rows)), render(rows, "md"), render(rows, "latex"), render(rows, "csv")):
        assert "MaskFormer R50" in printed
        assert "its weights are not here" in printed
    record = json.loads(render(rows, "json"))[1]
    assert (record["PQ"], record["error"], record["complete"]) == (None, "its weights are not here", False)


def test_names_cannot_break_a_tables_layout():
    evil = r"a|b<i>_c_ & 50% $x$ {y} #1 ~^\ " + "\x1b[31mred\nline"
    rows = [ComparisonRow(run="r", title=evil, PQ=0.5)]
    latex, md, text = render(rows, "latex"), render(rows, "md"), text_of(comparison_text(rows), 200)
    assert r"a|b$<$i$>$\_c\_ \& 50\% \$x\$ \{y\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{}" in latex
    assert r"a\|b\<i\>\_c\_" in md
    assert all("\x1b" not in printed for printed in (latex, md, text))
    assert len(md.splitlines()) == 3


def test_two_runs_of_one_model_are_told_apart_by_their_names():
    table = render([comparison_row(run("fp32")), comparison_row(run("fp16"))], "md")
    assert "fp32" in table
    assert "fp16" in table


def test_every_line_of_a_full_comparison_fits_80_columns_with_all_digits():
    row = ComparisonRow(
        run="r",
        title="Mask2Former Swin-B (IN-21k)",
        PQ=0.56321,
        SQ=0.84,
        RQ=0.66,
        PQ_th=0.6,
        PQ_st=0.5,
        params=107_000_000,
        images_per_second=0.523,
        published_PQ=0.563,
        complete=True,
    )
    lines = text_of(comparison_text([row])).splitlines()
    assert max(map(len, lines)) <= 80
    shown = " ".join(lines)
    for value in ("56.32", "84.00", "66.00", "60.00", "50.00", "107M", "0.52", "56.30", "+0.02"):
        assert value in shown


def test_columns_that_no_row_fills_are_left_out():
    text = text_of(comparison_text([comparison_row(run())]))
    assert "params" in text
    assert "publ." not in text


def test_the_table_of_one_run_has_rows_for_all_things_and_stuff():
    lines = text_of(summary_text(run(), "Mask2Former R50")).splitlines()
    assert lines[0].split() == "| Mask2Former R50 | PQ | SQ | RQ | categories |".split()
    assert lines[2].split() == "| All | 83.33 | 100.00 | 83.33 | 2 |".split()
    assert lines[3].split() == "| Things | 66.67 | 100.00 | 66.67 | 1 |".split()
    assert lines[4].split() == "| Stuff | 100.00 | 100.00 | 100.00 | 1 |".split()


def test_a_group_without_categories_shows_dashes_not_zeros():
    nothing = Run(run().info, table=OverlapTable.empty())
    assert text_of(summary_text(nothing)).splitlines()[2].split() == "| All | – | – | – | 0 |".split()


def test_runs_on_different_ground_truth_are_refused_with_the_difference():
    other = run("b", dataset={"name": "cubes", "fingerprint": "beef"})
    assert "a was scored on balls val and b on cubes val" in refusal(BadRun, comparison_rows, [run("a"), other])
    versions = run("b", dataset={"gt": "new.json", "fingerprint": "beef"})
    with pytest.raises(BadRun, match=r"two versions of balls val \(balls.json and new.json\)"):
        comparison_rows([run("a"), versions])


def test_different_ground_truth_can_be_compared_on_request():
    rows = comparison_rows([run("a"), run("b", dataset={"name": "cubes", "fingerprint": "beef"})], mixed=True)
    assert rows[0].notes == ("on balls val",)
    assert rows[1].notes == ("on cubes val",)


def test_runs_on_different_images_are_refused_with_the_difference():
    with pytest.raises(BadRun, match=r"a has 2 images and b 3, 1 of them in both: .* --common-images"):
        comparison_rows([run("a", {1: True, 2: True}), run("b", {2: True, 3: True, 4: True})])


def test_a_command_without_the_option_mixed_does_not_suggest_it(tmp_path):
    folders = []
    for name, images in (("a", range(1, 3)), ("b", range(2, 5)), ("c", range(2, 6))):
        info = {"dataset": {"fingerprint": "f00d"}, "categories": category_record((BALL, SKY))}
        store(tmp_path / name, info, [scene(image, True) for image in images])
        folders.append(tmp_path / name)
    for some in (folders[:2], folders):
        compared = panbench("compare", *some)
        assert (compared.exit_code, "--mixed" in compared.stderr, "--common-images" in compared.stderr) == (
            2,
            True,
            True,
        )
        reported = panbench("report", *some, "--out", tmp_path / "page.html")
        assert (reported.exit_code, "--mixed" in reported.stderr) == (2, False), reported.stderr


def test_the_comparison_on_common_images_counts_only_those():
    rows = comparison_rows([run("a", {1: False, 2: True}), run("b", {2: False, 3: True})], common_images=True)
    assert [row.images for row in rows] == [1, 1]
    assert [row.PQ_th for row in rows] == [1.0, 0.0]
    assert "1 images that all runs have" in rows[0].notes[-1]


def test_runs_without_common_images_are_refused():
    with pytest.raises(BadRun, match="no image in common"):
        comparison_rows([run("a", {1: True}), run("b", {2: True})], common_images=True)


def test_a_torn_part_is_left_out_and_named(tmp_path: Path):
    stored = stored_run(tmp_path / "torn", {1: True, 2: False})
    (tmp_path / "torn" / "parts" / "0000-000001.parquet").write_bytes(b"PAR1 not really")
    row = comparison_row(find_runs([stored])[0])
    assert row.images == 1
    assert row.PQ == 1.0
    assert not row.complete
    assert any("0000-000001.parquet" in note for note in row.notes)


def test_a_folder_of_runs_names_all_runs_in_it(tmp_path: Path):
    stored_run(tmp_path / "demo" / "one", {1: True})
    stored_run(tmp_path / "demo" / "two", {1: True})
    (tmp_path / "README.md").write_text("beside runs")
    found = find_runs([tmp_path / "README.md", tmp_path / "demo"])
    assert sorted(each.name for each in found) == ["one", "two"]


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path):
    assert "holds no run.json" in refusal(BadRun, find_runs, [tmp_path])
    assert "no such folder" in refusal(BadRun, find_runs, [tmp_path / "typo"])


@pytest.mark.parametrize(
    ("number", "short"), [(None, "–"), (958_400, "958k"), (1_046_000, "1.05M"), (44_000_000, "44.0M"), (216e6, "216M")]
)
def test_numbers_of_parameters_are_abbreviated(number, short):
    assert count(number) == short


@pytest.mark.parametrize(
    ("speed", "short"), [(None, "–"), (0.4234, "0.42"), (9.999, "10.0"), (99.97, "100"), (231, "231")]
)
def test_speeds_are_printed_with_three_digits(speed, short):
    assert rate(speed) == short


def test_the_list_of_models_fits_80_columns():
    from panbench.catalog import load_catalog

    specs = list(load_catalog().values())
    lines = text_of(models_table_text(specs)).splitlines()
    assert {spec.name for spec in specs} <= {line.split(" ")[0] for line in lines}
    assert max(map(len, lines)) <= 80
    json.dumps([model_json_entry(spec) for spec in specs], allow_nan=False)


def stored_run(path: Path, hits: dict[int, bool]) -> Path:
    store(path, run(path.name, hits).info, (scene(image_id, hit) for image_id, hit in hits.items()))
    return path


def test_rows_are_immutable():
    row = ComparisonRow(run="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        row.PQ = 1.0


def test_runs_of_mmdet_and_of_a_fork_are_distinguished():
    def of(name: str, adapter: str, **versions: str) -> Run:
        return run(name, model={"name": name, "adapter": adapter}, versions=versions)

    fork = of("a", "panbench.models.mmdet.adapter:MmdetAdapter", **{"onedl-mmdetection": "3.5.1"})
    own = of("b", "panbench.models.mask_dino:MaskDINOAdapter", mmdet="3.3.0")
    other = of("c", "panbench.models.transformers.adapter:TransformersAdapter", mmdet="3.3.0")
    assert [row.notes for row in comparison_rows([fork, own, other])] == [
        ("run by onedl-mmdetection 3.5.1",),
        ("run by mmdet 3.3.0",),
        (),
    ]
    assert [row.notes for row in comparison_rows([own, other])] == [(), ()]
