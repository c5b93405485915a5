"""The report page in a real browser: Debian's chromium, headless, driven by Playwright.

Skipped where there is none. axe-core is not part of this repository: PANBENCH_AXE names its axe.min.js, which .ci/run
fetches with npm.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from panbench.report.page.document import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")

CHROMIUM = os.environ.get("PANBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no chromium is installed (Debian: apt-get install chromium)", allow_module_level=True)

# Nothing of the browser's own may go out, so that every request that is seen is the page's.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


class Opened:
    """A page in a browser, with what it wrote to the console and the requests that were not for the file itself."""

    def __init__(self, browser, path: Path, width: int = 1600, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog opened"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function("document.querySelector('#chart-causes svg') !== null")


@pytest.fixture(scope="module")
def report(shared_runs, tmp_path_factory) -> Path:
    return write_report(shared_runs, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def open_report(browser, report) -> Iterator:
    """A function that opens the report of two runs, or another; at the end nothing was complained of or fetched."""
    opened = []

    def open_(path=None, **settings) -> "playwright.Page":
        opened.append(Opened(browser, path or report, **settings))
        return opened[-1].page

    yield open_
    for one in opened:
        assert one.complaints == []
        assert [url for url in one.requests if not url.startswith(("file:", "data:"))] == []
        one.context.close()


def column(page, index: int) -> list[str]:
    """The texts of one column of the table of categories."""
    return page.locator(f"#category-scores tbody tr > :nth-child({index})").all_inner_texts()


def test_categories_are_sorted_by_a_click_and_back_by_another(open_report):
    page = open_report()
    head = page.locator("#category-scores thead th").nth(1)
    assert head.get_attribute("aria-sort") == "ascending"
    scores = [float(text) for text in column(page, 2)]
    assert scores == sorted(scores)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(page, 2)] == sorted(scores, reverse=True)
    page.locator("#category-scores thead th").nth(0).get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert [name[:3] for name in column(page, 1)] == ["<im", "bal", "sky"]


def test_categories_are_filtered_by_name_and_kind(open_report):
    page = open_report()
    page.get_by_label("Filter", exact=True).fill("BAL")
    assert column(page, 1) == ["ball"]
    assert page.get_by_text("1 of 3 categories").is_visible()
    page.get_by_label("Filter", exact=True).fill("")
    page.get_by_role("button", name="Stuff").click()
    assert column(page, 1) == ["sky"]
    page.get_by_role("button", name="RQ").click()
    assert column(page, 2) == ["100.0"]


def test_a_category_opens_its_examples(open_report):
    page = open_report()
    page.locator("#category-scores").get_by_role("button", name="sky").click()
    assert page.get_by_label("Category", exact=True).evaluate("box => box.selectedOptions[0].text") == "sky"
    assert page.locator(".thumbs button").count() == 4


def test_the_gallery_is_filtered_by_cause_and_ordered(open_report):
    page = open_report()
    page.get_by_label("Error", exact=True).select_option("wrong category")
    assert sorted(page.locator(".thumbs button").evaluate_all("all => all.map(one => one.dataset.image)")) == [
        "10",
        "8",
    ]
    assert page.get_by_text("2 of 4 images").is_visible()
    assert page.locator("#viewer").get_attribute("data-image") in ("8", "10")
    page.get_by_label("Error", exact=True).select_option("any")
    page.get_by_label("Order", exact=True).select_option("largest disagreement")
    first = page.locator(".thumbs button").first.get_attribute("data-image")
    assert first in ("8", "10")


def test_the_divider_follows_pointer_and_keys(open_report):
    page = open_report()
    divider = page.get_by_role("slider", name="Divider")
    assert divider.get_attribute("aria-valuenow") == "50"
    divider.scroll_into_view_if_needed()
    stage = page.locator(".stage canvas").bounding_box()
    middle = stage["y"] + stage["height"] / 2
    page.mouse.move(stage["x"] + stage["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] * 0.8, middle, steps=4)
    page.mouse.up()
    assert int(divider.get_attribute("aria-valuenow")) == pytest.approx(80, abs=1)
    divider.press("ArrowRight")
    assert int(divider.get_attribute("aria-valuenow")) == pytest.approx(82, abs=1)
    divider.press("Home")
    assert divider.get_attribute("aria-valuenow") == "0"


def test_the_divider_parts_two_different_pictures(open_report):
    page = open_report()
    page.get_by_label("Left", exact=True).select_option("Image")
    page.locator(".thumbs button[data-image='8']").click()
    canvas = page.locator(".stage canvas")
    divider = page.get_by_role("slider", name="Divider")
    divider.press("Home")
    covered = canvas.evaluate("canvas => canvas.toDataURL()")
    divider.press("End")
    bare = canvas.evaluate("canvas => canvas.toDataURL()")
    assert covered != bare


def hover(page, x: float, y: float) -> str:
    """The tooltip when the pointer is at a fraction of the stage's width and height."""
    page.locator(".stage canvas").scroll_into_view_if_needed()
    stage = page.locator(".stage canvas").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] * x, stage["y"] + stage["height"] * y)
    return page.locator("#tooltip").inner_text()


