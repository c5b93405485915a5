"""What work takes in a process of its own: seconds of the clock and of the processor, and memory at its peak."""

import contextlib
import gc
import importlib
import inspect
import json
import multiprocessing
import os
import re
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from scripts.bench.harness import ROOT, cpu_seconds


class Spent(NamedTuple):
    """Seconds by the clock, CPU seconds, peak megabytes of the largest process, and the return value of the work."""

    clock: float
    cpu: float
    megabytes: float
    answer: Any


def in_child(
    prepare: Callable[..., Callable[[], Any]],
    *given: Any,
    checkout: Path = ROOT,
    environment: dict[str, str] | None = None,
) -> Spent:
    """Measures in a new process the function that `prepare(*given)` returns there.

    Imports and other preparations are not in the seconds. `given` and the answer pass as JSON. With another checkout,
    the modules of panbench that `prepare` imports are that checkout's; its script must not import any at its top.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        module = Path(inspect.getfile(prepare)).stem
        words = [str(answer), str(checkout), module, prepare.__name__, json.dumps(given, default=str)]
        ran = subprocess.run(
            [sys.executable, "-m", "scripts.bench.child", *words],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            raise SystemExit(f"{prepare.__name__} of {checkout} failed:\n{ran.stderr.strip() or ran.stdout.strip()}")
        return Spent(*json.loads(answer.read_text("utf-8")))


def panbench(*words: str) -> Callable[[], None]:
    """Returns a function that runs `panbench WORDS`, with everything imported."""

    def run() -> None:
        sys.argv = ["panbench", *words]
        try:
            runpy.run_module("panbench", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise

    return run


def peak() -> float:
    """Returns the peak megabytes of the largest of this process and its finished children.

    Linux counts as a process's own what it was before it became another program: of itself, VmHWM is right.
    """
    import resource

    own, ended = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(peak_of("self") or own, ended) * (1 if sys.platform == "darwin" else 1024) / 1e6


def peak_of(process: int | str) -> int:
    """Returns the peak resident set of a process in kB; 0 if /proc does not report it."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) if found else 0


@contextlib.contextmanager
def serving(folder: Path, checkout: Path = ROOT) -> Iterator[tuple[int, str]]:
    """Runs `panbench serve` of a checkout in its own process; yields the process id and the URL of the list."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "COLUMNS": "400"}
    command = [sys.executable, "-m", "panbench", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=folder) as server:
        try:
            assert server.stderr is not None
            said = re.search(r"http://127\.0\.0\.1:\d+", line := server.stderr.readline())
            if said is None:
                raise SystemExit(f"{checkout}: {line}{server.stderr.read()}")
            yield server.pid, said[0]
        finally:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(5)
            except subprocess.TimeoutExpired:
                server.kill()


def main(answer: str, checkout: str, module: str, name: str, given: str) -> None:
    """Runs in the child process: measures the work and writes its cost and return value."""
    prepare = getattr(importlib.import_module(f"scripts.bench.{module}"), name)
    sys.path.insert(0, checkout)
    work, done = prepare(*json.loads(given)), []
    began = time.perf_counter()

    def whole() -> None:
        found = work()
        done.append((time.perf_counter() - began, found))
        # Only processes that were waited for count, and panopticapi leaves its pool to the garbage collector.
        gc.collect()
        for process in multiprocessing.active_children():
            process.terminate()
            process.join()

    cpu = cpu_seconds(whole)
    ((clock, found),) = done
    Path(answer).write_text(json.dumps(Spent(clock, cpu, peak(), found)), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
