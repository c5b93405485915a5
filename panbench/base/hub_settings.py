"""HF_ENDPOINT and HF_TOKEN, checked before a library reads them: it would quote them in its errors."""

import os
import urllib.parse

from panbench.base.errors import BadArgument

__all__ = ["endpoint", "token"]


def endpoint() -> str:
    """The address of the hub: HF_ENDPOINT, else huggingface.co. Raises BadArgument if it is not an address."""
    stated = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/")
    if not stated:
        return "https://huggingface.co"
    try:
        parts = urllib.parse.urlsplit(stated)
        # Reading the port raises ValueError for one that is not a number.
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        valid = False
    if not valid or not stated.isprintable() or " " in stated:
        raise BadArgument(
            "HF_ENDPOINT is not the address of a server. Write https://HOST or https://HOST:PORT; characters such as "
            "/, #, ? and @ in a password have to be percent-encoded."
        )
    return stated


def token() -> str | None:
    """HF_TOKEN without the spaces around it; None when it is not set. Raises BadArgument if it is not a token."""
    stated = os.environ.get("HF_TOKEN", "").strip()
    if not (stated.isascii() and stated.isprintable()) or " " in stated:
        raise BadArgument(
            "HF_TOKEN is not a token: it holds a space, a line break or a character that is not ASCII. Copy it again."
        )
    return stated or None
