"""What work takes in a process of its own: seconds of the clock and of the processor, and memory at its peak."""

import gc
import importlib
import inspect
import json
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from scripts.bench.harness import ROOT, cpu_seconds


class Spent(NamedTuple):
    """Seconds by the clock, CPU seconds, megabytes of the largest process at its peak, and what the work returned."""

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
    """What a new process spends on the function that `prepare(*given)` returns there.

    Imports and other preparations are not in the seconds. `given` and the answer pass as JSON. With another checkout,
    the modules of panbench that `prepare` imports are that checkout's; its script must not import any at its top.
    """
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        words = [
            str(answer),
            str(checkout),
            Path(inspect.getfile(prepare)).stem,
            prepare.__name__,
            json.dumps(given, default=str),
        ]
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
    """The command line `panbench WORDS`, with all that it imports."""

    def run() -> None:
        sys.argv = ["panbench", *words]
        try:
            runpy.run_module("panbench", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code:
                raise

    return run


def peak() -> float:
    """Megabytes of the largest of this process and those that it has ended, at its peak.

    Linux counts as a process's own what it was before it became another program: of itself, VmHWM is right.
    """
    import resource

    own, ended = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        own = int(found[1])
    return max(own, ended) * (1 if sys.platform == "darwin" else 1024) / 1e6


def main(answer: str, checkout: str, module: str, name: str, given: str) -> None:
    """The process itself: writes what the work took and returned."""
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
