from dataclasses import replace

import pytest
from little_runs import CATEGORIES

from panbench.panoptic.overlap import OverlapTable
from panbench.runs import DatasetRecord, DeviceRecord, Run, RunInfo
from panbench.runs.alike import FACTS, differing, differing_settings, unlike

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


@pytest.mark.parametrize(
    ("device", "other", "names"),
    [("cpu", "ieee", []), ("cuda", "ieee", ["precision"]), ("cpu", "bf16", ["precision"])],
)
def test_on_a_cpu_fp32_and_ieee_are_one_precision(device, other, names):
    one, two = (replace(INFO, precision=each, device=DeviceRecord(device)) for each in ("fp32", other))
    assert differing(one, two, [FACTS["kind"], FACTS["precision"]]) == names


def test_settings_that_differ_are_told_with_both_values_but_for_those_that_may():
    one = replace(INFO, precision="fp32", arguments={"limit": 3})
    two = replace(INFO, precision="bf16", arguments={"limit": 4})
    assert differing_settings(one, two) == ["limit was 3 and is 4", "precision was 'fp32' and is 'bf16'"]
    assert differing_settings(one, two, {"limit"}) == ["precision was 'fp32' and is 'bf16'"]
