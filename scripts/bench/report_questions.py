"""Seven questions put to a report by a browser, with a stopwatch, each answer held against what `--json` says.

    python scripts/bench/report.py --images 500 --folder DIR --make-only
    panbench report DIR/results --out report.html
    python scripts/bench/report_questions.py report.html DIR/results

Prints for each question the clicks, the seconds until its answer is on the screen (1,600 × 1,000 pixels; scrolling is
not counted), the answer as the page words it, and whether it is the one that `panbench compare --json` and `panbench
errors --json` give for the same runs; of single images, what the package computes. Ends with 1 where one differs. A
person's reading comes on top. Needs Chromium and Playwright.
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
    """What the command line says of the runs in a folder, the best first."""

    def __init__(self, folder: Path) -> None:
        found = said("compare", folder, "--per-category", "--json")
        self.runs = sorted(found, key=lambda run: -run["PQ"])
        self._folder = folder

    def errors(self, place: int) -> dict[str, Any]:
        """The record of `panbench errors` of the run at a place."""
        found: dict[str, Any] = said("errors", self._folder / self.runs[place]["run"], "--most", "10", "--json")
        return found

    def versus(self) -> dict[str, Any]:
        """The test of the two best runs."""
        a, b = self.runs[:2]
        found: dict[str, Any] = next(test for test in a["versus"] if test["run"] == b["run"])
        return found

    def difference(self, category: str) -> float:
        """PQ of the best run minus that of the second in a category, in points."""
        values = [
            next(row["value"] for row in run["per_category"] if row["name"] == category and row["metric"] == "PQ")
            for run in self.runs[:2]
        ]
        return 100 * float(values[0] - values[1])

    @cached_property
    def most_different(self) -> list[int]:
        """The images on which the two best runs differ most in PQ, by the package."""
        by_name = {run.name: run for run in list_runs(self._folder)}
        members, _ = views.compared([by_name[run["run"]] for run in self.runs[:2]])
        table = views.per_image(members).pivot(index="image_id", columns="run", values="PQ")
        gap = (table[members[0].label] - table[members[1].label]).abs()
        return [int(image) for image in gap.nlargest(3, keep="all").index]


def said(command: str, *words: str | Path) -> Any:
    """The JSON that a command of this checkout prints."""
    ran = subprocess.run(
        [sys.executable, "-m", "panbench", command, *map(str, words)], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"panbench {command}: {ran.stderr.strip()}")
    return json.loads(ran.stdout)


class Stopwatch:
    """Counts clicks and seconds since the question was put, and what was not answered as it should be."""

    wrong = 0

    def __init__(self) -> None:
        self.clicks, self._began = 0, time.perf_counter()

    def click(self, target: "Locator") -> None:
        """One click."""
        self.clicks += 1
        target.click()

    def stop(self, question: str, answer: str, **checks: bool) -> None:
        """Prints what it took, and the checks that failed."""
        seconds = time.perf_counter() - self._began
        clicks = "no click" if not self.clicks else f"{self.clicks} click{'s' if self.clicks > 1 else ''}"
        failed = [name.replace("_", " ") for name, holds in checks.items() if not holds]
        Stopwatch.wrong += bool(failed)
        verdict = f"NOT as --json says: {', '.join(failed)}" if failed else f"as --json says ({len(checks)} checks)"
        print(f"{question}: {clicks}, {seconds:.1f} s, {verdict}\n    {' '.join(answer.split())}", flush=True)


def points(value: float) -> str:
    """A fraction as the page writes it."""
    return f"{100 * value:.1f}"


def name_of(run: dict[str, Any]) -> str:
    """A run as the page calls it."""
    return str(run["title"] or run["run"])


def numbers_in(text: str) -> list[float]:
    """All numbers of a text, with the page's minus."""
    return [float(one) for one in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


def ask(page: "Page", report: Path, truth: Truth) -> None:
    """Puts the questions."""
    page.goto(report.resolve().as_uri())
    for question in (which, categories, why, show, worst, fix, network):
        question(page, truth)


def which(page: "Page", truth: Truth) -> None:
    """Which is better, and is it sure?"""
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
        sure_or_not=("are level" in text.split(";")[0]) != test["significant"],
    )


def categories(page: "Page", truth: Truth) -> None:
    """On which categories?"""
    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#categories']"))
    rows = page.locator("#category-scores tbody tr")
    rows.first.wait_for()
    _until(lambda: _on_screen(rows.first))
    # The first column is the category, the one after the models' axis the difference of the pair.
    head = page.locator("#category-scores thead th").all_inner_texts()
    place = next(index for index, text in enumerate(head) if "A − B" in text)
    cells = [rows.nth(index).locator("> *").all_inner_texts() for index in range(3)]
    # What the tests say of all categories comes before any single one.
    found = page.locator("#categories-finding").inner_text()
    right = [abs(numbers_in(row[place])[0] - truth.difference(row[0].strip())) < 0.06 for row in cells]
    watch.stop(
        "On which categories",
        f"{found} {'; '.join(f'{row[0]} {row[place]}' for row in cells)}",
        differences_of_the_first_three=all(right),
    )


