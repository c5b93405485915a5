import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_hex
from report_runs import data_of, text_of
from support import ran, refusal

from panbench.base.errors import BadArgument, BadRun
from panbench.base.reporter import Collected, Silent
from panbench.metrics.pq import pq_table, summarise
from panbench.panoptic.overlap import OverlapTable, take
from panbench.report.answers.comparison import corrected_p
from panbench.report.answers.grid import percent, signed
from panbench.report.answers.views import compared, per_image
from panbench.report.figures.colors import LIGHT, MARKER_PATHS, MARKERS
from panbench.report.figures.pictures import Layer, LayerSegment, Pictures, RunPictures, runs_of, side_by_side_figure
from panbench.report.figures.plots import draw_plot
from panbench.report.pages.page.document import report_page, write_report
from panbench.report.pages.page.leads import choose_gallery_images, displayed_images_by_lead, find_leads
from panbench.report.pages.page.overview import behind_the_verdict, overview
from panbench.report.pages.page.packing import encode_run_lengths
from panbench.report.pages.page.section import shortened
from panbench.runs import RunWriter, load_run


@pytest.fixture(scope="module")
def page(report) -> str:
    """The report of `shared_runs`."""
    return report.read_text("utf-8")


class Elements(HTMLParser):
    """Every start tag of a page, with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_everything_is_in_one_file_and_nothing_is_fetched(page):
    elements = Elements(page).found
    references = [
        value
        for _, attributes in elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "poster") and not value.startswith("#")
    ]
    assert references == []
    assert "@import" not in page
    assert "url(" not in page
    policy = next(a["content"] for name, a in elements if name == "meta" and "http-equiv" in a)
    assert "default-src 'none'" in policy


def test_names_with_html_in_them_stay_text(page):
    # The name of the first category would open an image and end the script; it occurs only inside JSON strings.
    assert "<img" not in page.split("<script")[0]
    assert not any(name == "img" or "onerror" in attributes for name, attributes in Elements(page).found)
    assert data_of(page)["categories"][0]["name"].startswith("<img src=x onerror")
    assert page.count("</script>") == 3  # the numbers, the pictures, the scripts
    assert "first &lt;b&gt;model&lt;/b&gt;" in page
    assert "first <b>model" not in page


def test_numbers_on_the_page_equal_those_of_the_runs(shared_runs, page):
    data = data_of(page)
    for place, run in enumerate(shared_runs):
        assert data["overview"]["PQ"][place] == pytest.approx(run.summary()["All"]["PQ"], abs=5e-5)
        by_category = [row["scores"][place][0] for row in data["perCategory"]]
        assert by_category == pytest.approx(run.pq()["PQ"].tolist(), abs=5e-5)
        assert sum(data["causes"]["lost"][place]) == pytest.approx(1 - run.summary()["All"]["PQ"], abs=1e-3)
    assert data["objects"] == [[0, 1, [0, 2]]]  # the second model takes two cats for balls


def test_each_tested_difference_is_in_its_interval_and_equals_the_scores_difference(make_runs):
    data = data_of(report_page(make_runs(images=12, predictions=False), examples=0))
    (pair,) = data["pairs"]
    first, second = data["overview"]["PQ"][pair["a"]], data["overview"]["PQ"][pair["b"]]
    categories = [[row[0] for row in one["scores"]] for one in data["perCategory"]]
    tested = list(pair["categories"].values())
    for place, (difference, *_) in pair["categories"].items():
        scores = categories[int(place)]
        assert difference == pytest.approx(scores[pair["a"]] - scores[pair["b"]], abs=2e-4)
    assert first > second
    assert tested
    assert all(low is None or low <= difference <= high for difference, low, high, *_ in tested)
    assert any(low is not None and low < high for _, low, high, *_ in tested)


def test_the_gallery_has_image_truth_and_each_model(page):
    gallery = data_of(page)["gallery"]
    assert sorted(image["id"] for image in gallery) == [7, 8, 9, 10]
    image = next(image for image in gallery if image["id"] == 8)
    assert image["photo"].startswith("data:image/jpeg;base64,")
    truth, first, second = image["layers"]
    assert [segment["category"] for segment in truth["segments"]] == [0, 1, 1, 2]
    assert [segment["verdict"] for segment in first["segments"]] == ["TP"] * 4
    assert [segment["verdict"] for segment in second["segments"]] == ["TP", "FP", "TP"]
    assert [verdict for verdict, *_ in image["answers"][1]] == ["FN", "TP", "FN", "TP"]
    # The cat is taken for a ball: on both sides it says so.
    assert image["answers"][1][0][2:] == ["wrong category", [0, 1]]
    assert [segment["taken"] for segment in second["segments"]] == [None, [0, 1], None]


def test_runs_without_predictions_are_reported_and_the_rest_is_shown(make_runs):
    said = Collected()
    page = report_page(make_runs(predictions=False), reporter=said)
    assert data_of(page)["gallery"] == []
    assert "--save-predictions" in said.notices[0]
    assert "No pictures. No run has stored predictions, so" in page
    assert 'id="gallery-view"' not in page
    assert 'id="cause-bars"' in page


def test_one_run_without_predictions_is_named_and_the_other_is_shown(make_runs):
    runs = make_runs()
    for path in (runs[1].path / "predictions").iterdir():
        path.unlink()
    (runs[1].path / "predictions").rmdir()
    said = Collected()
    gallery = data_of(report_page(runs, reporter=said))["gallery"]
    assert gallery[0]["layers"][1] is not None
    assert gallery[0]["layers"][2] is None
    assert said.notices == [
        "second has no stored predictions and is not in the pictures. To repeat the runs with predictions, run this "
        "where they were made: panbench eval --model second --save-predictions --overwrite"
    ]


def test_missing_images_are_counted_and_the_first_is_named(make_runs, tmp_path):
    runs = make_runs()
    (tmp_path / "photos" / "photo 2 <i>.jpg").unlink()
    said = Collected()
    gallery = data_of(report_page(runs, reporter=said))["gallery"]
    assert sorted(image["id"] for image in gallery) == [7, 8, 10]
    assert "1 of 4 examples are left out" in said.notices[0]
    assert "photo 2 <i>.jpg" in said.notices[0]


def test_missing_ground_truth_removes_the_gallery(make_runs, tmp_path):
    runs = make_runs()
    (tmp_path / "gt.json").unlink()
    page = report_page(runs)
    assert data_of(page)["gallery"] == []
    assert "Say where it is now with --gt." in page


def test_moved_data_is_found_in_the_given_folder(make_runs, tmp_path):
    runs = make_runs()
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    assert data_of(report_page(runs))["gallery"] == []
    assert len(data_of(report_page(runs, images=tmp_path / "elsewhere"))["gallery"]) == 4


def test_a_p_value_at_its_floor_reads_as_in_compare(shared_runs):
    members, found = compared(shared_runs)
    apart = found.comparison.differences.assign(p_holm=0.00312, at_floor=True)
    floored = replace(found, comparison=replace(found.comparison, differences=apart))
    page = overview(members, floored)
    assert corrected_p(0.00312, True) == "<0.004"
    differences, behind = page.split('<div id="behind">')
    assert differences.count(">p &lt; 0.004</small>") == 3
    assert behind.count(">&lt;0.004</td>") == 12
    assert "so p may be smaller still" in page
    assert "so p may be smaller still" not in overview(members, found)


def test_details_below_the_verdict_list_the_first_and_then_the_second_model(shared_runs):
    for runs in (shared_runs, shared_runs[::-1]):
        members, found = compared(runs)
        groups = behind_the_verdict(members, found)
        assert [group["group"] for group in groups] == ["All", "Things", "Stuff"]
        for group in groups:
            scores = [run.summary()[group["group"]] for run in runs]
            for row, metric in zip(group["rows"], ("PQ", "SQ", "RQ"), strict=False):
                a, b = (one[metric] for one in scores)
                expected = (metric, percent(a, 1), percent(b, 1), signed(a - b, 1))
                assert (row["name"], row["a"], row["b"], row["points"]) == expected


def test_an_incomplete_run_is_marked_wherever_it_appears(make_runs):
    page = report_page(make_runs(status="interrupted", expected=9), examples=0)
    assert all(model["label"].endswith("(incomplete)") for model in data_of(page)["models"])
    # Comparison, state and heads of the record.
    assert text_of(page).count("(incomplete)") >= 4
    assert "interrupted, incomplete: 4 of 9 images" in page


def test_runs_on_other_images_are_refused_with_the_difference_unless_common_images_are_asked_for(make_runs, tmp_path):
    first, second = make_runs()
    writer = RunWriter.create(tmp_path / "fewer", replace(second.info, name="fewer"), overwrite=True)
    keep = second.table.segments.image_id > 7
    pairs = second.table.overlaps
    writer.write_part(OverlapTable(take(second.table.segments, keep), take(pairs, pairs.image_id > 7), None))
    fewer = writer.finish("done")
    assert "has 4 images and fewer 3, 3 of them in both" in refusal(BadRun, report_page, [first, fewer])
    data = data_of(report_page([first, fewer], common_images=True, examples=0))
    assert data["images"]["ids"] == [8, 9, 10]
    assert data["models"][0]["label"].startswith("first")


def test_an_empty_run_is_refused(make_runs, tmp_path):
    info = replace(make_runs()[0].info, name="empty")
    RunWriter.create(tmp_path / "empty", info, overwrite=True).finish("interrupted")
    assert "empty holds no scored image" in refusal(BadRun, report_page, [load_run(tmp_path / "empty")])


def test_a_report_to_another_format_or_onto_a_folder_is_refused(make_runs, tmp_path):
    runs = make_runs()
    assert "does not end in .html" in refusal(BadArgument, write_report, runs, tmp_path / "report.pdf")
    (tmp_path / "site.html").mkdir()
    assert "is a folder" in refusal(BadArgument, write_report, runs, tmp_path / "site.html")


def test_requested_images_come_first(shared_runs):
    gallery = data_of(report_page(shared_runs, examples=2, image_ids=[10]))["gallery"]
    assert gallery[0]["id"] == 10
    assert len(gallery) == 2
    assert "--image 99" in refusal(BadArgument, report_page, shared_runs, image_ids=[99])


def test_examples_are_the_worst_the_most_disputed_and_the_costliest(shared_runs):
    members, _ = compared(shared_runs)
    kinds = find_leads(members, per_image(members))
    chosen = choose_gallery_images(kinds, 3)
    assert len(chosen) == 3
    leads = {lead.key: lead.images for kind in kinds for lead in kind}
    assert chosen[0] == next(images[0] for key, images in leads.items() if key.startswith("worst:"))
    for kept in ("differ:", "cause:"):
        assert any(set(chosen) & set(images) for key, images in leads.items() if key.startswith(kept))


def test_an_image_is_shown_once_even_if_it_fits_several_lists(shared_runs):
    members, _ = compared(shared_runs)
    kinds = find_leads(members, per_image(members))
    chosen = choose_gallery_images(kinds, 96)
    assert len(chosen) <= 4
    kept = displayed_images_by_lead(kinds, chosen)
    keys = {lead.key for kind in kinds for lead in kind}
    assert set(kept) == {key for key in keys if not key.startswith(("worst:", "typical:", "differ:", "fix:", "cause:"))}
    assert all(ids and set(ids) <= set(chosen) for ids in kept.values())


def test_the_best_run_comes_first_whatever_the_order(shared_runs):
    models = data_of(report_page(shared_runs[::-1], examples=0))["models"]
    assert [model["run"] for model in models] == ["run-a", "run-b"]


def test_the_size_of_packed_pictures_is_counted(shared_runs):
    class Listening(Silent):
        def __init__(self):
            self.heard = []

        def progress(self, task, done, total, unit="images"):
            self.heard.append((task, done, total))

    listener = Listening()
    report_page(shared_runs, reporter=listener)
    packed = [news for news in listener.heard if news[0] == "Packing pictures"]
    # The crops of four images, and then four examples.
    assert packed == 2 * [("Packing pictures", done, 4) for done in range(1, 5)]
    # Before that answers are swapped, which takes longest where there are many images.
    swapped = listener.heard[: -len(packed)]
    assert {task for task, *_ in swapped} == {"Swapping the runs' answers"}
    assert [done for _, done, _ in swapped] == sorted(done for _, done, _ in swapped)
    assert swapped[-1][1] == swapped[-1][2] == 10_000


def test_the_page_uses_readers_words(shared_runs):
    page = report_page(shared_runs, image_ids=[8])
    words = text_of(page)
    assert "`" not in words
    assert "2 runs" not in page
    assert "asked for" not in words
    assert "first &lt;b&gt;model&lt;/b&gt; and second on toy val" in page
    assert "PQ (panoptic quality) = SQ × RQ." in words
    assert "PQ<sup>Th</sup>" in page
    assert "PQ_th" not in words
    # A minus is no hyphen.
    assert not re.search(r"[ >]-\d", re.sub(r"<script.*", "", page, flags=re.DOTALL).split("</style>")[1])


def test_the_command_on_the_page_reproduces_it(make_runs, tmp_path, monkeypatch):
    command = shlex.split(data_of(report_page(make_runs(), images=tmp_path / "photos"))["command"])
    monkeypatch.chdir(tmp_path)
    ran(*command[1:], "--image", "9")
    assert data_of((tmp_path / "report.html").read_text("utf-8"))["gallery"][0]["id"] == 9


def test_run_lengths_are_base_128_with_the_low_digits_first():
    index = np.zeros((2, 300), np.int32)
    index[0, 299] = index[1, 0] = 7
    # Id 3 is no segment's, so its pixels and those of 0 are one run.
    index[0, :9] = 3
    segments = [LayerSegment(1000 + number, 1, 1) for number in range(199)]
    layer = Layer("", index, (*segments, LayerSegment(7, 1, 2)))
    assert encode_run_lengths(*runs_of(layer, (300, 2))) == bytes([0, 0xAB, 0x02, 0xC8, 0x01, 2, 0, 0xAB, 0x02])
    assert encode_run_lengths(np.array([1]), np.array([1 << 14])) == bytes([1, 0x80, 0x80, 1])
    halved = Layer("", np.repeat(np.repeat(index, 2, axis=0), 2, axis=1), layer.segments)
    assert encode_run_lengths(*runs_of(halved, (300, 2))) == encode_run_lengths(*runs_of(layer, (300, 2)))


def test_large_photographs_are_made_smaller(make_runs, tmp_path, monkeypatch):
    from panbench.report.pages.page import document as page

    runs = make_runs()
    rng = np.random.default_rng(0)
    for path in (tmp_path / "photos").iterdir():
        cv2.imwrite(str(path), rng.integers(0, 255, (30, 40, 3), np.uint8))
    full = len(report_page(runs).encode())
    monkeypatch.setattr(page, "LARGEST", full - 1)
    monkeypatch.setattr(page, "PHOTO_SIZES", ((640, 82), (20, 60)))
    small = report_page(runs)
    assert {image["width"] for image in data_of(small)["gallery"]} == {20}
    assert len(small.encode()) < full


def test_the_package_contains_its_assets():
    from panbench.report.pages.page import document as page

    folder = Path(page.__file__).parent / "assets"
    assert {path.name for path in folder.iterdir()} >= set(page.SCRIPTS)


def test_user_slices_have_numbers_and_link_to_pictures(make_runs, tmp_path):
    runs = make_runs()
    (tmp_path / "light.json").write_text(json.dumps({"day": [7, 8], "night": [9, 10]}), "utf-8")
    page = report_page(runs, slices=tmp_path / "light.json")
    (own,) = data_of(page)["own"]
    assert (own["title"], own["names"]) == ("light", ["day", "night"])
    for place, run in enumerate(runs):
        for column, images in enumerate(([7, 8], [9, 10])):
            expected = summarise(pq_table(run.matched.only(images), run.categories))["All"]["PQ"]
            assert own["PQ"][place][column] == pytest.approx(expected, abs=1e-4)
            assert f"{100 * expected:.1f}" in page
    assert set(data_of(page)["leads"]["slice:own-light:night"]) == {9, 10}
    assert f"--slices {tmp_path / 'light.json'}" in data_of(page)["command"]
    assert "--slices FILE.csv" not in page


def test_missing_sections_are_listed_with_the_commands_that_add_them(page):
    missing = text_of(page).split("Left out")[-1]
    assert "panbench report … --slices" in missing
    assert "panbench report … --published NAME" in missing


def test_claims_of_papers_are_below_the_runs_and_never_best(make_runs):
    runs = make_runs()
    for run in runs:
        run.info = replace(run.info, dataset=replace(run.info.dataset, name="coco", split="val"))
    page = report_page(runs, published=["Mask2Former R50"], examples=0)
    table = re.search(r'<table id="comparison">.*?</table>', page, re.DOTALL)[0]
    rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    assert len(rows) == 6
    for row, claim in zip(rows[3:], ("51.9", "46.9", "51.5"), strict=True):
        for words in ('class="claim"', "Mask2Former R50 (published)", claim):
            assert words in row
        assert "<strong>" not in row
    assert "arXiv 2112.01527v3, table 1" in text_of(page)
    assert len(data_of(page)["models"]) == 2
    assert "--published 'Mask2Former R50'" in data_of(page)["command"]


def test_pages_pictures_and_plots_use_one_colour_per_model(shared_runs, page):
    """Notebooks show what Python draws: plots and pictures."""
    runs = shared_runs
    models = {model["run"]: model for model in data_of(page)["models"]}
    members, _ = compared(runs)
    plot = draw_plot("size", members)[0]
    lines = [line for axes in plot.axes for line in axes.lines]
    in_plot = {(to_hex(line.get_color()), line.get_marker()) for line in lines if line.get_marker() in MARKERS}
    pictures = Pictures(runs[0])
    layers = [RunPictures(run).prediction(7, pictures) for run in runs]
    picture = side_by_side_figure(pictures.photo(7), layers, runs[0].categories)
    lines = [line for axes in picture.axes for line in axes.lines]
    in_picture = {(to_hex(line.get_color()), line.get_marker()) for line in lines if line.get_marker() in MARKERS}
    on_page = {
        (LIGHT[model["color"]].lower(), MARKERS[MARKER_PATHS.index(model["marker"])]) for model in models.values()
    }
    assert on_page == in_plot == in_picture
    # And the same in another order.
    again = {model["run"]: model for model in data_of(report_page(runs[::-1], examples=0))["models"]}
    assert again["run-b"] == models["run-b"]


def test_shortened_numbers_for_scripts_print_like_the_full_ones():
    # To four digits 0.80949 is 0.8095, which reads 81.0 and 80.95 where a sentence says 80.9.
    for value in (0.80949, 0.809499, 0.8094999, 0.12345678, 1 / 3, 0.5, -0.004999):
        (short,) = shortened([value])
        assert [percent(short, digits) for digits in (0, 1, 2)] == [percent(value, digits) for digits in (0, 1, 2)]
    assert shortened([0.5, 1 / 3]) == [0.5, 0.3333]
