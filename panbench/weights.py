"""The weights of a model: found on this machine, whichever program downloaded them, or downloaded with consent."""

import os
import urllib.parse
from pathlib import Path

from panbench.base import hub
from panbench.base.download import download, what_is_wrong
from panbench.base.errors import WITHOUT_DOWNLOAD, BadCheckpoint, DownloadFailed, Way
from panbench.base.files import cache_dir, hash_in_name, md5_in_name, md5_of, sha256_of
from panbench.base.reporter import SILENT, Counting, Reporter, counter
from panbench.base.secrets import without_secrets
from panbench.base.text import licence_in_words
from panbench.catalog import (
    OTHER_WEIGHTS,
    ModelSpec,
    file_name,
    load_catalog,
    refuse_folder_without_weights,
    repository_of,
    twins_of,
)

__all__ = ["fetch_weights", "weights_here", "weights_path"]


def weights_path(spec: ModelSpec) -> Path | None:
    """Where the weights of a model are, or will be once downloaded; None for a model without weights.

    Those of a repository lie in a folder named after a commit, so until they are downloaded it is None for them, too.
    """
    if spec.weights is None:
        repository = repository_of(spec)
        folder = None if repository is None else hub.here(repository)
        return None if folder is None else hub.weights_in(folder)
    return cache_dir() / "weights" / file_name(spec.weights) if "://" in spec.weights else Path(spec.weights)


def weights_here(spec: ModelSpec) -> Path | None:
    """The file of a model's weights when it is on this machine, else None. Its hash is not checked."""
    path = weights_path(spec)
    return next((place for place in [path, *places_of_others(spec)] if place is not None and place.is_file()), None)


def places_of_others(spec: ModelSpec) -> list[Path]:
    """Where other programs keep the file of a model's URL, if its name has a hash that tells it from any other.

    In PyTorch's hub cache (mmengine and mmdet use it), in mim's and detectron2's caches, and in folders `checkpoints`:
    beside the config and in the current folder, as mmdet's documentation has it.
    """
    if spec.weights is None or "://" not in spec.weights:
        return []
    name = file_name(spec.weights)
    if hash_in_name(name) is None and md5_in_name(name) is None:
        return []
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folders = [
        Path(os.environ.get("TORCH_HOME") or f"{caches}/torch", "hub", "checkpoints"),
        Path("~/.cache/mim"),
        Path(
            os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache",
            urllib.parse.urlsplit(spec.weights).path.lstrip("/"),
        ).parent,
        *([] if spec.config is None else [spec.config.parent / "checkpoints"]),
        Path("checkpoints").absolute(),
    ]
    return [Path(os.path.expanduser(folder)) / name for folder in dict.fromkeys(folders)]


def fetch_weights(spec: ModelSpec, *, offline: bool = False, reporter: Reporter = SILENT) -> Path:
    """The file with a model's weights, downloaded into the cache when its config gives a URL.

    A file that is here already, in panbench's cache or another program's, is verified against the hash at the end of
    its name; a wrong one is fetched anew.
    offline: fetch nothing; the error says what would be fetched, how large it is, and by which command
    reporter: gets the licence of the weights as a notice before they are downloaded, the bytes that have arrived, and
        a notice where another program's copy is used; the SHA-256 of what was downloaded
    Raises BadCheckpoint when there are no weights here and none may be fetched, DownloadFailed when fetching fails.
    """
    repository = repository_of(spec)
    if repository is not None and spec.weights is None:
        return _fetch_from_hub(spec, repository, offline, reporter)
    path = weights_path(spec)
    refuse_folder_without_weights(spec)
    if path is None or spec.weights is None:
        raise BadCheckpoint(f"The config of {spec.title} names no weights.", ways=OTHER_WEIGHTS)
    if "://" not in spec.weights:
        refuse_missing_file(spec)
        return path
    problem = _problem(path)
    if problem is None:
        return path
    wrong = [f"{path}: {problem}"]
    for copy in filter(Path.is_file, places_of_others(spec)):
        problem = _problem(copy)
        if problem is None:
            reporter.notice(f"Weights of {spec.title}: {copy} is used, nothing is downloaded.")
            return copy
        wrong.append(f"{copy}: {problem}")
    if offline:
        raise BadCheckpoint(
            f"The weights of {spec.title} are not at {'; nor at '.join(wrong)}. {_how_to_fetch(spec)}, or put "
            f"{without_secrets(spec.weights)} there.",
            ways=[*_twins(spec), *OTHER_WEIGHTS],
        )
    if spec.license is not None and not path.is_file():
        reporter.notice(f"Weights of {spec.title}: {_licence(spec)}.")
    try:
        fetched = download(
            spec.weights,
            path,
            sha256=hash_in_name(path.name),
            check=None if md5_in_name(path.name) is None else lambda part: _md5_problem(part, path.name),
            progress=_counted(spec, reporter),
        )
        reporter.notice(f"Weights of {spec.title}: the SHA-256 of {path.name} is {sha256_of(fetched)}.")
        return fetched
    except DownloadFailed as error:
        kept = f" (another program's copy would be found, too: {PLACES})" if places_of_others(spec) else ""
        there = Way(f"copy {path.name} to {path.parent}{kept}")
        ways = [*_twins(spec), there, *(way for way in error.ways if "yourself" not in way.words), *OTHER_WEIGHTS]
        raise type(error)(error.reason, ways=[*ways, WITHOUT_DOWNLOAD]) from error


PLACES = "in PyTorch's hub cache, mim's, detectron2's, or a folder checkpoints/"
"""Where `places_of_others` looks, in words."""


def _twins(spec: ModelSpec) -> list[Way]:
    """How to run the same network with weights from another host."""
    return [
        Way(f"run the same network with other weights, {other.title}: --model {other.name} --download", "--model")
        for other in twins_of(spec)[:1]
    ]


def refuse_missing_file(spec: ModelSpec) -> None:
    """Raises BadCheckpoint where a model's weights are to be a file of this machine, and there is none."""
    if spec.weights is not None and "://" not in spec.weights and not Path(spec.weights).is_file():
        raise BadCheckpoint(f"There is no weights file {spec.weights} for {spec.title}.", ways=OTHER_WEIGHTS)


def _problem(path: Path) -> str | None:
    """What is wrong with a file of weights, by the hash in its name; None when nothing is."""
    return what_is_wrong(path, hash_in_name(path.name)) or _md5_problem(path, path.name)


def _md5_problem(path: Path, name: str) -> str | None:
    """What is wrong with a file that is, or will be, called `name`, by the MD5 in that name."""
    digits = md5_in_name(name)
    if digits is None or (found := md5_of(path)).startswith(digits):
        return None
    return f"its MD5 begins with {found[:6]}, not with {digits}"


def _licence(spec: ModelSpec) -> str:
    assert spec.license is not None
    return licence_in_words(spec.license) + (f" ({spec.license_source})" if spec.license_source else "")


def _counted(spec: ModelSpec, reporter: Reporter) -> Counting:
    return counter(reporter, f"{spec.title}: weights", "bytes")


def _fetch_from_hub(spec: ModelSpec, repository: hub.Repository, offline: bool, reporter: Reporter) -> Path:
    folder = hub.here(repository)
    if folder is None and offline:
        raise BadCheckpoint(
            f"The files of {spec.title} ({repository}) are not on this machine. {_how_to_fetch(spec)}; they come from "
            f"{repository.page}.",
            ways=OTHER_WEIGHTS,
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
