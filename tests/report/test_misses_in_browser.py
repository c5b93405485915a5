"""What a model missed is in every picture of it: the tests read the pixels of the page's canvases."""

from dataclasses import replace

import pytest
from browsing import speak_of, wait_in_page

from panbench.panoptic.coco import read_id_png, read_panoptic_json, write_id_png, write_panoptic_json
from panbench.panoptic.types import Segment
from panbench.report.pages.page import document
from panbench.report.pages.page.document import write_report
from panbench.scoring.folder import score_folder

# The second model misses the ball at columns 25 to 30 and rows 18 to 23 of the 40 × 30 image 7, of which nothing else
# of it is there; the first finds it.
BALL = (25 / 40, 18 / 30, 6 / 40, 6 / 30)
SKY = (32 / 40, 2 / 30, 6 / 40, 6 / 30)

# A part of a canvas, as fractions: its width, height and pixels. A copy is read, as browsers warn of repeated reading.
_READ = """const read = (canvas, [x, y, w, h]) => {
    const [width, height] = [Math.round(w * canvas.width), Math.round(h * canvas.height)];
    const copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
    copy.drawImage(canvas, -Math.round(x * canvas.width), -Math.round(y * canvas.height));
    return [width, height, copy.getImageData(0, 0, width, height).data];
};"""

# The share of a part of a canvas that has the colour of misses.
MISSED = f"""(canvas, part) => {{ {_READ}
    const [width, height, data] = read(canvas, part);
    let count = 0;
    for (let at = 0; at < data.length; at += 4)
        count += data[at] > 200 && data[at + 1] > 180 && data[at + 2] < 90;
    return count / (width * height);
}}"""

# Whether anything is painted on a canvas.
PAINTED = f"""(canvas) => {{ {_READ}
    return read(canvas, [0, 0, 1, 1])[2].some((value) => value);
}}"""

# The colour in the middle of a part of a canvas.
MIDDLE = f"""(canvas, [x, y, w, h]) => {{ {_READ}
    return [...read(canvas, [x + w / 2, y + h / 2, 0.02, 0.02])[2].slice(0, 3)];
}}"""


@pytest.mark.parametrize("colours", ["Categories", "Errors"])
def test_a_missed_segment_is_outlined_only_in_pictures_of_models_that_missed_it(open_report, colours):
    page = open_report(hash="#image=7&view=side")
    page.locator("#viewer").get_by_role("button", name=colours).click()
    first, second = (page.locator(".pane canvas").nth(place) for place in (2, 3))
    assert second.evaluate(MISSED, BALL) > 0.02
    assert first.evaluate(MISSED, BALL) == 0
    assert second.evaluate(MISSED, SKY) == 0


def test_the_divider_shows_each_models_missed_segments(open_report):
    page = open_report(hash="#image=7")
    page.get_by_label("Right", exact=True).select_option("second")
    page.get_by_role("slider", name="Divider").press("Home")
    assert page.locator(".stage canvas").evaluate(MISSED, BALL) > 0.02
    page.get_by_label("Right", exact=True).select_option("first <b>model</b>")
    assert page.locator(".stage canvas").evaluate(MISSED, BALL) == 0


def test_missed_and_false_segments_differ_without_colour(open_report):
    # In image 8 the cat (columns 5 to 14, rows 5 to 13) is taken for a ball, and a ball is missed as in image 7.
    page = open_report(hash="#image=8&view=side")
    photo, second = (page.locator(".pane canvas").nth(place) for place in (0, 3))
    # What is missed is hollow: the photograph within a broken line on black. So is a wrong category, within one line.
    for part in (BALL, (6 / 40, 8 / 30, 6 / 40, 6 / 30)):
        assert second.evaluate(MIDDLE, part) == pytest.approx(photo.evaluate(MIDDLE, part), abs=2)
    data = second.evaluate(f"(canvas, part) => {{ {_READ} return [...read(canvas, part)[2]]; }}", BALL)
    dark = sum(max(data[at : at + 3]) < 30 for at in range(0, len(data), 4)) / (len(data) / 4)
    assert dark > 0.02


