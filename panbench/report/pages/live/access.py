"""A token that a browser has to show, as Jupyter's servers want one: on a shared machine all users reach 127.0.0.1.

`/enter/TOKEN` gives the browser a cookie and leads on to the list of runs; programs send `Authorization: token TOKEN`.
"""

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["ENTER", "TokenRequired"]

ENTER = "/enter/"


class TokenRequired:
    """Answers 403 to whoever does not show the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token
        # Not the token itself: who reads a cookie cannot make addresses of it.
        self._cookie = hmac.new(token.encode(), b"panbench serve", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        name = f"panbench-{(scope.get('server') or ('', ''))[1]}"
        answer: Response
        if request.method == "GET" and _equal(scope["path"].removeprefix(ENTER), self._token):
            answer = RedirectResponse("/", 303, {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"})
            answer.set_cookie(name, self._cookie, httponly=True, samesite="lax")
            await answer(scope, receive, send)
        elif _equal(_shown(request.headers), self._token) or _equal(request.cookies.get(name, ""), self._cookie):
            await self._app(scope, receive, send)
        else:
            answer = PlainTextResponse("Open the address that `panbench serve --token` printed.\n", 403)
            await answer(scope, receive, send)


def _shown(headers: Headers) -> str:
    kind, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() in ("token", "bearer") else ""


def _equal(shown: str, wanted: str) -> bool:
    """Whether they are equal, in a time that does not tell how much of them is."""
    return hmac.compare_digest(shown.encode(errors="replace"), wanted.encode())
