"""Whether this process is the program `panbench`, and so nobody else's."""

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["begin", "importing", "is_ours"]

_ours = False


def begin() -> None:
    """Says that this process is the program `panbench`."""
    global _ours
    _ours = True


def is_ours() -> bool:
    """True in the program `panbench`; False where another program imports panbench."""
    return _ours


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Large libraries are imported within: the garbage collector of the program `panbench` leaves alone what they make.

    PyTorch and mmdet make 300,000 objects that live as long as the program. The collector would look at all of them
    seven times until a first model is built, and whenever memory is given back. In other programs nothing changes.
    """
    if not _ours or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
