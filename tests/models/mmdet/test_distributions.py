"""Forks that import as `mmdet`: those whose parity tests passed are taken, by name and version."""

import importlib.metadata
import sys

import pytest

from panbench.base import provenance
from panbench.models.mmdet import distributions, operators

TESTED = {"onedl-mmdetection": "3.5.1", "onedl-mmcv": "2.3.6", "onedl-mmengine": "0.10.12"}


@pytest.mark.parametrize("installed", [{"mmdet": "3.3.0", "mmengine": "0.10.7"}, TESTED])
def test_mmdet_and_a_tested_fork_are_accepted(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "_installed_version", installed.get)
    assert distributions.fork_refusal() is None
    operators.install()


@pytest.mark.parametrize("part", TESTED)
def test_another_version_of_any_part_of_a_fork_is_refused_with_what_to_install(part, monkeypatch) -> None:
    monkeypatch.setattr(distributions, "_installed_version", {**TESTED, part: "9.9.9"}.get)
    with pytest.raises(operators.MissingOperator) as caught:
        operators.install()
    assert str(caught.value).startswith(f"{part} 9.9.9 replaces mmdet; panbench is tested with ")
    assert "onedl-mmdetection==3.5.1 onedl-mmcv==2.3.6 onedl-mmengine==0.10.12" in str(caught.value)


def test_a_fork_installed_beside_mmdet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "_installed_version", {**TESTED, "mmdet": "3.3.0"}.get)
    with pytest.raises(
        operators.MissingOperator, match=r"mmdet 3\.3\.0 and its fork onedl-mmdetection 3\.5\.1 are both"
    ):
        operators.install()


def test_a_run_records_the_fork_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if name == "mmdet":
            raise importlib.metadata.PackageNotFoundError(name)
        return TESTED.get(name) or known(name)

    monkeypatch.setattr(provenance.importlib.metadata, "version", version)
    found = provenance.versions.__wrapped__()  # not what is kept of this process
    assert "mmdet" not in found
    assert {name: found[name] for name in TESTED} == TESTED


def test_output_of_a_fork_during_import_stays_out_of_results(monkeypatch, capsys) -> None:
    monkeypatch.setattr(distributions, "_installed_version", TESTED.get)
    monkeypatch.delitem(sys.modules, "mmdet.datasets", raising=False)
    monkeypatch.setattr(distributions.importlib, "import_module", lambda name: sys.stdout.write(f"Skipping {name}\n"))
    distributions.import_quietly()
    assert capsys.readouterr() == ("", "Skipping mmdet.datasets\n")
