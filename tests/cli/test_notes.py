"""What a command says stands whole on the terminal when the command has ended, whatever bars it drew meanwhile."""

import ast
import inspect
import os
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyte
import pytest
from little_runs import scored
from PIL import Image

from panbench.cli import console
from panbench.cli.app import app
from tests.cli.test_help import COMMANDS

# There are no pseudo-terminals on Windows.
fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")

WIDTH, HEIGHT = 80, 24
SEVERAL_LINES = (
    "A run has no stored predictions, which is a sentence of several lines, and only its end tells the reader what to "
    "do about it: `panbench eval --model mask2former-tiny --save-predictions --overwrite` makes it again with them."
)
TINY = ("--model", "panoptic-fpn-tiny", "--checkpoint", "random")

# A line for each command that draws bars. Some end in an error, after they have begun to draw.
LINES: dict[str, Sequence[str]] = {
    "eval": (*TINY, "--limit", "1", "--out", "{new}"),
    "score": ("--gt", "{gt}", "--pred", "{pred}"),
    "predict": ("{photo}", *TINY, "--out", "{new}"),
    "bench": (*TINY, "--size", "64x64", "--count", "1"),
    "fuse": ("{run}", "--rule", "mask2former", "--out", "{new}"),
    "ensemble": ("{run}", "{other}", "--out", "{new}"),
    "compare": ("{run}", "{other}"),
    "metrics": ("{run}", "{other}"),
    "errors": ("{run}", "{other}"),
    "robustness": ("{run}",),
    "relabel": ("{gt}", "{gt}", "--runs", "{pred}"),
    "report": ("{run}", "--out", "{new}.html"),
    "show attention": ("--photo", "{photo}", "--model", "mask2former-tiny", "--layer", "1", "--out", "{new}.png"),
    "site": ("{run}", "{other}", "--out", "{new}"),
    "data coco": ("--root", "{new}", "--from", "{empty}"),
    "data check": ("{gt}",),
    "data cityscapes": ("{empty}", "--root", "{new}"),
    "data ade20k": ("{empty}", "--root", "{new}"),
    "data mapillary": ("{empty}", "--root", "{new}"),
    "data kitti-step": ("{empty}", "--root", "{new}"),
    "data coconut": ("{gt}", "--gt-dir", "{empty}", "--root", "{new}"),
    "data convert": ("panoptic", "{gt}", "--out", "{new}"),
    "runs verify": ("{run}", "{other}"),
    "export": ("coco-server", "{run}", "--out", "{new}.zip"),
    "models": ("--download", "mask2former-r50"),
    "doctor": (),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("notes")
    truth = {1: "pppp..ss", 2: "ddddssss"}
    for name in ("run", "other"):
        scored(folder, name, truth, truth)
    (folder / "empty").mkdir()
    Image.new("RGB", (64, 48)).save(folder / "photo.png")
    files = {"gt": "gt.json", "pred": "run-pred.json", "photo": "photo.png"}
    (folder / "run" / "candidates").mkdir()
    (folder / "run" / "candidates" / "1.parquet").write_bytes(b"")  # to be fused, it seems
    return {key: str(folder / files.get(key, key)) for key in ("run", "other", "empty", *files)}


class Screen:
    """A terminal of 80 × 24 characters: stdout and stderr of a command, and what is to be read on it at the end."""

    def __init__(self) -> None:
        self._screen = pyte.HistoryScreen(WIDTH, HEIGHT, history=10_000)
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        self.stream = open(slave, "w", encoding="utf-8")  # noqa: SIM115
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        emulator = pyte.ByteStream(self._screen)
        while True:
            try:
                block = os.read(self._master, 1 << 16)
            except OSError:
                return
            if not block:
                return
            emulator.feed(block)

    def close(self) -> None:
        self.stream.close()
        self._reader.join()
        os.close(self._master)

    @property
    def lines(self) -> list[str]:
        """All lines, those that were scrolled away first."""
        above = ["".join(line[column].data for column in range(WIDTH)) for line in self._screen.history.top]
        return [line.rstrip() for line in (*above, *self._screen.display)]


def on_a_terminal(words: Sequence[str], patch: pytest.MonkeyPatch) -> list[str]:
    """The lines on the terminal after a command."""
    screen = Screen()
    with patch.context() as streams:
        streams.setattr(sys, "stdout", screen.stream)
        streams.setattr(sys, "stderr", screen.stream)
        streams.setenv("TERM", "xterm")
        streams.setenv("COLUMNS", str(WIDTH))
        streams.setenv("LINES", str(HEIGHT))
        app(list(words), prog_name="panbench", standalone_mode=False)
    screen.close()
    return screen.lines


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that is said to the user, in the order of saying; and while bars are drawn, two notes of several lines."""
    heard: list[str] = []

    def listening(speak: Callable[..., None], label: str) -> Callable[..., None]:
        def also(message: str, *others: Any) -> None:
            heard.append(f"{label}{message}")
            speak(message, *others)

        return also

    for name, label in (("note", "Note: "), ("hint", ""), ("print_error", "Error: ")):
        monkeypatch.setattr(console, name, listening(getattr(console, name), label))
    enter = console.Bars.__enter__

    def talking(bars: console.Bars) -> console.Bars:
        enter(bars)
        bars.status("Looking around")
        for done in (1, 2):
            for task in ("Drawing a bar", "Drawing another"):
                bars.progress(task, done, 3)
            console.note(f"Beside bars {done}. {SEVERAL_LINES}")
            bars.notice(f"By bars {done}. {SEVERAL_LINES}")
            heard.append(f"Note: By bars {done}. {SEVERAL_LINES}")
        return bars

    monkeypatch.setattr(console.Bars, "__enter__", talking)
    return heard


def stands_whole(message: str, lines: Sequence[str]) -> bool:
    """Whether a sentence is on the screen, from the beginning of a line on and with nothing between its lines."""
    # Without spaces: a path that is longer than a line is broken by the terminal, not between words.
    whole = "".join(message.split())
    return any(
        whole.startswith("".join(line.split())) and "".join("".join(lines[start:]).split()).startswith(whole)
        for start, line in enumerate(lines)
        if line
    )


@pytest.mark.parametrize("name", LINES)
def test_notes_of_commands_with_progress_bars_are_printed_completely(name, places, said, tmp_path, monkeypatch):
    for mirror in ("COCO", "OPENMMLAB"):
        monkeypatch.setenv(f"PANBENCH_MIRROR_{mirror}", places["empty"])
    monkeypatch.chdir(tmp_path)
    words = [word.format(**places, new=tmp_path / "new") for word in LINES[name]]
    lines = on_a_terminal([*name.split(), *words], monkeypatch)
    screen = "\n".join(lines)
    assert f"Note: By bars 2. {SEVERAL_LINES}" in said, f"the command drew no bar:\n{screen}"
    for message in said:
        assert stands_whole(message, lines), f"{message}\nis not on the screen:\n{screen}"


def test_results_go_to_the_file_while_bars_are_on_the_terminal(tmp_path, monkeypatch):
    screen, results = Screen(), tmp_path / "results.txt"
    with monkeypatch.context() as streams, results.open("w", encoding="utf-8") as file:
        streams.setattr(sys, "stdout", file)
        streams.setattr(sys, "stderr", screen.stream)
        streams.setenv("TERM", "xterm")
        with console.Bars() as bars:
            bars.progress("Drawing a bar", 1, 3)
            console.write("PQ 52.0\n")
            bars.progress("Drawing a bar", 2, 3)
    screen.close()
    assert results.read_text("utf-8") == "PQ 52.0\n"
    assert not any("PQ" in line for line in screen.lines)
    assert any("2/3" in line for line in screen.lines)


def test_the_table_has_every_command_that_draws_bars():
    drawing = {" ".join(path) for path, command in COMMANDS.items() if draws_bars(function_of(command.callback))}
    assert drawing == set(LINES)


def function_of(callback: Any) -> Any:
    """The function of ours that a command's callback ends in, below Typer's wrapping and that of `options_from`."""
    while True:
        inner = dict(zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=True))
        if "work" in inner:
            callback = inner["work"].cell_contents
        elif hasattr(callback, "__wrapped__"):
            callback = callback.__wrapped__
        else:
            return callback


def draws_bars(function: Any) -> bool:
    """Whether a function, or one of its module that it calls, names `Bars`."""
    tree = ast.parse(Path(inspect.getfile(function)).read_text("utf-8"))
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    seen, waiting = set[str](), [function.__name__]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in ast.walk(functions[name]):
            if isinstance(node, ast.Attribute) and node.attr == "Bars":
                return True
            if isinstance(node, ast.Name):
                waiting.append(node.id)
    return False
