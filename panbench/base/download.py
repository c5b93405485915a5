"""Resumable, verified downloads over HTTP, from `file://` addresses or from plain paths.

A file is downloaded to `<name>.part` beside its target; `<name>.part.state` records from where, so an interrupted or
killed download resumes at the byte. Only a file of the right size and hash gets its final name.
"""

import contextlib
import errno
import json
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from panbench.base.errors import BadArgument, DownloadFailed, OutOfSpace, Unreachable
from panbench.base.files import make_folders, sha256_of, sync_folder
from panbench.base.locks import Lock, owner_of, way_out
from panbench.base.reporter import Counting
from panbench.base.secrets import without_secrets
from panbench.base.web import TRANSIENT_STATUS, Refused, http_client

# Imported where it is used: it takes a fifth of a second of CPU, and most commands download nothing.
if TYPE_CHECKING:
    import httpx

Result = TypeVar("Result")

MIRRORS = {
    "COCO": ("http://images.cocodataset.org", "https://images.cocodataset.org"),
    "OPENMMLAB": ("https://download.openmmlab.com", "http://download.openmmlab.com"),
    "FBAI": ("https://dl.fbaipublicfiles.com",),
    "GITHUB": ("https://github.com",),
}

_SYNC_BYTES = 16 << 20
_SPARE_BYTES = 8 << 20
# Seconds without a byte after which another process's download is not waited for. Verifying a large file takes minutes.
_PATIENCE = 1800.0
_NO_RANGES = "{url} can only be read as a whole: the server ignores range requests."


class RangesUnsupported(DownloadFailed):
    """The server answers a request for some bytes with the whole file."""


class _Transient(Exception):
    """A failure worth retrying; `after` is how many seconds the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class _StartOver(Exception):
    """The download must start over: the file changed on the server."""


def download(
    url: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Counting | None = None,
    check: Callable[[Path], str | None] | None = None,
    tries: int = 6,
    sleep: Callable[[float], object] | None = None,
) -> Path:
    """Downloads `url` to `target`, complete and verified; returns `target`.

    A target that already exists with the right size and hash is left alone. Interrupted downloads resume at the byte
    when the server's ETag (or date) shows that the file has not changed. Several processes may download one target: one
    does, the others wait. Proxies come from the environment (HTTPS_PROXY, NO_PROXY); PANBENCH_MIRROR_<NAME> replaces
    a host of MIRRORS by another address or folder.

    url: http://, https://, file:// or a plain path
    sha256: all 64 hex digits or the first few (the names of checkpoints end in the first 8)
    progress: called with the bytes received (including those of earlier calls) and the total, None while unknown
    check: validates the finished file before it gets its name; returns what is wrong with it, or None
    tries: consecutive failures without progress before giving up
    Raises DownloadFailed with URL and target, OutOfSpace before the first byte or when the disk fills up.
    """
    target, source = Path(target), mirrored(os.fspath(url))
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{4,64}", sha256):
        raise BadArgument(f"{sha256!r} is not a SHA-256: give 4 to 64 hex digits.")
    job = _Download(source, target, sha256, size, progress, check, tries, sleep or time.sleep)
    if job.is_right():
        return target
    try:
        make_folders(target.parent)
        lock = _locked(target)
        try:
            if not job.is_right():
                job.run()
        finally:
            job.tidy()
            lock.release()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(
                f"No space left while downloading {without_secrets(source)} to {target}. Free some space and run the "
                "same command again: it resumes where it stopped."
            ) from error
        raise DownloadFailed(
            f"Cannot write {target} (for {without_secrets(source)}): {error.strerror or error}."
        ) from error
    return target


def what_is_wrong(path: Path, sha256: str | None = None, size: int | None = None) -> str | None:
    """Why the file at `path` is not the expected one, in a few words; None when it is. sha256 may be a prefix."""
    try:
        found = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "it does not exist"
    if not path.is_file():
        return "it is not a file"
    if size is not None and found != size:
        return f"it has {found:,} bytes, not {size:,}"
    if sha256 is not None:
        digest = sha256_of(path)
        if not digest.startswith(sha256.lower()):
            return f"its SHA-256 begins with {digest[:16]}, not with {sha256.lower()[:16]}"
    return None


def mirrored(url: str) -> str:
    """`url` with its host's address replaced by the one in PANBENCH_MIRROR_<NAME>, if set (see MIRRORS)."""
    for name, addresses in MIRRORS.items():
        mirror = os.environ.get(f"PANBENCH_MIRROR_{name}")
        for address in addresses:
            if mirror and url.startswith(address + "/"):
                return mirror.rstrip("/") + url[len(address) :]
    return url


