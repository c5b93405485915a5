"""Makes build/first_use.md, a page of the documents' site: the first ten minutes of three people.

    python scripts/make/first_use.py --work /tmp/first-use

Clones this checkout into WORK with an empty home, installs it as the README says (`make install`; the settings of pip
come from PIP_… variables alone), and runs each visitor's commands on a terminal of 80 columns. Output is what a person
sees at the end of each command, with bars in their last state; where lines are left out, a line says so. Paths of this
machine are not shown: WORK is the home.
"""

import argparse
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

from panbench.base import provenance
from panbench.base.files import atomic_write

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "build" / "first_use.md"
COLUMNS = 80

INSTALL = "make install"
MINE = "--config mine/my_mask2former.py --checkpoint mine/my.safetensors"
PREDICTED = "results/first/maskformer-tiny/predictions.json"
TINY = "panoptic-fpn-tiny,maskformer-tiny,mask2former-tiny"


@dataclass(frozen=True)
class Step:
    """A command line. answer: what is typed when it asks; head, tail: the lines shown of a longer output; fails: 2 is
    the exit code; before: words above it.
    """

    line: str
    before: str = ""
    answer: str = ""
    head: int = 40
    tail: int = 12
    code: int = 0


@dataclass(frozen=True)
class Visit:
    """Who comes, and what they type."""

    title: str
    who: str
    steps: tuple[Step, ...]


SETS = ".cache/panbench/shapes/v1-128x160-seed0"

VISITS = (
    Visit(
        "A student reproduces tables",
        "Has read of Mask2Former, has a laptop without a GPU, and wants the numbers of the papers.",
        (
            Step(INSTALL, "Once, in the clone:", head=3, tail=0),
            Step("panbench --help", head=24, tail=11),
            Step("panbench models", head=18, tail=4),
            Step(
                "panbench eval --model mask2former",
                "The command of the README. It asks before it fetches anything; the answer here is no.",
                answer="n\n",
                code=2,
            ),
            Step(
                f"panbench eval --model {TINY} --limit 50 --out results/first --save-predictions",
                "Without a download: three small models on generated scenes.",
            ),
            Step("panbench compare results/first"),
            Step("panbench errors results/first/mask2former-tiny", head=16, tail=14),
            Step("panbench report results/first --out page.html"),
            Step("panbench runs"),
        ),
    ),
    Visit(
        "A researcher compares a model of her own",
        "Has a config and a checkpoint of MMDetection, and predictions of another framework as COCO panoptic JSON.",
        (
            Step(f"panbench eval {MINE}", code=2),
            Step(f"panbench eval {MINE} --data shapes --limit 50"),
            Step(
                f"panbench score --gt ~/{SETS}/annotations/panoptic_val.json --pred {PREDICTED}",
                "Predictions of 50 images against the ground truth of 200:",
                code=2,
            ),
            Step(
                f"panbench score --gt mine/gt50.json --pred {PREDICTED} --gt-dir mine --out results/other",
                "And with the folder of PNGs forgotten:",
                code=2,
            ),
            Step(
                f"panbench score --gt mine/gt50.json --pred {PREDICTED} "
                f"--gt-dir ~/{SETS}/annotations/panoptic_val --out results/other"
            ),
            Step("panbench compare results/first results/shapes-my_mask2former", head=60),
            Step("panbench compare results/first/mask2former-tiny results/shapes-my_mask2former"),
            Step("panbench compare results/first --out table.tex", "For the paper, in LaTeX:"),
        ),
    ),
    Visit(
        "An engineer chooses by speed and memory",
        "Has photographs, a budget of memory, and must pick a model.",
        (
            Step("panbench doctor", head=24, tail=12),
            Step(f"panbench bench --model {TINY} --size 240x320 --count 10"),
            Step(
                "panbench bench --model mask2former-tiny --images photos --precision fp32,bf16 --count 10",
                "Her own photographs:",
            ),
            Step("panbench eval --model mask2former-tiny --images photos --out results/photos"),
            Step("panbench predict photos/000000000003.png --model mask2former-tiny"),
            Step("panbench show plot speed results/first --out speed.png"),
        ),
    ),
)


