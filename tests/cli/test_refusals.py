"""Bad arguments are refused before PyTorch is loaded, by a process that cannot load it."""

import json
from pathlib import Path

from support import refusal, refused, refuses_without_torch

from panbench.base.errors import BadModel
from panbench.datasets import shapes
from panbench.models.unopened import DETECTORS, refuse_other_detector
from panbench.scoring.folder import score_folder

TINY = ("--model", "mask2former-tiny")
EOMT = {"model_type": "eomt", "architectures": ["EomtForUniversalSegmentation"]}


def test_unknown_names_are_refused_without_pytorch(tmp_path):
    refuses_without_torch(
        tmp_path,
        [
            (["eval", *TINY, "--device", "gpu"], "--device gpu is unknown"),
            (["bench", *TINY, "--device", "gpu"], "--device gpu is unknown"),
            (["eval", *TINY, "--precision", "float16"], "--precision float16 is unknown"),
            (["eval", *TINY, "--precision", "bf16+fast"], "as in bf16+compile"),
            (["bench", *TINY, "--precision", "fp32,half"], "--precision half is unknown"),
            (["eval", *TINY, "--rule", "paper,hf"], "There is no fusion rule 'hf'. Did you mean transformers?"),
            (["eval", *TINY, "--data", "coco"], "Mask2Former tiny and the dataset have different categories"),
            (
                ["eval", "--model", "facebook/mask2former-swin-base-coco-panoptic"],
                "--model mask2former-hf-swin-b or --model hf:facebook/mask2former-swin-base-coco-panoptic.",
            ),
            (["eval", "--model", "owner/name"], "is named --model hf:owner/name."),
            (["predict", "nophoto.jpg", *TINY], "There is no image nophoto.jpg"),
        ],
    )
    assert list(tmp_path.iterdir()) == []


def test_unfit_files_and_runs_are_refused_without_pytorch(tmp_path):
    gt = shapes.generate(tmp_path / "set", count=1, size=(64, 96))
    for name in ("a", "b"):
        score_folder(gt, gt, out=tmp_path / "runs" / name)
    (tmp_path / "list.json").write_text("[]")
    refuses_without_torch(
        tmp_path,
        [
            (["eval", "--model", "mask2fomer-tiny"], "Did you mean mask2former-tiny?"),
            (["eval", *TINY, "--gt", str(gt)], "--images and --gt go together"),
            (["eval", *TINY, "--gt", f"{gt},nowhere", "--images", "set/val"], "--gt FILE,DIR"),
            (["eval", *TINY, "--data", "set", "--images", "set/val"], "--data has no effect with --images"),
            (["score", "--gt", str(gt), "--semantic", "set/val"], "colour channels"),
            (["score", "--gt", str(gt), "--pred", "list.json"], "a list"),
            (["predict", "set/val"], "--model"),
            (["compare"], "RUN"),
            (["compare", "runs/a", "runs/absent"], "runs/absent"),
            (["compare", "runs/a", "runs/b", "--out", "table.xls"], ".xls"),
            (["gate", "runs/a", "--baseline", "runs/b", "--metrics", "pq@small"], "pq@small"),
            (["report", "runs/absent"], "runs/absent"),
            (["show", "plot", "histogram", "runs/a"], "histogram"),
            (["runs", "merge", "runs/a", "runs/b", "--out", "runs/c"], "image"),
            (["ensemble", "runs/a", "--out", "new"], "two"),
            (["benchmark", *TINY], "Did you mean `panbench bench`?"),
            (["train"], "panbench trains nothing"),
        ],
    )


def test_unfit_categories_and_networks_are_refused_without_pytorch(tmp_path):
    shapes.generate(tmp_path / "other", count=1, size=(64, 96))
    listing = tmp_path / "other" / "annotations" / "panoptic_val.json"
    listing.write_text(listing.read_text().replace('"ball"', '"balloon"'))
    (photo,) = (tmp_path / "other" / "val").iterdir()
    queries = "Panoptic FPN tiny has no queries, so no attention to show"
    refuses_without_torch(
        tmp_path,
        [
            (["eval", *TINY, "--data", "other"], "of which the dataset lacks ball; "),
            (["show", "attention", "--model", "panoptic-fpn-tiny", "--photo", str(photo)], queries),
        ],
    )
    assert not Path(tmp_path / "results").exists()


