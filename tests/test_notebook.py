"""The Colab notebook, run from top to bottom without a network, and kept without outputs."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "panbench_colab.ipynb"
WEIGHTS = ROOT / "configs" / "weights"

# A kernel inherits this: whoever asks for an address beyond this machine fails.
NO_NETWORK = """
import socket
connect = socket.socket.connect
def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the notebook went to {address}")
    return connect(self, address)
socket.socket.connect = refuse
"""


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def test_outputs_are_stripped():
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


def test_the_badge_and_the_install_name_one_repository():
    text = NOTEBOOK.read_text("utf-8")
    badge = re.search(r"colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/(\S+?)\)", text)
    assert badge[2] == NOTEBOOK.relative_to(ROOT).as_posix()
    assert f"git+https://github.com/{badge[1]}" in text


def test_nothing_is_compiled_by_the_install():
    install = next("".join(cell["source"]) for cell in cells() if "pip" in "".join(cell["source"]))
    assert "mmcv" not in install
    assert "build" not in install


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_offline(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    if len(list(WEIGHTS.glob("*-tiny.safetensors"))) < 3:
        pytest.skip("configs/weights lacks a tiny model")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = next(cell for cell in notebook.cells if "TINY_IMAGES = 200" in cell.source)
    settings.source = settings.source.replace("TINY_IMAGES = 200", "TINY_IMAGES = 12")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(NO_NETWORK))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    shown = json.dumps([cell.get("outputs", []) for cell in notebook.cells])
    assert "Mask2Former tiny" in shown
    assert shown.count("image/png") >= 6
    assert "<iframe srcdoc=" in shown
    assert (tmp_path / "results" / "tiny.html").stat().st_size > 100_000
    assert sorted(path.name for path in (tmp_path / "results" / "tiny").iterdir()) == [
        "mask2former-tiny",
        "maskformer-tiny",
        "panoptic-fpn-tiny",
    ]
