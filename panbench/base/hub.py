"""Repositories of the Hugging Face hub on this machine: listed, downloaded with consent, verified, found again.

huggingface_hub lists, downloads and keeps the files, in the cache that it shares with transformers (HF_HUB_CACHE,
HF_HOME): what is there already is not downloaded again, and an interrupted file starts over. Each file is held against
the size and the hash of the listing. HF_ENDPOINT puts another server in the place of huggingface.co; HF_TOKEN is sent
to it (never to where it redirects) and never printed.
"""

import hashlib
import json
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from panbench.base.errors import WITHOUT_DOWNLOAD, BadArgument, BadCheckpoint, BadModel, DownloadFailed, Unreachable
from panbench.base.extras import install_line
from panbench.base.files import cache_dir, sha256_of, write_json
from panbench.base.secrets import redacted, without_secrets

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

__all__ = [
    "WEIGHTS_NAMES",
    "Listing",
    "Repository",
    "Stated",
    "endpoint",
    "fetch",
    "here",
    "is_known",
    "list_files",
    "look_up",
    "parse",
    "recorded",
    "shards_named",
    "weights_in",
]

DEFAULT_REVISION = "main"
CONFIG = "config.json"
_WANTED = (CONFIG, "preprocessor_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS_NAMES = (*_WEIGHTS, *_SHARDS)
"""The files by which a folder has weights, the preferred first; the last two share them out among several files."""
_SHARD = re.compile(r"(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)")
_ANSWER_SECONDS = 30


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, at a revision: a branch, a tag or a commit."""

    name: str
    """owner/name."""
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        """The address in the form that `--model` takes."""
        return f"hf:{self.name}" + ("" if self.revision == DEFAULT_REVISION else f"@{self.revision}")

    @property
    def page(self) -> str:
        """The address that a person opens."""
        return f"{without_secrets(endpoint())}/{self.name}"


_ADDRESS = re.compile(r"hf:([\w.-]+/[\w.-]+?)(?:\.git)?(?:@([\w./-]+))?")


def parse(address: str) -> Repository:
    """The repository of `hf:owner/name` or `hf:owner/name@revision`. Raises BadArgument."""
    found = _ADDRESS.fullmatch(address.strip())
    if found is None:
        raise BadArgument(f"{address!r} is not an address of the hub. Write hf:owner/name or hf:owner/name@revision.")
    return Repository(found[1], found[2] or DEFAULT_REVISION)


def is_known(repository: Repository) -> bool:
    """Whether the hub's cache on this machine has anything of a repository."""
    folder = _folder(repository)
    return folder is not None and folder.is_dir()


def here(repository: Repository, *, weights: bool = True) -> Path | None:
    """The folder of a repository's files in the hub's cache, None when they were not downloaded, or not all.

    weights: whether the file of weights has to be among them
    """
    # The list of models asks this of dozens of repositories; importing what reads the cache takes 0.14 s.
    if not is_known(repository):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository.name, CONFIG, revision=repository.revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if not weights or _has_all_weights(folder) else None


def _has_all_weights(folder: Path) -> bool:
    found = weights_in(folder)
    if found is None or found.name not in _SHARDS:
        return found is not None
    try:
        return all((folder / name).is_file() for name in shards_named(found))
    except BadCheckpoint:
        return False


def weights_in(folder: Path) -> Path | None:
    """The file of weights in a folder, safetensors first, or the index of several files; None when there is none."""
    return next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)


def shards_named(index: Path) -> list[str]:
    """The files beside an index among which it shares out the weights, in order. Raises BadCheckpoint."""
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        plain = bool(names) and all(re.fullmatch(r"[\w.-]+", name) for name in names)
    except FileNotFoundError:
        raise BadCheckpoint(f"There is no weights file {index}.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{index} is not an index of weights ({type(error).__name__}: {error}).") from error
    if not plain:
        raise BadCheckpoint(f"{index} is not an index of weights: its weight_map names no files beside it.")
    return names


@dataclass(frozen=True)
class Stated:
    """Facts on a repository before any download: its licence, and the bytes of its weights."""

    license: str | None
    size: int | None


def look_up(repository: Repository) -> Stated:
    """Asks the hub for licence and size. Raises BadModel for a missing repository, DownloadFailed without a network."""
    listing = list_files(repository)
    sizes = [listing.files[name].size for name in _weights_among(listing.files, repository)]
    return Stated(listing.license, _sum(sizes))


