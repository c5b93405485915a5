"""Rules of others: by an entry point, or by where they are."""

from pathlib import Path

import pytest

from panbench.base.errors import BadArgument
from panbench.base.references import Register
from panbench.catalog import RULES
from panbench.models.rules import Rule, parse_rule, parse_rules

HIERARCHY = """
from dataclasses import dataclass
from panbench.models.rules.base import fraction
from panbench.models.rules.compete import Mask2Former

@dataclass(frozen=True)
class Hierarchy(Mask2Former):
    name = "hierarchy"
    depth: float = fraction(0.25)

def function():
    return 5
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder that holds a rule."""
    (tmp_path / "places_of_rules").mkdir()
    (tmp_path / "places_of_rules" / "fusion.py").write_text(HIERARCHY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "places_of_rules.fusion"


def test_a_rule_is_imported_from_its_module(module):
    rule = parse_rule(f"{module}:Hierarchy:depth=0.5,score=0.7")
    assert isinstance(rule, Rule)
    assert (rule.depth, rule.score) == (0.5, 0.7)


def test_a_rule_can_be_in_a_module_without_a_package(tmp_path, monkeypatch):
    (tmp_path / "lone_rules.py").write_text(HIERARCHY)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert parse_rule("lone_rules:Hierarchy:depth=0.5").depth == 0.5
    with pytest.raises(BadArgument, match="Did you mean mask2former"):
        parse_rule("mask2formr:score")


def test_run_json_names_an_imported_rule_so_that_it_can_be_parsed(module):
    rule = parse_rule(f"{module}:Hierarchy:depth=0.5")
    assert rule.record()["name"] == f"{module}:Hierarchy"
    assert parse_rule(str(rule)) == rule


def test_a_list_of_rules_may_mix_names_and_modules(module):
    named, placed = parse_rules(f"mask2former:score=0.7,{module}:Hierarchy:depth=0.5,score=0.6")
    assert str(named) == "mask2former:score=0.7"
    assert (placed.depth, placed.score) == (0.5, 0.6)


@pytest.mark.parametrize(
    ("place", "message"),
    [("Absent", "has nothing named 'Absent'"), ("function", "is not a fusion rule"), ("HIERARCHY.x", "no fusion rule")],
)
def test_an_object_that_is_not_a_rule_is_refused_in_one_sentence(module, place, message):
    with pytest.raises(BadArgument, match=message):
        parse_rule(f"{module}:{place}")


def test_rule_names_are_known_without_importing_them():
    assert all(RULES[name].name == name for name in RULES)


def test_rules_of_other_packages_are_registered(module, monkeypatch):
    monkeypatch.setattr("panbench.base.references._entry_points", lambda group: {"hierarchy": f"{module}:Hierarchy"})
    register = Register("panbench.rules", {"mask2former": "panbench.models.rules.compete:Mask2Former"})
    assert list(register) == ["mask2former", "hierarchy"]
    assert register["hierarchy"].name == "hierarchy"
    assert parse_rule("hierarchy").called == "hierarchy"
