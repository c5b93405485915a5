"""The documentation's site: pages can be reached, links lead somewhere, generated pages have what the code has."""

import importlib
import re
from pathlib import Path

import pytest

import panbench
from scripts.make import docs_site, markdown_lists

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
    assert navigation() == documents | set(pages)


def test_every_link_of_a_document_leads_to_a_file():
    broken = []
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)\s#:]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            if not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert not broken


def anchors_of(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and the site make them of their words."""
    text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_link_to_a_heading_leads_to_one():
    found, broken = 0, []
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)\s]+)\)", document.read_text("utf-8")):
            found += 1
            if anchor not in anchors_of(document.parent / target if target else document):
                broken.append(f"{document.relative_to(ROOT)}: {target}#{anchor}")
    assert found > 10
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


def test_no_line_of_a_document_is_longer_than_200_characters():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    assert len(documents) > 15
    long = [
        f"{document.relative_to(ROOT)}:{number}: {len(line)}"
        for document in documents
        for number, line in enumerate(document.read_text("utf-8").splitlines(), 1)
        if len(line) > 200
    ]
    assert not long


def test_rows_of_long_text_are_lists_that_read_back_as_they_were_written():
    headings = ("why", "instead of")
    rows = [("A first cell", "as `a b` says - at once - it is so, and " * 6 + "no more", "nothing."), ("`x`", "y", "")]
    text = "\n".join(["Before.", "", *(markdown_lists.item(headings, row) for row in rows), "", "- **Another** list."])
    assert max(map(len, text.splitlines())) <= markdown_lists.WIDTH
    assert len(re.findall(r"^\s*- ", text, re.MULTILINE)) == 3, "no line begins with a mark of a list by chance"
    assert text.count("`a b`") == 6, "no line breaks inside of code"
    assert markdown_lists.items(text, headings) == [
        {"": "A first cell.", "why": f"{rows[0][1]}.", "instead of": "nothing."},
        {"": "`x`.", "why": "y.", "instead of": ""},
    ]
    numbered = markdown_lists.item(("kind", "why"), ("3", "merged", "so"))
    assert numbered == "3. **merged.** Why: so."
    assert markdown_lists.items(numbered, ("why",)) == [{"": "merged.", "why": "so."}]


def test_links_of_the_readme_are_the_sites_or_the_repositorys():
    text = "[a](docs/models.md#own) [b](CONTRIBUTING.md) [c](scripts/check/mutants.py) [d](configs) [e](https://other/x.md)"
    assert docs_site.outward(text, Path(), REPOSITORY) == (
        f"[a](models.md#own) [b](contributing.md) [c]({REPOSITORY}/blob/main/scripts/check/mutants.py) "
        f"[d]({REPOSITORY}/tree/main/configs) [e](https://other/x.md)"
    )


def test_links_of_a_document_stay_below_docs_and_leave_it_for_the_repository():
    text = "[a](models.md) [b](../README.md) [c](../panbench/catalog.py)"
    assert docs_site.outward(text, Path("docs"), REPOSITORY) == (
        f"[a](models.md) [b](index.md) [c]({REPOSITORY}/blob/main/panbench/catalog.py)"
    )


def test_the_reference_has_every_command_and_its_options(pages):
    for line in ("## panbench eval", "### panbench runs merge", "`--keep-candidates`", "`-m`, `--model NAME`"):
        assert line in pages["commands.md"], line


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
