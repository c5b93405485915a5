#!/usr/bin/env python3
"""Treats stored runs badly, at random, and checks that nothing of the user's is lost and no number changes unsaid.

    scripts/torture.py                     five minutes, then a table of what was done
    scripts/torture.py --seconds 1200      a long pass, for docs/reliability.md
    scripts/torture.py --seed 7 --only kill_overwriting

Everything happens in a temporary folder; nothing is fetched. A child process is bounded in memory and time. Exit 1 and
a line for each broken promise, with the seed of its round: `--only SCENARIO --seed S --rounds 1` does it again.
"""

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from panbench.base.errors import PanbenchError
from panbench.cli.signals import interrupted_by_signals
from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from panbench.report.tables import compare
from panbench.runs import Run, RunWriter, load_run
from panbench.scoring.folder import score_folder

CATEGORIES = (Category(1, "ball", True), Category(2, "box", True), Category(3, "sky", False))
IMAGES = 12
CHILD_MEMORY = 4 << 30
CHILD_SECONDS = 60


class Broken(Exception):
    """A promise that was not kept."""


@dataclass
class Tally:
    """How often each scenario ran, how its rounds ended, and what was broken."""

    rounds: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scene:
    """Ground truth, two sets of predictions of different quality, and the PQ of each."""

    root: Path
    gt: Path
    good: Path
    poor: Path
    PQ: dict[str, float]
    scored: dict[str, Run]
    seconds: float
    """How long it takes to write a run part by part."""

    def inputs(self) -> str:
        """A hash of all input files: they must be the same after every round."""
        digest = hashlib.sha256()
        for path in sorted((self.root / "data").rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(self.root)}".encode() + path.read_bytes())
        return digest.hexdigest()


def make_scene(root: Path) -> Scene:
    """Twelve small images; `poor` misses a third of what `good` finds."""
    data = root / "data"
    rng = np.random.default_rng(0)
    maps = [np.kron(rng.integers(0, 6, (4, 6)), np.ones((8, 8), int)).astype(np.int32) for _ in range(IMAGES)]
    paths = {}
    for name, share in (("gt", 0), ("good", 7), ("poor", 3)):
        infos, annotations = {}, {}
        for number, ids in enumerate(maps, 1):
            found = ids if not share else np.where((ids + number) % share == 0, 0, ids).astype(np.int32)
            segments = tuple(
                Segment(int(one), 1 + int(one) % 3, int((found == one).sum())) for one in np.unique(found[found > 0])
            )
            write_id_png(data / name / f"{number}.png", found)
            infos[number] = ImageInfo(number, f"{number}.jpg", *found.shape)
            annotations[number] = Annotation(number, f"{number}.png", segments)
        paths[name] = data / f"{name}.json"
        write_panoptic_json(paths[name], PanopticSet(CATEGORIES, infos, annotations, data / name, paths[name]))
    scored = {name: score_folder(paths["gt"], paths[name], index=False) for name in ("good", "poor")}
    scores = {name: pq_of(run) for name, run in scored.items()}
    assert scores["good"] != scores["poor"]
    scene = Scene(root, paths["gt"], paths["good"], paths["poor"], scores, scored, 0.0)
    began = time.monotonic()
    score_by_parts(scene, "good", root / "timed")
    return dataclasses.replace(scene, seconds=time.monotonic() - began)


def pq_of(run: Any) -> float:
    """PQ of all categories."""
    return float(run.summary()["All"]["PQ"] or 0.0)


def score_by_parts(scene: Scene, name: str, out: Path, overwrite: bool = False) -> None:
    """Writes the run of `name` with a part for each image."""
    whole = scene.scored[name]
    writer = RunWriter.create(out, whole.info, overwrite)
    try:
        for image in whole.images.tolist():
            writer.write_part(only(whole.table, image))
        writer.finish("done")
    except BaseException as problem:
        ended = "interrupted" if isinstance(problem, KeyboardInterrupt) else "failed"
        with contextlib.suppress(OSError, PanbenchError):
            writer.finish(ended, error=str(problem))
        raise


def only(table: Any, image: int) -> Any:
    """The rows of one image."""
    from panbench.panoptic.overlap import OverlapTable, take

    segments, pairs = table.segments, table.overlaps
    return OverlapTable(take(segments, segments.image_id == image), take(pairs, pairs.image_id == image))


def child(work: Callable[[], None]) -> int:
    """Does `work` in a process of its own, with bounded memory; its process id. Exit codes: 0, 2 (a sentence), 1."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        import resource

        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY, CHILD_MEMORY))
        signal.alarm(CHILD_SECONDS)
        sys.stderr = io.StringIO()
        with interrupted_by_signals():
            work()
        code = 0
    except PanbenchError:
        code = 2
    except KeyboardInterrupt as interruption:
        code = getattr(interruption, "exit_code", 130)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """How a child ended: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def expect(condition: bool, sentence: str) -> None:
    """Raises Broken when a promise is not kept."""
    if not condition:
        raise Broken(sentence)


