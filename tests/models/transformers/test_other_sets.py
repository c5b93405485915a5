"""Published models of Cityscapes, ADE20K and Mapillary Vistas: their labels, and small networks run in their form."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from support import ran, refuses_without_torch

from panbench.base.errors import BadModel
from panbench.catalog import ModelSpec, find_model, load_catalog
from panbench.datasets import Dataset, open_dataset
from panbench.datasets.convert import shipped_categories
from panbench.datasets.published import convert_ade20k, convert_cityscapes, convert_mapillary
from panbench.evaluation.from_python import evaluate
from panbench.models.host import HostedModel
from panbench.models.labels import known_labels, known_things, match_categories
from panbench.models.opening import open_model
from panbench.models.transformers.adapter import TransformersAdapter
from panbench.panoptic.coco import write_id_png
from tests.models.transformers.test_adapter import config_of, in_the_hubs_cache, untrained

MODELS = [name for name, spec in load_catalog().items() if "labels" in spec.settings and spec.family != "detr"]
ONE_OF_EACH = [
    "mask2former-cityscapes-t",
    "mask2former-ade20k-l",
    "mask2former-mapillary-l",
    "oneformer-cityscapes-l",
    "oneformer-ade20k-l",
    "eomt-ade20k-l-640",
]
# ade20k-id2label.json of the label files of transformers, where it differs from the first of a category's names.
LABEL_FILE = {"window": "windowpane", "tub": "bathtub", "rail": "railing", "tv": "television receiver"}
LABEL_FILE |= {"clothes": "apparel", "pool": "swimming pool", "falls": "waterfall", "trash can": "ashcan"}
LABEL_FILE |= {"street lamp": "streetlight"}


def of_the_label_file(name: str) -> str:
    first = name.partition(",")[0]
    return LABEL_FILE.get(first, first)


def as_published(spec: ModelSpec) -> list[str]:
    """id2label of a repository's config.json, as far as it is known: other spellings, and EoMT without names."""
    names = [category.name for category in shipped_categories(spec.settings["labels"])]
    if spec.family == "eomt":
        return [f"LABEL_{label}" for label in range(len(names))]
    if spec.trained_on == "ade20k" and spec.family == "mask2former":
        return [of_the_label_file(name) for name in names]
    if spec.trained_on == "ade20k":
        return [{"airplane": "plane"}.get(name, name.partition(",")[0]) for name in names]
    return [name.lower().replace(" ", "-") for name in names] if spec.trained_on == "mapillary" else names


def fetched(spec: ModelSpec, cache: Path, names: Sequence[str] | None = None) -> dict[str, torch.Tensor]:
    """Puts a small network of the model's family and classes where its repository would be once it was fetched.

    Returns its weights.
    """
    folder = in_the_hubs_cache(cache, spec.settings["repository"])
    made = untrained(config_of(str(spec.family)), as_published(spec) if names is None else names)
    made.save_pretrained(folder)
    # What the processors of Mask2Former's repositories say, whatever their authors trained with.
    stretched = {"size": {"height": 384, "width": 384}} if spec.family == "mask2former" else {}
    (folder / "preprocessor_config.json").write_text(json.dumps(stretched))
    return {name: value.clone() for name, value in made.state_dict().items()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return folder


def small(name: str, short: int | None = 64) -> ModelSpec:
    """The model with images of another size than its own: what is tested is not how long a network takes."""
    spec = find_model(name)
    return dataclasses.replace(spec, settings={**spec.settings, "sizes": {"short": short, "long": 96}})


# Small sets in the layouts of their owners, converted.


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels[..., ::-1] if pixels.ndim == 3 else pixels)


def photo(path: Path) -> None:
    save(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8), path)


def cityscapes(raw: Path) -> Dataset:
    ids = np.full((48, 64), 7, np.uint16)
    ids[:24], ids[30:40, 10:30] = 23, 26_001
    save(ids, raw / "gtFine/val/city/city_000000_000019_gtFine_instanceIds.png")
    photo(raw / "leftImg8bit/val/city/city_000000_000019_leftImg8bit.png")
    return open_dataset(convert_cityscapes(raw, "data/cityscapes").root)