def why(page: "Page", truth: Truth) -> None:
    """Why? In words."""
    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#overview'], a[href='#overview']").first)
    _until(lambda: _on_screen(page.locator("#verdict")))
    text = page.locator("#verdict > span").inner_text()
    a, b = truth.runs[:2]
    # Where the sides decide differently, the page gives the difference; else PQ of both runs.
    sides = [({f"+{points(abs(a[key] - b[key]))}"}, {points(a[key]), points(b[key])}) for key in ("PQ_th", "PQ_st")]
    said = all(any(all(one in text for one in form) for form in forms) for forms in sides)
    watch.stop("Why", text, things_and_stuff_of_both=said)


def show(page: "Page", truth: Truth) -> None:
    """Show me the error: one click, the right model, lit."""
    watch = Stopwatch()
    lead = page.locator("#cause-table [data-lead^='cause:']").first
    place = int((lead.get_attribute("data-lead") or "").split(":")[1])
    cause = (lead.get_attribute("title") or "").split("to: ")[-1]
    watch.click(lead)
    _until(lambda: _on_screen(page.locator("#viewer canvas").first))
    _until(lambda: page.locator("#viewer .places").is_visible())
    image = int(page.locator("#viewer").get_attribute("data-image") or 0)
    run = truth.runs[place]
    worst = [row["image_id"] for row in truth.errors(place)["worst_images"] if row["cause"] == cause]
    said = page.locator("#viewer .places [role=status]").inner_text()
    watch.stop(
        "Show me the error",
        f"{page.locator('.chip').inner_text()} image {image}; {said}",
        one_of_the_images_where_it_costs_most=image in worst,
        the_right_model=name_of(run) in page.locator("#viewer .corner.right").inner_text(),
        lit=page.locator("#viewer .lists tr.lit").count() > 0,
    )


def worst(page: "Page", truth: Truth) -> None:
    """On which images do they differ most?"""
    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#images']"))
    rows = page.locator("#image-view tbody tr")
    _until(lambda: _on_screen(rows.first))
    shown = [int(numbers_in(rows.nth(index).locator("> *").first.inner_text())[0]) for index in range(3)]
    watch.stop(
        "Worst images", f"{', '.join(map(str, shown))}", those_that_differ_most=set(shown) <= set(truth.most_different)
    )


def fix(page: "Page", truth: Truth) -> None:
    """What to fix first?"""
    watch = Stopwatch()
    watch.click(page.locator("nav a[href='#overview']").first)
    words = page.locator("#fix-words")
    _until(lambda: _on_screen(words))
    text = words.inner_text()
    rows = truth.errors(0)["fix_first"][:3]
    watch.stop(
        "What to fix first",
        text,
        the_first_three=all(f"{row['cause']} {row['name']}, {row['size']}" in text for row in rows),
        what_they_win=all(f"+{points(row['gain'])}" in text for row in rows),
    )


def network(page: "Page", truth: Truth) -> None:
    """Network or fusion? Of runs without an oracle's answer nobody can tell; the page then says what would."""
    watch = Stopwatch()
    if page.locator("#fusing").count():
        watch.click(page.locator("nav a[href='#fusing']"))
        _until(lambda: _on_screen(page.locator("#fusing")))
        text = page.locator("#fusing").inner_text()
        best = truth.runs[0]
        oracle = truth.errors(0)["oracle"]
        fused, reachable = best["PQ"], oracle["all"]["PQ"]
        said = f"PQ {points(fused)}; at least {points(reachable - fused)} lost by scores and fusion, at most"
        watch.stop("Network or fusion", said if said in text else text, what_each_takes=said in text)
        return
    watch.click(page.locator("nav a[href='#left-out']"))
    section = page.locator("#left-out li", has_text="fuse").first
    _until(lambda: _on_screen(section))
    text = section.inner_text()
    watch.stop("Network or fusion", text, the_command_that_tells="--keep-candidates" in text and "--oracle" in text)


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
    parser.add_argument("runs", type=Path, help="the folder of its runs")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    truth = Truth(options.runs)
    found = os.environ.get("PANBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=found, args=ARGUMENTS)
        page = browser.new_context(viewport={"width": 1600, "height": 1000}, reduced_motion="reduce").new_page()
        ask(page, options.report, truth)
        browser.close()
    raise SystemExit(1 if Stopwatch.wrong else 0)


if __name__ == "__main__":
    main()
