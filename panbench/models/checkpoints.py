"""Weights: found or downloaded, loaded as data that can run nothing, and fitted to a model exactly or not at all."""

import dataclasses
import re
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from panbench.base import hub
from panbench.base.download import download, what_is_wrong
from panbench.base.errors import WITHOUT_DOWNLOAD, BadCheckpoint, BadModel, DownloadFailed, Unreachable, Way
from panbench.base.files import hash_in_name, sha256_of
from panbench.base.reporter import SILENT, Counting, Reporter, counter
from panbench.base.secrets import without_secrets
from panbench.base.text import licence_in_words
from panbench.catalog import ModelSpec, delta_of, load_catalog, repository_of, weights_path

_WAYS_OUT = (
    Way("give a file with --checkpoint FILE", "--checkpoint"),
    Way("run the model untrained with --checkpoint random", "--checkpoint"),
)
_NAMES_SHOWN = 8
# torch's list of names that a checkpoint may use is global to the process.
_lock = threading.Lock()


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a weights file holds.

    state_dict: parameters and buffers by name, on the CPU, as the file names them
    meta: what the training program noted; values that are no plain data are None
    sha256: of the file, 64 hex digits
    """

    path: Path
    state_dict: Mapping[str, Tensor]
    meta: Mapping[str, Any]
    sha256: str

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


def fetch_weights(
    spec: ModelSpec,
    *,
    offline: bool = False,
    reporter: Reporter = SILENT,
) -> Path:
    """The file with a model's weights, downloaded into the cache when its config gives a URL.

    A URL's file is verified against the hash at the end of its name, also when it was here already; a wrong one is
    fetched anew.
    offline: fetch nothing; the error says what would be fetched, how large it is, and by which command
    reporter: gets the licence of the weights as a notice before they are downloaded, and the bytes that have arrived
    Raises BadCheckpoint when there are no weights here and none may be fetched, DownloadFailed when fetching fails.
    """
    repository = repository_of(spec)
    if repository is not None and spec.weights is None:
        return _fetch_from_hub(spec, repository, offline, reporter)
    path = weights_path(spec)
    if path is None or spec.weights is None:
        raise BadCheckpoint(f"The config of {spec.title} names no weights.", ways=_WAYS_OUT)
    if "://" not in spec.weights:
        if not path.is_file():
            raise BadCheckpoint(f"There is no weights file {path} for {spec.title}.", ways=_WAYS_OUT)
        return path
    sha256 = hash_in_name(path.name)
    if offline:
        problem = what_is_wrong(path, sha256)
        if problem is not None:
            raise BadCheckpoint(
                f"The weights of {spec.title} are not at {path}: {problem}. {_how_to_fetch(spec)}, or put "
                f"{without_secrets(spec.weights)} there.",
                ways=_WAYS_OUT,
            )
        return path
    if spec.license is not None and not path.is_file():
        reporter.notice(f"Weights of {spec.title}: {_licence(spec)}.")
    try:
        return download(spec.weights, path, sha256=sha256, progress=_counted(spec, reporter))
    except DownloadFailed as error:
        without = (WITHOUT_DOWNLOAD,) if isinstance(error, Unreachable) else ()
        raise error.with_ways(*_WAYS_OUT, *without) from error


def refuse_differences(spec: ModelSpec) -> None:
    """Raises BadModel where a model's published weights are only differences to weights of another licence."""
    gated = delta_of(spec)
    if gated and spec.weights is None:
        raise BadModel(
            f"{spec.title}: its published weights are only the differences to those of DINOv3 ({gated}), whose own "
            "licence has to be accepted there. Get both, add them up as the README of tue-mps/eomt describes, save "
            "the sum with transformers' save_pretrained(FOLDER), and pass --model FOLDER."
        )


def _licence(spec: ModelSpec) -> str:
    assert spec.license is not None
    return licence_in_words(spec.license) + (f" ({spec.license_source})" if spec.license_source else "")


