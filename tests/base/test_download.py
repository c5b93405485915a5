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
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from support import answering, refusal, serve

from panbench.base import download as download_module
from panbench.base.download import RangeReader, RangesUnsupported, download, mirrored_url
from panbench.base.errors import BadArgument, DownloadFailed, OutOfSpace, Unreachable
from panbench.base.files import file_mismatch
from panbench.base.locks import Lock
from scripts.make.coco_mimic import Fault, FaultServer

CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(1).randbytes(300_000)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer({"/file.bin": CONTENT}) as server:
        yield server


@pytest.fixture(autouse=True)
def pauses(monkeypatch) -> list[float]:
    """How long each failed request was waited for; nothing sleeps."""
    found: list[float] = []
    monkeypatch.setattr(download_module, "_sleep", found.append)
    return found


def fetch(server: FaultServer, folder: Path, **arguments) -> Path:
    return download(server.url + "/file.bin", folder / "file.bin", **arguments)


def requested(server: FaultServer) -> list[str]:
    return [wanted for _, wanted, _ in server.log]


def test_a_file_is_downloaded_completely_and_nothing_else_left(server, tmp_path, pauses):
    target = fetch(server, tmp_path / "neuer Ordner é", sha256=SHA256, size=len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["file.bin"]
    assert pauses == []


def test_a_second_call_does_not_contact_the_server(server, tmp_path):
    fetch(server, tmp_path, sha256=SHA256)
    fetch(server, tmp_path, sha256=SHA256)
    assert len(server.log) == 1


def test_a_hash_may_be_given_by_its_first_digits(server, tmp_path):
    assert fetch(server, tmp_path, sha256=SHA256[:8].upper()).read_bytes() == CONTENT


def test_a_wrong_file_under_the_name_is_replaced(server, tmp_path):
    (tmp_path / "file.bin").write_bytes(OTHER)
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_progress_counts_every_byte_up_to_the_total(server, tmp_path):
    seen: list[tuple[int, int | None]] = []
    fetch(server, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# Faults that pass: the file arrives all the same.


def test_a_connection_dropped_at_random_bytes_resumes_at_the_byte(server, tmp_path):
    cuts = [random.Random(seed).randrange(1, 60_000) for seed in range(5)]
    server.faults["/file.bin"] = [Fault(drop_after=cut) for cut in cuts]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    starts = [0, *itertools.accumulate(cuts)]
    assert requested(server) == ["", *[f"bytes={start}-" for start in starts[1:]]]
    assert server.sent == len(CONTENT)


def test_a_server_without_ranges_sends_the_file_from_the_start(server, tmp_path):
    server.faults["/file.bin"] = [Fault(drop_after=100_000), Fault(ignore_range=True)]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


@pytest.mark.parametrize("hashed", [True, False])
def test_a_file_that_changed_between_resumes_is_not_mixed(server, tmp_path, monkeypatch, hashed):
    known_before, known_after = (
        {"sha256": hashlib.sha256(content).hexdigest()} if hashed else {} for content in (CONTENT, OTHER)
    )
    server.faults["/file.bin"] = [Fault(drop_after=100_000)] * 2
    monkeypatch.setattr(download_module, "_TRIES", 1)
    with pytest.raises(DownloadFailed):
        fetch(server, tmp_path, **known_before)
    if hashed:
        assert (tmp_path / "file.bin.part").stat().st_size == 100_000
    else:
        assert list(tmp_path.iterdir()) == []  # what nothing could verify starts over
    server.files["/file.bin"] = OTHER
    server.faults.clear()
    assert fetch(server, tmp_path, **known_after).read_bytes() == OTHER


def test_a_server_that_ignores_if_range_is_caught_by_its_etag(server, tmp_path):
    server.faults["/file.bin"] = [Fault(drop_after=100_000, etag='"old"'), Fault(etag='"new"', stale=True)]
    server.files["/file.bin"] = CONTENT
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert requested(server)[1:] == ["bytes=100000-", ""]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_busy_server_is_retried_later(server, tmp_path, pauses, status):
    server.faults["/file.bin"] = [Fault(status=status), Fault(status=status)]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert len(pauses) == 2
    assert 0.25 <= pauses[0] <= 0.5 <= pauses[1] <= 1.0


def test_retry_after_is_honoured(server, tmp_path, pauses):
    server.faults["/file.bin"] = [Fault(status=503, retry_after="7")]
    fetch(server, tmp_path, sha256=SHA256)
    assert pauses == [7.0]


def test_redirects_are_followed_with_the_range(server, tmp_path):
    server.files["/elsewhere.bin"] = CONTENT
    server.always["/file.bin"] = Fault(redirect="/elsewhere.bin")
    server.faults["/elsewhere.bin"] = [Fault(drop_after=100_000)]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert server.log[-1] == ("/elsewhere.bin", "bytes=100000-", 206)


def test_a_slow_connection_completes(server, tmp_path):
    server.files["/file.bin"] = CONTENT[:3000]
    server.always["/file.bin"] = Fault(block=1)
    assert fetch(server, tmp_path).read_bytes() == CONTENT[:3000]


def test_a_byte_flipped_once_in_transit_is_fetched_again(server, tmp_path):
    server.faults["/file.bin"] = [Fault(flip_at=12_345)]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert len(server.log) == 2


@pytest.mark.parametrize("off_by", [1000, -1000])
def test_a_wrong_content_length_costs_one_request(server, tmp_path, off_by):
    server.faults["/file.bin"] = [Fault(length_off_by=off_by)]
    assert fetch(server, tmp_path, sha256=SHA256, size=len(CONTENT)).read_bytes() == CONTENT


def test_a_response_without_length_is_accepted_and_checked(server, tmp_path):
    server.faults["/file.bin"] = [Fault(chunked=True, drop_after=100_000), Fault(chunked=True)]
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


# Faults that stay: one sentence, and nothing under the final name.


@pytest.mark.parametrize(
    ("fault", "arguments", "message"),
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
def test_a_permanent_fault_leaves_no_file(server, tmp_path, fault, arguments, message):
    server.always["/file.bin"] = fault
    with pytest.raises(DownloadFailed, match=message) as caught:
        fetch(server, tmp_path, **arguments)
    assert not (tmp_path / "file.bin").exists()
    assert server.url + "/file.bin" in str(caught.value)
    assert str(tmp_path / "file.bin") in str(caught.value)


def test_a_missing_file_is_not_requested_twice(server, tmp_path):
    with pytest.raises(DownloadFailed):
        download(server.url + "/nothing.bin", tmp_path / "x")
    assert len(server.log) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_the_error_names_url_and_target(tmp_path, unused_port):
    url = f"http://127.0.0.1:{unused_port}/weights.pth"
    with pytest.raises(DownloadFailed, match="copy the file there") as caught:
        download(url, tmp_path / "weights.pth")
    assert url in str(caught.value)
    assert str(tmp_path / "weights.pth") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def unused_port() -> int:
    with FaultServer({}) as server:
        return int(server.url.rsplit(":", 1)[1])


# Interruptions.


def test_bytes_before_an_interruption_are_not_fetched_again(server, tmp_path):
    def stop(done: int, total: int | None) -> None:
        if done >= 150_000:
            raise KeyboardInterrupt

    server.always["/file.bin"] = Fault(block=10_000)
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, sha256=SHA256, progress=stop)
    assert not (tmp_path / "file.bin").exists()
    server.log.clear()
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    start = int(requested(server)[0].split("=")[1].split("-")[0])
    assert start >= 150_000


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_download_resumes_at_the_byte(server, tmp_path):
    server.faults["/file.bin"] = [Fault(drop_after=150_000)]
    process = multiprocessing.get_context("spawn").Process(target=_fetch_and_die, args=(server.url, str(tmp_path)))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "file.bin").exists()
    server.log.clear()
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert requested(server) == ["bytes=150000-"]


def _fetch_and_die(url: str, folder: str) -> None:
    # The pause after the dropped connection is where the kill falls.
    download_module._sleep = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    download(url + "/file.bin", Path(folder) / "file.bin", sha256=SHA256)


@pytest.mark.parametrize("length", [1000, len(CONTENT), len(CONTENT) + 1000])
@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_partial_file_of_another_download_is_discarded(server, tmp_path, length, size):
    (tmp_path / "file.bin.part").write_bytes((OTHER * 2)[:length])
    assert fetch(server, tmp_path, sha256=SHA256, size=size).read_bytes() == CONTENT


def test_a_hash_may_be_an_md5(server, tmp_path):
    digits = hashlib.md5(CONTENT).hexdigest()[:6]
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:1000])
    assert fetch(server, tmp_path, md5=digits).read_bytes() == CONTENT
    assert requested(server) == ["bytes=1000-"]
    server.files["/file.bin"] = OTHER
    with pytest.raises(DownloadFailed, match=f"its MD5 begins with .*, not with {digits}"):
        download(server.url + "/file.bin", tmp_path / "other.bin", md5=digits)


