"""Loads weights without running code, and fits them to a model exactly or not at all."""

import dataclasses
import hashlib
import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from panbench.base.errors import BadCheckpoint
from panbench.base.files import sha256_of
from panbench.base.text import listed
from panbench.models.array_pickles import UNUSED_VALUES, NotWeights, load_array_pickle
from panbench.models.checkpoint_forms import (
    bare_names,
    checkpoint_shards,
    find_state_dict,
    follow_last_checkpoint,
    is_bare_pickle,
    refuse_distributed_checkpoint,
)

# torch's list of names that a checkpoint may use is global to the process.
_safe_globals_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Holds what a weights file contains.

    state_dict: parameters and buffers by name, on the CPU, without the prefixes of wrappers
    meta: metadata of the training program; values other than plain data are None
    sha256: of the file, 64 hex digits; for several files, of the list of their hashes
    part: the key of the state dict in the file; None if the file is a bare state dict
    notice: for a file with averaged weights, which ones are loaded
    """

    path: Path
    state_dict: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    sha256: str
    part: str | None = None
    notice: str | None = None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The category names that mmdet wrote into the metadata, in label order; None without them."""
        metadata = self.meta.get("dataset_meta")
        for holder in (metadata if isinstance(metadata, dict) else {}, self.meta):
            for key in ("classes", "CLASSES"):
                names = holder.get(key)
                if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                    return tuple(names)
        return None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Loads weights of torch, mmengine, Lightning, detectron2, DeepSpeed or safetensors, without running code.

    path: the file, the index of several safetensors, or mmengine's `last_checkpoint`, or the folder that holds it

    Raises BadCheckpoint for a file that is missing, empty, cut off or damaged, that holds no weights, or that would
    run code.
    """
    path = follow_last_checkpoint(Path(path).expanduser().absolute())
    refuse_distributed_checkpoint(path)
    if (shards := checkpoint_shards(path)) is not None:
        return _join_checkpoint_shards(path, [load_checkpoint(shard) for shard in shards])
    try:
        sha256 = sha256_of(path)
        with open(path, "rb") as handle:
            head = handle.read(512)
    except FileNotFoundError:
        raise BadCheckpoint(f"There is no weights file {path}.") from None
    except OSError as error:
        raise BadCheckpoint(f"The weights file {path} cannot be read: {error.strerror or error}.") from error
    _refuse_non_weights(path, head)
    _refuse_damaged_cache(path, sha256)
    part = notice = None
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        state_dict, meta = _load_safetensors(path)
    else:
        content = _load_pickle(path, of_torch=not is_bare_pickle(path, head))
        state_dict, part, notice = find_state_dict(path, content)
        metadata = None if part is None else content.get("meta")
        meta = _plain_metadata(metadata) if isinstance(metadata, dict) else {}
    return Checkpoint(path, bare_names(state_dict), meta, sha256, part, notice)


def _join_checkpoint_shards(index: Path, shards: Sequence[Checkpoint]) -> Checkpoint:
    """Merges the files of one checkpoint; its SHA-256 is that of the list that sha256sum would print for them."""
    state_dict: OrderedDict[str, Tensor] = OrderedDict()
    for shard in shards:
        if both := sorted(set(shard.state_dict) & set(state_dict)):
            raise BadCheckpoint(
                f"{shard.path} repeats parameters of the other files of {index.name} ({listed(both, 8)}). Take all "
                "of them from one download."
            )
        state_dict.update(shard.state_dict)
    hashes = "".join(f"{shard.sha256}  {shard.path.name}\n" for shard in shards)
    return Checkpoint(index, bare_names(state_dict), {}, hashlib.sha256(hashes.encode()).hexdigest())


def _refuse_damaged_cache(path: Path, sha256: str) -> None:
    """Raises BadCheckpoint if a file in Hugging Face's cache does not have the SHA-256 that is its name."""
    file = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", file.name) and file.name != sha256:
        raise BadCheckpoint(
            f"{path} is damaged: its SHA-256 begins with {sha256[:16]}, not with {file.name[:16]}, which is its name "
            f"in the hub's cache. Delete {file}, and fetch it again with --download."
        )


def apply_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copies a checkpoint's weights into a model; raises BadCheckpoint unless they fit every parameter.

    `model.load_state_dict` runs, with mmdet's conversions of older names. A missing `num_batches_tracked` (needed for
    training only) and mmdet 2.x's copy of the weights for its moving average (`ema_backbone_conv1_weight`) are ignored.
    After an error the model holds a mixture of weights and must not be used.
    """
    state_dict = bare_names(checkpoint.state_dict)
    copies = {"ema_" + name.replace(".", "_") for name in state_dict}
    for name in [name for name in state_dict if name in copies]:
        del state_dict[name]
    _refuse_non_finite_weights(state_dict, checkpoint.path)
    missing: list[str] = []
    unknown: list[str] = []

    def collect_wrong_parameters(_: nn.Module, incompatible: Any) -> None:
        """Collects the parameters that the checkpoint lacks, and those that the model does not know."""
        missing.extend(name for name in incompatible.missing_keys if not name.endswith("num_batches_tracked"))
        unknown.extend(incompatible.unexpected_keys)

    mismatch = ""
    hook = model.register_load_state_dict_post_hook(collect_wrong_parameters)
    try:
        model.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        mismatch = str(error)
    finally:
        hook.remove()
    if missing or unknown or mismatch:
        raise BadCheckpoint(_misfit_message(model, checkpoint.path, missing, unknown, mismatch))


def _refuse_non_weights(path: Path, head: bytes) -> None:
    """Raises BadCheckpoint for an empty file, a web page or a Git LFS pointer in place of weights."""
    if not head:
        raise BadCheckpoint(f"The weights file {path} is empty. Delete it and download it again.")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise BadCheckpoint(
            f"{path} is a web page, not weights: the download led to an error or log-in page. Delete it and download "
            "the file itself."
        )
    if head.startswith(b"version https://git-lfs"):
        raise BadCheckpoint(
            f"{path} is a Git LFS pointer, not the weights themselves. Run `git lfs pull` where it is from."
        )


def _load_safetensors(path: Path) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """Reads tensors by name, and the metadata, from a safetensors file. Raises BadCheckpoint if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadCheckpoint(
            f"{path} is cut off or damaged ({_error_excerpt(error)}). Download or copy it again."
        ) from error


_MOST_NESTED = 20
_BOMB_RATIO = 10
_BOMB_BYTES = 64 << 20


class _Unneeded:
    """Replaces objects in a pickle that are not needed, such as training logs; none of the file's code runs."""

    def __new__(cls, *_: object, **__: object) -> "_Unneeded":
        """Makes a placeholder, and ignores the arguments that the pickle gives."""
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Ignores the state."""


# mmengine saves training logs (HistoryBuffer) and numpy scalars, which are not needed: no code of numpy or mmengine
# runs for them, and the `getattr` with which HistoryBuffer names its methods does nothing.
_UNNEEDED_NAMES = (
    *UNUSED_VALUES,
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    # The arguments of a training script, which many authors save beside the weights.
    "argparse.Namespace",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


def _replace_defaultdict(*_: object) -> dict[Any, Any]:
    """Replaces a defaultdict of the file, with the pickle's default factory dropped."""
    return {}


def _load_pickle(path: Path, of_torch: bool) -> Any:
    """Loads torch's checkpoint or a pickle of NumPy arrays without running code of the file. Raises BadCheckpoint."""
    allowed: list[Any] = [
        *((_Unneeded, name) for name in _UNNEEDED_NAMES),
        (_replace_defaultdict, "collections.defaultdict"),
    ]
    try:
        if not of_torch:
            return load_array_pickle(path)
        _verify_checkpoint_crcs(path)
        with _safe_globals_lock, torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, BadCheckpoint):
        raise
    except NotWeights as error:
        raise _refused_pickle(path, str(error)) from error
    except Exception as error:
        if of_torch and (found := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise _refused_pickle(path, f"{found[1]} would have to be run") from error
        raise BadCheckpoint(
            f"{path} is cut off, damaged or no checkpoint ({_error_excerpt(error)}). Download or copy it again."
        ) from error


def _refused_pickle(path: Path, reason: str) -> BadCheckpoint:
    """Returns the error for a pickle that would run code to be loaded; reason: what it would run."""
    return BadCheckpoint(
        f"{path} was refused: to load it, {reason}, and weights alone never need that. Nothing was run. If you trust "
        "where it is from, save its state_dict alone and load that."
    )


def _verify_checkpoint_crcs(path: Path) -> None:
    """Raises BadZipFile if a record of the checkpoint has a wrong CRC; torch would load the damaged weights."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked, size = sum(record.file_size for record in archive.infolist()), path.stat().st_size
        # torch stores records uncompressed.
        if unpacked > _BOMB_RATIO * size and unpacked > _BOMB_BYTES:
            raise BadCheckpoint(
                f"{path} has {size:,} bytes and would unpack to {unpacked:,}: weights do not compress like that. "
                "Download or copy it again."
            )
        for record in archive.infolist():
            # torch can be set to write no checksums; then they are 0.
            if record.CRC:
                with archive.open(record) as content:
                    while content.read(1 << 20):
                        pass


def _plain_metadata(value: Any, depth: int = 0) -> Any:
    """Returns metadata as plain data; other objects, and values nested too deeply or in themselves, become None."""
    if depth > _MOST_NESTED:
        return None
    if isinstance(value, dict):
        return {key: _plain_metadata(item, depth + 1) for key, item in value.items() if not isinstance(key, _Unneeded)}
    if isinstance(value, list | tuple):
        return type(value)(_plain_metadata(item, depth + 1) for item in value) if type(value) in (list, tuple) else None
    return None if isinstance(value, _Unneeded) else value


def _refuse_non_finite_weights(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Raises BadCheckpoint if parameters are NaN or infinite."""
    bad = [
        name
        for name, value in state_dict.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if bad:
        raise BadCheckpoint(
            f"{path}: {len(bad)} of its {len(state_dict)} parameters hold NaN or infinity ({listed(bad, 8)}): the "
            "training that wrote it diverged. Take an earlier checkpoint."
        )


def _misfit_message(model: nn.Module, path: Path, missing: list[str], unknown: list[str], mismatch: str) -> str:
    """Explains how weights do not fit a model: how many parameters, which ones, and the likeliest reason."""
    shapes = re.findall(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", mismatch)
    faults = []
    if missing:
        faults.append(f"{len(missing)} of the model's parameters are missing from it ({listed(missing, 8)})")
    if unknown:
        faults.append(f"{len(unknown)} in it are unknown to the model ({listed(unknown, 8)})")
    if shapes:
        changed = [
            f"{name} is {_shape_text(theirs)} in it, {_shape_text(ours)} in the model" for name, theirs, ours in shapes
        ]
        faults.append(f"{len(shapes)} have another shape ({listed(changed, 8)})")
    elif mismatch:
        faults.append(_error_excerpt(mismatch))
    reason = "Use the config that it was trained with."
    if any(".attentions." in name for name in unknown):
        reason = "These are names of mmdet 2.x; take the weights that the model zoo of mmdet 3 offers."
    elif len(missing) == sum(not name.endswith("num_batches_tracked") for name in model.state_dict()):
        reason = "It belongs to another model."
    return f"{path} does not fit this {type(model).__name__}: {'; '.join(faults)}. {reason}"


def _shape_text(numbers: str) -> str:
    """Formats a shape as it stands in torch's error message, `2, 3`, as 2×3."""
    return "×".join(re.findall(r"\d+", numbers)) or "a single number"


def _error_excerpt(error: object) -> str:
    """Returns an exception's message in one line, cut after 160 characters; its type's name if it is empty."""
    text = " ".join(str(error).split()).rstrip(".")
    return (text[:160] + "…" if len(text) > 160 else text) or type(error).__name__
