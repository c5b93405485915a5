import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest
from support import python, refusal

from panbench import catalog
from panbench.base.errors import BadArgument, BadModel
from panbench.base.files import cache_dir
from panbench.catalog import (
    configs_folder,
    find_model,
    is_shipped,
    load_catalog,
    repository_of,
    resolve_models,
    spec_from_config,
    with_labels,
)
from panbench.published import published_results
from panbench.weights import weights_here, weights_path

ZOO = (
    "panoptic-fpn-r50-1x panoptic-fpn-r50-3x panoptic-fpn-r101-1x panoptic-fpn-r101-3x maskformer-r50 "
    "maskformer-swin-l mask2former-r50 mask2former-r101 mask2former-swin-t mask2former-swin-s mask2former-swin-b "
    "mask2former-swin-b-in21k mask2former-swin-l"
).split()
AUTHORS = "psf-r50-1x psf-r50-2x psf-r101 psf-pvtv2-b5 psf-swin-l mask-dino-r50 mask-dino-swin-l".split()
HUB = (
    "detr-r50 detr-r101 oneformer-swin-l eomt-dinov2-s-640 eomt-dinov2-b-640 eomt-dinov2-l-640 eomt-dinov2-l-1280 "
    "eomt-dinov2-g-640 eomt-dinov2-g-1280 eomt-dinov3-s-640 eomt-dinov3-b-640 eomt-dinov3-l-640 eomt-dinov3-l-1280"
).split()
HUB += [f"{family}-hf-swin-{size}" for family in ("mask2former", "maskformer") for size in "tsbl"]
OTHER_SETS = (
    "mask2former-cityscapes-t mask2former-cityscapes-s mask2former-cityscapes-b mask2former-cityscapes-l "
    "mask2former-ade20k-l mask2former-mapillary-l oneformer-cityscapes-l oneformer-ade20k-t oneformer-ade20k-l "
    "eomt-ade20k-l-640 eomt-ade20k-g-640 eomt-ade20k-l-1280 eomt-ade20k-g-1280"
).split()
TINY = ["panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny", "oneformer-tiny", "eomt-tiny"]

ENTRY = {
    "title": "Mine",
    "family": "mask2former",
    "backbone": "R50",
    "weights": "weights/mine.pth",
    "published": {"PQ": 0.5, "dataset": "coco", "split": "val2017", "source": "a paper"},
    "params": 1,
    "input_size": "800×1333",
    "trained_on": "coco",
}


def write_config(folder: Path, name: str = "mine", *, without: str | None = None, **changes: object) -> Path:
    entry = {key: value for key, value in (ENTRY | changes).items() if key != without}
    path = folder / f"{name}.py"
    path.write_text(f"_base_ = 'mmdet::x.py'\npanbench = {entry!r}\n", "utf-8")
    return path


def listing_refused(folder: Path) -> str:
    return refusal(BadModel, load_catalog, folder)


def test_the_catalog_has_mmdets_zoo_hub_models_and_tiny_models() -> None:
    assert set(load_catalog()) >= {*ZOO, *AUTHORS, *HUB, *OTHER_SETS, *TINY}


def names_on(page: str) -> set[str]:
    """The names between backticks; `-b-640` behind `eomt-s-640` stands for eomt-b-640."""
    names: list[str] = []
    whole: list[str] = []
    for word in re.findall(r"`(-?[a-z][\w-]*)`", page):
        ending = word.split("-")[1:]
        whole = [*whole[: -len(ending)], *ending] if word.startswith("-") else word.split("-")
        names.append("-".join(whole))
    return set(names)


def test_the_page_of_models_lists_every_shipped_one() -> None:
    page = (Path(catalog.__file__).parents[1] / "docs" / "model_list.md").read_text("utf-8")
    assert {name for name, spec in load_catalog().items() if is_shipped(spec)} - names_on(page) == set()


