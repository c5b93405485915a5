"""Slices of the user's own in compare, metrics and errors: the numbers of those images alone."""

import json

import pytest
from little_runs import scored
from support import panbench, ran, refused

from panbench.metrics.pq import pq_table, summarise
from panbench.metrics.slices import image_statistics
from panbench.panoptic.types import Category

GT = dict.fromkeys(range(1, 31), "ppppqqqqssss") | {31: "ddddssss"}
SLICES = {"harbour": list(range(1, 16)), "road": list(range(10, 31)), "kennel": [31]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs and slices that overlap; the first run misses a person in the harbour, the second on the road."""
    root = tmp_path_factory.mktemp("slices")
    runs = {}
    for name, missed in (("a", range(1, 8)), ("b", range(20, 28))):
        drawn = {image: "pppp....ssss" if image in missed else marks for image, marks in GT.items()}
        runs[name] = scored(root, name, GT, drawn)
    (root / "site.json").write_text(json.dumps(SLICES))
    return root, runs


def pq_on(run, images) -> float:
    return summarise(pq_table(run.matched.only(frozenset(images)), run.categories))["All"]["PQ"]


def test_per_image_metrics_list_the_slices_of_the_image(folder):
    root, _ = folder
    words = ["metrics", root / "a", "--per-image", "--slices", root / "site.json"]
    images = {row["image_id"]: row for row in json.loads(ran(*words, "--json").stdout)["images"]}
    assert set(images) == set(GT)
    assert {number: row["site"] for number, row in images.items() if number in (1, 12, 31)} == {
        1: "harbour",
        12: "harbour, road",
        31: "kennel",
    }
    assert (images[1]["iou_sum"], images[1]["TP"], images[1]["FN"], images[31]["PQ"]) == (2.0, 2, 1, 1.0)
    assert "harbour, road" in ran(*words).stdout


def test_compare_prints_pq_of_each_slice_with_its_interval(folder):
    root, runs = folder
    words = ["compare", root / "a", root / "b", "--slices", root / "site.json"]
    records = json.loads(panbench(*words, "--format", "json").stdout)
    for record in records:
        found = {row["group"]: row for row in record["slices"] if row["metric"] == "PQ"}
        assert {row["slicing"] for row in found.values()} == {"site"}
        for name, images in SLICES.items():
            assert found[name]["value"] == pytest.approx(pq_on(runs[record["run"]], images), abs=1e-15)
            assert found[name]["images"] == len(images)
    harbour = next(row for row in records[0]["slices"] if row["group"] == "harbour" and row["metric"] == "PQ")
    assert harbour["low"] <= harbour["value"] <= harbour["high"]
    shown = ran(*words)
    for word in ("PQ by site", "harbour", "road", "kennel"):
        assert word in shown.stdout


def test_metrics_and_errors_print_tables_of_slices(folder):
    root, runs = folder
    record = json.loads(panbench("metrics", root / "a", "--slices", root / "site.json", "--json").stdout)
    for row in record["slices"]["site"]:
        assert row["PQ"] == pytest.approx(pq_on(runs["a"], SLICES[row["slice"]]), abs=1e-12)
    shown = panbench("metrics", root / "a", "--slices", root / "site.json")
    assert "kennel" in shown.stdout
    lost = json.loads(panbench("errors", root / "a", "--slices", root / "site.json", "--json").stdout)["slices"]["site"]
    for name, images in SLICES.items():
        rows = [row for row in lost[name] if row["group"] == "All"]
        assert rows[0]["PQ"] == pytest.approx(pq_on(runs["a"], images), abs=1e-12)
        assert sum(row["lost"] for row in rows) == pytest.approx(1 - rows[0]["PQ"], abs=1e-12)
    assert "PQ gained if a cause alone were fixed, by site" in panbench(
        "errors", root / "a", "--slices", root / "site.json"
    ).stdout.replace("\n", " ")


def test_unknown_images_are_refused_by_every_command(folder, tmp_path):
    root, _ = folder
    (tmp_path / "wrong.json").write_text('{"night": [1, 4711]}')
    for words in (["compare", root / "a", root / "b"], ["metrics", root / "a"], ["errors", root / "a"]):
        assert "names images that were not scored: 4711" in refused(*words, "--slices", tmp_path / "wrong.json")


def test_sliced_statistics_cannot_be_sliced_again(folder):
    from panbench.base.errors import BadArgument
    from panbench.metrics.slices import ImageSlices, slice_by_images

    _, runs = folder
    statistics = image_statistics(runs["a"].matched, runs["a"].categories, "size")
    with pytest.raises(BadArgument, match="sliced by size cannot be cut by site"):
        slice_by_images(statistics, ImageSlices("site", {"x": frozenset({1})}))
    assert isinstance(runs["a"].categories[0], Category)
