import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from panbench import catalog
from panbench.base.errors import BadArgument, BadModel
from panbench.base.files import cache_dir
from panbench.catalog import (
    configs_folder,
    find_model,
    is_shipped,
    load_catalog,
    resolve_models,
    spec_from_config,
    with_weights,
)
from panbench.published import published_results
from panbench.weights import weights_here, weights_path

ZOO = [
    "panoptic-fpn-r50-1x",
    "panoptic-fpn-r50-3x",
    "panoptic-fpn-r101-1x",
    "panoptic-fpn-r101-3x",
    "maskformer-r50",
    "maskformer-swin-l",
    "mask2former-r50",
    "mask2former-r101",
    "mask2former-swin-t",
    "mask2former-swin-s",
    "mask2former-swin-b",
    "mask2former-swin-b-in21k",
    "mask2former-swin-l",
]
AUTHORS = [
    "psf-r50-1x",
    "psf-r50-2x",
    "psf-r101",
    "psf-pvtv2-b5",
    "psf-swin-l",
    "mask-dino-r50",
    "mask-dino-swin-l",
]
HUB = [
    "detr-r50",
    "detr-r101",
    "mask2former-hf-swin-t",
    "mask2former-hf-swin-s",
    "mask2former-hf-swin-b",
    "mask2former-hf-swin-l",
    "maskformer-hf-swin-t",
    "maskformer-hf-swin-s",
    "maskformer-hf-swin-b",
    "maskformer-hf-swin-l",
    "oneformer-swin-l",
    "eomt-dinov2-s-640",
    "eomt-dinov2-b-640",
    "eomt-dinov2-l-640",
    "eomt-dinov2-l-1280",
    "eomt-dinov2-g-640",
    "eomt-dinov2-g-1280",
    "eomt-dinov3-s-640",
    "eomt-dinov3-b-640",
    "eomt-dinov3-l-640",
    "eomt-dinov3-l-1280",
]
OTHER_SETS = [
    "mask2former-cityscapes-t",
    "mask2former-cityscapes-s",
    "mask2former-cityscapes-b",
    "mask2former-cityscapes-l",
    "mask2former-ade20k-l",
    "mask2former-mapillary-l",
    "oneformer-cityscapes-l",
    "oneformer-ade20k-t",
    "oneformer-ade20k-l",
    "eomt-ade20k-l-640",
    "eomt-ade20k-g-640",
    "eomt-ade20k-l-1280",
    "eomt-ade20k-g-1280",
]
HUB += OTHER_SETS
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


def refusal(folder: Path) -> str:
    with pytest.raises(BadModel) as caught:
        load_catalog(folder)
    return str(caught.value)


def test_the_catalog_has_the_zoo_the_hubs_models_and_the_tiny_ones() -> None:
    assert set(load_catalog()) >= {*ZOO, *AUTHORS, *HUB, *TINY}


def names_on(page: str) -> set[str]:
    """The names between backticks; `-b-640` behind `eomt-s-640` stands for eomt-b-640."""
    names: list[str] = []
    whole: list[str] = []
    for word in re.findall(r"`(-?[a-z][\w-]*)`", page):
        ending = word.split("-")[1:]
        whole = [*whole[: -len(ending)], *ending] if word.startswith("-") else word.split("-")
        names.append("-".join(whole))
    return set(names)


def test_the_page_of_models_has_each_that_ships() -> None:
    page = (Path(catalog.__file__).parents[1] / "docs" / "model_list.md").read_text("utf-8")
    assert {name for name, spec in load_catalog().items() if is_shipped(spec)} - names_on(page) == set()


def test_models_are_listed_by_family_and_then_by_size() -> None:
    zoo = [name for name in load_catalog() if name in ZOO]
    assert zoo[:6] == ZOO[:6]
    assert zoo[6:] == [
        "mask2former-r50",
        "mask2former-swin-t",
        "mask2former-r101",
        "mask2former-swin-s",
        "mask2former-swin-b",
        "mask2former-swin-b-in21k",
        "mask2former-swin-l",
    ]


@pytest.mark.parametrize(
    ("alias", "name"),
    [("panoptic-fpn", "panoptic-fpn-r50-3x"), ("maskformer", "maskformer-r50"), ("mask2former", "mask2former-r50")],
)
def test_a_family_name_means_its_r50_model(alias: str, name: str) -> None:
    assert find_model(alias).name == name


def test_capitals_and_underscores_do_not_matter_in_a_name() -> None:
    assert find_model("Mask2Former_Swin_T").name == "mask2former-swin-t"


def test_a_wrong_name_is_answered_with_the_nearest_and_where_to_look() -> None:
    with pytest.raises(BadModel, match=r"'mask2fromer-r50'. Did you mean mask2former-r50\? `panbench models`"):
        find_model("mask2fromer-r50")


def test_a_name_near_no_model_gets_no_guess() -> None:
    with pytest.raises(BadModel, match=rf"no model 'zzz'. `panbench models` lists all {len(load_catalog())}"):
        find_model("zzz")


