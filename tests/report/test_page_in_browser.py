"""The report page in a real browser: Debian's chromium, headless, driven by Playwright.

Skipped where there is none. axe-core is not part of this repository: PANBENCH_AXE names its axe.min.js, which .ci/run
fetches with npm.
"""

import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import Opened, open_anew, redraw, serving, speak_of, wait_for_picture, wait_in_page
from little_runs import scored
from support import ran

from panbench.base.studies import find_studies
from panbench.metrics.slices import image_statistics
from panbench.report.answers.findings import error_findings
from panbench.report.answers.grid import percent
from panbench.report.figures.colors import MARKER_PATHS, model_key, styles_of
from panbench.report.pages.page import document
from panbench.report.pages.page.document import write_report
from panbench.report.pages.page.section import shortened
from panbench.runs import load_run


def column(page, index: int) -> list[str]:
    """The texts of one column of the table of categories."""
    return page.locator(f"#where-table tbody tr > :nth-child({index})").all_inner_texts()


def test_a_second_click_reverses_the_sorting_of_categories(open_report):
    page = open_report()
    # At first by the difference of the pair that is surest, which stands before its interval.
    assert page.locator("#where-table thead th").nth(4).get_attribute("aria-sort") == "descending"
    gaps = [abs(float(text.split(" ")[0].replace("−", "-"))) for text in column(page, 5)]
    assert gaps == sorted(gaps, reverse=True)
    head = page.locator("#where-table thead th").nth(2)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    scores = [float(text) for text in column(page, 3)]
    assert scores == sorted(scores, reverse=True)
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert [float(text) for text in column(page, 3)] == sorted(scores)
    page.locator("#where-table thead th").nth(0).get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    assert [name[:3] for name in column(page, 1)] == ["<im", "bal", "sky"]


def test_the_categories_section_first_says_whether_any_difference_is_significant(open_report):
    page = open_report()
    found = page.locator("#where-finding").inner_text()
    assert found.startswith("No category differs significantly between first <b>model</b> and second (0 of ")
    assert "after correction for all of them" in found
    # Tests are of PQ alone.
    page.locator("#where").get_by_role("button", name="SQ").click()
    assert page.locator("#where-finding").inner_text() == ""


def test_a_static_page_has_no_paging_of_examples(read_report):
    assert read_report().get_by_role("button", name="Later").is_hidden()


def test_categories_are_filtered_by_name_and_kind(open_report):
    page = open_report()
    page.get_by_label("Filter", exact=True).fill("BAL")
    assert column(page, 1) == ["ball"]
    assert page.get_by_text("1 of 3 rows").is_visible()
    page.get_by_label("Filter", exact=True).fill("")
    page.get_by_role("button", name="Stuff").click()
    assert column(page, 1) == ["sky"]
    page.get_by_role("button", name="RQ").click()
    assert column(page, 3) == ["100.0"]
    # Other parts of the data are tabs of the same table.
    page.get_by_label("Filter", exact=True).fill("1–10")
    page.get_by_role("button", name="Share of the image").click()
    assert column(page, 1) == ["1–10 %"]
    assert page.locator("#where").get_by_role("button", name="Things").is_hidden()


def test_a_category_opens_its_examples(open_report):
    page = open_report()
    page.locator("#where-table").get_by_role("button", name="sky").click()
    assert page.locator(".chip").inner_text().startswith("Images with sky")
    assert page.locator(".thumbs button").count() == 4
    assert page.locator("#viewer").evaluate("node => node === document.activeElement")
    page.get_by_role("button", name="Show all").click()
    assert page.locator(".chip").inner_text() == ""


def test_the_gallery_is_filtered_by_cause_and_ordered(open_report):
    page = open_report()
    page.get_by_label("Error", exact=True).select_option("wrong category")
    assert sorted(page.locator(".thumbs button").evaluate_all("all => all.map(one => one.dataset.image)")) == [
        "10",
        "8",
    ]
    assert page.get_by_text("2 of 4 images").is_visible()
    assert page.locator("#viewer").get_attribute("data-image") in ("8", "10")
    page.get_by_label("Error", exact=True).select_option("any")
    page.get_by_role("combobox", name="Order", exact=True).select_option("largest disagreement")
    first = page.locator(".thumbs button").first.get_attribute("data-image")
    assert first in ("8", "10")


def test_the_divider_follows_pointer_and_keys(open_report):
    page = open_report()
    divider = page.get_by_role("slider", name="Divider")
    # The model is seen whole but for a margin of the truth.
    assert float(divider.input_value()) == 10
    assert page.locator(".corner.left").inner_text() == "Ground truth"
    divider.scroll_into_view_if_needed()
    stage = page.locator(".stage canvas").bounding_box()
    middle = stage["y"] + stage["height"] / 2
    page.mouse.move(stage["x"] + stage["width"] / 10, middle)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] * 0.8, middle, steps=4)
    page.mouse.up()
    assert float(divider.input_value()) == pytest.approx(80, abs=1)
    divider.press("ArrowRight")
    assert float(divider.input_value()) == pytest.approx(81, abs=1)
    divider.press("Home")
    assert float(divider.input_value()) == 0


def test_the_divider_separates_two_different_pictures(open_report):
    page = open_report()
    page.get_by_label("Left", exact=True).select_option("Image")
    page.get_by_label("Right", exact=True).select_option("second")
    page.locator(".thumbs button[data-image='8']").click()
    wait_for_picture(page)
    canvas = page.locator(".stage canvas")
    divider = page.get_by_role("slider", name="Divider")
    divider.press("Home")
    covered = canvas.evaluate("canvas => canvas.toDataURL()")
    divider.press("End")
    bare = canvas.evaluate("canvas => canvas.toDataURL()")
    assert covered != bare


def hover(page, x: float, y: float) -> str:
    """The tooltip when the pointer is at a fraction of the stage's width and height."""
    page.locator(".stage canvas").scroll_into_view_if_needed()
    stage = page.locator(".stage canvas").bounding_box()
    page.mouse.move(stage["x"] + stage["width"] * x, stage["y"] + stage["height"] * y)
    return page.locator("#tooltip").inner_text()