def test_pointing_at_a_segment_names_it_with_its_verdict(open_report):
    page = open_report()
    page.locator(".thumbs button[data-image='8']").click()
    page.get_by_label("Right", exact=True).select_option("second")
    page.get_by_role("slider", name="Divider").press("Home")
    # Image 8: the second model takes the cat, at columns 5 to 14 of 40 and rows 5 to 13 of 30, for a ball.
    told = hover(page, 10 / 40, 8.5 / 30)
    assert told.splitlines() == ["second", "ball", "score 0.70", "false positive (wrong category) · FP", "90 pixels"]
    assert "found, IoU 1.00 · TP" in hover(page, 35.5 / 40, 16.5 / 30)
    assert hover(page, 35.5 / 40, 28.5 / 30) == "second\nvoid: no segment"
    page.get_by_role("slider", name="Divider").press("End")
    told = hover(page, 10 / 40, 8.5 / 30)
    assert told.startswith("Ground truth\n<img src=x onerror=alert(1)>")
    assert "first <b>model</b>: found, IoU 0.90 · TP" in told
    assert "second: missed (wrong category) · FN" in told


def test_clicks_in_the_scatter_open_the_images_that_lie_there_one_after_the_other(open_report):
    page = open_report()
    # Images 7 and 9 have the same PQ in both models, so their points lie on each other.
    opened = []
    for _ in range(2):
        point = page.locator("#points circle[data-image='9']")
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        opened.append(page.locator("#viewer").get_attribute("data-image"))
        assert page.locator("#viewer").evaluate("node => node === document.activeElement")
    assert sorted(opened) == ["7", "9"]


def test_the_scatter_is_walked_with_keys(open_report):
    page = open_report()
    page.locator("#points").focus()
    page.keyboard.press("ArrowRight")
    said = page.locator("#image-view [role=status]").inner_text()
    assert said.startswith(("Image 8,", "Image 10,"))
    page.keyboard.press("Enter")
    assert page.locator("#viewer").get_attribute("data-image") == said.split(",")[0].removeprefix("Image ")


def test_side_by_side_shows_image_truth_and_every_model(open_report):
    page = open_report()
    page.get_by_role("button", name="Side by side").click()
    assert page.locator(".pane h4").all_inner_texts() == ["Image", "Ground truth", "first <b>model</b>", "second"]
    assert page.locator(".pane canvas").count() == 4


def test_the_page_is_dark_where_the_system_is_and_the_button_overrides_it(open_report):
    page = open_report(scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    assert max(map(int, dark[4:-1].split(","))) < 60
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_never_scrolls_sideways(open_report, width):
    page = open_report(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_run_alone_has_its_images_by_rank(open_report, shared_runs, tmp_path):
    page = open_report(path=write_report(shared_runs[:1], tmp_path / "single.html"))
    page.locator("#points").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#viewer").get_attribute("data-image") in ("8", "10")


def test_an_image_without_a_picture_says_how_to_get_one(open_report, make_runs, tmp_path):
    page = open_report(path=write_report(make_runs(predictions=False), tmp_path / "bare.html"))
    assert "No run has stored predictions" in page.locator("#gallery").inner_text()
    page.locator("#image-view").get_by_role("button", name="Image 8").click()
    said = page.locator("#image-view [role=status]").inner_text()
    assert said.endswith("panbench report run-a run-b --image 8")


def test_printing_is_light_and_complete(open_report, tmp_path):
    page = open_report(scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#provenance details[open]").count() == 1


@pytest.mark.parametrize(("width", "scheme"), [(1600, "light"), (400, "dark")])
def test_axe_finds_no_serious_violation(open_report, width, scheme):
    script = os.environ.get("PANBENCH_AXE")
    if not script or not Path(script).is_file():
        pytest.skip("PANBENCH_AXE does not name axe-core's axe.min.js (npm pack axe-core)")
    page = open_report(width=width, scheme=scheme)
    page.evaluate(Path(script).read_text("utf-8"))
    found = page.evaluate("async () => (await axe.run()).violations")
    serious = [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]} {node['failureSummary']}"
        for violation in found
        for node in violation["nodes"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []
