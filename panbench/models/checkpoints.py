"""Weights: loaded as data that can run nothing, and fitted to a model exactly or not at all."""

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
from panbench.models.array_pickles import NotWeights, load_arrays
from panbench.models.checkpoint_forms import bare_names, followed, is_bare_pickle, part_of, shards_of, shown

# torch's list of names that a checkpoint may use is global to the process.
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weights file holds.

    state_dict: parameters and buffers by name, on the CPU, as the file names them but for the prefixes of wrappers
    meta: what the training program noted; values that are no plain data are None
    sha256: of the file, 64 hex digits; of weights in several files, of the list of their hashes
    part: the key under which the file has the state dict; None where it holds nothing else
    """

    path: Path
    state_dict: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    sha256: str
    part: str | None = None

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The category names that the training program noted (mmdet 2.x and 3.x do), in label order."""
        noted = self.meta.get("dataset_meta")
        for place in (noted if isinstance(noted, dict) else {}, self.meta):
            for key in ("classes", "CLASSES"):
                names = place.get(key)
                if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
                    return tuple(names)
        return None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The weights in a file of torch, mmengine, mmdet 2.x, detectron2, DeepSpeed or safetensors. Nothing in it is run.

    path: the file, the index of several safetensors, or mmengine's `last_checkpoint`, or the folder that holds it

    Raises BadCheckpoint for a file that is missing, empty, cut off, damaged, not weights at all, or that would have to
    run code to be loaded.
    """
    path = followed(Path(path).expanduser().absolute())
    if (shards := shards_of(path)) is not None:
        return _joined(path, [load_checkpoint(shard) for shard in shards])
    try:
        sha256 = sha256_of(path)
        with open(path, "rb") as handle:
            head = handle.read(512)
    except FileNotFoundError:
        raise BadCheckpoint(f"There is no weights file {path}.") from None
    except OSError as error:
        raise BadCheckpoint(f"The weights file {path} cannot be read: {error.strerror or error}.") from error
    _refuse_other_files(path, head)
    _refuse_changed(path, sha256)
    part = None
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        state_dict, meta = _load_safetensors(path)
    else:
        content = _load_arrays(path) if is_bare_pickle(path, head) else _load_pickle(path)
        state_dict, part = part_of(path, content)
        noted = None if part is None else content.get("meta")
        meta = _plain(noted) if isinstance(noted, dict) else {}
    return Checkpoint(path, bare_names(state_dict), meta, sha256, part)


def _joined(index: Path, shards: Sequence[Checkpoint]) -> Checkpoint:
    """The weights of several files as one checkpoint, its SHA-256 that of the list which sha256sum prints of them."""
    state_dict: OrderedDict[str, Tensor] = OrderedDict()
    for shard in shards:
        if both := sorted(set(shard.state_dict) & set(state_dict)):
            raise BadCheckpoint(
                f"{shard.path} repeats parameters of the other files of {index.name} ({shown(both)}). Take all of them "
                "from one place."
            )
        state_dict.update(shard.state_dict)
    listed = "".join(f"{shard.sha256}  {shard.path.name}\n" for shard in shards)
    return Checkpoint(index, bare_names(state_dict), {}, hashlib.sha256(listed.encode()).hexdigest())


def _refuse_changed(path: Path, sha256: str) -> None:
    """Raises BadCheckpoint for a file of the hub's cache, which is named after its hash, that has another one."""
    file = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", file.name) and file.name != sha256:
        raise BadCheckpoint(
            f"{path} is damaged: its SHA-256 begins with {sha256[:16]}, not with {file.name[:16]}, which is its name "
            f"in the hub's cache. Delete {file}, and fetch it again with --download."
        )


def apply_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copies a checkpoint's weights into a model; sets every parameter, or raises BadCheckpoint with the missing ones.

    Loaded through `model.load_state_dict`, so mmdet's conversions of older names run. Tolerated are a missing
    `num_batches_tracked` (BatchNorm counts batches for training only) and the second copy of the weights that mmdet 2.x
    keeps for its moving average (`ema_backbone_conv1_weight`).
    After an error the model holds a mixture and is of no use.
    """
    state_dict = bare_names(checkpoint.state_dict)
    copies = {"ema_" + name.replace(".", "_") for name in state_dict}
    for name in [name for name in state_dict if name in copies]:
        del state_dict[name]
    _refuse_not_finite(state_dict, checkpoint.path)
    missing: list[str] = []
    unknown: list[str] = []

    def note(_: nn.Module, incompatible: Any) -> None:
        missing.extend(name for name in incompatible.missing_keys if not name.endswith("num_batches_tracked"))
        unknown.extend(incompatible.unexpected_keys)

    mismatch = ""
    hook = model.register_load_state_dict_post_hook(note)
    try:
        model.load_state_dict(state_dict, strict=False)
    except RuntimeError as error:
        mismatch = str(error)
    finally:
        hook.remove()
    if missing or unknown or mismatch:
        raise BadCheckpoint(_misfit(model, checkpoint.path, missing, unknown, mismatch))


def _refuse_other_files(path: Path, head: bytes) -> None:
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
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} is cut off or damaged ({_line(error)}). Download or copy it again.") from error


_MOST_NESTED = 20
_BOMB_RATIO = 10
_BOMB_BYTES = 64 << 20


class _Inert:
    """Replaces any object that is not needed here; built and filled without running the file's code."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Takes no state."""


