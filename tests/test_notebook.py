"""The Colab notebook, run from top to bottom without a network."""

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

import panbench
from panbench.datasets.fetch import panoptic_categories
from panbench.runs import load_run
from scripts.make.coco_mimic import FaultServer, build_mimic

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "panbench_colab.ipynb"
WEIGHTS = ROOT / "configs" / "weights"

# Runs at the start of every Python that the notebook starts, its own kernel included: whoever asks for an address
# beyond this machine fails, COCO comes from a server of generated files, and one model has COCO's categories.
SITE = """
import socket
connect = socket.socket.connect
def refuse(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"the notebook went to {address}")
    return connect(self, address)
socket.socket.connect = refuse

import pickle, pathlib
import panbench.catalog
from panbench.datasets import fetch
fetch.COCO = pickle.loads(pathlib.Path(%(host)r).read_bytes())
fetch.N_IMAGES["val"] = %(images)d
panbench.catalog.configs_folder = lambda: pathlib.Path(%(configs)r)
"""

# The tiny Mask2Former, for COCO's 133 categories.
CONFIG = """
_base_ = "./mask2former-tiny.py"
panbench = {
    "title": "Mask2Former for COCO", "family": "mask2former", "backbone": "R18/16", "weights": %(weights)r,
    "trained_on": "coco", "params": 1_000_000, "input_size": "as is", "published": None,
}
heads = dict(num_things_classes=80, num_stuff_classes=53)
model = dict(
    panoptic_head=dict(loss_cls=dict(class_weight=[1.0] * 133 + [0.1]), **heads),
    panoptic_fusion_head=heads,
)
test_dataloader = dict(dataset=dict(metainfo=dict(classes=%(classes)r)))
"""


@dataclass(frozen=True)
class Executed:
    """A notebook that ran: in which folder, and what it asked the server for."""

    notebook: Any
    folder: Path
    log: list[tuple[str, str, int]]

    def outputs_of(self, word: str) -> list[str]:
        """The outputs of the code cells that contain a word."""
        return [json.dumps(cell.outputs) for cell in self.notebook.cells if "outputs" in cell and word in cell.source]


def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text("utf-8"))["cells"]


def test_outputs_of_the_offline_half_are_kept_and_those_of_coco_are_not():
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    kept = {"".join(cell["source"]): cell["outputs"] for cell in code}
    shown = json.dumps([outputs for source, outputs in kept.items() if "if COCO:" not in source])
    assert "Mask2Former tiny" in shown
    assert shown.count("image/png") >= 5
    assert str(Path.home()) not in shown
    assert all(outputs == [] for source, outputs in kept.items() if "if COCO:" in source or "iframe" in source)
    assert len(NOTEBOOK.read_bytes()) < 2_000_000


