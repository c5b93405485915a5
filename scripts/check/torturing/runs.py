"""Runs that are written, replaced and changed."""

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

from panbench.base.errors import BadRun
from panbench.report.answers.tables import comparison_rows
from panbench.runs import RunWriter, finish_replacement, load_run
from panbench.scoring.folder import score_folder
from scripts.check.torturing.children import child, command, ended
from scripts.check.torturing.damage import change_bytes, change_json
from scripts.check.torturing.scene import Scene, expect, is_right, only, pq_of, score_by_parts


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
    score_folder(scene.gt, scene.poor, out=out)
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
        score_folder(scene.gt, scene.poor, out=out)

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


def edited_record(scene: Scene, rng: random.Random, out: Path) -> str:
    """run.json is edited: a sentence, or the right numbers."""
    score_folder(scene.gt, scene.good, out=out)
    content = json.loads((out / "run.json").read_text("utf-8"))
    categories = content["categories"]
    if rng.random() < 0.3:
        content["summary"][rng.choice(["All", "Things", "Stuff"])][rng.choice(["PQ", "SQ", "RQ"])] = rng.random()
    else:
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
