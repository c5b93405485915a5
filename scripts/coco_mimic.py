"""A small mimic of the COCO host: archives with the same nesting, and a server on 127.0.0.1 that can misbehave.

Tests and scripts/bench_fetch.py use it; the real host cannot be reached from where they run.
"""

import dataclasses
import hashlib
import io
import json
import threading
import urllib.parse
import zipfile
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Fault:
    """How one answer goes wrong; the fields can be combined. Numbers are bytes of the answer's body."""

    status: int | None = None  # answer with this status and no file
    retry_after: str | None = None
    redirect: str | None = None  # answer 302 to this address
    drop_after: int | None = None  # close the connection after so many bytes
    ignore_range: bool = False
    length_off_by: int = 0  # declare so many bytes more (or fewer) than are sent
    flip_at: int | None = None  # turn a bit of this byte of the file
    cut_file_at: int | None = None  # serve the file as if it ended here
    block: int | None = None  # send in blocks of so many bytes, each flushed
    etag: str | None = None  # this ETag instead of the file's
    no_etag: bool = False
    chunked: bool = False  # no Content-Length


class FaultServer:
    """Serves `files` (path → bytes) with ranges and ETags. Each request takes the next of its path's `faults`, if any.

    `log` holds one (path, Range header or "", status) a request; `sent` the body bytes that went out.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.faults: dict[str, list[Fault | None]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.log: list[tuple[str, str, int]] = []
        self.sent = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urllib.parse.unquote(request.path)
        wanted = request.headers.get("Range", "")
        with self._lock:
            queue = self.faults[path]
            fault = (queue.pop(0) if queue else None) or self.always.get(path) or Fault()
        content = self.files.get(path)
        status = fault.status or (302 if fault.redirect else 404 if content is None else 200)
        headers: dict[str, str] = {}
        body = b""
        if fault.redirect:
            headers["Location"] = fault.redirect
        if fault.retry_after:
            headers["Retry-After"] = fault.retry_after
        if status == 200:
            assert content is not None
            etag = fault.etag or '"' + hashlib.md5(content).hexdigest() + '"'
            if not fault.no_etag:
                headers["ETag"] = etag
            if fault.flip_at is not None:
                content = content[: fault.flip_at] + bytes([content[fault.flip_at] ^ 1]) + content[fault.flip_at + 1 :]
            content = content[: fault.cut_file_at]
            status, body = 200, content
            fresh = request.headers.get("If-Range") in (None, etag)
            if wanted.startswith("bytes=") and fresh and not fault.ignore_range:
                first, last = wanted[6:].split("-")
                start, stop = int(first), min(int(last) + 1 if last else len(content), len(content))
                if start >= len(content):
                    status, body = 416, b""
                else:
                    status, body = 206, content[start:stop]
                    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        with self._lock:
            self.log.append((path, wanted, status))
        if fault.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(body) + fault.length_off_by)
        if fault.drop_after is not None or fault.length_off_by:
            headers["Connection"] = "close"
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        body = body[: fault.drop_after]
        step = fault.block or max(1, len(body))
        try:
            for at in range(0, len(body), step):
                block = body[at : at + step]
                request.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if fault.chunked else block)
                request.wfile.flush()
                with self._lock:
                    self.sent += len(block)
            if fault.chunked and fault.drop_after is None:
                request.wfile.write(b"0\r\n\r\n")
        except OSError:
            request.close_connection = True
        if fault.drop_after is not None or fault.length_off_by:
            request.close_connection = True