def is_right(scene: Scene, path: Path, names: tuple[str, ...]) -> str:
    """The state of a run, which must be whole with one of the right numbers, or say that it is not whole."""
    if not (path / "run.json").exists():
        return "absent"
    row = compare([load_run(path)])[0]
    if row.complete:
        expect(any(row.PQ == scene.PQ[name] for name in names), f"a complete run of PQ {row.PQ} is none of {names}")
    return "complete" if row.complete else "incomplete"


def kill_writing(scene: Scene, rng: random.Random, out: Path) -> str:
    """A run is killed while it is written, by a signal that can be caught or one that cannot; then it goes on."""
    number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    pid = child(lambda: score_by_parts(scene, "good", out))
    time.sleep(rng.uniform(0, 1.2 * scene.seconds))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    code = ended(pid)
    expect(code != 1, f"exit {code} after {number!r}")
    state = is_right(scene, out, ("good",))
    if state == "incomplete":
        writer = RunWriter.resume(out)
        whole = scene.scored["good"]
        for image in whole.images.tolist():
            if image not in writer.done:
                writer.write_part(only(whole.table, image))
        expect(pq_of(writer.finish("done")) == scene.PQ["good"], "a resumed run has another PQ than an unbroken one")
    return state


def kill_overwriting(scene: Scene, rng: random.Random, out: Path) -> str:
    """A run is killed while it replaces another one: one of both is whole at any moment."""
    score_folder(scene.gt, scene.poor, out=out, index=False)
    (out / "notes.md").write_text("mine")
    pid = child(lambda: score_by_parts(scene, "good", out, overwrite=True))
    time.sleep(rng.uniform(0, 1.5 * scene.seconds))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    ended(pid)
    row = compare([load_run(out)])[0]
    expect(row.complete, "neither the old nor the new run is whole")
    which = next((name for name in ("poor", "good") if row.PQ == scene.PQ[name]), None)
    expect(which is not None, f"PQ {row.PQ} is of neither run")
    RunWriter.resume(out).close()
    kept = [place for place in (out, out.with_name(f"{out.name}.old")) if (place / "notes.md").exists()]
    expect(bool(kept), "the user's notes are gone")
    return f"{'old' if which == 'poor' else 'new'} run"


def two_writers(scene: Scene, rng: random.Random, out: Path) -> str:
    """Two processes write one folder: one is refused, or comes later; the run is of one of them."""
    pids = [child(partial(score_by_parts, scene, name, out, True)) for name in ("good", "poor")]
    codes = [ended(pid) for pid in pids]
    expect(1 not in codes, f"exit codes {codes}")
    expect(0 in codes, f"exit codes {codes}: none was let in")
    state = is_right(scene, out, ("good", "poor"))
    expect(state == "complete", f"the run is {state}")
    return "one refused" if 2 in codes else "one after the other"


def full_disk(scene: Scene, rng: random.Random, out: Path) -> str:
    """The disk is full from some flush on; an old run stays, a new one says failed."""
    old = rng.random() < 0.5
    if old:
        score_folder(scene.gt, scene.poor, out=out, index=False)

    def work() -> None:
        left, fsync = [rng.randrange(60)], os.fsync

        def full(descriptor: int) -> None:
            left[0] -= 1
            if left[0] < 0 and any(out.parent.glob("*/.reserve.tmp")):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        os.fsync = full  # type: ignore[assignment]
        score_by_parts(scene, "good", out, overwrite=old)

    code = ended(child(work))
    expect(code in (0, 2), f"exit {code}")
    state = is_right(scene, out, ("good", "poor"))
    expect(not old or state == "complete", "the old run is lost")
    if code == 2 and not old and state != "absent":
        status = load_run(out).info.status
        expect(status == "failed", f"status {status}")
    return "refused" if code == 2 else "room enough"


def change_json(rng: random.Random, value: Any) -> Any:
    """A JSON with one value replaced, removed or doubled somewhere inside."""
    strange = [None, 0, -1, 2**40, 1.5, "", "x", "\ud800", "\x1b[31m", [], {}, True, [1], {"a": 1}]
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        if rng.random() < 0.1:
            return {other: item for other, item in value.items() if other != key}
        return {**value, key: change_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], change_json(rng, value[place]), *value[place + 1 :]]
    if type(value) is int and rng.random() < 0.5:
        return value + rng.choice([-1, 1, 100])
    if isinstance(value, str) and rng.random() < 0.5:
        return value[::-1]
    return rng.choice(strange)


