"""Weights in the forms in which their authors publish them: each loads into its family, whole."""

import argparse
import dataclasses
import datetime
import hashlib
import json
import pathlib
import pickle
import re
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file
from torch import Tensor, nn

from panbench.base import hub
from panbench.base.errors import BadCheckpoint, BadModel
from panbench.catalog import ModelSpec, find_model
from panbench.models import mask_dino
from panbench.models import panoptic_segformer as segformer
from panbench.models.checkpoints import load_checkpoint
from panbench.models.host import HostedModel
from panbench.models.model import Model
from panbench.models.opening import import_named, open_model
from panbench.models.transformers.adapter import TransformersAdapter
from scripts.make.tiny_networks import SPECS
from tests.models.recorded import MASK_DINO, recorded, state_of
from tests.support import Recorder

State = dict[str, Tensor]
ROOT = Path(__file__).parents[2]


def network_of(spec: ModelSpec) -> nn.Module:
    """A network of a model's family with random weights, and statistics that no other has."""
    torch.manual_seed(7)
    module: nn.Module = import_named(spec.adapter, spec)(spec).build()
    for name, buffer in module.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return module


def opened(spec: ModelSpec, path: Path, **options: Any) -> Model:
    return open_model(spec, weights=str(path), device="cpu", speedups=False, **options)


def assert_whole(model: Model, expected: nn.Module) -> None:
    assert isinstance(model, HostedModel)
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
    layout = {**MASK_DINO._asdict(), "channels": (8, 16, 32, 64)}
    spec = dataclasses.replace(find_model("mask-dino"), settings=layout)
    module = network_of(spec)
    names = list(state_of(recorded("mask_dino"), "sem_seg_head."))
    state = under_upstreams_names(
        module, names, lambda state: mask_dino.rename(state, mask_dino.NetworkLayout(**layout))
    )
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
    layout = segformer.NetworkLayout(**spec.settings)
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
    beside = {"buffer_names": ["a"], "optimizer": OPTIMIZER, "ds_version": "0.14.0", "dp_world_size": 8}
    torch.save({"module": state, **beside}, path)


def in_parallel(state: State, path: Path) -> None:
    torch.save({f"module.{name}": value for name, value in state.items()}, path)


BESIDE = {
    "date": datetime.datetime(2026, 11, 24, tzinfo=datetime.timezone.utc),
    "took": datetime.timedelta(hours=3),
    "folder": pathlib.PurePosixPath("/home/a/work_dirs"),
    "out": Path("results"),
    "log": defaultdict(list, {"loss": [0.5]}),
}
"""Values beside the weights that are no data to torch."""


def prefixed(prefix: str, **beside: Any) -> Callable[[State, Path], None]:
    """Writes a `state_dict` whose names begin with a prefix."""

    def write(state: State, path: Path) -> None:
        wrapped = {prefix + name: value for name, value in state.items()}
        torch.save({"state_dict": {**wrapped, **beside}, "epoch": 3, "pytorch-lightning_version": "2.5.0"}, path)

    return write


def under(key: str, average: str | None = None) -> Callable[[State, Path], None]:
    """Writes the weights under a key, with an average of zeros under another."""

    def write(state: State, path: Path) -> None:
        averages = {} if average is None else {average: {name: 0 * value for name, value in state.items()}}
        torch.save({key: state, "epoch": 3, **averages}, path)

    return write


def by_fsdp(state: State, path: Path) -> None:
    """As a state dict of fully sharded data parallel, each layer wrapped; torch.compile and checkpointing likewise."""
    words = ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module.")
    names = {name: name.split(".", 1) for name in state}
    wrapped = {f"{words[0]}{first}.{words[1]}{words[2]}{rest}": state[name] for name, (first, rest) in names.items()}
    torch.save(wrapped, path)


def as_arrays(state: State, path: Path) -> None:
    arrays = {name: value.numpy() for name, value in state.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "a test", **BESIDE}))


def in_a_work_folder(state: State, path: Path) -> None:
    by_mmengine(state, path.with_name("epoch_12.pth"))
    path.write_text("epoch_12.pth")


def joined(state: State, path: Path) -> None:
    """As `dcp_to_torch` joins a checkpoint in parts."""
    dcp.save({"model": state, "epoch": 3}, checkpoint_id=path.with_suffix(""))
    line = [sys.executable, "-m", "torch.distributed.checkpoint.format_utils", "dcp_to_torch"]
    subprocess.run([*line, str(path.with_suffix("")), str(path)], check=True, capture_output=True)


