import dataclasses
import functools
import hashlib
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file
from support import refusal
from torch import Tensor, nn

from panbench.base.errors import BadCheckpoint
from panbench.catalog import load_catalog
from panbench.models.checkpoints import Checkpoint, apply_checkpoint, load_checkpoint
from panbench.models.mmdet.config import build_model, load_config

CATALOG = load_catalog()
TINY = ["panoptic-fpn-tiny", "maskformer-tiny", "mask2former-tiny"]


def refused(path: Path) -> str:
    return refusal(BadCheckpoint, load_checkpoint, path)


def misfit(model: nn.Module, state_dict: dict[str, Tensor]) -> str:
    return refusal(BadCheckpoint, apply_checkpoint, model, in_memory(state_dict))


def in_memory(state_dict: dict[str, Tensor]) -> Checkpoint:
    return Checkpoint(Path("w.pth"), state_dict, {}, "0" * 64)


@functools.cache
def tiny(name: str) -> nn.Module:
    return build_model(load_config(CATALOG[name]))


@pytest.fixture
def mmengines(tmp_path: Path) -> Path:
    """A checkpoint as mmengine 0.10.7 saves it: training log, numpy scalars and optimizer included."""
    hub = MessageHub("test_checkpoints")
    hub.update_scalar("loss", np.float32(0.5))
    hub.update_info("best_score", np.float64(0.25))
    assert isinstance(hub.get_scalar("loss"), HistoryBuffer)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    data = {"classes": ("ball", "sky"), "palette": [(1, 2, 3)]}
    content = {
        "meta": {"epoch": 3, "best": np.float64(0.25), "dataset_meta": data},
        "state_dict": model.state_dict(),
        "message_hub": hub.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    path = tmp_path / "epoch_3.pth"
    save_checkpoint(content, str(path))
    return path


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_of_every_family_round_trip(name: str, suffix: str, tmp_path: Path) -> None:
    trained, path = tiny(name), tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": trained.state_dict(), "meta": {}}, path)
    else:
        save_file(trained.state_dict(), path)
    model = build_model(load_config(CATALOG[name]))
    first = next(iter(trained.state_dict()))
    assert not torch.equal(model.state_dict()[first], trained.state_dict()[first])
    apply_checkpoint(model, load_checkpoint(path))
    for key, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_a_checkpoint_that_mmengine_saved_loads(mmengines: Path) -> None:
    with pytest.raises(pickle.UnpicklingError):
        torch.load(mmengines, weights_only=True)
    checkpoint = load_checkpoint(mmengines)
    assert list(checkpoint.state_dict) == ["weight", "bias"]
    assert checkpoint.meta["epoch"] == 3
    assert checkpoint.meta["best"] is None
    assert checkpoint.classes == ("ball", "sky")
    assert checkpoint.sha256 == hashlib.sha256(mmengines.read_bytes()).hexdigest()


def test_a_checkpoint_written_with_numpy_1_loads(mmengines: Path, tmp_path: Path) -> None:
    path = tmp_path / "numpy1.pth"
    content = torch.load(mmengines, weights_only=False)
    # The format before torch 1.6, which published checkpoints of mmdet 2.x use; names in it may be edited in place.
    torch.save(content, path, _use_new_zipfile_serialization=False)
    text = path.read_bytes()
    assert b"numpy._core.multiarray" in text
    path.write_bytes(text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert list(load_checkpoint(path).state_dict) == ["weight", "bias"]


def test_the_list_of_allowed_names_is_restored(mmengines: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint(mmengines)
    assert set(torch.serialization.get_safe_globals()) == before


def test_self_referencing_notes_are_cut_off(tmp_path: Path) -> None:
    notes: dict[str, Any] = {"epoch": 3, "CLASSES": ["ball"]}
    notes["self"] = notes
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": notes}, tmp_path / "w.pth")
    checkpoint = load_checkpoint(tmp_path / "w.pth")
    assert checkpoint.classes == ("ball",)
    assert checkpoint.meta["self"]["epoch"] == 3


def test_a_checkpoint_that_unpacks_to_far_more_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(25_000_000)}}, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for record in plain.infolist():
            packed.writestr(record.filename, plain.read(record))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpacked"))
        assert "would unpack to 100,0" in refused(tmp_path / "w.pth")


def test_the_classes_noted_by_mmdet_2_are_found() -> None:
    assert dataclasses.replace(in_memory({}), meta={"CLASSES": ("a", "b")}).classes == ("a", "b")
    assert in_memory({}).classes is None


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_checkpoint_is_refused_and_does_not_run(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "w.pth", tmp_path / "it-ran"
    content = {"state_dict": {"weight": torch.zeros(1)}, "meta": Hostile(f"touch {trace}")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refused(path)
    assert "was refused" in message
    assert "system would have to be run" in message
    assert not trace.exists()


class LooksUp:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (OrderedDict, "fromkeys")


def test_a_checkpoint_cannot_look_up_names(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "meta": {"found": LooksUp()}}, tmp_path / "w.pth")
    assert load_checkpoint(tmp_path / "w.pth").meta == {"found": None}


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    content = {"weight": torch.arange(5000.0)}
    if kind == "safetensors":
        save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    load_checkpoint(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    assert "is cut off" in refused(path)


def test_a_file_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"weight": torch.arange(5000.0)}, path)
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)
    assert "damaged" in refused(path)


