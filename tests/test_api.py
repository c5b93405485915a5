"""The public face: all that is exported is there, documented and loaded late, and the examples of docs/api.md and
docs/training_loops.md run."""

import re
import shutil
from pathlib import Path

import pytest
from support import python

import panbench

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "api.md").read_text("utf-8")
PAGES = {name: (ROOT / "docs" / name).read_text("utf-8") for name in ("api.md", "training_loops.md")}


def examples(page: str) -> list[tuple[str, int, str]]:
    """The Python of a page as (heading, number under it, code)."""
    found = []
    for section in PAGES[page].split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)):
            found.append((heading, number, code))
    return found


def public() -> list[str]:
    return [name for name in panbench.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", panbench.__all__)
def test_every_export_exists_and_is_documented(name):
    value = getattr(panbench, name)
    assert name in dir(panbench)
    assert f"`{name}`" in DOCUMENT
    if name != "__version__":
        assert (value.__doc__ or "").strip(), f"{name} has no docstring"


def types() -> set[str]:
    """The names in the first columns of the tables under "Types": what is returned and raised."""
    section = DOCUMENT.partition("\n## Types\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(set(public()) - types()))
def test_each_export_has_a_section_with_an_example(name):
    assert any(heading == name and f"panbench.{name}(" in code for heading, _, code in examples("api.md"))


@pytest.mark.parametrize("name", sorted(types()))
def test_types_are_exported_and_are_classes(name):
    assert name in panbench.__all__
    assert isinstance(getattr(panbench, name), type)


def test_every_error_is_exported():
    from panbench.base import errors

    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, panbench.PanbenchError):
            assert name in panbench.__all__


def test_unexported_names_are_not_accessible():
    with pytest.raises(AttributeError, match="module 'panbench' has no attribute 'evaluator_of'"):
        panbench.evaluator_of  # noqa: B018


def test_importing_the_package_loads_no_submodule():
    code = "import sys, panbench; print([name for name in sys.modules if name.startswith(('panbench.', 'numpy'))])"
    finished = python("-c", code, cwd=ROOT)
    assert finished.stdout.strip() == "[]", finished.stderr


@pytest.mark.parametrize(
    ("page", "heading", "code"),
    [
        pytest.param(page, heading, code, id=f"{heading}-{number}")
        for page in PAGES
        for heading, number, code in examples(page)
    ],
)
def test_the_examples_run(page, heading, code, tmp_path, monkeypatch):
    for name in ("pq_edges", "pq_scenes"):
        shutil.copytree(ROOT / "tests" / "reference" / name, tmp_path / "tests" / "reference" / name)
    monkeypatch.chdir(tmp_path)
    for package in ("torchmetrics", "panopticapi"):
        if f"import {package}" in code:
            pytest.importorskip(package, reason=f"{package} is not installed")
    exec(compile(code, f"docs/{page}, {heading}", "exec"), {"__name__": "example"})
