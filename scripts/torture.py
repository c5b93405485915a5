#!/usr/bin/env python3
"""Treats stored runs badly, at random, and checks that nothing of the user's is lost and no number changes unsaid.

    scripts/torture.py                     five minutes, then a table of what was done
    scripts/torture.py --seconds 1200 --document      a long pass, for docs/reliability.md
    scripts/torture.py --seed 7 --only kill_overwriting

Everything happens in a temporary folder; what is downloaded comes from 127.0.0.1. A child process is bounded in memory
and time. Full and read-only disks are a small tmpfs where this process may mount one; else files are bounded by the
system's limit, and folders lose their permission to be written. Exit 1 and a line for each broken promise, with the
seed of its round: `--only SCENARIO --seed S --rounds 1` does it again.
"""

import argparse
import contextlib
import dataclasses
import errno
import hashlib
import http.server
import io
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from panbench.base.errors import BadRun, PanbenchError
from panbench.cli.signals import interrupted_by_signals
from panbench.panoptic.coco import write_id_png, write_panoptic_json
from panbench.panoptic.types import Annotation, Category, ImageInfo, PanopticSet, Segment
from panbench.report.answers.tables import comparison_rows
from panbench.runs import Run, RunWriter, finish_replacement, load_run
from panbench.scoring.folder import score_folder

# Ids that COCO has, so that they can be submitted.
CATEGORIES = (Category(1, "ball", True), Category(2, "box", True), Category(92, "sky", False))
IMAGES = 12
PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- counts: made by scripts/torture.py --document -->", "<!-- /counts -->"
CHILD_MEMORY = 8 << 30
CHILD_SECONDS = 120

