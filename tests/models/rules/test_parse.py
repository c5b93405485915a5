"""Rules by name: parsed, refused in a sentence, recorded."""

import dataclasses
import json
from pathlib import Path

import pytest

from panbench.base.errors import BadArgument
from panbench.models.rules import RULES, parse_rule, parse_rules
from panbench.models.rules.compete import Mask2Former, MaskFormer
from scripts.make.markdown_lists import items


def test_a_name_alone_is_the_rule_with_the_papers_thresholds():
    assert parse_rule("mask2former") == Mask2Former(score=0.8, overlap=0.8, mask=0.5)


def test_thresholds_are_given_by_name_and_capitals_do_not_matter():
    assert parse_rule("Mask2Former:score=0.7, overlap=1") == Mask2Former(score=0.7, overlap=1.0)


def test_paper_is_the_models_own_rule_and_its_thresholds_can_be_changed():
    own = MaskFormer(score=0.6, overlap=0.4)
    assert parse_rule("paper", own) == own
    assert parse_rule("paper:score=0.9", own) == MaskFormer(score=0.9, overlap=0.4)
    with pytest.raises(BadArgument, match="there is no model here"):
        parse_rule("paper")


def test_a_list_of_rules_is_split_where_a_rule_begins():
    own = MaskFormer(score=0.6)
    assert parse_rules("paper,mask2former:score=0.7,overlap=0.5,maskformer,paper", own) == [
        own,
        Mask2Former(score=0.7, overlap=0.5),
        MaskFormer(),
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
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
def test_what_cannot_be_a_rule_is_answered_in_a_sentence(text, sentence):
    with pytest.raises(BadArgument) as caught:
        parse_rule(text)
    assert sentence in str(caught.value)


def test_no_rule_at_all_is_refused():
    with pytest.raises(BadArgument, match="names no rule"):
        parse_rules(" , ")


@pytest.mark.parametrize("name", list(RULES))
def test_every_rule_is_recorded_whole_and_can_be_parsed_from_its_own_words(name):
    rule = RULES[name]()
    record = json.loads(json.dumps(rule.record(), allow_nan=False))
    assert record == {"name": name, **dataclasses.asdict(rule)}
    assert parse_rule(str(rule)) == rule == parse_rule(name)
    written = f"{name}:" + ",".join(f"{key}={value}" for key, value in record.items() if key != "name")
    assert parse_rule(written if record != {"name": name} else name) == rule
    assert rule.summary.endswith(".")
    assert rule.source
    assert hash(rule) == hash(RULES[name]())


def test_only_what_differs_from_the_defaults_is_written():
    assert str(Mask2Former(score=0.7)) == "mask2former:score=0.7"
    assert str(Mask2Former()) == "mask2former"


@pytest.mark.parametrize("name", list(RULES))
def test_the_page_on_fusion_says_of_every_rule_what_it_is(name):
    page = (Path(__file__).resolve().parents[3] / "docs" / "fusion.md").read_text("utf-8")
    headings = ("thresholds", "what it does differently", "source", "compared")
    (row,) = [item for item in items(page, headings) if item[""] == f"`{name}`."]
    rule = RULES[name]
    assert row["what it does differently"].rstrip(".") == rule.summary.rstrip(".")
    assert row["source"].rstrip(".") == rule.source.rstrip(".")
    for field in dataclasses.fields(rule):
        assert f"{field.name} {str(field.default).lower()}" in row["thresholds"]
