"""What becomes of `panbench serve` under load, with this checkout and with another one.

    python scripts/bench/serve.py --seconds 60 --connections 200 --images 1000 [--before ../panbench-before]

Clients ask for comparisons of random subsets of the runs in random order, wait `--patience` seconds and leave, as a
browser does whose tab is closed, until the time is up. Meanwhile the list of runs is asked for every second. After it,
the script waits (at most `--after` seconds) until the server shows a comparison again. Only 127.0.0.1 is asked; every
server is ended. The runs are made by scripts/make/coco_like.py.
"""

import argparse
import asyncio
import collections
import multiprocessing
import random
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.bench.child import peak_of, serving
from scripts.bench.harness import Row, arguments, checkouts, finish
from scripts.bench.report import make_runs

MOST_CONNECTIONS, MOST_SECONDS = 500, 300


@dataclass
class Found:
    """The measurements of the clients."""

    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    index: list[float] = field(default_factory=list)
    index_failed: int = 0
    again: float | None = None
    memory: int = 0


async def get(port: int, path: str, patience: float) -> str:
    """The status of an answer that was read whole; "left" when it did not come in time."""

    async def ask() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
            content = await reader.read(-1)
            return content.split(b" ", 2)[1].decode() if content.startswith(b"HTTP/") else "cut short"
        finally:
            writer.close()

    try:
        return await asyncio.wait_for(ask(), patience)
    except (TimeoutError, asyncio.TimeoutError):
        return "left"
    except OSError as error:
        return type(error).__name__


def watch(port: int, seconds: float) -> tuple[list[float], int]:
    """Requests the list of runs every second; returns the seconds of each response, and the number above 10 s."""
    answers: list[float] = []
    failed, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        if asyncio.run(get(port, "/", 10.0)) == "200":
            answers.append(time.monotonic() - began)
        else:
            failed += 1
        time.sleep(1.0)
    return answers, failed


async def load(port: int, names: list[str], wishes: argparse.Namespace) -> Found:
    """Clients until the time is up, and the list of runs every second."""
    found, rng = Found(), random.Random(wishes.seed)
    end = time.monotonic() + wishes.seconds

    async def client() -> None:
        while time.monotonic() < end:
            chosen = rng.sample(names, rng.randint(1, len(names)))
            path = "/compare?" + "&".join(f"run={name}" for name in chosen)
            status = await get(port, path, wishes.patience)
            found.statuses[status] += 1
            if status not in ("200", "left"):
                # A client that is refused tries again, as Retry-After says or a person would.
                await asyncio.sleep(min(5.0, wishes.patience))

    # In a process of its own, which the load's own work does not keep waiting.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        watched = other.submit(watch, port, wishes.seconds)
        await asyncio.gather(*(client() for _ in range(wishes.connections)))
        found.index, found.index_failed = await asyncio.wrap_future(watched)
    began = time.monotonic()
    while found.again is None and time.monotonic() - began < wishes.after:
        if await get(port, f"/compare?run={names[0]}", 5.0) == "200":
            found.again = time.monotonic() - began
    return found


def serve(checkout: Path, folder: Path, wishes: argparse.Namespace) -> Found:
    """Puts load on a server of a checkout of panbench; returns the measurements."""
    names = sorted(path.name for path in folder.iterdir() if (path / "run.json").exists())
    with serving(folder, checkout) as (process, address):
        found = asyncio.run(load(int(address.rpartition(":")[2]), names, wishes))
        found.memory = 1024 * peak_of(process)
    return found


def row(title: str, found: Found, wishes: argparse.Namespace) -> Row:
    """Formats the measurements as a row."""
    index = sorted(found.index)
    others = sum(count for status, count in found.statuses.items() if status not in ("200", "503", "left"))
    return {
        f"{wishes.connections} connections, {wishes.seconds:g} s": title,
        "answered": str(found.statuses["200"]),
        "refused (503)": str(found.statuses["503"]),
        f"left after {wishes.patience:g} s": str(found.statuses["left"]),
        "otherwise": str(others),
        "list of runs, median s": f"{index[len(index) // 2]:.3f}" if index else "–",
        "slowest": f"{index[-1]:.3f}" if index else "–",
        "without an answer in 10 s": str(found.index_failed),
        "a comparison again after, s": "–" if found.again is None else f"{found.again:.1f}",
        "peak MB": f"{found.memory / 1e6:,.0f}",
    }


def main() -> None:
    """Makes the runs, and puts load on one or two servers."""
    wishes = arguments(__doc__, connections=50, seconds=8.0, patience=10.0, after=60.0, images=60, seed=0, before=Path)
    wishes.connections = min(wishes.connections, MOST_CONNECTIONS)
    wishes.seconds, wishes.after = min(wishes.seconds, MOST_SECONDS), min(wishes.after, MOST_SECONDS)
    with tempfile.TemporaryDirectory() as made:
        folder = make_runs(Path(made), wishes.images)[0].parent
        measured = {title: serve(path, folder, wishes) for title, path in checkouts(wishes.before).items()}
    rows = [row(title, found, wishes) for title, found in measured.items()]
    finish("serve", rows, wishes.write and not wishes.before)


if __name__ == "__main__":
    main()
