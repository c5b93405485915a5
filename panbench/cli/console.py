"""Prints for the command line: results on stdout; progress, notices and errors on stderr.

Nothing else in panbench prints. Secrets are removed from everything.
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
from panbench.base.text import for_file, plain, size_in_words

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from panbench.report.answers.findings import Findings
    from panbench.report.answers.grid import Grid

LOG_SECONDS = 10
"""Seconds between two progress lines of a task in a log."""

# The width of output that has none, as in a file or a pipe.
WIDTH_WITHOUT_TERMINAL = 120


# Results


def show(content: RenderableType, *, soft_wrap: bool = False) -> None:
    """Prints a result on stdout, with rich's formatting on a terminal."""
    _make_console(sys.stdout).print(content, markup=False, crop=False, soft_wrap=soft_wrap)


def write(text: str) -> None:
    """Writes text to stdout without control characters; JSON in a file or a pipe stays valid."""
    text = redacted(text)
    sys.stdout.write(plain(text) if sys.stdout.isatty() else for_file(text))


def write_file(path: Path, content: str | bytes) -> None:
    """Writes a result completely or not at all, and prints its path."""
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
    """Prints the findings of a command that analyses a run, as tables or as JSON."""
    if as_json:
        show_json(findings.record)
    else:
        show_grids(findings.grids)


# Status


_quiet = False


def set_quiet(quiet: bool) -> None:
    """Turns progress bars and hints off or on; results, notes and errors are always printed."""
    global _quiet
    _quiet = quiet


_working = False


@contextlib.contextmanager
def working(words: str) -> Iterator[None]:
    """Shows a line such as "Loading …" on a terminal until the block ends or something else is printed.

    For work of about a second without a count, such as imports of large packages; `Bars` itself takes long to import.
    """
    global _working
    if sys.stderr.isatty() and not _quiet:
        sys.stderr.write(f"{plain(redacted(words))} …")
        sys.stderr.flush()
        _working = True
    try:
        yield
    finally:
        _erase_working_line()


def _erase_working_line() -> None:
    """Erases the line of `working`, if it is shown."""
    global _working
    if _working:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
        _working = False


def hint(message: str) -> None:
    """Prints a hint about the result: a next step, or a path."""
    if not _quiet:
        _erase_working_line()
        status = _stderr_console()
        status.print(_wrap_for_terminal(redacted(message), status), markup=False, style="dim", soft_wrap=True)


def note(message: str) -> None:
    """Prints a note that the user should read, such as what was left out or chosen."""
    _erase_working_line()
    status = _stderr_console()
    status.print(_note_text(message, status), soft_wrap=True)


def print_error(message: str, error: Exception | None = None, label: str = "Error: ") -> None:
    """Prints an error, one line per message; with `error`, its traceback first."""
    _erase_working_line()
    stderr = _bar_consoles[-1] if _bar_consoles else _make_console(sys.stderr)
    if error is not None:
        stderr.print(redacted("".join(traceback.format_exception(error))), markup=False, soft_wrap=True)
    lines = [" ".join(line.split()) for line in redacted(message).splitlines()]
    stderr.print(_labelled_text(label, "bold red", "\n".join(lines), stderr), soft_wrap=True)