def with_values(state: State, path: Path) -> None:
    torch.save({"model": state, **BESIDE}, path)


UNDER = "`model_state_dict`, `net` or `weights`"
AVERAGE = "an average alone: `ema_state_dict`, `model_ema`"
PREFIXED = "names that begin with `model.`, `network.`, `net.`"
WRAPPED = "names with `module.`, `_orig_mod.`, `_fsdp_wrapped_module.`"
SHARDS = "model.safetensors.index.json"

LOADED: list[tuple[str, str, Callable[[State, Path], object], str | None, str]] = [
    # The form as docs/models.md has it, the file's name, what writes it, the key that is read, words of the notice.
    ("`state_dict` and `meta`", "w.pth", by_mmengine, "state_dict", ""),
    ("`state_dict` and `meta`", "w.pth", by_mmcv, "state_dict", ""),
    ("`model` with other keys", "w.pth", by_detectron2, "model", ""),
    ("`model` with other keys", "w.pth", by_a_script, "model", ""),
    ("`module`", "w.pt", by_deepspeed, "module", ""),
    ("a state dict alone", "w.pth", torch.save, None, ""),
    *[(UNDER, "w.pt", under(key), key, "") for key in ("model_state_dict", "net", "weights")],
    *[(AVERAGE, "w.pt", under(key), key, "an average") for key in ("ema_state_dict", "model_ema")],
    ("weights and their average", "w.pth", under("model", "model_ema"), "model", "not their average under"),
    ("weights and their average", "w.pth", under("net", "ema"), "net", "not their average under 'ema'"),
    (PREFIXED, "w.ckpt", prefixed("model."), "state_dict", ""),
    (PREFIXED, "w.ckpt", prefixed("network.", **{"criterion.weight": torch.ones(3)}), "state_dict", ""),
    (WRAPPED, "w.pt", in_parallel, None, ""),
    (WRAPPED, "w.pt", by_fsdp, None, ""),
    ("dates, paths and a defaultdict with the weights", "w.pt", with_values, "model", ""),
    ("`.safetensors`", "w.safetensors", save_file, None, ""),
    (f"`{SHARDS}` and its shards", SHARDS, lambda state, path: in_shards(state, path.parent), None, ""),
    ("`last_checkpoint`, or its folder", "last_checkpoint", in_a_work_folder, "state_dict", ""),
    ("`.pkl` of NumPy arrays", "w.pkl", as_arrays, "model", ""),
    ("what `dcp_to_torch` joins", "w.pth", joined, "model", ""),
]


@pytest.mark.parametrize(("form", "file", "write", "part", "notice"), LOADED)
def test_weights_load_in_every_published_form(
    form: str, file: str, write, part: str | None, notice: str, tmp_path: Path
):
    assert f"| {form} |" in (ROOT / "docs" / "models.md").read_text(), "the table has no such row"
    spec = find_model("maskformer-tiny")
    module = network_of(spec)
    write({name: value.clone() for name, value in module.state_dict().items()}, tmp_path / file)
    noted = Recorder()
    model = opened(spec, tmp_path / file, reporter=noted)
    assert_whole(model, module)
    assert model.checkpoint is not None
    assert (model.checkpoint.part, model.checkpoint.notice is None) == (part, not notice)
    assert not notice or any(notice in message for message in noted.notices)


def in_parts(state: State, folder: Path) -> None:
    dcp.save({"model": state}, checkpoint_id=folder)


def by_lightly_train(state: State, path: Path) -> None:
    about = {"model_class_path": "lightly_train._task_models.x.X", "model_init_args": {}}
    torch.save({**about, "train_model": state}, path)


PARTS = "a folder with `.metadata` and `.distcp` files (DCP)"
JOIN = r"format_utils dcp_to_torch \S+/given weights\.pth` and give weights\.pth\. That command runs"
REFUSED: list[tuple[str, Callable[[State, Path], None], str, str]] = [
    (PARTS, in_parts, "", JOIN),
    (PARTS, in_parts, "__0_0.distcp", r"/given is a checkpoint in parts of torch\.distributed \(DCP\)"),
    ("LightlyTrain's `.pt`", by_lightly_train, "", r"is LightlyTrain's.*calls lightly_train\.load_model"),
]


@pytest.mark.parametrize(("form", "write", "file", "words"), REFUSED)
def test_other_forms_are_refused_with_what_to_do(form: str, write, file: str, words: str, tmp_path: Path) -> None:
    assert f"| {form} |" in (ROOT / "docs" / "models.md").read_text(), "the table has no such row"
    write({"a.weight": torch.zeros(3)}, tmp_path / "given")
    with pytest.raises(BadCheckpoint, match=words):
        load_checkpoint(tmp_path / "given" / file)