def test_false_segments_are_filled_and_found_ones_show_the_photograph(open_report, make_runs, tmp_path):
    # A ball in the sky where there is none, at columns 32 to 37 and rows 2 to 7.
    make_runs(images=1, predictions=False)
    truth = read_panoptic_json(tmp_path / "gt.json", tmp_path / "gt")
    ids = read_id_png(truth.png_path(7), (30, 40), image_id=7)
    ids[2:8, 32:38] = 99
    (own,) = truth.annotations.values()
    segments = (*own.segments, Segment(99, 2, 36))
    found = replace(truth, annotations={7: replace(own, segments=segments)}, folder=tmp_path / "pred")
    write_panoptic_json(tmp_path / "pred.json", found)
    write_id_png(found.png_path(7), ids)
    run = score_folder(tmp_path / "gt.json", tmp_path / "pred.json", out=tmp_path / "run", images=tmp_path / "photos")
    page = open_report(write_report([run], tmp_path / "ghost.html"))
    page.get_by_role("slider", name="Divider").press("Home")
    canvas = page.locator(".stage canvas")
    red, green, blue = canvas.evaluate(MIDDLE, SKY)
    assert red > 150 > green > blue
    page.get_by_label("Right", exact=True).select_option("Image")
    cat = (6 / 40, 8 / 30, 6 / 40, 6 / 30)
    plain = canvas.evaluate(MIDDLE, cat)
    page.get_by_label("Right", exact=True).select_option("run")
    assert canvas.evaluate(MIDDLE, cat) == plain


def test_misses_are_counted_next_to_false_segments(open_report):
    page = open_report(hash="#image=7&view=side")
    heads = page.locator(".pane .counts").all_inner_texts()
    assert "1 missed" in heads[3]
    assert "missed" not in heads[2]
    assert page.locator(".lists > div").nth(2).locator("tbody tr").last.inner_text().split("\t")[3] == "missed"
    canvas = page.locator(".pane canvas").nth(3)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 27.5 / 40, box["y"] + box["height"] * 20.5 / 30)
    told = page.locator("#tooltip").inner_text().splitlines()
    assert told[2] == "second: void; missed the true segment"
    page.get_by_role("button", name="Divider").click()
    page.get_by_label("Right", exact=True).select_option("second")
    page.get_by_role("slider", name="Divider").press("Home")
    stage = page.locator(".stage canvas").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] * 27.5 / 40, stage["y"] + stage["height"] * 20.5 / 30)
    told = page.locator("#tooltip").inner_text().splitlines()
    assert told == ["second", "void: no segment", "missed: ball, 36 pixels · FN"]


def test_the_reader_chooses_the_model_that_judges_the_truth(open_report):
    page = open_report(hash="#image=7&view=side")
    truth = page.locator(".pane canvas").nth(1)
    assert "first <b>model</b>: 4 found" in page.locator(".pane .counts").nth(1).inner_text()
    assert truth.evaluate(MISSED, BALL) == 0
    speak_of(page, "second")
    assert "3 found, 1 missed" in page.locator(".pane .counts").nth(1).inner_text()
    assert truth.evaluate(MISSED, BALL) > 0.02
    wait_in_page(page, "location.hash.includes('a=run-b')")


def test_thumbnails_and_printed_figures_show_and_count_misses(open_report):
    page = open_report()
    speak_of(page, "second")
    thumb = page.locator(".thumbs button[data-image='7']")
    thumb.scroll_into_view_if_needed()
    wait_in_page(
        page, "document.querySelector(\".thumbs button[data-image='7']\").innerText.includes('second: 1 missed')"
    )
    # A thumbnail has its size from the beginning, and is painted once it comes near and its photograph is decoded.
    wait_in_page(page, f"({PAINTED})(document.querySelector(\".thumbs button[data-image='7'] canvas\"))")
    # The thumbnail is the whole image, whose height fills it.
    assert thumb.locator("canvas").evaluate(MISSED, (0.61, 0.58, 0.15, 0.24)) > 0.005
    figures = page.locator("#figures figure")
    page.locator("#figures canvas").nth(15).wait_for(state="attached")
    place = figures.evaluate_all("all => all.findIndex(one => one.textContent.includes('Image 7 '))")
    assert "second PQ" in figures.nth(place).text_content()
    assert "1 missed" in figures.nth(place).text_content()
    assert figures.nth(place).locator("canvas").nth(3).evaluate(MISSED, BALL) > 0.02
    assert figures.nth(place).locator("canvas").nth(2).evaluate(MISSED, BALL) == 0


def test_an_error_smaller_than_a_pixel_is_still_marked(open_report, shared_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(document, "PHOTO_SIZES", ((3, 80),))
    page = open_report(write_report(shared_runs, tmp_path / "small.html"))
    speak_of(page, "second")
    page.locator("#wall-view .tile", has_text="missed ball").first.click()
    wait_in_page(page, "document.querySelector('.places').innerText.includes('ball: missed')")
