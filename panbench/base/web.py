"""The HTTP client of all that is fetched, and what its answers mean."""

import functools
import ssl
from typing import TYPE_CHECKING

from panbench.base.secrets import without_secrets

# Imported where it is used: it takes a fifth of a second of CPU, and most commands fetch nothing.
if TYPE_CHECKING:
    import httpx

__all__ = ["TRANSIENT_STATUS", "Refused", "http_client"]

TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
"""The answers after which the same request may succeed."""

_SECONDS = 30
"""Seconds without a byte after which a request has failed."""


class Refused(Exception):
    """The server refuses the file, and a retry would not help."""


def http_client() -> "httpx.Client":
    """A client that follows redirects, uses the environment's proxies and never requests compressed transfer."""
    import httpx

    return httpx.Client(
        follow_redirects=True,
        verify=_tls(),
        timeout=httpx.Timeout(_SECONDS, connect=_SECONDS / 2, pool=None),
        headers={"Accept-Encoding": "identity", "User-Agent": "panbench"},
        event_hooks={"response": [_refuse_downgrade]},
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
    )


def _refuse_downgrade(response: "httpx.Response") -> None:
    """Raises Refused for a redirect from https to http, where anybody on the way could change the file."""
    if response.has_redirect_location and response.url.scheme == "https":
        there = response.url.join(response.headers["Location"])
        if there.scheme != "https":
            raise Refused(f"the server redirects from https to {without_secrets(str(there))}, which is not encrypted")


@functools.cache
def _tls() -> ssl.SSLContext:
    # Loading the certificates takes longer than a small download.
    import httpx

    return httpx.create_ssl_context()
