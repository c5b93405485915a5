import contextlib
import errno
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import support
from little_runs import balls, write_side
from support import panbench_program, refusal

import panbench as panbench_package
from panbench import __version__
from panbench.base.errors import BadDataset, BadRun, OutOfSpace
from panbench.catalog import find_model, load_catalog
from panbench.cli import app as cli
from panbench.cli.command import model_names
from panbench.evaluation.several import Outcome, evaluate_in_turn, run_folders

REFERENCE = Path(__file__).parents[1] / "reference" / "pq_edges"
panbench = functools.partial(support.panbench, columns=80)
ran = functools.partial(support.ran, columns=80)
refused = functools.partial(support.refused, columns=80)
FOUND, MISSED = {1: "pp.."}, {1: "...."}


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    """A good run, and a poor one: 3 found and 9 missed, so 3 / (3 + 9/2)."""
    return [balls(tmp_path / "good"), balls(tmp_path / "poor", hits=3)]


def test_the_version_is_printed():
    assert panbench("--version").stdout == f"panbench {__version__}\n"


def test_quiet_omits_hints_but_not_results_and_errors(tmp_path):
    gt = write_side(tmp_path, "gt", FOUND)
    command = ("score", "--gt", gt, "--pred", gt)
    assert "Not stored" in panbench(*command).stderr
    for quiet in (("-q", *command), (*command, "--quiet")):
        result = panbench(*quiet)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "100.00" in result.stdout
    assert panbench("-q", "metrics", "nowhere").stderr.startswith("Error: ")
    assert panbench("-V").stdout == panbench("--version").stdout


