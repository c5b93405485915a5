"""How long a command takes to its first output and to its first image, in this checkout, and in an older one.

    python scripts/bench/start.py [--rounds 1] [--before ../panbench-before]

`--before` is a checkout of another commit (`git worktree add ../panbench-before COMMIT`). Commands run on a terminal of
80 columns, one checkout after the other in turn, after one run of each that is not counted. Printed are medians, in
seconds: to the first byte that can be seen, on stdout or stderr; to the first image that the progress bar counts; to
the end.
"""

import functools
import os
import pty
import re
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.harness import Row, arguments, checkouts, finish, turns

Times = tuple[float, float | None, float]
LIMIT = 20
COMMANDS = {
    "--help": ["--help"],
    "panbench models": ["models"],
    "panbench compare": ["compare", "{run}"],
    f"panbench eval --model mask2former-tiny --limit {LIMIT}": [
        *("eval", "--model", "mask2former-tiny", "--limit", str(LIMIT), "--out", "{out}", "--overwrite")
    ],
}
# What the terminal is told, but shows nothing of.
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|[\r\n\s]")
IMAGE = re.compile(rf"(?<![\d/])[1-9]\d*/{LIMIT}(?!\d)".encode())


def main() -> None:
    """Prints a row for each command."""
    options = arguments(__doc__, before=Path, rounds=1)
    measured = checkouts(options.before)
    with tempfile.TemporaryDirectory(prefix="panbench-start.") as scratch:
        sides: dict[tuple[str, str], Callable[[], Times]] = {}
        # `eval` comes first, so that `compare` has its run.
        for shown, command in reversed(COMMANDS.items()):
            for name, checkout in measured.items():
                words = [word.format(run=Path(scratch) / name, out=Path(scratch) / name) for word in command]
                sides[shown, name] = functools.partial(timed, [sys.executable, "-m", "panbench", *words], checkout)
        turns(sides, 1)
        found = turns(sides, options.rounds)
    finish("start", [row(shown, found, list(measured)) for shown in COMMANDS], options.write and not options.before)


def row(shown: str, found: dict[tuple[str, str], list[Times]], checkouts: list[str]) -> Row:
    """Returns a command's median seconds: first output, first image, end."""
    cells = {"command": f"`{shown}`"}
    for part, what in enumerate(("first output, s", "first image, s", "end, s")):
        for name in checkouts:
            times = [time for each in found[shown, name] if (time := each[part]) is not None]
            middle = f"{statistics.median(times):.2f}" if times else "–"
            cells[f"{what}, {name}" if len(checkouts) > 1 else what] = middle
    return cells


def timed(command: list[str], checkout: Path) -> Times:
    """Measures seconds to the first output, to the first image (None without a progress bar), and to the end."""
    master, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "80", "TERM": "xterm-256color"}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal, cwd=checkout, env=environment
    )
    os.close(terminal)
    seen, first, image = b"", None, None
    while True:
        if select.select([master], [], [], 0.01)[0]:
            try:
                read = os.read(master, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not read:
                break
            now = time.perf_counter() - began
            seen += read
            if first is None and CONTROL.sub(b"", seen):
                first = now
            if image is None and IMAGE.search(CONTROL.sub(b"", seen.replace(b" ", b"|"))):
                image = now
    code = process.wait()
    spent = time.perf_counter() - began
    os.close(master)
    if code or first is None:
        sys.exit(f"{' '.join(command)} in {checkout} ended with {code}:\n{seen.decode(errors='replace')[-2000:]}")
    return first, image, spent


if __name__ == "__main__":
    main()
