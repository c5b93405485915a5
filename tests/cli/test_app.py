import contextlib
import errno
import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import support
from little_runs import store
from support import panbench_program

import panbench as panbench_package
from panbench import __version__
from panbench.base.errors import BadDataset, BadRun, OutOfSpace
from panbench.catalog import find_model, load_catalog
from panbench.cli import app as cli
from panbench.cli.command import model_names
from panbench.evaluation.several import Outcome, run_folders, run_models
from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.overlap import overlap_table
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from panbench.runs import category_record

REFERENCE = Path(__file__).parents[1] / "reference" / "pq_edges"
BALL = Category(1, "ball", isthing=True)


def stored_run(path: Path, images: int = 12, dataset: str = "balls", hits: int | None = None) -> Path:
    """A run of `images` images of one ball each, of which the first `hits` are found."""
    info = {
        "kind": "eval",
        "model": {"name": path.name, "title": path.name.title(), "params": 1_000_000},
        "dataset": {
            "name": dataset,
            "split": "val",
            "fingerprint": dataset,
            "gt": f"{dataset}.json",
            "n_images": images,
        },
        "categories": [category_record(BALL)],
        "images": {"expected": images, "scored": images},
    }
    gt, ball = np.array([[1, 1, 0, 0]], np.int32), [Segment(1, BALL.id, 2)]
    found = [hits is None or image_id <= hits for image_id in range(1, images + 1)]
    store(
        path,
        info,
        (
            overlap_table(image_id, gt, ball, gt if hit else np.zeros_like(gt), ball if hit else [])
            for image_id, hit in enumerate(found, start=1)
        ),
    )
    return path


def predictions(folder: Path, name: str, found: bool) -> Path:
    """A COCO panoptic JSON and PNG of one image with one ball, or with nothing."""
    ball = Segment(1, BALL.id, 2)
    annotation = Annotation(1, "one.png", (ball,) if found else ())
    image = ImageInfo(1, "one.jpg", 1, 4)
    path = folder / f"{name}.json"
    write_panoptic_json(path, PanopticSet((BALL,), {1: image}, {1: annotation}, folder / name, path))
    write_id_png(folder / name / "one.png", np.array([[1, 1, 0, 0]] if found else [[0, 0, 0, 0]], np.int32))
    return path


panbench = functools.partial(support.panbench, columns=80)
ran = functools.partial(support.ran, columns=80)
refused = functools.partial(support.refused, columns=80)


def test_the_version_is_printed():
    assert panbench("--version").stdout == f"panbench {__version__}\n"


def test_quiet_leaves_out_hints_and_keeps_results_and_errors(tmp_path):
    gt = predictions(tmp_path, "gt", True)
    command = ("score", "--gt", gt, "--pred", gt)
    assert "Not stored" in panbench(*command).stderr
    for quiet in (("-q", *command), (*command, "--quiet")):
        result = panbench(*quiet)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "100.00" in result.stdout
    assert panbench("-q", "metrics", "nowhere").stderr.startswith("Error: ")
    assert panbench("-V").stdout == panbench("--version").stdout


