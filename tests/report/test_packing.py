"""Pictures that a second process packs: the page is the one that this process would make."""

import re

import pytest
from report_runs import data_of

from panbench.base.helper import Helper
from panbench.datasets.index import build_index
from panbench.report.answers import data_files
from panbench.report.pages.page import document, packing
from panbench.report.pages.page.document import report_page


def without_time(page: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", page)


@pytest.fixture(scope="module")
def packed_here(shared_runs) -> str:
    """The page, without its time, that this process makes alone."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Helper, "can_start", staticmethod(lambda: False))
        patched.setattr(Helper, "ask", None)
        return without_time(report_page(shared_runs))


@pytest.fixture
def asked(monkeypatch):
    """The methods that were called in second processes, which start for the smallest set."""
    found: list[str] = []
    ask = Helper.ask

    def heard(self, method, *given):
        found.append(method)
        return ask(self, method, *given)

    monkeypatch.setattr(Helper, "ask", heard)
    monkeypatch.setattr(Helper, "can_start", staticmethod(lambda: True))
    monkeypatch.setattr(packing, "PAYS_FROM", 1)
    return found


def test_the_page_is_the_same_whoever_packs_its_pictures(shared_runs, packed_here, asked):
    packed_elsewhere = report_page(shared_runs)
    assert asked.count("pack") == 4
    assert without_time(packed_elsewhere) == packed_here


def test_no_second_process_is_started_for_a_few_images(shared_runs, asked, monkeypatch):
    monkeypatch.setattr(packing, "PAYS_FROM", 200)
    assert data_of(report_page(shared_runs))["gallery"]
    assert not asked


def test_what_a_lost_process_has_not_packed_is_packed_here(shared_runs, packed_here, asked, monkeypatch):
    ask = Helper.ask

    def killed(self, method, *given):
        if method == "pack":
            self._process.kill()
        return ask(self, method, *given)

    monkeypatch.setattr(Helper, "ask", killed)
    assert without_time(report_page(shared_runs)) == packed_here


def test_a_missing_photograph_is_said_in_the_same_words(make_runs, tmp_path, asked, monkeypatch):
    runs = make_runs()
    (tmp_path / "photos" / "photo 1 <i>.jpg").unlink()
    page = report_page(runs)
    assert "pack" in asked
    assert {one["id"] for one in data_of(page)["gallery"]} == {7, 9, 10}
    assert "1 of 4 examples are left out; the first: " in page
    monkeypatch.setattr(Helper, "can_start", staticmethod(lambda: False))
    assert without_time(report_page(runs)) == without_time(page)


def test_the_page_is_the_same_whether_the_ground_truth_has_an_index(make_runs, tmp_path, asked, monkeypatch):
    runs = make_runs()
    with monkeypatch.context() as patched:
        patched.setattr(Helper, "can_start", staticmethod(lambda: False))
        parsed = report_page(runs)
    assert not asked
    build_index([tmp_path / "gt.json"])
    monkeypatch.setattr(data_files, "read_panoptic_json", None)
    assert without_time(report_page(runs)) == without_time(parsed)
    assert "pack" in asked
    monkeypatch.setattr(Helper, "can_start", staticmethod(lambda: False))
    assert without_time(report_page(runs)) == without_time(parsed)


def test_a_ground_truth_that_has_moved_away_is_said_in_the_same_words(make_runs, tmp_path, asked):
    runs = make_runs()
    (tmp_path / "gt.json").rename(tmp_path / "elsewhere.json")
    page = report_page(runs)
    assert "pack" not in asked
    assert "Say where it is now with --gt." in page
    moved = report_page(runs, gt=tmp_path / "elsewhere.json", gt_dir=tmp_path / "gt")
    assert len(data_of(moved)["gallery"]) == 4


@pytest.mark.parametrize("sizes", [((40, 82), (20, 78), (10, 70)), ((40, 82), (20, 78))])
def test_examples_that_have_no_room_are_packed_smaller(shared_runs, asked, monkeypatch, sizes):
    monkeypatch.setattr(document, "PHOTO_SIZES", sizes)
    monkeypatch.setattr(document, "LARGEST", 1)
    assert {one["width"] for one in data_of(report_page(shared_runs))["gallery"]} == {sizes[-1][0]}


def test_a_size_that_was_guessed_too_small_is_not_kept(shared_runs, asked, monkeypatch):
    monkeypatch.setattr(document, "PHOTO_SIZES", ((40, 82), (20, 78)))
    monkeypatch.setattr(document, "OF_A_CROP", document.LARGEST)
    assert {one["width"] for one in data_of(report_page(shared_runs))["gallery"]} == {40}


def test_no_process_is_left_when_a_report_is_interrupted(shared_runs, asked, monkeypatch, tmp_path):
    started = []
    make = Helper.__init__

    def seen(self, *given):
        make(self, *given)
        started.append(self._process)

    def interrupt(*given, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(Helper, "__init__", seen)
    monkeypatch.setattr(document, "standing_of", interrupt)
    out = tmp_path / "page.html"
    with pytest.raises(KeyboardInterrupt):
        document.write_report(shared_runs, out)
    assert [process.poll() is not None for process in started] == [True]
    assert not out.exists()
