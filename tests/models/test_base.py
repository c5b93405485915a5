"""Opening models: which weights, which adapter; a whole adapter in a file and a config; functions as models."""

import dataclasses
import re
import sys
import textwrap
from contextlib import nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support import python

from panbench.base.errors import BadArgument, BadCheckpoint, BadDataset, BadModel, ModelFailed
from panbench.catalog import FAMILIES, find_model, load_catalog, spec_from_config
from panbench.datasets.generated import generated_dataset
from panbench.evaluation.evaluate import evaluate
from panbench.models.candidates import (
    NO_LABEL,
    Candidates,
    FinishedMap,
    Frame,
    Instances,
    LabelledSegment,
    NonFiniteOutput,
    check_classes,
)
from panbench.models.devices import tf32_as
from panbench.models.host import HostedModel
from panbench.models.mmdet import families
from panbench.models.opening import import_named, open_model
from panbench.models.predict import model_categories, predict, prediction_of
from panbench.models.preprocess import Resize
from panbench.models.rules import fuse, parse_rule
from panbench.models.rules.given import Given
from panbench.panoptic.types import Category, ImageInfo, Scene
from panbench.runs import load_run

TOY = '''
"""A toy: three queries, for red, green and blue pixels; the fourth class means "nothing"."""

import torch
from torch import nn

from panbench.models.adapter import Adapter
from panbench.models.preprocess import Resize
from panbench.models.candidates import softmax_candidates
from panbench.models.rules import parse_rule


class Toy(nn.Module):
    def __init__(self, queries):
        super().__init__()
        self.classes = nn.Parameter(torch.zeros(queries, 4))
        self.colors = nn.Parameter(torch.zeros(queries, 3))

    def forward(self, pixels):
        masks = torch.einsum("qc,bchw->bqhw", self.colors, pixels - pixels.amax(dim=1, keepdim=True) / 2)
        return self.classes.expand(len(pixels), -1, -1), masks


class ToyAdapter(Adapter):
    class_names = ("apple", "leaf", "water")
    isthing = (True, True, False)
    rule = parse_rule("maskformer:score=0.5,overlap=0.5")
    resize = Resize(short=32, long=64, divisor=16)
    std = (255.0, 255.0, 255.0)

    def build(self):
        return Toy(self.spec.settings["queries"])

    def rename(self, state_dict):
        return {name.removeprefix("toy."): value for name, value in state_dict.items()}

    def candidates(self, module, pixels, frames):
        classes, masks = module(pixels)
        return softmax_candidates(classes, masks, frames, self.isthing)
'''

CONFIG = """
panbench = dict(
    title="Toy", family="toys", backbone="none", adapter="toyland:ToyAdapter", settings=dict(queries=4),
    weights="toy.pth", params=28, input_size="32x64", trained_on="paint",
    published=dict(PQ=0.99, dataset="paint", split="val", source="nowhere"),
)
"""


def changed(toy: Path, old: str, new: str) -> Path:
    """The config, once its adapter is written otherwise."""
    source = (toy.parent / "toyland.py").read_text()
    assert old in source
    (toy.parent / "toyland.py").write_text(source.replace(old, new))
    return toy


