from dataclasses import replace

import pytest
from little_runs import CATEGORIES

from panbench.panoptic.overlap import OverlapTable
from panbench.runs import DatasetRecord, Run, RunInfo
from panbench.runs.alike import unlike

INFO = RunInfo(name="a", categories=CATEGORIES, dataset=DatasetRecord(fingerprint="f00d"))


def run(**changes):
    return Run(replace(INFO, **changes), table=OverlapTable.empty())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"dataset": DatasetRecord(fingerprint="beef")}, "a and b were made on different ground truth"),
        ({"categories": CATEGORIES[:2]}, "a and b have different categories"),
        ({"arguments": {"exif": "ignore"}}, "Only one of a and b turned photographs as their EXIF says"),
        ({"arguments": {"exif": "apply"}}, None),
    ],
)
def test_runs_that_differ_in_what_they_must_share_are_named(changes, sentence):
    runs = [run(), run(name="same"), run(name="b", **changes)]
    assert unlike(runs, "ground truth", "categories", "exif", "category map") == sentence


def test_what_runs_need_not_share_is_not_asked():
    assert unlike([run(), run(name="b", categories=())], "ground truth") is None
