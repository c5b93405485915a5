"""The pages and answers of `panbench serve`, as a Starlette application. Needs the extra `serve`.

/                               the runs of the folder, by the data that they are of
/compare?run=NAME&run=NAME      the report's page of these runs, with all their images
/live?run=NAME                  a run while it is written; leads to its report once it is done
/api/live?run=NAME              how far that run is, JSON, with an ETag: 304 where nothing is new
/api/find?run=NAME…             the images that a query (selection.Query) finds: ids and a page of examples, JSON
/api/errors?run=NAME…           errors of one of them (errors.ErrorQuery), cut out of their images, JSON
/api/example?run=NAME…&image=   one example, JSON

It only answers requests that name this machine as their host, so that no page of the web can ask through the browser
(DNS rebinding), only reads, and knows runs by the names that it lists: no address names a path. Equal requests share
one computation, a client that leaves gives its share up, and where too many wait the answer is 503 (`sharing`).
"""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from panbench import __version__
from panbench.base.errors import BadArgument, PanbenchError
from panbench.report.pages.live.access import TokenRequired
from panbench.report.pages.live.errors import ErrorQuery
from panbench.report.pages.live.library import Asked, Library, Listed
from panbench.report.pages.live.selection import Query, Selection
from panbench.report.pages.live.sharing import Busy, Shared, Stop
from panbench.report.pages.live.watch import Looked, Watch
from panbench.report.pages.rendering import named_apart, whole_page
from panbench.runs.alike import ground_truths

__all__ = ["HOSTS", "application"]

HOSTS = ("127.0.0.1", "localhost")

MOST_COMPARISONS = 8
"""Comparisons that may wait for the one that is made; beyond it the server answers 503."""

MOST_WAITING = 64
"""Smaller questions that may wait."""

CLIENT_LEFT = 499
"""What servers log for a client that closed its connection; nobody gets it."""

_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


