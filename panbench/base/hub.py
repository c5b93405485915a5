"""Repositories of the Hugging Face hub: listed, downloaded with consent, verified, found in the local cache.

huggingface_hub lists, downloads and stores the files, in the cache that it shares with transformers (HF_HUB_CACHE,
HF_HOME): cached files are not downloaded again, and an interrupted file starts over. Each file is checked against the
size and the hash of the listing. HF_ENDPOINT replaces huggingface.co by another server; HF_TOKEN is sent to that server
(never to where it redirects) and never printed.
"""

import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from panbench.base.errors import WITHOUT_DOWNLOAD, BadArgument, BadCheckpoint, BadModel, DownloadFailed, Unreachable
from panbench.base.extras import install_line
from panbench.base.files import file_mismatch, require_space
from panbench.base.reporter import Counting
from panbench.base.secrets import redacted, without_secrets

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

DEFAULT_REVISION = "main"
CONFIG = "config.json"
_CONFIG_FILES = (CONFIG, "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS_NAMES = (*_WEIGHTS, *_SHARDS)
"""The names that a folder's weights may have, the preferred first; the last two are indices of several files."""
_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True)
class Repository:
    """A repository of the hub and its revision: a branch, a tag or a commit."""

    name: str
    """owner/name."""
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        """Returns the repository in the form that `--model` takes."""
        return f"hf:{self.name}" + ("" if self.revision == DEFAULT_REVISION else f"@{self.revision}")

    @property
    def page(self) -> str:
        """The URL of the repository's web page."""
        return f"{without_secrets(endpoint())}/{self.name}"


_REPOSITORY = re.compile(r"hf:([\w.-]+/[\w.-]+?)(?:\.git)?(?:@([\w./-]+))?")


def parse_repository(address: str) -> Repository:
    """Parses `hf:owner/name` or `hf:owner/name@revision`. Raises BadArgument."""
    found = _REPOSITORY.fullmatch(address.strip())
    if found is None:
        raise BadArgument(f"{address!r} is not a repository of the hub. Write hf:owner/name or hf:owner/name@revision.")
    return Repository(found[1], found[2] or DEFAULT_REVISION)


def is_in_cache(repository: Repository) -> bool:
    """True if the hub's cache on this machine has a file of a repository, whatever its revision."""
    folder = _hub_cache_folder(repository)
    return folder is not None and folder.is_dir()


def cached_folder(repository: Repository, *, weights: bool = True) -> Path | None:
    """Returns the folder of a repository's revision in the hub's cache; None if files are missing.

    weights: whether the weights have to be there, besides the config
    """
    # The list of models calls this for dozens of repositories; importing the cache reader takes 0.14 s.
    if not is_in_cache(repository):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository.name, CONFIG, revision=repository.revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if not weights or _has_all_weight_shards(folder) else None


def _has_all_weight_shards(folder: Path) -> bool:
    """True if a folder has the weights file, or all shards that the index of weights lists."""
    found = find_weights(folder)
    if found is None or found.name not in _SHARDS:
        return found is not None
    try:
        return all((folder / name).is_file() for name in read_shard_names(found))
    except BadCheckpoint:
        return False


def find_weights(folder: Path) -> Path | None:
    """Finds the weights file in a folder, or the index of sharded weights; safetensors first. None if absent."""
    return next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)


def read_shard_names(index: Path) -> list[str]:
    """Reads the sorted names of the weight files that an index lists. Raises BadCheckpoint."""
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        stay_in_folder = bool(names) and all(re.fullmatch(r"[\w.-]+", name) for name in names)
    except FileNotFoundError:
        raise BadCheckpoint(f"There is no weights file {index}.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{index} is not an index of weights ({type(error).__name__}: {error}).") from error
    if not stay_in_folder:
        raise BadCheckpoint(f"{index} is not an index of weights: its weight_map names no files in its folder.")
    return names


@dataclass(frozen=True)
class Listing:
    """What the hub lists of a repository at a revision: commit, files and licence.

    files: by name
    weights: the name of the weights file, or the names of sharded weights and their index
    size: bytes of all weights, None if the hub does not list it
    license: as the repository's card declares it
    """

    commit: str
    files: "Mapping[str, RepoSibling]"
    weights: tuple[str, ...]
    size: int | None
    license: str | None