def test_every_row_of_the_table_of_forms_is_tested() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    rows = text[text.index("| form |") :].split("\n\n")[0].splitlines()[2:]
    tried = {row[0] for row in (*LOADED, *REFUSED)} | {"EoMT's `.ckpt`"}
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows if row.split(" | ")[0][2:] not in tried] == []


def test_values_next_to_the_weights_are_not_constructed(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}, "meta": dict(BESIDE)}, tmp_path / "w.pth")
    noted = load_checkpoint(tmp_path / "w.pth").meta
    assert noted == {"date": None, "took": None, "folder": None, "out": None, "log": {"loss": [0.5]}}


@pytest.mark.parametrize("name", ["panoptic-fpn-tiny", "mask2former-tiny"])
def test_weights_of_mmdets_zoo_load(name: str, tmp_path: Path) -> None:
    spec = find_model(name)
    module = network_of(spec)
    by_mmengine(module.state_dict(), tmp_path / "epoch_12.pth")
    assert_whole(opened(spec, tmp_path / "epoch_12.pth"), module)


@pytest.mark.parametrize(
    ("authors", "write"),
    [(mask_dino_of_its_authors, write) for write in (by_detectron2, by_a_script, by_deepspeed, in_parallel)]
    + [(segformer_of_its_authors, write) for write in (by_mmcv, in_parallel)],
)
def test_weights_of_mask_dinos_and_panoptic_segformers_authors_load(authors, write, tmp_path: Path) -> None:
    spec, module, state = authors()
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
    assert_whole(open_model(find_model(str(folder)), device="cpu", speedups=False), module)


