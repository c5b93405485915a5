"""Paths that are not local files: objects in S3 or Google stores, files of web servers, members of zip archives.

A `UrlPath` is a path of universal_pathlib that fails like a file: a failed request is retried a few times, then an
OSError is raised with the reason as `strerror`. Use `addresses.path_at`.
"""

import errno
import functools
import io
import os
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar, cast

from upath.extensions import ProxyUPath

from panbench.base.errors import BadArgument
from panbench.base.web import TRANSIENT_STATUS, Refused, http_client

if TYPE_CHECKING:
    import httpx
    from typing_extensions import Self

Result = TypeVar("Result")

WAITS = (0.2, 0.5, 1.0, 2.0)
"""Seconds before a request is repeated, once for each."""

MOST_BYTES = 2 << 30
"""The largest file that is read from a web server or a zip."""

_TIMEOUT = 60
"""Seconds for a request to a store, and for each wait for its next bytes."""

_FEW_FILES = 20
"""Up to this many files are looked up one by one, more in the folder's listing."""

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}


def is_zip_bomb(info: zipfile.ZipInfo) -> bool:
    """True if a zip member is compressed more than images or annotations could be; deflate reaches at most 1032:1."""
    return info.file_size > 16 << 20 and info.file_size > 200 * info.compress_size


def url_path(text: str) -> "UrlPath":
    """Makes the path object of a URL such as `s3://bucket/name`. Raises BadArgument for an unknown scheme."""
    scheme = text.partition(":")[0]
    kind = {"zip": ZipMember, "http": WebFile, "https": WebFile}.get(scheme, UrlPath)
    try:
        return kind(text, **_storage_options(scheme))
    except (ValueError, TypeError):
        raise BadArgument(f"{scheme}:// is not a URL that panbench can read (fsspec knows no such store).") from None


class UrlPath(ProxyUPath):
    """A file or folder of an object store, read like a `Path`."""

    __slots__ = ()

    def __fspath__(self) -> str:
        return str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and str(other) == str(self)

    def __reduce__(self) -> Any:
        """Pickles the path as its URL, for worker processes."""
        return url_path, (str(self),)

    def absolute(self) -> "Self":
        """Returns itself: a URL means the same everywhere."""
        return self

    def resolve(self, strict: bool = False) -> "Self":
        """Returns itself: a URL has no symbolic links."""
        return self

    def read_bytes(self) -> bytes:
        """Returns the content. Raises FileNotFoundError, and OSError once the store has refused several times."""
        content: bytes = self._call_fsspec("cat_file")
        return content

    def read_text(self, encoding: str | None = None, *_: Any) -> str:
        """Returns the content as text."""
        return self.read_bytes().decode(encoding or "utf-8")

    def open(self, mode: str = "rb", *_: Any, **__: Any) -> Any:
        """Returns the content as an open file, in memory."""
        return io.BytesIO(self.read_bytes()) if "b" in mode else io.StringIO(self.read_text())

    def is_file(self) -> bool:
        """True if the object exists. Raises OSError if the store cannot be reached."""
        return bool(self._call_fsspec("isfile"))

    def is_dir(self) -> bool:
        """True if there is an object below this path."""
        return bool(self._call_fsspec("isdir"))

    def exists(self, **_: Any) -> bool:
        """True if this object exists, or one below it."""
        return self.is_file() or self.is_dir()

    def glob(self, pattern: str, **_: Any) -> "Iterator[Self]":
        """Yields the objects of this folder whose names match."""
        found = self._call_fsspec("glob", f"/{pattern}")
        yield from (self / PurePosixPath(each).name for each in sorted(found))

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """Returns those of the file names that do not exist in this folder of the store.

        Looks up many names in the folder's listing (one request per thousand objects), and a few one by one.
        """
        if len(names) <= _FEW_FILES:
            return [name for name in names if not (self / name).is_file()]
        listing = {each.lstrip("/").removeprefix(f"{self.path.strip('/')}/") for each in self._call_fsspec("find")}
        return [name for name in names if name not in listing]

    def _call_fsspec(self, method: str, below: str = "") -> Any:
        """Calls a method of the fsspec file system on this path; WAITS says how often it is retried."""
        path = f"{self.path.rstrip('/')}{below}"
        return _retried(lambda: getattr(self._file_system(), method)(path), str(self))

    def _file_system(self) -> Any:
        """Returns fsspec's file system for this URL. Raises ModuleNotFoundError naming the package to install."""
        try:
            system = self.fs
        except ImportError as error:
            raise ModuleNotFoundError(str(error), name=_PACKAGES.get(self.protocol, "fsspec")) from None
        system.retries = 1  # retries happen here, as for every store: nested retries would wait for minutes
        return system


