"""A browser for tests of pages: Debian's chromium, headless, driven by Playwright. Tests are skipped without one."""

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from panbench.report.pages.page.document import write_report

CHROMIUM = os.environ.get("PANBENCH_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

# Nothing of the browser's own may go out, so that every request that is seen is the page's.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
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
        _idle.clear()
        running.close()


BLANK = "about:blank"

_idle: dict["Window", list[Any]] = {}
"""Blank pages that tests have left, by window: a page in an open tab takes 40 % of the CPU time of one in a new."""


@dataclass(frozen=True)
class Window:
    """The settings of a browser's window that are fixed once it is open."""

    width: int
    scheme: str
    touch: bool
    forced: bool

    def blank_page(self, browser: Any) -> Any:
        """A page that shows nothing and remembers nothing, in a window of its own."""
        if idle := _idle.get(self):
            return idle.pop()
        # Without animations: a headless browser draws few frames, and a smooth scroll may stop on its way.
        return browser.new_context(
            viewport={"width": self.width, "height": 900},
            color_scheme=self.scheme,
            has_touch=self.touch,
            reduced_motion="reduce",
            forced_colors="active" if self.forced else "none",
        ).new_page()

    def leave(self, page: Any) -> None:
        """Undoes what a test did to a page and keeps it for the next; one that cannot be made blank again is closed."""
        try:
            page.evaluate("localStorage.clear()")
            page.unroute_all()
            page.goto(BLANK)
            page.emulate_media(media="null", color_scheme=self.scheme, reduced_motion="reduce")
            page.set_viewport_size({"width": self.width, "height": 900})
            for key in ("Control", "Shift", "Alt", "Meta"):
                page.keyboard.up(key)
            page.mouse.move(-1, -1)
            page.context.clear_permissions()
        except Exception:  # the next test then opens a new one
            page.context.close()
        else:
            _idle.setdefault(self, []).append(page)


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
        ready: str = "html[data-ready] #chart-causes svg",
    ) -> None:
        self.window = Window(width, scheme, touch, forced)
        self.page = self.window.blank_page(browser)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._listeners = {
            "console": lambda message: self.complaints.append(f"{message.type}: {message.text}"),
            "pageerror": lambda error: self.complaints.append(str(error)),
            "dialog": lambda dialog: (self.complaints.append("a dialog opened"), dialog.dismiss()),
            "request": lambda request: self.requests.append(request.url),
        }
        for event, listener in self._listeners.items():
            self.page.on(event, listener)
        self.page.goto((path if isinstance(path, str) else path.as_uri()) + hash)
        # Not wait_for_function: it polls by eval, which the page's content security policy forbids.
        self.page.locator(ready).first.wait_for(state="attached")

    def close(self, own: str) -> None:
        """Leaves the page; asserts that nothing was complained of, or fetched but what begins with `own`."""
        self.window.leave(self.page)
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)
        assert self.complaints == []
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


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server of the runs in a folder, while the context is open."""
    uvicorn = pytest.importorskip("uvicorn", reason="the extra is not installed")
    from panbench.report.pages.live.library import Library
    from panbench.report.pages.live.server import application

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(Library(folder)), log_level="warning", lifespan="off"))
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
