import errno
import hashlib
import http.server
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from support import serve

from panbench.base import download as download_module
from panbench.base.download import RangeReader, RangesUnsupported, download, mirrored, what_is_wrong
from panbench.base.errors import BadArgument, DownloadFailed, OutOfSpace, Unreachable
from panbench.base.locks import Lock
from scripts.make.coco_mimic import Fault, FaultServer

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(1).randbytes(300_000)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer({"/file.bin": CONTENT}) as server:
        yield server


@pytest.fixture
def pauses() -> list[float]:
    return []


def fetch(server: FaultServer, folder: Path, pauses: list[float], **arguments) -> Path:
    return download(server.url + "/file.bin", folder / "file.bin", sleep=pauses.append, **arguments)


def requested(server: FaultServer) -> list[str]:
    return [wanted for _, wanted, _ in server.log]


def test_a_file_arrives_whole_and_nothing_else_is_left(server, tmp_path, pauses):
    target = fetch(server, tmp_path / "neuer Ordner é", pauses, sha256=SHA256, size=len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]
    assert pauses == []


def test_a_second_call_asks_the_server_nothing(server, tmp_path, pauses):
    fetch(server, tmp_path, pauses, sha256=SHA256)
    fetch(server, tmp_path, pauses, sha256=SHA256)
    assert len(server.log) == 1


def test_a_hash_may_be_given_by_its_first_digits(server, tmp_path, pauses):
    assert fetch(server, tmp_path, pauses, sha256=SHA256[:8].upper()).read_bytes() == CONTENT


def test_a_wrong_file_under_the_name_is_replaced(server, tmp_path, pauses):
    (tmp_path / "file.bin").write_bytes(OTHER)
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT


def test_progress_counts_every_byte_up_to_the_total(server, tmp_path, pauses):
    seen: list[tuple[int, int | None]] = []
    fetch(server, tmp_path, pauses, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# Faults that pass: the file arrives all the same.


def test_a_connection_dropped_at_random_bytes_resumes_at_the_byte(server, tmp_path, pauses):
    cuts = [random.Random(seed).randrange(1, 60_000) for seed in range(5)]
    server.faults["/file.bin"] = [Fault(drop_after=cut) for cut in cuts]
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT
    starts = [0, *itertools.accumulate(cuts)]
    assert requested(server) == ["", *[f"bytes={start}-{len(CONTENT) - 1}" for start in starts[1:]]]
    assert server.sent == len(CONTENT)


def test_a_server_without_ranges_gives_the_file_from_its_start_again(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(drop_after=100_000), Fault(ignore_range=True)]
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT


def test_a_file_that_changed_between_resumes_is_not_mixed(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(drop_after=100_000)] * 2
    with pytest.raises(DownloadFailed):
        fetch(server, tmp_path, pauses, tries=1)
    assert (tmp_path / "file.bin.part").stat().st_size == 100_000
    server.files["/file.bin"] = OTHER
    server.faults.clear()
    assert fetch(server, tmp_path, pauses).read_bytes() == OTHER


def test_a_server_that_ignores_if_range_is_caught_by_its_etag(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(drop_after=100_000, etag='"old"'), Fault(etag='"new"', stale=True)]
    server.files["/file.bin"] = CONTENT
    assert fetch(server, tmp_path, pauses).read_bytes() == CONTENT
    assert requested(server)[1:] == [f"bytes=100000-{len(CONTENT) - 1}", ""]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_busy_server_is_asked_again_later(server, tmp_path, pauses, status):
    server.faults["/file.bin"] = [Fault(status=status), Fault(status=status)]
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT
    assert len(pauses) == 2
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0


def test_the_servers_wish_for_a_pause_is_honoured(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(status=503, retry_after="7")]
    fetch(server, tmp_path, pauses, sha256=SHA256)
    assert pauses == [7.0]


def test_redirects_are_followed_with_the_range(server, tmp_path, pauses):
    server.files["/elsewhere.bin"] = CONTENT
    server.always["/file.bin"] = Fault(redirect="/elsewhere.bin")
    server.faults["/elsewhere.bin"] = [Fault(drop_after=100_000)]
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT
    assert server.log[-1] == ("/elsewhere.bin", f"bytes=100000-{len(CONTENT) - 1}", 206)


def test_a_slow_drip_arrives_whole(server, tmp_path, pauses):
    server.files["/file.bin"] = CONTENT[:3000]
    server.always["/file.bin"] = Fault(block=1)
    assert fetch(server, tmp_path, pauses).read_bytes() == CONTENT[:3000]


def test_a_byte_flipped_once_on_its_way_is_fetched_again(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(flip_at=12_345)]
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT
    assert len(server.log) == 2


@pytest.mark.parametrize("off_by", [1000, -1000])
def test_one_wrong_content_length_costs_a_request_not_the_file(server, tmp_path, pauses, off_by):
    server.faults["/file.bin"] = [Fault(length_off_by=off_by)]
    assert fetch(server, tmp_path, pauses, sha256=SHA256, size=len(CONTENT)).read_bytes() == CONTENT


def test_an_answer_without_length_is_taken_and_checked(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(chunked=True, drop_after=100_000), Fault(chunked=True)]
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT


# Faults that stay: one sentence, and nothing under the final name.


@pytest.mark.parametrize(
    ("fault", "arguments", "sentence"),
    [
        (Fault(status=404), {}, "404"),
        (Fault(status=403), {}, "403"),
        (Fault(status=503), {}, "503"),
        (Fault(flip_at=5), {"sha256": SHA256}, "SHA-256"),
        (Fault(cut_file_at=200_000), {"size": len(CONTENT)}, "200,000 bytes"),
        (Fault(cut_file_at=200_000), {"sha256": SHA256}, "SHA-256"),
        (Fault(length_off_by=-1000), {"size": len(CONTENT)}, "bytes"),
        (Fault(length_off_by=1000), {}, "shorter than"),
        (Fault(redirect="/file.bin"), {}, "redirect"),
        (Fault(redirect="ftp://127.0.0.1/file.bin"), {}, "ftp"),
        (Fault(drop_after=0), {}, "tries"),
    ],
)
def test_what_cannot_be_mended_leaves_nothing_under_the_name(server, tmp_path, pauses, fault, arguments, sentence):
    server.always["/file.bin"] = fault
    with pytest.raises(DownloadFailed, match=sentence) as caught:
        fetch(server, tmp_path, pauses, **arguments)
    assert not (tmp_path / "file.bin").exists()
    assert server.url + "/file.bin" in str(caught.value)
    assert str(tmp_path / "file.bin") in str(caught.value)


def test_a_missing_file_is_not_asked_for_twice(server, tmp_path, pauses):
    with pytest.raises(DownloadFailed):
        download(server.url + "/nothing.bin", tmp_path / "x", sleep=pauses.append)
    assert len(server.log) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_error_names_url_and_target(tmp_path, pauses, unused_port):
    url = f"http://127.0.0.1:{unused_port}/weights.pth"
    with pytest.raises(DownloadFailed, match="copy the file there") as caught:
        download(url, tmp_path / "weights.pth", sleep=pauses.append)
    assert url in str(caught.value)
    assert str(tmp_path / "weights.pth") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def unused_port() -> int:
    with FaultServer({}) as server:
        return int(server.url.rsplit(":", 1)[1])


# Interruptions.


def test_what_arrived_before_an_interruption_is_not_fetched_again(server, tmp_path, pauses):
    def stop(done: int, total: int | None) -> None:
        if done >= 150_000:
            raise KeyboardInterrupt

    server.always["/file.bin"] = Fault(block=10_000)
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, pauses, sha256=SHA256, progress=stop)
    assert not (tmp_path / "file.bin").exists()
    server.log.clear()
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT
    start = int(requested(server)[0].split("=")[1].split("-")[0])
    assert start >= 150_000


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_download_resumes_at_the_byte(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(drop_after=150_000)]
    process = multiprocessing.get_context("spawn").Process(target=_fetch_and_die, args=(server.url, str(tmp_path)))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "file.bin").exists()
    server.log.clear()
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT
    assert requested(server) == [f"bytes=150000-{len(CONTENT) - 1}"]


def _fetch_and_die(url: str, folder: str) -> None:
    # The pause after the dropped connection is where the kill falls.
    download(url + "/file.bin", Path(folder) / "file.bin", sha256=SHA256, sleep=lambda _: os.kill(os.getpid(), 9))


def test_a_torn_state_starts_anew(server, tmp_path, pauses):
    (tmp_path / "file.bin.part").write_bytes(OTHER[:1000])
    (tmp_path / "file.bin.part.state").write_bytes(b'{"url": "x", "to')
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT


def test_foreign_bytes_in_the_part_are_caught_by_the_hash(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(drop_after=100_000)]
    with pytest.raises(DownloadFailed):
        fetch(server, tmp_path, pauses, sha256=SHA256, tries=1)
    (tmp_path / "file.bin.part").write_bytes(OTHER[:100_000])
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="patches a system call of POSIX")
@pytest.mark.parametrize("locks", ["the system's", "none"])
def test_two_processes_share_one_download(server, tmp_path, locks):
    server.always["/file.bin"] = Fault(block=3000)
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_fetch_quietly, args=(server.url, str(tmp_path), locks == "none")) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.sent == len(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["file.bin"]


def _fetch_quietly(url: str, folder: str, no_locks: bool) -> None:
    if no_locks:
        import fcntl

        fcntl.flock = _no_flock
    assert download(url + "/file.bin", Path(folder) / "file.bin", sha256=SHA256).read_bytes() == CONTENT


def _no_flock(*_: object) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_download_of_another_process_that_stands_still_is_named_and_not_waited_for(
    server, tmp_path, pauses, monkeypatch
):
    monkeypatch.setattr(download_module, "_PATIENCE", 0.0)
    lock = Lock.acquire(tmp_path / "file.bin.part.lock")
    with pytest.raises(DownloadFailed, match=rf"file\.bin is being downloaded by process {os.getpid()} on .* since 20"):
        fetch(server, tmp_path, pauses)
    assert server.log == []
    lock.release()
    assert fetch(server, tmp_path, pauses).read_bytes() == CONTENT


@pytest.mark.skipif(os.name == "nt", reason="patches a system call of POSIX")
def test_without_locks_the_marker_of_another_machine_is_named_with_the_file_to_delete(
    server, tmp_path, pauses, monkeypatch
):
    monkeypatch.setattr("fcntl.flock", _no_flock)
    monkeypatch.setattr(download_module, "_PATIENCE", 0.0)
    marker = tmp_path / "file.bin.part.lock.soft"
    marker.write_text("12\nanother-machine\n")
    with pytest.raises(DownloadFailed, match=r"if that process has ended, delete .*/file\.bin\.part\.lock\.soft\."):
        fetch(server, tmp_path, pauses)
    marker.unlink()
    assert fetch(server, tmp_path, pauses).read_bytes() == CONTENT


# Disks.


def test_space_is_asked_for_before_the_first_byte(server, tmp_path, pauses, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(OutOfSpace, match="needs 300,000 bytes"):
        fetch(server, tmp_path, pauses, size=len(CONTENT))
    assert server.log == []


def test_a_disk_that_fills_up_keeps_what_arrived(server, tmp_path, pauses, monkeypatch):
    def full(handle: object, block: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download_module, "_write_all", full)
        with pytest.raises(OutOfSpace, match=r"file\.bin"):
            fetch(server, tmp_path, pauses, sha256=SHA256)
    assert fetch(server, tmp_path, pauses, sha256=SHA256).read_bytes() == CONTENT


def test_a_target_that_cannot_be_written_is_one_sentence(server, tmp_path, pauses):
    (tmp_path / "in the way").write_text("a file where the folder should be")
    with pytest.raises(DownloadFailed, match="Cannot write"):
        download(server.url + "/file.bin", tmp_path / "in the way" / "file.bin", sleep=pauses.append)


# Other sources.


@pytest.mark.parametrize("form", ["path", "file://"])
def test_files_on_this_machine_are_sources_too(tmp_path, form):
    source = tmp_path / "ein Ordner é" / "file.bin"
    source.parent.mkdir()
    source.write_bytes(CONTENT)
    url = str(source) if form == "path" else source.as_uri()
    assert download(url, tmp_path / "copy.bin", sha256=SHA256, size=len(CONTENT)).read_bytes() == CONTENT
    assert source.exists()


@pytest.mark.parametrize("content", [None, OTHER, CONTENT[:-1]])
def test_a_wrong_or_missing_local_source_is_refused(tmp_path, content):
    source = tmp_path / "file.bin"
    if content is not None:
        source.write_bytes(content)
    with pytest.raises(DownloadFailed):
        download(source, tmp_path / "copy.bin", sha256=SHA256)
    assert not (tmp_path / "copy.bin").exists()


def test_a_check_can_refuse_the_finished_file(server, tmp_path, pauses):
    with pytest.raises(DownloadFailed, match="its CRC is wrong"):
        fetch(server, tmp_path, pauses, check=lambda path: "its CRC is wrong")
    assert not (tmp_path / "file.bin").exists()


def test_a_mirror_takes_the_hosts_place(server, tmp_path, pauses, monkeypatch):
    monkeypatch.setenv("PANBENCH_MIRROR_COCO", server.url + "/")
    assert mirrored("http://images.cocodataset.org/file.bin") == server.url + "/file.bin"
    assert mirrored("https://elsewhere.org/file.bin") == "https://elsewhere.org/file.bin"
    download("http://images.cocodataset.org/file.bin", tmp_path / "file.bin", sha256=SHA256, sleep=pauses.append)


def test_a_proxy_of_the_environment_is_used(server, tmp_path, pauses, monkeypatch):
    server.files["http://host.invalid/file.bin"] = CONTENT
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    target = download("http://host.invalid/file.bin", tmp_path / "file.bin", sha256=SHA256, sleep=pauses.append)
    assert target.read_bytes() == CONTENT


def test_arguments_are_checked(tmp_path):
    with pytest.raises(BadArgument, match="SHA-256"):
        download("http://127.0.0.1/x", tmp_path / "x", sha256="not hex")
    with pytest.raises(DownloadFailed, match="http, https, file"):
        download("ftp://127.0.0.1/x", tmp_path / "x")


def test_what_is_wrong_names_the_difference(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert what_is_wrong(tmp_path / "x", size=3) is None
    assert what_is_wrong(tmp_path / "x", size=4) == "it has 3 bytes, not 4"
    assert "ba7816bf" in str(what_is_wrong(tmp_path / "x", sha256="00000000"))
    assert what_is_wrong(tmp_path / "y") == "it does not exist"


# Ranges.


def test_ranges_are_read_exactly_and_counted(server):
    server.faults["/file.bin"] = [Fault(status=503), Fault(drop_after=10)]
    with RangeReader(server.url + "/file.bin", sleep=lambda _: None) as reader:
        assert reader.read(1000, 2000) == CONTENT[1000:2000]
        assert reader.size() == len(CONTENT)
        assert reader.read(5, 5) == b""
        assert reader.fetched == 1010


def test_a_range_of_a_file_that_changes_is_refused(server):
    with RangeReader(server.url + "/file.bin", sleep=lambda _: None) as reader:
        reader.read(0, 10)
        server.files["/file.bin"] = OTHER
        with pytest.raises(DownloadFailed, match="changed"):
            reader.read(10, 20)


def test_a_reader_says_when_the_server_has_no_ranges(server):
    server.always["/file.bin"] = Fault(ignore_range=True)
    with RangeReader(server.url + "/file.bin", sleep=lambda _: None) as reader, pytest.raises(RangesUnsupported):
        reader.size()


@pytest.mark.parametrize("fault", [Fault(status=404), Fault(status=503), Fault(drop_after=0)])
def test_a_reader_gives_up_with_one_sentence(server, fault):
    server.always["/file.bin"] = fault
    reader = RangeReader(server.url + "/file.bin", sleep=lambda _: None)
    with reader, pytest.raises(DownloadFailed, match=r"file\.bin"):
        reader.read(0, 10)


def test_local_ranges_end_where_the_file_does(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    with RangeReader(tmp_path / "x") as reader:
        assert reader.size() == 10
        assert reader.read(2, 5) == b"234"
        with pytest.raises(DownloadFailed, match="is incomplete"):
            reader.read(5, 11)


def test_user_names_and_passwords_are_neither_told_nor_stored(server, tmp_path, pauses):
    secret = server.url.replace("http://", "http://user:s3cret@") + "/file.bin"
    server.faults["/file.bin"] = [Fault(drop_after=100_000)]
    server.always["/file.bin"] = Fault(drop_after=0)
    with pytest.raises(DownloadFailed) as caught:
        download(secret, tmp_path / "file.bin", sleep=pauses.append, tries=2)
    assert server.url in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in (tmp_path / "file.bin.part.state").read_text()
    del server.always["/file.bin"]
    assert download(secret, tmp_path / "file.bin").read_bytes() == CONTENT  # and what had arrived is taken up
    server.always["/file.bin"] = Fault(status=404)
    with RangeReader(secret, sleep=pauses.append) as reader, pytest.raises(DownloadFailed) as caught:
        reader.size()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("there", ["http://elsewhere.example/file.bin", "HTTP://elsewhere.example/file.bin"])
def test_a_redirect_from_https_to_http_is_refused(tmp_path, pauses, monkeypatch, there):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": there})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda self, request: answer(request))
    with pytest.raises(DownloadFailed, match="redirects from https to http://elsewhere"):
        download("https://hub.example/file.bin", tmp_path / "file.bin", sleep=pauses.append)
    assert asked == ["https://hub.example/file.bin"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<!DOCTYPE html><title>Log in</title>", "it is a web page"),
        (b"\xef\xbb\xbf\n <HTML>", "it is a web page"),
        (b"\x1f\x8b\x08 packed", "it is compressed with gzip"),
    ],
)
def test_an_answer_of_another_kind_never_gets_the_name_of_a_file_without_hash(
    server, tmp_path, pauses, content, problem
):
    server.files["/file.bin"] = content
    with pytest.raises(DownloadFailed, match=problem):
        fetch(server, tmp_path, pauses)
    assert list(tmp_path.iterdir()) == []
    assert fetch(server, tmp_path, pauses, sha256=hashlib.sha256(content).hexdigest()).read_bytes() == content


@pytest.mark.parametrize("wish", ["²", "9" * 400, "Wed, 99 Xyz 99999 99:99:99 GMT", ""])
def test_a_wish_to_wait_that_is_no_time_is_passed_over(server, tmp_path, pauses, wish):
    server.faults["/file.bin"] = [Fault(status=503, retry_after=wish)]
    assert fetch(server, tmp_path, pauses).read_bytes() == CONTENT
    assert max(pauses) <= 120


def test_a_body_of_no_stated_length_is_taken_only_where_something_checks_it(tmp_path, pauses):
    class Unframed(http.server.BaseHTTPRequestHandler):
        """HTTP/1.0 without a Content-Length: whoever cuts the connection ends the file."""

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Unframed)
    serve(server)
    address = f"http://127.0.0.1:{server.server_address[1]}/file.bin"
    try:
        with pytest.raises(DownloadFailed, match="does not say how long the file is"):
            download(address, tmp_path / "unchecked.bin", sleep=pauses.append)
        assert list(tmp_path.iterdir()) == []
        for known in ({"sha256": SHA256}, {"size": len(CONTENT)}, {"check": lambda path: None}):
            target = tmp_path / f"{next(iter(known))}.bin"
            assert download(address, target, sleep=pauses.append, **known).read_bytes() == CONTENT
    finally:
        server.shutdown()
        server.server_close()


def test_what_only_looks_at_data_does_not_load_the_http_client():
    code = "import sys, panbench.cli.prepare; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# What another try cannot mend.


def test_a_web_page_in_place_of_a_checkpoint_is_named_and_not_asked_for_twice(server, tmp_path, pauses):
    server.files["/file.bin"] = b"<!DOCTYPE html><title>This domain is for sale</title>"
    with pytest.raises(DownloadFailed, match="it is a web page"):
        fetch(server, tmp_path, pauses, sha256=SHA256)
    assert len(server.log) == 1
    assert pauses == []
    assert not (tmp_path / "file.bin").exists()


def test_a_name_that_does_not_resolve_is_not_tried_again(tmp_path, pauses, monkeypatch):
    asked: list[object] = []

    def unknown(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unreachable, match="the name of the server does not resolve") as caught:
        download("https://download.openmmlab.com/w.pth", tmp_path / "w.pth", sleep=pauses.append)
    assert len(asked) == 1
    assert pauses == []
    assert "PANBENCH_MIRROR_OPENMMLAB" in str(caught.value)
    assert "https://download.openmmlab.com/w.pth" in str(caught.value)


def test_a_certificate_that_is_not_valid_is_not_tried_again(tmp_path, pauses):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("self_signed.pem"))

    class Quiet(http.server.HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Quiet(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = serve(server)
        with pytest.raises(Unreachable, match=r"the certificate of the server is not valid \(self-signed"):
            download(f"https://127.0.0.1:{server.server_port}/w.pth", tmp_path / "w.pth", sleep=pauses.append)
        server.shutdown()
        thread.join()
    assert pauses == []