def test_models_are_listed_by_family_and_then_by_size() -> None:
    zoo = [name for name in load_catalog() if name in ZOO]
    assert zoo[:6] == ZOO[:6]
    assert zoo[6:] == [f"mask2former-{size}" for size in "r50 swin-t r101 swin-s swin-b swin-b-in21k swin-l".split()]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("panoptic-fpn", "panoptic-fpn-r50-3x"),
        ("maskformer", "maskformer-r50"),
        ("mask2former", "mask2former-r50"),
        ("Mask2Former_Swin_T", "mask2former-swin-t"),
    ],
)
def test_a_family_name_means_its_r50_model_and_capitals_and_underscores_do_not_matter(words: str, name: str) -> None:
    assert find_model(words).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask2fromer-r50", r"'mask2fromer-r50'. Did you mean mask2former-r50\? `panbench models`"),
        ("zzz", rf"no model 'zzz'. `panbench models` lists all {len(load_catalog())}"),
        ("my/model.py", r"--config my/model\.py"),
    ],
    ids=["near another", "near none", "a config file"],
)
def test_a_wrong_name_is_answered_with_suggestions(name: str, message: str) -> None:
    with pytest.raises(BadModel, match=message):
        find_model(name)


def test_names_and_lists_of_names_give_each_model_once_in_order() -> None:
    specs = resolve_models(["mask2former-swin-t, maskformer", "maskformer-r50", "mask2former"])
    assert [spec.name for spec in specs] == ["mask2former-swin-t", "maskformer-r50", "mask2former-r50"]


@pytest.mark.parametrize("names", [[], [""], [" , "]])
def test_an_empty_list_of_names_is_refused(names: list[str]) -> None:
    with pytest.raises(BadArgument, match="No model is named"):
        resolve_models(names)


def test_config_files_are_listed_without_running_them_except_those_with_an_underscore(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text("utf-8") + "raise SystemExit('this was run')\n", "utf-8")
    (tmp_path / "_shared.py").write_text("x = 1\n")
    assert list(load_catalog(tmp_path)) == ["mine"]


def test_the_catalog_needs_neither_torch_nor_mmengine() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'mmengine', 'mmdet', 'mmcv', 'numpy', 'yaml'): sys.modules[name] = None\n"
        "from panbench.catalog import load_catalog\n"
        "print(len(load_catalog()))"
    )
    answer = python("-c", program, cwd=Path(catalog.__file__).parent.parent)
    assert answer.stdout.strip() == str(len(load_catalog())), answer.stderr


def test_an_installed_package_reads_only_its_own_configs(tmp_path, monkeypatch) -> None:
    package = tmp_path / "panbench"
    (package / "_configs").mkdir(parents=True)
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(catalog, "_PACKAGE", package)
    assert configs_folder() == package / "_configs"
    (package / "_configs").rmdir()
    assert configs_folder() == tmp_path / "configs"
    (tmp_path / "configs").rmdir()
    with pytest.raises(BadModel, match="installation is incomplete"):
        load_catalog()


def test_the_panbench_dict_may_use_mmdets_style(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "panbench = dict(title='Mine', family='maskformer', backbone='R50', weights=None, published=dict(PQ=0.4,\n"
        "dataset='coco', split='val2017', source='x'), params=7, input_size='as is', trained_on='shapes')\n"
    )
    spec = load_catalog(tmp_path)["mine"]
    assert spec.published is not None
    assert (spec.title, spec.params, spec.published.PQ, spec.weights) == ("Mine", 7, 0.4, None)


def test_weights_next_to_the_config_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    write_config(folder)
    monkeypatch.chdir(tmp_path)
    spec = load_catalog("configs")["mine"]
    assert spec.weights == str(folder / "weights" / "mine.pth")
    assert weights_here(spec) is None
    (folder / "weights").mkdir()
    (folder / "weights" / "mine.pth").touch()
    assert weights_here(spec) == folder / "weights" / "mine.pth"


