"""scripts/check/mutants.py cannot rot: what it changes stands in the code, and what must notice is there."""

import ast
from pathlib import Path

import pytest

from scripts.check.mutants import MUTANTS, PAGE, Mutant, table

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_what_a_mutant_changes_stands_in_the_code_exactly_once(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1
    changed = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(text))


@pytest.mark.parametrize("check", sorted({check for mutant in MUTANTS for check in mutant.noticed_by}))
def test_who_must_notice_is_there(check: str) -> None:
    file, *names = check.split("::")
    body: list[ast.stmt] = ast.parse((ROOT / file).read_text("utf-8")).body
    for name in names:
        found = [one for one in body if isinstance(one, ast.ClassDef | ast.FunctionDef) and one.name == name]
        assert found, f"{file} has no {name}"
        body = found[0].body


def test_there_are_28_promises_and_the_page_names_them_all() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) == 28
    assert table(MUTANTS) in PAGE.read_text("utf-8")


def test_a_mutant_that_no_longer_fits_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\na = 1\n")
    with pytest.raises(ValueError, match="2 times, not once"):
        Mutant("twice", "", "code.py", "a = 1", "a = 2", ()).apply(tmp_path)
