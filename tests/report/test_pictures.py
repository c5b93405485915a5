from dataclasses import replace
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import ExifTags, Image
from support import edited, ran, refusal

from panbench.base.errors import BadArgument, BadDataset, BadRun
from panbench.metrics.pq import scores_of_images
from panbench.panoptic.types import Category, Segment
from panbench.report.figures.colors import LIGHT, MARKERS, model_key, styles_of
from panbench.report.figures.overlays import overlay_picture, save_picture
from panbench.report.figures.pictures import (
    DISAGREEMENTS,
    VIEWS,
    Layer,
    Pictures,
    RunPictures,
    blend,
    diff_figure,
    disagreement,
    label_spots,
    outlines,
    overlay_figure,
    paint,
    read_photo,
    save_figure,
    segment_colors,
    side_by_side_figure,
    viewed,
)
from panbench.runs import Run

CATEGORIES = (
    Category(1, "cat $x^2$", True, "animal", (200, 40, 40)),
    Category(2, "dog", True, "animal", (40, 40, 200)),
    Category(9, "sky", False, "sky", (90, 160, 250)),
)
AGREE, CATEGORY, INSTANCE, BOUNDARY = range(4)


def layer(rows: list[str], kinds: dict[str, int], title: str = "A") -> Layer:
    """A map drawn with letters, a letter a segment; `.` is void."""
    letters = sorted(kinds)
    ids = np.array([[letters.index(sign) + 1 if sign != "." else 0 for sign in row] for row in rows], np.int32)
    segments = [Segment(n + 1, kinds[sign], int((ids == n + 1).sum())) for n, sign in enumerate(letters)]
    return Layer.of(title, ids, segments)


def test_differences_are_of_category_instance_or_boundary():
    assert list(DISAGREEMENTS) == ["category", "instance", "boundary"]


def test_equal_maps_agree_whatever_their_ids():
    a = layer(["aab", "aab", ".cc"], {"a": 1, "b": 2, "c": 9})
    b = layer(["zzx", "zzx", ".yy"], {"z": 1, "x": 2, "y": 9})
    assert (disagreement(a, b) == AGREE).all()


def test_a_shifted_edge_is_a_boundary_difference():
    a = layer(["aaabbb", "aaabbb"], {"a": 1, "b": 9})
    b = layer(["aaaabb", "aaabbb"], {"a": 1, "b": 9})
    assert disagreement(a, b).tolist() == [[0, 0, 0, BOUNDARY, 0, 0], [0] * 6]


def test_void_next_to_a_shared_segment_is_a_boundary_difference():
    a = layer(["aaab", "aaab"], {"a": 1, "b": 9})
    b = layer(["aa.b", "aaab"], {"a": 1, "b": 9})
    assert disagreement(a, b)[0, 2] == BOUNDARY


def test_another_category_is_a_category_difference_even_without_a_partner():
    a = layer(["aabb", "aabb"], {"a": 1, "b": 9})
    other = layer(["aabb", "aabb"], {"a": 2, "b": 9})
    assert disagreement(a, other).tolist() == [[CATEGORY, CATEGORY, 0, 0]] * 2
    absent = layer(["..bb", "..bb"], {"b": 9})
    assert disagreement(a, absent).tolist() == [[CATEGORY, CATEGORY, 0, 0]] * 2


def test_a_split_object_is_an_instance_difference():
    whole = layer(["aaaaaa"], {"a": 1})
    parted = layer(["aaabbb"], {"a": 1, "b": 1})
    # Each half has IoU 0.5 with the whole, which is not above 0.5: no segment has a partner.
    assert disagreement(whole, parted).tolist() == [[INSTANCE] * 6]


def test_maps_of_different_sizes_are_refused():
    assert "one size" in refusal(BadArgument, disagreement, layer(["aa"], {"a": 1}), layer(["a"], {"a": 1}))


