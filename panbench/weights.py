"""Finds a model's weights on this machine, whichever program downloaded them; else downloads them with consent."""

import os
import urllib.parse
from pathlib import Path

from panbench.base import hub
from panbench.base.download import download
from panbench.base.errors import WITHOUT_DOWNLOAD, BadCheckpoint, DownloadFailed, Way
from panbench.base.files import cache_dir, file_mismatch, hash_in_name, md5_in_name, sha256_of
from panbench.base.reporter import SILENT, Counting, Reporter, counter
from panbench.base.secrets import without_secrets
from panbench.base.text import licence_in_words
from panbench.catalog import (
    OTHER_WEIGHTS,
    ModelSpec,
    download_size,
    file_name,
    load_catalog,
    refuse_folder_without_weights,
    repository_of,
    twins_of,
)


def weights_path(spec: ModelSpec) -> Path | None:
    """Returns where a model's weights are, or will be once downloaded; None for a model without weights.

    Weights of a repository are stored in a folder named after a commit, so None until they are downloaded.
    """
    if spec.weights is None:
        repository = repository_of(spec)
        folder = None if repository is None else hub.cached_folder(repository)
        return None if folder is None else hub.find_weights(folder)
    return cache_dir() / "weights" / file_name(spec.weights) if "://" in spec.weights else Path(spec.weights)


def weights_here(spec: ModelSpec) -> Path | None:
    """Finds a model's weights on this machine, without checking the hash; None if absent."""
    path = weights_path(spec)
    return next(
        (
            candidate
            for candidate in [path, *paths_in_other_caches(spec)]
            if candidate is not None and candidate.is_file()
        ),
        None,
    )


def paths_in_other_caches(spec: ModelSpec) -> list[Path]:
    """Lists where other programs may have stored a model's file; [] unless its name has a hash that identifies it.

    Checks PyTorch's hub cache (used by mmengine and mmdet), mim's and detectron2's caches, and folders `checkpoints`
    next to the config and in the current folder, as in mmdet's documentation.
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
    """Finds a model's weights, or downloads them into the cache if its config gives a URL; returns the file.

    A file that exists in panbench's cache or another program's is verified against the hash at the end of its name; a
    damaged one is downloaded again.
    offline: download nothing; the error names the file, its size and the command that downloads it
    reporter: gets the licence of the weights as a notice before the download, the bytes received, the SHA-256 of the
        downloaded file, and a notice if another program's copy is used
    Raises BadCheckpoint if the weights do not exist and may not be downloaded, DownloadFailed if the download fails.
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
    problem = _hash_mismatch(path)
    if problem is None:
        return path
    wrong = [f"{path}: {problem}"]
    for copy in filter(Path.is_file, paths_in_other_caches(spec)):
        problem = _hash_mismatch(copy)
        if problem is None:
            reporter.notice(f"Weights of {spec.title}: {copy} is used, nothing is downloaded.")
            return copy
        wrong.append(f"{copy}: {problem}")
    if offline:
        raise BadCheckpoint(
            f"The weights of {spec.title} are not at {'; nor at '.join(wrong)}. {_how_to_fetch(spec)}, or put "
            f"{without_secrets(spec.weights)} there.",
            ways=[*_other_weights_hints(spec), *OTHER_WEIGHTS],
        )
    if spec.license is not None and not path.is_file():
        reporter.notice(f"Weights of {spec.title}: {_weights_licence_note(spec)}.")
    try:
        fetched = download(
            spec.weights,
            path,
            sha256=hash_in_name(path.name),
            md5=md5_in_name(path.name),
            progress=_weights_counter(spec, reporter),
        )
        reporter.notice(f"Weights of {spec.title}: the SHA-256 of {path.name} is {sha256_of(fetched)}.")
        return fetched
    except DownloadFailed as error:
        copies = f" (another program's copy would be found, too: {OTHER_CACHES})" if paths_in_other_caches(spec) else ""
        there = Way(f"copy {path.name} to {path.parent}{copies}")
        ways = [
            *_other_weights_hints(spec),
            there,
            *(way for way in error.ways if "yourself" not in way.words),
            *OTHER_WEIGHTS,
        ]
        raise type(error)(error.reason, ways=[*ways, WITHOUT_DOWNLOAD]) from error


OTHER_CACHES = "in PyTorch's hub cache, mim's, detectron2's, or a folder checkpoints/"
"""Describes the folders of `paths_in_other_caches` for messages."""


def _other_weights_hints(spec: ModelSpec) -> list[Way]:
    """Returns hints on how to run the same network with weights from another host."""
    return [
        Way(f"run the same network with other weights, {other.title}: --model {other.name} --download", "--model")
        for other in twins_of(spec)[:1]
    ]


def refuse_missing_file(spec: ModelSpec) -> None:
    """Raises BadCheckpoint if a model's weights are a local file that does not exist."""
    if spec.weights is not None and "://" not in spec.weights and not Path(spec.weights).is_file():
        raise BadCheckpoint(f"There is no weights file {spec.weights} for {spec.title}.", ways=OTHER_WEIGHTS)


def _hash_mismatch(path: Path) -> str | None:
    """Compares a weights file with the hash in its name; returns the difference in words, or None."""
    return file_mismatch(path, hash_in_name(path.name), md5=md5_in_name(path.name))


def _weights_licence_note(spec: ModelSpec) -> str:
    """Describes the licence of a model's weights and where it is stated."""
    assert spec.license is not None
    return licence_in_words(spec.license) + (f" ({spec.license_source})" if spec.license_source else "")


def _weights_counter(spec: ModelSpec, reporter: Reporter) -> Counting:
    """Returns the function that reports the bytes of a weights download."""
    return counter(reporter, f"{spec.title}: weights", "bytes")


def _fetch_from_hub(spec: ModelSpec, repository: hub.Repository, offline: bool, reporter: Reporter) -> Path:
    """Returns the weights file of a repository, downloaded after its licence was reported as a notice."""
    folder = hub.cached_folder(repository)
    if folder is None and offline:
        raise BadCheckpoint(
            f"The files of {spec.title} ({repository}) are not on this machine. {_how_to_fetch(spec)}; they come from "
            f"{repository.page}.",
            ways=OTHER_WEIGHTS,
        )
    if folder is None:
        try:
            listing = hub.list_files(repository)
            parts = [] if spec.license is None else [_weights_licence_note(spec)]
            at_the_hub = "no licence is declared" if listing.license is None else licence_in_words(listing.license)
            parts.append(f"at the hub {at_the_hub} ({repository.page})")
            reporter.notice(f"Weights of {spec.title}: {'; '.join(parts)}.")
            folder = hub.fetch(repository, listing=listing, progress=_weights_counter(spec, reporter))
        except DownloadFailed as error:
            raise type(error)(error.reason, ways=[*_other_weights_hints(spec), *error.ways]) from error
    weights = hub.find_weights(folder)
    assert weights is not None
    return weights


def _how_to_fetch(spec: ModelSpec) -> str:
    """Explains how to download a model's weights, with their size and licence."""
    expected = download_size(spec)
    size = "their size is unknown" if expected is None else f"about {expected / 1e6:,.0f} MB"
    if spec.license is not None:
        size += f", {licence_in_words(spec.license)}"
    known = load_catalog().get(spec.name)
    if known is None or known.weights != spec.weights:
        return f"Fetch them ({size}) by adding --download"
    return f"Fetch them ({size}) with `panbench models --download {spec.name}` or by adding --download"