def test_a_config_file_in_place_of_a_name_is_pointed_to_its_option() -> None:
    with pytest.raises(BadModel, match=r"--config my/model\.py"):
        find_model("my/model.py")


def test_several_names_and_lists_of_names_give_each_model_once_in_order() -> None:
    specs = resolve_models(["mask2former-swin-t, maskformer", "maskformer-r50", "mask2former"])
    assert [spec.name for spec in specs] == ["mask2former-swin-t", "maskformer-r50", "mask2former-r50"]


@pytest.mark.parametrize("names", [[], [""], [" , "]])
def test_no_name_at_all_is_refused(names: list[str]) -> None:
    with pytest.raises(BadArgument, match="No model is named"):
        resolve_models(names)


def test_a_config_file_is_listed_without_being_run(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text("utf-8") + "raise SystemExit('this was run')\n", "utf-8")
    assert list(load_catalog(tmp_path)) == ["mine"]


def test_the_catalog_needs_neither_torch_nor_mmengine() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'mmengine', 'mmdet', 'mmcv', 'numpy', 'yaml'): sys.modules[name] = None\n"
        "from panbench.catalog import load_catalog\n"
        "print(len(load_catalog()))"
    )
    root = Path(catalog.__file__).parent.parent
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=True)
    assert answer.stdout.strip() == str(len(load_catalog()))


def test_an_installed_package_reads_its_own_configs_and_not_a_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_files_that_begin_with_an_underscore_are_no_models(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "_shared.py").write_text("x = 1\n")
    assert list(load_catalog(tmp_path)) == ["mine"]


def test_the_dict_may_be_written_as_mmdet_writes_dicts(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "panbench = dict(title='Mine', family='maskformer', backbone='R50', weights=None, published=dict(PQ=0.4,\n"
        "dataset='coco', split='val2017', source='x'), params=7, input_size='as is', trained_on='shapes')\n"
    )
    spec = load_catalog(tmp_path)["mine"]
    assert spec.published is not None
    assert (spec.title, spec.params, spec.published.PQ, spec.weights) == ("Mine", 7, 0.4, None)


def test_weights_beside_the_config_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert refusal(tmp_path) == f"{tmp_path / 'mine.py'}: `panbench` lacks {key}."


