"""Measures what a report's page computes for three actions: sorting the categories, the next image, side by side.

    panbench report DIR/results --out report.html
    python scripts/bench/report_actions.py report.html [--against before.html]

Both pages open in the same Chromium, one after the other. Printed is the CPU time of the page's main thread for each
action (DevTools' TaskDuration in the time of the thread), the median of five, so other work on the machine counts
little: until the answer is painted, and until the page is at rest again, which holds what it does ahead for the next
action. What another process does is not in it. Needs Chromium and Playwright.
"""

import argparse
import os
import shutil
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
TIMES = 5


# A click, and the frame after the one in which the answer is there: another picture, or at once.
CLICK = """async (pictures) => {{
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const before = document.querySelector('#viewer canvas');
    {click};
    while (pictures && document.querySelector('#viewer canvas') === before) await frame();
    await frame();
    await frame();
}}"""


def measured(page: "Page", tools: "CDPSession", act: str, undo: str, pictures: bool) -> tuple[float, float]:
    """Milliseconds of the main thread after an action until its answer is painted, and until the page is at rest.

    act, undo: scripts that click; pictures: the answer is another picture. Each is the median of TIMES.
    """

    def spent() -> float:
        metrics = tools.send("Performance.getMetrics")["metrics"]
        return 1000 * next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")

    found = []
    for _ in range(TIMES):
        before = spent()
        page.evaluate(CLICK.format(click=act), pictures)
        painted = spent()
        page.wait_for_timeout(600)
        found.append((painted - before, spent() - before))
        if undo:
            page.evaluate(CLICK.format(click=undo), pictures)
        page.wait_for_timeout(600)
    return statistics.median(one for one, _ in found), statistics.median(one for _, one in found)


def actions(page: "Page", report: Path) -> dict[str, tuple[float, float]]:
    """Opens a report and gives the milliseconds of each action."""
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(report.resolve().as_uri())
    page.locator("#viewer canvas").first.wait_for()
    page.wait_for_timeout(2000)
    head = "document.querySelector('#category-scores th button.sort').click()"
    button = "[...document.querySelectorAll('#viewer button')].find(one => one.textContent.includes('{}')).click()"
    return {
        "sort": measured(page, tools, head, "", False),
        "next image": measured(page, tools, button.format("Next"), "", True),
        "side by side": measured(page, tools, button.format("Side by side"), button.format("Divider"), True),
    }


def main() -> None:
    """Reads the arguments, opens the pages and prints the times."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--against", type=Path, help="the page of another checkout, of the same runs")
    chosen = parser.parse_args()
    found = os.environ.get("PANBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=ARGUMENTS)
        pages = [chosen.report, *([chosen.against] if chosen.against else [])]
        times = [actions(browser.new_page(viewport={"width": 1600, "height": 1000}), page) for page in pages]
        browser.close()
    for action, now in times[0].items():
        words = f"{action}: {now[0]:.0f} ms of CPU until it is painted, {now[1]:.0f} in all"
        if chosen.against:
            before = times[1][action]
            words += f"; before {before[0]:.0f} and {before[1]:.0f} ({before[0] / max(now[0], 0.1):.1f} ×)"
        print(words)


if __name__ == "__main__":
    main()