def _storage_options(scheme: str) -> dict[str, Any]:
    """Returns fsspec's options for S3 and Google stores: no cached listings, for S3 time limits and no retries."""
    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": 10, "read_timeout": _TIMEOUT, "retries": {"max_attempts": 0}}
        return {"config_kwargs": limits, "use_listings_cache": False}
    return {"use_listings_cache": False} if scheme in ("gs", "gcs") else {}


class UnlistedFolder(UrlPath):
    """A URL whose folders cannot be listed, so that a missing file is only noticed when it is read."""

    __slots__ = ()

    def glob(self, pattern: str, **_: Any) -> "Iterator[Self]":
        """Yields nothing, as the folder cannot be listed."""
        yield from ()

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """Returns no file names: which files a URL lacks is unknown until they are read."""
        return []


class WebFile(UnlistedFolder):
    """A file of a web server."""

    __slots__ = ()

    def read_bytes(self) -> bytes:
        """Returns the content. Raises OSError before reading anything larger than MOST_BYTES into memory."""
        return _retried(lambda: self._request("GET"), str(self))

    def is_file(self) -> bool:
        """True if the server has this file."""
        try:
            return bool(self.suffix) and _retried(lambda: self._request("HEAD"), str(self)) is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Returns True without a request: a web server has no folders."""
        return True

    def _request(self, method: str) -> bytes:
        """Sends an HTTP request and returns the body. Raises OSError for one larger than MOST_BYTES."""
        content = bytearray()
        with _http_client_of_process(os.getpid()).stream(method, str(self)) as answer:
            _check_status(answer, str(self))
            for block in answer.iter_raw():
                content += block
                if len(content) > MOST_BYTES:
                    raise _too_large_error(str(self))
        return bytes(content)


def _check_status(answer: "httpx.Response", url: str) -> None:
    """Raises for a response other than 200; the exception's type tells `_retried` whether to try again."""
    status = answer.status_code
    if status in (404, 410):
        raise FileNotFoundError
    if status in (401, 403):
        raise PermissionError(f"HTTP {status} {answer.reason_phrase}")
    if status in TRANSIENT_STATUS:
        raise TimeoutError(f"HTTP {status} {answer.reason_phrase}")
    if status != 200:
        raise Refused(f"HTTP {status} {answer.reason_phrase}")
    length = answer.headers.get("Content-Length", "")
    if length.isdecimal() and int(length[:19]) > MOST_BYTES:
        raise _too_large_error(url)


@functools.lru_cache(maxsize=1)
def _http_client_of_process(process: int) -> "httpx.Client":
    """Returns the HTTP client of this process: connections do not survive a fork."""
    return http_client()


class ForbiddenUrl(UnlistedFolder):
    """A URL from a run's record that may not be opened: reading it raises PermissionError."""

    __slots__ = ()

    @classmethod
    def forbid(cls, path: Any) -> Any:
        """Turns a URL into a ForbiddenUrl, which raises when it is read; returns members of local zips unchanged."""
        local = isinstance(path, ZipMember) and isinstance(path.archive_path, Path)
        return path if local else cls._from_upath(path.__wrapped__)

    def read_bytes(self) -> bytes:
        """Refuses to read a URL that stands in a run.json, as it could come from anybody: raises PermissionError."""
        why = "no URL of a run is opened without --from-addresses, which sends your credentials there"
        raise PermissionError(errno.EACCES, why, str(self))

    def is_file(self) -> bool:
        """Returns True without a request, so that reading the file is what raises the error."""
        return True

    is_dir = is_file


