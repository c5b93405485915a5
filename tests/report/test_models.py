"""The list of models: what can be run, what is published only, and what fits a filter."""

import pytest
from rich.console import Console
from support import refusal

from panbench.base.errors import BadArgument
from panbench.catalog import load_catalog, origin
from panbench.published import published_results
from panbench.report.answers.models import ModelListing, list_models

SPECS = list(load_catalog().values())


def shown(listing: ModelListing) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for text in listing.texts():
        console.print(text)
    return console.export_text()


def test_the_model_list_says_of_every_published_system_whether_it_runs() -> None:
    rows = list_models(SPECS).records()
    runnable = {row["system"] for row in rows if row["runnable"]} - {None}
    only = [row["system"] for row in rows if not row["runnable"]]
    titles = {result.title for result in published_results()}
    assert runnable <= titles, "a config names a system that published.csv does not have"
    assert set(only) == titles - runnable
    assert len(only) == len(set(only))
    assert {"Mask2Former R50", "EoMT DINOv2-L-1280", "Panoptic SegFormer PVTv2-B5"} <= runnable
    assert {"Max-DeepLab Max-L", "kMaX-DeepLab ConvNeXt-L", "SOLOv2 R50"} <= set(only)
    (max_deeplab,) = [row for row in rows if row["system"] == "Max-DeepLab Max-L"]
    assert (max_deeplab["published"]["PQ"], max_deeplab["published"]["split"]) == (0.511, "val2017")


def test_the_licence_of_all_weights_has_a_source() -> None:
    assert [spec.name for spec in SPECS if not (spec.license and spec.license_source)] == []
    forbidding = {spec.name for spec in SPECS if "NC" in str(spec.license)}
    of_coco = {f"{family}-hf-swin-{size}" for family in ("maskformer", "mask2former") for size in "tsbl"}
    of_streets = {f"mask2former-cityscapes-{size}" for size in "tsbl"} | {"mask2former-mapillary-l"}
    of_authors = {spec.name for spec in SPECS if spec.name.endswith("-authors") and "former" in spec.name}
    assert forbidding == of_coco | of_authors | of_streets | {"mask2former-ade20k-l"}


def test_the_listing_fits_80_columns_and_names_all_sources() -> None:
    listing = list_models(SPECS)
    text = shown(listing)
    assert max(map(len, text.splitlines())) <= 80
    for number, source in enumerate(listing.sources, start=1):
        assert f"[{number}] {source}" in text
    (row,) = [line for line in text.splitlines() if line.startswith("eomt-dinov2-l-640 ")]
    number = 1 + listing.sources.index("tue-mps/eomt 7bd19dd, model_zoo/dinov2.md")
    assert row.split() == ["eomt-dinov2-l-640", "2025", "317M", "668G", "640²", "56.0", str(number), "no"]
    assert "not for commercial use" in text


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("swin-l MIT", ["oneformer-cityscapes-l", "oneformer-swin-l", "oneformer-ade20k-l"]),
        ("non-commercial maskformer swin-t", ["maskformer-swin-t-authors", "maskformer-hf-swin-t"]),
        ("ours eomt", ["eomt-tiny"]),
        ("shapes mask2former", ["mask2former-tiny"]),
        ("published only segformer", ["Panoptic SegFormer PVTv2-B0", "Panoptic SegFormer PVTv2-B2"]),
    ],
)
def test_a_filter_keeps_rows_with_all_its_words(words: str, names: list[str]) -> None:
    assert [row["name"] or row["title"] for row in list_models(SPECS, words).records()] == names


def test_a_data_sets_name_lists_its_models_and_claims() -> None:
    listing = list_models(SPECS, data="mapillary")
    assert [spec.name for spec in listing.specs] == ["mask2former-mapillary-l"]
    only = {result.title for result in listing.published_only}
    assert only == {"Mask2Former R50", "OneFormer Swin-L", "OneFormer ConvNeXt-L", "OneFormer DiNAT-L"}
    assert {result.dataset for result in listing.published_only} == {"mapillary"}
    ade20k = [spec.name for spec in list_models(SPECS, "eomt 1280", data="ade20k").specs]
    assert ade20k == ["eomt-ade20k-l-1280", "eomt-ade20k-g-1280"]
    with pytest.raises(BadArgument, match=r"--data 'kitti'\. There are some on ade20k, cityscapes, coco, mapillary"):
        list_models(SPECS, data="kitti")


def test_a_filter_that_fits_nothing_is_refused() -> None:
    assert "No model fits --filter 'unicorn'" in refusal(BadArgument, list_models, SPECS, "unicorn")


def test_the_origin_of_weights_is_a_word() -> None:
    names = ("mask2former-r50", "eomt-dinov2-l-640", "psf-r101", "eomt-tiny")
    assert [origin(load_catalog()[name]) for name in names] == ["mmdet", "hub", "git", "ours"]
