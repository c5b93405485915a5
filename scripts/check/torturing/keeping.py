"""What a user keeps beside and in runs, and what studies read of them: deleted, renamed, damaged and served."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

from panbench.base.errors import PanbenchError
from panbench.report.answers.tables import comparison_rows
from panbench.runs import load_run
from panbench.scoring.folder import score_folder
from scripts.check.torturing.children import child, command, ended
from scripts.check.torturing.damage import change_bytes, change_json
from scripts.check.torturing.scene import KEPT, Scene, expect, pq_of, score_by_parts, with_kept

Contents = dict[str, bytes | None]


def contents(path: Path) -> Contents:
    """The bytes of all below a path by name; of links and folders, None."""
    return {
        str(one.relative_to(path)): one.read_bytes() if one.is_file() and not one.is_symlink() else None
        for one in sorted(path.rglob("*"))
    }


def names_of_users(scene: Scene, rng: random.Random, out: Path) -> str:
    """X.old and X.new are runs of the user's: X is scored, replaced, resumed, renamed and deleted, and they stay."""
    out.mkdir()
    here: dict[str, str] = {}
    for _ in range(rng.randrange(4, 9)):
        before = {name: contents(out / name) for name in here}
        name, which = rng.choice(["a", "a.old", "a.new"]), rng.choice(["good", "poor"])
        act = rng.choice(["score", "score", "overwrite", "resume", "delete", "move", "read"])
        changed = _act(scene, act, name, which, out, here, rng)
        for other, files in before.items():
            expect(other == changed or contents(out / other) == files, f"{act} of {name} changed {other}")
        for other, quality in here.items():
            (row,) = comparison_rows([load_run(out / other)])
            expect(row.complete and row.PQ == scene.PQ[quality], f"{act} of {name}: {other} is no longer {quality}")
    left = {path.name for path in out.iterdir()}
    expect(left == set(here), f"{sorted(left)} are left of {sorted(here)}")
    return f"{len(here)} runs in the end"


def _act(
    scene: Scene, act: str, name: str, which: str, out: Path, here: dict[str, str], rng: random.Random
) -> str | None:
    """Does something to a run, and writes down in `here` what is there then; the run that may have changed."""
    if act == "read":
        words = rng.choice([("compare", str(out / name)), ("runs", str(out)), ("runs", "verify", str(out / name))])
        code, said = command(*words)
        expect(code in (0, 2), f"{words[0]} exits {code}: {said[-300:]}")
        return None
    if act == "delete":
        code, said = command("runs", "delete", out / name, "--yes")
        expect(code == (0 if name in here else 2), f"delete of {name} exits {code}: {said[-300:]}")
        here.pop(name, None)
        return name
    if act == "move":
        to = rng.choice(["a", "a.old", "a.new"])
        if name in here and to not in here:
            os.rename(out / name, out / to)
            here[to] = here.pop(name)
        return name
    flags = {"score": (), "overwrite": ("--overwrite",), "resume": ("--resume",)}[act]
    source = {"good": scene.good, "poor": scene.poor}[which]
    code, said = command("score", "--gt", scene.gt, "--pred", source, "--out", out / name, *flags)
    refused = name in here and (act == "score" or (act == "resume" and here[name] != which))
    expect(code == (2 if refused else 0), f"{act} of {name} exits {code}: {said[-300:]}")
    if not refused:
        here[name] = which
    return None if refused else name


