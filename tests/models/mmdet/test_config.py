import copy
import dataclasses
import sys
import threading
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.config import config as mmengine_config
from mmengine.registry import DefaultScope
from support import refusal
from torch import nn

from panbench.base import provenance
from panbench.base.errors import BadModel
from panbench.catalog import MMDET, ModelSpec, load_catalog
from panbench.models.host import count_parameters
from panbench.models.mmdet.config import build_model, config_text, describe_backbone, family_of, load_config
from scripts.check import count_parameters as script

CATALOG = {name: spec for name, spec in load_catalog().items() if spec.adapter == MMDET}

ZOOS = "mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py"


def refused(path: Path, text: str) -> str:
    path.write_text(text, "utf-8")
    return refusal(BadModel, load_config, path)


def test_the_text_of_a_config_changes_with_its_settings_alone(tmp_path: Path) -> None:
    first, again, other = (load_config(CATALOG[name]) for name in ("mask2former-tiny",) * 2 + ("maskformer-tiny",))
    assert config_text(first) == config_text(again) != config_text(other)
    again.model.num_queries = 7
    assert config_text(first) != config_text(again)
    (tmp_path / "mine.py").write_text(
        "from mmdet.models.detectors import Mask2Former\nmodel = dict(type=Mask2Former)\n"
    )
    assert "Mask2Former" in config_text(load_config(tmp_path / "mine.py"))


@pytest.mark.parametrize("spec", CATALOG.values(), ids=CATALOG.keys())
def test_every_config_has_a_title_and_a_number_of_parameters(spec: ModelSpec) -> None:
    config = load_config(spec)
    model = build_model(config, "meta")
    assert describe_backbone(config) == spec.backbone
    assert family_of(model).name == spec.family
    assert count_parameters(model) == spec.params


@pytest.mark.parametrize("spec", CATALOG.values(), ids=CATALOG.keys())
def test_every_config_has_an_image_size(spec: ModelSpec) -> None:
    pipeline = load_config(spec).test_dataloader.dataset.pipeline
    (resize,) = [step for step in pipeline if step.type == "Resize"]
    as_told = "as is" if resize.get("scale_factor") == 1.0 else f"{min(resize.scale)}×{max(resize.scale)}"
    assert spec.input_size == as_told


def test_the_script_counts_parameters_and_reports_wrong_configs(monkeypatch, capsys) -> None:
    right = CATALOG["maskformer-r50"]
    monkeypatch.setattr(script, "load_catalog", lambda: {right.name: right})
    assert script.main(["--check"]) == 0
    assert capsys.readouterr().out == "maskformer-r50               45,065,158\n"
    monkeypatch.setattr(script, "load_catalog", lambda: {right.name: dataclasses.replace(right, params=5)})
    assert script.main(["--check"]) == 1
    assert capsys.readouterr().out == "maskformer-r50               45,065,158  but configs/maskformer-r50.py says 5\n"
    assert script.main([]) == 0