def test_forced_colour_colours_a_pipe_and_animates_nothing_into_it(tmp_path):
    gt = predictions(tmp_path, "gt", True)
    environment = {**os.environ, "FORCE_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = panbench_program("score", "--gt", gt, "--pred", gt, env=environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b[" in done.stdout + done.stderr
    for movement in ("\x1b[?25l", "\x1b[2K", "\x1b[1A", "\r"):
        assert movement not in done.stdout + done.stderr


@pytest.mark.parametrize(("ending", "words"), [("html", "panbench report RUN"), ("docx", "Known endings are .txt")])
def test_compare_refuses_an_ending_that_it_has_no_format_for(ending, words, tmp_path):
    run, out = stored_run(tmp_path / "good"), tmp_path / f"table.{ending}"
    assert words in refused("compare", run, "--out", out)
    assert not out.exists()
    assert panbench("compare", run, "--out", out, "--format", "md").exit_code == 0


def test_the_package_says_that_it_is_typed():
    assert (Path(panbench_package.__file__).parent / "py.typed").is_file()


def test_help_names_every_command():
    shown = panbench("--help").stdout
    for command in ("models", "eval", "score", "compare", "metrics", "errors", "data", "export"):
        assert command in shown


def test_models_lists_every_model_and_json_is_alone_on_stdout():
    result = panbench("models", "--json")
    listed = json.loads(result.stdout)
    assert [model["name"] for model in listed if model["runnable"]] == list(load_catalog())
    assert all(set(model) == set(listed[0]) for model in listed)
    assert {"family", "backbone", "params", "published_PQ", "input_size", "weights_here"} <= set(listed[0])
    table = panbench("models").stdout
    assert all(name in table for name in load_catalog())
    found = json.loads(panbench("models", "--filter", "CC-BY-NC swin-l", "--json").stdout)
    of_other_sets = {f"mask2former-{data}-l" for data in ("ade20k", "cityscapes", "mapillary")}
    of_coco = {f"{name}former-{form}" for name in ("mask", "mask2") for form in ("hf-swin-l", "swin-l-authors")}
    assert {model["name"] for model in found} == of_other_sets | of_coco
    assert len(found) == 7
    of_ade20k = json.loads(panbench("models", "--data", "ade20k", "--json").stdout)
    runnable = [model["name"] for model in of_ade20k if model["runnable"]]
    assert runnable == [name for name, spec in load_catalog().items() if spec.trained_on == "ade20k"]
    assert len(runnable) == 7
    assert panbench("models", "--data", "nowhere").exit_code == 2
    nothing = panbench("models", "--filter", "no such model")
    assert (nothing.exit_code, "No model fits --filter 'no such model'" in nothing.stderr) == (2, True)


def test_names_complete_also_after_a_comma():
    assert "mask2former-r50" in model_names("mask2")
    assert "maskformer-r50,mask2former-r50" in model_names("maskformer-r50,mask2")
    assert model_names("no-such") == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["eval", "--model", "mask2fromer-r50"], "Did you mean mask2former-r50?"),
        (["eval"], "Name a --model"),
        (["eval", "--model", "mask2former", "--overwrite", "--resume"], "contradict"),
        (["eval", "--model", "mask2former", "--limit", "twelve"], "give a number of images, ids such as"),
        (["eval", "--model", "mask2former", "--limit", "@nowhere.txt"], "cannot be read"),
        (["eval", "--model", "mask2former", "--batch-size", "0"], "above 0, or auto"),
        (["eval", "--model", "mask2former,maskformer", "--checkpoint", "my.pth"], "fits one model"),
        (["eval", "--model", "mask2former", "--checkpoint", "https://host.example/my.pth"], "not a URL"),
        (["eval", "--config", "nowhere.py"], "no config file"),
        (["score", "--gt", "x" * 300, "--pred", "y"], "File name too long"),
        (["report", "x" * 300], "File name too long"),
        (["predict", "x" * 300, "--model", "maskformer-tiny"], "File name too long"),
        (["eval", "--model", "panoptic-fpn-tiny", "--data", "nowhere"], "no dataset nowhere"),
        (["compare", "nowhere"], "no such folder"),
        (["metrics", "nowhere"], "no such folder"),
        (["errors", "nowhere"], "no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_on_stderr_and_exit_2(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = panbench(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_exits_2_and_suggests_the_right_one():
    assert "--model" in refused("eval", "--modell", "mask2former")


@pytest.mark.parametrize("command", [["eval", "--model", "panoptic-fpn-tiny", "--data", "shapes", "--out", "run"]])
def test_a_cache_folder_that_cannot_be_used_is_named(tmp_path, command):
    """/dev/null is no folder."""
    result = panbench(*command, cwd=tmp_path, PANBENCH_CACHE="/dev/null")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: /dev/null/")
    assert "Not a directory" in result.stderr


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    command = ("score", "--gt", REFERENCE / "gt.json", "--pred", REFERENCE / "pred.json", "--out", "locked/run")
    said = refused(*command, cwd=tmp_path)
    assert "locked" in said
    assert "Permission denied" in said


# ENOENT is what /proc answers to who makes a file there.
@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOENT, errno.EROFS])
def test_what_a_folder_or_disk_refuses_is_no_fault_of_panbench(code, tmp_path, monkeypatch):
    from panbench.report.answers import tables

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path / "locked"))

    monkeypatch.setattr(tables, "find_runs", refuse)
    assert refused("compare", tmp_path) == f"Error: {tmp_path / 'locked'} cannot be used: {os.strerror(code)}.\n"


