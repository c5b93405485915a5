"""scripts/check/mutants.py cannot rot: what it changes stands in the code, and what must notice is there."""

import ast
import re
from pathlib import Path

import pytest

from scripts.check.mutants import MUTANTS, PAGE, Mutant
from scripts.make.markdown_tables import rows_under

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_code_that_a_mutant_changes_exists_exactly_once(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("check", sorted({check for mutant in MUTANTS for check in mutant.noticed_by}))
def test_tests_that_must_notice_a_mutant_exist(check: str) -> None:
    file, *names = check.split("::")
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text("utf-8")).body
    for name in names:
        found = [one for one in body if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == name]
        assert found, f"{file} has no {name}"
        body = found[0].body


def test_all_28_mutants_were_noticed() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) == 28
    assert f"{len(MUTANTS)} of {len(MUTANTS)} noticed." in PAGE.read_text("utf-8")


def test_each_promise_of_the_page_names_tests_that_exist() -> None:
    promises = rows_under(PAGE.read_text("utf-8"), ("what happens", "what remains", "test"))
    assert len(promises) >= 20
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "tests").rglob("test_*.py")]
    kinds = ast.FunctionDef | ast.ClassDef
    known = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)}
    for promise in promises:
        places = re.findall(r"`([\w./:]+)`", promise["test"])
        assert places, promise
        for place in places:
            file, *names = place.split("::") if place.startswith("tests/") else ("tests", place)
            assert (ROOT / file).exists(), place
            assert set(names) <= known, place


def test_a_mutant_that_no_longer_fits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\na = 1\n")
    with pytest.raises(ValueError, match="2 times, not once"):
        Mutant("twice", "", "code.py", "a = 1", "a = 2", ()).apply(tmp_path)