def opened(toy: Path, **settings) -> HostedModel:
    return open_model(spec_from_config(toy), device="cpu", **settings)


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config whose adapter is a module of the current folder, with weights under another program's names."""
    (tmp_path / "toyland.py").write_text(TOY)
    (tmp_path / "toy.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    classes = torch.zeros(4, 4)
    for query, label in enumerate((0, 1, 2, 3)):
        classes[query, label] = 9.0
    colors = torch.cat([torch.eye(3) * 20.0, torch.zeros(1, 3)])
    torch.save({"toy.classes": classes, "toy.colors": colors}, tmp_path / "toy.pth")
    yield tmp_path / "toy.py"
    sys.modules.pop("toyland", None)


def painting(folder: Path) -> Scene:
    """Red at the left, green in the middle, blue at the right, 40×60."""
    rgb = np.zeros((40, 60, 3), np.uint8)
    for channel in range(3):
        rgb[:, 20 * channel : 20 * channel + 20, channel] = 255
    cv2.imwrite(str(folder / "painting.png"), rgb[..., ::-1])
    return Scene(ImageInfo(7, "painting.png", 40, 60), folder / "painting.png")


def test_a_new_family_is_one_file_and_one_config(toy: Path) -> None:
    model = opened(toy)
    scene = painting(toy.parent)
    dataset = (Category(5, "water", False), Category(3, "leaf", True), Category(1, "apple", True))
    found = predict(model, scene, model.category_ids(dataset))
    assert {segment.category_id: segment.area for segment in found.segments} == {1: 800, 3: 800, 5: 800}
    assert found.ids.shape == (40, 60)
    described = model.describe()
    assert (described.family, described.adapter, described.params) == ("toys", "toyland:ToyAdapter", 28)
    assert described.published.PQ == 0.99
    assert [category.name for category in model_categories(model)] == ["apple", "leaf", "water"]


def test_a_users_family_is_listed_after_panbenchs(toy: Path) -> None:
    (toy.parent / "toyland.py").rename(toy.parent / "_toyland.py")
    assert [spec.family for spec in load_catalog(toy.parent).values()] == ["toys"]


def test_an_adapter_without_categories_is_refused(toy: Path) -> None:
    changed(toy, "isthing = (True, True, False)", "isthing = (True,)")
    with pytest.raises(BadModel, match="names 3 categories, but has isthing for 1"):
        opened(toy, weights="random")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (3, "Toy names 3 categories, and its class scores have 2 columns. Its class output needs a column for each"),
        (20, "Toy names 3 categories, and its class scores have 19 columns."),
    ],
)
def test_class_outputs_must_have_a_column_per_category(toy, monkeypatch, columns, message) -> None:
    """Three columns for three names and "nothing" ran to the end and had a PQ; twenty ended in an IndexError."""
    model = opened(changed(toy, "zeros(queries, 4)", f"zeros(queries, {columns})"), weights="random")
    with pytest.raises(ModelFailed, match=re.escape(message)):
        model.candidates([model.load(painting(toy.parent))])
    monkeypatch.setenv("PANBENCH_CACHE", str(toy.parent))
    dataset = generated_dataset(model.class_names, model.isthing, size=(64, 64), count=1)
    with pytest.raises(ModelFailed, match=re.escape(message)):
        evaluate(model, dataset, toy.parent / "run")
    info = load_run(toy.parent / "run").info
    assert (info.status, info.images.scored, info.summary) == ("failed", 0, None)
    assert message in info.error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_scores": None}, None),
        (
            {"labels": np.arange(4)},
            "Toy predicted label 3, but has 3 categories: labels 0 to 2 on painting.png (image 7).",
        ),
        ({"class_weights": torch.zeros(4, 5)}, "its class weights have 5 columns"),
        ({"isthing": (True, False)}, "its output has isthing for 2"),
        ({"gate": np.full(4, np.nan, np.float32)}, "scores"),
    ],
)
def test_candidates_of_an_adapter_are_checked_against_its_categories(toy: Path, change, message):
    model = opened(toy)
    honest = model.adapter.candidates
    model.adapter.candidates = lambda *given: [dataclasses.replace(each, **change) for each in honest(*given)]
    error = NonFiniteOutput if "gate" in change else ModelFailed
    with nullcontext() if message is None else pytest.raises(error, match=re.escape(message)):
        model.candidates([model.load(painting(toy.parent))])


