"""Any command that writes: killed, without room, without rights, and two at once."""

import contextlib
import os
import random
import signal
import time
from functools import partial
from pathlib import Path

from panbench.runs import load_run
from scripts.check.torturing.children import bounded, child, ended, remounted, small_disk
from scripts.check.torturing.scene import Scene, expect
from scripts.check.torturing.tasks import TASKS, do, do_in_child, files_of, go_on, state_of


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
