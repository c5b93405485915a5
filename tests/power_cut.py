"""What a power cut would leave of a folder, at each step of some work: without pulling a plug, without a file system.

`cuts(root, work)` does `work` in a process of its own. Before each change to a folder and around each fsync it looks at
the files below `root` and keeps what a disk may then hold, by the rules of POSIX:

- the bytes of a file as they were at its last fsync, none if there was none;
- the names in a folder either as they are (`journalled`), or as they were at the folder's own last fsync (`synced`);
- `mixed`: the one or the other in each folder, and of a file what was synced, all of it, or its length with zeros for
  what was not synced;
- `one file is late`: all as it is but one file, which has zeros for what was not synced.
"""

import contextlib
import hashlib
import os
import pickle
import random
import stat
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from panbench.panoptic.pixels import one_thread

__all__ = ["Left", "cuts"]

_CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
_MIXTURES = 3


@dataclass(frozen=True)
class Left:
    """The files of a folder after a power cut: what happened next, how folders were treated, bytes by relative path."""

    before: str
    names: str
    files: dict[str, bytes]
    folders: tuple[str, ...]
    last: bool = False
    """Whether the work had ended."""

    def restore(self, target: Path) -> Path:
        """Writes the files below a new folder; the folder."""
        for name in ("", *self.folders):
            (target / name).mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            (target / name).write_bytes(content)
        return target


def cuts(root: Path, work: Callable[[], object], seed: int = 0) -> list[Left]:
    """Returns the different states in which a power cut during `work` may leave `root`; what is there before counts as
    synced.

    Raises RuntimeError, with the child's traceback, when the work fails.
    """
    # A fork has none of OpenCV's threads and would wait for them for ever: there must be none to wait for.
    with tempfile.NamedTemporaryFile() as answer, one_thread():
        pid = os.fork()
        if not pid:
            code = 1
            try:
                disk = _Disk(root, random.Random(seed))
                disk.watch()
                work()
                disk.look("the end", last=True)
                Path(answer.name).write_bytes(pickle.dumps(disk.stop()))
                code = 0
            except BaseException:
                Path(answer.name).write_text(traceback.format_exc())
            finally:
                os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
            raise RuntimeError(Path(answer.name).read_text())
        found: list[Left] = pickle.loads(Path(answer.name).read_bytes())
        return found


@dataclass(eq=False)
class _File:
    """A file that exists or existed, and its bytes at its last fsync."""

    synced: bytes = b""
    now: bytes = b""

    @property
    def zeros(self) -> bytes:
        """What was synced, and zeros up to the length that the file has."""
        return self.synced + bytes(max(0, len(self.now) - len(self.synced)))


@dataclass(eq=False)
class _Folder:
    """A folder: what is in it, and what was when it was last synced."""

    now: dict[str, "_File | _Folder"] = field(default_factory=dict)
    synced: dict[str, "_File | _Folder"] = field(default_factory=dict)