@pytest.mark.parametrize("key", list(ENTRY))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    write_config(tmp_path, without=key)
    assert listing_refused(tmp_path) == f"{tmp_path / 'mine.py'}: `panbench` lacks {key}."


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"params": "44 M"}, "params is '44 M' but must be int or None"),
        ({"params": True}, "params is True but must be int or None"),
        ({"family": "segnet"}, "'segnet' but panbench knows panoptic-fpn, maskformer, mask2former, "),
        ({"published": {"PQ": 52.0, "dataset": "coco", "split": "x", "source": "y"}}, "Write 0.52 for 52.0 %"),
        ({"published": {"PQ": 0.52}}, "`published` lacks dataset, split and source"),
        ({"published": {**ENTRY["published"], "pq": 0.5}}, "`published` has an unknown key 'pq'"),  # type: ignore[dict-item]
        ({"parameters": 3}, "unknown key 'parameters'. Did you mean 'params'?"),
    ],
)
def test_a_wrong_value_or_key_is_refused_with_its_key(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    write_config(tmp_path, **changes)
    assert words in listing_refused(tmp_path)


def test_two_models_cannot_have_one_name(tmp_path: Path) -> None:
    write_config(tmp_path, "first", aliases=["best"])
    write_config(tmp_path, "second", aliases=["Best"])
    assert listing_refused(tmp_path).startswith(f"{tmp_path / 'second.py'}: 'Best' already names first.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("_base_ = 'mmdet::x.py'\n", "has no `panbench` dict"),
        ("x = 1\npanbench = {'title': x}\n", "mine.py, line 2: `panbench` must be a dict of plain values"),
        ("panbench = {}\npanbench = {\n", "line 2: '{' was never closed"),
    ],
    ids=["no model", "a dict that would have to be run", "a syntax error"],
)
def test_a_config_without_a_model_says_why(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    assert words in listing_refused(tmp_path)


def test_a_users_config_becomes_a_model_named_after_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("model = dict(type='MaskFormer')\n")
    monkeypatch.chdir(tmp_path)
    spec = spec_from_config("mine.py", "mine.pth")
    assert (spec.name, spec.title, spec.config) == ("mine", "mine", tmp_path / "mine.py")
    assert spec.weights == str(tmp_path / "mine.pth")
    assert (spec.family, spec.backbone, spec.params, spec.published, spec.trained_on) == (None,) * 5


@pytest.mark.parametrize(
    ("file", "text", "title"),
    [
        ("mine.py", "classes = {{$CLASSES:80}}\npanbench = {'title': 'Mine'}\n", "Mine"),
        ("mine.yaml", "model: {type: MaskFormer}\n", "mine"),
    ],
    ids=["what only mmengine fills in", "yaml"],
)
def test_a_users_config_may_use_python_that_panbench_cannot_read(
    tmp_path: Path, file: str, text: str, title: str
) -> None:
    (tmp_path / file).write_text(text)
    spec = spec_from_config(tmp_path / file)
    assert (spec.name, spec.title) == ("mine", title)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("absent.py", None, r"no config file .*absent\.py"),
        ("", None, "no config file"),
        ("weights.pth", b"", r"not a config file: mmdet's are \.py"),
        ("binary.py", b"\xff\x00", "cannot be read as a config file"),
    ],
)
def test_an_unusable_user_config_is_refused(tmp_path: Path, file, content, message) -> None:
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(BadModel, match=message):
        spec_from_config(tmp_path / file)


@pytest.mark.parametrize(
    ("platform", "variables", "place"),
    [
        ("linux", {}, ".cache/panbench"),
        ("darwin", {}, "Library/Caches/panbench"),
        ("darwin", {"XDG_CACHE_HOME": "xdg"}, "xdg/panbench"),
        ("darwin", {"XDG_CACHE_HOME": "xdg", "PANBENCH_CACHE": "mine"}, "mine"),
    ],
)
def test_downloads_go_where_the_environment_says(tmp_path: Path, monkeypatch, platform, variables, place) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "PANBENCH_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in variables.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    assert cache_dir() == tmp_path / place
    assert weights_path(find_model("mask2former-r50")) == tmp_path / place / "weights" / (
        "mask2former_r50_8xb2-lsj-50e_coco-panoptic_20230118_125535-54df384a.pth"
    )


