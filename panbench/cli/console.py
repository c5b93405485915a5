"""All that the command line shows: results on stdout; progress, notices and errors on stderr.

Nothing else in panbench prints. Secrets are taken out
of all of it.
"""

import contextlib
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, ConsoleRenderable, Group, RenderableType, RenderHook, RenderResult
from rich.segment import Segment
from rich.text import Text

from panbench.base.errors import BadArgument
from panbench.base.files import atomic_write
from panbench.base.reporter import Reporter, Silent, Unit
from panbench.base.secrets import redacted, redactor
from panbench.base.text import for_file, plain

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from panbench.report.answers.findings import Findings
    from panbench.report.answers.grid import Grid

# Where nobody sets a width, as in a file or a pipe.
WIDTH_WITHOUT_TERMINAL = 120


# Results


def show(content: RenderableType, *, soft_wrap: bool = False) -> None:
    """Prints a result."""
    _console(sys.stdout).print(content, markup=False, crop=False, soft_wrap=soft_wrap)


def write(text: str) -> None:
    """Prints a result, without control characters; in a file or a pipe, JSON stays JSON."""
    text = redacted(text)
    sys.stdout.write(plain(text) if sys.stdout.isatty() else for_file(text))


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a result as a whole or not at all, and prints its path."""
    try:
        with atomic_write(path) as handle:
            handle.write(for_file(content).encode() if isinstance(content, str) else content)
    except OSError as error:
        raise BadArgument(f"{path} cannot be written: {error.strerror or error}. Name another --out.") from None
    wrote([path])


def wrote(paths: Iterable[Path]) -> None:
    """Prints the paths of files that a command wrote."""
    for path in paths:
        write(f"{path}\n")


def show_json(content: Any) -> None:
    """Prints JSON, without NaN."""
    write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def show_grids(grids: "Sequence[Grid]") -> None:
    """Prints tables, with a blank line between them."""
    from panbench.report.answers.grid import as_texts

    for index, text in enumerate(as_texts(grids)):
        show(Group(*([""] if index else []), text))


def show_findings(findings: "Findings", as_json: bool) -> None:
    """Prints the tables of a command that measures a run, or the same as JSON."""
    if as_json:
        write(findings.json())
    else:
        show_grids(findings.grids)


# Status


_quiet = False


def set_quiet(quiet: bool) -> None:
    """With True, only results, notes and errors are printed: no progress and no hints."""
    global _quiet
    _quiet = quiet


_working = False


@contextlib.contextmanager
def working(words: str) -> Iterator[None]:
    """Shows a status on a terminal until the block is done, or something else is shown.

    For work of a second that cannot be counted, imports of large packages among it; `Bars` takes long to import itself.
    """
    global _working
    if sys.stderr.isatty() and not _quiet:
        sys.stderr.write(f"{plain(redacted(words))} …")
        sys.stderr.flush()
        _working = True
    try:
        yield
    finally:
        _stop_working()


def _stop_working() -> None:
    global _working
    if _working:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
        _working = False


def say(sentence: str) -> None:
    """A hint beside the result: what to do next, where it is."""
    if not _quiet:
        _stop_working()
        status = _status()
        status.print(_in_lines(redacted(sentence), status), markup=False, style="dim", soft_wrap=True)


def note(sentence: str) -> None:
    """A sentence that the user should read: what was left out or chosen."""
    _stop_working()
    status = _status()
    status.print(_noted(sentence, status), soft_wrap=True)


def complain(sentence: str, error: Exception | None = None, label: str = "Error: ") -> None:
    """The sentences of an error, each on one line; before them the traceback of `error`, where one is given."""
    _stop_working()
    stderr = _drawing[-1] if _drawing else _console(sys.stderr)
    if error is not None:
        stderr.print(redacted("".join(traceback.format_exception(error))), markup=False, soft_wrap=True)
    lines = [" ".join(line.split()) for line in redacted(sentence).splitlines()]
    stderr.print(_labelled(label, "bold red", "\n".join(lines), stderr), soft_wrap=True)


def question() -> Callable[[str], str] | None:
    """Puts a question to the user and returns the answer; None where nobody sits at a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask(words: str) -> str:
        sys.stderr.write(words)
        sys.stderr.flush()
        return sys.stdin.readline()

    return ask


class Notes(Silent):
    """A Reporter that prints notices and shows no progress, for work that is done in a moment."""

    def notice(self, sentence: str) -> None:
        """Prints it."""
        note(sentence)


NOTES: Reporter = Notes()

# Consoles of the bars that are on the screen, the last one innermost. All that is printed meanwhile goes through them:
# text that reached the terminal another way would be overwritten when the bars are drawn again.
_drawing: list[Console] = []


