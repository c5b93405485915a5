"""Pages from templates: what is escaped, where templates are found, and that Python spells no HTML."""

import ast
import base64
import hashlib
import html
import re
from pathlib import Path

import pytest
from jinja2 import TemplateNotFound, UndefinedError
from support import refusal

import panbench
from panbench.report.pages.live.library import RunLibrary
from panbench.report.pages.page.document import report_page
from panbench.report.pages.rendering import Markup, render, unique_data_names, whole_page
from panbench.report.pages.site import write_site

PACKAGE = Path(panbench.__file__).parent


def sentence_page(message: str) -> str:
    place = "panbench.report.pages.live:sentence.html"
    return whole_page(place, title="<t>", footer="f & g", message=message, warning=False, back=False)


def test_templates_escape_values_and_mark_commands_as_code():
    page = sentence_page("<b> & `panbench <x>`")
    for words in ("<p>&lt;b&gt; &amp; <code>panbench &lt;x&gt;</code></p>", "<h1>&lt;t&gt;</h1>", "<p>f &amp; g</p>"):
        assert words in page


@pytest.fixture
def theirs(tmp_path, monkeypatch) -> Path:
    """The folder of a package of somebody else's with a folder templates/ in it."""
    folder = tmp_path / f"theirs_{tmp_path.name}"
    (folder / "templates").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_templates_are_found_next_to_the_code_of_any_package(theirs):
    shared = '{% from "panbench.report.pages:elements.html" import named %}'
    (theirs / "templates" / "mine.html").write_text(shared + "<p>{{ named(label, 3) }}{{ raw }}</p>")
    made = render(f"{theirs.name}:mine.html", label="a <b>", raw=Markup("<i>x</i>"))
    assert made == '<p><span class="marker" data-marker="3"></span><span>a &lt;b&gt;</span><i>x</i></p>'
    with pytest.raises(TemplateNotFound):
        render(f"{theirs.name}:gone.html")


def test_a_missing_template_value_is_an_error(theirs):
    (theirs / "templates" / "gap.html").write_text("{{ PQ }}")
    assert "'PQ' is undefined" in refusal(UndefinedError, render, f"{theirs.name}:gap.html", pq=1)


@pytest.fixture(scope="module")
def pages(shared_runs, tmp_path_factory) -> dict[str, str]:
    """A page of each kind."""
    from starlette.testclient import TestClient

    from panbench.report.pages.live.server import application

    folder = tmp_path_factory.mktemp("pages")
    client = TestClient(application(RunLibrary(shared_runs[0].path.parent)), base_url="http://127.0.0.1")
    return {
        "report": report_page(shared_runs, examples=0),
        "site": write_site(shared_runs, folder / "site", examples=0).read_text("utf-8"),
        "served": client.get("/").text,
        "refused": client.get("/nothing").text,
    }


def test_all_pages_share_one_layout_and_style_sheet(pages):
    heads = {
        re.sub(r'<title>.*?</title>|content="default-src.*?"', "", page.split("<body>")[0]) for page in pages.values()
    }
    assert len(heads) == 1
    assert all(page.rstrip().endswith("</html>") and page.count("<main") == 1 for page in pages.values())


def test_the_content_policy_of_each_page_allows_only_its_own_style_and_script(pages):
    for page in pages.values():
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', page)
        inline = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
        inline += re.findall(r'<script type="module">(.*?)</script>', page, re.DOTALL)
        hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in inline}
        assert set(re.findall(r"'sha256-(.*?)'", html.unescape(policy))) == hashes
        assert policy.startswith("default-src &#39;none&#39;; ")


def test_python_code_contains_no_html():
    tags = re.compile(r"</[a-z]|<(p|td|th|tr|table|section|div|span|sup|small|strong|code|li|ul|a|h\d|svg|b)[ >/]")
    # A tag in source code: spelled out, in two strings side by side, or with a sign that is escaped.
    signs = re.compile(r"""<[/a-z"'\\]|\\[xuUN0-7]""")
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text("utf-8")
        if not signs.search(source):  # to parse all takes seconds
            continue
        nodes = list(ast.walk(ast.parse(source)))
        docstrings = {
            ast.get_docstring(node, clean=False)
            for node in nodes
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        }
        for node in nodes:
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if tags.search(text) and text not in docstrings:
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {text!r}")
    assert found == []


def test_tables_of_one_name_are_labelled_by_their_ground_truth():
    marks = ["ab" * 32, "cd" * 32, "ef" * 32]
    expected = ["coco val (ground truth abababab)", "coco val (ground truth cdcdcdcd)", "shapes val"]
    assert unique_data_names(["coco val", "coco val", "shapes val"], marks) == expected
