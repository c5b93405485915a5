"""The crops of single errors, and which of them the page keeps."""

import base64
import io
import math
import re
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from report_runs import data_of, text_of
from support import python, refusal, refused

from panbench.base.errors import BadArgument
from panbench.metrics.errors import CAUSES
from panbench.metrics.fixes import SIZES
from panbench.metrics.slices import ImageSlices
from panbench.report.answers import views
from panbench.report.answers.fixes import FIRST
from panbench.report.answers.own_slices import images_of_slice
from panbench.report.figures.crops import errors_figure, errors_of
from panbench.report.figures.cutting import Cutter
from panbench.report.figures.pictures import Pictures, RunPictures
from panbench.report.pages.page import wall
from panbench.report.pages.page.document import report_page
from panbench.report.pages.page.wall import errors_to_show

# `report_runs`: in each of four images the second model misses a ball (rows 18 to 23, columns 25 to 30); in every
# second one it takes the cat for a ball.


FIRST_CROPS = """
import sys, threading
import numpy as np
from panbench.report.figures.cutting import _outlines

ids = np.zeros((9, 9), np.int32)
ids[3:6, 3:6] = 1

def cut(wait):
    while wait and not hasattr(sys.modules.get("matplotlib.path"), "Path"):
        pass
    found.append(len(_outlines(ids, [1], (9, 9))))

found = []
sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=cut, args=[wait]) for wait in (False, True)]
[each.start() for each in threads], [each.join() for each in threads]
print(found)
"""


def test_the_first_two_crops_of_a_program_can_be_cut_at_once():
    """The second starts while the first imports matplotlib, whose `path` is there before the rest."""
    assert python("-c", FIRST_CROPS).stdout == "[1, 1]\n"


@pytest.fixture(scope="module")
def members(shared_runs):
    return views.compared(views.best_first(shared_runs))[0]


@pytest.fixture(scope="module")
def data(report):
    """What the report of the shared runs holds."""
    return data_of(report.read_text("utf-8"))


@pytest.fixture(scope="module")
def missed(members):
    """The crop of a ball that the second model missed."""
    cutter = Cutter([RunPictures(member.run, member.label) for member in members], Pictures(members[0].run))
    errors = [one for one in errors_of(members[1].priced) if one.cause == "missed"]
    crops, faults = cutter.cut([(1, one) for one in errors])
    assert faults == []
    return crops[0]


def test_a_missed_object_is_outlined_where_it_is(missed):
    (outline,) = missed.truth
    corner = np.array(missed.box[:2])
    # Pixels 25 to 30 of the image, so edges at 25 and 31; the crop is shown at the image's size.
    assert (corner + outline.min(axis=0)).tolist() == pytest.approx([25, 18], abs=0.6)
    assert (corner + outline.max(axis=0)).tolist() == pytest.approx([31, 24], abs=0.6)
    assert missed.predicted == ()


def test_the_crop_of_a_missed_object_outlines_what_another_model_found(missed):
    other, own = missed.answers
    assert own is None
    assert other.words == "found, IoU 1.00"
    assert len(other.outlines) == 1
    assert np.sort(other.outlines[0], axis=0) == pytest.approx(np.sort(missed.truth[0], axis=0), abs=1.0)


def test_a_crop_shows_the_photograph_around_the_box(missed, members):
    x, y, width, height = missed.box
    photo = Pictures(members[0].run).photo(missed.error.image_id)
    assert (missed.photo == photo[y : y + height, x : x + width]).all()


def test_the_page_lists_each_error_once_with_the_costliest_first(members, data):
    of_second = [one for one in data["wall"]["errors"] if one["model"] == 1]
    assert data["wall"]["totals"][1] == len(of_second) == len(members[1].priced)
    gains = [one["gain"] for one in of_second]
    assert gains == sorted(gains, reverse=True)
    causes = data["causes"]["names"]
    assert sum(causes[one["cause"]] == "missed" for one in of_second) == 4
    assert sum(causes[one["cause"]] == "wrong category" for one in of_second) == 2


def test_a_crop_is_stored_as_a_picture_and_an_outline_in_half_pixels(data):
    for one in data["wall"]["errors"]:
        kind, _, content = one["photo"].partition(";base64,")
        assert kind in ("data:image/webp", "data:image/jpeg")
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (one["width"], one["height"])
        for path in re.findall(r"M(\d+) (\d+)l([-\d ]+)z", one["truth"]):
            corner, steps = np.array(path[:2], int), np.array(re.findall(r"-?\d+", path[2]), int).reshape(-1, 2)
            points = np.vstack([corner, corner + np.cumsum(steps, axis=0)])
            assert (points >= 0).all()
            assert (points <= [2 * one["width"], 2 * one["height"]]).all()


def test_a_page_of_many_models_keeps_fewer_errors_of_each(members):
    few = errors_to_show(members[1], 3)
    everything = errors_to_show(members[1], 1000)
    assert len(few) == 3
    assert len(everything) == len(members[1].priced)


