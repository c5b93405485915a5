"""Power cuts while a command writes."""

import random
from functools import partial
from pathlib import Path

from panbench.runs import finish_replacement
from scripts.check.power_cut import cuts
from scripts.check.torturing.scene import Scene, expect
from scripts.check.torturing.tasks import TASKS, do, files_of, go_on, state_of

# Whose files are synced before they get their names. (`predict` and `convert` write many PNGs that are not.)
DURABLE = ("eval", "score", "ensemble", "fuse", "merge", "export", "submit", "download", "report")
MOST_STATES = 12


def power_cut(scene: Scene, rng: random.Random, out: Path) -> str:
    """The power is cut at some step of a command: what has its final name is right, and the command goes on."""
    name = rng.choice(DURABLE)
    (out / "cut").mkdir(parents=True)
    log = out / "log"
    try:
        found = cuts(out / "cut", partial(do, scene, name, out / "cut", (), log), seed=rng.randrange(1 << 30))
    except RuntimeError:
        expect(False, f"{name} fails while it is watched: {log.read_text('utf-8') if log.exists() else 'no word'}")
    expect(len(found) > 5, f"{name} was seen to write only {len(found)} times")
    ends: set[str] = set()
    for number, left in enumerate(rng.sample(found, min(MOST_STATES, len(found)))):
        place = left.restore(out / f"after-{number}")
        target = place / TASKS[name].out
        if TASKS[name].run:
            finish_replacement(target)
        state = state_of(scene, name, place)
        if state == "complete" and TASKS[name].run:
            _has_right_predictions(scene, name, target)
        expect(not left.last or state == "complete", f"{name} had ended, and is {state} after a power cut")
        ends.add(state)
    go_on(scene, name, place)
    return f"{name} {', '.join(sorted(ends))}"


def _has_right_predictions(scene: Scene, name: str, run: Path) -> None:
    right = {file: digest for file, digest in scene.right[name].items() if file.endswith(".png")}
    found = {file: digest for file, digest in files_of(run).items() if file.endswith(".png")}
    expect(right == found, f"{name}: predictions that its parts claim are lost")
