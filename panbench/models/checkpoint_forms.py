"""Finds the state dict in the checkpoint formats that training programs write.

mmengine and mmcv write {"state_dict", "meta"}, detectron2 and the authors of DETR {"model", "iteration", …}, DeepSpeed
{"module", …}, transformers one file of tensors or shards with an index; a wrapper puts `module.` before every name.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from panbench.base.errors import BadCheckpoint
from panbench.base.hub import shards_named
from panbench.base.text import kind_of

__all__ = ["AVERAGED", "bare_names", "followed", "is_bare_pickle", "part_of", "shards_of", "shown"]

AVERAGED = "ema_state_dict"
"""Where mmengine keeps a second set of weights: the last ones while `state_dict` holds their average."""
_PARTS = ("state_dict", "model", "module", AVERAGED)
_NOTE = "last_checkpoint"
_LONGEST_NOTE = 4096
_NAMES_SHOWN = 8
_INDEX = ".index.json"
# torch's own format from before 1.6 begins with this number, pickled.
_TORCH = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def part_of(path: Path, content: Any) -> tuple[Mapping[str, Tensor], str | None]:
    """The state dict in what torch loaded, and under which key it was; None for a state dict alone.

    Raises BadCheckpoint where there is none, naming what there is.
    """
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path} holds {kind_of(content)}, not weights by name.")
    part = next((name for name in _PARTS if isinstance(content.get(name), dict)), None)
    state_dict = content if part is None else content[part]
    if part == AVERAGED:
        # How often the average was taken.
        state_dict = {name: value for name, value in state_dict.items() if name not in ("steps", "n_averaged")}
    if not state_dict:
        raise BadCheckpoint(f"{path} holds no weights: its {part or 'state_dict'} is empty.")
    others = [
        str(name) for name, value in state_dict.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise BadCheckpoint(
            f"{path} holds no state_dict{'' if part is None else f' in its {part!r}'}: {shown(others)} "
            f"{'is' if len(others) == 1 else 'are'} no tensor. Save it as {{'state_dict': model.state_dict()}}."
        )
    return state_dict, part


def bare_names(state_dict: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """A copy without the prefixes that DistributedDataParallel and torch.compile put before every name."""
    # The versions of layers travel in this attribute, by name; mmdet's conversions ask for them.
    versions = getattr(state_dict, "_metadata", None)
    bare = OrderedDict(state_dict)
    for prefix in ("module.", "_orig_mod.", "module."):
        if bare and all(name.startswith(prefix) for name in bare):
            bare = OrderedDict((name.removeprefix(prefix), value) for name, value in bare.items())
            if isinstance(versions, dict):
                versions = {name.removeprefix(prefix): version for name, version in versions.items() if name}
    if versions is not None:
        bare._metadata = versions  # type: ignore[attr-defined]
    return bare


def followed(path: Path) -> Path:
    """The checkpoint that a work folder's `last_checkpoint` names, for that file or its folder; else the path itself.

    A folder that was moved no longer lies where the note says: the file of that name beside the note is then meant.
    Raises BadCheckpoint for a note that leads nowhere.
    """
    note = path / _NOTE if path.is_dir() else path
    if note.name != _NOTE or not note.is_file():
        return path
    try:
        text = note.read_text("utf-8").strip() if note.stat().st_size <= _LONGEST_NOTE else ""
    except (OSError, UnicodeDecodeError):
        text = ""
    stated = Path(text)
    name = re.split(r"[/\\]", text)[-1]
    for candidate in (stated if stated.is_absolute() else note.parent / stated, note.parent / name):
        if name and candidate.is_file():
            return candidate
    wanted = f"{text!r}, which is not there" if text else "no file"
    raise BadCheckpoint(f"{note} names {wanted}. Give the weights file itself.")


def is_bare_pickle(path: Path, head: bytes) -> bool:
    """Whether a file is a pickle that torch did not write, as detectron2's .pkl of NumPy arrays are."""
    if _TORCH in head[:32] or head.startswith(b"PK"):
        return False
    return bool(re.match(rb"\x80[\x02-\x05]", head)) or path.suffix.lower() in (".pkl", ".pickle")


def shards_of(index: Path) -> list[Path] | None:
    """The files among which an index, model.safetensors.index.json, shares out the weights; None for another file.

    Raises BadCheckpoint for an index that cannot be read, and for shards that are not beside it, naming them.
    """
    if not index.name.endswith(_INDEX):
        return None
    names = shards_named(index)
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise BadCheckpoint(
            f"{index} shares the weights out among {len(names)} files, of which {len(missing)} are not beside it "
            f"({shown(missing)}). Copy or download them there."
        )
    return [index.parent / name for name in names]


def shown(names: Iterable[str]) -> str:
    """The first names of a list, and how many more there are."""
    names = list(names)
    text = ", ".join(names[:_NAMES_SHOWN])
    return f"{text} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else text
