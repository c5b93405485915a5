"""Whatever a name, a record or a server says, the terminal gets text."""

import contextlib
import io
import json
import re
import sys
from collections.abc import Iterator

import pytest
from support import panbench_program, refused

from panbench.cli import console

ESCAPE = "\x1b]0;owned\x1b[2J\x9b31m"
SPELLED = r"\x1b]0;owned\x1b[2J\x9b31m"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """Stands for stdout and stderr. Not a fixture: pytest puts its own streams there after the fixtures."""
    made = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", made)
        patch.setattr(sys, "stdout", made)
        patch.setenv("TERM", "xterm")
        yield made


def complain_of_an_error(text: str) -> None:
    console.print_error("It failed.", ValueError(text))


@pytest.mark.parametrize("speak", [console.hint, console.note, console.print_error, console.show, complain_of_an_error])
def test_messages_results_and_tracebacks_have_no_control_characters(speak):
    with terminal() as screen:
        speak(f"file {ESCAPE}.png")
    assert SPELLED in screen.getvalue()
    assert ESCAPE not in screen.getvalue()


COMMAND = "`panbench data coco --limit 20 --split val`"


@pytest.mark.parametrize(
    ("speak", "label"), [(console.hint, ""), (console.note, "Note: "), (console.print_error, "Error: ")]
)
def test_on_a_terminal_lines_wrap_between_words_and_never_in_a_command(speak, label, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    message = (
        f"There is no folder data/coco with what this needs of COCO. Fetch it with {COMMAND} or by adding --download."
    )
    with terminal() as screen:
        speak(message)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()
    assert " ".join(lines) == label + message
    assert len(lines) >= 3
    assert max(map(len, lines)) <= 60
    assert any(COMMAND in line for line in lines)


def test_the_status_line_on_a_terminal_is_replaced_by_the_next(capsys):
    with terminal() as screen:
        with console.working("Reading runs"):
            assert screen.getvalue() == "Reading runs …"
            console.note("One is damaged.")
            assert screen.getvalue().startswith("Reading runs …\r\x1b[2K")
        assert screen.getvalue().count("\x1b[2K") == 1
    with console.working("Reading runs"):
        pass
    assert capsys.readouterr().err == ""


def test_in_a_log_a_message_is_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    console.print_error("word " * 40)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_bars_and_notices_have_no_control_characters():
    with terminal() as screen, console.Bars() as bars:
        bars.progress(f"Scoring {ESCAPE}", 1, 2)
        bars.status(f"Building {ESCAPE}")
        bars.notice(f"Skipped {ESCAPE}")
        bars.progress(f"Scoring {ESCAPE}", 2, 2)
    assert "\x1b]0;" not in screen.getvalue()
    for what in ("Scoring", "Skipped"):
        assert rf"{what} \x1b]0;owned" in screen.getvalue()


def test_a_log_reports_progress_every_ten_seconds(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Bars() as bars:
        for done in range(8):
            bars.progress("Mask2Former tiny", 100 * done, 2000)
            now[0] += 4
        bars.progress("val2017.zip", 3_000_000, 815_585_330, "bytes")
    lines = capsys.readouterr().err.splitlines()
    # The news come every four seconds, and so does a line with every third of them.
    assert [line for line in lines if line.endswith(" images")] == [
        "Mask2Former tiny: 300 of 2,000 images",
        "Mask2Former tiny: 600 of 2,000 images",
    ]


def test_an_error_on_a_terminal_is_bold_and_red():
    with terminal() as screen:
        console.print_error("Red.")
    assert "\x1b[1;31mError: \x1b[0m" in screen.getvalue()


def test_raw_results_have_no_control_characters_on_terminals_and_in_files():
    with terminal() as screen:
        console.write(ESCAPE)
    assert screen.getvalue() == SPELLED
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", file := io.StringIO())
        console.write(f'"{ESCAPE}"')
    assert not set("\x1b\x9b\x07") & set(file.getvalue())
    assert json.loads(file.getvalue()) == ESCAPE


def test_a_file_name_with_an_escape_sequence_is_printed_safely(tmp_path):
    name = tmp_path / "\x1b[2Jgt.json"
    said = refused("score", "--gt", name, "--pred", name)
    assert r"\x1b[2Jgt.json" in said
    assert "\x1b[2J" not in said


def test_a_file_name_that_is_not_utf8_is_printed():
    done = panbench_program("score", "--gt", b"bad-\xff.json".decode("utf-8", "surrogateescape"), "--pred", "x")
    assert done.returncode == 2
    assert r"bad-\udcff.json was not found" in done.stderr
