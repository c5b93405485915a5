#!/usr/bin/env python3
"""Treats stored runs badly, at random, and checks that nothing of the user's is lost and no number changes unsaid.

    scripts/check/torture.py                     five minutes, then a table of what was done
    scripts/check/torture.py --seconds 1200 --document      a long pass, for docs/reliability.md
    scripts/check/torture.py --seed 7 --only kill_overwriting

Everything happens in a temporary folder; what is downloaded comes from 127.0.0.1. A child process is bounded in memory
and time. Full and read-only disks are a small tmpfs where this process may mount one; else files are bounded by the
system's limit, and folders lose their permission to be written. Exit 1 and a line for each broken promise, with the
seed of its round: `--only SCENARIO --seed S --rounds 1` does it again.
"""

import argparse
import contextlib
import gc
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.check.torturing.commands import full_disk_command, kill_command, read_only_disk, two_commands
from scripts.check.torturing.inputs import changed_checkpoint, changed_photograph, changed_zip, lying_server
from scripts.check.torturing.keeping import changed_kept_file, deleted_runs, judged_damaged, names_of_users, served_runs
from scripts.check.torturing.power import power_cut
from scripts.check.torturing.runs import (
    changed_inputs,
    changed_part,
    edited_record,
    full_disk,
    kill_overwriting,
    kill_writing,
    two_writers,
)
from scripts.check.torturing.scene import Broken, Scene, expect, make_scene
from scripts.check.torturing.tasks import served, with_tasks
from scripts.make import markdown_lists

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


BEGIN, END = "<!-- counts: made by scripts/check/torture.py --document -->", "<!-- /counts -->"


@dataclass
class Tally:
    """How often each scenario ran, how its rounds ended, and what was broken."""

    rounds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


SCENARIOS: dict[str, Callable[[Scene, random.Random, Path], str]] = {
    work.__name__: work
    for work in (
        kill_writing,
        kill_overwriting,
        two_writers,
        full_disk,
        edited_record,
        changed_part,
        changed_inputs,
        kill_command,
        full_disk_command,
        read_only_disk,
        two_commands,
        changed_photograph,
        changed_zip,
        changed_checkpoint,
        names_of_users,
        deleted_runs,
        changed_kept_file,
        judged_damaged,
        served_runs,
        lying_server,
        power_cut,
    )
}
WITH_TASKS = ("kill_command", "full_disk_command", "read_only_disk", "two_commands", "power_cut")
"""The scenarios that need to know how each command ends when nothing happens to it."""


def torture(seconds: float, seed: int, only_these: list[str] | None = None, rounds: int | None = None) -> Tally:
    """Rounds of the scenarios in turn until the time is over; what was broken is told, with the round's seed."""
    tally = Tally()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="panbench-torture-"))
        stack.enter_context(quiet())
        stack.enter_context(importable(folder))
        scene = make_scene(Path(folder))
        names = only_these or list(SCENARIOS)
        if set(names) & set(WITH_TASKS):
            scene = with_tasks(scene, stack.enter_context(served(Path(folder) / "data")))
        inputs = scene.inputs()
        until = time.monotonic() + seconds
        number = 0
        while time.monotonic() < until and (rounds is None or number < rounds * len(names)):
            name, own_seed = names[number % len(names)], seed + number // len(names)
            out = Path(folder) / "results" / f"{name}-{number}"
            out.parent.mkdir(exist_ok=True)
            number += 1
            try:
                tally.outcomes[name, SCENARIOS[name](scene, random.Random(f"{name} {own_seed}"), out)] += 1
                expect(scene.inputs() == inputs, "the input files changed")
            except Exception as problem:
                kind = "" if isinstance(problem, Broken) else f"{type(problem).__name__}: "
                tally.broken.append(f"{name} --seed {own_seed}: {kind}{problem}")
            tally.rounds[name] += 1
            shutil.rmtree(out.parent)
    return tally


@contextlib.contextmanager
def importable(folder: str) -> Iterator[None]:
    """Modules in `folder` can be imported, and what children need is imported before they are forked."""
    import torch

    import panbench.evaluation.several
    import panbench.evaluation.tools.photographs
    import panbench.models.functions  # noqa: F401

    # A fork of a process whose threads compute would wait for them for ever.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sys.path.insert(0, folder)
    # A third of a second for each child that gives back memory: it need not look at what is imported here.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.path.remove(folder)
        sys.modules.pop("little_model", None)
        torch.set_num_threads(threads)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No cache outside of the temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("PANBENCH_CACHE")
        os.environ["PANBENCH_CACHE"] = folder
        try:
            yield
        finally:
            os.environ.pop("PANBENCH_CACHE")
            if before is not None:
                os.environ["PANBENCH_CACHE"] = before


def table(tally: Tally) -> str:
    """The counts as a Markdown list: what each scenario is, how often it ran, and how its rounds ended."""
    lines = []
    for name, count in tally.rounds.items():
        title = (SCENARIOS[name].__doc__ or name).splitlines()[0].rstrip(".")
        ends = ", ".join(f"{end} {number}" for (of, end), number in sorted(tally.outcomes.items()) if of == name)
        lines.append(markdown_lists.item(("rounds", "how they ended"), (f"{title} (`{name}`)", f"{count:,}", ends)))
    return "\n".join(lines)


def documented(page: str, told: str) -> str:
    """The text of docs/reliability.md with what stands between its marks replaced."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{told}\n{END}{after}"


def main() -> None:
    """Runs a pass and prints its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, help="so many of each scenario at most")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS))
    parser.add_argument("--document", action="store_true", help="write the counts into docs/reliability.md, too")
    arguments = parser.parse_args()
    began = time.monotonic()
    tally = torture(arguments.seconds, arguments.seed, arguments.only, arguments.rounds)
    total = f"{sum(tally.rounds.values()):,} rounds in {time.monotonic() - began:,.0f} s"
    told = (
        f"`scripts/check/torture.py --seconds {arguments.seconds:g} --seed {arguments.seed}` on "
        f"{date.today():%Y-%m-%d}, {platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores: "
        f"{total}, {len(tally.broken) or 'no'} broken promise{'s' * (len(tally.broken) > 1)}.\n\n{table(tally)}"
    )
    print(told)
    print("\n".join(tally.broken))
    if arguments.document:
        PAGE.write_text(documented(PAGE.read_text("utf-8"), told), "utf-8")
    sys.exit(bool(tally.broken))


if __name__ == "__main__":
    main()
