"""A hook of mkdocs: the pages of the site that are made, and links that leave docs/.

README becomes the first page, CHANGELOG and CONTRIBUTING pages of their own; the commands' reference is made from the
commands themselves, the Python reference lists what `panbench.__all__` does.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.make import run_json
from scripts.make.markdown_tables import table

ROOT = Path(__file__).resolve().parents[2]

DEMO = ROOT / "build" / "demo.html"
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Adds the commands' pages to the navigation.

    Makes the demo's report where `make demo` has run, and leaves its page out of the navigation elsewhere.
    """
    if not DEMO.is_file() and (ROOT / "results" / "demo").is_dir():
        from panbench.report.answers.tables import find_runs
        from panbench.report.pages.page.document import write_report

        DEMO.parent.mkdir(exist_ok=True)
        write_report(find_runs([ROOT / "results" / "demo"]), DEMO)
    sections = {name: pages for section in config["nav"] for name, pages in section.items()}
    if not DEMO.is_file():
        sections["Start"][:] = [page for page in sections["Start"] if not isinstance(page, dict)]
    reference = sections["Reference"]
    place = reference.index({"Commands": "commands.md"})
    reference[place] = {"Commands": ["commands.md", *(name for name in command_pages() if name != "commands.md")]}
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
    """Returns the text of each generated page, by its file name in the site."""
    moved = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
    pages = {name: outward((ROOT / file).read_text("utf-8"), Path(), repository) for name, file in moved.items()}
    return {
        **pages,
        **command_pages(),
        "python.md": python_page(),
        "run_json.md": run_json.page(),
        "demo.md": demo_page(),
        "examples.md": examples_page(),
    }


def examples_page() -> str:
    """Returns the page with the example tests."""
    pages = ["# Examples", "", "Each runs as a test, as it stands here (tests/examples).", ""]
    for file in sorted((ROOT / "tests" / "examples").glob("test_*.py")):
        code = file.read_text("utf-8")
        title = code.split('"""')[1].split(":")[0].rstrip(".")
        pages += [f"## {title}", "", f'```python title="{file.name}"', code.rstrip(), "```", ""]
    return "\n".join(pages)


def demo_page() -> str:
    """Returns the path of the report of `make demo` in the site."""
    leads = "[Open the report](report/demo.html): one file, as `panbench report results/demo` makes it."
    return f"# The demo's report\n\nThree small models on the generated scenes of `make demo`. {leads}\n"


def outward(markdown: str, folder: Path, repository: str) -> str:
    """Rewrites the links of a document for the site: relative within docs/, else to the repository.

    folder: that of the document, relative to the repository; links are resolved from there
    repository: its address; without one such links become their text
    """

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = Path(os.path.normpath(folder / target))
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


def python_page() -> str:
    """Returns the Python reference: an entry per public name, which mkdocstrings fills from its docstring."""
    import panbench

    public = sorted(name for name in panbench.__all__ if not name.startswith("_"))
    entries = "".join(
        f"::: {panbench._HOMES[name]}.{name}\n    options: {{heading: panbench.{name}, toc_label: panbench.{name}}}\n\n"
        for name in public
    )
    return f"# Python\n\nWhat a program may build on. [From Python](api.md) shows it at work.\n\n{entries}"


def itemised(docstring: str) -> str:
    """Converts the lines "name: meaning" of a docstring to a Markdown list; continuation lines are indented."""
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
    """Converts panbench's docstrings for mkdocstrings: after the first sentence, arguments become a list."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Converts the docstring of each module, class and function."""
        if obj.docstring is not None:
            obj.docstring.value = itemised(obj.docstring.value)


def command_pages() -> dict[str, str]:
    """Returns the list of commands, and a page per command with its options as in `--help`."""
    import typer

    from panbench.cli.app import app

    pages: dict[str, list[str]] = {}
    rows = []
    for words, command in _commands(typer.main.get_command(app), ("panbench",)):
        name = words[1]
        if len(words) == 2:
            rows.append(
                (f"[`{name}`](commands/{name}.md)", _help_text(command.help).split("\n\n")[0].replace("\n", " "))
            )
        pages.setdefault(f"commands/{name}.md", []).extend(_command_section(words, command))
    text = (
        "Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 1 a model failed, 2 bad input (one "
        "sentence says what), 3 and 4 verdicts of `gate`, 130 interrupted."
    )
    listed = f"# Commands\n\n{text}\n\n{table(('command', 'what it does'), rows)}\n"
    return {"commands.md": listed, **{name: "\n".join(lines) + "\n" for name, lines in pages.items()}}


def _commands(group: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    context = group.make_context(" ".join(words), [], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.commands[name]
        if command is None or command.hidden:
            continue
        yield (*words, name), command
        if hasattr(command, "list_commands"):
            yield from _commands(command, (*words, name))


def _command_section(words: tuple[str, ...], command: Any) -> Iterator[str]:
    yield f"{'#' * (len(words) - 1)} {' '.join(words)}"
    yield ""
    yield _help_text(command.help)
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
            yield f"| {_names_of_parameter(param)} | {_table_cell(getattr(param, 'help', None))} |"
        yield ""
    if getattr(command, "epilog", None):
        yield f"```text\n{command.epilog.strip()}\n```"
        yield ""


def _names_of_parameter(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.metavar or param.name.upper()}`"
    names = [*param.opts, *param.secondary_opts]
    value = "" if param.is_flag else f" {param.metavar or param.name.upper()}"
    return ", ".join(f"`{name}{value}`" if name.startswith("--") else f"`{name}`" for name in sorted(names, key=len))


def _help_text(text: str | None) -> str:
    return re.sub(r"[\b\f]\n?", "", text or "").strip()


def _table_cell(text: str | None) -> str:
    return " ".join(_help_text(text).split()).replace("|", "\\|").replace("<", "&lt;")
