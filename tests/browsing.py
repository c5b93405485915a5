"""A browser for tests of pages: Debian's chromium, headless, driven by Playwright. Tests are skipped without one."""

import contextlib
import os
import shutil
import socket
import threading
from collections import defaultdict
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
        for pages in _idle.values():
            pages.clear()
        running.close()


BLANK = "about:blank"

Look = tuple[int, str, str, bool]
"""Width, colour scheme, medium and whether colours are forced."""

_idle: dict[tuple[bool, bool], list[tuple[Any, Look | None]]] = defaultdict(list)
"""Pages that tests have left, by whether they can be touched and whether they showed a file: an open tab takes half of
the CPU time of a new one, and one that goes from a file to a server, or back, starts a process. With how they look,
where they still show a file: another file in its place takes a fifth less than one after a blank page."""


def left_page(browser: Any, touch: bool, is_file: bool, look: Look | None) -> Any:
    """A page that remembers nothing, and shows nothing but a file that looks so: of another its charts would be drawn
    anew first. Whether it can be touched is fixed once its window is open."""
    idle = _idle[touch, is_file]
    if not idle:
        return browser.new_context(has_touch=touch).new_page()
    looks = [shown for _, shown in idle]
    page, shown = idle.pop(looks.index(look) if look in looks else -1)
    if shown is not None and shown != look:
        page.goto(BLANK)
    return page


def leave(page: Any, touch: bool, look: Look) -> None:
    """Undoes what a test did to a page and keeps it for the next; one for which that fails is closed."""
    try:
        page.evaluate("localStorage.clear()")
        page.unroute_all()
        is_file = page.url.startswith("file:")
        if not is_file:  # it may go on asking its server
            page.goto(BLANK)
        let_go(page)
        page.context.clear_permissions()
    except Exception:  # the next test then opens a new one
        page.context.close()
    else:
        _idle[touch, is_file].append((page, look if is_file else None))


def let_go(page: Any) -> None:
    for key in ("Control", "Shift", "Alt", "Meta"):
        page.keyboard.up(key)
    page.mouse.move(-1, -1)


READY = "html[data-ready]:not(:has(#viewer[aria-busy])) #chart-causes svg"


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
        self.touch = touch
        # With a hash, the same file would not be loaded anew.
        look = None if hash else (width, scheme, "null", forced)
        self.page = left_page(browser, touch, not isinstance(path, str), look)
        self._set(width, scheme, "null", forced)
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
        wait_until_ready(self.page, ready)

    def _set(self, width: int, scheme: str, media: str, forced: bool) -> None:
        self._look: Look = (width, scheme, media, forced)
        self.page.set_viewport_size({"width": width, "height": 900})
        # Without animations: a headless browser draws few frames, and a smooth scroll may stop on its way.
        self.page.emulate_media(
            media=media,
            color_scheme=scheme,
            reduced_motion="reduce",
            forced_colors="active" if forced else "none",
        )

    def show(self, width: int, scheme: str = "light", media: str = "null", forced: bool = False) -> None:
        """Shows the open page in another width, scheme or medium; returns once its charts are drawn for it."""
        self._set(width, scheme, media, forced)
        redraw(self.page)

    def close(self, own: str) -> None:
        """Leaves the page; asserts that nothing was complained of, or fetched but what begins with `own`."""
        self.leave()
        self.check(own)

    def leave(self) -> None:
        leave(self.page, self.touch, self._look)
        for event, listener in self._listeners.items():
            self.page.remove_listener(event, listener)

    def check(self, own: str) -> None:
        """Asserts that nothing was complained of so far, or fetched but what begins with `own`."""
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


# What a reader can see or has chosen, but for the pixels of canvases, which follow from it: figures for print are added
# when the page is at rest, and what was announced last stays in the page, unseen.
_STATE = """() => {
    const copy = document.documentElement.cloneNode(true);
    for (const node of copy.querySelectorAll("script, style, #figures, #live, #tooltip")) node.remove();
    for (const node of copy.querySelectorAll("[tabindex]")) node.removeAttribute("tabindex");
    for (const node of copy.querySelectorAll("[hidden]")) node.replaceChildren();
    // Playwright's screenshots leave it.
    for (const node of copy.querySelectorAll("[style='']")) node.removeAttribute("style");
    const controls = [...document.querySelectorAll("select, input")];
    return [
        ...controls.map((node) => `${node.id} ${node.type === "checkbox" ? node.checked : node.value}`),
        `${location.href} ${scrollX} ${scrollY} ${innerWidth} ${innerHeight} ${localStorage.length}`,
        `${["print", "(prefers-color-scheme: dark)", "(forced-colors: active)"].map((one) => matchMedia(one).matches)}`,
        document.activeElement.tagName, String(document.getElementById("tooltip").checkVisibility()),
        ...copy.outerHTML.split("<"),
    ];
}"""

