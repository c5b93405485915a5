"""The pages and answers of `panbench serve`, as a Starlette application. Needs the extra `serve`.

/                               the runs of the folder, grouped by dataset
/compare?run=NAME&run=NAME      the report's page of these runs, with all their images
/live?run=NAME                  a run while it is written; leads to its report once it is done
/api/live?run=NAME              progress of that run, JSON, with an ETag: 304 if unchanged
/api/find?run=NAME…             the images that a query (queries.Query) finds: ids and a page of examples, JSON
/api/errors?run=NAME…           errors of one of them (queries.ErrorQuery), cut out of their images, JSON
/api/example?run=NAME…&image=   one example, JSON

It only answers requests that name this machine as their host, so that no page of the web can ask through the browser
(DNS rebinding), only reads, and knows runs by the names that it lists: no address names a path. Equal requests share
one computation, a client that leaves gives its share up, and where too many wait the answer is 503 (`sharing`).

On a shared machine all users can reach 127.0.0.1. With a token, as Jupyter's servers have it, `/enter/TOKEN` sets a
cookie and redirects to the list of runs; programs send `Authorization: token TOKEN`.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from panbench import __version__
from panbench.base.errors import BadArgument, PanbenchError
from panbench.report.figures.colors import styles_of
from panbench.report.pages.live.library import ComparisonKey, ListedRun, RunLibrary
from panbench.report.pages.live.queries import ErrorQuery, Query
from panbench.report.pages.live.selection import Selection
from panbench.report.pages.live.sharing import ServerBusy, SharedComputations, StopReporter
from panbench.report.pages.live.watch import RunWatch, Snapshot
from panbench.report.pages.page.overview import interval_bars
from panbench.report.pages.rendering import unique_data_names, whole_page
from panbench.runs.comparable import ground_truths

HOSTS = ("127.0.0.1", "localhost")

MOST_COMPARISONS = 8
"""Maximum number of comparisons that wait for the current one; beyond it the server answers 503."""

MOST_WAITING = 64
"""Maximum number of smaller requests that wait."""

CLIENT_LEFT = 499
"""The status that servers log for a client that closed its connection; nobody receives it."""

ENTER = "/enter/"


_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class _Pages:
    """The endpoints of the server; each kind of work has its own thread, so none waits for a slower kind."""

    def __init__(self, library: RunLibrary) -> None:
        """Makes the endpoints for the runs of a folder, with a queue of computations for each kind of request."""
        self._library = library
        self._looking = SharedComputations(MOST_WAITING)
        self._comparing = SharedComputations(MOST_COMPARISONS)
        self._answering = SharedComputations(MOST_WAITING)
        self._watching = SharedComputations(MOST_WAITING)

    async def list_runs(self, request: Request) -> Response:
        """Answers / with the list of runs."""
        return await _respond(request, self._run_list_page(), "text/html")

    async def compare(self, request: Request) -> Response:
        """Answers /compare with the report of the named runs."""
        names, common_images = _requested_runs(request)
        if not names:
            # A form with nothing ticked: display the list again, with a hint.
            return _html((await self._run_list_page("No run is chosen: tick at least one.")).decode(), 400)

        async def page() -> bytes:
            """Compares the runs and makes their report."""
            requested, selection = await self._requested_selection(request)
            api = urlencode(
                [("run", name) for name in requested.run_names] + ([("common", "1")] if common_images else [])
            )
            return await self._comparing.result(
                ("page", requested, api), lambda stop: selection.page(api, "/", reporter=stop).encode()
            )

        return await _respond(request, page(), "text/html")

    async def live(self, request: Request) -> Response:
        """Answers /live with the page that follows a growing run; a finished run redirects to its report."""
        watch, snapshot = await self._followed_run(request)
        if snapshot.is_done:
            return RedirectResponse(snapshot.record["report"], 303, _HEADERS)
        return _html(watch.page(snapshot))

    async def run_progress(self, request: Request) -> Response:
        """Answers /api/live with the progress of a run as JSON, with 304 if nothing has changed."""
        _, snapshot = await self._followed_run(request)
        headers = {**_HEADERS, "ETag": snapshot.etag}
        if request.headers.get("If-None-Match") == snapshot.etag:
            return Response(status_code=304, headers=headers)
        return Response(snapshot.json_bytes, media_type="application/json", headers=headers)

    async def find_images(self, request: Request) -> Response:
        """Answers /api/find with a page of the images that match a query."""
        query = Query.read(request.query_params)
        return await self._answer(request, query, lambda selection, stop: selection.answer(query, reporter=stop))

    async def find_errors(self, request: Request) -> Response:
        """Answers /api/errors with a page of the errors that match a query."""
        query = ErrorQuery.read(request.query_params)
        return await self._answer(request, query, lambda selection, stop: selection.errors(query, reporter=stop))

    async def example(self, request: Request) -> Response:
        """Answers /api/example with the pictures of one image."""
        image_id = _requested_image_id(request)
        return await self._answer(request, image_id, lambda selection, stop: selection.example(image_id))

    async def _run_list_page(self, warning: str = "") -> bytes:
        """Returns the HTML page with the list of runs, made in a thread after the requests that came before."""
        return await self._looking.result(
            ("index", warning), lambda stop: _render_run_list(self._library, warning).encode()
        )

    async def _answer(
        self, request: Request, key: Hashable, work: Callable[[Selection, StopReporter], dict[str, Any]]
    ) -> Response:
        """Answers with JSON that `work` computes from the comparison of the requested runs."""

        async def answer() -> bytes:
            """Computes the JSON of a response, after those requested before; equal requests share one computation."""
            requested, selection = await self._requested_selection(request)
            return await self._answering.result(
                (request.url.path, requested, key), lambda stop: _encode_json(work(selection, stop))
            )

        return await _respond(request, answer(), "application/json")

    async def _followed_run(self, request: Request) -> tuple[RunWatch, Snapshot]:
        """Returns the requested unfinished run, as followed by the server, and a snapshot of its progress."""
        name = request.query_params.get("run", "")

        def read_progress(stop: StopReporter) -> tuple[RunWatch, Snapshot]:
            """Reads the run's progress."""
            watch = self._library.watch(name)
            return watch, watch.read(stop)

        return await self._watching.result(name, read_progress)

    async def _requested_selection(self, request: Request) -> tuple[ComparisonKey, Selection]:
        """Returns the cache key and the comparison of the requested runs, computed unless it is cached."""
        names, common_images = _requested_runs(request)
        library = self._library
        requested = await self._looking.result(
            ("asked", names, common_images), lambda stop: library.comparison_key(names, common_images=common_images)
        )
        cached = library.cached_comparison(requested)
        if cached is not None:
            return requested, cached
        return requested, await self._comparing.result(
            ("compare", requested), lambda stop: library.compare(requested, stop)
        )


