"""Resumable, verified downloads over HTTP, from `file://` URLs or from local paths.

A file is downloaded to `<name>.part` next to its target. An interrupted or killed download resumes at the byte where it
stopped if a hash will check the result. Only a file of the right size and hash gets its final name.
"""

import contextlib
import errno
import os
import random
import re
import shutil
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from panbench.base.errors import BadArgument, DownloadFailed, OutOfSpace, Unreachable
from panbench.base.files import file_mismatch, make_folders, publish, require_space
from panbench.base.locks import Lock, owner_of, stale_lock_hint
from panbench.base.reporter import Counting
from panbench.base.secrets import without_secrets
from panbench.base.web import TRANSIENT_STATUS, Refused, http_client

# Imported where it is used: the import takes 0.2 s of CPU, and most commands download nothing.
if TYPE_CHECKING:
    import httpx

Result = TypeVar("Result")

MIRRORS = {
    "COCO": ("http://images.cocodataset.org", "https://images.cocodataset.org"),
    "OPENMMLAB": ("https://download.openmmlab.com", "http://download.openmmlab.com"),
    "FBAI": ("https://dl.fbaipublicfiles.com",),
    "GITHUB": ("https://github.com",),
}

_TRIES = 6
"""Consecutive failures without progress before giving up."""
# Seconds to wait for another process that downloads the same file.
_PATIENCE = 1800.0
_PAGE = "it is a web page"
_sleep = time.sleep


class RangesUnsupported(DownloadFailed):
    """Raised when a server answers a range request with the entire file."""


class _Transient(Exception):
    """A failure worth retrying; `after` is how many seconds the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        """Stores why a request failed, and how many seconds to wait before the next try."""
        super().__init__(reason)
        self.after = after


def download(
    url: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    md5: str | None = None,
    size: int | None = None,
    progress: Counting | None = None,
) -> Path:
    """Downloads a file and verifies it; returns its path, `target`.

    A target that already exists with the right size and hash is left alone. A dropped connection resumes at the byte
    where it broke, unless the server's ETag (or date) shows that the file has changed; with a hash, an interrupted
    download resumes, too. Several processes may download one target: one does, the others wait. Proxies come from the
    environment (HTTPS_PROXY, NO_PROXY); PANBENCH_MIRROR_<NAME> replaces a host of MIRRORS by another URL or folder.

    url: http://, https://, file:// or a plain path
    sha256, md5: the first hex digits of a hash, or all of them; the names of checkpoints end in some
    progress: called with the bytes received (including those of earlier calls) and the total, None while unknown
    Raises DownloadFailed with URL and target, OutOfSpace before the first byte or when the disk fills up.
    """
    target, source = Path(target), mirrored_url(os.fspath(url))
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{4,64}", sha256):
        raise BadArgument(f"{sha256!r} is not a SHA-256: give 4 to 64 hex digits.")
    job = _Download(source, target, sha256, md5, size, progress or (lambda done, total: None))
    if job.mismatch(target) is None:
        return target
    local = local_path_of_url(source)
    try:
        make_folders(target.parent)
        with _lock_download(target):
            if job.mismatch(target) is not None:
                job.run(local)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(
                f"No space left while downloading {job.shown} to {target}. Free some space and run the same command "
                "again: it resumes where it stopped."
            ) from error
        if local is not None and error.filename == str(local):
            raise job.download_error(error.strerror or str(error)) from error
        raise DownloadFailed(f"Cannot write {target} (for {job.shown}): {error.strerror or error}.") from error
    return target


def mirrored_url(url: str) -> str:
    """Replaces the host of `url` by the one in PANBENCH_MIRROR_<NAME>, if set (see MIRRORS)."""
    for name, addresses in MIRRORS.items():
        mirror = os.environ.get(f"PANBENCH_MIRROR_{name}")
        for address in addresses:
            if mirror and url.startswith(address + "/"):
                return mirror.rstrip("/") + url[len(address) :]
    return url


def local_path_of_url(source: str) -> Path | None:
    """Returns the path of a `file://` URL or a plain path; None for http(s). Other schemes raise DownloadFailed."""
    scheme, separator, _ = source.partition("://")
    if not separator:
        return Path(source).expanduser()
    if scheme.lower() == "file":
        return Path(urllib.request.url2pathname(urllib.parse.urlsplit(source).path))
    if scheme.lower() in ("http", "https"):
        return None
    raise DownloadFailed(
        f"{without_secrets(source)} cannot be downloaded: panbench reads http, https, file:// and plain paths."
    )


class RangeReader:
    """Reads byte ranges of a remote or local file. `fetched` counts the bytes received over the network.

    Safe to use from several threads.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        """Prepares to read the file at `url`, or its mirror; the first read connects."""
        self.url = mirrored_url(os.fspath(url))
        self._shown = without_secrets(self.url)
        self.fetched = 0
        self._lock = threading.Lock()
        self._path = local_path_of_url(self.url)
        self._client = None if self._path else http_client()
        self._known: tuple[int, str | None] | None = None
        """Size and ETag (or date) in the first response."""

    def close(self) -> None:
        """Closes the connections."""
        if self._client:
            self._client.close()

    def size(self) -> int:
        """Returns the size of the file in bytes. Raises RangesUnsupported when the server does not support ranges."""
        if self._path:
            with _read_errors_as_failures(self._path):
                return self._path.stat().st_size
        if self._known is None:
            self.read(0, 1)
        assert self._known is not None
        return self._known[0]

    def read(self, start: int, stop: int) -> bytes:
        """Reads the bytes from `start` up to `stop`, no fewer. Raises DownloadFailed and RangesUnsupported."""
        if stop <= start:
            return b""
        if self._path:
            with _read_errors_as_failures(self._path), open(self._path, "rb") as handle:
                handle.seek(start)
                content = handle.read(stop - start)
            if len(content) != stop - start:
                raise DownloadFailed(f"{self._path} ends before byte {stop:,}: it is incomplete.")
            return content
        what = f"Cannot read bytes {start:,}–{stop - 1:,} of {self._shown}"
        return _with_retries(lambda: self._request_range(start, stop), lambda reason, kind: kind(f"{what}: {reason}."))

    def _request_range(self, start: int, stop: int) -> bytes:
        """Requests a range of bytes once. Raises _Transient if fewer bytes arrive."""
        assert self._client is not None
        content = bytearray()
        with self._client.stream("GET", self.url, headers={"Range": f"bytes={start}-{stop - 1}"}) as response:
            if response.status_code == 200:
                raise RangesUnsupported(
                    f"{self._shown} can only be read as a whole: the server ignores range requests."
                )
            found = _size_in_content_range(response, start), _etag_or_date(response)
            self._known = self._known or found
            if found != self._known:
                raise DownloadFailed(f"{self._shown} changed while it was being read. Run the same command again.")
            for block in response.iter_raw():
                content += block
                with self._lock:
                    self.fetched += len(block)
                if len(content) > stop - start:
                    break
        if len(content) < stop - start:
            raise _Transient(f"{len(content):,} of {stop - start:,} bytes arrived")
        return bytes(content[: stop - start])


