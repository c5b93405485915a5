"""Each clause of the verdict leads to the row or cell that carries it, which is then lit."""

import re
import shutil

import pytest
from report_runs import runs_in

from panbench.report.answers.grid import percent
from panbench.report.answers.views import best_first, compared
from panbench.report.pages.page.document import write_report
from panbench.report.pages.page.overview import verdict_clauses
from panbench.runs import load_run


@pytest.fixture(scope="module")
def twelve_images(tmp_path_factory):
    """Two runs on twelve images, to read."""
    return runs_in(tmp_path_factory.mktemp("images"), images=12)


@pytest.mark.parametrize("number", [1, 2, 3, 12])
def test_each_clause_of_the_verdict_highlights_its_row(open_report, twelve_images, tmp_path, number):
    runs = list(twelve_images)
    while len(runs) < number:
        runs.append(load_run(shutil.copytree(runs[len(runs) % 2].path, tmp_path / f"copy-{len(runs)}")))
    page = open_report(path=write_report(runs[:number], tmp_path / "report.html", examples=0))
    links = page.locator("#verdict a.clause")
    assert links.count() >= 1
    assert page.locator("#verdict").inner_text().endswith(".")
    for index in range(links.count()):
        links.nth(index).click()
        lit = page.locator(".carries")
        assert lit.count() == 1, links.nth(index).get_attribute("href")
        assert lit.evaluate("node => node === document.activeElement")
        box = lit.bounding_box()
        assert box
        assert 0 <= box["y"] <= 900
        assert re.search(r"\d", lit.inner_text())


def test_numbers_in_the_verdict_are_in_the_row_it_links_to(twelve_images, tmp_path):
    runs = best_first(twelve_images)
    _, standing = compared(runs)
    page = write_report(runs, tmp_path / "report.html", examples=0).read_text("utf-8")
    rows = dict(re.findall(r'<tr id="([^"]+)">(.*?)</tr>', page, re.DOTALL))
    clauses = [clause for clause in standing.verdict.clauses if clause.text]
    places = [place for message in verdict_clauses(standing) for *_, place in message]
    assert len(clauses) == len(places)
    stated = [
        (clause, place)
        for clause, place in zip(clauses, places, strict=True)
        if clause.kind == "cause" or clause.metric == "SQ"
    ]
    assert stated, "the verdict says why"
    for clause, place in stated:
        assert place.startswith(f"behind-{clause.group}-")
        cells = re.findall(r'<td class="number">\s*(.*?)\s*</td>', rows[place])
        a, b = (percent(value, 1) for value in clause.values)
        assert cells[:2] in ([a, b], [b, a])
