"""What to fix first, and the wall of errors, in a real browser."""

import io

import numpy as np
from browsing import Opened, serving, wait_in_page
from PIL import Image

MISSED = (194, 24, 122)


def choose(page, label: str, option: str) -> None:
    page.locator("#wall").get_by_label(label, exact=True).select_option(label=option)


def test_the_wall_shows_the_errors_of_a_cause_and_what_another_model_has_there(open_report):
    page = open_report()
    tiles = page.locator("#wall .tiles li")
    choose(page, "Errors of", "second")
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
    assert "panbench show errors run-b" in page.locator("#wall").inner_text()


def test_what_was_missed_can_be_seen_on_its_crop(open_report):
    page = open_report()
    choose(page, "Errors of", "second")
    choose(page, "Cause", "missed")
    crop = page.locator("#wall .tiles li").first.locator("svg.crop").first
    crop.scroll_into_view_if_needed()
    shown = np.asarray(Image.open(io.BytesIO(crop.screenshot())).convert("RGB")).astype(int)
    magenta = (np.abs(shown - MISSED).sum(axis=2) < 40).mean()
    # The line alone, and broken: neither nothing nor a filled shape.
    assert 0.001 < magenta < 0.2


def test_a_click_on_an_error_opens_its_image_in_the_model_that_made_it(open_report):
    page = open_report()
    choose(page, "Errors of", "second")
    choose(page, "Cause", "missed")
    tile = page.locator("#wall .tile").nth(1)
    image = tile.get_attribute("data-image")
    tile.click()
    wait_in_page(page, f"document.getElementById('viewer').dataset.image === '{image}'")
    viewer = page.locator("#viewer")
    assert viewer.locator(".corner.right").inner_text() == "second"
    wait_in_page(page, "document.querySelector('#viewer .places [role=status]')?.textContent.includes('missed')")
    assert "ball" in viewer.locator(".places [role=status]").inner_text()


def test_what_to_fix_first_has_its_errors_and_the_words_of_the_verdict(open_report):
    page = open_report()
    page.locator("#fix-first").get_by_label("Fix first in", exact=True).select_option(label="second")
    rows = page.locator("#fix-first .fixes > li")
    assert rows.first.locator("h3").inner_text().startswith("+")
    assert rows.first.locator(".tile").count() > 0
    wins = [float(text[1:].split(" ")[0]) for text in rows.locator("h3").all_inner_texts()]
    assert wins == sorted(wins, reverse=True)
    page.locator("#fix-first").get_by_label("Fix first in", exact=True).select_option(index=0)
    first = rows.first.locator("h3").inner_text()
    assert page.locator("#fix-words").inner_text().split("would win: ")[1].split(" (")[0] in first


def test_the_twelve_dearest_are_printed(open_report):
    page = open_report()
    page.emulate_media(media="print")
    tiles = page.locator("#wall .tiles li")
    shown = [tiles.nth(place).is_visible() for place in range(tiles.count())]
    assert sum(shown) == min(12, len(shown))
    assert not page.locator("#wall select").first.is_visible()


def test_a_served_page_has_the_wall_of_all_images_and_crops_of_what_to_fix_first(browser, shared_runs):
    with serving(shared_runs[0].path.parent) as address:
        opened = Opened(browser, f"{address}/compare?run=run-a&run=run-b")
        page = opened.page
        page.locator("#wall").scroll_into_view_if_needed()
        tiles = page.locator("#wall .tiles li")
        tiles.first.wait_for()
        choose(page, "Errors of", "second")
        choose(page, "Cause", "missed")
        wait_in_page(page, "document.querySelector('#wall [role=status]').textContent.startsWith('4 of ')")
        assert all("missed ball, small" in text for text in tiles.all_inner_texts())
        assert all("first <b>model</b>: found, IoU 1.00" in text for text in tiles.all_inner_texts())
        choose(page, "Size", "large")
        wait_in_page(page, "document.querySelectorAll('#wall .tiles li').length === 0")
        choose(page, "Size", "any")
        tiles.first.wait_for()
        image = tiles.nth(1).locator("button").get_attribute("data-image")
        tiles.nth(1).locator("button").click()
        wait_in_page(page, f"document.getElementById('viewer').dataset.image === '{image}'")
        # The viewer may have shown this image before, in another model.
        wait_in_page(page, "document.querySelector('#viewer .corner.right').textContent === 'second'")
        page.locator("#fix-first").scroll_into_view_if_needed()
        page.locator("#fix-first .fixes li .tile").first.wait_for()
        opened.close(address)
