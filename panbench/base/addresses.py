"""Files that are read from an object store: `s3://bucket/coco/val2017` as a path, by fsspec. Local paths stay `Path`.

`path_at(text)` makes one or the other, and a path into a container (packed.py). An `Address` has what panbench asks of
a path that it reads: `/`, `name`, `read_bytes`, `is_file` and a few more. A request that fails is repeated a few times;
what then remains is an OSError, as of a file. Stores take credentials, regions and endpoints from the environment, as
their own tools do.
"""

import errno
import functools
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

from panbench.base.elsewhere import Elsewhere
from panbench.base.errors import BadArgument
from panbench.base.packed import Packed, leads_into

__all__ = ["Address", "is_address", "path_at", "refuse_address"]

Result = TypeVar("Result")

# `Path` makes one slash of two. A letter alone is a drive of Windows.
_FORM = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}(?!/)")

WAITS = (0.2, 0.5, 1.0, 2.0)
"""Seconds before a request is repeated, once for each."""

_TIMEOUT = 60
"""Seconds for a request, and for each wait for its next bytes."""

_ONE_BY_ONE = 20


def is_address(text: "str | os.PathLike[str]") -> bool:
    """Whether a path is written like an address: `s3://bucket/name`."""
    return _FORM.match(os.fspath(text)) is not None


def path_at(text: "str | os.PathLike[str]") -> Path:
    """The path of a local file, or the `Address` of an object, or a `Packed` path into a container; all are read alike.

    Raises BadArgument for an address with a user name or password, which every record would repeat.
    """
    if isinstance(text, Elsewhere):
        return cast(Path, text)
    name = os.fspath(text)
    found = _FORM.match(name)
    if found is None:
        return Packed(name) if leads_into(name) else text if isinstance(text, Path) else Path(name)
    if found[1] == "file":
        return Path("/" + name[found.end() :])
    rest = name[found.end() :]
    if "@" in rest.partition("/")[0]:
        raise BadArgument(
            f"An address with a user name or password is not taken: {found[1]}://***@{rest.partition('@')[2]}. Give "
            "credentials by the environment, as the store's own tools take them."
        )
    return cast(Path, Address(f"{found[1]}:", *filter(None, rest.split("/"))))


def refuse_address(path: "str | os.PathLike[str] | None", option: str) -> None:
    """Raises BadArgument for an address where something is to be written. option: as `--out`"""
    if path is not None and is_address(path):
        found = _FORM.sub(r"\1://", os.fspath(path))
        raise BadArgument(
            f"{option} {found} is an address, and panbench writes to file systems alone: runs are renamed and locked. "
            "Give a folder, and copy it afterwards."
        )


class Address(Elsewhere, PurePosixPath):
    """A file or folder of an object store, read like a `Path`. Use `path_at`."""

    def __str__(self) -> str:
        """With both slashes."""
        scheme, *names = self.parts
        return f"{scheme}//{'/'.join(names)}"

    def __fspath__(self) -> str:
        return str(self)

    def absolute(self) -> "Address":
        """Itself: an address means the same everywhere."""
        return self

    def resolve(self) -> "Address":
        """Itself."""
        return self

    def expanduser(self) -> "Address":
        """Itself."""
        return self

    def fetch_bytes(self) -> bytes:
        """The content. Raises FileNotFoundError, and OSError once the store has refused it several times."""
        content: bytes = self._asked("cat_file")
        return content

    def read_text(self, encoding: str = "utf-8") -> str:
        """The content as text."""
        return self.read_bytes().decode(encoding)

    def is_file(self) -> bool:
        """Whether there is such an object. Raises OSError where the store cannot be asked."""
        return bool(self._asked("isfile"))

    def is_dir(self) -> bool:
        """Whether there is an object below."""
        return bool(self._asked("isdir"))

    def exists(self) -> bool:
        """Whether there is such an object, or one below."""
        return bool(self._asked("exists"))

    def is_symlink(self) -> bool:
        """Stores have no links."""
        return False

    def glob(self, pattern: str) -> "Iterator[Address]":
        """The objects of this folder whose names fit."""
        found = self._asked("glob", pattern=pattern)
        yield from (self / PurePosixPath(each).name for each in sorted(found))

    def iterdir(self) -> "Iterator[Address]":
        """What lies in this folder."""
        yield from (self / PurePosixPath(each.rstrip("/")).name for each in sorted(self._asked("ls", detail=False)))

    def missing_of(self, names: Sequence[str]) -> list[str]:
        """The names, relative to this folder, of which there is no object.

        Many are looked up in the folder's listing, a request for a thousand objects; a few one by one.
        """
        if len(names) <= _ONE_BY_ONE:
            return [name for name in names if not (self / name).is_file()]
        prefix = f"{_opened(str(self))[1].strip('/')}/"
        there = {each.lstrip("/").removeprefix(prefix) for each in self._asked("find")}
        return [name for name in names if name not in there]

    def _asked(self, method: str, pattern: str = "", **options: Any) -> Any:
        """Calls a method of the file system on this path, with one retry for each entry of WAITS."""

        def ask() -> Any:
            system, path = _opened(str(self))
            return getattr(system, method)(f"{path.rstrip('/')}/{pattern}" if pattern else path, **options)

        return _repeated(ask, str(self))


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
            if wait is None or _is_of_no_use_to_repeat(error):
                tries = "" if wait is not None else f" after {len(WAITS) + 1} tries"
                raise OSError(errno.EIO, f"the store gave no answer{tries} ({_in_short(error)})", address) from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _is_of_no_use_to_repeat(error: Exception) -> bool:
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")


def _in_short(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@functools.cache
def _system(scheme: str, process: int) -> Any:
    """The file system of a scheme. process: file systems have threads, which a fork does not copy"""
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise BadArgument(
            f"{scheme}:// is not an address that panbench can read (fsspec knows no such store)."
        ) from None
    except ImportError as error:
        missing = ModuleNotFoundError(str(error), name=_PACKAGES.get(scheme, "fsspec"))
        raise missing from None
    if scheme not in ("s3", "s3a"):
        return kind(use_listings_cache=False) if scheme in ("gs", "gcs") else kind()
    # What fails is repeated here, as of every store: three layers of retries would wait for minutes.
    limits = {"connect_timeout": 10, "read_timeout": _TIMEOUT, "retries": {"max_attempts": 0}}
    system = kind(config_kwargs=limits, use_listings_cache=False)
    system.retries = 1
    return system


_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}


def _opened(address: str) -> tuple[Any, str]:
    """The file system of an address, and its path there."""
    system = _system(address.partition(":")[0], os.getpid())
    return system, system._strip_protocol(address)
