"""Paths of what is no local file: objects of stores, files of web servers, members of zips.

An `Address` is a path of universal_pathlib whose failures are those of files: a request that fails is repeated a few
times, and what then remains is an OSError with the reason as `strerror`. Use `addresses.path_at`.
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

__all__ = ["MOST_BYTES", "WAITS", "Address", "InZip", "OfRun", "OfWeb", "address_of", "is_bomb"]

Result = TypeVar("Result")

WAITS = (0.2, 0.5, 1.0, 2.0)
"""Seconds before a request is repeated, once for each."""

MOST_BYTES = 2 << 30
"""The largest file that is read from a web server or a zip."""

_TIMEOUT = 60
"""Seconds for a request to a store, and for each wait for its next bytes."""

_ONE_BY_ONE = 20

_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}


def is_bomb(info: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip is packed as no image or annotation is; deflate reaches at most 1032:1."""
    return info.file_size > 16 << 20 and info.file_size > 200 * info.compress_size


def address_of(text: str) -> "Address":
    """The path of an address with both slashes. Raises BadArgument for a scheme that nobody knows."""
    scheme = text.partition(":")[0]
    kind = {"zip": InZip, "http": OfWeb, "https": OfWeb}.get(scheme, Address)
    try:
        return kind(text, **_options(scheme))
    except (ValueError, TypeError):
        raise BadArgument(
            f"{scheme}:// is not an address that panbench can read (fsspec knows no such store)."
        ) from None


