#!/usr/bin/env python3
"""Sends commands that write a signal at a random moment, and checks what is left, and that they can be done again.

    scripts/check/signals.py --rounds 200             how the rounds ended; exit 1 and a line for a broken promise
    scripts/check/signals.py --rounds 200 --document  also write it into docs/reliability.md

In each round a command replaces a result of an earlier one (`--overwrite`). It is stopped by SIGINT, SIGTERM, SIGHUP or
SIGKILL. What is there then is whole and the old or the new result, or an unfinished run beside the old one; nobody
else's file changed; and the same command ends well and leaves nothing but its result.
"""

import argparse
import contextlib
import hashlib
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.make.markdown_tables import write_between

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- signals: made by scripts/check/signals.py --document -->", "<!-- /signals -->"
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL")
GOOD, POOR = "good", "poor"
MODEL = """
import numpy as np

def make():
    def segment(rgb):
        ids = rgb[..., 0].astype(np.int32) // 40 + 1
        ids[ids == {missed}] = 0
        segments = [{{"id": int(one), "category_id": 1 + int(one) % 2, "score": 0.5}} for one in np.unique(ids) if one]
        return ids, segments

    segment.categories = [{{"id": 1, "name": "ball", "isthing": 1}}, {{"id": 2, "name": "sky", "isthing": 0}}]
    return segment
"""

COMMANDS = {
    "eval": "eval -m {which}_model:make --images images --gt gt.json --out OUT -q --overwrite",
    "score": "score --gt gt.json --pred {which}.json --out OUT --overwrite",
    "merge": "runs merge {which}-1 {which}-2 --out OUT --overwrite",
    "report": "report {which}-1 --out OUT.html",
    "export": "export parquet {which}-1 --out OUT --overwrite",
}
"""What is done, with the good or the poor predictions."""


def make_scene(root: Path) -> None:
    """Writes twenty-four images, two sets of predictions, and two sharded runs of each."""
    import cv2

    from panbench.panoptic.coco import write_id_png, write_panoptic_json
    from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment

    categories = (Category(1, "ball", True), Category(2, "sky", False))
    rng = np.random.default_rng(0)
    maps = {number: np.kron(rng.integers(1, 6, (6, 8)), np.ones((10, 10), int)) for number in range(1, 25)}
    (root / "images").mkdir()
    for number, ids in maps.items():
        cv2.imwrite(str(root / "images" / f"{number}.png"), np.repeat((40 * ids - 20)[..., None], 3, 2).astype("u1"))
    for name, missed in (("gt", 0), (GOOD, 5), (POOR, 2)):
        infos, annotations = {}, {}
        for number, whole in maps.items():
            ids = np.where(whole == missed, 0, whole).astype(np.int32)
            found = [int(one) for one in np.unique(ids[ids > 0])]
            segments = tuple(Segment(one, 1 + one % 2, int((ids == one).sum())) for one in found)
            write_id_png(root / name / f"{number}.png", ids)
            infos[number] = ImageInfo(number, f"{number}.png", *ids.shape)
            annotations[number] = Annotation(number, f"{number}.png", segments)
        path = root / f"{name}.json"
        write_panoptic_json(path, PanopticSet(categories, infos, annotations, root / name, path))
        if missed:
            (root / f"{name}_model.py").write_text(MODEL.format(missed=missed))
            for shard in (1, 2):
                run(
                    "score", "--gt", "gt.json", "--pred", path.name, "--shard", f"{shard}/2", "--out", f"{name}-{shard}"
                )


def run(*words: str) -> None:
    """Runs a command in its own process, which must succeed."""
    log = Path("log.txt")
    code = ended(child(words, log))
    if code:
        raise SystemExit(f"panbench {' '.join(words)}: exit {code}\n{log.read_text()}")


def child(words: Sequence[str], log: Path) -> int:
    """Starts a command in a forked process, where everything is imported; returns the process id."""
    if pid := os.fork():
        return pid
    # Inherited by none of these: what the command prints.
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(target, 1), os.dup2(target, 2)
    code = 1
    try:
        from panbench.cli.app import main

        sys.argv = ["panbench", *words]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:  # before the program began, or after its end: Python's own answer
        code = 128 + signal.SIGINT
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def ended(pid: int) -> int:
    """Waits for a child; returns its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def state(out: Path) -> str:
    """Describes the content of a result's path in a word that is equal for equal content."""
    from panbench.base.errors import BadRun
    from panbench.runs import load_run

    page = out.with_name(f"{out.name}.html")
    if page.exists():
        return "whole page" if page.read_bytes().rstrip().endswith(b"</html>") else "torn page"
    if (out / "run.json").exists() or not out.exists():
        try:
            held = load_run(out)
        except BadRun as problem:
            return "to be finished" if "panbench runs finish" in str(problem) else f"absent ({problem})"
        return f"{held.info.status} {held.summary()['All']['PQ']:.6f}" if not held.faults else "damaged"
    return " ".join(hashlib.sha256(file.read_bytes()).hexdigest()[:16] for file in sorted(out.glob("[!.]*")))