MASK_RCNN = """_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
"""


def test_bad_settings_in_model_files_are_refused_without_pytorch(tmp_path):
    shapes.generate(tmp_path / "set", count=1, size=(64, 96))
    for folder, settings in (
        ("bare", EOMT),
        ("cats", EOMT | {"id2label": {"0": "cat", "1": "N/A"}}),
        ("words", {"model_type": "bert"}),
    ):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(json.dumps(settings))
    (tmp_path / "cats" / "model.safetensors").touch()
    (tmp_path / "instances.py").write_text(MASK_RCNN)
    (photo,) = (tmp_path / "set" / "val").iterdir()
    no_weights = "bare has no weights: neither model.safetensors nor"
    refuses_without_torch(
        tmp_path,
        [
            (["eval", "--model", "./bare", "--data", "set"], no_weights),
            (["predict", str(photo), "--model", "./bare"], no_weights),
            (["eval", "--model", "./cats", "--data", "set"], "1 in the model, of which the dataset lacks cat; "),
            (["eval", "--model", "./words", "--data", "set"], "words is a bert, which has no masks"),
            (["eval", "--config", "instances.py", "--data", "set"], "a model of type MaskRCNN cannot be run"),
            (["bench", "--config", "instances.py"], "a model of type MaskRCNN cannot be run"),
        ],
    )
    assert not Path(tmp_path / "results").exists()


def test_a_config_that_must_be_run_is_not_refused_unread(tmp_path):
    base = tmp_path / "base.py"
    base.write_text(MASK_RCNN)
    assert "type MaskRCNN cannot be run" in refusal(BadModel, refuse_other_detector, base)
    for name, text in (
        ("own_class", 'custom_imports = dict(imports=["mine"])\n' + MASK_RCNN),
        ("computed", "_base_ = './base.py'\nmodel = dict(type='Mine')\n"),
        ("panoptic", "_base_ = './base.py'\nmodel = dict(_delete_=True, type='Mask2Former')\n"),
        ("no_base", "_base_ = './absent.py'\n"),
        ("formula", "_base_ = 'mmdet::' + 'mask_rcnn/x.py'\n"),
        ("circle", "_base_ = './circle.py'\n"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        refuse_other_detector(tmp_path / f"{name}.py")


def test_detectors_known_without_running_configs_are_those_that_run():
    from panbench.models.mmdet.families import FAMILIES

    assert {family.detector for family in FAMILIES} == set(DETECTORS)


def test_a_folder_of_images_that_does_not_exist_is_named(tmp_path):
    gt = shapes.generate(tmp_path / "set", count=1, size=(64, 96))
    for images, message in (
        ("nowhere", "There is no folder nowhere of images."),
        (str(gt), "is not a folder of images."),
    ):
        assert message in refused("eval", *TINY, "--images", images, "--gt", gt, cwd=tmp_path)


def test_predictions_instead_of_a_run_suggest_score(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    for line in (["gate", "a.json", "--baseline", "b"], ["compare", "a.json"], ["errors", "a.json"]):
        assert "`panbench score --gt FILE.json --pred a.json --out DIR` makes a run of predictions." in refused(
            *line, cwd=tmp_path
        )


def test_a_folder_after_hf_needs_no_hf_prefix(tmp_path):
    (tmp_path / "mine").mkdir()
    for address, folder in (
        ("hf:./mine", "./mine"),
        ("hf:./none", "./none"),
        ("hf:mine", "./mine"),
        ("hf:/none", "/none"),
    ):
        assert f"a folder needs no prefix. Write --model {folder}." in refused(
            "eval", "--model", address, "--data", "shapes:64x96", cwd=tmp_path
        )