def test_boxes_and_semantic_channels_are_checked_against_the_categories():
    frame = Frame((4, 4), (4, 4), (4, 4))

    def instances(labels: tuple[int, ...], semantic: tuple[int, ...]) -> Instances:
        masks = torch.ones(len(labels), 4, 4)
        return Instances(None, masks, labels, (0.9,) * len(labels), torch.zeros(2, 4, 4), semantic, frame)

    names = ("ball", "sky")
    check_classes([instances((0,), (1, NO_LABEL))], names, "Boxes")
    check_classes([instances((7,), (1, NO_LABEL))], (), "A model that names no categories")
    with pytest.raises(BadModel, match="Boxes predicted label 2, but has 2 categories: labels 0 to 1"):
        check_classes([instances((2,), (1, NO_LABEL))], names, "Boxes")
    with pytest.raises(BadModel, match="labels of 3 semantic channels, and its semantic output has 2"):
        check_classes([instances((0,), (0, 1, NO_LABEL))], names, "Boxes")


def test_planted_segments_replace_any_networks_output(toy: Path) -> None:
    model = opened(toy, weights="random")
    scene = painting(toy.parent)
    undo = model.plant_segments(3)
    assert len(predict(model, scene, range(3)).segments) == 3
    undo()
    assert not predict(model, scene, range(3)).segments


def test_a_model_without_queries_refuses_to_show_attention(toy: Path) -> None:
    model = opened(toy, weights="random")
    with pytest.raises(BadModel, match="Toy shows no attention"):
        model.attend(painting(toy.parent))


@pytest.mark.parametrize(
    ("adapter", "module", "error", "message"),
    [
        ("toyland:Absent", TOY, BadModel, "the module toyland has nothing named 'Absent'"),
        ("nowhere.at_all:Toy", TOY, BadModel, "there is no Python module nowhere.at_all"),
        ("toyland.Toy", TOY, BadModel, r"adapter is 'toyland.Toy' but must be written package\.module:Class"),
        # An error inside of an adapter's module is not taken for its absence.
        ("toyland:Toy", "import absent", ModelFailed, "toyland:Toy needs the Python package absent"),
    ],
)
def test_a_missing_adapter_is_named(toy: Path, adapter, module, error, message) -> None:
    (toy.parent / "toyland.py").write_text(module)
    toy.write_text(CONFIG.replace("toyland:ToyAdapter", adapter))
    with pytest.raises(error, match=message):
        opened(toy)


def test_published_numbers_belong_to_their_weights(toy: Path) -> None:
    """`open_model(weights="my.pth")` once kept them, though `--checkpoint my.pth` did not."""
    spec = spec_from_config(toy)
    other = toy.parent / "mine.pth"
    other.write_bytes((toy.parent / "toy.pth").read_bytes())
    assert open_model(spec, device="cpu").describe().published.PQ == 0.99
    mine = open_model(spec, weights="mine.pth", device="cpu")
    assert mine.describe().published is None
    assert mine.spec.trained_on is None
    assert mine.describe().weights == str(other)
    assert open_model(spec, weights="random", device="cpu").describe().published is None
    elsewhere = toy.parent / "elsewhere" / "toy.pth"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(other.read_bytes())
    assert open_model(spec, weights=str(elsewhere), device="cpu").describe().published.PQ == 0.99


@pytest.mark.parametrize(
    ("weights", "message"),
    [("http://127.0.0.1:9/w-0123abcd.pth", "--download"), ("absent.pth", r"There is no weights file .*absent\.pth")],
)
def test_missing_weights_are_named_and_not_fetched_unless_requested(toy: Path, weights: str, message: str) -> None:
    with pytest.raises(BadCheckpoint, match=message):
        opened(toy, weights=weights)


def test_a_network_without_a_backbone_is_compiled_completely(toy: Path, monkeypatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda part, **_: compiled.append(part) or part)
    model = open_model(spec_from_config(toy), weights="random", device="cpu", compiled=True)
    assert model.compiled
    assert [part.__self__ for part in compiled] == [model.module]


def factory(folder: Path, body: str = "", categories: str = "") -> str:
    """The name of a function in a file: of this body, or HALVES with its categories."""
    source = body or HALVES.replace("CATEGORIES", categories)
    (folder / "functions_in_test.py").write_text(textwrap.dedent(source))
    return "functions_in_test:make"


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("functions_in_test", None)


