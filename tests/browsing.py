"""A browser for tests of pages: Debian's chromium, headless, driven by Playwright. Tests are skipped without one."""

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panbench.report.pages.page.document import write_report

CHROMIUM = os.environ.get("PANBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

# Nothing of the browser's own may go out, so that every request that is seen is the page's.
# A page is open for less time than optimizing its scripts takes back.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--js-flags=--no-opt"),
    # Each window would open a popup for its address bar, two pages of the browser's own, in a process of 0.7 CPU s.
    # This list takes the place of Playwright's: what that has for pages and against requests stands after the two.
    "--disable-features=WebUIOmniboxPopup,WebUIOmniboxAimPopup,PaintHolding,HttpsUpgrades,ThirdPartyStoragePartitioning,"
    "HttpsFirstBalancedModeAutoEnable,AvoidUnnecessaryBeforeUnloadCheckSync,DestroyProfileOnBrowserClose,MediaRouter,"
    "OptimizationHints,NetworkTimeServiceQuerying,PreconnectToSearch,AimEnabled,LensOverlay",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is not installed: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip("no chromium is installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


BLANK = "about:blank"

READY = "html[data-ready]:not(:has(#viewer[aria-busy])) #cause-bars tr"


def wait_until_ready(page: Any, ready: str = READY) -> None:
    # Not wait_for_function: it polls by eval, which the page's content security policy forbids.
    page.locator(ready).first.wait_for(state="attached")


def open_anew(page: Any, address: str = "") -> None:
    """Opens a page's address once more, as one who was sent it: nothing of the page before is left but the address."""
    address = address or page.evaluate("location.href")
    page.goto(BLANK)
    page.goto(address)
    wait_until_ready(page)


class Opened:
    """A page in a browser, with what it wrote to the console and the requests that were not for the file itself."""

    def __init__(
        self,
        browser,
        path: Path | str,
        width: int = 1600,
        scheme: str = "light",
        touch: bool = False,
        hash: str = "",
        forced: bool = False,
        ready: str = READY,
    ) -> None:
        self.page = browser.new_context(has_touch=touch).new_page()
        self._set(width, scheme, "null", forced)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("a dialog opened"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto((path if isinstance(path, str) else path.as_uri()) + hash)
        wait_until_ready(self.page, ready)

    def _set(self, width: int, scheme: str, media: str, forced: bool) -> None:
        self.page.set_viewport_size({"width": width, "height": 900})
        # Without animations: a headless browser draws few frames, and a smooth scroll may stop on its way.
        self.page.emulate_media(
            media=media, color_scheme=scheme, reduced_motion="reduce", forced_colors="active" if forced else "none"
        )

    def show(self, width: int, scheme: str = "light", media: str = "null", forced: bool = False) -> None:
        """Shows the open page in another width, scheme or medium; returns once its charts are drawn for it."""
        self._set(width, scheme, media, forced)
        redraw(self.page)

    def close(self, own: str) -> None:
        """Closes the page; asserts that nothing was complained of, or fetched but what begins with `own`."""
        self.page.context.close()
        assert self.complaints == [], self.complaints
        assert [url for url in self.requests if not url.startswith((own, "data:", BLANK))] == []


@pytest.fixture(scope="session")
def report(shared_runs, tmp_path_factory) -> Path:
    return write_report(shared_runs, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def open_report(browser, report) -> Iterator:
    """A function that opens the report of two runs, or another; at the end nothing was complained of or fetched."""
    opened = []

    def open_(path=None, **settings) -> Any:
        opened.append(Opened(browser, path or report, **settings))
        return opened[-1].page

    yield open_
    for one in opened:
        one.close("file:")


@pytest.fixture(scope="module")
def read_report(browser, report) -> Iterator:
    """A function that shows the report of two runs, or another, to tests that only read: each is opened once a file.

    A test says the width, the scheme and the medium that it needs, and leaves nothing but these changed.
    """
    opened: dict[Path, Opened] = {}

    def show(path=None, width=1600, scheme="light", media="null", forced=False) -> Any:
        place = path or report
        if place in opened:
            opened[place].show(width, scheme, media, forced)
        else:
            opened[place] = Opened(browser, place, width=width, scheme=scheme, forced=forced)
            if media != "null":
                opened[place].show(width, scheme, media, forced)
        return opened[place].page

    yield show
    for one in opened.values():
        one.close("file:")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of the runs in a folder, while the context is open."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra is not installed")
    from panbench.report.pages.live.library import RunLibrary
    from panbench.report.pages.live.server import application

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(RunLibrary(folder)), log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def wait_in_page(page, condition: str) -> None:
    """Returns once a condition of the page holds. Timers, as a page in the background draws no frames."""
    holds = page.evaluate(
        f"""() => new Promise((tell) => {{
            const until = performance.now() + 20000;
            const look = () =>
                ({condition}) ? tell(true) : performance.now() > until ? tell(false) : setTimeout(look, 20);
            look();
        }})"""
    )
    assert holds, condition


def wait_for_picture(page) -> None:
    """Returns once the viewer has painted the image that was asked for last: its photograph is decoded meanwhile."""
    page.locator("#viewer:not([aria-busy]) canvas").first.wait_for(state="attached")


def redraw(page) -> None:
    """Returns once a page has drawn what depends on its width: in the second frame all of the first is done."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")


def speak_of(page, model: str) -> None:
    """Chooses the model that the page speaks of, by its label."""
    page.get_by_label("Model", exact=True).select_option(label=model)
