from dataclasses import replace

import pytest
from little_runs import CATEGORIES

from panbench.panoptic.overlap import OverlapTable
from panbench.runs import DatasetRecord, DeviceRecord, Run, RunInfo
from panbench.runs.comparable import FACTS, differing, differing_settings, why_incomparable
from panbench.runs.hashes import FileHashes

INFO = RunInfo(name="a", categories=CATEGORIES, dataset=DatasetRecord(fingerprint="f00d", gt="old.json"))


def run(**changes):
    return Run(replace(INFO, **changes), table=OverlapTable.empty())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        (
            {"dataset": DatasetRecord(fingerprint="beef", name="toys", split="val")},
            "a was scored on data without a name and b on toys val",
        ),
        (
            {"dataset": DatasetRecord(fingerprint="beef", gt="new.json")},
            "a and b were scored on two versions of data without a name (old.json and new.json)",
        ),
        ({"categories": CATEGORIES[:2]}, "a and b have different categories"),
        ({"arguments": {"exif": "ignore"}}, "Only one of a and b rotated photographs by their EXIF"),
        ({"arguments": {"exif": "apply"}}, None),
    ],
)
def test_runs_that_differ_in_what_they_must_share_are_named(changes, message):
    runs = [run(), run(name="same"), run(name="b", **changes)]
    assert why_incomparable(runs, "ground truth", "categories", "exif", "category map") == message


def test_files_that_changed_between_runs_are_counted_and_listed():
    first, second = run(), run(name="b")
    truths = [bytes([3]) * 32, bytes([4]) * 32]
    first.files = FileHashes.of([(7, bytes([1]) * 32, truths[0]), (8, bytes([5]) * 32, truths[1])])
    second.files = FileHashes.of([(7, bytes([2]) * 32, truths[0]), (8, bytes([5]) * 32, truths[1])])
    changed = "a and b read different image files of 1 images (7): the files changed between the runs"
    assert why_incomparable([first, second], "ground truth", "files") == changed
    assert why_incomparable([first, first], "ground truth", "files") is None
    second.files = FileHashes.of([(7, bytes([1]) * 32, truths[1]), (8, bytes([5]) * 32, truths[0])])
    assert why_incomparable([first, second], "files").startswith("a and b read different id PNGs of 2 images (7, 8)")


def test_facts_that_need_not_match_are_not_compared():
    assert why_incomparable([run(), run(name="b", categories=())], "ground truth") is None


@pytest.mark.parametrize(
    ("device", "other", "names"), [("cpu", "ieee", []), ("cuda", "ieee", ["precision"]), ("cpu", "bf16", ["precision"])]
)
def test_on_a_cpu_fp32_and_ieee_are_one_precision(device, other, names):
    one, two = (replace(INFO, precision=each, device=DeviceRecord(device)) for each in ("fp32", other))
    assert differing(one, two, [FACTS["kind"], FACTS["precision"]]) == names


def test_differing_settings_are_reported_with_both_values_unless_allowed():
    one = replace(INFO, precision="fp32", arguments={"limit": 3})
    two = replace(INFO, precision="bf16", arguments={"limit": 4})
    assert differing_settings(one, two) == ["limit was 3 and is 4", "precision was 'fp32' and is 'bf16'"]
    assert differing_settings(one, two, {"limit"}) == ["precision was 'fp32' and is 'bf16'"]