# Training logs (HistoryBuffer) and numpy scalars in what mmengine saves. They are not wanted, so no code of numpy or
# mmengine is run for them, and the getattr by which HistoryBuffer names its own methods looks nothing up.
_INERT_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
    # The arguments of a training script, which many authors save beside the weights.
    "argparse.Namespace",
    "numpy.ndarray",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)


def _load_pickle(path: Path) -> Any:
    allowed: list[Any] = [(_Inert, name) for name in _INERT_NAMES]
    try:
        _verify_checksums(path)
        with _lock, torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (MemoryError, BadCheckpoint):
        raise
    except Exception as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise (_refused(path, f"{wanted[1]} would have to be run") if wanted else _damaged(path, error)) from error


def _load_arrays(path: Path) -> Any:
    try:
        return load_arrays(path)
    except MemoryError:
        raise
    except NotWeights as error:
        raise _refused(path, str(error)) from error
    except Exception as error:
        raise _damaged(path, error) from error


def _refused(path: Path, reason: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"{path} was refused: to load it, {reason}, and weights alone never need that. Nothing was run. If you trust "
        "where it is from, save its state_dict alone and load that."
    )


def _damaged(path: Path, error: Exception) -> BadCheckpoint:
    return BadCheckpoint(f"{path} is cut off, damaged or no checkpoint ({_line(error)}). Download or copy it again.")


def _verify_checksums(path: Path) -> None:
    """Raises BadZipFile when a record is not what was written. torch itself does not look, and a PQ would be wrong."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked, size = sum(record.file_size for record in archive.infolist()), path.stat().st_size
        # torch stores records as they are; only somebody else compresses them.
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


def _plain(value: Any, depth: int = 0) -> Any:
    """Notes as plain data. What lies deeper than training programs nest them, or holds itself, is None."""
    if depth > _MOST_NESTED:
        return None
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items() if not isinstance(key, _Inert)}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, depth + 1) for item in value) if type(value) in (list, tuple) else None
    return None if isinstance(value, _Inert) else value


def _refuse_not_finite(state_dict: Mapping[str, Tensor], path: Path) -> None:
    bad = [
        name
        for name, value in state_dict.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if bad:
        raise BadCheckpoint(
            f"{path}: {len(bad)} of its {len(state_dict)} parameters hold NaN or infinity ({shown(bad)}): the "
            "training that wrote it diverged. Take an earlier checkpoint."
        )


def _misfit(model: nn.Module, path: Path, missing: list[str], unknown: list[str], mismatch: str) -> str:
    """The sentence that counts and names what does not fit, and the likeliest reason."""
    shapes = re.findall(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", mismatch)
    faults = []
    if missing:
        faults.append(f"{len(missing)} of the model's parameters are missing from it ({shown(missing)})")
    if unknown:
        faults.append(f"{len(unknown)} in it are unknown to the model ({shown(unknown)})")
    if shapes:
        listed = [f"{name} is {_size(theirs)} in it, {_size(ours)} in the model" for name, theirs, ours in shapes]
        faults.append(f"{len(shapes)} have another shape ({shown(listed)})")
    elif mismatch:
        faults.append(_line(mismatch))
    reason = "Use the config that it was trained with."
    if any(".attentions." in name for name in unknown):
        reason = "These are names of mmdet 2.x; take the weights that the model zoo of mmdet 3 offers."
    elif len(missing) == sum(not name.endswith("num_batches_tracked") for name in model.state_dict()):
        reason = "It belongs to another model."
    return f"{path} does not fit this {type(model).__name__}: {'; '.join(faults)}. {reason}"


def _size(numbers: str) -> str:
    return "×".join(re.findall(r"\d+", numbers)) or "a single number"


def _line(error: object) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return (text[:160] + "…" if len(text) > 160 else text) or type(error).__name__