def list_files(repository: Repository) -> Listing:
    """Requests commit, files and licence from the hub. Raises the errors of `fetch`."""
    with _translated_errors(repository):
        from huggingface_hub import HfApi

        info = HfApi(endpoint=endpoint(), token=token()).model_info(
            repository.name, revision=repository.revision, files_metadata=True, timeout=_TIMEOUT_SECONDS
        )
        if not info.sha:
            raise ValueError("it names no commit")
        files = {file.rfilename: file for file in info.siblings or ()}
        if CONFIG not in files:
            raise BadModel(
                f"{repository} has no {CONFIG}, so it is not a model of transformers. See {repository.page}."
            )
        weights = _select_weight_files(files, repository)
        sizes = [files[name].size for name in weights]
        size = None if None in sizes else sum(file_size or 0 for file_size in sizes)
        return Listing(info.sha, files, weights, size, _license_of_hub_card(info))


def _license_of_hub_card(info: "ModelInfo") -> str | None:
    """Reads the licence from a repository's card; if it is "other", its name is in another field of the card."""
    card = info.card_data
    if card is None:
        return None
    declared = card.get("license_name") if card.get("license") == "other" else None
    found = declared or card.get("license")
    return str(found[0] if isinstance(found, list) and found else found) if found else None


def fetch(
    repository: Repository, *, progress: Counting = lambda done, total: None, listing: Listing | None = None
) -> Path:
    """Downloads what the hub's cache lacks of a repository's config and weights; returns their folder.

    progress: called with the bytes of all weights received so far, and their total
    listing: the result of `list_files`, for callers that show the licence first; None asks the hub
    Each file is verified, cached ones too: weights against the hub's SHA-256, small files against git's hash.
    Raises BadModel for a repository, revision or file that does not exist, DownloadFailed when the hub cannot be
    reached.
    """
    listing = listing or list_files(repository)
    total, before, paths = listing.size, 0, []
    with _translated_errors(repository):
        if total is not None and cached_folder(repository) is None:
            require_space(_hub_cache_folder(repository) or Path(), total, str(repository))
        for name in (name for name in _CONFIG_FILES if name in listing.files):
            paths.append(_download_into_cache(repository, listing.files[name], lambda done, size: None))
        for name in listing.weights:

            def report_all_weights(done: int, size: int | None, before: int = before) -> None:
                """Adds the sizes of the earlier weight files, so that one progress bar covers all of them."""
                progress(before + done, total or size)

            paths.append(_download_into_cache(repository, listing.files[name], report_all_weights))
            before += listing.files[name].size or 0
    if any(path.parent != paths[0].parent or path.parent.name != listing.commit for path in paths):
        raise DownloadFailed(f"{repository} changed while it was being downloaded. Run the same command again.")
    return paths[0].parent


def _download_into_cache(repository: Repository, file: "RepoSibling", progress: Counting) -> Path:
    """Downloads a file into the hub's cache, unless it is there, and verifies it; a wrong download is removed."""
    # Imported here: commands that only name a model should not wait for an HTTP client.
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[type-arg, misc]
        """Passes the bytes received to `progress` and draws nothing."""

        def __init__(self, **arguments: Any) -> None:
            """Disables the drawing of huggingface_hub's progress bar."""
            super().__init__(**{**arguments, "disable": True})

        def update(self, n: float | None = 1) -> None:
            """Called by huggingface_hub with the number of bytes that were received."""
            self.n += int(n or 0)
            progress(self.n, self.total)

    address: dict[str, Any] = {"repo_id": repository.name, "filename": file.rfilename, "revision": repository.revision}
    before = try_to_load_from_cache(**address)
    path = Path(hf_hub_download(**address, endpoint=endpoint(), token=token(), tqdm_class=Bar))
    problem = _hub_file_mismatch(file, path)
    if problem is None:
        return path
    if not isinstance(before, str):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    raise DownloadFailed(
        f"{path} is not the {file.rfilename} of {repository} that the hub lists: {problem}. Delete {path.resolve()} "
        "and run the same command again."
    )


def _hub_file_mismatch(file: "RepoSibling", path: Path) -> str | None:
    """Compares a file with the size and the hash that the hub lists; returns the difference in words, or None."""
    if file.lfs is not None:
        return file_mismatch(path, file.lfs.sha256, file.size)
    if (problem := file_mismatch(path, size=file.size)) is not None or file.blob_id is None:
        return problem
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return None if found == file.blob_id else f"git's hash of it is {found[:12]}, not {file.blob_id[:12]}"