_REMEMBER = f"""() => {{
    const pressed = [...document.querySelectorAll("[aria-pressed]")];
    window.asItWas = {{
        state: ({_STATE})(),
        controls: [...document.querySelectorAll("select, input")].map(({{ value, checked }}) => [value, checked]),
        pressed: pressed.flatMap((node, place) => node.getAttribute("aria-pressed") === "true" ? [place] : []),
        sorted: [...document.querySelectorAll("th")].map((node) => node.getAttribute("aria-sort")),
        image: document.getElementById("viewer").dataset.image,
    }};
}}"""

# The page's own controls put it back; the viewer goes by an address, which chooses all of it at once.
_PUT_BACK = """async () => {
    const was = window.asItWas, all = (selector) => [...document.querySelectorAll(selector)];
    const viewer = document.getElementById("viewer"), rest = () => new Promise((done) => setTimeout(done));
    let elsewhere = viewer.dataset.image !== was.image || viewer.dataset.zoom !== "1.00"
        || document.querySelector(".chip button, .places:not([hidden])") !== null;
    document.activeElement.blur();
    all("select, input").forEach((node, place) => {
        const [value, checked] = was.controls[place] ?? [node.value, node.checked];
        if (node.value === value && node.checked === checked) return;
        if (node.matches("#viewer select")) { elsewhere = true; return; }
        Object.assign(node, node.type === "checkbox" ? { checked } : { value });
        for (const kind of ["input", "change"]) node.dispatchEvent(new Event(kind));
    });
    const pressed = all("[aria-pressed]");
    for (const place of was.pressed) {
        if (pressed[place].getAttribute("aria-pressed") === "true") continue;
        if (viewer.contains(pressed[place])) elsewhere = true;
        else pressed[place].click();
    }
    for (let turn = 0; turn < 2; turn++) all("th").forEach((node, place) => {
        const wanted = was.sorted[place];
        if (wanted && node.getAttribute("aria-sort") !== wanted) node.querySelector("button").click();
    });
    await rest();
    if (elsewhere) {
        const run = JSON.parse(document.getElementById("data").textContent).models[0].run;
        const { image } = was, view = "divider", left = "truth", colours = "category";
        const wanted = { image, view, left, right: run, colours, judge: run };
        history.replaceState(null, "", `#${new URLSearchParams(wanted)}`);
        window.dispatchEvent(new PopStateEvent("popstate"));
        await rest();
    }
    const divider = viewer.querySelector(".divider");
    if (divider.getAttribute("aria-valuenow") !== "50") for (const key of ["Home", ...Array(5).fill("PageUp")])
        divider.dispatchEvent(new KeyboardEvent("keydown", { key }));
    document.activeElement.blur();
    history.replaceState(null, "", location.pathname);
    scrollTo(0, 0);
}"""

# The first thing that is not as it was, with what it is now; null where nothing is.
_CHANGED = f"""() => {{
    const was = window.asItWas.state, now = ({_STATE})();
    const place = Array.from({{ length: Math.max(was.length, now.length) }}).findIndex((_, at) => was[at] !== now[at]);
    return place < 0 ? null : [was[place] ?? "", now[place] ?? ""];
}}"""


class Kept:
    """The report of two runs, which stays open: each test puts back what it changed."""

    def __init__(self, browser: Any, report: Path) -> None:
        self.browser, self.report = browser, report
        self.opened: Opened | None = None

    def show(self, hash: str = "") -> Any:
        if self.opened is None:
            self.opened = Opened(self.browser, self.report)
            self.opened.page.evaluate(_REMEMBER)
        page = self.opened.page
        if hash:
            page.evaluate(
                """async (hash) => {
                    const there = new Promise((done) => addEventListener("hashchange", done, { once: true }));
                    location.hash = hash;
                    await there;
                }""",
                hash,
            )
            wait_for_picture(page)
        return page

    def put_back(self) -> None:
        """Asserts that the page is as it was; one that is not is opened anew for the next test."""
        opened, self.opened = self.opened, None
        if opened is None:
            return
        page = opened.page
        try:
            let_go(page)
            page.evaluate(_PUT_BACK)
            wait_for_picture(page)
            changed = page.evaluate(_CHANGED)
            opened.check("file:")
            assert changed is None, f"the test leaves the page changed: was, is {changed}. Take open_report"
        except BaseException:
            opened.leave()
            raise
        self.opened = opened

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close("file:")


@pytest.fixture(scope="session")
def _kept(browser, report) -> Iterator[Kept]:
    kept = Kept(browser, report)
    yield kept
    kept.close()


@pytest.fixture
def same_report(_kept) -> Iterator:
    """A function that shows the report of two runs, or what an address names in it, in a page that tests share.

    Choices, sorting, filters and the viewer are put back by the page's own controls, and the test fails that leaves
    anything else changed. What no reader sees is not put back: tests of the history, of what was decoded before or of
    where Tab goes first take `open_report`.
    """
    yield _kept.show
    _kept.put_back()


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


def wait_for_picture(page) -> None:
    """Returns once the viewer has painted the image that was asked for last: its photograph is decoded meanwhile."""
    page.locator("#viewer:not([aria-busy]) canvas").first.wait_for(state="attached")


def redraw(page) -> None:
    """Returns once a page has drawn what depends on its width: in the second frame all of the first is done."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))))")
