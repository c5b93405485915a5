"""Every command line that a document shows is one that panbench takes; those that need only `shapes` run."""

import itertools
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from support import ran

from panbench.base.computing import split_precision
from panbench.catalog import resolve_models
from panbench.cli.app import app
from panbench.metrics.slices import SLICINGS

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    file
    for pattern in ("*.md", "docs/*.md", "data/*.md", "results/*.md", "notebooks/*.ipynb", ".github/**/*.yml")
    for file in ROOT.glob(pattern)
)
# A shell's line: at the beginning of an indented or fenced line, or after `run:` in a workflow.
BLOCK = re.compile(r"^(?: {4,}|\t|)(?:\$ |run: )?(?:\.venv/bin/)?(panbench(?: .*)?)$")
# A transcript's, behind a prompt.
PROMPT = re.compile(r"^\S*\$ (panbench(?: .*)?)$")
# A notebook's: panbench("…"), its text in one piece or several.
CALL = re.compile(r"""^ *panbench\(\s*((?:f?"[^"\n]*"\s*)+)\)""", re.MULTILINE)
INLINE = re.compile(r"`(panbench\s[^`]*)`")
# In `RUN…`, `--model A,B` and `--limit N` the capitals stand for something.
PLACEHOLDER = re.compile(r"[A-Z][A-Z,]*|…|\.\.\.")


@dataclass(frozen=True)
class Line:
    """A command line of a document. `whole`: given to be typed as it stands, not in the middle of a sentence."""

    file: str
    number: int
    text: str
    whole: bool

    @property
    def words(self) -> list[str]:
        """The arguments, as a shell would split them, without what only a reader needs."""
        text = re.sub(r"\s#\s.*", "", self.text)  # a comment
        text = re.sub(r"\[(-[^\]]*)\]", r"\1", text)  # [--an-option that may be given]
        text = re.sub(r"\b([\w-]+)(\|[\w-]+)+", r"\1", text)  # one|of|several
        for value, variable in (
            ("", "limit"),
            ("", "many"),
            ("fp32", "precision"),
            ("mask2former", "model"),
            ("7", r"\w*IMAGES"),
            ("x", ".*?"),
        ):
            text = re.sub(rf"\{{{variable}\}}", value, text)  # the notebook's
        words = [word.rstrip("…") if len(word) > 1 else word for word in shlex.split(text)[1:]]
        # After an option `…` is its value, elsewhere it is "and so on".
        words = ["X" if word == "…" and before.startswith("--") else word for before, word in _with_before(words)]
        return [word for word in words if word not in ("…", "...", "")]


def _with_before(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(["", *words], words, strict=False))


def lines_of(file: Path) -> list[Line]:
    name = file.relative_to(ROOT).as_posix()
    if file.suffix == ".ipynb":
        cells = json.loads(file.read_text("utf-8"))["cells"]
        text = "\n".join("".join(cell["source"]) + "\n" for cell in cells)
    else:
        text = file.read_text("utf-8")
    # One numbering for both: a line that goes on after a backslash counts where it begins.
    joined = re.sub(r"\\\n\s*", " ", text)
    found = []
    for match in CALL.finditer(joined) if file.suffix == ".ipynb" else ():
        pieces = "".join(re.findall(r'f?"([^"]*)"', match[1]))
        found.append(Line(name, joined.count("\n", 0, match.start()) + 1, f"panbench {pieces}", True))
    fenced, language = False, ""
    for number, line in enumerate(joined.split("\n"), start=1):
        if line.startswith("```"):
            fenced, language = not fenced, line[3:]
        if fenced and language == "console":
            # A transcript: commands have a prompt, the rest is what they print. It was run when it was made.
            if match := PROMPT.match(line):
                found.append(Line(name, number, match[1], False))
            continue
        match = BLOCK.match(line)
        is_code = fenced or line.startswith((" ", "\t", "$"))
        if match and is_code and file.suffix != ".ipynb" and not match[1].startswith("panbench ="):
            found.append(Line(name, number, match[1], True))
    for match in INLINE.finditer(joined):
        number = joined.count("\n", 0, match.start()) + 1
        found.append(Line(name, number, " ".join(match[1].split()), False))
    return found


COMMAND = typer.main.get_command(app)
LINES = [line for file in DOCUMENTS for line in lines_of(file)]


