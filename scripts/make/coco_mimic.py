"""A small mimic of the COCO host: archives with the same nesting, and a server on 127.0.0.1 that can misbehave.

Tests use it; the real host cannot be reached from where they run.
"""

import dataclasses
import hashlib
import io
import json
import threading
import urllib.parse
import zipfile
from collections import defaultdict
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from panbench.datasets.fetch import Archive, CocoHost, panoptic_categories


@dataclasses.dataclass(frozen=True)
class Fault:
    """How one response goes wrong; the fields can be combined. Numbers are bytes of the body."""

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
    stale: bool = False  # ignore If-Range, as some caches do
    chunked: bool = False  # no Content-Length


@dataclasses.dataclass(frozen=True)
class Mimic:
    """The host's files by path, the settings for fetch.py, and the files expected on disk in the end.

    instances: the JSONs of the other archive of annotations, which are fetched on request alone
    """

    files: dict[str, bytes]
    host: CocoHost
    expected: dict[str, bytes]
    inner_stored: bool
    instances: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def at(self, base: str) -> CocoHost:
        """Returns the mimic of a host with another URL."""
        return dataclasses.replace(self.host, base=base)


def build_mimic(
    n_val: int = 12,
    n_train: int = 40,
    n_test: int = 6,
    *,
    inner_stored: bool = True,
    size: tuple[int, int] = (24, 32),
    jpeg_bytes: int | None = None,
    png_bytes: int | None = None,
) -> Mimic:
    """Builds COCO's archives in small: a zip of images, and a zip that holds JSONs and zips of id PNGs.

    jpeg_bytes, png_bytes: random bytes of these lengths instead of real images, for measuring traffic (the training
        images stay tiny)
    """
    rng = np.random.default_rng(0)
    files: dict[str, bytes] = {}
    expected: dict[str, bytes] = {}
    outer: dict[str, bytes] = {}
    for split, count in (("train", n_train), ("val", n_val)):
        images: list[dict[str, object]] = []
        records: list[dict[str, object]] = []
        pngs, jpegs = {f"panoptic_{split}2017/": b""}, {f"{split}2017/": b""}
        for number in rng.permutation(count):
            image_id = 1000 * (split == "train") + int(number) + 1
            stem = f"{image_id:012}"
            if not png_bytes or not images:
                ids, segments = _draw_scene(rng, size)
            images.append({"id": image_id, "file_name": f"{stem}.jpg", "height": size[0], "width": size[1]})
            records.append({"image_id": image_id, "file_name": f"{stem}.png", "segments_info": segments})
            pngs[f"panoptic_{split}2017/{stem}.png"] = rng.bytes(png_bytes) if png_bytes else _png(ids)
            jpeg = rng.bytes(jpeg_bytes if split == "val" else 1) if jpeg_bytes else _jpeg(rng, size)
            jpegs[f"{split}2017/{stem}.jpg"] = jpeg
        document = {"images": images, "annotations": records, "categories": panoptic_categories()}
        listing = f"annotations/panoptic_{split}2017.json"
        expected[listing] = outer[listing] = json.dumps(document).encode()
        expected |= {f"annotations/{name}": content for name, content in pngs.items() if content}
        expected |= {name: content for name, content in jpegs.items() if content}
        junk = {f"__MACOSX/panoptic_{split}2017/._junk": b"left by somebody's Finder"}
        outer[f"annotations/panoptic_{split}2017.zip"] = _zip_of(dict(sorted(pngs.items())) | junk)
        files[f"/zips/{split}2017.zip"] = _zip_of(dict(sorted(jpegs.items())), stored=(".jpg",))
    stored = (".zip",) if inner_stored else ()
    files["/annotations/panoptic_annotations_trainval2017.zip"] = _zip_of(outer, stored=stored)

    names = [f"{image_id:012}.jpg" for image_id in range(1, n_test + 1)]
    pictures = {f"test2017/{name}": _jpeg(rng, size) for name in names}
    listed = [
        {"id": int(name[:12]), "file_name": name, "height": size[0], "width": size[1]}
        for name in names[::2]  # the others are not of test-dev
    ]
    expected |= {f"test2017/{name}": pictures[f"test2017/{name}"] for name in names[::2]}
    document = {"images": listed, "categories": [{"id": 1, "name": "person", "supercategory": "person"}]}
    info = {"annotations/image_info_test-dev2017.json": json.dumps(document).encode()}
    expected |= info
    files["/zips/test2017.zip"] = _zip_of(pictures, stored=(".jpg",))
    files["/annotations/image_info_test2017.zip"] = _zip_of(info)

    instances = {
        f"annotations/{kind}_{split}2017.json": json.dumps({"images": [], "annotations": [], "kind": kind}).encode()
        for split in ("train", "val")
        for kind in ("instances", "captions")
    }
    files["/annotations/annotations_trainval2017.zip"] = _zip_of(instances)

    def archive_of(path: str) -> Archive:
        content = files["/" + path]
        return Archive(path, len(content), hashlib.sha256(content).hexdigest())

    host = CocoHost(
        "http://mimic.invalid",
        archive_of("annotations/panoptic_annotations_trainval2017.zip"),
        archive_of("annotations/image_info_test2017.zip"),
        {
            "val": archive_of("zips/val2017.zip"),
            "train": archive_of("zips/train2017.zip"),
            "test-dev": archive_of("zips/test2017.zip"),
        },
        archive_of("annotations/annotations_trainval2017.zip"),
    )
    return Mimic(files, host, expected, inner_stored, instances)