def deleted_runs(scene: Scene, rng: random.Random, out: Path) -> str:
    """A run is deleted, and that is killed at a random moment: its files go, the user's and other runs' stay."""
    run, other = out / "run", out / "other"
    shutil.copytree(with_kept(scene) / KEPT[0], run)
    shutil.copytree(with_kept(scene) / KEPT[1], other)
    before = contents(other)
    own = {name for name, content in contents(run).items() if content is not None}
    mine = rng.sample(["notes.md", "predictions/figure.png", "parts/table.csv", "candidates/readme", "mine/x.txt"], 3)
    for name in mine:
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(f"mine: {name}")
    linked = rng.random() < 0.5
    if linked:
        folder = rng.choice(["parts", "predictions", "candidates"])
        (run / f"{folder}/linked").symlink_to(other / folder)
    pid = child(partial(_command_in_child, "runs", "delete", run, "--yes"))
    if killed := rng.random() < 0.7:
        time.sleep(rng.uniform(0, 0.1))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    code = ended(pid)
    expect(code == 0 or (killed and code == -signal.SIGKILL), f"runs delete exits {code}")
    half = (run / "run.json").exists()
    if half:
        code, said = command("runs", "delete", run, "--yes")
        expect(code == 0, f"a removal that was killed cannot be gone on with: {code}: {said[-300:]}")
    left = {name for name, content in contents(run).items() if content is not None}
    expect(not left & own, f"{sorted(left & own)[:3]} of the run are left")
    expect(left == set(mine), f"the user's files are {sorted(left)}, not {sorted(mine)}")
    expect(contents(other) == before, "another run was changed")
    return "killed, then deleted" if half else "deleted"


def _command_in_child(*words: str | Path) -> None:
    code, _ = command(*words)
    if code:
        raise SystemExit(code)


def changed_kept_file(scene: Scene, rng: random.Random, out: Path) -> str:
    """Predictions, candidates or their hashes are damaged: what is made of them is refused, or as it was."""
    victim_run, whole = out / KEPT[0], with_kept(scene) / KEPT[0]
    shutil.copytree(whole, victim_run)
    kinds = {
        "predictions": sorted((victim_run / "predictions").glob("*.png")),
        "predictions.json": [victim_run / "predictions.json"],
        "candidates": sorted((victim_run / "candidates").glob("*.arrow")),
    }
    kind = rng.choice(list(kinds))
    victim = rng.choice(kinds[kind])
    before = victim.read_bytes()
    if kind == "predictions.json" and rng.random() < 0.5:
        victim.write_text(json.dumps(change_json(rng, json.loads(before))), "utf-8")
    else:
        victim.write_bytes(change_bytes(rng, before))
    same = victim.read_bytes() == before
    code, said = command("runs", "verify", victim_run)
    expect(code == (0 if same else 1), f"verify exits {code} on changed {kind}: {said[-300:]}")
    refused = 0
    for name, words in (
        ("votes", ("ensemble", "RUN", str(with_kept(scene) / KEPT[1]), "--way", "votes")),
        ("masks", ("ensemble", "RUN", str(with_kept(scene) / KEPT[1]), "--way", "masks")),
        ("fuse", ("fuse", "RUN", "--rule", "maskformer")),
    ):
        right = _made_of(scene, name, words, whole, scene.root / "made")
        expect(right is not None, f"{name} of an unchanged run is refused")
        found = _made_of(scene, name, words, victim_run, out)
        refused += found is None
        expect(found in (None, right), f"{name} of changed {kind} has PQ {found}, not {right}")
    return f"{kind} {'unchanged' if same else 'refused' if refused else 'not read'}"


def _made_of(scene: Scene, name: str, words: tuple[str, ...], run: Path, out: Path) -> float | None:
    """The PQ of what a command makes of a run; None where it refuses. Of the unchanged run it is made once."""
    target = out / f"{name}-run"
    if not target.exists():
        code, said = command(*(str(run) if word == "RUN" else word for word in words), "--out", target, "-q")
        expect(code in (0, 2), f"{name} exits {code}: {said[-300:]}")
        if code:
            return None
    return pq_of(load_run(target))