def require_space(folder: Path, needed: int, what: str) -> None:
    """Raises OutOfSpace when the disk of `folder` (which need not exist yet) has less than `needed` bytes free."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed + _SPARE_BYTES > free:
        raise OutOfSpace(
            f"{what} needs {needed:,} bytes and a little more, but {folder} has {free:,} free. Free some space or "
            "choose another folder."
        )


def local_path(source: str) -> Path | None:
    """The local path of a `file://` address or plain path; None for http(s). Other schemes raise DownloadFailed."""
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

    Safe to use from several threads. Close it, or use it as a context manager.
    """

    def __init__(
        self, url: str | os.PathLike[str], *, tries: int = 6, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.url = mirrored(os.fspath(url))
        self._shown = without_secrets(self.url)
        self.fetched = 0
        self._tries, self._sleep = tries, sleep
        self._counting = threading.Lock()
        self._path = local_path(self.url)
        self._client = None if self._path else http_client()
        self._known: tuple[int, str | None] | None = None
        """Size and validator, as the first answer has them."""

    def __enter__(self) -> "RangeReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        if self._client:
            self._client.close()

    def size(self) -> int:
        """Bytes of the whole file. Raises RangesUnsupported when the server does not support ranges."""
        if self._path:
            try:
                return self._path.stat().st_size
            except OSError as error:
                raise DownloadFailed(f"Cannot read {self._path}: {error.strerror}.") from error
        if self._known is None:
            self.read(0, 1)
        assert self._known is not None
        return self._known[0]

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, exactly. Raises DownloadFailed; RangesUnsupported see `size`."""
        if stop <= start:
            return b""
        if self._path:
            return _read_local(self._path, start, stop)
        what = f"Cannot read bytes {start:,}–{stop - 1:,} of {self._shown}"
        return _persist(
            lambda: self._get(start, stop),
            lambda: 0,
            self._tries,
            self._sleep,
            lambda reason, kind: kind(f"{what}: {reason}."),
        )

    def _get(self, start: int, stop: int) -> bytes:
        assert self._client is not None
        content = bytearray()
        with self._client.stream("GET", self.url, headers={"Range": f"bytes={start}-{stop - 1}"}) as response:
            if response.status_code == 200:
                raise RangesUnsupported(_NO_RANGES.format(url=self._shown))
            first, total = _content_range(response)
            found = total, _validator(response)
            self._known = self._known or found
            if found != self._known:
                raise DownloadFailed(f"{self._shown} changed while it was being read. Run the same command again.")
            if first != start:
                raise _Transient(f"requested byte {start:,}, but the server began at {first:,}")
            for block in response.iter_raw():
                content += block
                with self._counting:
                    self.fetched += len(block)
                if len(content) > stop - start:
                    break
        if len(content) < stop - start:
            raise _Transient(f"{len(content):,} of {stop - start:,} bytes arrived")
        return bytes(content[: stop - start])


def _read_local(path: Path, start: int, stop: int) -> bytes:
    try:
        with open(path, "rb") as handle:
            handle.seek(start)
            content = handle.read(stop - start)
    except OSError as error:
        raise DownloadFailed(f"Cannot read {path}: {error.strerror}.") from error
    if len(content) != stop - start:
        raise DownloadFailed(f"{path} ends before byte {stop:,}: it is incomplete.")
    return content


@dataclass
class _Download:
    """One call of `download`: the unfinished file, and what its state says of where it comes from."""

    url: str
    target: Path
    sha256: str | None
    size: int | None
    progress: Counting | None
    check: Callable[[Path], str | None] | None
    tries: int
    sleep: Callable[[float], object]

    def __post_init__(self) -> None:
        self.part = self.target.with_name(self.target.name + ".part")
        self.state = self.target.with_name(self.target.name + ".part.state")
        self.arrived = 0
        self._shown = without_secrets(self.url)
        self._total: int | None = None
        self._validator: str | None = None

    def is_right(self) -> bool:
        """Whether the target is there, as it should be."""
        right = what_is_wrong(self.target, self.sha256, self.size) is None
        return right and (self.check is None or self.check(self.target) is None)

    def tidy(self) -> None:
        """Removes what nothing can resume from."""
        if not self.arrived or not self.part.exists():
            for path in (self.part, self.state):
                with contextlib.suppress(OSError):
                    path.unlink()

    def run(self) -> None:
        """Downloads, verifies and renames the file; starts over, up to `tries` times, when it changes on the server."""
        reason, wrong, local = "", 0, local_path(self.url)
        for _ in range(self.tries):
            try:
                self._fetch() if local is None else self._copy(local)
            except _StartOver as error:
                reason = str(error)
                self._discard()
                continue
            problem = what_is_wrong(self.part, self.sha256, self.size)
            if problem is None and self.check is not None:
                problem = self.check(self.part)
            elif problem is None and self.sha256 is None and local is None:
                problem = _another_kind(self.part, self.target)
            if problem is None:
                return _publish(self.part, self.target)
            page = local is None and _another_kind(self.part, self.target) == _PAGE
            problem = _PAGE if page else problem
            # One retry for wrong bytes, which may have been damaged in transit; none for an error or parking page.
            self._discard()
            reason, wrong = f"the downloaded file is not the expected one: {problem}", wrong + 1
            if page or wrong == 2 or local is not None:
                break
        raise self._failure(reason)

    def _discard(self) -> None:
        self.arrived = 0
        self.part.unlink(missing_ok=True)

    def _resume(self) -> None:
        """Takes up what arrived before when it belongs to this file, else begins an empty part."""
        known: dict[str, Any] = {}
        self.arrived = 0
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            known = json.loads(self.state.read_bytes())
            same = self.size is None or known["total"] in (None, self.size)
            # The ETag of another server means nothing here: resume only if a hash will check the result.
            if same and (known["url"] == self._shown or self.sha256 is not None):
                length = self.part.stat().st_size
                # No hash would catch bytes lost in a power cut, so only those count that were synced.
                self.arrived = length if self.sha256 is not None else min(length, int(known["synced"]))
        self._total = self.size if self.size is not None else known.get("total") if self.arrived else None
        self._validator = known.get("validator") if self.arrived and known.get("url") == self._shown else None
        with open(self.part, "ab") as handle:
            handle.truncate(self.arrived)
        if self.size is not None:
            self._require_space(self.size - self.arrived)

    def _save(self, synced: int) -> None:
        record = {"url": self._shown, "total": self._total, "validator": self._validator}
        self.state.write_text(json.dumps({**record, "synced": synced}))

    def _fetch(self) -> None:
        self._resume()
        self._report()
        with http_client() as client:
            while self._total is None or self.arrived < self._total:
                _persist(lambda: self._stream(client), lambda: self.arrived, self.tries, self.sleep, self._failure)

    def _stream(self, client: "httpx.Client") -> None:
        """One request for the missing bytes."""
        headers = {}
        if self.arrived:
            headers["Range"] = f"bytes={self.arrived}-{'' if self._total is None else self._total - 1}"
            if self._validator:
                headers["If-Range"] = self._validator
        with client.stream("GET", self.url, headers=headers) as response:
            if self.sha256 is None and self.size is None and self.check is None and _ends_anywhere(response):
                raise Refused("the server does not say how long the file is, so a body cut short would go unnoticed")
            if response.status_code == 200:
                # The server ignores ranges or the file has changed: this is the whole file, from its first byte.
                self.arrived, self._validator, self._total = 0, None, self.size
                self._learn(_length(response), _validator(response))
            elif response.status_code == 416:
                raise _StartOver("the server's file is shorter than what has arrived")
            else:
                first, total = _content_range(response)
                if first != self.arrived:
                    raise _Transient(f"requested byte {self.arrived:,}, but the server began at {first:,}")
                self._learn(total, _validator(response))
            self._write(response)
        if self._total is None:
            self._total = self.arrived
        elif self.arrived < self._total:
            raise _Transient(f"the connection closed {self._total - self.arrived:,} bytes early")

    def _learn(self, total: int | None, validator: str | None) -> None:
        """Records size and ETag from a response; raises when they contradict those of earlier responses."""
        if total is not None and self.size is not None and total != self.size:
            raise _Transient(f"the server offers {total:,} bytes where {self.size:,} are expected")
        for known, found in ((self._validator, validator), (self._total, total)):
            if known is not None and found is not None and known != found:
                raise _StartOver("the file changed on the server")
        self._validator, self._total = self._validator or validator, total if self._total is None else self._total
        self._save(0 if self.sha256 is not None else self.arrived)
        if self.size is None and self._total is not None:
            self._require_space(self._total - self.arrived)

    def _write(self, response: "httpx.Response") -> None:
        with open(self.part, "r+b", buffering=0) as handle:
            handle.seek(self.arrived)
            handle.truncate()
            synced = self.arrived
            try:
                for block in response.iter_raw():
                    block = block if self._total is None else block[: self._total - self.arrived]
                    if not block:
                        return
                    _write_all(handle, block)
                    self.arrived += len(block)
                    if self.sha256 is None and self.arrived - synced >= _SYNC_BYTES:
                        os.fsync(handle.fileno())
                        synced = self.arrived
                        self._save(synced)
                    self._report()
            finally:
                if self.sha256 is None:
                    os.fsync(handle.fileno())
                    self._save(self.arrived)

    def _copy(self, source: Path) -> None:
        try:
            self._total = source.stat().st_size
            self._require_space(self._total)
            shutil.copyfile(source, self.part)
        except OSError as error:
            if error.filename == str(source):
                raise self._failure(error.strerror or str(error)) from error
            raise
        self.arrived = self._total
        self._report()

    def _require_space(self, needed: int) -> None:
        require_space(self.target.parent, needed, f"{self.target} (from {self._shown})")

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(self.arrived, self._total)

    def _failure(self, reason: str, kind: type[DownloadFailed] = DownloadFailed) -> DownloadFailed:
        sentence = f"Could not download {self._shown} to {self.target}: {reason}."
        if self.arrived:
            return kind(f"{sentence} {self.arrived:,} bytes are kept beside it; the same command resumes there.")
        return kind(sentence, ways=["without a network, copy the file there yourself", *_mirror(self.url)])


def _persist(
    ask: Callable[[], Result],
    arrived: Callable[[], int],
    tries: int,
    sleep: Callable[[float], object],
    failure: Callable[[str, type[DownloadFailed]], DownloadFailed],
) -> Result:
    """Asks again after failures that may pass, up to so many without progress. failure: the error of a reason"""
    import httpx

    failures, best = 0, arrived()
    while True:
        try:
            return ask()
        except (httpx.TransportError, _Transient) as error:
            failures = failures + 1 if arrived() <= best else 1
            best = max(best, arrived())
            if failures >= tries or isinstance(error, httpx.UnsupportedProtocol) or _cause(error) is not None:
                kind = Unreachable if isinstance(error, httpx.ConnectError) else DownloadFailed
                after = "" if _cause(error) else f", after {failures} {'try' if failures == 1 else 'tries'}"
                raise failure(f"{_reason(error)}{after}", kind) from error
            asked = error.after if isinstance(error, _Transient) else 0.0
            # Doubles from 0.5 to 30 seconds, with jitter; at least what the server asks for.
            sleep(max(min(asked, 120.0), min(30.0, 0.25 * 2.0**failures) * random.uniform(0.5, 1.0)))
        except (httpx.HTTPError, httpx.InvalidURL, Refused) as error:
            raise failure(_reason(error), DownloadFailed) from error


def _mirror(url: str) -> list[str]:
    """How to have another server or folder take the place of a URL's host; nothing for a host without a variable."""
    names = [name for name, addresses in MIRRORS.items() if url.startswith(addresses)]
    return [f"name another address or folder for it in PANBENCH_MIRROR_{name}" for name in names]


_PAGE = "it is a web page"


def _another_kind(path: Path, target: Path) -> str | None:
    """What a server sent instead of a file that has no hash: an error or log-in page, or a compressed copy."""
    with open(path, "rb") as handle:
        head = handle.read(512)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return None if target.suffix.lower() in (".html", ".htm") else _PAGE
    if head.startswith(b"\x1f\x8b"):
        return None if target.suffix.lower() in (".gz", ".tgz") else "it is compressed with gzip"
    return None


def _publish(part: Path, target: Path) -> None:
    with open(part, "r+b") as handle:
        os.fsync(handle.fileno())
    os.replace(part, target)
    sync_folder(target.parent)


def _write_all(handle: IO[bytes], block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[handle.write(view) :]


def _locked(target: Path) -> Lock:
    """The lock of a download. Waits for another process that has it."""
    path = target.with_name(target.name + ".part.lock")
    if (lock := Lock.acquire(path, patience=_PATIENCE)) is None:
        raise DownloadFailed(
            f"{target} is being downloaded by {owner_of(path)}, for more than {_PATIENCE / 60:.0f} minutes. Wait for "
            f"that process or stop it, then run the same command again.{way_out(path)}"
        )
    return lock


def _content_range(response: "httpx.Response") -> tuple[int, int]:
    """First byte and total size that a 206 response declares; other responses raise."""
    status = response.status_code
    if status == 206:
        match = re.fullmatch(
            r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})", response.headers.get("Content-Range", "").strip(), re.ASCII
        )
        if match is None:
            raise _Transient("the server's Content-Range cannot be read")
        return int(match[1]), int(match[2])
    if status in TRANSIENT_STATUS:
        raise _Transient(f"HTTP {status} {response.reason_phrase}", _retry_after(response))
    raise Refused(f"the server responded HTTP {status} {response.reason_phrase}")


