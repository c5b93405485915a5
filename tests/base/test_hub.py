import contextlib
import gzip
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from huggingface_hub import constants, errors, hf_hub_download
from support import answering, refusal, refused

from panbench.base import hub
from panbench.base.errors import BadArgument, BadCheckpoint, BadModel, DownloadFailed, PanbenchError, Unreachable

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_secret_of_this_test"
CONFIG = json.dumps({"model_type": "eomt"}).encode()
WEIGHTS = bytes(range(256)) * 40


class Hub:
    """A mimic of the hub: the listing of one repository, its small files, and weights on another host."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.redirected: list[str | None] = []
        self.downloaded: list[str] = []
        self.weights = WEIGHTS
        self.listing: bytes | None = None
        self.lie: tuple[int, bytes, dict[str, str]] | None = None
        """Status, body and headers of every answer."""
        self.sent = 0
        self.ranges: list[str | None] = []
        self.piece: int | None = None
        """How many bytes of the weights come before the connection ends."""
        self.card: Any = {"license": "mit"}
        self.files: dict[str, dict[str, Any]] = {
            "config.json": {
                "size": len(CONFIG),
                "blobId": hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest(),
            },
            "model.safetensors": {
                "size": len(WEIGHTS),
                "blobId": "0" * 40,
                "lfs": {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS), "pointerSize": 134},
            },
            "README.md": {"size": 3, "blobId": "1" * 40},
        }
        self.servers = contextlib.ExitStack()
        cdn = self.servers.enter_context(answering(self._answer_cdn))
        self.cdn = cdn.replace("127.0.0.1", "localhost")
        self.address = self.servers.enter_context(answering(self._answer))

    def close(self) -> None:
        self.servers.close()

    def _answer(self, request: Any) -> None:
        self.seen.append((request.path, request.headers.get("Authorization")))
        if self.lie is not None:
            return self._lie(request, *self.lie)
        if request.path.startswith("/api/models/owner/gated/"):
            return _send(request, 403, b"", {"X-Error-Code": "GatedRepo"})
        if not request.path.startswith(("/api/models/owner/name/", "/owner/name/")):
            return _send(request, 401, b"", {"X-Error-Code": "RepoNotFound"})
        if request.path.startswith("/api/"):
            if "/revision/main?" not in request.path and f"/revision/{COMMIT}?" not in request.path:
                return _send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            if self.listing is not None:
                return _send(request, 200, self.listing)
            siblings = [{"rfilename": name, **stated} for name, stated in self.files.items()]
            listing = {"id": "owner/name", "sha": COMMIT, "siblings": siblings, "cardData": self.card}
            return _send(request, 200, json.dumps(listing).encode())
        return self._answer_file(request)

    def _lie(self, request: Any, status: int, body: bytes, headers: dict[str, str]) -> None:
        try:
            _send(request, status, b"", {"Content-Length": str(len(body)), **headers})
            for start in range(0, len(body), 1 << 20):
                request.wfile.write(body[start : start + (1 << 20)])
                self.sent += 1 << 20
        except OSError:
            pass  # the client has heard enough
        request.close_connection = True

    def _answer_file(self, request: Any) -> None:
        revision, name = request.path.removeprefix("/owner/name/resolve/").split("/")
        assert revision in (COMMIT, "main")
        if request.command == "GET":
            self.downloaded.append(name)
        stated = self.files[name]
        about = {"X-Repo-Commit": COMMIT, "ETag": f'"{stated["blobId"]}"'}
        if "lfs" not in stated:
            return _send(request, 200, CONFIG, about)
        place = f"{self.cdn}/weights"
        linked = {"X-Linked-Etag": f'"{stated["lfs"]["sha256"]}"', "X-Linked-Size": str(stated["lfs"]["size"])}
        return _send(request, 302, b"", {"Location": place, **about, **linked})

    def _answer_cdn(self, request: Any) -> None:
        self.redirected.append(request.headers.get("Authorization"))
        self.ranges.append(asked := request.headers.get("Range"))
        start = 0 if asked is None else int(asked.removeprefix("bytes=").split("-")[0])
        about = {"ETag": '"weights"'}
        if asked is not None:
            about["Content-Range"] = f"bytes {start}-{len(self.weights) - 1}/{len(self.weights)}"
        piece, self.piece = self.piece, None
        _send(request, 200 if asked is None else 206, self.weights[start:], about, piece)


def _send(
    request: Any, status: int, body: bytes, headers: dict[str, str] | None = None, piece: int | None = None
) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body[:piece])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    mimic = Hub()
    monkeypatch.setenv("HF_ENDPOINT", mimic.address)
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path / "panbench"))
    # huggingface_hub reads the environment once, when it is imported.
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield mimic
    mimic.close()


def test_downloads_are_verified_and_found_without_a_network(server: Hub) -> None:
    repository = hub.parse_repository("hf:owner/name")
    assert hub.cached_folder(repository) is None
    folder = hub.fetch(repository)
    assert folder.name == COMMIT
    assert folder.parent.parent.name == "models--owner--name"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "README.md").exists()
    server.close()
    assert hub.cached_folder(repository) == folder
    assert hub.cached_folder(hub.parse_repository(f"hf:owner/name@{COMMIT}")) == folder
    assert hub.cached_folder(hub.parse_repository("hf:owner/name@v2")) is None


def test_licence_and_size_are_shown_before_the_first_file(server: Hub) -> None:
    repository = hub.parse_repository("hf:owner/name")
    listing = hub.list_files(repository)
    assert (listing.license, listing.size, hub.is_in_cache(repository)) == ("mit", len(WEIGHTS), False)
    hub.fetch(repository, listing=listing)
    assert hub.is_in_cache(repository)


@pytest.mark.parametrize(
    ("card", "license"),
    [
        ({"license": "other", "license_name": "dinov3-license"}, "dinov3-license"),
        ({"license": "other"}, "other"),
        ({"license": ["mit", "x"]}, "mit"),
        ({}, None),
        (None, None),
    ],
)
def test_licences_are_read_from_every_form_of_card(server: Hub, card: Any, license: str | None) -> None:
    server.card = card
    assert hub.list_files(hub.parse_repository("hf:owner/name")).license == license


def test_weights_of_another_hash_are_refused(server: Hub) -> None:
    server.weights = b"x" + WEIGHTS[1:]
    assert "SHA-256" in refusal(DownloadFailed, hub.fetch, hub.parse_repository("hf:owner/name"))
    assert hub.cached_folder(hub.parse_repository("hf:owner/name")) is None


def test_a_small_file_of_another_git_hash_is_refused(server: Hub) -> None:
    server.files["config.json"]["blobId"] = "2" * 40
    assert "git's hash" in refusal(DownloadFailed, hub.fetch, hub.parse_repository("hf:owner/name"))


def test_the_token_is_sent_only_to_the_hub(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fetch(hub.parse_repository("hf:owner/name"))
    assert {authorization for _, authorization in server.seen} == {f"Bearer {TOKEN}"}
    assert server.redirected == [None]
    for text in (path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()):
        assert TOKEN.encode() not in text


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf:owner/unknown", "There is no repository owner/unknown"),
        ("hf:owner/gated", "is gated: accept its terms"),
        ("hf:owner/name@nowhere", "owner/name has no revision 'nowhere'"),
    ],
)
def test_a_refusal_of_the_hub_is_reported_with_what_to_do(
    server: Hub, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(BadModel, match=message) as caught:
        hub.fetch(hub.parse_repository(address))
    assert TOKEN not in str(caught.value)


def test_without_a_network_the_error_suggests_a_local_folder(server: Hub) -> None:
    server.close()
    by_hand = (
        r"download config\.json and model\.safetensors of http://\S+/owner/name into a folder and pass --model FOLDER"
    )
    with pytest.raises(DownloadFailed, match=rf"cannot be reached.*in HF_ENDPOINT.*{by_hand}"):
        hub.fetch(hub.parse_repository("hf:owner/name"))


def test_an_unreachable_server_of_large_files_is_named(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        error = errors.HTTPError("name not known")
        error.request = cast(Any, SimpleNamespace(url=SimpleNamespace(host="files.test")))
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fails)
    with pytest.raises(Unreachable, match=r"files\.test, where http://\S+ keeps large files, cannot be reached"):
        hub.fetch(hub.parse_repository("hf:owner/name"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["model.safetensors"], "no config.json"),
        (["config.json"], "no weights"),
        (["config.json", "model.safetensors.index.json"], "no weights"),
    ],
)
def test_a_repository_without_what_a_model_needs_is_refused(server: Hub, files: list[str], message: str) -> None:
    server.files = {name: server.files.get(name, {"size": 1, "blobId": "3" * 40}) for name in files}
    assert message in refusal((BadModel, BadCheckpoint), hub.fetch, hub.parse_repository("hf:owner/name"))


def test_safetensors_are_preferred_to_a_pickle(server: Hub) -> None:
    server.files["pytorch_model.bin"] = {"size": 4, "blobId": "4" * 40}
    assert {path.name for path in hub.fetch(hub.parse_repository("hf:owner/name")).iterdir()} == {
        "config.json",
        "model.safetensors",
    }


@pytest.mark.parametrize("address", ["hf:name", "hf:owner/", "hf:a/b/c", "hf:owner/name@", "owner/name"])
def test_an_invalid_repository_name_is_refused(address: str) -> None:
    assert "hf:owner/name" in refusal(BadArgument, hub.parse_repository, address)


def test_revisions_with_slashes_stay_within_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    outside = tmp_path / "models--owner--name"
    (outside / "snapshots").mkdir(parents=True)
    (outside / "config.json").write_text("{}")
    assert hub.cached_folder(hub.Repository("owner/name", ".."), weights=False) is None
    assert hub.cached_folder(hub.Repository("owner/name", "refs/pr/1"), weights=False) is None


def test_files_cached_by_transformers_are_not_downloaded_again(server: Hub) -> None:
    repository = hub.parse_repository("hf:owner/name")
    for name in ("config.json", "model.safetensors"):
        hf_hub_download("owner/name", name, endpoint=server.address)
    server.downloaded.clear()
    folder = hub.cached_folder(repository)
    assert folder is not None
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.fetch(repository) == folder
    assert server.downloaded == []


def test_only_files_missing_in_the_hub_cache_are_downloaded(server: Hub) -> None:
    hf_hub_download("owner/name", "config.json", endpoint=server.address)
    server.downloaded.clear()
    assert hub.cached_folder(hub.parse_repository("hf:owner/name")) is None
    server.ranges.clear()
    hub.fetch(hub.parse_repository("hf:owner/name"))
    assert server.downloaded == []
    assert server.ranges, "the weights come from where the hub sends"


def test_transformers_finds_files_that_panbench_downloaded(server: Hub) -> None:
    folder = hub.fetch(hub.parse_repository("hf:owner/name"))
    server.close()
    for name in ("config.json", "model.safetensors"):
        assert Path(hf_hub_download("owner/name", name, local_files_only=True)) == folder / name


def test_an_interrupted_download_of_weights_starts_over(server: Hub) -> None:
    repository = hub.parse_repository("hf:owner/name")

    def killed(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.fetch(repository, progress=killed)
    assert hub.cached_folder(repository) is None
    assert (hub.fetch(repository) / "model.safetensors").read_bytes() == WEIGHTS


def test_progress_ends_at_the_size_of_the_weights(server: Hub) -> None:
    seen: list[tuple[int, int | None]] = []
    hub.fetch(hub.parse_repository("hf:owner/name"), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(WEIGHTS), len(WEIGHTS))


def test_damaged_weights_in_the_hub_cache_are_named(server: Hub) -> None:
    folder = hub.fetch(hub.parse_repository("hf:owner/name"))
    blob = (folder / "model.safetensors").resolve()
    blob.write_bytes(b"x" + WEIGHTS[1:])
    with pytest.raises(DownloadFailed, match=rf"its SHA-256 begins with .* Delete {blob} and run") as caught:
        hub.fetch(hub.parse_repository("hf:owner/name"))
    assert "model.safetensors of hf:owner/name" in str(caught.value)


def test_the_account_that_the_machine_is_logged_in_to_is_used(server: Hub, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    hub.fetch(hub.parse_repository("hf:owner/name"))
    assert {authorization for _, authorization in server.seen} == {f"Bearer {TOKEN}"}
    assert server.redirected == [None]


def test_without_huggingface_hub_the_error_has_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    repository = hub.parse_repository("hf:owner/name")
    assert hub.cached_folder(repository) is None
    assert not hub.is_in_cache(repository)
    with pytest.raises(BadModel, match=r"needs the package huggingface_hub .*pip install .*\[transformers\]'"):
        hub.fetch(repository)


def test_offline_mode_of_the_hub_is_reported(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids asking" in refusal(DownloadFailed, hub.fetch, hub.parse_repository("hf:owner/name"))
    assert server.seen == []


@pytest.mark.parametrize("listing", [b"<html>", b"[]", b'{"id": "owner/name", "siblings": [{}]}', b"{}"])
def test_a_response_unlike_the_hubs_is_one_message(server: Hub, listing: bytes) -> None:
    server.listing = listing
    assert "is not that of a Hugging Face hub" in refusal(
        DownloadFailed, hub.fetch, hub.parse_repository("hf:owner/name")
    )


def test_a_full_disk_under_the_hub_cache_is_one_message(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", full)
    with pytest.raises(DownloadFailed, match=r"the hub's cache cannot be written \(No space left on device\)"):
        hub.fetch(hub.parse_repository("hf:owner/name"))


def _listing(**changes: Any) -> bytes:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    files = [
        {"rfilename": "config.json", "size": len(CONFIG), "blobId": "1" * 40},
        {"rfilename": "model.safetensors", "size": len(WEIGHTS), "lfs": {"sha256": digest, "size": len(WEIGHTS)}},
    ]
    return json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": files, "cardData": {}, **changes}).encode()


def _file(**changes: Any) -> bytes:
    return _listing(siblings=[{"rfilename": "config.json", "size": 3, "blobId": "1" * 40, **changes}])


LIES: dict[str, tuple[int, bytes, dict[str, str]]] = {
    "nothing": (200, b"", {}),
    "a web page": (200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"}),
    "a number": (200, b"17", {}),
    "a list": (200, b"[]", {}),
    "null": (200, b"null", {}),
    "bytes that are no text": (200, b"\xff\xfe\x00{", {}),
    "half of a listing": (200, _listing()[:60], {}),
    "nested without an end": (200, b"[" * 200_000, {}),
    "nested in a field": (200, b'{"siblings": ' + b"[" * 200_000, {}),
    "longer than any listing": (200, b" " * (33 << 20), {}),
    "packed, and longer than any listing": (200, gzip.compress(bytes(40 << 20)), {"Content-Encoding": "gzip"}),
    "said to be packed": (200, _listing(), {"Content-Encoding": "gzip"}),
    "no commit": (200, _listing(sha=None), {}),
    "a commit that is a path": (200, _listing(sha="../../etc"), {}),
    "a commit of another kind": (200, _listing(sha=["a"]), {}),
    "no files": (200, _listing(siblings=None), {}),
    "files that are text": (200, _listing(siblings=["config.json"]), {}),
    "files as an object": (200, _listing(siblings={"config.json": 1}), {}),
    "a file without a name": (200, _file(rfilename=None), {}),
    "a size that is text": (200, _file(size="three"), {}),
    "a size below nothing": (200, _file(size=-1), {}),
    "a size beyond all disks": (200, _file(size=10**30), {}),
    "a size that is no number": (200, _listing().replace(b'"size": ', b'"size": NaN, "x": ', 1), {}),
    "a hash that is a path": (200, _file(blobId="../../../evil"), {}),
    "a hash of another kind": (200, _file(blobId=7), {}),
    "a large file's hash of half its length": (200, _file(lfs={"sha256": "0" * 32, "size": 3}), {}),
    "a large file that is a list": (200, _file(lfs=[1]), {}),
    "a card that is a list": (200, _listing(cardData=["mit"]), {}),
    "an answer that is cut short": (200, _listing()[:50], {"Content-Length": "5000"}),
    "a length that is none": (200, _listing(), {"Content-Length": "many"}),
    "a redirect to itself": (302, b"", {"Location": "?again"}),
    "a redirect to nowhere": (302, b"", {"Location": "http://["}),
    "a redirect to a file": (302, b"", {"Location": "file:///etc/passwd"}),
    "an error of 40 MB": (500, b"x" * (40 << 20), {}),
    "an error that is no JSON": (404, b"{", {"X-Error-Message": "\x1b[31mred"}),
    "a status that there is not": (799, b"", {}),
    "too many questions": (429, b"", {"Retry-After": "never"}),
}


def test_any_response_of_the_hub_is_one_message(server: Hub) -> None:
    assert len(LIES) >= 25
    unlike: dict[str, str] = {}
    for lie, server.lie in LIES.items():
        try:
            hub.fetch(hub.parse_repository("hf:owner/name"))
        except PanbenchError as problem:
            if problem.exit_code != 2 or "\n" in str(problem):
                unlike[lie] = str(problem)
        except BaseException as problem:
            unlike[lie] = repr(problem)
        else:
            unlike[lie] = "it was believed"
    assert unlike == {}


@pytest.mark.slow
@pytest.mark.parametrize("lie", ["nested without an end", "a redirect to nowhere", "an error that is no JSON"])
def test_a_false_response_of_the_hub_ends_with_exit_code_2(server: Hub, lie: str) -> None:
    server.lie = LIES[lie]
    said = refused("eval", "-m", "hf:owner/name", "--download", "--data", "shapes", "--limit", "1")
    assert "hf:owner/name" in said or "owner/name" in said
    assert "\x1b" not in said