def _zip_of(members: Mapping[str, bytes], stored: tuple[str, ...] = ()) -> bytes:
    """Returns a zip of the members, compressed except those with one of the name endings."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members.items():
            file.writestr(name, content, zipfile.ZIP_STORED if name.endswith(stored) else zipfile.ZIP_DEFLATED)
    return archive.getvalue()


def _draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, list[dict[str, object]]]:
    """Draws a stuff background, one or two things and a strip of void; returns the map and its segments' records."""
    ids = np.full(size, int(rng.integers(1, 1 << 24)), np.int32)
    categories = {int(ids[0, 0]): 187}
    for _ in range(int(rng.integers(1, 3))):
        top, left = int(rng.integers(2, size[0] - 8)), int(rng.integers(2, size[1] - 8))
        segment = int(rng.integers(1, 1 << 24))
        ids[top : top + 6, left : left + 6] = segment
        categories[segment] = int(rng.choice([1, 3, 18]))
    ids[0] = 0
    segments = []
    for segment, category in categories.items():
        rows, columns = np.nonzero(ids == segment)
        if rows.size:
            x, y = int(columns.min()), int(rows.min())
            box = [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]
            segments.append({"id": segment, "category_id": category, "area": int(rows.size), "bbox": box, "iscrowd": 0})
    return ids, segments


def _png(ids: np.ndarray) -> bytes:
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16 & 255], -1).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def _jpeg(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


class FaultServer:
    """Serves `files` (path → bytes) with ranges and ETags. Each request takes the next of its path's `faults`, if any.

    `log` holds one (path, Range header or "", status) a request; `sent` the body bytes that went out.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        self.faults: dict[str, list[Fault | None]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.log: list[tuple[str, str, int]] = []
        self._sent = 0
        self._answering = 0
        self._lock = threading.Lock()
        self._answered = threading.Condition(self._lock)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                with outer._lock:
                    outer._answering += 1
                try:
                    outer._answer(self)
                finally:
                    with outer._lock:
                        outer._answering -= 1
                        outer._answered.notify_all()

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: object) -> None:
                pass  # clients hang up as they like

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def sent(self) -> int:
        # A client has the last bytes before they are counted.
        with self._lock:
            self._answered.wait_for(lambda: not self._answering, timeout=10)
            return self._sent

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urllib.parse.unquote(request.path)  # a proxy is asked for the whole address
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
            headers["ETag"] = etag
            if fault.flip_at is not None:
                content = content[: fault.flip_at] + bytes([content[fault.flip_at] ^ 1]) + content[fault.flip_at + 1 :]
            content = content[: fault.cut_file_at]
            status, body = 200, content
            fresh = fault.stale or request.headers.get("If-Range") in (None, etag)
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
                    self._sent += len(block)
            if fault.chunked and fault.drop_after is None:
                request.wfile.write(b"0\r\n\r\n")
        except OSError:
            request.close_connection = True
        if fault.drop_after is not None or fault.length_off_by:
            request.close_connection = True
