"""A hook of mkdocs: the pages of the site that are made, and links that leave docs/.

README becomes the first page, CHANGELOG and CONTRIBUTING pages of their own; the commands' reference is made from the
commands themselves, the Python reference lists what `panbench.__all__` does.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "build" / "demo.html"
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Makes the demo's report where `make demo` has run, and leaves its page out of the navigation elsewhere."""
    if not DEMO.is_file() and (ROOT / "results" / "demo").is_dir():
        from panbench.report.answers.tables import find_runs
        from panbench.report.pages.page.document import write_report

        DEMO.parent.mkdir(exist_ok=True)
        write_report(find_runs([ROOT / "results" / "demo"]), DEMO)
    if not DEMO.is_file():
        start = next(section["Start"] for section in config["nav"] if "Start" in section)
        start[:] = [page for page in start if not isinstance(page, dict)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages to those of docs/."""
    from mkdocs.structure.files import File

    for name, content in generated_pages(config["repo_url"] or "").items():
        if name != "demo.md" or DEMO.is_file():
            files.append(File.generated(config, name, content=content))
    if DEMO.is_file():
        files.append(File.generated(config, "report/demo.html", abs_src_path=str(DEMO)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turns links to files outside of docs/ into the repository's addresses."""
    if page.file.generated_by:
        return markdown
    return outward(markdown, Path("docs") / Path(page.file.src_uri).parent, config["repo_url"] or "")


def generated_pages(repository: str) -> dict[str, str]:
    """The text of each generated page, by its file's name in the site."""
    moved = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
    pages = {name: outward((ROOT / file).read_text("utf-8"), Path(), repository) for name, file in moved.items()}
    return {
        **pages,
        "commands.md": commands_page(),
        "python.md": python_page(),
        "demo.md": demo_page(),
        "examples.md": examples_page(),
    }


def examples_page() -> str:
    """The tests that show how panbench is used, as they stand."""
    pages = ["# Examples", "", "Each runs as a test, as it stands here (tests/examples).", ""]
    for file in sorted((ROOT / "tests" / "examples").glob("test_*.py")):
        code = file.read_text("utf-8")
        summary = code.split('"""')[1]
        pages += [
            f"## {summary.split(':')[0].rstrip('.')}",
            "",
            f'```python title="{file.name}"',
            code.rstrip(),
            "```",
            "",
        ]
    return "\n".join(pages)


def demo_page() -> str:
    """Where the site has the report of `make demo`."""
    leads = "[Open the report](report/demo.html): one file, as `panbench report results/demo` makes it."
    return f"# The demo's report\n\nThree small models on the generated scenes of `make demo`. {leads}\n"


def outward(markdown: str, folder: Path, repository: str) -> str:
    """A document's Markdown with links as the site has them: below docs/ relative to it, elsewhere the repository's.

    folder: that of the document, relative to the repository; links are resolved from there
    repository: its address; without one such links become their text
    """

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = Path(*_resolved(folder / target))
        if path.parts[:1] == ("docs",):
            below = path.relative_to("docs").as_posix()
            inside = folder.parts[:1] == ("docs",)
            return match[0] if inside else f"[{text}]({below}{anchor})"
        names = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
        if path.as_posix() in names:
            return f"[{text}]({names[path.as_posix()]}{anchor})"
        if not repository:
            return text
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{text}]({repository}/{kind}/main/{path.as_posix()}{anchor})"

    return _LINK.sub(link, markdown)


def _resolved(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return parts


def python_page() -> str:
    """The Python reference: an entry for each public name, which mkdocstrings fills from its docstring."""
    import panbench

    public = sorted(name for name in panbench.__all__ if not name.startswith("_"))
    entries = "".join(
        f"::: {panbench._HOMES[name]}.{name}\n    options: {{heading: panbench.{name}, toc_label: panbench.{name}}}\n\n"
        for name in public
    )
    return f"# Python\n\nWhat a program may build on. [From Python](api.md) shows it at work.\n\n{entries}"


def itemised(docstring: str) -> str:
    """A docstring's Markdown with its lines "name: meaning" as a list; further lines of one are indented in it."""
    lines: list[str] = []
    for line in docstring.split("\n"):
        if re.match(r"[a-z_]\w*(, [a-z_]\w*)*: ", line):
            if lines and lines[-1].strip() and not lines[-1].startswith(("- ", "  ")):
                lines.append("")
            name, meaning = line.split(": ", 1)
            lines.append(f"- `{name}`: {meaning}")
        else:
            lines.append(line)
    return "\n".join(lines)


try:
    from griffe import Extension
except ImportError:  # only the site needs it
    Extension = object  # type: ignore[assignment, misc]


class Docstrings(Extension):  # type: ignore[misc]
    """Reads panbench's docstrings for mkdocstrings: what follows the first sentence is a list of arguments."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called for each module, class and function that is read."""
        if obj.docstring is not None:
            obj.docstring.value = itemised(obj.docstring.value)


def commands_page() -> str:
    """The commands' reference: usage, what it does, and every option, as `--help` has them."""
    import typer

    from panbench.cli.app import app

    program = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        "What `panbench --help` and `panbench COMMAND --help` print. Results go to stdout, progress and notes to",
        "stderr. Exit codes: 0 done, 1 a model failed, 2 bad input (one sentence says what), 3 and 4 verdicts of",
        "`gate`, 130 interrupted.",
        "",
    ]
    for words, command in _commands(program, ("panbench",)):
        lines += _described(words, command)
    return "\n".join(lines) + "\n"


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    context = group.make_context(" ".join(words), [], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.commands[name]
        if command is None or command.hidden:
            continue
        yield (*words, name), command
        if hasattr(command, "list_commands"):
            yield from _commands(command, (*words, name))


def _described(words: tuple[str, ...], command: Any) -> Iterator[str]:
    yield f"{'#' * len(words)} {' '.join(words)}"
    yield ""
    yield _prose(command.help)
    yield ""
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    panels: dict[str, list[Any]] = {}
    for param in shown:
        kind = "Arguments" if param.param_type_name == "argument" else "Options"
        panels.setdefault(getattr(param, "rich_help_panel", None) or kind, []).append(param)
    for panel, params in panels.items():
        yield f"| {panel} | |"
        yield "| --- | --- |"
        for param in params:
            yield f"| {_names(param)} | {_cell(getattr(param, 'help', None))} |"
        yield ""
    if getattr(command, "epilog", None):
        yield f"```text\n{command.epilog.strip()}\n```"
        yield ""


def _names(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.metavar or param.name.upper()}`"
    names = [*param.opts, *param.secondary_opts]
    value = "" if param.is_flag else f" {param.metavar or param.name.upper()}"
    return ", ".join(f"`{name}{value}`" if name.startswith("--") else f"`{name}`" for name in sorted(names, key=len))


def _prose(text: str | None) -> str:
    return re.sub(r"[\b\f]\n?", "", text or "").strip()


def _cell(text: str | None) -> str:
    return " ".join(_prose(text).split()).replace("|", "\\|").replace("<", "&lt;")