def application(library: RunLibrary, token: str | None = None) -> Starlette:
    """Returns the web application of `panbench serve` for the runs of a folder.

    token: the token that browsers must send (`/enter/TOKEN`); None admits every user of this machine
    """
    pages = _Pages(library)
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)]
    if token is not None:
        middleware.append(Middleware(TokenRequired, token=token))
    return Starlette(
        routes=[
            Route("/", pages.list_runs),
            Route("/compare", pages.compare),
            Route("/live", pages.live),
            Route("/api/live", pages.run_progress),
            Route("/api/find", pages.find_images),
            Route("/api/errors", pages.find_errors),
            Route("/api/example", pages.example),
        ],
        middleware=middleware,
        exception_handlers={PanbenchError: _bad_request, ServerBusy: _busy_response, 404: _not_found, 405: _not_found},
    )


async def _respond(request: Request, work: Coroutine[Any, Any, bytes], media_type: str) -> Response:
    """Answers with what `work` returns; gives the work up if the client closes its connection before."""
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=CLIENT_LEFT)
        return Response(answering.result(), media_type=media_type, headers=_HEADERS)
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    """Waits until the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _bad_request(request: Request, problem: Exception) -> Response:
    """Answers 400 with the message of a PanbenchError."""
    return _error_response(request, str(problem), 400)


def _busy_response(request: Request, problem: Exception) -> Response:
    """Answers 503 with the time after which to try again."""
    assert isinstance(problem, ServerBusy)
    answer = _error_response(request, str(problem), 503)
    answer.headers["Retry-After"] = str(problem.seconds)
    return answer


def _error_response(request: Request, message: str, status: int) -> Response:
    """Answers with a message: as JSON under /api/, else as a page."""
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": message}, status, _HEADERS)
    return _html(_render_page("sentence.html", "Not shown", message=message, warning=True, back=True), status)


def _not_found(request: Request, problem: Exception) -> Response:
    """Answers a request for an unknown address (404) or with another method than GET (405)."""
    status = getattr(problem, "status_code", 404)
    words = "There is no such page." if status == 404 else "This server only answers to GET."
    return _html(_render_page("sentence.html", "Not shown", message=words, warning=False, back=True), status)


def _encode_json(content: Any) -> bytes:
    """Encodes JSON without spaces; NaN is an error."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _requested_runs(request: Request) -> tuple[tuple[str, ...], bool]:
    """Returns the names of the requested runs, and whether to compare them on common images."""
    return tuple(request.query_params.getlist("run")), request.query_params.get("common") == "1"