def main() -> None:
    """Runs all visits and writes the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder for the clone and the home; kept")
    parser.add_argument("--out", type=Path, default=DOCUMENT)
    parser.add_argument("--keep", action="store_true", help="go on with a clone that is installed already")
    arguments = parser.parse_args()
    home = arguments.work.resolve()
    clone = home / "panbench"
    if not arguments.keep:
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    else:
        shutil.rmtree(home / ".cache" / "panbench", ignore_errors=True)
        for name in ("results", "mine", "photos", "predictions"):
            shutil.rmtree(clone / name, ignore_errors=True)
        subprocess.run(["git", "-C", str(clone), "checkout", "-q", "--", "."], check=True)
        subprocess.run(["git", "-C", str(clone), "pull", "-q"], check=True)
    pages = [
        "# The first ten minutes",
        "",
        "What three people see who clone panbench and follow the README. Made by",
        "`python scripts/make/first_use.py`, which runs the commands in a fresh clone with an empty home folder, on a",
        "terminal of 80 columns; nothing was typed by hand. `[… N lines]` stands where lines are left out.",
        f"{time.strftime('%Y-%m-%d')}, {provenance.cpu_name()}, {os.cpu_count()} cores, no network but pip's.",
        "Speeds are those of this machine on that day; docs/benchmarks.md says how they are measured.",
        "",
    ]
    for visit in VISITS:
        pages += [f"## {visit.title}", "", visit.who, ""]
        for step in visit.steps:
            prepare(home, clone)
            began = time.perf_counter()
            kept = home / "install.json"
            if step.line == INSTALL and kept.exists():
                code, lines = 0, json.loads(kept.read_text("utf-8"))
            else:
                code, lines = run(step, home, clone)
            if step.line == INSTALL and code == 0:
                kept.write_text(json.dumps(lines), "utf-8")
            print(f"{time.perf_counter() - began:6.1f} s  {step.line}", file=sys.stderr, flush=True)
            if code != step.code:
                print("\n".join(lines), file=sys.stderr)
                sys.exit(f"{step.line} ended with {code}, not {step.code}.")
            if step.before:
                pages += [step.before, ""]
            shown = [line.replace(str(clone), "~/panbench").replace(str(home), "~") for line in lines]
            if len(shown) > step.head + step.tail + 3:
                left_out = len(shown) - step.head - step.tail
                shown = [*shown[: step.head], f"[… {left_out} lines]", *shown[len(shown) - step.tail :]]
            pages += ["```console", f"~/panbench$ {step.line}", *shown, "```", ""]
            if step.code:
                pages += [f"Exit code {step.code}.", ""]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(arguments.out, "w") as handle:
        handle.write("\n".join(pages).rstrip() + "\n")


def prepare(home: Path, clone: Path) -> None:
    """What a visitor brings along, made of what is there by then: a config, weights, photographs, ground truth."""
    mine, photos, drawn = clone / "mine", clone / "photos", home / SETS
    if not mine.exists():
        mine.mkdir()
        config = (clone / "configs" / "mask2former-tiny.py").read_text("utf-8")
        config = re.sub(r"panbench = \{.*?\n\}\n", "", config, flags=re.S)
        (mine / "my_mask2former.py").write_text(config.replace("./_shapes.py", "../configs/_shapes.py"), "utf-8")
        shutil.copy(clone / "configs" / "weights" / "mask2former-tiny.safetensors", mine / "my.safetensors")
    if drawn.exists() and not photos.exists():
        photos.mkdir()
        for path in sorted((drawn / "val").iterdir())[:10]:
            shutil.copy(path, photos)
    if drawn.exists() and not (mine / "gt50.json").exists():
        content = json.loads((drawn / "annotations" / "panoptic_val.json").read_bytes())
        content["images"] = content["images"][:50]
        known = {image["id"] for image in content["images"]}
        content["annotations"] = [one for one in content["annotations"] if one["image_id"] in known]
        (mine / "gt50.json").write_text(json.dumps(content))


def run(step: Step, home: Path, clone: Path) -> tuple[int, list[str]]:
    """Exit code and screen of a command line in the clone."""
    master, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment |= {
        "HOME": str(home),
        "PATH": f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
    }
    process = subprocess.Popen(
        ["sh", "-c", step.line],
        stdin=terminal if step.answer else subprocess.DEVNULL,
        stdout=terminal,
        stderr=terminal,
        cwd=clone,
        env=environment,
        start_new_session=True,
    )
    os.close(terminal)
    seen, answer = b"", step.answer.encode()
    while True:
        if select.select([master], [], [], 0.1)[0]:
            try:
                read = os.read(master, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not read:
                break
            seen += read
            if answer and b"] " in seen[-10:]:
                os.write(master, answer)
                answer = b""
    code = process.wait()
    os.close(master)
    return code, list(screen(seen.decode("utf-8", "replace")))


CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b\][^\x07]*\x07|\x1b[()][A-Z0-9]|\x1b[=>]")


def screen(text: str) -> Iterator[str]:
    """The lines that a terminal of COLUMNS shows after `text`, without colours."""
    lines, row, column, place = [""], 0, 0, 0
    while place < len(text):
        found = CONTROL.match(text, place)
        if found:
            place = found.end()
            number = int(found[1]) if found[1] and found[1].isdigit() else None
            if found[2] == "A":
                row = max(0, row - (number or 1))
            elif found[2] == "K":
                lines[row] = "" if number == 2 else lines[row][:column]
            continue
        sign, place = text[place], place + 1
        if sign == "\n":
            row += 1
        elif sign == "\r":
            column = 0
        elif sign >= " ":
            if column == COLUMNS:
                row, column = row + 1, 0
            while row >= len(lines):
                lines.append("")
            lines[row] = lines[row].ljust(column)[:column] + sign + lines[row][column + 1 :]
            column += 1
        while row >= len(lines):
            lines.append("")
    while lines and not lines[-1].strip():
        lines.pop()
    return (line.rstrip() for line in lines)


if __name__ == "__main__":
    main()
