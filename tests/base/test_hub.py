import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panbench.base import hub
from panbench.base.errors import BadArgument, BadCheckpoint, BadModel, DownloadFailed

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_secret_of_this_test"
CONFIG = json.dumps({"model_type": "eomt"}).encode()
WEIGHTS = bytes(range(256)) * 40


class Hub:
    """A mimic of the hub: the listing of one repository, its small files, and weights on another host."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.redirected: list[str | None] = []
        self.weights = WEIGHTS
        self.card: Any = {"license": "mit"}
        self.files: dict[str, dict[str, Any]] = {
            "config.json": {
                "size": len(CONFIG),
                "blobId": hashlib.sha1(b"blob %d\0" % len(CONFIG) + CONFIG).hexdigest(),
            },
            "model.safetensors": {
                "size": len(WEIGHTS),
                "blobId": "0" * 40,
                "lfs": {"sha256": hashlib.sha256(WEIGHTS).hexdigest(), "size": len(WEIGHTS)},
            },
            "README.md": {"size": 3, "blobId": "1" * 40},
        }
        self.cdn = self._serve(self._answer_cdn)
        self.server = self._serve(self._answer)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        for server in (self.server, self.cdn):
            server.shutdown()
            server.server_close()

    def _serve(self, answer: Any) -> http.server.ThreadingHTTPServer:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                answer(self)

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _answer(self, request: Any) -> None:
        self.seen.append((request.path, request.headers.get("Authorization")))
        if request.path.startswith("/api/models/owner/gated/"):
            return _send(request, 403, b"", {"X-Error-Code": "GatedRepo"})
        if not request.path.startswith(("/api/models/owner/name/", "/owner/name/")):
            return _send(request, 401, b"", {"X-Error-Code": "RepoNotFound"})
        if request.path.startswith("/api/"):
            if "/revision/main?" not in request.path and f"/revision/{COMMIT}?" not in request.path:
                return _send(request, 404, b"", {"X-Error-Code": "RevisionNotFound"})
            siblings = [{"rfilename": name, **stated} for name, stated in self.files.items()]
            listing = {"sha": COMMIT, "siblings": siblings, "cardData": self.card}
            return _send(request, 200, json.dumps(listing).encode())
        if request.path == f"/owner/name/resolve/{COMMIT}/config.json":
            return _send(request, 200, CONFIG)
        place = f"http://localhost:{self.cdn.server_address[1]}/weights"
        return _send(request, 302, b"", {"Location": place})

    def _answer_cdn(self, request: Any) -> None:
        self.redirected.append(request.headers.get("Authorization"))
        _send(request, 200, self.weights)


def _send(request: Any, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    mimic = Hub()
    monkeypatch.setenv("HF_ENDPOINT", mimic.address)
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield mimic
    mimic.close()


def test_what_is_fetched_is_verified_written_down_and_found_without_a_network(server: Hub) -> None:
    repository = hub.parse("hf:owner/name")
    assert hub.here(repository) is None
    folder = hub.fetch(repository)
    assert folder.name == COMMIT
    assert folder.parent.name == "owner--name"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert not (folder / "README.md").exists()
    record = hub.recorded(folder)
    assert (record["commit"], record["license"]) == (COMMIT, "mit")
    assert record["files"]["model.safetensors"] == {
        "size": len(WEIGHTS),
        "sha256": hashlib.sha256(WEIGHTS).hexdigest(),
    }
    server.server.shutdown()
    assert hub.here(repository) == folder
    assert hub.here(hub.parse(f"hf:owner/name@{COMMIT}")) == folder
    assert hub.here(hub.parse("hf:owner/name@v2")) is None


def test_licence_and_size_are_told_before_the_first_file_comes(server: Hub) -> None:
    repository = hub.parse("hf:owner/name")
    assert hub.look_up(repository) == hub.Stated("mit", len(WEIGHTS))
    told: list[tuple[str | None, bool]] = []
    hub.fetch(repository, told=lambda license: told.append((license, repository.folder.exists())))
    assert told == [("mit", False)]


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
def test_licences_are_read_off_every_form_of_card(server: Hub, card: Any, license: str | None) -> None:
    server.card = card
    assert hub.look_up(hub.parse("hf:owner/name")).license == license


def test_weights_of_another_hash_are_refused(server: Hub) -> None:
    server.weights = b"x" + WEIGHTS[1:]
    with pytest.raises(DownloadFailed, match="SHA-256"):
        hub.fetch(hub.parse("hf:owner/name"))
    assert hub.here(hub.parse("hf:owner/name")) is None


def test_a_small_file_of_another_git_hash_is_refused(server: Hub) -> None:
    server.files["config.json"]["blobId"] = "2" * 40
    with pytest.raises(DownloadFailed, match="git's hash"):
        hub.fetch(hub.parse("hf:owner/name"))


def test_the_token_goes_to_the_hub_alone(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.fetch(hub.parse("hf:owner/name"))
    assert {authorization for _, authorization in server.seen} == {f"Bearer {TOKEN}"}
    assert server.redirected == [None]
    for text in (path.read_bytes() for path in hub.parse("hf:owner/name").folder.rglob("*") if path.is_file()):
        assert TOKEN.encode() not in text


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("hf:owner/unknown", "There is no repository owner/unknown"),
        ("hf:owner/gated", "is gated: accept its terms"),
        ("hf:owner/name@nowhere", "owner/name has no revision 'nowhere'"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    server: Hub, monkeypatch: pytest.MonkeyPatch, address: str, sentence: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(BadModel, match=sentence) as caught:
        hub.fetch(hub.parse(address))
    assert TOKEN not in str(caught.value)


def test_without_a_network_the_sentence_names_a_folder_as_the_way_out(server: Hub) -> None:
    server.close()
    with pytest.raises(DownloadFailed, match=r"cannot be reached.*pass --model FOLDER"):
        hub.fetch(hub.parse("hf:owner/name"))


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["model.safetensors"], "no config.json"),
        (["config.json"], "no weights"),
        (["config.json", "model.safetensors.index.json"], "several files"),
    ],
)
def test_a_repository_without_what_a_model_needs_is_refused(server: Hub, files: list[str], sentence: str) -> None:
    server.files = {name: server.files.get(name, {"size": 1, "blobId": "3" * 40}) for name in files}
    with pytest.raises((BadModel, BadCheckpoint), match=sentence):
        hub.fetch(hub.parse("hf:owner/name"))


def test_safetensors_are_preferred_to_a_pickle(server: Hub) -> None:
    server.files["pytorch_model.bin"] = {"size": 4, "blobId": "4" * 40}
    assert {path.name for path in hub.fetch(hub.parse("hf:owner/name")).iterdir()} == {
        "config.json",
        "model.safetensors",
        "panbench.json",
    }


@pytest.mark.parametrize("address", ["hf:name", "hf:owner/", "hf:a/b/c", "hf:owner/name@", "owner/name"])
def test_what_is_not_an_address_is_refused(address: str) -> None:
    with pytest.raises(BadArgument, match="hf:owner/name"):
        hub.parse(address)


def test_revisions_with_slashes_stay_within_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANBENCH_CACHE", str(tmp_path))
    outside = tmp_path / "hub"
    outside.mkdir()
    (outside / "config.json").write_text("{}")
    assert hub.here(hub.Repository("owner/name", ".."), weights=False) is None
    assert hub.here(hub.Repository("owner/name", "refs/pr/1"), weights=False) is None
