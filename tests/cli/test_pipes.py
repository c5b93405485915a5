"""A reader that stops early ends the program as it ends `cat`."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from little_runs import finished
from support import panbench_program


def into_a_closed_pipe(*words: object, stderr: bool = False, unbuffered: str = "") -> tuple[int, str]:
    """Exit code and stderr of `panbench …` whose reader has gone; with `stderr` that is closed, too (`2>&1 | true`)."""
    read, write = os.pipe()
    os.close(read)
    try:
        ended = panbench_program(
            *words,
            capture_output=False,
            stdout=write,
            stderr=write if stderr else subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    finally:
        os.close(write)
    return ended.returncode, ended.stderr or ""


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("words", [["--version"], ["--help"], ["models"], ["score", "--help"]], ids=" ".join)
def test_a_closed_pipe_ends_the_program_silently(words: Sequence[str]) -> None:
    assert into_a_closed_pipe(*words) == into_a_closed_pipe(*words, unbuffered="1") == (141, "")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_exit_codes_do_not_change_with_a_closed_pipe(tmp_path) -> None:
    run = finished(tmp_path / "run", 1, 2)
    assert into_a_closed_pipe("compare", run) == (141, "")
    assert into_a_closed_pipe("metrics", tmp_path / "none")[0] == 2
    assert into_a_closed_pipe("metrics", tmp_path / "none", stderr=True)[0] == 141