def _select_weight_files(files: Collection[str], repository: Repository) -> tuple[str, ...]:
    """Selects a repository's weights: one file, or shards followed by their index. Raises BadCheckpoint."""
    for name in _WEIGHTS:
        if name in files:
            return (name,)
    for index in _SHARDS:
        kind = index.partition(".")[0]
        shards = sorted(name for name in files if (found := _SHARD.fullmatch(name)) and found[1] == kind)
        if index in files and shards:
            # The index comes last: if it exists, all shards do.
            return (*shards, index)
    raise BadCheckpoint(f"{repository} has no weights: neither {' nor '.join(WEIGHTS_NAMES)}. See {repository.page}.")


@contextmanager
def _translated_errors(repository: Repository) -> Iterator[None]:
    """Context that turns exceptions of huggingface_hub into PanbenchErrors that say what to do."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise BadModel(
            f"{repository} needs the package huggingface_hub ({error}). Install it with: {install_line('transformers')}"
        ) from error
    host = without_secrets(endpoint())
    by_hand = (
        f"on a machine with a network, download config.json and {_WEIGHTS[0]} of {repository.page} into a folder and "
        "pass --model FOLDER"
    )
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise BadModel(
            f"{repository.name} has no revision {repository.revision!r}. See {repository.page}/commits/main."
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if isinstance(error, errors.GatedRepoError) or status == 403:
            message = f"is gated: accept its terms at {repository.page}, and set HF_TOKEN to a token of your account."
            raise BadModel(f"{repository} {message}") from error
        if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
            # Without access, the hub does not say which of the two it is.
            raise BadModel(
                f"There is no repository {repository.name} on {host}, or it is private: then set HF_TOKEN to a token "
                "that may read it."
            ) from error
        raise DownloadFailed(f"{repository}: {host} answers with status {status}. Try again later.") from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadFailed(
            f"{repository}: HF_HUB_OFFLINE forbids asking {host}.", ways=["unset it", by_hand, WITHOUT_DOWNLOAD]
        ) from error
    except errors.HFValidationError as error:
        raise BadArgument(f"{repository} cannot be the name of a repository: {error}") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        reason = redacted(str(error)) or type(error).__name__
        raise Unreachable(
            f"{repository}: {_unreachable_host(error, host)} cannot be reached ({reason}).",
            ways=["name another server that has it in HF_ENDPOINT", by_hand, WITHOUT_DOWNLOAD],
        ) from error
    except (errors.FileMetadataError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DownloadFailed(f"{repository}: the answer of {host} is not that of a Hugging Face hub.") from error
    except OSError as error:
        raise DownloadFailed(
            f"{repository}: the hub's cache cannot be written ({error.strerror or error}). HF_HUB_CACHE names another "
            "folder for it."
        ) from error


def _unreachable_host(error: Exception, server: str) -> str:
    """Names the server that did not answer: the hub `server`, or the one it redirects to for large files."""
    try:
        host = str(cast(Any, error).request.url.host)
    except (AttributeError, RuntimeError):
        return server
    return server if host == urllib.parse.urlsplit(server).hostname else f"{host}, where {server} keeps large files,"


def _hub_cache_folder(repository: Repository) -> Path | None:
    """Returns the folder of a repository in the hub's cache; None if huggingface_hub is not installed."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.name.replace('/', '--')}"


def endpoint() -> str:
    """Returns the hub's URL: HF_ENDPOINT, else huggingface.co. Raises BadArgument if it is not a URL."""
    declared = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or "https://huggingface.co"
    with suppress(ValueError):  # a port that is not a number
        parts = urllib.parse.urlsplit(declared)
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        if named and declared.isprintable() and " " not in declared:
            return declared
    raise BadArgument(
        "HF_ENDPOINT is not the URL of a server. Write https://HOST or https://HOST:PORT; characters such as "
        "/, #, ? and @ in a password have to be percent-encoded."
    )


def token() -> str | None:
    """Returns HF_TOKEN without surrounding spaces; None when not set. Raises BadArgument if it is not a token."""
    declared = os.environ.get("HF_TOKEN", "").strip()
    if not (declared.isascii() and declared.isprintable()) or " " in declared:
        raise BadArgument(
            "HF_TOKEN is not a token: it holds a space, a line break or a character that is not ASCII. Copy it again."
        )
    return declared or None