def test_outlines_follow_segment_edges_and_join_straight_ones():
    ids = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]], np.int32)
    assert sorted(tuple(sorted(line)) for line in outlines(ids)) == [
        ((-0.5, 1.5), (2.5, 1.5)),
        ((1.5, -0.5), (1.5, 1.5)),
    ]


def test_a_label_is_placed_where_its_segment_is_widest():
    spots = label_spots(layer(["a.....", "......", "...bbb", "...bbb", "...bbb"], {"a": 1, "b": 2}))
    x, y, room = spots[2]
    assert (x, y) == (4, 3)
    assert room == pytest.approx(2, abs=0.1)
    assert spots[1][:2] == (0, 0)


def test_a_hidden_segment_has_no_label_position():
    empty = Layer.of("A", np.zeros((2, 2), np.int32), [Segment(5, 1, 0)])
    assert label_spots(empty) == {}


def test_things_of_a_category_differ_in_colour_and_stuff_does_not():
    many = layer(["abcdef"], {"a": 1, "b": 1, "c": 1, "d": 9, "e": 9, "f": 2})
    colors = segment_colors(many, CATEGORIES)
    assert len({colors[1], colors[2], colors[3]}) == 3
    assert colors[4] == colors[5] == (90, 160, 250)
    assert colors[6] == (40, 40, 200)


def test_a_true_positive_has_the_colour_of_its_true_segment_and_a_false_one_another(shared_runs):
    pictures = Pictures(shared_runs[0])
    for run in map(RunPictures, shared_runs):
        for image_id in run.run.image_ids():
            truth, answer = run.truth(image_id, pictures), run.prediction(image_id, pictures)
            true_colors, colors = (segment_colors(side, run.run.categories) for side in (truth, answer))
            assert len(set(true_colors.values())) == len(true_colors)
            for segment in answer.segments:
                if segment.verdict == "TP":
                    assert colors[segment.id] == true_colors[segment.matched_id]
                else:
                    assert colors[segment.id] not in true_colors.values()


def test_side_by_side_marks_each_model_in_its_colour(shared_runs):
    pictures = Pictures(shared_runs[0])
    layers = [pictures.truth(7), *(RunPictures(run).prediction(7, pictures) for run in reversed(shared_runs))]
    figure = side_by_side_figure(pictures.photo(7), layers, shared_runs[0].categories)
    expected = styles_of([model_key(run) for run in reversed(shared_runs)])
    marks = [[(line.get_color(), line.get_marker()) for line in axes.lines] for axes in figure.axes]
    assert marks == [[], [], *([(LIGHT[style.color], MARKERS[style.marker])] for style in expected)]


def test_void_is_dark_and_opacity_mixes():
    one = layer(["a."], {"a": 9})
    photo = np.full((1, 2, 3), 100, np.uint8)
    mixed = blend(photo, paint(one, segment_colors(one, CATEGORIES)), 0.5)
    assert mixed[0, 0].tolist() == [95, 130, 175]
    assert mixed[0, 1].tolist() == [55, 55, 55]


def test_an_id_that_no_segment_names_is_void():
    stray = Layer.of("A", np.array([[1, 7]], np.int32), [Segment(1, 9, 1)])
    assert paint(stray, {1: (1, 2, 3)}).tolist() == [[[1, 2, 3, 255], [0, 0, 0, 0]]]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_figures_are_written_in_every_format_and_repeat_to_the_byte(tmp_path, ending):
    photo = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    one = layer(["a" * 30] * 12 + ["b" * 30] * 8, {"a": 1, "b": 9}, title="model $1$ <b>")
    written = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.{ending}"
        save_figure(side_by_side_figure(photo, [one, one], CATEGORIES, width=4, scores=True), path, dpi=60)
        written.append(path.read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])


def test_names_in_a_vector_file_are_text(tmp_path):
    photo = np.zeros((40, 60, 3), np.uint8)
    one = layer(["a" * 60] * 40, {"a": 1})
    save_figure(overlay_figure(photo, one, CATEGORIES), tmp_path / "a.svg")
    assert "cat $x^2$" in (tmp_path / "a.svg").read_text("utf-8")