def judged_damaged(scene: Scene, rng: random.Random, out: Path) -> str:
    """A run lost a part, or one changed: gate refuses it, and whatever is made of it names the part."""
    in_parts = rng.random() < 0.5
    for name, which, source in (("run", "good", scene.good), ("base", "poor", scene.poor)):
        if in_parts:
            score_by_parts(scene, which, out / name)
        else:
            score_folder(scene.gt, source, out=out / name)
    harmed = rng.choice(["run", "base"])
    part = rng.choice(sorted((out / harmed / "parts").iterdir()))
    before = part.read_bytes()
    if rng.random() < 0.3:
        part.unlink()
    else:
        part.write_bytes(change_bytes(rng, before))
    same = part.exists() and part.read_bytes() == before
    flags = rng.sample(["--common-images", "--strict", "--json"], rng.randrange(4))
    code, said = command("gate", out / "run", "--baseline", out / "base", *flags)
    expect(code == 2 or same, f"gate {' '.join(flags)} exits {code} on a damaged {harmed}: {said[-300:]}")
    expect(same or part.name in said, f"gate does not name the part: {said[-300:]}")
    name, *words = rng.choice(
        [
            ("metrics", "RUN", "--json"),
            ("errors", "RUN"),
            ("export", "parquet", "RUN", "--out", str(out / "made")),
            ("report", "RUN", "--out", str(out / "page.html")),
            ("site", "RUN", "--out", str(out / "site")),
            ("compare", "RUN"),
        ]
    )
    code, said = command(name, *(str(out / harmed) if word == "RUN" else word for word in words))
    expect(code in (0, 2), f"{name} exits {code}: {said[-300:]}")
    told = part.name in said or "incomplete" in said or str(out / harmed) in said
    expect(same or told, f"{name} says nothing of the damage: {said[-300:]}")
    return f"{name} {'unchanged' if same else 'refused' if code else 'told'}"


def served_runs(scene: Scene, rng: random.Random, out: Path) -> str:
    """Runs are served while they are replaced, damaged and deleted: an answer or a sentence, nothing from outside."""
    from starlette.testclient import TestClient

    from panbench.report.pages.live.library import Library
    from panbench.report.pages.live.server import application

    for name, source in (("good", scene.good), ("poor", scene.poor)):
        score_folder(scene.gt, source, out=out / "results" / name)
    (out / "secret.txt").write_text("a secret of the user")
    seen: dict[int, int] = {}
    with TestClient(application(Library(out / "results")), "http://127.0.0.1", raise_server_exceptions=False) as client:
        for _ in range(6):
            if rng.random() < 0.5:
                _disturb(scene, rng, out)
            address = rng.choice(_ADDRESSES)
            answer = client.get(address)
            expect(answer.status_code in (200, 400, 404, 405), f"{address} answers {answer.status_code}")
            expect("a secret of the user" not in answer.text, f"{address} shows a file from outside")
            expect("Traceback" not in answer.text, f"{address} shows a traceback")
            seen[answer.status_code] = seen.get(answer.status_code, 0) + 1
    return "answered" if seen.get(200) else "refused"


_ADDRESSES = (
    "/",
    "/",
    "/compare?run=good",
    "/compare?run=good&run=poor",
    "/compare?run=poor&run=good&common=1",
    "/api/find?run=good",
    "/api/find?run=good&sort=x&limit=-1",
    "/api/example?run=good&image=3",
    "/api/example?run=good&image=99999999999999999999",
    "/compare?run=../secret.txt",
    "/compare?run=" + "%00" * 3,
    "/api/example?run=linked&image=1",
    "/..%2f..%2fsecret.txt",
)


def _disturb(scene: Scene, rng: random.Random, out: Path) -> None:
    """Does something to the runs that are served."""
    results = out / "results"
    act = rng.choice(["replace", "delete", "damage", "edit", "link"])
    if act == "replace":
        # A run that was damaged meanwhile is not replaced.
        with contextlib.suppress(PanbenchError):
            replaced = (results / "good").exists()
            score_folder(scene.gt, scene.poor, out=results / "good", overwrite=replaced)
    elif act == "delete":
        shutil.rmtree(results / "poor", ignore_errors=True)
    elif act == "link":
        with contextlib.suppress(FileExistsError):
            (results / "linked").symlink_to(scene.root / "data")
        with contextlib.suppress(OSError):
            (results / "good" / "predictions.json").symlink_to(out / "secret.txt")
    else:
        place = results / "good" / ("run.json" if act == "edit" else "parts/0000-000000.parquet")
        if place.exists():
            place.write_bytes(change_bytes(rng, place.read_bytes()))