def fetch(
    repository: Repository,
    *,
    weights: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
    listing: "Listing | None" = None,
) -> Path:
    """The folder of a repository's config and weights in the hub's cache, downloaded as far as they are not there.

    listing: what `list_files` returned, for callers that show the licence first; None asks the hub
    Each file is verified, also one that was there: weights against the SHA-256 that the hub states, small files against
    git's hash. What came is written down (`recorded`): commit, sizes, hashes, licence.
    Raises BadModel for a repository, revision or file that does not exist, DownloadFailed when the hub cannot be
    reached.
    """
    from panbench.base.download import require_space

    listing = listing or list_files(repository)
    files, commit = listing.files, listing.commit
    if CONFIG not in files:
        raise BadModel(f"{repository} has no {CONFIG}, so it is not a model of transformers. See {repository.page}.")
    wanted = [name for name in _WANTED if name in files]
    heavy = _weights_among(files, repository) if weights else []
    total, before = _sum([files[name].size for name in heavy]), 0
    if total is not None and here(repository) is None:
        require_space(_folder(repository) or Path(), total, str(repository))
    record: dict[str, Any] = {"repository": repository.name, "commit": commit, "license": listing.license, "files": {}}
    paths = []
    for name in (*wanted, *heavy):
        counted = None if progress is None or name not in heavy else _counted(progress, before, total)
        path = _fetch_file(repository, files[name], counted)
        before += (files[name].size or 0) if name in heavy else 0
        sha256 = files[name].sha256 or sha256_of(path)
        record["files"][name] = {"size": path.stat().st_size, "sha256": sha256}
        paths.append(path)
    if any(path.parent != paths[0].parent or path.parent.name != commit for path in paths):
        raise DownloadFailed(f"{repository} changed while it was being downloaded. Run the same command again.")
    write_json(_record_of(repository, commit), record)
    return paths[0].parent


def _counted(
    progress: Callable[[int, int | None], None], before: int, total: int | None
) -> Callable[[int, int | None], None]:
    """Progress over several files, of which `before` bytes have come."""
    return lambda done, own: progress(before + done, own if total is None else total)


