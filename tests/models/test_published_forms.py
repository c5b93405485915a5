"""Weights in the forms in which their authors publish them: each loads into its family, whole."""

import argparse
import dataclasses
import hashlib
import json
import re
import subprocess
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from panbench.base import hub
from panbench.base.errors import BadCheckpoint, BadModel
from panbench.catalog import ModelSpec, find_model
from panbench.models.checkpoints import load_checkpoint
from panbench.models.host import HostedModel
from panbench.models.mask_dino import network as mask_dino
from panbench.models.opening import import_named, open_model
from panbench.models.panoptic_segformer import network as segformer
from panbench.models.transformers.adapter import TransformersAdapter
from scripts.make.tiny_networks import SPECS
from tests.models.recorded import recorded, state_of
from tests.support import Recorder

State = dict[str, Tensor]


def network_of(spec: ModelSpec) -> nn.Module:
    """A network of a model's family with random weights, and statistics that no other has."""
    torch.manual_seed(7)
    module: nn.Module = import_named(spec.adapter, spec)(spec).build()
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return module


def opened(spec: ModelSpec, path: Path, **options: Any) -> HostedModel:
    model = open_model(spec, weights=str(path), device="cpu", speedups=False, **options)
    assert isinstance(model, HostedModel)
    return model


def assert_whole(model: HostedModel, expected: nn.Module) -> None:
    found = model.module.state_dict()
    for name, value in expected.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(found[name], value), name


def under_upstreams_names(
    module: nn.Module, names: list[str], rename: Callable[[State], Mapping[str, Tensor]]
) -> State:
    """A network's head under the names that the authors' code gave to a recorded one of the same layers."""
    ours = module.state_dict()
    found: State = {}
    for name in names:
        stand_in = torch.zeros(1)
        renamed = [new for new, value in rename({name: stand_in}).items() if value is stand_in]
        found[name] = ours[renamed[0]] if renamed else torch.zeros(1)
    shared = [name for name in names if "bbox_embed." in name and "._bbox_embed." not in name]
    for name in shared:
        found[name] = found[re.sub(r"(decoder\.)?bbox_embed\.\d+\.", "_bbox_embed.", name)]
    for name in [name for name in names if ".decoder.norm." in name]:
        found[name] = found[name.replace("decoder.norm.", "decoder_norm.")]
    return found


def detectron2_names(name: str) -> str:
    """A parameter of mmdet's ResNet as detectron2 names it."""
    name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
    name = re.sub(r"^layer(\d)\.", lambda found: f"res{int(found[1]) + 1}.", name)
    name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
    return name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")


def mask_dino_of_its_authors() -> tuple[ModelSpec, nn.Module, State]:
    layout: dict[str, Any] = {
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [0, 1, 2, 3]},
        "channels": [8, 16, 32, 64],
        "feedforward": 128,
        "decoder_feedforward": 128,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "queries": 30,
    }
    spec = dataclasses.replace(find_model("mask-dino"), settings=layout)
    module = network_of(spec)
    names = list(state_of(recorded("mask_dino"), "sem_seg_head."))
    state = under_upstreams_names(module, names, lambda state: mask_dino.rename(state, mask_dino.Layout(**layout)))
    backbone = {name: value for name, value in module.state_dict().items() if name.startswith("backbone.")}
    state |= {
        f"backbone.{detectron2_names(name.removeprefix('backbone.'))}": value
        for name, value in backbone.items()
        if not name.endswith("num_batches_tracked")
    }
    return spec, module, state | {"criterion.empty_weight": torch.ones(134)}


def segformer_of_its_authors() -> tuple[ModelSpec, nn.Module, State]:
    spec = SPECS["panoptic-segformer-untrained"]
    module = network_of(spec)
    layout = segformer.Layout(**spec.settings)
    names = list(state_of(recorded("panoptic_segformer")))
    state = under_upstreams_names(module, names, lambda state: segformer.rename(state, layout))
    return spec, module, state | {k: v for k, v in module.state_dict().items() if k.startswith("backbone.")}


OPTIMIZER = {
    "state": {0: {"step": 3, "momentum_buffer": torch.zeros(2)}},
    "param_groups": [{"lr": 1e-4, "params": [0]}],
}