def test_a_file_of_the_hub_cache_with_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "saved")
    digest = hashlib.sha256((tmp_path / "saved").read_bytes()).hexdigest()
    for name, is_other in ((digest, False), ("0" * 64, True)):
        blob, path = tmp_path / name, tmp_path / f"{name}.safetensors"
        blob.write_bytes((tmp_path / "saved").read_bytes())
        path.symlink_to(blob)
        if is_other:
            assert f"Delete {blob}, and fetch it again" in refused(path)
        else:
            assert load_checkpoint(path).sha256 == digest


def test_a_file_without_checksums_loads(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.ones(3)}, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(tmp_path / "w.pth").state_dict["weight"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"not weights at all", "damaged or no checkpoint"),
        (b"PK\x03\x04 no zip either", "damaged or no checkpoint"),
    ],
)
def test_a_file_with_other_content_is_refused(tmp_path: Path, text: bytes, words: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(text)
    message = refused(path)
    assert words in message
    assert str(path) in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "w.pth") == f"There is no weights file {tmp_path / 'w.pth'}."
    assert "cannot be read" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(1)], "holds a list, not weights by name"),
        ({"state_dict": {}}, "its state_dict is empty"),
        ({"epoch": 1, "weight": torch.zeros(1)}, "holds no state_dict: epoch is no tensor"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear would have to be run"),
    ],
)
def test_a_file_without_weights_is_refused_with_its_content(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert words in refused(tmp_path / "w.pth")


def test_parameters_that_do_not_fit_are_counted_and_named(capfd: pytest.CaptureFixture[str]) -> None:
    state_dict = dict(tiny("mask2former-tiny").state_dict())
    heads = [name for name in state_dict if name.startswith("panoptic_head.transformer_decoder")]
    for name in heads:
        del state_dict[name]
    state_dict["extra.weight"] = torch.zeros(1)
    state_dict["panoptic_head.cls_embed.weight"] = torch.zeros(134, 64)
    message = misfit(tiny("mask2former-tiny"), state_dict)
    assert f"w.pth does not fit this Mask2Former: {len(heads)} of the model's parameters are missing from it" in message
    assert ", ".join(heads[:8]) + f" and {len(heads) - 8} more" in message
    assert "1 in it are unknown to the model (extra.weight)" in message
    assert "1 have another shape (panoptic_head.cls_embed.weight is 134×64 in it, 10×64 in the model)" in message
    assert message.endswith("Use the config that it was trained with.")
    assert capfd.readouterr() == ("", "")


def test_one_wrong_shape_alone_is_enough_to_refuse() -> None:
    state_dict = dict(tiny("panoptic-fpn-tiny").state_dict(), **{"semantic_head.conv_logits.bias": torch.zeros(54)})
    message = misfit(tiny("panoptic-fpn-tiny"), state_dict)
    assert "does not fit this PanopticFPN: 1 have another shape (semantic_head.conv_logits.bias is 54 in it" in message


def test_weights_of_another_model_are_recognized() -> None:
    message = misfit(tiny("maskformer-tiny"), {"fc.weight": torch.zeros(1)})
    assert message.endswith("It belongs to another model.")


def test_a_batch_count_missing_in_old_checkpoints_is_accepted() -> None:
    # The state dict keeps its note of the layers' versions; without one, torch itself would fill the counts in.
    state_dict = tiny("panoptic-fpn-tiny").state_dict()
    counts = [name for name in state_dict if name.endswith("num_batches_tracked")]
    for name in counts:
        del state_dict[name]
    assert counts
    apply_checkpoint(tiny("panoptic-fpn-tiny"), in_memory(state_dict))


def test_the_averaged_copy_of_mmdet_2_is_accepted() -> None:
    weights = {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
    model = nn.Sequential(OrderedDict(backbone=nn.Linear(1, 1)))
    state_dict = {f"backbone.{name}": value for name, value in weights.items()}
    state_dict |= {f"ema_backbone_{name}": 2 * value for name, value in weights.items()}
    apply_checkpoint(model, in_memory(state_dict))
    assert model.backbone.weight.item() == 1
    assert "ema_head_weight" in misfit(model, state_dict | {"ema_head_weight": torch.ones(1)})


class Versioned(nn.Linear):
    """A layer that, like mmdet's, converts old weights by the version that the file notes."""

    _version = 2

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        self.found = local_metadata.get("version")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_wrappers_prefix_is_removed_and_layer_versions_kept(prefix: str, tmp_path: Path) -> None:
    model: Any = nn.Sequential(OrderedDict(head=Versioned(1, 1)))
    state_dict = model.state_dict()
    wrapped = OrderedDict((prefix + name, torch.full_like(value, 7)) for name, value in state_dict.items())
    wrapped._metadata = {"": {"version": 1}, prefix[:-1]: {"version": 1}, prefix + "head": {"version": 2}}
    torch.save({"state_dict": wrapped}, tmp_path / "w.pth")
    apply_checkpoint(model, load_checkpoint(tmp_path / "w.pth"))
    assert (model.head.weight.item(), model.head.found) == (7, 2)


def test_mmdets_conversions_of_older_names_run() -> None:
    trained = tiny("panoptic-fpn-tiny").state_dict()
    renamed = {
        name.replace("rpn_head.", "bbox_head.") if name.startswith("rpn_") else name: v for name, v in trained.items()
    }
    assert "bbox_head.rpn_conv.weight" in renamed
    model = build_model(load_config(CATALOG["panoptic-fpn-tiny"]))
    apply_checkpoint(model, in_memory(renamed))
    assert torch.equal(model.rpn_head.rpn_conv.weight, trained["rpn_head.rpn_conv.weight"])


def test_names_of_mmdet_2_that_mmdet_3_does_not_convert_are_recognized() -> None:
    trained = tiny("mask2former-tiny").state_dict()
    renamed = {name.replace(".cross_attn.", ".attentions.0."): value for name, value in trained.items()}
    assert renamed.keys() != trained.keys()
    assert "names of mmdet 2.x" in misfit(tiny("mask2former-tiny"), renamed)


def test_weights_of_a_diverged_training_are_refused() -> None:
    state_dict = {"weight": torch.tensor([[float("nan")]]), "bias": torch.zeros(1)}
    assert "1 of its 2 parameters hold NaN or infinity (weight)" in misfit(nn.Linear(1, 1), state_dict)
