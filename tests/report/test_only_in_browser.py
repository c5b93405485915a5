"""What only one of two models finds: a filter of the images, for the pair that is chosen."""

from browsing import wait_in_page
from support import compared_by

from panbench.report.answers.views import best_first, compared
from panbench.report.pages.page.leads import models_that_found

# The first model finds all four segments of each image. The second misses the second ball in all of the images 7 to 10
# and takes the cat for a ball in 8 and 10.


def test_segments_are_counted_by_the_models_that_find_them(shared_runs):
    members, _ = compared(best_first(shared_runs))
    table = models_that_found(members)
    both = table.pivot(index="image_id", columns="gt_id", values="models")
    assert both.loc[7].tolist() == [3, 3, 1, 3]
    assert both.loc[8].tolist() == [1, 3, 1, 3]


def test_images_are_filtered_by_segments_that_only_one_model_finds(open_report):
    page = open_report()
    found = page.get_by_label("Found by", exact=True)
    found.select_option("the model alone")
    wait_in_page(page, "document.getElementById('viewer').dataset.image === '8'")
    assert page.locator(".thumbs button").count() == 4
    assert (
        page.locator(".chip").inner_text().startswith("Images in which first <b>model</b> finds what second does not")
    )
    # The model beside the one that missed it, in whose picture the first of both misses is lit.
    chosen = "node => node.selectedOptions[0].textContent"
    assert page.get_by_label("Left", exact=True).evaluate(chosen) == "first <b>model</b>"
    assert page.get_by_label("Right", exact=True).evaluate(chosen) == "second"
    assert page.locator(".places [role=status]").inner_text().startswith("1 of 2: ")
    found.select_option("the other alone")
    assert (
        "No example in which second finds what first <b>model</b> does not."
        in page.locator("#gallery-view").inner_text()
    )


def test_the_server_finds_the_images_in_which_only_one_finds_a_segment(shared_runs):
    from panbench.report.pages.live.library import RunLibrary
    from panbench.report.pages.live.queries import Query

    selection = compared_by(RunLibrary(shared_runs[0].path.parent), ["run-a", "run-b"])
    assert selection.find(Query.read({"only": "0:1", "order": "id"})) == [7, 8, 9, 10]
    assert selection.find(Query.read({"only": "1:0"})) == []