def ade20k(raw: Path) -> Dataset:
    semantic, instances = np.full((48, 64), 1, np.uint8), np.zeros((48, 64, 3), np.uint8)
    semantic[:24], semantic[30:40, 10:30], instances[30:40, 10:30] = 3, 8, (1, 1, 0)
    save(semantic, raw / "annotations/validation/ADE_val_00000001.png")
    save(instances, raw / "annotations_instance/validation/ADE_val_00000001.png")
    photo(raw / "images/validation/ADE_val_00000001.jpg")
    return open_dataset(convert_ade20k(raw, "data/ade20k").root)


def mapillary(raw: Path) -> Dataset:
    ids = np.full((48, 64), 1, np.int32)
    ids[:24], ids[30:40, 10:30] = 2, 3
    folder = raw / "validation/panoptic"
    write_id_png(folder / "a.png", ids)
    segments = [{"id": segment, "category_id": category} for segment, category in ((1, 14), (2, 28), (3, 56))]
    document = {
        "images": [{"id": "a", "file_name": "a.jpg", "height": 48, "width": 64}],
        "annotations": [{"image_id": "a", "file_name": "a.png", "segments_info": segments}],
        "categories": [
            {"id": each.id, "name": each.name, "supercategory": each.supercategory, "isthing": int(each.isthing)}
            for each in shipped_categories("mapillary")
        ],
    }
    (folder / "panoptic_2018.json").write_text(json.dumps(document))
    photo(raw / "validation/images/a.jpg")
    return open_dataset(convert_mapillary(raw, "data/mapillary").root)


SETS: dict[str, Callable[[Path], Dataset]] = {"cityscapes": cityscapes, "ade20k": ade20k, "mapillary": mapillary}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_published_weights_load_exactly_and_run_on_a_mimic_of_their_set(name: str, cache: Path) -> None:
    spec = small(name)
    weights = fetched(spec, cache)
    model = open_model(spec, device="cpu", speedups=False)
    assert isinstance(model, HostedModel)
    loaded = model.module.state_dict()
    assert set(weights) == set(loaded)
    assert all(torch.equal(loaded[each], value) for each, value in weights.items())
    dataset = SETS[str(spec.trained_on)](Path("raw"))
    assert dataset.name == f"{spec.trained_on}-subset"
    assert model.class_names == tuple(category.name for category in shipped_categories(str(spec.trained_on)))
    run = evaluate(spec, dataset, Path("results/run"))
    assert (run.info.status, run.info.images.scored) == ("done", 1)
    assert {category.name for category in run.info.categories} == set(model.class_names)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_and_thresholds_equal_the_authors_configs(name: str, cache: Path) -> None:
    spec = find_model(name)
    fetched(spec, cache)
    model = open_model(spec, device="cpu")
    assert isinstance(model, HostedModel)
    adapter: Any = model.adapter
    score = {"mask2former-mapillary": 0.0, "oneformer-ade20k": 0.5}.get(name.rpartition("-")[0], 0.8)
    assert dataclasses.asdict(model.rule)["score"] == score
    if spec.family != "eomt":
        assert f"{adapter.resize.short}×{adapter.resize.long}" == spec.input_size


@pytest.mark.parametrize("set_name", ["coco", *SETS])
def test_labels_of_a_known_set_are_recognized_in_any_spelling(set_name: str) -> None:
    categories = shipped_categories(set_name)
    for spelt in (str.lower, str.title, lambda name: name.replace(" ", "-"), lambda name: f"{name} "):
        names = [spelt(category.name) for category in categories]
        assert known_labels(names) == categories
        assert match_categories("x", names, known_things(names) or (), categories) == tuple(c.id for c in categories)
    assert known_labels([category.name for category in categories][1:]) is None