def _sum(sizes: Sequence[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def recorded(repository: Repository, folder: Path) -> Mapping[str, Any]:
    """What was written down when a folder was fetched; {} for files that somebody else put into the hub's cache."""
    try:
        found = json.loads(_record_of(repository, folder.name).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class _File:
    """A file of a repository as the hub lists it; sha256 of large files, git's hash of each."""

    name: str
    size: int | None
    sha256: str | None
    git: str | None

    def problem(self, path: Path) -> str | None:
        """What is wrong with a file of this name, by the hub's size and hash."""
        from panbench.base.download import what_is_wrong

        problem = what_is_wrong(path, self.sha256, self.size)
        return problem or (_other_than(self.git, path) if self.git and not self.sha256 else None)


def _fetch_file(repository: Repository, file: _File, progress: Callable[[int, int | None], None] | None) -> Path:
    """The path of a file in the hub's cache, verified; what arrived otherwise is removed."""
    # Imported here: who only names a model need not wait for an HTTP client.
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    class Bar:
        """What huggingface_hub tells of the bytes that arrive, in place of a bar of its own."""

        def __init__(self, initial: int = 0, total: int | None = None, **_: Any) -> None:
            self.done, self.total = initial, total

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, more: float) -> None:
            self.done += int(more)
            if progress is not None:
                progress(self.done, self.total)

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    address: dict[str, Any] = {"repo_id": repository.name, "filename": file.name, "revision": repository.revision}
    before = try_to_load_from_cache(**address)
    with _in_sentences(repository):
        path = Path(hf_hub_download(**address, endpoint=endpoint(), token=token(), tqdm_class=cast(Any, Bar)))
    problem = file.problem(path)
    if problem is None:
        return path
    if not isinstance(before, str):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    raise DownloadFailed(
        f"{path} is not the {file.name} of {repository} that the hub lists: {problem}. Delete {path.resolve()} and "
        "run the same command again."
    )


@dataclass(frozen=True)
class Listing:
    """The hub's listing of a repository at a revision: commit, files by name, licence."""

    commit: str
    files: Mapping[str, _File]
    license: str | None


_COMMIT, _SHA256, _GIT = (re.compile(rf"[0-9a-f]{{{digits}}}") for digits in ("40,64", "64", "40,64"))


def list_files(repository: Repository) -> Listing:
    """Asks the hub for commit, files and licence. Raises as `fetch`."""
    with _in_sentences(repository):
        from huggingface_hub import HfApi

        info = HfApi(endpoint=endpoint(), token=token()).model_info(
            repository.name, revision=repository.revision, files_metadata=True, timeout=_ANSWER_SECONDS
        )
        if not _COMMIT.fullmatch(info.sha or ""):
            raise ValueError("it names no commit")
        return Listing(str(info.sha), _files(info), _license(info))


def _license(info: "ModelInfo") -> str | None:
    """The licence that a repository's card states; "other" has its name elsewhere in the card."""
    card = info.card_data
    if card is None:
        return None
    stated = card.get("license_name") if card.get("license") == "other" else None
    found = stated or card.get("license")
    return str(found[0] if isinstance(found, list) and found else found) if found else None


def _files(info: "ModelInfo") -> dict[str, _File]:
    """The files of a repository by name. Raises ValueError for sizes and hashes that no hub has."""
    found = {}
    for stated in info.siblings or ():
        lfs = stated.lfs
        size = stated.size if lfs is None or lfs.size is None else lfs.size
        file = _File(stated.rfilename, size, None if lfs is None else lfs.sha256, stated.blob_id)
        if size is not None and not (type(size) is int and 0 <= size < 1 << 53):
            raise ValueError(f"the size of {file.name!r} is no number of bytes")
        for pattern, digest in ((_SHA256, file.sha256), (_GIT, file.git)):
            if digest is not None and not pattern.fullmatch(digest):
                raise ValueError(f"the hash of {file.name!r} is none")
        found[file.name] = file
    return found


def _weights_among(files: Mapping[str, Any], repository: Repository) -> list[str]:
    """The file of weights, or those among which they are shared out and then their index."""
    for name in _WEIGHTS:
        if name in files:
            return [name]
    for index in _SHARDS:
        kind = index.partition(".")[0]
        shards = sorted(name for name in files if (found := _SHARD.fullmatch(name)) and found[1] == kind)
        if index in files and shards:
            # The index comes last: where it is, all of them are.
            return [*shards, index]
    raise BadCheckpoint(f"{repository} has no weights: neither {' nor '.join(WEIGHTS_NAMES)}. See {repository.page}.")


@contextmanager
def _in_sentences(repository: Repository) -> Iterator[None]:
    """Turns what huggingface_hub raises into a sentence that says what to do."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise BadModel(
            f"{repository} needs the package huggingface_hub ({error}). Install it with: {install_line('transformers')}"
        ) from error
    place = without_secrets(endpoint())
    by_hand = (
        "on a machine with a network, download the repository's config.json and weights into a folder and pass "
        "--model FOLDER"
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
            sentence = f"is gated: accept its terms at {repository.page}, and set HF_TOKEN to a token of your account."
            raise BadModel(f"{repository} {sentence}") from error
        if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
            # The hub does not tell strangers which of the two it is.
            raise BadModel(
                f"There is no repository {repository.name} on {place}, or it is private: then set HF_TOKEN to a token "
                "that may read it."
            ) from error
        raise DownloadFailed(f"{repository}: {place} answers with status {status}. Try again later.") from error
    except errors.OfflineModeIsEnabled as error:
        raise DownloadFailed(
            f"{repository}: HF_HUB_OFFLINE forbids asking {place}.", ways=["unset it", by_hand, WITHOUT_DOWNLOAD]
        ) from error
    except errors.HFValidationError as error:
        raise BadArgument(f"{repository} cannot be the address of a repository: {error}") from error
    except (errors.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        reason = redacted(str(error)) or type(error).__name__
        raise Unreachable(
            f"{repository}: {place} cannot be reached ({reason}).", ways=[by_hand, WITHOUT_DOWNLOAD]
        ) from error
    except (errors.FileMetadataError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DownloadFailed(f"{repository}: the answer of {place} is not that of a Hugging Face hub.") from error
    except OSError as error:
        raise DownloadFailed(
            f"{repository}: the hub's cache cannot be written ({error.strerror or error}). HF_HUB_CACHE names another "
            "folder for it."
        ) from error


def _folder(repository: Repository) -> Path | None:
    """Where the hub's cache has a repository; None where huggingface_hub is not installed."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return Path(constants.HF_HUB_CACHE) / f"models--{repository.name.replace('/', '--')}"


def _record_of(repository: Repository, commit: str) -> Path:
    return cache_dir() / "hub" / repository.name.replace("/", "--") / f"{urllib.parse.quote(commit, safe='')}.json"


def _other_than(blob: str, path: Path) -> str | None:
    """What is wrong with a file that git names `blob`."""
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return None if found == blob else f"git's hash of it is {found[:12]}, not {blob[:12]}"


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, else huggingface.co. Raises BadArgument if it is not an address."""
    stated = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    if not stated:
        return "https://huggingface.co"
    try:
        parts = urllib.parse.urlsplit(stated)
        # Reading the port raises ValueError for one that is not a number.
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or not stated.isprintable() or " " in stated:
        raise BadArgument(
            "HF_ENDPOINT is not the address of a server. Write https://HOST or https://HOST:PORT; characters such as "
            "/, #, ? and @ in a password have to be percent-encoded."
        )
    return stated


def token() -> str | None:
    """HF_TOKEN without the spaces around it; None when it is not set. Raises BadArgument if it is not a token."""
    stated = os.environ.get("HF_TOKEN", "").strip()
    if not (stated.isascii() and stated.isprintable()) or " " in stated:
        raise BadArgument(
            "HF_TOKEN is not a token: it holds a space, a line break or a character that is not ASCII. Copy it again."
        )
    return stated or None
