"""scripts/gpu_day: stages that are done are reported and not run again, and what misses its goal fails the day."""

import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement

from scripts.check import gpu_day, gpu_needs
from scripts.make import gpu_wheels


def write(day: gpu_day.Day, good: bool) -> None:
    for name in gpu_day.STAGES:
        row = {"model": "m", "good": good or name != "parity"}
        (day.out / f"{name}.json").write_text(json.dumps({"rows": [row], "seconds": 1.0}))


def test_a_day_is_good_when_every_stage_is_done_and_reaches_its_goals(tmp_path: Path):
    day = gpu_day.Day(tmp_path, rehearsal=True)
    assert not gpu_day.report(day), "nothing was done"
    write(day, good=True)
    assert gpu_day.report(day)
    write(day, good=False)
    assert not gpu_day.report(day)
    assert "| m | NO |" in (tmp_path / "REPORT.md").read_text()


def test_without_a_gpu_only_a_rehearsal_runs(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gpu_day.py", "parity", "--out", str(tmp_path)])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="Add --rehearse"):
        gpu_day.main()


PROGRAM = """#!/usr/bin/env bash
# In the place of Python: three stages, of which the second fails as long as OUT/mended is not there.
case $1 in */gpu_needs.py) [ ! -e "$3/bare" ] || { echo "mmdet: not here"; exit 1; }; exit 0 ;; esac
out=$4
case $2 in
    plan) for stage in first second third; do [ -e "$out/$stage.json" ] || echo "$stage 5"; done ;;
    report) echo "report of $out"; exit 3 ;;
    *)
        echo "$2" >>"$out/calls"
        if [ "$2" = second ] && [ ! -e "$out/mended" ]; then echo broken >&2; exit 7; fi
        if [ -e "$out/slow" ] && [ "$2" != probe ]; then echo begun; read -r _ <"$out/never"; fi
        echo "{}" >"$out/$2.json" ;;
esac
"""
needs_shell = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("timeout")), reason="the wrapper needs bash and timeout"
)


@pytest.fixture
def wrapped(tmp_path: Path) -> tuple[list[str], dict[str, str], Path]:
    program, out = tmp_path / "program", tmp_path / "out of the day"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    out.mkdir()
    script = Path(gpu_day.__file__).parent / "gpu_day.sh"
    return ["bash", str(script), str(out), "--rehearse"], {**os.environ, "PYTHON": str(program)}, out


@needs_shell
def test_a_stage_that_fails_is_told_and_the_others_go_on(wrapped: tuple[list[str], dict[str, str], Path]):
    command, environment, out = wrapped
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, "the report's"
    said = done.stdout.splitlines()
    assert [line.partition(",")[0] for line in said[:4]] == [
        "probe: exit 0",
        "first: exit 0",
        "second: exit 7",
        "third: exit 0",
    ]
    assert said[2].endswith(f"; see {out}/second.log")
    assert said[4] == f"report of {out}"
    assert (out / "second.log").read_text() == "broken\n"


@needs_shell
def test_stages_that_are_done_are_not_run_again(wrapped: tuple[list[str], dict[str, str], Path]):
    command, environment, out = wrapped
    subprocess.run(command, env=environment, capture_output=True)
    (out / "mended").touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("first: done before\nprobe: done before\nthird: done before\nsecond: exit 0, ")
    assert (out / "calls").read_text().split() == ["probe", "first", "second", "third", "second"]


@needs_shell
def test_a_stage_that_does_not_fit_into_the_call_is_left_for_the_next(wrapped: tuple[list[str], dict[str, str], Path]):
    command, environment, out = wrapped
    done = subprocess.run([*command, "--seconds", "4"], env=environment, capture_output=True, text=True)
    assert "first: left for the next call (about 5 s, and " in done.stdout
    assert (out / "calls").read_text().split() == ["probe"]


@needs_shell
def test_a_machine_that_lacks_packages_is_told_before_any_stage(wrapped: tuple[list[str], dict[str, str], Path]):
    command, environment, out = wrapped
    (out / "bare").touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "mmdet: not here" in done.stdout
    assert not (out / "calls").exists()


@needs_shell
def test_python3_does_where_there_is_no_python(wrapped: tuple[list[str], dict[str, str], Path], tmp_path: Path):
    command, environment, out = wrapped
    folder = tmp_path / "programs"
    folder.mkdir()
    shutil.copy2(environment.pop("PYTHON"), folder / "python3")
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 3
    assert "first" in (out / "calls").read_text()


