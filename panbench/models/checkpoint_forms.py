"""Finds the state dict in the checkpoint formats that training programs write.

mmengine, mmcv and Lightning write {"state_dict", …}, detectron2 and the authors of DETR {"model", "iteration", …},
DeepSpeed {"module", …}, training loops {"model_state_dict"}, {"net"} or {"weights"}, transformers one file of tensors
or shards with an index. Wrappers add prefixes to the names (`bare_names`).
"""

import re
import shlex
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from panbench.base.errors import BadCheckpoint
from panbench.base.hub import read_shard_names
from panbench.base.text import kind_of, listed

_STATE_DICT_KEYS = ("state_dict", "model", "module", "model_state_dict", "net", "weights")
_AVERAGE_KEYS = ("ema_state_dict", "model_ema", "state_dict_ema", "ema")
"""Keys of a moving average of the weights."""
_MMENGINE_AVERAGE = "ema_state_dict"
"""mmengine's key: here next to it `state_dict` is the average, and this holds the last weights."""
_WRAPPERS = re.compile(r"(?<![^.])(?:_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
_OF_TRAINERS = ("model.", "network.", "net.")
_NOTE_FILE = "last_checkpoint"
_LONGEST_NOTE = 4096
_INDEX = ".index.json"
# torch's own format from before 1.6 begins with this number, pickled.
_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def find_state_dict(path: Path, content: Any) -> tuple[Mapping[str, Tensor], str | None, str | None]:
    """Finds the state dict in a loaded file; returns it, its key (None for a bare one), and a notice or None.

    The notice says whether averaged weights are loaded. Raises BadCheckpoint, naming the content, if there is no state
    dict.
    """
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path} holds {kind_of(content)}, not weights by name.")
    if str(content.get("model_class_path", "")).startswith("lightly_train."):
        raise BadCheckpoint(
            f"{path} is LightlyTrain's, whose EoMT resizes its positions anew for each image; no network of "
            "transformers does. Run it as a Python function that calls lightly_train.load_model (docs/own_models.md)."
        )
    found_keys = [name for name in (*_STATE_DICT_KEYS, *_AVERAGE_KEYS) if isinstance(content.get(name), dict)]
    part = found_keys[0] if found_keys else None
    state_dict = content if part is None else content[part]
    notice = None
    if part in _AVERAGE_KEYS:
        # mmengine and PyTorch count how often the average was taken.
        state_dict = {name: value for name, value in state_dict.items() if name not in ("steps", "n_averaged")}
        notice = f"{path} holds weights under {part!r} alone, an average; these are loaded."
    elif passed_over := [
        name for name in found_keys[1:] if name in _AVERAGE_KEYS and (part, name) != ("state_dict", _MMENGINE_AVERAGE)
    ]:
        notice = (
            f"{path}: the weights under {part!r} are loaded, not their average under {passed_over[0]!r}. To evaluate "
            f"that, save it alone: torch.save(checkpoint[{passed_over[0]!r}], FILE)."
        )
    if not state_dict:
        raise BadCheckpoint(f"{path} holds no weights: its {part or 'state_dict'} is empty.")
    others = [
        str(name) for name, value in state_dict.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise BadCheckpoint(
            f"{path} holds no state_dict{'' if part is None else f' in its {part!r}'}: {listed(others, 8)} "
            f"{'is' if len(others) == 1 else 'are'} no tensor. Save it as {{'state_dict': model.state_dict()}}."
        )
    return state_dict, part, notice


def bare_names(state_dict: Mapping[str, Tensor], known: Collection[str] = ()) -> "OrderedDict[str, Tensor]":
    """Removes prefixes that DistributedDataParallel, FSDP, torch.compile or checkpointing put before parameter names.

    known: names of the network's parameters. If none of them occurs, and all names begin with `model.`, `network.` or
    `net.` (an attribute of a Lightning module), that prefix and the buffers of the loss are removed, too.
    """
    # This attribute holds the versions of layers by name; mmdet's conversions need them.
    versions = getattr(state_dict, "_metadata", None)
    prefix = ""
    bare = {_WRAPPERS.sub("", name): value for name, value in state_dict.items()}
    while bare and all(name.startswith(f"{prefix}module.") for name in bare):
        prefix += "module."
    own = {name: value for name, value in bare.items() if not name.startswith(f"{prefix}criterion.")}
    if known and own and not any(name.removeprefix(prefix) in known for name in own):
        for attribute in _OF_TRAINERS:
            if all(name.startswith(prefix + attribute) for name in own):
                bare, prefix = own, prefix + attribute
                break
    found = OrderedDict((name.removeprefix(prefix), value) for name, value in bare.items())
    if isinstance(versions, dict):
        found._metadata = {  # type: ignore[attr-defined]
            _WRAPPERS.sub("", f"{name}.").removeprefix(prefix)[:-1]: version for name, version in versions.items()
        }
    return found


def refuse_distributed_checkpoint(path: Path) -> None:
    """Raises BadCheckpoint for a checkpoint in parts of torch.distributed (DCP), with the command that joins them."""
    folder = path if path.is_dir() else path.parent
    if not (path.is_dir() or path.suffix == ".distcp" or path.name == _METADATA):
        return
    if (folder / _METADATA).is_file() and any(folder.glob("*.distcp")):
        join = "python -m torch.distributed.checkpoint.format_utils dcp_to_torch"
        raise BadCheckpoint(
            f"{folder} is a checkpoint in parts of torch.distributed (DCP), not a file of weights. Join them with "
            f"`{join} {shlex.quote(str(folder))} weights.pth` and give weights.pth. That command runs what the pickle "
            f"{_METADATA} says: use it on files that you trust."
        )


_METADATA = ".metadata"


def follow_last_checkpoint(path: Path) -> Path:
    """Returns the checkpoint that mmengine's file `last_checkpoint`, or its folder, names; other paths unchanged.

    If the folder was moved, the file of that name next to `last_checkpoint` is meant. Raises BadCheckpoint if there is
    none.
    """
    note = path / _NOTE_FILE if path.is_dir() else path
    if note.name != _NOTE_FILE or not note.is_file():
        return path
    try:
        text = note.read_text("utf-8").strip() if note.stat().st_size <= _LONGEST_NOTE else ""
    except (OSError, UnicodeDecodeError):
        text = ""
    declared = Path(text)
    name = re.split(r"[/\\]", text)[-1]
    for candidate in (declared if declared.is_absolute() else note.parent / declared, note.parent / name):
        if name and candidate.is_file():
            return candidate
    named = f"{text!r}, which does not exist" if text else "no file"
    raise BadCheckpoint(f"{note} names {named}. Give the weights file itself.")


def is_bare_pickle(path: Path, head: bytes) -> bool:
    """Returns whether a file is a pickle that torch did not write, such as detectron2's .pkl of NumPy arrays."""
    if _TORCH in head[:32] or head.startswith(b"PK"):
        return False
    return bool(re.match(rb"\x80[\x02-\x05]", head)) or path.suffix.lower() in (".pkl", ".pickle")


def checkpoint_shards(index: Path) -> list[Path] | None:
    """Returns the weights files that an index (model.safetensors.index.json) lists; None for any other file.

    Raises BadCheckpoint for an unreadable index, and for missing shards.
    """
    if not index.name.endswith(_INDEX):
        return None
    names = read_shard_names(index)
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise BadCheckpoint(
            f"{index} splits the weights into {len(names)} files, of which {len(missing)} are not in its folder "
            f"({listed(missing, 8)}). Copy or download them there."
        )
    return [index.parent / name for name in names]