def by_mmcv(state: State, path: Path) -> None:
    """As mmcv 1.x does."""
    meta = {"epoch": 24, "iter": 354672, "mmdet_version": "2.12.0", "env_info": "Python: 3.7", "CLASSES": ("a", "b")}
    torch.save({"meta": meta, "state_dict": OrderedDict(state), "optimizer": OPTIMIZER}, path)


def by_mmengine(state: State, path: Path) -> None:
    meta = {"epoch": 12, "dataset_meta": {"classes": None}, "mmengine_version": "0.10.7", "best": np.float64(0.5)}
    content = {"meta": meta, "state_dict": state, "message_hub": {"log": np.float32(1)}, "optimizer": OPTIMIZER}
    # With a hook that averages weights, the average is the state_dict, and the last weights are beside it.
    content["ema_state_dict"] = {"steps": torch.tensor(9), **{f"module.{name}": 0 * v for name, v in state.items()}}
    save_checkpoint(content, str(path))


def by_detectron2(state: State, path: Path) -> None:
    scheduler = {"base_lrs": [1e-4], "last_epoch": 368750}
    trainer = {"iteration": 368749, "hooks": {}, "_trainer": {"iteration": 368749, "optimizer": OPTIMIZER}}
    content = {"model": state, "optimizer": OPTIMIZER, "scheduler": scheduler, "trainer": trainer, "iteration": 368749}
    torch.save(content, path)


def by_a_script(state: State, path: Path) -> None:
    """As the authors of DETR save theirs, with the arguments of the command line."""
    torch.save({"model": state, "optimizer": OPTIMIZER, "epoch": 24, "args": argparse.Namespace(lr=1e-4)}, path)


def by_deepspeed(state: State, path: Path) -> None:
    content = {
        "module": state,
        "buffer_names": ["a"],
        "optimizer": OPTIMIZER,
        "ds_version": "0.14.0",
        "dp_world_size": 8,
    }
    torch.save(content, path)


def in_parallel(state: State, path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in state.items()}, path)


@pytest.mark.parametrize("name", ["panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny"])
def test_weights_of_mmdets_zoo_load(name: str, tmp_path: Path) -> None:
    spec = find_model(name)
    module = network_of(spec)
    by_mmengine(module.state_dict(), tmp_path / "epoch_12.pth")
    assert_whole(opened(spec, tmp_path / "epoch_12.pth"), module)


@pytest.mark.parametrize("write", [by_detectron2, by_a_script, by_deepspeed, in_parallel])
def test_weights_of_mask_dinos_authors_load(write: Callable[[State, Path], None], tmp_path: Path) -> None:
    spec, module, state = mask_dino_of_its_authors()
    write(state, tmp_path / "w.pth")
    assert_whole(opened(spec, tmp_path / "w.pth"), module)


@pytest.mark.parametrize("write", [by_mmcv, in_parallel])
def test_weights_of_panoptic_segformers_authors_load(write: Callable[[State, Path], None], tmp_path: Path) -> None:
    spec, module, state = segformer_of_its_authors()
    write(state, tmp_path / "w.pth")
    assert_whole(opened(spec, tmp_path / "w.pth"), module)


def of_the_hub(kind: str, folder: Path) -> tuple[Path, nn.Module]:
    """A folder with the config.json of a family of transformers, and its network."""
    spec = SPECS[f"{kind}-of-transformers"]
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(spec.settings["network"]))
    return folder, network_of(spec)