def terminal_question() -> Callable[[str], str] | None:
    """Returns a function that asks the user a question on the terminal; None if there is no terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None

    def ask_user(words: str) -> str:
        sys.stderr.write(words)
        sys.stderr.flush()
        return sys.stdin.readline()

    return ask_user


class Notes(Silent):
    """A Reporter that prints notices but no progress, for work that takes a moment."""

    def notice(self, message: str) -> None:
        """Prints the notice."""
        note(message)


NOTES: Reporter = Notes()

# Consoles of the bars on the screen, innermost last. Meanwhile everything must be printed through them: other text
# would be overwritten when the bars are redrawn.
_bar_consoles: list[Console] = []


class Bars:
    """A Reporter on stderr: a bar for each task with its rate and remaining time, and notices above the bars.

    Logs display a bar only once it is done, so there a line every LOG_SECONDS reports a task's progress.
    transient: the bars vanish when they are done
    """

    def __init__(self, *, transient: bool = False) -> None:
        """Prepares progress bars on stderr; `transient` ones are erased at the end."""
        from rich.progress import Progress

        self._tasks: dict[str, Any] = {}
        self._first: dict[str, tuple[float, int]] = {}
        self._logged: dict[str, float] = {}
        self._status_task: Any = None
        # rich would redirect stdout to the bars' stream, stderr; results in a pipe or file must stay there.
        self._bars = Progress(
            *_progress_columns(),
            console=_stderr_console(),
            transient=transient,
            disable=_quiet,
            redirect_stdout=sys.stdout.isatty(),
        )

    def __enter__(self) -> "Bars":
        """Directs messages to the console of these progress bars, so that they are printed above the bars."""
        _bar_consoles.append(self._bars.console)
        return self

    def __exit__(self, *_: Any) -> None:
        """Stops drawing the progress bars."""
        try:
            self._stop_drawing()
        finally:
            _bar_consoles.pop()

    def _stop_drawing(self) -> None:
        """Stops drawing; leaves finished bars on the screen, and no blank line if nothing was drawn."""
        self._hide_status()
        vanishes = self._bars.live.transient and not self._bars.console.is_interactive
        if self._tasks and not vanishes:
            self._bars.stop()
            return
        # Nothing was drawn: without a terminal, `self._bars.stop()` would print a blank line.
        self._bars.live.transient = True
        self._bars.live.stop()

    def progress(self, task: str, done: int, total: int | None, unit: Unit = "images") -> None:
        """Moves the progress bar of a task to `done` of `total`; adds the bar at the first call."""
        if done == 0 and (total is None or unit in ("bytes", "files")):
            # Existing files are verified, not downloaded: a bar that stays at 0 would suggest otherwise.
            return
        self._hide_status()
        if task not in self._tasks:
            self._add_progress_bar(task, total, unit)
        now = time.monotonic()
        # Count from the first update: a resumed run starts with images done, and loading a model is not progress.
        began, before = self._first.setdefault(task, (now, done))
        # Two images that finish together give no rate.
        speed = (done - before) / (now - began) if now - began > 0.2 and done > before else None
        self._bars.update(self._tasks[task], completed=done, total=total, speed=speed)
        if not self._bars.console.is_terminal and now - self._logged.setdefault(task, now) >= LOG_SECONDS:
            self._logged[task] = now
            formatted = size_in_words if unit == "bytes" else "{:,}".format
            of_all = "" if total is None else f" of {formatted(total)}"
            amount = f"{formatted(done)}{of_all}{'' if unit == 'bytes' else f' {unit}'}"
            self._bars.console.print(plain(redacted(f"{task}: {amount}")), markup=False, soft_wrap=True)

    def status(self, words: str) -> None:
        """Shows on a terminal what is being done, such as "Loading PyTorch", until a progress bar moves."""
        if self._bars.console.is_terminal:
            self._hide_status()
            self._bars.start()
            self._status_task = self._bars.add_task(plain(redacted(words)), total=None, unit="status", speed=None)
            self._bars.refresh()

    def _hide_status(self) -> None:
        if self._status_task is not None:
            self._bars.remove_task(self._status_task)
            self._status_task = None

    def notice(self, message: str) -> None:
        note(message)

    def _add_progress_bar(self, title: str, total: int | None, unit: Unit) -> None:
        self._bars.start()
        self._tasks[title] = self._bars.add_task(plain(redacted(title)), total=total, unit=unit, speed=None)


def _progress_columns() -> "list[ProgressColumn]":
    """Makes the columns of a progress bar: title, bar, amount, rate, remaining time."""
    from rich.filesize import decimal
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn

    class DoneColumn(ProgressColumn):
        """The column of a progress bar with the amount done so far and the total, such as 12/20."""

        def render(self, task: Task) -> Text:
            """Returns the amount that a task has done, and its total, as text for its progress bar."""
            if task.fields["unit"] == "status":
                return Text("")
            formatted = decimal if task.fields["unit"] == "bytes" else "{:.0f}".format
            total = "?" if task.total is None else formatted(int(task.total))
            return Text(f"{formatted(int(task.completed))}/{total}", style="progress.download")

    class SpeedColumn(ProgressColumn):
        """The column of a progress bar with its rate, such as 3.1 MB/s."""

        def render(self, task: Task) -> Text:
            """Returns the rate of a task as text for its progress bar; empty if it is not known."""
            speed, unit = task.fields["speed"], task.fields["unit"]
            # The rate of a run is in its record: images of one batch finish together, which would look faster here.
            if speed is None or unit == "images":
                return Text("")
            formatted = f"{decimal(int(speed))}/s" if unit == "bytes" else f"{speed:.1f} {unit}/s"
            return Text(formatted, style="progress.data.speed")

    return [
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DoneColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
    ]


def _note_text(message: str, console: Console) -> Text:
    """Returns a note with its label, on one line and without secrets."""
    return _labelled_text("Note: ", "bold", " ".join(redacted(message).split()), console)


def _labelled_text(label: str, style: str, text: str, console: Console) -> Text:
    """Puts a coloured label such as "Note: " before a text, broken between words on a terminal."""
    return Text.assemble((label, style), _wrap_for_terminal(label + text, console)[len(label) :])


# A word, or the text between backquotes: a command must stay on one line to be copied.
_WORD = re.compile(r"(?:`[^`\n]*`|[^\s`]|`)+")


def _wrap_for_terminal(text: str, console: Console) -> str:
    """Breaks `text` between words on a terminal; elsewhere, as in a log, returns it unchanged."""
    if not console.is_terminal:
        return text
    lines = []
    for line in text.split("\n"):
        formatted = ""
        for word in _WORD.findall(line):
            if formatted and cell_len(f"{formatted} {word}") > console.width:
                lines.append(formatted)
                formatted = word
            else:
                formatted = f"{formatted} {word}" if formatted else word
        lines.append(formatted)
    return "\n".join(lines)


class _PlainTextHook(RenderHook):
    """A hook that escapes control characters in all that a console prints, before rich adds its own codes.

    One place for all messages: file names, run.json, HTTP reasons and tensor names may contain anything. Secrets are
    removed here again; messages lose them earlier, before line breaks make them unrecognisable.
    """

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich before it prints: wraps the content, so that it prints no secrets or control characters."""
        redact = redactor()
        return [_PlainRenderable(renderable, redact) for renderable in renderables]


