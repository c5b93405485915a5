"""Makes build/demo.html, which the documents' site shows, of the demo's runs; with --pictures also docs/report.md's.

    make demo && .venv/bin/python scripts/make/report_docs.py --pictures

The screenshots need Chromium and Playwright; they are written in all their colours.
"""

import argparse
import io
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from panbench.base.reporter import Collected
from panbench.report.answers.tables import find_runs
from panbench.report.figures.pictures import Layer, Pictures, RunPictures, diff_figure, save_figure, side_by_side_figure
from panbench.report.pages.page.document import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny")
"""The models of `make demo`."""
TALLEST = 16_383
RUNS, DOCS = ROOT / "results" / "demo", ROOT / "docs"
DEMO = ROOT / "build" / "demo.html"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


def take_pictures(page: Path, docs: Path) -> list[Path]:
    """Takes screenshots of a report: complete at 1,600 and 400 pixels, as printed, and the viewer and the top alone."""
    from playwright.sync_api import sync_playwright

    found = os.environ.get("PANBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    written = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=ARGUMENTS)
        wide = _open_scrolled(browser, page, 1600, "light")
        written.append(_save_picture(_picture_of_whole_page(wide), docs / "report" / "1600-light.webp"))
        # The README's picture is the first screen.
        box = wide.locator("#overview").bounding_box()
        assert box is not None
        top = wide.screenshot(clip={"x": 0, "y": 0, "width": 1600, "height": box["y"] + box["height"]}, full_page=True)
        written.append(_save_picture(top, docs / "pictures" / "report.png", width=1200))
        wide.get_by_role("button", name="Side by side").click()
        wide.wait_for_timeout(800)
        wide.evaluate("document.getElementById('contents').style.position = 'static'")
        written.append(_save_picture(wide.locator("#viewer").screenshot(), docs / "report" / "viewer.webp"))
        narrow = _open_scrolled(browser, page, 400, "dark")
        written.append(_save_picture(_picture_of_whole_page(narrow), docs / "report" / "400-dark.webp"))
        # A4 within its margins.
        printed = _open_scrolled(browser, page, 702, "light", height=1017)
        printed.evaluate("window.dispatchEvent(new Event('beforeprint'))")
        printed.emulate_media(media="print")
        printed.wait_for_timeout(800)
        box = printed.locator("#fix-words").bounding_box()
        assert box is not None
        first_page: Any = {"x": 0, "y": 0, "width": 702, "height": box["y"] + box["height"]}
        written.append(
            _save_picture(printed.screenshot(clip=first_page, full_page=True), docs / "report" / "print.webp")
        )
        browser.close()
    return written


def draw_pictures(runs: Path, docs: Path) -> list[Path]:
    """Draws the README's picture of two models side by side, and the difference of two, as `panbench show` does."""
    loaded = {run.name: run for run in find_runs([runs])}

    def layers(image_id: int, *names: str) -> tuple[Pictures, list[Layer]]:
        pictures = Pictures(loaded[names[0]])
        return pictures, [RunPictures(loaded[name]).prediction(image_id, pictures) for name in names]

    categories = next(iter(loaded.values())).categories
    pictures, both = layers(5, "panoptic-fpn-tiny", "mask2former-tiny")
    truth = RunPictures(loaded["panoptic-fpn-tiny"]).truth(5, pictures)
    beside = docs / "pictures" / "shapes-side-by-side.png"
    save_figure(side_by_side_figure(pictures.photo(5), [truth, *both], categories, columns=2), beside)
    pictures, (a, b) = layers(105, "mask2former-tiny", "maskformer-tiny")
    apart = docs / "report" / "diff.png"
    save_figure(diff_figure(pictures.photo(105), a, b, categories), apart)
    return [beside, apart]


def _open_scrolled(browser: "Browser", page: Path, width: int, scheme: Any, height: int = 1000) -> "Page":
    """Opens the report in a window and scrolls through it once, so that lazily painted parts are drawn."""
    opened = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme).new_page()
    opened.goto(page.resolve().as_uri())
    opened.locator("#cause-bars tr").first.wait_for(state="attached")
    opened.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    for part in ("#wall-view", "#viewer", ".thumbs"):
        opened.locator(part).scroll_into_view_if_needed()
        opened.wait_for_timeout(1500)
    opened.evaluate("window.scrollTo(0, 0)")
    opened.wait_for_timeout(300)
    return opened


def _picture_of_whole_page(page: "Page") -> bytes:
    """Takes a picture of the complete page, cut at TALLEST pixels, the limit of WebP."""
    width, height = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
    whole: Any = {"x": 0, "y": 0, "width": width, "height": min(height, TALLEST)}
    return page.screenshot(clip=whole, full_page=True)


def _save_picture(content: bytes, target: Path, width: int | None = None) -> Path:
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    if width is not None:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    settings: dict[str, Any] = {"quality": 82, "method": 6} if target.suffix == ".webp" else {"optimize": True}
    picture.save(target, **settings)
    return target


def main() -> None:
    """Parses the command line and writes the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pictures", action="store_true", help="also take the screenshots")
    arguments = parser.parse_args()
    collected = Collected()
    page = write_report(
        find_runs([RUNS / name for name in MODELS]),
        DEMO,
        title="Three small models on shapes val",
        reporter=collected,
        command=["panbench", "report", "results/demo"],
    )
    print(*collected.notices, sep="\n")
    print(page)
    if arguments.pictures:
        for path in (*draw_pictures(RUNS, DOCS), *take_pictures(page, DOCS)):
            print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