LITTLE_MODEL = """
    import numpy as np

    def make():
        def segment(rgb):
            # Six colours, one a segment, as the scenes are painted.
            ids = np.clip((rgb[..., 0].astype(int) + 20) // 40, 0, 6).astype(np.int32)
            found = [int(one) for one in np.unique(ids) if one]
            return ids, [{"id": one, "category_id": (1, 2, 92)[one % 3], "score": 0.5} for one in found]

        segment.categories = [
            {"id": 1, "name": "ball", "isthing": 1},
            {"id": 2, "name": "box", "isthing": 1},
            {"id": 92, "name": "sky", "isthing": 0},
        ]
        return segment
"""
"""A model of ten lines, for `eval` and `predict`: it reads the segments off the photographs' colours."""


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
    url: str = ""
    """Where `data/` is served."""
    took: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    right: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of each task: seconds, bytes written, and what it wrote, when nothing happened to it."""

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
                Segment(int(one), CATEGORIES[int(one) % 3].id, int((found == one).sum()))
                for one in np.unique(found[found > 0])
            )
            write_id_png(data / name / f"{number}.png", found)
            infos[number] = ImageInfo(number, f"{number}.jpg", *found.shape)
            annotations[number] = Annotation(number, f"{number}.png", segments)
        paths[name] = data / f"{name}.json"
        write_panoptic_json(paths[name], PanopticSet(CATEGORIES, infos, annotations, data / name, paths[name]))
    for number, ids in enumerate(maps, 1):
        (data / "photographs").mkdir(exist_ok=True)
        grey = np.repeat((40 * ids).astype(np.uint8)[..., None], 3, axis=2)
        cv2.imwrite(str(data / "photographs" / f"{number}.jpg"), grey, [cv2.IMWRITE_JPEG_QUALITY, 98])
    (data / "weights.bin").write_bytes(rng.bytes(3_000_000))
    (root / "little_model.py").write_text(textwrap.dedent(LITTLE_MODEL))
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
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
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
    row = comparison_rows([load_run(path)])[0]
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
    with contextlib.suppress(BadRun):
        finish_replacement(out)  # killed between its renames
    row = comparison_rows([load_run(out)])[0]
    expect(row.complete, "neither the old nor the new run is whole")
    which = next((name for name in ("poor", "good") if row.PQ == scene.PQ[name]), None)
    expect(which is not None, f"PQ {row.PQ} is of neither run")
    RunWriter.resume(out).close()
    kept = [place for place in (out, out.with_name(f".{out.name}.panbench-old")) if (place / "notes.md").exists()]
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
        ("runs", "verify", out),
    ):
        code, said = command(*words)
        expect(code in (0, 1, 2) and "fault of panbench" not in said, f"{words[0]} exits {code}: {said[-300:]}")
        expect(code != 1 or "verify" in words, f"{words[0]} exits 1: {said[-300:]}")
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
    row = comparison_rows([load_run(out)])[0]
    expect(same or not row.complete, "a changed part was believed")
    expect(command("runs", "verify", out)[0] == (0 if same else 1), "verify did not see a changed part")
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


@dataclass(frozen=True)
class Task:
    """A command that writes.

    words: its arguments, with `OUT`; again: what is added to go on after it was cut short
    out: what OUT is called; run: whether it is a run, whose number must be right, else files that must be the same
    """

    words: tuple[str, ...]
    again: tuple[str, ...] = ()
    out: str = "out"
    run: bool = False


TASKS: dict[str, Task] = {
    "eval": Task(
        ("eval", "-m", "little_model:make", "--images", "photographs", "--gt", "gt.json", "--out", "OUT", "-q"),
        ("--resume",),
        run=True,
    ),
    "score": Task(("score", "--gt", "gt.json", "--pred", "good.json", "--out", "OUT"), ("--resume",), run=True),
    "convert": Task(
        tuple(
            "data convert panoptic good.json --categories categories.json --images photographs --place copy "
            "--out OUT".split()
        ),
        ("--overwrite",),
    ),
    "predict": Task(
        ("predict", "photographs/1.jpg", "photographs/2.jpg", "-m", "little_model:make", "--dpi", "20", "--out", "OUT"),
        ("--overwrite",),
    ),
    "report": Task(("report", "../poor-run", "--out", "OUT"), out="page.html"),
    "submit": Task(
        ("export", "coco-server", "good.json", "--testset", "val2017", "--image-list", "gt.json", "--out", "OUT"),
        ("--overwrite",),
        out="submission.zip",
    ),
    "download": Task((), out="weights.bin"),
}


def do(scene: Scene, name: str, out: Path, further: tuple[str, ...] = (), log: Path | None = None) -> None:
    """Does a task in this process; raises SystemExit with its exit code when that is not 0."""
    task = TASKS[name]
    target = out / task.out
    if name == "download":
        from panbench.base.download import download

        right = hashlib.sha256((scene.root / "data" / "weights.bin").read_bytes()).hexdigest()
        download(f"{scene.url}/weights.bin", target, sha256=right, sleep=lambda seconds: None)
        return
    os.chdir(scene.root / "data")
    code, said = command(*(str(target) if word == "OUT" else word for word in (*task.words, *further)))
    if log is not None:
        log.write_text(said, "utf-8")
    if code:
        sys.exit(code)


def files_of(path: Path) -> dict[str, str]:
    """The SHA-256 of each file that a task wrote; members of a zip by name. Pictures and pages count by being whole."""
    found: dict[str, str] = {}
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        relative = file.relative_to(path).as_posix()
        if not file.is_file() or any(part.startswith(".") for part in file.relative_to(path).parts):
            continue
        content = file.read_bytes()
        if file.suffix == ".zip":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                found |= {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}
        elif file.suffix == ".html":
            found[relative] = f"whole {content.rstrip().endswith(b'</html>')}"
        elif relative.endswith(".overlay.png"):
            found[relative] = f"whole {cv2.imdecode(np.frombuffer(content, np.uint8), 1) is not None}"
        elif not relative.endswith(".part"):
            found[relative] = hashlib.sha256(content).hexdigest()
    return found


def state_of(scene: Scene, name: str, out: Path) -> str:
    """What a task left: absent, begun or complete. What has its final name must be right."""
    task, target = TASKS[name], out / TASKS[name].out
    if task.run:
        state = is_right(scene, target, (name if name == "eval" else "good",))
        return {"incomplete": "begun"}.get(state, state)
    right, found = scene.right[name], files_of(target) if target.exists() else {}
    for file, digest in found.items():
        expect(right.get(file) == digest, f"{name} left {file}, which is not what it writes")
    return "absent" if not found else "complete" if found == right else "begun"


def go_on(scene: Scene, name: str, out: Path) -> None:
    """The command again, as its documentation says: it must end, and what it leaves must be right."""
    task, target = TASKS[name], out / TASKS[name].out
    there = target.exists() and (not task.run or (target / "run.json").exists())
    log = out / ".log"
    code = ended(child(partial(do, scene, name, out, task.again if there else (), log)))
    expect(code == 0, f"{name} cannot be gone on with: exit {code}: {log.read_text() if log.exists() else ''}")
    expect(state_of(scene, name, out) == "complete", f"{name} is {state_of(scene, name, out)} after it went on")


def kill_command(scene: Scene, rng: random.Random, out: Path) -> str:
    """A command is killed at a random moment and done again: no torn file has a final name, and the end is the same."""
    name = rng.choice(list(TASKS))
    number = rng.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
    out.mkdir()
    pid = child(partial(do, scene, name, out))
    time.sleep(rng.uniform(0, 1.1 * scene.took[name]))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    code = ended(pid)
    expect(code in (0, 129, 130, 143, -number), f"{name}: exit {code} after {number!r}")
    state = state_of(scene, name, out)
    go_on(scene, name, out)
    return f"{name} {state}"


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """`folder` as a disk of `size` bytes; False where that needs rights that this process lacks."""
    folder.mkdir(exist_ok=True)
    mounted = False
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount"):
        told = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
        )
        mounted = told.returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def remounted(folder: Path, options: str) -> None:
    """Changes the options of a disk that `small_disk` made."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def bounded(work: Callable[[], None], size: int) -> None:
    """Does `work` where no file can grow beyond `size` bytes."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    work()


def full_disk_command(scene: Scene, rng: random.Random, out: Path) -> str:
    """A command writes to a disk that gets full at a random moment; with room it goes on, and the end is the same."""
    name = rng.choice(list(TASKS))
    size = 4096 * (1 + int(rng.uniform(0, 1.1 * scene.bytes[name]) / 4096))
    log = out.parent / f"{out.name}.log"
    with small_disk(out, size) as mounted:
        work = partial(do, scene, name, out, (), log)
        code = ended(child(work if mounted else partial(bounded, work, size)))
        said = log.read_text() if log.exists() else ""
        log.unlink(missing_ok=True)
        expect(code in (0, 2), f"{name} on a full disk: exit {code}: {said[-400:]}")
        expect("fault of panbench" not in said, f"{name} on a full disk: {said[-400:]}")
        state = state_of(scene, name, out)
        expect(code != 0 or state == "complete", f"{name} exits 0 on a full disk and is {state}")
        if TASKS[name].run and state == "begun" and (out / "out" / "run.json").exists():
            status = load_run(out / "out").info.status
            expect(status == "failed", f"{name} on a full disk leaves the status {status}")
        if mounted:
            remounted(out, "size=256m")
        go_on(scene, name, out)
    return f"{name} {'refused' if code else 'room enough'}"


def read_only_disk(scene: Scene, rng: random.Random, out: Path) -> str:
    """A command is to write where nothing can be written, at first or beside a result of its own: one sentence."""
    name = rng.choice(list(TASKS))
    log = out.parent / f"{out.name}.log"
    with small_disk(out, 256 << 20) as mounted:
        if not mounted and (not hasattr(os, "geteuid") or os.geteuid() == 0):
            return "not tried"
        old = rng.random() < 0.5
        if old:
            do_in_child(scene, name, out)
        before = files_of(out)
        if mounted:
            remounted(out, "ro")
        else:
            out.chmod(0o500)
        further = ("--overwrite",) if old and name not in ("report", "download") else ()
        code = ended(child(partial(do, scene, name, out, further, log)))
        said = log.read_text() if log.exists() else ""
        log.unlink(missing_ok=True)
        # A download that is there already is done.
        expect(code == (0 if old and name == "download" else 2), f"{name}, read-only: exit {code}: {said[-400:]}")
        expect("fault of panbench" not in said, f"{name}, read-only: {said[-400:]}")
        if mounted:
            remounted(out, "rw")
        else:
            out.chmod(0o700)
        expect(files_of(out) == before, f"{name} changed files on a read-only disk")
    return f"{name} refused" if code else f"{name} there already"


def do_in_child(scene: Scene, name: str, out: Path) -> None:
    """Does a task, which must succeed."""
    code = ended(child(partial(do, scene, name, out)))
    expect(code == 0, f"{name}: exit {code}")


def two_commands(scene: Scene, rng: random.Random, out: Path) -> str:
    """Two of the same command write one place: what is there in the end is whole, and of one of them."""
    name = rng.choice(list(TASKS))
    out.mkdir()
    pids = []
    for number in range(2):
        pids.append(child(partial(do, scene, name, out, (), out / f".log{number}")))
        time.sleep(rng.uniform(0, 0.2 * scene.took[name]))
    codes = [ended(pid) for pid in pids]
    said = " ".join(log.read_text()[-200:] for log in sorted(out.glob(".log*")))
    expect(set(codes) <= {0, 2} and 0 in codes, f"two of {name}: exits {codes}: {said}")
    state = state_of(scene, name, out)
    expect(state == "complete", f"two of {name}: {state}")
    return f"{name} {'both' if codes == [0, 0] else 'one refused'}"


def changed_photograph(scene: Scene, rng: random.Random, out: Path) -> str:
    """A photograph is damaged: refused, or skipped when that is asked for; where libjpeg hears it, never scored."""
    from panbench.panoptic.photo import _warning_of_libjpeg

    copy = out.parent / f"{out.name}-data"
    shutil.copytree(scene.root / "data", copy)
    victim = copy / "photographs" / "3.jpg"
    before = victim.read_bytes()
    after = change_bytes(rng, before) if rng.random() < 0.5 else flipped(rng, before)
    victim.write_bytes(after)
    skip = ("--skip-bad-images",) if rng.random() < 0.5 else ()
    log = out.parent / f"{out.name}.log"

    def work() -> None:
        os.chdir(copy)
        words = [str(out) if word == "OUT" else word for word in TASKS["eval"].words]
        code, said = command(*words, *skip)
        log.write_text(said, "utf-8")
        if code:
            sys.exit(code)

    code = ended(child(work))
    said = log.read_text() if log.exists() else ""
    log.unlink(missing_ok=True)
    expect(code in (0, 2), f"eval exits {code}: {said[-400:]}")
    if code == 2:
        expect("3.jpg" in said, f"the damaged photograph is not named: {said[-300:]}")
        return "refused"
    info = load_run(out).info
    if info.images.skipped:
        return "skipped"
    heard = _warning_of_libjpeg(after, "GRAY")
    pixels = [np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), 1)) for content in (before, after)]
    same = np.array_equal(pixels[0], pixels[1])
    expect(same or not heard.startswith("Corrupt JPEG"), f"scored although libjpeg says {heard!r}")
    here = Path.cwd()
    os.chdir(copy)
    try:
        expect(command("runs", "verify", out)[0] == 0, "verify does not know the file that was read")
        victim.write_bytes(before)
        expect(
            after == before or command("runs", "verify", out)[0] == 1,
            "verify does not see that the file is another now",
        )
    finally:
        os.chdir(here)
    return "scored" if same else "scored, unheard by libjpeg"


def flipped(rng: random.Random, content: bytes) -> bytes:
    """Content with one bit changed in its second half, where a JPEG has its pixels."""
    place = rng.randrange(len(content) // 2, len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def changed_zip(scene: Scene, rng: random.Random, out: Path) -> str:
    """An archive is damaged: members come out as they were, or are refused."""
    from panbench.datasets.zips import ZipArchive

    members = {f"set/{number}.bin": rng.randbytes(rng.randrange(1, 2000)) for number in range(5)}
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as written:
        for name, content in members.items():
            written.writestr(name, content)
    content = change_bytes(rng, handle.getvalue())

    class Bytes:
        def size(self) -> int:
            return len(content)

        def read(self, start: int, stop: int) -> bytes:
            return content[start:stop]

    try:
        archive = ZipArchive(Bytes(), "archive.zip")
        archive.extract(archive.members.values(), lambda member: out / member.name)
    except PanbenchError:
        ended_as = "refused"
    else:
        ended_as = "unpacked"
    inside = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for name, found_content in inside.items():
        if not Path(name).name.startswith("."):
            expect(found_content in members.values(), f"a damaged archive gave a damaged {name}")
    return ended_as


def changed_checkpoint(scene: Scene, rng: random.Random, out: Path) -> str:
    """A checkpoint is damaged, or carries code: refused in a sentence or read as it was; its code never runs."""
    import torch

    from panbench.models.checkpoints import load_checkpoint

    out.mkdir()
    ran = out / "ran"
    state = {f"layer{number}.weight": torch.arange(60.0).reshape(3, 20) + number for number in range(4)}
    hostile = rng.random() < 0.3
    torch.save({"state_dict": state, "meta": {"note": _Payload(str(ran)) if hostile else "plain"}}, out / "weights.pth")
    content = (out / "weights.pth").read_bytes()
    if not hostile or rng.random() < 0.5:
        content = change_bytes(rng, content)
    (out / "weights.pth").write_bytes(content)
    log = out / "log"

    def work() -> None:
        try:
            found = load_checkpoint(out / "weights.pth").state_dict
        except PanbenchError as problem:
            log.write_text(str(problem), "utf-8")
            raise
        for name, tensor in found.items():
            if name not in state or not torch.equal(tensor, state[name]):
                log.write_text(f"{name} differs", "utf-8")
                sys.exit(3)

    code = ended(child(work))
    expect(not ran.exists(), "the code of a checkpoint ran")
    expect(code in (0, 2), f"a damaged checkpoint: exit {code}: {log.read_text() if log.exists() else ''}")
    return "refused" if code else "read"


class _Payload:
    """What a hostile checkpoint holds: unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address under which a folder is served on this machine, with ranges cut off at random."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, directory=str(folder), **options)

        def log_message(self, *arguments: Any) -> None:
            pass

        def do_GET(self) -> None:
            """Whole files and ranges of them, a little at a time, so that a kill meets them half way."""
            path = folder / self.path.lstrip("/")
            content = path.read_bytes()
            first, last = 0, len(content) - 1
            asked = self.headers.get("Range", "")
            if asked.startswith("bytes="):
                low, _, high = asked.removeprefix("bytes=").partition("-")
                first, last = int(low), min(int(high or last), last)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", '"weights"')
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            with contextlib.suppress(OSError):
                for start in range(first, last + 1, 1 << 16):
                    self.wfile.write(content[start : min(start + (1 << 16), last + 1)])

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


