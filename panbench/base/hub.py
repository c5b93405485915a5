"""Repositories of the Hugging Face hub on this machine: listed, downloaded with consent, verified, found again.

Files lie in the cache folder under `hub/owner--name/<commit>/`; `refs/<revision>` beside them says which commit a
revision was when it was fetched, so that a run without a network uses what is here. HF_ENDPOINT puts another server in
the place of huggingface.co; HF_TOKEN is sent to it (never to where it redirects) and never printed.
"""

import functools
import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from panbench.base.errors import BadArgument, BadCheckpoint, BadModel, DownloadFailed
from panbench.base.files import atomic_write, cache_dir
from panbench.base.hub_settings import endpoint, token
from panbench.base.secrets import without_secrets

__all__ = ["Repository", "Stated", "fetch", "here", "look_up", "parse", "recorded", "weights_in"]

DEFAULT_REVISION = "main"
CONFIG = "config.json"
_WANTED = (CONFIG, "preprocessor_config.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_SHARDS = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_RECORD = "panbench.json"


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, at a revision: a branch, a tag or a commit."""

    name: str
    """owner/name."""
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        """As `--model` takes it."""
        return f"hf:{self.name}" + ("" if self.revision == DEFAULT_REVISION else f"@{self.revision}")

    @property
    def folder(self) -> Path:
        """Where its commits lie in the cache folder."""
        return cache_dir() / "hub" / self.name.replace("/", "--")

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


def here(repository: Repository, *, weights: bool = True) -> Path | None:
    """The folder of a repository's files on this machine, None when they were not fetched, or not all.

    weights: whether the file of weights has to be among them
    """
    ref = repository.folder / "refs" / _safe(repository.revision)
    commit = ref.read_text("utf-8").strip() if ref.is_file() else repository.revision
    folder = repository.folder / _safe(commit)
    if not (folder / CONFIG).is_file() or (weights and weights_in(folder) is None):
        return None
    return folder


def weights_in(folder: Path) -> Path | None:
    """The file of weights in a folder, safetensors first; None when there is none."""
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


@dataclass(frozen=True)
class Stated:
    """What the hub says of a repository before anything is downloaded: its licence, and the weights' bytes."""

    license: str | None
    size: int | None


def look_up(repository: Repository) -> Stated:
    """Asks the hub for licence and size. Raises BadModel for what is not there, DownloadFailed without a network."""
    listing = _listing(repository)
    files = {str(each["rfilename"]): each for each in listing.get("siblings", []) if "rfilename" in each}
    weights = files.get(_weights_among(files, repository), {})
    return Stated(_license(listing), (weights.get("lfs") or {}).get("size") or weights.get("size"))


def fetch(
    repository: Repository,
    *,
    weights: bool = True,
    progress: Callable[[int, int | None], None] | None = None,
    told: Callable[[str | None], None] = lambda license: None,
) -> Path:
    """The folder of a repository's config and weights, downloaded as far as they are not here.

    told: called with the licence that the hub states, before the first file is downloaded
    Each file is verified: weights against the SHA-256 that the hub states, small files against git's hash. What came is
    written down in `panbench.json` beside it: commit, sizes, hashes, licence.
    Raises BadModel for a repository, revision or file that there is not, DownloadFailed when the hub cannot be reached.
    """
    # Imported here: who only names a model need not wait for an HTTP client.
    from panbench.base.download import download

    listing = _listing(repository)
    commit = str(listing.get("sha") or repository.revision)
    files = {str(each["rfilename"]): each for each in listing.get("siblings", []) if "rfilename" in each}
    if CONFIG not in files:
        raise BadModel(f"{repository} has no {CONFIG}, so it is not a model of transformers. See {repository.page}.")
    wanted = [name for name in _WANTED if name in files]
    if weights:
        wanted.append(_weights_among(files, repository))
    told(_license(listing))
    folder = repository.folder / _safe(commit)
    record: dict[str, Any] = {
        "repository": repository.name,
        "commit": commit,
        "license": _license(listing),
        "files": {},
    }
    for name in wanted:
        stated = files[name].get("lfs") or {}
        sha256, size = stated.get("sha256"), stated.get("size") or files[name].get("size")
        blob = files[name].get("blobId")
        path = download(
            f"{endpoint()}/{repository.name}/resolve/{urllib.parse.quote(commit, safe='')}/{name}",
            folder / name,
            sha256=sha256,
            size=size,
            progress=progress if name in _WEIGHTS else None,
            check=None if sha256 or not blob else functools.partial(_other_than, blob),
            headers=_authorization(),
        )
        record["files"][name] = {"size": path.stat().st_size, "sha256": sha256 or _sha256(path)}
    with atomic_write(folder / _RECORD, "w") as handle:
        handle.write(json.dumps(record, indent=2) + "\n")
    ref = repository.folder / "refs" / _safe(repository.revision)
    ref.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(ref, "w") as handle:
        handle.write(commit + "\n")
    return folder


def recorded(folder: Path) -> Mapping[str, Any]:
    """What was written down when a folder was fetched; {} for a folder that was not fetched by panbench."""
    try:
        found = json.loads((folder / _RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _license(listing: Mapping[str, Any]) -> str | None:
    """The licence that a repository's card states; "other" has its name elsewhere in the card."""
    card = listing.get("cardData") or {}
    stated = card.get("license_name") if card.get("license") == "other" else None
    found = stated or card.get("license")
    return str(found[0] if isinstance(found, list) and found else found) if found else None


def _weights_among(files: Mapping[str, Any], repository: Repository) -> str:
    for name in _WEIGHTS:
        if name in files:
            return name
    if any(name in files for name in _SHARDS):
        raise BadCheckpoint(
            f"{repository} has its weights in several files. Save them as one with transformers "
            "(save_pretrained(folder, max_shard_size='100GB')) and pass --model folder."
        )
    raise BadCheckpoint(f"{repository} has no weights: neither {' nor '.join(_WEIGHTS)}. See {repository.page}.")


def _listing(repository: Repository) -> dict[str, Any]:
    """What the hub says of a repository at a revision: commit, files with sizes and hashes, licence."""
    import httpx

    from panbench.base.download import http_client

    revision = urllib.parse.quote(repository.revision, safe="")
    url = f"{endpoint()}/api/models/{repository.name}/revision/{revision}?blobs=true"
    try:
        with http_client() as client:
            answer = client.get(url, headers=_authorization())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DownloadFailed(
            f"{repository}: {endpoint()} cannot be reached ({str(error) or type(error).__name__}). On a machine with "
            "a network, download the repository's config.json and weights into a folder and pass --model FOLDER."
        ) from error
    code = answer.headers.get("X-Error-Code", "")
    if answer.status_code == 403 or code == "GatedRepo":
        raise BadModel(
            f"{repository} is gated: accept its terms at {repository.page}, and set HF_TOKEN to a token of your "
            "account."
        )
    if code == "RevisionNotFound":
        raise BadModel(
            f"{repository.name} has no revision {repository.revision!r}. See {repository.page}/commits/main."
        )
    if answer.status_code in (401, 404):
        # The hub does not tell strangers which of the two it is.
        raise BadModel(
            f"There is no repository {repository.name} on {endpoint()}, or it is private: then set HF_TOKEN to a "
            "token that may read it."
        )
    if answer.status_code != 200:
        raise DownloadFailed(f"{repository}: {endpoint()} answers with status {answer.status_code}. Try again later.")
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise DownloadFailed(f"{repository}: the answer of {endpoint()} is not that of a Hugging Face hub.")
    return found


def _authorization() -> dict[str, str]:
    stated = token()
    return {"Authorization": f"Bearer {stated}"} if stated else {}


def _safe(revision: str) -> str:
    """A revision as the name of one file or folder."""
    quoted = urllib.parse.quote(revision, safe="")
    return quoted.replace(".", "%2E") if set(revision) <= {"."} else quoted


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _other_than(blob: str, path: Path) -> str | None:
    """What is wrong with a file that git names `blob`."""
    content = path.read_bytes()
    found = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return None if found == blob else f"git's hash of it is {found[:12]}, not {blob[:12]}"
