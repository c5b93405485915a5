"""`eval --tiles`: what lies over the border of a tile becomes one segment, and nothing else does."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import evaluated, refused

from panbench.base.errors import BadArgument
from panbench.catalog import ModelSpec, find_model
from panbench.datasets import open_dataset
from panbench.models.candidates import NO_LABEL, Candidates, FinishedMap, Frame, Instances
from panbench.models.model import LoadedImage, Model
from panbench.models.opening import open_model
from panbench.models.rules import fuse, parse_rule
from panbench.panoptic.types import ImageInfo, Scene
from panbench.report.answers.tables import comparison_rows
from panbench.runs import ModelRecord
from panbench.studies.ensembles import stitching
from panbench.studies.ensembles.augmented_model import AugmentedModel
from panbench.studies.ensembles.options import ViewOptions
from panbench.studies.ensembles.stitching import stitch
from panbench.studies.ensembles.tiled_model import TiledModel, refuse_rule
from panbench.studies.ensembles.tiles import Tiles, Window, parse_tiles
from panbench.studies.ensembles.views import parse_views

CAR, SKY = 0, 1
ISTHING = (True, False)


class Painter(Model):
    """Sees a segment in each colour of the pixels that it is shown: red below 100 is a car, from 100 on sky; 0 nothing.

    Its masks are exact, one cell a pixel.
    """

    spec = ModelSpec("painter", "Painter", *(None,) * 9)
    class_names, isthing, device = ("car", "sky"), ISTHING, torch.device("cpu")
    rule = parse_rule("mask2former")

    def describe(self):
        return ModelRecord(name="painter")

    def load(self, scene):
        raise NotImplementedError

    def load_pixels(self, scene, rgb):
        assert (scene.image.height, scene.image.width) == rgb.shape[:2]
        return LoadedImage(scene, torch.from_numpy(rgb.copy()), None)

    def candidates(self, batch):
        return [painted(image.inputs[..., 0].numpy()) for image in batch]


def painted(red: np.ndarray, gate: float = 0.9) -> Candidates:
    size = red.shape
    colours = [colour for colour in np.unique(red).tolist() if colour]
    masks = torch.stack([torch.from_numpy(np.where(red == colour, 6.0, -6.0)).float() for colour in colours])
    gates = np.full(len(colours), gate, np.float32)
    labels = np.array([CAR if colour < 100 else SKY for colour in colours], np.int64)
    return Candidates(labels, gates, torch.from_numpy(gates.copy()), masks, Frame(size, size, size), ISTHING)


def picture(height: int, width: int, **boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Red of sky (200), and of each car from (top, bottom, left, right)."""
    red = np.full((height, width), 200, np.uint8)
    for number, (top, bottom, left, right) in enumerate(boxes.values(), start=1):
        red[top:bottom, left:right] = number
    return red


def seen(red: np.ndarray, tiles: str) -> tuple[np.ndarray, list[int]]:
    """The map of a picture that is shown in tiles, and the labels of its segments."""
    model = TiledModel(Painter(), parse_tiles(tiles))
    scene = Scene(ImageInfo(1, "a.png", *red.shape))
    (fused,) = fuse(model.candidates([model.load_pixels(scene, np.stack([red] * 3, axis=-1))]), model.rule)
    ids, segments = model.rule.settle(fused)
    return ids, [segment.label for segment in segments]


def same_partition(ids: np.ndarray, red: np.ndarray) -> bool:
    return (
        len({*zip(ids.ravel().tolist(), red.ravel().tolist(), strict=True)})
        == len(np.unique(ids))
        == len(np.unique(red))
    )


@pytest.mark.parametrize("tiles", ["1x2,overlap=0.25", "1x2,overlap=0", "2x2,overlap=0.2", "2x2,overlap=0", "3x3"])
def test_a_segment_over_borders_becomes_one_segment(tiles):
    # One car over the middle of the image, so over all four tiles of 2x2, and one of the same label beside it.
    red = picture(64, 80, middle=(20, 44, 24, 56), beside=(4, 12, 60, 76))
    ids, labels = seen(red, tiles)
    assert same_partition(ids, red)
    assert sorted(labels) == [CAR, CAR, SKY]


