"""Whether this process is the program `panbench`, and so nobody else's."""

__all__ = ["begin", "is_ours"]

_ours = False


def begin() -> None:
    """Says that this process is the program `panbench`."""
    global _ours
    _ours = True


def is_ours() -> bool:
    """True in the program `panbench`; False where another program imports panbench."""
    return _ours
