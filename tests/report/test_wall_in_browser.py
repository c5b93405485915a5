"""What to fix first, and the wall of errors, in a real browser."""

import io
import re

import numpy as np
import pytest
from browsing import Opened, serving, speak_of, wait_in_page
from PIL import Image
from report_runs import runs_in

from panbench.report.pages.page.document import write_report

MISSED = (255, 225, 0)


def choose(page, label: str, option: str) -> None:
    page.locator("#wall-view").get_by_label(label, exact=True).select_option(label=option)


def test_the_wall_shows_errors_of_a_cause_and_another_models_prediction(open_report):
    page = open_report()
    tiles = page.locator("#wall-view .tiles li")
    speak_of(page, "second")
    everything = tiles.count()
    choose(page, "Cause", "missed")
    assert 0 < tiles.count() == 4 < everything
    words = tiles.all_inner_texts()
    assert all("missed ball, small" in text for text in words)
    assert all("first <b>model</b>: found, IoU 1.00" in text for text in words)
    choose(page, "Cause", "wrong category")
    assert tiles.count() == 2
    choose(page, "Category", "ball")
    assert tiles.count() == 0
    assert "panbench show errors run-b" in page.locator("#wall-view").inner_text()


def test_a_missed_object_is_visible_on_its_crop(open_report):
    page = open_report()
    speak_of(page, "second")
    choose(page, "Cause", "missed")
    crop = page.locator("#wall-view .tiles li").first.locator("svg.crop").first
    crop.scroll_into_view_if_needed()
    shown = np.asarray(Image.open(io.BytesIO(crop.screenshot())).convert("RGB")).astype(int)
    yellow = (np.abs(shown - MISSED).sum(axis=2) < 40).mean()
    # The line alone, and broken: neither nothing nor a filled shape.
    assert 0.001 < yellow < 0.2


def test_a_click_on_an_error_opens_its_image_in_the_model_that_made_it(open_report):
    page = open_report()
    speak_of(page, "second")
    choose(page, "Cause", "missed")
    tile = page.locator("#wall-view .tile").nth(1)
    image = tile.get_attribute("data-image")
    tile.click()
    wait_in_page(page, f"document.getElementById('viewer').dataset.image === '{image}'")
    viewer = page.locator("#viewer")
    assert viewer.locator(".corner.right").inner_text() == "second"
    wait_in_page(page, "document.querySelector('#viewer .places [role=status]')?.textContent.includes('missed')")
    assert "ball" in viewer.locator(".places [role=status]").inner_text()


def test_on_a_telephone_an_error_fills_the_screen_after_one_click_until_back(open_report):
    page = open_report(width=400, touch=True)
    tile = page.locator("#wall-view .tile").first
    tile.tap()
    canvas = page.locator("dialog[open] canvas")
    canvas.wait_for()
    box = canvas.bounding_box()
    assert box["width"] == 400
    assert box["height"] > 0.75 * 900
    # Back leads to where the error was clicked.
    assert float(page.locator("#viewer").get_attribute("data-zoom")) > 1
    page.go_back()
    wait_in_page(page, "!document.querySelector('dialog')")
    assert page.locator("#gallery-view > #viewer canvas").count() == 1
    assert tile.is_visible()


@pytest.fixture(scope="module")
def fixable(tmp_path_factory):
    """A report of two runs on 24 images, in all of which the second misses a ball."""
    folder = tmp_path_factory.mktemp("fixable")
    return write_report(runs_in(folder, images=24), folder / "report.html")


def test_each_kind_of_fix_expands_to_its_categories_and_six_errors(open_report, fixable):
    page = open_report(fixable)
    speak_of(page, "second")
    rows = page.locator("#fix-view details")
    wins = [float(text[1:]) for text in rows.locator(".won").all_inner_texts()]
    assert wins == sorted(wins, reverse=True)
    assert 1 < len(wins)
    # One stop of the Tab key; arrow keys walk through them.
    assert page.locator("#fix-view summary[tabindex='0']").count() == 1
    row = rows.filter(has_text="missed, small")
    assert "24 errors in 24 images" in row.inner_text()
    row.locator("summary").click()
    assert row.locator(".tile").count() == 6
    assert row.locator("p.note").inner_text().startswith("Most in: ball +")
    assert all("missed ball, small" in words for words in row.locator(".tile").all_inner_texts())


def test_the_first_screen_has_the_three_costliest_kinds_of_error(open_report, fixable):
    page = open_report(fixable)
    speak_of(page, "second")
    named = [row.split("\n")[0] for row in page.locator("#fix-view summary").all_inner_texts()][:3]
    tiles = page.locator("#costliest .tile")
    assert [text.split(" +")[0] for text in tiles.all_inner_texts()] == named
    tiles.first.click()
    wait_in_page(page, "!document.querySelector('.places').hidden")
    assert page.locator(".corner.right").inner_text() == "second"