@contextlib.contextmanager
def _read_errors_as_failures(path: Path) -> Iterator[None]:
    """Context that turns an OSError while a local file is read into DownloadFailed."""
    try:
        yield
    except OSError as error:
        raise DownloadFailed(f"Cannot read {path}: {error.strerror}.") from error


@dataclass
class _Download:
    """The state of one `download` call: the unfinished file, and the size and ETag of the file on the server."""

    url: str
    target: Path
    sha256: str | None
    md5: str | None
    size: int | None
    progress: Counting

    def __post_init__(self) -> None:
        """Sets where the unfinished download is stored; no byte has arrived yet."""
        self.part = self.target.with_name(self.target.name + ".part")
        self.shown = without_secrets(self.url)
        self._has_hash = self.sha256 is not None or self.md5 is not None
        self._arrived = 0
        self._total = self.size
        self._validator: str | None = None

    def mismatch(self, path: Path) -> str | None:
        """Explains by hash and size why a file is not the expected one; None if it is."""
        return file_mismatch(path, self.sha256, self.size, md5=self.md5)

    def run(self, local: Path | None) -> None:
        """Downloads (or copies, if it is local), verifies and renames the file."""
        try:
            for tries_left in (1, 0):
                self._fetch_missing_bytes() if local is None else self._copy_local_file(local)
                wrong_content = None if local is not None else _explain_wrong_body(self.part, self.target)
                problem = self.mismatch(self.part) or (None if self._has_hash else wrong_content)
                if problem is None:
                    return publish(self.part, self.target)
                self._discard_unfinished_file()
                # Bytes damaged in transit are fetched a second time; an error or parking page would come again.
                if not tries_left or wrong_content == _PAGE or local is not None:
                    wrong = _PAGE if wrong_content == _PAGE else problem
                    raise self.download_error(f"the downloaded file is not the expected one: {wrong}")
        finally:
            if not (self._arrived and self._has_hash):
                with contextlib.suppress(OSError):
                    self.part.unlink()

    def _discard_unfinished_file(self) -> None:
        self._arrived, self._total, self._validator = 0, self.size, None
        self.part.unlink(missing_ok=True)

    def _fetch_missing_bytes(self) -> None:
        """Downloads the missing bytes into the unfinished file; without a hash it starts from the first byte."""
        with open(self.part, "ab") as handle:
            # Without a hash, bytes of another file, or bytes lost in a power cut, would go unnoticed.
            length = handle.tell()
            self._arrived = length if self._has_hash and length <= (self.size or length) else 0
            handle.truncate(self._arrived)
        if self.size is not None:
            self._require_space(self.size - self._arrived)
        self.progress(self._arrived, self._total)
        if self._arrived != self._total:
            with http_client() as client:
                _with_retries(lambda: self._request_missing_bytes(client), self.download_error, lambda: self._arrived)

    def _request_missing_bytes(self, client: "httpx.Client") -> None:
        """Makes one request for the missing bytes."""
        headers = {"Range": f"bytes={self._arrived}-"} if self._arrived else {}
        if self._arrived and self._validator:
            headers["If-Range"] = self._validator
        with client.stream("GET", self.url, headers=headers) as response:
            if not (self._has_hash or self.size is not None) and _ends_anywhere(response):
                raise Refused("the server does not say how long the file is, so a body cut short would go unnoticed")
            if response.status_code == 416:
                self._discard_unfinished_file()
                raise _Transient("the server's file is shorter than what has arrived")
            if response.status_code == 200:
                # The server ignores ranges or the file has changed: this is the entire file, from its first byte.
                self._arrived, self._validator, self._total = 0, None, self.size
                total = _content_length(response)
            else:
                total = _size_in_content_range(response, self._arrived)
            self._check_response_unchanged(total, _etag_or_date(response))
            self._append_body(response)
        if self._total is not None and self._arrived < self._total:
            raise _Transient(f"the connection closed {self._total - self._arrived:,} bytes early")

    def _check_response_unchanged(self, total: int | None, validator: str | None) -> None:
        """Stores size and ETag of a response; raises _Transient if they contradict those of earlier responses."""
        if total is not None and self.size is not None and total != self.size:
            raise _Transient(f"the server offers {total:,} bytes where {self.size:,} are expected")
        for known, found in ((self._validator, validator), (self._total, total)):
            if known is not None and found is not None and known != found:
                self._discard_unfinished_file()
                raise _Transient("the file changed on the server")
        self._validator, self._total = self._validator or validator, total if self._total is None else self._total
        if self.size is None and self._total is not None:
            self._require_space(self._total - self._arrived)

    def _append_body(self, response: "httpx.Response") -> None:
        """Appends the body of a response to the unfinished file, up to the expected size."""
        with open(self.part, "ab") as handle:
            handle.truncate(self._arrived)
            for block in response.iter_raw():
                block = block if self._total is None else block[: self._total - self._arrived]
                if not block:
                    return
                handle.write(block)
                self._arrived += len(block)
                self.progress(self._arrived, self._total)

    def _copy_local_file(self, source: Path) -> None:
        self._total = source.stat().st_size
        self._require_space(self._total)
        shutil.copyfile(source, self.part)
        self._arrived = self._total
        self.progress(self._arrived, self._total)

    def _require_space(self, needed: int) -> None:
        require_space(self.target.parent, needed, f"{self.target} (from {self.shown})")

    def download_error(self, reason: str, kind: type[DownloadFailed] = DownloadFailed) -> DownloadFailed:
        """Returns the error for a download that failed for `reason`, with what the user can do."""
        message = f"Could not download {self.shown} to {self.target}: {reason}."
        if self._arrived and self._has_hash:
            return kind(f"{message} {self._arrived:,} bytes are stored next to it; the same command resumes there.")
        names = [name for name, hosts in MIRRORS.items() if self.url.startswith(hosts)]
        mirrors = [f"name another URL or folder for it in PANBENCH_MIRROR_{name}" for name in names]
        return kind(message, ways=["without a network, copy the file there yourself", *mirrors])