def test_a_fault_of_ours_is_one_line_and_exit_1_with_a_traceback_only_when_asked_for(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise KeyError("lost")

    monkeypatch.setattr("panbench.report.answers.tables.find_runs", broken)
    result = panbench("metrics", tmp_path)
    assert result.exit_code == 1
    assert "KeyError: 'lost'" in result.stderr
    assert "fault of panbench" in result.stderr
    assert "Traceback" not in result.stderr
    for asked in (["--debug", "metrics", tmp_path], ["metrics", tmp_path, "--debug"]):
        assert "Traceback" in panbench(*asked).stderr


@pytest.mark.parametrize("error", [BadDataset, OutOfSpace])
def test_an_error_of_the_input_exits_with_its_code_and_no_traceback(error, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise error("the sentence")

    monkeypatch.setattr("panbench.report.answers.tables.find_runs", refuse)
    result = panbench("metrics", tmp_path)
    assert (result.exit_code, result.stderr) == (error.exit_code, "Error: the sentence\n")


def test_an_interruption_exits_130(monkeypatch, tmp_path):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("panbench.report.answers.tables.find_runs", interrupted)
    result = panbench("metrics", tmp_path)
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("panbench.report.answers.tables.find_runs", missing)
    said = refused("metrics", tmp_path)
    assert "torch is not installed). Install with: pip install" in said
    assert "[models]" in said


def test_opencv_without_its_system_library_tells_what_to_install():
    frame = compile("raise ImportError('libGL.so.1: cannot open shared object file')", "/x/cv2/__init__.py", "exec")
    with pytest.raises(ImportError) as raised:
        exec(frame, {})
    assert "apt-get install libgl1" in cli._missing(raised.value)


def test_score_prints_and_stores_a_run_that_compare_takes(tmp_path):
    gt, pred = predictions(tmp_path, "gt", True), predictions(tmp_path, "pred", True)
    result = ran("score", "--gt", gt, "--pred", pred, "--out", tmp_path / "run")
    assert result.stdout.splitlines()[2].split() == "| All | 100.00 | 100.00 | 100.00 | 1 |".split()
    assert json.loads(panbench("compare", tmp_path / "run", "--format", "json").stdout)[0]["PQ"] == 1.0
    assert "--overwrite" in refused("score", "--gt", gt, "--pred", pred, "--out", tmp_path / "run")


def test_score_json_is_alone_on_stdout_and_nothing_is_stored_without_out(tmp_path, monkeypatch):
    gt, pred = predictions(tmp_path, "gt", True), predictions(tmp_path, "pred", False)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    scores = json.loads(panbench("score", "--gt", gt, "--pred", pred, "--json").stdout)
    assert scores["All"] == {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "n": 1}
    assert scores["per_category"]["1"]["FN"] == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_compare_prints_the_runs_with_intervals_and_differences(tmp_path):
    runs = [stored_run(tmp_path / "good"), stored_run(tmp_path / "poor", hits=3)]
    result = ran("compare", *runs)
    assert "95 % interval" in result.stdout
    assert "+60.00" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("format", ["text", "md", "csv", "json", "latex"])
def test_compare_prints_every_format_to_stdout_alone(format, tmp_path):
    run = stored_run(tmp_path / "good")
    result = ran("compare", run, "--format", format)
    assert "good" in result.stdout.lower()
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("format", "ending"), [("text", "txt"), ("md", "md"), ("csv", "csv"), ("json", "json"), ("latex", "tex")]
)
def test_compare_writes_a_file_whose_ending_names_the_format(format, ending, tmp_path):
    run, out = stored_run(tmp_path / "good"), tmp_path / "new" / f"table.{ending}"
    result = ran("compare", run, "--out", out)
    assert result.stdout == f"{out}\n"
    # A file has lines of 120 columns, as a pipe has.
    printed = panbench("compare", run, "--format", format, columns=120).stdout
    assert [line.rstrip() for line in out.read_text().splitlines()] == [line.rstrip() for line in printed.splitlines()]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_compare_parquet_holds_the_rows_and_columns_of_csv(tmp_path):
    runs, out = [stored_run(tmp_path / "good"), stored_run(tmp_path / "poor", hits=3)], tmp_path / "table.parquet"
    assert panbench("compare", *runs, "--format", "parquet", "--out", out).exit_code == 0
    table = pd.read_parquet(out)
    printed = pd.read_csv(io.StringIO(panbench("compare", *runs, "--format", "csv").stdout))
    assert list(table.columns) == list(printed.columns)
    assert (list(table["run"]), list(table["PQ"]), list(table["complete"])) == (
        ["good", "poor"],
        [1.0, 0.4],
        [True] * 2,
    )
    piped = panbench("compare", *runs, "--format", "parquet").stdout_bytes
    assert piped == out.read_bytes()


def test_compare_refuses_parquet_to_a_terminal_and_a_file_that_cannot_be_written(tmp_path):
    run = stored_run(tmp_path / "good")
    ours, theirs = pytest.importorskip("pty").openpty()
    command = [sys.executable, "-m", "panbench", "compare", str(run), "--format", "parquet"]
    shown = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(theirs)
    os.close(ours)
    assert shown.returncode == 2
    assert "--out FILE.parquet" in shown.stderr
    assert "cannot be written" in refused("compare", run, "--out", tmp_path)


def test_compare_json_is_a_list_with_an_object_a_run(tmp_path):
    runs = [stored_run(tmp_path / "good"), stored_run(tmp_path / "poor", hits=3)]
    good, poor = json.loads(panbench("compare", *runs, "--format", "json").stdout)
    assert (good["run"], good["PQ"], good["rank"], good["complete"]) == ("good", 1.0, 1, True)
    # 3 found and 9 missed: 3 / (3 + 9/2).
    assert (poor["PQ"], poor["rank"]) == (0.4, 2)
    assert poor["PQ_low"] < 0.4 < poor["PQ_high"]
    assert good["versus"][0]["run"] == "poor"
    assert good["versus"][0]["PQ_difference"] == pytest.approx(0.6)
    assert poor["versus"][0]["PQ_difference"] == pytest.approx(-0.6)


def test_compare_refuses_other_data_with_the_difference_and_shows_it_when_asked_for(tmp_path):
    runs = [stored_run(tmp_path / "a"), stored_run(tmp_path / "b", dataset="cubes")]
    said = refused("compare", *runs)
    assert "balls val" in said
    assert "cubes val" in said
    shown = ran("compare", *runs, "--mixed")
    assert "On cubes val" in shown.stdout


def test_compare_adds_categories_and_slices_when_asked_for(tmp_path):
    runs = [stored_run(tmp_path / "good"), stored_run(tmp_path / "poor", hits=3)]
    shown = panbench("compare", *runs, "--per-category", "--by", "size").stdout
    assert "PQ by category" in shown
    assert "-60.00" in shown
    assert "small (< 32²)" in shown
    record = json.loads(panbench("compare", *runs, "--per-category", "--format", "json").stdout)[1]
    assert {"name": "ball", "metric": "PQ", "value": 0.4}.items() <= record["per_category"][0].items()
    table = panbench("compare", *runs, "--by", "size", "--format", "csv").stdout
    assert table.startswith("run,group,metric,value,low,high,images\n")


def test_compare_with_a_baseline_sets_the_others_against_it(tmp_path):
    runs = [stored_run(tmp_path / name, hits=hits) for name, hits in (("a", 12), ("b", 6), ("c", 3))]
    records = json.loads(panbench("compare", *runs, "--baseline", "b", "--format", "json").stdout)
    assert [[other["run"] for other in record["versus"]] for record in records] == [["b"], ["a", "c"], ["b"]]
    assert panbench("compare", *runs, "--baseline", "d").exit_code == 2
    by_path = panbench("compare", *runs, "--baseline", f"{runs[1]}/", "--format", "json")
    assert json.loads(by_path.stdout) == records, "a run is named by the path that it was given by, too"


def test_metrics_and_errors_print_and_give_json(tmp_path):
    run = stored_run(tmp_path / "poor", hits=3)
    metrics = ran("metrics", run, "--per-category")
    for shown in ("40.00", "mIoU", "PQ†", "IoU >", "Segment size", "ball"):
        assert shown in metrics.stdout
    assert json.loads(panbench("metrics", run, "--json").stdout)["summary"]["All"]["PQ"] == 0.4
    errors = ran("errors", run, "--per-category")
    assert "missed" in errors.stdout
    lost = json.loads(panbench("errors", run, "--json").stdout)["lost"]
    # Nine balls were missed and nothing else went wrong, so that cause has all of 1 - PQ.
    assert {row["cause"]: row["gain"] for row in lost if row["group"] == "All"}["missed"] == pytest.approx(0.6)


@pytest.mark.parametrize("command", ["metrics", "errors"])
def test_every_line_of_the_findings_fits_80_columns(command, tmp_path):
    shown = panbench(command, stored_run(tmp_path / "poor", hits=3), "--per-category").stdout
    assert max(map(len, shown.splitlines())) <= 80


def test_a_run_without_images_has_nothing_to_measure(tmp_path):
    run = stored_run(tmp_path / "empty", images=0)
    for command in ("metrics", "errors"):
        assert "no scored image" in refused(command, run)


def test_no_color_is_honoured_and_pipes_have_none(tmp_path):
    run = stored_run(tmp_path / "good")
    assert "\x1b" not in panbench_program("compare", run).stdout


def test_a_closed_pipe_is_no_error(tmp_path):
    run = stored_run(tmp_path / "good")
    command = f'"{sys.executable}" -m panbench compare "{run}" | head -n 1'
    finished = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in finished.stderr
    assert "Error" not in finished.stderr


def test_output_survives_a_locale_that_cannot_show_it(tmp_path):
    run = stored_run(tmp_path / "good")
    finished = panbench_program(
        "metrics", run, env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    )
    assert finished.returncode == 0, finished.stderr


# Several models, one after the other


SPECS = [find_model("mask2former"), find_model("maskformer")]


def test_a_model_that_fails_does_not_end_the_others(tmp_path):
    def evaluate(spec, folder):
        if spec is SPECS[0]:
            raise RuntimeError("it broke")
        return folder

    seen: list[Outcome] = []
    outcomes = run_models(SPECS, [tmp_path / "a", tmp_path / "b"], evaluate, seen.append)
    assert outcomes == seen
    assert outcomes[0].reason == "RuntimeError: it broke"
    assert outcomes[0].row("balls").notes == ("failed: RuntimeError: it broke",)
    assert outcomes[1].run == tmp_path / "b"


def test_a_single_model_that_fails_raises_its_error(tmp_path):
    def evaluate(spec, folder):
        raise BadDataset("no images")

    with pytest.raises(BadDataset):
        run_models(SPECS[:1], [tmp_path], evaluate, lambda outcome: None)


def test_an_interruption_ends_all_models(tmp_path):
    def evaluate(spec, folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_models(SPECS, [tmp_path, tmp_path], evaluate, lambda outcome: None)


def test_run_folders_are_named_after_data_and_model_or_lie_in_out():
    names = [spec.name for spec in SPECS]
    assert run_folders(SPECS, "coco", None) == [Path("results") / f"coco-{name}" for name in names]
    assert run_folders(SPECS[:1], "coco", Path("x")) == [Path("x")]
    assert run_folders(SPECS, "coco", Path("x")) == [Path("x") / name for name in names]


def test_a_run_that_is_in_the_way_is_refused_before_anything_is_run(tmp_path):
    stored_run(tmp_path / SPECS[1].name, images=1)
    with pytest.raises(BadRun, match="already holds a run"):
        run_folders(SPECS, "balls", tmp_path)
    assert run_folders(SPECS, "balls", tmp_path, keep=False)[1] == tmp_path / SPECS[1].name
    with pytest.raises(BadRun, match="several models go into folders of their own"):
        run_folders(SPECS, "balls", tmp_path / SPECS[1].name, keep=False)


# A real evaluation, untrained


EVAL = ("eval", "--model", "panoptic-fpn-tiny", "--checkpoint", "random", "--device", "cpu", "--limit", "2")


def test_eval_prints_one_table_a_model_then_the_comparison_and_marks_random_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ran(*EVAL, "--model", "mask2former-tiny", "--out", "demo")
    lines = result.stdout.splitlines()
    assert lines[0].split() == "| Panoptic FPN tiny | PQ | SQ | RQ | categories |".split()
    assert any(line.startswith("| Mask2Former tiny") for line in lines)
    assert result.stdout.count("random weights") + result.stdout.count("Random weights") == 3
    assert result.stdout.lower().count("a subset: 2 of 200 images") == 1
    assert (tmp_path / "demo" / "panoptic-fpn-tiny" / "run.json").is_file()
    assert "panbench compare demo/panoptic-fpn-tiny demo/mask2former-tiny" in result.stderr
    assert "--overwrite" in refused(*EVAL, "--out", "demo/panoptic-fpn-tiny")
    assert panbench(*EVAL, "--out", "demo/panoptic-fpn-tiny", "--overwrite").exit_code == 0


def test_eval_goes_on_after_a_model_that_fails_and_exits_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(type='RetinaNet')\n")
    result = panbench(*EVAL, "--config", broken, "--data", "shapes")
    assert result.exit_code == 1
    assert result.stdout.count("Panoptic FPN tiny") == 2
    assert "Failed:" in result.stdout
    assert "broken" in result.stdout


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "--device cuda:99" in refused(
        "eval", "--model", "panoptic-fpn-tiny,maskformer-tiny", "--device", "cuda:99", "--limit", "1"
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_keeps_what_was_scored_and_says_how_to_go_on(tmp_path):
    words = [sys.executable, "-m", "panbench", *EVAL[:-1], "200", "--out", str(tmp_path / "run")]
    with (tmp_path / "said").open("wb") as file:
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file, cwd=tmp_path)
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "parts").is_dir():
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=0.02)
            assert running.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline
        ended = None
        while ended is None and time.monotonic() < deadline:
            # Again, as a person would: an import of a library can swallow the first (seen under load).
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                ended = running.wait(timeout=3)
        assert ended == 130
    said = (tmp_path / "said").read_text()
    assert "--resume" in said
    assert "Traceback" not in said
    marked = ran("compare", tmp_path / "run")
    assert "of 200 images scored" in marked.stdout