def _validator(response: "httpx.Response") -> str | None:
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return str(etag)
    date = response.headers.get("Last-Modified")
    return str(date) if date else None


def _length(response: "httpx.Response") -> int | None:
    length = response.headers.get("Content-Length", "")
    return (
        int(length)
        if length.isascii() and length.isdigit() and len(length) < 20 and "Content-Encoding" not in response.headers
        else None
    )


def _ends_anywhere(response: "httpx.Response") -> bool:
    """Whether the body ends with the connection, so that a truncated one cannot be recognised."""
    framed = "Content-Length" in response.headers or "Transfer-Encoding" in response.headers
    return response.is_success and not framed and response.http_version.startswith("HTTP/1")


def _retry_after(response: "httpx.Response") -> float:
    value = response.headers.get("Retry-After", "")
    # Not isdigit() alone: "²" is a digit, and not a number.
    return float(value[:9]) if value.isascii() and value.isdigit() else 0.0


def _cause(error: BaseException) -> str | None:
    """What stands behind a failed connection that trying again will not mend: no such host, or a wrong certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return "the name of the server does not resolve"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate of the server is not valid ({cause.verify_message})"
        cause = cause.__cause__ or cause.__context__
    return None


def _reason(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout):
        return "the server does not respond"
    if isinstance(error, httpx.ConnectError):
        return _cause(error) or f"no connection ({error})"
    return str(error).rstrip(".") or type(error).__name__