def _with_retries(
    request: Callable[[], Result],
    failure: Callable[[str, type[DownloadFailed]], DownloadFailed],
    arrived: Callable[[], int] = lambda: 0,
) -> Result:
    """Repeats a request after transient failures, until _TRIES in a row make no progress.

    failure: makes the error to raise; arrived: returns the bytes received so far
    """
    import httpx

    failures, best = 0, arrived()
    while True:
        try:
            return request()
        except (httpx.HTTPError, httpx.InvalidURL, Refused, _Transient) as error:
            reason, is_transient = _explain_failed_request(error)
            failures = failures + 1 if arrived() <= best else 1
            best = max(best, arrived())
            if not is_transient or failures >= _TRIES:
                kind = Unreachable if isinstance(error, httpx.ConnectError) else DownloadFailed
                raise failure(f"{reason}, after {failures} tries" if is_transient else reason, kind) from error
            pause = error.after if isinstance(error, _Transient) else 0.0
            # Doubles from 0.5 to 30 seconds, with jitter; at least what the server asks for.
            _sleep(max(min(pause, 120.0), min(30.0, 0.25 * 2.0**failures) * random.uniform(0.5, 1.0)))


def _explain_failed_request(error: Exception) -> tuple[str, bool]:
    """Explains a failed request in words, and whether a retry could help."""
    import httpx

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "the name of the server does not resolve", False
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate of the server is not valid ({cause.verify_message})", False
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout):
        return "the server does not respond", True
    text = str(error).rstrip(".") or type(error).__name__
    if isinstance(error, httpx.ConnectError):
        return f"no connection ({text})", True
    is_transient = isinstance(error, httpx.TransportError | _Transient)
    return text, is_transient and not isinstance(error, httpx.UnsupportedProtocol)