class Address(ProxyUPath):
    """A file or folder of an object store, read like a `Path`."""

    __slots__ = ()

    def __fspath__(self) -> str:
        return str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and str(other) == str(self)

    def __reduce__(self) -> Any:
        return address_of, (str(self),)

    def absolute(self) -> "Self":
        """Itself: an address means the same everywhere."""
        return self

    def resolve(self, strict: bool = False) -> "Self":
        """Itself."""
        return self

    def expanduser(self) -> "Self":
        """Itself."""
        return self

    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError, and OSError once the store has refused it several times."""
        content: bytes = self._asked("cat_file")
        return content

    def read_text(self, encoding: str | None = None, *_: Any) -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding or "utf-8")

    def open(self, mode: str = "rb", *_: Any, **__: Any) -> Any:
        """The content as an open file, in memory."""
        return io.BytesIO(self.read_bytes()) if "b" in mode else io.StringIO(self.read_text())

    def is_file(self) -> bool:
        """Whether there is such an object. Raises OSError where the store cannot be asked."""
        return bool(self._asked("isfile"))

    def is_dir(self) -> bool:
        """Whether there is an object below."""
        return bool(self._asked("isdir"))

    def exists(self, **_: Any) -> bool:
        """Whether there is such an object, or one below."""
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        """Nothing elsewhere is a link."""
        return False

    def glob(self, pattern: str, **_: Any) -> "Iterator[Self]":
        """The objects of this folder whose names fit."""
        found = self._asked("glob", f"/{pattern}")
        yield from (self / PurePosixPath(each).name for each in sorted(found))

    def iterdir(self) -> "Iterator[Self]":
        """What lies in this folder."""
        yield from (self / PurePosixPath(each.rstrip("/")).name for each in sorted(self._asked("ls", detail=False)))

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """The names, relative to this folder, of which there is no object.

        Many are looked up in the folder's listing, a request for a thousand objects; a few one by one.
        """
        if len(names) <= _ONE_BY_ONE:
            return [name for name in names if not (self / name).is_file()]
        there = {each.lstrip("/").removeprefix(f"{self.path.strip('/')}/") for each in self._asked("find")}
        return [name for name in names if name not in there]

    def _asked(self, method: str, below: str = "", **options: Any) -> Any:
        """Calls a method of the file system on this path, with one retry for each entry of WAITS."""

        def ask() -> Any:
            return getattr(self._system(), method)(f"{self.path.rstrip('/')}{below}", **options)

        return _repeated(ask, str(self))

    def _system(self) -> Any:
        try:
            system = self.fs
        except ImportError as error:
            raise ModuleNotFoundError(str(error), name=_PACKAGES.get(self.protocol, "fsspec")) from None
        system.retries = 1  # what fails is repeated here, as of every store: layers of retries would wait for minutes
        return system


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("s3", "s3a"):
        limits = {"connect_timeout": 10, "read_timeout": _TIMEOUT, "retries": {"max_attempts": 0}}
        return {"config_kwargs": limits, "use_listings_cache": False}
    return {"use_listings_cache": False} if scheme in ("gs", "gcs") else {}


class Unlisted(Address):
    """An address whose folders cannot be listed: a file that is missing is met when it is read."""

    __slots__ = ()

    def glob(self, pattern: str, **_: Any) -> "Iterator[Self]":
        """Nothing."""
        yield from ()

    def iterdir(self) -> "Iterator[Self]":
        """Nothing."""
        yield from ()

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """None: each is asked for when it is read."""
        return []


class OfWeb(Unlisted):
    """A file of a web server, which lists no folders: what is missing there is found when it is read."""

    __slots__ = ()

    def read_bytes(self) -> bytes:
        """The content. Raises OSError for one larger than MOST_BYTES, before it is in memory."""
        return _repeated(lambda: self._requested("GET"), str(self))

    def is_file(self) -> bool:
        """Whether the server has such a file."""
        try:
            return bool(self.suffix) and _repeated(lambda: self._requested("HEAD"), str(self)) is not None
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """True: a server is not asked for folders."""
        return True

    def _requested(self, method: str) -> bytes:
        content = bytearray()
        with _client(os.getpid()).stream(method, str(self)) as answer:
            _check(answer, str(self))
            for block in answer.iter_raw():
                content += block
                if len(content) > MOST_BYTES:
                    raise _too_large(str(self))
        return bytes(content)


def _check(answer: "httpx.Response", address: str) -> None:
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
        raise _too_large(address)


@functools.lru_cache(maxsize=1)
def _client(process: int) -> "httpx.Client":
    """The client of a process: connections do not survive a fork."""
    return http_client()


class OfRun(Unlisted):
    """An address that a run's record names, which nobody asks: reading what lies there is refused in a sentence."""

    __slots__ = ()

    @classmethod
    def closed(cls, path: Any) -> Any:
        """The same path, unless it is a member of a local zip."""
        local = isinstance(path, InZip) and isinstance(path.archive, Path)
        return path if local else cls._from_upath(path.__wrapped__)

    def read_bytes(self) -> bytes:
        """Raises PermissionError."""
        why = "no address of a run is opened without --from-addresses, which sends your credentials there"
        raise PermissionError(errno.EACCES, why, str(self))

    def is_file(self) -> bool:
        """True: who reads it is told."""
        return True

    is_dir = is_file


