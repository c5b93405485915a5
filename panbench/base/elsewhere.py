"""What panbench asks of a path whose bytes are not a file of their own: an object of a store, a member of a container.

Local files stay `Path` and are opened as files: `isinstance(path, Elsewhere)` is the one branch where that is done.
"""

import contextlib
import threading
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence

__all__ = ["Elsewhere"]

_MOST_KEPT = 64


class Elsewhere:
    """The seam: where the bytes of an image, an id PNG or a JSON come from.

    Its classes are paths too, with `/`, `name`, `is_file`, `is_dir` and `exists`: base/addresses.py, base/packed.py.
    """

    __slots__ = ()

    @abstractmethod
    def fetch_bytes(self) -> bytes:
        """The content, from where it lies. Raises FileNotFoundError, and OSError with a reason as `strerror`."""

    @abstractmethod
    def missing_of(self, names: Sequence[str]) -> list[str]:
        """The names, relative to this folder, of which there is no file. Raises OSError."""

    def read_bytes(self) -> bytes:
        """The content. Raises as `fetch_bytes`."""
        content = _kept.take(str(self))
        return self.fetch_bytes() if content is None else content

    def read_and_keep(self) -> bytes:
        """The content, which the next `read_bytes` returns without fetching it again."""
        content = self.fetch_bytes()
        _kept.put(str(self), content)
        return content


class _Kept:
    """A few contents that were read to be hashed and are about to be read again."""

    def __init__(self) -> None:
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._guard = threading.Lock()

    def put(self, name: str, content: bytes) -> None:
        with self._guard:
            self._contents[name] = content
            while len(self._contents) > _MOST_KEPT:
                self._contents.popitem(last=False)

    def take(self, name: str) -> bytes | None:
        with self._guard, contextlib.suppress(KeyError):
            return self._contents.pop(name)
        return None


_kept = _Kept()
