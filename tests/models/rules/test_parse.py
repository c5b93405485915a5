"""Rules by name: parsed, refused in a sentence, recorded."""

import dataclasses
import json
from pathlib import Path

import pytest

from panbench.base.errors import BadArgument
from panbench.catalog import THRESHOLDS, split_rules
from panbench.models.rules import RULES, parse_rule, parse_rules
from panbench.models.rules.compete import Mask2Former, MaskFormer
from scripts.make.markdown_tables import rows_under


def test_a_name_alone_gives_the_papers_thresholds():
    assert parse_rule("mask2former") == Mask2Former(score=0.8, overlap=0.8, mask=0.5)


def test_thresholds_are_given_by_name_and_capitals_do_not_matter():
    assert parse_rule("Mask2Former:score=0.7, overlap=1") == Mask2Former(score=0.7, overlap=1.0)


def test_paper_means_the_models_own_rule_with_changeable_thresholds():
    own = MaskFormer(score=0.6, overlap=0.4)
    assert parse_rule("paper", own) == own
    assert parse_rule("paper:score=0.9", own) == MaskFormer(score=0.9, overlap=0.4)
    with pytest.raises(BadArgument, match="there is no model here"):
        parse_rule("paper")


def test_a_list_of_rules_is_split_at_rule_names():
    own = MaskFormer(score=0.6)
    assert parse_rules("paper,mask2former:score=0.7,overlap=0.5,maskformer,paper", own) == [
        own,
        Mask2Former(score=0.7, overlap=0.5),
        MaskFormer(),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mask2fromer", "no fusion rule 'mask2fromer'. Did you mean mask2former?"),
        ("zzz", "no fusion rule 'zzz'. Rules are "),
        ("mask2former:scores=0.5", "no threshold 'scores'. Did you mean score?"),
        ("mask2former:zzz=0.5", "no threshold 'zzz'. It has score, overlap, mask."),
        ("given:score=0.5", "no threshold 'score'. It has none."),
        ("mask2former:score", "'score' has no value"),
        ("mask2former:score=high", "score is 'high' but must be a number from 0 to 1"),
        ("mask2former:score=1.5", "score is '1.5' but must be a number from 0 to 1"),
        ("mask2former:score=nan", "score is 'nan' but must be a number from 0 to 1"),
        ("mask2former:score=0.5,score=0.6", "gives score twice"),
        ("panoptic-fpn:stuff_area=0.5", "stuff_area is '0.5' but must be a whole number from 0 on"),
    ],
)
def test_text_that_is_not_a_rule_is_refused_in_one_sentence(text, message):
    with pytest.raises(BadArgument) as caught:
        parse_rule(text)
    assert message in str(caught.value)
    if any(words in message for words in ("no fusion rule", "no threshold", "a number from 0 to 1")):
        with pytest.raises(BadArgument) as early:
            split_rules(text)
        assert str(early.value) == str(caught.value)


@pytest.mark.parametrize("name", list(THRESHOLDS))
def test_facts_on_rules_without_pytorch_equal_the_rules(name):
    fields = dataclasses.fields(RULES[name]())
    assert THRESHOLDS[name] == {field.name: field.metadata.get("range") == (0.0, 1.0) for field in fields}


def test_an_empty_list_of_rules_is_refused():
    with pytest.raises(BadArgument, match="names no rule"):
        parse_rules(" , ")


@pytest.mark.parametrize("name", list(RULES))
def test_every_rule_is_recorded_and_parsed_back_from_its_text(name):
    rule = RULES[name]()
    record = json.loads(json.dumps(rule.record(), allow_nan=False))
    assert record == {"name": name, **dataclasses.asdict(rule)}
    assert parse_rule(str(rule)) == rule == parse_rule(name)
    written = f"{name}:" + ",".join(f"{key}={value}" for key, value in record.items() if key != "name")
    assert parse_rule(written if record != {"name": name} else name) == rule
    assert rule.summary.endswith(".")
    assert rule.source
    assert hash(rule) == hash(RULES[name]())


def test_only_non_default_thresholds_are_written():
    assert str(Mask2Former(score=0.7)) == "mask2former:score=0.7"
    assert str(Mask2Former()) == "mask2former"


@pytest.mark.parametrize("name", list(RULES))
def test_the_page_on_fusion_describes_every_rule(name):
    page = (Path(__file__).resolve().parents[3] / "docs" / "fusion.md").read_text("utf-8")
    headings = ("rule", "thresholds", "what it does", "source")
    (row,) = [row for row in rows_under(page, headings) if row["rule"] == f"`{name}`"]
    rule = RULES[name]
    assert row["what it does"] == rule.summary.removesuffix(".")
    assert row["source"] == rule.source
    for field in dataclasses.fields(rule):
        assert f"{field.name} {str(field.default).lower()}" in row["thresholds"]
