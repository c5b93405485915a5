"""The section of the page on what networks say before fusion."""

import html
from pathlib import Path

from report_runs import text_of
from support import evaluated

from panbench.catalog import find_model
from panbench.datasets import open_dataset, shapes
from panbench.report.answers.findings import metric_findings
from panbench.report.answers.grid import percent
from panbench.report.pages.page.document import report_page
from panbench.studies.unfused.options import UnfusedOptions


def words_of(runs) -> str:
    return " ".join(html.unescape(text_of(report_page(runs))).split())


def test_the_page_has_ap_of_masks_and_boxes_and_the_source_of_boxes(tmp_path: Path) -> None:
    shapes.generate(tmp_path / "scenes", count=4, size=(96, 128))
    dataset = open_dataset(tmp_path / "scenes")
    measured = evaluated(
        find_model("panoptic-fpn-tiny"), dataset, tmp_path / "boxes", studies=(UnfusedOptions("pq,ap,miou"),)
    )
    plain = evaluated(find_model("maskformer-tiny"), dataset, tmp_path / "plain")
    shown = words_of([measured, plain]).split("Before fusion", 1)[1]
    record = metric_findings(measured).record
    for value in (record["AP_pan"]["AP"], record["AP_box_pan"]["AP"], record["mIoU_pan"]):
        assert percent(value, 1) in shown
    assert "of boxes: the boxes of the model's own box head" in shown
    assert "Not measured: MaskFormer tiny" in shown


def test_without_rows_the_page_has_the_command_that_makes_them(make_runs) -> None:
    missing = words_of(make_runs()).split("Left out")[-1]
    assert "AP_pan, box AP_pan and mIoU_pan: panbench eval … --metrics pq,ap,miou" in missing
