"""Files from elsewhere that are damaged or hostile."""

import hashlib
import io
import os
import random
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panbench.base.errors import PanbenchError
from panbench.runs import load_run
from scripts.check.torturing.children import child, command, ended
from scripts.check.torturing.damage import change_bytes, flipped
from scripts.check.torturing.scene import Scene, expect
from scripts.check.torturing.tasks import TASKS


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


def changed_zip(scene: Scene, rng: random.Random, out: Path) -> str:
    """An archive is damaged: members come out as they were, or are refused."""
    from panbench.base.zips import ZipArchive

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


def lying_server(scene: Scene, rng: random.Random, out: Path) -> str:
    """A server cuts, flips, swaps and mislabels what it sends: a file is the right one, or it is refused."""
    from panbench.base.download import download
    from scripts.make.coco_mimic import Fault, FaultServer

    content, other = rng.randbytes(rng.randrange(1, 300_000)), rng.randbytes(1000)
    # Without a hash, only what contradicts itself can be noticed.
    with_hash = rng.random() < 0.7

    def fault() -> Fault:
        lies: list[dict[str, Any]] = [
            {"drop_after": rng.randrange(len(content))},
            {"length_off_by": rng.choice([-1, 1, 1000])},
            {"status": rng.choice([403, 404, 416, 429, 500, 503])},
            {"redirect": rng.choice(["/file.bin", "/elsewhere", "ftp://127.0.0.1/x", "//[", "/other.bin"])},
            {"ignore_range": True, "drop_after": rng.randrange(len(content))},
        ]
        if with_hash:
            lies += [
                {"flip_at": rng.randrange(len(content))},
                {"etag": f'"{rng.random()}"'},
                {"cut_file_at": rng.randrange(len(content))},
                {"stale": True, "etag": '"always the same"', "flip_at": rng.randrange(len(content))},
            ]
        else:
            lies[3] = {"redirect": "/elsewhere"}
        return Fault(**rng.choice(lies))

    with FaultServer({"/file.bin": content, "/other.bin": other}) as server:
        server.faults["/file.bin"] = [fault() if rng.random() < 0.7 else None for _ in range(rng.randrange(1, 8))]
        if rng.random() < 0.3:
            server.always["/file.bin"] = fault()
        states = []
        for _ in range(2):  # the same command again goes on with what arrived
            try:
                download(
                    f"{server.url}/file.bin",
                    out / "file.bin",
                    sha256=hashlib.sha256(content).hexdigest() if with_hash else None,
                    size=len(content) if rng.random() < 0.5 else None,
                    connections=rng.choice([1, 4]),
                    sleep=lambda seconds: None,
                )
                states.append("downloaded")
            except PanbenchError:
                states.append("refused")
            if (out / "file.bin").exists():
                expect((out / "file.bin").read_bytes() == content, "a server's lie got the name of the file")
                expect(states[-1] == "downloaded", "a download that was refused left a file")
    return states[-1]