def test_an_installed_package_brings_models_that_are_imported_only_when_they_run(functions: Path, monkeypatch) -> None:
    metadata = functions / "halves-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: halves\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[panbench.models]\nhalves = functions_in_test:make\nmask2former-r50 = functions_in_test:make\n"
    )
    factory(functions)
    monkeypatch.syspath_prepend(functions)
    spec = find_model("halves")
    assert (spec.name, spec.adapter, spec.family) == ("halves", "functions_in_test:make", None)
    assert "functions_in_test" not in sys.modules
    assert find_model("mask2former-r50").adapter in FAMILIES.values(), "a package takes no name away"
    assert isinstance(open_model(spec).candidates([open_model(spec).load(painting(functions))])[0], FinishedMap)


HALVES = """
    import numpy as np

    def make():
        def segment(image):
            assert image.dtype == np.uint8 and image.shape == (40, 60, 3)
            ids = np.where(image[..., 0] > 0, 9, 4)
            return ids, [{"id": 9, "category_id": 1, "score": 0.5}, {"id": 4, "category_id": 6}]
        CATEGORIES
        return segment
"""


def test_a_function_from_image_to_id_map_is_a_model(functions: Path) -> None:
    name = factory(functions)
    spec = find_model(name)
    assert (spec.name, spec.title, spec.config) == ("functions_in_test.make", name, None)
    model = open_model(spec, device="cpu")
    ids = model.category_ids((Category(1, "red", True), Category(6, "rest", False)))
    found = predict(model, painting(functions), ids)
    assert [(s.id, s.category_id, s.area, s.score) for s in found.segments] == [(9, 1, 800, 0.5), (4, 6, 1600, None)]
    assert found.ids[0].tolist() == [9] * 20 + [4] * 40
    assert model.describe().adapter == name
    with pytest.raises(BadModel, match="gives category 6 on image 7, which the dataset does not have"):
        predict(model, painting(functions), model.category_ids((Category(1, "red", True),)))
    with pytest.raises(BadModel, match="does not name its categories"):
        model_categories(model)


def test_a_function_with_categories_is_matched_by_name(functions: Path) -> None:
    stated = 'segment.categories = [{"id": 6, "name": "rest", "isthing": 0}, {"id": 1, "name": "red", "isthing": 1}]'
    model = open_model(find_model(factory(functions, categories=stated)), device="cpu")
    assert (model.class_names, model.isthing) == (("rest", "red"), (False, True))
    ids = model.category_ids((Category(100, "red", True), Category(200, "rest", False)))
    assert [s.category_id for s in predict(model, painting(functions), ids).segments] == [100, 200]


@pytest.mark.parametrize("ids", [[[-1, 0]], [[0, 1 << 24]]])
def test_ids_that_a_png_cannot_hold_are_refused_from_any_model(ids: list[list[int]]) -> None:
    finished = FinishedMap(np.array(ids, np.int32), (), Frame((1, 2), (1, 2), (1, 2)))
    with pytest.raises(BadModel, match="they must lie in 0…16777215"):
        Given().to_segments(finished)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("make = 5", "must be a function that returns a model"),
        ("def make():\n    return 5", "returned an int without class_names"),
    ],
)
def test_a_factory_that_makes_no_model_is_refused(functions: Path, body: str, message: str) -> None:
    # A name that is no function is the command's fault; what a function returns is the function's.
    with pytest.raises(BadModel if body == "make = 5" else ModelFailed, match=message):
        open_model(find_model(factory(functions, body)))


def test_weights_and_precision_are_refused_for_a_function(functions: Path) -> None:
    spec = find_model(factory(functions))
    with pytest.raises(BadArgument, match="brings its own weights"):
        open_model(spec, weights="my.pth")
    with pytest.raises(BadArgument, match="sets its own precision"):
        open_model(spec, precision="bf16", device="cpu")


