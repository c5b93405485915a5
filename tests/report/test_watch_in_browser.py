"""The page of a run that is being written, in the browser: its numbers change by themselves."""

import os
import subprocess
import sys

import pytest
from browsing import Opened, serving, wait_in_page
from growing_run import Growing

pytest.importorskip("starlette", reason="the extra is not installed")
from panbench.report.pages.live import watch


@pytest.fixture
def growing(tmp_path):
    made = Growing(tmp_path)
    yield made
    made.writer.close()


@pytest.fixture
def open_live(browser, growing, monkeypatch):
    """A function that opens the page of the run; at the end nothing was complained of or fetched elsewhere."""
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.05)
    opened = []
    with serving(growing.folder) as address:

        def open_(**settings):
            opened.append(Opened(browser, f"{address}/live?run=live", ready="html[data-ready]", **settings))
            return opened[-1].page

        yield open_
        for one in opened:
            one.close(address)


def counted(page, images: int) -> None:
    wait_in_page(page, f"document.getElementById('counts').textContent.startsWith('{images} of 30 images')")


def test_pq_and_errors_update_while_a_run_is_written_and_its_report_follows(growing, open_live):
    page = open_live()
    counted(page, 0)
    assert page.get_by_text("No image is scored yet.").is_visible()
    growing.score(*range(7, 19))
    counted(page, 12)
    assert all(page.locator("#scores thead th").all_inner_texts())
    cells = page.locator("#scores tbody tr").first.locator("th, td").all_inner_texts()
    assert cells[0] == "All"
    first = float(cells[1])
    assert 0 < first < 100
    assert cells[2].startswith("[")
    assert page.locator("#tiles svg.crop").count() == page.locator("#tiles li").count() > 0
    assert page.locator("#meter").evaluate("meter => [meter.value, meter.max]") == [12, 30]
    part = growing.score(19)
    os.utime(part, (part.stat().st_mtime + 10, part.stat().st_mtime + 10))
    counted(page, 13)  # else it may be read together with the next part, and be the newer one of the two
    growing.score(*range(20, 36))
    counted(page, 29)
    assert "images a second" in page.locator("#counts").inner_text()
    assert page.locator("#tiles li").first.locator("button").get_attribute("data-image") in map(str, range(20, 36))
    growing.score(36)
    growing.writer.finish("done")
    # The same tab becomes the ordinary page.
    page.locator("html[data-ready] #cause-bars tr").first.wait_for()
    assert page.url.endswith("/compare?run=live")


def test_an_error_opens_the_report_at_its_image(growing, open_live):
    growing.score(*range(7, 12))
    page = open_live()
    counted(page, 5)
    image = page.locator("#tiles button").first.get_attribute("data-image")
    page.locator("#tiles button").first.click()
    wait_in_page(page, f"document.querySelector('#viewer')?.dataset.image === '{image}'")


def test_a_run_that_dies_is_shown_as_stopped_with_the_command_to_copy(growing, open_live):
    growing.score(7, 8)
    page = open_live()
    counted(page, 2)
    # What is left when the process ends: a record that names one that has ended.
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    record = growing.folder / ".live.lock.owner"
    record.write_text(record.read_text().replace(f'"pid": {os.getpid()}', f'"pid": {ended.pid}'))
    wait_in_page(page, "document.documentElement.dataset.state === 'stopped'")
    assert "has ended without closing it" in page.locator("#said").inner_text()
    assert page.locator("#said code").inner_text() == "panbench eval --model second --data shapes --resume"


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (1600, "dark")])
def test_the_page_is_no_wider_than_the_window(growing, open_live, width, scheme):
    growing.score(*range(7, 19))
    page = open_live(width=width, scheme=scheme)
    counted(page, 12)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