@pytest.mark.parametrize(("models", "least"), [(1, 6), (5, 6), (6, 5), (12, 1)])
def test_each_fix_has_six_crops_or_a_share_of_the_space_with_many_models(models, least):
    """Eighteen cells of fifty errors each; the costliest of all are those of cells that are not among the rows."""
    cells = [(cause.name, size) for cause in CAUSES[:6] for size in SIZES]
    rows = [
        {"image_id": 100 * place + number, "cause": cause, "category_id": 1, "size": size, "gt_ids": (1,),
         "pred_ids": (), "iou": math.nan, "gain": (place + 1) / (number + 1)}
        for place, (cause, size) in enumerate(cells)
        for number in range(50)
    ]  # fmt: skip
    priced = pd.DataFrame(rows).sort_values("gain", ascending=False, ignore_index=True)
    to_fix = pd.DataFrame(cells[:FIRST], columns=["cause", "size"])
    found = errors_to_show(SimpleNamespace(priced=priced, to_fix=to_fix), min(wall.MOST // models, 100))
    assert len(found) == min(wall.MOST // models, 100)
    counted = Counter((one.cause, one.size) for one in found)
    assert all(least <= counted[cell] for cell in cells[:FIRST])
    # Those that are printed.
    assert [one.image_id for one in found[:12]] == priced["image_id"][:12].tolist()


def test_the_total_size_of_crops_is_bounded(shared_runs, monkeypatch):
    monkeypatch.setattr(wall, "MOST", 4)
    monkeypatch.setattr(wall, "LEAST_OF_A_MODEL", 1)
    found = data_of(report_page(shared_runs))["wall"]
    assert 0 < len(found["errors"]) <= 4
    assert found["totals"][1] > 2


def test_runs_without_predictions_have_fixes_but_no_wall(make_runs):
    page = report_page(make_runs(images=12, predictions=False))
    data = data_of(page)
    assert data["wall"]["errors"] == []
    assert data["fixes"][1]
    assert 'id="wall"' not in page
    assert 'id="fix-first"' in page


def test_errors_of_an_unreadable_image_are_left_out_with_a_notice(make_runs, tmp_path):
    runs = make_runs()
    (tmp_path / "photos" / "photo 1 <i>.jpg").unlink()
    page = report_page(runs)
    assert {one["image"] for one in data_of(page)["wall"]["errors"]} == {7, 9, 10}
    assert "1 images of errors are left out; the first: " in text_of(page)
    assert "photo 1 &lt;i&gt;.jpg" in page


def test_the_fixes_are_summarized_under_the_verdict(make_runs, report):
    page = report_page(make_runs(images=24, predictions=False)[1:])
    words = re.search(r'id="fix-words">(.*?)</p>', page, re.DOTALL)[1]
    assert words.startswith("To fix first in second, in points of PQ")
    assert 'id="fix-words">Nothing to fix stands out' in report.read_text("utf-8")


def test_show_errors_draws_the_costliest_errors_next_to_another_runs_prediction(members):
    figure = errors_figure(members[::-1], Pictures(members[0].run), cause="missed", most=3)
    # Three errors, each beside what the other model has there.
    assert len(figure.axes) == 6
    assert {axes.get_title(loc="left") for axes in figure.axes[::2]} == {"missed ball, small"}
    said = [text.get_text() for axes in figure.axes[1::2] for text in axes.texts]
    assert said == ["first <b>model</b>: found, IoU 1.00"] * 3


@pytest.mark.parametrize(("word", "message"), [({"cause": "mised"}, "no cause 'mised'"), ({"size": "tiny"}, "no size")])
def test_an_unknown_word_of_show_errors_is_refused_with_the_known_ones(members, word, message):
    assert message in refusal(BadArgument, errors_figure, members, Pictures(members[0].run), **word)


def test_show_errors_of_a_slice_draws_errors_of_its_images(members, tmp_path):
    chosen = images_of_slice([ImageSlices("light", {"night": frozenset({8, 10}), "day": frozenset({7})})], "night")
    figure = errors_figure(members[1:], Pictures(members[0].run), images=chosen, most=50)
    notes = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert {int(note.rsplit(" ", 1)[1]) for note in notes} == {8, 10}


@pytest.mark.parametrize(
    ("name", "message"), [("dusk", "There is no slice 'dusk'"), ("a", "may be light: a, site: a. Give one of these")]
)
def test_a_slice_can_be_named_as_on_the_page_or_by_its_short_name(name, message):
    slices = [
        ImageSlices("light", {"a": frozenset({7}), "b": frozenset({8})}),
        ImageSlices("site", {"a": frozenset({9})}),
    ]
    assert images_of_slice(slices, "site: a") == {9}
    assert images_of_slice(slices, "b") == {8}
    assert message in refusal(BadArgument, images_of_slice, slices, name)


def test_a_slice_option_needs_its_file(shared_runs):
    for words in (["--slice", "night"], ["--slices", "light.json"]):
        assert "--slice NAME and --slices FILE belong together" in refused(
            "show", "errors", shared_runs[0].path, *words
        )