class _Desk:
    """What the endpoints ask for, each kind of work in threads of its own, so that none waits behind a slower kind."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._looking = Shared(threads=1, most=MOST_WAITING)
        self._comparing = Shared(threads=1, most=MOST_COMPARISONS)
        self._answering = Shared(threads=1, most=MOST_WAITING)
        self._watching = Shared(threads=1, most=MOST_WAITING)

    async def index(self, warning: str = "") -> bytes:
        return await self._looking.result(("index", warning), lambda stop: _index(self._library, warning).encode())

    async def page(self, names: Sequence[str], common_images: bool) -> bytes:
        asked, selection = await self._selection(names, common_images)
        api = urlencode([("run", name) for name in asked.names] + ([("common", "1")] if common_images else []))
        return await self._comparing.result(
            ("page", asked, api), lambda stop: selection.page(api, "/", reporter=stop).encode()
        )

    async def answer(self, names: Sequence[str], common_images: bool, query: Query) -> bytes:
        asked, selection = await self._selection(names, common_images)
        return await self._answering.result(
            ("find", asked, query), lambda stop: _json(selection.answer(query, reporter=stop))
        )

    async def errors(self, names: Sequence[str], common_images: bool, query: ErrorQuery) -> bytes:
        asked, selection = await self._selection(names, common_images)
        return await self._answering.result(
            ("errors", asked, query), lambda stop: _json(selection.errors(query, reporter=stop))
        )

    async def example(self, names: Sequence[str], common_images: bool, image_id: int) -> bytes:
        asked, selection = await self._selection(names, common_images)
        return await self._answering.result(
            ("example", asked, image_id), lambda stop: _json(selection.example(image_id))
        )

    async def watched(self, name: str) -> tuple[Watch, Looked]:
        def look(stop: Stop) -> tuple[Watch, Looked]:
            watch = self._library.watch(name)
            return watch, watch.look(stop)

        return await self._watching.result(("live", name), look)

    async def _selection(self, names: Sequence[str], common_images: bool) -> tuple[Asked, Selection]:
        library = self._library
        asked = await self._looking.result(
            ("asked", tuple(names), common_images), lambda stop: library.asked(names, common_images=common_images)
        )
        kept = library.kept(asked)
        if kept is not None:
            return asked, kept
        return asked, await self._comparing.result(("compare", asked), lambda stop: library.compare(asked, stop))


def application(library: Library, token: str | None = None) -> Starlette:
    """The application that serves the runs of a library.

    token: what a browser has to show (see `access`); None lets every user of this machine in
    """
    desk = _Desk(library)

    async def index(request: Request) -> Response:
        return await _unless_left(request, desk.index(), "text/html")

    async def compare(request: Request) -> Response:
        if not request.query_params.getlist("run"):
            # A form of which nothing is ticked: the list again, with what to do.
            return _html((await desk.index("No run is chosen: tick at least one.")).decode(), 400)
        return await _unless_left(request, desk.page(*_asked_for(request)), "text/html")

    async def live(request: Request) -> Response:
        watch, looked = await desk.watched(request.query_params.get("run", ""))
        if looked.is_done:
            return RedirectResponse(looked.record["report"], 303, _HEADERS)
        return _html(watch.page(looked))

    async def how_far(request: Request) -> Response:
        _, looked = await desk.watched(request.query_params.get("run", ""))
        headers = {**_HEADERS, "ETag": looked.tag}
        if request.headers.get("If-None-Match") == looked.tag:
            return Response(status_code=304, headers=headers)
        return Response(looked.content, media_type="application/json", headers=headers)

    async def find(request: Request) -> Response:
        query = Query.read(request.query_params)
        return await _unless_left(request, desk.answer(*_asked_for(request), query), "application/json")

    async def errors(request: Request) -> Response:
        query = ErrorQuery.read(request.query_params)
        return await _unless_left(request, desk.errors(*_asked_for(request), query), "application/json")

    async def example(request: Request) -> Response:
        image_id = _image(request)
        return await _unless_left(request, desk.example(*_asked_for(request), image_id), "application/json")

    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)]
    if token is not None:
        middleware.append(Middleware(TokenRequired, token=token))
    return Starlette(
        routes=[
            Route("/", index),
            Route("/compare", compare),
            Route("/live", live),
            Route("/api/live", how_far),
            Route("/api/find", find),
            Route("/api/errors", errors),
            Route("/api/example", example),
        ],
        middleware=middleware,
        exception_handlers={PanbenchError: _refused, Busy: _busy, 404: _absent, 405: _absent},
    )


async def _unless_left(request: Request, work: Coroutine[Any, Any, bytes], media_type: str) -> Response:
    """The answer; when the client goes away before, the work is given up."""
    answering = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            return Response(status_code=CLIENT_LEFT)
        return Response(answering.result(), media_type=media_type, headers=_HEADERS)
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Returns when the client closes its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _refused(request: Request, problem: Exception) -> Response:
    return _problem(request, str(problem), 400)


def _busy(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Busy)
    answer = _problem(request, str(problem), 503)
    answer.headers["Retry-After"] = str(problem.seconds)
    return answer


def _problem(request: Request, sentence: str, status: int) -> Response:
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": sentence}, status, _HEADERS)
    return _html(_page("sentence.html", "Not shown", sentence=sentence, warning=True, back=True), status)


def _absent(request: Request, problem: Exception) -> Response:
    status = getattr(problem, "status_code", 404)
    words = "There is no such page." if status == 404 else "This server only answers to GET."
    return _html(_page("sentence.html", "Not shown", sentence=words, warning=False, back=True), status)


def _json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _asked_for(request: Request) -> tuple[list[str], bool]:
    return request.query_params.getlist("run"), request.query_params.get("common") == "1"


def _image(request: Request) -> int:
    word = request.query_params.get("image", "")
    try:
        return int(word)
    except ValueError:
        raise BadArgument(f"image={word!r} is not an image id.") from None


def _html(page: str, status: int = 200) -> Response:
    return HTMLResponse(page, status, _HEADERS)


def _index(library: Library, warning: str = "") -> str:
    """All runs, a table for each ground truth, those that cannot be shown with the reason; above them a warning."""
    listed = library.runs()
    if not listed:
        sentence = f"There are no runs in {library.folder}. `panbench eval` writes its runs there."
        return _page("sentence.html", "No runs", sentence=sentence, warning=False, back=False)
    unreadable = [one for one in listed if one.data is None or one.data.fingerprint is None]
    shown = [(one, one.data) for one in listed if one.data is not None and one.data.fingerprint is not None]
    groups: dict[int, list[Listed]] = {}
    for (one, _), truth in zip(shown, ground_truths([data for _, data in shown]), strict=True):
        groups.setdefault(truth, []).append(one)
    tables = [_group(members) for members in groups.values()]
    fingerprints = [data.fingerprint if (data := members[0].data) else None for members in groups.values()]
    for table, name in zip(tables, named_apart([table["data"] for table in tables], fingerprints), strict=True):
        table["data"] = name
    number = f"{len(listed)} run{'s' * (len(listed) != 1)}"
    return _page(
        "index.html",
        f"{number} in {library.folder if library.folder.name else library.folder.resolve()}",
        forms=True,
        warning=warning,
        groups=tables,
        unreadable=[(one.name, one.run.problem or "cannot be read") for one in unreadable],
    )


def _group(members: Sequence[Listed]) -> dict[str, Any]:
    """The runs on one ground truth, the best first, what their data is called, and the two best by name."""
    best = sorted(members, key=lambda one: (one.run.PQ is None, -(one.run.PQ or 0.0)))
    title = next((one.run.dataset for one in best if one.run.dataset), None) or "data without a name"
    shown = [one.name for one in best if one.run.images]
    return {"data": title, "runs": best, "ticked": shown[:2], "comparable": len(shown) > 1}


def _page(template: str, title: str, *, forms: bool = False, **facts: Any) -> str:
    place = f"panbench.report.pages.live:{template}"
    return whole_page(place, title=title, footer=f"panbench {__version__}", forms=forms, **facts)