def inputs(root: Path) -> str:
    """Returns a hash of all files that the commands read."""
    files = (file for file in sorted(root.rglob("*")) if file.is_file() and file.relative_to(root).parts[0] != "out")
    names = ((file, file.relative_to(root)) for file in files if file.name != "log.txt" and file.suffix != ".pyc")
    return hashlib.sha256(b"".join(f"{name}".encode() + file.read_bytes() for file, name in names)).hexdigest()


def round_of(name: str, dice: random.Random, took: float, right: dict[str, str]) -> str:
    """Runs one round; returns how it ended. Raises AssertionError for a broken promise. took: its seconds"""
    out = Path("out") / "it"
    shutil.rmtree(out.parent, ignore_errors=True)
    out.parent.mkdir()
    lines = {which: COMMANDS[name].format(which=which).replace("OUT", str(out)).split() for which in (GOOD, POOR)}
    run(*lines[POOR])
    assert state(out) == right[POOR], state(out)
    number, log = getattr(signal, dice.choice(SIGNALS)), Path("log.txt")
    pid = child(lines[GOOD], log)
    time.sleep(dice.uniform(0, 1.1 * took))
    os.kill(pid, number)
    code, said = ended(pid), log.read_text(errors="replace")
    assert code in (0, 128 + number, -number), f"exit {code} after signal {number}: {said[-500:]}"
    # Python itself says so where a library's callback swallows the interruption; the command then goes on.
    assert "Traceback" not in said or "Exception ignored in" in said, said[:1000]
    assert "fault of panbench" not in said, said[-500:]
    left = state(out)
    of_both = {right[GOOD], right[POOR], "to be finished", *right[GOOD].split(), *right[POOR].split()}
    assert left in of_both or of_both.issuperset(left.split()), f"{left} is left; right are {right}"
    beside = sorted(path.name for path in out.parent.iterdir() if path.name not in (out.name, "it.html"))
    if left == "to be finished":
        run("runs", "finish", str(out))
    run(*lines[GOOD])
    assert state(out) == right[GOOD], f"{state(out)} after it was done again"
    others = {path.name for path in out.parent.iterdir()} - {out.name, "it.html"}
    assert not others, f"{others} stays for ever"
    kinds = {right[GOOD]: "new result", right[POOR]: "old result", "to be finished": left, "whole page": left}
    kind = kinds.get(left, "files of both")
    return f"{kind}, and what a replacement left" if any("panbench-" in one for one in beside) else kind


def rounds(count: int, seed: int) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Runs rounds of the commands in turn; returns how they ended, and the broken promises."""
    import torch

    import panbench.cli.app
    import panbench.evaluation.several
    import panbench.models.functions
    import panbench.report.pages.page.document
    import panbench.runs.merge  # noqa: F401

    torch.set_num_threads(1)  # a fork of a process whose threads compute would wait for them for ever
    found, broken = Counter[tuple[str, str]](), list[str]()
    here = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="panbench-signals-") as folder:
        os.chdir(folder)
        os.environ["PANBENCH_CACHE"] = f"{folder}/cache"
        try:
            make_scene(Path(folder))
            right: dict[str, dict[str, str]] = {}
            took = {}
            for name, line in COMMANDS.items():
                right[name] = {}
                for which in (POOR, GOOD):
                    began = time.monotonic()
                    run(*line.format(which=which).replace("OUT", f"out-{name}-{which}/it").split())
                    took[name] = time.monotonic() - began
                    right[name][which] = state(Path(f"out-{name}-{which}") / "it")
            before = inputs(Path(folder))
            for number in range(count):
                name = list(COMMANDS)[number % len(COMMANDS)]
                try:
                    found[name, round_of(name, random.Random(f"{seed} {number}"), took[name], right[name])] += 1
                    assert inputs(Path(folder)) == before, "the input files changed"
                except AssertionError as problem:
                    broken.append(f"round {number}, {name}: {problem}")
        finally:
            os.chdir(here)
    return found, broken


def main() -> None:
    """Runs the rounds and prints how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--document", action="store_true", help="write the counts into docs/reliability.md, too")
    arguments = parser.parse_args()
    found, broken = rounds(arguments.rounds, arguments.seed)
    lines = [
        f"`scripts/check/signals.py --rounds {arguments.rounds} --seed {arguments.seed}` on {date.today():%Y-%m-%d}, "
        f"{platform.system()}, Python {platform.python_version()}: {len(broken) or 'no'} broken promises.\n"
    ]
    for name in COMMANDS:
        ends = [f"{end} {number}" for (of, end), number in sorted(found.items()) if of == name]
        lines.append(f"- `{name}`: {'; '.join(ends)}.")
    told = "\n".join(lines)
    print(told, *broken, sep="\n")
    if arguments.document:
        write_between(PAGE, BEGIN, END, told)
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
