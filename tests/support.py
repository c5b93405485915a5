"""What tests share that is no fixture: the command line, a model's run, and a reporter that remembers."""

import ast
import asyncio
import functools
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from click.testing import Result
from typer.testing import CliRunner

from panbench.base.reporter import SILENT, Reporter, Unit
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset
from panbench.runs import Run

MODEL_SETTINGS = ("weights", "device", "precision", "seed", "compiled", "download")


def panbench(*arguments: object, columns: int = 400, cwd: Path | None = None, **environment: str) -> Result:
    """`panbench …` in this process and the folder `cwd`, on a screen of `columns`: wide, so that no sentence breaks."""
    from panbench.cli.app import app

    before = Path.cwd()
    os.chdir(cwd or before)
    try:
        return CliRunner().invoke(
            app, [str(argument) for argument in arguments], env={"COLUMNS": str(columns), **environment}
        )
    finally:
        os.chdir(before)


def ran(*arguments: object, **settings: Any) -> Result:
    """`panbench …`, as `panbench` runs it, which must end well."""
    result = panbench(*arguments, **settings)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: object, **settings: Any) -> str:
    """What `panbench …` says on stderr, as it must refuse: it exits with 2."""
    result = panbench(*arguments, **settings)
    assert result.exit_code == 2, result.output
    return result.stderr


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text("utf-8"))


def serve(server: socketserver.BaseServer) -> threading.Thread:
    """Starts a thread that answers for a server. `server.shutdown()` ends it in 10 ms, not in half a second."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    return thread


def awaited(scenario: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Runs a coroutine in a thread of its own: that of the tests may have the event loop of a browser."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(scenario())).result()


def python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` as a program of its own; options are those of `subprocess.run`."""
    command = [sys.executable, *map(str, arguments)]
    settings: dict[str, Any] = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": 300, **options}
    return subprocess.run(command, **settings)


def panbench_program(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`panbench …` as a program of its own; options are those of `subprocess.run`."""
    return python("-m", "panbench", *arguments, **options)


_WITHOUT_TORCH = """
import importlib.abc, importlib.machinery, json, sys

class Installed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    # As if installed, for who only looks, and an error for who loads.
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ("torch", "torchvision", "mmdet", "mmengine", "mmcv"):
            return None
        real = importlib.machinery.PathFinder.find_spec(name, path)
        return importlib.machinery.ModuleSpec(name, self, origin=real and real.origin)

    def exec_module(self, module):
        raise ModuleNotFoundError(f"{module.__name__} is loaded", name=module.__name__)

sys.meta_path.insert(0, Installed())
from typer.testing import CliRunner
from panbench.cli.app import app
answers = []
for line in json.load(sys.stdin):
    found = CliRunner().invoke(app, line, env={"COLUMNS": "1000"})
    answers.append([found.exit_code, found.stderr])
json.dump(answers, sys.stdout)
"""


def refuses_without_torch(folder: Path, lines: Sequence[tuple[Sequence[str], str]]) -> None:
    """Asserts that each command line is refused in the sentence beside it by a process that cannot load PyTorch."""
    finished = python("-c", _WITHOUT_TORCH, input=json.dumps([line for line, _ in lines]), cwd=folder)
    assert finished.returncode == 0, finished.stderr
    for (line, sentence), (code, words) in zip(lines, json.loads(finished.stdout), strict=True):
        assert sentence in words, (line, words)
        assert (code, words.count("Error: ")) == (2, 1), (line, words)


def evaluated(spec: ModelSpec, dataset: Dataset, out: Path, reporter: Reporter = SILENT, **settings: Any) -> Run:
    """The run of a model on a dataset; the settings are those of `open_model` and of EvaluateOptions."""
    from panbench.evaluation.evaluate import evaluate
    from panbench.evaluation.options import EvaluateOptions

    of_model = {name: settings.pop(name) for name in MODEL_SETTINGS if name in settings}
    return evaluate(_model(spec, **of_model), dataset, out, EvaluateOptions(**settings), reporter)


@functools.lru_cache(maxsize=4)
def _model(spec: ModelSpec, **settings: Any) -> Any:
    from panbench.models.opening import open_model

    return open_model(spec, **settings)


class Recorder:
    """A Reporter that remembers all it hears."""

    def __init__(self) -> None:
        self.counts: list[tuple[str, int, int | None, Unit]] = []
        self.words: list[str] = []
        self.notices: list[str] = []

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        self.counts.append((task, done, total, unit))

    def status(self, words: str) -> None:
        self.words.append(words)

    def notice(self, sentence: str) -> None:
        self.notices.append(sentence)
