"""Parses paths: a local file, or a URL such as `s3://bucket/coco/val2017` or `zip://gt::gt.zip`.

Local files are `Path`s; the others are the paths of remote_paths.py, imported when the first one is named. Stores take
credentials, regions and endpoints from the environment, as their own tools do: a URL that holds any would repeat them
in every record.
"""

import os
import re
from pathlib import Path, PurePath
from typing import cast

from panbench.base.errors import BadArgument

# `Path` collapses two slashes into one. A single letter is a Windows drive.
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}(?!/)")
_ZIP = re.compile(r"zip:/{1,3}(?!/)(.*?)::(.+)", re.DOTALL)


def is_url(text: "str | os.PathLike[str]") -> bool:
    """True if a path is written like a URL: `s3://bucket/name`."""
    return _SCHEME.match(os.fspath(text)) is not None


def is_remote(path: object) -> bool:
    """True if a path is a URL: it has no links and no modification time."""
    return not isinstance(path, Path)


def path_at(text: "str | os.PathLike[str]") -> Path:
    """Parses a path or URL; the result has the methods of `Path` in both cases.

    Raises BadArgument for an unknown scheme, and for a URL with a user name, a password, a query or a fragment.
    """
    name = os.fspath(text)
    if (found := _SCHEME.match(name)) is None:
        return text if isinstance(text, Path) else Path(name)
    if not isinstance(text, (str, PurePath)):
        return cast(Path, text)
    from panbench.base.remote_paths import url_path

    scheme, rest = found[1], name[found.end() :]
    if scheme == "zip":
        member, archive = _member_and_archive(name)
        return cast(Path, url_path(f"zip://{member}::{archive}"))
    _refuse_secrets_in_url(scheme, rest)
    if scheme == "file":
        return Path("/" + rest)
    return cast(Path, url_path(f"{scheme}://{'/'.join(filter(None, rest.split('/')))}"))


_recorded_urls_allowed = False


def allow_recorded_urls(allowed: bool = True) -> None:
    """Allows or forbids this process to open URLs that stand in a run.json; at first they are forbidden."""
    global _recorded_urls_allowed
    _recorded_urls_allowed = allowed


def recorded_path(text: "str | os.PathLike[str]") -> Path:
    """Parses a path from run.json; reading a URL in it raises an OSError unless `allow_recorded_urls` was called.
    The run may come from anybody.
    """
    path = path_at(text)
    if _recorded_urls_allowed or not is_remote(path):
        return path
    from panbench.base.remote_paths import ForbiddenUrl

    return cast(Path, ForbiddenUrl.forbid(path))


def _member_and_archive(name: str) -> tuple[str, str]:
    """Splits a `zip://` URL into the member's name and the archive's absolute path. Raises BadArgument."""
    found = _ZIP.fullmatch(name)
    if found is None:
        raise BadArgument(f"{name} names no archive. Write zip://FOLDER::ARCHIVE.zip, as in zip://gt::gt.zip.")
    return found[1].strip("/"), os.fspath(path_at(found[2]).absolute())


def _refuse_secrets_in_url(scheme: str, rest: str) -> None:
    """Raises BadArgument for a URL with a login, a query or a fragment; the message does not repeat them."""
    host = re.split("[?#]", rest)[0].rpartition("@")[2]
    if "@" in rest.partition("/")[0]:
        raise BadArgument(
            f"A URL with a user name or password is not accepted: {scheme}://***@{host}. Give credentials by the "
            "environment, as the store's own tools take them."
        )
    if scheme != "file" and host != rest:
        raise BadArgument(
            f"A URL with a query or fragment is not accepted: {scheme}://{host}?***. Its signature or token would "
            "be copied into every record. Give credentials by the environment: s3:// takes AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, gs:// GOOGLE_APPLICATION_CREDENTIALS, hf:// HF_TOKEN."
        )


def refuse_url(path: "str | os.PathLike[str] | None", option: str) -> None:
    """Raises BadArgument if an output path is a URL. option: the option that gave it, such as `--out`"""
    if path is not None and is_url(path):
        found = re.split("[?#]", _SCHEME.sub(r"\1://", os.fspath(path)))[0]
        raise BadArgument(
            f"{option} {found} is a URL, and panbench writes to file systems only: runs are renamed and locked. "
            "Give a folder, and copy it afterwards."
        )
