"""A fusion rule of your own: a frozen dataclass, run from where it is and recorded with its thresholds."""

import json

from support import panbench

MODULE = """
from dataclasses import dataclass
from panbench.models.rules.base import fraction
from panbench.models.rules.compete import Mask2Former

@dataclass(frozen=True)
class Strict(Mask2Former):
    name = "strict"
    score: float = fraction(0.9)
"""


def test_a_rule_is_one_class(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    line = ("--model", "mask2former-tiny", "--limit", 2, "--rule", "my_rules:Strict:score=0.95", "--out", "mine")
    assert panbench("eval", *line, cwd=tmp_path).exit_code == 0
    record = json.loads((tmp_path / "mine" / "run.json").read_text("utf-8"))
    assert record["rule"]["name"] == "my_rules:Strict"
    assert record["rule"]["thresholds"]["score"] == 0.95