def metafile_entries() -> dict[str, tuple[str, float]]:
    """The weights and the PQ that the installed mmdet has of its panoptic models, by config file."""
    found = importlib.util.find_spec("mmdet")
    if found is None or found.origin is None:
        pytest.skip("mmdet is not installed")
    yaml = pytest.importorskip("yaml")
    entries = {}
    for family in ("panoptic_fpn", "maskformer", "mask2former"):
        metafile = Path(found.origin).parent / ".mim" / "configs" / family / "metafile.yml"
        for model in yaml.safe_load(metafile.read_text("utf-8"))["Models"]:
            for result in model["Results"]:
                if result["Task"] == "Panoptic Segmentation":
                    entries[model["Config"].removeprefix("configs/")] = model["Weights"], result["Metrics"]["PQ"]
    return entries


def base_of(config: Path) -> str:
    for statement in ast.parse(config.read_text("utf-8")).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "_base_":  # type: ignore[attr-defined]
            return str(ast.literal_eval(statement.value))
    raise AssertionError(f"{config} has no _base_")


def test_every_panoptic_model_of_mmdets_zoo_is_listed_with_weights_and_pq() -> None:
    here = {}
    for name in ZOO:
        spec = load_catalog()[name]
        assert spec.published is not None
        here[base_of(spec.config).removeprefix("mmdet::")] = spec.weights, round(100 * spec.published.PQ, 1)
        assert (spec.published.dataset, spec.published.split) == ("coco", "val2017")
    assert here == metafile_entries()


def test_a_known_repository_has_its_data_labels_sizes_and_rule():
    assert find_model("hf:facebook/mask2former-swin-tiny-coco-panoptic").trained_on == "coco"
    assert find_model("hf:owner/name").trained_on is None
    known = find_model("mask2former-mapillary-l").settings
    spec = find_model("hf:facebook/mask2former-swin-large-mapillary-vistas-panoptic@v1")
    assert {"labels", "sizes", "rule"} < set(known)
    assert dict(spec.settings) == {**known, "revision": "v1"}


@pytest.mark.parametrize("name", OTHER_SETS)
def test_models_of_other_sets_have_a_source_for_every_value(name: str) -> None:
    spec = find_model(name)
    assert spec.trained_on == name.split("-")[1] == spec.settings["labels"]
    assert spec.license
    assert spec.license_source
    if name != "oneformer-ade20k-t":
        assert spec.published is not None
        assert (spec.published.dataset, spec.published.split) == (spec.trained_on, "val")
        claims = [one for one in published_results() if (one.title, one.dataset) == (spec.system, spec.trained_on)]
        assert [one.PQ for one in claims] == [spec.published.PQ]


def test_a_hub_url_or_a_folder_is_a_model(tmp_path, monkeypatch):
    spec = find_model("hf:owner/name@v2")
    assert (spec.name, spec.title, spec.weights) == ("owner--name", "owner/name", None)
    assert str(repository_of(spec)) == "hf:owner/name@v2"
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(BadModel, match=r"no config\.json"):
        find_model(str(folder))
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadModel, match=r"is meant by --model \./mine\."):
        find_model("mine")
    assert find_model("./mine").weights == str(folder / "model.safetensors")
    with pytest.raises(BadModel, match="There is no folder"):
        find_model("./other")
    (tmp_path / "mine.json").write_text("[]")
    assert with_labels(spec, "mine.json").settings["labels"] == str(tmp_path / "mine.json")
    assert with_labels(spec, "coco").settings["labels"] == "coco"
    with pytest.raises(BadArgument, match="declares what its labels mean"):
        with_labels(find_model("mask2former-tiny"), "mine.json")


def test_a_run_of_a_repository_names_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadModel, match="There is no model 'owner--name'"):
        find_model("owner--name")
    (tmp_path / "models--owner--name").mkdir(parents=True)
    assert find_model("owner--name").title == "owner/name"
