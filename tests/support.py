"""What tests share that is no fixture: the command line, a model's run, and a reporter that remembers."""

import ast
import asyncio
import contextlib
import functools
import http.server
import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from panbench.base.reporter import SILENT, Reporter, Silent, Unit
from panbench.catalog import ModelSpec
from panbench.datasets import Dataset, shapes
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


def refusal(error: type[BaseException], call: Callable[..., object], *given: Any, **named: Any) -> str:
    """What a call says that must raise this error."""
    with pytest.raises(error) as caught:
        call(*given, **named)
    return str(caught.value)


def drawn(places: pytest.TempPathFactory, count: int, size: tuple[int, int] = (64, 96)) -> Path:
    """A folder `scenes` of so many generated scenes, for a fixture that all tests of a file read."""
    root = places.mktemp("set") / "scenes"
    shapes.generate(root, count=count, size=size)
    return root


def drawn_in_two_sizes(root: Path, sizes: Sequence[tuple[int, tuple[int, int]]], in_turn: bool = False) -> Path:
    """A folder of scenes of two sizes, each given by count and size; image ids go by size, or by turns."""
    listed = []
    for count, size in sizes:
        source = root / str(size)
        document = json.loads(shapes.generate(source, count=count, size=size).read_text())
        pairs = zip(document["images"], document["annotations"], strict=True)
        listed += [(turn if in_turn else 0, source, *pair) for turn, pair in enumerate(pairs)]
    listed.sort(key=lambda each: each[0])
    for image_id, (_, source, image, annotation) in enumerate(listed, 1):
        for kind in ("val", "annotations/panoptic_val"):
            (root / "set" / kind).mkdir(parents=True, exist_ok=True)
            shutil.copy(source / kind / image["file_name"], root / "set" / kind / f"{image_id}.png")
        image.update(id=image_id, file_name=f"{image_id}.png")
        annotation.update(image_id=image_id, file_name=f"{image_id}.png")
    merged = {"images": [image for *_, image, _ in listed], "annotations": [each for *_, each in listed]}
    listing = root / "set" / "annotations" / "panoptic_val.json"
    listing.write_text(json.dumps({**merged, "categories": list(shapes.CATEGORIES)}))
    return root / "set"


def one_sentence(*arguments: object, **settings: Any) -> str:
    """The line that `panbench …`, as it must refuse, says: one, which begins with "Error: ", and nothing on stdout."""
    result = panbench(*arguments, **settings)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@contextlib.contextmanager
def edited(path: Path) -> Iterator[Any]:
    """The content of a JSON file, written back as it is at the end of the context."""
    content = json.loads(path.read_text("utf-8"))
    yield content
    path.write_text(json.dumps(content), "utf-8")


def edit(path: Path, **fields: Any) -> None:
    """Gives keys of a JSON object in a file other values."""
    with edited(path) as content:
        content.update(fields)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command of a program of Typer's with the words that lead to it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text("utf-8"))


def serve(server: socketserver.BaseServer) -> threading.Thread:
    """Starts a thread that answers for a server. `server.shutdown()` ends it in 10 ms, not in half a second."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def answering(answer: Callable[[Any], object]) -> Iterator[str]:
    """The address of a server on this machine. answer: is called with the handler of each GET and HEAD"""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serve(server)
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def in_a_loop(scenario: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, run in a thread of its own: that of the tests may have a browser's event loop."""

    @functools.wraps(scenario)
    def test(*arguments: Any, **fixtures: Any) -> None:
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(scenario(*arguments, **fixtures))).result()

    return test


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
    for (line, message), (code, words) in zip(lines, json.loads(finished.stdout), strict=True):
        assert message in words, (line, words)
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


class Stop(Silent):
    """A Reporter that raises an error, or calls a function, once so many images are done."""

    def __init__(self, images: int, end: BaseException | Callable[[], object]) -> None:
        self.images, self.end = images, end

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        if done >= self.images:
            if isinstance(self.end, BaseException):
                raise self.end
            self.end()


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

    def notice(self, message: str) -> None:
        self.notices.append(message)


def compared_by(library: Any, names: Sequence[str]) -> Any:
    """The comparison of some runs, as the server's library makes it."""
    return library.compare(library.comparison_key(names))
