"""scripts/gpu_day.py: stages that are done are reported, and what misses its goal fails the day."""

import json
from pathlib import Path

import gpu_day
import pytest


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