class Bars:
    """A Reporter on stderr: a bar for each task with its rate and time left, and notices above the bars.

    transient: the bars vanish when they are done
    """

    def __init__(self, *, transient: bool = False) -> None:
        from rich.progress import Progress

        self._tasks: dict[str, Any] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self._now: Any = None
        # Results in a pipe or file stay there: rich would print what is written to stdout beside the bars, to stderr.
        self._bars = Progress(
            *_progress_columns(),
            console=_status(),
            transient=transient,
            disable=_quiet,
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> "Bars":
        _drawing.append(self._bars.console)
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self._close()
        finally:
            _drawing.pop()

    def _close(self) -> None:
        self._hide_status()
        vanishes = self._bars.live.transient and not self._bars.console.is_interactive
        if self._tasks and not vanishes:
            self._bars.stop()
            return
        # Nothing is to be seen: leave no blank line, as `self._bars.stop()` would where there is no terminal.
        self._bars.live.transient = True
        self._bars.live.stop()

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        if done == 0 and (total is None or unit in ("bytes", "files")):
            # What is here already is looked at and not downloaded: a bar that stands at nothing would say otherwise.
            return
        self._hide_status()
        if task not in self._tasks:
            self._add(task, total, unit)
        now = time.monotonic()
        # From the first news on: a resumed run starts with images done, and loading a model is no image.
        began, before = self._first.setdefault(task, (now, done))
        # Two images that are done together have no speed.
        speed = (done - before) / (now - began) if now - began > 0.2 and done > before else None
        self._bars.update(self._tasks[task], completed=done, total=total, speed=speed)

    def status(self, words: str) -> None:
        if self._bars.console.is_terminal:
            self._hide_status()
            self._bars.start()
            self._now = self._bars.add_task(plain(redacted(words)), total=None, unit="status", speed=None)
            self._bars.refresh()

    def _hide_status(self) -> None:
        if self._now is not None:
            self._bars.remove_task(self._now)
            self._now = None

    def notice(self, sentence: str) -> None:
        note(sentence)

    def _add(self, title: str, total: int | None, unit: Unit) -> None:
        self._bars.start()
        self._tasks[title] = self._bars.add_task(plain(redacted(title)), total=total, unit=unit, speed=None)


def _progress_columns() -> "list[ProgressColumn]":
    from rich.filesize import decimal
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn

    class Done(ProgressColumn):
        def render(self, task: Task) -> Text:
            if task.fields["unit"] == "status":
                return Text("")
            shown = decimal if task.fields["unit"] == "bytes" else "{:.0f}".format
            total = "?" if task.total is None else shown(int(task.total))
            return Text(f"{shown(int(task.completed))}/{total}", style="progress.download")

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed, unit = task.fields["speed"], task.fields["unit"]
            # A run's rate is the one in its record: images that are done together would look like a higher one here.
            if speed is None or unit == "images":
                return Text("")
            shown = f"{decimal(int(speed))}/s" if unit == "bytes" else f"{speed:.1f} {unit}/s"
            return Text(shown, style="progress.data.speed")

    return [TextColumn("{task.description}"), BarColumn(bar_width=None), Done(), Speed(), TimeRemainingColumn()]


def _noted(sentence: str, console: Console) -> Text:
    return _labelled("Note: ", "bold", " ".join(redacted(sentence).split()), console)


def _labelled(label: str, style: str, text: str, console: Console) -> Text:
    return Text.assemble((label, style), _in_lines(label + text, console)[len(label) :])


# A word, or what stands between backquotes: a command is copied as a whole.
_WORD = re.compile(r"(?:`[^`\n]*`|[^\s`]|`)+")


def _in_lines(text: str, console: Console) -> str:
    """On a terminal, `text` with lines broken between words; elsewhere, as in a log, unchanged."""
    if not console.is_terminal:
        return text
    lines = []
    for line in text.split("\n"):
        shown = ""
        for word in _WORD.findall(line):
            if shown and cell_len(f"{shown} {word}") > console.width:
                lines.append(shown)
                shown = word
            else:
                shown = f"{shown} {word}" if shown else word
        lines.append(shown)
    return "\n".join(lines)


class _PlainText(RenderHook):
    """Spells out control characters in all that a console prints, after its styles and before its own control codes.

    One place for all messages: file names, run.json, HTTP reasons and tensor names may hold anything. Secrets are taken
    out here once more; a sentence loses them before it is broken into lines, where none can be recognised.
    """

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        redact = redactor()
        return [_Plain(renderable, redact) for renderable in renderables]


class _Plain:
    """A renderable with plain text and without secrets."""

    def __init__(self, content: ConsoleRenderable, redact: Callable[[str], str]) -> None:
        self._content, self._redact = content, redact

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._content, options):
            yield segment if segment.control else Segment(plain(self._redact(segment.text)), segment.style)


def _console(stream: Any, *, quiet: bool = False) -> Console:
    terminal = stream.isatty()
    # FORCE_COLOR (Jupyter, CI) asks for colour in a pipe; rich would take it for a terminal and animate bars into it.
    colour: Literal["auto", "256"] | None = "256" if not terminal and _colour_is_forced() else "auto"
    console = Console(file=stream, highlight=False, quiet=quiet, force_terminal=terminal, color_system=colour)
    console.push_render_hook(_PlainText())
    sized = terminal or os.environ.get("COLUMNS", "").isdigit()
    if not sized:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console


def _colour_is_forced() -> bool:
    return bool(os.environ.get("FORCE_COLOR")) and not os.environ.get("NO_COLOR")


def _status() -> Console:
    return _drawing[-1] if _drawing else _console(sys.stderr)
