"""Three questions put to a report by a browser, with a stopwatch: which is better, on which categories, and why?

    python scripts/make/coco_like.py DIR --images 500      # and its runs, as that script says
    panbench report DIR/results --out report.html
    python scripts/bench/report_questions.py report.html

Prints for each question the clicks, the seconds until its answer is on the screen (1,600 × 1,000 pixels, nothing
scrolled by hand) and the answer as the page words it. A person's reading comes on top. Needs Chromium and Playwright.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


class Stopwatch:
    """Counts clicks and seconds since the question was put."""

    def __init__(self) -> None:
        self.clicks, self._began = 0, time.perf_counter()

    def click(self, target: "Locator") -> None:
        """One click."""
        self.clicks += 1
        target.click()

    def stop(self, question: str, answer: str) -> None:
        """Prints what it took."""
        seconds = time.perf_counter() - self._began
        clicks = "no click" if not self.clicks else f"{self.clicks} click{'s' if self.clicks > 1 else ''}"
        print(f"{question}: {clicks}, {seconds:.1f} s\n    {' '.join(answer.split())}")


def ask(page: "Page", report: Path) -> None:
    """Puts the three questions."""
    watch = Stopwatch()
    page.goto(report.resolve().as_uri())
    page.locator("#verdict").wait_for()
    assert _on_screen(page.locator("#verdict"))
    watch.stop("Which is better", page.locator("#verdict strong").inner_text())

    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#categories']"))
    first = page.locator("#category-scores tbody tr")
    first.first.wait_for()
    _until(lambda: _on_screen(first.first))
    # The first column is the category, the one after the models' axis the difference of the pair.
    head = page.locator("#category-scores thead th").all_inner_texts()
    place = next(index for index, text in enumerate(head) if "A − B" in text)
    rows = [first.nth(index).locator("> *").all_inner_texts() for index in range(3)]
    # What the tests say of all categories comes before any single one.
    found = page.locator("#categories-finding").inner_text()
    watch.stop("On which categories", f"{found} {'; '.join(f'{cells[0]} {cells[place]}' for cells in rows)}")

    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#overview'], a[href='#overview']").first)
    _until(lambda: _on_screen(page.locator("#verdict")))
    reasons = page.locator("#verdict > span").inner_text()
    watch.stop("Why, in words", reasons)

    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#causes']"))
    cause = page.locator("#cause-table [data-lead]").first
    _until(lambda: _on_screen(cause))
    watch.click(cause)
    _until(lambda: _on_screen(page.locator("#viewer canvas").first))
    shown = page.locator(".chip").inner_text()
    watch.stop("Why, in a picture", shown)


def _on_screen(node: "Locator") -> bool:
    box = node.bounding_box()
    return box is not None and box["y"] >= 0 and box["y"] + min(box["height"], 400) <= 1000


def _until(holds: Callable[[], bool]) -> None:
    limit = time.perf_counter() + 20
    while not holds():
        if time.perf_counter() > limit:
            raise SystemExit("The answer did not come onto the screen in 20 seconds.")
        time.sleep(0.01)


def main() -> None:
    """Reads the arguments and asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="the report, as `panbench report` wrote it")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    found = os.environ.get("PANBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=ARGUMENTS)
        page = browser.new_context(viewport={"width": 1600, "height": 1000}, reduced_motion="reduce").new_page()
        ask(page, options.report)
        browser.close()


if __name__ == "__main__":
    main()