class ZipMember(UrlPath):
    """A member of a zip, or a folder in one: `zip://gt/1.png::gt.zip`. The archive stays open."""

    __slots__ = ()

    @property
    def member_name(self) -> str:
        """The member's name in the archive."""
        return str(self).removeprefix("zip://").partition("::")[0].strip("/")

    @property
    def archive_path(self) -> Path:
        """The path of the archive."""
        text = str(self).partition("::")[2]
        return cast(Path, url_path(text)) if "://" in text else Path(text)

    def read_bytes(self) -> bytes:
        """Returns the content. Raises FileNotFoundError, and OSError for a damaged archive or a too large member."""
        opened, name = _open_zip(self.archive_path), self.member_name
        info = opened.members.get(name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        if info.file_size > MOST_BYTES or is_zip_bomb(info):
            raise _too_large_error(str(self), " or 200 times its packed size")
        try:
            return opened.read(info)
        except _DAMAGED as problem:
            raise OSError(errno.EIO, f"the member is damaged ({problem})", str(self)) from None

    def is_file(self) -> bool:
        """True if the member exists. Raises OSError for a damaged archive."""
        try:
            return self.member_name in _open_zip(self.archive_path).members
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """True if a member lies below this path."""
        try:
            return self.member_name in _open_zip(self.archive_path).folders
        except FileNotFoundError:
            return False

    def glob(self, pattern: str, **_: Any) -> "Iterator[Self]":
        """Yields the members of this folder whose names match."""
        inside = PurePosixPath(self.member_name)
        names = (PurePosixPath(name) for name in _open_zip(self.archive_path).members)
        fitting = (name.relative_to(inside) for name in names if name.is_relative_to(inside))
        depth = len(PurePosixPath(pattern).parts)
        yield from (self / str(name) for name in sorted(fitting) if len(name.parts) == depth and name.match(pattern))

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """Returns those of the file names that do not exist in this folder of the archive."""
        members, begin = _open_zip(self.archive_path).members, f"{self.member_name}/" if self.member_name else ""
        return [name for name in names if begin + name not in members]


_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError)


class _Zip:
    """An open zip archive that several threads can read."""

    def __init__(self, file: Any) -> None:
        """Reads the list of members of the zip in an open binary file."""
        self._zip = zipfile.ZipFile(file)
        self._lock = threading.Lock()
        self.members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    @functools.cached_property
    def folders(self) -> frozenset[str]:
        """The folders inside this zip archive, by path; "" is the top level."""
        parents = {str(each) for name in self.members for each in PurePosixPath(name).parents}
        return frozenset("" if each == "." else each for each in parents)

    def read(self, info: zipfile.ZipInfo) -> bytes:
        """Returns the content of a member, checked by size and CRC."""
        # zipfile counts its open members without a lock.
        with self._lock:
            handle = self._zip.open(info)
        try:
            # Read one byte more than declared: zipfile then reaches the end, where it compares the CRC.
            content = handle.read(info.file_size + 1)
        finally:
            with self._lock:
                handle.close()
        if len(content) != info.file_size:
            raise EOFError("its size is wrong")
        return content


def _open_zip(archive: Path) -> _Zip:
    """Returns an open archive, cached per process; opened again after a fork, and if a local file has changed."""
    state: tuple[int, ...] = ()
    if isinstance(archive, Path):
        found = os.stat(archive)
        state = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return _open_zip_cached(archive, os.getpid(), state)


@functools.lru_cache(maxsize=64)
def _open_zip_cached(archive: Path, process: int, state: tuple[int, ...]) -> _Zip:
    """Opens an archive; `process` and `state` only distinguish entries of the cache."""
    # zipfile never closes a file object that is passed in, which another thread might be reading.
    file = open(archive, "rb") if isinstance(archive, Path) else archive.open("rb")  # noqa: SIM115
    try:
        return _Zip(file)
    except (*_DAMAGED, OverflowError) as problem:
        file.close()
        raise OSError(errno.EIO, f"it is not a zip archive, or is damaged ({problem})", str(archive)) from None


def _too_large_error(where: str, more: str = "") -> OSError:
    """Returns the error for content above MOST_BYTES. where: its name in the message"""
    return OSError(errno.EFBIG, f"it is larger than the limit of {MOST_BYTES >> 30} GiB{more}", where)


def _retried(request: Callable[[], Result], url: str) -> Result:
    """Repeats a request after each pause of WAITS; raises an OSError that names the URL once it is refused for good."""
    for wait in (*WAITS, None):
        try:
            return request()
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
        except (ImportError, BadArgument):
            raise
        except PermissionError as error:
            raise PermissionError(errno.EACCES, f"the store refuses it ({_error_in_short(error)})", url) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EFBIG:
                raise
            if wait is None or _is_permanent(error):
                tries = "" if wait is not None else f" after {len(WAITS) + 1} tries"
                raise OSError(errno.EIO, f"the store gave no answer{tries} ({_error_in_short(error)})", url) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _is_permanent(error: Exception) -> bool:
    """True if a retry cannot help; botocore's errors are known by name, as it may not be installed."""
    by_botocore = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")
    return isinstance(error, Refused) or type(error).__name__ in by_botocore


def _error_in_short(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
