"""Four questions put to a report by a browser, with a stopwatch, each answer held against what `--json` says.

    python scripts/bench/report.py --images 500 --folder DIR --make-only
    panbench report DIR/results --out report.html
    python scripts/bench/report_questions.py report.html DIR/results

Prints for each question the clicks, the seconds until its answer is on the screen (1,600 × 1,000 pixels; scrolling is
not counted), the answer as the page words it, and whether it is the one that `panbench compare --json` and `panbench
errors --json` give for the same runs; of single images, what the package computes. Ends with 1 where one differs. A
person's reading comes on top. Prints besides: stops of the Tab key before the viewer, numbers on the first screen, and
what the next image takes of the browser's main thread (median of ten). Needs Chromium and Playwright.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from panbench.report.answers import views
from panbench.runs import list_runs

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]


class Truth:
    """The answers of the command line on the runs in a folder, the best run first."""

    def __init__(self, folder: Path) -> None:
        found = said("compare", folder, "--per-category", "--json")
        self.runs = sorted(found, key=lambda run: -run["PQ"])
        self._folder = folder

    def errors(self, place: int) -> dict[str, Any]:
        """Returns the record of `panbench errors` for the run at an index."""
        found: dict[str, Any] = said("errors", self._folder / self.runs[place]["run"], "--most", "10", "--json")
        return found

    def versus(self) -> dict[str, Any]:
        """Returns the test of the two best runs."""
        a, b = self.runs[:2]
        found: dict[str, Any] = next(test for test in a["versus"] if test["run"] == b["run"])
        return found

    @cached_property
    def worst(self) -> list[int]:
        """Returns the images with the lowest PQ of the best run, computed by the package."""
        by_name = {run.name: run for run in list_runs(self._folder)}
        members, _ = views.compared([by_name[self.runs[0]["run"]]])
        return [int(image) for image in views.per_image(members).nsmallest(3, "PQ", keep="all")["image_id"]]


def said(command: str, *words: str | Path) -> Any:
    """Returns the JSON that a command of this checkout prints."""
    ran = subprocess.run(
        [sys.executable, "-m", "panbench", command, *map(str, words)], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"panbench {command}: {ran.stderr.strip()}")
    return json.loads(ran.stdout)


class Stopwatch:
    """Counts clicks and seconds since a question was asked, and wrong answers."""

    wrong = 0

    def __init__(self) -> None:
        self.clicks, self._began = 0, time.perf_counter()

    def click(self, target: "Locator") -> None:
        """Clicks on a target and counts it."""
        self.clicks += 1
        target.click()

    def stop(self, question: str, answer: str, **checks: bool) -> None:
        """Prints clicks, seconds and the answer, and the checks that failed."""
        seconds = time.perf_counter() - self._began
        clicks = "no click" if not self.clicks else f"{self.clicks} click{'s' if self.clicks > 1 else ''}"
        failed = [name.replace("_", " ") for name, holds in checks.items() if not holds]
        Stopwatch.wrong += bool(failed)
        verdict = f"NOT as --json says: {', '.join(failed)}" if failed else f"as --json says ({len(checks)} checks)"
        print(f"{question}: {clicks}, {seconds:.1f} s, {verdict}\n    {' '.join(answer.split())}", flush=True)


def points(value: float) -> str:
    """Formats a fraction as on the page."""
    return f"{100 * value:.1f}"


def name_of(run: dict[str, Any]) -> str:
    """Returns the name of a run on the page."""
    return str(run["title"] or run["run"])


def numbers_in(text: str) -> list[float]:
    """Returns all numbers in a text, with the page's minus sign."""
    return [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def ask(page: "Page", report: Path, truth: Truth) -> None:
    """Asks all questions of the page."""
    page.goto(report.resolve().as_uri())
    for question in (which, loses, worst, fix):
        question(page, truth)


def which(page: "Page", truth: Truth) -> None:
    """Asks which model is better, and whether it is certain."""
    watch = Stopwatch()
    page.reload()
    page.locator("#verdict").wait_for()
    assert _on_screen(page.locator("#verdict"))
    text = page.locator("#verdict strong").inner_text()
    a, b = truth.runs[:2]
    test = truth.versus()
    watch.stop(
        "Which is better",
        text,
        the_two_best_are_named=name_of(a) in text and name_of(b) in text,
        with_their_PQ=points(a["PQ"]) in text and points(b["PQ"]) in text,
        sure_or_not=("cannot be told apart" in text.split(";")[0]) != test["significant"],
    )


def loses(page: "Page", truth: Truth) -> None:
    """Asks where the best model loses PQ."""
    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#lost']"))
    rows = page.locator("#cause-bars tbody tr")
    _until(lambda: _on_screen(rows.first))
    lost = {row["cause"]: row["lost"] for row in truth.errors(0)["lost"] if row["group"] == "All"}
    shown = {}
    for row in rows.all()[:-1]:  # the last is their sum
        shown[row.locator("th").inner_text().strip()] = numbers_in(row.locator(".points").first.inner_text())[0]
    watch.stop(
        "Where it loses",
        "; ".join(f"{cause} {value}" for cause, value in shown.items()),
        each_cause=all(abs(value - 100 * lost[cause]) <= 0.1 for cause, value in shown.items()),
    )


def worst(page: "Page", truth: Truth) -> None:
    """Asks for its three worst images."""
    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#images']"))
    page.get_by_label("Order", exact=True).select_option("worst of the model")
    watch.clicks += 1
    thumbs = page.locator(".thumbs button")
    _until(lambda: thumbs.first.is_visible())
    shown = [int(thumbs.nth(place).get_attribute("data-image") or 0) for place in range(3)]
    watch.stop("Worst images", ", ".join(map(str, shown)), the_three_of_lowest_PQ=set(shown) <= set(truth.worst))


def fix(page: "Page", truth: Truth) -> None:
    """Asks what to fix first."""
    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#overview']"))
    words = page.locator("#fix-words")
    _until(lambda: _on_screen(words))
    text = words.inner_text()
    rows = truth.errors(0)["fix_first"][:3]
    watch.stop(
        "What to fix first",
        text,
        the_first_three=all(f"{row['cause']}, {row['size']}" in text for row in rows),
        what_they_win=all(f"+{points(row['gain'])}" in text for row in rows),
    )


STOPS = """node => [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex]')]
    .filter(one => one.tabIndex >= 0 && one.checkVisibility() && !one.disabled).findIndex(one => node.contains(one))"""


def measure(page: "Page") -> None:
    """Prints Tab stops before the viewer, numbers on the first screen, and the cost of the next image."""
    first = len(re.findall(r"\d[\d.,]*", page.locator("#overview").inner_text()))
    print(f"{page.locator('#viewer').evaluate(STOPS)} Tab stops before the viewer, {first} numbers on the first screen")
    browser, spent = page.context.new_cdp_session(page), []
    browser.send("Performance.enable")

    def busy() -> float:
        return next(
            one["value"] for one in browser.send("Performance.getMetrics")["metrics"] if one["name"] == "TaskDuration"
        )

    page.locator("#viewer").scroll_into_view_if_needed()
    for _ in range(10):
        page.wait_for_timeout(700)
        before = busy()
        page.locator("#viewer").press("ArrowRight")
        page.wait_for_timeout(300)
        spent.append(1000 * (busy() - before))
    print(f"next image: {sorted(spent)[5]:.0f} ms of the main thread ({min(spent):.0f} to {max(spent):.0f})")


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
    """Parses the arguments and asks the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="the report, as `panbench report` wrote it")
    parser.add_argument("runs", type=Path, help="the folder of its runs")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    truth = Truth(options.runs)
    found = os.environ.get("PANBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=ARGUMENTS)
        page = browser.new_context(viewport={"width": 1600, "height": 1000}, reduced_motion="reduce").new_page()
        ask(page, options.report, truth)
        measure(page)
        browser.close()
    raise SystemExit(1 if Stopwatch.wrong else 0)


if __name__ == "__main__":
    main()