def test_an_undecodable_image_is_named_for_functions(functions: Path) -> None:
    model = open_model(find_model(factory(functions)))
    (functions / "broken.png").write_bytes(b"\x89PNG no")
    with pytest.raises(BadDataset, match=r"broken\.png \(image 1\) cannot be decoded"):
        model.load(Scene(ImageInfo(1, "broken.png", 2, 2), functions / "broken.png"))


def test_every_family_in_the_registry_has_an_adapter_that_can_be_imported() -> None:
    spec = find_model("mask2former-tiny")
    for adapter in set(FAMILIES.values()):
        assert isinstance(import_named(adapter, spec), type)
    assert {family.name for family in families.FAMILIES} <= set(FAMILIES)


def test_every_config_is_run_by_an_adapter_of_the_registry() -> None:
    for spec in load_catalog().values():
        assert spec.family in FAMILIES
        of_authors = spec.name.endswith("-authors") and spec.adapter == "panbench.models.authors.adapter:AuthorsAdapter"
        assert spec.adapter in FAMILIES.values() or of_authors


@pytest.mark.parametrize(
    ("resize", "size", "small", "padded"),
    [
        (Resize(), (40, 61), (40, 61), (40, 61)),
        (Resize(short=800, long=1333), (480, 640), (800, 1067), (800, 1067)),
        (Resize(short=800, long=1333, divisor=32), (300, 1000), (400, 1333), (416, 1344)),
        (Resize(exact=(384, 384)), (480, 640), (384, 384), (384, 384)),
        (Resize(short=20, square=64), (40, 61), (20, 31), (64, 64)),
    ],
)
def test_images_are_resized_and_padded_as_declared(resize, size, small, padded) -> None:
    image = np.zeros((*size, 3), np.uint8)
    assert resize.apply(image).shape == (*small, 3)
    assert resize.padded(*small) == padded


def test_antialiasing_equals_pillows() -> None:
    stripes = np.zeros((4, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(Resize(exact=(4, 13), way="pil").apply(stripes)) < np.ptp(Resize(exact=(4, 13)).apply(stripes))


def test_labels_beyond_the_categories_are_refused() -> None:
    settled = (np.ones((2, 2), np.int32), (LabelledSegment(1, 5, 4, None),))
    assert prediction_of(1, settled, range(6)).segments[0].category_id == 5
    with pytest.raises(BadModel, match="a label beyond its 5 categories on image 1"):
        prediction_of(1, settled, range(5))


def test_an_unfit_rule_is_refused_with_those_that_fit(toy: Path) -> None:
    model = opened(toy)
    (output,) = model.candidates([model.load(painting(toy.parent))])
    assert isinstance(output, Candidates)
    with pytest.raises(BadArgument, match=r"panoptic-fpn takes boxes with masks .* Rules that fit it: .*mask2former"):
        fuse([output], parse_rule("panoptic-fpn"))
    finished = FinishedMap(np.zeros((2, 2), np.int32), (), output.frame)
    with pytest.raises(BadArgument, match="gives finished id maps"):
        fuse([finished], parse_rule("mask2former"))


def test_the_documented_adapter_is_the_tested_one() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "own_models.md").read_text("utf-8")
    assert f"```python\n{TOY.lstrip()}```" in page
    assert f"```python\n{CONFIG.lstrip()}```" in page
    assert len(TOY.strip().splitlines()) <= 45


@pytest.mark.parametrize(
    ("precision", "convolutions", "products"),
    [("fp32", True, False), ("bf16", True, False), ("ieee", False, False), ("tf32", True, True)],
)
def test_tf32_follows_the_precision_and_is_restored(precision: str, convolutions: bool, products: bool):
    def flags():
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = flags()
    with tf32_as(precision):
        assert flags() == (convolutions, products)
    assert flags() == before


def test_pytorch_by_default_allows_tf32_in_convolutions_only():
    script = "import torch; print(torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)"
    assert python("-c", script).stdout.split() == ["True", "False"]