def _explain_wrong_body(path: Path, target: Path) -> str | None:
    """Names what a server sent in place of the file (a web page, a compressed copy); None for a plausible answer."""
    with open(path, "rb") as handle:
        head = handle.read(512)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return None if target.suffix.lower() in (".html", ".htm") else _PAGE
    if head.startswith(b"\x1f\x8b"):
        return None if target.suffix.lower() in (".gz", ".tgz") else "it is compressed with gzip"
    return None


def _lock_download(target: Path) -> Lock:
    """Locks a target, so that only one process downloads it; the others wait here."""
    path = target.with_name(target.name + ".part.lock")
    if (lock := Lock.acquire(path, patience=_PATIENCE)) is None:
        raise DownloadFailed(
            f"{target} is being downloaded by {owner_of(path)}, for more than {_PATIENCE / 60:.0f} minutes. Wait for "
            f"that process or stop it, then run the same command again.{stale_lock_hint(path)}"
        )
    return lock


def _size_in_content_range(response: "httpx.Response", start: int) -> int:
    """Returns the size of the entire file from the Content-Range of a 206 response.

    Raises Refused or _Transient for any other response, and for a range that does not start at byte `start`.
    """
    status = response.status_code
    if status in TRANSIENT_STATUS:
        wish = response.headers.get("Retry-After", "")
        after = float(wish) if re.fullmatch(r"\d{1,9}", wish, re.ASCII) else 0.0
        raise _Transient(f"HTTP {status} {response.reason_phrase}", after)
    if status != 206:
        raise Refused(f"the server responded HTTP {status} {response.reason_phrase}")
    declared = response.headers.get("Content-Range", "").strip()
    match = re.fullmatch(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})", declared, re.ASCII)
    if match is None or int(match[1]) != start:
        raise _Transient(f"requested byte {start:,}, but the server's Content-Range is {declared[:60]!r}")
    return int(match[2])


def _etag_or_date(response: "httpx.Response") -> str | None:
    """Returns the header that identifies this version of the file: a strong ETag, else the date of its last change."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _content_length(response: "httpx.Response") -> int | None:
    """Returns the Content-Length of a response; None if it is missing, invalid or of compressed content."""
    length = response.headers.get("Content-Length", "")
    known = re.fullmatch(r"\d{1,19}", length, re.ASCII) and "Content-Encoding" not in response.headers
    return int(length) if known else None


def _ends_anywhere(response: "httpx.Response") -> bool:
    """True if the body ends when the connection closes, so that a truncated one cannot be recognised."""
    framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    return response.is_success and not framed and response.http_version.startswith("HTTP/1")