def test_width_and_dpi_make_the_pixels_of_a_png(tmp_path):
    photo = np.zeros((40, 80, 3), np.uint8)
    one = layer(["a" * 80] * 40, {"a": 9})
    save_figure(overlay_figure(photo, one, CATEGORIES, width=3), tmp_path / "a.png", dpi=100)
    assert cv2.imread(str(tmp_path / "a.png")).shape == (150, 300, 3)


def test_an_enlarged_picture_keeps_pixels_as_squares_with_colours_edges_and_names(tmp_path):
    photo = np.zeros((40, 60, 3), np.uint8)
    one = layer(["a" * 40 + "b" * 20] * 40, {"a": 1, "b": 9})
    plain, named = (np.asarray(overlay_picture(photo, one, CATEGORIES, names=names)) for names in (False, True))
    assert plain.shape == (17 * 40, 17 * 60, 3)
    colors = segment_colors(one, CATEGORIES)
    half = lambda segment: tuple(round(part / 2) for part in colors[segment])  # noqa: E731
    first, second = (segment.id for segment in one.segments)
    assert np.abs(plain[:, : 17 * 40].reshape(-1, 3).astype(int) - half(first)).max() <= 1
    assert np.abs(plain[:, 17 * 40 + 1 :].reshape(-1, 3).astype(int) - half(second)).max() <= 1
    assert (plain[:, 17 * 40] == 255).all(), "the edge"
    written = np.flatnonzero((named != plain).any(axis=2).any(axis=0))
    assert 0 < written[0] < 17 * 20 < 17 * 40 < written[-1], "both segments are named"
    for name in ("a.png", "b.png"):
        save_picture(overlay_picture(photo, one, CATEGORIES), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    large = layer(["a" * 1600] * 2, {"a": 1})
    assert overlay_picture(np.zeros((2, 1600, 3), np.uint8), large, CATEGORIES).size == (1600, 2)


def test_another_file_ending_and_an_absurd_width_are_refused(tmp_path):
    photo = np.zeros((4, 8, 3), np.uint8)
    one = layer(["a" * 8] * 4, {"a": 9})
    with pytest.raises(BadArgument, match="png, svg, pdf"):
        save_figure(overlay_figure(photo, one, CATEGORIES), tmp_path / "a.gif")
    assert "between 0.5 and 60" in refusal(BadArgument, overlay_figure, photo, one, CATEGORIES, width=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_diff_reports_how_much_of_the_image_differs_and_why():
    a = layer(["aaabbb", "aaabbb"], {"a": 1, "b": 9}, "first")
    b = layer(["aaaabb", "aaabbb"], {"a": 1, "b": 9}, "second")
    figure = diff_figure(np.zeros((2, 6, 3), np.uint8), a, b, CATEGORIES)
    assert [axes.get_title() for axes in figure.axes] == ["first", "They differ on 8.3 %", "second"]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told[2] == "boundary: both have the segment; its edge runs elsewhere (8.3 %)"


def test_a_stored_prediction_comes_with_verdict_iou_and_cause(make_runs):
    run = make_runs()[1]
    pictures = Pictures(run)
    shown = RunPictures(run).prediction(8, pictures)
    assert [(segment.category_id, segment.verdict, segment.cause) for segment in shown.segments] == [
        (9, "TP", None),
        (2, "FP", "wrong category"),
        (2, "TP", None),
    ]
    assert shown.segments[1].score == pytest.approx(0.7)
    truth = RunPictures(run).truth(8, pictures)
    assert [segment.verdict for segment in truth.segments] == ["FN", "TP", "FN", "TP"]
    assert truth.ids.shape == pictures.photo(8).shape[:2]


def test_a_stored_prediction_comes_with_its_missed_segments(make_runs):
    first, second = make_runs()
    pictures = Pictures(second)
    shown = RunPictures(second).prediction(7, pictures)
    # The second ball of image 7 (6 × 6 pixels) is not found.
    assert [(segment.id, segment.area, segment.cause) for segment in shown.missed] == [(21, 36, "missed")]
    assert shown.errors() == "1 missed"
    assert RunPictures(first).prediction(7, pictures).errors() == "no errors"
    assert RunPictures(second).prediction(8, pictures).errors() == "2 missed, 1 false"
    assert RunPictures(second).prediction(7, pictures, missed=False).missed == ()
    # Of things alone the balls are left; a category has no segments to be missed.
    assert [segment.id for segment in viewed(shown, "instance", second.categories).missed] == [21]
    assert viewed(shown, "semantic", second.categories).missed == ()
    assert RunPictures(second).truth(7, pictures).errors() == ""


def drawn(figure) -> np.ndarray:
    """The pixels of a figure, (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("make", ["overlay", "side by side", "diff"])
def test_pictures_draw_what_a_model_missed_over_its_answer(make_runs, make):
    run = make_runs()[1]
    pictures = Pictures(run)
    photo, truth = pictures.photo(7), RunPictures(run).truth(7, pictures)

    def share_missed(missed: bool) -> float:
        shown = RunPictures(run).prediction(7, pictures, missed=missed)
        if make == "overlay":
            figure = overlay_figure(photo, shown, run.categories, names=False)
        elif make == "diff":
            figure = diff_figure(photo, truth, shown, run.categories, names=False)
        else:
            figure = side_by_side_figure(photo, [truth, shown], run.categories, names=False)
        assert ("1 missed" in " ".join(text.get_text() for text in figure.axes[-1].texts)) == missed
        # The last panel's part in which the ball is: columns 25 to 30 and rows 18 to 23 of 40 × 30.
        box, (red, green, blue) = figure.axes[-1].get_window_extent(), drawn(figure).transpose(2, 0, 1)
        top = red.shape[0] - box.y1
        part = np.s_[
            round(top + box.height * 18 / 30) : round(top + box.height * 24 / 30),
            round(box.x0 + box.width * 25 / 40) : round(box.x0 + box.width * 31 / 40),
        ]
        return float(np.mean((red[part] > 200) & (green[part] > 180) & (blue[part] < 90)))

    # A yellow broken line on black around it.
    assert share_missed(True) > 0.01
    assert share_missed(False) == 0


def test_missing_predictions_and_images_are_reported_in_one_sentence(make_runs, tmp_path):
    run = make_runs(predictions=False)[0]
    pictures = Pictures(run)
    with pytest.raises(BadRun, match="no stored predictions"):
        RunPictures(run).prediction(7, pictures)
    assert "has no image 99" in refusal(BadDataset, pictures.photo, 99)
    with pytest.raises(BadRun, match="has not scored an image 99"):
        RunPictures(run).judged(99)
    (tmp_path / "photos" / "photo 0 <i>.jpg").write_bytes(b"not an image")
    assert "cannot be decoded" in refusal(BadDataset, pictures.photo, 7)
    (tmp_path / "photos" / "photo 0 <i>.jpg").unlink()
    assert "say where with --images" in refusal(BadDataset, pictures.photo, 7)


def test_a_photograph_of_another_size_than_the_json_says_is_refused(make_runs, tmp_path):
    run = make_runs()[0]
    cv2.imwrite(str(tmp_path / "photos" / "photo 0 <i>.jpg"), np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(BadDataset, match="is 5×6 but the JSON says 30×40"):
        Pictures(run).photo(7)


def test_ground_truth_elsewhere_is_found_by_the_folder_that_the_run_names(make_runs, tmp_path):
    run, _ = make_runs()
    elsewhere = (tmp_path / "gt").rename(tmp_path / "elsewhere")
    run = Run(replace(run.info, dataset=replace(run.info.dataset, gt_dir=str(elsewhere))), run.path)
    assert Pictures(run).truth(7).segments
    # A JSON named by hand has moved with its PNGs.
    with pytest.raises(BadDataset, match="gt"):
        Pictures(run, gt=tmp_path / "gt.json").truth(7)


def test_a_list_of_test_images_without_annotations_shows_its_photographs(make_runs, tmp_path):
    run, _ = make_runs()
    with edited(tmp_path / "gt.json") as document:
        del document["annotations"]
    assert Pictures(run).photo(7).shape == (30, 40, 3)


def test_photographs_are_read_as_rgb_even_if_grey(tmp_path):
    blue = np.zeros((2, 3, 3), np.uint8)
    blue[..., 0] = 255
    cv2.imwrite(str(tmp_path / "blue.png"), blue)
    assert read_photo(tmp_path / "blue.png")[0, 0].tolist() == [0, 0, 255]
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((2, 3), 7, np.uint8))
    assert read_photo(tmp_path / "grey.png").shape == (2, 3, 3)


def test_a_semantic_view_joins_the_segments_of_a_category_and_an_instance_view_leaves_stuff_out():
    categories = (Category(1, "dog", True), Category(9, "sky", False))
    ids = np.array([[1, 1, 2, 2], [3, 3, 3, 0]], np.int32)
    shown = Layer.of("x", ids, [Segment(1, 1, 2), Segment(2, 1, 2), Segment(3, 9, 3)])
    assert viewed(shown, "panoptic", categories) is shown
    things = viewed(shown, "instance", categories)
    assert things.ids.tolist() == [[1, 1, 2, 2], [0, 0, 0, 0]]
    assert [one.id for one in things.segments] == [1, 2]
    semantic = viewed(shown, "semantic", categories)
    assert semantic.ids.tolist() == [[1, 1, 1, 1], [2, 2, 2, 0]]
    assert [(one.id, one.category_id, one.area) for one in semantic.segments] == [(1, 1, 4), (2, 9, 3)]
    assert "There is no view 'depth'" in refusal(BadArgument, viewed, shown, "depth", categories)


def test_every_view_of_show_is_a_picture_of_its_own(shared_runs, tmp_path):
    run = shared_runs[0]
    written = set()
    for view in VIEWS:
        out = tmp_path / f"{view}.png"
        ran("show", "side-by-side", run.path, "--image", run.image_ids()[0], "--view", view, "--out", out)
        written.add(out.read_bytes())
    assert len(written) == len(VIEWS)


def test_a_photograph_decoded_at_a_small_size_looks_the_same(make_runs):
    pictures = Pictures(make_runs()[0])
    rows, columns = np.mgrid[0:30, 0:40]
    ramp = np.stack([6 * columns, 8 * rows, np.full((30, 40), 90)], axis=2).astype(np.uint8)
    cv2.imwrite(str(pictures.path(7)), ramp, [cv2.IMWRITE_JPEG_QUALITY, 95])
    small = pictures.small_photo(7, (20, 15))
    assert small.shape == (15, 20, 3)
    whole = pictures.photo(7).reshape(15, 2, 20, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - whole).max() < 8


def test_rotated_and_torn_photographs_are_read_at_a_small_size(make_runs):
    (run, _) = make_runs()
    pictures = Pictures(run)
    path = pictures.path(7)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    Image.fromarray(pictures.photo(7)).save(path, exif=exif)
    assert (Pictures(run).small_photo(7, (20, 15)) == Pictures(run).photo(7)).all()
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(BadDataset):
        Pictures(run).small_photo(7, (20, 15))


def test_the_worst_images_of_a_run_are_drawn_by_number(shared_runs, tmp_path):
    run = shared_runs[0]
    table = scores_of_images(run.matched).sort_values("PQ", kind="stable")
    ran("show", "side-by-side", run.path, "--image", "worst:2", "--out", tmp_path / "worst.png")
    assert {path.name for path in tmp_path.iterdir()} == {f"worst-{image}.png" for image in table["image_id"][:2]}


def test_a_figure_of_names_with_control_characters_is_xml(tmp_path):
    figure = Figure()
    figure.suptitle("a\x01\x0b\uffff cat")
    save_figure(figure, tmp_path / "it.svg")
    assert "cat" in "".join(ElementTree.parse(tmp_path / "it.svg").getroot().itertext())