def with_tasks(scene: Scene, url: str) -> Scene:
    """The scene, and what each task writes and how long that takes when nothing happens to it."""
    categories = [{"id": one.id, "name": one.name, "isthing": int(one.isthing)} for one in CATEGORIES]
    (scene.root / "data" / "categories.json").write_text(json.dumps(categories))
    score_folder(scene.gt, scene.poor, out=scene.root / "poor-run", index=False)
    scene = dataclasses.replace(scene, url=url)
    for name, task in TASKS.items():
        place = scene.root / f"unbroken-{name}"
        place.mkdir()
        log = place / ".log"
        began = time.monotonic()
        code = ended(child(partial(do, scene, name, place, (), log)))
        scene.took[name] = time.monotonic() - began
        expect(code == 0, f"{name}: exit {code}: {log.read_text() if log.exists() else ''}")
        scene.bytes[name] = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        scene.right[name] = files_of(place / task.out)
        if name == "eval":
            scene.PQ["eval"] = pq_of(load_run(place / task.out))
    return scene


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
    )
}


def torture(seconds: float, seed: int, only_these: list[str] | None = None, rounds: int | None = None) -> Tally:
    """Rounds of the scenarios in turn until the time is over; what was broken is told, with the round's seed."""
    tally = Tally()
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="panbench-torture-"))
        stack.enter_context(quiet())
        stack.enter_context(importable(folder))
        scene = make_scene(Path(folder))
        scene = with_tasks(scene, stack.enter_context(served(Path(folder) / "data")))
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
    try:
        yield
    finally:
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
    """The counts as Markdown: what each scenario is, how often it ran, and how its rounds ended."""
    lines = ["| what happens | rounds | how they ended |", "| --- | ---: | --- |"]
    for name, count in tally.rounds.items():
        title = (SCENARIOS[name].__doc__ or name).splitlines()[0].rstrip(".")
        ends = ", ".join(f"{end} {number}" for (of, end), number in sorted(tally.outcomes.items()) if of == name)
        lines.append(f"| {title} (`{name}`) | {count:,} | {ends} |")
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
        f"`scripts/torture.py --seconds {arguments.seconds:g} --seed {arguments.seed}` on {date.today():%Y-%m-%d}, "
        f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} cores: {total}, "
        f"{len(tally.broken) or 'no'} broken promise{'s' * (len(tally.broken) > 1)}.\n\n{table(tally)}"
    )
    print(told)
    print("\n".join(tally.broken))
    if arguments.document:
        PAGE.write_text(documented(PAGE.read_text("utf-8"), told), "utf-8")
    sys.exit(bool(tally.broken))


if __name__ == "__main__":
    main()
