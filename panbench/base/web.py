"""Makes the HTTP client that all downloads use."""

import functools
import ssl
from typing import TYPE_CHECKING

from panbench.base.secrets import without_secrets

# Imported where it is used: the import takes 0.2 s of CPU, and most commands fetch nothing.
if TYPE_CHECKING:
    import httpx

TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
"""HTTP status codes after which the same request may succeed later."""

_TIMEOUT_SECONDS = 30
"""Seconds without a byte after which a request fails."""


class Refused(Exception):
    """The server refuses the file, and a retry would not help."""


def http_client() -> "httpx.Client":
    """Returns a client that follows redirects, uses the environment's proxies and never requests compression."""
    import httpx

    return httpx.Client(
        follow_redirects=True,
        verify=_tls_context(),
        timeout=httpx.Timeout(_TIMEOUT_SECONDS, connect=_TIMEOUT_SECONDS / 2, pool=None),
        headers={"Accept-Encoding": "identity", "User-Agent": "panbench"},
        event_hooks={"response": [_refuse_insecure_redirect]},
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
    )


def _refuse_insecure_redirect(response: "httpx.Response") -> None:
    """Raises Refused for a redirect from https to http, where anybody in between could change the file."""
    if response.has_redirect_location and response.url.scheme == "https":
        target = response.url.join(response.headers["Location"])
        if target.scheme != "https":
            raise Refused(f"the server redirects from https to {without_secrets(str(target))}, which is not encrypted")


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Loads the certificates once per process: loading takes longer than a small download."""
    import httpx

    return httpx.create_ssl_context()
