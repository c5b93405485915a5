"""Resumable, verified downloads over HTTP, from `file://` addresses or from plain paths.

A file is downloaded to `<name>.part` beside its target; `<name>.part.state` records which bytes have arrived, so an
interrupted or killed download resumes at the byte. Only a file of the right size and hash gets its final name.
"""

import contextlib
import dataclasses
import email.utils
import errno
import json
import os
import random
import re
import shutil
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from panbench.base.errors import BadArgument, DownloadFailed, OutOfSpace, Unreachable
from panbench.base.files import make_folders, sha256_of, sync_folder
from panbench.base.locks import Lock, owner_of, way_out
from panbench.base.reporter import Counting
from panbench.base.secrets import without_secrets
from panbench.base.web import TRANSIENT_STATUS, Refused, http_client

# Imported where it is used: it takes a fifth of a second of CPU, and most commands download nothing.
if TYPE_CHECKING:
    import httpx

MIRRORS = {
    "COCO": ("http://images.cocodataset.org", "https://images.cocodataset.org"),
    "OPENMMLAB": ("https://download.openmmlab.com", "http://download.openmmlab.com"),
}

_SPAN_BYTES = 32 << 20
_SYNC_BYTES = 16 << 20
_SPARE_BYTES = 8 << 20
# Seconds without a byte after which another process's download is not waited for. Verifying a large file takes minutes.
_PATIENCE = 1800.0
_NO_RANGES = "{url} can only be read as a whole: the server ignores range requests."


class RangesUnsupported(DownloadFailed):
    """The server answers a request for some bytes with the whole file."""