def check(line: Line) -> None:
    """Parses a line by the real commands; raises AssertionError with what they would say."""
    command, context, words = COMMAND, None, line.words
    name = "panbench"
    while True:
        group = getattr(command, "commands", None)
        if group is None or not words or words[0].startswith("-"):
            break
        if PLACEHOLDER.fullmatch(words[0]):
            return
        assert words[0] in group, f"there is no command `{name} {words[0]}`"
        context = command.make_context(name, list(words), parent=context, resilient_parsing=True)
        name, command, words = words[0], group[words[0]], words[1:]
    if not words and not line.whole:  # a sentence names a command
        return
    words = ["1" if word == "N" else word for word in words]
    if words and words[0] in ("--help", "-h", "--version", "-V"):  # they end the program where they are read
        return
    try:
        made = command.make_context(name, list(words), parent=context)
    except Exception as problem:
        message = problem.format_message() if hasattr(problem, "format_message") else repr(problem)
        # `panbench eval --limit N` in a sentence need not name the model.
        if line.whole or not re.search("Missing|requires an argument", message):
            raise AssertionError(message) from problem
        return
    _check_values(made.params)


def _check_values(values: dict[str, object]) -> None:
    """What is looked up only when the command runs: models, slices, precisions."""
    for name in ("model", "models"):
        given = values.get(name) or []
        given = [given] if isinstance(given, str) else given
        for several in given:
            if re.match(r"[./]|hf:|.*:", str(several)):  # a folder, a hub's address, a Python name
                continue
            resolve_models(
                [part for part in str(several).split(",") if not PLACEHOLDER.fullmatch(part)] or ["mask2former"]
            )
    by = values.get("by") or []
    for slicing in [by] if isinstance(by, str) else by:
        assert PLACEHOLDER.fullmatch(slicing) or slicing in SLICINGS, f"--by {slicing}"
    way = str(values.get("way") or "auto")
    assert PLACEHOLDER.fullmatch(way) or way in ("auto", "masks", "votes"), f"--way {way}"
    for kind in str(values.get("precision") or "fp32").split(","):
        assert kind == "KIND" or split_precision(kind), f"--precision {kind}"


def test_many_command_lines_are_found_in_documents():
    assert len([line for line in LINES if line.whole]) > 25
    assert {"README.md", "docs/report.md", "notebooks/panbench_colab.ipynb"} <= {line.file for line in LINES}


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.file}:{line.number}")
def test_each_command_line_in_documents_is_valid(line):
    check(line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("panbench evaluate --model mask2former", "there is no command `panbench evaluate`"),
        ("panbench eval --model mask2former --batches 2", "No such option"),
        ("panbench compare results/a --format html", "is not one of"),
        ("panbench score --pred a.json", "Missing option"),
        ("panbench compare results/a --by colour", "--by colour"),
    ],
)
def test_an_invalid_command_line_would_be_found(text, message):
    with pytest.raises(AssertionError, match=message):
        check(Line("x.md", 1, text, True))


# The lines that need nothing but `shapes` and what other such lines made of it.

IMAGES = "1,2,3,5,105"


def needs_only_shapes(line: Line) -> bool:
    words = line.words
    if not line.whole or "--download" in words or words[0] in ("bench", "predict"):
        return False
    if words[0] == "eval":
        return "shapes" in words and "{" not in line.text
    paths = [word for word in words[1:] if word.startswith("results/")]
    return bool(paths) and all(path.startswith("results/demo") for path in paths)


def test_some_command_lines_need_no_data_but_shapes():
    assert len([line for line in LINES if needs_only_shapes(line)]) >= 8


@pytest.mark.slow
def test_command_lines_that_need_no_data_but_shapes_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = set()
    for line in LINES:
        if not needs_only_shapes(line):
            continue
        words = line.words
        # Models in another order and options in another are the same line.
        said = frozenset(frozenset(word.split(",")) for word in words)
        if said in run:
            continue
        run.add(said)
        if words[0] == "eval":
            # Some of the 200 scenes, among them those that other lines name.
            words += ["--limit", IMAGES, "--overwrite"]
        ran(*words)
        for option, word in itertools.pairwise(words):
            if option == "--out":
                assert (tmp_path / word).exists(), f"{line.file}:{line.number}: {word} was not written"
