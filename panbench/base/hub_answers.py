"""Answers of the Hugging Face hub, requested with a size limit and validated.

huggingface_hub's session asks, so its settings (offline mode, proxies, retries of other programs) hold; it would read
an answer of any length, and follow a redirect that leaves encryption.
"""

import json
import re
import urllib.parse
from typing import TYPE_CHECKING, Any

from panbench.base.errors import DownloadFailed
from panbench.base.hub_settings import endpoint, token
from panbench.base.secrets import without_secrets

if TYPE_CHECKING:
    import httpx2
    from huggingface_hub.hf_api import ModelInfo

__all__ = ["NotAHub", "model_info"]

MOST_BYTES = 32 << 20
"""A listing of 100,000 files has some 20 MB."""

_MOST_REDIRECTS = 5
_COMMIT, _SHA256, _GIT = (re.compile(rf"[0-9a-f]{{{digits}}}") for digits in ("40,64", "64", "40,64"))


class NotAHub(ValueError):
    """An answer that is not a hub's; the text says why."""


def model_info(name: str, revision: str, seconds: float) -> "ModelInfo":
    """Commit, files with sizes and hashes, and licence of a repository at a revision.

    Raises huggingface_hub's errors for what the hub refuses, NotAHub for an answer that makes no sense, DownloadFailed
    for a redirect from https to http.
    """
    from huggingface_hub.hf_api import ModelInfo
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    address = f"{endpoint()}/api/models/{name}/revision/{urllib.parse.quote(revision, safe='')}"
    session = get_session()
    request: httpx2.Request | None = session.build_request(
        "GET", address, params={"blobs": True}, headers=build_hf_headers(token=token()), timeout=seconds
    )
    for _ in range(_MOST_REDIRECTS):
        assert request is not None
        answer = session.send(request, stream=True, follow_redirects=False)
        try:
            content = _bounded(answer)
        finally:
            answer.close()
        # It has the credentials only where they may go.
        request = answer.next_request
        if request is None:
            break
        _refuse_downgrade(answer, request)
    else:
        raise NotAHub("it redirects without an end")
    status = answer.status_code
    hf_raise_for_status(type(answer)(status, headers=_without_coding(answer), content=content, request=answer.request))
    try:
        found = json.loads(content)
    except RecursionError:
        raise NotAHub("its JSON is nested too deeply") from None
    _check(found)
    return ModelInfo(**found)


def _bounded(answer: "httpx2.Response") -> bytes:
    """The decoded body. Raises NotAHub for one that is longer than any listing."""
    content = bytearray()
    for block in answer.iter_bytes(1 << 16):
        content += block
        if len(content) > MOST_BYTES:
            raise NotAHub(f"it is longer than {MOST_BYTES >> 20} MiB")
    return bytes(content)


def _refuse_downgrade(answer: "httpx2.Response", request: "httpx2.Request") -> None:
    if answer.request.url.scheme == "https" and request.url.scheme != "https":
        raise DownloadFailed(
            f"{without_secrets(str(answer.request.url))} redirects from https to {without_secrets(str(request.url))}, "
            "which is not encrypted. Set HF_ENDPOINT to an address that stays encrypted."
        )


def _without_coding(answer: "httpx2.Response") -> dict[str, str]:
    """The headers of an answer whose body is decoded already."""
    about_the_body = ("content-encoding", "content-length", "transfer-encoding")
    return {name: value for name, value in answer.headers.items() if name.lower() not in about_the_body}


def _check(found: Any) -> None:
    """Raises NotAHub unless commit, names, sizes and hashes are such as a hub has."""
    if not isinstance(found, dict) or not isinstance(found.get("siblings"), list):
        raise NotAHub("it lists no files")
    if not isinstance(found.get("sha"), str) or not _COMMIT.fullmatch(found["sha"]):
        raise NotAHub("it names no commit")
    if not isinstance(found.get("cardData", {}), dict | None):
        raise NotAHub("its card is no object")
    for stated in found["siblings"]:
        if not isinstance(stated, dict) or not isinstance(stated.get("rfilename"), str):
            raise NotAHub("a file has no name")
        large = stated.get("lfs") or {}
        if not isinstance(large, dict):
            raise NotAHub("a file's storage is no object")
        sizes = (stated.get("size"), large.get("size"))
        if not all(size is None or (type(size) is int and 0 <= size < 1 << 53) for size in sizes):
            raise NotAHub(f"the size of {stated['rfilename']!r} is no number of bytes")
        for pattern, digest in ((_GIT, stated.get("blobId")), (_SHA256, large.get("sha256"))):
            if digest is not None and not (isinstance(digest, str) and pattern.fullmatch(digest)):
                raise NotAHub(f"the hash of {stated['rfilename']!r} is none")
