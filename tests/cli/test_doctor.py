"""`panbench doctor`: what a report of trouble needs first."""

import json
import sys

import pytest
from support import panbench, ran

from panbench import __version__
from panbench.evaluation.tools import doctor


def test_doctor_reports_versions_devices_compiled_code_cache_and_space(tmp_path):
    result = ran("doctor", "--json", cwd=tmp_path)
    record = json.loads(result.stdout)
    assert record["panbench"]["version"] == __version__
    assert record["panbench"]["compiled code"] in ("yes", "no")
    assert record["PyTorch"]["version"]
    assert record["packages"]["mmdet"] == "3.3.0"
    assert record["folders"]["free here"].endswith(" GB")
    assert isinstance(record["problems"], list)
    shown = panbench("doctor", cwd=tmp_path, columns=80).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "mask2former-tiny" in shown


def test_doctor_works_without_torch_and_says_what_does_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    found = doctor.diagnose()
    assert found.record["PyTorch"] == {"version": None}
    assert any("score, compare and report work, but eval does not" in problem for problem in found.problems)


@pytest.mark.parametrize(
    ("build", "visible", "words"),
    [(None, "0", "a build for CPUs"), ("12.8", "0", "finds no GPU"), ("12.8", "", "hides the NVIDIA GPU")],
)
def test_an_unused_gpu_is_explained(monkeypatch, build, visible, words):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert words in doctor.why_no_cuda(build)


def test_a_fork_of_mmdet_that_was_not_tested_is_named(monkeypatch):
    from panbench.models.mmdet import distributions

    monkeypatch.setattr(distributions, "_installed_version", {"onedl-mmdetection": "3.6.0"}.get)
    assert any("onedl-mmdetection 3.6.0 replaces mmdet" in problem for problem in doctor.diagnose().problems)


def test_a_package_below_its_minimum_is_named_with_the_fix(monkeypatch):
    installed = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: "0.16.0" if name == "typer" else installed(name)
    )
    (problem,) = doctor.outdated_package_messages()
    assert problem.startswith("typer 0.16.0 is installed, but panbench needs typer>=")
    assert "pip install 'typer>=" in problem