def test_the_hash_of_weights_in_shards_changes_with_each_of_them(tmp_path: Path) -> None:
    files = in_shards({name: torch.zeros(2) for name in "abc"}, tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    before = load_checkpoint(index)
    assert set(before.state_dict) == {"a", "b", "c"}
    listed = subprocess.run(["sha256sum", *files], cwd=tmp_path, capture_output=True, check=True).stdout
    assert before.sha256 == hashlib.sha256(listed).hexdigest()
    save_file({"c": torch.ones(2)}, tmp_path / files[-1])
    assert load_checkpoint(index).sha256 != before.sha256


def test_a_missing_shard_is_named_and_a_parameter_in_two_is_refused(tmp_path: Path) -> None:
    files = in_shards({name: torch.zeros(2) for name in "abc"}, tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    assert hub.find_weights(tmp_path) == index
    save_file({"c": torch.zeros(2), "a": torch.ones(2)}, tmp_path / files[-1])
    with pytest.raises(BadCheckpoint, match=r"repeats parameters .*\(a\)"):
        load_checkpoint(index)
    (tmp_path / files[1]).unlink()
    with pytest.raises(BadCheckpoint, match=rf"into 3 files, of which 1 are not in its folder \({files[1]}\)"):
        load_checkpoint(index)


@pytest.mark.parametrize("weight_map", [{}, {"a": "../elsewhere.safetensors"}, ["a"], {"a": 3}])
def test_an_index_of_files_elsewhere_is_refused(weight_map: Any, tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(BadCheckpoint, match="is not an index of weights"):
        load_checkpoint(index)


def names_of_eomts_authors(state: State, timm: bool) -> State:
    """A network of transformers under the names of tue-mps/eomt: timm's for DINOv2, transformers' for DINOv3."""
    found: State = {}
    for name, value in state.items():
        name = re.sub(r"^query\.", "q.", name).replace("class_predictor", "class_head")
        name = re.sub(r"mask_head\.fc(\d)", lambda found: f"mask_head.{2 * int(found[1]) - 2}", name)
        name = name.replace("upscale_block.block", "upscale").replace("layernorm2d", "norm")
        name = re.sub(r"^(layernorm|layers|embeddings)\.", r"encoder.backbone.\1.", name)
        name = name.replace("backbone.layernorm", "backbone.norm").replace("backbone.layers", "backbone.blocks")
        if timm:
            name = name.replace("register_tokens", "reg_token").replace("position_embeddings.weight", "pos_embed")
            name = name.replace("patch_embeddings.projection", "patch_embed.proj").replace(".embeddings", "")
            name = name.replace("attention.out_proj", "attn.proj").replace("attention.", "attn.")
            name = re.sub(r"layer_scale(\d)\.lambda1", r"ls\1.gamma", name)
            value = value[None] if name.endswith("pos_embed") else value
        else:
            name = name.replace("backbone.embeddings", "backbone.patch_embed")
        found[name] = value
    for name in [name for name in found if timm and ".attn.q_proj." in name]:
        parts = [found.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        found[name.replace("q_proj", "qkv")] = torch.cat(parts)
    for name in [name for name in found if timm and ".mlp.gate_proj." in name]:
        parts = [found.pop(name), found.pop(name.replace("gate_proj", "up_proj"))]
        found[name.replace("gate_proj", "fc1")] = torch.cat(parts)
        found[name.replace("gate_proj", "fc2")] = found.pop(name.replace("gate_proj", "down_proj"))
    return found | {"encoder.pixel_mean": torch.zeros(1, 3, 1, 1), "encoder.pixel_std": torch.ones(1, 3, 1, 1)}


@pytest.mark.parametrize(("kind", "changes"), [("eomt", {}), ("eomt", {"use_swiglu_ffn": True}), ("eomt_dinov3", {})])
def test_checkpoints_of_eomts_authors_load(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    spec = SPECS[f"{kind}-of-transformers"]
    spec = dataclasses.replace(spec, settings={**spec.settings, "network": {**spec.settings["network"], **changes}})
    module = network_of(spec)
    not_saved = ("embeddings.mask_token", "criterion.empty_weight")
    state = {name: value.clone() for name, value in module.state_dict().items() if name not in not_saved}
    authors = {f"network.{name}": value for name, value in names_of_eomts_authors(state, kind == "eomt").items()}
    torch.save({"state_dict": authors, "hyper_parameters": {"lr": 1e-4}}, tmp_path / "w.ckpt")
    found = opened(spec, tmp_path / "w.ckpt").module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert {name for name in found if name not in state} <= set(not_saved)


def test_eomts_gated_layers_saved_by_transformers_4_load(tmp_path: Path) -> None:
    spec = SPECS["eomt-of-transformers"]
    network = {**spec.settings["network"], "use_swiglu_ffn": True}
    spec = dataclasses.replace(spec, settings={**spec.settings, "network": network})
    module = network_of(spec)
    state: State = {}
    for name, value in module.state_dict().items():
        if ".gate_proj." in name:
            both = (value, module.state_dict()[name.replace("gate_proj", "up_proj")])
            state[name.replace("gate_proj", "weights_in")] = torch.cat(both)
        elif ".up_proj." not in name:
            state[name.replace("down_proj", "weights_out")] = value
    torch.save(state, tmp_path / "w.pth")
    assert_whole(opened(spec, tmp_path / "w.pth"), module)


@pytest.mark.parametrize("prefix", ["model.", "network."])
@pytest.mark.parametrize("kind", ["oneformer", "mask2former"])
def test_a_folder_saved_by_a_trainer_loads_despite_similar_names(kind, prefix, tmp_path) -> None:
    """Of OneFormer all names begin with `model.`, so the prefix of a wrapper is told from the network's own."""
    folder, module = of_the_hub(kind, tmp_path / "saved")
    save_file(
        {prefix + k: v.clone().contiguous() for k, v in module.state_dict().items()}, folder / "model.safetensors"
    )
    assert_whole(open_model(find_model(str(folder)), device="cpu", speedups=False), module)


def test_a_checkpoint_without_weights_names_the_missing_key(tmp_path: Path) -> None:
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
    ("text", "words"), [("epoch_9.pth", r"names 'epoch_9\.pth', which does not exist"), ("", "no file")]
)
def test_a_last_checkpoint_that_does_not_exist_is_reported(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "last_checkpoint").write_text(text)
    with pytest.raises(BadCheckpoint, match=words):
        load_checkpoint(tmp_path)


def test_detr_r101_has_cocos_names_without_labels_in_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unnamed = {str(label): f"LABEL_{label}" for label in range(250)}
    network = {**SPECS["detr-of-transformers"].settings["network"], "id2label": unnamed}
    (tmp_path / "config.json").write_text(json.dumps(network))
    monkeypatch.setattr(hub, "cached_folder", lambda repository, weights=True: tmp_path)
    for name in ("detr-r101", "hf:facebook/detr-resnet-101-panoptic"):
        adapter = TransformersAdapter(find_model(name))
        assert (len(adapter.class_names), sum(adapter.isthing)) == (133, 80)
        assert (adapter.class_names[0], adapter.class_names[-1]) == ("person", "rug-merged")
    with pytest.raises(BadModel, match="names none of its 250 labels"):
        TransformersAdapter(find_model("hf:somebody/detr"))