def test_parameters_are_counted_in_every_family(monkeypatch, capsys) -> None:
    chosen = {name: load_catalog()[name] for name in ("psf-r50-1x", "mask-dino-r50", "eomt-tiny", "detr-r50")}
    monkeypatch.setattr(script, "load_catalog", lambda: chosen)
    assert script.main(["--check"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["psf-r50-1x", "mask-dino-r50", "eomt-tiny", "detr-r50"]


def test_configs_load_where_setuptools_has_no_pkg_resources(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    if "mmengine" in provenance.versions():  # its fork no longer asks for pkg_resources
        with pytest.raises(ImportError):
            Config.fromfile(CATALOG["mask2former-r50"].config)
    assert load_config(CATALOG["mask2former-r50"]).model.type == "Mask2Former"


def test_mmengine_is_not_modified(tmp_path: Path) -> None:
    before = (Config._get_cfg_path, mmengine_config.get_installed_path)
    load_config(CATALOG["mask2former-r50"])
    refused(tmp_path / "mine.py", "_base_ = 'mmdet::absent.py'")
    assert (Config._get_cfg_path, mmengine_config.get_installed_path) == before


def test_configs_load_in_several_threads_at_once(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    before = Config._get_cfg_path
    failures = []

    def load() -> None:
        try:
            for name in ("maskformer-r50", "panoptic-fpn-r50-1x"):
                load_config(CATALOG[name])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert Config._get_cfg_path == before


def test_a_base_config_in_a_checkout_is_found_next_to_its_package(tmp_path: Path, monkeypatch) -> None:
    for file, text in {
        "checkout/__init__.py": "",
        "configs/folder/base.py": "model = dict(type='MaskFormer')",
        "mine.py": "_base_ = 'checkout::folder/base.py'\nmodel = dict(neck=None)",
    }.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    model = load_config(tmp_path / "mine.py").model
    assert (model.type, model.neck) == ("MaskFormer", None)


def test_a_users_yaml_config_loads(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"_base_: {ZOOS}\nmodel: {{test_cfg: {{iou_thr: 0.7}}}}\n")
    assert load_config(path).model.test_cfg.iou_thr == 0.7


def test_a_users_class_has_the_family_of_its_base_class(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"_base_ = '{ZOOS}'\nmodel = dict(type='MineInTest')")
    load_config(CATALOG["maskformer-r50"])
    from mmdet.models.detectors import MaskFormer
    from mmdet.registry import MODELS

    MODELS.register_module(name="MineInTest", module=type("MineInTest", (MaskFormer,), {}))
    try:
        assert family_of(build_model(load_config(tmp_path / "mine.py"), "meta")).name == "maskformer"
    finally:
        MODELS.module_dict.pop("MineInTest")


def test_a_config_in_mmengines_import_style_loads(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "pkg_resources", None)
    (tmp_path / "in_import_style").mkdir()
    (tmp_path / "in_import_style" / "__init__.py").touch()
    (tmp_path / "in_import_style" / "base.py").write_text(
        "from mmdet.models.detectors import Mask2Former\nmodel = dict(type=Mask2Former, neck=1)\n"
    )
    (tmp_path / "mine.py").write_text(
        "from mmengine.config import read_base\n"
        "with read_base():\n"
        "    from in_import_style.base import *\n"
        "model.update(neck=None)\n"
    )
    config = load_config(tmp_path / "mine.py")
    assert config.model.type.__name__ == "Mask2Former"
    assert config.model.neck is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "has no `model` with a `type`"),
        ("model = dict(backbone=1)", "has no `model` with a `type`"),
        (
            "_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'",
            "a model of type MaskRCNN cannot be run; panbench runs PanopticFPN, MaskFormer and Mask2Former",
        ),
        ("model = dict(type='Mask2Fromer')", "a model of type Mask2Fromer cannot be run"),
        ("_base_ = './absent.py'", "absent.py"),
        ("_base_ = 'mmdet::absent/absent.py'", "mmdet has no config absent/absent.py"),
        ("_base_ = 'mmabsent::x/y.py'", "package 'mmabsent', which is not installed"),
        ("model = 1\nmodel = undefined", "line 2, cannot be read as an mmdet config (NameError: name 'undefined'"),
        ("model = dict(", "line 1: '(' was never closed"),
    ],
)
def test_an_unusable_config_is_refused_with_the_reason(tmp_path: Path, text: str, words: str) -> None:
    message = refused(tmp_path / "mine.py", text)
    assert words in message
    assert message.startswith(str(tmp_path / "mine.py"))


def test_a_missing_config_and_an_unbuildable_model_are_refused_with_the_reason(tmp_path: Path) -> None:
    changed = "model = dict(backbone=dict(_delete_=True, type='ResNot'))"
    (tmp_path / "mine.py").write_text(f"_base_ = '{ZOOS}'\n{changed}")
    with pytest.raises(BadModel, match=r"no config file .*absent\.py"):
        load_config(tmp_path / "absent.py")
    with pytest.raises(BadModel, match=r"mine\.py: mmdet cannot build this model \(KeyError: .*ResNot"):
        build_model(load_config(tmp_path / "mine.py"))


def test_building_a_model_downloads_nothing(monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pretrained backbone was asked for")

    monkeypatch.setattr("mmengine.runner.checkpoint._load_checkpoint", refuse)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    config = load_config(CATALOG["mask2former-tiny"])
    config.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "torchvision://resnet18"}
    config.model.test_cfg.instance_on = True
    given = copy.deepcopy(config.model)
    model = build_model(config)
    assert not any(module.training for module in model.modules())
    assert model.test_cfg.instance_on is False
    assert model.panoptic_fusion_head.test_cfg.instance_on is False
    assert config.model == given
    model.init_weights()


def test_a_model_built_on_meta_has_no_parameters_in_memory() -> None:
    model = build_model(load_config(CATALOG["mask2former-swin-t"]), "meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_building_leaves_no_default_scope_or_device_behind() -> None:
    before = list(DefaultScope._instance_dict)
    build_model(load_config(CATALOG["maskformer-tiny"]), "meta")
    assert list(DefaultScope._instance_dict) == before
    assert torch.zeros(1).device.type == "cpu"


def test_a_model_of_an_unknown_kind_has_no_family() -> None:
    with pytest.raises(BadModel, match="A Linear is none of panoptic-fpn, maskformer, mask2former"):
        family_of(nn.Linear(1, 1))
