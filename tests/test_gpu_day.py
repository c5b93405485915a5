"""scripts/gpu_day: stages that are done are reported and not run again, and what misses its goal fails the day."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.check import gpu_day


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


def test_the_shell_script_runs_the_stages_that_are_listed(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gpu_day.py", "list"])
    gpu_day.main()
    assert capsys.readouterr().out.split() == list(gpu_day.STAGES)
    script = (Path(gpu_day.__file__).parent / "gpu_day.sh").read_text()
    assert "timeout 480" in script


PROGRAM = """#!/usr/bin/env bash
# In the place of Python: three stages, of which the second fails as long as OUT/mended is not there.
out=$4
case $2 in
    list) echo first second third ;;
    report) echo "report of $out"; exit 3 ;;
    *)
        echo "$2" >>"$out/calls"
        if [ "$2" = second ] && [ ! -e "$out/mended" ]; then echo broken >&2; exit 7; fi
        if [ -e "$out/slow" ]; then echo begun; read -r _ <"$out/never"; fi
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
    assert [line.partition(" s")[0].rpartition(",")[0] for line in said[:3]] == [
        "first: exit 0",
        "second: exit 7",
        "third: exit 0",
    ]
    assert said[1].endswith(f"; see {out}/second.log")
    assert said[3] == f"report of {out}"
    assert (out / "second.log").read_text() == "broken\n"


@needs_shell
def test_stages_that_are_done_are_not_run_again(wrapped: tuple[list[str], dict[str, str], Path]):
    command, environment, out = wrapped
    subprocess.run(command, env=environment, capture_output=True)
    (out / "mended").touch()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("first: done before\nsecond: exit 0, ")
    assert (out / "calls").read_text().split() == ["first", "second", "third", "second"]


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
    assert said == "stopped; the same command goes on\n"
    assert not (out / "first.json").exists()
    (out / "slow").unlink()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("first: exit 0")


def test_a_command_that_fails_or_takes_too_long_is_a_row():
    assert gpu_day._problem_of([sys.executable, "-c", ""], 60) is None
    said = gpu_day._problem_of([sys.executable, "-c", "import sys; sys.exit('no kernel image')"], 60)
    assert said == "no kernel image\n"
    assert gpu_day._problem_of([sys.executable, "-c", "input()"], 0) == "not done in 0 s"


def test_a_command_that_takes_too_long_can_end_what_it_started(tmp_path):
    """As torchrun does with its ranks: a process that is killed at once would leave them behind."""
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    command = ["bash", "-c", f"trap 'touch {ended}; exit 1' TERM; touch {ready}; while :; do sleep 0.05; done"]
    seconds = 1.0
    while not ready.exists():
        assert gpu_day._problem_of(command, seconds) == f"not done in {seconds:.0f} s"
        seconds *= 2
    assert ended.exists()