def test_an_unknown_key_is_answered_with_the_nearest(tmp_path: Path) -> None:
    write_config(tmp_path, parameters=3)
    assert "unknown key 'parameters'. Did you mean 'params'?" in refusal(tmp_path)
    write_config(tmp_path, published=ENTRY["published"] | {"pq": 0.5})  # type: ignore[operator]
    assert "`published` has an unknown key 'pq'" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"params": "44 M"}, "params is '44 M' but must be int or None"),
        ({"params": True}, "params is True but must be int or None"),
        ({"family": "segnet"}, "'segnet' but panbench knows panoptic-fpn, maskformer, mask2former, "),
        ({"published": {"PQ": 52.0, "dataset": "coco", "split": "x", "source": "y"}}, "Write 0.52 for 52.0 %"),
        ({"published": {"PQ": 0.52}}, "`published` lacks dataset, split and source"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    write_config(tmp_path, **changes)
    assert words in refusal(tmp_path)


def test_two_models_cannot_have_one_name(tmp_path: Path) -> None:
    write_config(tmp_path, "first", aliases=["best"])
    write_config(tmp_path, "second", aliases=["Best"])
    assert refusal(tmp_path).startswith(f"{tmp_path / 'second.py'}: 'Best' already names first.")


def test_a_config_that_names_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("_base_ = 'mmdet::x.py'\n")
    assert "has no `panbench` dict" in refusal(tmp_path)


def test_a_dict_that_would_have_to_be_run_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\npanbench = {'title': x}\n")
    assert "mine.py, line 2: `panbench` must be a dict of plain values" in refusal(tmp_path)


def test_a_syntax_error_is_shown_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("panbench = {}\npanbench = {\n")
    assert "line 2: '{' was never closed" in refusal(tmp_path)


def test_a_users_config_becomes_a_model_named_after_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("model = dict(type='MaskFormer')\n")
    monkeypatch.chdir(tmp_path)
    spec = spec_from_config("mine.py", "mine.pth")
    assert (spec.name, spec.title, spec.config) == ("mine", "mine", tmp_path / "mine.py")
    assert spec.weights == str(tmp_path / "mine.pth")
    assert (spec.family, spec.backbone, spec.params, spec.published, spec.trained_on) == (None,) * 5


def test_a_users_config_may_hold_what_only_mmengine_can_fill_in(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("classes = {{$CLASSES:80}}\npanbench = {'title': 'Mine'}\n")
    assert spec_from_config(path).title == "Mine"


def test_a_users_config_may_be_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {type: MaskFormer}\n")
    assert spec_from_config(path).name == "mine"


def test_a_users_config_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"no config file .*absent\.py"):
        spec_from_config(tmp_path / "absent.py")
    with pytest.raises(BadModel, match="no config file"):
        spec_from_config(tmp_path)
    (tmp_path / "weights.pth").touch()
    with pytest.raises(BadModel, match=r"not a config file: mmdet's are \.py"):
        spec_from_config(tmp_path / "weights.pth")
    (tmp_path / "binary.py").write_bytes(b"\xff\x00")
    with pytest.raises(BadModel, match="cannot be read as a config file"):
        spec_from_config(tmp_path / "binary.py")


def test_published_numbers_do_not_outlive_the_weights_that_they_are_of(tmp_path: Path) -> None:
    spec = find_model("mask2former-r50")
    own = with_weights(spec, tmp_path / "own.pth")
    assert (own.weights, own.published, own.trained_on) == (str(tmp_path / "own.pth"), None, None)
    assert spec.weights is not None
    downloaded = with_weights(spec, tmp_path / spec.weights.rsplit("/", 1)[1])
    assert downloaded.published == spec.published


def test_downloads_go_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("PANBENCH_CACHE", raising=False)
    assert cache_dir() == tmp_path / ".cache" / "panbench"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "panbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "panbench"
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    spec = find_model("mask2former-r50")
    assert weights_path(spec) == tmp_path / "mine/weights" / (
        "mask2former_r50_8xb2-lsj-50e_coco-panoptic_20230118_125535-54df384a.pth"
    )


def metafile_entries() -> dict[str, dict[str, object]]:
    """What the installed mmdet says of its panoptic models, by config file."""
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
                    entries[model["Config"].removeprefix("configs/")] = {
                        "weights": model["Weights"],
                        "PQ": result["Metrics"]["PQ"],
                    }
    return entries


def base_of(config: Path) -> str:
    for statement in ast.parse(config.read_text("utf-8")).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == "_base_":  # type: ignore[attr-defined]
            return str(ast.literal_eval(statement.value))
    raise AssertionError(f"{config} has no _base_")


def test_every_panoptic_model_of_mmdets_zoo_is_here_with_its_weights_and_its_pq() -> None:
    here = {}
    for name in ZOO:
        spec = load_catalog()[name]
        assert spec.published is not None
        here[base_of(spec.config).removeprefix("mmdet::")] = {
            "weights": spec.weights,
            "PQ": round(100 * spec.published.PQ, 1),
        }
        assert (spec.published.dataset, spec.published.split) == ("coco", "val2017")
    assert here == metafile_entries()


def test_a_folder_without_its_dot_is_answered_with_the_dot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    with pytest.raises(BadModel, match=r"is meant by --model \./mine\."):
        find_model("mine")


def test_a_repository_that_the_catalog_knows_has_its_data():
    assert find_model("hf:facebook/mask2former-swin-tiny-coco-panoptic").trained_on == "coco"
    assert find_model("hf:owner/name").trained_on is None


def test_a_repository_that_the_catalog_knows_has_its_labels_sizes_and_rule():
    known = find_model("mask2former-mapillary-l").settings
    spec = find_model("hf:facebook/mask2former-swin-large-mapillary-vistas-panoptic@v1")
    assert {"labels", "sizes", "rule"} < set(known)
    assert dict(spec.settings) == {**known, "revision": "v1"}


@pytest.mark.parametrize("name", OTHER_SETS)
def test_the_models_of_other_sets_say_where_everything_is_from(name: str) -> None:
    spec = find_model(name)
    assert spec.trained_on == name.split("-")[1] == spec.settings["labels"]
    assert spec.license
    assert spec.license_source
    if name != "oneformer-ade20k-t":
        assert spec.published is not None
        assert (spec.published.dataset, spec.published.split) == (spec.trained_on, "val")
        claims = [
            result.PQ
            for result in published_results()
            if (result.title, result.dataset) == (spec.system, spec.trained_on)
        ]
        assert claims == [spec.published.PQ]


def test_an_address_of_the_hub_and_a_folder_are_models(tmp_path, monkeypatch):
    from panbench.catalog import repository_of, with_things

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
    assert find_model("./mine").weights == str(folder / "model.safetensors")
    with pytest.raises(BadModel, match="There is no folder"):
        find_model("./other")
    (tmp_path / "things.txt").write_text("cat\n\n dog \n")
    assert with_things(spec, "things.txt").settings["things"] == ("cat", "dog")
    with pytest.raises(BadArgument, match="cannot be read"):
        with_things(spec, "nowhere.txt")
    with pytest.raises(BadArgument, match="says itself"):
        with_things(find_model("mask2former-tiny"), "things.txt")


def test_a_run_of_a_repository_names_its_model(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadModel, match="There is no model 'owner--name'"):
        find_model("owner--name")
    (tmp_path / "models--owner--name").mkdir(parents=True)
    assert find_model("owner--name").title == "owner/name"