def test_cells_import_only_the_public_api():
    code = "".join("".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code")
    assert re.findall(r"(?:from|import) panbench\S*", code) == ["import panbench"]
    assert set(re.findall(r"\bpb\.(\w+)", code)) <= set(panbench.__all__)


def install_cell() -> str:
    return next("".join(cell["source"]) for cell in cells() if "-m pip install" in "".join(cell["source"]))


class Install:
    """The functions of the cell that installs, in a folder without a clone; Colab and the keyboard are stood in for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        monkeypatch.chdir(folder)
        self._patch = monkeypatch
        self.names: dict[str, Any] = {}
        exec(install_cell().partition("\nif importlib")[0], self.names)
        self.asked: list[str] = []

    def in_colab(self, sessions: bytes | None) -> None:
        """Colab's kernel, whose list of sessions is this; None: there is no answer."""

        def answer(address: str, timeout: float) -> io.BytesIO:
            assert address == "http://172.28.0.12:9000/api/sessions"
            if sessions is None:
                raise TimeoutError
            return io.BytesIO(sessions)

        self._patch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        self._patch.setenv("COLAB_JUPYTER_IP", "172.28.0.12")
        self._patch.setattr("urllib.request.urlopen", answer)

    def source(self, typed: str | None = None) -> str:
        """What is given to pip, where this is typed in when the cell asks."""

        def ask(question: str) -> str:
            self.asked.append(question)
            assert typed is not None, "nobody is there to answer"
            return typed

        self._patch.setattr("builtins.input", ask)
        return str(self.names["what_to_install"]())


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    return Install(monkeypatch, tmp_path)


@pytest.mark.parametrize("branch", ["main", "a/branch"])
def test_colab_installs_from_the_address_that_the_notebook_was_opened_from(install, branch):
    place = f"https://github.com/lab/fork/blob/{branch}/notebooks/panbench_colab.ipynb"
    other = {"path": "fileId=1AbC", "name": "another.ipynb"}
    install.in_colab(json.dumps([other, {"path": f"fileId={quote(place, safe='')}"}]).encode())
    assert install.source() == f"panbench[models] @ git+https://github.com/lab/fork@{branch}"


@pytest.mark.parametrize("sessions", [None, b"<html>", b"[]", b'[{"path": "fileId=1AbC"}]', b'{"a": 1}', b"[null]"])
def test_if_colab_does_not_tell_the_address_the_cell_asks_for_it(install, sessions):
    install.in_colab(sessions)
    address = "https://github.com/lab/panbench"
    assert install.source(f" {address} ") == f"panbench[models] @ git+{address}"
    assert len(install.asked) == 1


def test_outside_colab_nothing_is_fetched_and_the_cell_asks(install, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("asked a network"))
    assert install.source("https://host/panbench") == "panbench[models] @ git+https://host/panbench"
    with pytest.raises(SystemExit, match="'' is not the address of a repository"):
        install.source("")


def test_a_wheel_and_a_clone_need_no_question(install, monkeypatch):
    install.names["WHEEL"] = "https://host/panbench-1-py3-none-any.whl"
    assert install.source() == "panbench[models] @ https://host/panbench-1-py3-none-any.whl"
    install.names["WHEEL"] = ""
    monkeypatch.chdir(ROOT / "notebooks")
    assert install.source() == f"{ROOT}[models]"


def test_nothing_is_compiled_by_the_install():
    install = install_cell()
    assert "mmcv" not in install
    assert "build" not in install


def coco_model(folder: Path, server: FaultServer) -> None:
    """Puts a model of COCO's categories into a copy of the list of models, and its weights on a server."""
    from safetensors.torch import save

    from panbench.models.mmdet.config import build_model, load_config

    categories = sorted(panoptic_categories(), key=lambda category: not category["isthing"])
    names = tuple(category["name"] for category in categories)
    shutil.copytree(ROOT / "configs", folder)
    config = folder / "coco-tiny.py"
    config.write_text(CONFIG % {"weights": "x", "classes": names}, "utf-8")
    content = save({name: value.contiguous() for name, value in build_model(load_config(config)).state_dict().items()})
    path = f"/coco-tiny-{hashlib.sha256(content).hexdigest()[:8]}.safetensors"
    server.files[path] = content
    config.write_text(CONFIG % {"weights": server.url + path, "classes": names}, "utf-8")


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Executed:
    """The notebook, run once with both of its halves."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed: pip install nbclient ipykernel")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    if len(list(WEIGHTS.glob("*-tiny.safetensors"))) < 3:
        pytest.skip("configs/weights lacks a tiny model")
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    settings = next(cell for cell in notebook.cells if "TINY_IMAGES = 200" in cell.source)
    changes = {
        "TINY_IMAGES = 200": "TINY_IMAGES = 6",
        "COCO = False": "COCO = True",
        "COCO_IMAGES = 50": "COCO_IMAGES = 4",
        '"panoptic-fpn-r50-3x-authors,maskformer-r50-authors,mask2former-r50-authors"': '"coco-tiny"',
    }
    for old, new in changes.items():
        assert old in settings.source
        settings.source = settings.source.replace(old, new)
    mimic = build_mimic(size=(96, 128))
    with FaultServer(mimic.files) as server:
        coco_model(folder / "configs", server)
        (folder / "host.pickle").write_bytes(pickle.dumps(mimic.at(server.url)))
        (folder / "site").mkdir()
        site = SITE % {"host": str(folder / "host.pickle"), "images": 12, "configs": str(folder / "configs")}
        (folder / "site" / "sitecustomize.py").write_text(site, "utf-8")
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)]),
            "PANBENCH_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
        }
        (folder / "work").mkdir()
        resources = {"metadata": {"path": str(folder / "work")}}
        client = nbclient.NotebookClient(notebook, timeout=600, resources=resources)
        client.execute(env=environment)
        return Executed(notebook, folder / "work", server.log)


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom_offline(executed):
    shown = "".join(executed.outputs_of(""))
    assert "Mask2Former tiny" in shown
    assert shown.count("image/png") >= 6
    assert "<iframe srcdoc=" in shown
    assert (executed.folder / "results" / "tiny.html").stat().st_size > 100_000
    names = sorted(path.name for path in (executed.folder / "results" / "tiny").iterdir())
    assert names == ["mask2former-tiny", "maskformer-tiny", "panoptic-fpn-tiny"]


@pytest.mark.slow
def test_the_coco_half_fetches_evaluates_compares_and_shows_its_report(executed):
    run = load_run(executed.folder / "results" / "coco-4-coco-tiny")
    assert len(run.image_ids()) == 4
    fetched = [path for path, _, status in executed.log if status in (200, 206)]
    assert any(path.endswith(".safetensors") for path in fetched)
    assert "/zips/val2017.zip" in fetched
    streamed, shown = executed.outputs_of("if COCO:")
    assert "Mask2Former for COCO" in streamed
    assert '"output_type": "stream"' in streamed
    assert "Mask2Former for COCO" in shown
    assert "<iframe srcdoc=" in shown


@pytest.mark.slow
def test_no_cell_shows_a_warning_of_a_library(executed):
    for output in executed.outputs_of(""):
        said = re.sub(r"<iframe srcdoc=.*?</iframe>", "", output)
        for word in ("Warning", "warnings.warn", "deprecated", "Traceback"):
            assert word not in said


@pytest.mark.slow
def test_commands_print_lines_and_no_redrawn_bars(executed):
    outputs = executed.outputs_of("panbench(")[1:]
    assert len(outputs) == 6
    for output in outputs:
        assert "\\u001b" not in output