class InZip(Address):
    """A member of a zip, or a folder in one: `zip://gt/1.png::gt.zip`. The archive stays open."""

    __slots__ = ()

    @property
    def member(self) -> str:
        """The name in the archive."""
        return str(self).removeprefix("zip://").partition("::")[0].strip("/")

    @property
    def archive(self) -> Path:
        """The path of the archive."""
        text = str(self).partition("::")[2]
        return cast(Path, address_of(text)) if "://" in text else Path(text)

    def read_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError, and OSError for a damaged archive or a member that is too large."""
        opened, name = _opened(self.archive), self.member
        info = opened.members.get(name)
        if info is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        if info.file_size > MOST_BYTES or is_bomb(info):
            raise _too_large(str(self), " or 200 times its packed size")
        try:
            return opened.read(info)
        except _DAMAGED as problem:
            raise OSError(errno.EIO, f"the member is damaged ({problem})", str(self)) from None

    def is_file(self) -> bool:
        """Whether there is such a member. Raises OSError for a damaged archive."""
        try:
            return self.member in _opened(self.archive).members
        except FileNotFoundError:
            return False

    def is_dir(self) -> bool:
        """Whether a member lies below."""
        try:
            return self.member in _opened(self.archive).folders
        except FileNotFoundError:
            return False

    def glob(self, pattern: str, **_: Any) -> "Iterator[Self]":
        """The members of this folder whose names fit."""
        inside = PurePosixPath(self.member)
        names = (PurePosixPath(name) for name in _opened(self.archive).members)
        fitting = (name.relative_to(inside) for name in names if name.is_relative_to(inside))
        depth = len(PurePosixPath(pattern).parts)
        yield from (self / str(name) for name in sorted(fitting) if len(name.parts) == depth and name.match(pattern))

    def iterdir(self) -> "Iterator[Self]":
        """The members that lie in this folder."""
        return self.glob("*")

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """The names, relative to this folder, of which there is no member."""
        members, begin = _opened(self.archive).members, f"{self.member}/" if self.member else ""
        return [name for name in names if begin + name not in members]


_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, ValueError, EOFError)


class _Zip:
    """An archive that is open for reading by several threads."""

    def __init__(self, file: Any) -> None:
        self._zip = zipfile.ZipFile(file)
        self._opening = threading.Lock()
        self.members = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    @functools.cached_property
    def folders(self) -> frozenset[str]:
        """The names of all folders, "" for the archive itself."""
        parents = {str(each) for name in self.members for each in PurePosixPath(name).parents}
        return frozenset("" if each == "." else each for each in parents)

    def read(self, info: zipfile.ZipInfo) -> bytes:
        """A member, checked by size and CRC."""
        # zipfile counts its open members without a lock.
        with self._opening:
            handle = self._zip.open(info)
        try:
            # One byte more than it should have, and no more: zipfile then reaches the end, where it compares the CRC.
            content = handle.read(info.file_size + 1)
        finally:
            with self._opening:
                handle.close()
        if len(content) != info.file_size:
            raise EOFError("its size is wrong")
        return content


def _opened(archive: Path) -> _Zip:
    """An archive, opened once by a process; again after a fork, and where a local file has changed."""
    state: tuple[int, ...] = ()
    if isinstance(archive, Path):
        found = os.stat(archive)
        state = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
    return _opened_as(archive, os.getpid(), state)


@functools.lru_cache(maxsize=64)
def _opened_as(archive: Path, process: int, state: tuple[int, ...]) -> _Zip:
    # A file that is passed in is never closed by zipfile behind the back of another thread.
    file = open(archive, "rb") if isinstance(archive, Path) else archive.open("rb")  # noqa: SIM115
    try:
        return _Zip(file)
    except (*_DAMAGED, OverflowError) as problem:
        file.close()
        raise OSError(errno.EIO, f"it is not a zip archive, or is damaged ({problem})", str(archive)) from None


def _too_large(where: str, more: str = "") -> OSError:
    return OSError(errno.EFBIG, f"it is larger than the limit of {MOST_BYTES >> 30} GiB{more}", where)


def _repeated(ask: Callable[[], Result], address: str) -> Result:
    for wait in (*WAITS, None):
        try:
            return ask()
        except FileNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), address) from None
        except (ImportError, BadArgument):
            raise
        except PermissionError as error:
            raise PermissionError(errno.EACCES, f"the store refuses it ({_in_short(error)})", address) from None
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EFBIG:
                raise
            if wait is None or _is_of_no_use_to_repeat(error):
                tries = "" if wait is not None else f" after {len(WAITS) + 1} tries"
                raise OSError(errno.EIO, f"the store gave no answer{tries} ({_in_short(error)})", address) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _is_of_no_use_to_repeat(error: Exception) -> bool:
    of_stores = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")
    return isinstance(error, Refused) or type(error).__name__ in of_stores


def _in_short(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