@needs_shell
def test_results_in_one_file_are_gone_on_with_on_a_fresh_machine(wrapped: tuple[list[str], dict[str, str], Path]):
    command, environment, out = wrapped
    (out / "first.json").write_text("{}")
    packed = gpu_day.pack(out)
    assert packed == out.with_name(out.name + ".tar.gz")
    shutil.rmtree(out)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("first: done before\n")
    assert "first" not in (out / "calls").read_text().split()


@needs_shell
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_day_that_is_stopped_stops_its_stage_and_goes_on_later(wrapped: tuple[list[str], dict[str, str], Path]):
    command, environment, out = wrapped
    (out / "slow").touch()
    os.mkfifo(out / "never")
    day = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    # Opening waits for the stage to read from it.
    with (out / "never").open("w"):
        day.send_signal(signal.SIGTERM)
        said, _ = day.communicate(timeout=60)
    assert day.returncode == 130
    before, *stopped = said.splitlines()
    assert before.startswith("probe: exit 0, ")
    assert stopped == ["stopped; the same command goes on"]
    assert not (out / "first.json").exists()
    (out / "slow").unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "\nfirst: exit 0" in done.stdout


def test_a_command_that_fails_or_takes_too_long_is_a_row():
    assert gpu_day._problem_of([sys.executable, "-c", ""], 60) is None
    said = gpu_day._problem_of([sys.executable, "-c", "import sys; sys.exit('no kernel image')"], 60)
    assert said == "no kernel image\n"
    assert gpu_day._problem_of([sys.executable, "-c", "input()"], 0) == "not done in 0 s"


def test_a_command_that_takes_too_long_can_end_what_it_started(tmp_path):
    """A process that is killed at once would leave behind those that it started."""
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    command = ["bash", "-c", f"trap 'touch {ended}; exit 1' TERM; touch {ready}; while :; do sleep 0.05; done"]
    seconds = 1.0
    while not ready.exists():
        assert gpu_day._problem_of(command, seconds) == f"not done in {seconds:.0f} s"
        seconds *= 2
    assert ended.exists()


def test_the_dearest_question_is_asked_first_and_times_are_estimated_from_the_probe(tmp_path: Path):
    day = gpu_day.Day(tmp_path, rehearsal=True)
    assert [name for name, _ in gpu_day.plan(day)][:2] == ["probe", "question"]
    quick, slow = ({"s to open": 1.0, "s/image": seconds, "s/image, CPU": 1.0} for seconds in (0.01, 1.0))
    found = []
    for row in (quick, slow):
        (tmp_path / "probe.json").write_text(json.dumps({"rows": [row], "seconds": 1.0}))
        found.append(dict(gpu_day.plan(day)))
    assert "probe" not in found[0]
    assert all(found[0][name] < found[1][name] for name in ("question", "speed", "mmdet", "kernels"))


def test_each_row_is_stored_when_it_is_measured_and_the_stage_goes_on_from_there(tmp_path: Path, monkeypatch):
    day = gpu_day.Day(tmp_path, rehearsal=False)
    asked: list[tuple[str, int, tuple[str, ...]]] = []

    def bench(specs, *, precisions, batch_sizes, measured, **settings):
        (spec,), (batch,) = specs, batch_sizes
        asked.append((spec.name, batch, tuple(precisions)))
        facts = {"status": "ok", "images": 1, "images_per_second": 90.0, "loop_seconds": 1.0, "latency_p50": 1.0}
        # As panbench's: fp32 first, whatever is asked for.
        for precision in dict.fromkeys(["fp32", *precisions]):
            if (spec.name, precision) == ("maskformer-r50", "bf16") and len(asked) == 2:
                raise KeyboardInterrupt
            facts |= {"precision": precision, "batch_size": batch, "device_peak_bytes": None, "pixels_differ": 0.0}
            measured(SimpleNamespace(**facts))

    monkeypatch.setattr(gpu_day, "benchmark", bench)
    stored = tmp_path / "speed.rows.json"
    with pytest.raises(KeyboardInterrupt):
        gpu_day.run_stage(day, "speed")
    assert len(json.loads(stored.read_text())) == 4 + 2
    assert not (tmp_path / "speed.json").exists()
    gpu_day.run_stage(day, "speed")
    assert asked[2] == ("maskformer-r50", 32, ("bf16", "fp16"))
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    settings = [(row["model"], row["precision"], row["batch"]) for row in rows]
    # 3 models × 4 precisions × 4 batch sizes, fp32 once for each model and batch size.
    assert len(settings) == len(set(settings)) == 48


