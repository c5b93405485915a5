"""The documentation's site: pages can be reached, links lead somewhere, generated pages have what the code has."""

import importlib
import re
from pathlib import Path

import pytest
import typer.main

import panbench
from panbench.cli.app import app
from scripts.make import docs_site, markdown_tables

ROOT = Path(__file__).resolve().parent.parent

REPOSITORY = "https://host/owner/panbench"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return docs_site.generated_pages(REPOSITORY)


def navigation() -> set[str]:
    text = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:")[1].split("\nhooks:")[0]
    return set(re.findall(r"([\w/-]+\.md)\b", text))


def test_every_page_of_docs_is_in_the_navigation(pages):
    documents = {file.relative_to(ROOT / "docs").as_posix() for file in (ROOT / "docs").rglob("*.md")}
    assert navigation() == documents | {page for page in pages if not page.startswith("commands/")}


def test_every_command_has_a_page_in_the_navigation(pages):
    config = {"nav": [{"Start": []}, {"Reference": [{"Commands": "commands.md"}, {"Python": "python.md"}]}]}
    commands, python = docs_site.on_config(config)["nav"][1]["Reference"]
    assert python == {"Python": "python.md"}
    assert set(commands["Commands"]) == {page for page in pages if page.startswith("commands")}
    assert {f"commands/{name}.md" for name in typer.main.get_command(app).commands} <= set(pages)


def anchors_of(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and the site make them of their words."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_link_of_a_document_leads_to_a_file_and_to_a_heading_in_it():
    anchors, broken = 0, []
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\((?=[^)\s])([^)\s#:]*)(?:#([^)\s]+))?\)", document.read_text("utf-8")):
            file = document.parent / target if target else document
            anchors += bool(anchor)
            if not file.exists() or (anchor and anchor not in anchors_of(file)):
                broken.append(f"{document.relative_to(ROOT)}: {target}#{anchor}")
    assert anchors > 10
    assert not broken


def test_every_page_that_the_code_names_exists():
    files = [
        path
        for folder in ("panbench", "scripts", "configs", "tests", ".github", "notebooks")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sh", ".yml", ".md", ".html", ".ipynb", ".c") and path.name != Path(__file__).name
    ]
    named = {page: path for path in files for page in re.findall(r"\bdocs/\w+\.md\b", path.read_text("utf-8"))}
    assert len(named) > 10
    assert not {page: path.relative_to(ROOT).as_posix() for page, path in named.items() if not (ROOT / page).is_file()}


LIMIT = 120


def too_long(page: str) -> list[str]:
    """The lines of a page that are longer than LIMIT.

    A row of a table is excepted if the table has three columns or more, each of at most 240 characters: a table of two
    columns would read better as a list, and longer cells as sentences.
    """
    tables = {
        f"| {' | '.join(row)} |".replace("  ", " ")
        for rows in markdown_tables.tables(page)
        for row in rows
        if _fits(row)
    }
    return [line for line in page.splitlines() if len(line) > LIMIT and line not in tables]


def _fits(row: list[str]) -> bool:
    return len(row) >= 3 and all(len(re.sub(r"\]\([^)]*\)", "]", cell)) <= 240 for cell in row)


def test_no_line_of_a_document_is_too_long():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(documents) > 15
    found = {path.name: [line[:60] for line in too_long(path.read_text("utf-8"))] for path in documents}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_long_row_is_excepted_only_where_the_table_cannot_be_narrower():
    word = "x" * 90
    assert too_long(f"| a | b | c |\n|---|---|---|\n| {word} | {word} | {word} |\n") == []
    for page in (f"{word} {word} {word}", f"| a | b |\n|---|---|\n| {word} | {word} {word} |\n"):
        assert len(too_long(page)) == 1


def test_a_table_reads_back_as_it_was_written():
    rows = [("`a|b`".replace("|", "\\|"), "why", ""), ("`x`", "y", "nothing")]
    text = f"Before.\n\n{markdown_tables.table(('name', 'why', 'instead of'), rows)}\n\nAfter.\n"
    assert markdown_tables.rows_under(text, ("name", "why", "instead of")) == [
        {"name": "`a\\|b`", "why": "why", "instead of": ""},
        {"name": "`x`", "why": "y", "instead of": "nothing"},
    ]
    assert markdown_tables.rows_under(text, ("name", "why")) == []


def test_readme_links_lead_to_the_site_or_the_repository():
    text = "[a](docs/models.md#own) [b](CONTRIBUTING.md) [c](scripts/check/mutants.py) [d](configs) [e](https://other/x.md)"
    assert docs_site.outward(text, Path(), REPOSITORY) == (
        f"[a](models.md#own) [b](contributing.md) [c]({REPOSITORY}/blob/main/scripts/check/mutants.py) "
        f"[d]({REPOSITORY}/tree/main/configs) [e](https://other/x.md)"
    )


def test_document_links_stay_in_docs_or_lead_to_the_repository():
    text = "[a](models.md) [b](../README.md) [c](../panbench/catalog.py)"
    assert docs_site.outward(text, Path("docs"), REPOSITORY) == (
        f"[a](models.md) [b](index.md) [c]({REPOSITORY}/blob/main/panbench/catalog.py)"
    )


def test_the_reference_has_every_command_and_its_options(pages):
    for line in ("# panbench eval", "`--keep-candidates`", "`-m`, `--model NAME`"):
        assert line in pages["commands/eval.md"], line
    assert "## panbench runs merge" in pages["commands/runs.md"]
    assert "[`eval`](commands/eval.md)" in pages["commands.md"]


@pytest.mark.slow
def test_the_python_reference_has_every_public_name(pages):
    for name in panbench.__all__:
        assert name.startswith("_") or f"heading: panbench.{name}," in pages["python.md"], name
    for place, name in re.findall(r"^::: (\S+)\n.*?heading: panbench\.(\w+),", pages["python.md"], re.MULTILINE):
        module, _, attribute = place.rpartition(".")
        assert getattr(importlib.import_module(module), attribute) is getattr(panbench, name), place


def test_arguments_of_a_docstring_become_a_list():
    docstring = "Returns it.\n\nMore of it.\nshape: (height, width)\na, b: two\n    of one kind\nRaises ValueError."
    assert docs_site.itemised(docstring) == (
        "Returns it.\n\nMore of it.\n\n- `shape`: (height, width)\n- `a, b`: two\n    of one kind\nRaises ValueError."
    )
