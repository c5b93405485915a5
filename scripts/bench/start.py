"""How long a command takes to its first output and to its first image, in this checkout and in an older one.

    python scripts/bench/start.py --before ../panbench-before --repeats 5

`--before` is a checkout of another commit (`git worktree add ../panbench-before COMMIT`). Commands run on a terminal of
80 columns, one checkout after the other in turn, after one run of each that is not counted. Printed are medians, in
seconds: to the first byte that can be seen, on stdout or stderr; to the first image that the progress bar counts; to
the end.
"""

import argparse
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
from fcntl import ioctl
from pathlib import Path

from panbench.base import provenance
from panbench.base.files import write_json

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 20
COMMANDS = {
    "--help": ["--help"],
    "panbench models": ["models"],
    "panbench compare": ["compare", "{run}"],
    f"panbench eval --model mask2former-tiny --limit {LIMIT}": [
        *("eval", "--model", "mask2former-tiny", "--limit", str(LIMIT), "--out", "{out}", "--overwrite"),
    ],
}
# What the terminal is told, but shows nothing of.
CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|[\r\n\s]")
IMAGE = re.compile(rf"(?<![\d/])[1-9]\d*/{LIMIT}(?!\d)".encode())


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of the commit to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "now": ROOT} if arguments.before else {"now": ROOT}
    times: dict[str, dict[str, list[tuple[float, float | None, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="panbench-start.") as scratch:
        for repeat in range(arguments.repeats + 1):
            for name, checkout in checkouts.items():
                out = Path(scratch) / name
                # `eval` comes first, so that `compare` has its run.
                for shown, command in reversed(COMMANDS.items()):
                    words = [word.format(run=out, out=out) for word in command]
                    measured = timed([sys.executable, "-m", "panbench", *words], checkout)
                    if repeat:
                        times.setdefault(shown, {}).setdefault(name, []).append(measured)
    medians = {
        shown: {name: [_median(column) for column in zip(*runs, strict=True)] for name, runs in by_checkout.items()}
        for shown, by_checkout in reversed(times.items())
    }
    print(f"{provenance.cpu_name()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}; seconds, medians of")
    print(f"{arguments.repeats}; load {' '.join(f'{load:.2f}' for load in os.getloadavg())}.\n")
    what = ("first output", "first image", "end")
    print("| command | " + " | ".join(f"{part}, {name}" for part in what for name in checkouts) + " |")
    print("| --- |" + " ---: |" * (len(what) * len(checkouts)))
    for shown, by_checkout in medians.items():
        cells = [_cell(by_checkout[name][place]) for place in range(len(what)) for name in checkouts]
        print(f"| `{shown}` | " + " | ".join(cells) + " |")
    if arguments.json:
        record = {"times": times, "versions": provenance.versions(), "git_commit": provenance.git_commit()}
        write_json(arguments.json, record)


def timed(command: list[str], checkout: Path) -> tuple[float, float | None, float]:
    """Seconds to the first output, to the first image (None without a bar), and to the end of a command."""
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


def _median(column: tuple[float | None, ...]) -> float | None:
    values = [value for value in column if value is not None]
    return statistics.median(values) if values else None


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    main()