def test_foreign_bytes_in_a_partial_file_are_detected_by_the_hash(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_TRIES", 1)
    server.faults["/file.bin"] = [Fault(drop_after=100_000)]
    with pytest.raises(DownloadFailed):
        fetch(server, tmp_path, sha256=SHA256)
    (tmp_path / "file.bin.part").write_bytes(OTHER[:100_000])
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


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


def test_a_stalled_download_of_another_process_is_named_and_not_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download_module, "_PATIENCE", 0.0)
    lock = Lock.acquire(tmp_path / "file.bin.part.lock")
    with pytest.raises(DownloadFailed, match=rf"file\.bin is being downloaded by process {os.getpid()} on .* since 20"):
        fetch(server, tmp_path)
    assert server.log == []
    lock.release()
    assert fetch(server, tmp_path).read_bytes() == CONTENT


@pytest.mark.skipif(os.name == "nt", reason="patches a system call of POSIX")
def test_without_locks_the_marker_of_another_machine_is_named_with_the_file_to_delete(server, tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", _no_flock)
    monkeypatch.setattr(download_module, "_PATIENCE", 0.0)
    marker = tmp_path / "file.bin.part.lock.soft"
    marker.write_text("12\nanother-machine\n")
    with pytest.raises(DownloadFailed, match=r"if that process has ended, delete .*/file\.bin\.part\.lock\.soft\."):
        fetch(server, tmp_path)
    marker.unlink()
    assert fetch(server, tmp_path).read_bytes() == CONTENT


# Disks.


def test_disk_space_is_checked_before_the_first_byte(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    assert "needs 300,000 bytes" in refusal(OutOfSpace, fetch, server, tmp_path, size=len(CONTENT))
    assert server.log == []


def test_a_full_disk_keeps_the_downloaded_bytes(server, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download_module._Download, "_append_body", full)
        assert "file.bin" in refusal(OutOfSpace, fetch, server, tmp_path, sha256=SHA256)
    assert fetch(server, tmp_path, sha256=SHA256).read_bytes() == CONTENT


def test_an_unwritable_target_is_reported_in_one_sentence(server, tmp_path):
    (tmp_path / "in the way").write_text("a file where the folder should be")
    with pytest.raises(DownloadFailed, match="Cannot write"):
        download(server.url + "/file.bin", tmp_path / "in the way" / "file.bin")


# Other sources.


@pytest.mark.parametrize("form", ["path", "file://"])
def test_local_files_can_be_sources(tmp_path, form):
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


def test_a_mirror_replaces_the_host(server, tmp_path, monkeypatch):
    monkeypatch.setenv("PANBENCH_MIRROR_COCO", server.url + "/")
    assert mirrored_url("http://images.cocodataset.org/file.bin") == server.url + "/file.bin"
    assert mirrored_url("https://elsewhere.org/file.bin") == "https://elsewhere.org/file.bin"
    download("http://images.cocodataset.org/file.bin", tmp_path / "file.bin", sha256=SHA256)


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    server.files["http://host.invalid/file.bin"] = CONTENT
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    target = download("http://host.invalid/file.bin", tmp_path / "file.bin", sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_a_malformed_hash_and_an_unknown_scheme_are_refused(tmp_path):
    assert "SHA-256" in refusal(BadArgument, download, "http://127.0.0.1/x", tmp_path / "x", sha256="not hex")
    assert "http, https, file" in refusal(DownloadFailed, download, "ftp://127.0.0.1/x", tmp_path / "x")


def test_a_wrong_file_is_reported_with_the_difference(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_mismatch(tmp_path / "x", size=3) is None
    assert file_mismatch(tmp_path / "x", size=4) == "it has 3 bytes, not 4"
    assert "ba7816bf" in str(file_mismatch(tmp_path / "x", sha256="00000000"))
    assert file_mismatch(tmp_path / "y") == "it does not exist"


# Ranges.


def test_range_reads_are_exact_and_counted(server):
    server.faults["/file.bin"] = [Fault(status=503), Fault(drop_after=10)]
    with closing(RangeReader(server.url + "/file.bin")) as reader:
        assert reader.read(1000, 2000) == CONTENT[1000:2000]
        assert reader.size() == len(CONTENT)
        assert reader.read(5, 5) == b""
        assert reader.fetched == 1010


def test_a_range_of_a_file_that_changes_is_refused(server):
    with closing(RangeReader(server.url + "/file.bin")) as reader:
        reader.read(0, 10)
        server.files["/file.bin"] = OTHER
        assert "changed" in refusal(DownloadFailed, reader.read, 10, 20)


def test_a_range_reader_reports_a_server_without_ranges(server):
    server.always["/file.bin"] = Fault(ignore_range=True)
    with closing(RangeReader(server.url + "/file.bin")) as reader, pytest.raises(RangesUnsupported):
        reader.size()


@pytest.mark.parametrize("fault", [Fault(status=404), Fault(status=503), Fault(drop_after=0)])
def test_a_range_reader_gives_up_with_one_message(server, fault):
    server.always["/file.bin"] = fault
    reader = RangeReader(server.url + "/file.bin")
    with closing(reader), pytest.raises(DownloadFailed, match=r"file\.bin"):
        reader.read(0, 10)


def test_local_ranges_end_with_the_file(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    with closing(RangeReader(tmp_path / "x")) as reader:
        assert reader.size() == 10
        assert reader.read(2, 5) == b"234"
        assert "is incomplete" in refusal(DownloadFailed, reader.read, 5, 11)


def test_user_names_and_passwords_are_neither_printed_nor_stored(server, tmp_path):
    secret = server.url.replace("http://", "http://user:s3cret@") + "/file.bin"
    server.faults["/file.bin"] = [Fault(drop_after=100_000)]
    server.always["/file.bin"] = Fault(drop_after=0)
    with pytest.raises(DownloadFailed) as caught:
        download(secret, tmp_path / "file.bin", sha256=SHA256)
    assert server.url in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert all(b"s3cret" not in path.read_bytes() for path in tmp_path.iterdir())
    del server.always["/file.bin"]
    assert download(secret, tmp_path / "file.bin").read_bytes() == CONTENT
    server.always["/file.bin"] = Fault(status=404)
    with closing(RangeReader(secret)) as reader, pytest.raises(DownloadFailed) as caught:
        reader.size()
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("there", ["http://elsewhere.example/file.bin", "HTTP://elsewhere.example/file.bin"])
def test_a_redirect_from_https_to_http_is_refused(tmp_path, monkeypatch, there):
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(302, headers={"Location": there})

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda self, request: answer(request))
    with pytest.raises(DownloadFailed, match="redirects from https to http://elsewhere"):
        download("https://hub.example/file.bin", tmp_path / "file.bin")
    assert asked == ["https://hub.example/file.bin"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<!DOCTYPE html><title>Log in</title>", "it is a web page"),
        (b"\xef\xbb\xbf\n <HTML>", "it is a web page"),
        (b"\x1f\x8b\x08 packed", "it is compressed with gzip"),
    ],
)
def test_a_response_of_another_kind_is_not_stored_without_a_hash(server, tmp_path, content, problem):
    server.files["/file.bin"] = content
    assert problem in refusal(DownloadFailed, fetch, server, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert fetch(server, tmp_path, sha256=hashlib.sha256(content).hexdigest()).read_bytes() == content


@pytest.mark.parametrize("wish", ["²", "9" * 400, "Wed, 99 Xyz 99999 99:99:99 GMT", ""])
def test_an_invalid_retry_after_is_ignored(server, tmp_path, pauses, wish):
    server.faults["/file.bin"] = [Fault(status=503, retry_after=wish)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert max(pauses) <= 120


def test_a_response_without_length_needs_a_hash(tmp_path):
    def cut_off(request):
        """HTTP/1.0 without a Content-Length: whoever cuts the connection ends the file."""
        request.send_response(200)
        request.end_headers()
        request.wfile.write(CONTENT)

    with answering(cut_off) as url:
        with pytest.raises(DownloadFailed, match="does not say how long the file is"):
            download(f"{url}/file.bin", tmp_path / "unchecked.bin")
        assert list(tmp_path.iterdir()) == []
        for known in ({"sha256": SHA256}, {"size": len(CONTENT)}):
            target = tmp_path / f"{next(iter(known))}.bin"
            assert download(f"{url}/file.bin", target, **known).read_bytes() == CONTENT


def test_reading_local_data_does_not_import_the_http_client():
    code = "import sys, panbench.cli.prepare; sys.exit('httpx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# What another try cannot mend.


def test_a_web_page_instead_of_a_checkpoint_is_reported_and_not_retried(server, tmp_path, pauses):
    server.files["/file.bin"] = b"<!DOCTYPE html><title>This domain is for sale</title>"
    assert "it is a web page" in refusal(DownloadFailed, fetch, server, tmp_path, sha256=SHA256)
    assert len(server.log) == 1
    assert pauses == []
    assert not (tmp_path / "file.bin").exists()


def test_an_unresolvable_name_is_not_retried(tmp_path, pauses, monkeypatch):
    asked: list[object] = []

    def unknown(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unreachable, match="the name of the server does not resolve") as caught:
        download("https://download.openmmlab.com/w.pth", tmp_path / "w.pth")
    assert len(asked) == 1
    assert pauses == []
    assert "PANBENCH_MIRROR_OPENMMLAB" in str(caught.value)
    assert "https://download.openmmlab.com/w.pth" in str(caught.value)


def test_an_invalid_certificate_is_not_retried(tmp_path, pauses):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).with_name("self_signed.pem"))

    class Quiet(http.server.HTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass

    with Quiet(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = serve(server)
        with pytest.raises(Unreachable, match=r"the certificate of the server is not valid \(self-signed"):
            download(f"https://127.0.0.1:{server.server_port}/w.pth", tmp_path / "w.pth")
        server.shutdown()
        thread.join()
    assert pauses == []