def test_forced_colour_colours_a_pipe_without_animation(tmp_path):
    gt = write_side(tmp_path, "gt", FOUND)
    environment = {**os.environ, "FORCE_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = panbench_program("score", "--gt", gt, "--pred", gt, env=environment)
    assert done.returncode == 0, done.stderr
    assert "\x1b[" in done.stdout + done.stderr
    for movement in ("\x1b[?25l", "\x1b[2K", "\x1b[1A", "\r"):
        assert movement not in done.stdout + done.stderr


@pytest.mark.parametrize(("ending", "words"), [("html", "panbench report RUN"), ("docx", "Known endings are .txt")])
def test_compare_refuses_an_unknown_file_ending(ending, words, tmp_path):
    run, out = balls(tmp_path / "good"), tmp_path / f"table.{ending}"
    assert words in refused("compare", run, "--out", out)
    assert not out.exists()
    assert panbench("compare", run, "--out", out, "--format", "md").exit_code == 0


def test_the_package_is_marked_as_typed():
    assert (Path(panbench_package.__file__).parent / "py.typed").is_file()


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
    assert "No model fits --filter 'no such model'" in refused("models", "--filter", "no such model")


def test_names_complete_also_after_a_comma():
    assert "mask2former-r50" in model_names("mask2")
    assert "maskformer-r50,mask2former-r50" in model_names("maskformer-r50,mask2")
    assert model_names("no-such") == []


@pytest.mark.parametrize(
    ("arguments", "message"),
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
def test_bad_input_is_one_sentence_on_stderr_and_exit_2(arguments, message, tmp_path):
    assert message in support.one_sentence(*arguments, columns=80, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_option_exits_2_and_suggests_the_right_one():
    assert "--model" in refused("eval", "--modell", "mask2former")


def test_a_cache_folder_that_cannot_be_used_is_named(tmp_path):
    """/dev/null is no folder."""
    command = ("eval", "--model", "panoptic-fpn-tiny", "--data", "shapes", "--out", "run")
    said = support.one_sentence(*command, cwd=tmp_path, PANBENCH_CACHE="/dev/null")
    assert said.startswith("Error: /dev/null/")
    assert "Not a directory" in said


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_named(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    command = ("score", "--gt", REFERENCE / "gt.json", "--pred", REFERENCE / "pred.json", "--out", "locked/run")
    said = refused(*command, cwd=tmp_path)
    assert "locked" in said
    assert "Permission denied" in said


@pytest.fixture
def failing(monkeypatch, tmp_path):
    """A function that runs `panbench metrics`, with more options, in which an error is raised."""

    def fail(error: BaseException, *options: str):
        monkeypatch.setattr("panbench.report.answers.tables.find_runs", lambda *_, **__: raised(error))
        return panbench("metrics", tmp_path, *options)

    return fail


def raised(error: BaseException) -> None:
    raise error


# ENOENT is what /proc answers to who makes a file there.
REFUSED_BY_A_DISK = [
    (OSError(code, os.strerror(code), "/locked"), 2, f"Error: /locked cannot be used: {os.strerror(code)}.\n")
    for code in (errno.EACCES, errno.ENOENT, errno.EROFS)
]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        *REFUSED_BY_A_DISK,
        (BadDataset("the sentence"), BadDataset.exit_code, "Error: the sentence\n"),
        (OutOfSpace("the sentence"), OutOfSpace.exit_code, "Error: the sentence\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
    ],
    ids=repr,
)
def test_a_foreseen_error_exits_with_its_code_and_no_traceback(error, code, said, failing):
    result = failing(error)
    assert (result.exit_code, result.stderr) == (code, said)


def test_an_internal_error_is_one_line_and_exit_1_with_a_traceback_on_request(failing, tmp_path):
    result = failing(KeyError("lost"))
    assert result.exit_code == 1
    for words in ("KeyError: 'lost'", "fault of panbench"):
        assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in failing(KeyError("lost"), "--debug").stderr
    assert "Traceback" in panbench("--debug", "metrics", tmp_path).stderr


def test_a_missing_package_is_named(failing):
    result = failing(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert result.exit_code == 2
    assert re.search(r"torch is not installed\). Install with: pip install .*\[models\]", result.stderr)


def test_opencv_without_its_system_library_is_reported_with_what_to_install():
    frame = compile("raise ImportError('libGL.so.1: cannot open shared object file')", "/x/cv2/__init__.py", "exec")
    with pytest.raises(ImportError) as raised:
        exec(frame, {})
    assert "apt-get install libgl1" in cli._import_error_message(raised.value)


def test_score_prints_and_stores_a_run_that_compare_takes(tmp_path):
    gt, pred = (write_side(tmp_path, name, FOUND) for name in ("gt", "pred"))
    result = ran("score", "--gt", gt, "--pred", pred, "--out", tmp_path / "run")
    assert result.stdout.splitlines()[2].split() == "| All | 100.00 | 100.00 | 100.00 | 1 |".split()
    assert json.loads(panbench("compare", tmp_path / "run", "--format", "json").stdout)[0]["PQ"] == 1.0
    assert "--overwrite" in refused("score", "--gt", gt, "--pred", pred, "--out", tmp_path / "run")


def test_score_json_is_alone_on_stdout_and_nothing_is_stored_without_out(tmp_path, monkeypatch):
    gt, pred = write_side(tmp_path, "gt", FOUND), write_side(tmp_path, "pred", MISSED)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    scores = json.loads(panbench("score", "--gt", gt, "--pred", pred, "--json").stdout)
    assert scores["All"] == {"PQ": 0.0, "SQ": 0.0, "RQ": 0.0, "n": 1}
    assert scores["per_category"]["1"]["FN"] == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_compare_prints_the_runs_with_intervals_and_differences(runs):
    result = ran("compare", *runs)
    assert "95 % interval" in result.stdout
    assert "+60.00" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("format", ["text", "md", "csv", "json", "latex"])
def test_compare_prints_every_format_to_stdout_only(format, tmp_path):
    run = balls(tmp_path / "good")
    result = ran("compare", run, "--format", format)
    assert "good" in result.stdout.lower()
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("format", "ending"), [("text", "txt"), ("md", "md"), ("csv", "csv"), ("json", "json"), ("latex", "tex")]
)
def test_compare_writes_a_file_whose_ending_names_the_format(format, ending, tmp_path):
    run, out = balls(tmp_path / "good"), tmp_path / "new" / f"table.{ending}"
    result = ran("compare", run, "--out", out)
    assert result.stdout == f"{out}\n"
    # A file has lines of 120 columns, as a pipe has.
    printed = panbench("compare", run, "--format", format, columns=120).stdout
    assert [line.rstrip() for line in out.read_text().splitlines()] == [line.rstrip() for line in printed.splitlines()]
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_compare_parquet_holds_the_rows_and_columns_of_csv(runs, tmp_path):
    out = tmp_path / "table.parquet"
    ran("compare", *runs, "--format", "parquet", "--out", out)
    table = pd.read_parquet(out)
    printed = pd.read_csv(io.StringIO(ran("compare", *runs, "--format", "csv").stdout))
    assert list(table.columns) == list(printed.columns)
    assert table[["run", "PQ", "complete"]].values.tolist() == [["good", 1.0, True], ["poor", 0.4, True]]
    assert ran("compare", *runs, "--format", "parquet").stdout_bytes == out.read_bytes()


def test_compare_refuses_parquet_to_a_terminal_and_a_file_that_cannot_be_written(tmp_path):
    run = balls(tmp_path / "good")
    ours, theirs = pytest.importorskip("pty").openpty()
    command = [sys.executable, "-m", "panbench", "compare", str(run), "--format", "parquet"]
    shown = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(theirs)
    os.close(ours)
    assert shown.returncode == 2
    assert "--out FILE.parquet" in shown.stderr
    assert "cannot be written" in refused("compare", run, "--out", tmp_path)


def test_compare_json_is_a_list_with_one_object_per_run(runs):
    good, poor = json.loads(panbench("compare", *runs, "--format", "json").stdout)
    assert (good["run"], good["PQ"], good["rank"], good["complete"]) == ("good", 1.0, 1, True)
    assert (poor["PQ"], poor["rank"]) == (0.4, 2)
    assert poor["PQ_low"] < 0.4 < poor["PQ_high"]
    assert good["versus"][0]["run"] == "poor"
    assert good["versus"][0]["PQ_difference"] == pytest.approx(0.6)
    assert poor["versus"][0]["PQ_difference"] == pytest.approx(-0.6)


def test_compare_refuses_other_data_with_the_difference_and_allows_it_on_request(tmp_path):
    runs = [balls(tmp_path / "a"), balls(tmp_path / "b", dataset="cubes")]
    said = refused("compare", *runs)
    assert "balls val" in said
    assert "cubes val" in said
    assert "On cubes val" in ran("compare", *runs, "--mixed").stdout


def test_compare_adds_categories_and_slices_on_request(runs):
    shown = panbench("compare", *runs, "--per-category", "--by", "size").stdout
    for words in ("PQ by category", "-60.00", "small (< 32²)"):
        assert words in shown
    record = json.loads(panbench("compare", *runs, "--per-category", "--format", "json").stdout)[1]
    assert {"name": "ball", "metric": "PQ", "value": 0.4}.items() <= record["per_category"][0].items()
    table = panbench("compare", *runs, "--by", "size", "--format", "csv").stdout
    assert table.startswith("run,group,metric,value,low,high,images\n")


def test_compare_with_a_baseline_compares_all_others_with_it(tmp_path):
    runs = [balls(tmp_path / name, hits=hits) for name, hits in (("a", 12), ("b", 6), ("c", 3))]
    records = json.loads(panbench("compare", *runs, "--baseline", "b", "--format", "json").stdout)
    assert [[other["run"] for other in record["versus"]] for record in records] == [["b"], ["a", "c"], ["b"]]
    assert panbench("compare", *runs, "--baseline", "d").exit_code == 2
    by_path = panbench("compare", *runs, "--baseline", f"{runs[1]}/", "--format", "json")
    assert json.loads(by_path.stdout) == records, "a run is named by the path that it was given by, too"


def test_metrics_and_errors_print_and_give_json(tmp_path):
    run = balls(tmp_path / "poor", hits=3)
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
def test_metrics_and_errors_fit_80_columns(command, tmp_path):
    shown = panbench(command, balls(tmp_path / "poor", hits=3), "--per-category").stdout
    assert max(map(len, shown.splitlines())) <= 80


def test_metrics_of_a_run_without_images_are_refused(tmp_path):
    run = balls(tmp_path / "empty", images=0)
    for command in ("metrics", "errors"):
        assert "no scored image" in refused(command, run)


def test_no_color_is_honoured_and_pipes_get_no_colour(tmp_path):
    run = balls(tmp_path / "good")
    assert "\x1b" not in panbench_program("compare", run).stdout


def test_output_survives_a_locale_that_cannot_show_it(tmp_path):
    run = balls(tmp_path / "good")
    finished = panbench_program(
        "metrics", run, env={"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    )
    assert finished.returncode == 0, finished.stderr


# Several models, one after the other


SPECS = [find_model("mask2former"), find_model("maskformer")]


def test_a_model_that_fails_does_not_end_the_others(tmp_path):
    def evaluate(index, spec):
        return raised(RuntimeError("it broke")) if spec is SPECS[0] else [tmp_path / "b"]

    seen: list[Outcome] = []
    outcomes = evaluate_in_turn(SPECS, evaluate, seen.append)
    assert outcomes == seen
    assert outcomes[0].reason == "RuntimeError: it broke"
    assert outcomes[0].row("balls").notes == ("failed: RuntimeError: it broke",)
    assert outcomes[1].run == tmp_path / "b"


@pytest.mark.parametrize(("specs", "error"), [(SPECS[:1], BadDataset("no images")), (SPECS, KeyboardInterrupt())])
def test_the_error_of_a_single_model_or_an_interruption_ends_eval(specs, error):
    with pytest.raises(type(error)):
        evaluate_in_turn(specs, lambda index, spec: raised(error), lambda outcome: None)


def test_run_folders_are_named_after_data_and_model_or_lie_in_out():
    names = [spec.name for spec in SPECS]
    assert run_folders(SPECS, "coco", None) == [Path("results") / f"coco-{name}" for name in names]
    assert run_folders(SPECS[:1], "coco", Path("x")) == [Path("x")]
    assert run_folders(SPECS, "coco", Path("x")) == [Path("x") / name for name in names]


def test_an_existing_run_is_refused_before_anything_is_run(tmp_path):
    balls(tmp_path / SPECS[1].name, images=1)
    assert "already holds a run" in refusal(BadRun, run_folders, SPECS, "balls", tmp_path)
    assert run_folders(SPECS, "balls", tmp_path, keep=False)[1] == tmp_path / SPECS[1].name
    with pytest.raises(BadRun, match="several models go into folders of their own"):
        run_folders(SPECS, "balls", tmp_path / SPECS[1].name, keep=False)


# A real evaluation, untrained


EVAL = ("eval", "--model", "panoptic-fpn-tiny", "--checkpoint", "random", "--device", "cpu", "--limit", "2")


def test_eval_prints_a_table_per_model_then_the_comparison_and_marks_random_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ran(*EVAL, "--model", "mask2former-tiny", "--out", "demo")
    warning, *lines = result.stdout.splitlines()
    assert warning == "No thing is predicted, of 6 segments in the ground truth."
    assert lines[0].split() == "| Panoptic FPN tiny | PQ | SQ | RQ | categories |".split()
    assert any(line.startswith("| Mask2Former tiny") for line in lines)
    assert result.stdout.count("random weights") + result.stdout.count("Random weights") == 3
    assert result.stdout.lower().count("a subset: 2 of 200 images") == 1
    assert (tmp_path / "demo" / "panoptic-fpn-tiny" / "run.json").is_file()
    assert "panbench compare demo/panoptic-fpn-tiny demo/mask2former-tiny" in result.stderr
    assert "--overwrite" in refused(*EVAL, "--out", "demo/panoptic-fpn-tiny")
    assert panbench(*EVAL, "--out", "demo/panoptic-fpn-tiny", "--overwrite").exit_code == 0


def test_eval_continues_after_a_failed_model_and_exits_1(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("model = dict(type='RetinaNet')\n")
    result = panbench(*EVAL, "--config", broken, "--data", "shapes", cwd=tmp_path)
    assert result.exit_code == 1
    assert result.stdout.count("Panoptic FPN tiny") == 2
    for words in ("Failed:", "broken"):
        assert words in result.stdout


def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path):
    models = ("--model", "panoptic-fpn-tiny,maskformer-tiny")
    assert "--device cuda:99" in refused("eval", *models, "--device", "cuda:99", "--limit", "1", cwd=tmp_path)
    assert not (tmp_path / "results").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as a signal")
def test_ctrl_c_keeps_scored_images_and_says_how_to_resume(tmp_path):
    words = [sys.executable, "-m", "panbench", *EVAL[:-1], "200", "--out", str(tmp_path / "run")]
    with (tmp_path / "said").open("wb") as file:
        # Tests in the background of a shell inherit that Ctrl-C is ignored.
        by_default = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file, cwd=tmp_path, preexec_fn=by_default)
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "parts").is_dir():
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=0.02)
            assert running.poll() is None, (tmp_path / "said").read_text()
            assert time.monotonic() < deadline
        ended = None
        while ended is None and time.monotonic() < deadline:
            # Again, as a person would: an import of a library can swallow the first (seen under load). Not at once: a
            # second press while Python shuts down ends it by the signal.
            running.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                ended = running.wait(timeout=10)
        assert ended == 130, (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert "--resume" in said
    assert "Traceback" not in said
    marked = ran("compare", tmp_path / "run")
    assert "of 200 images scored" in marked.stdout
