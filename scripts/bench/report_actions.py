"""Measures what a report's page computes for three actions: sorting the categories, the next image, side by side.

    panbench report DIR/results --out report.html
    python scripts/bench/report_actions.py report.html [--against before.html]

Both pages open in the same Chromium, one after the other. Printed is the CPU time of the page's main thread for each
action (DevTools' TaskDuration in the time of the thread), the median of five, so other work on the machine counts
little; what a worker or another process does is not in it. Needs Chromium and Playwright.
"""

import argparse
import os
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import CDPSession, Page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
TIMES = 5


def measured(page: "Page", tools: "CDPSession", act: Callable[[], None], undo: Callable[[], None]) -> float:
    """Milliseconds of the main thread until the page is at rest after an action, the median of TIMES."""

    def spent() -> float:
        metrics = tools.send("Performance.getMetrics")["metrics"]
        return 1000 * next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")

    found = []
    for _ in range(TIMES):
        before = spent()
        act()
        page.wait_for_timeout(600)
        found.append(spent() - before)
        undo()
        page.wait_for_timeout(600)
    return statistics.median(found)


def actions(page: "Page", report: Path) -> dict[str, float]:
    """Opens a report and gives the milliseconds of each action."""
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(report.resolve().as_uri())
    page.locator("#viewer canvas").first.wait_for()
    page.wait_for_timeout(2000)

    def press(script: str) -> Callable[[], None]:
        return lambda: page.evaluate(f"() => {{ {script} }}")

    head = "document.querySelector('#category-scores th button.sort').click()"
    button = "[...document.querySelectorAll('#viewer button')].find(one => one.textContent.includes('{}')).click()"
    nothing = press("")
    return {
        "sort": measured(page, tools, press(head), nothing),
        "next image": measured(page, tools, press(button.format("Next")), nothing),
        "side by side": measured(page, tools, press(button.format("Side by side")), press(button.format("Divider"))),
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
        before = (
            f"; before {times[1][action]:.0f} ms ({times[1][action] / max(now, 0.1):.1f} ×)" if chosen.against else ""
        )
        print(f"{action}: {now:.0f} ms of CPU{before}")


if __name__ == "__main__":
    main()
