"""Paths by what is written: `s3://bucket/coco/val2017`, `zip://gt::gt.zip` and the like, or a local file.

Local files stay `Path`; what lies elsewhere is a path of elsewhere.py, which is imported when the first one is named.
Stores take credentials, regions and endpoints from the environment, as their own tools do: an address that holds any
would repeat them in every record.
"""

import os
import re
from pathlib import Path, PurePath
from typing import cast

from panbench.base.errors import BadArgument

__all__ = ["is_address", "is_elsewhere", "open_recorded", "path_at", "recorded_path", "refuse_address"]

# `Path` makes one slash of two. A letter alone is a drive of Windows.
_FORM = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}(?!/)")
_ZIP = re.compile(r"zip:/{1,3}(?!/)(.*?)::(.+)", re.DOTALL)


def is_address(text: "str | os.PathLike[str]") -> bool:
    """Whether a path is written like an address: `s3://bucket/name`."""
    return _FORM.match(os.fspath(text)) is not None


def is_elsewhere(path: object) -> bool:
    """Whether a path is not one of a local file: what only such have (links, times) is not asked of it."""
    return not isinstance(path, Path)


def path_at(text: "str | os.PathLike[str]") -> Path:
    """The path of a local file, or of what an address names; both are read alike.

    Raises BadArgument for an unknown scheme, and for an address with a user name, a password, a query or a fragment.
    """
    name = os.fspath(text)
    if (found := _FORM.match(name)) is None:
        return text if isinstance(text, Path) else Path(name)
    if not isinstance(text, (str, PurePath)):
        return cast(Path, text)
    from panbench.base.elsewhere import address_of

    scheme, rest = found[1], name[found.end() :]
    if scheme == "zip":
        member, archive = _member_and_archive(name)
        return cast(Path, address_of(f"zip://{member}::{archive}"))
    _refuse_secrets(scheme, rest)
    if scheme == "file":
        return Path("/" + rest)
    return cast(Path, address_of(f"{scheme}://{'/'.join(filter(None, rest.split('/')))}"))


_recorded_are_open = False


def open_recorded(allowed: bool = True) -> None:
    """Lets `recorded_path` open addresses in this process, or not; at first it does not."""
    global _recorded_are_open
    _recorded_are_open = allowed


def recorded_path(text: "str | os.PathLike[str]") -> Path:
    """The path that a run's record names, which may be a stranger's: its addresses are asked only if that was allowed.

    Where it was not, whoever reads such a path gets an OSError that says so.
    """
    path = path_at(text)
    if _recorded_are_open or not is_elsewhere(path):
        return path
    from panbench.base.elsewhere import OfRun

    return cast(Path, OfRun.closed(path))


def _member_and_archive(name: str) -> tuple[str, str]:
    found = _ZIP.fullmatch(name)
    if found is None:
        raise BadArgument(f"{name} names no archive. Write zip://FOLDER::ARCHIVE.zip, as in zip://gt::gt.zip.")
    return found[1].strip("/"), os.fspath(path_at(found[2]).absolute())


def _refuse_secrets(scheme: str, rest: str) -> None:
    shown = re.split("[?#]", rest)[0].rpartition("@")[2]
    if "@" in rest.partition("/")[0]:
        raise BadArgument(
            f"An address with a user name or password is not taken: {scheme}://***@{shown}. Give credentials by the "
            "environment, as the store's own tools take them."
        )
    if scheme != "file" and shown != rest:
        raise BadArgument(
            f"An address with a query or fragment is not taken: {scheme}://{shown}?***. Its signature or token would "
            "stand in every record. Give credentials by the environment: s3:// takes AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, gs:// GOOGLE_APPLICATION_CREDENTIALS, hf:// HF_TOKEN."
        )


def refuse_address(path: "str | os.PathLike[str] | None", option: str) -> None:
    """Raises BadArgument for an address where something is to be written. option: as `--out`"""
    if path is not None and is_address(path):
        found = re.split("[?#]", _FORM.sub(r"\1://", os.fspath(path)))[0]
        raise BadArgument(
            f"{option} {found} is an address, and panbench writes to file systems alone: runs are renamed and locked. "
            "Give a folder, and copy it afterwards."
        )