def test_the_first_screen_is_only_the_verdict(open_report, fixable):
    for width in (1440, 1024):
        page = open_report(fixable, width=width)
        assert page.locator("#scores > summary").bounding_box()["y"] < 900
        assert page.locator("#lost").bounding_box()["y"] >= 900
        assert len(re.findall(r"\d[\d.,]*", page.locator("#overview").inner_text())) < 60


def test_a_bar_of_a_cause_filters_the_wall(open_report):
    page = open_report()
    page.locator("#cause-bars tr", has_text="missed").locator("button.cause").last.click()
    assert page.get_by_label("Model", exact=True).evaluate("node => node.selectedOptions[0].textContent") == "second"
    tiles = page.locator("#wall-view .tiles li")
    assert tiles.count() == 4
    assert all("missed ball" in text for text in tiles.all_inner_texts())


def test_printed_losses_of_causes_add_up(open_report, fixable):
    page = open_report(fixable)
    rows = page.locator("#cause-bars tbody tr")
    for model in (1, 2):
        cells = [rows.nth(row).locator("td").nth(model - 1) for row in range(rows.count() - 1)]
        parts = [float(cell.locator(".points").inner_text()) for cell in cells]
        total = float(rows.last.locator("td").nth(model - 1).inner_text())
        pq = float(page.locator(".models .pq").nth(model - 1).inner_text())
        assert round(sum(parts), 1) == total == round(100 - pq, 1)


@pytest.mark.parametrize("width", [400, 1440])
def test_a_crop_shows_its_object_at_120_pixels(open_report, width):
    page = open_report(width=width)
    speak_of(page, "second")
    choose(page, "Cause", "missed")
    # A ball of 6 pixels: its crop is 18 wide, and as wide as its tile.
    sides = page.locator("#wall-view svg.crop").evaluate_all("all => all.map(one => one.getBoundingClientRect().width)")
    assert min(sides) / 3 >= (60 if width == 400 else 80)


def test_the_twelve_costliest_errors_are_printed(open_report):
    page = open_report()
    page.emulate_media(media="print")
    tiles = page.locator("#wall-view .tiles li")
    shown = [tiles.nth(place).is_visible() for place in range(tiles.count())]
    assert sum(shown) == min(12, len(shown))
    assert not page.locator("#wall-view select").first.is_visible()


def test_a_served_page_has_the_wall_of_all_images_and_crops_of_fixes(browser, shared_runs):
    with serving(shared_runs[0].path.parent) as address:
        opened = Opened(browser, f"{address}/compare?run=run-a&run=run-b")
        page = opened.page
        page.locator("#wall-view").scroll_into_view_if_needed()
        tiles = page.locator("#wall-view .tiles li")
        tiles.first.wait_for()
        speak_of(page, "second")
        choose(page, "Cause", "missed")
        wait_in_page(page, "document.querySelector('#wall-view [role=status]').textContent.startsWith('4 of ')")
        assert all("missed ball, small" in text for text in tiles.all_inner_texts())
        assert all("first <b>model</b>: found, IoU 1.00" in text for text in tiles.all_inner_texts())
        choose(page, "Size", "large")
        wait_in_page(page, "document.querySelectorAll('#wall-view .tiles:not(:has(.room)) li').length === 0")
        choose(page, "Size", "any")
        tiles.first.wait_for()
        image = tiles.nth(1).locator("button").get_attribute("data-image")
        tiles.nth(1).locator("button").click()
        wait_in_page(page, f"document.getElementById('viewer').dataset.image === '{image}'")
        # The viewer may have shown this image before, in another model.
        wait_in_page(page, "document.querySelector('#viewer .corner.right').textContent === 'second'")
        opened.close(address)


def test_late_crops_do_not_move_a_click_in_a_served_page(browser, shared_runs):
    """With animated scrolling and slow answers: what stands below the crops keeps its place while they come."""
    with serving(shared_runs[0].path.parent) as address:
        opened = Opened(browser, f"{address}/compare?run=run-a&run=run-b", width=1024)
        page = opened.page
        page.emulate_media(reduced_motion="no-preference")
        waiting = []
        page.route("**/api/errors*", lambda route: waiting.append(route))
        page.locator("#where-table .link").first.click()
        wait_in_page(page, "document.activeElement.id === 'viewer'")
        near = "Math.abs(document.getElementById('viewer').getBoundingClientRect().top) < 200"
        wait_in_page(page, near)
        page.evaluate("document.getElementById('wall').scrollIntoView({ behavior: 'instant' })")
        page.locator("#where-table .link").first.click()
        for route in waiting:
            route.continue_()
        page.unroute("**/api/errors*")
        page.locator("#wall-view .tiles li:not(.room)").first.wait_for()
        wait_in_page(page, near)
        opened.close(address)