def _requested_image_id(request: Request) -> int:
    """Returns the requested image id. Raises BadArgument."""
    word = request.query_params.get("image", "")
    try:
        return int(word)
    except ValueError:
        raise BadArgument(f"image={word!r} is not an image id.") from None


def _html(page: str, status: int = 200) -> Response:
    """Returns a page as a response with the server's headers."""
    return HTMLResponse(page, status, _HEADERS)


def _render_run_list(library: RunLibrary, warning: str = "") -> str:
    """Renders the list of runs: a table for each ground truth, and unreadable runs with the reason.

    warning: a sentence above the list
    """
    listed = library.runs()
    if not listed:
        message = f"There are no runs in {library.folder}. `panbench eval` writes its runs there."
        return _render_page("sentence.html", "No runs", message=message, warning=False, back=False)
    unreadable = [one for one in listed if one.data is None or one.data.fingerprint is None]
    shown = [(one, one.data) for one in listed if one.data is not None and one.data.fingerprint is not None]
    groups: dict[int, list[ListedRun]] = {}
    for (one, _), truth in zip(shown, ground_truths([data for _, data in shown]), strict=True):
        groups.setdefault(truth, []).append(one)
    tables = [_run_list_table(members) for members in groups.values()]
    fingerprints = [data.fingerprint if (data := members[0].data) else None for members in groups.values()]
    for table, name in zip(tables, unique_data_names([table["data"] for table in tables], fingerprints), strict=True):
        table["data"] = name
    number = f"{len(listed)} run{'s' * (len(listed) != 1)}"
    return _render_page(
        "index.html",
        f"{number} in {library.folder if library.folder.name else library.folder.resolve()}",
        forms=True,
        warning=warning,
        groups=tables,
        unreadable=[(one.name, one.run.problem or "cannot be read") for one in unreadable],
    )


def _run_list_table(members: Sequence[ListedRun]) -> dict[str, Any]:
    """Returns a dataset's table on the page that lists all runs: best run first, the two best ticked to be compared."""
    best = sorted(members, key=lambda one: (one.run.PQ is None, -(one.run.PQ or 0.0)))
    title = next((one.run.dataset for one in best if one.run.dataset), None) or "data without a name"
    shown = [one.name for one in best if one.run.images]
    return {
        "data": title,
        "runs": [
            (one, style.record, bar)
            for one, style, bar in zip(
                best,
                styles_of([_color_key(one) for one in best]),
                interval_bars([(*(one.ends or (None, None)), one.run.PQ) for one in best]),
                strict=True,
            )
        ],
        "ticked": shown[:2],
        "comparable": len(shown) > 1,
    }


def _color_key(listed: ListedRun) -> str:
    """Returns the text that decides a run's colour: its model's name followed by the run's name."""
    return f"{listed.model or listed.name.rpartition('/')[2]}\0{listed.name.rpartition('/')[2]}"


def _render_page(template: str, title: str, *, forms: bool = False, **facts: Any) -> str:
    """Renders one of the server's templates as a page."""
    index = f"panbench.report.pages.live:{template}"
    return whole_page(index, title=title, footer=f"panbench {__version__}", forms=forms, **facts)


class TokenRequired:
    """Middleware that answers 403 to requests without the token of `panbench serve --token`."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Wraps an ASGI application, which then gets only the requests with this token or its cookie."""
        self._app = app
        self._token = token
        # Not the token itself: whoever reads a cookie cannot build URLs from it.
        self._cookie = hmac.new(token.encode(), b"panbench serve", hashlib.sha256).hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes on requests with the token or its cookie, and refuses others; a token in the URL sets the cookie."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        name = f"panbench-{(scope.get('server') or ('', ''))[1]}"
        answer: Response
        if request.method == "GET" and _are_tokens_equal(scope["path"].removeprefix(ENTER), self._token):
            answer = RedirectResponse("/", 303, {"Referrer-Policy": "no-referrer", "Cache-Control": "no-store"})
            answer.set_cookie(name, self._cookie, httponly=True, samesite="lax")
            await answer(scope, receive, send)
        elif _are_tokens_equal(_sent_token(request.headers), self._token) or _are_tokens_equal(
            request.cookies.get(name, ""), self._cookie
        ):
            await self._app(scope, receive, send)
        else:
            answer = PlainTextResponse("Open the address that `panbench serve --token` printed.\n", 403)
            await answer(scope, receive, send)


def _sent_token(headers: Headers) -> str:
    """Returns the token in the Authorization header; "" if there is none."""
    kind, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() in ("token", "bearer") else ""


def _are_tokens_equal(shown: str, requested: str) -> bool:
    """Returns whether two tokens are equal, in a time that does not reveal how much of them is."""
    return hmac.compare_digest(shown.encode(errors="replace"), requested.encode())
