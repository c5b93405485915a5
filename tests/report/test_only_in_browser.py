"""What only one of two models finds: as a picture, as a list of images, for the pair that is chosen."""

import shutil

from browsing import wait_in_page

from panbench.report.answers.views import best_first, compared
from panbench.report.pages.page.document import write_report
from panbench.report.pages.page.only import found_by, only_numbers
from panbench.runs import load_run

# The first model finds all four segments of each image. The second misses the second ball in all of the images 7 to 10
# and takes the cat for a ball in 8 and 10.


def test_segments_are_counted_by_the_models_that_found_them(shared_runs):
    members, _ = compared(best_first(shared_runs))
    table = found_by(members)
    both = table.pivot(index="image_id", columns="gt_id", values="models")
    assert both.loc[7].tolist() == [3, 3, 1, 3]
    assert both.loc[8].tolist() == [1, 3, 1, 3]
    assert only_numbers(members) == [[7, 1, 1], [8, 1, 2], [9, 1, 1], [10, 1, 2]]
    assert only_numbers(members[:1]) == []


def test_the_images_in_which_one_finds_more_are_listed_and_a_number_opens_the_picture(open_report):
    page = open_report()
    said = page.locator("#only-view p").first.inner_text().replace("\n", "")
    assert "first <b>model</b> finds 6 true segments that second does not, in 4 images" in said
    assert "second finds 0 true segments that first <b>model</b> does not, in 0 images" in said
    rows = [row.split("\t") for row in page.locator("#only-images tbody tr").all_inner_texts()]
    assert rows == [["Image 8", "2", "0"], ["Image 10", "2", "0"], ["Image 7", "1", "0"], ["Image 9", "1", "0"]]
    page.locator("#only-images").get_by_role("button", name="1", exact=True).first.click()
    wait_in_page(page, "document.getElementById('viewer').dataset.image === '7'")
    assert page.locator(".places [role=status]").inner_text() == "1 of 1: ball: missed, 36 pixels"
    assert page.locator("#viewer .verdict.only").all_inner_texts() == [
        "1 only first <b>model</b> (/)",
        "0 only second (\\)",
    ]
    assert page.get_by_label("Right", exact=True).evaluate("node => node.selectedOptions[0].textContent") == (
        "Found by only one"
    )


# The colour of the middle of a part of the canvas, without its stripes: the most frequent one.
COLOR = """(canvas, [x, y, w, h]) => {
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const [left, top] = [Math.round(x * canvas.width), Math.round(y * canvas.height)];
    const { data } = copy.getImageData(left, top, Math.round(w * canvas.width), Math.round(h * canvas.height));
    let [red, green, blue] = [0, 0, 0];
    for (let at = 0; at < data.length; at += 4) { red += data[at]; green += data[at + 1]; blue += data[at + 2]; }
    return [red, green, blue].map(sum => sum / (data.length / 4));
}"""


def test_the_picture_has_what_one_finds_alone_in_its_colour_and_the_rest_in_grey(open_report):
    page = open_report(hash="#image=7")
    page.get_by_label("Right", exact=True).select_option("Found by only one")
    page.get_by_role("slider", name="Divider").press("Home")
    canvas = page.locator(".stage canvas")
    ball = canvas.evaluate(COLOR, [26 / 40, 19 / 30, 4 / 40, 4 / 30])
    cat = canvas.evaluate(COLOR, [6 / 40, 7 / 30, 6 / 40, 6 / 30])
    assert max(ball) - min(ball) > 25
    assert max(cat) - min(cat) < 15


def test_the_list_follows_the_chosen_pair(open_report, shared_runs, tmp_path):
    copy = load_run(shutil.copytree(shared_runs[1].path, tmp_path / "run-c"))
    page = open_report(path=write_report([*shared_runs, copy], tmp_path / "three.html"))
    page.locator("#only-view select").select_option(index=2)
    said = page.locator("#only-view p").first.inner_text()
    assert "0 true segments" in said
    assert page.locator("#only-images tbody tr").count() == 0


def test_the_server_finds_the_images_in_which_only_one_finds_a_segment(shared_runs):
    from panbench.report.pages.live.library import Library
    from panbench.report.pages.live.selection import Query

    selection = Library(shared_runs[0].path.parent).selection(["run-a", "run-b"])
    assert selection.find(Query.read({"only": "0:1", "order": "id"})) == [7, 8, 9, 10]
    assert selection.find(Query.read({"only": "1:0"})) == []