class _Disk:
    """Follows the files below a folder by their inodes."""

    def __init__(self, root: Path, rng: random.Random) -> None:
        self._root, self._rng = root, rng
        self._known: dict[tuple[int, bool], _File | _Folder] = {}
        self._found: dict[str, Left] = {}
        self._busy = threading.RLock()
        self._looking = threading.local()
        self._stopped = False
        self._fsync = os.fsync
        self._tree = self._walk()
        for one in self._known.values():
            _sync(one)

    def watch(self) -> None:
        """From here on each change below the folder is looked at. Only in a process that ends soon: hooks stay."""
        sys.addaudithook(self._changed)
        os.fsync = self._synced  # type: ignore[assignment]

    def stop(self) -> list[Left]:
        """Returns the states that were found, in their order."""
        self._stopped = True
        return list(self._found.values())

    def _changed(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._stopped or event not in _CHANGES or self._inside():
            return
        if event == "open" and not _writes(*arguments[1:3]):
            return
        place = arguments[0]
        if isinstance(place, str | bytes) and Path(os.fsdecode(place)).absolute().is_relative_to(self._root):
            self.look(f"{event} {Path(os.fsdecode(place)).absolute().relative_to(self._root)}")

    def _synced(self, descriptor: int) -> None:
        self.look("fsync")
        self._fsync(descriptor)
        with self._alone():
            self._tree = self._walk()
            what = os.fstat(descriptor)
            if one := self._known.get((what.st_ino, stat.S_ISDIR(what.st_mode))):
                _sync(one)
        self.look("what comes after fsync")

    def _inside(self) -> bool:
        return getattr(self._looking, "inside", False)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Other threads wait before their next change; what this one opens is no change."""
        with self._busy:
            self._looking.inside = True
            try:
                yield
            finally:
                self._looking.inside = False

    def look(self, before: str, last: bool = False) -> None:
        """Keeps what a power cut right now may leave. last: when the work has ended."""
        with self._alone():
            self._tree = self._walk()
            for names, content in self._outcomes():
                # Names as they are, as they were synced, or the one in some folders and the other in others.
                share = {"synced": 1.0, "mixed": 0.5}.get(names, 0.0)
                found = list(_inside(self._tree, partial(self._drawn, share)))
                files = {path: content(one) for path, one in found if isinstance(one, _File)}
                folders = tuple(path for path, one in found if isinstance(one, _Folder))
                key = hashlib.sha256(pickle.dumps((sorted(files.items()), sorted(folders), last))).hexdigest()
                self._found.setdefault(key, Left(before, names, files, folders, last))

    def _outcomes(self) -> Iterator[tuple[str, Callable[[_File], bytes]]]:
        """How a disk may treat folders, and what it may hold of each file."""
        yield "journalled", lambda one: one.synced
        yield "synced", lambda one: one.synced
        for _ in range(_MIXTURES):
            yield "mixed", lambda one: self._rng.choice((one.synced, one.now, one.zeros))
        for late in [one for one in self._known.values() if isinstance(one, _File) and one.now != one.synced]:
            yield "one file is late", partial(_all_but, late)

    def _drawn(self, share: float) -> bool:
        return self._rng.random() < share

    def _walk(self) -> _Folder:
        """Returns the tree as it is; retries if a change that another thread announced happens meanwhile."""
        while True:
            known: dict[tuple[int, bool], _File | _Folder] = {}
            try:
                tree = self._seen(self._root, known)
            except FileNotFoundError:
                continue
            assert isinstance(tree, _Folder)
            self._known = known
            return tree

    def _seen(self, path: Path, known: dict[tuple[int, bool], _File | _Folder]) -> _File | _Folder:
        """What is at a path; a file or folder keeps its object for as long as its inode is there."""
        key = (path.stat().st_ino, path.is_dir())
        one = self._known.get(key) or known.get(key) or (_Folder() if key[1] else _File())
        known[key] = one
        if isinstance(one, _Folder):
            one.now = {
                entry.name: self._seen(entry, known) for entry in sorted(path.iterdir()) if not entry.is_symlink()
            }
        else:
            one.now = path.read_bytes()
        return one


def _sync(one: _File | _Folder) -> None:
    if isinstance(one, _Folder):
        one.synced = dict(one.now)
    else:
        one.synced = one.now


def _all_but(late: _File, one: _File) -> bytes:
    return one.zeros if one is late else one.now


def _inside(
    folder: _Folder, is_synced: Callable[[], bool], prefix: str = ""
) -> Iterator[tuple[str, "_File | _Folder"]]:
    for name, one in (folder.synced if is_synced() else folder.now).items():
        path = f"{prefix}{name}"
        yield path, one
        if isinstance(one, _Folder):
            yield from _inside(one, is_synced, f"{path}/")


def _writes(mode: Any, flags: Any) -> bool:
    """Returns whether a file is opened so that it may be made or changed."""
    if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
        return True
    return isinstance(mode, str) and any(letter in mode for letter in "wax+")
