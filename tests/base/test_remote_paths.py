"""Members of zips and files of web servers: read like local files, within bounds, and refused in words."""

import contextlib
import multiprocessing
import os
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sharded import zip_of
from support import answering, panbench, ran, refusal, refused

from panbench.base import remote_paths, web
from panbench.base.addresses import path_at
from panbench.base.errors import BadArgument
from panbench.panoptic.coco import read_id_png
from panbench.runs import load_run
from panbench.runs.sources import files_exist
from panbench.scoring.folder import score_folder

SCENES = Path(__file__).resolve().parents[1] / "reference" / "pq_scenes"


def scenes_of(side: str) -> dict[str, bytes]:
    return {f"{side}/{path.name}": path.read_bytes() for path in sorted((SCENES / side).glob("*.png"))}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "run"
    return score_folder(SCENES / "gt.json", SCENES / "pred.json", out=out, boundary=True)


def assert_same(run, plain) -> None:
    assert run.table.to_arrow().equals(plain.table.to_arrow())
    assert run.files.to_bytes() == plain.files.to_bytes()
    assert run.summary() == plain.summary()


class TestZips:
    @pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    def test_data_in_zips_give_the_same_run_as_plain_folders(self, method, plain, tmp_path):
        for side in ("gt", "pred"):
            members = {f"sets/{side}.json": (SCENES / f"{side}.json").read_bytes(), **scenes_of(side)}
            zip_of(tmp_path / f"{side}.zip", members, method)
        score_folder(
            f"zip://sets/gt.json::{tmp_path}/gt.zip",
            f"zip://sets/pred.json::{tmp_path}/pred.zip",
            f"zip://gt::{tmp_path}/gt.zip",
            f"zip://pred::{tmp_path}/pred.zip",
            out=tmp_path / "run",
            boundary=True,
        )
        run = load_run(tmp_path / "run")
        assert_same(run, plain)
        assert run.info.dataset.gt_dir == f"zip://gt::{tmp_path}/gt.zip"
        verified = ran("runs", "verify", tmp_path / "run")
        assert "The files of 16 images are unchanged" in verified.output

    def test_a_zip_in_a_zip_is_read(self, tmp_path):
        inner = zip_of(tmp_path / "inner.zip", scenes_of("gt")).read_bytes()
        zip_of(tmp_path / "outer.zip", {"annotations/gt.zip": inner})
        folder = path_at(f"zip://gt::zip://annotations/gt.zip::{tmp_path}/outer.zip")
        assert {f"gt/{path.name}": path.read_bytes() for path in folder.glob("*.png")} == scenes_of("gt")

    def test_zip_members_are_found_like_files_of_folders(self, tmp_path):
        zip_of(tmp_path / "a.zip", {"gt/1.png": b"one", "gt/b/2.png": b"two", "top.json": b"{}"})
        folder = path_at(f"zip://gt::{tmp_path}/a.zip")
        assert (folder.is_dir(), folder.is_file()) == (True, False)
        assert not path_at(f"zip://g::{tmp_path}/a.zip").is_dir()
        assert [path.name for path in folder.glob("*.png")] == ["1.png"]
        assert [path.read_bytes() for path in folder.glob("*/*.png")] == [b"two"]
        assert [path.name for path in path_at(f"zip://::{tmp_path}/a.zip").glob("*")] == ["top.json"]
        assert folder.missing_of(["1.png", "b/2.png", "3.png"]) == ["3.png"]
        with pytest.raises(FileNotFoundError):
            (folder / "3.png").read_bytes()

    def test_an_archive_is_opened_once_and_again_when_it_changed(self, tmp_path, monkeypatch):
        opened = []
        open_zip = remote_paths._Zip.__init__
        monkeypatch.setattr(
            remote_paths._Zip, "__init__", lambda self, file: opened.append(file) or open_zip(self, file)
        )
        zip_of(tmp_path / "a.zip", {f"{number}.png": b"%d" % number for number in range(500)})
        folder = path_at(f"zip://::{tmp_path}/a.zip")
        assert [(folder / f"{number}.png").read_bytes() for number in range(500)] == [b"%d" % n for n in range(500)]
        assert len(opened) == 1
        zip_of(tmp_path / "b.zip", {"0.png": b"other"})
        os.replace(tmp_path / "b.zip", tmp_path / "a.zip")
        assert (folder / "0.png").read_bytes() == b"other"

    def test_threads_and_forks_read_the_same_bytes(self, tmp_path):
        members = {f"{number}.bin": os.urandom(200 + number) for number in range(250)}
        zip_of(tmp_path / "a.zip", members)
        folder = path_at(f"zip://::{tmp_path}/a.zip")

        def all_right(_: int) -> bool:
            return all((folder / name).read_bytes() == members[name] for name in list(members) * 8)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(all_right, range(8)))
        context = multiprocessing.get_context("fork")
        processes = [context.Process(target=_exit_with, args=(folder, members)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 4
        assert all_right(0)

    def test_damaged_zips_and_bombs_are_named(self, tmp_path, monkeypatch):
        members = scenes_of("gt")
        name, png = list(members.items())[3]
        whole = zip_of(tmp_path / "gt.zip", members, zipfile.ZIP_STORED).read_bytes()
        at = whole.index(png)
        (tmp_path / "gt.zip").write_bytes(whole[: at + 40] + b"\0\1\2\3" + whole[at + 44 :])
        options = ("--gt-dir", f"zip://gt::{tmp_path}/gt.zip", "--pred", SCENES / "pred.json")
        told = refused("score", "--gt", SCENES / "gt.json", *options)
        assert f"zip://{name}::{tmp_path}/gt.zip (image 3) cannot be read: the member is damaged" in told
        (tmp_path / "gt.zip").write_bytes(whole[:-30])
        told = refused("score", "--gt", SCENES / "gt.json", *options)
        assert "it is not a zip archive, or is damaged" in told
        zip_of(tmp_path / "bomb.zip", {"1.png": bytes(20 << 20)})
        with pytest.raises(OSError, match="larger than the limit of 2 GiB or 200 times its packed size"):
            path_at(f"zip://1.png::{tmp_path}/bomb.zip").read_bytes()
        (tmp_path / "gt.zip").write_bytes(whole)
        monkeypatch.setattr(remote_paths, "MOST_BYTES", 10)
        with pytest.raises(OSError, match="larger than the limit"):
            path_at(f"zip://{name}::{tmp_path}/gt.zip").read_bytes()

    def test_a_zip_path_without_an_archive_is_refused_with_an_example(self):
        assert "Write zip://FOLDER::ARCHIVE.zip" in refusal(BadArgument, path_at, "zip://gt")


def _exit_with(folder, members) -> None:
    os._exit(0 if all((folder / name).read_bytes() == content for name, content in members.items()) else 1)


class Server:
    """A web server of a folder, with a status in place of some answers."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[tuple[str, str]] = []
        self.status: dict[str, int] = {}
        self.silent = threading.Event()
        self.folder = folder
        self.url = ""

    def answer(self, request: Any) -> None:
        self.asked.append((request.command, request.path))
        status = self.status.get(request.path, 200)
        if status == 0:
            self.silent.wait(20)
            return
        path = self.folder / request.path.lstrip("/")
        content = path.read_bytes() if path.is_file() else b""
        request.send_response(status if status != 200 or path.is_file() else 404)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command == "GET":
            with contextlib.suppress(OSError):
                request.wfile.write(content)


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr(remote_paths, "WAITS", (0, 0))
    found = Server(SCENES)
    with answering(found.answer) as found.url:
        yield found
        found.silent.set()
    remote_paths._http_client_of_process.cache_clear()


class TestWeb:
    def test_scores_from_a_web_server_equal_those_of_local_files_with_one_request_per_file(
        self, server, plain, tmp_path
    ):
        score_folder(f"{server.url}/gt.json", f"{server.url}/pred.json", out=tmp_path / "run", boundary=True)
        assert_same(load_run(tmp_path / "run"), plain)
        assert len(server.asked) == len(set(server.asked)) == 2 * 16 + 2

    def test_a_missing_file_is_named_and_requested_once(self, server, tmp_path):
        told = refused("score", "--gt", f"{server.url}/none.json", "--pred", SCENES / "pred.json")
        assert f"{server.url}/none.json was not found" in told
        assert server.asked == [("GET", "/none.json")]
        assert (path_at(f"{server.url}/gt.json").is_file(), path_at(f"{server.url}/no.json").is_file()) == (True, False)

    @pytest.mark.parametrize(("status", "tries"), [(403, 1), (401, 1), (400, 1), (503, 3), (429, 3)])
    def test_a_refusing_server_is_not_asked_often(self, status, tries, server):
        server.status["/gt.json"] = status
        with pytest.raises(OSError, match=f"HTTP {status}"):
            path_at(f"{server.url}/gt.json").read_bytes()
        assert len(server.asked) == tries

    def test_waiting_for_a_silent_server_is_bounded(self, server, monkeypatch):
        monkeypatch.setattr(web, "_TIMEOUT_SECONDS", 0.2)
        remote_paths._http_client_of_process.cache_clear()
        server.status["/gt.json"] = 0
        with pytest.raises(OSError, match="no answer after 3 tries"):
            path_at(f"{server.url}/gt.json").read_bytes()

    def test_a_file_beyond_the_limit_is_refused_before_it_is_in_memory(self, server, monkeypatch):
        monkeypatch.setattr(remote_paths, "MOST_BYTES", 100)
        with pytest.raises(OSError, match="larger than the limit"):
            path_at(f"{server.url}/gt.json").read_bytes()
        assert len(server.asked) == 1

    @pytest.mark.parametrize(
        "secret", ["?X-Amz-Signature=SECRETIVE", "?token=SECRETIVE", "?sv=2024&sig=SECRETIVE", "#SECRETIVE"]
    )
    def test_a_presigned_url_is_refused_and_printed_nowhere(self, secret, server, tmp_path):
        told = refused(
            "score", "--gt", f"{server.url}/gt.json{secret}", "--pred", SCENES / "pred.json", "--out", tmp_path / "run"
        )
        assert "SECRETIVE" not in told
        assert "AWS_ACCESS_KEY_ID" in told
        assert server.asked == []
        assert not (tmp_path / "run").exists()


def test_an_id_png_of_a_zip_is_named_by_its_address(tmp_path):
    zip_of(tmp_path / "a.zip", {"1.png": b"no png"})
    with pytest.raises(Exception, match=r"zip://1\.png::.*a\.zip \(image 7\)"):
        read_id_png(path_at(f"zip://1.png::{tmp_path}/a.zip"), image_id=7)


def test_a_moved_archive_is_reported_as_missing(tmp_path):
    member = f"zip://gt.json::{tmp_path}/moved.zip"
    assert not files_exist(member)
    assert not path_at(member).is_dir()


class TestAddressesOfAStrangersRun:
    """run.json of a scored folder whose paths are replaced by addresses of a server that counts what it is asked."""

    @pytest.fixture
    def stranger(self, server, tmp_path) -> Path:
        score_folder(SCENES / "gt.json", SCENES / "pred.json", out=tmp_path / "run", images=SCENES / "gt")
        place = tmp_path / "run" / "run.json"
        place.write_text(place.read_text().replace(str(SCENES), server.url))
        assert server.url in place.read_text()
        return tmp_path / "run"

    @pytest.mark.parametrize(
        "line",
        [
            ["runs", "verify", "RUN"],
            ["report", "RUN", "--out", "page.html"],
            ["show", "overlay", "RUN", "--image", "1", "--out", "one.png"],
            ["errors", "RUN"],
            ["metrics", "RUN"],
            ["compare", "RUN", "RUN"],
            ["export", "fiftyone", "RUN", "--out", "export"],
            ["runs", "list", "."],
            ["score", "--gt", SCENES / "gt.json", "--pred", SCENES / "pred.json", "--out", "RUN", "--overwrite"],
            ["runs", "delete", "RUN", "--yes"],
        ],
        ids=lambda line: " ".join(map(str, line[:2])),
    )
    def test_reading_a_strangers_run_asks_no_server(self, line, stranger, server, tmp_path):
        server.asked.clear()
        panbench(*(str(stranger) if word == "RUN" else word for word in line), cwd=tmp_path)
        assert server.asked == []

    def test_unverified_data_are_reported_with_the_option_that_verifies(self, stranger, server):
        verified = ran("runs", "verify", stranger)
        assert "could not be checked" in verified.output
        assert "--from-addresses" in verified.output
        opened = ran("runs", "verify", stranger, "--from-addresses")
        assert "The files of 16 images are unchanged" in opened.output
        assert server.asked
