"""The printed report, as a PDF that Chromium writes: the size of its text, how full its pages are, and what is cut."""

import ctypes
import math
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Opened

from panbench.report.pages.page.document import write_report
from panbench.runs import load_run

pdfium = pytest.importorskip("pypdfium2", reason="pypdfium2 is not installed: pip install pypdfium2")


def copies_of(runs, number: int, folder: Path) -> list:
    """So many runs, the given ones in turn under other names."""
    places = [shutil.copytree(runs[copy % len(runs)].path, folder / f"run-of-a-name-{copy}") for copy in range(number)]
    return [load_run(place) for place in places]


@dataclass(frozen=True)
class Printed:
    """What became of a page that was open in a wide window on A4, whose text is 702 × 1017 CSS pixels."""

    models: int
    document: Any
    tops: list[int]  # of the pictures of the first image, in CSS pixels
    overview_ends: float  # how far down the first page, in CSS pixels
    width: int


@pytest.fixture(scope="module", params=[1, 2, 5, 12])
def printed(request, browser, shared_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("printed")
    runs = copies_of(shared_runs, request.param, folder)
    for number, run in enumerate(runs[2:]):
        title = f"mask2former_swin_large_seed{number}_of_a_long_experiment"
        run.info = replace(run.info, model=replace(run.info.model, title=title))
    (folder / "light.json").write_text('{"day": [7, 8], "night": [9, 10]}', "utf-8")
    opened = Opened(browser, write_report(runs, folder / "report.html", slices=folder / "light.json"), width=1440)
    page = opened.page
    page.locator("#figures figure canvas").last.wait_for(state="attached")
    document = pdfium.PdfDocument(page.pdf(path=folder / "report.pdf", format="A4"))
    # The same page as a window as wide as the paper, which can be measured.
    opened.show(702, media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    tops = page.locator("#figures figure").first.locator("canvas")
    yield Printed(
        request.param,
        document,
        tops.evaluate_all("nodes => nodes.map(node => Math.round(node.getBoundingClientRect().top))"),
        page.evaluate("document.getElementById('fix-words').getBoundingClientRect().bottom + scrollY"),
        page.evaluate("document.documentElement.scrollWidth"),
    )
    opened.close("file:")


def sizes_of_text(page) -> list[float]:
    """The size of each character that is seen, in points on paper."""
    text, matrix, found = page.get_textpage(), pdfium.raw.FS_MATRIX(), []
    for place in range(text.count_chars()):
        if not text.get_text_range(place, 1).strip():
            continue
        pdfium.raw.FPDFText_GetMatrix(text.raw, place, ctypes.byref(matrix))
        scale = math.sqrt(abs(matrix.a * matrix.d - matrix.b * matrix.c))
        found.append(pdfium.raw.FPDFText_GetFontSize(text.raw, place) * scale)
    return found


def filled(page) -> float:
    """How far down a page there is ink, as a fraction of it."""
    rows = np.flatnonzero((np.asarray(page.render(scale=0.5).to_pil().convert("L")) < 250).any(axis=1))
    return float(rows[-1] + 1) / (page.get_height() * 0.5) if len(rows) else 0.0


def test_print_has_no_text_below_seven_points_and_no_page_half_empty_but_the_last(printed):
    sizes = [size for page in printed.document for size in sizes_of_text(page)]
    assert len(sizes) > 2000
    assert min(sizes) >= 7
    # Running text is what the style sheet asks for: the page was not shrunk to fit something wide.
    assert max(sizes) == pytest.approx(19 * 0.75, abs=0.1)
    assert min(filled(page) for page in list(printed.document)[:-1]) >= 0.5, printed.models


def test_printed_pictures_of_an_image_are_in_one_row(printed):
    columns = {1: [3], 2: [4], 5: [7], 12: [7, 7]}[printed.models]
    assert [printed.tops.count(top) for top in dict.fromkeys(printed.tops)] == columns


def test_print_fills_the_paper_and_two_models_fit_on_the_first_page(printed):
    assert printed.width <= 702
    assert printed.overview_ends < 1017 or printed.models > 2


def test_five_models_print_on_one_page_without_being_cut(open_report, shared_runs, tmp_path):
    page = open_report(write_report(copies_of(shared_runs, 5, tmp_path), tmp_path / "five.html", examples=0), width=702)
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("document.getElementById('fix-words').getBoundingClientRect().bottom + scrollY") < 1017
    assert page.evaluate("document.documentElement.scrollWidth") <= 702


def test_charts_are_redrawn_for_paper_and_back_for_the_screen(open_report):
    page = open_report(width=1440)
    # Printed in the frame after the one that drew the chart: its new height is still to be observed.
    wide = page.evaluate("""new Promise((done) => requestAnimationFrame(() => {
        document.querySelector("#cost summary").parentElement.open = true;
        requestAnimationFrame(() => {
            const width = document.querySelector("#chart-params svg[role=img]").getAttribute("width");
            window.dispatchEvent(new Event("beforeprint"));
            requestAnimationFrame(() => done(Number(width)));
        });
    }))""")
    chart = page.locator("#chart-params svg[role=img]").first
    assert float(chart.get_attribute("width")) == 700
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert float(chart.get_attribute("width")) == wide > 700