@pytest.mark.parametrize("tiles", ["1x2,overlap=0", "1x2,overlap=0.2"])
def test_cars_that_end_at_different_places_of_a_border_stay_two(tiles):
    # They reach into what the tiles share, but not over the same rows.
    red = picture(64, 80, left=(4, 20, 10, 41), right=(30, 50, 39, 70))
    ids, labels = seen(red, tiles)
    assert same_partition(ids, red)
    assert sorted(labels) == [CAR, CAR, SKY]


def test_without_overlap_cars_that_touch_at_the_border_over_the_same_rows_cannot_be_told_apart():
    red = picture(64, 80, left=(4, 20, 10, 40), right=(4, 20, 40, 70))
    assert sorted(seen(red, "1x2,overlap=0")[1]) == [CAR, SKY]
    # With overlap both tiles see where one ends and the other begins.
    assert sorted(seen(red, "1x2,overlap=0.2")[1]) == [CAR, CAR, SKY]


def test_two_cars_of_one_tile_are_never_joined():
    # The right tile sees two parts of what the left one sees as one: only the larger agreement is joined.
    whole = torch.full((2, 16, 16), -6.0)
    left, right = whole[:1].clone(), whole.clone()
    left[0, 2:12, 12:] = 6.0
    right[0, 2:9, :4] = 6.0
    right[1, 9:12, :4] = 6.0
    found = stitch([of(left, 0.9), of(right, 0.9)], [Window(0, 0, 16, 16), Window(0, 12, 16, 16)], (16, 28))
    assert len(found.labels) == 2


def of(masks: torch.Tensor, gate: float, label: int = CAR, **others) -> Candidates:
    size = tuple(masks.shape[-2:])
    gates = np.full(len(masks), gate, np.float32)
    labels = np.full(len(masks), label, np.int64)
    return Candidates(labels, gates, torch.from_numpy(gates.copy()), masks, Frame(size, size, size), ISTHING, **others)


HALVES = [Window(0, 0, 16, 16), Window(0, 12, 16, 16)]


def test_scores_count_by_area_and_logits_by_the_distance_to_the_border():
    # Three quarters of the car's area are in the left tile: 12 columns of its own, half of the four that are shared.
    left, right = torch.full((1, 16, 16), 8.0), torch.full((1, 16, 16), -6.0)
    right[..., :4], right[..., 4:] = 4.0, -6.0
    scores = {"class_scores": torch.tensor([[0.8, 0.0]])}, {"class_scores": torch.tensor([[0.4, 0.2]])}
    found = stitch([of(left, 0.9, **scores[0]), of(right, 0.5, **scores[1])], HALVES, (16, 28))
    # Weights over the shared columns 12 to 15: 7/8, 5/8, 3/8, 1/8 of the left one, the rest of the right one.
    assert found.masks[0, 5, 11:16].tolist() == pytest.approx([8.0, 7.5, 6.5, 5.5, 4.5], abs=1e-4)
    assert found.masks[0, 5, 16:].tolist() == pytest.approx([-6.0] * 12, abs=1e-4)
    left_area, right_area = 12 + 2, 2
    expected = (0.9 * left_area + 0.5 * right_area) / (left_area + right_area)
    assert found.gate.tolist() == pytest.approx([expected], abs=1e-5)
    assert found.weight.tolist() == pytest.approx([expected], abs=1e-5)
    assert found.class_scores[0].tolist() == pytest.approx([(0.8 * 14 + 0.4 * 2) / 16, 0.2 * 2 / 16], abs=1e-5)
    assert found.frame == Frame((16, 28), (16, 28), (16, 28))


