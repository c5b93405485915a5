"""Who may import whom, held against docs/design.md, and that nothing but a model loads torch."""

import ast
import functools
import re
from pathlib import Path

import pytest
from little_runs import finished as finished_run
from support import parsed, python

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "panbench"
TORCH = {"torch", "torchvision", "mmdet", "mmengine", "mmcv"}
STUDIES = PACKAGE / "studies"
# Folders inside a room, the lower one first: one imports only those before it.
FOLDERS = {"report": ("answers", "figures", "pages"), "evaluation": ("", "stored", "tools")}
# Rooms that only join others: the package's face, and what starts the command line.
FACES = {"__init__", "__main__"}


def layers() -> dict[str, int]:
    """The layer of each room (a module or a folder), as docs/design.md numbers them under "Rooms"."""
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    section = design.split("## Rooms")[1].split("\n## ")[0]
    return {room: int(layer) for layer, room in re.findall(r"^ {4}(\d+)  (\w+)(?:\.py|/)\s", section, re.MULTILINE)}


def rooms_with_torch() -> set[str]:
    """The rooms that the sentence "`torch` and `mmdet` are imported by … alone" names."""
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    (named,) = re.findall(r"`torch` and `mmdet` are imported by(.*?)alone", design, re.DOTALL)
    rooms = {name.strip("/").removesuffix(".py") for name in re.findall(r"`(.*?)`", named)}
    assert "models" in rooms
    return rooms


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imports_of(path: Path) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Each import of a module, and whether it is only for types (under `if TYPE_CHECKING`)."""
    found: list[tuple[ast.Import | ast.ImportFrom, bool]] = []

    def visit(node: ast.AST, for_types: bool) -> None:
        # Expressions, most of a tree, hold no statements.
        if isinstance(node, ast.expr):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, True)
            for child in node.orelse:
                visit(child, for_types)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append((node, for_types))
        for child in ast.iter_child_nodes(node):
            visit(child, for_types)

    visit(parsed(path), False)
    return found


@functools.cache
def imported(path: Path) -> list[tuple[str, int, bool]]:
    """What a module imports: dotted name, line, and whether only for types (under `if TYPE_CHECKING`)."""
    found = []
    for node, for_types in imports_of(path):
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, for_types) for alias in node.names)
            continue
        assert node.level == 0, f"{path}:{node.lineno}: import by the full name, `from panbench…`"
        names = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "panbench" else [node.module]
        found.extend((name or "", node.lineno, for_types) for name in names)
    found.extend((name, line, False) for name, line in by_name(parsed(path)))
    return found


def by_name(tree: ast.Module) -> list[tuple[str, int]]:
    """The modules of ours that `importlib.import_module` is given as a literal, with their lines."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args]
    given = [
        (call.args[0], call.lineno) for call in calls if ast.unparse(call.func).rpartition(".")[2] == "import_module"
    ]
    words = [(node.value, line) for node, line in given if isinstance(node, ast.Constant)]
    return [(word, line) for word, line in words if isinstance(word, str) and word.split(".")[0] == "panbench"]


def test_imports_by_a_name_in_a_string_are_found():
    text = "import importlib\nimportlib.import_module('panbench.base.zips')\nimport_module(name)\n"
    assert by_name(ast.parse(text)) == [("panbench.base.zips", 2)]
    assert by_name(parsed(PACKAGE / "evaluation" / "tools" / "doctor.py")), "or the check looks at nothing"


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "_configs")


def test_every_module_has_a_room_in_the_design():
    assert {room_of(path) for path in MODULES} - FACES == set(layers())


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The groups of files that import one another, directly or through others."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        waiting = list(edges[start])
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting.extend(edges.get(name, ()))
        return found

    beyond = {name: reached(name) for name in edges}
    groups = {tuple(sorted(other for other in beyond[name] if name in beyond[other])) for name in edges}
    return [list(group) for group in sorted(groups) if group]


def test_no_files_import_each_other_in_a_circle():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in MODULES}
    # A package's __init__ gathers what its files have; a file that needs one of its siblings names that file.
    edges = {
        name: {target for target in targets_of(path, names) if target != name}
        for name, path in names.items()
        if path.name != "__init__.py"
    }
    assert circles(edges) == []


