"""The line that installs what is missing names where panbench came from."""

import json
from pathlib import Path

import pytest

from panbench.base import extras
from panbench.base.errors import BadModel


def test_in_a_clone_the_install_line_installs_the_clone(tmp_path, monkeypatch):
    clone = Path(extras.__file__).resolve().parents[2]
    monkeypatch.chdir(tmp_path)
    assert extras.install_line("models") == f"pip install -e '{clone}[models]'"
    monkeypatch.chdir(clone)
    assert extras.install_line("models", "serve") == "pip install -e '.[models,serve]'"


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ({"url": "file:///home/me/panbench"}, "pip install '/home/me/panbench[models]'"),
        (
            {"url": "https://host/me/panbench", "vcs_info": {"vcs": "git", "commit_id": "f00"}},
            "pip install 'panbench[models] @ git+https://host/me/panbench'",
        ),
        ({"url": "https://host/panbench.whl"}, "pip install 'panbench[models] @ https://host/panbench.whl'"),
    ],
)
def test_installed_from_elsewhere_the_install_line_names_the_source(tmp_path, monkeypatch, written, line):
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "site-packages" / "panbench" / "base" / "extras.py"))

    class Distribution:
        def read_text(self, name: str) -> str:
            assert name == "direct_url.json"
            return json.dumps(written)

    monkeypatch.setattr(extras.metadata, "distribution", lambda name: Distribution())
    assert extras.install_line("models") == line


def test_running_a_model_without_the_extra_names_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(
        BadModel, match=r"torch is not installed. Install the packages that run models with: pip install .*\[models\]"
    ):
        extras.require_models()
