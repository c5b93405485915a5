"""The pages and answers of `panbench serve`, as a Starlette application. Needs the extra `panbench[serve]`.

/                               the runs of the folder, by the data that they are of
/compare?run=NAME&run=NAME      the report's page of these runs, with all their images
/api/find?run=NAME…             the images that a query (selection.Query) finds: ids and a page of examples, JSON
/api/example?run=NAME…&image=   one example, JSON

It only answers requests that name this machine as their host, so that no page of the web can ask through the browser
(DNS rebinding), only reads, and knows runs by the names that it lists: no address names a path.
"""

import html
import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from panbench import __version__
from panbench.base.errors import BadArgument, PanbenchError
from panbench.report.answers.grid import percent
from panbench.report.pages.live.library import Library, Listed
from panbench.report.pages.live.selection import Query, Selection
from panbench.report.pages.page.document import page_style, policy_of
from panbench.report.pages.page.elements import Html, scrolling, tag

__all__ = ["HOSTS", "application"]

HOSTS = ("127.0.0.1", "localhost")
_THEME = (
    "document.documentElement.dataset.theme = matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';"
)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}


def application(library: Library) -> Starlette:
    """The application that serves the runs of a library."""

    async def index(request: Request) -> Response:
        return _html(await run_in_threadpool(_index, library))

    async def compare(request: Request) -> Response:
        names, common = _asked_for(request)

        def page() -> str:
            api = urlencode([("run", name) for name in names] + ([("common", "1")] if common else []))
            return library.selection(names, common_images=common).page(api, "/")

        return _html(await run_in_threadpool(page))

    def answering(answer: Callable[[Selection, Request], Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            names, common = _asked_for(request)

            def work() -> str:
                found = answer(library.selection(names, common_images=common), request)
                return json.dumps(found, allow_nan=False, separators=(",", ":"))

            return Response(await run_in_threadpool(work), media_type="application/json", headers=_HEADERS)

        return endpoint

    def refused(request: Request, problem: Exception) -> Response:
        sentence = str(problem)
        if request.url.path.startswith("/api/"):
            return JSONResponse({"error": sentence}, 400, _HEADERS)
        return _html(_page("Not shown", tag("p", sentence, class_="warning"), _back()), 400)

    def absent(request: Request, problem: Exception) -> Response:
        status = getattr(problem, "status_code", 404)
        words = "There is no such page." if status == 404 else "This server only answers to GET."
        return _html(_page("Not shown", tag("p", words), _back()), status)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/compare", compare),
            Route(
                "/api/find", answering(lambda selection, request: selection.answer(Query.read(request.query_params)))
            ),
            Route("/api/example", answering(lambda selection, request: selection.example(_image(request)))),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)],
        exception_handlers={PanbenchError: refused, 404: absent, 405: absent},
    )


def _asked_for(request: Request) -> tuple[list[str], bool]:
    return request.query_params.getlist("run"), request.query_params.get("common") == "1"


def _image(request: Request) -> int:
    word = request.query_params.get("image", "")
    try:
        return int(word)
    except ValueError:
        raise BadArgument(f"image={word!r} is no image id.") from None


def _html(page: str, status: int = 200) -> Response:
    return HTMLResponse(page, status, _HEADERS)


def _index(library: Library) -> str:
    """All runs, a table for each ground truth, those that cannot be shown with the reason."""
    listed = library.runs()
    if not listed:
        return _page(
            "No runs", tag("p", f"There are no runs in {library.folder}. `panbench eval` writes its runs there.")
        )
    groups: dict[str, list[Listed]] = {}
    for one in listed:
        groups.setdefault(one.fingerprint or "", []).append(one)
    sections = [
        _group(f"data-{place}", members) for place, (fingerprint, members) in enumerate(groups.items()) if fingerprint
    ]
    if "" in groups:
        rows = [
            tag("tr", tag("th", one.name, scope="row"), tag("td", one.run.problem or "cannot be read"))
            for one in groups[""]
        ]
        table = tag("table", tag("thead", tag("tr", *_heads(("run", "why")))), tag("tbody", *rows))
        sections.append(tag("section", tag("h2", "Cannot be read"), scrolling(table, "Runs that cannot be read")))
    number = f"{len(listed)} run{'s' * (len(listed) != 1)}"
    return _page(f"{number} in {library.folder}", *sections)


def _group(key: str, members: Sequence[Listed]) -> Html:
    """The runs on one ground truth: each leads to its page, and those that are ticked to their comparison."""
    best = sorted(members, key=lambda one: (one.run.PQ is None, -(one.run.PQ or 0.0)))
    rows = []
    for one in best:
        run = one.run
        shown = bool(run.images)
        box = tag("input", type="checkbox", name="run", value=one.name, aria_label=f"Compare {one.name}")
        address = "/compare?" + urlencode({"run": one.name})
        state = run.status if not run.problem else Html(f"{tag('strong', run.status)}: {html.escape(run.problem)}")
        rows.append(
            tag(
                "tr",
                tag("td", box if shown else ""),
                tag("th", tag("a", one.name, href=address) if shown else one.name, scope="row"),
                tag("td", run.model or "–"),
                tag("td", percent(run.PQ), class_="number"),
                tag("td", "–" if run.images is None else f"{run.images:,}", class_="number"),
                tag("td", (run.started or "–")[:10]),
                tag("td", state),
            )
        )
    heads = _heads(("", "run", "model", "PQ", "images", "begun", "status"), numbers=("PQ", "images"))
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows))
    title = next((one.run.dataset for one in best if one.run.dataset), None) or "data without a name"
    shown_runs = [one for one in best if one.run.images]
    bar = tag(
        "p",
        tag("button", "Compare those that are ticked", type="submit"),
        Html(" "),
        tag("label", tag("input", type="checkbox", name="common", value="1"), " only images that all of them have"),
    )
    form = tag("form", scrolling(table, f"Runs on {title}"), bar if len(shown_runs) > 1 else "", action="/compare")
    return tag("section", tag("h2", title, id=key), form, aria_labelledby=key)


def _heads(columns: Sequence[str], numbers: Sequence[str] = ()) -> list[Html]:
    return [
        tag("th", column, scope="col", class_="number" if column in numbers else None) if column else tag("td")
        for column in columns
    ]


def _back() -> Html:
    return tag("p", tag("a", "All runs", href="/"))


def _page(title: str, *content: Html) -> str:
    style = page_style()
    policy = html.escape(policy_of(style=style, script=_THEME, forms=True))
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="color-scheme" content="light dark"><title>{html.escape(title)}</title>'
        f"<style>{style}</style><script>{_THEME}</script>"
    )
    body = tag("header", tag("h1", title)) + tag("main", *content) + tag("footer", tag("p", f"panbench {__version__}"))
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>'