def change_bytes(rng: random.Random, content: bytes) -> bytes:
    """Content that is cut, flipped or doubled somewhere."""
    place = rng.randrange(max(1, len(content)))
    kind = rng.randrange(4)
    if kind == 0:
        return content[:place]
    if kind == 1 and content:
        return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]
    if kind == 2:
        return content + content[:place]
    return rng.randbytes(place + 1)


def command(*words: str | Path) -> tuple[int, str]:
    """`panbench …` in this process: the exit code and all that was printed."""
    from typer.testing import CliRunner

    from panbench.cli.app import app

    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout + result.stderr


def edited_record(scene: Scene, rng: random.Random, out: Path) -> str:
    """run.json is edited: a sentence, or the right numbers."""
    score_folder(scene.gt, scene.good, out=out, index=False)
    content = json.loads((out / "run.json").read_text("utf-8"))
    categories = content["categories"]
    for _ in range(rng.randrange(1, 3)):
        content = change_json(rng, content)
    (out / "run.json").write_text(json.dumps(content), "utf-8")
    seen = Counter[int]()
    for words in (
        ("compare", out, "--format", "json"),
        ("metrics", out, "--json"),
        ("runs", out.parent),
        ("verify", out),
    ):
        code, said = command(*words)
        expect(code in (0, 1, 2) and "fault of panbench" not in said, f"{words[0]} exits {code}: {said[-300:]}")
        expect(code != 1 or words[0] == "verify", f"{words[0]} exits 1: {said[-300:]}")
        seen[code] += 1
        if words[0] == "compare" and code == 0:
            (row,) = json.loads(said[: said.rindex("]") + 1])
            # With other categories the same segments have another PQ; that is what the table then says.
            alike = content.get("categories") == categories
            expect(
                not row["complete"] or not alike or row["PQ"] == scene.PQ["good"], f"a complete run of PQ {row['PQ']}"
            )
    return "refused" if seen[2] else "read"


def changed_part(scene: Scene, rng: random.Random, out: Path) -> str:
    """A part is lost, cut or flipped: the run is incomplete, and says so."""
    score_by_parts(scene, "good", out)
    part = rng.choice(sorted((out / "parts").iterdir()))
    before = part.read_bytes()
    if rng.random() < 0.2:
        part.unlink()
    else:
        part.write_bytes(change_bytes(rng, before))
    same = part.exists() and part.read_bytes() == before
    row = compare([load_run(out)])[0]
    expect(same or not row.complete, "a changed part was believed")
    expect(command("verify", out)[0] == (0 if same else 1), "verify did not see a changed part")
    return "incomplete" if not row.complete else "unchanged"


def changed_inputs(scene: Scene, rng: random.Random, out: Path) -> str:
    """A JSON or PNG of predictions is damaged before it is scored: a sentence, or a score; never our fault."""
    copy = out.parent / f"{out.name}-data"
    shutil.copytree(scene.root / "data", copy)
    victim = rng.choice([copy / "good.json", copy / "gt.json", copy / "good" / "3.png", copy / "gt" / "3.png"])
    victim.write_bytes(change_bytes(rng, victim.read_bytes()))
    code, said = command("score", "--gt", copy / "gt.json", "--pred", copy / "good.json", "--out", out)
    expect(code in (0, 2), f"score exits {code}: {said[-300:]}")
    return "refused" if code == 2 else "scored"


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
    )
}


def torture(seconds: float, seed: int, only_these: list[str] | None = None, rounds: int | None = None) -> Tally:
    """Rounds of the scenarios in turn until the time is over; what was broken is told, with the round's seed."""
    tally = Tally()
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="panbench-torture-") as folder, quiet():
        scene = make_scene(Path(folder))
        inputs = scene.inputs()
        names = only_these or list(SCENARIOS)
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
            for left in Path(folder).glob(f"{out.name}*"):
                shutil.rmtree(left)
    return tally


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


def main() -> None:
    """Runs a pass and prints its counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, help="so many of each scenario at most")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS))
    arguments = parser.parse_args()
    tally = torture(arguments.seconds, arguments.seed, arguments.only, arguments.rounds)
    print("| scenario | rounds | how they ended |\n| --- | ---: | --- |")
    for name, count in tally.rounds.items():
        ends = ", ".join(f"{end} {number}" for (of, end), number in sorted(tally.outcomes.items()) if of == name)
        print(f"| {name} | {count} | {ends} |")
    print(f"\n{sum(tally.rounds.values())} rounds, {len(tally.broken)} broken promises")
    print("\n".join(tally.broken))
    sys.exit(bool(tally.broken))


if __name__ == "__main__":
    main()