def test_beyond_its_tile_a_candidate_wins_no_pixel_that_another_tile_saw():
    ours, theirs = torch.full((1, 16, 16), 6.0), torch.full((1, 16, 16), -3.0)
    found = stitch([of(ours, 0.9, CAR), of(theirs, 0.9, SKY)], HALVES, (16, 28))
    probabilities = found.masks.sigmoid() * found.weight[:, None, None]
    assert (probabilities.argmax(dim=0)[:, 16:] == 1).all()
    # Without a word from the right tile, rules that know no void take the only candidate that there is.
    alone = stitch([of(ours, 0.9, CAR), of(theirs, 0.9, NO_LABEL)], HALVES, (16, 28))
    assert alone.masks.shape == (1, 16, 28)
    assert (alone.masks[0, :, 16:] < -20).all()


def test_probabilities_are_zero_beyond_the_tile():
    ours = torch.full((1, 16, 16), 0.9)
    found = stitch(
        [of(ours, 0.9, CAR, activation="identity"), of(ours, 0.9, SKY, activation="identity")], HALVES, (16, 28)
    )
    assert found.activation == "identity"
    assert (found.masks[0, :, 16:] == 0).all()
    assert found.masks[0, 0, :16].tolist() == pytest.approx([0.9] * 16)


@pytest.mark.parametrize(("bytes_", "cell"), [(512 << 20, 1), (1, 2)], ids=["pixels", "as fine as the tiles"])
def test_masks_of_a_padded_and_resized_tile_lie_where_the_tile_lies(bytes_, cell, monkeypatch):
    monkeypatch.setattr(stitching, "MOST_BYTES", bytes_)
    # The tile of 16×16 was shown as 32×32 in a padded square of 64: its masks' 16×16 cells are 8×8 cells of the image.
    masks = torch.full((1, 16, 16), 6.0)
    masks[0, :, 4:] = -6.0  # Left half of the tile.
    frame = Frame((64, 64), (32, 32), (16, 16))
    tile = Candidates(np.zeros(1, np.int64), np.ones(1, np.float32), torch.ones(1), masks, frame, ISTHING)
    nothing = Candidates(np.full(1, NO_LABEL), np.ones(1, np.float32), torch.ones(1), masks, frame, ISTHING)
    found = stitch([nothing, tile], [Window(0, 0, 16, 16), Window(0, 16, 16, 16)], (16, 32))
    assert found.masks.shape == (1, 16 // cell, 32 // cell)
    assert (found.masks[0] > 0)[3].nonzero().flatten().tolist() == list(range(16 // cell, 24 // cell))


def test_the_canvas_is_coarser_than_the_image_only_for_the_sake_of_memory(monkeypatch):
    # Two maps, each twice, of 16×28 pixels: a sixteenth of that, and cells have 4×4 pixels.
    monkeypatch.setattr(stitching, "MOST_BYTES", 2 * 8 * 16 * 28 // 16)
    masks = torch.full((1, 2, 2), 6.0)
    frame = Frame((16, 16), (16, 16), (16, 16))
    coarse = [Candidates(np.zeros(1, np.int64), np.ones(1, np.float32), torch.ones(1), masks, frame, ISTHING)] * 2
    assert stitch(coarse, HALVES, (16, 28)).masks.shape[1:] == (4, 7)


@pytest.mark.parametrize("tiles", ["1x2,overlap=0.2", "2x2,overlap=0.3", "3x1,overlap=0"])
def test_masks_that_were_cut_into_tiles_come_out_as_they_were(tiles):
    """Tiles end anywhere between the cells of the whole image's masks: putting them together costs no edge."""
    y, x = torch.meshgrid(torch.arange(46.0), torch.arange(61.0), indexing="ij")
    whole = torch.stack([12 - torch.hypot(y - 20, (x - 31) / 2), 6 - torch.hypot(y - 38, x - 8)])
    windows = parse_tiles(tiles).windows(46, 61)
    parts = [of(whole[:, slice(*each.rows), slice(*each.columns)], 0.9) for each in windows]
    for part in parts:
        part.labels[:] = np.where((part.masks > 0).flatten(1).any(dim=1).numpy(), [CAR, SKY], NO_LABEL)
    found = stitch(parts, windows, (46, 61))
    assert sorted(found.labels) == sorted([CAR, SKY])
    for label, mask in zip(found.labels, found.masks, strict=True):
        before = whole[int(label != CAR)]
        assert torch.equal((mask > 0)[before.abs() > 1e-3], (before > 0)[before.abs() > 1e-3])


def boxed(boxes: list[list[float]], scores: list[float], size: tuple[int, int] = (16, 16)) -> Instances:
    logits = torch.zeros((2, *size))
    logits[1] = 4.0
    return Instances(
        boxes=torch.tensor(boxes).reshape(-1, 4),
        masks=torch.ones((len(boxes), 28, 28)),
        labels=(CAR,) * len(boxes),
        scores=tuple(scores),
        semantic_logits=logits,
        semantic_labels=(NO_LABEL, SKY),
        frame=Frame(size, size, size),
    )


def test_boxes_over_a_border_become_one_and_others_move_with_their_tile():
    left = boxed([[6.0, 4.0, 16.0, 12.0]], [0.9])
    right = boxed([[10.0, 1.0, 14.0, 3.0], [0.0, 4.0, 10.0, 12.0]], [0.95, 0.7])
    found = stitch([left, right], HALVES, (16, 28))
    # By score: the small one of the right tile, 12 columns on; then the joined one of two equal areas.
    assert found.boxes.tolist() == [[22.0, 1.0, 26.0, 3.0], [6.0, 4.0, 22.0, 12.0]]
    assert found.scores == pytest.approx((0.95, 0.8))
    assert torch.allclose(found.masks, torch.ones(()))
    assert found.semantic_logits.shape == (2, 16, 28)
    expected = torch.tensor([0.0, 4.0]).softmax(dim=0)[1]
    assert torch.allclose(found.semantic_logits.softmax(dim=0)[1], expected)


def test_outputs_that_cannot_be_put_together_are_refused():
    whole = FinishedMap(np.zeros((16, 16), np.int32), (), Frame((16, 16), (16, 16), (16, 16)))
    with pytest.raises(BadArgument, match="--tiles puts together masks of queries, or boxes with masks"):
        stitch([whole, whole], HALVES, (16, 28))


@given(st.integers(16, 900), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.2, 0.5]))
def test_tiles_are_equal_and_cover_the_image(length, count, overlap):
    spans = [window.columns for window in Tiles(1, count, overlap).windows(10, length)]
    assert len({high - low for low, high in spans}) == 1
    assert (spans[0][0], spans[-1][1]) == (0, length)
    for (_, high), (low, _) in itertools.pairwise(spans):
        # A pixel less where starts are rounded.
        assert high - low >= overlap * (spans[0][1] - spans[0][0]) - 1
        assert high >= low


def test_tiles_are_read_from_a_line():
    assert parse_tiles("2x3") == Tiles(2, 3, 0.2)
    assert parse_tiles("2×3, overlap=0") == Tiles(2, 3, 0.0)
    assert [str(parse_tiles(each)) for each in ("2x3", "1x1,overlap=0.5")] == ["2x3,overlap=0.2", "1x1"]
    assert Tiles(1, 2, 0.2).windows(100, 180) == [Window(0, 0, 100, 100), Window(0, 80, 100, 100)]


@pytest.mark.parametrize("line", ["2", "0x2", "9x1", "2x2,overlap=0.6", "2x2,overlap=x", "2x2,gap=0.1", "axb", ""])
def test_lines_that_name_no_tiles_are_refused(line):
    with pytest.raises(BadArgument, match="--tiles"):
        parse_tiles(line)


@pytest.mark.parametrize("name", ["kmax", "transformers"])
def test_rules_about_one_pass_are_refused(name):
    with pytest.raises(BadArgument, match=f"--rule {name} .* --tiles"):
        refuse_rule(parse_rule(name))
    refuse_rule(parse_rule("mask2former"))


def test_models_of_finished_maps_and_tiles_too_small_to_see_are_refused():
    model = Painter()
    model.rule = parse_rule("given")
    with pytest.raises(BadArgument, match="Painter gives finished id maps: --tiles needs a network's masks"):
        TiledModel(model, Tiles(2, 2))
    with pytest.raises(BadArgument, match="image 1 is 64×40, and its tiles would be 16×10 pixels; 16 is the least"):
        seen(picture(64, 40), "4x4,overlap=0")


@pytest.fixture(scope="module", params=["mask2former-tiny", "panoptic-fpn-tiny", "eomt-tiny"])
def model(request):
    return open_model(find_model(request.param))


def test_one_tile_is_the_model_to_the_bit(model):
    scene = open_dataset("shapes", limit=1).scenes[0]
    tiled = TiledModel(model, parse_tiles("1x1,overlap=0.3"))
    (own,), (found,) = (each.candidates([each.load(scene)]) for each in (model, tiled))
    of_boxes = isinstance(own, Instances)
    assert torch.equal(found.masks, own.masks)
    assert torch.equal(*((each.semantic_logits if of_boxes else each.weight) for each in (found, own)))
    assert tiled.describe() == model.describe()


def test_tiles_of_a_network_agree_with_the_image_about_most_pixels(model):
    # Tiles that were misplaced by a few pixels, or masks that were stretched, would not agree.
    shares = []
    for scene in open_dataset("shapes", limit=3).scenes:
        labels = []
        for each in (model, TiledModel(model, parse_tiles("2x2,overlap=0.3"))):
            (fused,) = fuse(each.candidates([each.load(scene)]), each.rule)
            ids, segments = each.rule.settle(fused)
            labels.append(np.array([-1, *(segment.label for segment in segments)])[ids])
        shares.append((labels[0] == labels[1]).mean())
    assert np.mean(shares) > 0.85


def test_each_tile_can_be_seen_in_several_views():
    model = open_model(find_model("mask2former-tiny"))
    shown = ViewOptions(tta="flip", tiles="1x2").wrapped(model)
    assert isinstance(shown, TiledModel)
    assert isinstance(shown.inner, AugmentedModel)
    assert {"tta": "flip,scales=1", "tiles": "1x2,overlap=0.2"}.items() <= shown.settings.items()
    scene = open_dataset("shapes", limit=1).scenes[0]
    (found,) = shown.candidates([shown.load(scene)])
    assert found.frame.original == (scene.image.height, scene.image.width)
    assert AugmentedModel(model, parse_views("flip")).settings.items() <= shown.settings.items()


def test_a_run_records_its_tiles_and_compare_says_where_runs_differ_in_them(tmp_path):
    model = find_model("mask2former-tiny")
    whole, one, four = (
        evaluated(model, open_dataset("shapes", limit=2), tmp_path / name, studies=(ViewOptions(tiles=tiles),))
        for name, tiles in (("whole", None), ("one", "1x1"), ("four", "2x2"))
    )
    assert "tiles" not in whole.info.arguments
    assert (one.info.arguments["tiles"], four.info.arguments["tiles"]) == ("1x1", "2x2,overlap=0.2")
    assert one.summary() == whole.summary()
    assert [row.notes for row in comparison_rows([whole, one])] == [
        row.notes for row in comparison_rows([whole, whole])
    ]
    notes = [" ".join(row.notes) for row in comparison_rows([whole, four])]
    assert "each image in tiles (2x2,overlap=0.2)" not in notes[0]
    assert "each image in tiles (2x2,overlap=0.2)" in notes[1]


def test_a_rule_about_one_pass_is_refused_before_a_run_is_begun(tmp_path):
    out = tmp_path / "run"
    said = refused(
        "eval", "--model", "mask2former-tiny", "--limit", 1, "--tiles", "2x2", "--rule", "kmax", "--out", out
    )
    assert "--rule kmax shares each pixel among all queries of one pass, which --tiles has not got." in said
    assert not out.exists()