def _counted(spec: ModelSpec, reporter: Reporter) -> Counting:
    return counter(reporter, f"{spec.title}: weights", "bytes")


def _fetch_from_hub(spec: ModelSpec, repository: hub.Repository, offline: bool, reporter: Reporter) -> Path:
    refuse_differences(spec)
    folder = hub.here(repository)
    if folder is None and offline:
        raise BadCheckpoint(
            f"The files of {spec.title} ({repository}) are not on this machine. {_how_to_fetch(spec)}; they come from "
            f"{repository.page}.",
            ways=_WAYS_OUT,
        )
    if folder is None:
        listing = hub.list_files(repository)
        parts = [] if spec.license is None else [_licence(spec)]
        at_the_hub = "no licence is stated" if listing.license is None else licence_in_words(listing.license)
        parts.append(f"at the hub {at_the_hub} ({repository.page})")
        reporter.notice(f"Weights of {spec.title}: {'; '.join(parts)}.")
        folder = hub.fetch(repository, listing=listing, progress=_counted(spec, reporter))
    weights = hub.weights_in(folder)
    assert weights is not None
    return weights


def _how_to_fetch(spec: ModelSpec) -> str:
    # The model zoos' checkpoints hold float32 weights and little else.
    size = "their size is unknown" if spec.params is None else f"about {spec.params * 4 / 1e6:,.0f} MB"
    if spec.license is not None:
        size += f", {licence_in_words(spec.license)}"
    known = load_catalog().get(spec.name)
    if known is None or known.weights != spec.weights:
        return f"Fetch them ({size}) by adding --download"
    return f"Fetch them ({size}) with `panbench models --download {spec.name}` or by adding --download"


def load_checkpoint(path: str | Path) -> Checkpoint:
    """The weights in a file of torch, mmengine, mmdet 2.x or safetensors. Nothing in the file is run.

    Raises BadCheckpoint for a file that is missing, empty, cut off, damaged, not weights at all, or that would have to
    run code to be loaded.
    """
    path = Path(path).expanduser().absolute()
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
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        state_dict, meta = _load_safetensors(path)
    else:
        state_dict, meta = _parts(path, _load_pickle(path))
    return Checkpoint(path, state_dict, meta, sha256)


def _refuse_changed(path: Path, sha256: str) -> None:
    """Raises BadCheckpoint for a file of the hub's cache, which is named after its hash, that has another one."""
    file = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", file.name) and file.name != sha256:
        raise BadCheckpoint(
            f"{path} is damaged: its SHA-256 begins with {sha256[:16]}, not with {file.name[:16]}, which is its name "
            f"in the hub's cache. Delete {file}, and fetch it again with --download."
        )