class _PlainRenderable:
    """Wraps a rich renderable so that it prints plain text without secrets."""

    def __init__(self, content: ConsoleRenderable, redact: Callable[[str], str]) -> None:
        """Takes the content to print, and a function that hides the secrets in a text."""
        self._content, self._redact = content, redact

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Called by rich: yields the segments of the wrapped renderable without secrets and control characters."""
        for segment in console.render(self._content, options):
            yield segment if segment.control else Segment(plain(self._redact(segment.text)), segment.style)


def _make_console(stream: Any) -> Console:
    """Makes a rich console for stdout or stderr, with colours where the terminal or FORCE_COLOR allows them."""
    terminal = stream.isatty()
    # FORCE_COLOR (Jupyter, CI) requests colour in a pipe; rich would treat it as a terminal and animate bars in it.
    colour: Literal["auto", "256"] | None = "256" if not terminal and _colour_is_forced() else "auto"
    console = Console(file=stream, highlight=False, force_terminal=terminal, color_system=colour)
    console.push_render_hook(_PlainTextHook())
    sized = terminal or os.environ.get("COLUMNS", "").isdigit()
    if not sized:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console


def _colour_is_forced() -> bool:
    """True if FORCE_COLOR requests colours without a terminal, and NO_COLOR does not forbid them."""
    return bool(os.environ.get("FORCE_COLOR")) and not os.environ.get("NO_COLOR")


def _stderr_console() -> Console:
    """Returns a console that prints to stderr, above the progress bars if any are drawn."""
    return _bar_consoles[-1] if _bar_consoles else _make_console(sys.stderr)