def test_pointing_at_a_segment_names_it_with_its_verdict(open_report):
    page = open_report()
    page.locator(".thumbs button[data-image='8']").click()
    wait_for_picture(page)
    page.get_by_label("Right", exact=True).select_option("second")
    page.get_by_role("slider", name="Divider").press("Home")
    # Image 8: the second model takes the cat, at columns 5 to 14 of 40 and rows 5 to 13 of 30, for a ball.
    told = hover(page, 10 / 40, 8.5 / 30)
    also = told.splitlines().pop()
    assert told.splitlines()[:-1] == [
        "second",
        "ball",
        "score 0.70",
        "false positive (wrong category) · FP",
        "90 pixels",
    ]
    assert re.fullmatch(r"missed: <img .* \(wrong category\), 100 pixels · FN", also)
    assert "found, IoU 1.00 · TP" in hover(page, 35.5 / 40, 16.5 / 30)
    assert hover(page, 35.5 / 40, 28.5 / 30) == "second\nvoid: no segment"
    page.get_by_role("slider", name="Divider").press("End")
    told = hover(page, 10 / 40, 8.5 / 30)
    assert told.startswith("Ground truth\n<img src=x onerror=alert(1)>")
    assert "first <b>model</b>: found, IoU 0.90 · TP" in told
    assert "second: missed (wrong category) · FN" in told


def test_repeated_clicks_in_the_scatter_open_the_images_below_in_turn(open_report):
    page = open_report()
    # Images 7 and 9 have the same PQ in both models, so their points lie on each other.
    opened = []
    for _ in range(2):
        point = page.locator("#points circle[data-image='9']")
        point.scroll_into_view_if_needed()
        box = point.bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        opened.append(page.locator("#viewer").get_attribute("data-image"))
        assert page.locator("#viewer").evaluate("node => node === document.activeElement")
    assert sorted(opened) == ["7", "9"]


def test_the_scatter_is_navigated_by_keys(open_report):
    page = open_report()
    page.locator("#points").focus()
    page.keyboard.press("ArrowRight")
    said = page.locator("#image-view [role=status]").inner_text()
    assert said.startswith(("Image 8,", "Image 10,"))
    page.keyboard.press("Enter")
    assert page.locator("#viewer").get_attribute("data-image") == said.split(",")[0].removeprefix("Image ")


def test_the_side_by_side_view_shows_image_truth_and_every_model(open_report):
    page = open_report()
    page.get_by_role("button", name="Side by side").click()
    assert page.locator(".pane h4").all_inner_texts() == ["Image", "Ground truth", "first <b>model</b>", "second"]
    assert page.locator(".pane canvas").count() == 4


