"""What a model missed is in every picture of it: the tests read the pixels of the page's canvases."""

import pytest
from browsing import wait_in_page

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
        count += data[at] > 150 && data[at + 1] < 90 && data[at + 2] > 80 && data[at + 2] < 170;
    return count / (width * height);
}}"""

# Whether anything is painted on a canvas.
PAINTED = f"""(canvas) => {{ {_READ}
    return read(canvas, [0, 0, 1, 1])[2].some((value) => value);
}}"""

# In grey, how much pixels differ from those beside them along falling (\\) and along rising (/) lines.
STRIPES = f"""(canvas, part) => {{ {_READ}
    const [width, height, data] = read(canvas, part);
    const bands = [0.3, 0.59, 0.11];
    const grey = (x, y) => bands.reduce((sum, share, band) => sum + share * data[4 * (y * width + x) + band], 0);
    let falling = 0, rising = 0;
    for (let y = 2; y < height - 2; y++) for (let x = 0; x < width - 2; x++) {{
        falling += Math.abs(grey(x, y) - grey(x + 2, y + 2));
        rising += Math.abs(grey(x, y) - grey(x + 2, y - 2));
    }}
    return [falling, rising];
}}"""


@pytest.mark.parametrize("colours", ["Categories", "Verdicts"])
def test_what_a_model_missed_is_drawn_over_its_answer_and_not_over_that_of_one_that_found_it(open_report, colours):
    page = open_report(hash="#image=7&view=side")
    page.get_by_role("button", name=colours).click()
    first, second = (page.locator(".pane canvas").nth(place) for place in (2, 3))
    assert second.evaluate(MISSED, BALL) > 0.1
    assert first.evaluate(MISSED, BALL) == 0
    assert second.evaluate(MISSED, SKY) == 0
    page.get_by_label("Missed", exact=True).uncheck()
    assert second.evaluate(MISSED, BALL) == 0


def test_the_divider_shows_what_the_model_on_its_side_missed(open_report):
    page = open_report(hash="#image=7")
    page.get_by_label("Right", exact=True).select_option("second")
    page.get_by_role("slider", name="Divider").press("Home")
    assert page.locator(".stage canvas").evaluate(MISSED, BALL) > 0.1
    page.get_by_label("Right", exact=True).select_option("first <b>model</b>")
    assert page.locator(".stage canvas").evaluate(MISSED, BALL) == 0


def test_missed_and_false_differ_without_colour(open_report):
    # In image 8 the cat (columns 5 to 14, rows 5 to 13) is taken for a ball: false. The missed ball is as in image 7.
    page = open_report(hash="#image=8&view=side&colours=verdict")
    for box in ("Outlines", "Missed"):
        page.get_by_label(box, exact=True).uncheck()
    canvas = page.locator(".pane canvas").nth(3)
    falling, rising = canvas.evaluate(STRIPES, (6 / 40, 6 / 30, 8 / 40, 7 / 30))
    assert rising < 0.7 * falling
    page.get_by_label("Missed", exact=True).check()
    falling, rising = canvas.evaluate(STRIPES, (26 / 40, 19 / 30, 4 / 40, 4 / 30))
    assert falling < 0.7 * rising


def test_misses_are_counted_and_told_with_the_false_ones(open_report):
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


def test_the_reader_chooses_by_which_model_the_truth_is_judged(open_report):
    page = open_report(hash="#image=7&view=side&colours=verdict")
    truth = page.locator(".pane canvas").nth(1)
    assert "first <b>model</b>: 4 found" in page.locator(".pane .counts").nth(1).inner_text()
    assert truth.evaluate(MISSED, BALL) == 0
    page.get_by_label("Truth judged by").select_option("second")
    assert "3 found 1 missed" in page.locator(".pane .counts").nth(1).inner_text()
    assert truth.evaluate(MISSED, BALL) > 0.1
    wait_in_page(page, "location.hash.includes('judge=run-b')")
    page.get_by_role("button", name="Divider").click()
    assert page.get_by_label("Truth judged by").is_hidden()


def test_thumbnails_and_printed_figures_show_and_count_misses(open_report):
    page = open_report()
    thumb = page.locator(".thumbs button[data-image='7']")
    thumb.scroll_into_view_if_needed()
    assert "second: 1 missed" in thumb.inner_text()
    # A thumbnail has its size from the beginning, and is painted once it comes near and its photograph is decoded.
    wait_in_page(page, f"({PAINTED})(document.querySelector(\".thumbs button[data-image='7'] canvas\"))")
    # The thumbnail is the image's middle band.
    assert thumb.locator("canvas").evaluate(MISSED, (25 / 40, 0.5, 6 / 40, 0.4)) > 0.02
    figures = page.locator("#figures figure")
    page.locator("#figures canvas").nth(15).wait_for(state="attached")
    place = figures.evaluate_all("all => all.findIndex(one => one.textContent.includes('Image 7 '))")
    assert "second PQ" in figures.nth(place).text_content()
    assert "1 missed" in figures.nth(place).text_content()
    assert figures.nth(place).locator("canvas").nth(3).evaluate(MISSED, BALL) > 0.1
    assert figures.nth(place).locator("canvas").nth(2).evaluate(MISSED, BALL) == 0