def in_shards(state: State, folder: Path, count: int = 3) -> list[str]:
    """Writes the weights as save_pretrained does when they are larger than max_shard_size; the names of the files."""
    names = list(state)
    files = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    of = {name: files[place * count // len(names)] for place, name in enumerate(names)}
    for file in files:
        save_file({name: state[name].contiguous() for name in names if of[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


KINDS = ["mask2former", "maskformer", "oneformer", "eomt", "detr"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["safetensors", "shards", "bin", "bin of a wrapped network"])
def test_weights_of_the_hub_load(kind: str, form: str, tmp_path: Path) -> None:
    folder, module = of_the_hub(kind, tmp_path / "saved")
    state = {name: value.clone().contiguous() for name, value in module.state_dict().items()}
    if form == "safetensors":
        save_file(state, folder / "model.safetensors")
    elif form == "shards":
        in_shards(state, folder)
    else:
        prefix = "module." if "wrapped" in form else ""
        torch.save({prefix + name: value for name, value in state.items()}, folder / "pytorch_model.bin")
    model = open_model(find_model(str(folder)), device="cpu", speedups=False)
    assert isinstance(model, HostedModel)
    assert_whole(model, module)


def test_the_hash_of_weights_in_shards_changes_with_each_of_them(tmp_path: Path) -> None:
    files = in_shards({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}, tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    before = load_checkpoint(index)
    assert set(before.state_dict) == {"a", "b", "c"}
    listed = subprocess.run(["sha256sum", *files], cwd=tmp_path, capture_output=True, check=True).stdout
    assert before.sha256 == hashlib.sha256(listed).hexdigest()
    save_file({"c": torch.ones(2)}, tmp_path / files[-1])
    assert load_checkpoint(index).sha256 != before.sha256


def test_a_missing_shard_is_named_and_the_folder_has_no_weights(tmp_path: Path) -> None:
    files = in_shards({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}, tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    assert hub.weights_in(tmp_path) == index
    (tmp_path / files[1]).unlink()
    with pytest.raises(BadCheckpoint, match=rf"among 3 files, of which 1 are not beside it \({files[1]}\)"):
        load_checkpoint(index)


@pytest.mark.parametrize("weight_map", [{}, {"a": "../elsewhere.safetensors"}, ["a"], {"a": 3}])
def test_an_index_that_names_no_files_beside_it_is_refused(weight_map: Any, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadCheckpoint, match="is not an index of weights"):
        load_checkpoint(index)


def test_a_parameter_in_two_shards_is_refused(tmp_path: Path) -> None:
    files = in_shards({"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(2)}, tmp_path)
    save_file({"c": torch.zeros(2), "a": torch.ones(2)}, tmp_path / files[-1])
    with pytest.raises(BadCheckpoint, match=r"repeats parameters .*\(a\)"):
        load_checkpoint(tmp_path / "model.safetensors.index.json")


def test_averaged_weights_alone_load_and_are_named(tmp_path: Path) -> None:
    spec = find_model("mask2former-tiny")
    module = network_of(spec)
    averaged = {"steps": torch.tensor(9), **{f"module.{name}": v for name, v in module.state_dict().items()}}
    torch.save({"ema_state_dict": averaged}, tmp_path / "w.pth")
    noted = Recorder()
    assert_whole(opened(spec, tmp_path / "w.pth", reporter=noted), module)
    assert any("'ema_state_dict' alone" in sentence for sentence in noted.notices)


def test_a_checkpoint_without_weights_names_the_part_that_should_hold_them(tmp_path: Path) -> None:
    torch.save({"model": {"epoch": 3}, "iteration": 1}, tmp_path / "w.pth")
    with pytest.raises(BadCheckpoint, match=r"no state_dict in its 'model': epoch is no tensor"):
        load_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize("stated", ["{folder}/epoch_3.pth", "epoch_3.pth", "/home/somebody/work_dirs/x/epoch_3.pth"])
def test_the_last_checkpoint_of_a_work_folder_is_followed(stated: str, tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(1)}}, tmp_path / "epoch_3.pth")
    (tmp_path / "last_checkpoint").write_text(stated.format(folder=tmp_path) + "\n")
    for given in (tmp_path, tmp_path / "last_checkpoint"):
        assert load_checkpoint(given).path == tmp_path / "epoch_3.pth"


@pytest.mark.parametrize(
    ("text", "words"), [("epoch_9.pth", r"names 'epoch_9\.pth', which is not there"), ("", "no file")]
)
def test_a_last_checkpoint_that_leads_nowhere_says_so(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text(text)
    with pytest.raises(BadCheckpoint, match=words):
        load_checkpoint(tmp_path)


def test_detr_r101_has_cocos_names_though_its_config_names_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unnamed = {str(label): f"LABEL_{label}" for label in range(250)}
    network = {**SPECS["detr-of-transformers"].settings["network"], "id2label": unnamed}
    (tmp_path / "config.json").write_text(json.dumps(network))
    monkeypatch.setattr(hub, "here", lambda repository, weights=True: tmp_path)
    for name in ("detr-r101", "hf:facebook/detr-resnet-101-panoptic"):
        adapter = TransformersAdapter(find_model(name))
        assert (len(adapter.class_names), sum(adapter.isthing)) == (133, 80)
        assert (adapter.class_names[0], adapter.class_names[-1]) == ("person", "rug-merged")
    with pytest.raises(BadModel, match="names none of its 250 labels"):
        TransformersAdapter(find_model("hf:somebody/detr"))