def test_the_page_follows_the_systems_dark_mode_and_a_button_overrides_it(open_report):
    page = open_report(scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    assert max(map(int, dark[4:-1].split(","))) < 60
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


def test_the_page_never_scrolls_sideways(read_report):
    for width in (400, 1600):
        assert read_report(width=width).evaluate("document.documentElement.scrollWidth") <= width, width


def test_a_single_run_lists_its_images_by_rank(open_report, shared_runs, tmp_path):
    page = open_report(path=write_report(shared_runs[:1], tmp_path / "single.html"))
    page.locator("#points").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert page.locator("#viewer").get_attribute("data-image") in ("8", "10")


def test_the_scripts_round_as_python_does(read_report):
    page = read_report()
    source = (Path(document.__file__).parent / "assets" / "dom.js").read_text("utf-8")
    functions = source[source.index("const minus") : source.index("const signed")]
    # Exact ties (0.8125 is 81.25 %), numbers beside one, negative ones, and those that four digits would round twice.
    for value in (0.8125, 0.80625, 0.8, 0.809, 0.80949, 0.809499, 0.8095, -0.00125, 0.12375, 1 / 3, 0.0, 1.0):
        for digits in (0, 1, 2):
            call = f"percent({shortened([value])[0]!r}, {digits})"
            shown = page.evaluate(f"(() => {{ {functions}; return {call}; }})()")
            assert shown.replace("−", "-") == percent(value, digits), (value, digits)


def test_a_cause_without_errors_of_its_own_has_the_same_loss_in_table_and_bar(open_report, tmp_path):
    # A dog where a person is, 6 of 8 pixels alike: no match, and once the category is mended the mask is inexact.
    gt = dict.fromkeys(range(1, 4), "ppppppppssssssss")
    run = scored(tmp_path, "wrong", gt, dict.fromkeys(gt, "..dddddd........"))
    lost = error_findings(run).record["lost"]
    inexact = next(
        row for row in lost if row["group"] == "All" and not (row["FP"] or row["FN"] or row["TP"]) and row["lost"]
    )
    page = open_report(path=write_report([run], tmp_path / "wrong.html"))
    row = page.locator("table.causes tr", has_text=inexact["cause"])
    row.locator(".cause").hover()
    assert "it counts once other causes are fixed" in page.locator("#tooltip").inner_text()
    assert inexact["cause"] not in page.locator("p.note", has_text="No errors of these causes").inner_text()


def test_an_image_without_a_picture_names_the_command_that_adds_it(open_report, bare, tmp_path):
    page = open_report(path=bare)
    page.locator("#points").focus()
    page.keyboard.press("ArrowRight")
    image = page.locator("#image-view [role=status]").inner_text().split(",")[0].removeprefix("Image ")
    page.keyboard.press("Enter")
    offered = page.locator("#image-view [role=status] code").inner_text()
    words = shlex.split(offered)
    assert words[:2] + words[-2:] == ["panbench", "report", "--image", image]
    assert [Path(word).name for word in words[2:4]] == ["run-a", "run-b"]
    assert all(Path(word, "run.json").is_file() for word in words[2:4])
    assert copied(page, "#image-view") == offered
    # The command adds it.
    ran(*words[1:], "--out", tmp_path / "more.html")
    assert open_report(path=tmp_path / "more.html").locator("#viewer").get_attribute("data-image") == image


def copied(page, place: str) -> str:
    """What the first button "Copy" of a place puts on the clipboard."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator(place).get_by_role("button", name="Copy").first.click()
    page.locator(place).get_by_role("button", name="Copied").wait_for()
    return page.evaluate("navigator.clipboard.readText()")


def test_without_predictions_one_hint_says_how_to_add_pictures_and_nothing_else_promises_them(
    open_report, make_runs, tmp_path
):
    page = open_report(path=write_report(make_runs(predictions=False), tmp_path / "bare.html"))
    said = page.locator("#images").inner_text()
    assert "No run has stored predictions, so this page has no pictures." in said
    assert said.count("--save-predictions") == 2
    assert copied(page, "#images") == "panbench eval --model 'first <b>model</b>' --save-predictions --overwrite"
    words = page.locator("main").inner_text()
    for promise in ("opens its pictures", "opens the images", "have a picture", "click to open"):
        assert promise not in words
    assert page.locator("[data-lead]").count() == 0
    page.locator("#points").focus()
    page.keyboard.press("ArrowRight")
    assert "picture" not in page.locator("#image-view [role=status]").inner_text()
    page.keyboard.press("Enter")
    assert page.locator("#image-view code").count() == 0


def test_printing_is_light_and_complete(open_report, tmp_path):
    page = open_report(scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for folded in ("#provenance details", "#scores", "#more details"):
        assert page.locator(f"{folded}:not([open])").count() == 0
    page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert page.locator("main details[open]").count() == 0


# Of each line of marks: where they are, as fractions of its width, by colour; and what it says in numbers.
MARKS = """lines => lines.map(line => {
    const box = line.getBoundingClientRect();
    const at = [...line.querySelectorAll('path.dot')].map(mark => {
        const own = mark.getBoundingClientRect();
        return [mark.getAttribute('fill'), (own.left + own.width / 2 - box.left) / box.width];
    });
    return [line.getAttribute('aria-label'), Object.fromEntries(at)];
})"""


def test_charts_of_models_share_one_axis_at_every_width(read_report):
    for width, media in ((1600, "screen"), (1024, "screen"), (400, "screen"), (700, "print")):
        page = read_report(width=width, media=media)
        models = page.locator("#data").evaluate("node => JSON.parse(node.textContent).models")
        lines = page.locator("#where-table tbody svg.dots").evaluate_all(MARKS)
        assert len(lines) == 3
        for said, at in lines:
            for model in models:
                score = float(re.search(re.escape(model["label"]) + r": PQ ([\d.]+)", said)[1])
                wanted = pytest.approx(0.02 + 0.0096 * score, abs=0.012)
                assert at[f"var(--m{model['color']})"] == wanted, (width, media)


@pytest.fixture(scope="module")
def alone(shared_runs, tmp_path_factory) -> list[Path]:
    """Of each of the two runs a report without pictures."""
    folder = tmp_path_factory.mktemp("alone")
    return [write_report([run], folder / f"{run.name}.html", examples=0) for run in shared_runs]


@pytest.fixture(scope="module")
def bare(shared_runs, tmp_path_factory) -> Path:
    """The report of the two runs without pictures."""
    return write_report(shared_runs, tmp_path_factory.mktemp("bare") / "bare.html", examples=0)


@pytest.fixture(scope="module")
def three(shared_runs, tmp_path_factory) -> Path:
    """The report of the first run, the second, and the first again, without pictures."""
    runs = [*shared_runs, load_run(shared_runs[0].path)]
    return write_report(runs, tmp_path_factory.mktemp("three") / "three.html", examples=0)


def test_a_model_has_one_colour_in_line_marks_and_plots(open_report, make_runs, tmp_path):
    runs = make_runs(images=12, predictions=False)
    page = open_report(write_report(runs, tmp_path / "twelve.html"))
    models = page.locator("#data").evaluate("node => JSON.parse(node.textContent).models")
    for run, style in zip(runs, styles_of([model_key(run) for run in runs]), strict=True):
        place, model = next((place, one) for place, one in enumerate(models) if one["run"] == run.name)
        assert (model["color"], model["marker"]) == (style.color, MARKER_PATHS[style.marker])
        line = page.locator(f"#score-{place}")
        assert line.locator(".marker path").get_attribute("fill") == f"var(--m{style.color})"
        assert line.locator(f"rect.c{style.color}").count() == 1


def test_every_listed_item_leads_to_a_picture(open_report):
    page = open_report()
    tabs = page.locator("#where-view [aria-label=What] button")
    kinds = set()
    for index in range(tabs.count()):
        tabs.nth(index).click()
        # No row is without one.
        keys = page.locator("#where-table [data-lead]").evaluate_all("all => all.map(one => one.dataset.lead)")
        assert len(keys) == page.locator("#where-table tbody tr").count() > 0
        kinds |= {key.split(":")[0] for key in keys}
        page.locator("#where-table [data-lead]").first.click()
        assert page.locator("#viewer").evaluate("node => node === document.activeElement")
        wait_in_page(page, "Math.abs(document.getElementById('viewer').getBoundingClientRect().top) < 200")
        shown = page.locator(".thumbs button").evaluate_all("all => all.map(one => one.dataset.image)")
        assert page.locator("#viewer").get_attribute("data-image") in shown
    assert kinds == {"category", "taken", "slice"}


def test_back_stays_in_the_page_and_an_address_restores_the_view(open_report):
    page = open_report()
    page.locator(".thumbs button[data-image='10']").click()
    wait_in_page(page, "location.hash.includes('image=10')")
    page.get_by_role("button", name="Side by side").click()
    page.locator("#viewer").get_by_role("button", name="Categories").click()
    sent = page.url
    page.go_back()
    wait_in_page(page, "!location.hash.includes('image=')")
    assert page.locator("#viewer").is_visible()
    open_anew(page, sent)
    assert page.locator("#viewer").get_attribute("data-image") == "10"
    assert page.locator(".pane").count() == 4
    pressed = page.locator("#viewer").get_by_role("button", name="Categories").get_attribute("aria-pressed")
    assert pressed == "true"
    wait_in_page(page, "document.getElementById('viewer').getBoundingClientRect().top < innerHeight")


def test_the_viewer_zooms_by_keys_and_wheel_in_all_panes_at_once(open_report):
    page = open_report()
    page.locator(".thumbs button[data-image='8']").click()
    wait_for_picture(page)
    page.get_by_role("button", name="Side by side").click()
    canvas = page.locator(".pane canvas").nth(1)
    whole = canvas.evaluate("canvas => canvas.toDataURL()")
    canvas.focus()
    page.keyboard.press("+")
    page.keyboard.press("+")
    assert page.locator("#viewer").get_attribute("data-zoom") == "2.25"
    closer = canvas.evaluate("canvas => canvas.toDataURL()")
    assert closer != whole
    page.keyboard.press("ArrowRight")
    assert canvas.evaluate("canvas => canvas.toDataURL()") != closer
    page.get_by_role("button", name="Fit").click()
    assert canvas.evaluate("canvas => canvas.toDataURL()") == whole
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 10 / 40, box["y"] + box["height"] * 8.5 / 30)
    told = page.locator("#tooltip").inner_text().splitlines()
    assert [line.split(":")[0] for line in told] == ["Ground truth", "first <b>model</b>", "second"]
    assert told[2].startswith("second: ball, false positive (wrong category)")
    crosses = page.locator(".cross:visible")
    assert crosses.count() == 3
    assert {crosses.nth(index).evaluate("node => node.style.left") for index in range(3)} == {"25%"}
    page.keyboard.down("Control")
    page.mouse.wheel(0, -400)
    page.keyboard.up("Control")
    assert float(page.locator("#viewer").get_attribute("data-zoom")) > 1.5


def test_the_legend_explains_strokes_and_headings_count_verdicts(open_report):
    page = open_report()
    page.locator(".thumbs button[data-image='8']").click()
    wait_for_picture(page)
    page.get_by_role("button", name="Side by side").click()
    kinds = page.locator("#viewer .legend.kinds li")
    assert [text.split(":")[0] for text in kinds.all_inner_texts()] == [
        "found",
        "missed",
        "false",
        "wrong category",
        "bad mask",
    ]
    stroke = "one => getComputedStyle(one.querySelector('rect:not(.under)')).stroke"
    strokes = [kind.evaluate(stroke) for kind in kinds.all()]
    assert len(set(strokes)) == 5
    assert re.search(r"PQ [\d.]+ 2 found, 1 false positive", page.locator(".pane .counts").all_inner_texts()[3])


def test_arrow_keys_change_images_without_layout_shifts(open_report):
    page = open_report()
    wait_for_picture(page)
    page.locator("#viewer").focus()
    place = "document.querySelector('.controls').getBoundingClientRect().top + scrollY"
    shown, before = page.locator("#viewer").get_attribute("data-image"), page.evaluate(place)
    page.keyboard.press("ArrowRight")
    wait_in_page(page, f"document.getElementById('viewer').dataset.image !== '{shown}'")
    wait_for_picture(page)
    assert page.evaluate(place) == before
    page.locator("#viewer").get_by_role("button", name="Categories").click()
    assert page.evaluate(place) == before
    page.locator("#viewer").focus()
    page.keyboard.press("ArrowLeft")
    wait_in_page(page, f"document.getElementById('viewer').dataset.image === '{shown}'")


def test_the_picture_stands_before_the_controls_and_the_lists(open_report):
    page = open_report(width=400)
    wait_for_picture(page)
    tops = [
        page.locator(place).first.bounding_box()["y"] for place in ("#viewer canvas", ".controls", ".lists", ".thumbs")
    ]
    assert tops == sorted(tops)
    # On a telephone it is as wide as the page.
    page.locator(".thumbs button").first.click()
    assert page.locator("#viewer canvas").bounding_box()["width"] > 360


def test_the_viewer_is_at_most_forty_tab_stops_away(open_report):
    page = open_report()
    stops = "node => [...document.querySelectorAll('a[href], button, select, input, summary, [tabindex]')]"
    stops += ".filter(one => one.tabIndex >= 0 && one.checkVisibility() && !one.disabled)"
    stops += ".findIndex(one => node.contains(one))"
    assert 0 < page.locator("#viewer").evaluate(stops) <= 40


def test_keyboard_and_touch_show_the_same_tooltips_as_the_pointer(open_report):
    page = open_report(touch=True)
    tooltip = page.locator("#tooltip")
    page.locator("#thresholds summary").click()
    page.locator("#chart-thresholds [role=group]").focus()
    page.keyboard.press("ArrowRight")
    assert "IoU above 0.50: PQ" in tooltip.inner_text()
    assert "IoU above 0.50: PQ" in page.locator("#live").inner_text()
    page.keyboard.press("Escape")
    assert tooltip.is_hidden()
    page.locator("#where-table tbody button").first.focus()
    page.keyboard.press("ArrowDown")
    second = page.locator("#where-table tbody tr").nth(1)
    assert tooltip.inner_text().splitlines()[0] == second.locator("th").inner_text()
    assert "SQ" in tooltip.inner_text()
    page.locator("#where-table tbody svg.dots").nth(1).tap()
    assert tooltip.is_visible()
    page.locator("h1").tap()
    assert tooltip.is_hidden()


def test_the_viewer_is_three_tab_stops_away_and_the_section_bar_shows_that_it_scrolls(open_report):
    page = open_report(width=400)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the pictures"
    page.keyboard.press("Enter")
    assert page.locator("#viewer").evaluate("node => node.getBoundingClientRect().top < innerHeight")
    page.keyboard.press("Tab")
    assert page.evaluate("document.getElementById('viewer').contains(document.activeElement)")
    bar = page.locator("#contents")
    assert bar.evaluate("node => node.scrollWidth > node.clientWidth")
    assert "linear-gradient" in bar.evaluate("node => getComputedStyle(node).backgroundImage")


def test_print_has_the_verdict_then_tables_then_figures(open_report, tmp_path):
    page = open_report(width=700, scheme="dark")
    page.locator("#figures canvas").nth(7).wait_for(state="attached")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    # A4 within its margins is 702 × 1017 CSS pixels.
    first = page.evaluate("() => document.getElementById('fix-words').getBoundingClientRect().bottom + scrollY")
    assert first < 1017
    for hidden in ("nav", ".intro", "#images", ".bar", ".tools"):
        assert page.locator(hidden).first.is_hidden()
    assert page.locator("#figures canvas").first.is_visible()
    head = page.locator("#where-table thead")
    assert head.evaluate("node => getComputedStyle(node).display") == "table-header-group"
    assert page.pdf(path=tmp_path / "a.pdf", format="A4").startswith(b"%PDF")


def test_two_fingers_zoom_the_viewer_and_one_finger_pans_it(open_report):
    page = open_report(touch=True)
    viewer = page.locator("#viewer")
    page.get_by_role("button", name="Side by side").click()
    canvas = page.locator(".pane canvas").nth(1)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        at = [{"x": across, "y": down, "id": finger} for finger, (across, down) in enumerate(points)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

    touch("touchStart", (x - 20, y), (x + 20, y))
    for far in (30, 40, 50, 60):
        touch("touchMove", (x - far, y), (x + far, y))
    touch("touchEnd")
    assert 2.5 < float(viewer.get_attribute("data-zoom")) < 3.5
    closer = canvas.evaluate("canvas => canvas.toDataURL()")
    touch("touchStart", (x, y))
    touch("touchMove", (x - 40, y))
    touch("touchMove", (x - 80, y))
    touch("touchEnd")
    assert canvas.evaluate("canvas => canvas.toDataURL()") != closer
    # The page itself has neither zoomed nor moved sideways.
    assert page.evaluate("[visualViewport.scale, scrollX]") == [1, 0]
    touch("touchStart", (x - 60, y), (x + 60, y))
    for far in (40, 20, 10):
        touch("touchMove", (x - far, y), (x + far, y))
    touch("touchEnd")
    assert float(viewer.get_attribute("data-zoom")) == 1


@pytest.fixture(scope="module")
def full_report(shared_runs, tmp_path_factory) -> Path:
    """The report with every section that asks for something."""
    folder = tmp_path_factory.mktemp("full")
    (folder / "light.json").write_text('{"day": [7, 8], "night": [9, 10]}', "utf-8")
    runs = [load_run(shutil.copytree(run.path, folder / run.name)) for run in shared_runs]
    for run in runs:
        # Papers claim something of COCO.
        run.info = replace(run.info, dataset=replace(run.info.dataset, name="coco", split="val"))
        if "fusing" in STUDIES:
            from panbench.studies.fusing.answer import ORACLE_STEPS, write_oracle

            write_oracle(run, dict.fromkeys(ORACLE_STEPS, image_statistics(run.matched, run.categories)))
    options = {"slices": folder / "light.json", "published": ["R50"]}
    return write_report(runs, folder / "full.html", **options)


STUDIES = {study.name for study in find_studies()}
FOLDED = tuple(name for name in ("calibration", "fusing") if name in STUDIES)


def test_every_section_fits_the_width_and_axe_finds_no_violation(read_report, full_report):
    sections = "all => all.map(section => section.id)"
    plain = read_report().locator("main > section").evaluate_all(sections)
    for width, scheme in ((1600, "light"), (1024, "dark"), (400, "dark"), (400, "light")):
        page = read_report(full_report, width=width, scheme=scheme)
        assert plain == page.locator("main > section").evaluate_all(sections)
        assert len(plain) == 6
        page.evaluate("document.querySelectorAll('main details').forEach((one) => { one.open = true; })")
        for key in FOLDED:
            assert page.locator(f"#more #{key}").is_visible()
        assert page.locator("#comparison tr.claim").count() > 3
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme)
        if "calibration" in STUDIES:
            page.locator("#chart-calibration svg path").nth(2).wait_for(state="attached")
        assert serious_violations(page) == [], (width, scheme)


def test_a_user_slice_opens_its_pictures(open_report, full_report):
    page = open_report(path=full_report)
    page.locator("#where-view [aria-label=What]").get_by_role("button", name="Light").click()
    page.locator("#where-table").get_by_role("button", name="night").click()
    assert "light: night" in page.locator(".chip").inner_text()
    assert page.locator(".thumbs button").count() == 2


@pytest.mark.skipif("calibration" not in STUDIES, reason="the study of calibration was deleted")
def test_a_bin_of_a_curve_has_a_tooltip(open_report, full_report):
    page = open_report(path=full_report)
    page.locator("#calibration summary").first.click()
    page.locator("#chart-calibration [role=group]").focus()
    page.keyboard.press("ArrowRight")
    assert "95 % interval" in page.locator("#tooltip").inner_text()


def test_a_page_of_one_model_never_prints_null(read_report, alone):
    page = read_report(alone[0])
    assert "null" not in page.locator("main").inner_text()


def test_long_names_do_not_widen_a_narrow_page(open_report, shared_runs, tmp_path):
    long = "mask2former_swin_large_seed{}_of_a_very_long_experiment_name_without_spaces"
    runs = [load_run(run.path) for run in shared_runs]
    for number, run in enumerate(runs):
        run.info = replace(run.info, model=replace(run.info.model, title=long.format(number)))
    page = open_report(write_report(runs, tmp_path / "long.html"), width=400)
    page.locator("#gallery-view canvas").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_a_click_on_a_picture_does_not_capture_the_wheel(open_report):
    page = open_report()
    page.get_by_role("button", name="Side by side").click()
    canvas, zoom = page.locator(".pane canvas").nth(1), "Number(document.querySelector('#viewer').dataset.zoom ?? 1)"
    canvas.click()
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, -300)
    wait_in_page(page, f"scrollY < {before}")
    assert page.evaluate(zoom) == 1
    assert "Ctrl + wheel zooms" in page.locator(".hint").all_inner_texts()


def test_confusions_are_the_largest_of_the_chosen_pair_with_counts(open_report, three):
    page = open_report(three)
    page.get_by_role("button", name="Confused segments").click()
    view = page.locator("#where-table")

    def rows() -> list[list[str]]:
        return [row.locator("td, th").all_inner_texts() for row in view.locator("tbody tr").all()]

    # The runs are equal but for the worse one, which comes last: between the first two there is no confusion.
    assert "None: no mask is right" in page.locator("#where-view").inner_text()
    page.get_by_label("against", exact=True).select_option(index=2)
    assert [text.strip(" ▼\n") for text in view.locator("thead th").all_inner_texts()[-4:]] == ["A", "B", "A − B", "n"]
    (row,) = rows()
    assert row[0].endswith(" → ball")
    assert (row[2], row[3], row[4]) == ("0", "2", "−2")
    page.get_by_label("Model", exact=True).select_option(index=2)
    ((*_, a, b, gap, n),) = rows()
    assert (a, b, gap, n) == ("2", "0", "+2", "4")


def test_a_difference_of_causes_has_an_interval_and_is_not_bold(open_report, tmp_path):
    # From 200 images on.
    gt = dict.fromkeys(range(1, 205), "ppppssss")
    worse = {image: "ssssssss" if image % 2 else "ppppssss" for image in gt}
    runs = [scored(tmp_path, name, gt, list(found.values())) for name, found in (("all", gt), ("half", worse))]
    page = open_report(write_report(runs, tmp_path / "sure.html", examples=0))
    missed = page.locator("#cause-bars tr", has_text="missed").first.locator("td").last
    assert missed.inner_text().startswith("−")
    low, high = (float(part) for part in missed.inner_text().split("[")[1].rstrip("]").replace("−", "-").split(", "))
    assert low < high < 0
    # Bold is what is significant after correction, and causes are not corrected.
    assert missed.locator("strong").count() == 0
    speak_of(page, "half")
    turned = page.locator("#cause-bars tr", has_text="missed").first.locator("td").last.inner_text()
    assert turned == missed.inner_text()
    assert turned.startswith("+")


def test_a_speed_without_a_range_has_no_mark_in_the_chart(open_report, shared_runs, bare, tmp_path):
    page = open_report(bare)
    assert page.locator("#chart-speed").count() == 0
    assert "did not record how much it varied" in page.locator("#cost").text_content()
    runs = [load_run(run.path) for run in shared_runs]
    runs[0].info = replace(runs[0].info, images_per_second_low=0.8, images_per_second_high=1.3)
    page = open_report(write_report(runs, tmp_path / "one.html", examples=0))
    page.locator("#cost summary").click()
    page.locator("#chart-speed line.span").wait_for(state="attached")
    assert page.locator("#chart-speed line.span").count() == 1
    assert page.locator("#chart-speed [data-explained]").count() == 1


def test_bars_of_fusion_have_a_legend_and_no_cause_colour(read_report, full_report):
    if "fusing" not in STUDIES:
        pytest.skip("the study of fusing was deleted")
    page = read_report(path=full_report)
    page.evaluate("document.getElementById('fusing').open = true")
    part = page.locator("#fusing")
    assert part.locator(".legend li").all_inner_texts() == ["scores and fusion, at least", "no mask fits, at most"]
    fill = "nodes => nodes.map(node => getComputedStyle(node).fill)"
    own = set(part.locator("rect[class^=part]").evaluate_all(fill))
    assert len(own) == 2
    assert not own & set(page.locator("#cause-bars rect").evaluate_all(fill))


@pytest.mark.skipif("calibration" not in STUDIES, reason="the study of calibration was deleted")
def test_the_calibration_chart_fills_its_square(open_report, tmp_path):
    gt = dict.fromkeys(range(1, 21), "ppppssss")
    run = scored(tmp_path, "sure", gt, list(gt.values()), scores={"p": 0.95, "s": 0.85})
    page = open_report(write_report([run], tmp_path / "sure.html", examples=0))
    page.locator("#calibration summary").first.click()
    square = page.locator("#chart-calibration svg").first
    texts = square.locator("text.quiet").all_text_contents()
    assert min(int(text) for text in texts if text.isdigit()) >= 80


def test_charts_and_tables_are_painted_before_pictures_are_parsed(browser, report):
    context = browser.new_context(viewport={"width": 1600, "height": 900})
    page = context.new_page()
    page.add_init_script(
        """const parse = JSON.parse;
        let free = false;
        window.parsed = [];
        JSON.parse = (text) => {
            setTimeout(() => { free = true; });
            window.parsed.push([text === document.getElementById('pictures')?.textContent, free,
                document.querySelectorAll('#cause-bars tr, #where-table tbody tr').length]);
            return parse(text);
        };"""
    )
    page.goto(report.as_uri())
    page.locator("html[data-ready]").wait_for(state="attached")
    parsed = page.evaluate("window.parsed")
    context.close()
    # The numbers first; then, with these drawn and the browser free to paint them, the pictures.
    assert [part[:2] for part in parsed] == [[False, False], [True, True]]
    assert parsed[1][2] > 3


def copies_of(runs, number: int, folder: Path) -> list:
    """So many runs, the given ones in turn under other names."""
    places = [
        shutil.copytree(runs[copy % len(runs)].path, folder / f"run-of-some-name-{copy}") for copy in range(number)
    ]
    return [load_run(place) for place in places]


@pytest.fixture(scope="module")
def twelve_report(shared_runs, tmp_path_factory) -> Path:
    """The report of twelve runs, of which six and six are equal."""
    folder = tmp_path_factory.mktemp("twelve")
    return write_report(copies_of(shared_runs, 12, folder), folder / "twelve.html", examples=2)


def test_marks_at_one_value_do_not_hide_each_other(read_report, twelve_report):
    page = read_report(path=twelve_report)
    rows = page.locator("#where-table tbody svg.dots").evaluate_all(
        """rows => rows.map(row => [...row.querySelectorAll("path")].map(mark => {
            const box = mark.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2];
        }))"""
    )
    assert rows
    for centres in rows:
        apart = [max(abs(a[0] - b[0]), abs(a[1] - b[1])) for at, a in enumerate(centres) for b in centres[:at]]
        assert len(centres) == 12
        assert min(apart) > 5


def test_names_of_twelve_models_do_not_overlap_in_charts_of_cost(read_report, twelve_report):
    page = read_report(path=twelve_report)
    page.evaluate("document.getElementById('cost').open = true")
    for chart in ("#chart-speed", "#chart-params"):
        if not page.locator(f"{chart} svg[role=img]").count():
            continue
        found = page.locator(f"{chart} svg[role=img] g > text").evaluate_all(
            "all => all.map(one => one.getBoundingClientRect()).map(box => [box.left, box.top, box.right, box.bottom])"
        )
        boxes = [tuple(box) for box in found]
        for place, a in enumerate(boxes):
            for b in boxes[:place]:
                assert not (a[0] < b[2] and b[0] < a[2] and a[1] + 3 < b[3] and b[1] + 3 < a[3])
        # What has no room for its name is named by its marker.
        assert len(boxes) == 12 or page.locator(f"{chart} .legend li").count() == 12


def test_pictures_side_by_side_are_aligned(open_report):
    page = open_report(width=1024)
    page.get_by_role("button", name="Side by side").click()
    # Heads of one and of two lines.
    page.locator(".pane .counts").first.evaluate("node => { node.textContent = 'many words '.repeat(20); }")
    rows = {}
    for pane in page.locator(".pane").all():
        box, picture = pane.bounding_box(), pane.locator("canvas").bounding_box()
        rows.setdefault(round(box["y"] + box["height"]), set()).add(round(picture["y"] + picture["height"]))
    assert all(len(ends) == 1 for ends in rows.values())
    first = page.locator(".panes").bounding_box()
    beside = [one for one in page.locator(".pane canvas").all() if one.bounding_box()["y"] < first["y"] + 500]
    assert len({round(one.bounding_box()["y"]) for one in beside[:2]}) == 1


def test_a_hyphen_in_a_model_name_is_not_turned_into_a_minus(read_report, twelve_report):
    words = read_report(path=twelve_report).locator("#verdict").inner_text()
    assert re.search(r"run-of-some-name-\d+", words)


LINES = """all => all.map(one => {
    const text = document.createRange();
    text.selectNodeContents(one);
    return text.getClientRects().length;
})"""


def test_numbers_of_twelve_models_are_not_cut_on_paper(read_report, twelve_report):
    page = read_report(path=twelve_report, width=702, media="print")
    lines = page.locator("#cause-bars .points").evaluate_all(LINES)
    assert len(lines) >= 24
    assert set(lines) == {1}


def test_the_divider_at_an_end_shows_one_complete_layer(open_report):
    page = open_report()
    canvas, handle = page.locator("#viewer .stage canvas"), page.get_by_role("slider", name="Divider")
    canvas.wait_for()
    # Of a model that found all there is nothing but the photograph.
    page.get_by_label("Right", exact=True).select_option("second")
    handle.focus()
    moved = []
    for key in ("End", "Home"):
        page.keyboard.press(key)
        moved.append(canvas.evaluate("canvas => canvas.toDataURL()"))
        # Painted anew, with the divider where it is.
        page.get_by_role("button", name="Fit").click()
        assert canvas.evaluate("canvas => canvas.toDataURL()") == moved[-1]
        handle.focus()
    assert moved[0] != moved[1]


def test_names_of_causes_are_readable_next_to_twelve_models(read_report, twelve_report):
    page = read_report(path=twelve_report, width=1440)
    first = page.locator("#cause-bars tbody th").first
    assert first.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert page.locator("#cause-bars").bounding_box()["height"] < 1200
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440


def test_the_bar_of_sections_shows_all_of_them_and_hides_no_title(open_report, full_report):
    page = open_report(path=full_report, width=1024)
    bar = page.locator("#contents")
    for width in (1024, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        redraw(page)
        page.evaluate("scrollTo(0, 0)")
        assert bar.locator("a").count() == 6
        assert bar.evaluate("node => node.scrollWidth <= node.clientWidth"), width
        bar.locator("a").nth(4).click()
        wait_in_page(page, "scrollY > 100")
        title = page.locator("main > section").nth(4).locator("h2").bounding_box()
        assert title["y"] >= bar.bounding_box()["y"] + bar.bounding_box()["height"], width


def test_a_pressed_button_looks_pressed_in_forced_colours(read_report):
    page = read_report(forced=True)
    look = "node => [getComputedStyle(node).backgroundColor, getComputedStyle(node).color].join()"
    pressed = page.locator("#where-view button[aria-pressed=true]").first.evaluate(look)
    assert pressed != page.locator("#where-view button[aria-pressed=false]").first.evaluate(look)
    # Colours that mean something stay: the swatch of each cause.
    swatches = page.locator("#cause-bars .swatch").all()
    assert len({swatch.evaluate("node => getComputedStyle(node).backgroundColor") for swatch in swatches}) == len(
        swatches
    )


def serious_violations(page, place: str = "html") -> list[str]:
    """What axe-core holds against a page, or the place of a selector in it."""
    script = os.environ.get("PANBENCH_AXE")
    if not script or not Path(script).is_file():
        pytest.skip("PANBENCH_AXE does not name axe-core's axe.min.js (npm pack axe-core)")
    if not page.evaluate("'axe' in window"):
        page.evaluate(Path(script).read_text("utf-8"))
    # Of a rule that a node passes only the name is needed.
    found = page.evaluate("async (place) => (await axe.run(place, {resultTypes: ['violations']})).violations", place)
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]} {node['failureSummary']}"
        for violation in found
        for node in violation["nodes"]
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.fixture(scope="module")
def served(shared_runs) -> Iterator[str]:
    """The address of a server of the two runs."""
    with serving(shared_runs[0].path.parent) as address:
        yield address


class TestServed:
    """`panbench serve` in the browser: the same page, over all images."""

    @pytest.fixture
    def open_served(self, browser, served) -> Iterator:
        opened = []

        def open_(hash="", **settings) -> Any:
            opened.append(Opened(browser, f"{served}/compare?run=run-a&run=run-b", hash=hash, **settings))
            opened[-1].page.locator(".thumbs li button").first.wait_for()
            return opened[-1].page

        yield open_
        for one in opened:
            one.close(served)

    def status(self, page) -> str:
        wait_in_page(page, "!document.querySelector('#gallery-view').hasAttribute('aria-busy')")
        return page.locator("#gallery-view .listed").inner_text()

    def test_all_images_are_listed_and_filtered_by_what_went_wrong(self, open_served):
        page = open_served()
        assert self.status(page) == "4 images"
        page.get_by_label("Segments", exact=True).select_option("false")
        page.locator("#images").get_by_label("Of", exact=True).select_option(index=2)
        with_errors = self.status(page)
        assert re.fullmatch(r"[1-4]( of 4)? images?", with_errors)
        page.get_by_label("IoU from").fill("2")
        page.get_by_label("IoU from").blur()
        assert self.status(page) == "0 of 4 images"
        assert page.get_by_text("No image matches.").is_visible()

    def test_a_category_opens_its_images_and_the_address_brings_them_back(self, open_served):
        page = open_served()
        page.locator("#where-table .link").first.click()
        said = self.status(page)
        wait_in_page(page, "location.hash.includes('image=')")
        shown = page.locator("#viewer").get_attribute("data-image")
        open_anew(page)
        assert self.status(page) == said
        wait_in_page(page, f"document.querySelector('#viewer').dataset.image === '{shown}'")

    def test_a_cause_opens_its_model_with_its_segments_highlighted_and_zoomed(self, open_served):
        page = open_served()
        page.get_by_label("Error", exact=True).select_option("missed")
        page.locator("#images").get_by_label("Of", exact=True).select_option("second")
        wait_in_page(page, "!document.querySelector('.places').hidden")
        assert page.locator(".places [role=status]").inner_text() == "1 of 1: ball: missed, 36 pixels"
        assert page.locator(".corner.right").inner_text() == "second"
        assert float(page.locator("#viewer").get_attribute("data-zoom")) > 2
        shown = page.locator("#viewer").get_attribute("data-image")
        page.locator("#viewer").focus()
        page.keyboard.press("n")
        wait_in_page(page, f"document.getElementById('viewer').dataset.image !== '{shown}'")
        open_anew(page)
        wait_in_page(page, "!document.querySelector('.places').hidden")

    def test_a_chosen_segment_is_highlighted_like_one_that_a_link_opens(self, open_served):
        page = open_served()
        page.get_by_label("Segments", exact=True).select_option("missed")
        page.locator("#images").get_by_label("Of", exact=True).select_option("second")
        wait_in_page(page, "!document.querySelector('.places').hidden")
        # The cat of image 8 is taken for a ball, and one of its balls is not found.
        assert re.match(
            r"1 of 2: .* missed \(wrong category\), 100 pixels", page.locator(".places [role=status]").inner_text()
        )

    def test_a_point_opens_any_image(self, open_served):
        page = open_served()
        page.locator("#points").focus()
        page.keyboard.press("ArrowRight")
        wanted = page.locator("#image-view [role=status]").inner_text().split(",")[0].removeprefix("Image ")
        page.keyboard.press("Enter")
        wait_in_page(page, f"document.querySelector('#viewer').dataset.image === '{wanted}'")

    def test_a_working_server_shows_a_progress_sign(self, open_served):
        page = open_served()
        held = []
        page.route("**/api/find*", lambda route: held.append(route))
        page.get_by_label("Segments", exact=True).select_option("missed")
        page.locator(".busy", has_text="Looking…").wait_for()
        held[0].continue_()
        assert re.fullmatch(r"[1-4]( of 4)? images?", self.status(page))
        assert page.locator(".busy").inner_text() == ""

    def test_lists_request_thumbnails_and_the_viewer_the_full_image(self, open_served):
        page = open_served()
        page.locator("#viewer canvas").first.wait_for()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        last = page.locator(".thumbs li button").last
        last.click()
        wait_in_page(page, f"document.querySelector('#viewer').dataset.image === '{last.get_attribute('data-image')}'")
        page.get_by_role("button", name="Side by side").click()
        assert page.locator(".pane canvas").count() == 4
        # What is there is not asked for again.
        last.click()
        assert len([url for url in asked if "/api/example" in url]) == 1

    def test_a_thumbnail_loads_while_its_image_is_opened_in_another_model(self, open_served):
        page = open_served()
        self.status(page)
        page.evaluate(
            "window.held = [];"
            "Object.defineProperty(HTMLImageElement.prototype, 'onload', {set: (loaded) => window.held.push(loaded)})"
        )
        page.get_by_label("Order", exact=True).select_option(index=1)
        self.status(page)
        page.locator(".thumbs").scroll_into_view_if_needed()
        wait_in_page(page, "window.held.length > 0")
        for button in page.locator(".thumbs li button").all():
            button.click()
            shown = button.get_attribute("data-image")
            wait_in_page(page, f"document.querySelector('#viewer').dataset.image === '{shown}'")
        page.locator("#images").get_by_label("Of", exact=True).select_option("second")
        self.status(page)
        page.locator("#viewer:not([aria-busy])").wait_for()
        # None draws a layer that the image's first answer lacks: the page would complain.
        page.evaluate("window.held.forEach((loaded) => loaded())")

    def test_a_photograph_that_cannot_be_loaded_is_reported_and_the_next_image_works(self, open_served):
        page = open_served()
        wait_for_picture(page)

        def broken(route) -> None:
            route.fulfill(json={**route.fetch().json(), "photo": "data:image/jpeg;base64,AAAA"})

        page.route("**/api/example*", broken)
        shown = page.locator("#viewer").get_attribute("data-image")
        buttons = page.locator(".thumbs li button").all()
        other, last = [button for button in buttons if button.get_attribute("data-image") != shown][:2]
        message = f"The photograph of image {other.get_attribute('data-image')} could not be loaded."
        # The second time the photograph is known to be broken.
        for _ in range(2):
            other.click()
            said = page.locator("#viewer:not([aria-busy]) [role=alert]")
            assert said.inner_text() == message
            # Nothing of the image before is left beside the name of this one.
            assert page.locator("#viewer canvas, #viewer .lists table").count() == 0
        page.get_by_role("button", name="Zoom in").click()
        page.unroute("**/api/example*")
        last.click()
        wait_for_picture(page)
        assert page.locator("#viewer").get_attribute("data-image") == last.get_attribute("data-image")
        assert page.locator("#viewer [role=alert]").count() == 0

    def test_the_page_links_back_to_the_list_of_runs(self, open_served):
        page = open_served()
        page.get_by_role("link", name="All runs").click()
        # The two best are ticked.
        page.get_by_label("Compare run-b").uncheck()
        page.get_by_role("button", name="Compare those that are ticked").click()
        page.wait_for_url("**/compare?run=run-a")

    def test_nothing_is_wider_than_the_screen(self, open_served):
        page = open_served(width=400)
        self.status(page)
        for width in (400, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            redraw(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, width

    def test_axe_finds_no_serious_violation(self, open_served):
        page = open_served()
        self.status(page)
        # The rest is as in a file, which axe looks through above.
        assert serious_violations(page, "#images") == []
        page.get_by_role("link", name="All runs").click()
        assert serious_violations(page) == []