def test_ade20ks_labels_are_recognized_as_transformers_spells_them() -> None:
    categories = shipped_categories("ade20k")
    names = [of_the_label_file(category.name) for category in categories]
    assert len(set(names)) == 150
    assert sum(name != category.name for name, category in zip(names, categories, strict=True)) > 40
    assert known_labels(names) == categories
    # A dataset that is spelt as the model is matched as before, by its own ids.
    pairs = zip(categories, names, strict=True)
    own = [dataclasses.replace(category, id=category.id + 7, name=name) for category, name in pairs]
    assert match_categories("x", names, known_things(names) or (), own) == tuple(category.id for category in own)


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        (
            "mask2former-cityscapes-t",
            lambda names: [names[1], names[0], *names[2:]],
            r"label 0 is 'sidewalk' in its config\.json, but 'road' in the order of city",
        ),
        ("oneformer-ade20k-l", lambda names: names[:149], r"has 149 classes \(config\.json\), but ade20k has 150"),
    ],
)
def test_labels_must_match_the_set_in_number_and_order(cache: Path, name, labels, message) -> None:
    spec = small(name)
    fetched(spec, cache, labels(as_published(spec)))
    with pytest.raises(BadModel, match=message):
        open_model(spec, device="cpu")


def test_the_wrong_set_is_refused_without_pytorch(cache: Path, tmp_path: Path) -> None:
    cityscapes(Path("raw"))
    refuses_without_torch(
        tmp_path,
        [
            (
                ["eval", "--model", "mask2former-ade20k-l", "--data", "cityscapes"],
                "ADE20K and the dataset have different",
            ),
            (
                ["eval", "--model", "oneformer-cityscapes-l", "--data", "coco"],
                "19 in the model, of which the dataset lacks",
            ),
            (["eval", "--model", "mask2former-mapillary-l"], "There is no dataset data/mapillary"),
        ],
    )


def test_a_photograph_is_segmented_with_the_categories_of_the_models_set(cache: Path, tmp_path: Path) -> None:
    fetched(find_model("eomt-ade20k-l-640"), cache)
    photo(tmp_path / "photo.jpg")
    ran("predict", "photo.jpg", "--model", "eomt-ade20k-l-640", "--out", "out")
    listed = json.loads(next(Path("out").rglob("ids.json")).read_text())["categories"]
    expected = {(each.id, each.name, each.isthing) for each in shipped_categories("ade20k")}
    assert {(each["id"], each["name"], bool(each["isthing"])) for each in listed} <= expected


SWIN: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
    "large": {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48], "window_size": 12},
}


@pytest.mark.parametrize(
    ("name", "size", "queries", "megabytes"),
    [
        ("mask2former-cityscapes-t", "tiny", 100, 190),
        ("mask2former-cityscapes-b", "base", 100, 432),
        ("mask2former-cityscapes-l", "large", 200, 866),
        ("mask2former-ade20k-l", "large", 200, 866),
        ("mask2former-mapillary-l", "large", 200, 866),
        ("oneformer-cityscapes-l", "large", 250, 879),
        ("oneformer-ade20k-l", "large", 250, 880),
        ("oneformer-ade20k-t", "tiny", 150, 203),
    ],
)
def test_a_network_of_the_published_size_has_the_listed_bytes(name, size, queries, megabytes) -> None:
    """Networks of the authors' configs, without memory; the hub's pages list the size of each file of weights."""
    spec = find_model(name)
    swin = {**SWIN[size], "model_type": "swin", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
    names = [category.name for category in shipped_categories(str(spec.trained_on))]
    network = {"model_type": spec.family, "backbone_config": swin, "num_queries": queries}
    stated = {**spec.settings, "network": {**network, "id2label": dict(enumerate(names))}}
    del stated["repository"]
    with torch.device("meta"):
        built = TransformersAdapter(dataclasses.replace(spec, settings=stated)).build()
    weights = sum(value.numel() * value.element_size() for value in built.state_dict().values())
    # Then saved as well: which of a window's (2w - 1)² positions each pair of its pixels has, in each block.
    weights += 8 * sum(swin["depths"]) * swin["window_size"] ** 4
    # A file has some hundred kilobytes of names beside its weights.
    assert -0.5 < megabytes - weights / 1e6 < 1