def apply_checkpoint(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copies a checkpoint's weights into a model; every parameter is set, or BadCheckpoint says which are not.

    Loaded through `model.load_state_dict`, so mmdet's conversions of older names run. Prefixes of wrappers (`module.`)
    are taken off. Tolerated are a missing `num_batches_tracked` (BatchNorm counts batches for training only) and the
    second copy of the weights that mmdet 2.x keeps for its moving average (`ema_backbone_conv1_weight`).
    After an error the model holds a mixture and is of no use.
    """
    state_dict = _without_wrappers(checkpoint.state_dict)
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
    """Stands for any object that is of no use here; made and filled without running anything of the file's."""

    def __new__(cls, *_: object, **__: object) -> "_Inert":
        return super().__new__(cls)

    def __setstate__(self, _: object) -> None:
        """Takes no state."""


# Training logs (HistoryBuffer) and numpy scalars in what mmengine saves. They are not wanted, so no code of numpy or
# mmengine is run for them, and the getattr by which HistoryBuffer names its own methods looks nothing up.
_INERT_NAMES = (
    "mmengine.logging.history_buffer.HistoryBuffer",
    "builtins.getattr",
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
        if wanted:
            raise BadCheckpoint(
                f"{path} was refused: to load it, {wanted[1]} would have to be run, and weights alone never need that. "
                "Nothing was run. If you trust where it is from, save its state_dict alone and load that."
            ) from error
        raise BadCheckpoint(
            f"{path} is cut off, damaged or no checkpoint ({_line(error)}). Download or copy it again."
        ) from error


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
            # torch can be told to write no checksums; then they are 0.
            if record.CRC:
                with archive.open(record) as content:
                    while content.read(1 << 20):
                        pass


def _parts(path: Path, content: Any) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """State dict and notes of what torch loaded: a training program's checkpoint, or the state dict alone."""
    if not isinstance(content, dict):
        raise BadCheckpoint(f"{path} holds a {type(content).__name__}, not weights by name.")
    state_dict = content.get("state_dict", content)
    if not isinstance(state_dict, dict) or not state_dict:
        raise BadCheckpoint(f"{path} holds no weights: its state_dict is empty.")
    others = [
        str(name) for name, value in state_dict.items() if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise BadCheckpoint(
            f"{path} holds no state_dict: {_shown(others)} {'is' if len(others) == 1 else 'are'} no tensor. "
            "Save it as {'state_dict': model.state_dict()}."
        )
    meta = content.get("meta") if state_dict is not content else None
    return state_dict, _plain(meta) if isinstance(meta, dict) else {}


def _plain(value: Any, depth: int = 0) -> Any:
    """Notes as plain data. What lies deeper than training programs nest them, or holds itself, is None."""
    if depth > _MOST_NESTED:
        return None
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items() if not isinstance(key, _Inert)}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, depth + 1) for item in value) if type(value) in (list, tuple) else None
    return None if isinstance(value, _Inert) else value


def _without_wrappers(state_dict: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
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


def _refuse_not_finite(state_dict: Mapping[str, Tensor], path: Path) -> None:
    bad = [
        name
        for name, value in state_dict.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if bad:
        raise BadCheckpoint(
            f"{path}: {len(bad)} of its {len(state_dict)} parameters hold NaN or infinity ({_shown(bad)}): the "
            "training that wrote it diverged. Take an earlier checkpoint."
        )


def _misfit(model: nn.Module, path: Path, missing: list[str], unknown: list[str], mismatch: str) -> str:
    """The sentence that counts and names what does not fit, and the likeliest reason."""
    shapes = re.findall(r"size mismatch for (\S+): .*?torch\.Size\((.*?)\).*?torch\.Size\((.*?)\)", mismatch)
    faults = []
    if missing:
        faults.append(f"{len(missing)} of the model's parameters are missing from it ({_shown(missing)})")
    if unknown:
        faults.append(f"{len(unknown)} in it are unknown to the model ({_shown(unknown)})")
    if shapes:
        listed = [f"{name} is {_size(theirs)} in it, {_size(ours)} in the model" for name, theirs, ours in shapes]
        faults.append(f"{len(shapes)} have another shape ({_shown(listed)})")
    elif mismatch:
        faults.append(_line(mismatch))
    reason = "Use the config that it was trained with."
    if any(".attentions." in name for name in unknown):
        reason = "These are names of mmdet 2.x; take the weights that the model zoo of mmdet 3 offers."
    elif len(missing) == sum(not name.endswith("num_batches_tracked") for name in model.state_dict()):
        reason = "It is of another model altogether."
    return f"{path} does not fit this {type(model).__name__}: {'; '.join(faults)}. {reason}"


def _size(numbers: str) -> str:
    return "×".join(re.findall(r"\d+", numbers)) or "a single number"


def _shown(names: Iterable[str]) -> str:
    names = list(names)
    text = ", ".join(names[:_NAMES_SHOWN])
    return f"{text} and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else text


def _line(error: object) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return (text[:160] + "…" if len(text) > 160 else text) or type(error).__name__