def targets_of(path: Path, names: dict[str, Path]) -> set[str]:
    """The files of panbench that a file imports, also for types only."""
    found = set()
    for node, _ in imports_of(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {name if (name := f"{node.module}.{alias.name}") in names else node.module for alias in node.names}
    return {name for name in found if name in names and names[name].name != "__init__.py"}


def test_few_modules_are_outside_rooms():
    assert len(list(PACKAGE.glob("*.py"))) <= 6


def test_a_module_imports_only_rooms_of_lower_layers():
    layer = layers()
    wrong = []
    for path in MODULES:
        room = room_of(path)
        if room in FACES:
            continue
        for name, line, for_types in imported(path):
            target = name.split(".")[1] if name.startswith("panbench.") else room
            if target in FACES or target.startswith("__") or target == room:
                continue
            if target not in layer:
                wrong.append(f"{path}:{line} imports {name}, which has no room in docs/design.md")
            # Naming a type binds nothing at run time; imports of studies have a test of their own.
            elif not for_types and target != "studies" and layer[target] >= layer[room]:
                wrong.append(f"{path}:{line}: {room} imports {target}, which is not below it")
    assert not wrong, "\n".join(wrong)


def of_studies():
    """Each import of a study: the module, its own study ("" in the core), the study that it imports, the line."""
    for path in MODULES:
        relative = path.relative_to(PACKAGE)
        own = relative.parts[1] if room_of(path) == "studies" and len(relative.parts) > 2 else ""
        for name, line, _ in imported(path):
            if name.startswith("panbench.studies."):
                yield relative.as_posix(), own, name.split(".")[2], line


def test_the_core_imports_no_study_and_no_study_another():
    wrong = [f"{path}:{line} imports the study {study}" for path, own, study, line in of_studies() if study != own]
    assert not wrong, "\n".join(wrong)


def test_every_study_has_tests_and_a_line_in_the_design():
    design = (ROOT / "docs" / "design.md").read_text("utf-8")
    (lines,) = re.findall(r"^ {4}9  studies/ +(.*?)\n\n", design, re.MULTILINE | re.DOTALL)
    line = " ".join(lines.split())
    studies = {path.parent.name for path in STUDIES.glob("*/__init__.py")}
    assert studies <= {words.split()[0] for words in line.split(" · ")}
    assert studies <= {path.parent.name for path in (ROOT / "tests" / "studies").glob("*/test_*.py")}


def test_folders_inside_a_room_import_only_lower_ones():
    wrong = []
    for path in MODULES:
        order = FOLDERS.get(room_of(path))
        if order is None:
            continue
        parts = path.relative_to(PACKAGE).parts
        own = parts[1] if len(parts) > 2 else ""
        for name, line, for_types in imported(path):
            words = name.split(".")
            if for_types or words[:2] != ["panbench", parts[0]]:
                continue
            other = words[2] if len(words) > 2 and (PACKAGE / parts[0] / words[2]).is_dir() else ""
            if order.index(other) > order.index(own):
                wrong.append(f"{path}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_only_the_rooms_that_run_models_import_torch():
    allowed = rooms_with_torch()
    wrong = [
        f"{path}:{line} imports {name}"
        for path in MODULES
        if not {room_of(path), path.relative_to(PACKAGE).with_suffix("").as_posix()} & allowed
        for name, line, for_types in imported(path)
        if not for_types and name.split(".")[0] in TORCH
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_torch_dynamo():
    named = [
        (path.name, name) for path in PACKAGE.rglob("*.py") for name, _, for_types in imported(path) if not for_types
    ]
    assert [(path, name) for path, name in named if name.startswith("torch._dynamo")] == []


BLOCK_TORCH = f"""
import sys
for name in {sorted(TORCH)!r}:
    sys.modules[name] = None
from panbench.cli.app import main
sys.argv[0] = "panbench"
main()
"""


def run_without_torch(*arguments: str | Path, cwd: Path | None = None, nor: tuple[str, ...] = ()):
    """`panbench …` in a process where importing torch or mmdet fails. nor: what else cannot be imported."""
    program = f"import sys; sys.modules.update(dict.fromkeys({nor!r})){BLOCK_TORCH}"
    return python("-c", program, *arguments, cwd=cwd)


@pytest.mark.parametrize(
    "arguments", ["--help", "--version", "models", "eval --help", "score --help", "compare --help"]
)
def test_help_and_lists_need_no_torch(arguments):
    """Nor what tables of runs need, which takes 0.8 s to import."""
    finished = run_without_torch(*arguments.split(), nor=("pandas", "scipy"))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout


def test_help_of_the_program_imports_no_command_and_nothing_large():
    program = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from panbench.cli.app import main\n"
        "try:\n    main()\nfinally:\n    print(*sorted(sys.modules), file=sys.stderr)"
    )
    finished = python("-c", program, cwd=ROOT)
    assert "Usage:" in finished.stdout
    loaded = set(finished.stderr.split())
    assert "panbench.base.studies" in loaded
    assert not {"panbench.cli.eval", "panbench.cli.compare", "panbench.evaluation.options"} & loaded
    assert not {"numpy", "cv2", "httpx", "jinja2", "pandas", "pyarrow", "torch"} & loaded


def test_scoring_and_comparing_need_no_torch(tmp_path):
    reference = ROOT / "tests" / "reference" / "pq_edges"
    score = ["score", "--gt", reference / "gt.json", "--pred", reference / "pred.json", "--out", tmp_path / "run"]
    scored = run_without_torch(*score)
    assert scored.returncode == 0, scored.stderr
    compared = run_without_torch("compare", tmp_path / "run", "--format", "csv")
    assert compared.returncode == 0, compared.stderr
    assert compared.stdout.startswith("run,model,dataset")


def test_comparing_loads_no_templates(tmp_path):
    run = finished_run(tmp_path / "run", 1, 2)
    program = "import sys; sys.modules['jinja2'] = None; from panbench.cli.app import main; main()"
    compared = python("-c", program, "compare", run, cwd=ROOT)
    assert compared.returncode == 0, compared.stderr
    assert "PQ" in compared.stdout


def test_a_model_without_torch_is_refused_in_one_sentence(tmp_path):
    finished = run_without_torch("eval", "--model", "panoptic-fpn-tiny", "--limit", "1", cwd=tmp_path)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert "not installed. Install the packages that run models with: pip install -e" in finished.stderr