def test_a_family_that_cannot_be_opened_is_a_row(tmp_path: Path, monkeypatch):
    def fails(spec, **settings):
        raise ImportError("no libcudnn")

    monkeypatch.setattr(gpu_day, "open_model", fails)
    rows = gpu_day.Rows(tmp_path / "parity.rows.json")
    gpu_day.parity(gpu_day.Day(tmp_path, rehearsal=True), rows)
    assert [row["model"] for row in rows.all] == list(gpu_day.TINY)
    assert {row["error"] for row in rows.all} == {"ImportError: no libcudnn"}
    assert not any(row["good"] for row in rows.all)


def test_without_nvidia_smi_the_day_goes_on(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert gpu_day._smi().startswith("FileNotFoundError")
    found = {"rows": [], "lacking": [], "cannot_begin": [], "library": "_idmap.so", "python": "3.12.3"}
    assert gpu_needs.sentences({**found, "nvidia_smi": None}) == [
        "nvidia-smi is not here: clocks and power are not recorded."
    ]


def test_what_cannot_be_imported_is_named_with_the_command_that_brings_it():
    row = gpu_needs.look("no-such-thing", "no_such_thing")
    assert row["problem"] == "ModuleNotFoundError: No module named 'no_such_thing'"
    found = {"rows": [row], "lacking": ["mmdet"], "cannot_begin": ["mmdet"], "library": "_idmap.so", "python": "3.12.3"}
    said = gpu_needs.sentences({**found, "nvidia_smi": "/bin/nvidia-smi"})
    assert "python3 scripts/make/gpu_wheels.py build/gpu-wheels --python 3.12 mmdet" in said[-1]
    assert gpu_needs._too_old("transformers", "4.40.0") == "4.40.0 is here, and transformers>=5.23,<6 is wanted"


def test_the_preflight_imports_all_that_panbench_depends_on():
    tomllib = pytest.importorskip("tomllib", reason="part of Python from 3.11 on")
    project = tomllib.loads((Path(gpu_day.__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["models"]]
    assert {re.match(r"[\w.-]+", each)[0].lower() for each in wanted} <= set(gpu_needs.NEEDED)


def test_what_the_wheels_need_in_their_turn_is_looked_for_too():
    lacking = set()
    for name in gpu_needs.BROUGHT:
        for line in importlib.metadata.requires(name) or ():
            wanted = Requirement(line)
            # Of setup.py's lines panopticapi-lite's are for tools beside what is used here.
            if name != "panopticapi-lite" and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
                lacking.add(wanted.name.lower())
    # Windows alone, and Python 3.10, have more.
    assert lacking - {"opencv-python-headless"} <= {*gpu_needs.NEEDED, *gpu_needs.ASKED}


def test_a_version_is_that_of_the_machines_python():
    (old,), (new,) = (gpu_wheels.pinned(["contourpy"], python) for python in ("3.10", "3.12"))
    assert old != new


def test_what_stops_a_stage_is_a_row_until_it_is_tried_again(tmp_path: Path, monkeypatch):
    def fails(day, rows):
        """Fails."""
        rows.add({"model": "a", "good": True})
        raise ModuleNotFoundError("No module named 'six'")

    day, stage = gpu_day.Day(tmp_path, rehearsal=True), gpu_day.STAGES["waits"]
    monkeypatch.setitem(gpu_day.STAGES, "waits", gpu_day.Stage(fails))
    with pytest.raises(ModuleNotFoundError):
        gpu_day.run_stage(day, "waits")
    assert not gpu_day.report(day)
    assert "ModuleNotFoundError: No module named 'six'" in (tmp_path / "REPORT.md").read_text()
    monkeypatch.setitem(gpu_day.STAGES, "waits", gpu_day.Stage(lambda day, rows: None, stage.work))
    gpu_day.run_stage(day, "waits")
    assert json.loads((tmp_path / "waits.json").read_text())["rows"] == [{"model": "a", "good": True}]


def test_the_wheels_to_bring_are_pinned_and_for_the_machines_python(tmp_path: Path):
    assert "mmdet==3.3.0" in gpu_wheels.pinned(gpu_needs.BROUGHT, "3.12")
    line = gpu_wheels.command_of(["mmdet==3.3.0"], "3.12", tmp_path)
    assert line[line.index("--python-version") + 1] == "3.12"
    assert "--no-deps" in line
    assert gpu_wheels._is_x86_64_linux(b"\x7fELF" + bytes(14) + b"\x3e\x00")
    assert not gpu_wheels._is_x86_64_linux(b"\xcf\xfa\xed\xfe" + bytes(16))
    with pytest.raises(SystemExit, match=r"constraints.txt has no version of nothing"):
        gpu_wheels.pinned(["nothing"], "3.12")