class _Transient(Exception):
    """A failure worth retrying; `after` is how many seconds the server asks to wait."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class _StartOver(Exception):
    """The download must start over: the file changed, or the server does not support ranges."""


class _Stopped(Exception):
    """Another thread failed or the user interrupted."""


def download(
    url: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    size: int | None = None,
    progress: Counting | None = None,
    connections: int = 4,
    window: tuple[int, int] | None = None,
    check: Callable[[Path], str | None] | None = None,
    headers: Mapping[str, str] | None = None,
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
    size: bytes; when given, large files use several connections
    progress: called with the bytes received (including those of earlier calls) and the total, None while unknown
    window: download only bytes window[0] up to window[1]; `size` and `sha256` then refer to the window
    check: validates the finished file before it gets its name; returns what is wrong with it, or None
    headers: sent with each request; `Authorization` goes to the host of `url` alone, not to where it redirects
    tries: consecutive failures without progress before giving up
    Raises DownloadFailed with URL and target, OutOfSpace before the first byte or when the disk fills up.
    """
    target = Path(target)
    source = mirrored(os.fspath(url))
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{4,64}", sha256):
        raise BadArgument(f"{sha256!r} is not a SHA-256: give 4 to 64 hex digits.")
    if window is not None:
        if not 0 <= window[0] <= window[1]:
            raise BadArgument(f"The window {window} is not a range of bytes.")
        size = window[1] - window[0]

    def is_right() -> bool:
        return what_is_wrong(target, sha256, size) is None and (check is None or check(target) is None)

    if is_right():
        return target
    job = _Job(source, target, sha256, size, progress, connections, window, check, headers or {}, tries, sleep)
    try:
        make_folders(target.parent)
        with _Part.opened(target) as part:
            if not is_right():
                job.run(part)
            part.finished = True
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
        self._lock = threading.Lock()
        self._validator: str | None = None
        self._path = local_path(self.url)
        self._client = None if self._path else http_client()
        self._size: int | None = None

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
        if self._size is None:
            if self._path:
                try:
                    self._size = self._path.stat().st_size
                except OSError as error:
                    raise DownloadFailed(f"Cannot read {self._path}: {error.strerror}.") from error
            else:
                self.read(0, 1)
        assert self._size is not None
        return self._size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` up to `stop`, exactly. Raises DownloadFailed; RangesUnsupported see `size`."""
        import httpx

        if stop <= start:
            return b""
        if self._path:
            try:
                with open(self._path, "rb") as handle:
                    handle.seek(start)
                    content = handle.read(stop - start)
            except OSError as error:
                raise DownloadFailed(f"Cannot read {self._path}: {error.strerror}.") from error
            if len(content) != stop - start:
                raise DownloadFailed(f"{self._path} ends before byte {stop:,}: it is incomplete.")
            return content
        failures = 0
        while True:
            try:
                return self._get(start, stop)
            except (httpx.TransportError, _Transient) as error:
                failures += 1
                if failures >= self._tries or not _may_pass(error):
                    raise _failed(error)(
                        f"Cannot read bytes {start:,}–{stop - 1:,} of {self._shown}: {_reason(error)}, "
                        f"after {failures} {'try' if failures == 1 else 'tries'}."
                    ) from error
                self._sleep(_seconds(failures, error))
            except (httpx.HTTPError, httpx.InvalidURL, Refused) as error:
                raise DownloadFailed(f"Cannot read {self._shown}: {_reason(error)}.") from error

    def _get(self, start: int, stop: int) -> bytes:
        assert self._client is not None
        content = bytearray()
        with self._client.stream("GET", self.url, headers={"Range": f"bytes={start}-{stop - 1}"}) as response:
            if response.status_code == 200:
                raise RangesUnsupported(_NO_RANGES.format(url=self._shown))
            first, total = _content_range(response)
            validator = _validator(response)
            with self._lock:
                if self._size is None:
                    self._size, self._validator = total, validator
                elif total != self._size or validator != self._validator:
                    raise DownloadFailed(f"{self._shown} changed while it was being read. Run the same command again.")
            if first != start:
                raise _Transient(f"requested byte {start:,}, but the server began at {first:,}")
            for block in response.iter_raw():
                content += block
                with self._lock:
                    self.fetched += len(block)
                if len(content) > stop - start:
                    break
        if len(content) < stop - start:
            raise _Transient(f"{len(content):,} of {stop - start:,} bytes arrived")
        return bytes(content[: stop - start])


@dataclasses.dataclass
class _Span:
    """A range of the file: bytes start ≤ i < done have arrived; stop is None while the length is unknown."""

    start: int
    done: int
    stop: int | None

    @property
    def whole(self) -> bool:
        return self.stop is not None and self.done >= self.stop


class _Part:
    """The unfinished file and its state: one JSON line, then one fixed-width line for each span.

    A span's line is overwritten in place after its bytes are written, so the state never claims more than the file has.
    """

    _LINE = 63

    def __init__(self, path: Path, state: IO[bytes]) -> None:
        self.path = path
        self.spans: list[_Span] = []
        self.header: dict[str, Any] = {}
        self.finished = False
        self._state = state
        self._lines_at = 0
        self._lock = threading.Lock()
        self._load()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, target: Path) -> "Iterator[_Part]":
        """The part of `target`, locked against other processes."""
        path = target.with_name(target.name + ".part")
        state_path = target.with_name(target.name + ".part.state")
        lock = _locked(target)
        part = None
        try:
            with open(state_path, "r+b" if state_path.exists() else "w+b", buffering=0) as state:
                part = cls(path, state)
                yield part
        finally:
            if part is not None and (part.finished or not part.arrived):
                part.discard()  # after closing: Windows does not remove open files
            lock.release()

    def _load(self) -> None:
        content = self._state.read() or b""
        first, _, rest = content.partition(b"\n")
        try:
            header = json.loads(first)
            spans = []
            for line in rest.splitlines():
                start, done, stop = (int(field) for field in line.split())
                spans.append(_Span(start, done, None if stop < 0 else stop))
            length = self.path.stat().st_size
        except (ValueError, OSError):
            return
        reached = max((span.done for span in spans if span.done > span.start), default=0)
        if isinstance(header, dict) and {"url", "total", "validator", "window"} <= header.keys() and reached <= length:
            self.header, self.spans, self._lines_at = header, spans, len(first) + 1

    def begin(self, url: str, total: int | None, window: tuple[int, int] | None, spans: list[_Span]) -> None:
        """Discards the data and starts over with `spans`."""
        with open(self.path, "wb"):
            pass
        self.header = {"url": url, "total": total, "validator": None, "window": window and list(window)}
        self.spans = spans
        self.save()

    def save(self) -> None:
        with self._lock:
            first = json.dumps(self.header).encode() + b"\n"
            self._state.seek(0)
            self._state.truncate()
            self._state.write(first + b"".join(self._line(span) for span in self.spans))
            self._lines_at = len(first)

    def save_span(self, span: _Span) -> None:
        with self._lock:
            self._state.seek(self._lines_at + self.spans.index(span) * self._LINE)
            self._state.write(self._line(span))

    def _line(self, span: _Span) -> bytes:
        return f"{span.start:20d} {span.done:20d} {-1 if span.stop is None else span.stop:20d}\n".encode()

    @property
    def arrived(self) -> int:
        return sum(span.done - span.start for span in self.spans)

    def discard_data(self) -> None:
        """Discards the data; the lock is kept."""
        self.spans = []
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def discard(self) -> None:
        """Removes part and state."""
        for path in (self.path, self.path.with_name(self.path.name + ".state")):
            with contextlib.suppress(OSError):
                path.unlink()


@dataclasses.dataclass
class _Job:
    """One call of `download`."""

    url: str
    target: Path
    sha256: str | None
    size: int | None
    progress: Counting | None
    connections: int
    window: tuple[int, int] | None
    check: Callable[[Path], str | None] | None
    headers: Mapping[str, str]
    tries: int
    sleep: Callable[[float], object] | None

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        # Waiting on the event, not sleeping: a pause between tries ends at once when another thread fails.
        self._pause = self.sleep or self._stop.wait
        self._learn_lock = threading.Lock()
        self._report_lock = threading.Lock()
        self._offset = self.window[0] if self.window else 0
        self._shown = without_secrets(self.url)

    def run(self, part: _Part) -> None:
        """Downloads, verifies and renames the file; starts over, up to `tries` times, when it changes on the server."""
        reason = ""
        wrong = 0
        path = local_path(self.url)
        for attempt in range(self.tries):
            try:
                if path is not None:
                    self._copy(path, part)
                else:
                    self._fetch(part, self.connections if attempt == 0 else 1)
            except _StartOver as error:
                reason = str(error)
                part.discard_data()
                continue
            problem = what_is_wrong(part.path, self.sha256, self.size)
            if problem is None and self.check is not None:
                problem = self.check(part.path)
            elif problem is None and self.sha256 is None and path is None:
                problem = _another_kind(part.path, self.target)
            if problem is None:
                _publish(part.path, self.target)
                return
            # One retry for wrong bytes: they may have been damaged in transit.
            part.discard_data()
            reason, wrong = f"the downloaded file is not the expected one: {problem}", wrong + 1
            if wrong == 2 or path is not None:
                break
        raise self._failure(reason, None)

    def _fetch(self, part: _Part, connections: int) -> None:
        self._plan(part, connections)
        todo = [span for span in part.spans if not span.whole]
        self._stop.clear()
        self._report(part)
        with http_client() as client:
            if connections == 1 or len(todo) <= 1:
                for span in todo:
                    self._fetch_span(client, part, span)
                return
            with ThreadPoolExecutor(min(connections, len(todo))) as pool:
                jobs = [pool.submit(self._fetch_span, client, part, span) for span in todo]
                try:
                    wait(jobs, return_when=FIRST_EXCEPTION)
                finally:
                    self._stop.set()
                    for job in jobs:
                        job.cancel()
            errors = [job.exception() for job in jobs if not job.cancelled()]
            for error in sorted((e for e in errors if e), key=lambda e: isinstance(e, _Stopped)):
                raise error

    def _plan(self, part: _Part, connections: int) -> None:
        """Resumes `part` when it belongs to this file, else starts over with an empty one."""
        same = bool(part.spans) and part.header["window"] == (list(self.window) if self.window else None)
        if same and self.size is not None:
            same = part.header["total"] in (None, self.size)
        if same and part.header["url"] != self._shown:
            # The ETag of another server means nothing here: resume only if a hash will check the result.
            same = self.sha256 is not None
            part.header.update(url=self._shown, validator=None)
        if not same:
            count = -(-self.size // _SPAN_BYTES) if self.size and connections > 1 else 1
            spans = [_Span(i * _SPAN_BYTES, i * _SPAN_BYTES, (i + 1) * _SPAN_BYTES) for i in range(count)]
            spans[-1].stop = self.size
            part.begin(self._shown, self.size, self.window, spans)
        if self.size is not None:
            self._require_space(self.size - part.arrived)

    def _fetch_span(self, client: "httpx.Client", part: _Part, span: _Span) -> None:
        import httpx

        failures, best = 0, span.done
        while not span.whole:
            if self._stop.is_set():
                raise _Stopped
            try:
                self._stream(client, part, span)
                if span.stop is None:
                    span.stop = span.done
                    part.save_span(span)
            except (httpx.TransportError, _Transient) as error:
                failures = failures + 1 if span.done <= best else 1
                best = max(best, span.done)
                if failures >= self.tries or not _may_pass(error):
                    reason = f"{_reason(error)}, after {failures} consecutive tries"
                    raise self._failure(reason, part, _failed(error)) from error
                self._pause(_seconds(failures, error))
            except (httpx.HTTPError, httpx.InvalidURL, Refused) as error:
                raise self._failure(_reason(error), part) from error

    def _stream(self, client: "httpx.Client", part: _Part, span: _Span) -> None:
        """One request for the missing bytes of `span`."""
        headers = dict(self.headers)
        all_of_it = span.done == 0 and len(part.spans) == 1 and self.window is None
        if not all_of_it:
            last = "" if span.stop is None else self._offset + span.stop - 1
            headers["Range"] = f"bytes={self._offset + span.done}-{last}"
            if part.header["validator"]:
                headers["If-Range"] = part.header["validator"]
        with client.stream("GET", self.url, headers=headers) as response:
            if self.sha256 is None and self.size is None and self.check is None and _ends_anywhere(response):
                raise Refused("the server does not say how long the file is, so a body cut short would go unnoticed")
            if response.status_code == 200:
                if len(part.spans) > 1 or self.window is not None:
                    if part.header["validator"] not in (None, _validator(response)):
                        raise _StartOver("the file changed on the server")
                    if self.window is not None:
                        raise RangesUnsupported(_NO_RANGES.format(url=self._shown))
                    raise _StartOver("the server ignores range requests")
                # The server ignores ranges or the file has changed: this is the whole file, from its first byte.
                span.done = 0
                part.save_span(span)
                self._learn(part, span, _length(response), _validator(response), anew=True)
            else:
                if response.status_code == 416:
                    raise _StartOver("the server's file is shorter than what has arrived")
                first, total = _content_range(response)
                if first != self._offset + span.done:
                    raise _Transient(f"requested byte {self._offset + span.done:,}, but the server began at {first:,}")
                self._learn(part, span, total if self.window is None else None, _validator(response), anew=False)
            self._write(response, part, span)
        if span.stop is not None and span.done < span.stop:
            raise _Transient(f"the connection closed {span.stop - span.done:,} bytes early")

    def _learn(self, part: _Part, span: _Span, total: int | None, validator: str | None, *, anew: bool) -> None:
        """Records size and ETag from a response; raises when they contradict those of earlier responses."""
        if total is not None and self.size is not None and total != self.size:
            raise _Transient(f"the server offers {total:,} bytes where {self.size:,} are expected")
        header = part.header
        with self._learn_lock:
            if not anew:
                for known, found in ((header["validator"], validator), (header["total"], total)):
                    if known is not None and found is not None and known != found:
                        raise _StartOver("the file changed on the server")
            if not anew and header["validator"] is not None and header["total"] is not None:
                return
            header["validator"] = validator
            header["total"] = self.size if self.size is not None else total
            if len(part.spans) == 1:
                span.stop = header["total"]
            part.save()
        if self.size is None and span.stop is not None:
            self._require_space(span.stop - span.done)

    def _write(self, response: "httpx.Response", part: _Part, span: _Span) -> None:
        with open(part.path, "r+b", buffering=0) as handle:
            handle.seek(span.done)
            saved = span.done
            try:
                for block in response.iter_raw():
                    if span.stop is not None:
                        block = block[: span.stop - span.done]
                        if not block:
                            return
                    _write_all(handle, block)
                    span.done += len(block)
                    # No hash would catch bytes lost in a power cut, so the state may only claim bytes that were synced.
                    if self.sha256 is not None:
                        part.save_span(span)
                    elif span.done - saved >= _SYNC_BYTES:
                        os.fsync(handle.fileno())
                        part.save_span(span)
                        saved = span.done
                    self._report(part)
                    if self._stop.is_set():
                        raise _Stopped
            finally:
                if self.sha256 is None:
                    os.fsync(handle.fileno())
                part.save_span(span)

    def _copy(self, source: Path, part: _Part) -> None:
        try:
            with open(source, "rb") as reader:
                found = os.fstat(reader.fileno()).st_size
                stop = self.window[1] if self.window else found
                if found < stop or (self.size is not None and stop - self._offset != self.size):
                    raise self._failure(f"it has {found:,} bytes, not {(self.size or 0) + self._offset:,}", None)
                self._require_space(stop - self._offset)
                span = _Span(0, 0, stop - self._offset)
                part.begin(self._shown, span.stop, self.window, [span])
                reader.seek(self._offset)
                with open(part.path, "r+b") as writer:
                    while not span.whole:
                        block = reader.read(min(1 << 20, stop - self._offset - span.done))
                        if not block:
                            raise self._failure("it became shorter while being read", None)
                        writer.write(block)
                        span.done += len(block)
                        self._report(part)
        except OSError as error:
            if error.filename == str(source):
                raise self._failure(error.strerror or str(error), None) from error
            raise

    def _require_space(self, needed: int) -> None:
        require_space(self.target.parent, needed, f"{self.target} (from {self._shown})")

    def _report(self, part: _Part) -> None:
        if self.progress is not None:
            with self._report_lock:
                self.progress(part.arrived, self.size if self.size is not None else part.header.get("total"))

    def _failure(self, reason: str, part: _Part | None, kind: type[DownloadFailed] = DownloadFailed) -> DownloadFailed:
        sentence = f"Could not download {self._shown} to {self.target}: {reason}."
        if part is not None and part.arrived:
            kept = f"{part.arrived:,} bytes are kept beside it; the same command resumes there."
            return kind(f"{sentence} {kept}")
        return kind(sentence, ways=["without a network, copy the file there yourself"])


def _another_kind(path: Path, target: Path) -> str | None:
    """What a server sent instead of a file that has no hash: an error or log-in page, or a compressed copy."""
    with open(path, "rb") as handle:
        head = handle.read(512)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return None if target.suffix.lower() in (".html", ".htm") else "it is a web page"
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
    """The lock of a download. Waits for another process that has it, as long as that one's files change."""
    path = target.with_name(target.name + ".part.lock")
    while True:
        before = _traces(target)
        if (lock := Lock.acquire(path, patience=_PATIENCE)) is not None:
            return lock
        if _traces(target) == before:
            raise DownloadFailed(
                f"{target} is being downloaded by {owner_of(path)}, and nothing has arrived for "
                f"{_PATIENCE / 60:.0f} minutes. Stop that process, then run the same command again.{way_out(path)}"
            )


def _traces(target: Path) -> tuple[tuple[int, int] | None, ...]:
    """Size and time of what a download of `target` writes; they change while it goes on."""
    found: list[tuple[int, int] | None] = []
    for suffix in ("", ".part", ".part.state"):
        try:
            stat = target.with_name(target.name + suffix).stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_size, stat.st_mtime_ns))
    return tuple(found)


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


def _retry_after(response: "httpx.Response") -> float | None:
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    # Not isdigit() alone: "²" is a digit, and not a number.
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _may_pass(error: Exception) -> bool:
    import httpx

    return not isinstance(error, httpx.UnsupportedProtocol)


def _seconds(failures: int, error: Exception) -> float:
    """Seconds before the next try: doubles from 0.5 to 30, with jitter; at least what the server asks for."""
    asked: float = (error.after or 0.0) if isinstance(error, _Transient) else 0.0
    return max(min(asked, 120.0), min(30.0, 0.25 * 2.0**failures) * random.uniform(0.5, 1.0))


def _failed(error: Exception) -> type[DownloadFailed]:
    import httpx

    return Unreachable if isinstance(error, httpx.ConnectError) else DownloadFailed


def _reason(error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.ConnectTimeout | httpx.ReadTimeout):
        return "the server does not respond"
    if isinstance(error, httpx.ConnectError):
        return f"no connection ({error})"
    return str(error).rstrip(".") or type(error).__name__
