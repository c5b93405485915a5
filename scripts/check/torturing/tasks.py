"""Commands that write: each can be killed, done on a full disk and by two at once, and has one right result."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import os
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panbench.runs import load_run
from panbench.scoring.folder import score_folder
from scripts.check.torturing.children import child, command, ended
from scripts.check.torturing.scene import CATEGORIES, Scene, expect, is_right, pq_of, with_kept


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
    "ensemble": Task(
        ("ensemble", "../good-run", "../poor-run", "--way", "votes", "--out", "OUT", "-q"), ("--resume",), run=True
    ),
    "fuse": Task(
        ("fuse", "../kept/maskformer-tiny", "--rule", "mask2former", "--out", "OUT", "-q"), ("--resume",), run=True
    ),
    "merge": Task(("runs", "merge", "../shards/1", "../shards/2", "--out", "OUT"), ("--overwrite",), run=True),
    "export": Task(("export", "parquet", "../good-run", "--out", "OUT"), ("--overwrite",)),
    "site": Task(("site", "../good-run", "../poor-run", "--examples", "2", "--out", "OUT"), out="site"),
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
        state = is_right(scene, target, (name,))
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


def do_in_child(scene: Scene, name: str, out: Path) -> None:
    """Does a task, which must succeed."""
    code = ended(child(partial(do, scene, name, out)))
    expect(code == 0, f"{name}: exit {code}")


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
    for which, predictions in (("good", scene.good), ("poor", scene.poor)):
        score_folder(scene.gt, predictions, out=scene.root / f"{which}-run")
    for number in (1, 2):
        shard = scene.root / "shards" / str(number)
        code, said = command("score", "--gt", scene.gt, "--pred", scene.good, "--shard", f"{number}/2", "--out", shard)
        expect(code == 0, said)
    with_kept(scene)
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
        if task.run:
            scene.PQ[name] = pq_of(load_run(place / task.out))
    expect(scene.PQ["score"] == scene.PQ["merge"] == scene.PQ["good"], f"the tasks' PQ differ: {scene.PQ}")
    return scene
